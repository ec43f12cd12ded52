"""What a user does with the files of a simulated disk: no hook, no faults, durable at once.

Paths are relative to where the user works. No link is followed: a path through one raises ENOTDIR,
a link at its end is the thing itself. Every call raises the `OSError` of the kernel.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from syncline.ports.files import FileKind
from tests.support.simulation.disk import SimulatedDisk
from tests.support.simulation.inodes import (
    Actor,
    Change,
    Dentry,
    Inode,
    Opened,
    path_of,
    refused,
    top,
)
from tests.support.simulation.kernel import Rename

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Node:
    """What a tree has at a path; `content` is the target of a link, and empty for directories."""

    kind: FileKind
    content: bytes
    mode: int
    mtime_ns: int


class Writer:
    """A file that a user has open for writing."""

    def __init__(self, disk: SimulatedDisk, opened: Opened) -> None:
        self._disk = disk
        self._opened = opened
        self._offset = 0
        disk.user_files.append(opened)

    @property
    def is_open(self) -> bool:
        """Tell whether it was neither closed nor taken by a power loss."""
        return self._opened.is_open

    def write(self, content: bytes) -> None:
        """Write where the last write ended."""
        self._check_open()
        self._disk.write(self._opened, content, self._offset)
        self._offset += len(content)

    @property
    def inode(self) -> Inode:
        """Return the thing that is open."""
        return self._opened.inode

    @property
    def where(self) -> bytes:
        """Return its path from the top of the disk, also after it was moved."""
        return path_of(self._opened.dentry.parent, self._opened.dentry.name)

    def content(self) -> bytes:
        """Return all that the file has now, under whatever name or none."""
        self._check_open()
        return bytes(self._opened.inode.content)

    def seek(self, offset: int) -> None:
        """Write there next."""
        self._offset = offset

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow."""
        self._check_open()
        self._disk.truncate(self._opened, size)

    def _check_open(self) -> None:
        if not self._opened.is_open:
            raise refused(errno.EBADF)

    def close(self) -> None:
        """Close; a second call does nothing."""
        if self._opened.is_open:
            self._disk.close(self._opened)
            self._disk.user_files.remove(self._opened)


class User:
    """The hands of a user in one directory of a disk."""

    def __init__(self, disk: SimulatedDisk, at: bytes = b"") -> None:
        self._disk = disk
        self._at = at

    def _parent(self, path: bytes) -> tuple[Inode, bytes]:
        *parents, name = self._parts(path)
        directory = top(self._disk.top)
        for part in parents:
            directory = self._disk.enter(directory, part)
        return directory, name

    def _parts(self, path: bytes) -> list[bytes]:
        return [part for part in (*self._at.split(b"/"), *path.split(b"/")) if part]

    def _find(self, path: bytes) -> Dentry:
        return self._disk.find(*self._parent(path))

    def _directory(self, path: bytes) -> Inode:
        directory = top(self._disk.top)
        for part in self._parts(path):
            directory = self._disk.enter(directory, part)
        return directory

    # Contents

    def write(self, path: bytes, content: bytes, *, keeps_bytes: bool = False) -> None:
        """Open, write and close, from empty or (`keeps_bytes`) over what is there."""
        writer = self.open_writer(path, truncates=not keeps_bytes)
        try:
            writer.write(content)
        finally:
            writer.close()

    def save(self, path: bytes, content: bytes, *, beside: bytes = b".saving") -> None:
        """Save as most editors do: write a file beside it, and rename it over the old one."""
        directory, _, _ = path.rpartition(b"/")
        temporary = directory + b"/" + beside if directory else beside
        self.write(temporary, content)
        self.rename(temporary, path)

    def open_writer(self, path: bytes, *, truncates: bool = False) -> Writer:
        """Open a file for writing, make it if need be; EAGAIN where the engine holds a lease."""
        directory, name = self._parent(path)
        dentry = self._disk.lookup(directory, name)
        is_new = dentry is None
        if dentry is None:
            dentry = self._disk.make(directory, name, FileKind.FILE, Actor.USER, mode=FILE_MODE)
        opened = self._disk.open(dentry, Actor.USER, to_write=True)
        if truncates and not is_new:
            self._disk.truncate(opened, 0)
        return Writer(self._disk, opened)

    def read(self, path: bytes) -> bytes:
        """Return the content of a file."""
        opened = self._disk.open(self._find(path), Actor.USER, to_write=False)
        content = bytes(opened.inode.content)
        self._disk.close(opened)
        return content

    # Names

    def mkdir(self, path: bytes) -> None:
        directory, name = self._parent(path)
        self._disk.make(directory, name, FileKind.DIRECTORY, Actor.USER, mode=DIRECTORY_MODE)

    def symlink(self, path: bytes, target: bytes) -> None:
        directory, name = self._parent(path)
        self._disk.make(directory, name, FileKind.LINK, Actor.USER, mode=0o777, target=target)

    def mkfifo(self, path: bytes) -> None:
        directory, name = self._parent(path)
        self._disk.make(directory, name, FileKind.OTHER, Actor.USER, mode=FILE_MODE)

    def link(self, path: bytes, to_path: bytes) -> None:
        source = self._find(path)
        self._disk.link(source.parent, source.name, *self._parent(to_path), Actor.USER)

    def rename(self, path: bytes, to_path: bytes) -> None:
        """Do what `rename(2)` does: what is at the new name is replaced."""
        self._rename(path, to_path, Rename.REPLACE)

    def exchange(self, path: bytes, to_path: bytes) -> None:
        self._rename(path, to_path, Rename.EXCHANGE)

    def _rename(self, path: bytes, to_path: bytes, how: Rename) -> None:
        self._disk.rename(*self._parent(path), *self._parent(to_path), how, Actor.USER)

    def unlink(self, path: bytes) -> None:
        self._disk.remove(*self._parent(path), Actor.USER)

    def rmdir(self, path: bytes) -> None:
        self._disk.remove_directory(*self._parent(path), Actor.USER)

    def rmtree(self, path: bytes) -> None:
        """Remove a directory with all that is in it, in order of name."""
        for name in sorted(self._directory(path).entries):
            below = path + b"/" + name
            if self._find(below).inode.is_directory:
                self.rmtree(below)
            else:
                self.unlink(below)
        self.rmdir(path)

    # Attributes

    def chmod(self, path: bytes, mode: int) -> None:
        """Set the mode of what lies there; EOPNOTSUPP for a link."""
        dentry, inode = self._seen(path)
        if inode.kind is FileKind.LINK:
            raise refused(errno.EOPNOTSUPP, path)
        self._disk.set_mode(inode, dentry, mode, Actor.USER)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        """Set the mtime of what lies there, of a link itself too."""
        dentry, inode = self._seen(path)
        self._disk.set_mtime(inode, dentry, mtime_ns, Actor.USER)

    def _seen(self, path: bytes) -> tuple[Dentry | None, Inode]:
        if not self._parts(path):
            return None, top(self._disk.top)
        dentry = self._find(path)
        return dentry, top(dentry.inode)

    # Looking

    def inode(self, path: bytes) -> Inode:
        """Return the thing at a path."""
        return self._find(path).inode

    def exists(self, path: bytes) -> bool:
        """Tell whether something lies there."""
        directory, name = self._parent(path)
        return self._disk.lookup(directory, name) is not None

    def tree(self, path: bytes = b"") -> dict[bytes, Node]:
        """Return all that is below a directory, in order of path, whatever the modes say."""
        found: dict[bytes, Node] = {}
        self._gather(self._directory(path), b"", found)
        return dict(sorted(found.items()))

    def _gather(self, directory: Inode, prefix: bytes, found: dict[bytes, Node]) -> None:
        for name, dentry in directory.entries.items():
            inode = top(dentry.inode)
            content = inode.target if inode.kind is FileKind.LINK else bytes(inode.content)
            found[prefix + name] = Node(inode.kind, content, inode.mode, inode.mtime_ns)
            if inode.is_directory:
                self._gather(inode, prefix + name + b"/", found)

    # Devices

    def mount(self, path: bytes) -> int:
        """Mount a new, empty file system at a directory; return its device number."""
        return self._disk.mount(self._directory(path))

    def unmount(self, path: bytes) -> None:
        """Take the file system away that was mounted last at a directory, in use or not."""
        root = self._directory(path)
        if root.covers is None:
            raise refused(errno.EINVAL, path)
        covered = root.covers
        self._disk.tell(Change.UNMOUNT, root, None)
        covered.mounted = None
        root.covers = None
