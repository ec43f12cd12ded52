"""What is in simulated inodes: bytes, modes, times; open files, leases, and what is durable."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from random import Random

from syncline.ports.files import FileKind, Writers
from tests.support.simulation.inodes import (
    Actor,
    Change,
    Dentry,
    Inode,
    Lease,
    Opened,
    path_of,
    refused,
)
from tests.support.simulation.journal import Key, Touched
from tests.support.simulation.kernel import Kernel
from tests.support.simulation.touched import attributes

MODE_BITS = 0o7777
_UNREADABLE = {
    FileKind.LINK: errno.ELOOP,
    FileKind.DIRECTORY: errno.EISDIR,
    FileKind.OTHER: errno.EINVAL,
}


class Contents(Kernel):
    """A file system with bytes in its files.

    `capacity`: how many bytes all files may have together; None: as many as they like.
    `has_leases`: whether the file system lets us ask for writers.
    """

    capacity: int | None = None
    has_leases: bool = True
    used: int = 0

    def open(self, dentry: Dentry, actor: Actor, *, to_write: bool) -> Opened:
        """Open a regular file; EAGAIN where a lease must be let go first, which is now broken.

        A writer would wait there, and nothing else runs meanwhile: so he is to come again.
        """
        inode = dentry.inode
        if inode.kind in _UNREADABLE:
            raise refused(_UNREADABLE[inode.kind], dentry.name)
        self.may_open(inode, to_write=to_write)
        if to_write and inode.leases:
            for holder in inode.leases:
                holder.lease = Lease.BROKEN
            raise refused(errno.EAGAIN, path_of(dentry.parent, dentry.name))
        inode.opens += 1
        inode.writers += to_write
        return Opened(dentry, inode, actor, to_write)

    def close(self, opened: Opened) -> None:
        """Close, which lets go of a lease; a second call does nothing."""
        if not opened.is_open:
            return
        opened.is_open = False
        self.release(opened)
        opened.inode.opens -= 1
        if opened.can_write:
            opened.inode.writers -= 1
            self._tell_file(Change.CLOSE_WRITE, opened)
        self.free_if_unused(opened.inode)

    def free_if_unused(self, inode: Inode) -> None:
        """Give space and number back when no name and no handle is left."""
        was_freed = inode.is_freed
        super().free_if_unused(inode)
        if inode.is_freed and not was_freed:
            self.used -= len(inode.content)

    def attach(self, dentry: Dentry, parent: Inode, name: bytes) -> None:
        """Let a name lead to its inode, one that was freed included."""
        if dentry.inode.is_freed:
            self.used += len(dentry.inode.content)
        super().attach(dentry, parent, name)

    def read(self, opened: Opened, size: int, offset: int) -> bytes:
        """Do what `pread` does."""
        if offset < 0:
            raise refused(errno.EINVAL)
        return bytes(opened.inode.content[offset : offset + size])

    def write(self, opened: Opened, content: bytes, offset: int) -> None:
        """Do what `pwrite` does again and again; with ENOSPC what fits is written."""
        if not opened.can_write:
            raise refused(errno.EBADF)
        if offset < 0:
            raise refused(errno.EINVAL)
        if not content:
            return
        inode = opened.inode
        size = max(len(inode.content), offset + len(content))
        fitting = self._fit(inode, size)
        kept = content[: max(0, len(content) - (size - fitting))]
        if kept:
            self._before_change(inode, opened.actor)
            if len(inode.content) < offset:
                inode.content.extend(bytes(offset - len(inode.content)))
            self.used -= len(inode.content)
            inode.content[offset : offset + len(kept)] = kept
            self.used += len(inode.content)
            self._changed_bytes(opened)
        if len(kept) < len(content):
            raise refused(errno.ENOSPC)

    def _fit(self, inode: Inode, size: int) -> int:
        """Return how far a file may grow towards a size."""
        if self.capacity is None:
            return size
        room = max(0, self.capacity - self.used)
        return min(size, len(inode.content) + room)

    def truncate(self, opened: Opened, size: int) -> None:
        """Do what `ftruncate` does; a hole takes no space from others here either."""
        if not opened.can_write or size < 0:
            raise refused(errno.EINVAL)
        inode = opened.inode
        if self._fit(inode, size) < size:
            raise refused(errno.ENOSPC)
        self._before_change(inode, opened.actor)
        self.used += size - len(inode.content)
        del inode.content[size:]
        inode.content.extend(bytes(size - len(inode.content)))
        self._changed_bytes(opened)

    def _before_change(self, inode: Inode, actor: Actor) -> None:
        if actor is Actor.ENGINE and inode.durable is None:
            inode.durable = bytes(inode.content)

    def _changed_bytes(self, opened: Opened) -> None:
        inode = opened.inode
        inode.mtime_ns = inode.ctime_ns = self.now_ns()
        if opened.actor is Actor.USER:
            inode.durable = None
            keys: frozenset[Key] = frozenset({("inode", inode.serial), attributes(inode)})
            self.journal.settle(Touched(frozenset(), keys))
        self._tell_file(Change.MODIFY, opened)

    def _tell_file(self, change: Change, opened: Opened) -> None:
        # As with IN_EXCL_UNLINK: nothing is told of a file by a name that it lost.
        if opened.dentry.is_attached:
            self.tell(change, opened.dentry.parent, opened.dentry.name)

    # Attributes

    def set_mode(self, inode: Inode, dentry: Dentry | None, mode: int, actor: Actor) -> None:
        """Do what `chmod` does to what is no link."""
        undo = partial(setattr, inode, "mode", inode.mode)
        inode.mode = mode & MODE_BITS
        self._changed(inode, dentry, undo, actor)

    def set_mtime(self, inode: Inode, dentry: Dentry | None, mtime_ns: int, actor: Actor) -> None:
        """Do what `utimensat` does, to a link too."""
        undo = partial(setattr, inode, "mtime_ns", inode.mtime_ns)
        inode.mtime_ns = mtime_ns
        self._changed(inode, dentry, undo, actor)

    def _changed(
        self, inode: Inode, dentry: Dentry | None, undo: Callable[[], None], actor: Actor
    ) -> None:
        inode.ctime_ns = self.now_ns()
        self.record(actor, Touched(frozenset({attributes(inode)})), undo)
        self._tell_attributes(dentry, inode)

    def _tell_attributes(self, dentry: Dentry | None, inode: Inode) -> None:
        if inode.is_directory:
            self.tell(Change.ATTRIB, inode, None)
        if dentry is not None and dentry.inode is inode and dentry.is_attached:
            self.tell(Change.ATTRIB, dentry.parent, dentry.name)

    # Leases

    def hold(self, opened: Opened) -> Writers:
        """Do what F_SETLEASE with F_RDLCK does."""
        inode = opened.inode
        if not self.has_leases:
            return Writers.UNKNOWN
        if inode.writers or any(holder.lease is Lease.BROKEN for holder in inode.leases):
            return Writers.SOME
        if opened.lease is Lease.NONE:
            opened.lease = Lease.HELD
            inode.leases.append(opened)
        return Writers.NONE

    def release(self, opened: Opened) -> None:
        """Do what F_SETLEASE with F_UNLCK does; without a lease nothing happens."""
        if opened.lease is not Lease.NONE:
            opened.lease = Lease.NONE
            opened.inode.leases.remove(opened)

    # Durability

    def sync_file(self, inode: Inode) -> None:
        """Make bytes, mode and times durable, but no name."""
        inode.durable = None
        self.journal.sync_attributes(attributes(inode))

    def sync_all(self) -> None:
        """Make everything durable."""
        self.journal.sync_all()
        for inode in self.inodes():
            inode.durable = None

    def inodes(self) -> list[Inode]:
        """Return what names lead to, each once, parents first."""
        found = {self.top.serial: self.top}
        waiting = [self.top]
        while waiting:
            directory = waiting.pop(0)
            below = [dentry.inode for dentry in directory.entries.values()]
            if directory.mounted is not None:
                below.append(directory.mounted)
            for inode in below:
                if inode.serial not in found:
                    found[inode.serial] = inode
                    waiting.append(inode)
        return list(found.values())

    def lose_unsynced(self, random: Random) -> None:
        """Cut the power: lose a legal part of the names, and of the bytes of each file.

        A file whose bytes are not durable is left with the durable ones, with all, with the first
        ones, or with as many zeros.
        """
        self.journal.lose(random)
        for inode in self.inodes():
            if inode.durable is None:
                continue
            written = bytes(inode.content)
            left = (
                inode.durable,
                written,
                written[: random.randint(0, len(written))],
                bytes(len(written)),
            )[random.randrange(4)]
            self.used += len(left) - len(written)
            inode.content[:] = left
            inode.durable = None
