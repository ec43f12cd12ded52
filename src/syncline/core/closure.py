"""Closed views: the few entries that a decision needs, out of trees of any size.

Model: an entry is *dirty* where local or remote differs from base. A closed view holds what is
dirty and what the rules look at from there; `reconcile` decides the same on it as on whole trees.

L1  The ancestors of each entry of the view, in all three trees, are in the view.
L2  Where a conflict name may be needed, and must be free, the children of the directory are in the
    view. It is one in which both sides have dirty entries; or, where both sides changed anything,
    the one of a place that a dirty directory shares with another entry: an edit may bring a
    directory back that was deleted, and a move may give way to end a ring, and then the place is
    taken.
L3  Directories that share a place, one of them dirty, may merge: their children are in the view,
    and meet. Where directories among these share a name, the same holds for them.
L4  For a mount without case the children of each directory that has a dirty entry are in the view.

Where one side changed nothing, what the other one has is a tree, and all that is wanted: no name
has to be chosen. What did not change cannot be in the way otherwise: each side is a tree, so who
takes its place on a side has seen it leave there, and then it is dirty.

An engine that holds trees in a database follows these rules by look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name
from syncline.core.trees import Place, State, Tree, View, is_same, live_states


def close(view: View, *, has_case: bool = True) -> View:
    """Return the view restricted to what its dirty entries need."""
    remote = live_states(view.remote)
    dirty_here = _changed(view.base, view.local)
    dirty_there = _changed(view.base, remote)
    index = _Index((view.base, view.local, remote))
    kept = dirty_here | dirty_there | view.held.keys()
    for directory in _named(index, dirty_here, dirty_there, has_case=has_case):
        kept = kept.union(*index.inside.get(directory, {}).values())
    kept = index.with_ancestors(kept)
    return replace(
        view,
        base=_only(view.base, kept),
        local=_only(view.local, kept),
        remote={id: entry for id, entry in view.remote.items() if id in kept},
    )


def _named(
    index: _Index, dirty_here: set[EntryId], dirty_there: set[EntryId], *, has_case: bool
) -> set[EntryId]:
    """Return the directories in which names may have to be chosen, or may meet (L2 to L4)."""
    here, there = index.parents(dirty_here), index.parents(dirty_there)
    if has_case and not (here and there):
        return set()
    shared = [
        place
        for id in dirty_here | dirty_there
        if index.is_directory(id)
        for place in index.places(id)
        if len(index.at(place)) > 1
    ]
    contested = {parent for parent, _ in shared} | index.meeting(shared)
    return contested | (here & there if has_case else here | there)


def _changed(base: Tree, tree: Tree) -> set[EntryId]:
    return {id for id in base.keys() | tree.keys() if not is_same(base.get(id), tree.get(id))}


def _only(tree: Tree, kept: set[EntryId]) -> dict[EntryId, State]:
    return {id: state for id, state in tree.items() if id in kept}


class _Index:
    """Who is where, in any of the trees."""

    def __init__(self, trees: tuple[Tree, ...]) -> None:
        self.trees = trees
        self.inside: dict[EntryId, dict[Name, set[EntryId]]] = {}
        for tree in trees:
            for id, state in tree.items():
                names = self.inside.setdefault(state.parent, {})
                names.setdefault(state.name, set()).add(id)

    def at(self, place: Place) -> set[EntryId]:
        return self.inside[place[0]][place[1]]

    def states(self, id: EntryId) -> list[State]:
        return [tree[id] for tree in self.trees if id in tree]

    def parents(self, ids: Iterable[EntryId]) -> set[EntryId]:
        return {state.parent for id in ids for state in self.states(id)}

    def places(self, id: EntryId) -> set[Place]:
        return {state.place for state in self.states(id)}

    def is_directory(self, id: EntryId) -> bool:
        return any(state.is_directory for state in self.states(id))

    def meeting(self, places: Iterable[Place]) -> set[EntryId]:
        """Return the directories that share one of these places, and those that then meet (L3)."""
        found: set[EntryId] = set()
        done: set[frozenset[EntryId]] = set()
        todo = [self.at(place) for place in places]
        while todo:
            met = frozenset(id for id in todo.pop() if self.is_directory(id))
            if len(met) < 2 or met in done:
                continue
            done.add(met)
            found |= met
            names: dict[Name, set[EntryId]] = {}
            for directory in met:
                for name, ids in self.inside.get(directory, {}).items():
                    names.setdefault(name, set()).update(ids)
            todo += names.values()
        return found

    def with_ancestors(self, ids: set[EntryId]) -> set[EntryId]:
        found = set(ids)
        todo = sorted(ids)
        while todo:
            for state in self.states(todo.pop()):
                if state.parent != ROOT_ID and state.parent not in found:
                    found.add(state.parent)
                    todo.append(state.parent)
        return found
