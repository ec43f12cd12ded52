"""The chunk store in memory, for tests and the simulator: honest about what was not synced.

Packs are byte images in the format of the disk, so locations, damage and torn tails are the same.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from syncline.adapters.pack_format import (
    FILE_HEADER_BYTES,
    PACK_BYTES_MAX,
    ReadAt,
    Verified,
    corrupt,
    encode_file_header,
    encode_record_header,
    pack_name,
    read_chunk,
    scan_records,
)
from syncline.core.bodies import ChunkBody, held_bytes
from syncline.core.identity import Digest
from syncline.errors import Corrupt, LocalFailure, NoSpace
from syncline.ports.chunks import Location, Record


@dataclass(slots=True)
class _Image:
    """A pack: its bytes now, how many of them a power cut keeps, and the records behind those."""

    content: bytearray
    durable_bytes: int = 0
    unsynced: list[Location] = field(default_factory=list)


class MemoryChunkStore:
    """A `ChunkStore` that forgets on `crash` what was not synced. `syncs` counts good syncs.

    `capacity_bytes` is the size of the disk, None for no limit; it may be changed at any time.
    """

    def __init__(
        self, *, pack_bytes_max: int = PACK_BYTES_MAX, capacity_bytes: int | None = None
    ) -> None:
        self.capacity_bytes = capacity_bytes
        self.syncs = 0
        self._pack_bytes_max = pack_bytes_max
        self._images: dict[int, _Image] = {}
        self._open: int | None = None
        self._clean: int | None = None
        self._lost_from: dict[int, int] = {}
        self._failing_syncs = 0
        self._lock = threading.Lock()

    def append(self, chunks: Sequence[tuple[Digest, ChunkBody]]) -> list[Location]:
        """Add chunks, all to one pack; raise NoSpace when they do not fit (none is added)."""
        if not chunks:
            return []
        with self._lock:
            number = self._writable()
            image = self._images[number]
            locations: list[Location] = []
            added = bytearray()
            for digest, body in chunks:
                offset = len(image.content) + len(added)
                header = encode_record_header(number, offset, digest, body)
                payload = held_bytes(body)
                added += header
                added += payload
                locations.append(Location(number, offset, len(header) + len(payload)))
            self._check_room(len(added))
            image.content += added
            image.unsynced += locations
            if len(image.content) >= self._pack_bytes_max:
                self._open = None
            return locations

    def sync(self, locations: Sequence[Location] = ()) -> None:
        """Make all durable; raise LocalFailure after `fail_next_sync` or for lost `locations`."""
        with self._lock:
            dirty = {n: image for n, image in self._images.items() if image.unsynced}
            if dirty and self._failing_syncs:
                self._failing_syncs -= 1
                for number, image in dirty.items():
                    self._lose(number, image)
                raise LocalFailure("could not sync the chunks: told to fail", reason="told")
            for image in dirty.values():
                image.durable_bytes = len(image.content)
                image.unsynced.clear()
            self.syncs += bool(dirty)
            if any(self._is_lost(location) for location in locations):
                raise LocalFailure("could not sync the chunks: they were lost", reason="lost")

    def read(self, digest: Digest, location: Location) -> bytes:
        """Return a chunk; raise Corrupt for wrong, lost or missing bytes."""
        return self._read(digest, location).plain

    def read_body(self, digest: Digest, location: Location) -> ChunkBody:
        """Return a chunk as it lies there, checked; raise what `read` raises."""
        return self._read(digest, location).body

    def _read(self, digest: Digest, location: Location) -> Verified:
        with self._lock:
            if self._is_lost(location):
                raise corrupt(digest, location, "it was lost when a sync failed")
            if location.pack not in self._images:
                raise corrupt(digest, location, "the pack is missing")
            return read_chunk(self._read_at(location.pack), digest, location)

    def packs(self) -> Sequence[int]:
        """Return the numbers of all packs, oldest first."""
        with self._lock:
            return sorted(self._images)

    def scan(self, pack: int, offset: int) -> Iterator[Record]:
        """Yield the records of a pack from `offset`; raise Corrupt for a missing pack."""
        with self._lock:
            end = len(self._image(pack).content)
        yield from scan_records(self._read_at(pack), pack, offset, end)

    def cut_tail(self, pack: int, end: int) -> int:
        """Cut a pack behind `end`, make the rest durable; the newest pack goes on there."""
        with self._lock:
            assert self._open != pack, "the pack takes records"
            image = self._image(pack)
            self._clean = None
            size = len(image.content)
            wanted = max(end, FILE_HEADER_BYTES)
            kept = min(size, wanted) if size >= FILE_HEADER_BYTES else 0
            del image.content[kept:]
            image.durable_bytes = kept
            image.unsynced.clear()
            is_sound = kept == wanted and pack not in self._lost_from
            if is_sound and pack == max(self._images) and kept < self._pack_bytes_max:
                self._clean = pack
            return size - kept

    def close(self) -> None:
        """Do nothing: what was not synced is lost by a crash, not by closing."""

    def unsynced(self) -> list[Location]:
        """Return the records that a power cut may take, in the order they were appended."""
        with self._lock:
            return [at for number in sorted(self._images) for at in self._images[number].unsynced]

    def crash(self, kept: Mapping[Location, int] | None = None) -> None:
        """Cut the power and start again: of each record not synced only `kept` bytes are left.

        What was not kept before something that was reads as zeros; a pack of which nothing was
        durable or kept is gone. The store then goes on like one newly opened.
        """
        with self._lock:
            for number, image in list(self._images.items()):
                end = image.durable_bytes
                for location in image.unsynced:
                    size = (kept or {}).get(location, 0)
                    assert 0 <= size <= location.size, "no more than the record can be kept"
                    start = location.offset + size
                    image.content[start : location.offset + location.size] = bytes(
                        location.size - size
                    )
                    end = start if size else end
                del image.content[end:]
                image.durable_bytes = end
                image.unsynced.clear()
                if not end:
                    del self._images[number]
            self._open = self._clean = None
            self._lost_from.clear()

    def flip(self, pack: int, offset: int, mask: int = 1) -> None:
        """Damage a byte of a pack: turn over the bits in `mask`."""
        with self._lock:
            self._image(pack).content[offset] ^= mask

    def fail_next_sync(self) -> None:
        """Let the next sync that has something to do fail."""
        with self._lock:
            self._failing_syncs += 1

    def _writable(self) -> int:
        if self._open is None:
            self._open, self._clean = self._clean, None
        if self._open is None:
            self._check_room(FILE_HEADER_BYTES)
            number = max(self._images, default=0) + 1
            self._images[number] = _Image(bytearray(encode_file_header()))
            self._open = number
        return self._open

    def _check_room(self, size: int) -> None:
        used = sum(len(image.content) for image in self._images.values())
        if self.capacity_bytes is not None and used + size > self.capacity_bytes:
            raise NoSpace("could not append the chunks: no space", where="server")

    def _lose(self, number: int, image: _Image) -> None:
        end = max(image.durable_bytes, FILE_HEADER_BYTES)
        del image.content[end:]
        image.unsynced.clear()
        self._lost_from[number] = end
        if self._open == number:
            self._open = None

    def _is_lost(self, location: Location) -> bool:
        lost_from = self._lost_from.get(location.pack)
        return lost_from is not None and location.offset >= lost_from

    def _image(self, pack: int) -> _Image:
        if pack not in self._images:
            raise Corrupt(f"pack {pack_name(pack)} is missing", pack=str(pack))
        return self._images[pack]

    def _read_at(self, pack: int) -> ReadAt:
        content = self._images[pack].content

        def read_at(offset: int, size: int) -> bytes:
            return bytes(content[offset : offset + size])

        return read_at
