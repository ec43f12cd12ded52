"""Holding user locks: a WATCH stream that renews their leases, and tells when one is lost.

H1  While it is connected, each progress on the stream renews the session's leases (a third of a
    lease apart); when it is not, the leases end by themselves.
H2  What the server says counts: a lock is lost when the table or the news of locks say so. A broken
    connection says nothing, so it is made again.
H3  A lost lock is told once, and never taken again on the way: its token is of the past.
H4  A lock that ends by what its holder does himself, who gives it back or deletes what it is on, is
    not lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

from syncline.client.steady import Backoff
from syncline.core.changes import Author, HeldToken
from syncline.core.identity import NO_REVISION, Revision
from syncline.core.table import Cursor
from syncline.core.user_locks import LockEffect, Owner
from syncline.errors import Invalid, SynclineError, Throttled, TimedOut, Unavailable
from syncline.ports.link import Committed, Heartbeat, LockingLink, Progress, WatchBegin, WatchEvent
from syncline.ports.locks import (
    LocatedLock,
    LockNews,
    LockTable,
    ToldLockChange,
    UnlockResult,
    UnlockTarget,
    UnlockWanted,
)

logger = logging.getLogger(__name__)

LEASE_S = 30.0
"""Three renewals fit in, and a holder that died keeps others out no longer than people wait."""

RENEWALS = 3
RELEASE_S = 5.0
"""How long a server that is away is waited for to give locks back; then their leases end them."""

Connect = Callable[[], Awaitable[LockingLink]]


@dataclass(frozen=True, slots=True)
class Loss:
    """A lock that is not held any more; `change` is what ended it, where the server said it."""

    lock: LocatedLock
    change: ToldLockChange | None


class Holding:
    """The locks of one session while somebody works under them."""

    def __init__(
        self,
        connect: Connect,
        owner: Owner,
        locks: Sequence[LocatedLock],
        *,
        lost: Callable[[Loss], None],
        is_bounded: bool,
        backoff: Backoff | None = None,
    ) -> None:
        """Hold `locks`; `is_bounded`: let them end when their life is over, else make it longer."""
        self._connect = connect
        self._owner = owner
        self._held = {HeldToken(each.lock.entry, each.lock.token): each for each in locks}
        self._tell = lost
        self._every_s = min(each.lock.lease_s for each in locks) / RENEWALS
        self._life_s = None if is_bounded else min(each.ends_s for each in locks)
        self._backoff = backoff or Backoff(most_s=min(5.0, self._every_s))
        self._head = Revision(0)
        self._is_releasing = False
        self._ended = asyncio.Event()
        # Counted over all streams: a life must not end because each of them was short.
        self._longer_s = asyncio.get_running_loop().time()
        self.is_connected = False
        """Whether it hears of losses now: the table of locks has come, and the stream is there."""

    @property
    def held(self) -> tuple[HeldToken, ...]:
        """Return the tokens that are not known to be lost."""
        return tuple(self._held)

    async def run(self) -> None:
        """Keep the leases alive until all are lost; cancel it to stop."""
        pauses = self._backoff.pauses()
        while self._held:
            try:
                link = await self._connect()
                try:
                    async for _ in self._events(link):
                        pauses = self._backoff.pauses()
                        if not self._held:
                            return
                finally:
                    await link.close()
            except SynclineError as error:
                # Whatever it is, it ends no lock (H2), nor what is done under one.
                logger.info("lock_watch_broken code=%s error=%r", error.code, error.message)
            await asyncio.sleep(next(pauses))

    async def release(self, link: LockingLink) -> None:
        """Give back what is held; one that was lost meanwhile is left as it is, and told.

        Why one is not there any more the stream says, where `run` goes on meanwhile.

        Raises TimeoutError when the server stays away; then the leases end the locks.
        """
        held = self.held
        if not held:
            return
        self._is_releasing = True
        targets = tuple(UnlockTarget(each.entry, each.token) for each in held)
        wanted = UnlockWanted(self._owner.author, self._owner.host, targets)
        pauses = self._backoff.pauses()
        is_first = True
        async with asyncio.timeout(RELEASE_S):
            while True:
                try:
                    results = await link.unlock(wanted)
                    break
                except (Unavailable, TimedOut, Throttled):
                    is_first = False
                    await asyncio.sleep(next(pauses))
        for each, result in zip(held, results, strict=True):
            # Of a repetition it says nothing: the first one may have done it.
            if not is_first or result.result is not UnlockResult.NOT_LOCKED:
                self._end(each)
        await self._hear_why()
        for each in self.held:
            self._lose(each, None)

    async def _hear_why(self) -> None:
        """Wait until the stream has told why those ended that are left; not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RELEASE_S if self.is_connected else 0):
                while self._held:
                    self._ended.clear()
                    await self._ended.wait()

    async def _events(self, link: LockingLink) -> AsyncGenerator[None, None]:
        """Take in what one stream tells; yield after each event."""
        begin = WatchBegin(
            self._owner.author,
            None,
            from_head=True,
            wants_locks=True,
            session=self._owner.session,
        )
        stream = link.watch(begin, self._signs(link))
        try:
            async for event in stream:
                match event:
                    case Committed(commit):
                        self._head = commit.revision
                    case Heartbeat(head):
                        self._head = head.revision
                    case LockTable(locks):
                        self._compare(locks)
                        self.is_connected = True
                    case LockNews(changes):
                        self._hear(changes)
                    case _:
                        pass
                yield
        finally:
            self.is_connected = False
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def _signs(self, link: LockingLink) -> AsyncIterator[Progress]:
        """Yield signs of life (H1), and now and then make the life of the locks longer."""
        loop = asyncio.get_running_loop()
        while True:
            if self._life_s is not None and loop.time() - self._longer_s > self._life_s / 4:
                await self._make_longer(link, self._life_s)
                self._longer_s = loop.time()
            yield Progress(Cursor(self._head or NO_REVISION, None), 0, 0)
            await asyncio.sleep(self._every_s)

    async def _make_longer(self, link: LockingLink, life_s: float) -> None:
        try:
            await link.renew(self._owner.author, self.held, life_s)
        except Invalid as error:
            # The server allows less than it did: the locks last as long as it said at first.
            logger.warning("lock_not_made_longer error=%r", error.message)
            self._life_s = None

    def _compare(self, locks: Sequence[LocatedLock]) -> None:
        there = {HeldToken(each.lock.entry, each.lock.token) for each in locks}
        for held in self.held:
            if held not in there and not self._is_releasing:
                self._lose(held, None)

    def _hear(self, changes: Sequence[ToldLockChange]) -> None:
        for change in changes:
            if change.effect is LockEffect.GRANTED:
                continue
            lock = change.lock.lock
            held = HeldToken(lock.entry, lock.token)
            if self._is_own_doing(change):
                self._end(held)
            else:
                self._lose(held, change)

    def _is_own_doing(self, change: ToldLockChange) -> bool:
        """Tell whether the holder himself ended a lock (H4)."""
        if change.by is None or change.by.replica != self._owner.author.replica:
            return False
        return change.effect is LockEffect.DELETED or (
            change.effect is LockEffect.UNLOCKED and self._is_releasing
        )

    def _end(self, held: HeldToken) -> LocatedLock | None:
        self._ended.set()
        return self._held.pop(held, None)

    def _lose(self, held: HeldToken, change: ToldLockChange | None) -> None:
        lock = self._end(held)
        if lock is not None:
            self._tell(Loss(lock, change))  # H3


async def follow_locks(
    connect: Callable[[], LockingLink], author: Author, backoff: Backoff | None = None
) -> AsyncGenerator[LockTable | LockNews, None]:
    """Yield the table of locks and what happens to them, for ever; the table again after a break.

    The first contact raises what it raises; after it, a server that is away is waited for.
    """
    wait = backoff or Backoff()
    pauses = wait.pauses()
    is_reached = False
    while True:
        link = connect()
        try:
            begin = WatchBegin(author, None, from_head=True, wants_locks=True)
            async with aclosing(_stream(link, begin)) as events:
                async for event in events:
                    pauses, is_reached = wait.pauses(), True
                    if isinstance(event, LockTable | LockNews):
                        yield event
        except (Unavailable, TimedOut, Throttled):
            if not is_reached:
                raise
        finally:
            await link.close()
        await asyncio.sleep(next(pauses))


async def _stream(link: LockingLink, begin: WatchBegin) -> AsyncGenerator[WatchEvent, None]:
    async for event in link.watch(begin, _silence()):
        yield event


async def _silence() -> AsyncIterator[Progress]:
    """Have nothing to say, for as long as the stream is there."""
    await asyncio.Event().wait()
    yield Progress(Cursor(NO_REVISION, None), 0, 0)
