"""Waiting for a moment: what `syncline wait` promises, and when it is kept.

Model: a goal passes four gates. Its sentinel was noticed, so everything that happened in the mount
before is marked. What was marked by then was looked at. The feed has told of the server's head of
then. Each entry that was dirty at that moment was confirmed since, or is dirty no more.

W1  What comes later does not hold a goal up: it waits for entries, and an entry that is confirmed
    once is done, however often it is edited meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from syncline.core.identity import EntryId, Revision
from syncline.ports.mount_control import WaitEnd


@dataclass(slots=True, eq=False)
class Goal:
    """One call of `wait`. `ids` is None until the first three gates are passed."""

    token: bytes
    end: asyncio.Future[WaitEnd]
    head: Revision | None = None
    seen_s: float | None = None
    ids: set[EntryId] | None = None

    def finish(self, end: WaitEnd) -> None:
        """Let the caller go; a second time does nothing."""
        if not self.end.done():
            self.end.set_result(end)


class Goals:
    """The goals that are waited for."""

    def __init__(self) -> None:
        self.all: list[Goal] = []

    def notice(self, sentinels: Iterable[bytes], now_s: float) -> list[Goal]:
        """Note sentinels that appeared; return their goals."""
        names = frozenset(sentinels)
        noticed = [goal for goal in self.all if goal.token in names and goal.seen_s is None]
        for goal in noticed:
            goal.seen_s = now_s
        return noticed

    def confirm(self, ids: Iterable[EntryId]) -> None:
        """Note entries whose base moved (W1)."""
        confirmed = set(ids)
        for goal in self.all:
            if goal.ids is not None:
                goal.ids -= confirmed

    def finish_all(self, end: WaitEnd) -> None:
        """Let all callers go."""
        for goal in self.all:
            goal.finish(end)
