"""Conflict names: stable, never nested, always valid, always free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.conflict_names import conflict_name, is_conflict_name, plain_name
from syncline.core.identity import digest_of
from syncline.core.names import NAME_BYTES_MAX, Name, parse_name

DIGEST = digest_of(b"content")
MARK = DIGEST.hex()[:8]
names = st.binary(min_size=1, max_size=NAME_BYTES_MAX).filter(
    lambda raw: b"/" not in raw and b"\0" not in raw and raw not in (b".", b"..")
)


def named(name: str, author: str = "box", *taken: str) -> str:
    used = {each.encode() for each in taken}
    return conflict_name(Name(name.encode()), author, DIGEST, used.__contains__).decode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.txt", f"a (conflict of box, {MARK}).txt"),
        ("a", f"a (conflict of box, {MARK})"),
        (".bashrc", f".bashrc (conflict of box, {MARK})"),
        ("a.tar.gz", f"a.tar (conflict of box, {MARK}).gz"),
        ("a.", f"a (conflict of box, {MARK})."),
        ("a (conflict of other, 01234567).txt", f"a (conflict of box, {MARK}).txt"),
        ("a (conflict of my.host, 01234567)", f"a (conflict of box, {MARK})"),
        ("a (copy).txt", f"a (copy) (conflict of box, {MARK}).txt"),
        ("a." + "e" * 40, "a." + "e" * 40 + f" (conflict of box, {MARK})"),
    ],
)
def test_names_are_what_design_says(name: str, expected: str) -> None:
    assert named(name) == expected


def test_n4_a_taken_name_gets_a_longer_digest_then_a_number() -> None:
    digits = DIGEST.hex()
    taken: list[str] = []
    for mark in (digits[:8], digits[:16], digits[:32], digits, digits + "-2", digits + "-3"):
        found = named("a", "box", *taken)
        assert found == f"a (conflict of box, {mark})"
        taken.append(found)
    assert named(taken[-1], "box") == taken[0]


def test_n3_long_names_are_cut_between_characters() -> None:
    found = named("ä" * 127 + ".txt")
    assert len(found.encode()) <= NAME_BYTES_MAX
    assert found.endswith(f" (conflict of box, {MARK}).txt")
    assert found.startswith("ä" * 100)


@given(names, st.text(max_size=80), st.binary(min_size=1, max_size=9))
def test_n1_n2_n3_hold_for_any_name_and_author(raw: bytes, author: str, content: bytes) -> None:
    digest = digest_of(content)
    found = conflict_name(Name(raw), author, digest, lambda _: False)
    assert parse_name(found) == found
    assert is_conflict_name(found)
    assert not is_conflict_name(plain_name(found)) or is_conflict_name(raw)
    assert conflict_name(Name(raw), author, digest, lambda _: False) == found
    again = conflict_name(found, author, digest, lambda _: False)
    assert again == found
    other = conflict_name(found, "another", digest_of(b"other"), lambda _: False)
    assert other.count(b"(conflict of ") == found.count(b"(conflict of ")


@given(names, st.integers(0, 12))
def test_n4_a_free_name_is_always_found(raw: bytes, tries: int) -> None:
    taken: set[bytes] = set()
    for _ in range(tries):
        found = conflict_name(Name(raw), "box", DIGEST, taken.__contains__)
        assert found not in taken
        taken.add(found)
    assert len(taken) == tries
