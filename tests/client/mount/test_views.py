"""Closed views by look-ups: the plan of the whole trees, at the cost of what is dirty."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.client.mount.views import closed_view
from syncline.core.closure import close
from syncline.core.conflict_names import conflict_name
from syncline.core.entries import Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId, ReplicaId, digest_of
from syncline.core.names import Name
from syncline.core.plans import Plan
from syncline.core.reconcile import reconcile
from syncline.core.trees import Abilities, Mode, Mount, Place, ProblemCode, View, is_same, state_of
from syncline.ports.mount_state import (
    Held,
    MountFacts,
    MountSession,
    Obstacle,
    ObstacleReason,
)
from tests.core.test_reconcile_model import NAMES, act, grown
from tests.support.merge import Replica, World
from tests.support.outcomes import grown as grown_table
from tests.support.outcomes import play, rows

IGNORED = Held(is_ignored=True)
UNREAD = Held(is_ignored=False, detail="permission denied")
FIFO = Obstacle(ObstacleReason.SPECIAL)
CODES = {IGNORED: ProblemCode.IGNORED, UNREAD: ProblemCode.UNREAD}
Caught = dict[EntryId, Held]


def remember(session: MountSession, replica: Replica, held: Caught | None = None) -> None:
    """Put into a session what a replica of the model knows."""
    for id, state in replica.base.items():
        session.set_base(id, state)
    for id, state in replica.local.items():
        session.set_local(id, Seen(state))
    for id, entry in replica.remote.items():
        session.set_remote(entry, replica.server.authors[id], is_confirmed=False)
    for place in replica.obstacles:
        session.set_obstacle(place, FIFO)
    for id, why in (held or {}).items():
        session.set_held(id, why)


def whole_view(replica: Replica, held: Caught | None = None) -> View:
    """Return the view of everything; authors are known where remote differs from base."""
    view = replica.view()
    authors = {}
    for id, author in view.authors.items():
        entry = view.remote.get(id)
        there = state_of(entry) if entry is not None and entry.is_live else None
        if not is_same(view.base.get(id), there):
            authors[id] = author
    codes = {id: CODES[why] for id, why in (held or {}).items()}
    return replace(view, authors=authors, held=codes)


FACTS = MountFacts(ReplicaId(bytes(16)), None, None)


def remembered(replica: Replica, held: Caught | None = None) -> MemoryMountState:
    state = MemoryMountState(FACTS)
    with state.session() as session:
        remember(session, replica, held)
    return state


def plans(replica: Replica, held: Caught | None = None) -> tuple[Plan, Plan, Plan]:
    """Return the plan of the view by look-ups, of the whole trees, and of these closed."""
    whole = whole_view(replica, held)
    has_case = replica.mount.abilities.has_case
    with remembered(replica, held).session() as session:
        closed = closed_view(session, whole.seed, has_case=has_case)
    return (
        reconcile(closed, replica.mount),
        reconcile(whole, replica.mount),
        reconcile(close(whole, has_case=has_case), replica.mount),
    )


# -- the same plan as of the whole ---------------------------------------------


def some_held(replica: Replica, draws: random.Random) -> Caught:
    """Hold some entries: mostly such as local has as base has them, now and then any."""
    ids = sorted(replica.base.keys() | replica.local.keys() | replica.remote.keys())
    share = draws.choice([0.0, 0.2, 0.8])
    return {
        id: draws.choice([IGNORED, UNREAD])
        for id in ids
        if draws.random() < share
        and (is_same(replica.base.get(id), replica.local.get(id)) or draws.random() < 0.2)
    }


def some_obstacles(replica: Replica, draws: random.Random) -> set[Place]:
    directories = [ROOT_ID, *(id for id in sorted(replica.local) if replica.local[id].is_directory)]
    taken = {state.place for state in replica.local.values()}
    places = {
        (draws.choice(directories), draws.choice(NAMES)) for _ in range(draws.choice([0, 0, 2, 5]))
    }
    return places - taken


MODES = [Mode.TWO_WAY, Mode.TWO_WAY, Mode.TWO_WAY, Mode.SEND_ONLY, Mode.RECEIVE_ONLY]


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_the_plan_is_that_of_the_whole_trees(seed: int) -> None:
    draws = random.Random(seed)
    world = grown(draws, "X", "Y")
    one, other = world.replicas
    for _ in range(draws.randrange(1, 4)):
        for replica in world.replicas:
            for _ in range(draws.randrange(7)):
                act(replica, draws)
        other.sync()
        one.pull(draws.choice([1, 99]))
        one.mount = Mount("X", draws.choice(MODES), Abilities(has_modes=draws.random() < 0.9))
        held = some_held(one, draws)
        one.obstacles = some_obstacles(one, draws)
        found, whole, closed = plans(one, held)
        assert found == whole == closed
        event("obstacles" if one.obstacles else "no obstacles")
        event("held" if held else "nothing held")
        # What is held or in the way is gone again; the next round begins anywhere in between.
        one.obstacles = set()
        one.mount = Mount("X")
        one.pull()
        plan = one.plan()
        placed = draws.randrange(len(plan.placing) + 1)
        one.carry_out(plan, placed=placed, sent=draws.randrange(len(plan.sending) + 1))


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_rows_of_the_table_mixed_at_random_are_seen(seed: int) -> None:
    draws = random.Random(seed)
    table = rows()
    here = apart(draws.choice(table).here, draws.choice(table).there)
    found, whole, closed = plans(here)
    assert found == whole == closed


def test_every_outcome_of_the_table_is_seen_on_disk(tmp_path: Path) -> None:
    state = SqliteMountState.open(tmp_path / "state.sqlite3", FACTS)
    with state.session() as session:
        for row in rows():
            here = apart(row.here, row.there)
            session.forget_all()
            remember(session, here)
            whole = whole_view(here)
            closed = closed_view(session, whole.seed)
            assert reconcile(closed, here.mount) == reconcile(whole, here.mount), row
    state.close()


def apart(here: str, there: str) -> Replica:
    """Return the replica `here` that has just heard what `there` did."""
    world = grown_table("here", "there")
    one, other = world.replicas
    play(one, here)
    play(other, there)
    other.sync()
    one.pull()
    return one


# -- rule by rule ----------------------------------------------------------------


def test_l2_a_conflict_name_that_is_taken_is_seen() -> None:
    world = grown_table("here", "there")
    here, there = world.replicas
    name = conflict_name(Name(b"a"), "here", digest_of(b"here"), lambda _: False)
    here.make_at((ROOT_ID, name), Kind.FILE, b"in the way")
    world.rest()
    play(here, "edit a")
    play(there, "edit a")
    there.sync()
    here.pull()
    found, whole, closed = plans(here)
    assert found == whole == closed
    assert found.placing


def test_l3_what_did_not_change_in_a_directory_that_merges_is_seen() -> None:
    here = apart("mkdir x; make x/f; make x/s", "move d x")
    found, whole, closed = plans(here)
    assert found == whole == closed


def test_l3_directories_that_meet_inside_merged_ones_are_seen() -> None:
    here = apart("mkdir x; mkdir x/s; make x/s/g", "move d x")
    found, whole, closed = plans(here)
    assert found == whole == closed
    [unit] = found.sending
    assert unit.changes[0].name != b"g", "the name of what did not change is given away"


def test_a_directory_that_an_edit_brings_back_has_its_names_seen() -> None:
    world = grown_table("here", "there")
    here, there = world.replicas
    name = conflict_name(Name(b"d"), "here", digest_of(b"here"), lambda _: False)
    here.make_at((ROOT_ID, name), Kind.FILE, b"in the way")
    world.rest()
    play(here, "delete d; make d")
    play(there, "make d/new")
    there.sync()
    here.pull()
    found, whole, closed = plans(here)
    assert found == whole == closed


def test_a_move_that_gives_way_in_a_ring_has_its_names_seen() -> None:
    world = grown_table("here", "there")
    here, there = world.replicas
    here.make("q", Kind.DIRECTORY)
    here.make("q/a", Kind.DIRECTORY)
    name = conflict_name(Name(b"d"), "here", digest_of(b"here"), lambda _: False)
    here.make_at((ROOT_ID, name), Kind.FILE, b"in the way")
    world.rest()
    play(here, "move d q/a/d; make d")
    play(there, "move q/a d/a")
    there.sync()
    here.pull()
    found, whole, closed = plans(here)
    assert found == whole == closed


def test_l4_names_that_differ_by_case_are_seen() -> None:
    here = apart("nothing", "make A")
    here.mount = replace(here.mount, abilities=Abilities(has_case=False))
    found, whole, closed = plans(here)
    assert found == whole == closed
    assert [problem.code for problem in found.problems] == [ProblemCode.CASE_CLASH]


def test_a_conflict_name_avoids_an_obstacle() -> None:
    here = apart("edit a", "edit a")
    name = conflict_name(Name(b"a"), "here", digest_of(b"here"), lambda _: False)
    here.obstacles.add((ROOT_ID, name))
    found, whole, closed = plans(here)
    assert found == whole == closed
    assert not found.problems


@pytest.mark.parametrize(
    ("there", "place", "code"),
    [
        ("make new", ("", b"new"), ProblemCode.OBSTRUCTED),
        ("move a d/s/a", ("d/s", b"a"), ProblemCode.OBSTRUCTED),
        ("delete d", ("d/s", b"socket"), ProblemCode.HOLDS_UNSYNCED),
    ],
)
def test_an_obstacle_in_the_way_is_seen(
    there: str, place: tuple[str, bytes], code: ProblemCode
) -> None:
    here = apart("nothing", there)
    here.obstacles.add((here.at(place[0]), Name(place[1])))
    found, whole, closed = plans(here)
    assert found == whole == closed
    assert code in [problem.code for problem in found.problems]


def test_an_obstacle_in_a_directory_that_turns_out_to_be_another_one_is_seen() -> None:
    here = apart("mkdir x", "mkdir x; make x/f")
    here.obstacles.add((here.at("x"), Name(b"f")))
    found, whole, closed = plans(here)
    assert found == whole == closed
    assert [problem.code for problem in found.problems] == [ProblemCode.OBSTRUCTED]


@pytest.mark.parametrize(("held", "code"), CODES.items())
def test_a_held_entry_that_remote_changed_keeps_its_place(held: Held, code: ProblemCode) -> None:
    here = apart("nothing", "delete d")
    found, whole, closed = plans(here, {here.at("d/s/g"): held})
    assert found == whole == closed
    codes = {problem.id: problem.code for problem in found.problems}
    assert codes[here.at("d/s/g")] is code
    assert codes[here.at("d/s")] is codes[here.at("d")] is ProblemCode.BLOCKED
    assert found.removals == 1


def test_a_held_entry_follows_a_directory_that_is_moved_around_it() -> None:
    here = apart("nothing", "move d e")
    found, whole, closed = plans(here, {here.at("d/f"): IGNORED, here.at("d/s"): UNREAD})
    assert found == whole == closed
    assert not found.problems
    assert len(found.placing) == 1


def test_authors_of_what_differs_are_known() -> None:
    here = apart("delete b; move a b", "edit b")
    with remembered(here).session() as session:
        view = closed_view(session, bytes(16))
    [edited] = [id for id, author in view.authors.items() if author == "there"]
    assert view.remote[edited].name == b"b"


# -- the cost --------------------------------------------------------------------


class Counting:
    """Passes all calls on to a session and counts them, and what the long ones return."""

    def __init__(self, session: MountSession) -> None:
        self.calls: Counter[str] = Counter()
        self._session = session

    def __getattr__(self, name: str) -> Callable[..., object]:
        call = getattr(self._session, name)

        def counted(*arguments: object) -> object:
            self.calls[name] += 1
            found = call(*arguments)
            if name in ("within", "children", "obstacles_in"):
                self.calls["listed"] += len(found)
            return found

        return counted


def counted(replica: Replica, held: Caught | None = None) -> tuple[View, Counter[str]]:
    with remembered(replica, held).session() as session:
        counting = Counting(session)
        view = closed_view(counting, bytes(16))
    return view, counting.calls


def broad(count: int) -> tuple[World, Replica]:
    """Return a world at rest: one directory with `count` files, and one beside it."""
    world = World.of("here", "there")
    here = world.replicas[0]
    here.make("d", Kind.DIRECTORY)
    here.make("e", Kind.DIRECTORY)
    d = here.at("d")
    for number in range(count):
        id = here.fresh()
        name = Name(b"%d" % number)
        here.local[id] = replace(here.local[d], parent=d, name=name, kind=Kind.LINK, target=name)
    here.make("e/f", Kind.FILE, b"f")
    world.rest()
    return world, here


@pytest.mark.parametrize("count", [10, 2_000])
def test_look_ups_follow_what_is_dirty(count: int) -> None:
    world, here = broad(count)
    there = world.replicas[1]
    there.edit(there.at("d/7"), b"new")
    there.sync()
    here.pull()
    here.edit(here.at("e/f"), b"newer")
    here.obstacles = {(here.at("d"), Name(b"fifo %d" % number)) for number in range(count)}
    held = {id: IGNORED for id, state in here.local.items() if state.kind is Kind.LINK}
    view, calls = counted(here, held)
    assert len(view.local) == len(view.base) == len(view.remote) == 4
    assert view.held.keys() == {here.at("d/7")}
    assert calls["listed"] == calls["held"] == 0
    assert calls.total() <= 24


def test_a_view_of_nothing_dirty_is_empty() -> None:
    _, here = broad(100)
    view, calls = counted(here, {here.at("d/7"): IGNORED})
    assert not (view.base or view.local or view.remote or view.held)
    assert calls.total() <= 2


def test_each_dirty_entry_costs_a_few_look_ups() -> None:
    world, here = broad(500)
    there = world.replicas[1]
    for number in range(400):
        there.edit(there.at(f"d/{number}"), b"new %d" % number)
    there.sync()
    here.pull()
    view, calls = counted(here)
    assert len(view.local) == 401
    assert calls["listed"] == 0
    assert calls.total() <= 5 * 401 + 4
