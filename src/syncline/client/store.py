"""STORE: bring local files, directories and links into a volume, as they are right now.

Model: a reader walks and digests ahead, in slices of bounded size; what differs from the server is
gathered into batches; a few batches travel at once.

B1  A directory is committed before anything in it is proposed: a batch waits for those that make
    the directories it needs.
B2  What the server refuses because its table moved on is looked at and planned again, some times.
B3  A batch that a broken connection ended is proposed again as it was, with its op id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress

from syncline.client.local import is_local_directory, split_local
from syncline.client.planning import another_kind, is_same, obstacle
from syncline.client.reading import Ready, prepare
from syncline.client.shipping import Shipper
from syncline.client.steady import RETRY_S, Backoff, Steady
from syncline.client.survey import Parts, Survey, ancestors
from syncline.client.targets import Source
from syncline.client.walk import Found, Lost, Step, take_slice, walk
from syncline.core.changes import Author
from syncline.core.entries import Kind
from syncline.core.identity import Revision
from syncline.core.manifests import INLINE_BYTES_MAX
from syncline.core.names import escape
from syncline.errors import Invalid, NotFound
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.ids import Ids
from syncline.ports.link import Link
from syncline.ports.report import PathOutcome, Report, Result

READ_AHEAD = 3
"""Slices that are read or wait while batches travel: at most 4 MiB and one file each."""

BATCHES_AT_ONCE = 3
BATCH_CHANGES_MAX = 1024
BATCH_WEIGHT_MAX = 4 * 1024 * 1024
BATCH_CONTENT_MAX = 32 * 1024 * 1024
"""Content that a batch does not carry inside: keeps its open files few and its end in sight."""

LOCK_WAIT_S = 10.0
"""How long a STORE waits for another writer of the same path before it is told `locked`."""


async def store(
    link: Link,
    sources: Sequence[Source],
    *,
    author: Author,
    ids: Ids,
    chunker: Chunker,
    executor: Executor,
    report: Report,
    if_revision: Revision | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
    retry_s: float = RETRY_S,
    backoff: Backoff | None = None,
) -> list[PathOutcome]:
    """Store each source and all that is below it; return one outcome a path, in order of ending.

    Trouble with one path is its outcome (FAILED with a typed error) and stops no other. A directory
    that fails fails for all that is below it: those paths have no outcome of their own.
    `if_revision`: each source must have exactly this revision on the server, 0: must not exist;
    not for directories (Invalid). After the first contact a broken connection is waited out for
    `retry_s` seconds; when it does not come back, the paths that were not stored are FAILED, and so
    is each source that was not read to its end.

    Raises Unavailable and the link's other errors when the first contact fails, and Invalid.
    """
    steady = Steady(retry_s, backoff)
    shipper = Shipper(
        link,
        Survey(link, steady),
        steady,
        author=author,
        ids=ids,
        chunker=chunker,
        executor=executor,
        report=report,
        if_revision=if_revision,
        lock_wait_s=lock_wait_s,
    )
    return await _Run(shipper, chunker, executor, report, if_revision).store(sources)


class _Batch:
    """Things that travel in one STORE, and the batches that must be committed before."""

    def __init__(self) -> None:
        self.items: list[Ready] = []
        self.weight = 0
        self.content = 0
        self.needs: set[_Batch] = set()
        self.done = asyncio.Event()

    def add(self, ready: Ready) -> None:
        self.items.append(ready)
        self.weight += ready.weight
        self.content += ready.size if ready.size > INLINE_BYTES_MAX else 0

    @property
    def is_full(self) -> bool:
        return (
            len(self.items) >= BATCH_CHANGES_MAX
            or self.weight >= BATCH_WEIGHT_MAX
            or self.content >= BATCH_CONTENT_MAX
        )


Slices = asyncio.Queue[asyncio.Task[list[Ready | Lost]] | None]


class _Run:
    """One STORE command; all of it runs in the loop but what the executor is given."""

    def __init__(
        self,
        shipper: Shipper,
        chunker: Chunker,
        executor: Executor,
        report: Report,
        if_revision: Revision | None,
    ) -> None:
        self._shipper = shipper
        self._survey = shipper.survey
        self._chunker = chunker
        self._executor = executor
        self._report = report
        self._if_revision = if_revision
        self._walked = 0
        self._makers: dict[Parts, _Batch] = {}
        self._batch = _Batch()
        self._travelling = asyncio.Semaphore(BATCHES_AT_ONCE)

    async def store(self, sources: Sequence[Source]) -> list[PathOutcome]:
        directories = await self._executor.run(_directories, sources)
        self._check(sources, directories)
        await self._survey.look(source.remote for source in sources)
        for source in directories:
            standing = self._survey.at(source.remote)
            if not source.remote.parts or (standing and standing.kind is Kind.DIRECTORY):
                # Gone between the two looks: then there is nothing below to compare with.
                with suppress(NotFound):
                    await self._survey.list(source.remote)
        slices: Slices = asyncio.Queue(READ_AHEAD)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(group, sources, slices))
                self._make_parents(sources)
                while (slice_ := await slices.get()) is not None:
                    for step in await slice_:
                        await self._take(group, step)
                await self._flush(group)
        finally:
            self._shipper.close()
        if self._shipper.stopped is not None:
            for source in sources[self._walked :]:
                # Not read to its end: whatever was said of the path itself, it is not whole.
                self._shipper.lose(Lost(source.local, source.remote, self._shipper.stopped))
        return self._shipper.outcomes

    def _check(self, sources: Sequence[Source], directories: Sequence[Source]) -> None:
        if self._if_revision is not None and directories:
            raise Invalid(
                f"'{escape(directories[0].local)}' is a directory; a revision can be asked of "
                "files and links alone",
                field="if_revision",
                reason="directory",
            )
        if len({source.remote for source in sources}) < len(sources):
            raise Invalid("two sources have the same target", field="path", reason="twice")

    # -- reading ahead -------------------------------------------------------

    async def _read(
        self, group: asyncio.TaskGroup, sources: Sequence[Source], slices: Slices
    ) -> None:
        steps = self._walk(sources)
        while self._shipper.stopped is None:
            taken = await self._executor.run(take_slice, steps)
            if not taken:
                break
            self._expect(taken)
            await slices.put(group.create_task(self._prepare(taken)))
        await slices.put(None)

    def _walk(self, sources: Sequence[Source]) -> Iterator[Step]:
        for source in sources:
            yield from walk(source)
            self._walked += 1

    async def _prepare(self, taken: list[Step]) -> list[Ready | Lost]:
        prepared = await self._executor.run(prepare, taken, self._chunker)
        self._shipper.own(prepared)
        return prepared

    def _expect(self, taken: list[Step]) -> None:
        sizes = [step.size for step in taken if isinstance(step, Found)]
        self._report.expect(len(taken), sum(sizes))

    # -- planning ------------------------------------------------------------

    def _make_parents(self, sources: Sequence[Source]) -> None:
        """Plan the directories above the sources that the server does not have."""
        for source in sources:
            for path in ancestors(source.remote):
                standing = self._survey.at(path)
                if standing is None:
                    if path.parts not in self._makers:
                        self._put(self._shipper.made_directory(path))
                elif standing.kind is not Kind.DIRECTORY:
                    self._shipper.block(path, another_kind(path, standing.kind))
                    break

    async def _take(self, group: asyncio.TaskGroup, step: Ready | Lost) -> None:
        """Finish what is known already and put the rest into the batch."""
        if isinstance(step, Lost):
            self._shipper.lose(step)
            return
        path = step.found.remote
        if not path.parts:
            return
        if self._shipper.is_blocked(step):
            return
        standing = self._survey.at(path)
        error = self._shipper.stopped or obstacle(step, standing, self._if_revision)
        if error is not None:
            self._shipper.fail(step, error)
        elif standing is not None and is_same(step, standing):
            self._shipper.finish(step, Result.UNCHANGED, standing.revision, standing.revision)
        else:
            self._put(step)
            if self._batch.is_full:
                await self._flush(group)

    def _put(self, ready: Ready) -> None:
        """Add to the batch, which then needs the one that makes the directory above (B1)."""
        maker = self._makers.get(ready.found.remote.parts[:-1])
        if maker is not None and maker is not self._batch:
            self._batch.needs.add(maker)
        if ready.found.kind is Kind.DIRECTORY:
            self._makers[ready.found.remote.parts] = self._batch
        self._batch.add(ready)

    async def _flush(self, group: asyncio.TaskGroup) -> None:
        batch, self._batch = self._batch, _Batch()
        if batch.items:
            await self._travelling.acquire()
            group.create_task(self._send(batch))

    async def _send(self, batch: _Batch) -> None:
        try:
            for needed in batch.needs:
                await needed.done.wait()
            await self._shipper.ship(batch.items)
        finally:
            batch.done.set()
            self._travelling.release()
            for item in batch.items:
                if item.found.kind is Kind.DIRECTORY:
                    self._makers.pop(item.found.remote.parts, None)


def _directories(sources: Sequence[Source]) -> list[Source]:
    """Return the sources that are directories; blocks."""
    found = []
    for source in sources:
        _, parts = split_local(source.local)
        if is_local_directory(source.local, is_followed=not parts):
            found.append(source)
    return found
