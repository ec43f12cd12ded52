"""A link without a wire: the server's use cases called in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from syncline import __version__
from syncline.core.bodies import ChunkBody
from syncline.core.changes import Answer, Author, HeldToken, Outcome, Proposal
from syncline.core.identity import Digest, Revision
from syncline.core.names import RelPath
from syncline.ports.link import (
    LOCKS,
    PROTOCOL,
    PROTOCOL_OLDEST,
    ChunkSource,
    Committed,
    Located,
    Progress,
    ServerFacts,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LeaseLeft, LocatedLock, LockWanted, Unlocked, UnlockWanted
from syncline.server.feed import FeedItem, WithPaths
from syncline.server.fetch import fetch_chunks
from syncline.server.listing import listing, stat
from syncline.server.store import delete, store
from syncline.server.volume import ServedVolume
from syncline.server.watch import watch


class DirectLink:
    """Implements `ports.link.Link` on a volume that runs in this process."""

    def __init__(self, volume: ServedVolume) -> None:
        self._volume = volume

    async def hello(self) -> ServerFacts:
        """Return the facts of the volume."""
        volume = self._volume
        return ServerFacts(
            PROTOCOL,
            PROTOCOL_OLDEST,
            __version__,
            frozenset({LOCKS}),
            volume.id,
            volume.facts.name,
            volume.feed.head,
        )

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        """Carry out a STORE."""
        return await store(self._volume, proposal, _Upload(source))

    async def delete(self, proposal: Proposal) -> Answer:
        """Carry out a DELETE."""
        return await delete(self._volume, proposal)

    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        """Yield chunks in the order asked."""
        async with aclosing(fetch_chunks(self._volume, digests)) as batches:
            async for batch in batches:
                for data in batch:
                    yield data

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        """Yield what a watcher gets; what it says of its progress is of no use here.

        Nothing can be cut between the two ends: while it takes what comes, a heartbeat at the
        least, it lives, and its leases are renewed by that.
        """
        async with aclosing(watch(self._volume, begin)) as events:
            async for event in events:
                if begin.session is not None:
                    self._volume.user_locks.renew_session(begin.author, begin.session)
                match event:
                    case FeedItem():
                        yield Committed(
                            event.commit, (), event.inline if begin.wants_inline else {}
                        )
                    case WithPaths():
                        yield Committed(event.commit, event.changes, {})
                    case _:
                        yield event

    async def list(
        self, path: RelPath, *, is_recursive: bool, at: Revision | None
    ) -> AsyncIterator[Located]:
        """Yield what is at and below a path."""
        pages = listing(self._volume, path, is_recursive=is_recursive, at=at)
        async with aclosing(pages):
            async for page in pages:
                for located in page.entries:
                    yield located

    async def stat(self, paths: Sequence[RelPath], at: Revision | None) -> Sequence[Located | None]:
        """Return what is at each path."""
        _, found = await stat(self._volume, paths, at)
        return found

    async def lock(self, wanted: LockWanted) -> Sequence[LocatedLock]:
        """Lock all targets or none."""
        return await self._volume.user_locks.lock(wanted)

    async def renew(
        self, author: Author, tokens: Sequence[HeldToken], ttl_s: float = 0.0
    ) -> Sequence[LeaseLeft | None]:
        """Renew leases; None where a lock is lost."""
        return await self._volume.user_locks.renew(author, tokens, ttl_s)

    async def unlock(self, wanted: UnlockWanted) -> Sequence[Unlocked]:
        """Unlock all targets, or none when one is another's."""
        return await self._volume.user_locks.unlock(wanted)

    async def locks(self, path: RelPath) -> AsyncIterator[LocatedLock]:
        """Yield the locks on a path, below it and above it, by path."""
        volume = self._volume
        found = await volume.user_locks.listing(volume.metadata, volume.id, volume.workers, path)
        for located in found:
            yield located

    async def close(self) -> None:
        """Let other tasks run; there is no connection."""
        await asyncio.sleep(0)


class _Upload:
    """The client's end of a STORE, asked directly."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source

    async def grant(self, outcomes: Sequence[Outcome]) -> None:
        """Need nothing: the answer will say it again."""

    async def alive(self) -> None:
        """Need nothing: nobody waits for a message."""

    async def request(self, digests: Sequence[Digest]) -> AsyncIterator[ChunkBody]:
        """Yield the chunks."""
        for digest in digests:
            yield await self._source(digest)
