"""What only the SQLite adapter of `ports.mount_state` can get wrong: its file, and its cost."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters import sqlite_mount_queries as sql
from syncline.adapters import sqlite_mount_schema
from syncline.adapters.mount_records import Record
from syncline.adapters.sqlite_files import SqliteFile
from syncline.adapters.sqlite_mount_schema import APPLICATION_ID, FORMAT
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.adapters.sqlite_mount_trees import RECORDS_MAX
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import ROOT_ID, EntryId, ReplicaId
from syncline.core.names import Name
from syncline.core.trees import state_of
from syncline.errors import Corrupt, InUse, LocalFailure, NoSpace, TooNew
from syncline.ports.mount_state import MountFacts, MountSession
from tests.support.trees import file, id_of

FACTS = MountFacts(ReplicaId(b"r" * 16), None, None)
OTHER = MountFacts(ReplicaId(b"o" * 16), None, None)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def state(path: Path) -> Iterator[SqliteMountState]:
    state = SqliteMountState.open(path, FACTS)
    yield state
    state.close()


def know(session: MountSession, label: str, inode: int = 1) -> None:
    entry = file(label)
    session.set_remote(entry, "x", is_confirmed=False)
    session.set_local(entry.id, Seen(state_of(entry), Fingerprint(inode, 1, 2, 3, 4)))
    session.set_base(entry.id, state_of(entry))


def fill(state: SqliteMountState, count: int = 300) -> None:
    with state.session() as session:
        for number in range(count):
            know(session, f"f{number}", number)


def contents(directory: Path) -> dict[str, bytes]:
    """Return all files but the lock, which holds nothing, and what is rebuilt from the log."""
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if not path.name.endswith(("-shm", "-lock"))
    }


def count_entries(path: Path) -> int:
    state = SqliteMountState.open(path, OTHER)
    with state.session() as session:
        assert session.facts() == FACTS
        count = session.base_count()
        assert len(session.within(ROOT_ID)) == count
    state.close()
    return count


# -- the file ------------------------------------------------------------------


def test_it_comes_back_with_its_own_facts(path: Path, state: SqliteMountState) -> None:
    fill(state, 3)
    state.close()
    assert count_entries(path) == 3


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_nobody_else_can_read_its_files(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        state = SqliteMountState.open(tmp_path / "state", FACTS)
        fill(state)
        modes = {file.name: file.stat().st_mode & 0o7777 for file in tmp_path.iterdir()}
        state.close()
    finally:
        os.umask(before)
    assert modes == {"state": 0o600, "state-wal": 0o600, "state-lock": 0o600}


def test_it_is_made_durable_at_every_commit(state: SqliteMountState) -> None:
    pragmas = {"synchronous": 2, "foreign_keys": 1, "journal_mode": "wal"}
    assert state._connection is not None
    found = {name: state._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    assert found == pragmas


def test_a_directory_that_is_not_there_is_a_local_failure(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure):
        SqliteMountState.open(tmp_path / "none" / "state", FACTS)


def test_a_name_that_means_something_to_sqlite_is_just_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#%20\udcff"
    SqliteMountState.open(path, FACTS).close()
    assert path.stat().st_size > 0


def test_a_second_opener_is_told_that_it_is_in_use(path: Path, state: SqliteMountState) -> None:
    fill(state, 3)
    with pytest.raises(InUse, match="another process"):
        SqliteMountState.open(path, OTHER)
    with state.session() as session:
        know(session, "more")
    state.close()
    assert count_entries(path) == 4


def test_another_process_is_told_that_it_is_in_use(path: Path, state: SqliteMountState) -> None:
    # The refused opener of this process must not have given SQLite's lock away either.
    with pytest.raises(InUse):
        SqliteMountState.open(path, OTHER)
    code = (
        "import sys; from pathlib import Path; from syncline.errors import InUse\n"
        "from tests.adapters.test_sqlite_mount_state import OTHER, SqliteMountState\n"
        "try:\n    SqliteMountState.open(Path(sys.argv[1]), OTHER)\n"
        "except InUse:\n    print('in use')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "in use\n"


def test_another_program_that_holds_the_file_is_in_use(path: Path) -> None:
    SqliteMountState.open(path, FACTS).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(InUse):
        SqliteMountState.open(path, OTHER)
    other.execute("ROLLBACK")
    other.close()
    SqliteMountState.open(path, OTHER).close()


# -- crashes -------------------------------------------------------------------


def test_what_a_session_did_survives_a_crash_and_nothing_else(
    tmp_path: Path, path: Path, state: SqliteMountState
) -> None:
    fill(state, 10)
    with state.session() as session:
        for number in range(RECORDS_MAX + 10):
            know(session, f"new{number}")
        session.dirty()
        for name in ("state", "state-wal"):
            shutil.copy(tmp_path / name, tmp_path / f"cut-{name}")
    (tmp_path / "cut-state").rename(tmp_path / "copy")
    (tmp_path / "cut-state-wal").rename(tmp_path / "copy-wal")
    assert count_entries(tmp_path / "copy") == 10
    for name in ("", "-wal"):
        shutil.copy(f"{path}{name}", f"{tmp_path / 'later'}{name}")
    assert count_entries(tmp_path / "later") == RECORDS_MAX + 20


def test_a_log_that_is_cut_anywhere_holds_whole_sessions(
    tmp_path: Path, path: Path, state: SqliteMountState
) -> None:
    for _ in range(3):
        with state.session() as session:
            for _ in range(50):
                know(session, f"f{session.base_count()}")
    log = Path(f"{path}-wal").read_bytes()
    found = set()
    for size in range(0, len(log) + 1, max(1, len(log) // 40)):
        shutil.copy(path, tmp_path / "cut")
        Path(f"{tmp_path / 'cut'}-wal").write_bytes(log[:size])
        found.add(count_entries(tmp_path / "cut"))
    assert {0, 50, 100} <= found <= {0, 50, 100, 150}


def test_a_killed_process_leaves_it_whole_and_free(path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tests.adapters.test_sqlite_mount_state import FACTS, SqliteMountState, fill, know\n"
        "state = SqliteMountState.open(Path(sys.argv[1]), FACTS)\n"
        "fill(state, 5)\n"
        "with state.session() as session:\n"
        "    know(session, 'lost')\n"
        "    session.dirty()\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert count_entries(path) == 5


def test_a_creation_that_was_killed_begins_again(tmp_path: Path, path: Path) -> None:
    for name in ("state.new", "state.new-wal", "state.new-journal"):
        (tmp_path / name).write_bytes(b"half")
    SqliteMountState.open(path, FACTS).close()
    assert set(contents(tmp_path)) == {"state"}
    assert count_entries(path) == 0


def test_a_full_disk_undoes_the_session_and_heals(state: SqliteMountState) -> None:
    fill(state, 10)
    assert state._connection is not None
    (pages,) = state._connection.execute("PRAGMA page_count").fetchone()
    state._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpace) as raised:
        fill(state, 3000)
    assert raised.value.fields["where"] == "local"
    with state.session() as session:
        assert (session.base_count(), session.dirty_count()) == (10, 0)
        assert len(session.within(ROOT_ID)) == 10
    state._connection.execute("PRAGMA max_page_count = 1000000")
    fill(state, 3000)
    with state.session() as session:
        assert session.base_count() == 3000


def test_an_error_that_is_swallowed_does_not_make_half_a_session_durable(
    state: SqliteMountState,
) -> None:
    fill(state, 10)
    with pytest.raises(AssertionError, match="breaks its rules"), state.session() as session:
        know(session, "half")
        with pytest.raises(AssertionError):
            session.set_base(id_of("x"), replace(state_of(file("x")), parent=EntryId(b"cut")))
            session.dirty()
        with pytest.raises(AssertionError):
            session.set_held(id_of("x"), None)
    with state.session() as session:
        assert session.base_count() == 10


# -- damage and versions -------------------------------------------------------


@pytest.mark.parametrize("size", [0, 50, 4096, 4096 * 5, -1])
def test_a_truncated_file_is_corrupt(path: Path, state: SqliteMountState, size: int) -> None:
    fill(state)
    state.close()
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    before = contents(path.parent)
    with pytest.raises(Corrupt, match="nothing in the folder is lost"):
        SqliteMountState.open(path, FACTS)
    assert contents(path.parent) == before


@pytest.mark.parametrize("garbage", [b"garbage" * 2000, b"SQLite format 3\0" + b"\7" * 8000])
def test_garbage_is_corrupt(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    with pytest.raises(Corrupt, match="move this file and its '-wal' away") as raised:
        SqliteMountState.open(path, FACTS)
    assert raised.value.fields == {"what": "mount_state", "path": str(path)}
    assert contents(path.parent) == {"state": garbage}
    path.unlink()
    SqliteMountState.open(path, FACTS).close()
    assert count_entries(path) == 0


def test_another_programs_database_is_refused_untouched(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(Corrupt, match="another file"):
        SqliteMountState.open(path, FACTS)
    assert contents(path.parent) == before


def test_a_log_without_its_file_is_corrupt(path: Path, tmp_path: Path) -> None:
    (tmp_path / "state-wal").write_bytes(b"log")
    with pytest.raises(Corrupt, match="is gone"):
        SqliteMountState.open(path, FACTS)
    assert contents(tmp_path) == {"state-wal": b"log"}


def test_garbage_inside_is_found_when_it_is_read(path: Path, state: SqliteMountState) -> None:
    fill(state, 3000)
    state.close()
    pages = path.stat().st_size // 4096
    with path.open("r+b") as raw:
        for page in range(40, pages):
            raw.seek(page * 4096)
            raw.write(b"\7" * 4096)
    state = SqliteMountState.open(path, FACTS)
    with pytest.raises(Corrupt, match="nothing in the folder is lost"), state.session() as session:
        for number in range(3000):
            session.local(id_of(f"f{number}"))
            session.within(ROOT_ID)
    state.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET manifest = x'0000'",
        "UPDATE entries SET fingerprint = x'0102'",
        "UPDATE entries SET here = 2",
        "UPDATE entries SET mode = NULL",
        "UPDATE entries SET revision = NULL",
    ],
)
def test_a_garbled_row_is_corrupt(path: Path, state: SqliteMountState, statement: str) -> None:
    fill(state, 1)
    state.close()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    state = SqliteMountState.open(path, FACTS)
    with pytest.raises(Corrupt, match="garbled"), state.session() as session:
        session.local(id_of("f0"))
    state.close()


@pytest.mark.parametrize("statement", ["DELETE FROM facts", "UPDATE facts SET consent = 'x'"])
def test_facts_that_are_lost_are_corrupt(
    path: Path, state: SqliteMountState, statement: str
) -> None:
    state.close()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    for _ in range(2):
        with pytest.raises(Corrupt):
            SqliteMountState.open(path, FACTS)


def test_a_newer_version_is_refused_untouched(path: Path, state: SqliteMountState) -> None:
    fill(state, 3)
    state.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {FORMAT.newest + 1}")
    connection.commit()
    connection.close()
    before = contents(path.parent)
    with pytest.raises(TooNew, match="nothing was touched") as raised:
        SqliteMountState.open(path, FACTS)
    assert raised.value.fields["found"] == str(FORMAT.newest + 1)
    assert contents(path.parent) == before


def test_a_newer_version_in_the_log_alone_is_refused_untouched(
    path: Path, tmp_path: Path, state: SqliteMountState
) -> None:
    state.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA user_version = {FORMAT.newest + 1}")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{tmp_path / 'copy'}{suffix}")
    connection.close()
    copies = {name: raw for name, raw in contents(tmp_path).items() if name.startswith("copy")}
    assert copies["copy-wal"]
    with pytest.raises(TooNew):
        SqliteMountState.open(tmp_path / "copy", FACTS)
    after = contents(tmp_path)
    assert {name: after[name] for name in copies} == copies


def test_the_versions_agree_with_the_migrations() -> None:
    made = [version for version, _ in FORMAT.migrations]
    assert made == list(range(1, sqlite_mount_schema.WRITTEN + 1))
    assert FORMAT.newest == sqlite_mount_schema.WRITTEN
    assert FORMAT.oldest == 1


def test_an_older_version_is_migrated_and_may_be_killed_in_the_middle(
    path: Path, state: SqliteMountState
) -> None:
    fill(state, 3)
    state.close()
    bad = (2, ("CREATE TABLE more (a) STRICT",))
    good = (2, ("CREATE TABLE more (a INTEGER) STRICT",))

    def never(connection: sqlite3.Connection) -> None:
        raise AssertionError("the file is there")

    def at(migration: tuple[int, tuple[str, ...]]) -> SqliteFile:
        steps = (*FORMAT.migrations, migration)
        return SqliteFile(path, replace(FORMAT, newest=2, migrations=steps))

    with pytest.raises(sqlite3.OperationalError):
        at(bad).prepare(never)
    assert count_entries(path) == 3
    at(good).prepare(never)
    with pytest.raises(TooNew):
        SqliteMountState.open(path, FACTS)
    connection = at(good).connect()
    assert connection.execute("SELECT count(*) FROM more").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM entries").fetchone() == (3,)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    connection.close()


# -- cost ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, statement in sorted(vars(sql).items())
        if isinstance(statement, str)
        and re.match(r"\s*(SELECT|UPDATE|DELETE)", statement)
        and name not in ("HELD", "SENT", "CLEAR_INCOMING", "COUNT_ENTRIES")
    ],
)
def test_every_look_up_goes_by_an_index(state: SqliteMountState, name: str) -> None:
    statement = vars(sql)[name]
    numbered = {int(number) for number in re.findall(r"\?(\d+)", statement)}
    count = max(numbered, default=statement.count("?"))
    assert state._connection is not None
    plan = state._connection.execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * count).fetchall()
    steps = [step for *_, step in plan]
    assert any("USING" in step for step in steps)
    # An index of the asked ones alone may be read as a whole: it is the answer.
    scans = [s for s in steps if s.startswith("SCAN") and "(" not in s]
    assert [s for s in scans if not re.search(r"INDEX (dirty|unread|not_ignored)$", s)] == []


def test_a_snapshot_of_any_size_takes_little_memory(state: SqliteMountState) -> None:
    with state.session() as session:
        for number in range(3 * RECORDS_MAX):
            session.set_remote(file(f"f{number}"), "x", is_confirmed=False)
        assert len(session._known) <= RECORDS_MAX
        assert len(session._unwritten) <= RECORDS_MAX
        assert session.dirty_count() == 3 * RECORDS_MAX
        assert session.child(ROOT_ID, Name(b"f0")) is None


def records_held() -> int:
    gc.collect()
    return sum(isinstance(each, Record) for each in gc.get_objects())


def test_at_rest_it_holds_no_records_and_still_knows_all(state: SqliteMountState) -> None:
    before = records_held()
    fill(state, 300)
    assert records_held() - before >= 300
    state.rest()
    assert records_held() <= before
    with state.session() as session:
        for number in range(300):
            known = session.base(id_of(f"f{number}"))
            assert known is not None
            assert known.name == Name(f"f{number}".encode())
        know(session, "later")
    with state.session() as session:
        assert session.base_count() == 301


def test_it_does_not_rest_in_the_middle_of_a_session(state: SqliteMountState) -> None:
    with state.session(), pytest.raises(AssertionError):
        state.rest()
