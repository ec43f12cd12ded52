"""A POSIX file system in memory, with the errnos, times and events of Linux.

Every call takes directories by inode and one name, never follows a link, and tells who does it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Protocol

from syncline.ports.files import FileKind
from tests.support.simulation.inodes import (
    NAME_BYTES_MAX,
    Actor,
    Change,
    Dentry,
    Device,
    Inode,
    is_within,
    path_of,
    refused,
    top,
)
from tests.support.simulation.journal import Journal, Pending, Touched
from tests.support.simulation.touched import attributes, life, named, slot, touched_by_move

TARGET_BYTES_MAX = 4095
_READ, _WRITE, _ENTER = 0o4, 0o2, 0o1


class Rename(Enum):
    """What a rename does where the new name is taken."""

    REPLACE = "replace"
    KEEP = "keep"
    EXCHANGE = "exchange"


class Listener(Protocol):
    """Who is told of changes."""

    def hear(self, change: Change, directory: Inode, name: bytes | None) -> None:
        """Take what happened to a name in a directory, or to the directory itself (None)."""

    def is_of(self, process: object) -> bool:
        """Tell whether it ends with a process."""


class Kernel:
    """The tree, and what can be done to its names.

    `now_ns` is read at every change and cut to `grain_ns`, so changes within a grain leave the same
    times. Without `is_root` the permission bits count, all files being the user's own; which of
    several errors such a call raises first is not the kernel's in every case.
    """

    def __init__(
        self, now_ns: Callable[[], int], *, grain_ns: int, is_root: bool, is_ordered: bool
    ) -> None:
        self._now_ns = now_ns
        self._grain_ns = grain_ns
        self._serials = 0
        self.is_root = is_root
        self.journal = Journal(is_ordered=is_ordered)
        self.listeners: list[Listener] = []
        self.devices = [Device(1, b"device-1")]
        self.top = self.new_root(self.devices[0])

    def now_ns(self) -> int:
        """Return the coarse time that changes are stamped with."""
        now_ns = self._now_ns()
        return now_ns - now_ns % self._grain_ns

    def new_root(self, device: Device) -> Inode:
        """Return the root of an empty file system."""
        root = self._new(device, FileKind.DIRECTORY, 0o755, b"")
        root.links = 1
        return root

    def _new(self, device: Device, kind: FileKind, mode: int, target: bytes) -> Inode:
        self._serials += 1
        now = self.now_ns()
        number = device.take()
        return Inode(device, number, self._serials, kind, mode, now, now, now, target)

    # Looking

    def may(self, inode: Inode, bits: int) -> None:
        """Raise EACCES where the owner of a thing may not do this to it."""
        if not self.is_root and (inode.mode >> 6) & bits != bits:
            raise refused(errno.EACCES)

    def may_list(self, directory: Inode) -> None:
        """Raise EACCES where the names in a directory may not be read."""
        self.may(directory, _READ)

    def may_open(self, inode: Inode, *, to_write: bool) -> None:
        """Raise EACCES where the content may not be read, or not be read and written."""
        self.may(inode, _READ | _WRITE if to_write else _READ)

    def lookup(self, directory: Inode, name: bytes) -> Dentry | None:
        """Return the name, whatever it leads to; raise ENAMETOOLONG, EACCES."""
        self.may(directory, _ENTER)
        return self._lookup(directory, name)

    def _lookup(self, directory: Inode, name: bytes) -> Dentry | None:
        assert name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name, name
        if directory.is_removed:
            return None
        if len(name) > NAME_BYTES_MAX:
            raise refused(errno.ENAMETOOLONG, name)
        return directory.entries.get(name)

    def find(self, directory: Inode, name: bytes) -> Dentry:
        """Return the name; raise ENOENT."""
        self.may(directory, _ENTER)
        return self._find(directory, name)

    def _find(self, directory: Inode, name: bytes) -> Dentry:
        found = self._lookup(directory, name)
        if found is None:
            raise refused(errno.ENOENT, path_of(directory, name))
        return found

    def enter(self, directory: Inode, name: bytes) -> Inode:
        """Return the directory at a name; raise ENOTDIR for a link, too."""
        inode = top(self.find(directory, name).inode)
        if not inode.is_directory:
            raise refused(errno.ENOTDIR, name)
        return inode

    # Telling and recording

    def tell(self, change: Change, directory: Inode, name: bytes | None) -> None:
        """Tell the listeners of a change."""
        for listener in list(self.listeners):
            listener.hear(change, directory, name)

    def record(
        self, actor: Actor, touched: Touched, undo: Callable[[], None], *directories: Inode
    ) -> None:
        """Know a change as durable, or as one that a power loss may undo."""
        if actor is Actor.USER:
            self.journal.settle(touched)
        else:
            serials = frozenset(directory.serial for directory in directories)
            self.journal.add(Pending(touched, serials, undo))

    def _touch(self, *inodes: Inode) -> None:
        for directory in inodes:
            directory.mtime_ns = directory.ctime_ns = self.now_ns()

    # Names

    def attach(self, dentry: Dentry, parent: Inode, name: bytes) -> None:
        """Let a name lead to its inode."""
        inode = dentry.inode
        dentry.parent, dentry.name = parent, name
        parent.entries[name] = dentry
        inode.links += 1
        if inode.is_freed:
            inode.device.take_again(inode.number)
            inode.is_freed = False
        if inode.is_directory:
            inode.entry = dentry

    def detach(self, dentry: Dentry) -> None:
        """Take a name away, and free what nothing leads to."""
        del dentry.parent.entries[dentry.name]
        dentry.inode.links -= 1
        self.free_if_unused(dentry.inode)

    def free_if_unused(self, inode: Inode) -> None:
        """Give the inode number back when no name and no handle is left."""
        if inode.links or inode.opens or inode.is_freed:
            return
        inode.is_freed = True
        inode.device.give_back(inode.number)
        if inode.is_directory:
            self.tell(Change.DELETE_SELF, inode, None)

    def _check_there_still(self, directory: Inode) -> None:
        if directory.is_removed:
            raise refused(errno.ENOENT)

    def _may_change(self, actor: Actor, *directories: Inode) -> None:
        # The engine, as the owner, widens for a moment the mode of a directory that it changes.
        if actor is Actor.USER:
            for directory in directories:
                self.may(directory, _WRITE | _ENTER)

    def make(
        self,
        directory: Inode,
        name: bytes,
        kind: FileKind,
        actor: Actor,
        *,
        mode: int,
        target: bytes = b"",
    ) -> Dentry:
        """Make a new thing; raise EEXIST, and ENOENT in a removed directory."""
        if kind is FileKind.LINK and not target:
            raise refused(errno.ENOENT, name)
        if len(target) > TARGET_BYTES_MAX:
            raise refused(errno.ENAMETOOLONG, name)
        self._may_change(actor, directory)
        if self._lookup(directory, name) is not None:
            raise refused(errno.EEXIST, name)
        self._check_there_still(directory)
        inode = self._new(directory.device, kind, mode, target)
        dentry = Dentry(directory, name, inode)
        self.attach(dentry, directory, name)
        self._touch(directory)
        touched = Touched(
            frozenset({slot(directory, name)}) | named(inode), frozenset({life(directory)})
        )
        self.record(actor, touched, partial(self.detach, dentry), directory)
        self.tell(Change.CREATE, directory, name)
        return dentry

    def link(self, source: Inode, name: bytes, target: Inode, to_name: bytes, actor: Actor) -> None:
        """Give a second name; raise EEXIST, EXDEV, and EPERM for a directory."""
        self._may_change(actor, target)
        inode = self._find(source, name).inode
        if self._lookup(target, to_name) is not None:
            raise refused(errno.EEXIST, to_name)
        self._check_there_still(target)
        if top(inode).device is not target.device:
            raise refused(errno.EXDEV, to_name)
        if inode.is_directory:
            raise refused(errno.EPERM, name)
        dentry = Dentry(target, to_name, inode)
        self.attach(dentry, target, to_name)
        inode.ctime_ns = self.now_ns()
        self._touch(target)
        touched = Touched(
            frozenset({slot(target, to_name)}) | named(inode),
            frozenset({life(target), slot(source, name), attributes(inode)}),
        )
        self.record(actor, touched, partial(self.detach, dentry), target)
        self.tell(Change.CREATE, target, to_name)

    def remove(self, directory: Inode, name: bytes, actor: Actor) -> None:
        """Do what `unlink` does; raise EISDIR."""
        self._may_change(actor, directory)
        dentry = self._find(directory, name)
        if dentry.inode.is_directory:
            raise refused(errno.EISDIR, name)
        self._remove(dentry, actor)

    def remove_directory(self, directory: Inode, name: bytes, actor: Actor) -> None:
        """Do what `rmdir` does; raise ENOTDIR, ENOTEMPTY, and EBUSY for a mount point."""
        self._may_change(actor, directory)
        dentry = self._find(directory, name)
        if not dentry.inode.is_directory:
            raise refused(errno.ENOTDIR, name)
        if dentry.inode.mounted is not None:
            raise refused(errno.EBUSY, name)
        if dentry.inode.entries:
            raise refused(errno.ENOTEMPTY, name)
        self._remove(dentry, actor)

    def _remove(self, dentry: Dentry, actor: Actor) -> None:
        directory, name, inode = dentry.parent, dentry.name, dentry.inode
        inode.ctime_ns = self.now_ns()
        self._touch(directory)
        touched = Touched(
            frozenset({slot(directory, name)}) | named(inode), frozenset({life(directory)})
        )
        undo = partial(self.attach, dentry, directory, name)
        self.record(actor, touched, undo, directory)
        self.detach(dentry)
        self.tell(Change.DELETE, directory, name)

    def rename(
        self,
        source: Inode,
        name: bytes,
        target: Inode,
        to_name: bytes,
        how: Rename,
        actor: Actor,
    ) -> None:
        """Do what `renameat2` does, its checks in the order of the kernel's."""
        if source.device is not target.device:
            raise refused(errno.EXDEV, name)
        self._may_change(actor, source, target)
        moved = self._find(source, name)
        there = self._lookup(target, to_name)
        if how is Rename.KEEP and there is not None:
            raise refused(errno.EEXIST, to_name)
        if how is Rename.EXCHANGE and there is None:
            raise refused(errno.ENOENT, to_name)
        self._check_cycle(moved, target, there, source, how)
        if there is not None and there.inode is moved.inode:
            return
        self._check_there_still(target)
        if moved.inode.is_directory and source is not target:
            self._may_change(actor, moved.inode)
        if there is not None:
            self._check_there(moved, there, source, how, actor)
        if how is Rename.EXCHANGE and there is not None:
            self._exchange(moved, there, actor)
        else:
            self._move(moved, target, to_name, there, actor)

    def _check_cycle(
        self, moved: Dentry, target: Inode, there: Dentry | None, source: Inode, how: Rename
    ) -> None:
        if moved.inode.is_directory and is_within(target, moved.inode):
            raise refused(errno.EINVAL, moved.name)
        if there is not None and there.inode.is_directory and is_within(source, there.inode):
            raise refused(errno.EINVAL if how is Rename.EXCHANGE else errno.ENOTEMPTY, there.name)

    def _check_there(
        self, moved: Dentry, there: Dentry, source: Inode, how: Rename, actor: Actor
    ) -> None:
        if how is Rename.EXCHANGE:
            if there.inode.is_directory and there.parent is not source:
                self._may_change(actor, there.inode)
        elif moved.inode.is_directory and not there.inode.is_directory:
            raise refused(errno.ENOTDIR, there.name)
        elif there.inode.is_directory and not moved.inode.is_directory:
            raise refused(errno.EISDIR, there.name)
        if moved.inode.mounted is not None or there.inode.mounted is not None:
            raise refused(errno.EBUSY, there.name)
        if how is Rename.REPLACE and there.inode.entries:
            raise refused(errno.ENOTEMPTY, there.name)

    def _move(
        self, moved: Dentry, target: Inode, to_name: bytes, there: Dentry | None, actor: Actor
    ) -> None:
        source, name, inode = moved.parent, moved.name, moved.inode
        if inode.mounted is not None:
            raise refused(errno.EBUSY, name)
        if there is not None:
            there.inode.ctime_ns = self.now_ns()
        touched = touched_by_move(moved, target, to_name)
        if there is not None:
            touched = touched.and_also(Touched(named(there.inode)))
        self.record(
            actor, touched, partial(self._unmove, moved, source, name, there), source, target
        )
        if there is not None:
            self.detach(there)
        self._shift(moved, target, to_name)
        inode.ctime_ns = self.now_ns()
        self._touch(source, target)
        self._tell_move(source, name, target, to_name, inode)

    def _unmove(self, moved: Dentry, source: Inode, name: bytes, there: Dentry | None) -> None:
        target, to_name = moved.parent, moved.name
        self._shift(moved, source, name)
        if there is not None:
            self.attach(there, target, to_name)

    def _shift(self, moved: Dentry, target: Inode, to_name: bytes) -> None:
        del moved.parent.entries[moved.name]
        moved.parent, moved.name = target, to_name
        target.entries[to_name] = moved

    def _exchange(self, one: Dentry, other: Dentry, actor: Actor) -> None:
        source, name, target, to_name = one.parent, one.name, other.parent, other.name
        touched = touched_by_move(one, target, to_name).and_also(
            touched_by_move(other, source, name)
        )
        self._swap(one, other)
        self.record(actor, touched, partial(self._swap, one, other), source, target)
        for inode in (one.inode, other.inode):
            inode.ctime_ns = self.now_ns()
        self._touch(source, target)
        self._tell_move(source, name, target, to_name, one.inode)
        self._tell_move(target, to_name, source, name, other.inode)

    def _swap(self, one: Dentry, other: Dentry) -> None:
        one.parent, other.parent = other.parent, one.parent
        one.name, other.name = other.name, one.name
        one.parent.entries[one.name] = one
        other.parent.entries[other.name] = other

    def _tell_move(
        self, source: Inode, name: bytes, target: Inode, to_name: bytes, inode: Inode
    ) -> None:
        self.tell(Change.MOVED_FROM, source, name)
        self.tell(Change.MOVED_TO, target, to_name)
        if inode.is_directory:
            self.tell(Change.MOVE_SELF, inode, None)
