"""Small things to put into a mount, and to ask of it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from syncline.ports.files import Directory, FileKind
from tests.support.mount_adapters import MountBench
from tests.support.simulation.disk import SimulatedDisk
from tests.support.simulation.files import SimulatedDirectory, SimulatedFiles
from tests.support.simulation.user_side import User

LINKED = {errno.ELOOP, errno.ENOTDIR}
"""What a link may be refused with where a directory is wanted."""

LINKS = [b"to-file", b"to-directory", b"to-nothing"]
ALL = [b"file", b"directory", b"fifo", *LINKS]


@contextmanager
def refuses(*codes: int) -> Iterator[None]:
    with pytest.raises(OSError) as raised:
        yield
    assert raised.value.errno in codes, raised.value


def put(directory: Directory, name: bytes, content: bytes = b"") -> None:
    with closing(directory.create(name)) as file:
        file.write(content, 0)


def content(directory: Directory, name: bytes) -> bytes:
    with closing(directory.open(name)) as file:
        return file.read(1_000_000, 0)


def names(directory: Directory) -> list[bytes]:
    return sorted(name for name, _ in directory.list())


def kinds(directory: Directory) -> dict[bytes, FileKind]:
    return {name: status.kind for name, status in directory.list()}


def inode(directory: Directory, name: bytes) -> int:
    status = directory.look(name)
    assert status is not None
    return status.inode


def fill(mount: MountBench) -> None:
    """Make one thing of each kind, with links to a file, to a directory, and to nothing."""
    mount.user.write(b"file", b"content")
    mount.user.mkdir(b"directory")
    mount.user.write(b"directory/inside", b"inner")
    mount.user.symlink(b"to-file", b"file")
    mount.user.symlink(b"to-directory", b"directory")
    mount.user.symlink(b"to-nothing", b"nothing")
    mount.user.mkfifo(b"fifo")


class Machine:
    """A simulated disk, its user, and the engine's root on it."""

    def __init__(self, *, is_root: bool = True, is_ordered: bool = True) -> None:
        self.disk = SimulatedDisk(is_root=is_root, is_ordered=is_ordered)
        self.user = User(self.disk)
        self.root = self.boot()

    def boot(self) -> SimulatedDirectory:
        """Return the root as a new process of the engine opens it."""
        return SimulatedFiles(self.disk).open_root()
