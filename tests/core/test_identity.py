"""Identifiers and digests: fixed lengths and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.identity import (
    EMPTY_DIGEST,
    REVISION_MAX,
    ROOT_ID,
    digest_of,
    parse_commit_id,
    parse_digest,
    parse_entry_id,
    parse_op_id,
    parse_replica_id,
    parse_revision,
)
from syncline.errors import Invalid

PARSERS: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "entry id": (parse_entry_id, 16),
    "replica id": (parse_replica_id, 16),
    "op id": (parse_op_id, 16),
    "digest": (parse_digest, 32),
    "commit id": (parse_commit_id, 32),
}


@pytest.mark.parametrize("field", PARSERS)
@given(raw=st.binary(max_size=40))
def test_an_identifier_has_its_length_and_any_bytes(field: str, raw: bytes) -> None:
    parse, size = PARSERS[field]
    exact = (raw * size)[:size].ljust(size, b"\0")
    assert parse(exact) == exact
    if len(raw) != size:
        with pytest.raises(Invalid) as caught:
            parse(raw)
        assert caught.value.fields == {"field": field, "reason": "length"}


def test_a_parser_names_the_field_that_it_was_told() -> None:
    with pytest.raises(Invalid, match="parent must have 16 bytes, not 3"):
        parse_entry_id(b"abc", "parent")


@pytest.mark.parametrize("number", [0, 1, REVISION_MAX])
def test_a_revision_has_63_bits(number: int) -> None:
    assert parse_revision(number) == number


@pytest.mark.parametrize("number", [-1, REVISION_MAX + 1, 2**64])
def test_a_number_that_no_database_holds_is_no_revision(number: int) -> None:
    with pytest.raises(Invalid, match="out of range"):
        parse_revision(number)


def test_the_digest_is_blake3() -> None:
    assert EMPTY_DIGEST.hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert (
        digest_of(b"abc").hex()
        == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    )
    assert digest_of(memoryview(b"abc")) == digest_of(b"abc")


def test_the_root_is_sixteen_zeros() -> None:
    assert bytes(16) == ROOT_ID
