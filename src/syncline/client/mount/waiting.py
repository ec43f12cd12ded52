"""The waits of a mount: how goals pass their gates (see `goals`), and what each needs for that.

All of it belongs to the control task's loop: callers wait beside it, each cycle ends by judging.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from syncline.client.mount.following import Follower
from syncline.client.mount.goals import Goal, Goals
from syncline.client.mount.lane import loop_s
from syncline.client.mount.looking import Looking
from syncline.client.mount.phases import Phases, Planned
from syncline.client.mount.problems import BY_DESIGN
from syncline.core.identity import EntryId
from syncline.errors import SynclineError
from syncline.ports.executor import Executor
from syncline.ports.mount_control import WaitEnd
from syncline.ports.watcher import Noticed

logger = logging.getLogger(__name__)

ASK_S = 0.1
"""How soon the server is asked for its head again."""


class Waits:
    """Makes the goals of those who wait, and brings them to their end."""

    def __init__(
        self,
        goals: Goals,
        phases: Phases,
        thread: Executor,
        looking: Looking,
        follower: Follower,
        wake: Callable[[], None],
    ) -> None:
        self._goals = goals
        self._phases = phases
        self._thread = thread
        self._looking = looking
        self._follower = follower
        self._wake = wake
        self._forgotten: list[bytes] = []
        """Sentinels that nobody needs any more."""

    async def wait(self) -> WaitEnd:
        """Return when what the user did before is stored, and what the server has now is placed."""
        loop = asyncio.get_running_loop()
        goal = Goal(self._phases.parts.ids.op().hex().encode(), loop.create_future())
        self._goals.all.append(goal)
        try:
            await self._send_sentinel(goal)
            await self._ask_head(goal)
            self._wake()
            return await goal.end
        finally:
            self._goals.all.remove(goal)
            self._forgotten.append(goal.token)
            self._wake()

    async def _send_sentinel(self, goal: Goal) -> None:
        """Make the sentinel; where that cannot be, a look at everything takes its place."""
        try:
            is_watched = await self._thread.run(self._phases.make_sentinel, goal.token)
        except OSError as error:
            logger.warning("no_sentinel error=%s", error.strerror)
            is_watched = False
        if not is_watched:
            goal.seen_s = loop_s()
            self._looking.scan()

    async def _ask_head(self, goal: Goal) -> None:
        """Learn the server's head of now, as soon as there is a server."""
        while goal.head is None and not goal.end.done():
            link = self._follower.link
            if link is not None:
                try:
                    goal.head = (await link.hello()).head.revision
                    return
                except SynclineError as error:
                    logger.debug("head_not_told code=%s", error.code)
            await asyncio.sleep(ASK_S)

    async def notice(self, noticed: Noticed, now_s: float) -> None:
        """Take in the sentinels that were noticed; remove those that did their work."""
        # A sentinel may be among what was lost; the scan that follows sees what it stood for.
        tokens = (goal.token for goal in self._goals.all) if noticed.is_overflown else ()
        goals = self._goals.notice([*noticed.sentinels, *tokens], now_s)
        self._forgotten += [goal.token for goal in goals]
        if goals and self._phases.scanner.is_watch_exhausted:
            self._looking.scan()
        if self._forgotten:
            forgotten, self._forgotten = self._forgotten, []
            await self._thread.run(self._phases.drop_sentinels, forgotten)

    async def judge(
        self, planned: Planned | None, is_idle: Callable[[], bool], *, is_halted: bool
    ) -> None:
        """End the waits whose goals are reached, or cannot be."""
        if is_halted:
            self._goals.finish_all(WaitEnd.HALTED)
            return
        ready = [goal for goal in self._goals.all if self._is_ready(goal)]
        if not ready:
            return
        dirty = await self._thread.run(self._phases.dirty)
        by_design = _by_design(planned)
        for goal in ready:
            goal.ids = (dirty if goal.ids is None else goal.ids & dirty) - by_design
            if not goal.ids:
                goal.finish(WaitEnd.IN_SYNC if self._is_clean() else WaitEnd.PROBLEMS)
            elif is_idle():
                # What is left waits for a user.
                goal.finish(WaitEnd.PROBLEMS)

    def _is_ready(self, goal: Goal) -> bool:
        """Tell whether a goal is past the first three gates."""
        cursor = self._phases.facts.cursor
        return (
            goal.seen_s is not None
            and goal.head is not None
            and cursor is not None
            and cursor.revision >= goal.head
            and (goal.ids is not None or self._looking.is_settled(goal.seen_s))
        )

    def _is_clean(self) -> bool:
        return all(problem.code in BY_DESIGN for problem in self._phases.exceptions)


def _by_design(planned: Planned | None) -> set[EntryId]:
    problems = planned.problems if planned is not None else ()
    return {id for id, problem in problems if problem.code in BY_DESIGN}
