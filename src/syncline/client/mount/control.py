"""A mount from start to stop, and what it can be asked: status, wait, resume.

Model: while the root is not the one that base speaks of there is no engine; the supervisor looks
again from time to time. A directory that comes back is taken up again without being asked, for
nothing was recorded meanwhile.

I1  A mount whose name others use as well (its state came from an older copy, or a copy of it is in
    use elsewhere) takes another name. Base stays: it speaks of this directory, whoever wrote it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from syncline.client.mount.engine import Engine, IdentityShared, Lanes, RootLost
from syncline.client.mount.following import Connect
from syncline.client.mount.halting import release
from syncline.client.mount.locker import Grants, Locker
from syncline.client.mount.parts import Parts
from syncline.client.mount.phases import Phases
from syncline.client.mount.problems import BY_DESIGN
from syncline.client.mount.recover import recover
from syncline.client.mount.rooting import Root, open_root
from syncline.client.mount.verify import Tally, Verifier
from syncline.client.steady import Backoff
from syncline.core.names import RelPath
from syncline.core.safety import Halt
from syncline.errors import Unavailable
from syncline.ports.mount_control import (
    PROBLEMS_SHOWN_MAX,
    TRANSFERS_SHOWN_MAX,
    HoldEnd,
    HoldEvent,
    LockAsked,
    LocksResult,
    MountPhase,
    MountProblem,
    MountStatus,
    ResumeEnd,
    ResumeResult,
    StatusNews,
    UnlockedResult,
    VerifyEnd,
    VerifyResult,
    WaitEnd,
    WaitResult,
)

logger = logging.getLogger(__name__)

ROOT_LOOK_S = 2.0
"""How often a missing root is looked for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a status says of the mount that never changes."""

    directory: bytes
    volume: str
    server: str


class MountSupervisor:
    """One mount; `run` is its life, the rest is `ports.mount_control.MountControl`."""

    def __init__(
        self,
        parts: Parts,
        lanes: Lanes,
        connect: Connect,
        shown: Shown,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self._parts = parts
        self._lanes = lanes
        self._connect = connect
        self._shown = shown
        self._backoff = backoff
        self._news = StatusNews()
        self._engine: Engine | None = None
        self._verifier: Verifier | None = None
        self._locks: Locker | None = None
        self._grants = Grants()
        self._halt: Halt | None = None
        self._asked = asyncio.Event()
        self._opening = asyncio.Lock()
        self._is_stopping = False

    async def run(self) -> None:
        """Keep the mount equal to the volume until it is cancelled.

        Raises InUse where another process has the mount, LocalFailure and OSError where the
        directory cannot be used at all.
        """
        try:
            while True:
                root = await self._open()
                try:
                    await self._run_engine(root)
                except* RootLost as lost:
                    self._pull(_first(lost).halt)
                except* IdentityShared:
                    self._parts = await self._lanes.thread.run(self._renamed)
        finally:
            self._is_stopping = True
            self._news.note()

    async def _open(self) -> Root:
        """Open the root; wait while it is another one, or none."""
        while True:
            # Whoever resumes must not release a root that was found well at that very moment.
            async with self._opening:
                root = await self._lanes.thread.run(self._open_root)
                if isinstance(root, Root):
                    self._halt = None
                    return root
                self._pull(root)
            self._asked.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(ROOT_LOOK_S):
                    await self._asked.wait()

    def _open_root(self) -> Root | Halt:
        parts = self._parts
        root = open_root(parts.files, parts.state, parts.limits)
        if isinstance(root, Root):
            try:
                recover(parts, root)
            except BaseException:
                root.close()
                raise
        return root

    def _renamed(self) -> Parts:
        """Take a new identity; base, local and remote stay, they speak of this directory (I1)."""
        parts = self._parts
        with parts.state.session() as session:
            facts = replace(session.facts(), replica=parts.ids.replica())
            session.set_facts(facts)
        return replace(parts, author=replace(parts.author, replica=facts.replica))

    def _pull(self, halt: Halt) -> None:
        if self._halt != halt:
            logger.error("halted reason=%s detail=%r", halt.reason.value, halt.detail)
            self._halt = halt
            self._news.note()

    async def _run_engine(self, root: Root) -> None:
        """Run an engine until it is cancelled, or its root is gone or given up."""
        try:
            phases = await self._lanes.thread.run(Phases, self._parts, root)
            engine = Engine(phases, self._lanes, self._connect, self._news, backoff=self._backoff)
            self._engine, self._verifier = engine, Verifier(engine, self._news)
            self._locks = Locker(engine, self._connect, self._news, self._grants, self._backoff)
            try:
                async with asyncio.TaskGroup() as group:
                    giving_back = group.create_task(self._locks.run(), name="locks")
                    await self._verifier.run()
                    giving_back.cancel()
            finally:
                engine.goals.finish_all(WaitEnd.STOPPED)
        finally:
            self._engine = self._verifier = self._locks = None
            root.close()

    # -- what it shows -------------------------------------------------------------

    def status(self) -> MountStatus:
        """Return what it shows now."""
        parts = self._parts
        status = MountStatus(
            MountPhase.STARTING,
            self._shown.directory,
            self._shown.volume,
            self._shown.server,
            parts.mount.mode,
            parts.mount.replica,
            halt=self._standing_halt(),
        )
        engine = self._engine
        if engine is not None and self._verifier is not None:
            status = _with_engine(status, engine, self._verifier)
        if self._is_stopping:
            return replace(status, phase=MountPhase.STOPPING)
        if status.halt is not None:
            return replace(status, phase=MountPhase.HALTED)
        return status

    def _standing_halt(self) -> Halt | None:
        return self._engine.halt if self._engine is not None else self._halt

    async def changed(self, seen: int) -> int:
        """Return the number of the newest status, as soon as it is not `seen`."""
        return await self._news.after(seen)

    # -- what it can be asked ------------------------------------------------------

    async def wait(self, timeout_s: float | None) -> WaitResult:
        """Return when all of now is stored and placed, or cannot be."""
        try:
            async with asyncio.timeout(timeout_s):
                end = await self._wait()
        except TimeoutError:
            end = WaitEnd.TIMED_OUT
        return WaitResult(end, self.status())

    async def _wait(self) -> WaitEnd:
        while True:
            if self._is_stopping:
                return WaitEnd.STOPPED
            if self._standing_halt() is not None:
                return WaitEnd.HALTED
            engine = self._engine
            if engine is not None:
                end = await engine.wait()
                if end is WaitEnd.STOPPED and not self._is_stopping:
                    # It goes on with another engine.
                    await self._news.after(await self._news.after(0))
                    continue
                is_found = self._verifier is not None and self._verifier.problems()
                return WaitEnd.PROBLEMS if end is WaitEnd.IN_SYNC and is_found else end
            await self._news.after(await self._news.after(0))

    async def verify(self, timeout_s: float | None) -> VerifyResult:
        """Return when all of the mount was read again and compared, or cannot be."""
        tally = Tally()
        try:
            async with asyncio.timeout(timeout_s):
                end = await self._verify(tally)
        except TimeoutError:
            end = VerifyEnd.TIMED_OUT
        return VerifyResult(
            end,
            self.status(),
            tally.entries,
            tally.size,
            tally.refilled,
            tuple(sorted(tally.findings, key=lambda finding: finding.path.parts)),
            tally.finding_count,
            tuple(tally.pending),
            tally.pending_count,
        )

    async def _verify(self, tally: Tally) -> VerifyEnd:
        while True:
            # Before all else: what is told while it verifies must not be waited for.
            seen = await self._news.after(0)
            if self._is_stopping:
                return VerifyEnd.STOPPED
            if self._standing_halt() is not None:
                return VerifyEnd.HALTED
            if self._verifier is not None:
                end = await self._verifier.verify(tally)
                if end is not None:
                    return end
            await self._news.after(seen)

    async def resume(self, agreed: Halt | None) -> ResumeResult:
        """Release the brakes, if `agreed` is what stands."""
        async with self._opening:
            stands = self._standing_halt()
            if stands is None:
                return ResumeResult(ResumeEnd.NOT_HALTED, None)
            if agreed != stands:
                return ResumeResult(ResumeEnd.HALTED, stands)
            await self._lanes.thread.run(self._release, stands)
        logger.warning("resumed reason=%s", stands.reason.value)
        if self._engine is not None:
            await self._engine.resumed(stands.reason)
        self._halt = None
        self._asked.set()
        self._news.note()
        return ResumeResult(ResumeEnd.RESUMED, stands)

    async def lock(self, asked: LockAsked) -> LocksResult:
        """Lock paths for this mount."""
        return await self._locker().lock(asked)

    def give_back(self, result: LocksResult) -> None:
        """Have locks given back that nobody was told of."""
        self._grants.give_back(result)

    async def hold(
        self, asked: LockAsked, tell: Callable[[HoldEvent], None], over: asyncio.Event
    ) -> HoldEnd:
        """Lock paths for one caller, until `over` is set."""
        return await self._locker().hold(asked, tell, over)

    async def unlock(self, paths: tuple[RelPath, ...], *, is_forced: bool) -> UnlockedResult:
        """Give up locks, or break those of others."""
        return UnlockedResult(await self._locker().unlock(paths, is_forced=is_forced))

    async def locks(self, path: RelPath) -> LocksResult:
        """Ask the server for the locks around a path."""
        return LocksResult(await self._locker().locks(path))

    def _locker(self) -> Locker:
        if self._locks is None:
            raise Unavailable(
                "the mount does not work at the moment; look at it with 'syncline status'"
            )
        return self._locks

    def _release(self, halt: Halt) -> None:
        with self._parts.state.session() as session:
            release(session, halt)


def _first(group: BaseExceptionGroup[RootLost]) -> RootLost:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    assert isinstance(first, RootLost), "a group of one kind has that kind"
    return first


def _with_engine(status: MountStatus, engine: Engine, verifier: Verifier) -> MountStatus:
    problems = problems_of(engine, verifier)
    facts = engine.phases.facts
    planned = engine.planned
    head = engine.follower.head
    error = engine.follower.error
    return replace(
        status,
        phase=_phase(engine, problems),
        is_connected=engine.follower.link is not None,
        connection_error=None if error is None else error.message,
        cursor=None if facts.cursor is None else facts.cursor.revision,
        head=None if head is None else head.revision,
        pending_up=planned.pending_up if planned is not None else 0,
        pending_down=planned.pending_down if planned is not None else 0,
        entries=engine.entries,
        problem_count=len(problems),
        problems=tuple(problems[:PROBLEMS_SHOWN_MAX]),
        transfers=engine.tidings.transfers(TRANSFERS_SHOWN_MAX),
        change_count=engine.tidings.count,
        changes=tuple(engine.tidings.changes),
        is_watch_degraded=engine.phases.scanner.is_watch_exhausted,
        verifying=verifier.progress,
        lock_count=engine.phases.locks.count,
        locks=engine.phases.locks.shown,
    )


def problems_of(engine: Engine, verifier: Verifier) -> list[MountProblem]:
    """Return all problems, each path once, in order of path."""
    found: dict[object, MountProblem] = {}
    if engine.trouble is not None:
        found[None] = engine.trouble
    if engine.planned is not None:
        found.update(engine.planned.problems)
    found.update(engine.patience.problems())
    by_path = {problem.path.parts: problem for problem in found.values()}
    for problem in (*engine.phases.exceptions, *verifier.problems()):
        by_path.setdefault(problem.path.parts, problem)
    return [by_path[parts] for parts in sorted(by_path)]


def _phase(engine: Engine, problems: list[MountProblem]) -> MountPhase:
    if engine.halt is not None:
        return MountPhase.HALTED
    if not engine.looking.is_scanned:
        return MountPhase.SCANNING
    if engine.follower.link is None or engine.phases.facts.cursor is None:
        return MountPhase.CONNECTING
    if not engine.is_at_rest:
        return MountPhase.SYNCING
    if any(problem.code not in BY_DESIGN for problem in problems):
        return MountPhase.WAITING
    planned = engine.planned
    if planned is not None and (planned.pending_up or planned.pending_down):
        # It is left out and no problem tells why, which must not be; least of all is it well (G10).
        return MountPhase.SYNCING
    return MountPhase.IN_SYNC
