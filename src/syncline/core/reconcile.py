"""The reconciler: three trees in, one plan out.

Model: from base, local and remote follows one tree that both sides want; the plan is what turns
local into it and what turns remote into it. Nothing is remembered between two calls: a plan that
was cut off, refused or overtaken is simply derived again from what is then observed.

I1  Total and deterministic: no exception for trees that keep V1 and V2, and nothing depends on the
    order of a map or a set.
I2  Two sides that are equal make an empty plan; each plan carried out makes the next one smaller.
I3  Nothing is lost: content that only local has is sent, or named by a conflict copy before the
    entry that had it gets another. Content that remote has is not touched unless local, knowing it
    as base, changed it.
I4  Nothing is invented: no copy of content that has its name, no delete of what no user deleted.
    What is dropped for equal content (S3) and merged directories are the only other removals.
I5  A change builds on the revision that the view shows (G6), and the base moves only by aspects
    that both sides were seen to have. Sides are symmetric except where the server's order decides.
I6  A problem keeps its entry, and what depends on it, as it is on the side that has the problem.

What this module must not do: look at a file, a clock, a log; invent an id but from the seed; decide
that a plan is too dangerous (`syncline.core.safety` does).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from syncline.core.changes import Change, Delete, Move, Put, PutDirectory, PutFile, PutLink
from syncline.core.entries import Kind
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.merging import (
    as_held,
    confirmed,
    merge,
    recognised,
    relabelled,
)
from syncline.core.names import Name
from syncline.core.one_way import flow, reach
from syncline.core.ordering import Arrive, Aside, Leave, Shift, Step, Swap, order
from syncline.core.plans import (
    Alter,
    Confirm,
    Create,
    Exchange,
    KeepCopy,
    Placing,
    Plan,
    Problem,
    Relabel,
    Remove,
    SetAside,
    Unit,
    aside_name,
)
from syncline.core.structure import Structure
from syncline.core.trees import (
    Mode,
    Mount,
    Place,
    ProblemCode,
    State,
    Tree,
    View,
    is_same,
    live_states,
)


@dataclass(frozen=True, slots=True)
class _Aims:
    """What each side shall become, and why some of it does not."""

    local: Tree
    remote: Tree
    problems: tuple[Problem, ...] = ()
    copies: Mapping[EntryId, EntryId] = field(default_factory=dict)
    adopted: Mapping[EntryId, EntryId] = field(default_factory=dict)
    heirs: Mapping[EntryId, EntryId] = field(default_factory=dict)


def reconcile(view: View, mount: Mount) -> Plan:
    """Return what is to be done for the two sides of a mount to become equal (I1-I6)."""
    remote = live_states(view.remote)
    found = recognised(view.local, remote)
    seen = relabelled(view.local, found)
    held = {found.get(id, id): code for id, code in view.held.items()}
    obstacles = frozenset((found.get(parent, parent), name) for parent, name in view.obstacles)
    view = replace(view, held=held, obstacles=obstacles)
    local: Tree = as_held(view.base, seen, remote, mount.abilities)
    aims = _aims(view, mount, local, remote)
    local = relabelled(local, aims.adopted)
    found |= aims.adopted
    if not mount.abilities.has_links:
        local, aims = _without_links(local, aims)
    stuck = _stuck(view, mount, local, aims.local)
    reachable, problems = _reach(local, aims.local, stuck, aims.copies)
    return Plan(
        relabels=tuple(Relabel(old, new) for old, new in sorted(found.items())),
        confirms=tuple(_confirms(view.base, local, remote)),
        placing=_placing(local, reachable, aims.copies),
        sending=_sending(view, remote, aims),
        problems=tuple(_first_of_each([*aims.problems, *problems])),
    )


def _aims(view: View, mount: Mount, local: Tree, remote: Tree) -> _Aims:
    match mount.mode:
        case Mode.TWO_WAY:
            structure = Structure(
                merge(view.base, local, remote),
                local,
                remote,
                mount.replica,
                view.authors,
                view.seed,
                view.obstacles,
            )
            structure.settle()
            return _Aims(
                structure.wanted,
                structure.wanted,
                copies=structure.copies,
                adopted=structure.adopted(),
                heirs=structure.heirs(),
            )
        case Mode.RECEIVE_ONLY:
            aim, problems = flow(view.base, remote, local, ProblemCode.LOCAL_CHANGE)
            return _Aims(aim, remote, tuple(problems))
        case Mode.SEND_ONLY:
            aim, problems = flow(view.base, local, remote, ProblemCode.REMOTE_CHANGE)
            return _Aims(local, aim, tuple(problems))
        case _:
            assert_never(mount.mode)


def _reach(
    local: Tree,
    wanted: Tree,
    stuck: dict[EntryId, ProblemCode],
    copies: Mapping[EntryId, EntryId],
) -> tuple[Tree, list[Problem]]:
    """Return what the mount can become; who cannot be copied keeps the content he has (I3)."""
    while True:
        reachable, problems = reach(local, wanted, stuck)
        lost = {source for copy, source in copies.items() if copy not in reachable} - stuck.keys()
        if not lost:
            return reachable, problems
        stuck.update(dict.fromkeys(lost, ProblemCode.BLOCKED))


def _confirms(base: Tree, local: Tree, remote: Tree) -> Iterator[Confirm]:
    for id in sorted(base.keys() | (local.keys() & remote.keys())):
        old = base.get(id)
        new = confirmed(old, local.get(id), remote.get(id))
        if not is_same(old, new):
            yield Confirm(id, new)


def _first_of_each(problems: list[Problem]) -> Iterator[Problem]:
    seen = set()
    for problem in problems:
        if problem.id not in seen:
            seen.add(problem.id)
            yield problem


# -- what the mount cannot have ------------------------------------------------


def _without_links(local: Tree, aims: _Aims) -> tuple[Tree, _Aims]:
    """Leave links out of what is placed, where the mount cannot hold them."""
    problems = [
        Problem(id, state.place, ProblemCode.LINKS_NOT_HELD)
        for id, state in sorted(aims.local.items())
        if state.kind is Kind.LINK
    ]
    return _no_links(local), replace(
        aims,
        local=_no_links(aims.local),
        problems=(*aims.problems, *problems),
    )


def _no_links(tree: Tree) -> dict[EntryId, State]:
    return {id: state for id, state in tree.items() if state.kind is not Kind.LINK}


def _stuck(view: View, mount: Mount, local: Tree, wanted: Tree) -> dict[EntryId, ProblemCode]:
    """Return the entries of the mount that must stay as they are."""
    found = {
        id: code for id, code in view.held.items() if not is_same(local.get(id), wanted.get(id))
    }
    holding = {parent for parent, _ in view.obstacles}
    for id in holding & (local.keys() - wanted.keys()):
        found.setdefault(id, ProblemCode.HOLDS_UNSYNCED)
    if view.obstacles:
        for id, new in wanted.items():
            if new.place in view.obstacles and id not in found:
                found[id] = ProblemCode.OBSTRUCTED
    if not mount.abilities.has_case:
        for id in _case_losers(local, wanted):
            found.setdefault(id, ProblemCode.CASE_CLASH)
    return found


def _case_losers(local: Tree, wanted: Tree) -> Iterator[EntryId]:
    """Yield all but one of the entries whose names differ by case alone."""
    first: set[Place] = set()

    def rank(id: EntryId) -> tuple[bool, Place]:
        state = wanted[id]
        old = local.get(id)
        return (old is None or old.place != state.place, state.place)

    for id in sorted(wanted, key=rank):
        state = wanted[id]
        folded = (state.parent, fold_case(state.name))
        if folded in first:
            yield id
        first.add(folded)


def fold_case(name: Name) -> Name:
    """Return what two names have in common that differ by case alone."""
    try:
        return Name(name.decode().casefold().encode())
    except UnicodeDecodeError:
        return Name(name.lower())


# -- the two halves of the plan ------------------------------------------------


def _places(tree: Tree) -> dict[EntryId, Place]:
    return {id: state.place for id, state in tree.items()}


def _placing(local: Tree, wanted: Tree, copies: Mapping[EntryId, EntryId]) -> tuple[Placing, ...]:
    """Return the actions that turn local into what is wanted."""
    copies = {copy: source for copy, source in copies.items() if copy in wanted}
    # The copy is made from where its source is; only then does the source change.
    after = {source: copy for copy, source in copies.items()}
    swappable = frozenset(
        id for id, state in local.items() if id in wanted and _is_only_moved(state, wanted[id])
    )
    steps = order(_places(local), _places(wanted), after=after, swappable=swappable - after.keys())
    actions = [_action(step, local, wanted, copies) for step in steps]
    for id in sorted(local.keys() & wanted.keys()):
        old, new = local[id], wanted[id]
        if old.place == new.place and not is_same(old, new):
            actions.append(Alter(id, old, new))
    return tuple(actions)


def _is_only_moved(old: State, new: State) -> bool:
    place = new.place
    return old.place != place and is_same(old.at(place), new)


def _action(step: Step, local: Tree, wanted: Tree, copies: Mapping[EntryId, EntryId]) -> Placing:
    match step:
        case Arrive(id):
            if id in copies:
                source = copies[id]
                return KeepCopy(id, source, local[source], wanted[id])
            return Create(id, wanted[id])
        case Shift(id):
            return Alter(id, local[id], wanted[id])
        case Leave(id):
            return Remove(id, local[id])
        case Aside(id):
            return SetAside(id, local[id])
        case Swap(first, second):
            return Exchange(
                Alter(first, local[first], wanted[first]),
                Alter(second, local[second], wanted[second]),
            )
        case _:
            assert_never(step)


def _sending(view: View, remote: Tree, aims: _Aims) -> tuple[Unit, ...]:
    """Return the changes that turn remote into what is wanted, in units.

    What is dropped for equal content goes when that content is there: edits come first, and each
    dropped entry leaves after its heir, so that a plan that is cut off takes nothing away (I4).
    """
    wanted = aims.remote
    units: list[Unit] = []
    for id in sorted(remote.keys() & wanted.keys()):
        old, new = remote[id], wanted[id]
        if old.place == new.place and not is_same(old, new):
            units.append(Unit((_put(id, view, new),)))
    ring: list[Change] = []
    aside: set[EntryId] = set()
    for step in order(_places(remote), _places(wanted), after=aims.heirs):
        changes = _changes(step, view, remote, wanted)
        if isinstance(step, Aside):
            aside.add(step.id)
        elif isinstance(step, Shift):
            aside.discard(step.id)
        if aside or ring:
            # All or nothing: an entry must not stay under its name aside (A4).
            ring.extend(changes)
            if not aside:
                units.append(Unit(tuple(ring), is_atomic=True))
                ring = []
        else:
            heir = aims.heirs.get(step.id) if isinstance(step, Leave) else None
            units.append(Unit(changes, heir=heir))
    return tuple(units)


def _changes(step: Step, view: View, remote: Tree, wanted: Tree) -> tuple[Change, ...]:
    match step:
        case Arrive(id):
            return (_put(id, view, wanted[id]),)
        case Shift(id):
            new = wanted[id]
            move = Move(id, view.remote_revision(id), *new.place)
            if is_same(remote[id].at(new.place), new):
                return (move,)
            return (move, _put(id, view, new))
        case Leave(id):
            return (Delete(id, view.remote_revision(id)),)
        case Aside(id):
            return (Move(id, view.remote_revision(id), ROOT_ID, aside_name(id)),)
        case Swap():
            raise AssertionError("a table has no swap")
        case _:
            assert_never(step)


def _put(id: EntryId, view: View, state: State) -> Put:
    start = (id, view.remote_revision(id), *state.place)
    if state.content is not None:
        return PutFile(*start, state.mode, state.mtime_ns, state.content)
    if state.target is not None:
        return PutLink(*start, state.mtime_ns, state.target)
    return PutDirectory(*start, state.mode)
