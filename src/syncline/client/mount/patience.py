"""Patience: what failed is left alone for a while, longer each time, and told when it lasts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from syncline.core.identity import EntryId
from syncline.ports.mount_control import MountProblem

FIRST_S = 0.05
MOST_S = 30.0

QUIET_FAILURES = 3
"""A race with another client or with the user is over after so many attempts."""


@dataclass(slots=True)
class _Trouble:
    count: int
    until_s: float
    problem: MountProblem
    is_certain: bool
    is_race: bool
    """It was not as a plan expected, which may come of another entry that is left alone."""


class Patience:
    """The entries that failed; all times are of the loop's clock, in seconds."""

    def __init__(self) -> None:
        self._troubles: dict[EntryId, _Trouble] = {}

    def fail(
        self,
        id: EntryId,
        problem: MountProblem,
        now_s: float,
        *,
        is_certain: bool,
        at_least_s: float = FIRST_S,
    ) -> None:
        """Note a failure; one that is not certain is shown only when it comes again and again."""
        count = self._troubles[id].count + 1 if id in self._troubles else 1
        pause_s = min(MOST_S, max(at_least_s, FIRST_S * 2 ** min(count - 1, 16)))
        self._troubles[id] = _Trouble(
            count,
            now_s + max(pause_s, at_least_s),
            problem,
            is_certain or count > QUIET_FAILURES,
            not is_certain,
        )

    def forgive(self, ids: Iterable[EntryId]) -> None:
        """Forget what failed: it succeeded, or something about it changed."""
        for id in ids:
            self._troubles.pop(id, None)

    def forgive_all(self) -> None:
        """Try everything again."""
        for trouble in self._troubles.values():
            trouble.until_s = 0.0

    def waiting(self, now_s: float) -> frozenset[EntryId]:
        """Return the entries that are to be left alone now.

        Those that lost a race are tried again together: one may be in the way of another.
        """
        is_race_due = any(t.is_race and t.until_s <= now_s for t in self._troubles.values())
        return frozenset(
            id
            for id, each in self._troubles.items()
            if each.until_s > now_s and not (each.is_race and is_race_due)
        )

    def next_s(self, now_s: float) -> float | None:
        """Return when the next one is to be tried again."""
        return min((t.until_s for t in self._troubles.values() if t.until_s > now_s), default=None)

    @property
    def is_hoping(self) -> bool:
        """Tell whether something failed that may well succeed at its next try."""
        return any(not each.is_certain for each in self._troubles.values())

    def problems(self) -> list[tuple[EntryId, MountProblem]]:
        """Return what is worth telling."""
        return [(id, each.problem) for id, each in self._troubles.items() if each.is_certain]

    def keep_only(self, ids: Collection[EntryId]) -> None:
        """Forget the entries that need nothing any more."""
        for id in [id for id in self._troubles if id not in ids]:
            del self._troubles[id]
