"""The closed view of a mount, found by look-ups: the cost follows what is dirty (G12).

Model: `syncline.core.closure` says what a decision looks at; here the same is asked of a session,
beginning with its dirty entries, so that entries in sync are read only where a rule names them.

C1  Dirty entries and, in all three trees, their ancestors are in the view (L1).
C2  Where a conflict name may be needed, all children of the directory are in the view (L2, L4): it
    is one in which both sides have dirty entries; or, when both sides changed anything, the one
    that held a dirty directory whose place another entry has: a change inside brings it back.
C3  Directories that share a place may merge: their children are in the view (L3), and of these
    again, where directories among them share a name.
C4  An entry that is held counts only where it is in the view for another reason. One that is not
    dirty is where base, local and remote have it, with all that is above it; nothing can take its
    place or its directory on one side without being seen by C1 to C3.
C5  Obstacles count in directories where names are chosen or that may go, and where remote wants
    something to be that is not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from syncline.core.entries import Entry
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name
from syncline.core.trees import Place, ProblemCode, State, View, is_same, state_of
from syncline.ports.mount_state import Held, MountSession


def closed_view(session: MountSession, seed: bytes, *, has_case: bool = True) -> View:
    """Return the view that a plan for this mount needs; `seed` and `has_case` as in core.

    Costs a few look-ups for each dirty entry and for its ancestors, and a listing of each directory
    that C2 and C3 name. Held entries that are in sync cost nothing.
    """
    return _Closing(session).view(seed, has_case=has_case)


@dataclass(frozen=True, slots=True)
class _Known:
    """What the three trees have of one entry; `remote` is `entry` where that lives.

    `states` are those of the three that are there.
    """

    base: State | None
    local: State | None
    remote: State | None
    entry: Entry | None
    author: str | None
    states: tuple[State, ...]

    @property
    def is_directory(self) -> bool:
        # One id has one kind in all trees (V2).
        return bool(self.states) and self.states[0].is_directory

    @property
    def is_dirty_here(self) -> bool:
        return not is_same(self.base, self.local)

    @property
    def is_dirty_there(self) -> bool:
        return not is_same(self.base, self.remote)


class _Closing:
    """One view in the making; each entry is looked up once."""

    def __init__(self, session: MountSession) -> None:
        self._session = session
        self._entries: dict[EntryId, _Known] = {}

    def view(self, seed: bytes, *, has_case: bool) -> View:
        dirty = self._session.dirty()
        naming = self._naming(dirty, has_case=has_case)
        kept = set(dirty)
        for directory in naming:
            kept |= self._session.within(directory)
        self._add_ancestors(kept)
        found = {id: self._known(id) for id in sorted(kept)}
        return View(
            {id: known.base for id, known in found.items() if known.base is not None},
            {id: known.local for id, known in found.items() if known.local is not None},
            {id: known.entry for id, known in found.items() if known.entry is not None},
            seed,
            {id: known.author for id, known in found.items() if known.author is not None},
            self._obstacles(found, naming),
            self._held(found),
        )

    def _known(self, id: EntryId) -> _Known:
        known = self._entries.get(id)
        if known is None:
            # All at once: a session may read an entry anew when many others came in between.
            seen, entry = self._session.local(id), self._session.remote(id)
            base, local = self._session.base(id), None if seen is None else seen.state
            remote = state_of(entry) if entry is not None and entry.is_live else None
            known = self._entries[id] = _Known(
                base,
                local,
                remote,
                entry,
                None if entry is None else self._session.author(id),
                tuple(state for state in (base, local, remote) if state is not None),
            )
        return known

    # -- C1 ----------------------------------------------------------------------

    def _add_ancestors(self, ids: set[EntryId]) -> None:
        waiting = list(ids)
        while waiting:
            for state in self._known(waiting.pop()).states:
                if state.parent != ROOT_ID and state.parent not in ids:
                    ids.add(state.parent)
                    waiting.append(state.parent)

    # -- C2, C3 ------------------------------------------------------------------

    def _naming(self, dirty: Iterable[EntryId], *, has_case: bool) -> set[EntryId]:
        """Return the directories in which names may have to be chosen, or may meet."""
        here: set[EntryId] = set()
        there: set[EntryId] = set()
        groups: list[set[EntryId]] = []
        shared: set[EntryId] = set()
        for id in dirty:
            known = self._known(id)
            parents = {state.parent for state in known.states}
            if known.is_dirty_here:
                here |= parents
            if known.is_dirty_there:
                there |= parents
            if known.is_directory:
                for place in {state.place for state in known.states}:
                    group = self._session.at_place(place)
                    if len(group) > 1:
                        groups.append(group)
                        shared.add(place[0])
        if not has_case:
            return here | there | shared | self._meeting(groups)
        if not (here and there):
            # One side is base: what the other one has is a tree, and all that is wanted.
            return set()
        return (here & there) | shared | self._meeting(groups)

    def _meeting(self, groups: list[set[EntryId]]) -> set[EntryId]:
        """Return the directories of groups that share a place, with those that then meet inside."""
        found: set[EntryId] = set()
        done: set[frozenset[EntryId]] = set()
        while groups:
            met = frozenset(id for id in groups.pop() if self._known(id).is_directory)
            if len(met) < 2 or met in done:
                continue
            done.add(met)
            found |= met
            groups += [ids for ids in self._by_name(met).values() if len(ids) > 1]
        return found

    def _by_name(self, directories: frozenset[EntryId]) -> dict[Name, set[EntryId]]:
        names: dict[Name, set[EntryId]] = {}
        for directory in directories:
            for child in self._session.within(directory):
                for state in self._known(child).states:
                    if state.parent == directory:
                        names.setdefault(state.name, set()).add(child)
        return names

    # -- what else a decision needs --------------------------------------------------

    def _obstacles(self, found: dict[EntryId, _Known], naming: set[EntryId]) -> frozenset[Place]:
        """Return what C5 names."""
        places: set[Place] = set()
        directories = set(naming)
        for id, known in found.items():
            here, there = known.local, known.remote
            if here is not None and here.is_directory and there is None:
                directories.add(id)
            is_new_there = there is not None and (here is None or here.place != there.place)
            if there is not None and is_new_there and self._session.obstacle(there.place):
                places.add(there.place)
        for directory in directories:
            places.update((directory, name) for name in self._session.obstacles_in(directory))
        return frozenset(places)

    def _held(self, found: dict[EntryId, _Known]) -> dict[EntryId, ProblemCode]:
        """Return what C4 says of the entries of the view."""
        each = ((id, self._session.held_of(id)) for id in found)
        return {id: _code(held) for id, held in each if held is not None}


def _code(held: Held) -> ProblemCode:
    return ProblemCode.IGNORED if held.is_ignored else ProblemCode.UNREAD
