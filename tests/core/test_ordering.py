"""Ordering: any tree becomes any other, one possible step at a time."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name
from syncline.core.ordering import Arrive, Aside, Leave, Shift, Step, Swap, order
from syncline.core.trees import Place
from tests.support.trees import id_of

Places = dict[EntryId, Place]


def places(**by_label: str) -> Places:
    """Return a tree: label = directory label and name, as `d/x`; `/x` is in the root."""
    found = {}
    for label, text in by_label.items():
        parent, _, name = text.rpartition("/")
        found[id_of(label)] = (id_of(parent) if parent else ROOT_ID, Name(name.encode()))
    return found


def is_within(tree: dict[EntryId, Place | None], id: EntryId, directory: EntryId) -> bool:
    while id != ROOT_ID:
        if id == directory:
            return True
        place = tree[id]
        if place is None:
            return False
        id = place[0]
    return False


def play(current: Places, wanted: Places, steps: tuple[Step, ...]) -> Places:
    """Do the steps as a file system would; fail where one is not possible (O1-O4)."""
    tree: dict[EntryId, Place | None] = dict(current)

    def enter(id: EntryId) -> None:
        parent = wanted[id][0]
        assert parent == ROOT_ID or parent in tree
        assert wanted[id] not in tree.values()
        assert not is_within(tree, parent, id)
        tree[id] = wanted[id]

    asides = set()
    for step in steps:
        match step:
            case Arrive(id):
                assert id not in tree
                enter(id)
            case Shift(id):
                enter(id)
            case Leave(id):
                assert all(place is None or place[0] != id for place in tree.values())
                del tree[id]
            case Aside(id):
                assert id not in asides
                assert tree[id] == current[id] != wanted[id]
                asides.add(id)
                tree[id] = None
            case Swap(first, second):
                assert (tree[first], tree[second]) == (wanted[second], wanted[first])
                one, other = tree[first], tree[second]
                assert one is not None and other is not None
                assert not is_within(tree, one[0], second)
                assert not is_within(tree, other[0], first)
                tree[first], tree[second] = other, one
    return {id: place for id, place in tree.items() if place is not None}


def labels(steps: tuple[Step, ...]) -> list[str]:
    known = {id_of(label): label for label in "abcdefgh"}
    found = []
    for step in steps:
        if isinstance(step, Swap):
            found.append("swap " + "".join(sorted(known[id] for id in (step.first, step.second))))
        else:
            found.append(f"{type(step).__name__.lower()} {known[step.id]}")
    return found


def ordered(current: Places, wanted: Places, *, can_swap: bool = False) -> list[str]:
    swappable = frozenset(current) if can_swap else frozenset()
    steps = order(current, wanted, swappable=swappable)
    assert play(current, wanted, steps) == wanted
    return labels(steps)


def test_nothing_to_do_is_no_step() -> None:
    tree = places(a="/a", b="a/b")
    assert ordered(tree, tree) == []


def test_o1_parents_arrive_first_and_leave_last() -> None:
    tree = places(a="/a", b="a/b", c="b/c")
    assert ordered({}, tree) == ["arrive a", "arrive b", "arrive c"]
    assert ordered(tree, {}) == ["leave c", "leave b", "leave a"]


def test_o2_a_name_is_freed_before_it_is_taken() -> None:
    assert ordered(places(a="/1", b="/2", c="/3"), places(a="/2", b="/3", c="/4")) == [
        "shift c",
        "shift b",
        "shift a",
    ]


def test_o2_who_waited_takes_the_name_at_once() -> None:
    steps = ordered(places(a="/x", b="a/y", c="/z"), places(d="/x", c="/z"))
    assert steps == ["leave b", "leave a", "arrive d"]


def test_a_swap_is_one_step_where_that_can_be_done() -> None:
    current, wanted = places(a="/1", b="/2"), places(a="/2", b="/1")
    assert ordered(current, wanted, can_swap=True) == ["swap ab"]
    assert [step.split()[0] for step in ordered(current, wanted)] == ["aside", "shift", "shift"]


def test_a_ring_of_three_sets_one_aside() -> None:
    steps = ordered(places(a="/1", b="/2", c="/3"), places(a="/2", b="/3", c="/1"), can_swap=True)
    assert [step.split()[0] for step in steps] == ["aside", "shift", "shift", "shift"]


def test_o3_inside_out() -> None:
    assert ordered(places(a="/a", b="a/b"), places(b="/b", a="b/a")) == ["shift b", "shift a"]
    steps = ordered(places(a="/x", b="a/y"), places(b="/x", a="b/y"), can_swap=True)
    assert [step.split()[0] for step in steps] == ["aside", "shift", "shift"]


def test_a_directory_replaced_by_its_own_child() -> None:
    assert ordered(places(a="/x", b="a/y"), places(b="/x")) == ["aside b", "leave a", "shift b"]


def test_a_shift_waits_for_what_must_arrive_before() -> None:
    current = places(a="/x")
    wanted = places(b="/x", a="b/y", c="b/z")
    steps = order(current, wanted, after={id_of("a"): id_of("c")})
    assert play(current, wanted, steps) == wanted
    assert labels(steps) == ["aside a", "arrive b", "arrive c", "shift a"]


def test_a_ring_is_closed_before_others_that_waited_for_the_same() -> None:
    current = places(a="/x", c="/1", d="/2")
    wanted = places(b="/x", c="b/1", d="b/2", e="b/3", a="b/y")
    steps = ordered(current, wanted)
    assert steps[:3] == ["aside a", "arrive b", "shift a"]
    assert sorted(steps[3:]) == ["arrive e", "shift c", "shift d"]


def test_what_leaves_waits_for_its_heir() -> None:
    current = places(a="/x", b="/y", c="/z")
    wanted = places(b="/z", c="/x")
    steps = order(current, wanted, after={id_of("a"): id_of("b")})
    assert labels(steps) == ["aside c", "shift b", "leave a", "shift c"]


def test_two_that_wait_for_each_other_leave_without_insisting() -> None:
    current = places(a="/x", b="/y")
    steps = order(current, places(b="/x"), after={id_of("a"): id_of("b")})
    assert labels(steps) == ["leave a", "shift b"]


@st.composite
def trees(draw: st.DrawFn) -> Places:
    """Draw a tree of some of eight directories, few names, in any shape."""
    found: Places = {}
    for label in draw(st.permutations("abcdefgh")):
        parent = draw(st.sampled_from([None, ROOT_ID, *found]))
        name = Name(draw(st.sampled_from([b"x", b"y", b"z"])))
        if parent is not None and (parent, name) not in found.values():
            found[id_of(label)] = (parent, name)
    return found


@settings(max_examples=300)
@given(trees(), trees(), st.booleans())
def test_any_tree_becomes_any_other(current: Places, wanted: Places, can_swap: bool) -> None:
    swappable = frozenset(current) if can_swap else frozenset()
    steps = order(current, wanted, swappable=swappable)
    assert play(current, wanted, steps) == wanted
    mixed = dict(reversed(list(current.items()))), dict(reversed(list(wanted.items())))
    assert order(*mixed, swappable=swappable) == steps  # O5
    moved = {id for id in current.keys() | wanted.keys() if current.get(id) != wanted.get(id)}
    asides = sum(isinstance(step, Aside) for step in steps)
    swaps = sum(isinstance(step, Swap) for step in steps)
    assert len(steps) == len(moved) + asides - swaps


@settings(max_examples=300)
@given(trees(), trees(), st.randoms(use_true_random=False))
def test_any_tree_becomes_any_other_whatever_waits_for_heirs(
    current: Places, wanted: Places, draws: random.Random
) -> None:
    stays = sorted(current.keys() & wanted.keys())
    after = {id: draws.choice(stays) for id in sorted(current.keys() - wanted.keys()) if stays}
    steps = order(current, wanted, after=after)
    assert play(current, wanted, steps) == wanted


def test_a_thousand_entries_are_ordered_in_one_pass() -> None:
    ids = [id_of(str(number)) for number in range(1000)]
    chain = {id: (ROOT_ID, Name(b"%d" % number)) for number, id in enumerate(ids)}
    turned = {id: (ROOT_ID, Name(b"%d" % ((number + 1) % 1000))) for number, id in enumerate(ids)}
    steps = order(chain, turned)
    assert play(chain, turned, steps) == turned
    assert len(steps) == 1001
