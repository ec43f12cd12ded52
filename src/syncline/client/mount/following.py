"""The WATCH stream of a mount: connects for ever, and hands over what the server tells, in order.

F1  Events of a new stream come only after all of the stream before were applied: a stream begins at
    the cursor, and the cursor moves when events are applied.
F2  At most a few events wait to be taken; then the stream stands still, and the server with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from syncline.client.holding import LEASE_S, RENEWALS
from syncline.client.mount.locks import mount_session
from syncline.client.steady import Backoff
from syncline.core.changes import Author
from syncline.core.table import Cursor, Head
from syncline.errors import SynclineError, Unavailable
from syncline.ports.link import (
    LOCKS,
    Committed,
    Heartbeat,
    Link,
    LockingLink,
    Progress,
    ServerFacts,
    SnapshotBegin,
    SnapshotEnd,
    WatchBegin,
    WatchEvent,
)

logger = logging.getLogger(__name__)

EVENTS_MAX = 16
SILENCE_S = 30.0
"""A server sends heartbeats more often than this; a link silent for longer is taken for dead."""

PROGRESS_S = 1.0

RENEW_S = LEASE_S / RENEWALS - PROGRESS_S
"""How long a mount with locks keeps silent at most: each progress renews their leases."""

Connect = Callable[[], Awaitable[LockingLink]]


@dataclass(frozen=True, slots=True)
class Connected:
    """A stream begins; `facts` is what the server says of itself and of the volume."""

    link: LockingLink
    facts: ServerFacts


FeedEvent = Connected | WatchEvent


class Follower:
    """Follows one volume; `run` is a task, the rest is called by the control task."""

    def __init__(
        self,
        connect: Connect,
        author: Author,
        wake: Callable[[], None],
        *,
        backoff: Backoff | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.link: LockingLink | None = None
        self.head: Head | None = None
        self.error: SynclineError | None = None
        self.damaged = asyncio.Event()
        """Set while the server says that it lacks chunks."""
        self._connect = connect
        self._author = author
        self._wake = wake
        self._backoff = backoff or Backoff()
        self._silence_s = silence_s
        self._events: asyncio.Queue[FeedEvent] = asyncio.Queue(EVENTS_MAX)
        self._allowed = asyncio.Event()
        self._is_broken = False
        self._is_well = False
        self._wants_snapshot = False
        self._deadline: asyncio.Timeout | None = None
        self._progress = _Progress()

    # -- for the control task --------------------------------------------------

    def take(self) -> list[FeedEvent]:
        """Return what came, in order; `applied` follows when it is recorded."""
        return [self._events.get_nowait() for _ in range(self._events.qsize())]

    def applied(self, count: int) -> None:
        """Say that so many events are recorded, or will never be."""
        for _ in range(count):
            self._events.task_done()

    def allow(self) -> None:
        """Connect, and reconnect, from now on."""
        self._allowed.set()

    def hold(self) -> None:
        """Stay without a connection until `allow`."""
        self._allowed.clear()
        self.restart()

    def restart(self) -> None:
        """Begin a new stream, from the cursor of then."""
        self._is_broken = True
        if self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())

    def thrive(self) -> None:
        """Say that what came was good: the next attempt comes soon."""
        self._is_well = True

    def repair(self) -> None:
        """Begin anew with the whole table, if the server's history is still the one seen here."""
        self._wants_snapshot = True
        self.restart()

    def fail(self, error: SynclineError) -> None:
        """Begin a new stream, because of what this one told."""
        self._note(error)
        self.restart()

    def tell(self, progress: Progress) -> None:
        """Tell the server how far this mount is; at most once a second."""
        self._progress.tell(progress)

    def renew(self, *, is_holding: bool) -> None:
        """Say whether there are locks to renew: then the server hears of this mount often."""
        self._progress.renew(is_holding=is_holding)

    # -- the task ----------------------------------------------------------------

    async def run(self, cursor: Callable[[], Cursor | None]) -> None:
        """Follow for ever; `cursor` says where a stream begins."""
        pauses = self._backoff.pauses()
        self._is_well = False
        while True:
            await self._allowed.wait()
            await self._events.join()  # F1
            try:
                link = await self._connect()
                try:
                    async for event in self._stream(link, cursor):
                        await self._events.put(event)
                        self._wake()
                finally:
                    self.link = None
                    await link.close()
                    self._wake()
            except SynclineError as error:
                self._note(error)
            if self._is_well:
                pauses, self._is_well = self._backoff.pauses(), False
            await asyncio.sleep(next(pauses))

    async def _stream(
        self, link: LockingLink, cursor: Callable[[], Cursor | None]
    ) -> AsyncGenerator[FeedEvent, None]:
        facts = await link.hello()
        self._is_broken = False
        self.link, self.head = link, facts.head
        if self.error is not None:
            logger.info("reconnected head=%d", facts.head.revision)
        self.error = None
        yield Connected(link, facts)
        at = cursor()
        if self._wants_snapshot and at is not None and await self._goes_on(link, at):
            at = None
        has_locks = LOCKS in facts.capabilities
        session = mount_session(self._author) if has_locks else None
        begin = WatchBegin(
            self._author, at, wants_inline=True, wants_locks=has_locks, session=session
        )
        progress = self._progress.stream()
        stream = link.watch(begin, progress)
        try:
            while not self._is_broken:
                event = await self._next(stream)
                if event is None:
                    return
                self._note_head(event)
                yield event
        finally:
            progress.end()
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def _goes_on(self, link: Link, at: Cursor) -> bool:
        """Tell whether the server's history still holds a cursor.

        Only then may a whole table take the place of the one that is here: a server that was
        restored from a backup must say so, and not be believed.
        """
        progress = self._progress.stream()
        stream = link.watch(WatchBegin(self._author, at), progress)
        try:
            return not isinstance(await self._next(stream), SnapshotBegin)
        finally:
            progress.end()
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def _next(self, stream: AsyncIterator[WatchEvent]) -> WatchEvent | None:
        """Return the next event; None when the control task wants another stream."""
        try:
            async with asyncio.timeout(self._silence_s) as self._deadline:
                return await anext(stream)
        except TimeoutError as error:
            if self._is_broken:
                return None
            raise Unavailable(f"the server said nothing for {self._silence_s:g} s") from error
        except StopAsyncIteration as error:
            raise Unavailable("the server ended the stream") from error
        finally:
            self._deadline = None

    def _note_head(self, event: WatchEvent) -> None:
        match event:
            case Committed(commit):
                head = Head(commit.revision, commit.id, commit.table_digest)
            case SnapshotEnd(head):
                self._wants_snapshot = False
            case Heartbeat(head, has_damaged):
                if has_damaged:
                    self.damaged.set()
                else:
                    self.damaged.clear()
            case _:
                return
        if self.head is None or head.revision >= self.head.revision:
            self.head = head

    def _note(self, error: SynclineError) -> None:
        if self.error is None or type(self.error) is not type(error):
            # On change only: a server that is away for days fills no log.
            logger.warning("disconnected code=%s error=%r", error.code, error.message)
        self.error = error


class _Progress:
    """The newest progress, for whatever stream there is."""

    def __init__(self) -> None:
        self._newest: Progress | None = None
        self._is_holding = False
        self._streams: set[_ProgressStream] = set()

    def tell(self, progress: Progress) -> None:
        if progress != self._newest:
            self._newest = progress
            for stream in self._streams:
                stream.changed.set()

    def renew(self, *, is_holding: bool) -> None:
        if is_holding != self._is_holding:
            self._is_holding = is_holding
            # Who waits for a change alone would not notice.
            for stream in self._streams if self._newest is not None else ():
                stream.changed.set()

    @property
    def silence_s(self) -> float | None:
        """Return how long a stream may say nothing; None: for ever."""
        return RENEW_S if self._is_holding and self._newest is not None else None

    def stream(self) -> _ProgressStream:
        stream = _ProgressStream(self)
        if self._newest is not None:
            stream.changed.set()
        self._streams.add(stream)
        return stream

    def newest(self) -> Progress:
        assert self._newest is not None, "a stream was woken without news"
        return self._newest

    def leave(self, stream: _ProgressStream) -> None:
        self._streams.discard(stream)


class _ProgressStream:
    """What one stream sends; it says nothing while nothing changes and no lock is held."""

    def __init__(self, progress: _Progress) -> None:
        self.changed = asyncio.Event()
        self._progress = progress
        self._is_ended = False
        self._is_first = True

    def __aiter__(self) -> _ProgressStream:
        return self

    async def __anext__(self) -> Progress:
        if not self._is_first:
            await asyncio.sleep(PROGRESS_S)
        self._is_first = False
        with suppress(TimeoutError):
            async with asyncio.timeout(self._progress.silence_s):
                await self.changed.wait()
        self.changed.clear()
        if self._is_ended:
            raise StopAsyncIteration
        return self._progress.newest()

    def end(self) -> None:
        """Let go; nothing more is sent."""
        self._is_ended = True
        self._progress.leave(self)
        self.changed.set()
