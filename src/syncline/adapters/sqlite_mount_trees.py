"""The trees of the mount state in SQLite, for one session.

What a session sets is held back and written together: when there is much of it, before the few
look-ups that walk over all, and at the end. An entry that is set three times is written once. The
other look-ups by an index ask the tables for what is written, and memory for what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from syncline.adapters import sqlite_mount_queries as sql
from syncline.adapters.mount_records import Record, RecordTrees
from syncline.adapters.sqlite_mount_rows import (
    EntryRow,
    differing_local,
    differing_remote,
    entry_row,
    inode_column,
    needs_local,
    needs_remote,
    record_of,
    state_row,
    stored_state,
)
from syncline.adapters.sqlite_mount_transaction import Transaction
from syncline.adapters.sqlite_mount_unwritten import (
    UnwrittenPlaces,
    inode_of,
    is_local_at,
    places_of,
)
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.names import Name
from syncline.core.trees import Place, State, state_of

RECORDS_MAX = 12_288
"""Records that are kept in memory, some 12 MiB, so that a snapshot of any size stays small."""

Records = dict[EntryId, Record | None]
"""What is known of entries; None for one that the tables lack."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many entries base has, and how many are dirty."""

    base: int
    dirty: int


class MountTrees(RecordTrees):
    """The calls of `ports.mount_state.Trees`."""

    def __init__(self, transaction: Transaction, counts: Counts, known: Records) -> None:
        """Go on with the records of earlier sessions; a failed session leaves wrong ones behind."""
        self._db = transaction
        self._base_count, self._dirty_count = counts.base, counts.dirty
        self._known = known
        self._unwritten: Records = {}
        """What the tables have of those that are newer in `_known`."""
        self._unwritten_places = UnwrittenPlaces()

    # -- records ---------------------------------------------------------------

    def _record(self, id: EntryId) -> Record | None:
        if id in self._known:
            self._db.check()
            return self._known[id]
        row = self._db.row(_same, sql.ENTRY, id)
        return self._remember(id, None if row is None else self._read(row))

    def _read(self, row: EntryRow) -> Record:
        id = row[0]
        local = self._differing(id, sql.LOCAL) if needs_local(row) else None
        remote = self._differing(id, sql.REMOTE) if needs_remote(row) else None
        return self._db.decoded(partial(record_of, local=local, remote=remote), row)

    def _differing(self, id: bytes, side: int) -> State | None:
        return self._db.row(stored_state, sql.DIFFERING, id, side)

    def _remember(self, id: EntryId, record: Record | None) -> Record | None:
        if len(self._known) >= RECORDS_MAX:
            self.write()
            # Not the older half: who walks over more than fits again and again would find nothing.
            for other in [*self._known][::2]:
                del self._known[other]
        self._known[id] = record
        return record

    def _keep(self, id: EntryId, record: Record | None) -> None:
        old = self._record(id)
        if old == record:
            return
        self.has_changed = True
        self._base_count += _has_base(record) - _has_base(old)
        self._dirty_count += _is_dirty(record) - _is_dirty(old)
        self._unwritten.setdefault(id, old)
        self._known[id] = record
        if record is None:
            self._db.do(sql.DROP_HELD, id)
        else:
            self._unwritten_places.add(id, record)

    def counts(self) -> Counts:
        """Return the counts as they are to be kept with what was written."""
        return Counts(self._base_count, self._dirty_count)

    def write(self) -> None:
        """Bring the tables up to what the session has set."""
        if not self._unwritten:
            return
        dropped: list[tuple[EntryId]] = []
        entries: list[EntryRow] = []
        differing: list[tuple[object, ...]] = []
        settled: list[tuple[EntryId, int]] = []
        # In order of key, neighbours share a page of the tree.
        for id, old in sorted(self._unwritten.items(), key=_id_first):
            record = self._known[id]
            if record is None:
                dropped.append((id,))
                continue
            local, remote = differing_local(record), differing_remote(record)
            entries.append(entry_row(id, record, local, remote))
            if local is not None:
                differing.append((id, sql.LOCAL, *state_row(local), 1))
            elif differing_local(old) is not None:
                settled.append((id, sql.LOCAL))
            if remote is not None:
                state = state_row(state_of(remote))
                differing.append((id, sql.REMOTE, *state, int(remote.is_live)))
            elif differing_remote(old) is not None:
                settled.append((id, sql.REMOTE))
        self._db.do_many(sql.DROP_ENTRY, dropped)
        self._db.do_many(sql.PUT_ENTRY, entries)
        self._db.do_many(sql.DROP_DIFFERING, settled)
        self._db.do_many(sql.PUT_DIFFERING, differing)
        self._forget_unwritten()

    def _forget_unwritten(self) -> None:
        self._unwritten.clear()
        self._unwritten_places.clear()

    # -- look-ups --------------------------------------------------------------

    def child(self, parent: EntryId, name: Name) -> EntryId | None:
        """Return who is at a place in local."""
        found = self._merged(
            self._db.rows(_entry_id, sql.CHILD, parent, name),
            self._unwritten_places.at((parent, name)),
            lambda record: is_local_at(record, parent, name),
        )
        return min(found, default=None)

    def children(self, parent: EntryId) -> Sequence[tuple[EntryId, Seen]]:
        """Return who is in a directory in local, in order of name."""
        # Who is there is settled first: a record that is read may push others out, and write them.
        ids = self._merged(
            self._db.rows(_entry_id, sql.CHILDREN_DIFFERING, parent),
            self._unwritten_places.within(parent),
            lambda record: is_local_at(record, parent),
        )
        as_base = [
            row
            for row in self._db.rows(_same, sql.CHILDREN_AS_BASE, parent)
            if row[0] not in self._unwritten
        ]
        found: list[tuple[EntryId, Seen]] = []
        for row in as_base:
            id = EntryId(row[0])
            record = self._known[id] if id in self._known else self._remember(id, self._read(row))
            found.append((id, _seen(record)))
        found += [(id, _seen(self._record(id))) for id in ids]
        return sorted(found, key=_name_first)

    def with_inode(self, inode: int) -> Sequence[tuple[EntryId, Seen]]:
        """Return who had this inode when it was last seen in local, in order of id."""
        ids = self._merged(
            self._db.rows(_entry_id, sql.WITH_INODE, inode_column(inode)),
            self._unwritten_places.with_inode(inode),
            lambda record: inode_of(record) == inode,
        )
        return [(id, _seen(self._record(id))) for id in sorted(ids)]

    def at_place(self, place: Place) -> set[EntryId]:
        """Return who is at a place in any of the three trees."""
        return self._merged(
            self._db.rows(_entry_id, sql.AT_PLACE, *place),
            self._unwritten_places.at(place),
            lambda record: place in places_of(record),
        )

    def within(self, parent: EntryId) -> set[EntryId]:
        """Return who is in a directory in any of the three trees."""
        return self._merged(
            self._db.rows(_entry_id, sql.WITHIN, parent),
            self._unwritten_places.within(parent),
            lambda record: any(above == parent for above, _ in places_of(record)),
        )

    def _merged(
        self,
        written: Iterable[EntryId],
        unwritten: Iterable[EntryId],
        is_found: Callable[[Record], bool],
    ) -> set[EntryId]:
        """Return who was found in the tables and is as they say, and who is found among the rest.

        `unwritten` may have some that left again; `is_found` tells.
        """
        found = {id for id in written if id not in self._unwritten}
        for id in unwritten:
            record = self._known[id]
            if record is not None and is_found(record):
                found.add(id)
        return found

    def dirty(self) -> Sequence[EntryId]:
        """Return the entries of which local or remote differs from base, in order of id."""
        self.write()
        return self._db.rows(_entry_id, sql.DIRTY)

    def dirty_count(self) -> int:
        """Return how many entries are dirty."""
        self._db.check()
        return self._dirty_count

    def base_count(self) -> int:
        """Return how many entries base has."""
        self._db.check()
        return self._base_count

    def remote_ids(self, after: EntryId | None, limit: int) -> Sequence[EntryId]:
        """Return entries that live in remote, in order of id, those past `after`."""
        self.write()
        return self._db.rows(_entry_id, sql.REMOTE_IDS, after or b"", limit)

    # -- at once ---------------------------------------------------------------

    def forget_all(self) -> None:
        """Forget all but the facts."""
        self.has_changed = True
        self._forget_unwritten()
        self._known.clear()
        for statement in sql.FORGET_ALL:
            self._db.do(statement)
        self._base_count = self._dirty_count = 0

    def forget_server(self) -> None:
        """Forget base and remote, and what was sent; what local is stays."""
        self.has_changed = True
        self.write()
        self._known.clear()
        for statement in sql.FORGET_SERVER:
            self._db.do(statement)
        self._base_count = 0
        (self._dirty_count,) = self._db.rows(_count, sql.COUNT_ENTRIES)


def _same(row: EntryRow) -> EntryRow:
    return row


def _entry_id(row: tuple[bytes]) -> EntryId:
    return EntryId(row[0])


def _count(row: tuple[int]) -> int:
    return row[0]


def _has_base(record: Record | None) -> int:
    return record is not None and record.base is not None


def _is_dirty(record: Record | None) -> int:
    return record is not None and record.is_dirty


def _seen(record: Record | None) -> Seen:
    assert record is not None, "an index has an entry that is not there"
    assert record.local is not None, "an index of local has an entry that local lacks"
    return record.local


def _id_first(item: tuple[EntryId, Record | None]) -> EntryId:
    return item[0]


def _name_first(item: tuple[EntryId, Seen]) -> tuple[Name, EntryId]:
    return item[1].state.name, item[0]
