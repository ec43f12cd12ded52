"""Programs that keep many files in step with each other: git, SQLite, tar, rsync, Python's venv."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import tarfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.pair import Mounted, beside, mounts

ROWS = 300

GIT_SETTINGS = (
    "user.name=ann",
    "user.email=ann@host",
    "init.defaultBranch=main",
    "gc.auto=0",
    "core.fsync=none",
)


# -- SQLite ----------------------------------------------------------------------


def _fill_database(path: Path, mode: str) -> None:
    """Insert rows in many transactions, with a checkpoint now and then."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"pragma journal_mode={mode}")
        database.execute("pragma synchronous=off")
        database.execute("create table if not exists t (n integer primary key, text)")
        for number in range(ROWS):
            database.execute("insert into t (text) values (?)", (f"row {number} " * 50,))
            if number % 50 == 49:
                database.execute("delete from t where n % 7 = 3")
                database.execute("vacuum")


@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_database_that_was_closed_is_whole_elsewhere(tmp_path: Path, mode: str) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        for writer, reader in (both.all, both.all[::-1]):
            await beside(_fill_database, writer.root / "base.db", mode)
            tree = await both.settle_equal()
            assert set(tree) == {b"base.db"}
            shutil.copy(reader.root / "base.db", tmp_path / "copy.db")
            with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
                assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
                [(count,)] = copy.execute("select count(*) from t").fetchall()
                assert count > ROWS // 2


async def test_open_wal_arrives_with_its_database(tmp_path: Path) -> None:
    """While it is open the rows are in the -wal alone: both files arrive in the end."""
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        with closing(sqlite3.connect(ann.root / "base.db", isolation_level=None)) as database:
            database.execute("pragma journal_mode=wal")
            database.execute("create table t (text)")
            database.execute("insert into t values ('in the log')")
            await both.settle_equal()
            copies = tmp_path / "copies"
            shutil.copytree(ben.root, copies)
            with closing(sqlite3.connect(copies / "base.db")) as copy:
                assert copy.execute("pragma integrity_check").fetchall() == [("ok",)]
                assert copy.execute("select text from t").fetchall() == [("in the log",)]
        tree = await both.settle_equal()
        assert set(tree) == {b"base.db"}


# -- git -------------------------------------------------------------------------


def _git(directory: Path, *arguments: str) -> str:
    settings = [part for setting in GIT_SETTINGS for part in ("-c", setting)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"HOME": str(directory.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *settings, *arguments],
        cwd=directory,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def _commit(repository: Path, number: int) -> None:
    """Change a few files, add one, and commit."""
    for name in range(5):
        path = repository / f"d{name}" / "file"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number} {name}\n" * 20)
    (repository / f"new {number}").write_text(f"{number}\n")
    _git(repository, "add", "--all")
    _git(repository, "commit", "--quiet", "--message", f"commit {number}")


def _check_same(ann: Mounted, ben: Mounted) -> None:
    """Assert that both have a sound repository with the same history, and nothing uncommitted."""
    seen = []
    for mount in (ann, ben):
        repository = mount.root / "repository"
        _git(repository, "fsck", "--full", "--strict")
        assert _git(repository, "status", "--porcelain") == ""
        seen.append(_git(repository, "log", "--all", "--format=%H %s"))
    assert seen[0] == seen[1]


def _storm(repository: Path) -> None:
    """Commit on two branches, and switch between them again and again."""
    _git(repository, "init", "--quiet")
    _commit(repository, 0)
    _git(repository, "switch", "--quiet", "--create", "other")
    for number in range(1, 4):
        _commit(repository, number)
    for number in range(10):
        _git(repository, "switch", "--quiet", "main" if number % 2 == 0 else "other")
    _git(repository, "merge", "--quiet", "main")


async def test_git_on_one_side(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.mkdir(b"repository")
        await beside(_storm, ann.root / "repository")
        await both.settle_equal()
        await beside(_check_same, ann, ben)
        await both.settle()
        await beside(_git, ann.root / "repository", "gc", "--quiet", "--prune=now")
        tree = await both.settle_equal()
        assert not [path for path in tree if b"conflict of" in path]
        await beside(_check_same, ann, ben)


async def test_git_on_both_sides_in_turn(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.mkdir(b"repository")
        await beside(_git, ann.root / "repository", "init", "--quiet")
        for number in range(4):
            await both.settle()
            worker = both.all[number % 2]
            await beside(_commit, worker.root / "repository", number)
        tree = await both.settle_equal()
        assert not [path for path in tree if b"conflict of" in path]
        await beside(_check_same, ann, ben)
        assert _git(ben.root / "repository", "log", "--format=%s").splitlines() == [
            f"commit {number}" for number in (3, 2, 1, 0)
        ]


async def test_git_clone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _storm(source)
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        await beside(_git, tmp_path, "clone", "--quiet", str(source), str(ann.root / "repository"))
        await both.settle_equal()
        await beside(_check_same, ann, ben)


# -- many files ------------------------------------------------------------------


def _tar(count: int) -> bytes:
    """Return an archive with directories, modes, old times and links."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"package/part {number % 10}/file {number}")
            content = b"content %d\n" % number
            member.size = len(content)
            member.mode = (0o644, 0o755, 0o400)[number % 3]
            member.mtime = 1_000_000_000 + number
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "part 1/file 1"
        archive.addfile(link)
    return packed.getvalue()


async def test_tar(tmp_path: Path) -> None:
    packed = _tar(200)

    def unpack(mount: Mounted) -> None:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(mount.root, filter="tar")

    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        await beside(unpack, ann)
        tree = await both.settle_equal()
        assert len(tree) == 1 + 10 + 200 + 1
        fact = tree[b"package/part 3/file 3"]
        assert (fact.mode, fact.mtime_ns) == (0o644, 1_000_000_003 * 10**9)
        # Again over what is there: the same content is no change of content.
        head = both.head
        await beside(unpack, ben)
        again = await both.settle_equal()
        # An unpacked link gets the time of now.
        assert again.keys() == tree.keys()
        assert all(again[path] == tree[path] for path in tree if path != b"package/link")
        before = {entry.digest for entry in both.entries().values()}
        changed = [each for commit in both.commits(head) for each in commit.entries]
        assert {entry.digest for entry in changed if entry.is_live} <= before


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
@pytest.mark.parametrize("options", [[], ["--inplace"], ["--delay-updates", "--delete"]])
async def test_rsync_of_a_tree(tmp_path: Path, options: list[str]) -> None:
    source = tmp_path / "source"
    for number in range(100):
        (source / f"d{number % 10}").mkdir(parents=True, exist_ok=True)
        (source / f"d{number % 10}" / f"f{number}").write_bytes(b"first %d" % number)

    def rsync(mount: Mounted) -> None:
        subprocess.run(
            ["rsync", "-a", "--checksum", *options, "--exclude=/.syncline",
             f"{source}/", f"{mount.root}/"],
            check=True,
        )  # fmt: skip

    async with mounts(tmp_path, "ann", "ben") as both:
        for worker in (*both.all, *both.all):
            await beside(rsync, worker)
            tree = await both.settle_equal()
            assert len(tree) == 110
            assert all(
                worker.read(b"d%d/f%d" % (number % 10, number))
                == (source / f"d{number % 10}" / f"f{number}").read_bytes()
                for number in range(100)
            )
            for number in range(0, 100, 7):
                content = b"changed %d %d" % (number, time.monotonic_ns())
                (source / f"d{number % 10}" / f"f{number}").write_bytes(content)


def _make_environment(mount: Mounted, files: int) -> None:
    """Make what an installer makes: packages, files written beside and renamed, many links."""
    top = mount.root / "venv" / "lib"
    for number in range(files):
        package = top / f"package{number // 25}" / f"sub{number % 3}"
        package.mkdir(parents=True, exist_ok=True)
        beside_ = package / f"tmp{number}"
        beside_.write_bytes(b"code of %d\n" % number * (number % 40))
        beside_.rename(package / f"module{number}.py")
    binaries = mount.root / "venv" / "bin"
    binaries.mkdir()
    for number in range(20):
        (binaries / f"python3.{number}").symlink_to("python3")


@pytest.mark.parametrize(
    "files", [500, pytest.param(3_000, marks=pytest.mark.slow)], ids=["some", "thousands"]
)
async def test_environment_of_many_files(tmp_path: Path, files: int) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"kept", b"")
        await beside(_make_environment, ann, files)
        tree = await both.settle_equal()
        assert len([path for path in tree if path.endswith(b".py")]) == files
        await beside(ben.remove, b"venv/lib/package0")
        await beside(ann.rename, b"venv", b"environment")
        tree = await both.settle_equal()
        assert len([path for path in tree if path.endswith(b".py")]) == files - 25
        assert not [path for path in tree if path.startswith(b"venv")]
