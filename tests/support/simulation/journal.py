"""What a power loss may take: the changes of names and attributes that are not durable yet.

Model: each change of the engine is pending until something makes it durable. A power loss undoes
some of what is pending, newest first. Contents are no part of it: see `Inode.durable`.

- Ordered, as the metadata of ext4: one journal, in which a prefix survives. Whatever makes one
  change durable does so with all before it.
- Unordered: any subset survives in which no change rests on a lost one. A change rests on an
  earlier one that touched the same name, inode, inode number or attribute, made or removed the
  directory it happens in, or moved a directory between directories, if it does that itself. So
  renames in two directories, or of two things in one, survive independently; a rename survives
  whole, with the mode and times that were set before it.
- In both, a name may survive without its bytes, and bytes without their name.
- What a user does is durable at once, with all that it rests on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Key = tuple[str, int] | tuple[str, int, bytes]
"""What a change touches: a kind of thing, whose it is, and a name."""

Keys = frozenset[Key]


@dataclass(frozen=True, slots=True)
class Touched:
    """What a change changes, and what it rests on besides."""

    writes: Keys
    reads: Keys = frozenset()

    def rests_on(self, earlier: Touched) -> bool:
        """Tell whether this change could not have happened without the earlier one."""
        return bool(
            earlier.writes & self.writes
            or earlier.writes & self.reads
            or earlier.reads & self.writes
        )

    def and_also(self, other: Touched) -> Touched:
        """Return both."""
        return Touched(self.writes | other.writes, self.reads | other.reads)


@dataclass(frozen=True, slots=True)
class Pending:
    """A change that a power loss may undo; `directories` are the serials of those it names in."""

    touched: Touched
    directories: frozenset[int]
    undo: Callable[[], None]


class Journal:
    """The pending changes of a disk, oldest first."""

    def __init__(self, *, is_ordered: bool) -> None:
        self.is_ordered = is_ordered
        self._pending: list[Pending] = []

    @property
    def pending_count(self) -> int:
        """Return how many changes a power loss may undo."""
        return len(self._pending)

    def add(self, pending: Pending) -> None:
        """Take a change of the engine."""
        self._pending.append(pending)

    def settle(self, touched: Touched) -> None:
        """Make durable what a durable change rests on."""
        self._settle(touched, lambda pending: False)

    def sync_directory(self, serial: int) -> None:
        """Make the names in a directory durable, and what they rest on."""
        self._settle(Touched(frozenset()), lambda pending: serial in pending.directories)

    def sync_attributes(self, key: Key) -> None:
        """Make the mode and times of one inode durable."""
        self._pending = [p for p in self._pending if p.touched.writes != {key}]

    def sync_all(self) -> None:
        """Make everything durable."""
        self._pending.clear()

    def _settle(self, touched: Touched, is_chosen: Callable[[Pending], bool]) -> None:
        kept: list[Pending] = []
        for at in range(len(self._pending) - 1, -1, -1):
            pending = self._pending[at]
            if not (is_chosen(pending) or touched.rests_on(pending.touched)):
                kept.append(pending)
            elif self.is_ordered:
                break
            else:
                touched = touched.and_also(pending.touched)
        self._pending = kept[::-1]

    def lose(self, random: Random) -> None:
        """Undo a legal part of what is pending."""
        if self.is_ordered:
            lost = self._pending[random.randint(0, len(self._pending)) :]
        else:
            lost = []
            for pending in self._pending:
                rests = any(pending.touched.rests_on(gone.touched) for gone in lost)
                if rests or random.random() < 0.5:
                    lost.append(pending)
        self._pending.clear()
        for pending in reversed(lost):
            pending.undo()
