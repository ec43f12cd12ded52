"""status, wait and resume: against a running mount, over its real control connection."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.cli.exits import ExitCode
from syncline.cli.live_view import view
from syncline.cli.main import group
from syncline.cli.mount_records import (
    PHASES,
    change_record,
    next_step,
    plan_line,
    plan_records,
    problem_record,
    resume_record,
    status_lines,
    status_record,
    wait_record,
)
from syncline.client.mount.problems import IGNORE_RULE, exceptions_shown
from syncline.compose.control import serving_control
from syncline.compose.mount_places import claimed
from syncline.core.identity import ROOT_ID, ReplicaId
from syncline.core.ignore import parse_patterns
from syncline.core.names import RelPath
from syncline.core.trees import ProblemCode
from syncline.ports.link import Effect
from syncline.ports.mount_control import (
    MountPhase,
    MountProblem,
    MountStatus,
    PlannedStep,
    PlanShown,
    ResumeEnd,
    ResumeResult,
    WaitEnd,
    WaitResult,
)
from syncline.ports.mount_state import MountFacts, ObstacleReason
from tests.support.mount_control import (
    AWAY,
    BUSY,
    HALT,
    HALTED,
    IDLE,
    RAW,
    SHOWN,
    ScriptedControl,
)
from tests.support.wait import eventually

CLI_DOC = Path(__file__).parents[2] / "docs" / "CLI.md"


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, object]:
        """Return the only object that was said."""
        [line] = self.out.splitlines()
        return json.loads(line)


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
async def mounted(
    directory: Path, status: MountStatus = IDLE, state: Path | None = None
) -> AsyncIterator[ScriptedControl]:
    control = ScriptedControl(status)
    with claimed(os.fsencode(directory), state) as place:
        async with serving_control(place.state, control):
            yield control


class TestStatus:
    @pytest.mark.parametrize("status", [IDLE, BUSY, AWAY, HALTED])
    async def test_it_tells_all_as_lines_and_as_an_object(
        self, work: Path, status: MountStatus
    ) -> None:
        async with mounted(work, status):
            ran = await run("status", work)
            assert ran.out.splitlines() == status_lines(status)
            told = await run("status", work, "--json")
        assert told.record == json.loads(json.dumps(status_record(status)))
        code = ExitCode.HALTED if status is HALTED else ExitCode.OK
        assert (ran.code, told.code, ran.err, told.err) == (code, code, "", "")

    async def test_a_bad_ignore_rule_is_told_with_its_line_and_what_to_do(self, work: Path) -> None:
        bad = {ROOT_ID: parse_patterns(b"*.tmp\n!\n").bad}
        state = MemoryMountState(MountFacts(ReplicaId(bytes(16)), None, None))
        with state.session() as session:
            problems = exceptions_shown(session, bad)
        told = replace(IDLE, problem_count=1, problems=problems)
        async with mounted(work, told):
            ran = await run("status", work)
            record = (await run("status", work, "--json")).record
        step = "mend the line, or remove it: it means nothing, and the other lines count"
        line = f".synclineignore: ignore_rule (line 2 is no pattern: '!'); {step}"
        assert f"  problem     {line}" in ran.out.splitlines()
        assert ran.out.splitlines()[0].endswith("in sync")
        assert record["problems"] == [
            {
                "path": ".synclineignore",
                "code": "ignore_rule",
                "detail": "line 2 is no pattern: '!'",
                "next_step": step,
            }
        ]
        console = Console(file=io.StringIO(), width=200)
        console.print(view(told))
        assert isinstance(console.file, io.StringIO)
        assert line in console.file.getvalue()

    async def test_it_finds_the_mount_around_and_a_state_elsewhere(
        self, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (work / "below").mkdir()
        monkeypatch.chdir(work / "below")
        async with mounted(work, state=tmp_path / "chosen"):
            assert (await run("status")).code == ExitCode.OK
            assert (await run("status", work / "below")).code == ExitCode.OK

    async def test_nothing_is_mounted_or_it_does_not_run(self, work: Path) -> None:
        never = await run("status", work)
        async with mounted(work):
            pass
        ended = await run("status", work, "--json")
        assert (never.code, ended.code) == (ExitCode.NOT_FOUND, ExitCode.NOT_FOUND)
        assert "nor a directory above it is mounted" in never.err
        assert ended.err == "syncline: the mount does not run; start it with 'syncline mount'\n"
        assert ended.record["result"] == "failed"
        error = ended.record["error"]
        assert isinstance(error, dict)
        assert error["fields"] == {"reason": "not_running"}


class TestWait:
    async def test_in_sync(self, work: Path) -> None:
        async with mounted(work):
            ran = await run("wait", work)
            told = await run("wait", work, "--json")
        assert (ran.code, ran.out) == (0, "in sync  revision 12 of 12  5000 entries\n")
        assert (told.code, told.record["result"]) == (0, "in_sync")

    async def test_it_waits(self, work: Path) -> None:
        async with mounted(work, BUSY) as control, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(run("wait", work, "--timeout", "60"))
            await eventually(lambda: bool(control.asked), "the wait came")
            assert control.asked == [("wait", 60.0)]
            control.show(IDLE)
            assert (await waiting).code == ExitCode.OK

    @pytest.mark.parametrize(
        ("phase", "code", "result", "said"),
        [
            (MountPhase.SYNCING, ExitCode.TIMED_OUT, "timed_out", "3 to store, 2 to place"),
            (MountPhase.WAITING, ExitCode.PARTIAL, "problems", f"{SHOWN}: special (a FIFO); "),
            (MountPhase.HALTED, ExitCode.HALTED, "halted", "'syncline resume'"),
            (MountPhase.STOPPING, ExitCode.UNREACHABLE, "stopped", "ended before all was in sync"),
        ],
    )
    async def test_other_ends(
        self, work: Path, phase: MountPhase, code: ExitCode, result: str, said: str
    ) -> None:
        async with mounted(work, replace(BUSY, phase=phase)):
            ran = await run("wait", work, "--timeout", "0.01")
            told = await run("wait", work, "--timeout", "0.01", "--json")
        assert (ran.code, told.code, ran.out) == (code, code, "")
        assert said in ran.err
        assert told.record["result"] == result
        assert "\x1b" not in ran.err + told.out

    @pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf", "1e12"])
    async def test_a_time_that_makes_no_sense(self, work: Path, seconds: str) -> None:
        import click

        with pytest.raises(click.BadParameter, match="number of seconds"):
            await run("wait", work, "--timeout", seconds)

    async def test_a_mount_that_dies_meanwhile(self, work: Path) -> None:
        async with asyncio.TaskGroup() as tasks:
            async with mounted(work, BUSY) as control:
                waiting = tasks.create_task(run("wait", work))
                await eventually(lambda: bool(control.asked), "the wait came")
            ran = await waiting
        assert ran.code == ExitCode.UNREACHABLE
        assert "the mount ended in the middle" in ran.err


class TestResume:
    async def test_it_shows_and_goes_on_only_with_yes(self, work: Path) -> None:
        async with mounted(work, HALTED) as control:
            shown = await run("resume", work)
            assert shown.code == ExitCode.HALTED
            assert shown.out.splitlines() == [
                "halted: 2000 of 3000 entries were deleted",
                "resuming will: delete 2000 entries",
            ]
            assert "--yes" in shown.err
            assert control.asked == [("resume", None)]
            done = await run("resume", work, "--yes")
            assert (done.code, done.out.splitlines()[-1]) == (0, "resumed")
            assert control.asked[1:] == [("resume", None), ("resume", HALT)]
            again = await run("resume", work, "--yes")
            assert (again.code, again.out) == (0, "nothing to resume: the mount is not halted\n")

    async def test_objects(self, work: Path) -> None:
        async with mounted(work, HALTED):
            shown = await run("resume", work, "--json")
            assert (shown.code, shown.record["result"]) == (ExitCode.HALTED, "halted")
            done = await run("resume", work, "--json", "--yes")
            assert (done.code, done.record["result"]) == (0, "resumed")
            assert done.record["halt"] == {
                "reason": "mass_delete",
                "detail": HALT.detail,
                "resume": HALT.resume,
                "count": HALT.count,
            }
            again = await run("resume", work, "--json")
            assert again.record == {"result": "not_halted", "halt": None}

    async def test_what_changed_in_the_meantime_is_not_agreed_to(self, work: Path) -> None:
        worse = replace(HALT, detail="all entries were deleted")

        class Worsening(ScriptedControl):
            async def resume(self, agreed: object) -> ResumeResult:
                self.asked.append(agreed)
                halt = HALT if agreed is None else worse
                return ResumeResult(ResumeEnd.HALTED, halt)

        control = Worsening(HALTED)
        with claimed(os.fsencode(work), None) as place:
            async with serving_control(place.state, control):
                ran = await run("resume", work, "--yes")
        assert ran.code == ExitCode.HALTED
        assert "has changed in the meantime" in ran.err
        assert control.asked == [None, HALT]

    @pytest.mark.process
    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 19), (b"\n", 19)])
    async def test_it_asks_on_a_terminal(self, work: Path, answer: bytes, code: int) -> None:
        async with mounted(work, HALTED) as control:
            ended, shown = await asyncio.to_thread(_on_terminal, answer, work)
            assert ended == code, shown
            assert b"Go on? [y/N]" in shown
            assert (control.status().halt is None) == (code == 0)


def _on_terminal(answer: bytes, work: Path) -> tuple[int, bytes]:
    above, below = pty.openpty()
    with os.fdopen(above, "r+b", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncline", "resume", work],
            stdin=below,
            stdout=below,
            stderr=below,
        )
        os.close(below)
        terminal.write(answer)
        shown = b""
        # EIO is how a terminal says that nobody holds its other side any more.
        with suppress(OSError):
            while piece := terminal.read(4096):
                shown += piece
        return process.wait(60), shown


class TestRecords:
    def test_every_problem_has_a_next_step_of_its_own(self) -> None:
        codes = [code.value for kind in (ProblemCode, ObstacleReason) for code in kind]
        steps = [next_step(MountProblem(RelPath(), code, "")) for code in [*codes, IGNORE_RULE]]
        assert "look into the log of the mount" not in steps
        other = next_step(MountProblem(RelPath(), "quite new", ""))
        assert other == "look into the log of the mount"

    def test_every_phase_has_words(self) -> None:
        assert PHASES.keys() == set(MountPhase)

    def test_names_and_what_a_server_says_are_escaped(self) -> None:
        evil = replace(
            BUSY, volume="v\x1b[2J", replica="\x07", is_connected=False, connection_error="\x9b2J"
        )
        text = "\n".join(status_lines(evil))
        assert text.replace("\n", "").isprintable()
        assert SHOWN in text
        assert status_record(evil)["directory"] == "/home/\\xff/work"

    def test_a_plan(self) -> None:
        path = RelPath.parse(RAW)
        plan = PlanShown(
            (
                PlannedStep(True, Effect.CREATED, path, 2048),
                PlannedStep(False, Effect.MOVED, path, 0, RelPath.parse(b"old")),
            ),
            (MountProblem(path, "special", ""),),
        )
        assert [plan_line(step) for step in plan.steps] == [
            f"volume     created  {SHOWN}  2.0 KiB",
            f"directory  moved    old -> {SHOWN}",
        ]
        *steps, problem, whole = plan_records(plan)
        assert [step["direction"] for step in steps] == ["up", "down"]
        assert problem["code"] == "special"
        assert whole == {"result": "plan", "steps": 2, "problem_count": 1, "halt": None}

    def test_the_document_names_every_field_of_every_object(self) -> None:
        document = CLI_DOC.read_text("utf-8")
        status = replace(BUSY, halt=HALT)
        plan = PlanShown((PlannedStep(True, Effect.CREATED, RelPath()),), (), HALT)
        objects = [
            status_record(status),
            problem_record(BUSY.problems[0]),
            change_record(BUSY.changes[0]),
            wait_record(WaitResult(WaitEnd.IN_SYNC, status)),
            resume_record(ResumeResult(ResumeEnd.HALTED, HALT)),
            *plan_records(plan),
        ]
        names = {name for each in objects for name in each}
        names |= {name for each in objects for name in _nested(each)}
        values = [each.value for kind in (MountPhase, WaitEnd, ResumeEnd) for each in kind]
        values += [code.value for kind in (ProblemCode, ObstacleReason) for code in kind]
        values.append(IGNORE_RULE)
        missing = [name for name in sorted({*names, *values}) if f"`{name}`" not in document]
        assert not missing

    def test_the_document_has_the_commands(self) -> None:
        document = CLI_DOC.read_text("utf-8")
        for name in ("mount DIR", "status [DIR]", "wait [DIR]", "resume [DIR]"):
            assert re.search(rf"(?m)^syncline {re.escape(name)}", document)


def _nested(record: object) -> set[str]:
    if isinstance(record, dict):
        return set(record) | {n for v in record.values() for n in _nested(v)}
    if isinstance(record, list):
        return {name for each in record for name in _nested(each)}
    return set()
