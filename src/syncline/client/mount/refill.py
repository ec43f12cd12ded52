"""Filling again what the server lacks of contents that this mount has (G8).

Model: a heartbeat says that chunks are damaged, a listing which files have them. Of those that are
placed here the newest state is stored once more, on its own revision: that changes nothing and
makes no commit, and the server asks for the chunks that it lacks.

R1  What is sent is what the server's own table says of an entry that local has alike; each chunk is
    checked against its digest when it is read. A file that does not hold its content is left alone.
R2  What nobody here can fill is tried again later and later: it costs the server a listing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from syncline.client.mount.batching import Batch
from syncline.client.mount.engine import LOCK_WAIT_S, Engine
from syncline.client.mount.mounted_file import MountedFile, mounted_file
from syncline.client.mount.send import Sender
from syncline.client.steady import ENDS_ALL, Backoff
from syncline.core.changes import Accepted, PutFile
from syncline.core.identity import EntryId
from syncline.core.names import RelPath
from syncline.errors import NoSpace, SynclineError, Unavailable
from syncline.ports.link import Link

logger = logging.getLogger(__name__)

DAMAGED_AT_ONCE = 10_000
"""Damaged files whose ids are in memory; more are found when these are filled."""

PAUSES = Backoff(first_s=30.0, most_s=86_400.0)


@dataclass(frozen=True, slots=True)
class Refilled:
    """What an attempt came to: files that were sent again, and those that could not be."""

    count: int = 0
    left: tuple[RelPath, ...] = ()


@dataclass(frozen=True, slots=True)
class _Held:
    """A damaged file that is whole here."""

    put: PutFile
    file: MountedFile


class Refiller:
    """Refills for one engine; `run` is a task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Refill whenever the server says that it lacks something, for ever."""
        damaged = self._engine.follower.damaged
        pauses = PAUSES.pauses()
        while True:
            if not damaged.is_set():
                await damaged.wait()
                pauses = PAUSES.pauses()
            if self._engine.halt is None:
                try:
                    await self.refill()
                except SynclineError as error:
                    logger.info("refill_broken code=%s error=%r", error.code, error.message)
            await asyncio.sleep(next(pauses))

    async def refill(self) -> Refilled:
        """Send again what the server lacks and this mount has; raise the link's errors, NoSpace."""
        async with self._turn:
            link = self._engine.follower.link
            if link is None:
                raise Unavailable("the server is not connected")
            damaged = await _damaged(link)
            left = [path for path, id in damaged if not await self._fill(link, path, id)]
            count = len(damaged) - len(left)
            if count:
                logger.warning("refilled files=%d left=%d", count, len(left))
            return Refilled(count, tuple(left))

    async def _fill(self, link: Link, path: RelPath, id: EntryId) -> bool:
        """Send one content again; tell whether the server has all of it now."""
        engine = self._engine
        held = await engine.lanes.thread.run(self._find, id)
        if held is None:
            return False
        parts = engine.parts
        sender = Sender(
            link,
            parts.author,
            parts.chunker,
            engine.contents,
            engine.phases.root.directory,
            engine.lanes.reads,
            LOCK_WAIT_S,
        )
        files = {held.put.id: held.file}
        try:
            answer = await sender.send(
                Batch((held.put,)), parts.ids.op(), files, is_confirmed=False, progress=_ignore
            )
        except (NoSpace, *ENDS_ALL):
            raise
        except SynclineError as error:
            logger.warning("not_refilled path='%s' code=%s", path, error.code)
            return False
        return isinstance(answer.outcomes[0], Accepted)

    def _find(self, id: EntryId) -> _Held | None:
        """Return how to send the content of an entry, if local has it as the table does (R1)."""
        with self._engine.parts.state.session() as session:
            known, seen = session.remote(id), session.local(id)
            if known is None or known.content is None or seen is None:
                return None
            if seen.state.content is None or seen.state.content.digest != known.content.digest:
                return None
            file = mounted_file(session, seen.state.place)
            if file is None:
                return None
            put = PutFile(
                id,
                known.revision,
                known.parent,
                known.name,
                known.mode,
                known.mtime_ns,
                known.content,
            )
            return _Held(put, file)


async def _damaged(link: Link) -> Sequence[tuple[RelPath, EntryId]]:
    listing = link.list(RelPath(), is_recursive=True, at=None)
    assert isinstance(listing, AsyncGenerator), "a stream is closed when it is left"
    found: list[tuple[RelPath, EntryId]] = []
    async with aclosing(listing):
        async for located in listing:
            if located.is_damaged:
                found.append((located.path, located.entry.id))
                if len(found) >= DAMAGED_AT_ONCE:
                    break
    return found


def _ignore(size: int) -> None:
    """Nobody looks at the progress of this."""
