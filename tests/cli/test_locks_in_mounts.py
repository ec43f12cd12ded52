"""`lock`, `unlock` and `locks` on paths of a mount that runs, and what a mount shows of locks."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from syncline.cli.exits import ExitCode
from syncline.cli.live_view import LOCKS_MAX, view
from syncline.cli.main import group
from syncline.cli.mount_records import status_lines, status_record
from syncline.compose.control import serving_control
from syncline.compose.mount_places import claimed
from syncline.core.names import RelPath
from syncline.ports.mount_control import LockAsked, MountLock
from tests.support.mount_control import BUSY, IDLE, LOCATED, LOCK, SHOWN, ScriptedControl

TTL_S = 8 * 3600.0


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work" / "d").mkdir(parents=True)
    return tmp_path / "work"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


async def run(*arguments: str | Path) -> Ran:
    """Run a command in a thread of this process."""

    def call() -> Ran:
        texts = [str(argument) for argument in arguments]
        ran = CliRunner().invoke(group, texts, prog_name="syncline", standalone_mode=False)
        if ran.exception is not None:
            raise ran.exception
        return Ran(ran.return_value, ran.stdout, ran.stderr)

    return await asyncio.to_thread(call)


@asynccontextmanager
async def mounted(directory: Path) -> AsyncIterator[ScriptedControl]:
    control = ScriptedControl(IDLE)
    with claimed(os.fsencode(directory), None) as place:
        async with serving_control(place.state, control):
            yield control


def asked(*paths: bytes, reason: str = "", wait_s: float = 0.0) -> LockAsked:
    return LockAsked(tuple(map(RelPath.parse, paths)), reason, TTL_S, wait_s)


async def test_paths_in_a_mount_go_to_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "link").symlink_to("d")
    (work / "outside").symlink_to("/")
    async with mounted(work) as control:
        ran = await run("lock", work / "d" / "f", "--reason", "why", "--wait", "2s")
        assert (ran.code, ran.err) == (0, "")
        assert ran.out == f"locked     {SHOWN}  for 7h59m, token 7\n"
        await run("lock", work, work / "link", work / "link" / "f", work / "d" / "..", "work/x")
        monkeypatch.chdir(work / "d")
        ran = await run("lock", "f", ".", "../link", "new", "../outside")
        assert ran.code == 0, ran.err
    assert control.asked == [
        asked(b"d/f", reason="why", wait_s=2.0),
        asked(b"", b"link", b"d/f", b"", b"x"),
        asked(b"d/f", b"d", b"link", b"d/new", b"outside"),
    ]


async def test_unlock_and_locks_go_there_too(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mounted(work) as control:
        ran = await run("unlock", "work/f")
        assert ran.out == "unlocked   f\n"
        ran = await run("unlock", "work/f", "--force")
        assert ran.out.startswith("broken     f  was of bob\\x1b on box\\x1b, since ")
        ran = await run("locks", "work/d")
        assert ran.code == 0 and ran.out.startswith(
            f"{SHOWN}  bob\\x1b on box\\x1b, since 12s: new"
        )
        monkeypatch.chdir(work)
        assert (await run("locks")).out == (await run("locks", ".")).out == ran.out
    f = RelPath.parse(b"f")
    root = RelPath()
    assert control.asked == [((f,), False), ((f,), True), RelPath.parse(b"d"), root, root]


async def test_what_cannot_be_meant_is_refused(work: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with mounted(work) as control, mounted(tmp_path / "other") as other:
        for second in ("other/f", "f"):
            ran = await run("lock", "work/f", second)
            assert ran.code == ExitCode.USAGE
            assert "not all in one running mount" in ran.err
        ran = await run("lock", "work/.syncline/state")
        assert ran.code == ExitCode.USAGE and "never synced" in ran.err
    assert control.asked == other.asked == []


def test_a_status_shows_locks_and_whose_they_are() -> None:
    lines = [line for line in status_lines(BUSY) if line.startswith("  lock ")]
    assert lines[0].startswith("  lock        own  own lock of this mount, since 2023-")
    assert lines[1].startswith("  lock        .  locked by bob\\x1b on box\\x1b, since 2023-")
    assert lines[1].endswith(": new figures\\x1b")
    assert lines[2] == "  lock        and 1 more"
    record = status_record(BUSY)
    assert record["lock_count"] == 3
    assert record["locks"] == [
        {
            "path": path,
            "entry": LOCK.entry.hex(),
            "token": 7,
            "own": is_own,
            "holder": "bob\x1b",
            "replica": LOCK.owner.author.replica.hex(),
            "host": "box\x1b",
            "session": LOCK.owner.session.hex(),
            "reason": "new figures\x1b",
            "since": "2023-11-14T22:13:20.123456Z",
            "since_ns": LOCK.granted_ns,
        }
        for path, is_own in (("own", True), ("", False))
    ]


def test_the_live_view_shows_some_locks_and_counts_the_rest() -> None:
    locks = tuple(MountLock(RelPath.parse(b"%d" % n), LOCK, False) for n in range(LOCKS_MAX + 3))
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(view(replace(IDLE, locks=locks, lock_count=50)))
    lines = console.export_text().splitlines()
    assert sum("locked by bob" in line for line in lines) == LOCKS_MAX
    assert f"and {50 - LOCKS_MAX} more locks: 'syncline locks' shows them" in lines
    assert LOCATED.lock == LOCK
