"""`syncline mount` itself: its events, its live view, and how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from syncline.cli import mount_events
from syncline.cli.exits import ExitCode
from syncline.cli.live_view import CHANGES_MAX, PROBLEMS_MAX, show_live, view
from syncline.cli.mount_events import event_records, events, follow
from syncline.cli.mounting import keep_mounted, show_plan, sync_once
from syncline.cli.output import Output
from syncline.core.names import RelPath
from syncline.errors import NotFound, Unavailable
from syncline.ports.link import Effect
from syncline.ports.mount_control import (
    Change,
    MountPhase,
    MountProblem,
    MountStatus,
    PlannedStep,
    PlanShown,
)
from tests.support.mount_control import AWAY, BUSY, HALT, HALTED, IDLE, SHOWN, ScriptedControl
from tests.support.processes import line_of
from tests.support.wait import eventually

TIMEOUT_S = 60


def said(before: MountStatus | None, now: MountStatus) -> list[str]:
    return [event.text for event in events(before, now)]


def names(before: MountStatus | None, now: MountStatus) -> list[str]:
    return [text.split()[0] for text in said(before, now)]


class TestEvents:
    def test_the_first_look_tells_where_it_stands(self) -> None:
        assert names(None, IDLE) == ["mount_started", "mount_connected", "mount_phase"]
        assert names(None, AWAY) == ["mount_started", "mount_disconnected", "mount_phase"]

    def test_no_change_says_nothing(self) -> None:
        for status in (IDLE, BUSY, AWAY, HALTED):
            assert names(status, status) == []
            assert names(status, replace(status, pending_up=9, transfers=())) == []
            assert list(event_records(status, replace(status, pending_up=9))) == []

    def test_a_lost_connection_is_told_once_and_again_for_another_reason(self) -> None:
        assert names(IDLE, replace(IDLE, is_connected=False)) == ["mount_disconnected"]
        assert names(AWAY, replace(AWAY, connection_error="other")) == ["mount_disconnected"]
        assert names(AWAY, replace(AWAY, connection_error=None)) == []
        assert names(AWAY, replace(AWAY, is_connected=True)) == ["mount_connected"]

    def test_each_change_is_told_once_and_the_rest_are_counted(self) -> None:
        before = replace(BUSY, change_count=5, changes=())
        assert names(before, BUSY) == ["mount_change", "mount_change"]
        assert names(replace(BUSY, change_count=6), BUSY) == ["mount_change"]
        counted = said(replace(before, change_count=0), BUSY)
        assert counted[0] == "mount_changes count=5"
        assert len(counted) == 3
        assert counted[2].endswith("way=down effect=moved path='new' old_path='old'")
        records = list(event_records(replace(BUSY, change_count=6), BUSY))
        assert [(each["event"], each["path"]) for each in records] == [("change", "new")]

    def test_problems_come_and_go(self) -> None:
        assert names(replace(BUSY, problems=(), problem_count=0), BUSY) == ["mount_problem"] * 2
        one = replace(BUSY, problems=BUSY.problems[:1], problem_count=1)
        assert said(BUSY, one) == ["mount_problems_left count=1"]

    def test_a_halt_is_an_error_and_exhausted_watches_a_warning(self) -> None:
        [halted, phase] = events(IDLE, HALTED)
        assert halted.level == logging.ERROR
        assert "next='syncline resume'" in halted.text
        assert phase.text.startswith("mount_phase phase=halted")
        [warned] = events(IDLE, replace(IDLE, is_watch_degraded=True))
        assert warned.level == logging.WARNING

    def test_every_line_is_printable(self) -> None:
        evil = replace(BUSY, volume="\x1b", server="\x1b", replica="\x1b", connection_error="\x1b")
        evil = replace(evil, is_connected=False, halt=replace(HALT, detail="\x1b", resume="\n"))
        told = said(None, evil)
        assert all(line.isprintable() for line in told)
        assert any(SHOWN in line for line in told)

    async def test_following_tells_all_and_what_came_last(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mount_events, "LOOK_PAUSE_S", 3600)
        control = ScriptedControl(AWAY)
        told: list[tuple[MountStatus | None, MountStatus]] = []
        async with asyncio.TaskGroup() as group:
            following = group.create_task(
                follow(control, lambda before, now: told.append((before, now)))
            )
            await eventually(lambda: bool(told), "the first look")
            control.show(BUSY)
            control.show(IDLE)
            following.cancel()
        assert told == [(None, AWAY), (AWAY, IDLE)]


def drawn(status: MountStatus, *, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(view(status))
    return out.getvalue()


class TestLiveView:
    def test_it_shows_state_transfers_problems_and_changes(self) -> None:
        text = drawn(BUSY, width=300)
        for piece in ("syncing", "photos on 127.0.0.1:1", "revision 12 of 14", "3 to store"):
            assert piece in text
        assert f"{SHOWN}: special (a FIFO); remove it" in text
        assert "1.0 KiB of 4.0 KiB" in text
        assert "old -> new" in text
        assert "watches" in text

    def test_a_halt_says_what_to_do(self) -> None:
        text = drawn(HALTED, width=200)
        assert "halted: 2000 of 3000 entries were deleted" in text
        assert "'syncline resume' will: delete 2000 entries" in text

    def test_nothing_is_wider_than_the_terminal_or_longer_than_a_screen(self) -> None:
        many = replace(
            BUSY,
            problems=tuple(
                MountProblem(RelPath.parse(b"%03d" % n + b"x" * 200), "unread", "why")
                for n in range(100)
            ),
            problem_count=1000,
            transfers=BUSY.transfers * 20,
            changes=tuple(
                Change(n, Effect.CREATED, RelPath.parse(b"y" * 200), True, n) for n in range(20)
            ),
        )
        lines = drawn(many, width=60).splitlines()
        assert len(lines) <= 24
        assert all(len(line.rstrip()) <= 60 for line in lines)
        assert f"and {1000 - PROBLEMS_MAX} more problems" in "\n".join(lines)
        assert sum("created" in line for line in lines) == CHANGES_MAX

    def test_markup_in_names_is_text(self) -> None:
        path = RelPath.parse(b"[bold red]x[/]")
        status = replace(IDLE, changes=(Change(1, Effect.CREATED, path, True, 0),), change_count=1)
        assert "[bold red]x[/]" in drawn(status)

    async def test_it_draws_what_changes_and_the_end(self) -> None:
        out = io.StringIO()
        console = Console(file=out, width=100, force_terminal=True)
        control = ScriptedControl(AWAY)
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(show_live(control, console))
            await eventually(lambda: "waiting for the server" in out.getvalue(), "the first")
            control.show(BUSY)
            await eventually(lambda: "syncing" in out.getvalue(), "the second")
            control.show(HALTED)
            showing.cancel()
        assert "halted: 2000" in out.getvalue()


class TestKeepMounted:
    async def test_until_it_is_told_to_stop(
        self, capfdbinary: pytest.CaptureFixture[bytes]
    ) -> None:
        control = ScriptedControl(BUSY)
        stopping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            output = Output(is_json=False)
            keeping = group.create_task(keep_mounted(control.mounted(), output, stopping))
            await eventually(lambda: control.is_open, "mounted")
            stopping.set()
            assert await keeping is ExitCode.OK
        assert not control.is_open
        line = capfdbinary.readouterr().out.decode()
        assert line == "syncline: mounting volume 'photos' of 127.0.0.1:1 in /home/\\xff/work\n"

    async def test_objects(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        control = ScriptedControl(AWAY)
        stopping = asyncio.Event()
        told: list[dict[str, object]] = []

        def phases() -> list[object]:
            lines = capfdbinary.readouterr().out.splitlines()
            told.extend(json.loads(line) for line in lines)
            return [each["phase"] for each in told if each["event"] == "status"]

        async with asyncio.TaskGroup() as group:
            output = Output(is_json=True)
            group.create_task(keep_mounted(control.mounted(), output, stopping))
            await eventually(lambda: phases() == ["connecting"], "the first status")
            control.show(BUSY)
            await eventually(lambda: phases() == ["connecting", "syncing"], "the second")
            stopping.set()
        assert [each["path"] for each in told if each["event"] == "change"] == [SHOWN, "new"]

    async def test_an_error_of_the_mount_ends_it(self) -> None:
        @asynccontextmanager
        async def failing() -> AsyncIterator[ScriptedControl]:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                yield ScriptedControl()

        async def fail() -> None:
            raise NotFound("there is no volume 'x'")

        with pytest.raises(BaseExceptionGroup) as raised:
            await keep_mounted(failing(), Output(is_json=False), asyncio.Event())
        assert raised.value.subgroup(NotFound) is not None


class TestOnce:
    @pytest.mark.parametrize(
        ("status", "code"),
        [
            (IDLE, ExitCode.OK),
            (replace(BUSY, phase=MountPhase.WAITING), ExitCode.PARTIAL),
            (HALTED, ExitCode.HALTED),
        ],
    )
    async def test_it_ends_with_what_came_of_it(self, status: MountStatus, code: ExitCode) -> None:
        control = ScriptedControl(replace(BUSY, phase=MountPhase.SCANNING))
        async with asyncio.TaskGroup() as group:
            once = group.create_task(sync_once(control.mounted(), Output(is_json=False), 20))
            await eventually(lambda: bool(control.asked), "it waits")
            control.show(status)
            assert await once is code
        assert not control.is_open

    async def test_it_does_not_wait_for_a_server_for_ever(self) -> None:
        control = ScriptedControl(AWAY)
        with pytest.raises(BaseExceptionGroup) as raised:
            await sync_once(control.mounted(), Output(is_json=False), 0.02)
        [error] = raised.value.exceptions
        assert isinstance(error, Unavailable)
        assert AWAY.connection_error is not None
        assert AWAY.connection_error in error.message
        assert not control.is_open

    async def test_a_server_that_comes_in_time_is_soon_enough(self) -> None:
        control = ScriptedControl(AWAY)
        async with asyncio.TaskGroup() as group:
            once = group.create_task(sync_once(control.mounted(), Output(is_json=False), 20))
            await eventually(lambda: bool(control.asked), "it waits")
            control.show(IDLE)
            assert await once is ExitCode.OK


async def plan(shown: PlanShown) -> PlanShown:
    return shown


class TestDryRun:
    STEPS = (
        PlannedStep(True, Effect.DELETED, RelPath.parse(b"a")),
        PlannedStep(False, Effect.CREATED, RelPath.parse(b"b"), 3),
    )

    async def test_lines(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        problems = BUSY.problems[:1]
        code = await show_plan(plan(PlanShown(self.STEPS, problems)), Output(is_json=False))
        out, err = capfdbinary.readouterr()
        assert code is ExitCode.OK
        assert out.decode().splitlines() == [
            "volume     deleted  a",
            "directory  created  b  3 B",
            "1 to do in the volume, 1 in the directory; nothing was done",
        ]
        assert SHOWN in err.decode()

    async def test_objects_and_a_halt(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        code = await show_plan(plan(PlanShown(self.STEPS, (), HALT)), Output(is_json=True))
        out, err = capfdbinary.readouterr()
        assert code is ExitCode.HALTED
        records = [json.loads(line) for line in out.splitlines()]
        assert [each["result"] for each in records] == ["planned", "planned", "halted"]
        assert b"2000 of 3000" in err


SCRIPT = """
import asyncio, logging, sys, threading
from contextlib import asynccontextmanager
from syncline.cli import mounting
from syncline.cli.output import Output
from syncline.cli.session import start_log
from tests.support.mount_control import BUSY, ScriptedControl

control = ScriptedControl(BUSY)
mounted = control.mounted

@asynccontextmanager
async def stuck():
    yield control
    await asyncio.to_thread(threading.Event().wait)

if "stuck" in sys.argv:
    mounting.STOP_S = 0.05
    mounted = stuck
start_log(logging.INFO, 0)
sys.exit(mounting.run_mounted(mounted(), Output(is_json="json" in sys.argv)))
"""


@pytest.mark.process
class TestProcess:
    def start(self, *arguments: str, **streams: int) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            cwd=root,
            env={**os.environ, "TZ": "UTC", "TERM": "xterm"},
            **{**pipes, **streams},
        )

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_in_order(self, number: signal.Signals) -> None:
        with self.start() as process:
            assert line_of(process).startswith(b"syncline: mounting volume 'photos'")
            process.send_signal(number)
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, out) == (0, b"")
        told = err.decode()
        assert "mount_started" in told
        assert told.splitlines()[-1].endswith("mount_stopped")

    def test_one_that_cannot_stop_is_ended_all_the_same(self) -> None:
        with self.start("stuck") as process:
            line_of(process)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == ExitCode.TERMINATED
        assert b"mount_stop_forced" in err

    def test_a_reader_that_goes_away_ends_it(self) -> None:
        above, below = os.pipe()
        os.close(above)
        with self.start("json", stdout=below) as process:
            os.close(below)
            assert process.wait(TIMEOUT_S) == ExitCode.PIPE_CLOSED
            process.communicate(timeout=TIMEOUT_S)

    def test_a_terminal_gets_the_live_view_and_no_log_lines(self) -> None:
        above, below = pty.openpty()
        with self.start(stdout=below) as process, os.fdopen(above, "rb", buffering=0) as terminal:
            os.close(below)
            shown = b""
            started_s = time.monotonic()
            while b"old -> new" not in shown and time.monotonic() - started_s < TIMEOUT_S:
                shown += terminal.read(4096)
            process.send_signal(signal.SIGTERM)
            with suppress(OSError):
                # EIO is how a terminal says that nobody holds its other side any more.
                while piece := terminal.read(4096):
                    shown += piece
            _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        assert b"syncing" in shown
        assert b"mount_change" not in err
