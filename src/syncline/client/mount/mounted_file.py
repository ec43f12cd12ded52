"""The way to a file of the mount, for those who read it outside of a session (G9)."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from syncline.core.identity import ROOT_ID
from syncline.core.names import Name, RelPath
from syncline.core.trees import Place
from syncline.ports.files import Directory, File
from syncline.ports.mount_state import Trees


@dataclass(frozen=True, slots=True)
class Above:
    """A directory on the way, and the inode that it must have; None: whichever is there."""

    name: Name
    inode: int | None


@dataclass(frozen=True, slots=True)
class MountedFile:
    """A file by the directories above it, from the root down, and its name in the last one."""

    above: tuple[Above, ...]
    name: Name

    @property
    def path(self) -> RelPath:
        """Return the path for people."""
        return RelPath((*(step.name for step in self.above), self.name))

    def open(self, root: Directory) -> File:
        """Open the file to be read; `root` stays open, no other directory does.

        Raises OSError: ENOENT, ENOTDIR or ELOOP where something else or nothing is on the way,
        ESTALE where another directory is.
        """
        directory = root
        try:
            for step in self.above:
                below = directory.enter(step.name)
                if directory is not root:
                    directory.close()
                directory = below
                if step.inode is not None and directory.status().inode != step.inode:
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return directory.open(self.name)
        finally:
            if directory is not root:
                directory.close()


def mounted_file(trees: Trees, place: Place) -> MountedFile | None:
    """Return the way to a place by what local knows; None where a directory above is not there."""
    above: list[Above] = []
    id, name = place
    while id != ROOT_ID:
        seen = trees.local(id)
        if seen is None:
            return None
        inode = seen.fingerprint.inode if seen.fingerprint is not None else None
        above.append(Above(seen.state.name, inode))
        id = seen.state.parent
    return MountedFile(tuple(reversed(above)), name)
