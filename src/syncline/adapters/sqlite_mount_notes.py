"""Exceptions and notes of the mount state in SQLite, for one session."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from syncline.adapters import sqlite_mount_queries as sql
from syncline.adapters.row_codec import EntryRow, entry_of, row_of
from syncline.adapters.sqlite_mount_rows import (
    StateRow,
    held_of,
    obstacle_of,
    state_of_row,
    state_row,
    text_column,
)
from syncline.adapters.sqlite_mount_transaction import Transaction
from syncline.core.entries import Entry
from syncline.core.identity import EntryId, OpId
from syncline.core.names import Name
from syncline.core.trees import Place, State
from syncline.ports.mount_state import Held, Obstacle


class MountNotes:
    """The calls of `ports.mount_state.Exceptions` and of `Notes`."""

    _db: Transaction
    has_changed: bool
    _may_hold: bool | None = None
    _may_obstruct: bool | None = None
    """Whether anything may be held, or be an obstacle; None before that was asked.

    Mostly nothing is, and then nobody has to ask for each of many entries.
    """

    # -- exceptions ------------------------------------------------------------

    def set_held(self, id: EntryId, held: Held | None) -> None:
        """Know why an entry must stay as it is in the mount; None: nothing holds it."""
        if self.held_of(id) == held:
            return
        self.has_changed = True
        if held is None:
            self._db.do(sql.DROP_HELD, id)
        else:
            self._may_hold = True
            self._db.do(sql.PUT_HELD, id, int(held.is_ignored), text_column(held.detail))

    def held(self) -> Mapping[EntryId, Held]:
        """Return all entries that are held."""
        return dict(self._db.rows(_held, sql.HELD))

    def held_of(self, id: EntryId) -> Held | None:
        """Return why an entry is held; None where nothing holds it."""
        return self._db.row(_reason, sql.HELD_OF, id) if self._is_any_held() else None

    def _is_any_held(self) -> bool:
        self._db.check()
        if self._may_hold is None:
            self._may_hold = self._db.row(_number, sql.ANY_HELD, b"") is not None
        return self._may_hold

    def held_unread(self) -> Mapping[EntryId, Held]:
        """Return who is held and not ignored."""
        return dict(self._db.rows(_held, sql.HELD_UNREAD))

    def set_obstacle(self, place: Place, obstacle: Obstacle | None) -> None:
        """Know what takes a place and is no entry; None: nothing does."""
        if self.obstacle(place) == obstacle:
            return
        self.has_changed = True
        if obstacle is None:
            self._db.do(sql.DROP_OBSTACLE, *place)
        else:
            self._may_obstruct = True
            detail = text_column(obstacle.detail)
            self._db.do(sql.PUT_OBSTACLE, *place, obstacle.reason.value, detail)

    def obstacle(self, place: Place) -> Obstacle | None:
        """Return the obstacle at a place."""
        return self._db.row(_obstacle, sql.OBSTACLE, *place) if self._is_any_obstacle() else None

    def obstacles_in(self, parent: EntryId) -> Mapping[Name, Obstacle]:
        """Return the obstacles in a directory."""
        if not self._is_any_obstacle():
            return {}
        found = self._db.rows(_placed_obstacle, sql.OBSTACLES_IN, parent)
        return {name: obstacle for (_, name), obstacle in found}

    def _is_any_obstacle(self) -> bool:
        self._db.check()
        if self._may_obstruct is None:
            self._may_obstruct = self._db.row(_number, sql.ANY_OBSTACLE, b"") is not None
        return self._may_obstruct

    def obstacles_not_ignored(self) -> Mapping[Place, Obstacle]:
        """Return all obstacles but those that are ignored."""
        return dict(self._db.rows(_placed_obstacle, sql.OBSTACLES_NOT_IGNORED))

    # -- notes -----------------------------------------------------------------

    def note_sent(self, op: OpId, states: Mapping[EntryId, State | None]) -> None:
        """Remember what was local when the changes of a STORE were made."""
        self.forget_sent(op)
        self._db.do(sql.ADD_SENT, op)
        (number,) = self._db.rows(_number, sql.SENT_NUMBER, op)
        self._db.do_many(
            sql.PUT_NOTED, ((number, id, *state_row(state)) for id, state in states.items())
        )

    def sent(self, op: OpId) -> Mapping[EntryId, State | None] | None:
        """Return what was remembered of a STORE."""
        number = self._db.row(_number, sql.SENT_NUMBER, op)
        return None if number is None else self._noted(number)

    def forget_sent(self, op: OpId) -> None:
        """Forget a STORE."""
        number = self._db.row(_number, sql.SENT_NUMBER, op)
        if number is not None:
            self._db.do(sql.DROP_NOTED, number)
            self._db.do(sql.DROP_SENT, number)

    def all_sent(self) -> Sequence[OpId]:
        """Return the STOREs that are remembered, in the order in which they were noted."""
        return self._db.rows(_op_id, sql.SENT)

    def note_intent(self, id: EntryId, wanted: State | None) -> None:
        """Remember what is about to be placed; None: that it is about to be removed."""
        self._db.do(sql.PUT_NOTED, sql.INTENTS, id, *state_row(wanted))

    def intents(self) -> Mapping[EntryId, State | None]:
        """Return what was about to be placed or removed."""
        return self._noted(sql.INTENTS)

    def forget_intents(self) -> None:
        """Forget all intents."""
        self._db.do(sql.DROP_NOTED, sql.INTENTS)

    def _noted(self, number: int) -> dict[EntryId, State | None]:
        return dict(self._db.rows(_noted_state, sql.NOTED, number))

    def _rename_in_notes(self, old: EntryId, new: EntryId) -> None:
        for statement in (sql.RENAME_HELD, sql.RENAME_OBSTACLES, *sql.RENAME_NOTED):
            self._db.do(statement, old, new)

    # -- a snapshot on its way -------------------------------------------------

    def clear_incoming(self) -> None:
        """Forget the pages of a snapshot."""
        self._db.do(sql.CLEAR_INCOMING)

    def add_incoming(self, entries: Iterable[Entry]) -> None:
        """Add a page of a snapshot that is not whole yet."""
        self._db.do_many(sql.PUT_INCOMING, (row_of(entry) for entry in entries))

    def incoming(self) -> Iterator[Entry]:
        """Yield the entries of the snapshot in order of id; the trees may be changed meanwhile."""
        after = b""
        while True:
            # No statement stays open while the caller writes.
            page = self._db.rows(_incoming, sql.INCOMING, after)
            yield from page
            if len(page) < sql.INCOMING_ROWS:
                return
            after = page[-1].id

    def is_incoming(self, id: EntryId) -> bool:
        """Tell whether the snapshot has an entry."""
        return self._db.row(_number, sql.IS_INCOMING, id) is not None


def _held(row: tuple[bytes, int, bytes]) -> tuple[EntryId, Held]:
    id, is_ignored, detail = row
    return EntryId(id), held_of(is_ignored, detail)


def _reason(row: tuple[int, bytes]) -> Held:
    return held_of(*row)


def _obstacle(row: tuple[str, bytes]) -> Obstacle:
    return obstacle_of(*row)


def _placed_obstacle(row: tuple[bytes, bytes, str, bytes]) -> tuple[Place, Obstacle]:
    parent, name, reason, detail = row
    return (EntryId(parent), Name(name)), obstacle_of(reason, detail)


def _number(row: tuple[int]) -> int:
    return row[0]


def _op_id(row: tuple[bytes]) -> OpId:
    return OpId(row[0])


def _noted_state(row: tuple[bytes, *StateRow]) -> tuple[EntryId, State | None]:
    return EntryId(row[0]), state_of_row(row[1:])


def _incoming(row: EntryRow) -> Entry:
    return entry_of(row)
