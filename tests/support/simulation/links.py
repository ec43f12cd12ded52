"""A link that is as bad as a network can be: late, lost, cut in the middle, away for a while."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from syncline.compose.direct import DirectLink
from syncline.core.bodies import ChunkBody
from syncline.core.changes import Answer, Author, HeldToken, Proposal, Refusal
from syncline.core.identity import Digest, Revision
from syncline.core.names import RelPath
from syncline.errors import SynclineError, Unavailable
from syncline.ports.link import (
    ChunkSource,
    Located,
    Progress,
    ServerFacts,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LeaseLeft, LocatedLock, LockWanted, Unlocked, UnlockWanted
from syncline.server.volume import ServedVolume
from tests.support.simulation.disk import Crashed
from tests.support.simulation.loop import Process
from tests.support.simulation.met import (
    ANSWER_LOST,
    LOCKED_BY_USER,
    REPEATED,
    REPLAYED,
    REQUEST_LOST,
    STALLED,
    STREAM_CUT,
    refusal,
)


@dataclass
class Network:
    """Between one machine and the server."""

    seeded: random.Random
    most_s: float = 0.01
    loss: float = 0.0
    """How likely a call is lost, or a stream cut, at each of its steps."""
    is_up: bool = True
    trouble: NetworkTrouble | None = None
    """What comes on top of that, from a stream of its own."""
    ears: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear while what the server tells by itself waits; what it is asked is answered."""
    met: Counter[str] = field(default_factory=Counter)
    repairs: int = 0
    """How often a whole table was asked for by a mount that had a cursor."""

    def __post_init__(self) -> None:
        self.ears.set()

    async def travel(self, kind: str = REQUEST_LOST) -> None:
        """Let a message travel; it may be lost, and the connection with it."""
        await asyncio.sleep(self.seeded.random() * self.most_s)
        is_cut = self.trouble is not None and self.trouble.is_cut()
        if not self.is_up or self.seeded.random() < self.loss or is_cut:
            self.met[kind] += 1
            raise Unavailable("the simulated network lost a message")


@dataclass
class NetworkTrouble:
    """How bad a network is beyond losing messages; `on_stall` and `on_fetch` tell of moments."""

    seeded: random.Random
    repeats: float
    stalls: float
    cuts: float
    on_stall: Callable[[Proposal], None]
    on_fetch: Callable[[Sequence[Digest]], None]

    def is_cut(self) -> bool:
        """Tell whether the connection breaks now."""
        return self.seeded.random() < self.cuts

    def is_repeated(self) -> bool:
        """Tell whether a request comes to the server twice."""
        return self.seeded.random() < self.repeats

    def stall_s(self) -> float:
        """Return how long a piece of content stands still."""
        return self.seeded.uniform(5.0, 45.0) if self.seeded.random() < self.stalls else 0.0


class SimulatedLink:
    """`ports.link.Link` over a network; the server may stop and come back meanwhile."""

    def __init__(
        self,
        volume: ServedVolume,
        server: Process,
        network: Network,
        has_cursor: Callable[[], bool],
    ) -> None:
        self._link = DirectLink(volume)
        self._volume = volume
        self._has_cursor = has_cursor
        self._server = server
        self._network = network

    @contextmanager
    def _served(self) -> Iterator[None]:
        """Let a call break when the server died under it; the caller's own death goes through."""
        try:
            yield
        except (Crashed, BaseExceptionGroup) as error:
            # Of tasks of the server it comes in a group.
            other = error.split(Crashed)[1] if isinstance(error, BaseExceptionGroup) else None
            if self._server.is_dead and other is None:
                raise Unavailable("the simulated server died") from error
            raise

    async def hello(self) -> ServerFacts:
        await self._network.travel()
        facts = await self._link.hello()
        await self._network.travel(ANSWER_LOST)
        return facts

    async def lock(self, wanted: LockWanted) -> Sequence[LocatedLock]:
        await self._network.travel()
        with self._served():
            granted = await self._link.lock(wanted)
        await self._network.travel(ANSWER_LOST)
        return granted

    async def renew(
        self, author: Author, tokens: Sequence[HeldToken], ttl_s: float = 0.0
    ) -> Sequence[LeaseLeft | None]:
        await self._network.travel()
        with self._served():
            return await self._link.renew(author, tokens, ttl_s)

    async def unlock(self, wanted: UnlockWanted) -> Sequence[Unlocked]:
        await self._network.travel()
        with self._served():
            unlocked = await self._link.unlock(wanted)
        await self._network.travel(ANSWER_LOST)
        return unlocked

    async def locks(self, path: RelPath) -> AsyncIterator[LocatedLock]:
        await self._network.travel()
        with self._served():
            found = [each async for each in self._link.locks(path)]
        for each in found:
            yield each

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        await self._network.travel()

        async def over_network(digest: Digest) -> ChunkBody:
            await self._stall(proposal)
            await self._network.travel()
            return await source(digest)

        return await self._answered(proposal, lambda: self._link.store(proposal, over_network))

    async def delete(self, proposal: Proposal) -> Answer:
        await self._network.travel()
        return await self._answered(proposal, lambda: self._link.delete(proposal))

    async def _stall(self, proposal: Proposal) -> None:
        trouble = self._network.trouble
        stall_s = trouble.stall_s() if trouble is not None else 0.0
        if trouble is not None and stall_s:
            self._network.met[STALLED] += 1
            trouble.on_stall(proposal)
            await asyncio.sleep(stall_s)

    async def _answered(
        self, proposal: Proposal, ask: Callable[[], Coroutine[object, object, Answer]]
    ) -> Answer:
        """Ask, maybe twice, and let the answer travel."""
        met, trouble = self._network.met, self._network.trouble
        try:
            with self._served():
                answer = await ask()
            if trouble is not None and trouble.is_repeated():
                await self._repeat(proposal, answer, ask)
        except SynclineError as error:
            met[refusal(error.code)] += 1
            raise
        for outcome in answer.outcomes:
            if isinstance(outcome, Refusal):
                met[_kind_of(outcome)] += 1
        await self._network.travel(ANSWER_LOST)
        return answer

    async def _repeat(
        self,
        proposal: Proposal,
        first: Answer,
        ask: Callable[[], Coroutine[object, object, Answer]],
    ) -> None:
        """Ask again, as after an answer that was lost; a commit is made once (G6)."""
        self._network.met[REPEATED] += 1
        with self._volume.metadata.read(self._volume.id) as reader:
            if reader.answer(proposal.author.replica, proposal.op_id) is None:
                return
        with self._served():
            again = await ask()
        self._network.met[REPLAYED] += again.is_replay
        if (again.revision, _codes(again)) != (first.revision, _codes(first)):
            raise AssertionError(f"a repeated STORE was answered {again}, and before {first}")

    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        await self._network.travel()
        trouble = self._network.trouble
        if trouble is not None:
            trouble.on_fetch(digests)
        async with aclosing(self._link.fetch(digests)) as chunks:
            while True:
                with self._served():
                    chunk = await anext(chunks, None)
                if chunk is None:
                    return
                await self._network.travel(STREAM_CUT)
                yield chunk

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        await self._network.travel()
        self._network.repairs += begin.cursor is None and self._has_cursor()
        async with aclosing(self._link.watch(begin, progress)) as events:
            while True:
                with self._served():
                    event = await anext(events, None)
                if event is None:
                    return
                await self._network.ears.wait()
                await self._network.travel(STREAM_CUT)
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


def _kind_of(outcome: Refusal) -> str:
    """Return the name under which a refusal is counted."""
    if outcome.holder is not None and outcome.holder.entry is not None:
        return LOCKED_BY_USER
    return refusal(outcome.code.value)


def _codes(answer: Answer) -> list[str]:
    return [
        each.code.value if isinstance(each, Refusal) else f"revision {each.revision}"
        for each in answer.outcomes
    ]
