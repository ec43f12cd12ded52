"""Merging one entry at a time: what both sides together want of it, aspect by aspect.

Model: two sides changed one base. Place, content with its mtime, and mode are merged on their own.
What comes out may not be a tree yet; `syncline.core.structure` makes it one.

M1  An aspect that one side changed takes that side's value; changed to the same, that value;
    changed to two values, remote's, because the server's order decides.
M2  Two contents are a conflict: remote keeps the entry, the local one becomes a copy. The mtime
    belongs to the content. Modes and mtimes alone make no copy.
M3  A delete yields to an edit and to a move of the same entry, and to the move of a directory that
    was deleted together with what is in it. It does not yield to a mode or an mtime.
M4  A local thing that is where remote has a live entry that local lacks, of one kind and with equal
    content, is that entry: directories merge, the same content twice is no conflict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from syncline.core.entries import Kind
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.trees import Abilities, State, Tree

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Merged:
    """What both sides want; `losers` are local contents that lost to the remote one (M2)."""

    wanted: dict[EntryId, State]
    losers: dict[EntryId, State] = field(default_factory=dict)


def merge(base: Tree, local: Tree, remote: Tree) -> Merged:
    """Return the merge of each entry that lives on one side or on both."""
    merged = Merged({})
    kept_here = _Deletion(base, keeper=local, deleter=remote)
    kept_there = _Deletion(base, keeper=remote, deleter=local)
    for id in sorted(local.keys() | remote.keys()):
        here, there = local.get(id), remote.get(id)
        if here is not None and there is not None:
            _merge_both(merged, id, base.get(id), here, there)
        elif here is not None:
            if kept_here.is_survivor(id):
                merged.wanted[id] = here
        elif there is not None and kept_there.is_survivor(id):
            merged.wanted[id] = there
    return merged


def _merge_both(
    merged: Merged, id: EntryId, base: State | None, local: State, remote: State
) -> None:
    place = _pick(base.place if base else None, local.place, remote.place)
    mode = _pick(base.mode if base else None, local.mode, remote.mode)
    substance = _pick(base.substance if base else None, local.substance, remote.substance)
    source = local if substance == local.substance else remote
    mtime_ns = source.mtime_ns
    if local.substance == remote.substance:
        mtime_ns = _pick(base.mtime_ns if base else None, local.mtime_ns, remote.mtime_ns)
    elif substance == remote.substance and not (base and base.substance == local.substance):
        merged.losers[id] = local
    merged.wanted[id] = _with(source, mode, mtime_ns).at(place)


def _with(state: State, mode: int, mtime_ns: int) -> State:
    """Return a state with these aspects; itself where it has them, as nearly all have."""
    if state.mode == mode and state.mtime_ns == mtime_ns:
        return state
    return replace(state, mode=mode, mtime_ns=mtime_ns)


def _pick(base: _Value | None, local: _Value, remote: _Value) -> _Value:
    """Merge one aspect (M1)."""
    return local if base == remote else remote


@dataclass(slots=True)
class _Deletion:
    """What the deleter removed and the keeper changed (M3)."""

    base: Tree
    keeper: Tree
    deleter: Tree
    _carried: dict[EntryId, bool] = field(default_factory=dict)

    def is_survivor(self, id: EntryId) -> bool:
        """Tell whether an entry that only the keeper has lives on; one new to base is new."""
        old, now = self.base.get(id), self.keeper[id]
        if old is None or now.substance != old.substance or now.place != old.place:
            return True
        return self._is_carried(old.parent)

    def _is_carried(self, directory: EntryId) -> bool:
        """Tell whether a directory deleted here was moved, by itself or with one above it, there.

        What was in it is then kept with it: who deletes a tree did not ask for half of its copy.
        """
        chain = []
        answer = False
        while directory not in self._carried:
            old, now = self.base.get(directory), self.keeper.get(directory)
            if old is None or now is None or directory in self.deleter or directory in chain:
                break
            chain.append(directory)
            if now.place != old.place:
                answer = True
                break
            directory = old.parent
        else:
            answer = self._carried[directory]
        for passed in chain:
            self._carried[passed] = answer
        return answer


def confirmed(base: State | None, local: State | None, remote: State | None) -> State | None:
    """Return the base after both sides were seen: each aspect that is equal moves it.

    An entry that both sides lack has none; one that a side lacks keeps the base it has; without a
    base, place and content must be equal before there is one.
    """
    if local is None or remote is None:
        return None if local is remote else base
    if base is None:
        if local.place != remote.place or local.substance != remote.substance:
            return None
        base = local
    if local.substance == remote.substance:
        source = remote
        mtime_ns = remote.mtime_ns if local.mtime_ns == remote.mtime_ns else base.mtime_ns
    else:
        source, mtime_ns = base, base.mtime_ns
    mode = remote.mode if local.mode == remote.mode else base.mode
    place = remote.place if local.place == remote.place else base.place
    return _with(source, mode, mtime_ns).at(place)


def as_held(base: Tree, local: Tree, remote: Tree, abilities: Abilities) -> dict[EntryId, State]:
    """Return local without the differences that only tell what its file system cannot hold.

    Such an aspect counts as equal to remote's; a link that cannot be made counts as unchanged, as
    long as the directory that held it is there.
    """
    held = {
        id: _aspects_held(state, base.get(id), remote.get(id), abilities)
        for id, state in local.items()
    }
    if not abilities.has_links:
        for id, state in base.items():
            if state.kind is Kind.LINK and id not in held:
                there = remote.get(id, state)
                if there.parent == ROOT_ID or there.parent in held:
                    held[id] = there
    return held


def _aspects_held(
    local: State, base: State | None, remote: State | None, abilities: Abilities
) -> State:
    known = remote or base
    mode, mtime_ns = local.mode, local.mtime_ns
    if known is not None and not abilities.has_modes:
        mode = known.mode
    grain = abilities.time_grain_ns
    for other in (base, remote):
        if other is None or other.substance != local.substance:
            continue
        if other.mtime_ns // grain == local.mtime_ns // grain:
            mtime_ns = other.mtime_ns
    return _with(local, mode, mtime_ns)


def recognised(local: Tree, remote: Tree) -> dict[EntryId, EntryId]:
    """Return which local things are remote entries by M4: local id to entry id.

    Parents come first, because what is in a recognised directory is then looked for in remote's.
    """
    at_place = {state.place: id for id, state in remote.items()}
    found: dict[EntryId, EntryId] = {}
    for id in _parents_first(local, (id for id in local if id not in remote)):
        state = local[id]
        there = at_place.get((found.get(state.parent, state.parent), state.name))
        if there is None or there in local:
            continue
        other = remote[there]
        if other.kind is state.kind and (state.is_directory or other.substance == state.substance):
            found[id] = there
    return found


def _parents_first(tree: Tree, ids: Iterable[EntryId]) -> list[EntryId]:
    depths: dict[EntryId, int] = {ROOT_ID: 0}

    def depth(id: EntryId) -> int:
        chain = []
        while id not in depths:
            chain.append(id)
            id = tree[id].parent
        for above, passed in enumerate(reversed(chain), 1):
            depths[passed] = depths[id] + above
        return depths[chain[0] if chain else id]

    return sorted(ids, key=lambda id: (depth(id), id))


def relabelled(tree: Tree, found: Mapping[EntryId, EntryId]) -> dict[EntryId, State]:
    """Return the tree with things known by their entry ids."""
    if not found:
        return dict(tree)
    return {
        found.get(id, id): state.at((found.get(state.parent, state.parent), state.name))
        if state.parent in found
        else state
        for id, state in tree.items()
    }
