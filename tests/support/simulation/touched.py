"""What each change of a simulated file system touches, see `journal`."""

from __future__ import annotations

from tests.support.simulation.inodes import Dentry, Inode
from tests.support.simulation.journal import Key, Keys, Touched


def slot(directory: Inode, name: bytes) -> Key:
    """Return the key of a name in a directory."""
    return ("slot", directory.serial, name)


def life(inode: Inode) -> Key:
    return ("life", inode.serial)


def attributes(inode: Inode) -> Key:
    """Return the key of mode and times."""
    return ("attributes", inode.serial)


def named(inode: Inode) -> Keys:
    """Return what a change of the names of an inode writes besides the names."""
    keys: set[Key] = {
        ("inode", inode.serial),
        ("number", inode.device.number * 2**40 + inode.number),
    }
    if inode.is_directory:
        keys.add(life(inode))
    return frozenset(keys)


def touched_by_move(moved: Dentry, target: Inode, to_name: bytes) -> Touched:
    writes = {slot(moved.parent, moved.name), slot(target, to_name)}
    writes.add(("inode", moved.inode.serial))
    if moved.inode.is_directory and moved.parent is not target:
        # Lost one by one, such moves could leave a directory in itself.
        writes.add(("directories", moved.inode.device.number))
    reads = {life(moved.parent), life(target), attributes(moved.inode)}
    return Touched(frozenset(writes), frozenset(reads))
