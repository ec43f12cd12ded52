"""Reconciling against the model: users do anything on two or three sides, and all end up equal.

The model (`tests.support.merge`) checks each step; here are the properties of the whole: replicas
converge within a bound, lose nothing, invent nothing, and the same views give the same plans.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from syncline.core.closure import close
from syncline.core.conflict_names import is_conflict_name, plain_name
from syncline.core.entries import Kind
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.merging import relabelled
from syncline.core.names import Name
from syncline.core.plans import Alter, Create, Exchange, KeepCopy, Plan, Remove, SetAside
from syncline.core.reconcile import reconcile
from syncline.core.trees import Mode, View
from tests.support.merge import Replica, World, paths_of

NAMES = [Name(raw) for raw in (b"a", b"b", b"c", b"d.txt")]
KINDS = [Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.DIRECTORY, Kind.LINK]
Draws = random.Random


def act(replica: Replica, draws: Draws) -> None:
    """Let a user do one thing; what is not possible is not done."""
    ids = sorted(replica.local)
    verb = draws.choice(VERBS)
    if not ids:
        verb = make
    verb(replica, ids, draws)


def somewhere(replica: Replica, ids: list[EntryId], draws: Draws) -> tuple[EntryId, Name]:
    directories = [ROOT_ID, *(id for id in ids if replica.local[id].is_directory)]
    return (draws.choice(directories), draws.choice(NAMES))


def content(replica: Replica, draws: Draws) -> bytes:
    """Return content that is new, or now and then one that others may save as well."""
    if draws.random() < 0.25:
        return b"common %d" % draws.randrange(2)
    return b"of " + replica.fresh().hex().encode()


def make(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    place = somewhere(replica, ids, draws)
    if place[1] not in replica.children(place[0]):
        replica.make_at(place, draws.choice(KINDS), content(replica, draws))


def edit(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    id = draws.choice(ids)
    if not replica.local[id].is_directory:
        replica.edit(id, content(replica, draws))


def shift(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    replica.shift(draws.choice(ids), somewhere(replica, ids, draws))


def swap(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    replica.swap(draws.choice(ids), draws.choice(ids))


def invert(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    """Move a directory out, and the one that it was in into it."""
    id = draws.choice(ids)
    state = replica.local[id]
    above = replica.local.get(state.parent)
    if state.is_directory and above is not None:
        spare = Name(b"spare")
        if replica.shift(id, (above.parent, spare)) and replica.shift(state.parent, (id, b"in")):
            replica.shift(id, above.place)


def chmod(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    id = draws.choice(ids)
    if replica.local[id].kind is not Kind.LINK:
        replica.chmod(id, draws.choice([0o600, 0o755, 0o777]))


def touch(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    id = draws.choice(ids)
    if not replica.local[id].is_directory:
        replica.local[id] = replace(replica.local[id], mtime_ns=draws.randrange(9))


def delete(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    replica.delete(draws.choice(ids))


def retype(replica: Replica, ids: list[EntryId], draws: Draws) -> None:
    id = draws.choice(ids)
    place = replica.local[id].place
    replica.delete(id)
    replica.make_at(place, draws.choice(KINDS), content(replica, draws))


Verb = Callable[[Replica, list[EntryId], Draws], None]
VERBS: list[Verb] = [
    make,
    make,
    make,
    edit,
    edit,
    shift,
    shift,
    shift,
    swap,
    invert,
    chmod,
    touch,
    delete,
    retype,
]


def grown(draws: Draws, *names: str) -> World:
    """Return a world at rest with something in it."""
    world = World.of(*names)
    for _ in range(draws.randrange(20)):
        act(world.replicas[0], draws)
    world.rest()
    world.check_equal()
    return world


def shuffled(view: View, draws: Draws) -> View:
    """Return the same view with its maps in another order."""

    def mixed(tree: dict) -> dict:
        items = list(tree.items())
        draws.shuffle(items)
        return dict(items)

    return replace(
        view,
        base=mixed(dict(view.base)),
        local=mixed(dict(view.local)),
        remote=mixed(dict(view.remote)),
        authors=mixed(dict(view.authors)),
    )


def check_plan(replica: Replica, draws: Draws) -> None:
    """Fail where the plan depends on order, or on more than the closed view."""
    view = replica.view()
    plan = reconcile(view, replica.mount)
    assert reconcile(shuffled(view, draws), replica.mount) == plan
    assert reconcile(close(view), replica.mount) == plan
    for action in plan.placing:
        if isinstance(action, KeepCopy | Exchange | SetAside):
            event(type(action).__name__)
    if any(unit.is_atomic for unit in plan.sending):
        event("atomic unit")
    check_names(replica, view, plan)
    ids = [action.id for action in plan.placing if not isinstance(action, Exchange | SetAside)]
    assert len(ids) == len(set(ids)), "two actions for one entry"


def check_names(replica: Replica, view: View, plan: Plan) -> None:
    """Fail where a conflict name is given to content that its rival has as well (I4).

    The rival has the name that was lost: the plain one, or, where a user had given the loser a name
    that looks like a conflict's, that very name. Who has the plain name then is no rival.
    """
    known = {relabel.local_id: relabel.id for relabel in plan.relabels}
    wanted = relabelled(view.local, known)
    before = dict(wanted)
    for action in plan.placing:
        match action:
            case Create(id, state) | KeepCopy(id, _, _, state) | Alter(id, _, state):
                wanted[id] = state
            case Exchange(first, second):
                wanted |= {first.id: first.wanted, second.id: second.wanted}
            case Remove(id):
                del wanted[id]
            case SetAside():
                pass
    if replica.mount.mode is Mode.TWO_WAY:
        paths_of(wanted)
    at_place = {state.place: state for state in wanted.values()}
    for id, state in wanted.items():
        old = before.get(id)
        if is_conflict_name(state.name) and (old is None or old.name != state.name):
            lost = plain_name(state.name)
            if old is not None and is_conflict_name(old.name):
                lost = old.name
            kept_by = at_place.get((state.parent, lost))
            if kept_by is not None and not state.is_directory and id not in view.remote:
                assert kept_by.substance != state.substance, "a copy of what is there"


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.sampled_from([2, 2, 3]))
@example(2779265, 3)  # a user's second link, under a name that looks like a conflict's
def test_replicas_changed_apart_become_equal(seed: int, count: int) -> None:
    draws = Draws(seed)
    world = grown(draws, *"XYZ"[:count])
    for _ in range(draws.randrange(1, 5)):
        for replica in world.replicas:
            for _ in range(draws.randrange(6)):
                act(replica, draws)
        for replica in draws.sample(world.replicas, draws.randrange(count + 1)):
            replica.pull()
            check_plan(replica, draws)
            replica.sync()
    world.rest()
    world.check_equal()


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.sampled_from([2, 3]))
@example(3976242720, 3)  # dropped for equal content that was not sent yet
def test_plans_cut_off_anywhere_lead_to_the_same_end(seed: int, count: int) -> None:
    draws = Draws(seed)
    world = grown(draws, *"XYZ"[:count])
    for _ in range(draws.randrange(1, 12)):
        replica = draws.choice(world.replicas)
        for _ in range(draws.randrange(4)):
            act(replica, draws)
        replica.pull(draws.choice([0, 1, 2, 3, 99]))
        plan = replica.plan()
        check_plan(replica, draws)
        placed = draws.randrange(len(plan.placing) + 1)
        sent = draws.randrange(len(plan.sending) + 1)
        replica.carry_out(plan, placed=placed, sent=sent)
    world.rest()
    world.check_equal()


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_a_lost_base_deletes_and_loses_nothing(seed: int) -> None:
    draws = Draws(seed)
    world = grown(draws, "X", "Y")
    before = {state.substance for state in world.server.live().values()}
    one, other = world.replicas
    world.oracle.given_up.clear()
    world.oracle.deleted.clear()
    for _ in range(draws.randrange(6)):
        act(other, draws)
    kept = before - world.oracle.given_up - {(Kind.DIRECTORY, b"")}
    # A new client in the old folder: it knows no id and no base.
    fresh = {id: one.fresh() for id in one.local}
    one.local = {
        fresh[id]: state.at((fresh.get(state.parent, ROOT_ID), state.name))
        for id, state in one.local.items()
    }
    one.base.clear()
    one.remote.clear()
    one.cursor = 0
    plan = one.sync()
    assert plan.deletes == 0
    world.rest()
    assert kept <= {state.substance for state in world.server.live().values()}


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([Mode.SEND_ONLY, Mode.RECEIVE_ONLY]))
def test_a_one_way_mount_changes_one_side_alone(seed: int, mode: Mode) -> None:
    draws = Draws(seed)
    world = grown(draws, "X", "Y")
    one, other = world.replicas
    one.mount = replace(one.mount, mode=mode)
    for _ in range(draws.randrange(1, 4)):
        for replica in world.replicas:
            for _ in range(draws.randrange(5)):
                act(replica, draws)
        other.sync()
        one.pull()
        check_plan(one, draws)
        plan = one.plan()
        assert not (plan.placing if mode is Mode.SEND_ONLY else plan.sending)
        one.sync()
    world.rest()
    plan = one.plan()
    assert plan.is_quiet
    told = {problem.id for problem in plan.problems}
    table = world.server.live()
    unequal = {id for id in table.keys() | one.local.keys() if table.get(id) != one.local.get(id)}
    assert told == unequal
