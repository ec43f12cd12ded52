"""Streaming chunks from the server into a staged file: one part is written while the next comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from syncline.core.identity import Digest
from syncline.errors import ProtocolBroken, SynclineError
from syncline.ports.executor import Executor
from syncline.ports.link import Link

DIGESTS_MAX = 1024
"""Chunks asked for in one FETCH."""

WRITE_BYTES = 2 * 1024 * 1024
"""Content of a large file that is gathered before it is written; three times that is in memory."""

Ready = asyncio.Queue[list[bytes] | None]
"""Chunks on their way to the writer; None at the end."""


@asynccontextmanager
async def fetching(link: Link, digests: Sequence[Digest]) -> AsyncIterator[AsyncIterator[bytes]]:
    """Fetch chunks; the call is over at the end of the block, also when not all of it was read."""
    chunks = link.fetch(digests)
    try:
        yield chunks
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


class Sink(Protocol):
    """What takes the chunks of one content."""

    def wanted(self, limit: int) -> list[Digest]:
        """Return the next chunks that must come from the server, in order; quick."""

    def advance(self, chunks: Sequence[bytes]) -> None:
        """Write the next chunks; blocks."""


async def stream(
    link: Link, executor: Executor, sink: Sink, arrived: Callable[[int], None]
) -> None:
    """Write all that the sink wants; called again, go on after the last chunk that was written.

    Tells `arrived` the size of each chunk that came. Raises the link's errors, after what came
    before them was written, and what the sink raises.
    """
    while wanted := sink.wanted(DIGESTS_MAX):
        ready: Ready = asyncio.Queue(1)
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(_write(executor, sink, ready))
                broken = await _receive(link, wanted, ready, arrived)
                # Not left to the group: one that fails at its end leaves this task marked as
                # cancelled, which nobody did.
                await asyncio.wait((writer,))
        except ExceptionGroup as errors:
            # Only the writer raises, and only one thing.
            raise errors.exceptions[0] from errors
        if broken is not None:
            raise broken


async def _write(executor: Executor, sink: Sink, ready: Ready) -> None:
    while (chunks := await ready.get()) is not None:
        await executor.run(sink.advance, chunks)


async def _receive(
    link: Link, wanted: Sequence[Digest], ready: Ready, arrived: Callable[[int], None]
) -> SynclineError | None:
    """Hand over chunks as they come; return what ended the call early.

    An error is returned and not raised, so that the writer finishes what it was given.
    """
    chunks: list[bytes] = []
    size = count = 0
    broken: SynclineError | None = None
    try:
        async with fetching(link, wanted) as coming:
            async for chunk in coming:
                chunks.append(chunk)
                size += len(chunk)
                count += 1
                arrived(len(chunk))
                if size >= WRITE_BYTES:
                    await ready.put(chunks)
                    chunks, size = [], 0
    except SynclineError as error:
        broken = error
    if broken is None and count != len(wanted):
        broken = ProtocolBroken("the server sent another number of chunks than asked for")
    await ready.put(chunks)
    await ready.put(None)
    return broken
