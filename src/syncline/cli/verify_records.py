"""How a verification looks: lines for people, objects for programs, and the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from syncline.cli.exits import ExitCode
from syncline.cli.mount_records import (
    conclude_halt,
    pending_text,
    problem_line,
    problem_record,
    status_record,
    verifying_text,
)
from syncline.cli.output import Json, Output
from syncline.cli.records import shown, size_text
from syncline.ports.mount_control import VerifyEnd, Verifying, VerifyResult


def verify_records(result: VerifyResult) -> Iterator[dict[str, Json]]:
    """Yield each finding, each path that could not be compared, and what it came to."""
    for finding in result.findings:
        yield {"result": "finding", **problem_record(finding)}
    for path in result.pending:
        yield {"result": "changing", "path": str(path)}
    yield {
        "result": result.end.value,
        "entries": result.entries,
        "size": result.size,
        "refilled": result.refilled,
        "findings": result.finding_count,
        "changing": result.pending_count,
        "status": status_record(result.status),
    }


def conclude_verify(result: VerifyResult, output: Output, timeout_s: float | None) -> ExitCode:
    """Say what a verification came to, and return the exit code for it."""
    if output.is_json:
        for record in verify_records(result):
            output.record(record)
    else:
        for line in _lines(result):
            output.line(line)
    status = result.status
    match result.end:
        case VerifyEnd.EQUAL:
            return ExitCode.OK
        case VerifyEnd.FINDINGS:
            output.complain(f"{result.finding_count} findings; each says what to do")
            return ExitCode.DIFFERENT
        case VerifyEnd.PENDING:
            count, problems = result.pending_count, status.problem_count
            output.complain(
                f"nothing was found to be wrong, but {count} paths change all the time and"
                f" {problems} have problems; see them with 'syncline status', and verify again"
            )
            return ExitCode.PARTIAL
        case VerifyEnd.TIMED_OUT:
            bound = "" if timeout_s is None else f" after {timeout_s:g} s"
            output.complain(
                f"not verified{bound}: {result.entries} of {status.entries} entries were read,"
                f" {pending_text(status)}; give it longer with --timeout SECONDS"
            )
            return ExitCode.TIMED_OUT
        case VerifyEnd.HALTED:
            return conclude_halt(status.halt, output)
        case VerifyEnd.STOPPED:
            output.complain("the mount ended before all was verified; start it again")
            return ExitCode.UNREACHABLE


def _lines(result: VerifyResult) -> Iterator[str]:
    for finding in result.findings:
        yield f"finding   {problem_line(finding)}"
    if result.finding_count > len(result.findings):
        yield f"finding   and {result.finding_count - len(result.findings)} more, in its log"
    for path in result.pending:
        yield f"changing  {shown(path)}"
    if result.pending_count > len(result.pending):
        yield f"changing  and {result.pending_count - len(result.pending)} more"
    if result.refilled:
        yield f"refilled  {result.refilled} files that were damaged at the server"
    if result.end is VerifyEnd.EQUAL:
        read = size_text(result.size)
        yield f"equal     {result.entries} entries, {read} read, revision {result.status.cursor}"


class Drawing:
    """One line on a terminal that tells how far it is, gone at the end."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("verifying"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, told="")

    def __enter__(self) -> Drawing:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, verifying: Verifying | None) -> None:
        """Show how far it is; None: it waits for its turn, or for the sync."""
        if verifying is None or not verifying.total:
            self._progress.update(self._task, told="waits until the mount is in sync")
            return
        done, total = verifying.done, verifying.total
        told = verifying_text(verifying)
        self._progress.update(self._task, completed=done, total=total, told=told)
