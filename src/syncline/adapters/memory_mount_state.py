"""The mount state in memory: for the simulation, and for a run that must leave no trace.

What a finished session did is durable as far as a simulated crash goes: the object outlives it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from syncline.adapters.memory_mount_tables import Tables
from syncline.adapters.mount_records import Record, RecordTrees, known
from syncline.core.entries import Entry
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId, OpId
from syncline.core.names import Name
from syncline.core.trees import Place, State
from syncline.ports.mount_state import Held, MountFacts, Obstacle


class MemoryMountSession(RecordTrees):
    """One transaction; see `syncline.ports.mount_state` for the contract."""

    def __init__(self, tables: Tables) -> None:
        self._tables: Tables | None = tables

    def end(self) -> None:
        """Make every later call fail."""
        self._tables = None

    @property
    def _open(self) -> Tables:
        if self._tables is None:
            raise AssertionError("the session is over")
        return self._tables

    def facts(self) -> MountFacts:
        """Return what the mount knows of itself."""
        return self._open.facts

    def set_facts(self, facts: MountFacts) -> None:
        """Know this of the mount from now on."""
        self._open.set_facts(facts)

    # -- the trees -------------------------------------------------------------

    def _record(self, id: EntryId) -> Record | None:
        return self._open.records.by_id.get(id)

    def _keep(self, id: EntryId, record: Record | None) -> None:
        tables = self._open
        if record == tables.records.by_id.get(id):
            return
        self.has_changed = True
        tables.records.keep(id, record)
        if record is None:
            tables.set_held(id, None)

    def child(self, parent: EntryId, name: Name) -> EntryId | None:
        """Return who is at a place in local."""
        return min(self._open.records.local.at((parent, name)), default=None)

    def children(self, parent: EntryId) -> Sequence[tuple[EntryId, Seen]]:
        """Return who is in a directory in local, in order of name."""
        records = self._open.records
        found = []
        for _, ids in sorted(records.local.within(parent).items()):
            for id in sorted(ids):
                seen = records.by_id[id].local
                assert seen is not None, "the index of local has an entry that local lacks"
                found.append((id, seen))
        return found

    def with_inode(self, inode: int) -> Sequence[tuple[EntryId, Seen]]:
        """Return who had this inode when it was last seen in local, in order of id."""
        records = self._open.records
        found = []
        for id in sorted(records.inodes.get(inode, ())):
            seen = records.by_id[id].local
            assert seen is not None, "the index of inodes has an entry that local lacks"
            found.append((id, seen))
        return found

    def at_place(self, place: Place) -> set[EntryId]:
        """Return who is at a place in any of the three trees."""
        records = self._open.records
        return records.base.at(place) | records.local.at(place) | records.remote.at(place)

    def within(self, parent: EntryId) -> set[EntryId]:
        """Return who is in a directory in any of the three trees."""
        records = self._open.records
        found: set[EntryId] = set()
        for tree in (records.base, records.local, records.remote):
            found.update(*tree.within(parent).values())
        return found

    def dirty(self) -> Sequence[EntryId]:
        """Return the entries of which local or remote differs from base, in order of id."""
        return sorted(self._open.records.dirty)

    def dirty_count(self) -> int:
        """Return how many entries are dirty."""
        return len(self._open.records.dirty)

    def base_count(self) -> int:
        """Return how many entries base has."""
        return self._open.records.base_count

    def remote_ids(self, after: EntryId | None, limit: int) -> Sequence[EntryId]:
        """Return entries that live in remote, in order of id, those past `after`."""
        live = self._open.records.live
        start = 0 if after is None else bisect_right(live, after)
        return live[start : start + limit]

    def forget_all(self) -> None:
        """Forget all but the facts."""
        tables = self._open
        for id in list(tables.records.by_id):
            self._keep(id, None)
        for inside in tables.obstacles.values():
            inside.clear()
        for exceptions in (tables.held, tables.held_unread, tables.obstacles_not_ignored):
            exceptions.clear()
        for notes in (tables.sent, tables.intents, tables.incoming):
            notes.clear()

    def forget_server(self) -> None:
        """Forget base and remote, and what was sent; what local is stays."""
        tables = self._open
        for id, record in list(tables.records.by_id.items()):
            self._keep(id, known(None, record.local, None, None, is_confirmed=False))
        tables.sent.clear()

    # -- exceptions ------------------------------------------------------------

    def set_held(self, id: EntryId, held: Held | None) -> None:
        """Know why an entry must stay as it is in the mount; None: nothing holds it."""
        self.has_changed |= self.held_of(id) != held
        self._open.set_held(id, held)

    def held(self) -> Mapping[EntryId, Held]:
        """Return all entries that are held."""
        return dict(self._open.held.values)

    def held_of(self, id: EntryId) -> Held | None:
        """Return why an entry is held; None where nothing holds it."""
        return self._open.held.values.get(id)

    def held_unread(self) -> Mapping[EntryId, Held]:
        """Return who is held and not ignored."""
        return dict(self._open.held_unread.values)

    def set_obstacle(self, place: Place, obstacle: Obstacle | None) -> None:
        """Know what takes a place and is no entry; None: nothing does."""
        self.has_changed |= self.obstacle(place) != obstacle
        self._open.set_obstacle(place, obstacle)

    def obstacle(self, place: Place) -> Obstacle | None:
        """Return the obstacle at a place."""
        inside = self._open.obstacles.get(place[0])
        return inside.values.get(place[1]) if inside else None

    def obstacles_in(self, parent: EntryId) -> Mapping[Name, Obstacle]:
        """Return the obstacles in a directory."""
        inside = self._open.obstacles.get(parent)
        return dict(inside.values) if inside else {}

    def obstacles_not_ignored(self) -> Mapping[Place, Obstacle]:
        """Return all obstacles but those that are ignored."""
        return dict(self._open.obstacles_not_ignored.values)

    # -- notes -----------------------------------------------------------------

    def note_sent(self, op: OpId, states: Mapping[EntryId, State | None]) -> None:
        """Remember what was local when the changes of a STORE were made."""
        tables = self._open
        tables.sent_before += 1
        tables.sent.put(op, (tables.sent_before, dict(states)))

    def sent(self, op: OpId) -> Mapping[EntryId, State | None] | None:
        """Return what was remembered of a STORE."""
        noted = self._open.sent.values.get(op)
        return dict(noted[1]) if noted else None

    def forget_sent(self, op: OpId) -> None:
        """Forget a STORE."""
        self._open.sent.drop(op)

    def all_sent(self) -> Sequence[OpId]:
        """Return the STOREs that are remembered, in the order in which they were noted."""
        sent = self._open.sent.values
        return sorted(sent, key=lambda op: sent[op][0])

    def note_intent(self, id: EntryId, wanted: State | None) -> None:
        """Remember what is about to be placed; None: that it is about to be removed."""
        self._open.intents.put(id, wanted)

    def intents(self) -> Mapping[EntryId, State | None]:
        """Return what was about to be placed or removed."""
        return dict(self._open.intents.values)

    def forget_intents(self) -> None:
        """Forget all intents."""
        self._open.intents.clear()

    def _rename_in_notes(self, old: EntryId, new: EntryId) -> None:
        tables = self._open
        held = tables.held.values.get(old)
        if held is not None:
            self.set_held(old, None)
            self.set_held(new, held)
        for name, obstacle in self.obstacles_in(old).items():
            self.set_obstacle((old, name), None)
            self.set_obstacle((new, name), obstacle)
        for op, (number, states) in list(tables.sent.values.items()):
            renamed = _renamed(states, old, new)
            if renamed != states:
                tables.sent.put(op, (number, renamed))
        intents = tables.intents.values
        for id, wanted in _renamed(intents, old, new).items():
            if id not in intents or intents[id] != wanted:
                tables.intents.put(id, wanted)
        tables.intents.drop(old)

    def clear_incoming(self) -> None:
        """Forget the pages of a snapshot."""
        self._open.incoming.clear()

    def add_incoming(self, entries: Iterable[Entry]) -> None:
        """Add a page of a snapshot that is not whole yet."""
        for entry in entries:
            self._open.incoming.put(entry.id, entry)

    def incoming(self) -> Iterator[Entry]:
        """Yield the entries of the snapshot in order of id."""
        for _, entry in sorted(self._open.incoming.values.items()):
            yield entry

    def is_incoming(self, id: EntryId) -> bool:
        """Tell whether the snapshot has an entry."""
        return id in self._open.incoming.values


def _renamed(
    states: Mapping[EntryId, State | None], old: EntryId, new: EntryId
) -> dict[EntryId, State | None]:
    """Return states of which one is of another id, and its children have another parent."""
    renamed = {}
    for id, state in states.items():
        if state is not None and state.parent == old:
            state = replace(state, parent=new)
        # What was noted of the new id itself is its own.
        if id != old:
            renamed[id] = state
        elif new not in states:
            renamed[new] = state
    return renamed


class MemoryMountState:
    """The store of one mount; see `syncline.ports.mount_state` for the contract.

    A session asserts at its end that local and remote are trees where it touched them (S2).
    """

    def __init__(self, facts: MountFacts) -> None:
        self._tables = Tables(facts)
        self._session: MemoryMountSession | None = None

    @contextmanager
    def session(self) -> Iterator[MemoryMountSession]:
        """Open a session; what it did has not happened when the block is left with an error."""
        if self._session is not None:
            raise AssertionError("one session is open at a time")
        session = self._session = MemoryMountSession(self._tables)
        try:
            yield session
            if self._session is session:
                fault = self._tables.records.fault()
                if fault:
                    raise AssertionError(fault)
                self._tables.keep()
        finally:
            # After `crash` the block is that of a process that is gone.
            if self._session is session:
                self.crash()

    def crash(self) -> None:
        """Lose what an unfinished session did; the object is as a new process would open it."""
        if self._session is not None:
            self._session.end()
            self._session = None
        self._tables.roll_back()

    def close(self) -> None:
        """Do nothing: the object outlives the process that it stands for."""
