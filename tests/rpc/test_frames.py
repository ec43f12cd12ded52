"""Chunks in frames: bytes and borders survive, and nobody buffers without a bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.errors import Invalid
from syncline.rpc.frames import FRAME_BYTES, ChunkPacker, ChunkUnpacker, pack_chunks
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

sizes = st.one_of(
    st.integers(1, 100),
    st.integers(FRAME_BYTES - 5000, FRAME_BYTES + 100),
    st.integers(1, CHUNK_BYTES_MAX),
)


def unpack(frames: list[pb.ChunkFrame]) -> list[bytes]:
    unpacker = ChunkUnpacker()
    found = [
        chunk
        for frame in frames
        for chunk in unpacker.add(pb.ChunkFrame.FromString(frame.SerializeToString()))
    ]
    assert not unpacker.is_partial
    return found


@given(st.lists(sizes, max_size=12))
def test_what_is_packed_is_unpacked(lengths: list[int]) -> None:
    chunks = [bytes([index % 251]) * size for index, size in enumerate(lengths)]
    frames = list(pack_chunks(chunks))
    assert unpack(frames) == chunks
    assert all(frame.ByteSize() <= FRAME_BYTES + 16 for frame in frames)


@given(st.lists(sizes, min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_a_flush_anywhere_changes_nothing(lengths: list[int], flushes: set[int]) -> None:
    chunks = [bytes([index]) * size for index, size in enumerate(lengths)]
    packer = ChunkPacker()
    frames: list[pb.ChunkFrame] = []
    for index, chunk in enumerate(chunks):
        frames += packer.add(chunk)
        if index in flushes:
            frames += packer.flush()
    frames += packer.flush()
    assert list(packer.flush()) == []
    assert unpack(frames) == chunks


def test_many_small_chunks_share_frames_and_large_ones_fill_them() -> None:
    small = [bytes(4096)] * 1000
    assert len(list(pack_chunks(small))) == 16
    large = [bytes(CHUNK_BYTES_MAX)] * 4
    frames = list(pack_chunks(large))
    assert len(frames) == 17
    assert all(frame.ByteSize() > FRAME_BYTES - 5000 for frame in frames[:-1])


def test_a_chunk_over_the_limit_is_refused_before_it_is_whole() -> None:
    unpacker = ChunkUnpacker()
    piece = pb.ChunkPiece(data=bytes(CHUNK_BYTES_MAX // 2), is_cut=True)
    assert unpacker.add(pb.ChunkFrame(pieces=[piece, piece])) == []
    assert unpacker.is_partial
    with pytest.raises(Invalid):
        unpacker.add(pb.ChunkFrame(pieces=[pb.ChunkPiece(data=b"x")]))


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_empty_piece_is_refused(is_cut: bool) -> None:
    with pytest.raises(Invalid):
        ChunkUnpacker().add(pb.ChunkFrame(pieces=[pb.ChunkPiece(is_cut=is_cut)]))


def test_the_end_in_the_middle_of_a_chunk_is_seen() -> None:
    frames = list(pack_chunks([b"whole", bytes(FRAME_BYTES * 2)]))
    unpacker = ChunkUnpacker()
    assert unpacker.add(frames[0]) == [b"whole"]
    assert unpacker.is_partial
