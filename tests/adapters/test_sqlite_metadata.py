"""What only the SQLite adapter of `ports.metadata` can get wrong: its file, and its cost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.adapters import sqlite_queries, sqlite_schema
from syncline.adapters.sqlite_making import migrate
from syncline.adapters.sqlite_metadata import READERS_IDLE_MAX, SqliteMetadataStore
from syncline.adapters.sqlite_schema import MIGRATIONS, translated
from syncline.core.identity import ROOT_ID, Revision, digest_of
from syncline.core.names import Name
from syncline.errors import Corrupt, InUse, LocalFailure, NoSpace, TooNew
from syncline.ports.chunks import Location
from syncline.server.verify import verify_metadata
from tests.support.commits import AUTHOR, build_commit, commit_changes, volume_id
from tests.support.metadata_storm import VOLUME as STORM
from tests.support.trees import file, id_of, put_file

VOLUME = volume_id("v")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metadata"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteMetadataStore]:
    store = SqliteMetadataStore(path)
    store.create_volume(VOLUME, "v")
    yield store
    store.close()


def fill(store: SqliteMetadataStore, commits: int = 3, files: int = 100) -> None:
    with store.write(VOLUME) as session:
        for _ in range(commits):
            revision = session.head().revision
            commit_changes(session, [put_file(f"{revision}-{n}") for n in range(files)])


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        # The shared memory is rebuilt from the log whenever somebody opens the store.
        if not path.name.endswith("-shm")
    }


# -- the file ------------------------------------------------------------------


def test_it_comes_back_after_closing(path: Path, store: SqliteMetadataStore) -> None:
    with store.write(VOLUME) as session:
        made, remembered, _ = build_commit(session, [put_file("a"), put_file("b", 9)])
        session.add_commit(made, remembered)
        session.add_chunks({digest_of(b"1"): Location(2**40, 2**50, 2**20)})
    store.close()
    reopened = SqliteMetadataStore(path)
    with reopened.read(VOLUME) as reader:
        assert reader.commit(Revision(1)) == made
        assert reader.answer(AUTHOR.replica, made.op_id) == remembered
        assert reader.locate([digest_of(b"1")]) == {digest_of(b"1"): Location(2**40, 2**50, 2**20)}
    assert reopened.integrity_lines() == []
    reopened.close()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_nobody_else_can_read_its_files(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "metadata"
    before = os.umask(umask)
    try:
        store = SqliteMetadataStore(path)
        store.create_volume(VOLUME, "v")
        fill(store)
        modes = {file.name: file.stat().st_mode & 0o7777 for file in tmp_path.iterdir()}
        store.close()
    finally:
        os.umask(before)
    assert modes == {"metadata": 0o600, "metadata-wal": 0o600, "metadata-shm": 0o600}


def test_it_is_made_durable_at_every_commit(store: SqliteMetadataStore) -> None:
    pragmas = {"synchronous": 2, "foreign_keys": 1, "journal_mode": "wal"}
    with store.read(VOLUME) as reader:
        for connection in (store._writer, reader._open):
            found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
            assert found == pragmas


def test_a_directory_that_is_not_there_is_a_local_failure(tmp_path: Path) -> None:
    with pytest.raises(LocalFailure):
        SqliteMetadataStore(tmp_path / "none" / "metadata")


def test_a_name_that_means_something_to_sqlite_is_just_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#%20\udcff"
    store = SqliteMetadataStore(path)
    store.create_volume(VOLUME, "v")
    store.close()
    assert path.stat().st_size > 0


@pytest.mark.parametrize("size", [0, 50, 4096, 4096 * 5, -1])
def test_a_truncated_file_is_corrupt(path: Path, store: SqliteMetadataStore, size: int) -> None:
    fill(store)
    store.close()
    os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
    before = contents(path.parent)
    with pytest.raises(Corrupt, match="backup"):
        SqliteMetadataStore(path)
    assert contents(path.parent) == before


@pytest.mark.parametrize("garbage", [b"garbage" * 2000, b"SQLite format 3\0" + b"\7" * 8000])
def test_garbage_is_corrupt(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    with pytest.raises(Corrupt, match="backup"):
        SqliteMetadataStore(path)
    assert contents(path.parent) == {"metadata": garbage}


def test_another_programs_database_is_refused_untouched(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(Corrupt):
        SqliteMetadataStore(path)
    assert contents(path.parent) == before


def test_a_store_that_lost_its_file_is_not_begun_anew(
    path: Path, store: SqliteMetadataStore
) -> None:
    fill(store)
    (copy := path.parent / "copy").mkdir()
    shutil.copy(path.with_name("metadata-wal"), copy)
    with pytest.raises(Corrupt):
        SqliteMetadataStore(copy / "metadata")
    assert not (copy / "metadata").exists()


def test_a_damaged_page_is_found(path: Path, store: SqliteMetadataStore) -> None:
    fill(store, files=500)
    store.close()
    pages = path.stat().st_size // 4096
    with path.open("r+b") as raw:
        raw.seek((pages - 2) * 4096)
        raw.write(b"\xa5" * 4096)
    damaged = SqliteMetadataStore(path)
    assert damaged.integrity_lines() != []
    damaged.close()


def test_damage_is_corrupt_to_a_reader(path: Path, store: SqliteMetadataStore) -> None:
    fill(store, files=500)
    store.close()
    connection = sqlite3.connect(path)
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'entries'"
    ).fetchone()
    connection.close()
    with path.open("r+b") as raw:
        raw.seek((root - 1) * 4096)
        raw.write(b"\xa5" * 4096)
    damaged = SqliteMetadataStore(path)
    with damaged.read(VOLUME) as reader, pytest.raises(Corrupt):
        reader.entry(id_of("0-1"))
    assert len(list(verify_metadata(damaged, VOLUME))) == 1
    damaged.close()


# -- versions ------------------------------------------------------------------


def test_a_newer_version_is_refused_untouched(path: Path, store: SqliteMetadataStore) -> None:
    store.close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {sqlite_schema.NEWEST_READABLE + 1}")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(TooNew):
        SqliteMetadataStore(path)
    assert contents(path.parent) == before


def test_a_newer_version_that_stands_in_the_log_alone_is_refused_untouched(
    path: Path, store: SqliteMetadataStore
) -> None:
    store.close()
    (copy := path.parent / "copy").mkdir()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {sqlite_schema.NEWEST_READABLE + 1}")
    for name in ("metadata", "metadata-wal"):
        shutil.copy(path.with_name(name), copy)
    connection.close()
    before = contents(copy)
    assert before["metadata-wal"]
    with pytest.raises(TooNew):
        SqliteMetadataStore(copy / "metadata")
    assert contents(copy) == before


def test_versions_and_migrations_fit_together() -> None:
    numbers = [number for number, _ in MIGRATIONS]
    assert numbers == list(range(1, sqlite_schema.WRITTEN + 1))
    assert sqlite_schema.OLDEST_READABLE <= sqlite_schema.WRITTEN == sqlite_schema.NEWEST_READABLE


def test_a_store_of_format_1_learns_what_is_damaged(path: Path) -> None:
    place = Location(1, 16, 10)
    SqliteMetadataStore(path).close()
    connection = open_plain(path)
    connection.execute("DROP INDEX damaged")
    for table in ("locks", "lock_tokens", "lock_breaks"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = SqliteMetadataStore(path)
    volume = store.create_volume(volume_id("v"), "v").id
    with store.write(volume) as session:
        session.add_chunks({digest_of(b"1"): place})
        assert not session.has_damaged()
        session.mark_damaged({digest_of(b"1"): place})
        assert session.has_damaged()
    store.close()
    connection = open_plain(path)
    assert state_of(connection)[0] == sqlite_schema.WRITTEN
    connection.close()


FIRST = (1, ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)"))
SECOND = (2, ("ALTER TABLE a ADD y", "UPDATE a SET y = die()", "CREATE TABLE b (x)"))


def open_plain(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def state_of(connection: sqlite3.Connection) -> tuple[int, list[str]]:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    names = connection.execute("SELECT name FROM sqlite_schema ORDER BY name").fetchall()
    return version, [name for (name,) in names]


def test_a_failed_migration_is_repeated_from_its_start(path: Path) -> None:
    connection = open_plain(path)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, [FIRST, SECOND])
    assert state_of(connection) == (1, ["a"])
    connection.create_function("die", 0, lambda: 7)
    migrate(connection, [FIRST, SECOND])
    assert state_of(connection) == (2, ["a", "b"])
    assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, 7)]
    migrate(connection, [FIRST, SECOND])
    assert state_of(connection) == (2, ["a", "b"])
    connection.close()


@pytest.mark.process
def test_a_migration_killed_in_the_middle_is_repeated(path: Path) -> None:
    code = f"""
import os, signal, sqlite3
from syncline.adapters.sqlite_making import migrate
connection = sqlite3.connect({str(path)!r}, isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
migrate(connection, {[FIRST, SECOND]!r})
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    connection = open_plain(path)
    assert state_of(connection) == (1, ["a"])
    connection.create_function("die", 0, lambda: 7)
    migrate(connection, [FIRST, SECOND])
    assert state_of(connection) == (2, ["a", "b"])
    connection.close()


def test_a_creation_that_was_killed_is_begun_again(path: Path) -> None:
    path.with_name("metadata.new").write_bytes(b"half")
    path.with_name("metadata.new-journal").write_bytes(b"half")
    store = SqliteMetadataStore(path)
    assert list(store.volumes()) == []
    store.close()
    assert contents(path.parent).keys() == {"metadata"}


# -- crashes and full disks ------------------------------------------------------


@pytest.mark.process
def test_what_was_acknowledged_survives_kill_9(path: Path) -> None:
    acknowledged: dict[int, str] = {}
    for lines in (1, 25, 60):
        with subprocess.Popen(
            [sys.executable, "-m", "tests.support.metadata_storm", str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None
            read = [child.stdout.readline() for _ in range(lines)]
            child.kill()
            # What it had printed before it was killed was acknowledged too.
            read += child.stdout.readlines()
        for line in read:
            if line.endswith(b"\n"):
                revision, commit_id = line.split()
                acknowledged[int(revision)] = commit_id.decode()
        store = SqliteMetadataStore(path)
        assert list(verify_metadata(store, STORM)) == []
        assert store.integrity_lines() == []
        with store.read(STORM) as reader:
            for revision, id in acknowledged.items():
                commit = reader.commit(Revision(revision))
                assert commit is not None
                assert commit.id.hex() == id
                assert reader.answer(commit.author.replica, commit.op_id) is not None
            assert reader.head().revision >= max(acknowledged)
        store.close()
    assert len(acknowledged) >= 86


def namespace_prefix() -> list[str]:
    """Return what gives a command mounts of its own; skip where that is not allowed."""
    prefix = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    probe = [*prefix, "sh", "-c", "mount -t tmpfs none /tmp"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("no mount namespaces here")
    return prefix


@pytest.mark.process
def test_a_full_disk_stops_nothing_for_good(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -m tests.support.metadata_full_disk'
    ended = subprocess.run(
        [*namespace_prefix(), "sh", "-c", f'{script} "$1"', "sh", str(tmp_path), sys.executable],
        cwd=ROOT,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, b"3\n"), ended.stderr.decode()


def test_a_file_that_may_not_grow_is_no_space(store: SqliteMetadataStore) -> None:
    fill(store)
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(NoSpace) as caught, store.write(VOLUME) as session:
        for _ in range(10):
            revision = session.head().revision
            commit_changes(session, [put_file(f"{revision}-{n}") for n in range(500)])
    assert caught.value.fields["where"] == "server"
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 3
    assert list(verify_metadata(store, VOLUME)) == []
    store._writer.execute("PRAGMA max_page_count = 1000000")
    fill(store, commits=1)
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 4


def test_a_swallowed_failure_does_not_make_half_a_session_durable(
    store: SqliteMetadataStore,
) -> None:
    fill(store, commits=1, files=1)
    with pytest.raises(AssertionError), store.write(VOLUME) as session:
        made, remembered, _ = build_commit(session, [put_file("new")], op=1)
        with pytest.raises(AssertionError):
            session.add_commit(made, remembered)
        with pytest.raises(AssertionError):
            session.add_chunks({digest_of(b"1"): Location(1, 0, 1)})
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 1
        assert reader.child(ROOT_ID, Name(b"new")) is None
        assert dict(reader.locate([digest_of(b"1")])) == {}


def sqlite_error(code: int, name: str = "") -> sqlite3.Error:
    error = sqlite3.OperationalError("why")
    error.sqlite_errorcode = code
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, NoSpace),
        (sqlite3.SQLITE_IOERR_SHMSIZE, NoSpace),
        (sqlite3.SQLITE_CORRUPT, Corrupt),
        (sqlite3.SQLITE_CORRUPT_INDEX, Corrupt),
        (sqlite3.SQLITE_NOTADB, Corrupt),
        (sqlite3.SQLITE_BUSY, InUse),
        (sqlite3.SQLITE_IOERR_FSYNC, LocalFailure),
        (sqlite3.SQLITE_CANTOPEN, LocalFailure),
        (sqlite3.SQLITE_READONLY, LocalFailure),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, AssertionError),
        (sqlite3.SQLITE_MISUSE, AssertionError),
    ],
)
def test_errors_of_sqlite_have_one_meaning(code: int, expected: type[Exception]) -> None:
    assert isinstance(translated(sqlite_error(code)), expected)


def test_an_error_of_the_binding_is_a_fault_of_ours() -> None:
    assert isinstance(translated(sqlite3.ProgrammingError("closed")), AssertionError)


def test_a_process_that_holds_the_file_makes_us_fail_and_not_hang(
    path: Path, store: SqliteMetadataStore
) -> None:
    other = open_plain(path)
    other.execute("BEGIN IMMEDIATE")
    store._writer.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(InUse), store.write(VOLUME):
        pass
    other.execute("ROLLBACK")
    other.close()
    fill(store, commits=1)
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 1


# -- connections ---------------------------------------------------------------


def test_connections_are_kept_up_to_a_bound(store: SqliteMetadataStore) -> None:
    count = READERS_IDLE_MAX + 3
    together = threading.Barrier(count)

    def read() -> None:
        with store.read(VOLUME) as reader:
            together.wait(20)
            assert reader.head().revision == 0

    threads = [threading.Thread(target=read) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not together.broken
    assert len(store._idle) == READERS_IDLE_MAX


def test_a_session_that_is_over_answers_nothing(store: SqliteMetadataStore) -> None:
    fill(store)
    with store.read(VOLUME) as reader:
        children = reader.children(ROOT_ID)
        next(children)
    with pytest.raises(AssertionError, match="over"):
        reader.entry(id_of("a"))
    with pytest.raises(AssertionError, match="over"):
        list(children)


def test_a_closed_store_opens_no_session(path: Path) -> None:
    store = SqliteMetadataStore(path)
    store.close()
    with pytest.raises(AssertionError):
        store.volumes()


# -- cost (G12) ------------------------------------------------------------------

STATEMENTS = {
    name: statement
    for name, statement in vars(sqlite_queries).items()
    if name.isupper() and isinstance(statement, str) and not name.startswith("_")
}
TEMPORARY = re.compile(r"^SCAN (ids|names|CONSTANT ROW|\(subquery-\d+\))$")
WHOLE = {"VOLUMES": "SCAN volumes USING INDEX sqlite_autoindex_volumes_2"}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_walks_a_table_or_sorts(store: SqliteMetadataStore, name: str) -> None:
    statement = STATEMENTS[name]
    count = max([0, *(int(number) for number in re.findall(r"\?(\d+)", statement))])
    plan = store._writer.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * count).fetchall()
    details = [detail for *_, detail in plan]
    scans = [detail for detail in details if detail.startswith("SCAN")]
    assert [scan for scan in scans if not TEMPORARY.match(scan) and scan != WHOLE.get(name)] == []
    assert [detail for detail in details if "TEMP B-TREE" in detail] == []


def steps(store: SqliteMetadataStore, at: Revision) -> list[int]:
    """Return how many instructions SQLite needs for each kind of look-up at a revision."""
    taken = []
    with store.read(VOLUME, at) as reader:
        calls = (
            lambda: reader.entry(id_of("hot")),
            lambda: reader.child(ROOT_ID, Name(b"hot")),
            lambda: list(reader.children(ROOT_ID)),
            lambda: reader.children_after(ROOT_ID, Name(b"cold"), 10),
            lambda: reader.page(None, 10),
            lambda: reader.previous(id_of("hot"), at),
            lambda: reader.commit(at),
            lambda: reader.commits_after(Revision(at - 2), 2),
            lambda: reader.answer(AUTHOR.replica, reader.commits_after(Revision(0), 1)[0].op_id),
        )
        for call in calls:
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return 0

            reader._open.set_progress_handler(step, 1)
            call()
            reader._open.set_progress_handler(None, 1)
            taken.append(count)
    return taken


def test_a_long_history_costs_no_look_up_more(store: SqliteMetadataStore) -> None:
    def edit(times: int) -> None:
        with store.write(VOLUME) as session:
            for _ in range(times):
                base = session.head().revision
                commit_changes(session, [put_file("hot", base, content=b"%d" % base)])

    with store.write(VOLUME) as session:
        commit_changes(session, [put_file("hot"), put_file("cold"), put_file("late", name=b"z")])
    edit(20)
    few = steps(store, Revision(21)), steps(store, Revision(10))
    edit(1500)
    assert steps(store, Revision(1521)) == few[0]
    assert steps(store, Revision(10)) == few[1]
    assert steps(store, Revision(800)) == few[1]
    with store.read(VOLUME, Revision(10)) as reader:
        assert reader.child(ROOT_ID, Name(b"hot")) == file("hot", revision=10, content=b"9")
