"""Deciding a commit: which changes hold on a table, and what the table is afterwards.

Model: changes are read in order over the table, each seeing what the accepted ones before it did.
The result is at most one new state an entry, all of one revision. Nothing is written here.

K1  A change whose base is not the newest revision of its entry before this commit is STALE (G6).
K2  After a decision each live entry has a live directory as parent, each place one live entry, and
    no directory is its own ancestor.
K3  A delete never recurses: a directory with a live child is NOT_EMPTY.
K4  A change that would change nothing is accepted and makes no new state; so does a delete of what
    is deleted already.
K5  A refusal touches nothing; with `is_atomic` one refusal refuses all.
K6  Outcomes speak of the table after the commit: they name no state that it does not have.
K7  The path of a directory has at most 4,096 bytes, and so that of anything in it 256 more: a move
    to a longer path looks at the directories below; no other rule costs more than O(changes).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from syncline.core.changes import (
    Accepted,
    Change,
    Delete,
    Move,
    Outcome,
    Put,
    PutDirectory,
    PutFile,
    PutLink,
    Refusal,
    RefusalCode,
)
from syncline.core.entries import LINK_MODE, Entry, Kind, tombstone
from syncline.core.identity import NO_REVISION, ROOT_ID, EntryId, Revision
from syncline.core.names import PATH_BYTES_MAX, Name, is_reserved
from syncline.core.table import Table


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of each change, the new states, and the states they supersede (same order)."""

    outcomes: tuple[Outcome, ...]
    entries: tuple[Entry, ...]
    replaced: tuple[Entry | None, ...]

    @property
    def is_empty(self) -> bool:
        """Tell whether no state changes, so that there is nothing to commit."""
        return not self.entries


def decide(
    table: Table, changes: Sequence[Change], revision: Revision, *, is_atomic: bool = False
) -> Decision:
    """Decide `changes` on `table`; new states get `revision`. Total: never raises for any table."""
    overlay = _Overlay(table, revision)
    outcomes: list[Outcome] = [overlay.apply(change) for change in changes]
    if is_atomic and any(isinstance(outcome, Refusal) for outcome in outcomes):
        overlay.after.clear()
        outcomes = [
            outcome if isinstance(outcome, Refusal) else Refusal(RefusalCode.ATOMIC)
            for outcome in outcomes
        ]
    kept = overlay.net()
    settled = overlay.before | kept
    return Decision(
        tuple(
            _settle(change, outcome, settled)
            for change, outcome in zip(changes, outcomes, strict=True)
        ),
        tuple(kept.values()),
        tuple(overlay.before[id] for id in kept),
    )


def _settle(change: Change, outcome: Outcome, settled: Mapping[EntryId, Entry | None]) -> Outcome:
    """Return the outcome in terms of the table after the commit.

    A state that a later change undid never gets a revision: to name one would give the caller a
    base that another commit may come to have (G6).
    """
    match outcome:
        case Accepted():
            state = settled[change.id]
            return replace(outcome, revision=state.revision if state else NO_REVISION)
        case Refusal():
            if outcome.current is None:
                return outcome
            return replace(outcome, current=settled[outcome.current.id])
        case _:
            assert_never(outcome)


def _differs(entry: Entry, old: Entry) -> bool:
    return replace(entry, revision=old.revision) != old


@dataclass(slots=True)
class _Overlay:
    """The table as the accepted changes so far would have it."""

    table: Table
    revision: Revision
    before: dict[EntryId, Entry | None] = field(default_factory=dict)
    after: dict[EntryId, Entry] = field(default_factory=dict)
    places: dict[tuple[EntryId, Name], EntryId | None] = field(default_factory=dict)
    added: dict[EntryId, dict[EntryId, None]] = field(default_factory=dict)

    def apply(self, change: Change) -> Outcome:
        if change.id == ROOT_ID:
            return Refusal(RefusalCode.INVALID, detail="the root of a volume cannot be changed")
        match change:
            case PutFile() | PutDirectory() | PutLink():
                return self._put(change)
            case Move():
                return self._move(change)
            case Delete():
                return self._delete(change)
            case _:
                assert_never(change)

    def net(self) -> dict[EntryId, Entry]:
        """Return what the commit makes of the table: no state that nobody could tell apart."""
        found = {}
        for id, new in self.after.items():
            old = self.before[id]
            if new.is_live:
                if old is None or _differs(new, old):
                    found[id] = new
            elif old is not None and old.is_live:
                # At the place that others know: a parent made and deleted in here never was.
                found[id] = tombstone(old, self.revision)
        return found

    # -- reading -------------------------------------------------------------

    def _entry(self, id: EntryId) -> Entry | None:
        if id in self.after:
            return self.after[id]
        return self._original(id)

    def _original(self, id: EntryId) -> Entry | None:
        if id not in self.before:
            self.before[id] = self.table.entry(id)
        return self.before[id]

    def _child(self, parent: EntryId, name: Name) -> Entry | None:
        place = (parent, name)
        if place in self.places:
            id = self.places[place]
            return None if id is None else self._entry(id)
        found = self.table.child(parent, name)
        if found is not None:
            self.before.setdefault(found.id, found)
        return found

    def _live_child(self, parent: EntryId) -> Entry | None:
        for id in self.added.get(parent, ()):
            return self._entry(id)
        for child in self.table.children(parent):
            now = self._entry(child.id)
            if now is not None and now.is_live and now.parent == parent:
                return now
        return None

    def _stale(self, change: Change) -> Refusal | None:
        """Check K1; the base speaks of the table before this commit."""
        original = self._original(change.id)
        newest = original.revision if original else 0
        if change.base == newest:
            return None
        return Refusal(RefusalCode.STALE, current=original)

    def _replaced(self, id: EntryId) -> Revision:
        original = self._original(id)
        return original.revision if original else Revision(0)

    # -- rules ---------------------------------------------------------------

    def _put(self, change: Put) -> Outcome:
        stale = self._stale(change)
        if stale:
            return stale
        wanted = _wanted(change, self.revision)
        current = self._entry(change.id)
        if current is not None and current.kind is not wanted.kind:
            return Refusal(RefusalCode.INVALID, current, detail="an entry keeps its kind for life")
        if current is not None and current.is_live:
            if (current.parent, current.name) != (wanted.parent, wanted.name):
                return Refusal(
                    RefusalCode.INVALID, current, detail="a put does not move; say so with a move"
                )
        else:
            blocked = self._place_blocked(wanted)
            if blocked:
                return blocked
        return self._supersede(wanted)

    def _move(self, change: Move) -> Outcome:
        stale = self._stale(change)
        if stale:
            return stale
        current = self._entry(change.id)
        if current is None or not current.is_live:
            return Refusal(RefusalCode.STALE, current=current)
        wanted = replace(current, revision=self.revision, parent=change.parent, name=change.name)
        if (current.parent, current.name) != (wanted.parent, wanted.name):
            blocked = self._place_blocked(wanted) or self._too_deep(current, wanted)
            if blocked:
                return blocked
        return self._supersede(wanted)

    def _delete(self, change: Delete) -> Outcome:
        current = self._entry(change.id)
        if current is not None and not current.is_live:
            return Accepted(current.revision, self._replaced(change.id))
        stale = self._stale(change)
        if stale:
            return stale
        if current is None:
            return Refusal(RefusalCode.STALE)
        if current.kind is Kind.DIRECTORY:
            child = self._live_child(current.id)
            if child is not None:
                return Refusal(RefusalCode.NOT_EMPTY, child)
        return self._supersede(tombstone(current, self.revision))

    def _place_blocked(self, wanted: Entry) -> Refusal | None:
        """Check K2 for the place of a live entry that is new there."""
        if is_reserved(wanted.name, at_root=wanted.parent == ROOT_ID):
            return Refusal(RefusalCode.INVALID, detail="'.syncline' at the root is reserved")
        parent: EntryId = wanted.parent
        path_bytes = len(wanted.name)
        while parent != ROOT_ID and path_bytes <= PATH_BYTES_MAX:
            if parent == wanted.id:
                return Refusal(RefusalCode.CYCLE, self._entry(wanted.id))
            above = self._entry(parent)
            if above is None or not above.is_live or above.kind is not Kind.DIRECTORY:
                return Refusal(RefusalCode.PARENT_GONE, above)
            path_bytes += len(above.name) + 1
            parent = above.parent
        if path_bytes > PATH_BYTES_MAX:
            return Refusal(
                RefusalCode.INVALID, detail=f"the path would be over {PATH_BYTES_MAX} bytes"
            )
        taken = self._child(wanted.parent, wanted.name)
        if taken is not None and taken.id != wanted.id:
            return Refusal(RefusalCode.NAME_TAKEN, taken)
        return None

    def _too_deep(self, current: Entry, wanted: Entry) -> Refusal | None:
        """Check K7 for what hangs below a directory that gets a longer path."""
        path_bytes = self._path_bytes(wanted)
        if wanted.kind is not Kind.DIRECTORY or path_bytes <= self._path_bytes(current):
            return None
        waiting = [(wanted.id, path_bytes)]
        while waiting:
            directory, path_bytes = waiting.pop()
            if path_bytes > PATH_BYTES_MAX:
                return Refusal(
                    RefusalCode.INVALID,
                    detail=f"a path below it would be over {PATH_BYTES_MAX} bytes",
                )
            waiting += [
                (child.id, path_bytes + 1 + len(child.name))
                for child in self._directories(directory)
            ]
        return None

    def _path_bytes(self, entry: Entry) -> int:
        path_bytes = len(entry.name)
        while entry.parent != ROOT_ID:
            above = self._entry(entry.parent)
            assert above is not None, "an entry has a parent that was never there"
            entry = above
            path_bytes += len(entry.name) + 1
        return path_bytes

    def _directories(self, parent: EntryId) -> Iterator[Entry]:
        """Yield the directories in a directory; remembers none, there may be many."""
        changed = [self.after[id] for id in self.added.get(parent, ())]
        yield from (child for child in changed if child.kind is Kind.DIRECTORY)
        yield from (child for child in self.table.directories(parent) if child.id not in self.after)

    def _supersede(self, wanted: Entry) -> Accepted:
        current = self._entry(wanted.id)
        replaced = self._replaced(wanted.id)
        if current is not None and not _differs(wanted, current):
            return Accepted(current.revision, replaced)
        if current is not None and current.is_live:
            self.places[current.parent, current.name] = None
            self.added.get(current.parent, {}).pop(current.id, None)
        self.after[wanted.id] = wanted
        if wanted.is_live:
            self.places[wanted.parent, wanted.name] = wanted.id
            self.added.setdefault(wanted.parent, {})[wanted.id] = None
        return Accepted(self.revision, replaced)


def _wanted(change: Put, revision: Revision) -> Entry:
    """Return the state that a put asks for."""
    match change:
        case PutFile():
            return Entry(
                change.id,
                revision,
                change.parent,
                change.name,
                Kind.FILE,
                change.mode,
                change.mtime_ns,
                change.content,
                None,
            )
        case PutDirectory():
            return Entry(
                change.id,
                revision,
                change.parent,
                change.name,
                Kind.DIRECTORY,
                change.mode,
                0,
                None,
                None,
            )
        case PutLink():
            return Entry(
                change.id,
                revision,
                change.parent,
                change.name,
                Kind.LINK,
                LINK_MODE,
                change.mtime_ns,
                None,
                change.target,
            )
        case _:
            assert_never(change)
