"""Making a tree of what both sides want: parents, rings and contested names.

Model: the merge gives each entry a place; this module repairs what is no tree, in three rules that
are repeated until none applies. Each only ever adds an entry that lives on one side, gives up one
local move, or settles one contested place, so they end.

S1  What lives is in a directory that lives: a deleted directory with something in it lives on, as
    the side has it that still has it.
S2  No directory is its own ancestor: in a ring the local moves of entries that remote has give way.
    A ring without one would be a ring in local or in remote, and both are trees.
S3  One place, one entry. A directory keeps its name against a file; else the entry that remote has
    at that place keeps it. Of the others, one with equal content is dropped, a directory that
    remote does not have gives its children to the winner, any other gets a conflict name.
S4  A loser of M2 gets a name of its own, unless its content is under its name already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from syncline.core.conflict_names import UNKNOWN_AUTHOR, conflict_name, losing_digest, plain_name
from syncline.core.identity import ID_BYTES, ROOT_ID, EntryId, digest_of
from syncline.core.merging import Merged
from syncline.core.names import Name
from syncline.core.trees import Place, State, Tree


@dataclass(slots=True)
class Structure:
    """The tree in the making. `copies`: conflict copy to the entry whose local content it keeps."""

    merged: Merged
    local: Tree
    remote: Tree
    replica: str
    authors: Mapping[EntryId, str]
    seed: bytes
    obstacles: frozenset[Place]
    copies: dict[EntryId, EntryId] = field(default_factory=dict)
    _dropped: dict[EntryId, EntryId] = field(default_factory=dict)

    @property
    def wanted(self) -> dict[EntryId, State]:
        """Return what each entry shall be; the caller must not change it."""
        return self.merged.wanted

    def adopted(self) -> dict[EntryId, EntryId]:
        """Return which local entries already are, where they stand, what they were dropped for."""
        heirs = set(self.local)
        found = {}
        for loser, winner in sorted(self._dropped.items()):
            here, won = self.local.get(loser), self.wanted.get(winner)
            if here is None or won is None or winner in heirs or loser in self.merged.losers:
                continue
            if here.place == won.place and here.substance == won.substance:
                found[loser] = winner
                heirs.add(winner)
        return found

    def heirs(self) -> dict[EntryId, EntryId]:
        """Return what was dropped, each with the entry that has its content now."""
        return {loser: self._heir(loser) for loser in self._dropped}

    def _heir(self, id: EntryId) -> EntryId:
        while id in self._dropped:
            id = self._dropped[id]
        return id

    def settle(self) -> None:
        """Apply all rules until none applies."""
        self._revive_parents()
        while self._give_way_in_rings():
            self._revive_parents()
        taken = self._settle_places()
        self._name_losers(taken)

    # -- S1, S2 --------------------------------------------------------------

    def _revive_parents(self) -> None:
        wanted = self.wanted
        for id in sorted(wanted):
            parent = wanted[id].parent
            while parent != ROOT_ID and parent not in wanted:
                here = self.local.get(parent)
                wanted[parent] = self.remote[parent] if here is None else here
                parent = wanted[parent].parent

    def _give_way_in_rings(self) -> bool:
        wanted = self.wanted
        clear = {ROOT_ID}
        has_changed = False
        for start in sorted(wanted):
            walk: dict[EntryId, None] = {}
            id = start
            while id not in clear and id not in walk:
                walk[id] = None
                id = wanted[id].parent
            if id not in clear:
                passed = list(walk)
                self._break_ring(passed[passed.index(id) :])
                has_changed = True
            clear.update(walk)
        return has_changed

    def _break_ring(self, ring: list[EntryId]) -> None:
        for id in ring:
            there = self.remote.get(id)
            if there is not None:
                self.wanted[id] = self.wanted[id].at(there.place)

    # -- S3 ------------------------------------------------------------------

    def _settle_places(self) -> dict[Place, EntryId]:
        """Settle contested places; return who is where."""
        children: dict[EntryId, list[EntryId]] = {}
        at_place: dict[Place, list[EntryId]] = {}
        for id in sorted(self.wanted):
            place = self.wanted[id].place
            children.setdefault(place[0], []).append(id)
            at_place.setdefault(place, []).append(id)
        contested = sorted((place for place, ids in at_place.items() if len(ids) > 1), reverse=True)
        while contested:
            place = contested.pop()
            if len(at_place[place]) < 2:
                continue
            winner, *others = sorted(at_place[place], key=self._rank)
            at_place[place] = [winner]
            for loser in others:
                for id in self._lose(winner, loser, children, at_place):
                    at = self.wanted[id].place
                    at_place.setdefault(at, []).append(id)
                    if len(at_place[at]) > 1:
                        contested.append(at)
        return {place: ids[0] for place, ids in at_place.items() if ids}

    def _rank(self, id: EntryId) -> tuple[bool, bool, bool, EntryId]:
        state, there = self.wanted[id], self.remote.get(id)
        is_placed = there is not None and there.place == state.place
        return (not state.is_directory, not is_placed, there is None, id)

    def _lose(
        self,
        winner: EntryId,
        loser: EntryId,
        children: dict[EntryId, list[EntryId]],
        at_place: dict[Place, list[EntryId]],
    ) -> list[EntryId]:
        """Settle one loser; return the entries that have a new place by it."""
        state, won = self.wanted[loser], self.wanted[winner]
        if state.is_directory and won.is_directory and loser not in self.remote:
            del self.wanted[loser]
            given = [id for id in children.pop(loser, []) if id in self.wanted]
            for id in given:
                at_place[self.wanted[id].place].remove(id)
                self.wanted[id] = self.wanted[id].at((winner, self.wanted[id].name))
            children.setdefault(winner, []).extend(given)
            return given
        if state.substance == won.substance and not state.is_directory:
            del self.wanted[loser]
            self._dropped[loser] = winner
            return []
        author = self._author(loser, state)
        name = self._free_name(state, author, losing_digest(loser, state), at_place)
        self.wanted[loser] = state.at((state.parent, name))
        return [loser]

    def _author(self, loser: EntryId, state: State) -> str:
        """Return who made the losing content; of a directory, who gave it its place."""
        there = self.remote.get(loser)
        if there is None or there.substance != state.substance:
            return self.replica
        is_moved_here = there.place != state.place
        if is_moved_here and state.is_directory:
            return self.replica
        return self.authors.get(loser, self.replica if is_moved_here else UNKNOWN_AUTHOR)

    def _free_name(
        self,
        state: State,
        author: str,
        digest: bytes,
        taken: Mapping[Place, list[EntryId]] | Mapping[Place, EntryId],
    ) -> Name:
        def is_taken(name: Name) -> bool:
            place = (state.parent, name)
            return bool(taken.get(place)) or place in self.obstacles

        return conflict_name(state.name, author, digest, is_taken)

    # -- S4 ------------------------------------------------------------------

    def _name_losers(self, taken: dict[Place, EntryId]) -> None:
        for id, local in sorted(self.merged.losers.items()):
            loser = local.at(self.wanted[self._heir(id)].place)
            digest = losing_digest(id, loser)
            if self._is_kept(local.place, loser, digest, taken):
                continue
            name = self._free_name(loser, self.replica, digest, taken)
            copy = EntryId(digest_of(self.seed + id + digest)[:ID_BYTES])
            self.wanted[copy] = loser.at((loser.parent, name))
            self.copies[copy] = id
            taken[loser.parent, name] = copy

    def _is_kept(
        self, place: Place, loser: State, digest: bytes, taken: Mapping[Place, EntryId]
    ) -> bool:
        """Tell whether an entry has this content where the loser was, or under one of its names."""
        name = conflict_name(loser.name, self.replica, digest, lambda _: False)
        names = (name, plain_name(loser.name))
        for at in (place, *((loser.parent, each) for each in names)):
            id = taken.get(at)
            if id is not None and self.wanted[id].substance == loser.substance:
                return True
        return False
