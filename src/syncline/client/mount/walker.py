"""Opening directories of the mount by their entries, name by name from the root (G9).

W1  No name is followed through a link, and none by a path that was looked up before.
W2  What is opened is the directory that local speaks of: another inode at its path is `ESTALE`.
"""

from __future__ import annotations

import errno
import os
from types import TracebackType

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import PATH_BYTES_MAX, Name, RelPath
from syncline.core.trees import Place
from syncline.ports.files import Directory
from syncline.ports.mount_state import Trees

OPEN_MAX = 64
"""Directories that a walk keeps open: deep trees are walked from the nearest one that is."""


def parts_of(trees: Trees, id: EntryId) -> tuple[Name, ...] | None:
    """Return the path of an entry in local; None where it or a directory above it is not there."""
    parts: list[Name] = []
    while id != ROOT_ID:
        seen = trees.local(id)
        if seen is None:
            return None
        parts.append(seen.state.name)
        id = seen.state.parent
    return tuple(reversed(parts))


def path_at(trees: Trees, place: Place) -> RelPath:
    """Return the path of a place for people; what is not there any more counts as the root."""
    return RelPath((*(parts_of(trees, place[0]) or ()), place[1]))


def path_wanted(trees: Trees, place: Place) -> RelPath:
    """Return the path of a place whose directories may still be on their way, for people."""
    parts = [place[1]]
    id = place[0]
    while id != ROOT_ID and len(parts) < PATH_BYTES_MAX:
        seen = trees.local(id)
        above = trees.remote(id) if seen is None else seen.state
        if above is None:
            break
        parts.append(above.name)
        id = above.parent
    return RelPath(tuple(reversed(parts)))


class Walker:
    """Opens directories for one phase of the engine; a context manager, for one thread.

    A handle stays good while the walker is open, unless `forget` or many others came since.
    """

    def __init__(self, root: Directory) -> None:
        self._root = root
        self._open: dict[EntryId, Directory] = {}

    def __enter__(self) -> Walker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, trees: Trees, id: EntryId) -> Directory:
        """Open the directory of an entry; the caller does not close it.

        Raises OSError: ENOENT or ENOTDIR where it is not at its path, ESTALE where another is (W2),
        ELOOP where local has it in itself, which nothing may bring about.
        """
        chain: list[EntryId] = []
        while id != ROOT_ID and id not in self._open:
            if len(chain) > PATH_BYTES_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            chain.append(id)
            seen = trees.local(id)
            if seen is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            id = seen.state.parent
        directory = self._root if id == ROOT_ID else self._open[id]
        for below in reversed(chain):
            directory = self._enter(trees, directory, below)
        return directory

    def _enter(self, trees: Trees, above: Directory, id: EntryId) -> Directory:
        seen = trees.local(id)
        assert seen is not None, "local changed while it was walked"
        directory = above.enter(seen.state.name)
        known = seen.fingerprint
        try:
            if known is not None and directory.status().inode != known.inode:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        except OSError:
            directory.close()
            raise
        if len(self._open) >= OPEN_MAX:
            # Never the one just entered from: it is the youngest but for a cached start.
            oldest = next(other for other, handle in self._open.items() if handle is not above)
            self._open.pop(oldest).close()
        self._open[id] = directory
        return directory

    def keep(self, id: EntryId, directory: Directory) -> None:
        """Take over a handle that was opened elsewhere."""
        self.forget(id)
        self._open[id] = directory

    def forget(self, id: EntryId) -> None:
        """Let go of one directory: it was moved, or is about to be removed."""
        found = self._open.pop(id, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Let go of all."""
        for directory in self._open.values():
            directory.close()
        self._open.clear()
