"""What a STORE or DELETE may change beside the locks of users.

R1  A token that is not the newest grant of its entry to this replica refuses every change of its
    proposal as `lock_lost`: whoever sends it believes to be alone and is not.
R2  A change of an entry that another owner's lock covers is `locked`; so is one that puts or moves
    something into what it covers, or out of it.
R3  A directory that has another's locked entries below it is not moved into what a lock covers, so
    that no entry is ever covered by two (U1). Elsewhere it may be moved: the lock goes with it.

Nothing here asks for the revision: that check stays, and keeps data safe where no lock does (G6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from syncline.core.changes import (
    Author,
    Change,
    Delete,
    HeldToken,
    Move,
    PutDirectory,
    PutFile,
    PutLink,
)
from syncline.core.entries import Entry, Kind
from syncline.core.identity import EntryId
from syncline.core.names import Name
from syncline.core.table import Table
from syncline.core.user_locks import Paths, UserLock, covering

Locks = Mapping[EntryId, UserLock]


def lost_tokens(locks: Locks, author: Author, tokens: Sequence[HeldToken]) -> tuple[HeldToken, ...]:
    """Return the tokens that are not, or not any more, those of this replica's locks (R1)."""
    return tuple(held for held in tokens if not _is_current(locks.get(held.entry), held, author))


def _is_current(lock: UserLock | None, held: HeldToken, author: Author) -> bool:
    return (
        lock is not None
        and lock.token == held.token
        and lock.owner.author.replica == author.replica
    )


def keeping_out(
    locks: Locks,
    table: Table,
    changes: Sequence[Change],
    author: Author,
    tokens: Sequence[HeldToken] = (),
) -> dict[int, UserLock]:
    """Return the changes that a lock keeps out, by their place, with the lock (R2, R3).

    A lock whose current token is sent is the writer's own, whatever name he goes by. `table` is as
    it is before the changes; what they make and move themselves is seen on the way.
    """
    if not locks:
        return {}
    proved = {held.entry for held in tokens if _is_current(locks.get(held.entry), held, author)}
    view = _View(table)
    found: dict[int, UserLock] = {}
    for index, change in enumerate(changes):
        lock = _first_of_others(locks, view, change, author, proved) or _second_cover(
            locks, view, change
        )
        if lock is not None:
            found[index] = lock
        else:
            view.follow(change)
    return found


def _first_of_others(
    locks: Locks, view: _View, change: Change, author: Author, proved: set[EntryId]
) -> UserLock | None:
    """Return the first lock of another that covers the entry or the place it goes to (R2)."""
    for lock in _passed(locks, view.paths, change):
        if lock.entry not in proved and not lock.is_of(author):
            return lock
    return None


def _passed(locks: Locks, paths: Paths, change: Change) -> Iterator[UserLock]:
    yield from covering(locks, paths, change.id)
    match change:
        case PutFile() | PutDirectory() | PutLink() | Move():
            yield from covering(locks, paths, change.parent)
        case Delete():
            pass
        case _:
            assert_never(change)


def _second_cover(locks: Locks, view: _View, change: Change) -> UserLock | None:
    """Return the lock of what a move carries into what another session's lock covers (R3).

    Its owner may not do it either: each of the two sessions would believe to be alone.
    """
    if not isinstance(change, Move):
        return None
    covers = {locks[id].owner.key for id in view.ways_up(change.parent) if id in locks}
    others = [lock for lock in locks.values() if covers - {lock.owner.key}]
    if others and not view.paths.is_directory(change.id):
        others = [lock for lock in others if lock.entry == change.id]
    carried = (lock for lock in others if change.id in view.ways_up(lock.entry))
    return min(carried, key=lambda lock: lock.token, default=None)


class _View:
    """The table with the parents that earlier changes of the proposal gave; for ways up alone.

    Some of these may be refused yet for another reason. For R2 that does not matter: what leaves
    another owner's lock is not followed. R3 asks for all ways up that there may be.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._parents: dict[EntryId, Entry] = {}
        self._given: dict[EntryId, list[EntryId]] = {}
        self._looked_up: dict[EntryId, tuple[EntryId, ...]] = {}
        self.paths = Paths(self)

    def follow(self, change: Change) -> None:
        """Take in a change."""
        known = self.entry(change.id)
        match change:
            case PutDirectory() if known is None or not known.is_live:
                entry = _directory(change)
            case Move() if known is not None and known.parent != change.parent:
                entry = replace(known, parent=change.parent)
            case _:
                return
        self._given.setdefault(change.id, []).append(change.parent)
        if change.id in (change.parent, *self.paths.above(change.parent)):
            # A cycle, which will be refused; there would be no end of the way up.
            return
        self._parents[change.id] = entry
        self.paths = Paths(self)

    def ways_up(self, id: EntryId) -> set[EntryId]:
        """Return the entry and all that it may be below, whichever of the changes stand."""
        found: set[EntryId] = set()
        waiting = [id]
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += (*self._above(each), *self._given.get(each, ()))
        return found

    def _above(self, id: EntryId) -> tuple[EntryId, ...]:
        """Return the parent before the proposal; of the root and of what is not there, nothing."""
        known = self._looked_up.get(id)
        if known is None:
            entry = self._table.entry(id)
            known = self._looked_up[id] = () if entry is None else (entry.parent,)
        return known

    def entry(self, id: EntryId) -> Entry | None:
        """Return the newest state of an entry, where the proposal would have it."""
        return self._parents.get(id) or self._table.entry(id)

    def child(self, parent: EntryId, name: Name) -> Entry | None:
        """Return the live entry at a place before the proposal."""
        return self._table.child(parent, name)

    def children(self, parent: EntryId) -> Iterator[Entry]:
        """Yield the live children of a directory before the proposal."""
        return self._table.children(parent)

    def directories(self, parent: EntryId) -> Sequence[Entry]:
        """Return the live directories among the children before the proposal."""
        return self._table.directories(parent)


def _directory(change: PutDirectory) -> Entry:
    """Return a new directory as the decision would make it, but for its revision."""
    return Entry(
        change.id,
        change.base,
        change.parent,
        change.name,
        Kind.DIRECTORY,
        change.mode,
        0,
        None,
        None,
    )
