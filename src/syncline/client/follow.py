"""WATCH for tools: every commit after a revision, with paths, for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import assert_never

from syncline.client.steady import Backoff
from syncline.core.changes import Author
from syncline.core.identity import Revision
from syncline.core.table import Cursor
from syncline.errors import (
    CursorExpired,
    NotFound,
    ProtocolBroken,
    Throttled,
    TimedOut,
    Unavailable,
)
from syncline.ports.link import (
    Committed,
    Heartbeat,
    Link,
    Progress,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LockNews, LockTable

SILENCE_S = 30.0
"""A server sends heartbeats more often than this; a link silent for longer is taken for dead."""

Connect = Callable[[], Awaitable[Link]]


async def follow(
    connect: Connect,
    *,
    author: Author,
    since: Revision | None = None,
    backoff: Backoff | None = None,
    silence_s: float = SILENCE_S,
) -> AsyncGenerator[Committed, None]:
    """Yield each commit after revision `since`, in order, once; from the head on when it is None.

    Goes on over broken connections and server restarts from the last commit it yielded; each link
    that `connect` gives is closed here. The first contact raises what it raises; after it,
    Unavailable, Throttled and TimedOut are waited out for ever.

    Raises NotFound for a `since` past the head, CursorExpired when the server's history does not
    hold the cursor any more (cut, or another history after a restored backup).
    """
    wait = backoff or Backoff()
    cursor: Cursor | None = None
    pauses = wait.pauses()
    while True:
        try:
            link = await connect()
            try:
                if cursor is None:
                    cursor = await _start(link, since)
                async with aclosing(_events(link, author, cursor, silence_s)) as events:
                    async for event in events:
                        pauses = wait.pauses()
                        if isinstance(event, Committed):
                            cursor = Cursor(event.commit.revision, event.commit.id)
                            yield event
                        elif event.head.revision == cursor.revision:
                            # From here on the cursor tells another history from this one.
                            cursor = Cursor(cursor.revision, event.head.commit_id)
            finally:
                await link.close()
        except (Unavailable, Throttled, TimedOut):
            if cursor is None:
                raise
        await asyncio.sleep(next(pauses))


async def _start(link: Link, since: Revision | None) -> Cursor:
    """Return the cursor to begin with; the head itself, so that a break before the first commit
    loses none."""
    head = (await link.hello()).head
    if since is None or since == head.revision:
        return Cursor(head.revision, head.commit_id)
    if since > head.revision:
        raise NotFound(
            f"revision {since} is not there yet; the head is {head.revision}",
            revision=str(since),
            head=str(head.revision),
            what="revision",
        )
    return Cursor(since, None)


async def _events(
    link: Link, author: Author, cursor: Cursor, silence_s: float
) -> AsyncGenerator[Committed | Heartbeat, None]:
    """Yield what one connection gives, checked to be gapless (G7)."""
    begin = WatchBegin(author, cursor, wants_paths=True)
    position = cursor.revision
    quiet = _Quiet()
    stream = link.watch(begin, quiet)
    try:
        while True:
            event = await _next(stream, silence_s)
            match event:
                case Committed():
                    if event.commit.revision != position + 1:
                        raise ProtocolBroken(
                            f"revision {event.commit.revision} came after {position}"
                        )
                    position = event.commit.revision
                    yield event
                case Heartbeat():
                    yield event
                case SnapshotBegin() | SnapshotPage() | SnapshotEnd():
                    raise CursorExpired(
                        f"the server's history does not go on from revision {position}: it was "
                        "cut, or the server has another history now; list the volume and watch "
                        "from its head",
                        revision=str(position),
                    )
                case LockTable() | LockNews():
                    raise ProtocolBroken("the server tells of locks that nobody asked for")
                case _:
                    assert_never(event)
    finally:
        quiet.end()
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


async def _next(stream: AsyncIterator[WatchEvent], silence_s: float) -> WatchEvent:
    try:
        async with asyncio.timeout(silence_s):
            return await anext(stream)
    except TimeoutError as error:
        raise Unavailable(f"the server said nothing for {silence_s:g} s") from error
    except StopAsyncIteration as error:
        raise Unavailable("the server ended the stream") from error


class _Quiet:
    """The progress of a tool: none, until the stream ends."""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    def __aiter__(self) -> _Quiet:
        return self

    async def __anext__(self) -> Progress:
        await self._ended.wait()
        raise StopAsyncIteration

    def end(self) -> None:
        """Let whoever waits for progress go."""
        self._ended.set()
