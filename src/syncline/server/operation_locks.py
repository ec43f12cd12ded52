"""Operation locks with waiting: the queues of `core.locks`, and the tasks that stand in them.

A holder that makes no transfer progress is put out by the sweep, so that a stalled STORE keeps
nobody waiting; it asks again before it commits. Whoever leaves the block leaves the queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from syncline.core.changes import Author, Change, Holder
from syncline.core.identity import OpId
from syncline.core.locks import Key, OperationLocks, Ticket, keys_of
from syncline.ports.clock import Clock


class HeldLocks:
    """What one operation holds. `refused` are its changes that another writer's locks keep out."""

    def __init__(self, queue: LockQueue, author: Author, op_id: OpId) -> None:
        self._queue = queue
        self._author = author
        self.operation = (author.replica, op_id)
        self._keys: frozenset[Key] = frozenset()
        self.ticket: Ticket | None = None
        self.progress_s = queue.clock.monotonic_s()
        self.refused: dict[int, Holder] = {}

    def progress(self) -> None:
        """Say that the transfer moves; keeps the locks from being dropped."""
        self.progress_s = self._queue.clock.monotonic_s()

    async def acquire(self, changes: Sequence[Change], wait_s: float) -> None:
        """Wait up to `wait_s` for the locks of all changes; after that, take what is free.

        Changes whose locks others hold are listed in `refused` with the holder.
        """
        self._keys = keys_of(changes)
        if await self._enter(wait_s):
            return
        kept = []
        for index, change in enumerate(changes):
            holder = self._queue.holder_of(keys_of([change]))
            if holder is None:
                kept.append(change)
            else:
                self.refused[index] = holder
        self._keys = keys_of(kept)
        entered = await self._enter(0)
        assert entered, "nobody can have come in between: this task did not wait"

    async def retake(self, wait_s: float) -> Holder | None:
        """Hold again what a stall lost; return who has it when he does not let go in time."""
        if self.ticket is not None or await self._enter(wait_s):
            return None
        return self._queue.holder_of(self._keys)

    async def _enter(self, wait_s: float) -> bool:
        self.ticket = self._queue.request(self._keys, self._author, self)
        if self._queue.locks.is_granted(self.ticket):
            self.progress()
            return True
        if wait_s > 0:
            granted = self._queue.waiting(self.ticket)
            try:
                async with asyncio.timeout(wait_s):
                    await granted.wait()
                self.progress()
                return True
            except TimeoutError:
                pass
        self.drop()
        return False

    def drop(self) -> None:
        """Leave the queues."""
        if self.ticket is not None:
            self._queue.release(self.ticket)
            self.ticket = None


class LockQueue:
    """The operation locks of one volume. One event loop owns it."""

    def __init__(self, clock: Clock, *, stall_s: float) -> None:
        self.clock = clock
        self.locks = OperationLocks()
        self._stall_s = stall_s
        self._waiting: dict[Ticket, asyncio.Event] = {}
        self._holders: set[HeldLocks] = set()
        self._by_ticket: dict[Ticket, HeldLocks] = {}

    @asynccontextmanager
    async def hold(
        self, changes: Sequence[Change], author: Author, op_id: OpId, wait_s: float
    ) -> AsyncIterator[HeldLocks]:
        """Hold the locks of `changes` for the length of the block.

        A repetition takes over from the operation that it repeats, whose connection is gone: else
        it would be told that it is locked out by itself, and then the first one would commit.
        """
        held = HeldLocks(self, author, op_id)
        for other in self._holders:
            if other.operation == held.operation:
                other.drop()
        self._holders.add(held)
        try:
            await held.acquire(changes, wait_s)
            yield held
        finally:
            self._holders.discard(held)
            held.drop()

    def request(self, keys: frozenset[Key], author: Author, held: HeldLocks) -> Ticket:
        """Stand in all queues at once."""
        ticket = self.locks.request(keys, author, self.clock.monotonic_s())
        self._by_ticket[ticket] = held
        return ticket

    def waiting(self, ticket: Ticket) -> asyncio.Event:
        """Return what is set when the ticket is granted."""
        return self._waiting.setdefault(ticket, asyncio.Event())

    def release(self, ticket: Ticket) -> None:
        """Leave the queues and wake those who are first now."""
        self._waiting.pop(ticket, None)
        self._by_ticket.pop(ticket, None)
        for heir in self.locks.release(ticket):
            # Its time starts now, not when its task wakes: the sweep may come in between.
            self._by_ticket[heir].progress()
            granted = self._waiting.pop(heir, None)
            if granted is not None:
                granted.set()

    def holder_of(self, keys: frozenset[Key]) -> Holder | None:
        """Return who is first for one of the keys."""
        first = self.locks.first_of(keys)
        if first is None:
            return None
        now_s = self.clock.monotonic_s()
        last_s = self._by_ticket[first.ticket].progress_s
        return Holder(
            first.author.name,
            first.author.replica,
            since_s=now_s - first.since_s,
            expires_s=max(0.0, last_s + self._stall_s - now_s),
        )

    def sweep(self) -> int:
        """Drop the locks of operations whose transfer stands still; return how many that were."""
        oldest_s = self.clock.monotonic_s() - self._stall_s
        stalled = [
            held
            for held in self._holders
            if held.ticket is not None
            and self.locks.is_granted(held.ticket)
            and held.progress_s < oldest_s
        ]
        for held in stalled:
            held.drop()
        return len(stalled)
