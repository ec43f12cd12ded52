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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from syncline.client.local import local_error
from syncline.client.mount.contents import Contents
from syncline.client.mount.fetching import Fetcher
from syncline.client.mount.following import Connect, Connected, Follower
from syncline.client.mount.goals import Goals
from syncline.client.mount.halting import cut_halt, denied_halt, volume_halt
from syncline.client.mount.lane import loop_s, pauses
from syncline.client.mount.looking import Looking
from syncline.client.mount.parts import Parts
from syncline.client.mount.patience import Patience
from syncline.client.mount.phases import Halted, Phases, Planned
from syncline.client.mount.place import Placed
from syncline.client.mount.receiving import Gathered, Receiving
from syncline.client.mount.remote import FeedMismatch, HistoryCut
from syncline.client.mount.send import Sender
from syncline.client.mount.sending import Sending
from syncline.client.mount.tidings import Tidings
from syncline.client.mount.waiting import Waits
from syncline.client.steady import Backoff
from syncline.core.changes import RefusalCode
from syncline.core.identity import Revision, digest_of
from syncline.core.names import RelPath
from syncline.core.plans import Placing, ids_of
from syncline.core.safety import Halt, HaltReason
from syncline.errors import LocalFailure, NoSpace, ProtocolBroken, SynclineError
from syncline.ports.executor import Executor
from syncline.ports.link import (
    LOCKS,
    Committed,
    Heartbeat,
    Progress,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    WatchEvent,
)
from syncline.ports.mount_control import MountProblem, StatusNews, WaitEnd

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

REPLAN_SHARE = 4.0
"""While much is under way, planning again takes at most a fifth of the time."""

LINGER_LOOK_S = 1.0
"""How often it is looked whether a writer let go of a file that was replaced under him."""

GATHER_S = 0.25
PLACE_S = 1.0
REPAIRS_MAX = 3

TROUBLE_S = 1.0
"""The first pause after trouble with a disk."""

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


MASS_REASONS = frozenset({HaltReason.MASS_DELETE, HaltReason.MASS_REMOVAL})


class RootLost(Exception):
    """The root is not the one that base speaks of: the engine ends, and nothing was recorded."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.detail)
        self.halt = halt


class IdentityShared(Exception):
    """Commits bear the name of this mount that it did not make: it needs another name."""


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
        self._wake = asyncio.Event()
        self.contents = Contents()
        self.patience = Patience()
        self.tidings = Tidings(self.parts.clock, news.note)
        self.goals = Goals()
        self.follower = Follower(connect, self.parts.author, self.wake, backoff=backoff)
        parts = (phases, lanes.thread)
        self.sending = Sending(*parts, self.patience, self.tidings, self.replan)
        self.receiving = Receiving(*parts, self.contents, self.patience, self.tidings, self.replan)
        self.looking = Looking(phases, lanes.thread, lanes.reads, self.contents, self.wake)
        self.waits = Waits(self.goals, phases, lanes.thread, self.looking, self.follower, self.wake)
        self._group: asyncio.TaskGroup
        self._needs_plan = True
        self._has_news = False
        self._planned_s = self._plan_took_s = 0.0
        self._gathering: tuple[asyncio.Task[Gathered], Sequence[Placing]] | None = None
        self._repairs = 0
        self._retry_s: float | None = None
        self.trouble: MountProblem | None = None
        self._is_unsynced = False
        self._pauses = pauses(TROUBLE_S)
        self._is_cycling = True
        self._taken = asyncio.Event()
        self._sender: Sender | None = None
        self._fetcher: Fetcher | None = None
        self._caught_up = Revision(0)
        self._is_history_known = False
        """The server of this connection goes on from the cursor, or gave a whole table."""
        self._is_identity_shared = False

    def wake(self) -> None:
        """Let the control task look at what came."""
        self._wake.set()

    def replan(self) -> None:
        """Let the control task make a new plan."""
        self._needs_plan = self._has_news = True
        self._wake.set()

    async def run(self) -> None:
        """Keep the mount equal to the volume until it is cancelled."""
        try:
            await self._run()
        finally:
            self.phases.stop()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._watch(), name="watcher")
            self._group.create_task(
                self.follower.run(lambda: self.phases.facts.cursor), name="follower"
            )
            self.sending.keep_unknown(await self._thread(self.phases.unanswered), loop_s())
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
        now_s = loop_s()
        due: list[float | None] = []
        if self.halt is None:
            due += [self._retry_s, self._replan_s()]
            due += [self.sending.pause_until_s, self.receiving.pause_until_s]
        if self.halt is None or self.halt.reason in MASS_REASONS:
            due.append(self.looking.due_s())
        if self.phases.applier.is_lingering:
            due.append(now_s + LINGER_LOOK_S)
        next_s = min((each for each in due if each is not None), default=None)
        try:
            async with asyncio.timeout_at(next_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    def _replan_s(self) -> float | None:
        """Return when a plan that is due may be made: at once when nothing is under way."""
        if not self._needs_plan or not self._may_plan():
            return None
        if self.sending.is_small_free and not self._is_feed_awaited():
            return loop_s()
        # What was sent is planned anew when the feed told of it; only news are worth a plan before.
        return self._patient_until_s() if self._has_news else None

    def _is_feed_awaited(self) -> bool:
        """Tell whether the feed has not told yet of what was sent, or of all up to the hello."""
        cursor = self.phases.facts.cursor
        is_behind = cursor is None or cursor.revision < max(self.sending.awaited, self._caught_up)
        return is_behind and self.follower.link is not None

    def _patient_until_s(self) -> float:
        return self._planned_s + REPLAN_SHARE * self._plan_took_s

    # -- a cycle -----------------------------------------------------------------

    async def _cycle(self) -> None:
        try:
            for lane in (self.sending, self.receiving):
                lane.raise_error()
            if self._is_unsynced:
                await self._thread(self.phases.sync_all)
                self._is_unsynced = False
            await self._hear()
            await self._check_identity()
            if self.halt is None:
                await self._observe()
                if self._retry_s is not None and self._retry_s <= loop_s():
                    self._needs_plan, self._retry_s = True, None
                for lane in (self.sending, self.receiving):
                    self._needs_plan |= lane.is_pause_over(loop_s())
                replan_s = self._replan_s()
                if replan_s is not None and replan_s <= loop_s():
                    await self._plan_and_act()
            elif self.halt.reason in MASS_REASONS:
                await self._look_on()
            await self._finish_cycle()
            if self.trouble is not None:
                logger.info("mount_trouble_over")
                self.trouble, self._pauses = None, pauses(TROUBLE_S)
        except Halted as halted:
            await self.pull(halted.halt)
        except (NoSpace, LocalFailure, OSError) as error:
            await self._fail_cycle(error)

    async def _look_on(self) -> None:
        """Keep what a halt says true until a human has read it; nothing is placed or sent."""
        await self._observe()
        if self._needs_plan and self.phases.facts.cursor is not None:
            self._needs_plan = False
            await self._thread(self.phases.plan, frozenset(), may_send=False)

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
        self.looking.begin_anew()
        self.receiving.begin_anew()
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
                    self._needs_plan |= not self._is_history_known
                    self._is_history_known = True
                    told.append(event)
            if told and not self._is_history_cut():
                heard = await self._thread(self.phases.hear, told)
                if heard.stranger is not None:
                    self._note_stranger(heard.stranger)
                self.goals.confirm(heard.confirmed)
                self.patience.forgive(heard.ids)
                if heard.ids:
                    self._needs_plan = True
                if heard.has_lock_news:
                    self._note_locks(is_freed=heard.is_freed)
                if heard.ids and not heard.is_own:
                    self._note_news()
                if any(isinstance(each, Committed | Heartbeat | SnapshotEnd) for each in told):
                    self.follower.thrive()
                if any(isinstance(each, Heartbeat) for each in told):
                    self.looking.check_root()
                if any(isinstance(each, Committed) for each in told):
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

    def _note_stranger(self, revision: Revision) -> None:
        if self._is_identity_shared:
            return
        self._is_identity_shared = True
        logger.warning(
            "identity_shared revision=%d: a commit bears the name of this mount, and it does not"
            " remember it: what it remembers comes from an older copy, or a copy of it is in use"
            " elsewhere; it goes on under a new identity, and deletes nothing because of that",
            revision,
        )

    async def _check_identity(self) -> None:
        """End the engine where the name is not its own alone, as soon as nothing is under way.

        What was sent under the old name is awaited first: its commit would be a stranger's.
        """
        is_quiet = self.sending.is_idle and not self._is_feed_awaited()
        if self._is_identity_shared and is_quiet:
            if await self._thread(self.phases.unanswered):
                return
            raise IdentityShared

    def _note_locks(self, *, is_freed: bool) -> None:
        """Plan with the locks of now; what one kept out that is over is tried at once.

        So is what failed: it may have been in the way of what was held back.
        """
        kept = [
            id
            for id, problem in self.patience.problems()
            if problem.code == RefusalCode.LOCKED.value
        ]
        self.patience.forgive(kept)
        if is_freed:
            self.patience.forgive_all()
        if kept or self.dirty:
            self._note_news()

    async def _connected(self, event: Connected) -> None:
        if LOCKS not in event.facts.capabilities:
            self.phases.locks.forget()
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
        # Another history may have the same entries at the same revisions.
        self._is_history_known = False
        self.sending.follow(self._caught_up)
        self.receiving.connected()
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
        if self._repairs > REPAIRS_MAX:
            self.follower.fail(ProtocolBroken(f"the feed is not the server's table: {error}"))
        self.follower.repair()

    async def _observe(self) -> None:
        """Look at what was marked, and take in what was read."""
        now_s = loop_s()
        noticed = self.parts.watcher.take()
        self._taken.set()
        self.looking.marks.add(self.sending.take_looks(), now_s, is_own=True)
        await self.waits.notice(noticed, now_s)
        if await self.looking.observe(noticed, now_s, self._group):
            self._needs_plan = self.sending.is_replan_wanted = True
            # What is new here can only be sent, and waits for the lane, unless both sides changed.
            planned = self.planned
            self._has_news |= planned is None or planned.pending_down > 0

    def _note_news(self) -> None:
        """Plan soon, also while something is being sent."""
        self._needs_plan = self._has_news = True
        self.sending.is_replan_wanted = True

    # -- planning and acting -----------------------------------------------------

    def _may_plan(self) -> bool:
        facts = self.phases.facts
        return self.looking.is_scanned and self.halt is None and facts.cursor is not None

    def _may_send(self) -> bool:
        return (
            self.follower.link is not None
            and self._is_history_known
            and self.sending.is_small_free
            and self.sending.pause_until_s is None
            and not self._is_feed_awaited()
        )

    async def _plan_and_act(self) -> None:
        started_s = loop_s()
        self._needs_plan = self._has_news = False
        busy = self.sending.busy | self.patience.waiting(started_s)
        self._retry_s = self.patience.next_s(started_s)
        planned = await self._thread(self.phases.plan, busy, may_send=self._may_send())
        self._planned_s = loop_s()
        self._plan_took_s = self._planned_s - started_s
        self.planned = planned
        self.patience.keep_only(planned.ids)
        for relabel in planned.relabels:
            self.looking.marks.relabel(relabel.local_id, relabel.id)
        if self.follower.link is not None and self._sender and self._fetcher:
            self.sending.start(planned, self._sender, self._group, self._patient_until_s())
            self.receiving.start(planned, self._fetcher, self._group)
        elif planned.first is not None:
            self.sending.keep_unknown([planned.first.op], loop_s())
        if planned.slices:
            await self._place(planned)
        await self.receiving.tidy(planned)

    async def _place(self, planned: Planned) -> None:
        """Place slice by slice; the contents of the next one come meanwhile."""
        patient_until_s = self._patient_until_s()
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
            if following and loop_s() >= patient_until_s and self._is_anything_due():
                self.replan()
                return

    async def _contents_of(self, actions: Sequence[Placing], planned: Planned) -> Gathered | None:
        """Return the contents of a slice; None when there are news to look at before they came."""
        started_s = loop_s()
        patient_s = max(GATHER_S, REPLAN_SHARE * self._plan_took_s)
        while True:
            gathering = self._gathering or self._begin_gathering(actions, planned)
            task, for_actions = gathering
            await asyncio.wait((task,), timeout=GATHER_S)
            if task.done():
                self._gathering = None
                if for_actions is actions:
                    return task.result()
            elif loop_s() - started_s >= patient_s and self._is_anything_due():
                return None

    def _is_anything_due(self) -> bool:
        """Tell whether there is something to hear or to look at."""
        due_s = min(
            (s for s in (self.looking.marks.next_s(), self._retry_s) if s is not None), default=None
        )
        return self._wake.is_set() or (due_s is not None and due_s <= loop_s())

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
        now_s = loop_s()
        self.patience.forgive(placed.entries)
        settled = placed.entries | set(placed.lacking)
        for trouble in placed.problems:
            path = planned.paths.get(trouble.id, RelPath(()))
            problem = MountProblem(path, trouble.code, trouble.detail)
            self.patience.fail(trouble.id, problem, now_s, is_certain=True, at_least_s=PLACE_S)
            settled |= {trouble.id}
        for action in actions:
            for id in ids_of(action) & placed.entries:
                path = planned.paths.get(id, RelPath(()))
                self.tidings.placed(action, path, planned.olds.get(id))
            for id in ids_of(action) - settled:
                path = planned.paths.get(id, RelPath(()))
                problem = MountProblem(path, "busy", "it is not as it was when it was looked at")
                self.patience.fail(id, problem, now_s, is_certain=False)
        for path in placed.rescued:
            logger.warning("rescued path='%s' reason=edited_while_replaced", path)
        self.looking.marks.add(placed.looks, now_s, is_own=True)
        if placed.entries or placed.problems or placed.looks:
            # Not where content was lacking alone: whoever brings it asks for a new plan.
            self.replan()

    # -- the end of a cycle --------------------------------------------------------

    async def _finish_cycle(self) -> None:
        now_s = loop_s()
        if self.follower.link is not None and not self._is_feed_awaited():
            # What the feed has not told of yet may be the commit of such a STORE.
            await self.sending.forget_unknown(now_s)
        marks, self.dirty, self.entries = await self._thread(self.phases.settle)
        self.looking.marks.add(marks, now_s, is_own=True)
        if self.goals.all:
            await self.waits.judge(self.planned, self._is_idle, is_halted=self.halt is not None)
        if not self.dirty and self.sending.is_idle:
            self.contents.clear()
        facts = self.phases.facts
        self.follower.renew(is_holding=bool(self.phases.locks.own))
        if facts.cursor is not None:
            self.follower.tell(Progress(facts.cursor, self.dirty, len(self.patience.problems())))

    @property
    def is_at_rest(self) -> bool:
        """Tell whether nothing is to be done but what waits for a user or for another try."""
        return not self._is_cycling and self._is_idle()

    def _is_idle(self) -> bool:
        planned = self.planned
        return (
            planned is not None
            and planned.is_quiet
            and not self.patience.is_hoping
            and self.trouble is None
            and not self._needs_plan
            and not self.looking.is_scanning
            and self.looking.marks.is_idle
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
        return await self.waits.wait()

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
        await self._thread(self.phases.take_up)
        self.halt = None
        if reason is HaltReason.HISTORY_CUT:
            self.sending.awaited = Revision(0)
            self.follower.allow()
        self.looking.scan()
        self._needs_plan = True

    # -- small things ------------------------------------------------------------

    async def _thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.lanes.thread.run(work, *args, **kwargs)
