"""Open directories and files of a POSIX file system, by descriptors.

For Linux: `renameat2`, leases, birth times and `/proc/self/fd` are used.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from syncline.adapters.linux import born_ns, sync_file_system
from syncline.adapters.posix_modes import change, set_mode
from syncline.adapters.posix_renames import Renames, Spot
from syncline.core.names import escape
from syncline.ports.files import Directory, FileKind, Status, Writers

T = TypeVar("T")

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OPEN_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: a FIFO that took a file's place must not hold the caller for ever."""

_LEASE_UNKNOWN = frozenset(
    {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
)
_TYPE_MASK = 0o170000
_MODE_MASK = 0o007777
_KINDS = {
    stat.S_IFREG: FileKind.FILE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFLNK: FileKind.LINK,
}


def _status(seen: os.stat_result) -> Status:
    # By position and without calls: a scan makes one for each file.
    mode = seen.st_mode
    return Status(
        _KINDS.get(mode & _TYPE_MASK, FileKind.OTHER),
        seen.st_dev,
        seen.st_ino,
        mode & _MODE_MASK,
        seen.st_size,
        seen.st_mtime_ns,
        seen.st_ctime_ns,
        seen.st_nlink,
    )


def _one(name: bytes) -> bytes:
    """Return a name that is one; anything else would lead out of the directory (G9)."""
    if not name or b"/" in name or name in (b".", b".."):
        raise AssertionError(f"'{escape(name)}' is no name")
    return name


def refuse_special(mode: int) -> None:
    """Raise ELOOP, EISDIR or EINVAL unless `mode` is a regular file's."""
    if stat.S_ISREG(mode):
        return
    if stat.S_ISLNK(mode):
        number = errno.ELOOP
    elif stat.S_ISDIR(mode):
        number = errno.EISDIR
    else:
        number = errno.EINVAL
    raise OSError(number, os.strerror(number))


class PosixFile:
    """An open regular file. A hold is of use on one that was opened to be read."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_leased = False

    def status(self) -> Status:
        """Return what `fstat` says."""
        return _status(os.fstat(self._fd))

    def born_ns(self) -> int:
        """Return the birth time; 0 where the file system keeps none."""
        return born_ns(self._fd)

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end."""
        content = os.pread(self._fd, size, offset)
        while 0 < len(content) < size:
            # Network file systems may give less than is there.
            more = os.pread(self._fd, size - len(content), offset + len(content))
            if not more:
                break
            content += more
        return content

    def write(self, content: bytes, offset: int) -> None:
        """Write all of it."""
        written = 0
        with memoryview(content) as whole:
            while written < len(whole):
                written += os.pwrite(self._fd, whole[written:], offset + written)

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow by a hole."""
        os.ftruncate(self._fd, size)

    def set_mode(self, mode: int) -> None:
        """Set the permission bits."""
        os.fchmod(self._fd, mode)

    def set_mtime(self, mtime_ns: int) -> None:
        """Set the time of the last change; the time of the last reading stays."""
        os.utime(self._fd, ns=(os.fstat(self._fd).st_atime_ns, mtime_ns))

    def sync(self) -> None:
        """Make the bytes durable, and the times: after a crash they tell what was changed."""
        os.fsync(self._fd)

    def hold(self) -> Writers:
        """Ask for a read lease; SOME too where this file itself is open for writing."""
        try:
            # The signal of a broken lease would end the process; this one is ignored by default.
            fcntl.fcntl(self._fd, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return Writers.SOME
        except OSError as error:
            if error.errno in _LEASE_UNKNOWN:
                return Writers.UNKNOWN
            raise
        self._is_leased = True
        # The kernel renews a lease that a writer waits for, and says nothing of him.
        return Writers.NONE if self.is_held() else Writers.SOME

    def is_held(self) -> bool:
        """Tell whether the lease lasts; while a writer waits, it counts as ended."""
        return self._is_leased and fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK

    def release(self) -> None:
        """Let go of the lease."""
        if not self._is_leased:
            return
        self._is_leased = False
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            # The kernel took it away: a writer waited for too long.
            return

    def forget_cached(self) -> None:
        """Give up what the kernel keeps of it in memory and has on the disk as well."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close; a lease ends by that."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._is_leased = False
            os.close(fd)


class PosixDirectory:
    """An open directory."""

    def __init__(self, fd: int, renames: Renames) -> None:
        self._fd = fd
        self._renames = renames

    def fileno(self) -> int:
        """Return the descriptor, which stays this object's."""
        return self._fd

    def status(self) -> Status:
        """Return what `fstat` says."""
        return _status(os.fstat(self._fd))

    def list(self) -> Sequence[tuple[bytes, Status]]:
        """Return what is in it, in no order; what vanishes meanwhile is left out."""
        found: list[tuple[bytes, Status]] = []
        # A descriptor of its own: listings of two threads by one would share a position.
        fd = os.open(b".", OPEN_DIRECTORY, dir_fd=self._fd)
        try:
            with os.scandir(fd) as items:
                for item in items:
                    try:
                        seen = item.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    found.append((os.fsencode(item.name), _status(seen)))
        finally:
            os.close(fd)
        return found

    def look(self, name: bytes) -> Status | None:
        """Return what `lstat` says; None where nothing is."""
        try:
            return _status(self._spot(name).look())
        except FileNotFoundError:
            return None

    def born_ns(self, name: bytes) -> int:
        """Return the birth time of what lies there; 0 where the file system keeps none."""
        return born_ns(self._fd, _one(name))

    def enter(self, name: bytes) -> PosixDirectory:
        """Open a directory in it."""
        fd = os.open(_one(name), OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._fd)
        return PosixDirectory(fd, self._renames)

    def open(self, name: bytes) -> PosixFile:
        """Open a regular file to be read (and held); its times do not move by that."""
        try:
            return self._open(name, os.O_RDONLY | os.O_NOATIME)
        except PermissionError as error:
            if error.errno != errno.EPERM:
                raise
            # Only the owner may leave the time of the last reading as it is.
            return self._open(name, os.O_RDONLY)

    def open_to_write(self, name: bytes) -> PosixFile:
        """Open a regular file of our own to be read and written."""
        return self._open(name, os.O_RDWR)

    def _open(self, name: bytes, access: int) -> PosixFile:
        refuse_special(self._spot(name).look().st_mode)
        # RACE: a FIFO or a device that takes the file's place here is opened for a moment.
        fd = os.open(name, OPEN_FILE | access, dir_fd=self._fd)
        try:
            refuse_special(os.fstat(fd).st_mode)
        except OSError:
            os.close(fd)
            raise
        return PosixFile(fd)

    def create(self, name: bytes) -> PosixFile:
        """Make a file for its owner alone (0600) and open it to be read and written."""
        flags = OPEN_FILE | os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd = self._change(partial(os.open, _one(name), flags, 0o600, dir_fd=self._fd))
        try:
            os.fchmod(fd, 0o600)
        except OSError:
            os.close(fd)
            raise
        return PosixFile(fd)

    def read_link(self, name: bytes) -> bytes:
        """Return the target of a symbolic link."""
        return os.readlink(_one(name), dir_fd=self._fd)

    def make_directory(self, name: bytes, mode: int) -> None:
        """Make a directory with exactly this mode, whatever the umask and the parent say."""
        self._change(partial(os.mkdir, _one(name), 0o700, dir_fd=self._fd))
        # RACE: a directory that takes the name of the new one here gets the mode.
        set_mode(self._spot(name), mode)

    def make_link(self, name: bytes, target: bytes) -> None:
        """Make a symbolic link."""
        self._change(partial(os.symlink, target, _one(name), dir_fd=self._fd))

    def link(self, name: bytes, to: Directory, to_name: bytes) -> None:
        """Give a file (or a link) a second name; raise EEXIST."""
        other = _ours(to)
        link = partial(
            os.link,
            _one(name),
            _one(to_name),
            src_dir_fd=self._fd,
            dst_dir_fd=other._fd,
            follow_symlinks=False,
        )
        self._change(link, other)

    def move(
        self, name: bytes, to: Directory, to_name: bytes, *, keeps_writers: bool = False
    ) -> None:
        """Rename without replacing anything; raise EEXIST."""
        other = _ours(to)
        source, target = self._spot(name), other._spot(to_name)
        move = partial(self._renames.move, source, target, keeps_writers=keeps_writers)
        self._change(move, other, [source])

    def exchange(self, name: bytes, to: Directory, to_name: bytes) -> None:
        """Let two things change names; raise ENOENT where one is missing."""
        other = _ours(to)
        first, second = self._spot(name), other._spot(to_name)
        self._change(partial(self._renames.exchange, first, second), other, [first, second])

    def remove(self, name: bytes) -> None:
        """Remove a name that is no directory's."""
        self._change(partial(os.unlink, _one(name), dir_fd=self._fd))

    def remove_directory(self, name: bytes) -> None:
        """Remove an empty directory; raise ENOTEMPTY."""
        self._change(partial(os.rmdir, _one(name), dir_fd=self._fd))

    def set_mode(self, name: bytes, mode: int) -> None:
        """Set the mode of a file or directory; raise ELOOP for a link."""
        set_mode(self._spot(name), mode)

    def set_mtime(self, name: bytes, mtime_ns: int) -> None:
        """Set the mtime of what lies there, of a link itself too."""
        atime_ns = self._spot(name).look().st_atime_ns
        os.utime(name, ns=(atime_ns, mtime_ns), dir_fd=self._fd, follow_symlinks=False)

    def sync(self) -> None:
        """Make the names in it durable."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Some network and FUSE file systems sync files only.
            sync_file_system(self._fd)

    def sync_all(self) -> None:
        """Make everything on its file system durable."""
        sync_file_system(self._fd)

    def close(self) -> None:
        """Close; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _spot(self, name: bytes) -> Spot:
        return Spot(self._fd, _one(name))

    def _change(
        self,
        do: Callable[[], T],
        other: PosixDirectory | None = None,
        moved: Sequence[Spot] = (),
    ) -> T:
        return change(do, [self._fd] if other is None else [self._fd, other._fd], moved)


def _ours(directory: Directory) -> PosixDirectory:
    assert isinstance(directory, PosixDirectory), "two adapters of files were mixed"
    return directory
