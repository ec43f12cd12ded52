"""A link that is as bad as a network can be: late, lost, cut in the middle, away for a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from syncline.compose.direct import DirectLink
from syncline.core.changes import Answer, Proposal
from syncline.core.identity import Digest, Revision
from syncline.core.names import RelPath
from syncline.errors import Unavailable
from syncline.ports.link import (
    ChunkSource,
    Located,
    Progress,
    ServerFacts,
    WatchBegin,
    WatchEvent,
)
from syncline.server.volume import ServedVolume
from tests.support.simulation.disk import Crashed
from tests.support.simulation.loop import Process


@dataclass
class Network:
    """Between one machine and the server."""

    seeded: random.Random
    most_s: float = 0.01
    loss: float = 0.0
    """How likely a call is lost, or a stream cut, at each of its steps."""
    is_up: bool = True

    async def travel(self) -> None:
        """Let a message travel; it may be lost, and the connection with it."""
        await asyncio.sleep(self.seeded.random() * self.most_s)
        if not self.is_up or self.seeded.random() < self.loss:
            raise Unavailable("the simulated network lost a message")


class SimulatedLink:
    """`ports.link.Link` over a network; the server may stop and come back meanwhile."""

    def __init__(self, volume: ServedVolume, server: Process, network: Network) -> None:
        self._link = DirectLink(volume)
        self._server = server
        self._network = network

    @contextmanager
    def _served(self) -> Iterator[None]:
        """Let a call break when the server died under it; the caller's own death goes through."""
        try:
            yield
        except Crashed as error:
            if self._server.is_dead:
                raise Unavailable("the simulated server died") from error
            raise

    async def hello(self) -> ServerFacts:
        await self._network.travel()
        facts = await self._link.hello()
        await self._network.travel()
        return facts

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        await self._network.travel()

        async def over_network(digest: Digest) -> bytes:
            await self._network.travel()
            return await source(digest)

        with self._served():
            answer = await self._link.store(proposal, over_network)
        await self._network.travel()
        return answer

    async def delete(self, proposal: Proposal) -> Answer:
        await self._network.travel()
        with self._served():
            answer = await self._link.delete(proposal)
        await self._network.travel()
        return answer

    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        await self._network.travel()
        async with aclosing(self._link.fetch(digests)) as chunks:
            while True:
                with self._served():
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                await self._network.travel()
                yield chunk

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        await self._network.travel()
        async with aclosing(self._link.watch(begin, progress)) as events:
            while True:
                with self._served():
                    event = await anext(events, None)
                if event is None:
                    return
                await self._network.travel()
                yield event

    async def list(
        self, path: RelPath, *, is_recursive: bool, at: Revision | None
    ) -> AsyncIterator[Located]:
        async with aclosing(self._link.list(path, is_recursive=is_recursive, at=at)) as found:
            async for located in found:
                yield located

    async def stat(self, paths: Sequence[RelPath], at: Revision | None) -> Sequence[Located | None]:
        await self._network.travel()
        return await self._link.stat(paths, at)

    async def close(self) -> None:
        await self._link.close()
