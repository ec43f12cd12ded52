"""`syncline verify`: what it says and how it ends, over the control connection of a mount."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from syncline.cli.exits import ExitCode
from syncline.cli.main import group
from syncline.cli.mount_records import next_step
from syncline.cli.verify_records import verify_records
from syncline.compose.control import serving_control
from syncline.compose.mount_places import claimed
from syncline.core.names import RelPath
from syncline.ports.mount_control import (
    FindingCode,
    MountProblem,
    MountStatus,
    VerifyEnd,
    VerifyResult,
)
from tests.support.mount_control import BUSY, HALTED, IDLE, ROTTEN, SHOWN, ScriptedControl
from tests.support.wait import eventually

CLI_DOC = Path(__file__).parents[2] / "docs" / "CLI.md"

EQUAL = VerifyResult(VerifyEnd.EQUAL, IDLE, 5000, 7 * 1024 * 1024)


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
    def records(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


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
    directory: Path, result: VerifyResult | None, status: MountStatus = IDLE
) -> AsyncIterator[ScriptedControl]:
    control = ScriptedControl(status)
    control.verified = result
    with claimed(os.fsencode(directory), None) as place:
        async with serving_control(place.state, control):
            yield control


async def test_equal(work: Path) -> None:
    async with mounted(work, EQUAL):
        ran = await run("verify", work)
        told = await run("verify", work, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "equal     5000 entries, 7.0 MiB read, revision 12\n"
    assert told.records == json.loads(json.dumps(list(verify_records(EQUAL))))
    assert (told.code, told.records[-1]["result"]) == (0, "equal")


async def test_findings_have_a_path_a_reason_and_a_next_step(work: Path) -> None:
    async with mounted(work, ROTTEN):
        ran = await run("verify", work)
        told = await run("verify", work, "--json")
    assert (ran.code, told.code) == (ExitCode.DIFFERENT, ExitCode.DIFFERENT)
    assert ran.out.splitlines() == [
        f"finding   {SHOWN}: content_differs (other bytes\\x1b); {next_step(ROTTEN.findings[0])}",
        "finding   and 2 more, in its log",
        f"changing  {SHOWN}",
        "changing  and 1 more",
        "refilled  2 files that were damaged at the server",
    ]
    assert ran.err == "syncline: 3 findings; each says what to do\n"
    [finding, changing, end] = told.records
    assert (finding["result"], finding["path"]) == ("finding", SHOWN)
    assert finding["code"] == "content_differs"
    assert finding["next_step"] == next_step(ROTTEN.findings[0])
    assert changing == {"result": "changing", "path": SHOWN}
    assert (end["result"], end["findings"], end["changing"]) == ("findings", 3, 2)
    assert (end["entries"], end["size"], end["refilled"]) == (5000, 7_000_000, 2)


@pytest.mark.parametrize(
    ("result", "code", "said"),
    [
        (
            VerifyResult(VerifyEnd.PENDING, BUSY, pending=(RelPath.parse(b"x"),), pending_count=1),
            ExitCode.PARTIAL,
            "1 paths change all the time and 2 have problems; see them with 'syncline status'",
        ),
        (VerifyResult(VerifyEnd.HALTED, HALTED), ExitCode.HALTED, "'syncline resume'"),
        (VerifyResult(VerifyEnd.STOPPED, IDLE), ExitCode.UNREACHABLE, "start it again"),
    ],
)
async def test_other_ends(work: Path, result: VerifyResult, code: ExitCode, said: str) -> None:
    async with mounted(work, result):
        ran = await run("verify", work)
        told = await run("verify", work, "--json")
    assert (ran.code, told.code) == (code, code)
    assert said in ran.err
    assert told.records[-1]["result"] == result.end.value


async def test_it_gives_up_in_time(work: Path) -> None:
    async with mounted(work, None, BUSY) as control:
        ran = await run("verify", work, "--timeout", "0.01")
        assert control.asked == [("verify", 0.01)]
    assert ran.code == ExitCode.TIMED_OUT
    assert "not verified after 0.01 s: 40 of 5000 entries were read" in ran.err
    assert "--timeout SECONDS" in ran.err


async def test_where_nothing_is_mounted(work: Path) -> None:
    ran = await run("verify", work)
    assert ran.code == ExitCode.NOT_FOUND
    assert "start it with 'syncline mount'" in ran.err or "syncline mount" in ran.err
    told = await run("verify", work, "--json")
    assert told.records[-1]["result"] == "failed"


async def test_a_mount_that_does_not_run(work: Path) -> None:
    async with mounted(work, EQUAL):
        pass
    ran = await run("verify", work)
    assert ran.code == ExitCode.NOT_FOUND
    assert "the mount does not run; start it with 'syncline mount'" in ran.err


def start_on_terminal(work: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Verify in a process with a terminal; return it, and our end of that."""
    outer, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "syncline", "verify", work],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(inner)
    return process, outer


async def on_terminal(work: Path, control: ScriptedControl, *, is_interrupted: bool) -> str:
    """Return the exit code, and what it showed on its terminal."""
    process, outer = start_on_terminal(work)
    shown = bytearray()

    def follow() -> None:
        with suppress(OSError):
            while piece := os.read(outer, 4096):
                shown.extend(piece)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.to_thread(follow))
            await eventually(lambda: b"40 of 5000 entries" in shown, "it shows how far it is")
            if is_interrupted:
                process.send_signal(signal.SIGINT)
            else:
                control.verified = EQUAL
                control.show(IDLE)
            code = await asyncio.to_thread(process.wait, 60)
    finally:
        process.kill()
        process.wait()
        os.close(outer)
    return f"{code} {shown.decode()}"


@pytest.mark.process
async def test_a_terminal_shows_how_far_it_is(work: Path) -> None:
    async with mounted(work, None, BUSY) as control:
        shown = await on_terminal(work, control, is_interrupted=False)
        assert shown.startswith("0 ")
        assert "equal     5000 entries" in shown


@pytest.mark.process
async def test_it_can_be_interrupted_on_a_terminal(work: Path) -> None:
    async with mounted(work, None, BUSY) as control:
        shown = await on_terminal(work, control, is_interrupted=True)
        assert shown.startswith("130 ")
        await eventually(lambda: "cancelled" in control.asked, "the mount gave it up")


def test_each_finding_has_a_next_step_and_a_line_in_the_documentation() -> None:
    text = CLI_DOC.read_text()
    unknown = next_step(MountProblem(RelPath(), "something new", ""))
    for code in FindingCode:
        assert next_step(MountProblem(RelPath(), code.value, "")) != unknown
        assert f"| `{code.value}` |" in text
    for end in VerifyEnd:
        assert f"`{end.value}`" in text
    record = list(verify_records(replace(EQUAL, end=VerifyEnd.FINDINGS)))[-1]
    section = text[text.index("**verify**") :].split("\n\n")[0]
    assert all(f"`{field}`" in section for field in record)
