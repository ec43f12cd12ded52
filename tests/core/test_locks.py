"""Operation locks: L1 to L3, against a model that looks at everybody who asked before."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.changes import Author, Change
from syncline.core.identity import ReplicaId
from syncline.core.locks import Key, OperationLocks, Ticket, keys_of
from tests.support.trees import delete, id_of, move, put_directory, put_file, put_link

AUTHOR = Author(ReplicaId(b"R" * 16), "laptop")
KEYS = [b"k1", b"k2", b"k3", b"k4"]


def keys(*labels: str) -> frozenset[Key]:
    return frozenset(label.encode() for label in labels)


def ask(locks: OperationLocks, *labels: str) -> Ticket:
    return locks.request(keys(*labels), AUTHOR, 0.0)


class Model:
    """Who asked, in order. Granted is who shares no key with anybody before him."""

    def __init__(self) -> None:
        self.asked: list[tuple[Ticket, frozenset[Key]]] = []

    def granted(self) -> set[Ticket]:
        return {
            ticket
            for place, (ticket, wanted) in enumerate(self.asked)
            if not any(wanted & earlier for _, earlier in self.asked[:place])
        }

    def leave(self, ticket: Ticket) -> None:
        self.asked = [row for row in self.asked if row[0] != ticket]


steps = st.lists(
    st.one_of(
        st.frozensets(st.sampled_from(KEYS), max_size=3),
        st.integers(0, 1000),
    ),
    max_size=40,
)


@given(steps)
def test_requests_and_releases_in_any_order_do_what_the_model_says(
    plan: list[frozenset[Key] | int],
) -> None:
    locks, model = OperationLocks(), Model()
    for step in plan:
        before = model.granted()
        if isinstance(step, frozenset):
            ticket = locks.request(step, AUTHOR, 0.0)
            model.asked.append((ticket, step))
            assert before <= model.granted(), "nobody loses what he holds to one who asks later"
        elif model.asked:
            # A waiting one may leave as well as a holder.
            ticket, _ = model.asked[step % len(model.asked)]
            woken = locks.release(ticket)
            model.leave(ticket)
            assert set(woken) == model.granted() - before
            assert woken == sorted(woken)
            assert not locks.is_granted(ticket)
        check(locks, model)
    finish(locks, model)


def check(locks: OperationLocks, model: Model) -> None:
    granted = model.granted()
    assert locks.count == len(model.asked)
    assert {ticket for ticket, _ in model.asked if locks.is_granted(ticket)} == granted
    for key in KEYS:
        holders = [t for t, wanted in model.asked if key in wanted and t in granted]
        assert len(holders) <= 1, "L1"
        first = locks.first_of([key])
        wanting = [ticket for ticket, wanted in model.asked if key in wanted]
        assert (first.ticket if first else None) == (wanting[0] if wanting else None)


def finish(locks: OperationLocks, model: Model) -> None:
    """Let holders go until nobody is left: each waiting one must have been named exactly once."""
    held = model.granted()
    everybody = {ticket for ticket, _ in model.asked}
    named = set(held)
    while held:
        woken = locks.release(min(held))
        model.leave(min(held))
        held.discard(min(held))
        assert not named & set(woken), "named twice"
        named |= set(woken)
        held |= set(woken)
    assert named == everybody, "L3: a wake-up was lost"
    assert locks.count == 0
    assert locks.first_of(KEYS) is None


@given(st.lists(st.frozensets(st.sampled_from(KEYS), min_size=1, max_size=3), max_size=12))
def test_l2_each_key_is_had_in_the_order_of_asking(wanted: list[frozenset[Key]]) -> None:
    locks = OperationLocks()
    asked = {locks.request(each, AUTHOR, 0.0): each for each in wanted}
    held = [ticket for ticket in asked if locks.is_granted(ticket)]
    order: list[Ticket] = []
    while held:
        ticket = held.pop()
        order.append(ticket)
        held += locks.release(ticket)
    for key in KEYS:
        assert [t for t in order if key in asked[t]] == [t for t in asked if key in asked[t]]


@pytest.mark.parametrize("leaving", list(permutations(range(4))))
def test_no_order_of_leaving_keeps_anybody_out(leaving: tuple[int, ...]) -> None:
    locks, model = OperationLocks(), Model()
    for wanted in (keys("k1"), keys("k1", "k2"), keys("k2", "k3"), keys("k1", "k3")):
        model.asked.append((locks.request(wanted, AUTHOR, 0.0), wanted))
    tickets = [ticket for ticket, _ in model.asked]
    for place in leaving:
        before = model.granted()
        woken = locks.release(tickets[place])
        model.leave(tickets[place])
        assert set(woken) == model.granted() - before
        check(locks, model)


def test_who_asks_first_for_free_keys_has_them_at_once() -> None:
    locks = OperationLocks()
    assert locks.is_granted(ask(locks, "k1", "k2"))
    assert locks.is_granted(ask(locks, "k3"))
    assert not locks.is_granted(ask(locks, "k2", "k3"))


def test_a_small_request_does_not_pass_a_large_one_that_waits() -> None:
    locks = OperationLocks()
    holder = ask(locks, "k1")
    large = ask(locks, "k1", "k2")
    small = ask(locks, "k2")
    assert not locks.is_granted(small), "or the large one would starve"
    assert locks.release(holder) == [large]
    assert locks.release(large) == [small]


def test_two_that_ask_crosswise_do_not_stand_still() -> None:
    locks = OperationLocks()
    one, two = ask(locks, "k1", "k2"), ask(locks, "k2", "k1")
    assert (locks.is_granted(one), locks.is_granted(two)) == (True, False)
    assert locks.release(one) == [two]


def test_one_release_may_wake_many() -> None:
    locks = OperationLocks()
    holder = ask(locks, "k1", "k2", "k3")
    waiting = [ask(locks, "k1"), ask(locks, "k2"), ask(locks, "k3")]
    assert locks.release(holder) == waiting


def test_to_leave_twice_or_without_having_asked_changes_nothing() -> None:
    locks = OperationLocks()
    one, two = ask(locks, "k1"), ask(locks, "k1")
    assert locks.release(one) == [two]
    assert locks.release(one) == []
    assert locks.release(Ticket(99)) == []
    assert locks.is_granted(two)
    assert not locks.is_granted(one)
    assert not locks.is_granted(Ticket(99))


def test_an_operation_without_keys_waits_for_nobody() -> None:
    locks = OperationLocks()
    ticket = ask(locks)
    assert locks.is_granted(ticket)
    assert locks.release(ticket) == []
    assert locks.count == 0


def test_the_first_of_some_keys_says_who_and_since_when() -> None:
    locks = OperationLocks()
    assert locks.first_of(keys("k1")) is None
    ticket = locks.request(keys("k1"), AUTHOR, 12.5)
    ask(locks, "k1")
    first = locks.first_of(keys("k1", "k2"))
    assert first is not None
    assert (first.ticket, first.author, first.since_s) == (ticket, AUTHOR, 12.5)


# -- keys ------------------------------------------------------------------------------------------

NEED_EACH_OTHER: dict[str, tuple[Change, Change]] = {
    "two edits": (put_file("a", 1), put_file("a", 1)),
    "edit and delete": (put_file("a", 1), delete("a", 1)),
    "edit and move": (put_file("a", 1), move("a", 1, "d", b"x")),
    "two new ones of one name": (put_file("a", name=b"x"), put_directory("b", name=b"x")),
    "new one and move to one name": (put_link("a", name=b"x"), move("b", 1, "/", b"x")),
    "two moves to one name": (move("a", 1, "/", b"x"), move("b", 1, "/", b"x")),
}
LEAVE_EACH_OTHER_ALONE: dict[str, tuple[Change, Change]] = {
    "two files of one directory": (put_file("a", 0, "d"), put_file("b", 0, "d")),
    "one name in two directories": (
        put_file("a", 0, "d", b"x"),
        put_file("b", 0, "e", b"x"),
    ),
    "two deletes": (delete("a", 1), delete("b", 1)),
}


@pytest.mark.parametrize(("one", "two"), NEED_EACH_OTHER.values(), ids=NEED_EACH_OTHER.keys())
def test_changes_that_meet_share_a_key(one: Change, two: Change) -> None:
    assert keys_of([one]) & keys_of([two])


@pytest.mark.parametrize(
    ("one", "two"), LEAVE_EACH_OTHER_ALONE.values(), ids=LEAVE_EACH_OTHER_ALONE.keys()
)
def test_changes_that_do_not_meet_share_none(one: Change, two: Change) -> None:
    assert not keys_of([one]) & keys_of([two])


def test_the_keys_of_a_store_are_those_of_its_changes() -> None:
    changes = [put_file("a"), move("b", 1, "d", b"x"), delete("c", 1)]
    assert keys_of(changes) == frozenset().union(*(keys_of([change]) for change in changes))
    assert keys_of([]) == frozenset()
    assert keys_of([delete("c", 1)]) == {b"e" + id_of("c")}
