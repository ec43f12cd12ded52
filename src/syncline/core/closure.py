"""Closed views: the few entries that a decision needs, out of trees of any size.

Model: an entry is *dirty* where local or remote differs from base. A closed view holds what is
dirty and what the rules look at from there; `reconcile` decides the same on it as on whole trees.

L1  The ancestors of each entry of the view, in all three trees, are in the view.
L2  The children of each directory in which both sides have dirty entries are in the view: there a
    conflict name may be needed, and must be free.
L3  The children of each dirty directory are in the view whose place another entry has on some
    side: the two may merge, and their children meet.
L4  For a mount without case the children of each directory that has a dirty entry are in the view.

What did not change cannot be in the way otherwise: each side is a tree, so who takes its place on a
side has seen it leave there, and then it is dirty.

An engine that holds trees in a database follows these rules by look-ups.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.trees import Place, State, Tree, View, is_same, live_states


def close(view: View, *, has_case: bool = True) -> View:
    """Return the view restricted to what its dirty entries need."""
    remote = live_states(view.remote)
    trees = (view.base, view.local, remote)
    dirty_here = _changed(view.base, view.local)
    dirty_there = _changed(view.base, remote)
    index = _Index(trees)
    kept = dirty_here | dirty_there | view.held.keys()
    contested = {id for id in kept if index.is_contested(id)}
    parents_here, parents_there = index.parents(dirty_here), index.parents(dirty_there)
    listed = parents_here & parents_there if has_case else parents_here | parents_there
    for directory in listed | contested:
        kept |= index.children.get(directory, set())
    kept = index.with_ancestors(kept)
    return replace(
        view,
        base=_only(view.base, kept),
        local=_only(view.local, kept),
        remote={id: entry for id, entry in view.remote.items() if id in kept},
    )


def _changed(base: Tree, tree: Tree) -> set[EntryId]:
    return {id for id in base.keys() | tree.keys() if not is_same(base.get(id), tree.get(id))}


def _only(tree: Tree, kept: set[EntryId]) -> dict[EntryId, State]:
    return {id: state for id, state in tree.items() if id in kept}


class _Index:
    """Who is where, in any of the trees."""

    def __init__(self, trees: tuple[Tree, ...]) -> None:
        self.trees = trees
        self.at_place: dict[Place, set[EntryId]] = {}
        self.children: dict[EntryId, set[EntryId]] = {}
        for tree in trees:
            for id, state in tree.items():
                self.at_place.setdefault(state.place, set()).add(id)
                self.children.setdefault(state.parent, set()).add(id)

    def states(self, id: EntryId) -> list[State]:
        return [tree[id] for tree in self.trees if id in tree]

    def parents(self, ids: Iterable[EntryId]) -> set[EntryId]:
        return {state.parent for id in ids for state in self.states(id)}

    def is_contested(self, id: EntryId) -> bool:
        """Tell whether another entry has one of its places on some side."""
        return any(len(self.at_place[state.place]) > 1 for state in self.states(id))

    def with_ancestors(self, ids: set[EntryId]) -> set[EntryId]:
        found = set(ids)
        todo = sorted(ids)
        while todo:
            for state in self.states(todo.pop()):
                if state.parent != ROOT_ID and state.parent not in found:
                    found.add(state.parent)
                    todo.append(state.parent)
        return found
