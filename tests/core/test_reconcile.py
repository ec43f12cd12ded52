"""The plan itself: what it does not do, what it expects, and what a problem holds back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.core.changes import Delete, Move, PutDirectory, PutFile
from syncline.core.closure import close
from syncline.core.conflict_names import conflict_name
from syncline.core.entries import Kind
from syncline.core.identity import ROOT_ID, digest_of
from syncline.core.merging import confirmed
from syncline.core.names import Name
from syncline.core.plans import Alter, Confirm, Create, Exchange, KeepCopy, Plan, SetAside
from syncline.core.reconcile import reconcile
from syncline.core.trees import Abilities, Mode, Mount, ProblemCode, View
from tests.support.merge import Replica, World, paths_of, state
from tests.support.outcomes import grown, play

AWAY = (ROOT_ID, Name(b"away"))


def late(here: str, there: str) -> tuple[Replica, Replica]:
    """Return two replicas; `there` is stored, `here` has heard of it and does nothing yet."""
    world = grown("here", "there")
    one, other = world.replicas
    play(one, here)
    play(other, there)
    other.sync()
    one.pull()
    return one, other


def planned(here: str, there: str) -> Plan:
    return late(here, there)[0].plan()


def codes(plan: Plan) -> list[ProblemCode]:
    return [problem.code for problem in plan.problems]


# -- what costs nothing --------------------------------------------------------


def test_equal_sides_make_an_empty_plan() -> None:
    assert planned("nothing", "nothing") == Plan()


def test_the_same_done_twice_moves_the_base_alone() -> None:
    same = "edit a same; chmod b; make x same; mkdir y; move d/f y/f; delete l"
    plan = planned(same, same.replace("chmod b; ", ""))
    assert plan.placing == ()
    assert [unit.changes[0].id for unit in plan.sending] == [late(same, "nothing")[0].at("b")]
    assert len(plan.relabels) == 2
    assert len(plan.confirms) == 5


def test_a_move_to_where_the_same_content_was_made_touches_no_file() -> None:
    here, _ = late("move a x", "make x a")
    moved = here.at("x")
    plan = here.plan()
    assert plan.placing == ()
    assert [relabel.local_id for relabel in plan.relabels] == [moved]
    [unit] = plan.sending
    assert unit.changes == (Delete(moved, here.remote[moved].revision),)


def test_a_folder_that_has_the_files_already_transfers_nothing() -> None:
    world = grown("first")
    first = world.replicas[0]
    second = Replica("second", world.server, world.oracle, Mount("second"))
    ids = {id: second.fresh() for id in first.local}
    second.local = {
        ids[id]: each.at((ids.get(each.parent, ROOT_ID), each.name))
        for id, each in first.local.items()
    }
    plan = second.sync()
    assert (plan.placing, plan.sending, plan.problems) == ((), (), ())
    assert len(plan.relabels) == len(first.local)
    assert second.local == first.local
    world.replicas.append(second)
    world.rest()
    world.check_equal()


def test_what_is_dropped_for_equal_content_goes_when_that_is_stored() -> None:
    here, _ = late("move b x; edit a b", "move a x")
    b = here.remote[here.at("x")]
    sent = [change for unit in here.plan().sending for change in unit.changes]
    assert [type(change) for change in sent] == [PutFile, Delete]
    assert sent[1] == Delete(b.id, b.revision)


def test_a_moved_directory_is_one_action_and_one_change() -> None:
    assert len(planned("nothing", "move d x").placing) == 1
    [unit] = planned("move d x", "nothing").sending
    assert [type(change) for change in unit.changes] == [Move]


# -- what a plan expects -------------------------------------------------------


def test_i3_the_copy_is_kept_before_the_content_is_replaced() -> None:
    here, there = late("edit a", "edit a")
    plan = here.plan()
    keep, alter = plan.placing
    assert isinstance(keep, KeepCopy)
    assert isinstance(alter, Alter)
    assert keep.source == alter.id == here.at("a")
    assert keep.expected == alter.expected == here.local[keep.source]
    assert alter.wanted == there.local[alter.id]
    [unit] = plan.sending
    [put] = unit.changes
    assert isinstance(put, PutFile)
    assert (put.id, put.base, put.content) == (keep.id, 0, keep.expected.content)


def test_a_source_that_moves_waits_for_its_copy_wherever_that_goes() -> None:
    plan = planned("edit a", "move a x; mkdir a; move x a/in; edit a/in")
    kinds = [type(action) for action in plan.placing]
    assert kinds == [SetAside, Create, KeepCopy, Alter]


def test_i5_an_edit_brings_a_deleted_entry_back_on_its_tombstone() -> None:
    here, _ = late("edit d/f", "delete d")
    head = here.server.revision
    puts = [unit.changes[0] for unit in here.plan().sending]
    assert [type(put) for put in puts] == [PutDirectory, PutFile]
    assert [put.base for put in puts] == [here.remote[put.id].revision for put in puts]
    assert all(head - 3 <= put.base <= head for put in puts)


def test_i5_what_the_server_never_told_of_builds_on_nothing() -> None:
    here, _ = late("edit a", "nothing")
    gone = here.at("a")
    del here.remote[gone]
    [unit] = here.plan().sending
    [put] = unit.changes
    assert (put.id, put.base) == (gone, 0)


def test_deletes_are_sent_children_first() -> None:
    here, _ = late("nothing", "nothing")
    inside = here.below(here.at("d"))
    play(here, "delete d")
    plan = here.plan()
    order = [change.id for unit in plan.sending for change in unit.changes]
    assert sorted(order) == sorted(inside)
    assert order.index(inside[-1]) == len(order) - 1
    assert (plan.deletes, plan.removals) == (4, 0)


def test_a_swap_is_one_exchange_here_and_one_atomic_unit_there() -> None:
    [action] = planned("nothing", "swap a b").placing
    assert isinstance(action, Exchange)
    [unit] = planned("swap a b", "nothing").sending
    assert unit.is_atomic
    assert [type(change) for change in unit.changes] == [Move, Move, Move]


def test_a_swap_with_an_edit_is_no_exchange() -> None:
    kinds = [type(action) for action in planned("nothing", "swap a b; edit a").placing]
    assert kinds == [SetAside, Alter, Alter]


def test_one_atomic_unit_holds_a_ring_and_nothing_is_left_aside() -> None:
    plan = planned("move a x; move b a; move d/f b; move x d/f; make n", "nothing")
    [ring] = [unit for unit in plan.sending if unit.is_atomic]
    assert len(ring.changes) == 4
    assert len(plan.sending) == 2


def test_one_atomic_unit_holds_a_ring_and_not_what_comes_into_its_directory() -> None:
    made = "; ".join(f"make y/{number}" for number in range(5))
    plan = planned(f"mkdir y; move b y/b; move a y/z; {made}; move y a", "nothing")
    [ring] = [unit for unit in plan.sending if unit.is_atomic]
    assert [type(change) for change in ring.changes] == [Move, PutDirectory, Move]
    assert len(plan.sending) == 1 + 1 + 5


# -- the base ------------------------------------------------------------------


def test_i5_the_base_moves_by_aspects_that_both_have() -> None:
    old = state(AWAY, Kind.FILE, b"old")
    new = state((ROOT_ID, Name(b"here")), Kind.FILE, b"new", mode=0o600)
    assert confirmed(old, new, new) == new
    assert confirmed(old, new, old) == old
    assert confirmed(old, old, new) == old
    assert confirmed(old, new, new.at(AWAY)) == new.at(AWAY)
    assert confirmed(old, new, replace(new, mode=0o700)) == replace(new, mode=old.mode)
    assert confirmed(old, new, replace(new, mtime_ns=3)) == replace(new, mtime_ns=old.mtime_ns)
    assert confirmed(old, new.at(AWAY), replace(old, mode=0o600)) == replace(old, mode=0o600)


def test_i5_absence_moves_the_base_only_when_both_agree() -> None:
    old = state(AWAY, Kind.FILE, b"old")
    assert confirmed(old, None, None) is None
    assert confirmed(old, None, old) == old
    assert confirmed(old, old, None) == old
    assert confirmed(None, old, None) is None
    assert confirmed(None, old, old) == old
    assert confirmed(None, old, old.at((ROOT_ID, Name(b"x")))) is None
    assert confirmed(None, old, state(AWAY, Kind.FILE, b"new")) is None


def test_an_edit_after_the_placed_half_of_a_plan_is_no_conflict() -> None:
    here, _ = late("move a x", "edit a")
    here.carry_out(here.plan(), sent=0)
    play(here, "edit x")
    plan = here.plan()
    assert not [action for action in plan.placing if isinstance(action, KeepCopy)]
    [unit] = plan.sending
    assert [type(change) for change in unit.changes] == [Move, PutFile]


def test_a_move_placed_here_is_not_undone_when_the_other_half_waits() -> None:
    here, _ = late("edit a", "move a x")
    here.carry_out(here.plan(), sent=0)
    [unit] = here.plan().sending
    assert [type(change) for change in unit.changes] == [PutFile]
    assert "x" in here.paths()


# -- three at once -------------------------------------------------------------


def test_three_replicas_edit_one_file_and_all_contents_stay() -> None:
    world = grown("one", "two", "three")
    for replica in world.replicas:
        replica.edit(replica.at("a"), replica.name.encode())
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == 2


def test_a_conflict_of_a_conflict_copy_does_not_nest() -> None:
    world = grown("here", "there")
    here, there = world.replicas
    play(here, "edit a")
    play(there, "edit a")
    world.rest()
    [copy] = world.conflicts()
    here.edit(here.at(copy), b"more")
    there.edit(there.at(copy), b"less")
    world.rest()
    world.check_equal()
    assert [name.count("(conflict of") for name in world.conflicts()] == [1, 1]


def test_a_retry_meets_its_own_copy() -> None:
    here, _ = late("edit a", "edit a")
    plan = here.plan()
    here.carry_out(plan, placed=1, sent=0)
    again = here.plan()
    assert [type(action) for action in again.placing] == [Alter]
    [unit] = again.sending
    assert unit.changes[0].id == plan.placing[0].id


# -- closed views --------------------------------------------------------------


def test_l2_a_conflict_name_taken_by_what_did_not_change_is_seen() -> None:
    world = grown("here", "there")
    here, there = world.replicas
    name = conflict_name(Name(b"a"), "here", digest_of(b"here"), lambda _: False)
    here.make_at((ROOT_ID, name), Kind.FILE, b"in the way")
    world.rest()
    play(here, "edit a")
    play(there, "edit a")
    there.sync()
    here.pull()
    view = here.view()
    assert reconcile(close(view), here.mount) == reconcile(view, here.mount)
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == 2


def test_l3_what_did_not_change_in_a_directory_that_merges_is_seen() -> None:
    here, _ = late("mkdir x; make x/f; make x/s", "move d x")
    view = here.view()
    assert reconcile(close(view), here.mount) == reconcile(view, here.mount)


def test_l3_directories_that_meet_inside_merged_ones_are_seen() -> None:
    here, _ = late("mkdir x; mkdir x/s; make x/s/g", "move d x")
    view = here.view()
    plan = reconcile(close(view), here.mount)
    assert plan == reconcile(view, here.mount)
    [unit] = plan.sending
    assert unit.changes[0].name != b"g", "the name of what did not change is given away"


def taken_at_the_root() -> World:
    """Return a world where the conflict name that `here` would give `d` is a file's."""
    world = grown("here", "there")
    here = world.replicas[0]
    name = conflict_name(Name(b"d"), "here", digest_of(b"here"), lambda _: False)
    here.make_at((ROOT_ID, name), Kind.FILE, b"in the way")
    here.make("q", Kind.DIRECTORY)
    here.make("q/a", Kind.DIRECTORY)
    world.rest()
    return world


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        pytest.param("delete d; make d", "make d/new", id="an edit brings a directory back"),
        pytest.param("move d q/a/d; make d", "move q/a d/a", id="a ring gives way"),
    ],
)
def test_l2_a_name_is_chosen_where_a_dirty_directory_was(mine: str, theirs: str) -> None:
    world = taken_at_the_root()
    here, there = world.replicas
    play(here, mine)
    play(there, theirs)
    there.sync()
    here.pull()
    view = here.view()
    assert reconcile(close(view), here.mount) == reconcile(view, here.mount)
    world.rest()
    world.check_equal()


def test_l4_names_that_differ_by_case_are_seen() -> None:
    here, _ = late("nothing", "make A")
    mount = replace(here.mount, abilities=Abilities(has_case=False))
    plan = reconcile(here.view(), mount)
    assert codes(plan) == [ProblemCode.CASE_CLASH]
    assert reconcile(close(here.view(), has_case=False), mount) == plan


def test_a_closed_view_is_small() -> None:
    world = World.of("here")
    [here] = world.replicas
    here.make("d", Kind.DIRECTORY)
    for number in range(300):
        here.make(f"d/{number}", Kind.FILE, b"%d" % number)
    world.rest()
    here.edit(here.at("d/7"), b"new")
    closed = close(here.view())
    assert len(closed.local) == len(closed.base) == len(closed.remote) == 2
    assert reconcile(closed, here.mount) == here.plan()


# -- problems and modes --------------------------------------------------------


def test_receive_only_keeps_local_changes_and_places_the_rest() -> None:
    here, _ = late("edit a; make x; delete d/f", "edit b; edit a; make d/n; make x")
    here.mount = Mount("here", Mode.RECEIVE_ONLY)
    plan = here.sync()
    assert plan.sending == ()
    paths = here.paths()
    assert set(codes(plan)) == {ProblemCode.LOCAL_CHANGE, ProblemCode.BLOCKED}
    assert len(plan.problems) == 4
    assert paths["a"].substance == paths["x"].substance == (Kind.FILE, digest_of(b"here"))
    assert paths["b"].substance == paths["d/n"].substance == (Kind.FILE, digest_of(b"there"))
    assert "d/f" not in paths


def test_receive_only_keeps_the_directory_of_a_local_file() -> None:
    here, _ = late("make d/n", "delete d")
    here.mount = Mount("here", Mode.RECEIVE_ONLY)
    here.sync()
    assert {"d", "d/n"} == {path for path in here.paths() if path.startswith("d")}


def test_receive_only_makes_no_ring() -> None:
    here, _ = late("move d k/d", "move k d/k")
    here.mount = Mount("here", Mode.RECEIVE_ONLY)
    plan = here.sync()
    assert sorted(code.value for code in codes(plan)) == ["blocked", "local_change"]
    assert "k/d/f" in here.paths()


def test_receive_only_does_not_take_a_name_that_a_local_change_has() -> None:
    here, _ = late("move a x", "make x; mkdir y; make y/n")
    here.mount = Mount("here", Mode.RECEIVE_ONLY)
    plan = here.sync()
    assert sorted(code.value for code in codes(plan)) == ["blocked", "local_change"]
    assert here.paths()["x"].substance == (Kind.FILE, digest_of(b"a"))
    assert "y/n" in here.paths()


def test_send_only_places_nothing_and_sends_what_nobody_else_changed() -> None:
    here, there = late("edit a; edit b", "edit b; make y")
    here.mount = Mount("here", Mode.SEND_ONLY)
    plan = here.sync()
    assert plan.placing == ()
    assert codes(plan) == [ProblemCode.REMOTE_CHANGE] * 2
    there.sync()
    assert there.paths()["a"].substance == (Kind.FILE, digest_of(b"here"))
    assert there.paths()["b"].substance == (Kind.FILE, digest_of(b"there"))


def test_what_could_not_be_read_is_neither_deleted_nor_overwritten() -> None:
    here, _ = late("nothing", "edit a; delete d")
    inside = here.below(here.at("d"))
    held = dict.fromkeys([here.at("a"), here.at("d/f")], ProblemCode.UNREAD)
    plan = reconcile(replace(here.view(), held=held), here.mount)
    assert plan.sending == ()
    touched = {action.id for action in plan.placing if not isinstance(action, Exchange)}
    assert touched == {id for id in inside if id not in (here.at("d"), here.at("d/f"))}
    assert sorted(code.value for code in codes(plan)) == ["blocked", "unread", "unread"]


def test_an_obstacle_stays_and_what_wants_its_place_waits() -> None:
    here, _ = late("nothing", "mkdir x; make x/n; make y")
    here.obstacles = {(ROOT_ID, Name(b"x"))}
    plan = here.sync()
    assert sorted(code.value for code in codes(plan)) == ["blocked", "obstructed"]
    assert {"x", "x/n"}.isdisjoint(here.paths())
    assert "y" in here.paths()
    here.obstacles.clear()
    here.sync()
    assert "x/n" in here.paths()


def test_a_deleted_directory_with_ignored_content_stays_and_is_not_sent_again() -> None:
    here, _ = late("nothing", "delete d")
    here.obstacles = {(here.at("d/s"), Name(b"ignored"))}
    for _ in range(3):
        plan = here.sync()
        assert plan.sending == ()
        assert sorted(code.value for code in codes(plan)) == ["blocked", "holds_unsynced"]
    assert {"d", "d/s"} == {path for path in here.paths() if path.startswith("d")}


def test_a_copy_that_cannot_be_made_keeps_its_source_as_it_is() -> None:
    here, _ = late("edit a", "move a k/a; edit k/a")
    held = {here.at("k"): ProblemCode.UNREAD}
    view = replace(here.view(), held=held)
    assert KeepCopy in [type(action) for action in reconcile(view, here.mount).placing]
    # Case makes the copy's name clash with one that is there.
    name = conflict_name(Name(b"a"), "here", digest_of(b"here"), lambda _: False)
    here.make_at((here.at("k"), Name(name.upper())), Kind.FILE, b"in the way")
    mount = replace(here.mount, abilities=Abilities(has_case=False))
    plan = reconcile(here.view(), mount)
    assert here.at("a") not in {getattr(action, "id", None) for action in plan.placing}
    assert sorted(code.value for code in codes(plan)) == ["blocked", "case_clash"]


def test_a_mount_without_modes_says_nothing_about_modes() -> None:
    here, _ = late("chmod a; chmod b", "chmod b; edit d/f")
    plan = reconcile(here.view(), replace(here.mount, abilities=Abilities(has_modes=False)))
    assert plan.sending == ()
    assert [type(action) for action in plan.placing] == [Alter]
    [confirm] = plan.confirms
    assert confirm == Confirm(here.at("b"), replace(here.base[here.at("b")], mode=0o711))


def test_a_mount_without_links_neither_places_nor_deletes_them() -> None:
    mount = Mount("here", abilities=Abilities(has_links=False))
    here, _ = late("delete l", "link d/l; make x")
    here.oracle.deleted.clear()
    plan = reconcile(here.view(), mount)
    assert plan.sending == ()
    assert [action.wanted.name for action in plan.placing if isinstance(action, Create)] == [b"x"]
    assert codes(plan) == [ProblemCode.LINKS_NOT_HELD] * 2


def test_a_coarse_clock_is_no_change() -> None:
    here, _ = late("nothing", "nothing")
    id = here.at("a")
    here.local[id] = replace(here.local[id], mtime_ns=here.local[id].mtime_ns // 100 * 100)
    assert len(here.plan().sending) == 1
    mount = replace(here.mount, abilities=Abilities(time_grain_ns=100))
    assert reconcile(here.view(), mount) == Plan()


def test_a_mount_without_case_places_one_of_two_names() -> None:
    here, _ = late("nothing", "make A; make Ä; make ä")
    mount = replace(here.mount, abilities=Abilities(has_case=False))
    plan = reconcile(here.view(), mount)
    assert [action.wanted.name.decode() for action in plan.placing if isinstance(action, Create)]
    assert codes(plan) == [ProblemCode.CASE_CLASH] * 2
    assert "a" in here.paths()


def test_a_case_only_rename_is_a_move() -> None:
    here, _ = late("nothing", "move a A")
    mount = replace(here.mount, abilities=Abilities(has_case=False))
    [action] = reconcile(here.view(), mount).placing
    assert isinstance(action, Alter)
    assert action.wanted.name == b"A"


def test_an_empty_view_is_quiet() -> None:
    for mode in Mode:
        assert reconcile(View({}, {}, {}, b"seed"), Mount("x", mode)).is_quiet
    assert paths_of({}) == {}


def test_a_delete_of_the_whole_tree_counts_for_the_brakes() -> None:
    plan = planned("nothing", "delete a; delete b; delete d; delete k; delete l")
    assert (plan.removals, plan.deletes) == (8, 0)
    assert not [unit for unit in plan.sending if isinstance(unit.changes[0], Delete)]
