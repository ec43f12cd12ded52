"""What is on its way to the server: one lane for what is small, a few for large content.

S1  The small lane sends one batch at a time, in order. `awaited` is the revision that the feed must
    have told of before small changes are planned again: what was answered is then in remote.
S2  Large content has lanes of its own; the entries in them are in `busy` until their answer.
S3  A batch that fails for a reason of its own is halved until the one that is at fault is alone.
S4  What a STORE without an answer came to is told by the feed; its note is kept for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from syncline.client.mount.batching import Batch
from syncline.client.mount.lane import Lane, loop_s
from syncline.client.mount.locks import held_text
from syncline.client.mount.patience import Patience
from syncline.client.mount.phases import Outgoing, Phases, Planned
from syncline.client.mount.send import FileChanged, FileUnread, Sender
from syncline.client.mount.tidings import Tidings
from syncline.client.steady import ENDS_ALL
from syncline.core.changes import Accepted, Answer, Change, Holder, Outcome, Refusal, RefusalCode
from syncline.core.entries import Entry
from syncline.core.identity import EntryId, OpId, Revision
from syncline.core.names import escape
from syncline.errors import (
    Denied,
    LocalFailure,
    NoSpace,
    NotSignedIn,
    SynclineError,
    Throttled,
)
from syncline.ports.executor import Executor
from syncline.ports.mount_control import MountProblem
from syncline.ports.watcher import Mark

logger = logging.getLogger(__name__)

LARGE_LANES = 2
LOCKED_S = 2.0
REFUSED_S = 60.0
NO_SPACE_S = 5.0
NOTE_KEPT_S = 600.0
"""Far longer than a server may take to end a STORE whose stream is gone."""


UNSTORED = (Throttled, Denied, NotSignedIn)
"""Answers that say that nothing was stored."""


class Sending(Lane):
    """The lanes of one mount; all of it belongs to the control task's loop."""

    def __init__(
        self,
        phases: Phases,
        thread: Executor,
        patience: Patience,
        tidings: Tidings,
        wake: Callable[[], None],
    ) -> None:
        super().__init__()
        self.awaited = Revision(0)
        self.busy: set[EntryId] = set()
        self.looks: list[Mark] = []
        self.is_replan_wanted = False
        self._phases = phases
        self._thread = thread
        self._patience = patience
        self._tidings = tidings
        self._wake = wake
        self._small: Sequence[Batch] = ()
        self._large = 0
        self._patient_until_s = 0.0
        self._unknown: list[tuple[OpId, float]] = []

    def follow(self, head: Revision) -> None:
        """Know the head of a new connection: what is past it is not to be awaited."""
        self.connected()
        self.awaited = min(self.awaited, head)

    @property
    def is_small_free(self) -> bool:
        """Tell whether small changes may be planned for sending."""
        return not self._small

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is on its way."""
        return not self._small and not self._large

    def start(
        self, planned: Planned, sender: Sender, group: asyncio.TaskGroup, patient_until_s: float
    ) -> None:
        """Send what was planned, beside the cycles.

        Until then the small lane goes on although a new plan is wanted: planning costs as well.
        """
        if planned.small:
            self._small = planned.small
            self._patient_until_s = patient_until_s
            self.is_replan_wanted = False
            group.create_task(self._run_small(sender, planned), name="send-small")
        for batch in planned.large:
            if self._large >= LARGE_LANES:
                break
            self._large += 1
            self.busy |= {change.id for change in batch.changes}
            group.create_task(self._run_large(sender, batch, planned), name="send-large")

    def take_looks(self) -> list[Mark]:
        """Return where to look, because files were not what they were, and forget it."""
        looks, self.looks = self.looks, []
        return looks

    async def forget_unknown(self, now_s: float) -> None:
        """Let go of notes of STOREs whose commit, if there was one, was told long ago."""
        old = [op for op, until_s in self._unknown if until_s <= now_s]
        if old:
            self._unknown = [each for each in self._unknown if each[1] > now_s]
            await self._thread.run(self._phases.forget_sent, old)

    def keep_unknown(self, ops: Sequence[OpId], now_s: float) -> None:
        """Know of STOREs of an earlier run."""
        self._unknown += [(op, now_s + NOTE_KEPT_S) for op in ops]

    # -- lanes -------------------------------------------------------------------

    async def _run_small(self, sender: Sender, planned: Planned) -> None:
        try:
            for count, batch in enumerate(planned.small):
                if count and self.is_replan_wanted and loop_s() >= self._patient_until_s:
                    return
                noted = planned.first if count == 0 else None
                if not await self._send(sender, batch, planned, noted):
                    return
        except (NoSpace, LocalFailure, OSError) as error:
            self.hand_on(error)
        finally:
            self._small = ()
            self._wake()

    async def _run_large(self, sender: Sender, batch: Batch, planned: Planned) -> None:
        try:
            await self._send(sender, batch, planned)
        except (NoSpace, LocalFailure, OSError) as error:
            self.hand_on(error)
        finally:
            self._large -= 1
            self.busy -= {change.id for change in batch.changes}
            self._wake()

    async def _send(
        self, sender: Sender, batch: Batch, planned: Planned, noted: Outgoing | None = None
    ) -> bool:
        """Send one batch; tell whether it makes sense to go on with the next one."""
        outgoing = noted
        if outgoing is None:
            outgoing = await self._thread.run(self._phases.note, batch, planned)
        transfer = self._tidings.upload(outgoing.largest) if outgoing.largest else None
        try:
            answer = await sender.send(
                batch,
                outgoing.op,
                outgoing.files,
                is_confirmed=planned.is_confirmed,
                progress=transfer.advance if transfer else _ignore,
                tokens=outgoing.tokens,
            )
        except ENDS_ALL as error:
            logger.info("store_unanswered code=%s changes=%d", error.code, len(batch.changes))
            self.pause()
            if isinstance(error, UNSTORED):
                await self._give_up(outgoing)
            else:
                self._unknown.append((outgoing.op, loop_s() + NOTE_KEPT_S))
            return False
        except (FileChanged, FileUnread) as error:
            await self._give_up(outgoing)
            await self._look_at(outgoing, error.ids)
            return False
        except SynclineError as error:
            await self._give_up(outgoing)
            return await self._fail(sender, outgoing, error, planned)
        finally:
            if transfer:
                transfer.end()
        self.well()
        await self._settle(outgoing, answer)
        return True

    async def _give_up(self, outgoing: Outgoing) -> None:
        await self._thread.run(self._phases.forget_sent, [outgoing.op])

    async def _look_at(self, outgoing: Outgoing, ids: Sequence[EntryId]) -> None:
        """Look at files that are not what they were when the plan was made."""
        marks = await self._thread.run(self._phases.marks_of, ids)
        self.looks += marks
        for id in ids:
            problem = MountProblem(outgoing.path(id), "busy", "it changed while it was sent")
            self._patience.fail(id, problem, loop_s(), is_certain=False)

    async def _fail(
        self, sender: Sender, outgoing: Outgoing, error: SynclineError, planned: Planned
    ) -> bool:
        batch = outgoing.batch
        if isinstance(error, LocalFailure):
            await self._look_at(outgoing, [change.id for change in batch.changes])
        is_one = batch.is_atomic or len(batch.changes) == 1
        if isinstance(error, NoSpace) or is_one:
            logger.warning("store_failed code=%s error=%r", error.code, error.message)
            for change in batch.changes:
                problem = MountProblem(outgoing.path(change.id), error.code, error.message)
                self._patience.fail(
                    change.id, problem, loop_s(), is_certain=True, at_least_s=NO_SPACE_S
                )
            return not isinstance(error, NoSpace)
        middle = len(batch.changes) // 2
        for half in (batch.changes[:middle], batch.changes[middle:]):  # S3
            if not await self._send(sender, Batch(half), planned):
                return False
        return True

    # -- answers -----------------------------------------------------------------

    async def _settle(self, outgoing: Outgoing, answer: Answer) -> None:
        self.awaited = max(self.awaited, answer.revision)
        is_any = any(isinstance(outcome, Accepted) for outcome in answer.outcomes)
        refused: set[EntryId] = set()
        for change, outcome in zip(outgoing.batch.changes, answer.outcomes, strict=True):
            if change.id in refused:
                # A put that follows a move that was refused is wrong only because of that.
                continue
            if isinstance(outcome, Accepted):
                self._patience.forgive([change.id])
                self._tidings.stored(change, outgoing.path(change.id), outgoing.olds.get(change.id))
            else:
                refused.add(change.id)
                self._refused(outgoing, change, outcome)
        if not is_any:
            await self._give_up(outgoing)
        gone = _tombstones(outgoing.batch.changes, answer.outcomes)
        if gone:
            await self._thread.run(self._phases.learn_gone, gone)

    def _refused(self, outgoing: Outgoing, change: Change, refusal: Refusal) -> None:
        code, detail = refusal.code.value, refusal.detail
        is_certain, at_least_s = False, 0.0
        match refusal.code:
            case RefusalCode.LOCKED:
                # A STORE of our own that a cut left there is no lock to tell a user of: it ends.
                is_certain, at_least_s = not self._is_own(refusal.holder), LOCKED_S
                if refusal.holder is not None:
                    detail = self._holder_text(refusal.holder)
            case RefusalCode.LOCK_LOST:
                # Planned again without it: the revision check keeps the data safe.
                self._phases.locks.lose(outgoing.tokens)
                detail = "a lock that it was changed under is lost"
            case RefusalCode.INVALID:
                is_certain, at_least_s = True, REFUSED_S
            case _:
                # The world is another one by now; the feed tells, and the next plan knows.
                detail = detail or "the volume changed meanwhile"
        problem = MountProblem(outgoing.path(change.id), code, detail)
        self._patience.fail(
            change.id, problem, loop_s(), is_certain=is_certain, at_least_s=at_least_s
        )

    def _is_own(self, holder: Holder | None) -> bool:
        if holder is None or holder.entry is not None:
            return False
        return holder.replica == self._phases.parts.author.replica

    def _holder_text(self, holder: Holder) -> str:
        if holder.entry is None:
            return f"locked by {escape(holder.name.encode())}"
        since_ns = self._phases.parts.clock.wall_ns() - int(holder.since_s * 1e9)
        return held_text(holder.name, holder.host, since_ns, holder.reason)


def _tombstones(changes: Sequence[Change], outcomes: Sequence[Outcome]) -> list[Entry]:
    """Return what the server knows to be deleted, where a change took it for something else."""
    return [
        outcome.current
        for change, outcome in zip(changes, outcomes, strict=True)
        if isinstance(outcome, Refusal)
        and outcome.code is RefusalCode.STALE
        and outcome.current is not None
        and outcome.current.id == change.id
        and not outcome.current.is_live
    ]


def _ignore(size: int) -> None:
    """Nobody looks at the progress of what is small."""
