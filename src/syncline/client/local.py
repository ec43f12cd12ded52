"""The local file system, by directory descriptors: nothing here follows a link it was not given.

A local thing is named by a base, which is a path as the user wrote it and is followed as he wrote
it, and by names below that base, which are never followed (G9).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Sequence
from types import TracebackType

from syncline.core.names import escape
from syncline.errors import Exists, LocalFailure, NoSpace, SynclineError

_libc = ctypes.CDLL(None, use_errno=True)

_RENAME_NOREPLACE = 1
"""From linux/fs.h."""

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""O_NONBLOCK: a FIFO that took a file's place must not hold the reader for ever."""

SYNCS_MAX = 8
"""Up to so many files or directories are synced one by one; more, by one sync of the file system,
which may have to write what others left dirty."""

STAGED_PREFIX = b".syncline-"
STAGED_SUFFIX = b".part"
_STAGED = re.compile(rb"\.syncline-[0-9a-f]{16}-[0-9a-f]{16}\.part")


def is_staged(name: bytes) -> bool:
    """Tell whether a name is that of a staged file: an unfinished fetch, and nobody's content."""
    return _STAGED.fullmatch(name) is not None


def is_local_directory(path: bytes, *, is_followed: bool = True) -> bool:
    """Tell whether a path, as the user wrote it, is or (followed) leads to a directory."""
    try:
        return stat.S_ISDIR(os.stat(path, follow_symlinks=is_followed).st_mode)
    except OSError:
        return False


def split_local(local: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the base of a user's path and the names below it: its last name, or none.

    There is none for what ends in a slash, `.` or `..`: there the user asked for the directory
    itself, by way of a link if need be.
    """
    directory, slash, name = local.rpartition(b"/")
    if name in (b"", b".", b".."):
        return local, ()
    return directory + slash or b".", (name,)


def join_local(base: bytes, parts: Sequence[bytes]) -> bytes:
    """Return a local path for people and for outcomes."""
    if not parts:
        return base
    below = b"/".join(parts)
    if base == b".":
        return below
    return base + below if base.endswith(b"/") else base + b"/" + below


def local_error(error: OSError, local: bytes) -> SynclineError:
    """Return what an OSError about a local path means to the user."""
    shown = escape(local)
    reason = os.strerror(error.errno) if error.errno else str(error)
    fields = {"local": shown, "errno": errno.errorcode.get(error.errno or 0, "?")}
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            text = f"no space left on the local disk for '{shown}'"
            return NoSpace(text, where="local", **fields)
        case errno.EEXIST:
            return Exists(f"'{shown}' exists already", **fields)
        case errno.ELOOP:
            return LocalFailure(f"'{shown}' is, or lies behind, a symbolic link", **fields)
        case _:
            return LocalFailure(f"'{shown}': {reason}", **fields)


class Directories:
    """Opens directories below a base; keeps the last one open, because files come by directory.

    For one thread; a context manager.
    """

    def __init__(self) -> None:
        self._key: tuple[bytes, tuple[bytes, ...]] | None = None
        self._fd = -1

    def __enter__(self) -> Directories:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, base: bytes, parts: tuple[bytes, ...]) -> int:
        """Return a descriptor that stays good until the next call; raise OSError."""
        if self._key != (base, parts):
            fd = open_directory(base, parts)
            self.close()
            self._key, self._fd = (base, parts), fd
        return self._fd

    def close(self) -> None:
        """Let go of the directory."""
        if self._key is not None:
            os.close(self._fd)
            self._key = None


def open_directory(base: bytes, parts: Sequence[bytes]) -> int:
    """Open a directory name by name below `base`, none of the names by a link; raise OSError."""
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in parts:
        above = fd
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return fd


def rename(directory: int, source: bytes, target: bytes, *, may_replace: bool) -> None:
    """Give a file of a directory another name in it; raise OSError, EEXIST where it is taken."""
    if may_replace:
        os.rename(source, target, src_dir_fd=directory, dst_dir_fd=directory)
        return
    failed = _libc.renameat2(directory, source, directory, target, _RENAME_NOREPLACE)
    number = ctypes.get_errno() if failed else 0
    if number in (errno.ENOSYS, errno.EINVAL):
        # No such call or flag on this file system: a hard link refuses a taken name as well.
        os.link(source, target, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        os.unlink(source, dir_fd=directory)
    elif number:
        raise OSError(number, os.strerror(number))


def sync_file_system(fd: int) -> None:
    """Make all of the file system that `fd` is on durable; raise OSError."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
