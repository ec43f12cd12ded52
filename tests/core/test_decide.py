"""Deciding a commit: named cases. Each starts from one small table and says what becomes of it.

d/            directory, revision 1        gone    tombstone of the file `gone`, revision 8
d/e/          directory, revision 2        old     tombstone of the directory `old`, revision 9
d/f           file, revision 3
a, b          files, revisions 4 and 5
empty/        directory, revision 6
l             link, revision 7
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncline.core.changes import Accepted, Change, Refusal, RefusalCode
from syncline.core.commits import Decision, decide
from syncline.core.entries import Entry, Kind, tombstone
from syncline.core.identity import ROOT_ID, Revision
from syncline.core.names import PATH_BYTES_MAX
from syncline.core.table import path_of
from tests.support.tables import DictTable
from tests.support.trees import (
    delete,
    directory,
    file,
    id_of,
    link,
    move,
    put_directory,
    put_file,
    put_link,
)

NEXT = Revision(10)
OK = None
START = {
    b"d": "d",
    b"d/e": "e",
    b"d/f": "f",
    b"a": "a",
    b"b": "b",
    b"empty": "empty",
    b"l": "l",
}


def start() -> DictTable:
    return DictTable(
        [
            directory("d", revision=1),
            directory("e", "d", revision=2),
            file("f", "d", revision=3),
            file("a", revision=4, content=b"a"),
            file("b", revision=5, content=b"b"),
            directory("empty", revision=6),
            link("l", revision=7),
            tombstone(file("gone"), Revision(8)),
            tombstone(directory("old"), Revision(9)),
        ]
    )


@dataclass(frozen=True, slots=True)
class Case:
    """`outcomes`: OK or the refusal of each change. `tree`: paths that differ; None: not there.

    `changed`: the labels of the entries with a new state.
    """

    changes: list[Change]
    outcomes: list[RefusalCode | None]
    tree: dict[bytes, str | None] = field(default_factory=dict)
    changed: str = ""
    is_atomic: bool = False


STALE = RefusalCode.STALE
TAKEN = RefusalCode.NAME_TAKEN
PARENT_GONE = RefusalCode.PARENT_GONE
NOT_EMPTY = RefusalCode.NOT_EMPTY
CYCLE = RefusalCode.CYCLE
INVALID = RefusalCode.INVALID
ATOMIC = RefusalCode.ATOMIC

CASES = {
    # -- making --
    "make a file": Case([put_file("n")], [OK], {b"n": "n"}, "n"),
    "make a directory and a file in it": Case(
        [put_directory("n"), put_file("m", 0, "n")], [OK, OK], {b"n": "n", b"n/m": "m"}, "n m"
    ),
    "make a link": Case([put_link("n")], [OK], {b"n": "n"}, "n"),
    "make where a name is taken": Case([put_file("n", name=b"a")], [TAKEN]),
    "make a directory where one is": Case([put_directory("n", name=b"d")], [TAKEN]),
    "make two of one name": Case(
        [put_file("n", name=b"x"), put_file("m", name=b"x")], [OK, TAKEN], {b"x": "n"}, "n"
    ),
    "make in a directory that never was": Case([put_file("n", 0, "nowhere")], [PARENT_GONE]),
    "make in a deleted directory": Case([put_file("n", 0, "old")], [PARENT_GONE]),
    "make below a file": Case([put_file("n", 0, "a")], [PARENT_GONE]),
    "make below a link": Case([put_file("n", 0, "l")], [PARENT_GONE]),
    "make inside of itself": Case([put_directory("n", 0, "n")], [CYCLE]),
    "make with a base although it never was": Case([put_file("n", 3)], [STALE]),
    "make the reserved name at the root": Case([put_directory("n", name=b".syncline")], [INVALID]),
    "make the reserved name below": Case(
        [put_file("n", 0, "d", b".syncline")], [OK], {b"d/.syncline": "n"}, "n"
    ),
    "refused mkdir refuses what is in it": Case(
        [put_directory("n", name=b"d"), put_directory("m", 0, "n"), put_file("o", 0, "m")],
        [TAKEN, PARENT_GONE, PARENT_GONE],
    ),
    "make the same twice": Case([put_file("n"), put_file("n")], [OK, OK], {b"n": "n"}, "n"),
    "make and edit at once": Case(
        [put_file("n"), put_file("n", content=b"more")], [OK, OK], {b"n": "n"}, "n"
    ),
    # -- editing --
    "edit": Case([put_file("a", 4, content=b"new")], [OK], {}, "a"),
    "edit on an old base": Case([put_file("a", 3, content=b"new")], [STALE]),
    "edit on a base to come": Case([put_file("a", 10, content=b"new")], [STALE]),
    "edit as if it were new": Case([put_file("a", 0, content=b"new")], [STALE]),
    "edit that changes nothing": Case([put_file("a", 4, content=b"a")], [OK]),
    "directory put that changes nothing": Case([put_directory("e", 2, "d")], [OK]),
    "link put that changes nothing": Case([put_link("l", 7)], [OK]),
    "link with another target": Case([put_link("l", 7, target=b"x")], [OK], {}, "l"),
    "link with another time": Case([put_link("l", 7, mtime_ns=2)], [OK], {}, "l"),
    "chmod": Case([put_file("a", 4, content=b"a", mode=0o755)], [OK], {}, "a"),
    "chmod of a directory with children": Case([put_directory("d", 1, mode=0o700)], [OK], {}, "d"),
    "there and back changes nothing": Case(
        [put_file("a", 4, content=b"x"), put_file("a", 4, content=b"a")], [OK, OK]
    ),
    "a put does not move": Case([put_file("a", 4, name=b"c", content=b"a")], [INVALID]),
    "a put does not move to another directory": Case([put_file("a", 4, "d")], [INVALID]),
    "an entry keeps its kind": Case([put_directory("a", 4)], [INVALID]),
    "a tombstone keeps its kind": Case([put_directory("gone", 8)], [INVALID]),
    "second edit speaks of the same base": Case(
        [put_file("a", 4, content=b"x"), put_file("a", 4, content=b"y")], [OK, OK], {}, "a"
    ),
    "second edit cannot speak of this commit": Case(
        [put_file("a", 4, content=b"x"), put_file("a", 10, content=b"y")], [OK, STALE], {}, "a"
    ),
    # -- moving --
    "rename": Case([move("a", 4, "/", b"c")], [OK], {b"a": None, b"c": "a"}, "a"),
    "move a directory: one state, whatever is below": Case(
        [move("d", 1, "empty", b"d")],
        [OK],
        {
            b"d": None,
            b"d/e": None,
            b"d/f": None,
            b"empty/d": "d",
            b"empty/d/e": "e",
            b"empty/d/f": "f",
        },
        "d",
    ),
    "swap by three moves": Case(
        [move("a", 4, "/", b"tmp"), move("b", 5, "/", b"a"), move("a", 4, "/", b"b")],
        [OK, OK, OK],
        {b"a": "b", b"b": "a"},
        "a b",
    ),
    "swap by two moves": Case([move("a", 4, "/", b"b"), move("b", 5, "/", b"a")], [TAKEN, TAKEN]),
    "rename chain, last first": Case(
        [move("b", 5, "/", b"c"), move("a", 4, "/", b"b"), put_file("n", name=b"a")],
        [OK, OK, OK],
        {b"c": "b", b"b": "a", b"a": "n"},
        "a b n",
    ),
    "rename chain in the wrong order": Case(
        [move("a", 4, "/", b"b"), move("b", 5, "/", b"c")],
        [TAKEN, OK],
        {b"b": None, b"c": "b"},
        "b",
    ),
    "move onto a taken name": Case([move("a", 4, "/", b"b")], [TAKEN]),
    "move into itself": Case([move("d", 1, "d", b"x")], [CYCLE]),
    "move into a descendant": Case([move("d", 1, "e", b"x")], [CYCLE]),
    "move into a descendant of this commit": Case(
        [put_directory("n", 0, "e"), move("d", 1, "n", b"x")], [OK, CYCLE], {b"d/e/n": "n"}, "n"
    ),
    "move into each other": Case(
        [move("d", 1, "empty", b"d"), move("empty", 6, "e", b"x")],
        [OK, CYCLE],
        {
            b"d": None,
            b"d/e": None,
            b"d/f": None,
            b"empty/d": "d",
            b"empty/d/e": "e",
            b"empty/d/f": "f",
        },
        "d",
    ),
    "turn a directory inside out": Case(
        [move("e", 2, "/", b"e"), move("d", 1, "e", b"d")],
        [OK, OK],
        {b"d": None, b"d/e": None, b"d/f": None, b"e": "e", b"e/d": "d", b"e/d/f": "f"},
        "e d",
    ),
    "move below a file": Case([move("a", 4, "b", b"x")], [PARENT_GONE]),
    "move into a deleted directory": Case([move("a", 4, "old", b"x")], [PARENT_GONE]),
    "move to where it is": Case([move("a", 4, "/", b"a")], [OK]),
    "move away and back": Case([move("a", 4, "d", b"x"), move("a", 4, "/", b"a")], [OK, OK]),
    "move on an old base": Case([move("a", 3, "/", b"c")], [STALE]),
    "move of what never was": Case([move("n", 0, "/", b"c")], [STALE]),
    "move of what is deleted": Case([move("gone", 8, "/", b"c")], [STALE]),
    "move to the reserved name": Case([move("a", 4, "/", b".syncline")], [INVALID]),
    "move and edit, both in one": Case(
        [move("a", 4, "d", b"x"), put_file("a", 4, "d", b"x", content=b"new")],
        [OK, OK],
        {b"a": None, b"d/x": "a"},
        "a",
    ),
    "edit and move, both in one": Case(
        [put_file("a", 4, content=b"new"), move("a", 4, "d", b"x")],
        [OK, OK],
        {b"a": None, b"d/x": "a"},
        "a",
    ),
    "rename by case alone": Case([move("a", 4, "/", b"A")], [OK], {b"a": None, b"A": "a"}, "a"),
    # -- deleting --
    "delete": Case([delete("a", 4)], [OK], {b"a": None}, "a"),
    "delete on an old base": Case([delete("a", 3)], [STALE]),
    "delete of what is deleted": Case([delete("gone", 8)], [OK]),
    "delete of what is deleted, on an older base": Case([delete("gone", 2)], [OK]),
    "delete twice in one": Case([delete("a", 4), delete("a", 4)], [OK, OK], {b"a": None}, "a"),
    "delete of what never was": Case([delete("n", 0)], [STALE]),
    "delete of what never was, with a base": Case([delete("n", 5)], [STALE]),
    "delete never recurses": Case([delete("d", 1)], [NOT_EMPTY]),
    "delete children first": Case(
        [delete("f", 3), delete("e", 2), delete("d", 1)],
        [OK, OK, OK],
        {b"d": None, b"d/e": None, b"d/f": None},
        "d e f",
    ),
    "delete children last": Case(
        [delete("d", 1), delete("e", 2), delete("f", 3)],
        [NOT_EMPTY, OK, OK],
        {b"d/e": None, b"d/f": None},
        "e f",
    ),
    "delete with a stale child": Case(
        [delete("f", 2), delete("e", 2), delete("d", 1)],
        [STALE, OK, NOT_EMPTY],
        {b"d/e": None},
        "e",
    ),
    "delete after the last child moved out": Case(
        [delete("e", 2), move("f", 3, "/", b"f"), delete("d", 1)],
        [OK, OK, OK],
        {b"d": None, b"d/e": None, b"d/f": None, b"f": "f"},
        "d e f",
    ),
    "delete after a child moved in": Case(
        [move("a", 4, "empty", b"a"), delete("empty", 6)],
        [OK, NOT_EMPTY],
        {b"a": None, b"empty/a": "a"},
        "a",
    ),
    "delete after a child was made in it": Case(
        [put_file("n", 0, "empty"), delete("empty", 6)], [OK, NOT_EMPTY], {b"empty/n": "n"}, "n"
    ),
    "make in what this commit deletes": Case(
        [delete("empty", 6), put_file("n", 0, "empty")],
        [OK, PARENT_GONE],
        {b"empty": None},
        "empty",
    ),
    "created and deleted in one": Case([put_file("n"), delete("n", 0)], [OK, OK]),
    "edited and deleted in one": Case(
        [put_file("a", 4, content=b"x"), delete("a", 4)], [OK, OK], {b"a": None}, "a"
    ),
    "moved and deleted in one": Case(
        [move("a", 4, "d", b"x"), delete("a", 4)], [OK, OK], {b"a": None}, "a"
    ),
    "moved into a directory that is made and deleted here": Case(
        [put_directory("n"), move("a", 4, "n", b"x"), delete("a", 4), delete("n", 0)],
        [OK, OK, OK, OK],
        {b"a": None},
        "a",
    ),
    # -- coming back --
    "resurrect a tombstone": Case([put_file("gone", 8)], [OK], {b"gone": "gone"}, "gone"),
    "resurrect elsewhere": Case([put_file("gone", 8, "d", b"x")], [OK], {b"d/x": "gone"}, "gone"),
    "resurrect as if it were new": Case([put_file("gone", 0)], [STALE]),
    "resurrect where a name is taken": Case([put_file("gone", 8, name=b"a")], [TAKEN]),
    "resurrect a directory and make in it": Case(
        [put_directory("old", 9), put_file("n", 0, "old")],
        [OK, OK],
        {b"old": "old", b"old/n": "n"},
        "old n",
    ),
    "resurrect and delete in one": Case([put_file("gone", 8), delete("gone", 8)], [OK, OK]),
    "resurrect, move and delete in one": Case(
        [
            put_directory("n"),
            put_file("gone", 8, "n", b"x"),
            delete("gone", 8),
            delete("n", 0),
        ],
        [OK, OK, OK, OK],
    ),
    "delete and put back as it was": Case(
        [delete("a", 4), put_file("a", 4, content=b"a")], [OK, OK]
    ),
    "delete and make another there": Case(
        [delete("a", 4), put_file("n", name=b"a")], [OK, OK], {b"a": "n"}, "a n"
    ),
    "file becomes a directory": Case(
        [delete("a", 4), put_directory("n", name=b"a"), put_file("m", 0, "n")],
        [OK, OK, OK],
        {b"a": "n", b"a/m": "m"},
        "a n m",
    ),
    "directory becomes a file": Case(
        [delete("empty", 6), put_file("n", name=b"empty")], [OK, OK], {b"empty": "n"}, "empty n"
    ),
    # -- the root, and all or nothing --
    "the root is not changed": Case(
        [
            put_directory("/", 0, "/", b"x"),
            move("/", 0, "d", b"x"),
            delete("/", 0),
        ],
        [INVALID, INVALID, INVALID],
    ),
    "nothing": Case([], []),
    "atomic and all good": Case(
        [put_file("n"), delete("a", 4)], [OK, OK], {b"n": "n", b"a": None}, "n a", is_atomic=True
    ),
    "atomic with one refusal": Case(
        [put_file("n"), delete("a", 3), put_file("b", 5, content=b"x")],
        [ATOMIC, STALE, ATOMIC],
        is_atomic=True,
    ),
    "not atomic with one refusal": Case(
        [put_file("n"), delete("a", 3), put_file("b", 5, content=b"x")],
        [OK, STALE, OK],
        {b"n": "n"},
        "n b",
    ),
    "a refusal in the middle of a swap": Case(
        [move("a", 4, "/", b"tmp"), move("b", 4, "/", b"a"), move("a", 4, "/", b"b")],
        [OK, STALE, TAKEN],
        {b"a": None, b"tmp": "a"},
        "a",
    ),
}


def codes(decision: Decision) -> list[RefusalCode | None]:
    return [outcome.code if isinstance(outcome, Refusal) else OK for outcome in decision.outcomes]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_decide(case: Case) -> None:
    table = start()
    decision = decide(table, case.changes, NEXT, is_atomic=case.is_atomic)
    assert codes(decision) == case.outcomes
    assert {entry.id for entry in decision.entries} == set(map(id_of, case.changed.split()))
    assert decision.is_empty == (not case.changed)
    assert all(entry.revision == NEXT for entry in decision.entries)
    table.apply(decision)
    expected = {path: label for path, label in (START | case.tree).items() if label}
    assert table.tree() == {path: id_of(label) for path, label in expected.items()}
    for state in table.states.values():
        path_of(table, state)


def test_the_cases_meet_every_refusal_that_decide_can_give() -> None:
    met = {code for case in CASES.values() for code in case.outcomes if code}
    of_others = {RefusalCode.LOCKED, RefusalCode.LOCK_LOST, RefusalCode.MISSING}
    assert met == set(RefusalCode) - of_others


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_k6_outcomes_name_only_states_that_are_there(case: Case) -> None:
    table = start()
    before = dict(table.states)
    decision = decide(table, case.changes, NEXT, is_atomic=case.is_atomic)
    table.apply(decision)
    for change, outcome in zip(case.changes, decision.outcomes, strict=True):
        match outcome:
            case Accepted():
                now, then = table.states.get(change.id), before.get(change.id)
                assert outcome.revision == (now.revision if now else 0)
                assert outcome.replaced == (then.revision if then else 0)
            case Refusal():
                current = outcome.current
                assert current is None or table.states[current.id] == current


# -- what stands in the way ------------------------------------------------------------------------


def refusal(*changes: Change) -> Refusal:
    """Decide on the usual table; return the last outcome."""
    outcome = decide(start(), changes, NEXT).outcomes[-1]
    assert isinstance(outcome, Refusal)
    return outcome


def test_a_refusal_shows_what_it_ran_into() -> None:
    states = start().states
    assert refusal(put_file("a", 3)).current == states[id_of("a")]
    assert refusal(put_file("gone", 0)).current == states[id_of("gone")]
    assert refusal(put_file("n", 7)).current is None
    assert refusal(put_file("n", name=b"b")).current == states[id_of("b")]
    assert refusal(put_file("n", 0, "old")).current == states[id_of("old")]
    assert refusal(put_file("n", 0, "a")).current == states[id_of("a")]
    assert refusal(put_file("n", 0, "nowhere")).current is None
    assert refusal(delete("d", 1)).current == states[id_of("e")]
    assert refusal(move("d", 1, "e", b"x")).current == states[id_of("d")]


def test_an_atomic_refusal_does_not_show_what_never_came_to_be() -> None:
    changes = [put_file("n", name=b"x"), put_file("m", name=b"x")]
    mine, other = decide(start(), changes, NEXT, is_atomic=True).outcomes
    assert mine == Refusal(RefusalCode.ATOMIC)
    assert other == Refusal(RefusalCode.NAME_TAKEN, current=None)


def test_what_was_undone_in_one_commit_has_the_revision_it_always_had() -> None:
    there_and_back = [put_file("a", 4, content=b"x"), put_file("a", 4, content=b"a")]
    decision = decide(start(), there_and_back, NEXT)
    assert decision.outcomes == (Accepted(Revision(4), Revision(4)),) * 2
    never = decide(start(), [put_file("n"), delete("n", 0)], NEXT)
    assert never.outcomes == (Accepted(Revision(0), Revision(0)),) * 2


def test_a_tombstone_is_at_the_last_place_that_others_saw() -> None:
    table = start()
    changes = [put_directory("n"), move("a", 4, "n", b"x"), delete("a", 4), delete("n", 0)]
    table.apply(decide(table, changes, NEXT))
    assert table.states[id_of("a")] == tombstone(start().states[id_of("a")], NEXT)


def test_a_put_makes_exactly_the_state_it_asks_for() -> None:
    changes = [
        put_file("n", content=b"x", mode=0o600, mtime_ns=-5),
        put_directory("m", mode=0o711),
        put_link("o", target=b"../x", mtime_ns=9),
    ]
    assert decide(start(), changes, NEXT).entries == (
        file("n", revision=10, content=b"x", mode=0o600, mtime_ns=-5),
        directory("m", revision=10, mode=0o711),
        link("o", revision=10, target=b"../x", mtime_ns=9),
    )


# -- long paths ------------------------------------------------------------------------------------


def deep_table(depth: int) -> tuple[DictTable, str]:
    """Return a table with a chain of directories of 255-byte names, and the label of the last."""
    states: list[Entry] = []
    parent = "/"
    for level in range(depth):
        label = f"level {level}"
        states.append(directory(label, parent, b"n" * 255))
        parent = label
    return DictTable(states), parent


def test_a_path_of_4096_bytes_is_the_longest() -> None:
    table, parent = deep_table(15)
    fits = put_file("n", 0, parent, b"x" * 255)
    assert codes(decide(table, [fits], NEXT)) == [OK]
    deeper, parent = deep_table(16)
    assert codes(decide(deeper, [put_file("n", 0, parent, b"x")], NEXT)) == [INVALID]
    moved = [put_file("n"), move("n", 0, parent, b"x")]
    assert codes(decide(deeper, moved, NEXT)) == [OK, INVALID]


def test_the_last_byte_of_a_path_counts() -> None:
    table, parent = deep_table(15)
    last = directory("last", parent, b"y" * 253)
    table.states[last.id] = last
    assert PATH_BYTES_MAX == 15 * 256 + 253 + 1 + 2
    assert codes(decide(table, [put_file("n", 0, "last", b"xx")], NEXT)) == [OK]
    assert codes(decide(table, [put_file("n", 0, "last", b"xxx")], NEXT)) == [INVALID]


def test_k7_a_move_counts_the_directories_below() -> None:
    table, _ = deep_table(15)
    for label, name in (("wide", b"t" * 255), ("short", b"t"), ("long", b"tt")):
        table.states[id_of(label)] = directory(label, "/", name)
    table.states[id_of("below")] = directory("below", "level 14", b"b" * 254)
    assert codes(decide(table, [move("level 0", 1, "short", b"n" * 255)], NEXT)) == [OK]
    assert codes(decide(table, [move("level 0", 1, "long", b"n" * 255)], NEXT)) == [INVALID]
    assert codes(decide(table, [move("level 0", 1, "wide", b"n" * 255)], NEXT)) == [INVALID]
    emptied = [delete("below", 1), move("level 0", 1, "wide", b"n" * 255)]
    assert codes(decide(table, emptied, NEXT)) == [OK, OK]
    filled = [put_directory("more", 0, "below", b"x"), move("level 0", 1, "short", b"n" * 255)]
    assert codes(decide(table, filled, NEXT))[1] == INVALID


def test_a_damaged_table_with_a_cycle_is_decided_all_the_same() -> None:
    table = DictTable([directory("x", "y"), directory("y", "x")])
    assert codes(decide(table, [put_file("n", 0, "x")], NEXT)) == [INVALID]


# -- many children, any hash seed ------------------------------------------------------------------


def test_a_full_directory_goes_in_one_commit() -> None:
    labels = [f"child {n}" for n in range(500)]
    table = DictTable([directory("d"), *(file(label, "d") for label in labels)])
    changes = [*(delete(label, 1) for label in labels), delete("d", 1)]
    decision = decide(table, changes, NEXT)
    assert codes(decision) == [OK] * 501
    table.apply(decision)
    assert table.tree() == {}


SCENARIO = """
from syncline.core.commits import decide
from tests.core.test_decide import NEXT, start
from tests.support.trees import delete, move, put_file
made = [put_file(f"n{n}", 0, "empty") for n in range(20)]
changes = [*made, delete("empty", 6), move("a", 4, "empty", b"n3"), delete("d", 1)]
print(decide(start(), changes, NEXT))
"""


def test_no_hash_order_reaches_a_decision() -> None:
    root = str(Path(__file__).parents[2])
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCENARIO],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(printed) == 1
    assert "NOT_EMPTY" in printed.pop()


def test_the_start_is_what_the_top_of_this_page_says() -> None:
    table = start()
    assert table.tree() == {path: id_of(label) for path, label in START.items()}
    assert {state.kind for state in table.live()} == set(Kind)
    assert ROOT_ID not in table.states
