"""What can be reached: plans that must leave some entries as they are.

Model: `current` is a tree, `wanted` another one, and some entries are stuck: they stay as they are.
What depends on a stuck entry is stuck as well, so that what is left of `wanted` is a tree again.

W1  A stuck entry is in the result exactly as it is in `current`.
W2  The result is a tree. `current` is one, so with enough entries stuck this can always be had.
W3  One way: a source's change flows where the target still is what base says; what was changed in
    the target stays and is a problem. Receive-only and send-only are this, with the sides swapped.
"""

from __future__ import annotations

from collections.abc import Mapping

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.plans import Problem
from syncline.core.trees import ProblemCode, State, Tree, is_same


def flow(base: Tree, source: Tree, target: Tree, code: ProblemCode) -> tuple[Tree, list[Problem]]:
    """Return what becomes of `target` when only `source` may change it (W3)."""
    stuck = {
        id: code
        for id in source.keys() | target.keys()
        if not is_same(source.get(id), target.get(id)) and not is_same(target.get(id), base.get(id))
    }
    return reach(target, source, stuck)


def reach(
    current: Tree, wanted: Tree, stuck: Mapping[EntryId, ProblemCode]
) -> tuple[Tree, list[Problem]]:
    """Return the part of `wanted` that can be reached, and a problem for each entry that cannot."""
    if not stuck:
        return wanted, []
    result = dict(wanted)
    codes = dict(stuck)
    for id in stuck:
        _restore(result, current, id)
    while blocked := _obstacles(result, current, codes):
        for id in blocked:
            codes[id] = ProblemCode.BLOCKED
            _restore(result, current, id)
    problems = []
    for id, code in sorted(codes.items()):
        state = wanted.get(id) or current.get(id)
        if state is not None:
            problems.append(Problem(id, state.place, code))
    return result, problems


def _restore(result: dict[EntryId, State], current: Tree, id: EntryId) -> None:
    if id in current:
        result[id] = current[id]
    else:
        result.pop(id, None)


def _obstacles(
    result: Mapping[EntryId, State], current: Tree, codes: Mapping[EntryId, ProblemCode]
) -> set[EntryId]:
    """Return what else must stay as it is, because what is stuck is in its way (W2)."""
    found = set()
    at_place: dict[tuple[EntryId, bytes], EntryId] = {}
    for id in sorted(result, key=lambda id: (id not in codes, id)):
        state = result[id]
        if state.parent != ROOT_ID and state.parent not in result:
            found.add(state.parent if state.parent in current else id)
        other = at_place.setdefault(state.place, id)
        if other != id:
            found.update(each for each in (id, other) if each not in codes)
    return found or _ring(result, current)


def _ring(result: Mapping[EntryId, State], current: Tree) -> set[EntryId]:
    """Return the entries that came into a ring by moving; there is one, for `current` has none."""
    clear = {ROOT_ID}
    for start in sorted(result):
        walk: dict[EntryId, None] = {}
        id = start
        while id not in clear and id not in walk:
            walk[id] = None
            id = result[id].parent
        if id not in clear:
            passed = list(walk)
            ring = passed[passed.index(id) :]
            return {each for each in ring if not is_same(result[each], current.get(each))}
        clear.update(walk)
    return set()
