"""Chunks on the wire: many small ones to a message, large ones alone; foreign ones may be cut.

The messages of bulk content are written and read here byte by byte and not by protobuf, which
copies each byte twice more on either side. What is written is what protobuf would write; whatever
else is read goes by way of protobuf, and means what that says it means.

C1  Bytes and borders survive: what the unpacker yields is what the packer was given, in order.
C2  Nobody buffers more than `CHUNK_BYTES_MAX` of a chunk that is still coming.
C3  No piece is empty, so no stream of frames goes on for ever without content.
C4  A compressed chunk says how many bytes it makes; it is not opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from syncline.core.bodies import ChunkBody, Compressed
from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.errors import Corrupt, Invalid
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

FRAME_BYTES = 1024 * 1024
"""What a message is filled up to with whole chunks, so that none is cut: messages of 0.5 to 1 MiB
cost the same a byte, and those of 256 KiB half as much again."""

PIECES_READ_MAX = 1024
"""A message of more pieces goes by way of protobuf, which holds tiny ones in less memory."""

_LENGTH_DELIMITED = 2
_DATA = pb.ChunkPiece.DATA_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_PIECES = pb.ChunkFrame.PIECES_FIELD_NUMBER << 3 | _LENGTH_DELIMITED
_IS_CUT = bytes((pb.ChunkPiece.IS_CUT_FIELD_NUMBER << 3, 1))
_IS_ZSTD = bytes((pb.ChunkPiece.ENCODING_FIELD_NUMBER << 3, pb.ENCODING_ZSTD))
_SIZE = pb.ChunkPiece.SIZE_FIELD_NUMBER << 3

STORE_FIELD = pb.StoreRequest.CHUNKS_FIELD_NUMBER
FETCH_FIELD = pb.FetchResponse.CHUNKS_FIELD_NUMBER


M = TypeVar("M", pb.StoreRequest, pb.FetchResponse)


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a chunk; they are those of a message, and gone with it unless they are copied.

    `encoding` is as the message has it, known or not; `size` is of the plain chunk, 0 untold.
    """

    data: bytes | memoryview
    is_cut: bool
    encoding: int = pb.ENCODING_UNSPECIFIED
    size: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """What a message has of chunks."""

    pieces: Sequence[Piece]


# -- writing -------------------------------------------------------------------


class ChunkPacker:
    """Packs chunks into messages; `field` is where a message has its frame."""

    def __init__(self, field: int) -> None:
        self._tag = field << 3 | _LENGTH_DELIMITED
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, chunk: ChunkBody) -> Iterator[bytes]:
        """Take a chunk of at least one byte; yield the message that was full without it."""
        if isinstance(chunk, Compressed):
            data, tail = chunk.data, _IS_ZSTD + _header(_SIZE, chunk.size)
        else:
            data, tail = chunk, b""
        assert data, "a chunk is never empty"
        data_header = _header(_DATA, len(data))
        piece_header = _header(_PIECES, len(data_header) + len(data) + len(tail))
        size = len(piece_header) + len(data_header) + len(data) + len(tail)
        if self._size + size > FRAME_BYTES:
            yield from self.flush()
        self._parts += (piece_header, data_header, data, tail)
        self._size += size

    def flush(self) -> Iterator[bytes]:
        """Yield the message that is not full yet, if it has anything."""
        if self._parts:
            message = b"".join((_header(self._tag, self._size), *self._parts))
            self._parts, self._size = [], 0
            yield message


def pack_chunks(chunks: Iterable[ChunkBody], field: int) -> Iterator[bytes]:
    """Yield the messages for chunks, in order."""
    packer = ChunkPacker(field)
    for chunk in chunks:
        yield from packer.add(chunk)
    yield from packer.flush()


def _header(tag: int, size: int) -> bytes:
    """Return a tag and a number: how long what follows it is, or a value."""
    header = bytearray((tag,))
    while size > 0x7F:
        header.append(size & 0x7F | 0x80)
        size >>= 7
    header.append(size)
    return bytes(header)


# -- reading -------------------------------------------------------------------


def frame_decoder(
    kind: type[M], field: int, otherwise: Callable[[], M | None]
) -> Callable[[bytes], M | Frame | None]:
    """Return a decoder of messages that may have a frame; `otherwise` is for what is no message."""

    def decode(raw: bytes) -> M | Frame | None:
        pieces = read_pieces(raw, field)
        if pieces is not None:
            return Frame(pieces)
        try:
            message = kind.FromString(raw)
        except DecodeError:
            return otherwise()
        if message.WhichOneof("part") != "chunks":
            return message
        return Frame(
            [
                Piece(piece.data, piece.is_cut, piece.encoding, piece.size)
                for piece in message.chunks.pieces
            ]
        )

    return decode


def read_pieces(raw: bytes, field: int) -> Sequence[Piece] | None:
    """Return the pieces of a message as `ChunkPacker` writes it, which share its memory.

    None for every other one, be it as right: fields in another order, twice, unknown or left out.
    """
    if not raw or raw[0] != field << 3 | _LENGTH_DELIMITED:
        return None
    end = len(raw)
    view = memoryview(raw)
    size, at = _read_varint(raw, 1)
    if at + size != end:
        return None
    pieces: list[Piece] = []
    while at < end:
        if len(pieces) == PIECES_READ_MAX or raw[at] != _PIECES:
            return None
        size, at = _read_varint(raw, at + 1)
        piece_end = at + size
        if not at < piece_end <= end or raw[at] != _DATA:
            return None
        size, at = _read_varint(raw, at + 1)
        data_end = at + size
        if not size or data_end > piece_end:
            return None
        piece = _read_tail(view[at:data_end], raw[data_end:piece_end])
        if piece is None:
            return None
        pieces.append(piece)
        at = piece_end
    return pieces


def _read_tail(data: memoryview, tail: bytes) -> Piece | None:
    """Return a piece by what follows its data; None for what `ChunkPacker` does not write."""
    if not tail:
        return Piece(data, False)
    if tail == _IS_CUT:
        return Piece(data, True)
    at = len(_IS_ZSTD)
    if not tail.startswith(_IS_ZSTD) or len(tail) < at + 2 or tail[at] != _SIZE:
        return None
    size, end = _read_varint(tail, at + 1)
    # A length that is too long says so by not fitting; here it would pass for a small number.
    if end != len(tail) or tail[-1] & 0x80 or not size:
        return None
    return Piece(data, False, pb.ENCODING_ZSTD, size)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """Return a length and where it ends; one that is not below 2^28 is told as longer than all."""
    value = 0
    for shift in range(0, 28, 7):
        if at >= len(raw):
            break
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    return len(raw) + 1, at


class ChunkUnpacker:
    """Assembles chunks from frames."""

    def __init__(self) -> None:
        self._partial = bytearray()

    @property
    def is_partial(self) -> bool:
        """Tell whether a chunk has begun and not ended: a stream must not end here."""
        return bool(self._partial)

    def add(self, frame: Frame) -> list[ChunkBody]:
        """Return the chunks that this frame completes; raise Invalid for a broken frame (C2-C4).

        After Invalid the unpacker is of no more use.
        """
        chunks: list[ChunkBody] = []
        for piece in frame.pieces:
            if not piece.data:
                raise Invalid("a piece of a chunk is empty", field="chunks", reason="empty")
            if len(self._partial) + len(piece.data) > CHUNK_BYTES_MAX:
                raise Invalid(
                    f"a chunk has at most {CHUNK_BYTES_MAX} bytes", field="chunks", reason="size"
                )
            if piece.is_cut:
                if piece.encoding or piece.size:
                    raise Invalid(
                        "the last piece of a chunk says its encoding",
                        field="chunks",
                        reason="encoding",
                    )
                self._partial += piece.data
            elif self._partial:
                self._partial += piece.data
                chunks.append(_body(bytes(self._partial), piece))
                self._partial.clear()
            else:
                chunks.append(_body(bytes(piece.data), piece))
        return chunks


def _body(data: bytes, last: Piece) -> ChunkBody:
    """Return a whole chunk by what its last piece says of it."""
    if last.encoding == pb.ENCODING_ZSTD:
        try:
            return Compressed(data, last.size)
        except Corrupt as error:
            raise Invalid(error.message, field="chunks", reason="size") from error
    if last.encoding != pb.ENCODING_UNSPECIFIED or last.size:
        raise Invalid(
            "a chunk has an encoding that nobody asked for", field="chunks", reason="encoding"
        )
    return data
