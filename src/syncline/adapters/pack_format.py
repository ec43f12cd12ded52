"""The bytes of a pack, and how to look through a damaged one. No I/O: bytes come in by `ReadAt`.

Model: a pack is a file header, then records without gaps. A record is a header of fixed size and
the payload, one chunk. `docs/FORMAT.md`, section "Packs", has the layout.

P1  A record's header carries a CRC over its own fields, the pack's number and its offset: bytes
    that stand anywhere else are no record, be it a misdirected write or a user's file that is a
    copy of a pack.
P2  A chunk counts as found only where its payload, decompressed if it is compressed, has the digest
    in its header.
P3  Looking through a pack holds one payload or one search window in memory, never the pack.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from syncline.core.bodies import ChunkBody, Compressed, held_bytes, plain_bytes, plain_size
from syncline.core.identity import DIGEST_BYTES, Digest, digest_of
from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.errors import Corrupt, TooNew
from syncline.ports.chunks import Location, Record

FORMAT_OLDEST_READ = 1
FORMAT_NEWEST_READ = 2
FORMAT_WRITTEN = 2
"""Format 1 had no compressed records; a program that knows it alone refuses packs that may."""

PACK_BYTES_MAX = 256 * 1024 * 1024
"""A pack that reached this gets no more records; one batch may carry it past."""

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024
"""Four times the largest chunk of today: bounds what a damaged index makes a reader allocate."""

_PACK_MAGIC = b"SLNEPACK"
_RECORD_MAGIC = b"\xf5SLr"
_FLAGS_RAW = 0
_FLAGS_ZSTD = 1

_FILE = struct.Struct(">8sI")
_FIELDS = struct.Struct(f">4sBII{DIGEST_BYTES}s")
_PLACE = struct.Struct(">QQ")
_CRC = struct.Struct(">I")

FILE_HEADER_BYTES = _FILE.size + _CRC.size
RECORD_HEADER_BYTES = _FIELDS.size + _CRC.size

_SEARCH_BYTES = 1024 * 1024

ReadAt = Callable[[int, int], bytes]
"""Returns the bytes at `(offset, size)`; fewer only at the end of the pack."""


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What a record says of its payload; `flags` may be of a newer version."""

    flags: int
    stored_bytes: int
    raw_bytes: int
    digest: Digest


def pack_name(number: int) -> str:
    """Return the file name of a pack."""
    return f"{number:08d}.pack"


def encode_file_header() -> bytes:
    """Return the first bytes of a new pack."""
    fields = _FILE.pack(_PACK_MAGIC, FORMAT_WRITTEN)
    return fields + _CRC.pack(zlib.crc32(fields))


def read_version(raw: bytes, pack: int) -> int | None:
    """Return the format version in a file header, None where the header is damaged or torn.

    Raise TooNew for a version that this program cannot read.
    """
    if len(raw) < FILE_HEADER_BYTES:
        return None
    fields = raw[: _FILE.size]
    magic, version = _FILE.unpack(fields)
    (crc,) = _CRC.unpack_from(raw, _FILE.size)
    if magic != _PACK_MAGIC or crc != zlib.crc32(fields) or version < FORMAT_OLDEST_READ:
        return None
    if version > FORMAT_NEWEST_READ:
        raise TooNew(
            f"pack {pack_name(pack)} has format {version}; this program reads up to "
            f"{FORMAT_NEWEST_READ}",
            pack=str(pack),
            found=str(version),
            newest=str(FORMAT_NEWEST_READ),
        )
    return int(version)


def encode_record_header(pack: int, offset: int, digest: Digest, body: ChunkBody) -> bytes:
    """Return the header of the record at `offset` of the pack whose payload is `body`."""
    size = plain_size(body)
    assert size <= PAYLOAD_BYTES_MAX, f"a chunk of {size} bytes is over the limit of the format"
    flags = _FLAGS_ZSTD if isinstance(body, Compressed) else _FLAGS_RAW
    fields = _FIELDS.pack(_RECORD_MAGIC, flags, len(held_bytes(body)), size, digest)
    return fields + _CRC.pack(_header_crc(fields, pack, offset))


def _header_crc(fields: bytes, pack: int, offset: int) -> int:
    return zlib.crc32(fields, zlib.crc32(_PLACE.pack(pack, offset)))


def parse_record_header(raw: bytes, pack: int, offset: int) -> RecordHeader | None:
    """Return the header that starts `raw`, None where no record can start there (P1)."""
    if len(raw) < RECORD_HEADER_BYTES or not raw.startswith(_RECORD_MAGIC):
        return None
    fields = raw[: _FIELDS.size]
    (crc,) = _CRC.unpack_from(raw, _FIELDS.size)
    if crc != _header_crc(fields, pack, offset):
        return None
    _, flags, stored, size, digest = _FIELDS.unpack(fields)
    if flags == _FLAGS_RAW and (stored != size or size > PAYLOAD_BYTES_MAX):
        return None
    if flags == _FLAGS_ZSTD and not 0 < stored < size <= CHUNK_BYTES_MAX:
        return None
    return RecordHeader(flags, stored, size, Digest(digest))


def corrupt(digest: Digest, location: Location, reason: str) -> Corrupt:
    """Return the error that names a chunk, where it should be, and what is wrong there."""
    return Corrupt(
        f"chunk {digest.hex()} in pack {pack_name(location.pack)} at offset "
        f"{location.offset}: {reason}",
        digest=digest.hex(),
        pack=str(location.pack),
        offset=str(location.offset),
    )


@dataclass(frozen=True, slots=True)
class Verified:
    """A chunk that has its digest: as it lies in the pack, and plain."""

    body: ChunkBody
    plain: bytes


def read_chunk(read_at: ReadAt, digest: Digest, location: Location) -> Verified:
    """Return the chunk at a location; raise Corrupt for anything else than its bytes (P2).

    Raise TooNew for a record of a newer version.
    """
    size = location.size - RECORD_HEADER_BYTES
    if location.offset < FILE_HEADER_BYTES or not 0 <= size <= PAYLOAD_BYTES_MAX:
        raise corrupt(digest, location, f"no record can have {location.size} bytes there")
    raw = read_at(location.offset, RECORD_HEADER_BYTES)
    if len(raw) < RECORD_HEADER_BYTES:
        raise corrupt(digest, location, "the pack ends before the record")
    header = parse_record_header(raw, location.pack, location.offset)
    if header is None:
        raise corrupt(digest, location, "the record's header is damaged")
    _check_flags(header, location.pack, location.offset)
    if header.digest != digest:
        raise corrupt(digest, location, f"chunk {header.digest.hex()} is there")
    if header.stored_bytes != size:
        raise corrupt(digest, location, f"the record has {header.stored_bytes} bytes, not {size}")
    # A read of its own, so that the payload is not copied out of a larger buffer.
    payload = read_at(location.offset + RECORD_HEADER_BYTES, size)
    if len(payload) < size:
        raise corrupt(digest, location, "the pack ends inside the record")
    found = _verify(header, payload)
    if found is None:
        raise corrupt(digest, location, "the bytes do not match the digest")
    return found


def _verify(header: RecordHeader, payload: bytes) -> Verified | None:
    """Return what a payload is; None where it is not what its header says (P2)."""
    body: ChunkBody = payload
    try:
        if header.flags == _FLAGS_ZSTD:
            body = Compressed(payload, header.raw_bytes)
        plain = plain_bytes(body)
    except Corrupt:
        return None
    return Verified(body, plain) if digest_of(plain) == header.digest else None


def _check_flags(header: RecordHeader, pack: int, offset: int) -> None:
    if header.flags not in (_FLAGS_RAW, _FLAGS_ZSTD):
        raise TooNew(
            f"pack {pack_name(pack)} has a record of an unknown kind {header.flags} at offset "
            f"{offset}",
            pack=str(pack),
            offset=str(offset),
            found=str(header.flags),
        )


def scan_records(read_at: ReadAt, pack: int, start: int, end: int) -> Iterator[Record]:
    """Yield the records between `start` and `end`, damaged ones with `digest` None.

    A `start` inside the file header means the first record. Where no record starts, everything up
    to the next good one is one damaged record; with none behind it, it is a torn tail and the end.
    Raise TooNew for a pack or a record of a newer version.
    """
    version = read_version(read_at(0, FILE_HEADER_BYTES), pack)
    offset = start
    if start < FILE_HEADER_BYTES:
        # A damaged file header is a gap before the first record: found and named like any other.
        offset = 0 if version is None else FILE_HEADER_BYTES
    while offset < end:
        header = parse_record_header(read_at(offset, RECORD_HEADER_BYTES), pack, offset)
        if header is None:
            following = _find_record(read_at, pack, offset + 1, end)
            if following is None:
                return
            yield Record(Location(pack, offset, following - offset), None)
            offset = following
            continue
        _check_flags(header, pack, offset)
        size = RECORD_HEADER_BYTES + header.stored_bytes
        if offset + size > end:
            return
        is_good = _has_payload(read_at, offset, header)
        yield Record(Location(pack, offset, size), header.digest if is_good else None)
        offset += size


def _has_payload(read_at: ReadAt, offset: int, header: RecordHeader) -> bool:
    payload = read_at(offset + RECORD_HEADER_BYTES, header.stored_bytes)
    return _verify(header, payload) is not None


def _find_record(read_at: ReadAt, pack: int, start: int, end: int) -> int | None:
    offset = start
    while offset + RECORD_HEADER_BYTES <= end:
        window = read_at(offset, min(_SEARCH_BYTES, end - offset))
        # Headers that start in the last bytes are seen whole in the next window.
        step = len(window) - RECORD_HEADER_BYTES + 1
        at = window.find(_RECORD_MAGIC)
        while 0 <= at < step:
            raw = window[at : at + RECORD_HEADER_BYTES]
            header = parse_record_header(raw, pack, offset + at)
            if header is not None and _is_whole(read_at, offset + at, header, end):
                return offset + at
            at = window.find(_RECORD_MAGIC, at + 1)
        if step <= 0:
            return None
        offset += step
    return None


def _is_whole(read_at: ReadAt, offset: int, header: RecordHeader, end: int) -> bool:
    return (
        header.flags in (_FLAGS_RAW, _FLAGS_ZSTD)
        and offset + RECORD_HEADER_BYTES + header.stored_bytes <= end
        and _has_payload(read_at, offset, header)
    )
