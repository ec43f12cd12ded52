"""The data directory of a server: its layout, its lock, the stores in it.

D1  One process at a time: the lock is held from before anything is opened until all is closed.
D2  Everything in it can be read by its owner alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from syncline.adapters.packs import PackStore
from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.core.identity import VolumeId
from syncline.core.names import escape
from syncline.errors import InUse, LocalFailure, NoSpace, NotFound
from syncline.ports.chunks import ChunkStore

LOCK_NAME = "lock"
METADATA_NAME = "metadata.sqlite3"
VOLUMES_NAME = "volumes"


@dataclass(frozen=True, slots=True)
class Stores:
    """What is in a data directory; `chunks` opens the store of one volume."""

    data: Path
    metadata: SqliteMetadataStore
    _open: ExitStack

    def chunks(self, volume: VolumeId) -> ChunkStore:
        """Open the chunk store of a volume; it is closed with the directory."""
        store = PackStore(self.data / VOLUMES_NAME / volume.hex() / "packs")
        self._open.callback(store.close)
        return store


@contextmanager
def open_data(data: Path, *, may_create: bool) -> Iterator[Stores]:
    """Hold a data directory and its stores for the length of the block.

    Raises InUse when another process has it, NotFound when there is none and `may_create` is false,
    and what the stores raise: TooNew, Corrupt, NoSpace.
    """
    shown = escape(os.fsencode(data))
    if not may_create and not (data / METADATA_NAME).exists():
        raise NotFound(
            f"'{shown}' is no data directory of a server: it has no {METADATA_NAME}", path=shown
        )
    with ExitStack() as stack:
        try:
            _make_durable(data)
            stack.enter_context(_locked(data / LOCK_NAME, shown))
            (data / VOLUMES_NAME).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise _failure(error, shown) from error
        metadata = SqliteMetadataStore(data / METADATA_NAME)
        stack.callback(metadata.close)
        yield Stores(data, metadata, stack.enter_context(ExitStack()))


def _make_durable(directory: Path) -> None:
    """Make a directory and those above it that are missing, so that power loss keeps them."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True, mode=0o700)
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _failure(error: OSError, shown: str) -> NoSpace | LocalFailure:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"the disk of '{shown}' is full", where="server", path=shown)
    return LocalFailure(
        f"the data directory '{shown}' cannot be used: {error.strerror}", path=shown
    )


@contextmanager
def _locked(path: Path, shown: str) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it when the process ends, however it ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            raise InUse(
                f"another server (process {escape(holder.encode())}) uses the data in '{shown}'",
                path=shown,
                pid=holder,
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
