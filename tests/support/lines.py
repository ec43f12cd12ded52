"""A line: the way of one mount to a server in this process, which can be cut, and tells what went.

It has no wire: use cases of the server are called directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from syncline.compose.direct import DirectLink
from syncline.core.bodies import ChunkBody, plain_size
from syncline.core.changes import Answer, Proposal
from syncline.core.identity import Digest
from syncline.errors import Unavailable
from syncline.ports.link import ChunkSource, Link, Progress, WatchBegin, WatchEvent
from syncline.server.volume import ServedVolume

T = TypeVar("T")


@dataclass
class Line:
    """The way of one mount to the server; notes what passes, and can be cut."""

    volume: ServedVolume
    proposals: list[Proposal] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """Sizes of the pieces that were uploaded, those inside of proposals too."""
    fetched: list[int] = field(default_factory=list)
    """Sizes of the chunks that were asked for; what the feed brings along is not among them."""
    before_chunk: Callable[[], None] | None = None
    """Called before each chunk that is fetched."""
    is_cut: bool = False
    _mended: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: set[asyncio.Timeout] = field(default_factory=set)

    def cut(self) -> None:
        """Break the connection, and let none be made."""
        self.is_cut = True
        self._mended.clear()
        for each in self._waiting:
            each.reschedule(asyncio.get_running_loop().time())

    def mend(self) -> None:
        """Let connections be made again."""
        self.is_cut = False
        self._mended.set()

    async def connect(self) -> Link:
        """Return a link; a caller waits while the line is cut, as for a host that is silent."""
        if self.is_cut:
            await self._mended.wait()
        return LineLink(self.volume, self)

    def check(self) -> None:
        """Raise Unavailable while it is cut."""
        if self.is_cut:
            raise Unavailable("the line is cut")

    async def unless_cut(self, awaited: Awaitable[T]) -> T:
        """Return what is awaited; raise Unavailable when the line is cut before."""
        try:
            async with asyncio.timeout(None) as waiting:
                self._waiting.add(waiting)
                return await awaited
        except TimeoutError as error:
            raise Unavailable("the line is cut") from error
        finally:
            self._waiting.discard(waiting)


class LineLink(DirectLink):
    """A link that lives as long as its line."""

    def __init__(self, volume: ServedVolume, line: Line) -> None:
        super().__init__(volume)
        self._line = line

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        """Carry out a STORE; note what it uploads."""
        self._line.check()
        self._line.proposals.append(proposal)
        self._line.sent.extend(map(len, proposal.inline.values()))

        async def noted(digest: Digest) -> ChunkBody:
            self._line.check()
            piece = await source(digest)
            self._line.sent.append(plain_size(piece))
            return piece

        return await super().store(proposal, noted)

    async def delete(self, proposal: Proposal) -> Answer:
        """Carry out a DELETE."""
        self._line.check()
        self._line.proposals.append(proposal)
        return await super().delete(proposal)

    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        """Yield chunks; note their sizes."""
        async for chunk in super().fetch(digests):
            self._line.check()
            if self._line.before_chunk is not None:
                self._line.before_chunk()
            self._line.fetched.append(len(chunk))
            yield chunk

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        """Yield what a watcher gets until the line is cut."""
        self._line.check()
        events = super().watch(begin, progress)
        assert isinstance(events, AsyncGenerator)
        async with aclosing(events):
            while True:
                event = await self._line.unless_cut(anext(events))
                self._line.check()
                yield event
