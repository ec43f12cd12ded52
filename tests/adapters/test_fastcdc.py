"""Chunking: golden cut points, bounds, and streams that are cut like the whole."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.adapters.fastcdc import FastCdcChunker, cut
from syncline.core.identity import digest_of
from syncline.core.manifests import (
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    DIRECT_REFS_MAX,
    EMPTY_CONTENT,
    ChunkRef,
    build_content,
    check_content,
    decode_piece,
)
from syncline.errors import LocalFailure
from syncline.ports.chunker import Chunked, Read

MIB = 2**20

GOLDEN_CUTS: list[int] = [
    213247,
    522231,
    933286,
    1015375,
    1115697,
    1365421,
    2081557,
    2697962,
    2838122,
    3695523,
    3943460,
    4194304,
]
"""Where the first 4 MiB of `content(MIB * 4)` are cut; to change it sends everything again."""

CHUNKER = FastCdcChunker()


@cache
def content(size: int, seed: bytes = b"syncline") -> bytes:
    """Return bytes without a pattern, the same on every machine: BLAKE3's extended output."""
    return blake3(seed).digest(length=size)


def chunk_stream(read: Read) -> Chunked:
    return FastCdcChunker().chunk(read)


def chunk_buffer(whole: bytes) -> Chunked:
    """Return what a stream must come to: `whole` cut at once, each chunk and all of it hashed."""
    ends = cut(whole)
    pairs = zip([0, *ends], ends, strict=False)
    refs = tuple(ChunkRef(digest_of(whole[start:end]), end - start) for start, end in pairs)
    content, pieces = build_content(digest_of(whole), len(whole), refs)
    return Chunked(content, pieces, refs)


def reading(whole: bytes, sizes: Callable[[int], int] = lambda n: n) -> Read:
    """Return a `read` over `whole` that gives `sizes(n)` where n bytes are asked for."""
    at = 0

    def read(n: int) -> bytes:
        nonlocal at
        piece = whole[at : at + min(n, max(sizes(n), 1))]
        at += len(piece)
        return piece

    return read


def ends(chunked: Chunked) -> list[int]:
    at, found = 0, []
    for ref in chunked.refs:
        at += ref.size
        found.append(at)
    return found


def test_the_cuts_are_the_golden_ones() -> None:
    assert cut(content(4 * MIB)) == GOLDEN_CUTS


def test_zeros_are_cut_at_the_longest_chunk() -> None:
    assert cut(bytes(2 * MIB + 5)) == [MIB, 2 * MIB, 2 * MIB + 5]


def test_empty_content_has_no_chunks() -> None:
    assert cut(b"") == []
    assert chunk_buffer(b"") == chunk_stream(reading(b"")) == Chunked(EMPTY_CONTENT, {}, ())


@pytest.mark.parametrize("size", [1, 4096, CHUNK_BYTES_MIN - 1, CHUNK_BYTES_MIN])
def test_content_up_to_the_minimum_is_one_chunk(size: int) -> None:
    whole = content(size)
    chunked = chunk_stream(reading(whole))
    assert [ref.size for ref in chunked.refs] == [size]
    assert chunked.content.digest == chunked.refs[0].digest == digest_of(whole)
    assert chunked == chunk_buffer(whole)


@pytest.mark.parametrize("size", [CHUNK_BYTES_MIN + 1, MIB - 1, MIB, MIB + 1])
def test_a_single_chunk_of_any_length_is_hashed_once(size: int) -> None:
    chunked = chunk_stream(reading(bytes(size)))
    assert chunked == chunk_buffer(bytes(size))
    assert len(chunked.refs) == (1 if size <= MIB else 2)
    assert chunked.content.digest == digest_of(bytes(size))
    check_content(chunked.content)


def test_the_chunks_put_together_are_the_content() -> None:
    whole = content(9 * MIB + 12345)
    chunked = chunk_buffer(whole)
    at = 0
    for ref in chunked.refs:
        assert ref.digest == digest_of(whole[at : at + ref.size])
        at += ref.size
    assert at == len(whole) == chunked.content.size
    assert all(CHUNK_BYTES_MIN <= ref.size <= CHUNK_BYTES_MAX for ref in chunked.refs[:-1])
    assert 0 < chunked.refs[-1].size <= CHUNK_BYTES_MAX
    assert chunked.content.digest == digest_of(whole)
    assert chunked.pieces == {}
    check_content(chunked.content)


@pytest.mark.parametrize("size", [4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 8 * MIB, 13 * MIB + 7])
@pytest.mark.parametrize("seed", [b"a", b""])
def test_a_stream_is_cut_like_the_whole(size: int, seed: bytes) -> None:
    whole = content(size, seed) if seed else bytes(size)
    assert ends(chunk_stream(reading(whole))) == cut(whole)
    assert chunk_stream(reading(whole)) == chunk_buffer(whole)


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(0, 10 * MIB),
    steps=st.lists(st.integers(10_000, 3 * MIB), min_size=1, max_size=8),
    zeros=st.integers(0, 2 * MIB),
)
def test_no_way_of_reading_moves_a_cut(size: int, steps: list[int], zeros: int) -> None:
    whole = content(10 * MIB)[:size] + bytes(zeros) + content(10 * MIB)[:size]
    turn = itertools.cycle(steps)
    assert chunk_stream(reading(whole, lambda _: next(turn))) == chunk_buffer(whole)


def test_a_byte_at_the_front_leaves_nearly_all_chunks_as_they_were() -> None:
    whole = content(16 * MIB)
    before = {ref.digest for ref in chunk_buffer(whole).refs}
    after = chunk_buffer(b"!" + whole).refs
    fresh = [ref for ref in after if ref.digest not in before]
    assert len(after) > 40
    assert len(fresh) <= 3


def test_a_long_manifest_comes_in_pieces() -> None:
    whole = bytes((DIRECT_REFS_MAX + 1) * MIB)
    chunked = chunk_stream(reading(whole))
    assert len(chunked.refs) == DIRECT_REFS_MAX + 1
    assert chunked.content.depth == 1
    listed = [chunked.pieces[ref.digest] for ref in chunked.content.refs]
    assert tuple(ref for piece in listed for ref in decode_piece(piece)) == chunked.refs
    check_content(chunked.content)


def test_a_file_is_chunked_from_its_position(tmp_path: Path) -> None:
    whole = content(3 * MIB)
    (tmp_path / "file").write_bytes(b"skip" + whole)
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        os.lseek(fd, 4, os.SEEK_SET)
        assert chunk_stream(lambda n: os.read(fd, n)) == chunk_buffer(whole)
    finally:
        os.close(fd)


def test_what_read_raises_goes_through() -> None:
    gone = LocalFailure("the disk is gone")
    parts = iter([content(3 * MIB)[:MIB]])

    def read(n: int) -> bytes:
        for part in parts:
            return part[:n]
        raise gone

    with pytest.raises(LocalFailure) as caught:
        chunk_stream(read)
    assert caught.value is gone


@pytest.mark.parametrize("at", [0, 1, 3, 7])
def test_what_read_raises_leaves_nothing_at_work(at: int) -> None:
    whole = content(9 * MIB)
    chunker = FastCdcChunker()
    calls = 0

    def read(n: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(5, "the disk is gone")
        return whole[(calls - 1) * MIB : calls * MIB][:n]

    with pytest.raises(OSError, match="the disk is gone"):
        chunker.chunk(read)
    assert chunker.chunk(reading(whole)) == chunk_buffer(whole)


def test_read_is_called_by_the_caller_alone() -> None:
    threads: set[int] = set()
    whole = content(9 * MIB)

    def read(n: int) -> bytes:
        threads.add(threading.get_ident())
        return give(n)

    give = reading(whole)
    refs = FastCdcChunker().chunk(read).refs
    give = reading(whole)
    assert FastCdcChunker().count_equal(read, refs) == len(refs)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("extra", [0, 1, MIB])
def test_content_that_is_the_same_is_counted_to_its_end(extra: int) -> None:
    whole = content(9 * MIB)
    refs = chunk_buffer(whole).refs
    found = FastCdcChunker().count_equal(reading(whole + bytes(extra)), refs)
    assert found == len(refs) > 20
    assert FastCdcChunker().count_equal(reading(whole), refs[:3]) == 3
    assert FastCdcChunker().count_equal(reading(whole), []) == 0
    assert FastCdcChunker().count_equal(reading(b""), refs) == 0


@settings(max_examples=25, deadline=None)
@given(
    at=st.integers(0, 9 * MIB - 1),
    steps=st.lists(st.integers(10_000, 3 * MIB), min_size=1, max_size=8),
    is_cut=st.booleans(),
)
def test_equal_chunks_are_counted_up_to_the_first_that_differs(
    at: int, steps: list[int], is_cut: bool
) -> None:
    whole = content(9 * MIB)
    refs = chunk_buffer(whole).refs
    other = whole[:at] if is_cut else whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
    turn = itertools.cycle(steps)
    found = FastCdcChunker().count_equal(reading(other, lambda _: next(turn)), refs)
    assert found == sum(end <= at for end in cut(whole))


def test_comparing_reads_little_past_what_differs() -> None:
    whole = content(32 * MIB)
    refs = chunk_buffer(whole).refs
    taken = 0

    def read(n: int) -> bytes:
        nonlocal taken
        taken += n
        return give(n)

    give = reading(b"!" + whole[1:])
    assert FastCdcChunker().count_equal(read, refs) == 0
    assert taken <= 5 * MIB


def test_what_read_raises_goes_through_a_comparison() -> None:
    whole = content(9 * MIB)
    gone = LocalFailure("the disk is gone")
    parts = iter([whole[: 2 * MIB]])

    def read(n: int) -> bytes:
        for part in parts:
            return part[:n]
        raise gone

    with pytest.raises(LocalFailure) as caught:
        FastCdcChunker().count_equal(read, chunk_buffer(whole).refs)
    assert caught.value is gone


@given(st.lists(st.lists(st.binary(max_size=50), max_size=4), max_size=6))
def test_a_digest_in_parts_is_that_of_the_whole(updates: list[list[bytes]]) -> None:
    hasher = CHUNKER.hasher()
    whole = b""
    for parts in updates:
        hasher.update(parts)
        whole += b"".join(parts)
        if len(parts) % 2:
            assert hasher.digest() == digest_of(whole)
    assert hasher.digest() == digest_of(whole)


def test_a_stream_needs_little_memory_whatever_its_length() -> None:
    block, left = content(MIB), 128

    def read(n: int) -> bytes:
        nonlocal left
        if not left:
            return b""
        left -= 1
        return block[:n]

    tracemalloc.start()
    try:
        chunked = chunk_stream(read)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert chunked.content.size > 50_000_000
    assert peak < 8 * MIB


def test_threads_chunk_at_one_time() -> None:
    whole = content(8 * MIB)
    expected = chunk_buffer(whole)
    found: list[Chunked] = []
    barrier = threading.Barrier(4, timeout=30)

    def work() -> None:
        barrier.wait()
        for _ in range(3):
            found.append(chunk_stream(reading(whole)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected] * 12


def test_without_the_compiled_part_chunking_is_refused_and_says_why() -> None:
    program = """
import sys, warnings
warnings.simplefilter("ignore")
sys.modules["pyfastcdc.cy"] = None
from syncline.adapters import fastcdc
from syncline.errors import LocalFailure
from syncline.ports.chunker import Chunked, Read
try:
    fastcdc.FastCdcChunker().chunk(lambda size: bytes(size))
except LocalFailure as error:
    print(error.fields["reason"])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "pyfastcdc\n", done.stderr
