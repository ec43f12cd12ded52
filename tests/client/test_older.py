"""What an older version of a file has of a content: all that a cut of the whole would find."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.client.older import places_in
from syncline.core.identity import digest_of
from syncline.core.manifests import ChunkRef
from syncline.ports.chunker import Chunked, Chunker, Hasher, Read

MIB = 2**20
CHUNKER = FastCdcChunker()


@cache
def content(size: int, seed: bytes = b"older") -> bytes:
    return blake3(seed).digest(length=size)


@dataclass
class Bytes:
    """A file in memory; counts what is read, and fails from some offset on."""

    content: bytes
    taken: int = 0
    fails_at: int | None = None

    def read(self, size: int, offset: int) -> bytes:
        if self.fails_at is not None and offset + size > self.fails_at:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        piece = self.content[offset : offset + size]
        self.taken += len(piece)
        return piece


class Counting:
    """The chunker; counts what was cut."""

    def __init__(self) -> None:
        self.cut = 0

    def chunk(self, read: Read) -> Chunked:
        chunked = CHUNKER.chunk(read)
        self.cut += chunked.content.size
        return chunked

    def count_equal(self, read: Read, refs: Sequence[ChunkRef]) -> int:
        return CHUNKER.count_equal(read, refs)

    def hasher(self) -> Hasher:
        return CHUNKER.hasher()


def refs_of(whole: bytes) -> tuple[ChunkRef, ...]:
    return CHUNKER.chunk(BytesIO(whole).read).refs


def check(new: bytes, old: bytes, chunker: Chunker = CHUNKER) -> set[bytes]:
    """Look `new` up in `old`; return the digests that are there, which a cut of it has too."""
    refs = refs_of(new)
    places = places_in(Bytes(old), refs, chunker)
    sizes = {ref.digest: ref.size for ref in refs}
    for digest, offset in places.items():
        assert digest_of(old[offset : offset + sizes[digest]]) == digest
    assert {ref.digest for ref in refs_of(old)} & sizes.keys() <= places.keys()
    return set(places)


def test_of_the_same_content_only_the_last_chunk_is_cut() -> None:
    whole = content(40 * MIB)
    refs = refs_of(whole)
    chunker = Counting()
    assert len(check(whole, whole, chunker)) == len(refs)
    assert chunker.cut == refs[-1].size


@pytest.mark.parametrize("at", [0, 20 * MIB, 40 * MIB - 1])
@pytest.mark.parametrize("kind", ["overwritten", "inserted", "removed"])
def test_a_byte_that_changed_costs_a_chunk_or_two_and_one_span(at: int, kind: str) -> None:
    old = content(40 * MIB)
    middle = {
        "overwritten": bytes([old[at] ^ 1]) + old[at + 1 :],
        "inserted": b"!" + old[at:],
        "removed": old[at + 1 :],
    }
    new = old[:at] + middle[kind]
    chunker = Counting()
    found = check(new, old, chunker)
    assert len(refs_of(new)) - len(found) <= 3
    assert chunker.cut <= 9 * MIB


def test_the_end_of_the_new_content_is_no_cut_in_the_older_one() -> None:
    old = content(20 * MIB)
    check(old[: 5 * MIB] + old[:MIB], old)
    check(old[: 5 * MIB], old)


@pytest.mark.parametrize("size", [0, 1, 70_000, 5 * MIB])
def test_what_has_nothing_in_common_is_looked_through(size: int) -> None:
    assert check(content(30 * MIB), content(size, b"another")) == set()
    assert check(content(size, b"another"), content(30 * MIB)) == set()


def test_blocks_that_changed_places_are_all_found() -> None:
    blocks = [content(6 * MIB, bytes([number])) for number in range(5)]
    old = b"".join(blocks)
    new = b"".join(blocks[number] for number in (3, 0, 4, 2, 1))
    assert len(check(new, old)) >= len(refs_of(new)) - 10


def test_zeros_around_a_change_are_not_cut_again_and_again() -> None:
    old = bytes(30 * MIB) + content(MIB) + bytes(60 * MIB)
    new = bytes(30 * MIB) + content(MIB, b"new") + bytes(60 * MIB)
    chunker = Counting()
    check(new, old, chunker)
    assert chunker.cut <= 25 * MIB


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 24 * MIB), min_size=0, max_size=6),
    order=st.permutations(range(7)),
    fresh=st.integers(0, 7),
)
def test_whatever_was_done_all_chunks_of_the_older_version_are_found(
    cuts: list[int], order: list[int], fresh: int
) -> None:
    old = content(24 * MIB)
    ends = [0, *sorted(cuts), len(old)]
    blocks = [old[start:end] for start, end in itertools.pairwise(ends)]
    blocks += [b""] * (7 - len(blocks))
    new = b"".join(blocks[number] for number in order if number != fresh) + bytes(fresh)
    check(new, old)


def test_an_older_version_that_cannot_be_read_says_so() -> None:
    whole = content(20 * MIB)
    refs = refs_of(whole)
    for fails_at in (MIB, 15 * MIB):
        with pytest.raises(OSError, match="error"):
            places_in(Bytes(whole, fails_at=fails_at), refs, CHUNKER)
