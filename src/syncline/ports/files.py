"""The files of a mount: one directory tree, walked by descriptors and never through a link (G9).

Contract, for every adapter:

- Calls block. A directory or a file may be used from several threads, but is closed by one.
- Every error is an `OSError` with the errno of Linux: ENOENT for what is not there, ELOOP or
  ENOTDIR where a link or a file stands for a directory, EEXIST, ENOTEMPTY, EACCES, EPERM, ENOSPC,
  EDQUOT, EROFS, EXDEV, EIO, EMFILE, ESTALE.
- A directory handle speaks of the directory itself, wherever it is moved to, and of no other one
  that takes its path.
- A name is one component, of bytes. No call follows a symbolic link; none opens a FIFO, a socket or
  a device, or waits for one.
- What is written is durable after `File.sync` (its bytes) and `Directory.sync` of the directory
  that names it; `Directory.sync_all` does both for the whole file system. A crash before may keep
  any part of it: names without bytes too.
- A file system may have no exchange in one step, and no move that refuses a taken name. There both
  are done in steps. A crash in a move may leave the thing under both names. A crash in an exchange
  may leave the second thing under a name that begins with `EXCHANGE_PREFIX`, in the directory of
  the first name, and nowhere else: then nothing is at the second name, or the first thing is. So
  does a user who takes the second name meanwhile; the exchange then fails with EEXIST.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from syncline.core.safety import RootSeen

EXCHANGE_PREFIX = b".syncline-exchange-"
"""How the name begins under which an exchange in steps keeps a thing for a moment."""


class FileKind(Enum):
    """What lies at a name."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"
    """FIFO, socket or device: never synced, never opened."""


@dataclass(frozen=True, slots=True)
class Status:
    """What `lstat` says; times in ns, `mode` the permission bits with set-uid, set-gid, sticky."""

    kind: FileKind
    device: int
    inode: int
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    links: int = field(default=1, compare=False)
    """How many names lead to it; no part of what it is."""


class Writers(Enum):
    """Whether somebody has a file open for writing."""

    NONE = "none"
    """Nobody, and whoever opens it from now on ends the hold."""
    SOME = "some"
    UNKNOWN = "unknown"
    """This file system, or the owner of the file, does not let us ask."""


class File(Protocol):
    """An open regular file."""

    def status(self) -> Status:
        """Return what `fstat` says."""

    def born_ns(self) -> int:
        """Return the birth time; 0 where the file system keeps none."""

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end."""

    def write(self, content: bytes, offset: int) -> None:
        """Write all of it."""

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow by a hole."""

    def set_mode(self, mode: int) -> None: ...

    def set_mtime(self, mtime_ns: int) -> None: ...

    def sync(self) -> None:
        """Make the bytes durable; after an error they count as lost."""

    def hold(self) -> Writers:
        """Ask for a read lease. With NONE the lease is held until `release` or a writer's open.

        A writer's open waits, for a short time, until the holder lets go: hold for moments only.
        """

    def is_held(self) -> bool:
        """Tell whether the lease lasts: no writer came since `hold`."""

    def release(self) -> None:
        """Let go of the lease; without one nothing happens."""

    def forget_cached(self) -> None:
        """Let the next reading come from the disk, where the system does that; nothing changes."""

    def close(self) -> None:
        """Close; a second call does nothing."""


class Directory(Protocol):
    """An open directory."""

    def status(self) -> Status:
        """Return what `fstat` says; works for a directory that was removed, too."""

    def list(self) -> Sequence[tuple[bytes, Status]]:
        """Return what is in it, in no order; what vanishes meanwhile is left out."""

    def look(self, name: bytes) -> Status | None:
        """Return what `lstat` says; None where nothing is."""

    def born_ns(self, name: bytes) -> int:
        """Return the birth time of what lies there; 0 where the file system keeps none."""

    def enter(self, name: bytes) -> Directory:
        """Open a directory in it."""

    def open(self, name: bytes) -> File:
        """Open a regular file to be read (and held); its times do not move by that."""

    def open_to_write(self, name: bytes) -> File:
        """Open a regular file of our own to be read and written."""

    def create(self, name: bytes) -> File:
        """Make a file for its owner alone (0600) and open it to be read and written."""

    def read_link(self, name: bytes) -> bytes:
        """Return the target of a symbolic link."""

    def make_directory(self, name: bytes, mode: int) -> None:
        """Make a directory with exactly this mode, whatever the umask."""

    def make_link(self, name: bytes, target: bytes) -> None:
        """Make a symbolic link."""

    def link(self, name: bytes, to: Directory, to_name: bytes) -> None:
        """Give a file (or a link) a second name; raise EEXIST."""

    def move(
        self, name: bytes, to: Directory, to_name: bytes, *, keeps_writers: bool = False
    ) -> None:
        """Rename without replacing anything; raise EEXIST.

        `keeps_writers`: what is written through a descriptor from before is told by the watches of
        `to`. Only for names that nobody else takes: without a move in one step, what takes the
        name in that instant is replaced.
        """

    def exchange(self, name: bytes, to: Directory, to_name: bytes) -> None:
        """Let two things change names, in one step where that can be; raise ENOENT, EEXIST."""

    def remove(self, name: bytes) -> None:
        """Remove a name that is no directory's."""

    def remove_directory(self, name: bytes) -> None:
        """Remove an empty directory; raise ENOTEMPTY."""

    def set_mode(self, name: bytes, mode: int) -> None:
        """Set the mode of a file or directory; raise ELOOP for a link."""

    def set_mtime(self, name: bytes, mtime_ns: int) -> None:
        """Set the mtime of what lies there, of a link itself too."""

    def sync(self) -> None:
        """Make the names in it durable."""

    def sync_all(self) -> None:
        """Make everything on its file system durable."""

    def close(self) -> None:
        """Close; a second call does nothing."""


class Files(Protocol):
    """The tree below one path."""

    def open_root(self) -> Directory:
        """Open the root of the mount; the path itself is followed as the user wrote it."""

    def look_root(self) -> RootSeen | None:
        """Return what stands at the path now; None where nothing is.

        Reads the marker `.syncline/marker`, and looks whether anything else is in it.
        """

    def claim(self) -> None:
        """Take the mount for this process; raise `InUse` where another one has it.

        Makes `.syncline/lock` if need be. It ends with the process, however that ends.
        """

    def close(self) -> None:
        """Let go of the claim."""
