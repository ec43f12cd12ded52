"""The tables of the mount state in memory, which can undo what was done to them.

Each change notes how to undo it, so that a session costs what it changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Generic, TypeVar

from syncline.adapters.mount_records import Record, live_state
from syncline.core.entries import Entry
from syncline.core.identity import ROOT_ID, EntryId, OpId
from syncline.core.names import Name
from syncline.core.trees import Place, State
from syncline.ports.mount_state import Held, MountFacts, Obstacle, ObstacleReason

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Undo = list[Callable[[], object]]


class Rows(Generic[K, V]):
    """A mapping that notes how to undo each change of it."""

    def __init__(self, undo: Undo) -> None:
        self.values: dict[K, V] = {}
        self._undo = undo

    def put(self, key: K, value: V) -> None:
        self._note(key)
        self.values[key] = value

    def drop(self, key: K) -> None:
        if key in self.values:
            self._note(key)
            del self.values[key]

    def clear(self) -> None:
        self._undo.append(partial(setattr, self, "values", self.values))
        self.values = {}

    def _note(self, key: K) -> None:
        if key in self.values:
            self._undo.append(partial(self.values.__setitem__, key, self.values[key]))
        else:
            self._undo.append(partial(self.values.pop, key, None))


class Places:
    """Who is where in one tree; a place may be taken twice in the middle of a session."""

    def __init__(self) -> None:
        self._names: dict[EntryId, dict[Name, set[EntryId]]] = {}

    def add(self, place: Place, id: EntryId) -> None:
        self._names.setdefault(place[0], {}).setdefault(place[1], set()).add(id)

    def drop(self, place: Place, id: EntryId) -> None:
        names = self._names[place[0]]
        names[place[1]].remove(id)
        if not names[place[1]]:
            del names[place[1]]
        if not names:
            del self._names[place[0]]

    def at(self, place: Place) -> set[EntryId]:
        return self._names.get(place[0], {}).get(place[1], set())

    def within(self, parent: EntryId) -> Mapping[Name, set[EntryId]]:
        return self._names.get(parent, {})


class Records:
    """All records, and what finds them."""

    def __init__(self, undo: Undo) -> None:
        self.by_id: dict[EntryId, Record] = {}
        self.base, self.local, self.remote = Places(), Places(), Places()
        self.inodes: dict[int, set[EntryId]] = {}
        self.dirty: set[EntryId] = set()
        self.live: list[EntryId] = []
        self.base_count = 0
        self.touched: set[EntryId] = set()
        self._undo = undo

    def keep(self, id: EntryId, record: Record | None) -> None:
        old = self._swap(id, record)
        self._undo.append(partial(self._swap, id, old))
        self.touched.add(id)

    def _swap(self, id: EntryId, record: Record | None) -> Record | None:
        old = self.by_id.pop(id, None)
        if old is not None:
            self._unlist(id, old)
        if record is not None:
            self.by_id[id] = record
            self._list(id, record)
        return old

    def _list(self, id: EntryId, record: Record) -> None:
        if record.base is not None:
            self.base.add(record.base.place, id)
            self.base_count += 1
        if record.local is not None:
            self.local.add(record.local.state.place, id)
            if record.local.fingerprint is not None:
                self.inodes.setdefault(record.local.fingerprint.inode, set()).add(id)
        if record.remote is not None and record.remote.is_live:
            self.remote.add((record.remote.parent, record.remote.name), id)
            insort(self.live, id)
        if record.is_dirty:
            self.dirty.add(id)

    def _unlist(self, id: EntryId, record: Record) -> None:
        if record.base is not None:
            self.base.drop(record.base.place, id)
            self.base_count -= 1
        if record.local is not None:
            self.local.drop(record.local.state.place, id)
            if record.local.fingerprint is not None:
                same = self.inodes[record.local.fingerprint.inode]
                same.remove(id)
                if not same:
                    del self.inodes[record.local.fingerprint.inode]
        if record.remote is not None and record.remote.is_live:
            self.remote.drop((record.remote.parent, record.remote.name), id)
            del self.live[bisect_left(self.live, id)]
        self.dirty.discard(id)

    def fault(self) -> str | None:
        """Return what is wrong with the trees at the end of a session (S2), as far as touched."""
        for id in self.touched:
            record = self.by_id.get(id)
            seen = record.local if record else None
            here = seen.state if seen else None
            there = live_state(record.remote) if record else None
            for tree, places, state in (
                ("local", self.local, here),
                ("remote", self.remote, there),
            ):
                if state is not None and len(places.at(state.place)) > 1:
                    return f"a place is taken twice in {tree}"
                if state is not None and not self._is_directory(state.parent, tree):
                    return f"an entry is in no directory in {tree}"
                if (state is None or not state.is_directory) and places.within(id):
                    return f"an entry holds others and is no directory in {tree}"
        return None

    def _is_directory(self, id: EntryId, tree: str) -> bool:
        if id == ROOT_ID:
            return True
        record = self.by_id.get(id)
        if record is None:
            return False
        if tree == "local":
            return record.local is not None and record.local.state.is_directory
        state = live_state(record.remote)
        return state is not None and state.is_directory


class Tables:
    """All that is remembered."""

    def __init__(self, facts: MountFacts) -> None:
        self.undo: Undo = []
        self.facts = facts
        self.records = Records(self.undo)
        self.held: Rows[EntryId, Held] = Rows(self.undo)
        self.held_unread: Rows[EntryId, Held] = Rows(self.undo)
        self.obstacles: dict[EntryId, Rows[Name, Obstacle]] = {}
        self.obstacles_not_ignored: Rows[Place, Obstacle] = Rows(self.undo)
        self.sent: Rows[OpId, tuple[int, Mapping[EntryId, State | None]]] = Rows(self.undo)
        self.sent_before = 0
        self.intents: Rows[EntryId, State | None] = Rows(self.undo)
        self.incoming: Rows[EntryId, Entry] = Rows(self.undo)

    def set_facts(self, facts: MountFacts) -> None:
        self.undo.append(partial(setattr, self, "facts", self.facts))
        self.facts = facts

    def set_held(self, id: EntryId, held: Held | None) -> None:
        _set(self.held, id, held)
        _set(self.held_unread, id, None if held is None or held.is_ignored else held)

    def set_obstacle(self, place: Place, obstacle: Obstacle | None) -> None:
        parent, name = place
        _set(self.obstacles.setdefault(parent, Rows(self.undo)), name, obstacle)
        is_ignored = obstacle is not None and obstacle.reason is ObstacleReason.IGNORED
        _set(self.obstacles_not_ignored, place, None if is_ignored else obstacle)

    def keep(self) -> None:
        """Let what was done since the last call stay."""
        self.undo.clear()
        self.records.touched.clear()

    def roll_back(self) -> None:
        while self.undo:
            self.undo.pop()()
        self.keep()


def _set(rows: Rows[K, V], key: K, value: V | None) -> None:
    if value is None:
        rows.drop(key)
    else:
        rows.put(key, value)
