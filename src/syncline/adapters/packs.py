"""The chunk store on disk: one directory of append-only packs for one volume.

S1  Only the newest pack takes records, and it alone may hold bytes that are not durable: it is
    synced before the next one is made.
S2  No record is written behind bytes that are not a whole record: a failed append is taken back, or
    the pack takes no more.
S3  After a failed sync what was not durable is cut off and refused, and its pack takes no more: the
    kernel may have dropped those bytes and still show them.
S4  A pack's number is never used for another file while the store is open.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from syncline.adapters.pack_files import PackFiles, PackReaders, missing_pack, refusal
from syncline.adapters.pack_format import (
    FILE_HEADER_BYTES,
    FORMAT_WRITTEN,
    PACK_BYTES_MAX,
    Verified,
    corrupt,
    encode_file_header,
    encode_record_header,
    pack_name,
    read_chunk,
    read_version,
    scan_records,
)
from syncline.core.bodies import ChunkBody, held_bytes
from syncline.core.identity import Digest
from syncline.errors import Corrupt
from syncline.ports.chunks import Location, Record

_log = logging.getLogger(__name__)

_PACK_NAME = re.compile(r"([0-9]{8,})\.pack", re.ASCII)
_IOV_MAX = os.sysconf("SC_IOV_MAX")


@dataclass(slots=True)
class _Pack:
    """The pack that takes records; what lies between `durable_end` and `end` awaits a sync."""

    number: int
    fd: int
    end: int
    durable_end: int
    is_name_durable: bool
    is_full: bool = False


@dataclass(frozen=True, slots=True)
class _Round:
    """One sync for all who wait: it covers the pack up to `end`, the appends up to `appends`."""

    pack: _Pack
    end: int
    appends: int


@dataclass(frozen=True, slots=True)
class _Loss:
    """A failed sync: the appends past `settled` are gone."""

    settled: int
    error: OSError


class PackStore:
    """A `ChunkStore` in a directory of packs; one process at a time may hold it.

    `syncs` counts the syncs of packs that succeeded, `directory_syncs` those of the directory.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pack_bytes_max: int = PACK_BYTES_MAX,
        files: PackFiles | None = None,
    ) -> None:
        """Open the packs in `directory`, which is made (0700), and so is its parent.

        Raise TooNew when the newest pack was written by a newer version, NoSpace or LocalFailure.
        """
        self.syncs = 0
        self.directory_syncs = 0
        self._directory = directory
        self._pack_bytes_max = pack_bytes_max
        self._files = files or PackFiles()
        self._state = threading.Condition(threading.Lock())
        self._pack: _Pack | None = None
        self._clean_end: tuple[int, int] | None = None
        self._appends = 0
        self._settled = 0
        self._is_syncing = False
        self._is_closed = False
        self._losses: list[_Loss] = []
        self._lost_from: dict[int, int] = {}
        self._readers = PackReaders(directory, self._files)
        self._make_directory()
        numbers = self.packs()
        self._next_number = numbers[-1] + 1 if numbers else 1
        if numbers:
            self._readers.open(numbers[-1])

    def append(self, chunks: Sequence[tuple[Digest, ChunkBody]]) -> list[Location]:
        """Write chunks in one go, all to one pack; return where each one lies.

        Raise NoSpace or LocalFailure: then none of `chunks` is stored. A full pack is synced before
        the next one is made, so a failed sync (see `sync`) may show up here.
        """
        if not chunks:
            return []
        while True:
            with self._state:
                assert not self._is_closed, "the store is closed"
                if self._pack is None:
                    self._pack = self._open_pack()
                pack = self._pack
                if not pack.is_full:
                    return self._write(pack, chunks)
            self.sync()  # S1
            with self._state:
                # Full and durable: no sync of this pack is under way, and none will be.
                if self._pack is pack and pack.durable_end == pack.end:
                    os.close(pack.fd)
                    self._pack = None

    def sync(self, locations: Sequence[Location] = ()) -> None:
        """Make durable all that was appended before the call; callers at one time share a sync.

        Raise NoSpace or LocalFailure when that failed: what was appended since the last good sync
        is lost. A caller whose chunks were lost in the failed sync of *another* caller learns it
        only by naming them in `locations`.
        """
        with self._state:
            appends, losses = self._appends, len(self._losses)
        while (turn := self._take_turn(appends)) is not None:
            self._sync_pack(turn)
        with self._state:
            for loss in self._losses[losses:]:
                if loss.settled < appends:
                    raise refusal(loss.error, "sync the chunks") from loss.error
            if self._losses and any(self._is_lost(location) for location in locations):
                loss = self._losses[-1]
                raise refusal(loss.error, "sync the chunks") from loss.error

    def read(self, digest: Digest, location: Location) -> bytes:
        """Return a chunk; raise Corrupt for wrong, lost or missing bytes, LocalFailure for I/O."""
        return self._read(digest, location).plain

    def read_body(self, digest: Digest, location: Location) -> ChunkBody:
        """Return a chunk as it lies there, checked; raise what `read` raises."""
        return self._read(digest, location).body

    def _read(self, digest: Digest, location: Location) -> Verified:
        if self._is_lost(location):
            raise corrupt(digest, location, "it was lost when a sync failed")
        try:
            reader = self._readers.open(location.pack)
        except Corrupt as error:
            raise corrupt(digest, location, "the pack is missing") from error
        return read_chunk(reader.read_at, digest, location)

    def packs(self) -> Sequence[int]:
        """Return the numbers of all packs, oldest first."""
        try:
            names = os.listdir(self._directory)
        except OSError as error:
            raise refusal(error, f"list {self._directory}") from error
        matches = (_PACK_NAME.fullmatch(name) for name in names)
        return sorted(int(match[1]) for match in matches if match)

    def scan(self, pack: int, offset: int) -> Iterator[Record]:
        """Yield the records of a pack from `offset`, 0 being the first record, in flat memory.

        Raise Corrupt for a missing pack, TooNew for one of a newer version, LocalFailure.
        """
        reader = self._readers.open(pack)
        end = reader.size()
        end = min(end, self._lost_from.get(pack, end))
        yield from scan_records(reader.read_at, pack, offset, end)

    def cut_tail(self, pack: int, end: int) -> int:
        """Cut the pack behind `end`, make the rest durable; return how many bytes were dropped.

        The newest pack goes on at `end` when it has room; without this call it takes no more.
        """
        with self._state:
            assert self._pack is None or self._pack.number != pack, "the pack takes records"
            try:
                fd = os.open(self._path(pack), os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise missing_pack(pack) from error
            except OSError as error:
                raise refusal(error, f"open {pack_name(pack)}") from error
            try:
                return self._cut(fd, pack, end)
            except OSError as error:
                raise refusal(error, f"cut {pack_name(pack)}") from error
            finally:
                os.close(fd)

    def close(self) -> None:
        """Let go of all files, after a sync that is under way; may be called twice."""
        with self._state:
            self._state.wait_for(lambda: not self._is_syncing)
            self._is_closed = True
            if self._pack is not None:
                os.close(self._pack.fd)
                self._pack = None
        self._readers.close()

    def _path(self, number: int) -> Path:
        return self._directory / pack_name(number)

    def _make_directory(self) -> None:
        try:
            for directory in (self._directory.parent, self._directory):
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
                # Each time: the process that made it may have died before its own sync.
                self._sync_names(directory.parent)
        except OSError as error:
            raise refusal(error, f"make {self._directory}") from error

    def _sync_names(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._files.sync_directory(fd)
            self.directory_syncs += 1
        finally:
            os.close(fd)

    def _open_pack(self) -> _Pack:
        try:
            if self._clean_end is not None:
                number, end = self._clean_end
                fd = os.open(self._path(number), os.O_RDWR | os.O_NOFOLLOW)
                self._clean_end = None
                return _Pack(number, fd, end, end, is_name_durable=True)
            return self._create_pack()
        except OSError as error:
            raise refusal(error, f"open a pack in {self._directory}") from error

    def _create_pack(self) -> _Pack:
        number = self._next_number
        self._next_number += 1
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(self._path(number), flags, 0o600)
        try:
            self._write_all(fd, [encode_file_header()], 0)
        except OSError:
            os.close(fd)
            self._path(number).unlink()
            raise
        return _Pack(number, fd, FILE_HEADER_BYTES, FILE_HEADER_BYTES, is_name_durable=False)

    def _write(self, pack: _Pack, chunks: Sequence[tuple[Digest, ChunkBody]]) -> list[Location]:
        locations: list[Location] = []
        buffers: list[bytes | memoryview] = []
        end = pack.end
        for digest, body in chunks:
            header = encode_record_header(pack.number, end, digest, body)
            payload = held_bytes(body)
            buffers += (header, payload)
            size = len(header) + len(payload)
            locations.append(Location(pack.number, end, size))
            end += size
        try:
            self._write_all(pack.fd, buffers, pack.end)
        except OSError as error:
            self._take_back(pack)
            raise refusal(error, f"append to {pack_name(pack.number)}") from error
        pack.end = end
        pack.is_full = end >= self._pack_bytes_max
        self._appends += 1
        return locations

    def _write_all(self, fd: int, buffers: list[bytes | memoryview], offset: int) -> None:
        first = 0
        while first < len(buffers):
            written = self._files.write(fd, buffers[first : first + _IOV_MAX], offset)
            if written <= 0:
                raise OSError(errno.EIO, "the disk took no bytes")
            offset += written
            while first < len(buffers) and written >= len(buffers[first]):
                written -= len(buffers[first])
                first += 1
            if written:
                buffers[first] = memoryview(buffers[first])[written:]

    def _take_back(self, pack: _Pack) -> None:
        try:
            self._files.truncate(pack.fd, pack.end)
        except OSError as error:
            _log.warning(
                "pack_torn_tail pack=%d end=%d error=%s", pack.number, pack.end, error.strerror
            )
            pack.is_full = True  # S2

    def _take_turn(self, appends: int) -> _Round | None:
        """Wait until `appends` is settled (None), or until it is for this thread to sync."""
        with self._state:
            self._state.wait_for(lambda: self._settled >= appends or not self._is_syncing)
            if self._settled >= appends:
                return None
            assert self._pack is not None, "what is not settled lies in the newest pack"
            self._is_syncing = True
            return _Round(self._pack, self._pack.end, self._appends)

    def _sync_pack(self, turn: _Round) -> None:
        # An error is told once a descriptor, so two threads must never sync one pack at a time.
        failure: OSError | None = OSError(errno.EINTR, os.strerror(errno.EINTR))
        try:
            self._files.sync(turn.pack.fd)
            self.syncs += 1
            if not turn.pack.is_name_durable:
                self._sync_names(self._directory)
            failure = None
        except OSError as error:
            failure = error
        finally:
            with self._state:
                self._settle(turn, failure)
                self._is_syncing = False
                self._state.notify_all()

    def _settle(self, turn: _Round, failure: OSError | None) -> None:
        pack = turn.pack
        if failure is None:
            pack.is_name_durable = True
            pack.durable_end = turn.end
            self._settled = turn.appends
            return
        _log.error(
            "pack_sync_failed pack=%d lost_from=%d lost_bytes=%d error=%s",
            pack.number,
            pack.durable_end,
            pack.end - pack.durable_end,
            failure.strerror,
        )
        self._lost_from[pack.number] = pack.durable_end  # S3
        self._losses.append(_Loss(self._settled, failure))
        self._settled = self._appends
        self._pack = None
        try:
            # Otherwise a restarted server would find the bytes in the page cache and believe them.
            self._files.truncate(pack.fd, pack.durable_end)
        except OSError as error:
            _log.error(
                "pack_cut_failed pack=%d end=%d error=%s",
                pack.number,
                pack.durable_end,
                error.strerror,
            )
        os.close(pack.fd)

    def _cut(self, fd: int, pack: int, end: int) -> int:
        self._clean_end = None
        size = os.fstat(fd).st_size
        wanted = max(end, FILE_HEADER_BYTES)
        # Never longer than it is: a cut must not fill a hole with zeros.
        kept = min(size, wanted) if size >= FILE_HEADER_BYTES else 0
        version = read_version(self._files.read(fd, FILE_HEADER_BYTES, 0), pack)
        if kept < size:
            self._files.truncate(fd, kept)
        # What a killed server wrote and did not sync is found again by a scan: from here it counts.
        self._files.sync(fd)
        self._sync_names(self._directory)
        is_sound = kept == wanted and version == FORMAT_WRITTEN and pack not in self._lost_from
        if is_sound and pack == self._next_number - 1 and kept < self._pack_bytes_max:
            self._clean_end = (pack, kept)
        return size - kept

    def _is_lost(self, location: Location) -> bool:
        lost_from = self._lost_from.get(location.pack)
        return lost_from is not None and location.offset >= lost_from
