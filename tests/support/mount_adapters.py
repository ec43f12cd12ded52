"""The adapters of a mount's files and watcher, each with a user who works in the same directory."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from syncline.adapters.inotify import InotifyWatcher
from syncline.adapters.linux import RENAME_EXCHANGE, rename_flagged
from syncline.adapters.posix_files import PosixFiles
from syncline.ports.files import FileKind, Files
from syncline.ports.watcher import Watcher
from tests.support.simulation.disk import SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.simulation.user_side import DIRECTORY_MODE, FILE_MODE, Node, User
from tests.support.simulation.watcher import SimulatedWatcher

ROOT = b"mount"
"""The name of the mounted directory; the user may see what is beside it."""


class OpenWriter(Protocol):
    """A file that a user has open for writing."""

    def write(self, content: bytes) -> None: ...

    def close(self) -> None: ...


class Hands(Protocol):
    """What a user can do below one directory; as `simulation.user_side.User`."""

    def write(self, path: bytes, content: bytes, *, keeps_bytes: bool = False) -> None: ...

    def save(self, path: bytes, content: bytes, *, beside: bytes = b".saving") -> None: ...

    def open_writer(self, path: bytes, *, truncates: bool = False) -> OpenWriter: ...

    def read(self, path: bytes) -> bytes: ...

    def mkdir(self, path: bytes) -> None: ...

    def symlink(self, path: bytes, target: bytes) -> None: ...

    def mkfifo(self, path: bytes) -> None: ...

    def link(self, path: bytes, to_path: bytes) -> None: ...

    def rename(self, path: bytes, to_path: bytes) -> None: ...

    def exchange(self, path: bytes, to_path: bytes) -> None: ...

    def unlink(self, path: bytes) -> None: ...

    def rmdir(self, path: bytes) -> None: ...

    def rmtree(self, path: bytes) -> None: ...

    def chmod(self, path: bytes, mode: int) -> None: ...

    def utime(self, path: bytes, mtime_ns: int) -> None: ...

    def tree(self, path: bytes = b"") -> dict[bytes, Node]: ...


class PosixWriter:
    """A real file open for writing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._fd, content) :]

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class PosixUser:
    """A user of a real directory."""

    def __init__(self, at: bytes) -> None:
        self._at = at

    def _path(self, path: bytes) -> bytes:
        return os.path.join(self._at, path) if path else self._at

    def write(self, path: bytes, content: bytes, *, keeps_bytes: bool = False) -> None:
        writer = self.open_writer(path, truncates=not keeps_bytes)
        try:
            writer.write(content)
        finally:
            writer.close()

    def save(self, path: bytes, content: bytes, *, beside: bytes = b".saving") -> None:
        temporary = os.path.join(os.path.dirname(path), beside)
        self.write(temporary, content)
        self.rename(temporary, path)

    def open_writer(self, path: bytes, *, truncates: bool = False) -> PosixWriter:
        """Open without waiting: EAGAIN where the engine holds a lease."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        flags |= os.O_TRUNC if truncates else 0
        fd = os.open(self._path(path), flags, FILE_MODE)
        return PosixWriter(fd)

    def read(self, path: bytes) -> bytes:
        fd = os.open(self._path(path), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self._path(path), DIRECTORY_MODE)

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self._path(path))

    def mkfifo(self, path: bytes) -> None:
        os.mkfifo(self._path(path), FILE_MODE)

    def link(self, path: bytes, to_path: bytes) -> None:
        os.link(self._path(path), self._path(to_path), follow_symlinks=False)

    def rename(self, path: bytes, to_path: bytes) -> None:
        os.rename(self._path(path), self._path(to_path))

    def exchange(self, path: bytes, to_path: bytes) -> None:
        here = os.open(self._at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            rename_flagged(here, path, here, to_path, RENAME_EXCHANGE)
        finally:
            os.close(here)

    def unlink(self, path: bytes) -> None:
        os.unlink(self._path(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self._path(path))

    def rmtree(self, path: bytes) -> None:
        for name in sorted(os.listdir(self._path(path))):
            below = os.path.join(path, name)
            if stat.S_ISDIR(os.lstat(self._path(below)).st_mode):
                self.rmtree(below)
            else:
                self.unlink(below)
        self.rmdir(path)

    def chmod(self, path: bytes, mode: int) -> None:
        if stat.S_ISLNK(os.lstat(self._path(path)).st_mode):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        os.chmod(self._path(path), mode)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        os.utime(self._path(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def tree(self, path: bytes = b"") -> dict[bytes, Node]:
        found: dict[bytes, Node] = {}
        self._gather(path, b"", found)
        return dict(sorted(found.items()))

    def _gather(self, path: bytes, prefix: bytes, found: dict[bytes, Node]) -> None:
        for name in os.listdir(self._path(path)):
            below = os.path.join(path, name)
            seen = os.lstat(self._path(below))
            kind, content = FileKind.OTHER, b""
            if stat.S_ISDIR(seen.st_mode):
                kind = FileKind.DIRECTORY
                self._gather(below, prefix + name + b"/", found)
            elif stat.S_ISLNK(seen.st_mode):
                kind, content = FileKind.LINK, os.readlink(self._path(below))
            elif stat.S_ISREG(seen.st_mode):
                kind, content = FileKind.FILE, self.read(below)
            mode = stat.S_IMODE(seen.st_mode)
            found[prefix + name] = Node(kind, content, mode, seen.st_mtime_ns)


class MountBench(Protocol):
    """A mount, with what happens around it. `user` works in it, `owner` beside it too."""

    @property
    def user(self) -> Hands: ...

    @property
    def owner(self) -> Hands: ...

    def files(self) -> Files:
        """Return the files as another process sees them."""

    def watcher(self) -> Watcher:
        """Return a new watcher, which is closed with the bench."""

    def later(self) -> None:
        """Let so much time pass that the next change gets other times."""

    @contextmanager
    def meanwhile(self, work: Callable[[], None]) -> Iterator[None]:
        """Let a user do the same again and again while others work."""

    def close(self) -> None:
        """End the processes."""


class PosixBench:
    """A real directory."""

    def __init__(self, at: Path, *, has_rename_flags: bool = True) -> None:
        self._at = os.fsencode(at)
        self._has_rename_flags = has_rename_flags
        self._watchers: list[InotifyWatcher] = []
        self._files: list[PosixFiles] = []
        self.owner = PosixUser(self._at)
        self.owner.mkdir(ROOT)
        self.user = PosixUser(os.path.join(self._at, ROOT))

    def files(self) -> PosixFiles:
        path = os.path.join(self._at, ROOT)
        files = PosixFiles(path, has_rename_flags=self._has_rename_flags)
        self._files.append(files)
        return files

    def watcher(self) -> InotifyWatcher:
        watcher = InotifyWatcher()
        self._watchers.append(watcher)
        return watcher

    def later(self) -> None:
        probe = os.path.join(self._at, b"probe")
        first = self._touched(probe)
        while self._touched(probe) == first:
            pass

    def _touched(self, probe: bytes) -> int:
        # The time of a new file is the coarse one, whatever was looked at before.
        self.owner.write(b"probe", b"")
        born = os.stat(probe).st_ctime_ns
        self.owner.unlink(b"probe")
        return born

    @contextmanager
    def meanwhile(self, work: Callable[[], None]) -> Iterator[None]:
        done = threading.Event()

        def again() -> None:
            while not done.is_set():
                work()

        thread = threading.Thread(target=again)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self) -> None:
        for watcher in self._watchers:
            watcher.close()
        for files in self._files:
            files.close()


class SimulatedBench:
    """A directory of a simulated disk."""

    def __init__(self, disk: SimulatedDisk | None = None) -> None:
        self.disk = disk or SimulatedDisk()
        self._files: list[SimulatedFiles] = []
        self.owner = User(self.disk)
        self.owner.mkdir(ROOT)
        self.user = User(self.disk, ROOT)

    def files(self) -> SimulatedFiles:
        return SimulatedFiles(self.disk, ROOT)

    def watcher(self) -> SimulatedWatcher:
        return SimulatedWatcher(self.disk)

    def later(self) -> None:
        self.disk.clock_ns += 10_000_000

    @contextmanager
    def meanwhile(self, work: Callable[[], None]) -> Iterator[None]:
        self.disk.before = lambda operation: work()
        try:
            yield
        finally:
            self.disk.before = None

    def close(self) -> None:
        assert self.disk.open_handles == 0, "a test closes what it opens"


BENCHES: dict[str, Callable[[Path], MountBench]] = {
    "posix": PosixBench,
    "posix-without-flags": lambda at: PosixBench(at, has_rename_flags=False),
    "simulated": lambda at: SimulatedBench(),
    "simulated-without-exchange": lambda at: SimulatedBench(SimulatedDisk(has_exchange=False)),
}
