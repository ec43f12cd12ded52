"""K7: however directories are moved, the path of a directory stays within its bound."""

from __future__ import annotations

from syncline.core.changes import Change
from syncline.core.commits import decide
from syncline.core.entries import Kind
from syncline.core.identity import Revision
from syncline.core.names import PATH_BYTES_MAX, TOLD_PATH_BYTES_MAX
from syncline.core.table import path_of
from tests.support.tables import DictTable
from tests.support.trees import move, put_directory, put_file

LONG = b"d" * 250


def chain(label: str, length: int) -> list[Change]:
    """Return the changes that make directories inside each other."""
    changes: list[Change] = [put_directory(f"{label}0", name=label.encode())]
    changes += [
        put_directory(f"{label}{depth}", parent=f"{label}{depth - 1}", name=LONG)
        for depth in range(1, length)
    ]
    return changes


def applied(table: DictTable, *changes: Change, revision: int) -> list[str]:
    decision = decide(table, changes, Revision(revision))
    table.apply(decision)
    return [getattr(outcome, "detail", "ok") for outcome in decision.outcomes]


def longest(table: DictTable, kind: Kind) -> int:
    paths = [path_of(table, entry) for entry in table.live() if entry.kind is kind]
    return max(len(bytes(path)) for path in paths)


def test_a_move_that_would_stretch_a_path_below_is_refused() -> None:
    table = DictTable()
    applied(table, *chain("a", 10), *chain("b", 10), revision=1)
    told = applied(table, move("b0", 1, "a9", b"b"), revision=2)
    assert told == [f"a path below it would be over {PATH_BYTES_MAX} bytes"]
    assert longest(table, Kind.DIRECTORY) <= PATH_BYTES_MAX


def test_what_the_same_store_puts_below_counts() -> None:
    table = DictTable()
    applied(table, *chain("a", 10), put_directory("b0", name=b"b"), revision=1)
    deeper: list[Change] = [put_directory("b1", parent="b0", name=LONG)]
    deeper += [
        put_directory(f"b{depth}", parent=f"b{depth - 1}", name=LONG) for depth in range(2, 10)
    ]
    told = applied(table, *deeper, move("b0", 1, "a9", b"b"), revision=2)
    assert told[-1] == f"a path below it would be over {PATH_BYTES_MAX} bytes"
    assert set(told[:-1]) == {"ok"}


def test_what_the_same_store_takes_away_does_not_count() -> None:
    table = DictTable()
    applied(table, *chain("a", 10), *chain("b", 10), revision=1)
    told = applied(table, move("b1", 1, "/", b"aside"), move("b0", 1, "a9", b"b"), revision=2)
    assert told == ["ok", "ok"]


def test_a_shorter_path_is_never_refused() -> None:
    table = DictTable()
    applied(table, *chain("a", 16), revision=1)
    assert applied(table, move("a8", 1, "/", b"short"), revision=2) == ["ok"]


def test_a_file_is_at_most_a_name_past_the_bound() -> None:
    table = DictTable()
    applied(table, *chain("a", 16), *chain("b", 1), revision=1)
    applied(table, put_file("f", parent="b0", name=b"f" * 255, content=b""), revision=2)
    told = applied(table, move("b0", 1, "a15", b"n" * 250), revision=3)
    assert told == ["ok"]
    assert longest(table, Kind.FILE) > PATH_BYTES_MAX
    assert longest(table, Kind.FILE) <= TOLD_PATH_BYTES_MAX
