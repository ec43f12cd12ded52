"""FETCH: bring paths of a volume, at one revision, to local paths.

Model: one task lists the volume and compares with what is local, slice by slice; a few movers fetch
and place what differs: many small files at once, each large file by itself.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from syncline.client.local import local_error, split_local
from syncline.client.placing import Placer
from syncline.client.staged import Target, failed
from syncline.client.steady import RETRY_S, Backoff, Steady
from syncline.client.survey import STAT_PATHS_MAX
from syncline.client.targets import Place
from syncline.client.transfer import Mover, is_small
from syncline.core.entries import Kind
from syncline.core.identity import Revision
from syncline.core.names import RelPath
from syncline.errors import NotFound, ProtocolBroken, SynclineError
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.link import Link, Located
from syncline.ports.report import PathOutcome, Report, Result

MOVERS = 3
SLICE_ENTRIES = 256
SLICE_BYTES = 32 * 1024 * 1024
BATCH_FILES_MAX = 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
"""Content of small files that one mover holds in memory."""


async def fetch(
    link: Link,
    places: Sequence[Place],
    *,
    chunker: Chunker,
    executor: Executor,
    report: Report,
    at: Revision | None = None,
    may_overwrite: bool = True,
    retry_s: float = RETRY_S,
    backoff: Backoff | None = None,
) -> list[PathOutcome]:
    """Fetch each path and all that is below it; return one outcome a path, in order of ending.

    Everything is of revision `at`, or of the head at the start. A file appears whole or not at all;
    missing local directories above a place are made. Trouble with one path is its outcome (FAILED
    with a typed error: NotFound, Exists, NoSpace, Corrupt, LocalFailure, Unavailable) and stops no
    other; a directory that fails fails for all that is below it. With `may_overwrite` false nothing
    that stands locally and is different is touched. What a broken connection left of a large file
    is used by the next fetch of it.

    Raises NotFound for a revision that is not there, NoSpace or LocalFailure when what was placed
    cannot be made durable, and the link's errors at the first contact.
    """
    steady = Steady(retry_s, backoff)
    placer = Placer(may_overwrite=may_overwrite)
    mover = Mover(link, steady, placer, chunker=chunker, executor=executor, report=report)
    run = _Run(link, steady, placer, mover, executor, report)
    return await run.fetch(places, at)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A place, what the volume has there (None for the root), and the local base of it."""

    place: Place
    located: Located | None
    base: bytes
    parts: tuple[bytes, ...]

    def target(self, located: Located) -> Target:
        """Return where an entry at or below the place goes."""
        below = located.path.parts[len(self.place.remote.parts) :]
        return Target(self.base, self.parts + below, located.path, located.entry)


Jobs = asyncio.Queue[list[Target] | Target | None]


class _Run:
    """One FETCH command."""

    def __init__(
        self,
        link: Link,
        steady: Steady,
        placer: Placer,
        mover: Mover,
        executor: Executor,
        report: Report,
    ) -> None:
        self._link = link
        self._steady = steady
        self._placer = placer
        self._mover = mover
        self._executor = executor
        self._report = report
        self._outcomes: list[PathOutcome] = []
        self._stopped: SynclineError | None = None
        self._slice: list[Target] = []
        self._slice_size = 0
        self._small: list[Target] = []
        self._small_size = 0
        self._jobs: Jobs = asyncio.Queue(1)

    async def fetch(self, places: Sequence[Place], at: Revision | None) -> list[PathOutcome]:
        if at is None:
            # One revision for all of it, also when a listing has to begin anew.
            at = (await self._steady.run(self._link.hello)).head.revision
        begun = await self._begin(places, at)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(MOVERS):
                    group.create_task(self._move())
                await self._list_all(begun, at)
                for _ in range(MOVERS):
                    await self._jobs.put(None)
        finally:
            for outcome in await self._executor.run(self._placer.close):
                self._finish(outcome)
        return self._outcomes

    def _finish(self, outcome: PathOutcome) -> None:
        self._outcomes.append(outcome)
        self._report.finish(outcome)

    def _fail(self, place: Place, error: SynclineError) -> None:
        self._finish(PathOutcome(Result.FAILED, place.remote, place.local, error=error))

    # -- what there is -------------------------------------------------------

    async def _begin(self, places: Sequence[Place], at: Revision) -> list[_Begun]:
        located: list[Located | None] = []
        paths = [place.remote for place in places]
        for start in range(0, len(paths), STAT_PATHS_MAX):
            located += await self._stat(paths[start : start + STAT_PATHS_MAX], at)
        begun = []
        for place, found in zip(places, located, strict=True):
            if found is None and place.remote.parts:
                path = str(place.remote)
                text = f"there is no '{path}' at revision {at}"
                self._fail(place, NotFound(text, path=path, revision=str(at)))
                continue
            base, parts = split_local(place.local) if place.remote.parts else (place.local, ())
            try:
                await self._executor.run(os.makedirs, base, exist_ok=True)
            except OSError as error:
                self._fail(place, local_error(error, base))
            else:
                begun.append(_Begun(place, found, base, parts))
        return begun

    async def _stat(self, paths: Sequence[RelPath], at: Revision) -> Sequence[Located | None]:
        return await self._steady.run(lambda: self._link.stat(paths, at))

    async def _list_all(self, begun: Sequence[_Begun], at: Revision) -> None:
        for place in begun:
            is_whole = False
            try:
                is_whole = await self._list(place, at)
            except SynclineError as error:
                self._stopped = self._stopped or error
            if not is_whole and self._stopped is not None:
                # Whatever was said of the path itself, what is below it is not all there.
                self._fail(place.place, self._stopped)
        await self._inspect()
        await self._flush()

    async def _list(self, begun: _Begun, at: Revision) -> bool:
        """Take in what is at and below a place; tell whether that was all of it."""
        if self._stopped is not None:
            return False
        if begun.located is not None:
            await self._add(begun.target(begun.located))
            if begun.located.entry.kind is not Kind.DIRECTORY:
                return True
        listed = 0

        async def go_on() -> bool:
            # A listing at one revision is always the same: the part that was seen is skipped.
            nonlocal listed
            position = 0
            path = begun.place.remote
            async for located in self._link.list(path, is_recursive=True, at=at):
                position += 1
                if position > listed:
                    listed = position
                    self._check(located, path)
                    self._steady.progress()
                    await self._add(begun.target(located))
                if self._stopped is not None:
                    return False
            return True

        return await self._steady.run(go_on)

    def _check(self, located: Located, path: RelPath) -> None:
        if not located.path.is_within(path) or located.path == path:
            raise ProtocolBroken(f"the server listed '{located.path}' below '{path}'")

    # -- what is local already -----------------------------------------------

    async def _add(self, target: Target) -> None:
        self._slice.append(target)
        self._slice_size += target.entry.size
        if len(self._slice) >= SLICE_ENTRIES or self._slice_size >= SLICE_BYTES:
            await self._inspect()

    async def _inspect(self) -> None:
        targets, self._slice = self._slice, []
        size, self._slice_size = self._slice_size, 0
        if not targets:
            return
        self._report.expect(len(targets), size)
        for result in await self._executor.run(self._placer.inspect, targets):
            if isinstance(result, PathOutcome):
                self._report.advance(result.size)
                self._finish(result)
            elif is_small(result):
                self._small.append(result)
                self._small_size += result.entry.size
                if len(self._small) >= BATCH_FILES_MAX or self._small_size >= BATCH_BYTES_MAX:
                    await self._flush()
            else:
                await self._jobs.put(result)

    async def _flush(self) -> None:
        batch, self._small = self._small, []
        self._small_size = 0
        if batch:
            await self._jobs.put(batch)

    # -- what must travel ----------------------------------------------------

    async def _move(self) -> None:
        while (job := await self._jobs.get()) is not None:
            targets = job if isinstance(job, list) else [job]
            try:
                if self._stopped is not None:
                    raise self._stopped
                if isinstance(job, list):
                    outcomes = await self._mover.small(job)
                else:
                    outcomes = [await self._mover.large(job)]
            except SynclineError as error:
                self._stopped = error
                outcomes = [failed(target, error) for target in targets]
            for outcome in outcomes:
                self._finish(outcome)
