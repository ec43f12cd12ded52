"""Links that break, count, and let others act at the worst moment; and a client around a link."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from syncline.adapters.executors import ThreadExecutor
from syncline.adapters.fastcdc import FastCdcChunker
from syncline.client.delete import delete
from syncline.client.fetch import fetch
from syncline.client.steady import Backoff
from syncline.client.store import store
from syncline.client.targets import (
    Place,
    Source,
    fetch_places,
    parse_address,
    store_sources,
)
from syncline.core.bodies import ChunkBody
from syncline.core.changes import Answer, Author, Proposal
from syncline.core.entries import Entry
from syncline.core.identity import Digest, Revision
from syncline.core.names import RelPath
from syncline.errors import SynclineError
from syncline.ports.link import (
    ChunkSource,
    Link,
    Located,
    Progress,
    ServerFacts,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.report import PathOutcome, Report, Result
from tests.support.serving import ALICE, SeededIds

Hook = Callable[[], Awaitable[None]]

QUICK = Backoff(first_s=0.001, most_s=0.002, jitter=lambda: 0.0)


@dataclass
class ScriptedLink:
    """Passes calls on to a real link; notes them, and fails or runs hooks as it was told.

    `before` and `after` hold, by the name of a call, hooks for its next times: one each time.
    """

    inner: Link
    calls: list[str] = field(default_factory=list)
    before: dict[str, list[Hook]] = field(default_factory=dict)
    after: dict[str, list[Hook]] = field(default_factory=dict)
    proposals: list[Proposal] = field(default_factory=list)
    sent: list[Digest] = field(default_factory=list)
    bodies: list[ChunkBody] = field(default_factory=list)
    """The chunks in `sent`, as they were given to the link."""
    asked: list[Digest] = field(default_factory=list)
    fetch_cut: int | None = None
    """Chunks after which the next FETCH breaks; once."""
    send_cut: int | None = None
    """Chunks after which the next STORE breaks; once."""
    error: SynclineError | None = None
    spoil: Callable[[bytes], bytes] | None = None

    async def _hook(self, table: dict[str, list[Hook]], name: str) -> None:
        hooks = table.get(name)
        if hooks:
            await hooks.pop(0)()

    async def _enter(self, name: str) -> None:
        self.calls.append(name)
        await self._hook(self.before, name)

    def count(self, name: str) -> int:
        return self.calls.count(name)

    async def hello(self) -> ServerFacts:
        await self._enter("hello")
        return await self.inner.hello()

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        self.proposals.append(proposal)
        await self._enter("store")

        async def counted(digest: Digest) -> ChunkBody:
            if self.send_cut is not None:
                self.send_cut -= 1
                if self.send_cut < 0:
                    self.send_cut = None
                    assert self.error is not None
                    raise self.error
            data = await source(digest)
            self.sent.append(digest)
            self.bodies.append(data)
            return data

        answer = await self.inner.store(proposal, counted)
        await self._hook(self.after, "store")
        return answer

    async def delete(self, proposal: Proposal) -> Answer:
        self.proposals.append(proposal)
        await self._enter("delete")
        answer = await self.inner.delete(proposal)
        await self._hook(self.after, "delete")
        return answer

    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        await self._enter("fetch")
        position = 0
        async for chunk in self.inner.fetch(digests):
            if self.fetch_cut is not None:
                self.fetch_cut -= 1
                if self.fetch_cut < 0:
                    self.fetch_cut = None
                    assert self.error is not None
                    raise self.error
            self.asked.append(digests[position])
            position += 1
            yield self.spoil(chunk) if self.spoil else chunk

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        await self._enter("watch")
        async for event in self.inner.watch(begin, progress):
            await self._hook(self.before, "event")
            yield event

    async def list(
        self, path: RelPath, *, is_recursive: bool, at: Revision | None
    ) -> AsyncIterator[Located]:
        await self._enter("list")
        async for located in self.inner.list(path, is_recursive=is_recursive, at=at):
            await self._hook(self.before, "listed")
            yield located

    async def stat(self, paths: Sequence[RelPath], at: Revision | None) -> Sequence[Located | None]:
        await self._enter("stat")
        return await self.inner.stat(paths, at)

    async def close(self) -> None:
        await self._enter("close")


def failing(error: SynclineError) -> Hook:
    """Return a hook that raises."""

    async def hook() -> None:
        raise error

    return hook


async def nothing() -> None:
    """Be a hook that lets a call pass."""


class Silent:
    """A report that nobody reads."""

    def expect(self, paths: int, size: int) -> None:
        """Do nothing."""

    def advance(self, size: int) -> None:
        """Do nothing."""

    def finish(self, outcome: PathOutcome) -> None:
        """Do nothing."""


@dataclass
class Client:
    """The commands on one link, with the arguments that tests do not care for."""

    link: ScriptedLink
    executor: ThreadExecutor
    author: Author = ALICE
    ids: SeededIds = field(default_factory=SeededIds)
    report: Report = field(default_factory=Silent)
    retry_s: float = 10.0
    lock_wait_s: float = 0.0

    async def store(
        self, *locals_: Path | bytes, to: bytes | None = None, if_revision: int | None = None
    ) -> list[PathOutcome]:
        address = parse_address(to) if to is not None else None
        names = [local if isinstance(local, bytes) else os.fsencode(local) for local in locals_]
        sources = await store_sources(self.link, names, address)
        return await self.store_sources(sources, if_revision)

    async def store_sources(
        self, sources: Sequence[Source], if_revision: int | None = None
    ) -> list[PathOutcome]:
        return await store(
            self.link,
            sources,
            author=self.author,
            ids=self.ids,
            chunker=FastCdcChunker(),
            executor=self.executor,
            report=self.report,
            if_revision=None if if_revision is None else Revision(if_revision),
            lock_wait_s=self.lock_wait_s,
            retry_s=self.retry_s,
            backoff=QUICK,
        )

    async def fetch(
        self, *paths: bytes, to: Path, at: int | None = None, may_overwrite: bool = True
    ) -> list[PathOutcome]:
        places = fetch_places([parse_address(path) for path in paths], os.fsencode(to))
        return await self.fetch_places(places, at=at, may_overwrite=may_overwrite)

    async def fetch_places(
        self, places: Sequence[Place], *, at: int | None = None, may_overwrite: bool = True
    ) -> list[PathOutcome]:
        return await fetch(
            self.link,
            places,
            chunker=FastCdcChunker(),
            executor=self.executor,
            report=self.report,
            at=None if at is None else Revision(at),
            may_overwrite=may_overwrite,
            retry_s=self.retry_s,
            backoff=QUICK,
        )

    async def delete(
        self, *paths: bytes, is_recursive: bool = False, if_revision: int | None = None
    ) -> list[PathOutcome]:
        return await delete(
            self.link,
            [RelPath.parse(path) for path in paths],
            author=self.author,
            ids=self.ids,
            report=self.report,
            is_recursive=is_recursive,
            if_revision=None if if_revision is None else Revision(if_revision),
            lock_wait_s=self.lock_wait_s,
            retry_s=self.retry_s,
            backoff=QUICK,
        )

    async def tree(self) -> dict[bytes, Entry]:
        """Return all that the server has, by path."""
        listed = self.link.inner.list(RelPath(), is_recursive=True, at=None)
        return {bytes(located.path): located.entry async for located in listed}


def results(outcomes: Sequence[PathOutcome]) -> dict[bytes, str]:
    """Return what each path came to: the result, or the code of its error."""
    found = {bytes(outcome.path): _word(outcome) for outcome in outcomes}
    assert len(found) == len(outcomes), "a path has two outcomes"
    return found


def _word(outcome: PathOutcome) -> str:
    if outcome.result is Result.FAILED:
        assert outcome.error is not None
        return outcome.error.code
    assert outcome.error is None
    return str(outcome.result.value)


def only_error(outcomes: Sequence[PathOutcome]) -> SynclineError:
    """Return the error of the only failed path."""
    [error] = [outcome.error for outcome in outcomes if outcome.error is not None]
    return error


def on_disk(root: Path | bytes) -> dict[bytes, tuple[object, ...]]:
    """Return all that is below a local directory: kind, mode, mtime, content, by path."""
    top = root if isinstance(root, bytes) else os.fsencode(root)
    found: dict[bytes, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in directories + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            mode = stat.S_IMODE(status.st_mode)
            relative = os.path.relpath(path, top)
            if stat.S_ISLNK(status.st_mode):
                found[relative] = ("link", status.st_mtime_ns, os.readlink(path))
            elif stat.S_ISDIR(status.st_mode):
                found[relative] = ("directory", mode)
            else:
                with open(path, "rb") as file:  # noqa: PTH123 - the path is bytes
                    found[relative] = ("file", mode, status.st_mtime_ns, file.read())
    return found
