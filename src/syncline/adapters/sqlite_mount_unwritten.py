"""Who may be where among the records of a session that the tables of SQLite do not have yet.

The index only grows until all is written: it tells who was set to a place at some time, and the
record of that entry tells whether it still is there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from syncline.adapters.mount_records import Record
from syncline.core.identity import EntryId
from syncline.core.names import Name
from syncline.core.trees import Place


class UnwrittenPlaces:
    """The ids of unwritten records by directory, name and inode."""

    def __init__(self) -> None:
        self._inside: dict[EntryId, dict[Name, set[EntryId]]] = {}
        self._inodes: dict[int, set[EntryId]] = {}

    def add(self, id: EntryId, record: Record) -> None:
        """Know where a record has its entry."""
        for parent, name in places_of(record):
            self._inside.setdefault(parent, {}).setdefault(name, set()).add(id)
        inode = inode_of(record)
        if inode is not None:
            self._inodes.setdefault(inode, set()).add(id)

    def clear(self) -> None:
        """Know that all is written."""
        self._inside.clear()
        self._inodes.clear()

    def at(self, place: Place) -> Collection[EntryId]:
        """Return who may be at a place in one of the trees."""
        names = self._inside.get(place[0])
        return () if names is None else names.get(place[1], ())

    def within(self, parent: EntryId) -> Iterator[EntryId]:
        """Yield who may be in a directory in one of the trees, some of them twice."""
        for ids in self._inside.get(parent, {}).values():
            yield from ids

    def with_inode(self, inode: int) -> Collection[EntryId]:
        """Return who may have an inode."""
        return self._inodes.get(inode, ())


def places_of(record: Record) -> set[Place]:
    """Return the places of an entry in the three trees; a tombstone has none."""
    base, seen, entry = record.base, record.local, record.remote
    places: set[Place] = set()
    if base is not None:
        places.add((base.parent, base.name))
    if seen is not None:
        places.add((seen.state.parent, seen.state.name))
    if entry is not None and entry.is_live:
        places.add((entry.parent, entry.name))
    return places


def is_local_at(record: Record, parent: EntryId, name: Name | None = None) -> bool:
    """Tell whether local has an entry in a directory, by this name where one is given."""
    seen = record.local
    if seen is None or seen.state.parent != parent:
        return False
    return name is None or seen.state.name == name


def inode_of(record: Record) -> int | None:
    """Return the inode that was last seen; None where none is known."""
    seen = record.local
    return None if seen is None or seen.fingerprint is None else seen.fingerprint.inode
