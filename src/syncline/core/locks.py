"""Operation locks: who may change what, in which order, while a STORE or DELETE lasts.

Model: an operation asks once for all its keys (the entries it changes, the places it takes) and is
put at the end of each key's queue at one moment. It holds its locks when it is first in all queues.

L1  At most one operation is first in a key's queue: two holders of one key never exist.
L2  All queues have the same order of tickets, so waiting has no cycle: no deadlock, no starving.
L3  Whoever leaves, however, leaves all his queues; the ones that become first everywhere are named.

This module has no clock: the caller passes the time of the server's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NewType, assert_never

from syncline.core.changes import (
    Author,
    Change,
    Delete,
    Move,
    PutDirectory,
    PutFile,
    PutLink,
)

Ticket = NewType("Ticket", int)
Key = bytes


def keys_of(changes: Iterable[Change]) -> frozenset[Key]:
    """Return what an operation must hold: its entries, and the places it takes.

    The place that a move or a delete leaves is guarded by the entry itself; a directory is not held
    for what is made in it, or a busy directory would be written by one client at a time.
    """
    keys = set()
    for change in changes:
        keys.add(b"e" + change.id)
        match change:
            case PutFile() | PutDirectory() | PutLink() | Move():
                keys.add(b"n" + change.parent + change.name)
            case Delete():
                pass
            case _:
                assert_never(change)
    return frozenset(keys)


@dataclass(frozen=True, slots=True)
class Queued:
    """An operation in the queues: who it is and since when it asks."""

    ticket: Ticket
    author: Author
    since_s: float


@dataclass(slots=True)
class OperationLocks:
    """The queues of one volume. Not thread-safe: one task owns it."""

    _queues: dict[Key, list[Ticket]] = field(default_factory=dict)
    _keys: dict[Ticket, frozenset[Key]] = field(default_factory=dict)
    _blocked: dict[Ticket, int] = field(default_factory=dict)
    _queued: dict[Ticket, Queued] = field(default_factory=dict)
    _next: int = 1

    def request(self, keys: frozenset[Key], author: Author, now_s: float) -> Ticket:
        """Queue for all keys at once; ask `is_granted` whether they are held already."""
        ticket = Ticket(self._next)
        self._next += 1
        blocked = 0
        for key in keys:
            queue = self._queues.setdefault(key, [])
            blocked += bool(queue)
            queue.append(ticket)
        self._keys[ticket] = keys
        self._blocked[ticket] = blocked
        self._queued[ticket] = Queued(ticket, author, now_s)
        return ticket

    def is_granted(self, ticket: Ticket) -> bool:
        """Tell whether the operation is first in all its queues (L1)."""
        return self._blocked.get(ticket) == 0

    def first_of(self, keys: Iterable[Key]) -> Queued | None:
        """Return who is first in the queue of one of the keys; None when all are free."""
        for key in sorted(keys):
            queue = self._queues.get(key)
            if queue:
                return self._queued[queue[0]]
        return None

    def release(self, ticket: Ticket) -> list[Ticket]:
        """Leave all queues; return who holds all his keys now because of it (L3).

        A ticket that is not queued (released before) changes nothing.
        """
        granted = []
        self._blocked.pop(ticket, None)
        self._queued.pop(ticket, None)
        for key in self._keys.pop(ticket, frozenset()):
            queue = self._queues[key]
            was_first = queue[0] == ticket
            queue.remove(ticket)
            if not queue:
                del self._queues[key]
            elif was_first:
                heir = queue[0]
                self._blocked[heir] -= 1
                if self._blocked[heir] == 0:
                    granted.append(heir)
        return sorted(granted)

    @property
    def count(self) -> int:
        """Return how many operations hold or wait."""
        return len(self._keys)
