"""Chunks in frames: bytes and borders survive, and nobody buffers without a bound."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.bodies import ChunkBody, Compressed
from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.errors import Invalid
from syncline.rpc.channel import MESSAGE_BYTES_MAX
from syncline.rpc.frames import (
    FETCH_FIELD,
    FRAME_BYTES,
    PIECES_READ_MAX,
    STORE_FIELD,
    ChunkPacker,
    ChunkUnpacker,
    Frame,
    Piece,
    pack_chunks,
    read_pieces,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.methods import FETCH, STORE

HEADERS_MAX = 32

sizes = st.one_of(
    st.integers(1, 100),
    st.integers(CHUNK_BYTES_MAX // 2 - 20, CHUNK_BYTES_MAX // 2),
    st.integers(1, CHUNK_BYTES_MAX),
)


def unpack(messages: list[bytes]) -> list[ChunkBody]:
    unpacker = ChunkUnpacker()
    found: list[ChunkBody] = []
    for raw in messages:
        frame = FETCH.decode_response(raw)
        assert isinstance(frame, Frame)
        found += unpacker.add(frame)
    assert not unpacker.is_partial
    return found


Flat = tuple[bytes, bool, int, int]


def as_protobuf_has_it(raw: bytes) -> list[Flat]:
    message = pb.FetchResponse.FromString(raw)
    return [
        (piece.data, piece.is_cut, piece.encoding, piece.size) for piece in message.chunks.pieces
    ]


def flat(pieces: Sequence[Piece]) -> list[Flat]:
    return [(bytes(each.data), each.is_cut, each.encoding, each.size) for each in pieces]


def fetched(*pieces: tuple[bytes, bool] | Flat) -> bytes:
    """Return a message as another program makes it, by protobuf."""
    frame = pb.ChunkFrame()
    for data, is_cut, *encoding in pieces:
        piece = frame.pieces.add(data=data, is_cut=is_cut)
        if encoding:
            piece.encoding, piece.size = encoding
    return pb.FetchResponse(chunks=frame).SerializeToString()


bodies = st.one_of(
    sizes.map(lambda size: b"x" * size),
    st.builds(
        lambda size, ratio: Compressed(b"z" * max(1, size // ratio), size),
        st.integers(100, CHUNK_BYTES_MAX),
        st.integers(2, 1000),
    ),
)


# -- what we write -------------------------------------------------------------


@given(st.lists(sizes, max_size=12))
def test_what_is_packed_is_unpacked(lengths: list[int]) -> None:
    chunks = [bytes([index % 251]) * size for index, size in enumerate(lengths)]
    messages = list(pack_chunks(chunks, FETCH_FIELD))
    assert unpack(messages) == chunks
    assert all(len(message) <= FRAME_BYTES + HEADERS_MAX for message in messages)
    assert FRAME_BYTES + HEADERS_MAX < MESSAGE_BYTES_MAX


@given(st.lists(sizes, min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_a_flush_anywhere_changes_nothing(lengths: list[int], flushes: set[int]) -> None:
    chunks = [bytes([index]) * size for index, size in enumerate(lengths)]
    packer = ChunkPacker(FETCH_FIELD)
    messages: list[bytes] = []
    for index, chunk in enumerate(chunks):
        messages += packer.add(chunk)
        if index in flushes:
            messages += packer.flush()
    messages += packer.flush()
    assert list(packer.flush()) == []
    assert unpack(messages) == chunks


@given(st.lists(bodies, max_size=12))
def test_what_is_compressed_is_unpacked_as_it_was(chunks: list[ChunkBody]) -> None:
    messages = list(pack_chunks(chunks, FETCH_FIELD))
    assert unpack(messages) == chunks
    assert all(len(message) <= FRAME_BYTES + HEADERS_MAX for message in messages)


@given(st.lists(bodies, min_size=1, max_size=6))
def test_protobuf_would_write_the_same_bytes(chunks: list[ChunkBody]) -> None:
    for raw in pack_chunks(chunks, FETCH_FIELD):
        assert pb.FetchResponse.FromString(raw).SerializeToString() == raw
    for raw in pack_chunks(chunks, STORE_FIELD):
        assert pb.StoreRequest.FromString(raw).SerializeToString() == raw


def test_small_chunks_share_messages_and_no_chunk_is_cut() -> None:
    small = list(pack_chunks([bytes(4096)] * 1000, FETCH_FIELD))
    assert len(small) == 4
    large = list(pack_chunks([bytes(CHUNK_BYTES_MAX)] * 4, FETCH_FIELD))
    assert len(large) == 4
    assert not any(is_cut for raw in small + large for _, is_cut, *_ in as_protobuf_has_it(raw))


# -- what we read --------------------------------------------------------------


pieces_of_others = st.tuples(
    st.binary(max_size=300),
    st.booleans(),
    st.sampled_from([0, 1, 1, 1, 2, 127, 128, 2**31 - 1, -1]),
    st.one_of(st.integers(0, 400), st.sampled_from([2**20, 2**28 - 1, 2**28, 2**32 - 1])),
)


@given(st.lists(pieces_of_others, max_size=6), st.data())
def test_a_message_is_read_as_protobuf_reads_it(pieces: list[Flat], data: st.DataObject) -> None:
    """Whatever its bytes are: whole, cut off, changed in one place, or followed by more."""
    raw = fetched(*pieces)
    match data.draw(st.sampled_from(["whole", "cut", "changed", "more"])):
        case "cut":
            raw = raw[: data.draw(st.integers(0, len(raw)))]
        case "changed" if raw:
            at = data.draw(st.integers(0, min(len(raw) - 1, 12)))
            if data.draw(st.booleans()):
                at = len(raw) - 1 - at
            raw = raw[:at] + bytes([data.draw(st.integers(0, 255))]) + raw[at + 1 :]
        case "more":
            raw += data.draw(st.binary(max_size=20))
        case _:
            pass
    decoded = FETCH.decode_response(raw)
    try:
        message = pb.FetchResponse.FromString(raw)
    except DecodeError:
        assert decoded is None
        return
    if message.WhichOneof("part") == "chunks":
        assert isinstance(decoded, Frame)
        assert flat(decoded.pieces) == as_protobuf_has_it(raw)
    else:
        assert decoded == message


def test_pieces_of_others_are_read_without_protobuf_too() -> None:
    raw = fetched((b"first", True), (b"x" * 200_000, False), (b"z", False, 1, 2**20))
    pieces = read_pieces(raw, FETCH_FIELD)
    assert pieces is not None
    assert flat(pieces) == as_protobuf_has_it(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        fetched((b"x", False)) + fetched((b"y", False)),
        fetched((b"", False)),
        fetched(*[(b"x", False)] * (PIECES_READ_MAX + 1)),
        b"\x12\x80\x80\x80\x80\x80",
        pb.FetchResponse(found=pb.Located(path=b"x")).SerializeToString(),
        fetched((b"x", False, 2, 100)),
        fetched((b"x", False, 0, 100)),
        fetched((b"x", False, 1, 0)),
        fetched((b"x", False, 1, 2**32 - 1)),
        fetched((b"x", True, 1, 100)),
    ],
    ids=[
        "nothing",
        "two frames",
        "an empty piece",
        "many",
        "an endless length",
        "found",
        "an unknown encoding",
        "a size alone",
        "an encoding alone",
        "a size of 4 GiB",
        "an encoding of what is cut",
    ],
)
def test_what_we_do_not_write_is_left_to_protobuf(raw: bytes) -> None:
    assert read_pieces(raw, FETCH_FIELD) is None


def test_a_frame_in_the_field_of_another_message_is_none() -> None:
    raw = next(pack_chunks([b"chunk"], STORE_FIELD))
    assert isinstance(STORE.decode_request(raw), Frame)
    assert not isinstance(FETCH.decode_response(raw), Frame)


def test_what_is_no_message_is_an_empty_one_to_a_server() -> None:
    assert STORE.decode_request(b"\x1a\xff") == pb.StoreRequest()
    assert FETCH.decode_response(b"\x12\xff") is None


def test_a_chunk_over_the_limit_is_refused_before_it_is_whole() -> None:
    unpacker = ChunkUnpacker()
    piece = Piece(bytes(CHUNK_BYTES_MAX // 2), is_cut=True)
    assert unpacker.add(Frame([piece, piece])) == []
    assert unpacker.is_partial
    with pytest.raises(Invalid):
        unpacker.add(Frame([Piece(b"x", is_cut=False)]))


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_empty_piece_is_refused(is_cut: bool) -> None:
    with pytest.raises(Invalid):
        ChunkUnpacker().add(Frame([Piece(b"", is_cut)]))


def test_a_chunk_that_others_cut_says_at_its_end_that_it_is_compressed() -> None:
    unpacker = ChunkUnpacker()
    pieces = [Piece(b"be", is_cut=True), Piece(b"gun", False, pb.ENCODING_ZSTD, 100)]
    assert unpacker.add(Frame([*pieces, Piece(b"next", False)])) == [
        Compressed(b"begun", 100),
        b"next",
    ]


@pytest.mark.parametrize(
    ("piece", "reason"),
    [
        (Piece(b"12345", False, 2, 100), "encoding"),
        (Piece(b"12345", False, -1, 100), "encoding"),
        (Piece(b"12345", False, 0, 5), "encoding"),
        (Piece(b"12345", True, 1, 100), "encoding"),
        (Piece(b"12345", True, 0, 100), "encoding"),
        (Piece(b"12345", False, 1, 0), "size"),
        (Piece(b"12345", False, 1, 5), "size"),
        (Piece(b"12345", False, 1, CHUNK_BYTES_MAX + 1), "size"),
        (Piece(b"12345", False, 1, 2**32 - 1), "size"),
    ],
)
def test_an_encoding_that_cannot_be_is_refused(piece: Piece, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        ChunkUnpacker().add(Frame([piece]))
    assert caught.value.fields == {"field": "chunks", "reason": reason}


def test_the_end_in_the_middle_of_a_chunk_is_seen() -> None:
    unpacker = ChunkUnpacker()
    assert unpacker.add(Frame([Piece(b"whole", False), Piece(b"beg", True)])) == [b"whole"]
    assert unpacker.is_partial
    assert unpacker.add(Frame([Piece(b"un", False)])) == [b"begun"]
    assert not unpacker.is_partial
