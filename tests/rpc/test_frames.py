"""Chunks in frames: bytes and borders survive, and nobody buffers without a bound."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

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


def unpack(messages: list[bytes]) -> list[bytes]:
    unpacker = ChunkUnpacker()
    found = []
    for raw in messages:
        frame = FETCH.decode_response(raw)
        assert isinstance(frame, Frame)
        found += unpacker.add(frame)
    assert not unpacker.is_partial
    return found


def as_protobuf_has_it(raw: bytes) -> list[tuple[bytes, bool]]:
    message = pb.FetchResponse.FromString(raw)
    return [(piece.data, piece.is_cut) for piece in message.chunks.pieces]


def flat(frame: object) -> list[tuple[bytes, bool]]:
    assert isinstance(frame, Frame)
    return [(bytes(piece.data), piece.is_cut) for piece in frame.pieces]


def fetched(*pieces: tuple[bytes, bool]) -> bytes:
    """Return a message as another program makes it, by protobuf."""
    made = [pb.ChunkPiece(data=data, is_cut=is_cut) for data, is_cut in pieces]
    return pb.FetchResponse(chunks=pb.ChunkFrame(pieces=made)).SerializeToString()


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


@given(st.lists(sizes, min_size=1, max_size=6))
def test_protobuf_would_write_the_same_bytes(lengths: list[int]) -> None:
    chunks = [bytes([index]) * size for index, size in enumerate(lengths)]
    for raw in pack_chunks(chunks, FETCH_FIELD):
        assert pb.FetchResponse.FromString(raw).SerializeToString() == raw
    for raw in pack_chunks(chunks, STORE_FIELD):
        assert pb.StoreRequest.FromString(raw).SerializeToString() == raw


def test_small_chunks_share_messages_and_no_chunk_is_cut() -> None:
    small = list(pack_chunks([bytes(4096)] * 1000, FETCH_FIELD))
    assert len(small) == 4
    large = list(pack_chunks([bytes(CHUNK_BYTES_MAX)] * 4, FETCH_FIELD))
    assert len(large) == 4
    assert not any(is_cut for raw in small + large for _, is_cut in as_protobuf_has_it(raw))


# -- what we read --------------------------------------------------------------


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=6), st.data())
def test_a_message_is_read_as_protobuf_reads_it(
    pieces: list[tuple[bytes, bool]], data: st.DataObject
) -> None:
    """Whatever its bytes are: whole, cut off, changed in one place, or followed by more."""
    raw = fetched(*pieces)
    match data.draw(st.sampled_from(["whole", "cut", "changed", "more"])):
        case "cut":
            raw = raw[: data.draw(st.integers(0, len(raw)))]
        case "changed" if raw:
            at = data.draw(st.integers(0, min(len(raw) - 1, 12)))
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
        assert flat(decoded) == as_protobuf_has_it(raw)
    else:
        assert decoded == message


def test_pieces_of_others_are_read_without_protobuf_too() -> None:
    raw = fetched((b"first", True), (b"x" * 200_000, False))
    pieces = read_pieces(raw, FETCH_FIELD)
    assert pieces is not None
    assert [(bytes(each.data), each.is_cut) for each in pieces] == as_protobuf_has_it(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        fetched((b"x", False)) + fetched((b"y", False)),
        fetched((b"", False)),
        fetched(*[(b"x", False)] * (PIECES_READ_MAX + 1)),
        b"\x12\x80\x80\x80\x80\x80",
        pb.FetchResponse(found=pb.Located(path=b"x")).SerializeToString(),
    ],
    ids=["nothing", "two frames", "an empty piece", "many", "an endless length", "found"],
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


def test_the_end_in_the_middle_of_a_chunk_is_seen() -> None:
    unpacker = ChunkUnpacker()
    assert unpacker.add(Frame([Piece(b"whole", False), Piece(b"beg", True)])) == [b"whole"]
    assert unpacker.is_partial
    assert unpacker.add(Frame([Piece(b"un", False)])) == [b"begun"]
    assert not unpacker.is_partial
