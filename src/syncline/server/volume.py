"""A volume being served: its stores, its writer, its feed and its locks, wired together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from syncline.core.identity import VolumeId
from syncline.errors import NotFound
from syncline.ports.chunks import ChunkStore
from syncline.ports.clock import Clock
from syncline.ports.executor import Executor
from syncline.ports.metadata import MetadataStore, Volume
from syncline.server.chunk_index import ChunkIndex
from syncline.server.feed import Feed
from syncline.server.limits import Budget, Gate, Limits
from syncline.server.lock_service import UserLocks
from syncline.server.operation_locks import LockQueue
from syncline.server.user_locks import LockBook
from syncline.server.writer import Writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """What all volumes of a server share."""

    metadata: MetadataStore
    clock: Clock
    writer_thread: Executor
    workers: Executor
    limits: Limits


class ServedVolume:
    """One volume of a running server; `running` must be entered while calls are served."""

    def __init__(self, facts: Volume, chunks: ChunkStore, services: Services) -> None:
        self.facts = facts
        self.metadata = services.metadata
        self.clock = services.clock
        self.limits = services.limits
        self.workers = services.workers
        self.store = chunks
        self.chunks = ChunkIndex(services.metadata, facts.id, chunks)
        self.locks = LockQueue(services.clock, stall_s=services.limits.lock_stall_s)
        with services.metadata.read(facts.id) as reader:
            head, stored = reader.head(), reader.locks()
            book = LockBook(reader, services.clock, services.limits)
        self.feed = Feed(head, bytes_max=services.limits.ring_bytes_max)
        self.writer = Writer(services.metadata, facts.id, self.chunks, services.writer_thread, book)
        self.user_locks = UserLocks(
            book, stored, self.writer, self.feed, services.clock, services.limits
        )

    @property
    def id(self) -> VolumeId:
        """Return the volume's id."""
        return self.facts.id

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the writer and the sweep of stalled locks; at the end, finish what was submitted."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run(), name="writer")
            sweep = tasks.create_task(self._sweep(), name="lock-sweep")
            try:
                yield
            finally:
                sweep.cancel()
                self.user_locks.keep_times()
                self.writer.close()

    async def _sweep(self) -> None:
        every_s = min(1.0, self.limits.lock_stall_s / 4)
        while True:
            await asyncio.sleep(every_s)
            self.user_locks.sweep(every_s)
            stalled = self.locks.sweep()
            if stalled:
                logger.info("locks_dropped count=%d reason=stalled", stalled)


class VolumeSet:
    """The volumes of a server by name, and the gates that all of them share."""

    def __init__(self, volumes: list[ServedVolume], limits: Limits) -> None:
        self._by_name = {volume.facts.name: volume for volume in volumes}
        self.limits = limits
        self.stores = Gate(
            "STOREs and DELETEs", total_max=limits.stores_max, each_max=limits.stores_each_max
        )
        self.proposals = Budget("STOREs under way", bytes_max=limits.proposal_bytes_max)
        self.reads = Gate(
            "FETCHes, LISTs and STATs", total_max=limits.reads_max, each_max=limits.reads_each_max
        )
        self.watches = Gate(
            "WATCH streams", total_max=limits.watches_max, each_max=limits.watches_each_max
        )
        self.lock_waits = Gate(
            "LOCKs", total_max=limits.lock_waits_max, each_max=limits.lock_waits_each_max
        )
        # Apart from LOCKs: those who wait for a lock must not keep its holder from giving it back.
        self.unlocks = Gate(
            "UNLOCKs and RENEWs",
            total_max=limits.lock_waits_max,
            each_max=limits.lock_waits_each_max,
        )

    def find(self, name: str) -> ServedVolume:
        """Return a volume; raise NotFound with its name."""
        volume = self._by_name.get(name)
        if volume is None:
            raise NotFound(
                f"the server has no volume '{name[:64]}'", volume=name[:64], what="volume"
            )
        return volume

    def all(self) -> list[ServedVolume]:
        """Return all volumes in order of name."""
        return [self._by_name[name] for name in sorted(self._by_name)]
