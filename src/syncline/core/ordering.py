"""Ordering: how one tree becomes another by steps that can each be done on their own.

Model: entries arrive, shift to another place, or leave. A step waits for exactly one thing at a
time: the parent that must arrive, the occupant that must go, the child that must leave first, the
directory it must get out of, or the copy that must be kept before. When all that is left waits in
rings, one entry of a ring is set aside, or two change places at once.

O1  A parent arrives before its children; a directory leaves after them.
O2  A place is free before it is taken; who waited for it takes it at once.
O3  No directory is moved into itself, not even for a moment.
O4  Nothing is set aside twice, and nothing but an entry that shifts.
O5  Equal trees give an equal order, whatever the order in the maps.
O6  A ring that is broken is gone through before others that waited for one of its members: what is
    aside comes back soon, with little between.

Both the mount and the server's table are ordered by this; it knows ids and places alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.trees import Place


@dataclass(frozen=True, slots=True)
class Arrive:
    """The entry is made at its place."""

    id: EntryId


@dataclass(frozen=True, slots=True)
class Shift:
    """The entry goes to its place from where it is, which may be aside."""

    id: EntryId


@dataclass(frozen=True, slots=True)
class Leave:
    """The entry goes for good."""

    id: EntryId


@dataclass(frozen=True, slots=True)
class Aside:
    """The entry leaves its place and the tree for a moment."""

    id: EntryId


@dataclass(frozen=True, slots=True)
class Swap:
    """Two entries take each other's place."""

    first: EntryId
    second: EntryId


Step = Arrive | Shift | Leave | Aside | Swap


def order(
    current: Mapping[EntryId, Place],
    wanted: Mapping[EntryId, Place],
    *,
    after: Mapping[EntryId, EntryId] | None = None,
    swappable: frozenset[EntryId] = frozenset(),
) -> tuple[Step, ...]:
    """Return the steps from one tree to another.

    `after`: an entry shifts or leaves only when the other one is where it shall be; one that leaves
    does not insist on it, where the two would wait for each other. `swappable`: entries that may
    change places in one step. Both trees must be trees.
    """
    moved = {id for id, place in wanted.items() if current.get(id) != place}
    moved.update(current.keys() - wanted.keys())
    if not moved:
        return ()
    work = _Ordering(dict(current), wanted, dict(after or {}), swappable, moved)
    return work.run()


@dataclass(slots=True)
class _Ordering:
    """The tree as the steps so far have made it, and what waits for what."""

    now: dict[EntryId, Place | None]
    wanted: Mapping[EntryId, Place]
    after: dict[EntryId, EntryId]
    swappable: frozenset[EntryId]
    pending: set[EntryId]
    steps: list[Step] = field(default_factory=list)
    at_place: dict[Place, EntryId] = field(default_factory=dict)
    children: dict[EntryId, dict[EntryId, None]] = field(default_factory=dict)
    waiting: dict[EntryId, list[EntryId]] = field(default_factory=dict)
    waits_for: dict[EntryId, EntryId] = field(default_factory=dict)

    def run(self) -> tuple[Step, ...]:
        for id, place in sorted(self.now.items()):
            if place is not None:
                self._enter(id, place)
        agenda = sorted(self.pending, key=self._agenda_key)
        for id in agenda:
            self._attempt([id])
        for id in agenda:
            while id in self.pending:
                self._break_ring(id)
        return tuple(self.steps)

    def _agenda_key(self, id: EntryId) -> tuple[bool, Place, EntryId]:
        # Leaving comes last, so that what takes a freed place is there already and waits (O2).
        leaves = id not in self.wanted
        place = self.now[id] if leaves else self.wanted[id]
        assert place is not None
        return (leaves, place, id)

    def _attempt(self, stack: list[EntryId], ring: frozenset[EntryId] = frozenset()) -> None:
        """Carry out what can be, and who waited for that; those of `ring` before others (O6)."""
        while stack:
            id = stack.pop()
            if id not in self.pending:
                continue
            blocker = self._blocker(id)
            if blocker is None:
                self._carry_out(id)
                stack.extend(self._turns(self.waiting.pop(id, []), ring))
            else:
                self.waits_for[id] = blocker
                self.waiting.setdefault(blocker, []).append(id)

    @staticmethod
    def _turns(waiters: list[EntryId], ring: frozenset[EntryId]) -> list[EntryId]:
        """Return a stack of those who waited: the members of a ring on top, then who came first."""
        return sorted(waiters, key=lambda id: id not in ring)[::-1]

    def _blocker(self, id: EntryId) -> EntryId | None:
        place = self.wanted.get(id)
        if place is None:
            child = next(iter(self.children.get(id, ())), None)  # O1
            return self._awaited(id) if child is None else child
        parent = place[0]
        if parent != ROOT_ID and parent not in self.now:
            return parent  # O1
        if id in self.now:
            awaited = self._awaited(id)
            if awaited is not None:
                return awaited
            inside = self._between(parent, id)
            if inside is not None:
                return inside  # O3
        occupant = self.at_place.get(place)
        return None if occupant == id else occupant  # O2

    def _awaited(self, id: EntryId) -> EntryId | None:
        other = self.after.get(id)
        return other if other in self.pending else None

    def _between(self, parent: EntryId, id: EntryId) -> EntryId | None:
        """Return the nearest entry from `parent` up to `id` that will shift; None if not within."""
        if not self.children.get(id):
            return None
        found = None
        above = parent
        while above != ROOT_ID:
            if above == id:
                return found
            if found is None and above in self.pending and above in self.wanted:
                found = above
            place = self.now[above]
            if place is None:
                return None
            above = place[0]
        return None

    def _carry_out(self, id: EntryId) -> None:
        self.pending.discard(id)
        if id not in self.wanted:
            self._depart(id)
            del self.now[id]
            self.steps.append(Leave(id))
            return
        self.steps.append(Shift(id) if id in self.now else Arrive(id))
        self._depart(id)
        self._enter(id, self.wanted[id])

    def _depart(self, id: EntryId) -> None:
        place = self.now.get(id)
        if place is not None:
            del self.at_place[place]
            del self.children[place[0]][id]

    def _enter(self, id: EntryId, place: Place) -> None:
        self.now[id] = place
        self.at_place[place] = id
        self.children.setdefault(place[0], {})[id] = None

    def _break_ring(self, start: EntryId) -> None:
        walk: dict[EntryId, None] = {}
        id = start
        while id not in walk:
            walk[id] = None
            id = self.waits_for[id]
        passed = list(walk)
        ring = passed[passed.index(id) :]
        if self._can_swap(ring):
            freed = sorted(ring)
            self._swap(*freed)
        else:
            freed = [self._free_one(ring)]
        waiters = [waiter for id in freed for waiter in self.waiting.pop(id, [])]
        members = frozenset(ring)
        self._attempt(self._turns(waiters, members), members)

    def _free_one(self, ring: list[EntryId]) -> EntryId:
        """Set one of a ring aside, or let go of an `after`; return who is out of the way."""
        before = zip([ring[-1], *ring], ring, strict=False)
        movable = [
            id for waiter, id in before if self.after.get(waiter) != id and self._is_here(id)
        ]
        if not movable:
            leaver = min(id for id in ring if id not in self.wanted and id in self.after)
            return self.after.pop(leaver)
        aside = min(movable)
        self._depart(aside)
        self.now[aside] = None
        self.steps.append(Aside(aside))
        return aside

    def _is_here(self, id: EntryId) -> bool:
        return id in self.wanted and self.now.get(id) is not None

    def _can_swap(self, ring: list[EntryId]) -> bool:
        if len(ring) != 2 or not self.swappable.issuperset(ring):
            return False
        one, other = ring
        return (
            self.wanted.get(one) == self.now.get(other)
            and self.wanted.get(other) == self.now.get(one)
            and self.wanted.get(one) is not None
        )

    def _swap(self, first: EntryId, second: EntryId) -> None:
        self._depart(first)
        self._depart(second)
        for id in (first, second):
            self.pending.discard(id)
            self._enter(id, self.wanted[id])
        self.steps.append(Swap(first, second))
