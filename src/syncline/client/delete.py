"""DELETE: take paths out of a volume; the past keeps them.

D1  What is deleted was seen: children go first, each with the revision that it was seen at.
D2  What others add or change meanwhile is looked at again, some times, and then left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncline.client.planning import needs_new_look, refusal_error, stale_error
from syncline.client.steady import ENDS_ALL, RETRY_S, Backoff, Steady
from syncline.core.changes import Accepted, Author, Delete, Proposal, Refusal, RefusalCode
from syncline.core.entries import Kind
from syncline.core.identity import EntryId, Revision
from syncline.core.names import RelPath
from syncline.errors import Invalid, NotEmpty, NotFound, ProtocolBroken, SynclineError
from syncline.ports.ids import Ids
from syncline.ports.link import Link
from syncline.ports.report import PathOutcome, Report, Result

BATCH_MAX = 1024
LOOKS_MAX = 12
"""Listings made of one path before those who add to it are called too many."""

LOCK_WAIT_S = 10.0
"""How long a DELETE waits for another writer of the same path before it is told `locked`."""


async def delete(
    link: Link,
    paths: Sequence[RelPath],
    *,
    author: Author,
    ids: Ids,
    report: Report,
    is_recursive: bool = False,
    if_revision: Revision | None = None,
    lock_wait_s: float = LOCK_WAIT_S,
    retry_s: float = RETRY_S,
    backoff: Backoff | None = None,
) -> list[PathOutcome]:
    """Delete each path, with `is_recursive` all that is below it first; return one outcome a path.

    What is deleted below a path has an outcome as well. A failed path stops no other: its outcome
    is FAILED with NotFound, NotEmpty, Stale, Locked, or Unavailable when the connection broke for
    more than `retry_s`. `if_revision`: the path itself must have exactly this revision. The root as
    a path stands for all that is in the volume; it needs `is_recursive`, has no outcome of its own,
    and raises Invalid without.

    Raises the link's errors when the first contact fails.
    """
    if not is_recursive and any(not path.parts for path in paths):
        raise Invalid(
            "the root of a volume cannot be deleted; delete what is in it with --recursive",
            field="path",
            reason="root",
        )
    run = _Run(link, Steady(retry_s, backoff), author, ids, report, lock_wait_s)
    for path in dict.fromkeys(paths):
        await run.delete(path, if_revision, is_recursive=is_recursive)
    return run.outcomes


@dataclass(frozen=True, slots=True)
class _Seen:
    """An entry as the last listing showed it."""

    path: RelPath
    id: EntryId
    revision: Revision


class _Run:
    """One DELETE command."""

    def __init__(
        self,
        link: Link,
        steady: Steady,
        author: Author,
        ids: Ids,
        report: Report,
        lock_wait_s: float,
    ) -> None:
        self.outcomes: list[PathOutcome] = []
        self._link = link
        self._steady = steady
        self._author = author
        self._ids = ids
        self._report = report
        self._lock_wait_s = lock_wait_s
        self._stopped: SynclineError | None = None

    async def delete(
        self, path: RelPath, if_revision: Revision | None, *, is_recursive: bool
    ) -> None:
        """Delete one path; its outcome says what came of it."""
        if self._stopped is not None:
            self._fail(path, self._stopped)
            return
        was_reached = self._steady.is_reached
        try:
            await self._delete(path, if_revision, is_recursive=is_recursive)
        except ENDS_ALL as error:
            if not was_reached and not self._steady.is_reached:
                raise
            self._stopped = error
            self._fail(path, error)
        except SynclineError as error:
            self._fail(path, error)

    async def _delete(
        self, path: RelPath, if_revision: Revision | None, *, is_recursive: bool
    ) -> None:
        pauses = Backoff(0.01, 0.5).pauses()
        for look in range(LOOKS_MAX):
            seen = await self._look(path, is_recursive=is_recursive)
            if path.parts:
                self._check(path, seen, if_revision, is_gone_well=look > 0)
            if not seen:
                return
            if look == 0:
                self._report.expect(len(seen), 0)
            refusal: tuple[_Seen, Refusal] | None = None
            for batch in _batches(seen):
                refused = await self._propose(batch)
                refusal = refusal or refused
            if refusal is None:
                return
            where, why = refusal
            if not needs_new_look(why) or not self._may_look_again(
                path, where, why, if_revision, is_recursive=is_recursive
            ):
                raise refusal_error(why, where.path)
            await asyncio.sleep(next(pauses))
        raise NotEmpty(
            f"others go on adding to '{path}' while it is deleted; try again", path=str(path)
        )

    def _may_look_again(
        self,
        path: RelPath,
        where: _Seen,
        why: Refusal,
        if_revision: Revision | None,
        *,
        is_recursive: bool,
    ) -> bool:
        if why.code is RefusalCode.NOT_EMPTY:
            return is_recursive
        return not (if_revision is not None and where.path == path)

    def _check(
        self,
        path: RelPath,
        seen: Sequence[_Seen],
        if_revision: Revision | None,
        *,
        is_gone_well: bool,
    ) -> None:
        """Raise NotFound or Stale where the path itself is not what was asked for."""
        if not seen:
            if is_gone_well:
                return
            raise NotFound(f"there is no '{path}' on the server", path=str(path))
        if if_revision is not None:
            stale = stale_error(path, if_revision, seen[-1].revision)
            if stale is not None:
                raise stale

    async def _look(self, path: RelPath, *, is_recursive: bool) -> list[_Seen]:
        """Return what is to be deleted, children before their directory; nothing when gone."""
        seen: list[_Seen] = []
        if path.parts:
            [found] = await self._steady.run(lambda: self._link.stat([path], None))
            if found is None:
                return []
            seen.append(_Seen(path, found.entry.id, found.entry.revision))
            if found.entry.kind is not Kind.DIRECTORY:
                return seen
        if is_recursive:
            try:
                seen += await self._steady.run(lambda: self._list(path))
            except NotFound:
                return []
        seen.reverse()
        return seen

    async def _list(self, path: RelPath) -> list[_Seen]:
        seen = []
        async for located in self._link.list(path, is_recursive=True, at=None):
            self._steady.progress()
            entry = located.entry
            seen.append(_Seen(located.path, entry.id, entry.revision))
        return seen

    async def _propose(self, batch: Sequence[_Seen]) -> tuple[_Seen, Refusal] | None:
        """Delete one batch; return the first refusal that tells the most."""
        proposal = Proposal(
            self._author,
            self._ids.op(),
            tuple(Delete(seen.id, seen.revision) for seen in batch),
            {},
            wait_s=self._lock_wait_s,
        )
        answer = await self._steady.run(lambda: self._link.delete(proposal))
        if len(answer.outcomes) != len(batch):
            raise ProtocolBroken("the server answered for another number of changes")
        first: tuple[_Seen, Refusal] | None = None
        for seen, outcome in zip(batch, answer.outcomes, strict=True):
            if isinstance(outcome, Accepted):
                self._finish(
                    PathOutcome(
                        Result.DELETED,
                        seen.path,
                        revision=outcome.revision,
                        replaced=outcome.replaced,
                    )
                )
            elif first is None:
                # Children come first: what refuses a child also keeps its directory.
                first = (seen, outcome)
        return first

    def _fail(self, path: RelPath, error: SynclineError) -> None:
        self._finish(PathOutcome(Result.FAILED, path, error=error))

    def _finish(self, outcome: PathOutcome) -> None:
        self.outcomes.append(outcome)
        self._report.finish(outcome)


def _batches(seen: Sequence[_Seen]) -> Iterator[Sequence[_Seen]]:
    for start in range(0, len(seen), BATCH_MAX):
        yield seen[start : start + BATCH_MAX]
