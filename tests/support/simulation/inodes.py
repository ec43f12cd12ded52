"""What a simulated file system is made of: devices, inodes, names, open files, changes."""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from syncline.ports.files import FileKind, Status

NAME_BYTES_MAX = 255
DIRECTORY_BYTES = 4096
"""What `lstat` says of each directory; real file systems differ, so nothing may rest on it."""


def refused(code: int, name: bytes = b"") -> OSError:
    """Return the error of the kernel with this errno."""
    return OSError(code, os.strerror(code), name)


class Actor(Enum):
    """Who does something: what a user does is durable at once, what the engine does is not."""

    USER = "user"
    ENGINE = "engine"


class Change(Enum):
    """What inotify tells; the last three are told of a watched directory itself alone."""

    CREATE = "create"
    MODIFY = "modify"
    CLOSE_WRITE = "close_write"
    ATTRIB = "attrib"
    MOVED_FROM = "moved_from"
    MOVED_TO = "moved_to"
    DELETE = "delete"
    DELETE_SELF = "delete_self"
    MOVE_SELF = "move_self"
    UNMOUNT = "unmount"


@dataclass(eq=False, slots=True)
class Device:
    """One file system: its inode numbers, of which the lowest free one is given out next."""

    number: int
    filesystem: bytes
    first_free: int = 2
    freed: list[int] = field(default_factory=list)

    def take(self) -> int:
        """Return the lowest number that nobody has."""
        if self.freed:
            return heapq.heappop(self.freed)
        self.first_free += 1
        return self.first_free - 1

    def give_back(self, number: int) -> None:
        """Let the number be used again."""
        heapq.heappush(self.freed, number)

    def take_again(self, number: int) -> None:
        """Take a number that was given back: its inode was never freed, after a power loss."""
        self.freed.remove(number)
        heapq.heapify(self.freed)


class Lease(Enum):
    """What an open file knows of its read lease."""

    NONE = "none"
    HELD = "held"
    BROKEN = "broken"
    """A writer came, and waits until the lease is let go."""


@dataclass(eq=False, slots=True)
class Inode:
    """One thing. `serial` is never used again, `number` is.

    `links` counts names and `opens` handles; without both it is freed. `entry` is the name of a
    directory. `durable` is what a power loss leaves for sure of a file's content; None: all of it.
    `mounted` is the root of the device that covers a directory, `covers` the way back.
    """

    device: Device
    number: int
    serial: int
    kind: FileKind
    mode: int
    born_ns: int
    mtime_ns: int
    ctime_ns: int
    target: bytes = b""
    content: bytearray = field(default_factory=bytearray)
    durable: bytes | None = None
    entries: dict[bytes, Dentry] = field(default_factory=dict)
    entry: Dentry | None = None
    links: int = 0
    opens: int = 0
    writers: int = 0
    leases: list[Opened] = field(default_factory=list)
    is_freed: bool = False
    mounted: Inode | None = None
    covers: Inode | None = None

    @property
    def is_directory(self) -> bool:
        """Tell whether it can have names in it."""
        return self.kind is FileKind.DIRECTORY

    @property
    def is_removed(self) -> bool:
        """Tell whether no name leads to it; a root has none and is there."""
        return self.links == 0

    @property
    def size(self) -> int:
        """Return what `lstat` says."""
        if self.kind is FileKind.DIRECTORY:
            return DIRECTORY_BYTES
        return len(self.target) if self.kind is FileKind.LINK else len(self.content)

    def status(self) -> Status:
        """Return what `fstat` says."""
        return Status(
            self.kind,
            self.device.number,
            self.number,
            self.mode,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
            self.links,
        )


@dataclass(eq=False, slots=True)
class Dentry:
    """A name in a directory; it moves with a rename, and stays as it was after a removal."""

    parent: Inode
    name: bytes
    inode: Inode

    @property
    def is_attached(self) -> bool:
        """Tell whether it was not removed."""
        return self.parent.entries.get(self.name) is self


@dataclass(eq=False, slots=True)
class Opened:
    """An open file; `dentry` is the name it was opened by, of which inotify tells."""

    dentry: Dentry
    inode: Inode
    actor: Actor
    can_write: bool
    is_open: bool = True
    lease: Lease = Lease.NONE


def top(inode: Inode) -> Inode:
    """Return what is seen at a directory: the root of the device mounted on it, if any."""
    while inode.mounted is not None:
        inode = inode.mounted
    return inode


def uncovered(inode: Inode) -> Inode:
    """Return the directory that has the name by which a directory is seen."""
    while inode.covers is not None:
        inode = inode.covers
    return inode


def above(inode: Inode) -> Inode | None:
    """Return the directory that a directory is in; None for the root of all and what was cut."""
    entry = uncovered(inode).entry
    return entry.parent if entry is not None else None


def is_within(inner: Inode, outer: Inode) -> bool:
    """Tell whether a directory is another one, or below it."""
    at: Inode | None = inner
    while at is not None:
        if at is outer:
            return True
        at = above(at)
    return False


def path_of(directory: Inode, name: bytes | None = None) -> bytes:
    """Return the path from the top of the disk; of a removed directory the one that it had."""
    parts: Sequence[bytes] = () if name is None else (name,)
    entry = uncovered(directory).entry
    while entry is not None:
        parts = (entry.name, *parts)
        entry = uncovered(entry.parent).entry
    return b"/".join(parts)
