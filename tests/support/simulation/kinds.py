"""What kind of world a seed is, beside its weather: drawn by itself, so that seeds keep theirs."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

LOCKS = 0.2
WITHOUT_EXCHANGE = 0.15
RESTARTS = 0.3


@dataclass(frozen=True, slots=True)
class WorldKind:
    """Whether users take locks, whether the disks can exchange two names in one step, whether there
    is a second act where there may be one (`aimed`), and whether who died dies again and again
    before he has found his feet."""

    has_locks: bool = False
    has_exchange: bool = True
    has_scenes: bool = True
    has_restarts: bool = False

    @classmethod
    def of_seed(cls, seed: int) -> WorldKind:
        """Return the kind that a seed is."""
        seeded = random.Random(f"{seed} kind")
        return cls(
            seeded.random() < LOCKS,
            seeded.random() >= WITHOUT_EXCHANGE,
            has_restarts=seeded.random() < RESTARTS,
        )

    @classmethod
    def of_words(cls, words: Iterable[str]) -> WorldKind:
        """Return the kind that words tell, as in `tests/seeds.txt`."""
        told = set(words)
        return cls("locks" in told, "no-exchange" not in told, "scenes" in told, "restarts" in told)

    @property
    def words(self) -> tuple[str, ...]:
        """Return the words that tell this kind."""
        told = (
            ("locks", self.has_locks),
            ("no-exchange", not self.has_exchange),
            ("scenes", self.has_scenes),
            ("restarts", self.has_restarts),
        )
        return tuple(word for word, is_so in told if is_so)
