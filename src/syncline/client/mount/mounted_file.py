"""The way to a file of the mount, for those who read it outside of a session (G9)."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from types import TracebackType

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
        with Way(root) as way:
            return way.open(self)


class Way:
    """Opens files of one mount, one after the other, for one thread; a context manager.

    The directory of the last file stays open for those that follow it from there. Where it was
    moved since, they are still the files of that directory.
    """

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._directory = root
        self._above: tuple[Above, ...] = ()

    def __enter__(self) -> Way:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._go_back()

    def open(self, file: MountedFile) -> File:
        """Open a file to be read; raise OSError as `MountedFile.open`."""
        if file.above != self._above:
            self._go_back()
            try:
                for step in file.above:
                    self._enter(step)
            except OSError:
                self._go_back()
                raise
            self._above = file.above
        return self._directory.open(file.name)

    def _enter(self, step: Above) -> None:
        above, self._directory = self._directory, self._directory.enter(step.name)
        if above is not self._root:
            above.close()
        if step.inode is not None and self._directory.status().inode != step.inode:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _go_back(self) -> None:
        if self._directory is not self._root:
            self._directory.close()
        self._directory, self._above = self._root, ()


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
