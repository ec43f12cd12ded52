"""Marks that wait for their look: what the watcher told, when, and when it is due.

M1  A place has one mark; what comes meanwhile is merged into it.
M2  A place is due at once, except while somebody only writes to it: then a moment later, once.
M3  In a burst a place is due when a new name would be quiet; what comes meanwhile does not put it
    off.
M4  Too many marks are no marks: a look everywhere takes their place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from syncline.client.mount.scan import Look, Waiting
from syncline.client.mount.scan_memory import MARGIN_S, NEW_S, UNREAD_S
from syncline.core.identity import EntryId
from syncline.ports.watcher import Mark

OPEN_LOOK_S = 1.0
"""A file that is written to and not closed, as a log is, is looked at no more often than this."""

MARKS_MAX = 50_000

BURST = 64
"""While so many places wait, no other is looked at before a new name would be quiet: else each new
file of many is looked at twice."""


@dataclass(slots=True)
class _Pending:
    mark: Mark
    first_s: float
    last_s: float
    due_s: float
    is_told: bool = False
    """It cannot be read, and is told as a problem: only another try waits."""


class Marks:
    """The marks of one mount; all times are of the loop's clock, in seconds."""

    def __init__(self) -> None:
        self._pending: dict[tuple[EntryId, bytes | None], _Pending] = {}
        self._taken: dict[tuple[EntryId, bytes | None], _Pending] = {}
        self.is_too_many = False

    def add(self, marks: Iterable[Mark], now_s: float, *, is_own: bool = False) -> None:
        """Note marks that came just now.

        `is_own`: nobody did anything there, it is only to be looked at; a place that waits to be
        quiet goes on waiting, or it never would be.
        """
        for mark in marks:
            key = (mark.directory, mark.name)
            soon_s = now_s if len(self._pending) < BURST else now_s + NEW_S + MARGIN_S
            due_s = now_s + OPEN_LOOK_S if mark.is_open and not mark.is_written else soon_s
            pending = self._pending.get(key)
            if pending is None:
                if len(self._pending) >= MARKS_MAX:
                    self.is_too_many = True
                    continue
                self._pending[key] = _Pending(mark, now_s, now_s, due_s)
                continue
            pending.mark = _merged(pending.mark, mark)
            if is_own:
                continue
            pending.is_told = False
            pending.last_s = now_s
            pending.due_s = min(pending.due_s, due_s)

    def wait(
        self,
        waiting: Iterable[Waiting],
        now_s: float,
        recorded: Collection[tuple[EntryId, bytes]] = (),
        since_s: float | None = None,
    ) -> None:
        """Note places that were looked at too early.

        Those in `recorded` were read all the same, and only need another look: what was marked
        before is settled. `since_s`: the others were marked then, or later.
        """
        # What lies in a new directory was marked, at the longest, when that was.
        oldest_s = min((each.first_s for each in self._taken.values()), default=now_s)
        for each in waiting:
            key = (each.mark.directory, each.mark.name)
            pending = self._pending.get(key)
            if pending is None:
                before = None if key in recorded else self._taken.get(key)
                marked_s = oldest_s if since_s is None else since_s
                if key in recorded:
                    marked_s = now_s
                first_s = before.first_s if before else marked_s
                last_s = before.last_s if before else marked_s
                is_told = each.in_s >= UNREAD_S
                due_s = now_s + each.in_s
                self._pending[key] = _Pending(each.mark, first_s, last_s, due_s, is_told)
            else:
                pending.mark = _merged(each.mark, pending.mark)
                if since_s is not None and key not in recorded:
                    pending.first_s = min(pending.first_s, since_s)
                pending.due_s = min(pending.due_s, now_s + each.in_s)

    def hurry(self, now_s: float) -> None:
        """Let what could not be read be due: a directory on the way to it can be entered again."""
        for pending in self._pending.values():
            if pending.is_told:
                pending.is_told, pending.due_s = False, now_s

    def take(self, now_s: float) -> list[Look]:
        """Return what is due, and forget it."""
        due = [key for key, pending in self._pending.items() if pending.due_s <= now_s]
        self._taken = {key: self._pending.pop(key) for key in due}
        return [Look(taken.mark, now_s - taken.last_s) for taken in self._taken.values()]

    def next_s(self) -> float | None:
        """Return when the next one is due."""
        return min((pending.due_s for pending in self._pending.values()), default=None)

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Know a directory by another id."""
        for key in [key for key in self._pending if key[0] == old]:
            pending = self._pending.pop(key)
            mark = pending.mark
            pending.mark = Mark(new, mark.name, mark.is_written, mark.is_open)
            self._pending[new, mark.name] = pending

    def is_settled(self, by_s: float) -> bool:
        """Tell whether all that was noticed up to then was looked at.

        Files that are open for writing, and those that cannot be read, do not count.
        """
        return not any(
            pending.first_s <= by_s and not pending.mark.is_open and not pending.is_told
            for pending in self._pending.values()
        )

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing waits but further tries of what is told as a problem."""
        return all(pending.is_told for pending in self._pending.values())

    def clear(self, taken: Iterable[Look]) -> None:
        """Forget all, because everything is looked at; but not whose content is to be read again.

        `taken` are the looks that were taken last, and do not happen either.
        """
        kept = [look.mark for look in taken if look.mark.is_written]
        kept += [each.mark for each in self._pending.values() if each.mark.is_written]
        times = dict(self._taken) | self._pending
        self._pending = {(m.directory, m.name): times[m.directory, m.name] for m in kept}
        self.is_too_many = False


def _merged(old: Mark, new: Mark) -> Mark:
    is_written = old.is_written or new.is_written
    is_open = new.is_open if new.is_open or new.is_written else old.is_open
    return Mark(old.directory, old.name, is_written, is_open and not new.is_written)
