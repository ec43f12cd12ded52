"""Changes: the values that answers are made of, and the fingerprint of a STORE."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from syncline.core.changes import Change, PutFile, RefusalCode, fingerprint
from syncline.core.manifests import ChunkRef, Content
from tests.support.trees import content_of, delete, move, put_directory, put_file, put_link

VARIED: list[Change] = [
    put_file("a"),
    put_file("b"),
    put_file("a", 1),
    put_file("a", 0, "d"),
    put_file("a", 0, name=b"other"),
    put_file("a", mode=0o600),
    put_file("a", mtime_ns=-1),
    put_file("a", content=b"else"),
    put_directory("a"),
    put_directory("a", mode=0o700),
    put_directory("a", 0, "d"),
    put_directory("a", 0, name=b"other"),
    put_link("a"),
    put_link("a", mtime_ns=-1),
    put_link("a", target=b"else"),
    put_link("a", name=b"atarg", target=b"et"),
    move("a", 1, "/", b"a"),
    move("a", 1, "d", b"a"),
    move("a", 1, "/", b"b"),
    move("a", 2, "/", b"a"),
    delete("a", 1),
    delete("a", 2),
    delete("b", 1),
]

stores = st.lists(st.sampled_from(VARIED), max_size=4)


@given(stores, stores, st.booleans(), st.booleans())
def test_stores_have_equal_fingerprints_exactly_when_they_ask_the_same(
    one: list[Change], two: list[Change], is_atomic: bool, other_is_atomic: bool
) -> None:
    same = fingerprint(one, is_atomic=is_atomic) == fingerprint(two, is_atomic=other_is_atomic)
    assert same == (one == two and is_atomic == other_is_atomic)


def test_each_single_change_has_a_fingerprint_of_its_own() -> None:
    found = {fingerprint([change], is_atomic=False) for change in VARIED}
    assert len(found) == len(VARIED)


def test_the_chunking_makes_no_difference_to_the_fingerprint() -> None:
    whole = put_file("a", content=b"onetwo")
    refs = (
        ChunkRef(content_of(b"one").digest, 3),
        ChunkRef(content_of(b"two").digest, 3),
    )
    cut: PutFile = replace(whole, content=Content(whole.content.digest, 6, 0, refs))
    assert fingerprint([whole], is_atomic=False) == fingerprint([cut], is_atomic=False)


def test_the_codes_of_refusals_never_change() -> None:
    assert {code.name: code.value for code in RefusalCode} == {
        "STALE": "stale",
        "NAME_TAKEN": "name_taken",
        "PARENT_GONE": "parent_gone",
        "NOT_EMPTY": "not_empty",
        "CYCLE": "cycle",
        "LOCKED": "locked",
        "MISSING": "missing",
        "INVALID": "invalid",
        "ATOMIC": "atomic",
        "LOCK_LOST": "lock_lost",
    }
