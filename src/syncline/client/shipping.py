"""Sending what a STORE has ready, and what each path comes to.

A path that the server refuses because its table moved on (B2 of `store`) is looked at again with
the directories above it; the change is planned anew from what is there then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from syncline.client.planning import (
    another_kind,
    is_same,
    needs_new_look,
    obstacle,
    put_for,
    refusal_error,
    stale_error,
    standing_of_put,
)
from syncline.client.reading import Body, Ready, prepare
from syncline.client.reading_ahead import ReadAhead
from syncline.client.steady import ENDS_ALL, Backoff, Steady
from syncline.client.survey import Parts, Survey, ancestors
from syncline.client.walk import Found, Lost
from syncline.core.bodies import ChunkBody, plain_size
from syncline.core.changes import Accepted, Answer, Author, Outcome, Proposal, Put, RefusalCode
from syncline.core.entries import Kind
from syncline.core.identity import NO_REVISION, Digest, Revision
from syncline.core.names import RelPath
from syncline.errors import LocalFailure, NoSpace, ProtocolBroken, SynclineError
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.ids import Ids
from syncline.ports.link import Link
from syncline.ports.report import PathOutcome, Report, Result

LOOKS_MAX = 12
"""Plans made for one path before its writers are called too many."""

REREADS_MAX = 3
"""Times that a batch is put together again because a file in it changed while it travelled."""

MADE_MODE = 0o755
"""The mode of a directory that nobody asked for by itself."""


class Shipper:
    """Carries batches to the server; keeps the outcomes of one command."""

    def __init__(
        self,
        link: Link,
        survey: Survey,
        steady: Steady,
        *,
        author: Author,
        ids: Ids,
        chunker: Chunker,
        executor: Executor,
        report: Report,
        if_revision: Revision | None,
        lock_wait_s: float,
    ) -> None:
        self.survey = survey
        self.outcomes: list[PathOutcome] = []
        self.stopped: SynclineError | None = None
        self._link = link
        self._steady = steady
        self._author = author
        self._ids = ids
        self._chunker = chunker
        self._executor = executor
        self._report = report
        self._if_revision = if_revision
        self._lock_wait_s = lock_wait_s
        self._blocked: dict[Parts, SynclineError] = {}
        self._modes: dict[Parts, int] = {}
        self._open: set[Body] = set()

    # -- outcomes ------------------------------------------------------------

    def own(self, prepared: Iterable[Ready | Lost]) -> None:
        """Take over the open files, so that they are closed however the command ends."""
        self._open.update(
            item.body for item in prepared if isinstance(item, Ready) and item.body is not None
        )

    def close(self) -> None:
        """Close all files that are still open."""
        for body in self._open:
            body.close()
        self._open.clear()

    def finish(self, ready: Ready, result: Result, revision: Revision, replaced: Revision) -> None:
        """Note that a path is done and well."""
        if not ready.is_made:
            sent = ready.body.sent if ready.body else 0
            self._report.advance(max(0, ready.size - sent))
            found = ready.found
            outcome = PathOutcome(result, found.remote, found.local, revision, replaced, ready.size)
            self.outcomes.append(outcome)
            self._report.finish(outcome)
        self._let_go(ready)

    def fail(self, ready: Ready, error: SynclineError) -> None:
        """Note that a path failed; a directory, that nothing can be stored below it."""
        if ready.found.kind is Kind.DIRECTORY:
            self.block(ready.found.remote, error)
        if not ready.is_made:
            self.lose(Lost(ready.found.local, ready.found.remote, error))
        self._let_go(ready)

    def lose(self, lost: Lost) -> None:
        """Note that a path failed before it was ready."""
        outcome = PathOutcome(Result.FAILED, lost.remote, lost.local, error=lost.error)
        self.outcomes.append(outcome)
        self._report.finish(outcome)

    def block(self, path: RelPath, error: SynclineError) -> None:
        """Note that a directory is not there to put anything into."""
        self._blocked[path.parts] = error

    def is_blocked(self, ready: Ready) -> bool:
        """Drop a thing whose directory failed; one that the user named has its outcome."""
        path = ready.found.remote
        error = self._blocked.get(path.parts[:-1]) if path.parts else None
        if error is None:
            return False
        if ready.found.kind is Kind.DIRECTORY:
            self.block(path, error)
        if ready.found.is_top:
            self.fail(ready, error)
        else:
            self._let_go(ready)
        return True

    def made_directory(self, path: RelPath) -> Ready:
        """Return a directory that must be there for what is stored in it."""
        mode = self._modes.get(path.parts, MADE_MODE)
        found = Found(b"", (), path, Kind.DIRECTORY, mode, 0, 0, is_top=False)
        return Ready(found, mode, 0, is_made=True)

    def _let_go(self, ready: Ready) -> None:
        if ready.body is not None:
            ready.body.close()
            self._open.discard(ready.body)

    # -- proposing -----------------------------------------------------------

    async def ship(self, items: Sequence[Ready]) -> None:
        """Store things in order, each directory before what is in it; finish every one of them."""
        pauses = Backoff(0.01, 0.5).pauses()
        waiting = [item for item in items if not self.is_blocked(item)]
        if self.stopped is not None:
            self._fail_all(waiting, self.stopped)
            return
        for item in waiting:
            if item.found.kind is Kind.DIRECTORY:
                self._modes[item.found.remote.parts] = item.mode
        for look in range(LOOKS_MAX):
            if look:
                await asyncio.sleep(next(pauses))
                waiting = await self._look_again(waiting)
            waiting, outcomes = await self._propose(waiting)
            waiting = self._settle(waiting, outcomes, is_last=look == LOOKS_MAX - 1)
            if not waiting:
                return

    def _fail_all(self, items: Sequence[Ready], error: SynclineError) -> None:
        if isinstance(error, (*ENDS_ALL, NoSpace)):
            self.stopped = error
        for item in items:
            self.fail(item, error)

    def _settle(
        self, items: Sequence[Ready], outcomes: Sequence[Outcome], *, is_last: bool
    ) -> list[Ready]:
        """Finish what was accepted or refused for good; return what needs a new look."""
        again = []
        for item, outcome in zip(items, outcomes, strict=True):
            path = item.found.remote
            if isinstance(outcome, Accepted):
                standing = self.survey.at(path)
                is_repaired = standing is not None and standing.is_damaged
                is_changed = outcome.revision > outcome.replaced
                result = Result.STORED if is_changed or is_repaired else Result.UNCHANGED
                self.finish(item, result, outcome.revision, outcome.replaced)
                if item.found.kind is not Kind.DIRECTORY:
                    self.survey.forget(path)
            elif self._is_bound(item) and outcome.code in (
                RefusalCode.STALE,
                RefusalCode.NAME_TAKEN,
            ):
                current = outcome.current
                now = current.revision if current and current.is_live else None
                wanted = self._if_revision or NO_REVISION
                error = stale_error(path, wanted, now) or refusal_error(outcome, path)
                self.fail(item, error)
            elif needs_new_look(outcome) and not is_last:
                again.append(item)
            else:
                self.fail(item, refusal_error(outcome, path))
        return again

    def _is_bound(self, item: Ready) -> bool:
        return self._if_revision is not None and not item.is_made

    async def _propose(self, items: list[Ready]) -> tuple[list[Ready], Sequence[Outcome]]:
        """Return the things that were proposed and their outcomes; fail all when none came.

        A file that changed while it travelled is read again, and the whole batch proposed anew.
        """
        rereads = 0
        while items:
            try:
                answer = await self._store(items)
            except LocalFailure as error:
                if not any(item.body is not None and item.body.error for item in items):
                    self._fail_all(items, error)
                    break
                rereads += 1
                items = await self._reread(items, is_last=rereads > REREADS_MAX)
            except SynclineError as error:
                self._fail_all(items, error)
                break
            else:
                return items, answer.outcomes
        return [], ()

    async def _store(self, items: Sequence[Ready]) -> Answer:
        changes: list[Put] = []
        inline: dict[Digest, bytes] = {}
        bodies: dict[Digest, Body] = {}
        for item in items:
            changes.append(self._change(item))
            if item.inline is not None and item.content is not None:
                inline[item.content.digest] = item.inline
            elif item.body is not None:
                for digest in item.body.digests():
                    bodies.setdefault(digest, item.body)

        ahead = ReadAhead(self._executor, lambda digest, size: bodies[digest].read_on(digest, size))

        async def source(digest: Digest) -> ChunkBody:
            chunk = await ahead.get(digest)
            size = plain_size(chunk)
            bodies[digest].sent += size
            self._steady.progress()
            self._report.advance(size)
            return chunk

        proposal = Proposal(
            self._author, self._ids.op(), tuple(changes), inline, wait_s=self._lock_wait_s
        )
        answer = await self._steady.run(lambda: self._link.store(proposal, source))
        if len(answer.outcomes) != len(items):
            raise ProtocolBroken("the server answered for another number of changes")
        return answer

    def _change(self, item: Ready) -> Put:
        path = item.found.remote
        parent = self.survey.directory_id(path.parent)
        assert parent is not None, "a thing is proposed without its directory"
        standing = self.survey.at(path)
        change = put_for(item, standing, parent, self._ids.entry())
        if standing is None and item.found.kind is Kind.DIRECTORY:
            # Its children in this batch must name it; a refusal makes the next look correct it.
            self.survey.note(path, standing_of_put(change))
        return change

    # -- after a refusal -----------------------------------------------------

    async def _look_again(self, items: Sequence[Ready]) -> list[Ready]:
        """Return what is still to be put after a new look, missing directories first."""
        try:
            await self.survey.look(item.found.remote for item in items)
        except SynclineError as error:
            self._fail_all(items, error)
            return []
        wanted: dict[Parts, Ready] = {}
        own = {item.found.remote.parts for item in items}
        for item in items:
            self._restore_parents(item.found.remote, own, wanted)
            if self.is_blocked(item):
                continue
            standing = self.survey.at(item.found.remote)
            blocker = obstacle(item, standing, self._if_revision)
            if blocker is not None:
                self.fail(item, blocker)
            elif standing is not None and is_same(item, standing):
                self.finish(item, Result.UNCHANGED, standing.revision, standing.revision)
            else:
                wanted[item.found.remote.parts] = item
        return list(wanted.values())

    def _restore_parents(self, path: RelPath, own: set[Parts], wanted: dict[Parts, Ready]) -> None:
        """Plan the directories above a path that are gone; block what lies below a file."""
        for above in ancestors(path):
            standing = self.survey.at(above)
            if standing is None and above.parts not in own and above.parts not in wanted:
                wanted[above.parts] = self.made_directory(above)
            elif standing is not None and standing.kind is not Kind.DIRECTORY:
                self.block(above, another_kind(above, standing.kind))

    async def _reread(self, items: Sequence[Ready], *, is_last: bool) -> list[Ready]:
        """Return the batch with its changed files read anew; finish those that cannot be read."""
        kept = []
        for item in items:
            if item.body is None or item.body.error is None:
                kept.append(item)
                continue
            if is_last or not item.body.is_changed:
                self.fail(item, item.body.error)
                continue
            [again] = await self._executor.run(prepare, [item.found], self._chunker)
            self._let_go(item)
            self.own([again])
            if isinstance(again, Lost):
                self.lose(again)
            else:
                kept.append(again)
        return kept
