"""The files of a mount on a simulated disk, as the engine sees them.

Before every operation of a handle the disk calls its hook, in which users may act or the process
may die. `close` alone does not: it may be called after death, and what could happen before it may
as well happen before the next operation. The reading of a directory calls it again before it looks
at each name (`list.look`), as the kernel lists and looks one by one; so does an exchange in steps
before each step (`exchange.move`, `exchange.unlink`).
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import ExitStack

from syncline.core.names import RESERVED_ROOT_NAME
from syncline.core.safety import RootSeen
from syncline.errors import InUse
from syncline.ports.files import (
    EXCHANGE_PREFIX,
    Directory,
    File,
    FileKind,
    Status,
    Writers,
)
from tests.support.simulation.disk import Crashed, Operation, SimulatedDisk
from tests.support.simulation.inodes import (
    Actor,
    Dentry,
    Inode,
    Lease,
    Opened,
    path_of,
    refused,
    top,
)
from tests.support.simulation.kernel import Rename
from tests.support.simulation.met import IN_STEPS

_MARKER_BYTES_MAX = 4096
_WITHOUT_MODE = {FileKind.LINK: errno.ELOOP, FileKind.OTHER: errno.EINVAL}


class SimulatedFile(File):
    """An open file of the engine."""

    def __init__(self, files: SimulatedFiles, opened: Opened) -> None:
        self._files = files
        self._disk = files.disk
        self._opened = opened
        files.handles.append(self)

    def _begin(self, name: str) -> Opened:
        dentry = self._opened.dentry
        self._files.begin("file." + name, path_of(dentry.parent, dentry.name))
        if not self._opened.is_open:
            raise refused(errno.EBADF)
        return self._opened

    def status(self) -> Status:
        return self._begin("status").inode.status()

    def born_ns(self) -> int:
        return self._begin("born_ns").inode.born_ns

    def read(self, size: int, offset: int) -> bytes:
        return self._disk.read(self._begin("read"), size, offset)

    def write(self, content: bytes, offset: int) -> None:
        self._disk.write(self._begin("write"), content, offset)

    def truncate(self, size: int) -> None:
        self._disk.truncate(self._begin("truncate"), size)

    def set_mode(self, mode: int) -> None:
        opened = self._begin("set_mode")
        self._disk.set_mode(opened.inode, opened.dentry, mode, Actor.ENGINE)

    def set_mtime(self, mtime_ns: int) -> None:
        opened = self._begin("set_mtime")
        self._disk.set_mtime(opened.inode, opened.dentry, mtime_ns, Actor.ENGINE)

    def sync(self) -> None:
        self._disk.sync_file(self._begin("sync").inode)

    def hold(self) -> Writers:
        return self._disk.hold(self._begin("hold"))

    def is_held(self) -> bool:
        return self._begin("is_held").lease is Lease.HELD

    def release(self) -> None:
        self._disk.release(self._begin("release"))

    def forget_cached(self) -> None:
        self._begin("forget_cached")

    def close(self) -> None:
        if self._opened.is_open:
            self._disk.close(self._opened)
            self._files.handles.remove(self)


class SimulatedDirectory(Directory):
    """An open directory of the engine."""

    def __init__(self, files: SimulatedFiles, inode: Inode) -> None:
        self.files = files
        self._disk = files.disk
        self._is_open = True
        self.inode = inode
        inode.opens += 1
        files.handles.append(self)

    def _begin(self, operation: str, name: bytes | None = None) -> Inode:
        self.files.begin(operation, path_of(self.inode, name))
        if not self._is_open:
            raise refused(errno.EBADF)
        return self.inode

    def _find(self, operation: str, name: bytes) -> tuple[Dentry, Inode]:
        dentry = self._disk.find(self._begin(operation, name), name)
        return dentry, top(dentry.inode)

    def status(self) -> Status:
        return self._begin("status").status()

    def list(self) -> Sequence[tuple[bytes, Status]]:
        directory = self._begin("list")
        self._disk.may_list(directory)
        found = []
        for name in list(directory.entries):
            self._begin("list.look", name)
            dentry = self._disk.lookup(directory, name)
            if dentry is not None:
                found.append((name, top(dentry.inode).status()))
        return found

    def look(self, name: bytes) -> Status | None:
        dentry = self._disk.lookup(self._begin("look", name), name)
        return top(dentry.inode).status() if dentry else None

    def born_ns(self, name: bytes) -> int:
        return self._find("born_ns", name)[1].born_ns

    def enter(self, name: bytes) -> SimulatedDirectory:
        inode = self._disk.enter(self._begin("enter", name), name)
        self._disk.may_list(inode)
        return SimulatedDirectory(self.files, inode)

    def open(self, name: bytes) -> SimulatedFile:
        return self._open(self._find("open", name)[0], to_write=False)

    def open_to_write(self, name: bytes) -> SimulatedFile:
        return self._open(self._find("open_to_write", name)[0], to_write=True)

    def _open(self, dentry: Dentry, *, to_write: bool) -> SimulatedFile:
        return SimulatedFile(self.files, self._disk.open(dentry, Actor.ENGINE, to_write=to_write))

    def create(self, name: bytes) -> SimulatedFile:
        directory = self._begin("create", name)
        dentry = self._disk.make(directory, name, FileKind.FILE, Actor.ENGINE, mode=0o600)
        return self._open(dentry, to_write=True)

    def read_link(self, name: bytes) -> bytes:
        inode = self._find("read_link", name)[1]
        if inode.kind is not FileKind.LINK:
            raise refused(errno.EINVAL, name)
        return inode.target

    def make_directory(self, name: bytes, mode: int) -> None:
        directory = self._begin("make_directory", name)
        self._disk.make(directory, name, FileKind.DIRECTORY, Actor.ENGINE, mode=mode & 0o7777)

    def make_link(self, name: bytes, target: bytes) -> None:
        directory = self._begin("make_link", name)
        self._disk.make(directory, name, FileKind.LINK, Actor.ENGINE, mode=0o777, target=target)

    def link(self, name: bytes, to: Directory, to_name: bytes) -> None:
        directory = self._begin("link", name)
        self._disk.link(directory, name, _inode(to), to_name, Actor.ENGINE)

    def move(
        self, name: bytes, to: Directory, to_name: bytes, *, keeps_writers: bool = False
    ) -> None:
        directory = self._begin("move", name)
        self._disk.rename(directory, name, _inode(to), to_name, Rename.KEEP, Actor.ENGINE)

    def exchange(self, name: bytes, to: Directory, to_name: bytes) -> None:
        directory = self._begin("exchange", name)
        if self._disk.has_exchange:
            self._disk.rename(directory, name, _inode(to), to_name, Rename.EXCHANGE, Actor.ENGINE)
        else:
            self._exchange_in_steps(name, _ours(to), to_name)

    def _exchange_in_steps(self, name: bytes, to: SimulatedDirectory, to_name: bytes) -> None:
        one, other = self._disk.find(self.inode, name), self._disk.find(to.inode, to_name)
        if one.inode is other.inode:
            return
        self._disk.met[IN_STEPS] += 1
        aside = EXCHANGE_PREFIX + b"%016x" % self._disk.counts["exchange"]
        with ExitStack() as undo:
            self._disk.rename(to.inode, to_name, self.inode, aside, Rename.KEEP, Actor.ENGINE)
            undo.callback(self._move_in_steps, aside, to, to_name)
            self._move_in_steps(name, to, to_name)
            undo.callback(to._move_in_steps, to_name, self, name)
            # By a rename: its writer is told of by the name that he opened.
            directory = self._begin("exchange.move", aside)
            self._disk.rename(directory, aside, directory, name, Rename.KEEP, Actor.ENGINE)
            self._begin("exchange.sync")
            self._disk.journal.sync_directory(self.inode.serial)
            undo.pop_all()

    def _move_in_steps(self, name: bytes, to: SimulatedDirectory, to_name: bytes) -> None:
        directory = self._begin("exchange.move", name)
        if self._disk.find(directory, name).inode.is_directory:
            self._disk.rename(directory, name, to.inode, to_name, Rename.KEEP, Actor.ENGINE)
            return
        self._disk.link(directory, name, to.inode, to_name, Actor.ENGINE)
        self._begin("exchange.unlink", name)
        linked = self._disk.find(to.inode, to_name).inode
        if self._disk.find(directory, name).inode is not linked:
            # A user put something else there, which is not ours to remove.
            raise refused(errno.EBUSY, name)
        self._disk.remove(directory, name, Actor.ENGINE)

    def remove(self, name: bytes) -> None:
        self._disk.remove(self._begin("remove", name), name, Actor.ENGINE)

    def remove_directory(self, name: bytes) -> None:
        self._disk.remove_directory(self._begin("remove_directory", name), name, Actor.ENGINE)

    def set_mode(self, name: bytes, mode: int) -> None:
        dentry, inode = self._find("set_mode", name)
        if inode.kind in _WITHOUT_MODE:
            raise refused(_WITHOUT_MODE[inode.kind], name)
        self._disk.set_mode(inode, dentry, mode, Actor.ENGINE)

    def set_mtime(self, name: bytes, mtime_ns: int) -> None:
        dentry, inode = self._find("set_mtime", name)
        self._disk.set_mtime(inode, dentry, mtime_ns, Actor.ENGINE)

    def sync(self) -> None:
        directory = self._begin("sync")
        self._disk.journal.sync_directory(directory.serial)
        self._disk.sync_file(directory)

    def sync_all(self) -> None:
        self._begin("sync_all")
        self._disk.sync_all()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self.inode.opens -= 1
            self.files.handles.remove(self)
            self._disk.free_if_unused(self.inode)


def _ours(directory: Directory) -> SimulatedDirectory:
    assert isinstance(directory, SimulatedDirectory)
    return directory


def _inode(directory: Directory) -> Inode:
    return _ours(directory).inode


class SimulatedFiles:
    """One process of the engine, and the tree below one path of the disk."""

    def __init__(self, disk: SimulatedDisk, root: bytes = b"", *, process: str = "engine") -> None:
        self.disk = disk
        self.handles: list[SimulatedFile | SimulatedDirectory] = []
        self._root = root
        self._process = process
        self._is_dead = False
        disk.register(self)

    @property
    def open_handles(self) -> int:
        """Return how many files and directories are open."""
        return len(self.handles)

    def check_alive(self) -> None:
        """Raise Crashed in a process that died."""
        if self._is_dead:
            raise Crashed

    def die(self) -> None:
        """End the process: its handles are closed, its claim and its watches are gone."""
        self._is_dead = True
        for handle in list(self.handles):
            handle.close()
        self.close()
        self.disk.listeners = [
            listener for listener in self.disk.listeners if not listener.is_of(self)
        ]

    def begin(self, operation: str, path: bytes) -> None:
        """Begin an operation of this process."""
        self.disk.begin(Operation(operation, path, self._process), self)

    def _find_root(self) -> Inode:
        at = top(self.disk.top)
        for name in self._root.split(b"/") if self._root else ():
            at = top(self._descend(at, name))
        return at

    def _descend(self, at: Inode, name: bytes) -> Inode:
        if not at.is_directory:
            raise refused(errno.ENOTDIR, self._root)
        return self.disk.find(at, name).inode

    def open_root(self) -> SimulatedDirectory:
        self.begin("open_root", self._root)
        return self._open(self._find_root())

    def _open(self, inode: Inode) -> SimulatedDirectory:
        if not inode.is_directory:
            raise refused(errno.ENOTDIR, self._root)
        self.disk.may_list(inode)
        return SimulatedDirectory(self, inode)

    def look_root(self) -> RootSeen | None:
        self.begin("look_root", self._root)
        try:
            inode = self._find_root()
        except (FileNotFoundError, NotADirectoryError):
            return None
        others = [name for name in inode.entries if name != RESERVED_ROOT_NAME]
        return RootSeen(
            inode.is_directory,
            self._marker(inode),
            inode.number,
            inode.device.filesystem,
            inode.is_directory and not others,
        )

    def _marker(self, root: Inode) -> bytes | None:
        own = root.entries.get(RESERVED_ROOT_NAME)
        marker = own.inode.entries.get(b"marker") if own else None
        if marker is None:
            return None
        opened = self.disk.open(marker, Actor.ENGINE, to_write=False)
        self.disk.close(opened)
        return self.disk.read(opened, _MARKER_BYTES_MAX, 0).removesuffix(b"\n")

    def claim(self) -> None:
        self.begin("claim", self._root)
        root = self._find_root()
        self._make_missing(root, RESERVED_ROOT_NAME, FileKind.DIRECTORY, 0o700)
        own = self.disk.enter(root, RESERVED_ROOT_NAME)
        self._make_missing(own, b"lock", FileKind.FILE, 0o600)
        opened = self.disk.open(self.disk.find(own, b"lock"), Actor.ENGINE, to_write=True)
        self.disk.close(opened)
        holder = self.disk.claims.setdefault(opened.inode.serial, self)
        if holder is not self:
            raise InUse("the directory is mounted by another client")

    def _make_missing(self, directory: Inode, name: bytes, kind: FileKind, mode: int) -> None:
        if self.disk.lookup(directory, name) is None:
            self.disk.make(directory, name, kind, Actor.ENGINE, mode=mode)

    def close(self) -> None:
        self.disk.claims = {
            lock: holder for lock, holder in self.disk.claims.items() if holder is not self
        }
