"""Assembling content: whatever is staged already and whatever the older version is."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.client.assembling import Assembly, SourceChanged, Unfolding, unfold
from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import ChunkRef, Content, encode_piece
from syncline.errors import Corrupt, Invalid


@dataclass
class Memory:
    """A file in memory; counts what is written."""

    content: bytearray = field(default_factory=bytearray)
    written: int = 0
    error: int = 0

    def read(self, size: int, offset: int) -> bytes:
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return bytes(self.content[offset : offset + size])

    def write(self, content: bytes, offset: int) -> None:
        assert offset <= len(self.content)
        self.content[offset : offset + len(content)] = content
        self.written += len(content)

    def truncate(self, size: int) -> None:
        self.content[size:] = bytes(max(0, size - len(self.content)))


def refs_of(parts: list[bytes]) -> list[ChunkRef]:
    return [ChunkRef(digest_of(part), len(part)) for part in parts]


def places_of(parts: list[bytes]) -> dict[Digest, int]:
    """Return where each part lies first."""
    places: dict[Digest, int] = {}
    offset = 0
    for part in parts:
        places.setdefault(digest_of(part), offset)
        offset += len(part)
    return places


def assembly_of(parts: list[bytes], staged: Memory) -> Assembly:
    return Assembly(refs_of(parts), staged, len(staged.content), CHUNKER.hasher())


CHUNKER = FastCdcChunker()
chunks = st.sampled_from([b"a", b"bb", b"ccc", b"\0\0", b"\0", b"ddddd"])
wholes = st.lists(chunks, max_size=12)


@given(wholes, wholes, st.binary(max_size=30), st.integers(1, 4))
def test_the_whole_comes_out_whatever_is_there(
    parts: list[bytes], older: list[bytes], noise: bytes, at_once: int
) -> None:
    whole = b"".join(parts)
    staged = Memory(bytearray(whole[: len(noise)] + noise))
    assembly = assembly_of(parts, staged)
    source = Memory(bytearray(b"".join(older)))
    assembly.copy_from(source, places_of(older))
    here = assembly.here_bytes
    assembly.advance(())
    asked = []
    while wanted := assembly.wanted(at_once):
        by_digest = {digest_of(part): part for part in parts}
        asked += wanted
        assembly.advance([by_digest[digest] for digest in wanted])
    assert (assembly.digest, assembly.offset) == (digest_of(whole), len(whole))
    staged.truncate(len(whole))
    assert bytes(staged.content) == whole
    assert len(set(asked)) == len(asked)
    assert not set(asked) & {digest_of(part) for part in older}
    sizes = {digest_of(part): len(part) for part in parts}
    assert here + sum(sizes[digest] for digest in asked) == len(whole)


@given(wholes)
def test_what_is_there_is_not_written_again(parts: list[bytes]) -> None:
    staged = Memory(bytearray(b"".join(parts)))
    assembly = assembly_of(parts, staged)
    assembly.advance(())
    assert assembly.offset == len(staged.content)
    assert staged.written == 0


def test_zeros_at_the_end_are_not_written() -> None:
    parts = [b"a", b"\0\0", b"\0\0", b"b"]
    staged = Memory()
    assembly = assembly_of(parts, staged)
    assembly.advance([b"a", b"\0\0", b"b"])
    assert bytes(staged.content) == b"a\0\0\0\0b"
    assert staged.written == 2


def test_zeros_over_something_are_written() -> None:
    staged = Memory(bytearray(b"xxxx"))
    assembly = assembly_of([b"\0\0\0\0"], staged)
    assembly.advance([b"\0\0\0\0"])
    assert bytes(staged.content) == bytes(4)


@pytest.mark.parametrize("spoil", ["short", "unreadable"])
def test_an_older_version_that_lost_its_chunks_ends_it(spoil: str) -> None:
    older = Memory(bytearray(b"aaabbb"))
    assembly = assembly_of([b"aaa", b"bbb"], Memory())
    assembly.copy_from(older, places_of([b"aaa", b"bbb"]))
    if spoil == "short":
        older.truncate(5)
    else:
        older.error = errno.EIO
    with pytest.raises(SourceChanged):
        assembly.advance(())


def test_what_changed_in_an_older_version_shows_in_the_whole_and_is_found_again() -> None:
    parts = [b"aaa", b"bbb", b"ccc"]
    older = Memory(bytearray(b"aaabbbccc"))
    staged = Memory()
    assembly = assembly_of(parts, staged)
    assembly.copy_from(older, places_of(parts))
    older.content[4] = 0
    assembly.advance(())
    assert assembly.has_copied
    assert (assembly.offset, assembly.digest) == (9, digest_of(bytes(older.content)))
    again = assembly_of(parts, staged)
    assert again.wanted(9) == [digest_of(b"bbb")]
    again.advance([b"bbb"])
    assert not again.has_copied
    assert again.digest == digest_of(b"aaabbbccc")
    assert bytes(staged.content) == b"aaabbbccc"


def test_a_chunk_of_another_size_than_its_manifest_says() -> None:
    assembly = Assembly([ChunkRef(digest_of(b""), 3)], Memory(), 0, CHUNKER.hasher())
    with pytest.raises(Corrupt):
        assembly.advance([b""])


def test_pieces_unfold_to_their_chunks_or_not_at_all() -> None:
    refs = refs_of([b"one", b"three", b"x"])
    pieces = [encode_piece(refs[:2]), encode_piece(refs[2:])]
    content = Content(digest_of(b"onethreex"), 9, 1, ())
    assert list(unfold(content, pieces)) == refs
    with pytest.raises(Invalid):
        unfold(content, pieces[:1])
    with pytest.raises(Invalid):
        unfold(content, [*pieces, pieces[0]])
    with pytest.raises(Corrupt):
        unfold(content, [b"no piece"])


def test_a_bomb_of_pieces_is_stopped_at_the_first_one_too_many() -> None:
    piece = encode_piece([ChunkRef(digest_of(b"x"), 1)] * 4000)
    unfolding = Unfolding(Content(digest_of(b""), 10**6, 1, ()))
    unfolding.add(piece)
    with pytest.raises(Invalid):
        unfolding.add(piece)
