"""What the pack store asks of the operating system: a few calls, open packs, errors by name."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from syncline.adapters.pack_format import FILE_HEADER_BYTES, pack_name, read_version
from syncline.errors import Corrupt, LocalFailure, NoSpace, SynclineError

_READERS_MAX = 32
"""Open packs for reading: 8 GiB of content within reach, far below any limit on descriptors."""


class PackFiles:
    """The system calls whose failure the store must survive; a subclass may make one fail."""

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        """Write buffers one behind the other at `offset`; return how many bytes were taken."""
        return os.pwritev(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        """Return up to `size` bytes at `offset`."""
        return os.pread(fd, size, offset)

    def sync(self, fd: int) -> None:
        """Make the bytes and the length of a pack durable."""
        os.fdatasync(fd)

    def sync_directory(self, fd: int) -> None:
        """Make the names in a directory durable."""
        os.fsync(fd)

    def truncate(self, fd: int, size: int) -> None:
        """Cut a pack to `size` bytes."""
        os.ftruncate(fd, size)


class PackReader:
    """A descriptor that lives as long as someone reads through it, in the cache or out of it.

    So a pack that falls out of the cache is never closed under a thread in the middle of a read.
    """

    __slots__ = ("_fd", "_files", "_pack")

    def __init__(self, path: Path, pack: int, files: PackFiles) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        self._pack = pack
        self._files = files

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return the bytes at `offset`, fewer at the end; raise LocalFailure."""
        try:
            return self._files.read(self._fd, size, offset)
        except OSError as error:
            raise refusal(error, f"read {pack_name(self._pack)} at offset {offset}") from error

    def size(self) -> int:
        """Return how many bytes the pack has now."""
        return os.fstat(self._fd).st_size


class PackReaders:
    """The packs read last, kept open; may be used from several threads."""

    def __init__(self, directory: Path, files: PackFiles) -> None:
        self._directory = directory
        self._files = files
        self._open: OrderedDict[int, PackReader] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, pack: int) -> PackReader:
        """Return a reader of a pack.

        Raise Corrupt where the pack is missing, TooNew for one of a newer version, LocalFailure.
        """
        with self._lock:
            reader = self._open.get(pack)
            if reader is not None:
                self._open.move_to_end(pack)
                return reader
        try:
            reader = PackReader(self._directory / pack_name(pack), pack, self._files)
        except FileNotFoundError as error:
            raise missing_pack(pack) from error
        except OSError as error:
            raise refusal(error, f"open {pack_name(pack)}") from error
        read_version(reader.read_at(0, FILE_HEADER_BYTES), pack)
        with self._lock:
            self._open[pack] = reader
            if len(self._open) > _READERS_MAX:
                self._open.popitem(last=False)
        return reader

    def close(self) -> None:
        """Let go of all packs that nobody reads."""
        with self._lock:
            self._open.clear()


def missing_pack(pack: int) -> Corrupt:
    """Return the error for a pack whose file is gone."""
    return Corrupt(f"pack {pack_name(pack)} is missing", pack=str(pack))


def refusal(error: OSError, doing: str) -> SynclineError:
    """Return our error for one of the operating system; a full disk is the server's."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"could not {doing}: {reason}", where="server")
    return LocalFailure(f"could not {doing}: {reason}", reason=reason)
