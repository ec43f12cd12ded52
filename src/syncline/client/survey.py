"""What the server has at and below the paths that a STORE is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from syncline.client.planning import Standing, standing_of
from syncline.client.steady import Steady
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name, RelPath
from syncline.ports.link import Link

STAT_PATHS_MAX = 512
"""Paths asked for in one STAT: at their longest they stay below a message's limit."""

Parts = tuple[Name, ...]


def ancestors(path: RelPath) -> list[RelPath]:
    """Return the directories above a path, the highest first, without the root."""
    return [RelPath(path.parts[:depth]) for depth in range(1, len(path.parts))]


class Survey:
    """The server's side by path, as it was last seen. Keys are the names of a path."""

    def __init__(self, link: Link, steady: Steady) -> None:
        self._link = link
        self._steady = steady
        self._standing: dict[Parts, Standing] = {}

    def at(self, path: RelPath) -> Standing | None:
        """Return what was last seen at a path."""
        return self._standing.get(path.parts)

    def directory_id(self, path: RelPath) -> EntryId | None:
        """Return the id of a directory; None where there is none that was seen."""
        if not path.parts:
            return ROOT_ID
        found = self._standing.get(path.parts)
        return found.id if found else None

    def forget(self, path: RelPath) -> None:
        """Drop what is not needed any more."""
        self._standing.pop(path.parts, None)

    def note(self, path: RelPath, standing: Standing) -> None:
        """Remember what this side has just made, or is about to make."""
        self._standing[path.parts] = standing

    async def look(self, paths: Iterable[RelPath]) -> None:
        """See what is at some paths and at the directories above them; raise the link's errors."""
        wanted: dict[RelPath, None] = {}
        for path in paths:
            for above in ancestors(path):
                wanted.setdefault(above)
            if path.parts:
                wanted.setdefault(path)
        every = list(wanted)
        for start in range(0, len(every), STAT_PATHS_MAX):
            await self._stat(every[start : start + STAT_PATHS_MAX])

    async def _stat(self, paths: Sequence[RelPath]) -> None:
        found = await self._steady.run(lambda: self._link.stat(paths, None))
        for path, located in zip(paths, found, strict=True):
            if located is None:
                self.forget(path)
            else:
                self.note(path, standing_of(located))

    async def list(self, path: RelPath) -> None:
        """See all that is below a directory; raise NotFound when it is gone."""
        await self._steady.run(lambda: self._list(path))

    async def _list(self, path: RelPath) -> None:
        async for located in self._link.list(path, is_recursive=True, at=None):
            self._steady.progress()
            self.note(located.path, standing_of(located))
