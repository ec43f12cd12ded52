"""SQLite in a mount: many transactions while it syncs, in both journal modes, from both sides."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.mounting import Mount, benching
from tests.support.processes import TIMEOUT_S, environment
from tests.support.programs import assert_no_copies, ids, needs, run
from tests.support.realtree import Fact
from tests.support.wait import wait_until

pytestmark = [pytest.mark.process, needs("sqlite3")]

slow = pytest.mark.slow

MODES = ["wal", *(pytest.param(mode, marks=slow) for mode in ("delete", "truncate", "persist"))]


def query(mount: Mount, statement: str) -> str:
    """Open the database as any user does, who makes a -wal and a -shm in passing."""
    return run("sqlite3", "base.db", statement, cwd=mount.root).decode().strip()


def glance(mount: Mount, statement: str) -> str:
    """Read the database at rest, and leave nothing: both sides must not make a -shm at once."""
    line = ("sqlite3", "file:base.db?immutable=1", statement)
    return run(*line, cwd=mount.root).decode().strip()


def transactions(first: int, last: int, *, vacuum: bool = False) -> str:
    """Return statements of so many transactions: rows that come, change and go."""
    made = [
        "begin;"
        f"insert into t values ({number}, hex(randomblob({100 + number % 400})));"
        f"update t set text = text || 'x' where n % 17 = {number % 17};"
        f"delete from t where n % 11 = 5 and n < {number - 50};"
        "commit;"
        for number in range(first, last)
    ]
    return "\n".join([*made, "vacuum;" if vacuum else ""])


def without_index(tree: dict[bytes, Fact]) -> dict[bytes, Fact]:
    """Leave out the -shm: it is written through a memory map, and made anew by who opens it."""
    return {path: fact for path, fact in tree.items() if not path.endswith(b"-shm")}


def assert_same(writer: Mount, reader: Mount, ran_to: int) -> None:
    """Fail unless the reader has a sound database with the rows of the writer."""
    assert query(reader, "pragma integrity_check") == "ok"
    rows = "select count(*), max(n), sum(length(text)) from t"
    assert query(reader, rows) == glance(writer, rows)
    assert query(reader, "select max(n) from t") == str(ran_to - 1)


@pytest.mark.parametrize("mode", MODES)
def test_a_database_written_in_many_transactions(tmp_path: Path, mode: str) -> None:
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")
        start = f"pragma journal_mode={mode}; create table t (n integer primary key, text);"
        query(ann, start)
        assert_no_copies(bench.assert_equal())
        before = ids(bench)["base.db"]
        ran_to = 0
        for writer, reader in ((ann, ben), (ben, ann)):
            ran_from, ran_to = ran_to, ran_to + 150
            script = f"pragma journal_mode={mode};" + transactions(ran_from, ran_to, vacuum=True)
            run("sqlite3", "base.db", cwd=writer.root, stdin=script.encode())
            assert_no_copies(bench.assert_equal())
            assert_same(writer, reader, ran_to)
            # What was read is closed by now, and its -wal gone again.
            tree = bench.assert_equal()
            assert_no_copies(tree)
            names = {path for path in tree if not path.endswith(b"-journal")}
            assert names == {b"base.db"}
            assert ids(bench)["base.db"] == before


@slow
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_that_stays_open_arrives_when_its_writer_rests(
    tmp_path: Path, mode: str
) -> None:
    """Its writer keeps it open and goes on after each rest; in wal mode rows are in the -wal."""
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")
        with subprocess.Popen(
            ["sqlite3", "base.db"],
            cwd=ann.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(ann.home),
        ) as open_:
            assert open_.stdin is not None and open_.stdout is not None

            def do(statements: str) -> None:
                assert open_.stdin is not None and open_.stdout is not None
                open_.stdin.write(statements.encode() + b"\nselect 'done';\n")
                open_.stdin.flush()
                while open_.stdout.readline() != b"done\n":
                    pass

            try:
                do(f"pragma journal_mode={mode}; create table t (n integer primary key, text);")
                for round_ in range(3):
                    do(transactions(round_ * 40, round_ * 40 + 40))
                    bench.settle()
                    tree = without_index(ann.tree())
                    assert tree == without_index(ben.tree())
                    assert_no_copies(tree)
                    assert (b"base.db-wal" in tree) is (mode == "wal")
                    copy = tmp_path / f"copy {round_}"
                    run("cp", "-a", ben.root, copy, cwd=tmp_path)
                    for statement, said in (
                        ("pragma integrity_check", "ok"),
                        ("select max(n) from t", str(round_ * 40 + 39)),
                    ):
                        assert run("sqlite3", "base.db", statement, cwd=copy).strip() == (
                            said.encode()
                        )
            finally:
                open_.stdin.close()
                open_.wait(TIMEOUT_S)
        wait_until(
            lambda: not (ben.root / "base.db-wal").exists(), "the -wal to go where it was closed"
        )
        tree = bench.assert_equal()
        assert set(tree) == {b"base.db"}
        assert_same(ann, ben, 120)
