"""The control task of a mount: one task owns all decisions; everything else only wakes it.

Model: the watcher and the WATCH stream are the two sources of events. Both are taken here, one
after the other, in cycles: observe, plan, place, send. Nothing is remembered between cycles but
what is under way; the plan is derived again (see `docs/decisions/0004`).

C1  Sessions and placing run on the mount thread, one at a time; reading, fetching and sending run
    beside the cycles and come back as results that wake the control task.
C2  Small changes are sent one batch at a time, and the next ones are planned when the feed has told
    of them; large content travels by itself, and its entries are left alone meanwhile.
C3  What failed is tried again later and later, never at once; what changed is tried at once.
C4  A halt stops planning, placing and sending until it is resumed; the feed is still taken in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from syncline.client.local import local_error
from syncline.client.mount.contents import Contents
from syncline.client.mount.fetching import Fetcher
from syncline.client.mount.following import Connect, Connected, Follower
from syncline.client.mount.goals import Goal, Goals
from syncline.client.mount.halting import cut_halt, denied_halt, volume_halt
from syncline.client.mount.marks import Marks
from syncline.client.mount.parts import Parts
from syncline.client.mount.patience import Patience
from syncline.client.mount.phases import Halted, Phases, Planned, ids_of, reads_of
from syncline.client.mount.place import Placed
from syncline.client.mount.problems import BY_DESIGN
from syncline.client.mount.read import Read, Reading, ReadResult
from syncline.client.mount.receiving import Gathered, Receiving
from syncline.client.mount.remote import FeedMismatch, HistoryCut
from syncline.client.mount.scan import Look
from syncline.client.mount.send import Sender
from syncline.client.mount.sending import Sending
from syncline.client.mount.tidings import Tidings
from syncline.client.steady import Backoff
from syncline.core.identity import EntryId, Revision, digest_of
from syncline.core.names import RelPath
from syncline.core.plans import Placing
from syncline.core.safety import Halt, HaltReason
from syncline.errors import LocalFailure, NoSpace, ProtocolBroken, SynclineError
from syncline.ports.executor import Executor
from syncline.ports.link import Committed, Progress, ResetReason, SnapshotBegin, WatchEvent
from syncline.ports.mount_control import MountProblem, StatusNews, WaitEnd

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

READINGS_AT_ONCE = 32
READINGS_MAX = 2_000
"""Files that are being read; beyond, no more places are looked at."""

SCAN_S = 3_600.0
"""How often everything is looked at although the watcher told nothing: for what no watch sees."""

DEGRADED_SCAN_S = 30.0
"""The same when the system has no watches left; and at least 20 times what a scan takes."""

REPLAN_SHARE = 4.0
"""While much is under way, planning again takes at most a fifth of the time."""

LINGER_LOOK_S = 1.0
"""How often it is looked whether a writer let go of a file that was replaced under him."""

GATHER_S = 0.25
PLACE_S = 1.0
ASK_S = 0.1
REPAIRS_MAX = 3

LOCK_WAIT_S = 10.0
"""How long a STORE may wait for another writer; then the change waits here."""

ROOT_REASONS = frozenset(
    {
        HaltReason.ROOT_MISSING,
        HaltReason.ROOT_OTHER_TYPE,
        HaltReason.ROOT_REPLACED,
        HaltReason.ROOT_EMPTIED,
    }
)


class RootLost(Exception):
    """The root is not the one that base speaks of: the engine ends, and nothing was recorded."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.detail)
        self.halt = halt


@dataclass(frozen=True, slots=True)
class Lanes:
    """Where work goes: `thread` is the mount thread, `reads` the threads that read files."""

    thread: Executor
    reads: Executor


class Engine:
    """One mount whose root is open; `run` is its life."""

    def __init__(
        self,
        phases: Phases,
        lanes: Lanes,
        connect: Connect,
        news: StatusNews,
        *,
        backoff: Backoff | None = None,
    ) -> None:
        self.parts: Parts = phases.parts
        self.phases = phases
        self.lanes = lanes
        self.news = news
        self.halt: Halt | None = None
        self.planned: Planned | None = None
        self.dirty = self.entries = 0
        self.is_scanned = False
        self._wake = asyncio.Event()
        self.contents = Contents()
        self.patience = Patience()
        self.tidings = Tidings(self.parts.clock, news.note)
        self.marks = Marks()
        self.goals = Goals()
        self.follower = Follower(connect, self.parts.author, self.wake, backoff=backoff)
        parts = (phases, lanes.thread)
        self.sending = Sending(*parts, self.patience, self.tidings, self.replan)
        self.receiving = Receiving(
            *parts, self.contents, self.patience, self.tidings, self.replan
        )
        self._group: asyncio.TaskGroup
        self._results: list[ReadResult] = []
        self._reading = 0
        self._is_scan_due = True
        self._is_scan_cut = False
        self._scan_started_s = self._scanned_s = self._scan_took_s = 0.0
        self._needs_plan = True
        self._planned_s = self._plan_took_s = 0.0
        self._gathering: tuple[asyncio.Task[Gathered], Sequence[Placing]] | None = None
        self._repairs = 0
        self._retry_s: float | None = None
        self.trouble: MountProblem | None = None
        self._is_unsynced = False
        self._pauses = _pauses()
        self._is_cycling = True
        self._taken = asyncio.Event()
        self._sender: Sender | None = None
        self._fetcher: Fetcher | None = None
        self._caught_up = Revision(0)

    def wake(self) -> None:
        """Let the control task look at what came."""
        self._wake.set()

    def replan(self) -> None:
        """Let the control task make a new plan."""
        self._needs_plan = True
        self._wake.set()

    def scan(self) -> None:
        """Look at everything as soon as possible."""
        self._is_scan_due = True
        self._wake.set()

    @property
    def is_scanning(self) -> bool:
        """Tell whether a look at everything is due or under way."""
        return self._is_scan_due or self._is_scan_cut or self._reading > 0

    async def run(self) -> None:
        """Keep the mount equal to the volume until it is cancelled."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._watch(), name="watcher")
            self._group.create_task(
                self.follower.run(lambda: self.phases.facts.cursor), name="follower"
            )
            self.sending.keep_unknown(await self._thread(self.phases.unanswered), self._now_s())
            if self.halt is None:
                self.follower.allow()
            while True:
                await self._pause()
                self._is_cycling = True
                await self._cycle()
                self._is_cycling = False
                self.news.note()

    async def _watch(self) -> None:
        while True:
            await self.parts.watcher.wait()
            self._taken.clear()
            self._wake.set()
            await self._taken.wait()

    async def _pause(self) -> None:
        """Wait for something to do."""
        now_s = self._now_s()
        due: list[float | None] = []
        if self.halt is None:
            due += [self._next_scan_s(), self._retry_s, self._replan_s()]
            if self._reading < READINGS_MAX:
                due += [self.marks.next_s(), now_s if self._is_scan_cut else None]
        if self.phases.applier.is_lingering:
            due.append(now_s + LINGER_LOOK_S)
        next_s = min((each for each in due if each is not None), default=None)
        try:
            async with asyncio.timeout_at(next_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _next_scan_s(self) -> float | None:
        if self._is_scan_cut:
            return None
        if self._is_scan_due:
            return self._now_s()
        every_s = SCAN_S
        if self.phases.scanner.is_watch_exhausted:
            every_s = max(DEGRADED_SCAN_S, 20 * self._scan_took_s)
        return self._scanned_s + every_s

    def _replan_s(self) -> float | None:
        """Return when a plan that is due may be made: at once when nothing is under way."""
        if not self._needs_plan or not self._may_plan():
            return None
        if self.sending.is_small_free:
            return self._now_s()
        return self._planned_s + REPLAN_SHARE * self._plan_took_s

    # -- a cycle -----------------------------------------------------------------

    async def _cycle(self) -> None:
        try:
            if self._is_unsynced:
                await self._thread(self.phases.sync_all)
                self._is_unsynced = False
            await self._hear()
            if self.halt is None:
                await self._observe()
                if self._retry_s is not None and self._retry_s <= self._now_s():
                    self._needs_plan, self._retry_s = True, None
                replan_s = self._replan_s()
                if replan_s is not None and replan_s <= self._now_s():
                    await self._plan_and_act()
            await self._finish_cycle()
            if self.trouble is not None:
                logger.info("mount_trouble_over")
                self.trouble, self._pauses = None, _pauses()
        except Halted as halted:
            await self.pull(halted.halt)
        except (NoSpace, LocalFailure, OSError) as error:
            await self._fail_cycle(error)

    async def _fail_cycle(self, error: SynclineError | OSError) -> None:
        """Wait after trouble with the disk of the mount or of its state, and begin anew (C3).

        What was placed may not be durable: it counts as seen only after a sync that went well.
        """
        shown = local_error(error, b"") if isinstance(error, OSError) else error
        if self.trouble is None:
            logger.error("mount_trouble code=%s error=%r", shown.code, shown.message)
        self.trouble = MountProblem(RelPath(()), shown.code, shown.message)
        self.news.note()
        self.follower.restart()
        self._is_unsynced = self._needs_plan = True
        self._is_scan_due, self._is_scan_cut = True, False
        await asyncio.sleep(next(self._pauses))

    async def _hear(self) -> None:
        """Take in what the server told."""
        events = self.follower.take()
        if not events:
            return
        try:
            told: list[WatchEvent] = []
            for event in events:
                if isinstance(event, Connected):
                    await self._connected(event)
                else:
                    self._check_reset(event)
                    self._keep_inline(event)
                    told.append(event)
            if told and not self._is_history_cut():
                heard = await self._thread(self.phases.hear, told)
                self.goals.confirm(heard.confirmed)
                self.patience.forgive(heard.ids)
                if heard.ids:
                    self._needs_plan = True
                if heard.ids and not heard.is_own:
                    self.sending.is_replan_wanted = True
                self._repairs = 0
        except FeedMismatch as error:
            await self._repair(error)
        except HistoryCut as error:
            await self.pull(denied_halt(str(error)))
        except ProtocolBroken as error:
            logger.error("protocol_broken error=%r", error.message)
            self.follower.fail(error)
        finally:
            self.follower.applied(len(events))

    async def _connected(self, event: Connected) -> None:
        facts = self.phases.facts
        if facts.volume is None:
            await self._thread(self.phases.change_facts, replace(facts, volume=event.facts.volume))
        elif facts.volume != event.facts.volume:
            await self.pull(volume_halt(event.facts))
            return
        self._sender = Sender(
            event.link,
            self.parts.author,
            self.parts.chunker,
            self.contents,
            self.phases.root.directory,
            self.lanes.reads,
            LOCK_WAIT_S,
        )
        self._fetcher = Fetcher(
            event.link, self.contents, self.phases.root.own, self.lanes.reads, self.parts.chunker
        )
        self._caught_up = event.facts.head.revision
        self.patience.forgive_all()
        self._needs_plan = True
        logger.info("connected volume=%s head=%d", event.facts.volume_name, self._caught_up)

    def _is_history_cut(self) -> bool:
        return self.halt is not None and self.halt.reason is HaltReason.HISTORY_CUT

    def _check_reset(self, event: WatchEvent) -> None:
        if isinstance(event, SnapshotBegin) and event.reason is ResetReason.HISTORY_CUT:
            cursor = self.phases.facts.cursor
            if cursor is not None:
                raise Halted(cut_halt(cursor, event.head))

    def _keep_inline(self, event: WatchEvent) -> None:
        if not isinstance(event, Committed):
            return
        if event.commit.author.replica == self.parts.author.replica:
            return
        for digest, content in event.inline.items():
            if digest_of(content) == digest:
                self.contents.put(digest, content)

    async def _repair(self, error: FeedMismatch) -> None:
        """Ask for the whole table, once; a mismatch that lasts is told and waited out."""
        self._repairs += 1
        logger.error("feed_mismatch error=%r repairs=%d", str(error), self._repairs)
        await self._thread(self.phases.change_facts, replace(self.phases.facts, cursor=None))
        if self._repairs > REPAIRS_MAX:
            self.follower.fail(ProtocolBroken(f"the feed is not the server's table: {error}"))
        else:
            self.follower.restart()

    async def _observe(self) -> None:
        """Look at what was marked, and take in what was read."""
        now_s = self._now_s()
        noticed = self.parts.watcher.take()
        self._taken.set()
        self.marks.add(noticed.marks, now_s)
        self.marks.add(self.sending.take_looks(), now_s)
        for goal in self.goals.notice(noticed.sentinels, now_s):
            if self.phases.scanner.is_watch_exhausted:
                self._is_scan_due = True
            await self._thread(self.phases.drop_sentinel, goal.token)
        if noticed.is_overflown or self.marks.is_too_many:
            logger.warning("watch_overflow looking_at=everything")
            self._is_scan_due = True
        scan_s = self._next_scan_s()
        if scan_s is not None and scan_s <= now_s:
            self._is_scan_due = True
        if self._results:
            results, self._results = self._results, []
            self.marks.wait(await self._thread(self.phases.record, results), now_s)
            self._keep_contents(reads_of(results))
            self._note_observed()
        if self._reading >= READINGS_MAX:
            return
        looks = self.marks.take(now_s)
        if looks or self._is_scan_due or self._is_scan_cut or noticed.is_root_gone:
            await self._look(looks)
        if self.is_scanned is False and not self.is_scanning:
            for relabel in await self._thread(self.phases.finish_first_scan):
                self.marks.relabel(relabel.local_id, relabel.id)
            self.is_scanned = self._needs_plan = True
            logger.info("scanned seconds=%.1f", self._now_s() - self._scan_started_s)

    async def _look(self, looks: Sequence[Look]) -> None:
        is_everywhere = self._is_scan_due and not self._is_scan_cut
        if is_everywhere:
            self._is_scan_due = False
            self.marks.clear()
            self._scan_started_s = self._now_s()
        was_cut = self._is_scan_cut
        observed = await self._thread(self.phases.look, looks, is_everywhere=is_everywhere)
        self._is_scan_cut = observed.is_cut
        if (is_everywhere or was_cut) and not observed.is_cut:
            self._scanned_s = self._now_s()
            self._scan_took_s = self._scanned_s - self._scan_started_s
        self.marks.wait(observed.waiting, self._now_s())
        self._keep_contents(observed.reads)
        readings = observed.readings
        for start in range(0, len(readings), READINGS_AT_ONCE):
            some = readings[start : start + READINGS_AT_ONCE]
            self._reading += len(some)
            self._group.create_task(self._read(some), name="read")
        self._note_observed()

    async def _read(self, readings: Sequence[Reading]) -> None:
        try:
            for reading in readings:
                self._results.append(await self.lanes.reads.run(self.phases.read, reading))
        finally:
            self._reading -= len(readings)
            self._wake.set()

    def _keep_contents(self, reads: Sequence[Read]) -> None:
        """Keep in memory what is about to be sent."""
        for each in reads:
            if each.held is not None:
                self.contents.put(each.content.digest, each.held)
            self.contents.put_pieces(each.chunked.pieces)

    def _note_observed(self) -> None:
        self._needs_plan = True
        self.sending.is_replan_wanted = True

    # -- planning and acting -----------------------------------------------------

    def _may_plan(self) -> bool:
        facts = self.phases.facts
        return self.is_scanned and self.halt is None and facts.cursor is not None

    def _may_send(self) -> bool:
        cursor = self.phases.facts.cursor
        return (
            self.follower.link is not None
            and self.sending.is_small_free
            and cursor is not None
            and cursor.revision >= max(self.sending.awaited, self._caught_up)
        )

    async def _plan_and_act(self) -> None:
        started_s = self._now_s()
        self._needs_plan = False
        busy = self.sending.busy | self.patience.waiting(started_s)
        self._retry_s = self.patience.next_s(started_s)
        planned = await self._thread(self.phases.plan, busy, may_send=self._may_send())
        self._planned_s = self._now_s()
        self._plan_took_s = self._planned_s - started_s
        self.planned = planned
        self.patience.keep_only(planned.ids)
        for relabel in planned.relabels:
            self.marks.relabel(relabel.local_id, relabel.id)
        if self.follower.link is not None and self._sender and self._fetcher:
            self.sending.start(planned, self._sender, self._group)
            self.receiving.start(planned, self._fetcher, self._group)
        if planned.slices:
            await self._place(planned)
        await self.receiving.tidy(planned)

    async def _place(self, planned: Planned) -> None:
        """Place slice by slice; the contents of the next one come meanwhile."""
        for count, actions in enumerate(planned.slices):
            contents = await self._contents_of(actions, planned)
            if contents is None:
                self._needs_plan = True
                return
            following = planned.slices[count + 1 : count + 2]
            for next_actions in following:
                self._begin_gathering(next_actions, planned)
            placed = await self._thread(
                self.phases.place, actions, contents, following[0] if following else ()
            )
            self._note_placed(actions, placed, planned)

    async def _contents_of(self, actions: Sequence[Placing], planned: Planned) -> Gathered | None:
        """Return the contents of a slice; None when there are news to look at before they came."""
        started_s = self._now_s()
        patient_s = max(GATHER_S, REPLAN_SHARE * self._plan_took_s)
        while True:
            gathering = self._gathering or self._begin_gathering(actions, planned)
            task, for_actions = gathering
            await asyncio.wait((task,), timeout=GATHER_S)
            if task.done():
                self._gathering = None
                if for_actions is actions:
                    return task.result()
            elif self._wake.is_set() and self._now_s() - started_s >= patient_s:
                return None

    def _begin_gathering(
        self, actions: Sequence[Placing], planned: Planned
    ) -> tuple[asyncio.Task[Gathered], Sequence[Placing]]:
        fetcher = self._fetcher if self.follower.link is not None else None
        task = self._group.create_task(
            self.receiving.gather(actions, planned, fetcher), name="gather"
        )
        self._gathering = (task, actions)
        return self._gathering

    def _note_placed(self, actions: Sequence[Placing], placed: Placed, planned: Planned) -> None:
        now_s = self._now_s()
        self.patience.forgive(placed.entries)
        self.goals.confirm(placed.entries)
        settled = placed.entries | set(placed.lacking)
        for trouble in placed.problems:
            path = planned.paths.get(trouble.id, RelPath(()))
            problem = MountProblem(path, trouble.code, trouble.detail)
            self.patience.fail(trouble.id, problem, now_s, is_certain=True, at_least_s=PLACE_S)
            settled |= {trouble.id}
        for action in actions:
            for id in ids_of(action) & placed.entries:
                self.tidings.placed(action, planned.paths.get(id, RelPath(())))
            for id in ids_of(action) - settled:
                path = planned.paths.get(id, RelPath(()))
                problem = MountProblem(path, "busy", "it is not as it was when it was looked at")
                self.patience.fail(id, problem, now_s, is_certain=False)
        for path in placed.rescued:
            logger.warning("rescued path='%s' reason=edited_while_replaced", path)
        self.marks.add(placed.looks, now_s)
        self._needs_plan = True

    # -- the end of a cycle --------------------------------------------------------

    async def _finish_cycle(self) -> None:
        now_s = self._now_s()
        await self.sending.forget_unknown(now_s)
        marks, self.dirty, self.entries = await self._thread(self.phases.settle)
        self.marks.add(marks, now_s)
        if self.goals.all:
            await self._judge_goals()
        if not self.dirty and self.sending.is_idle:
            self.contents.clear()
        facts = self.phases.facts
        if facts.cursor is not None:
            self.follower.tell(Progress(facts.cursor, self.dirty, len(self.patience.problems())))

    @property
    def is_at_rest(self) -> bool:
        """Tell whether nothing is to be done but what waits for a user or for another try."""
        planned = self.planned
        return (
            planned is not None
            and not self._is_cycling
            and planned.is_quiet
            and not self.patience.is_hoping
            and self.trouble is None
            and not self._needs_plan
            and not self.is_scanning
            and not len(self.marks)
            and self.sending.is_idle
            and self.receiving.is_idle
            and self._is_heard()
        )

    def _is_heard(self) -> bool:
        cursor, head = self.phases.facts.cursor, self.follower.head
        return cursor is not None and head is not None and cursor.revision >= head.revision

    # -- what it can be asked --------------------------------------------------------

    async def wait(self) -> WaitEnd:
        """Return when what the user did before is stored, and what the server has now is placed."""
        loop = asyncio.get_running_loop()
        goal = Goal(self.parts.ids.op().hex().encode(), loop.create_future())
        self.goals.all.append(goal)
        try:
            await self._thread(self.phases.make_sentinel, goal.token)
            await self._ask_head(goal)
            self._wake.set()
            return await goal.end
        finally:
            self.goals.all.remove(goal)

    async def _ask_head(self, goal: Goal) -> None:
        """Learn the server's head of now, as soon as there is a server."""
        while goal.head is None and not goal.end.done():
            link = self.follower.link
            if link is not None:
                try:
                    goal.head = (await link.hello()).head.revision
                    return
                except SynclineError as error:
                    logger.debug("head_not_told code=%s", error.code)
            await asyncio.sleep(ASK_S)

    async def _judge_goals(self) -> None:
        if self.halt is not None:
            self.goals.finish_all(WaitEnd.HALTED)
            return
        cursor = self.phases.facts.cursor
        ready = [
            goal
            for goal in self.goals.all
            if goal.seen_s is not None
            and goal.head is not None
            and cursor is not None
            and cursor.revision >= goal.head
            and (goal.ids is not None or self._is_looked_at(goal.seen_s))
        ]
        if not ready:
            return
        dirty = await self._thread(self.phases.dirty)
        by_design = self._by_design()
        for goal in ready:
            goal.ids = (dirty if goal.ids is None else goal.ids & dirty) - by_design
            if not goal.ids:
                goal.finish(WaitEnd.IN_SYNC if self._is_clean() else WaitEnd.PROBLEMS)
            elif self.is_at_rest and goal.ids <= self._troubled():
                goal.finish(WaitEnd.PROBLEMS)

    def _is_looked_at(self, seen_s: float) -> bool:
        """Tell whether all that was marked up to then is recorded."""
        return self.is_scanned and not self.is_scanning and self.marks.is_settled(seen_s)

    def _by_design(self) -> set[EntryId]:
        planned = self.planned.problems if self.planned is not None else ()
        return {id for id, problem in planned if problem.code in BY_DESIGN}

    def _troubled(self) -> set[EntryId]:
        planned = self.planned.problems if self.planned is not None else ()
        return {id for id, _ in planned} | {id for id, _ in self.patience.problems()}

    def _is_clean(self) -> bool:
        return all(problem.code in BY_DESIGN for problem in self.phases.exceptions)

    async def pull(self, halt: Halt) -> None:
        """Pull the brakes; a root that is not the known one ends the engine."""
        self.goals.finish_all(WaitEnd.HALTED)
        if halt.reason in ROOT_REASONS:
            raise RootLost(halt)
        if self.halt != halt:
            logger.error("halted reason=%s detail=%r", halt.reason.value, halt.detail)
        self.halt = halt
        if halt.reason is HaltReason.HISTORY_CUT:
            self.follower.hold()

    async def resumed(self, reason: HaltReason) -> None:
        """Go on after a halt that was released in the state."""
        self.halt = None
        self.phases.facts = await self._thread(self.phases.read_facts)
        if reason is HaltReason.HISTORY_CUT:
            self.sending.awaited = Revision(0)
            self.follower.allow()
        self.scan()
        self._needs_plan = True

    # -- small things ------------------------------------------------------------

    async def _thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.lanes.thread.run(work, *args, **kwargs)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _pauses() -> Iterator[float]:
    """Yield how long to wait after trouble with a disk, again and again."""
    return Backoff(first_s=1.0, most_s=30.0, jitter=lambda: 0.0).pauses()
