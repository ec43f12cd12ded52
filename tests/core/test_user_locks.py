"""The rules of user locks: named cases, one for each invariant that the module states."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from syncline.core.changes import Change, HeldToken, Token
from syncline.core.commits import decide
from syncline.core.entries import Entry
from syncline.core.identity import EntryId, Revision
from syncline.core.lock_rules import keeping_out, lost_tokens
from syncline.core.user_locks import (
    Blocked,
    Book,
    Full,
    Gone,
    LockEffect,
    LockLimits,
    LockRequest,
    Turn,
    UserLock,
    after_commit,
    ask,
    end,
    holder_of,
    settle,
    withdraw,
)
from tests.support.locks import author, owner, request
from tests.support.tables import DictTable
from tests.support.trees import delete, directory, file, id_of, move, put_directory, put_file

LIMITS = LockLimits(100, 10)
ANN, BEN, CAT = owner("ann"), owner("ben"), owner("cat")
NOW = 1_000


@pytest.fixture
def table() -> DictTable:
    """Return `d/` with `d/f` and `d/e/` with `d/e/g`, and beside it `x` and `z/`."""
    return DictTable(
        [
            directory("d"),
            file("f", "d"),
            directory("e", "d"),
            file("g", "e"),
            file("x"),
            directory("z"),
        ]
    )


def asked(book: Book, table: DictTable, wanted: LockRequest, *, waits: bool = False) -> Turn:
    return ask(book, table, wanted, LIMITS, NOW, waits=waits)


def granted(turn: Turn, ticket: int) -> tuple[UserLock, ...]:
    verdict = turn.settled[request(ticket, ANN, "x").ticket]
    assert isinstance(verdict, tuple), verdict
    return verdict


def denial(turn: Turn, ticket: int) -> object:
    verdict = turn.settled[request(ticket, ANN, "x").ticket]
    assert not isinstance(verdict, tuple), verdict
    return verdict


def held(table: DictTable, who: object = ANN, *labels: str) -> Book:
    assert isinstance(who, type(ANN))
    turn = asked(Book(), table, request(1, who, *labels))
    granted(turn, 1)
    return turn.book


# -- granting ----------------------------------------------------------------


def test_a_free_entry_is_granted_and_told(table: DictTable) -> None:
    turn = asked(Book(), table, request(1, ANN, "f"))
    [lock] = granted(turn, 1)
    assert (lock.entry, lock.token, lock.owner, lock.reason) == (id_of("f"), 1, ANN, "a reason")
    assert [(each.effect, each.lock) for each in turn.changes] == [(LockEffect.GRANTED, lock)]


@pytest.mark.parametrize(
    ("first", "second"),
    [("f", "f"), ("d", "f"), ("f", "d"), ("d", "g"), ("g", "d"), ("/", "g"), ("g", "/")],
)
def test_what_overlaps_is_refused_with_the_holder(
    table: DictTable, first: str, second: str
) -> None:
    book = held(table, ANN, first)
    turn = asked(book, table, request(2, BEN, second))
    assert denial(turn, 2) == Blocked(id_of(second), book.locks[id_of(first)])
    assert turn.book == book and not turn.changes


@pytest.mark.parametrize(("first", "second"), [("f", "e"), ("x", "d"), ("e", "f"), ("z", "d")])
def test_what_lies_beside_does_not_overlap(table: DictTable, first: str, second: str) -> None:
    turn = asked(held(table, ANN, first), table, request(2, BEN, second))
    assert [lock.entry for lock in granted(turn, 2)] == [id_of(second)]


def test_several_are_granted_together_or_not_at_all(table: DictTable) -> None:
    book = held(table, ANN, "g")
    turn = asked(book, table, request(2, BEN, "x", "e"))
    assert denial(turn, 2) == Blocked(id_of("e"), book.locks[id_of("g")])
    assert set(turn.book.locks) == {id_of("g")}


def test_a_session_has_what_it_holds_with_the_token_it_has(table: DictTable) -> None:
    book = held(table, ANN, "d", "f")  # U5: even one below the other
    turn = asked(book, table, request(2, ANN, "f", "x"))
    again, fresh = granted(turn, 2)
    assert again.token == book.locks[id_of("f")].token and fresh.token == 3
    assert [each.lock for each in turn.changes] == [fresh]


def test_two_sessions_of_one_owner_keep_each_other_out(table: DictTable) -> None:
    turn = asked(held(table, ANN, "f"), table, request(2, owner("ann", session=1), "f"))
    assert isinstance(denial(turn, 2), Blocked)
    stolen = owner("ben", session=0)
    assert isinstance(denial(asked(turn.book, table, request(3, stolen, "f")), 3), Blocked)


def test_tokens_grow_whatever_ended(table: DictTable) -> None:
    book, tokens = Book(), []
    for number in range(1, 6):
        turn = asked(book, table, request(number, ANN, "x"))
        [lock] = granted(turn, number)
        tokens.append(lock.token)
        book = end(turn.book, table, [lock], LockEffect.UNLOCKED, NOW).book
    assert tokens == [1, 2, 3, 4, 5]  # U2


def test_tokens_are_times_where_the_clock_goes_on_and_grow_where_it_does_not(
    table: DictTable,
) -> None:
    book, tokens = Book(), []
    for number, now_ns in enumerate((5_000, 9_999, 1_000, -3_000, 7_000_000)):
        wanted = request(number + 1, ANN, "x", "z")
        turn = ask(book, table, wanted, LIMITS, now_ns, waits=False)
        locks = granted(turn, number + 1)
        tokens.append([lock.token for lock in locks])
        book = end(turn.book, table, locks, LockEffect.UNLOCKED, NOW).book
    assert tokens == [[5, 6], [9, 10], [11, 12], [13, 14], [7000, 7001]]


def test_who_wait_for_directories_cost_no_look_at_each_lock() -> None:
    # Twice as many are about twice as much work, and not four times.
    assert work_of_a_turn(400) < 3 * work_of_a_turn(200)


def work_of_a_turn(count: int) -> int:
    """Return how many calls it takes when `count` wait for what others have locked something in."""
    labels = [f"d{number}" for number in range(count)]
    table = DictTable(
        [directory(label, "/", label.encode()) for label in labels]
        + [file(f"{label}/f", label, b"f") for label in labels]
    )
    queue = tuple(request(number, ANN, f"{label}/f") for number, label in enumerate(labels, 1))
    book = settle(Book(queue=queue), table, NOW).book
    assert len(book.locks) == count and not book.queue
    queue = tuple(request(number, BEN, label) for number, label in enumerate(labels, 1))
    calls = 0

    def note(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(note)
    try:
        turn = settle(replace(book, queue=queue), table, NOW)
        done = end(turn.book, table, list(book.locks.values()), LockEffect.UNLOCKED, NOW)
    finally:
        sys.setprofile(None)
    assert turn.book.queue == queue and not turn.settled
    assert len(done.settled) == count and not done.book.queue
    return calls


def test_what_is_not_there_cannot_be_locked(table: DictTable) -> None:
    assert denial(asked(Book(), table, request(1, ANN, "nothing")), 1) == Gone(id_of("nothing"))


def test_limits_count_what_is_held_and_what_is_waited_for(table: DictTable) -> None:
    few = LockLimits(3, 2)
    book = ask(Book(), table, request(1, ANN, "x"), few, NOW, waits=False).book
    book = ask(book, table, request(2, BEN, "x"), few, NOW, waits=True).book
    assert len(book.queue) == 1
    turn = ask(book, table, request(3, BEN, "f", "e"), few, NOW, waits=True)
    assert denial(turn, 3) == Full(2, is_own=True)
    turn = ask(book, table, request(4, CAT, "f", "e"), few, NOW, waits=True)
    assert denial(turn, 4) == Full(3, is_own=False)
    again = ask(book, table, request(5, ANN, "x"), few, NOW, waits=False)
    assert granted(again, 5), "what is held already costs nothing"


# -- waiting -----------------------------------------------------------------


def test_who_waits_gets_it_when_it_is_free(table: DictTable) -> None:
    book = held(table, ANN, "d")
    turn = asked(book, table, request(2, BEN, "g"), waits=True)
    assert not turn.settled and len(turn.book.queue) == 1
    turn = end(turn.book, table, book.locks.values(), LockEffect.EXPIRED, NOW)
    assert [lock.entry for lock in granted(turn, 2)] == [id_of("g")]
    assert [each.effect for each in turn.changes] == [LockEffect.EXPIRED, LockEffect.GRANTED]


def test_a_later_one_does_not_pass_an_earlier_one_it_overlaps_with(table: DictTable) -> None:
    book = held(table, ANN, "f")
    book = asked(book, table, request(2, BEN, "d"), waits=True).book
    turn = asked(book, table, request(3, CAT, "g"))  # free, but BEN wants all of `d`
    assert denial(turn, 3) == Blocked(id_of("g"), None)  # U3
    turn = asked(book, table, request(4, CAT, "x"))
    assert granted(turn, 4), "what does not overlap does not wait"
    turn = asked(turn.book, table, request(5, CAT, "g"), waits=True)
    turn = end(turn.book, table, [book.locks[id_of("f")]], LockEffect.UNLOCKED, NOW)
    assert granted(turn, 2) and len(turn.book.queue) == 1


def test_who_stops_waiting_lets_the_next_one_in(table: DictTable) -> None:
    book = held(table, ANN, "f")
    book = asked(book, table, request(2, BEN, "d"), waits=True).book
    book = asked(book, table, request(3, CAT, "g"), waits=True).book
    turn = withdraw(book, table, request(2, BEN, "d").ticket, NOW, is_abandoned=False)
    assert denial(turn, 2) == Blocked(id_of("d"), book.locks[id_of("f")])
    assert granted(turn, 3)


def test_an_abandoned_grant_is_given_back_unless_it_was_asked_for_again(
    table: DictTable,
) -> None:
    book = held(table, ANN, "f")
    ticket = request(1, ANN, "f").ticket
    assert withdraw(book, table, ticket, NOW, is_abandoned=False).book == book
    again = asked(book, table, request(2, ANN, "f")).book
    assert withdraw(again, table, ticket, NOW, is_abandoned=True).book == again
    turn = withdraw(book, table, ticket, NOW, is_abandoned=True)
    assert not turn.book.locks and turn.changes[0].effect is LockEffect.UNLOCKED


def test_a_lock_ends_by_its_own_token_alone(table: DictTable) -> None:
    book = held(table, ANN, "f")
    wrong = HeldToken(id_of("f"), Token(7))
    assert end(book, table, [wrong], LockEffect.EXPIRED, NOW).book == book  # U6
    assert holder_of(book, id_of("f"), Token(1), author("ann")) is not None
    assert holder_of(book, id_of("f"), Token(7), author("ann")) is None
    assert holder_of(book, id_of("f"), Token(1), author("ben")) is None


# -- commits -----------------------------------------------------------------


def committed(book: Book, table: DictTable, *changes: Change) -> Turn:
    decision = decide(table, changes, Revision(2))
    table.apply(decision)
    return after_commit(book, table, decision.entries, NOW, author("ann"))


def test_the_lock_of_a_deleted_entry_ends(table: DictTable) -> None:
    turn = committed(held(table, ANN, "f"), table, delete("f", 1))
    assert [each.effect for each in turn.changes] == [LockEffect.DELETED] and not turn.book.locks


def test_who_waits_for_a_deleted_entry_is_told(table: DictTable) -> None:
    book = asked(held(table, ANN, "x"), table, request(2, BEN, "x"), waits=True).book
    assert denial(committed(book, table, delete("x", 1)), 2) == Gone(id_of("x"))


def test_locks_go_with_what_moves(table: DictTable) -> None:
    book = held(table, ANN, "d")
    assert committed(book, table, move("d", 1, "z", b"d")).book == book
    assert isinstance(denial(asked(book, table, request(2, BEN, "g")), 2), Blocked)
    assert isinstance(denial(asked(book, table, request(3, BEN, "z")), 3), Blocked)


def test_a_move_out_of_what_is_locked_lets_in_who_waited(table: DictTable) -> None:
    book = asked(held(table, ANN, "d"), table, request(2, BEN, "e"), waits=True).book
    assert granted(committed(book, table, move("e", 1, "z", b"e")), 2)  # U4


def test_a_file_that_moves_out_of_what_is_locked_lets_in_who_waited(table: DictTable) -> None:
    book = asked(held(table, ANN, "d"), table, request(2, BEN, "f"), waits=True).book
    assert granted(committed(book, table, move("f", 1, "z", b"f")), 2)  # U4
    book = asked(held(table, ANN, "g"), table, request(2, BEN, "e"), waits=True).book
    assert granted(committed(book, table, move("g", 1, "z", b"g")), 2)


def test_commits_of_files_that_nobody_asked_for_cost_no_look_at_who_waits(
    table: DictTable,
) -> None:
    book = asked(held(table, ANN, "d"), table, request(2, BEN, "e"), waits=True).book
    changed = [replace(table.states[id_of("x")], revision=Revision(2))]
    turn = after_commit(book, Unasked(), changed, NOW, author("ann"))
    assert turn.book is book and not turn.changes and not turn.settled


class Unasked(DictTable):
    """A table that nobody may look at."""

    def entry(self, id: EntryId) -> Entry | None:
        raise AssertionError("nothing is to be looked up")


@pytest.mark.parametrize(
    "change",
    [
        put_file("f", 1, "d", content=b"other"),
        delete("f", 1),
        move("f", 1, "z", b"f"),
        move("x", 1, "d", b"x"),
        move("d", 1, "z", b"d"),
        put_file("new", 0, "d"),
        put_file("new", 0, "e"),
        put_directory("new", 0, "d"),
        put_file("g", 1, "e", content=b"other"),
    ],
    ids=lambda change: type(change).__name__,
)
def test_a_directory_lock_keeps_others_from_what_is_below(table: DictTable, change: Change) -> None:
    book = held(table, ANN, "d")
    lock = book.locks[id_of("d")]
    assert keeping_out(book.locks, table, [change], author("ben")) == {0: lock}
    assert keeping_out(book.locks, table, [change], author("ann")) == {}
    other_name = author("ann").__class__(author("ann").replica, "another name")
    assert keeping_out(book.locks, table, [change], other_name) == {0: lock}
    token = HeldToken(id_of("d"), lock.token)
    assert keeping_out(book.locks, table, [change], other_name, [token]) == {}


def test_what_is_beside_and_above_stays_free(table: DictTable) -> None:
    locks = held(table, ANN, "e").locks
    changes = [put_file("f", 1, "d", content=b"o"), move("d", 1, "z", b"d"), delete("x", 1)]
    assert keeping_out(locks, table, changes, author("ben")) == {}


def test_what_a_proposal_makes_and_moves_itself_is_seen_on_the_way(table: DictTable) -> None:
    lock = held(table, ANN, "d").locks
    through = [put_directory("new", 0, "z"), move("new", 0, "d", b"new"), put_file("in", 0, "new")]
    assert set(keeping_out(lock, table, through, author("ben"))) == {1}
    moved = [move("z", 1, "/", b"y"), put_directory("new", 0, "z"), put_file("in", 0, "new")]
    assert keeping_out(lock, table, moved, author("ben")) == {}
    around = [move("z", 1, "z", b"z"), move("z", 1, "nowhere", b"z"), put_file("in", 0, "z")]
    assert keeping_out(lock, table, around, author("ben")) == {}


def test_nobody_moves_a_locked_entry_below_another_lock(table: DictTable) -> None:
    book = asked(held(table, ANN, "g"), table, request(2, BEN, "z")).book
    lock = book.locks[id_of("g")]
    assert keeping_out(book.locks, table, [move("d", 1, "z", b"d")], author("ben")) == {0: lock}
    assert keeping_out(book.locks, table, [move("d", 1, "z", b"d")], author("ann"))
    second = asked(held(table, ANN, "g"), table, request(2, owner("ann", 1), "z")).book
    for change in (
        move("d", 1, "z", b"d"),
        move("g", 1, "z", b"g"),
    ):  # U1: nor does their common owner
        assert set(keeping_out(second.locks, table, [change], author("ann"))) == {0}


def test_a_move_that_may_yet_be_refused_opens_no_way_below_another_lock(table: DictTable) -> None:
    book = asked(held(table, ANN, "d"), table, request(2, owner("ann", 1), "x")).book
    stale = move("e", 7, "z", b"e")
    changes = [stale, move("x", 1, "e", b"x")]
    kept_out = keeping_out(book.locks, table, changes, author("ann"))
    assert kept_out == {1: book.locks[id_of("x")]}  # U1: e is yet below d
    carried: list[Change] = [
        move("e", 7, "/", b"e"),
        put_directory("n", 0, "e"),
        move("x", 1, "n", b"x"),
    ]
    assert set(keeping_out(book.locks, table, carried, author("ann"))) == {2}


def test_a_token_that_is_not_the_newest_is_lost(table: DictTable) -> None:
    book = held(table, ANN, "f")
    token = HeldToken(id_of("f"), Token(1))
    assert lost_tokens(book.locks, author("ann"), [token]) == ()
    assert lost_tokens(book.locks, author("ben"), [token]) == (token,)
    over = end(book, table, [token], LockEffect.BROKEN, NOW).book
    assert lost_tokens(over.locks, author("ann"), [token]) == (token,)
    again = asked(over, table, request(2, ANN, "f")).book
    assert lost_tokens(again.locks, author("ann"), [token]) == (token,)
