"""`syncline verify`: all of a mount read again, and compared with what was recorded and stored.

Model: it waits as `syncline wait` does, so that what was noticed is recorded; then the table is
compared with the server's, and each file with what was recorded of it. What is not as recorded is
marked, for the scanner to look at. What differs then is a finding: told, and as long as it lasts a
problem of the mount. Nothing is recorded, placed, sent or deleted because of it,
but for two things that the mount does by itself as well: it asks for the whole table when its own
differs, and it sends content again that the server lacks.

V1  The sync goes on meanwhile: slices on the mount thread are short, and one reading is under way.
V2  A finding lasts until its file is well, was written to, moved or deleted, or the mount ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from syncline.client.local import local_error
from syncline.client.mount.engine import Engine
from syncline.client.mount.refill import Refiller
from syncline.client.mount.verify_files import (
    FileCheck,
    Judged,
    Looked,
    Rotten,
    Suspect,
    Wanted,
    read_fresh,
)
from syncline.client.mount.verify_table import TableCheck
from syncline.client.steady import ENDS_ALL
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.names import RelPath
from syncline.core.trees import ProblemCode
from syncline.errors import SynclineError
from syncline.ports.link import (
    Link,
    Progress,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
)
from syncline.ports.mount_control import (
    FINDINGS_SHOWN_MAX,
    FindingCode,
    MountProblem,
    StatusNews,
    VerifyEnd,
    Verifying,
    WaitEnd,
)
from syncline.ports.watcher import Mark

logger = logging.getLogger(__name__)

READ_BYTES_AT_ONCE = 8 * 1024 * 1024
READ_FILES_AT_ONCE = 32
"""How much is read in one go of a reader: it holds all of it."""

ROUNDS = 3
"""Looks at what is not as recorded: a busy user needs more than one."""

SUSPECTS_MAX = 10_000
"""Suspects in memory; when there are more, all is scanned again, and they count as pending."""

LASTING_MAX = 1_000
"""Findings that stay as problems of the mount; more of them are told by the log alone."""

ONE_WAY = frozenset({ProblemCode.LOCAL_CHANGE.value, ProblemCode.REMOTE_CHANGE.value})
"""Problems beside which a mount is in sync, and yet not like the volume."""

ENDS = {
    WaitEnd.HALTED: VerifyEnd.HALTED,
    WaitEnd.STOPPED: VerifyEnd.STOPPED,
    WaitEnd.TIMED_OUT: VerifyEnd.TIMED_OUT,
}


@dataclass(slots=True)
class Tally:
    """What a verification came to so far."""

    total: int = 0
    entries: int = 0
    size: int = 0
    refilled: int = 0
    findings: list[MountProblem] = field(default_factory=list)
    finding_count: int = 0
    pending: list[RelPath] = field(default_factory=list)
    pending_count: int = 0

    @property
    def progress(self) -> Verifying:
        """Return how far it is."""
        return Verifying(self.entries, max(self.total, self.entries), self.size)

    def find(self, problem: MountProblem) -> None:
        """Note what is wrong with a path."""
        path, code = problem.path, problem.code
        logger.error("verify_finding path='%s' code=%s detail=%r", path, code, problem.detail)
        self.finding_count += 1
        if len(self.findings) < FINDINGS_SHOWN_MAX:
            self.findings.append(problem)

    def wait(self, path: RelPath) -> None:
        """Note that a path could not be compared."""
        self.pending_count += 1
        if len(self.pending) < FINDINGS_SHOWN_MAX:
            self.pending.append(path)


class Verifier:
    """Verifies the mount of one engine, and keeps what was found (V2); `run` is its life."""

    def __init__(self, engine: Engine, news: StatusNews) -> None:
        self._tally: Tally | None = None
        self._engine = engine
        self._refiller = Refiller(engine)
        self._news = news
        self._group: asyncio.TaskGroup
        self._turn = asyncio.Lock()
        self._lasting: dict[EntryId, tuple[MountProblem, Seen]] = {}
        self._is_any = asyncio.Event()
        self._is_over = False
        self._verifying: set[asyncio.Task[VerifyEnd | SynclineError]] = set()

    async def run(self) -> None:
        """Run the engine to its end, and beside it all that comes of damage."""
        async with asyncio.TaskGroup() as self._group:
            tasks = [
                self._group.create_task(self._watch(), name="findings"),
                self._group.create_task(self._refiller.run(), name="refill"),
            ]
            try:
                await self._engine.run()
            finally:
                self._is_over = True
                for task in (*tasks, *self._verifying):
                    task.cancel()

    @property
    def progress(self) -> Verifying | None:
        """Return how far a verification is; None while there is none."""
        return None if self._tally is None else self._tally.progress

    # -- what lasts ----------------------------------------------------------------

    def problems(self) -> list[MountProblem]:
        """Return the findings that last, as problems of the mount."""
        return [problem for problem, _ in self._lasting.values()]

    async def _watch(self) -> None:
        """Forget findings whose files are not what they were (V2), for ever."""
        seen = 0
        while True:
            await self._is_any.wait()
            seen = await self._news.after(seen)
            try:
                mended = await self._engine.lanes.thread.run(self._mended, dict(self._lasting))
            except SynclineError as error:
                # A full disk, for one: the engine tells of it, and the next news ask again.
                logger.debug("findings_not_asked code=%s", error.code)
            else:
                self._forget(mended)

    def _mended(self, lasting: dict[EntryId, tuple[MountProblem, Seen]]) -> Sequence[EntryId]:
        with self._engine.parts.state.session() as session:
            return [id for id, (_, seen) in lasting.items() if session.local(id) != seen]

    def _keep(self, rotten: Rotten) -> None:
        if len(self._lasting) < LASTING_MAX:
            self._lasting[rotten.id] = (rotten.problem, rotten.seen)
            self._is_any.set()
            self._news.note()

    def _forget(self, ids: Sequence[EntryId]) -> None:
        known = [id for id in ids if self._lasting.pop(id, None) is not None]
        if not self._lasting:
            self._is_any.clear()
        if known:
            self._news.note()

    # -- a verification --------------------------------------------------------------

    async def verify(self, tally: Tally) -> VerifyEnd | None:
        """Verify all once; None where the engine ended meanwhile.

        `tally` has what it came to, also when this is cancelled. Raises the link's errors that are
        not about its connection, and what the state raises.
        """
        if self._is_over:
            return None
        # In the engine's group: what it works with is closed when the engine ends.
        task = self._group.create_task(self._take_turn(tally), name="verify")
        self._verifying.add(task)
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()
            self._verifying.discard(task)
            self._forget_tally(tally)
        if task.cancelled():
            return None
        outcome = task.result()
        if isinstance(outcome, SynclineError):
            raise outcome
        return outcome

    async def _take_turn(self, tally: Tally) -> VerifyEnd | SynclineError:
        """Verify when nobody else does; an error is a value, so that it ends nothing else."""
        async with self._turn:
            self._tally = tally
            try:
                return await self._verify(tally)
            except SynclineError as error:
                return error
            except OSError as error:
                return local_error(error, b"")
            finally:
                self._forget_tally(tally)

    def _forget_tally(self, tally: Tally) -> None:
        if self._tally is tally:
            self._tally = None
            self._news.note()

    async def _verify(self, tally: Tally) -> VerifyEnd:
        waited = await self._engine.wait()
        if waited in ENDS:
            return ENDS[waited]
        tally.total = self._engine.entries
        end = await self._compare_table(tally)
        if end is None:
            is_table_wrong = tally.finding_count > 0
            end = await self._compare_all(tally, waited)
            if is_table_wrong:
                # After all else was compared: what comes of it changes the mount.
                self._engine.follower.repair()
        return end

    async def _compare_all(self, tally: Tally, waited: WaitEnd) -> VerifyEnd:
        """Compare the files with the table, and refill what the server lacks."""
        suspects = await self._compare_files(tally)
        for _ in range(ROUNDS):
            if not suspects:
                break
            waited = await self._settle(suspects)
            if waited in ENDS:
                return ENDS[waited]
            suspects = await self._look_again(tally, suspects)
        for suspect in suspects:
            problem = suspect.problem
            if problem is None:
                tally.wait(suspect.path)
            else:
                tally.find(problem)
        await self._refill(tally)
        if tally.finding_count:
            return VerifyEnd.FINDINGS
        if tally.pending_count or waited is WaitEnd.PROBLEMS or self._is_unlike():
            return VerifyEnd.PENDING
        return VerifyEnd.EQUAL

    def _is_unlike(self) -> bool:
        """Tell whether the mode of the mount keeps it from being like the volume."""
        planned = self._engine.planned
        problems = planned.problems if planned is not None else ()
        return any(problem.code in ONE_WAY for _, problem in problems)

    # -- the table -------------------------------------------------------------------

    async def _compare_table(self, tally: Tally) -> VerifyEnd | None:
        """Compare the table with the server's; return how all ends where that cannot be."""
        engine = self._engine
        while True:
            link = engine.follower.link
            if link is not None:
                try:
                    differing = await self._compare_with(link)
                    break
                except ENDS_ALL as error:
                    logger.info("verify_broken code=%s error=%r", error.code, error.message)
            # Until the server is back, as for any other wait.
            waited = await engine.wait()
            if waited in ENDS:
                return ENDS[waited]
        for problem in differing:
            tally.find(problem)
        return None

    async def _compare_with(self, link: Link) -> Sequence[MountProblem]:
        engine = self._engine
        stream = link.watch(WatchBegin(engine.parts.author, None), _no_progress())
        assert isinstance(stream, AsyncGenerator), "a stream is closed when it is left"
        found: list[MountProblem] = []
        check: TableCheck | None = None
        async with aclosing(stream) as events:
            async for event in events:
                match event:
                    case SnapshotBegin(_, head):
                        check = TableCheck(engine.parts.state, head)
                    case SnapshotPage(entries) if check is not None:
                        found += await engine.lanes.thread.run(check.page, entries)
                    case SnapshotEnd() if check is not None:
                        return found + await engine.lanes.thread.run(check.end)
                    case _:
                        pass
        return found

    # -- the files -------------------------------------------------------------------

    async def _compare_files(self, tally: Tally) -> list[Suspect]:
        thread = self._engine.lanes.thread
        check = FileCheck(self._engine.phases)
        suspects: list[Suspect] = []
        while (looked := await thread.run(check.look)) is not None:
            self._take(tally, suspects, await self._judge(check, tally, looked))
        return suspects

    async def _settle(self, suspects: Sequence[Suspect]) -> WaitEnd:
        """Let the scanner look at suspects, and the sync have its turn (V2 of `verify_files`)."""
        engine = self._engine
        now_s = asyncio.get_running_loop().time()
        engine.looking.marks.add((Mark(*suspect.place) for suspect in suspects), now_s)
        engine.wake()
        return await engine.wait()

    async def _look_again(self, tally: Tally, suspects: Sequence[Suspect]) -> list[Suspect]:
        check = FileCheck(self._engine.phases)
        looked = await self._engine.lanes.thread.run(check.look_again, suspects)
        looked.entries = 0
        left: list[Suspect] = []
        self._take(tally, left, await self._judge(check, tally, looked))
        return left

    async def _judge(self, check: FileCheck, tally: Tally, looked: Looked) -> list[Suspect]:
        """Read what is to be read; return the suspects."""
        tally.entries += looked.entries
        suspects = looked.suspects
        wanted = looked.wanted
        while wanted:
            some, wanted = _some(wanted)
            readings = [each.reading for each in some]
            results = await self._engine.lanes.reads.run(read_fresh, self._engine.phases, readings)
            judged = await self._engine.lanes.thread.run(check.judge, some, results)
            self._note(tally, judged)
            suspects += judged.suspects
            wanted += judged.again
        self._news.note()
        return suspects

    def _note(self, tally: Tally, judged: Judged) -> None:
        tally.size += judged.size
        self._forget(judged.well)
        for rotten in judged.rotten:
            tally.find(rotten.problem)
            self._keep(rotten)

    def _take(self, tally: Tally, suspects: list[Suspect], more: Sequence[Suspect]) -> None:
        """Add suspects, as many as memory may hold."""
        room = SUSPECTS_MAX - len(suspects)
        suspects += more[:room]
        for suspect in more[room:]:
            tally.wait(suspect.path)
        if len(more) > room:
            self._engine.looking.scan()

    # -- the server ------------------------------------------------------------------

    async def _refill(self, tally: Tally) -> None:
        if not self._engine.follower.damaged.is_set():
            return
        try:
            refilled = await self._refiller.refill()
        except ENDS_ALL as error:
            logger.info("refill_broken code=%s error=%r", error.code, error.message)
            # What the server lacks is not known, and no mount is equal to that.
            tally.wait(RelPath())
            return
        tally.refilled += refilled.count
        for path in refilled.left:
            detail = "the server lacks some of its content, and this mount could not give it back"
            tally.find(MountProblem(path, FindingCode.DAMAGED.value, detail))


def _some(wanted: Sequence[Wanted]) -> tuple[list[Wanted], list[Wanted]]:
    """Cut off as many files as are read in one go."""
    size = 0
    for count, each in enumerate(wanted):
        size += each.reading.size
        if count and (size > READ_BYTES_AT_ONCE or count >= READ_FILES_AT_ONCE):
            return list(wanted[:count]), list(wanted[count:])
    return list(wanted), []


async def _no_progress() -> AsyncIterator[Progress]:
    """Say nothing: nothing is placed."""
    nothing: tuple[Progress, ...] = ()
    for progress in nothing:
        yield progress
