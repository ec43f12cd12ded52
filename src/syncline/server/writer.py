"""The one writer of a volume: what waits is done together, in one session, with one sync.

W1  Jobs of a batch run in the order they came, each seeing what those before it did.
W2  Nobody is answered before the session is durable (G5), and commits are published in that order.
W3  A job that raises spoils the session: it fails, and the others run again without it. A session
    that cannot be opened or made durable fails for all who were in it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, cast

from syncline.core.identity import VolumeId
from syncline.errors import SynclineError, Unavailable
from syncline.ports.executor import Executor
from syncline.ports.metadata import MetadataStore, WriteSession
from syncline.server.chunk_index import ChunkIndex

logger = logging.getLogger(__name__)

R = TypeVar("R")

BATCH_MAX = 256
"""Jobs in one session: bounds how long the first of them waits for the last."""


class Participant(Protocol):
    """What follows sessions in the writer's thread, and must not keep what one did in vain."""

    def begin(self) -> None:
        """A session begins."""

    def undo(self) -> None:
        """The session came to nothing: take back all that its jobs did."""


@dataclass(slots=True)
class _Job(Generic[R]):
    work: Callable[[WriteSession], R]
    after: Callable[[R], None]
    done: asyncio.Future[R] | None


class Writer:
    """Runs jobs against the write session; `run` must be running for `submit` to end."""

    def __init__(
        self,
        metadata: MetadataStore,
        volume: VolumeId,
        chunks: ChunkIndex,
        thread: Executor,
        participant: Participant,
    ) -> None:
        self._metadata = metadata
        self._volume = volume
        self._chunks = chunks
        self._thread = thread
        self._participant = participant
        self._jobs: list[_Job[object]] = []
        self._news = asyncio.Event()
        self._is_closed = False

    async def submit(
        self, work: Callable[[WriteSession], R], after: Callable[[R], None] = lambda _: None
    ) -> R:
        """Run `work` in the writer's thread; return its result once it is durable.

        `after` is called with the result on the event loop, in the order of commits, even if the
        one who waits was cancelled meanwhile. The number of jobs is bounded by the callers' gate.
        """
        if self._is_closed:
            raise Unavailable("the server is stopping; try again when it is back")
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._jobs.append(cast("_Job[object]", _Job(work, after, done)))
        self._news.set()
        return await done

    def post(
        self, work: Callable[[WriteSession], R], after: Callable[[R], None] = lambda _: None
    ) -> None:
        """Have `work` run as `submit` does, for nobody who waits; a failure is logged alone.

        Does nothing when the server is stopping.
        """
        if not self._is_closed:
            self._jobs.append(cast("_Job[object]", _Job(work, after, None)))
            self._news.set()

    async def index_chunks(self) -> None:
        """Make chunks durable and known that no commit names yet, so that an upload can go on."""
        if self._chunks.pending_count:
            await self.submit(lambda _: None)

    async def run(self) -> None:
        """Serve jobs until `close`; what was submitted before it is still done."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._jobs:
                await self._serve(self._take())
            if self._is_closed:
                return

    def _take(self) -> list[_Job[object]]:
        batch, self._jobs = self._jobs[:BATCH_MAX], self._jobs[BATCH_MAX:]
        return batch

    def close(self) -> None:
        """Take no more jobs, and let `run` end after those it has."""
        self._is_closed = True
        self._news.set()

    async def _serve(self, batch: list[_Job[object]]) -> None:
        while True:
            try:
                results = await self._thread.run(self._commit, batch)
                break
            except _JobFailed as failure:
                _fail(failure.job, failure.error)
                batch = [job for job in batch if job is not failure.job]
            except SynclineError as error:
                for job in batch:
                    _fail(job, error)
                return
        for job, result in zip(batch, results, strict=True):
            job.after(result)
            if job.done is not None and not job.done.done():
                job.done.set_result(result)

    def _commit(self, batch: list[_Job[object]]) -> list[object]:
        """Do the whole batch in one session; chunks are durable before the rows that name them."""
        self._participant.begin()
        try:
            with self._metadata.write(self._volume) as session:
                results = [_work(job, session) for job in batch]
                indexed = self._chunks.index_pending(session)
        except BaseException:
            self._participant.undo()
            raise
        self._chunks.settle(indexed)
        return results


class _JobFailed(Exception):
    """Carries the error of one job out of the session that it spoiled."""

    def __init__(self, job: _Job[object], error: SynclineError) -> None:
        super().__init__(error.message)
        self.job = job
        self.error = error


def _work(job: _Job[object], session: WriteSession) -> object:
    try:
        return job.work(session)
    except SynclineError as error:
        raise _JobFailed(job, error) from error


def _fail(job: _Job[object], error: SynclineError) -> None:
    logger.warning("commit_failed code=%s", error.code)
    if job.done is not None and not job.done.done():
        job.done.set_exception(error)
