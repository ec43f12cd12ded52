"""The files of a mount on a POSIX file system: its root, and the claim on it."""

from __future__ import annotations

import fcntl
import os
import stat

from syncline.adapters.posix_handles import (
    OPEN_DIRECTORY,
    OPEN_FILE,
    PosixDirectory,
    refuse_special,
)
from syncline.adapters.posix_renames import Renames
from syncline.core.names import RESERVED_ROOT_NAME, escape
from syncline.core.safety import RootSeen
from syncline.errors import InUse

MARKER_NAME = b"marker"
LOCK_NAME = b"lock"
_MARKER_BYTES_MAX = 4096


class PosixFiles:
    """The tree below one path; `has_rename_flags` False: as on file systems that have none."""

    def __init__(self, path: bytes, *, has_rename_flags: bool = True) -> None:
        self._path = path
        self._renames = Renames(has_rename_flags)
        self._lock_fd = -1

    def open_root(self) -> PosixDirectory:
        """Open the root; the path itself is followed as the user wrote it."""
        return PosixDirectory(os.open(self._path, OPEN_DIRECTORY), self._renames)

    def look_root(self) -> RootSeen | None:
        """Return what stands at the path now; None where nothing is."""
        try:
            fd = os.open(self._path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISDIR(status.st_mode):
                return RootSeen(False, None, status.st_ino, _filesystem(fd), False)
            root = PosixDirectory(os.open(b".", OPEN_DIRECTORY, dir_fd=fd), self._renames)
        finally:
            os.close(fd)
        try:
            return RootSeen(
                is_directory=True,
                marker=_marker(root),
                inode=status.st_ino,
                filesystem=_filesystem(root.fileno()),
                is_empty=_is_empty(root.fileno()),
            )
        finally:
            root.close()

    def claim(self) -> None:
        """Take the mount for this process; raise `InUse` where another one has it.

        A second call by the holder does nothing.
        """
        if self._lock_fd >= 0:
            return
        root = self.open_root()
        try:
            own = _own_directory(root)
        finally:
            root.close()
        try:
            self._lock_fd = self._locked(own)
        finally:
            own.close()

    def _locked(self, own: PosixDirectory) -> int:
        """Return the descriptor of the lock file, locked and still under its name."""
        while True:
            flags = OPEN_FILE | os.O_RDWR | os.O_CREAT
            fd = os.open(LOCK_NAME, flags, 0o600, dir_fd=own.fileno())
            try:
                refuse_special(os.fstat(fd).st_mode)
                self._lock(fd)
                named = own.look(LOCK_NAME)
                if named is not None and named.inode == os.fstat(fd).st_ino:
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
                    return fd
            except BaseException:
                os.close(fd)
                raise
            # A user removed the file that was locked: take the one that is there now.
            os.close(fd)

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            shown = escape(self._path)
            raise InUse(
                f"'{shown}' is mounted by another client (process {escape(holder.encode())})",
                path=shown,
                pid=holder,
            ) from error

    def close(self) -> None:
        """Let go of the claim; a second call does nothing."""
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            os.close(fd)


def _own_directory(root: PosixDirectory) -> PosixDirectory:
    """Open the client's own directory in the mount; make it if need be."""
    try:
        return root.enter(RESERVED_ROOT_NAME)
    except FileNotFoundError:
        try:
            root.make_directory(RESERVED_ROOT_NAME, 0o700)
        except FileExistsError:
            # Another client was as quick; the lock tells which of the two goes on.
            return root.enter(RESERVED_ROOT_NAME)
    return root.enter(RESERVED_ROOT_NAME)


def _marker(root: PosixDirectory) -> bytes | None:
    """Return what the marker says; None where there is none."""
    try:
        own = root.enter(RESERVED_ROOT_NAME)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        marker = own.open(MARKER_NAME)
    except FileNotFoundError:
        return None
    finally:
        own.close()
    try:
        return marker.read(_MARKER_BYTES_MAX, 0).removesuffix(b"\n")
    finally:
        marker.close()


def _is_empty(fd: int) -> bool:
    with os.scandir(fd) as items:
        return all(os.fsencode(item.name) == RESERVED_ROOT_NAME for item in items)


def _filesystem(fd: int) -> bytes:
    return os.fstatvfs(fd).f_fsid.to_bytes(8, "big")
