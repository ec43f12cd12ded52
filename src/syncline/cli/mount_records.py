"""How a mount looks: lines for people, objects for programs, and what to do about each problem.

The objects are an interface: docs/CLI.md has their fields, and none of them goes away.
"""

from __future__ import annotations

from collections.abc import Iterator

from syncline.cli.exits import ExitCode
from syncline.cli.output import Json, Output
from syncline.cli.records import local_text, shown, size_text, utc_text
from syncline.cli.text import plain
from syncline.core.names import escape
from syncline.core.safety import Halt
from syncline.ports.link import Effect
from syncline.ports.mount_control import (
    Change,
    MountLock,
    MountPhase,
    MountProblem,
    MountStatus,
    PlannedStep,
    PlanShown,
    ResumeResult,
    Transfer,
    Verifying,
    WaitEnd,
    WaitResult,
)

PHASES = {
    MountPhase.STARTING: "starting",
    MountPhase.SCANNING: "looking at the directory",
    MountPhase.CONNECTING: "waiting for the server",
    MountPhase.SYNCING: "syncing",
    MountPhase.IN_SYNC: "in sync",
    MountPhase.WAITING: "waiting for you: some paths have problems",
    MountPhase.HALTED: "halted",
    MountPhase.STOPPING: "stopping",
}

_NEXT_STEPS = {
    "local_change": "nothing here is sent from a receive-only mount; move the change away, or mount"
    " with --mode two-way",
    "remote_change": "nothing is placed in a send-only mount; undo the change in the volume, or"
    " mount with --mode two-way",
    "unread": "make it readable for the user of the mount",
    "ignored": "take the rule out of .synclineignore, or delete the path in the volume",
    "ignore_rule": "mend the line, or remove it: it means nothing, and the other lines count",
    "obstructed": "move away what stands there and is never synced",
    "holds_unsynced": "remove what is in the directory and is never synced, or store it elsewhere",
    "links_not_held": "mount a directory on a file system that has symbolic links",
    "case_clash": "rename one of the two, so that they differ in more than case",
    "blocked": "look at the other problems first: it waits for one of them",
    "special": "remove it, or name it in .synclineignore: only files, directories and symbolic"
    " links are synced",
    "file_system": "mount what lies on the other file system by itself, or name it in"
    " .synclineignore",
    "name": "shorten the path to 4,096 bytes, or name it in .synclineignore",
    "busy": "wait until the program that writes it is done, or end that program",
    "no_space": "make room on the disk that is full",
    "local_failure": "check the path and its permissions on this machine",
    "locked": "wait: it is kept as it is here, and goes on when the lock ends",
    "corrupt": "let the operator check the server's data with 'syncline server verify'",
    "not_found": "store it again from a machine that has it: the server lacks its content",
    "too_large": "make it smaller, or name it in .synclineignore",
    "throttled": "wait: it is tried again by itself",
    "content_differs": "put back what was stored with 'syncline fetch', or 'touch' the file if what"
    " it holds now is right; and check the disk",
    "missing": "look into the log of the mount; if it stays, end the mount and start it again",
    "extra": "look into the log of the mount; if it stays, end the mount and start it again",
    "kind_differs": "look into the log of the mount; if it stays, end the mount and start it again",
    "mode_differs": "look into the log of the mount; if it stays, end the mount and start it again",
    "table_differs": "the mount asks for the whole table by itself; verify again a little later",
    "server_damaged": "store it with 'syncline store' from a machine or a backup that has it",
}


def next_step(problem: MountProblem) -> str:
    """Return what a user can do about a problem."""
    return _NEXT_STEPS.get(problem.code, "look into the log of the mount")


# -- Objects -----------------------------------------------------------------


def status_record(status: MountStatus) -> dict[str, Json]:
    """Return all that a mount shows of itself."""
    return {
        "phase": status.phase.value,
        "directory": escape(status.directory),
        "volume": status.volume,
        "server": status.server,
        "mode": status.mode.value,
        "name": status.replica,
        "connected": status.is_connected,
        "connection_error": status.connection_error,
        "cursor": status.cursor,
        "head": status.head,
        "pending_up": status.pending_up,
        "pending_down": status.pending_down,
        "entries": status.entries,
        "problem_count": status.problem_count,
        "problems": [problem_record(problem) for problem in status.problems],
        "transfers": [_transfer_record(transfer) for transfer in status.transfers],
        "change_count": status.change_count,
        "changes": [change_record(change) for change in status.changes],
        "halt": _halt_record(status.halt),
        "watch_degraded": status.is_watch_degraded,
        "verifying": verifying_record(status.verifying),
        "lock_count": status.lock_count,
        "locks": [_lock_record(lock) for lock in status.locks],
    }


def _lock_record(shown_lock: MountLock) -> dict[str, Json]:
    lock = shown_lock.lock
    return {
        "path": str(shown_lock.path),
        "entry": lock.entry.hex(),
        "token": lock.token,
        "own": shown_lock.is_own,
        "holder": lock.owner.author.name,
        "replica": lock.owner.author.replica.hex(),
        "host": lock.owner.host,
        "session": lock.owner.session.hex(),
        "reason": lock.reason,
        "since": utc_text(lock.granted_ns),
        "since_ns": lock.granted_ns,
    }


def verifying_record(verifying: Verifying | None) -> dict[str, Json] | None:
    """Return how far a verification is."""
    if verifying is None:
        return None
    return {"done": verifying.done, "total": verifying.total, "size": verifying.size}


def problem_record(problem: MountProblem) -> dict[str, Json]:
    """Return one path that is not in sync."""
    return {
        "path": str(problem.path),
        "code": problem.code,
        "detail": problem.detail,
        "next_step": next_step(problem),
    }


def _transfer_record(transfer: Transfer) -> dict[str, Json]:
    return {
        "path": str(transfer.path),
        "direction": _direction(is_up=transfer.is_upload),
        "done": transfer.done,
        "size": transfer.size,
    }


def change_record(change: Change) -> dict[str, Json]:
    """Return one entry that was stored or placed."""
    return {
        "effect": change.effect.value,
        "path": str(change.path),
        "old_path": None if change.old_path is None else str(change.old_path),
        "direction": _direction(is_up=change.is_local),
        "time": utc_text(change.wall_ns),
        "time_ns": change.wall_ns,
    }


def _direction(*, is_up: bool) -> str:
    return "up" if is_up else "down"


def _halt_record(halt: Halt | None) -> dict[str, Json] | None:
    if halt is None:
        return None
    return {
        "reason": halt.reason.value,
        "detail": halt.detail,
        "resume": halt.resume,
        "count": halt.count,
    }


def wait_record(result: WaitResult) -> dict[str, Json]:
    """Return how a wait ended."""
    return {"result": result.end.value, "status": status_record(result.status)}


def resume_record(result: ResumeResult) -> dict[str, Json]:
    """Return what became of a request to resume."""
    return {"result": result.end.value, "halt": _halt_record(result.halt)}


def plan_records(plan: PlanShown) -> Iterator[dict[str, Json]]:
    """Yield all that a mount would do, and what it would not; a summary comes last."""
    for step in plan.steps:
        yield {
            "result": "planned",
            "direction": _direction(is_up=step.is_upload),
            "effect": step.effect.value,
            "path": str(step.path),
            "old_path": None if step.old_path is None else str(step.old_path),
            "size": step.size,
        }
    for problem in plan.problems:
        yield {"result": "problem", **problem_record(problem)}
    yield {
        "result": "halted" if plan.halt else "plan",
        "steps": len(plan.steps),
        "problem_count": len(plan.problems),
        "halt": _halt_record(plan.halt),
    }


# -- Lines -------------------------------------------------------------------


def status_lines(status: MountStatus) -> list[str]:
    """Return all that a mount shows of itself, a fact a line."""
    lines = [f"{escape(status.directory)}: {PHASES[status.phase]}"]
    lines += [f"  {name:<10}  {value}" for name, value in _facts(status)]
    lines += [f"  transfer    {transfer_line(transfer)}" for transfer in status.transfers]
    lines += [f"  problem     {problem_line(problem)}" for problem in status.problems]
    hidden = status.problem_count - len(status.problems)
    if hidden > 0:
        lines.append(f"  problem     and {hidden} more")
    lines += [f"  lock        {lock_line(lock)}" for lock in status.locks]
    hidden = status.lock_count - len(status.locks)
    if hidden > 0:
        lines.append(f"  lock        and {hidden} more")
    lines += [f"  change      {change_line(change)}" for change in status.changes]
    return lines


def _facts(status: MountStatus) -> Iterator[tuple[str, str]]:
    yield "volume", f"{plain(status.volume)} on {plain(status.server)}, {status.mode.value}"
    yield "name", plain(status.replica)
    yield "connection", connection_text(status)
    yield "revision", revision_text(status)
    yield "entries", str(status.entries)
    yield "pending", pending_text(status)
    if status.verifying is not None:
        yield "verifying", verifying_text(status.verifying)
    if status.is_watch_degraded:
        yield "watches", WATCH_DEGRADED
    if status.halt is not None:
        yield "halt", plain(status.halt.detail)
        yield "resume", f"would {plain(status.halt.resume)}; do it with 'syncline resume'"


WATCH_DEGRADED = (
    "the system has none left, so changes are found by scanning, and later; raise"
    " fs.inotify.max_user_watches"
)


def connection_text(status: MountStatus) -> str:
    """Return whether the server can be reached, and why not."""
    if status.is_connected:
        return "connected"
    reason = "" if status.connection_error is None else f": {plain(status.connection_error)}"
    return f"not connected{reason}"


def revision_text(status: MountStatus) -> str:
    """Return how far the mount has seen."""
    cursor = "none yet" if status.cursor is None else str(status.cursor)
    return cursor if status.head is None else f"{cursor} of {status.head}"


def pending_text(status: MountStatus) -> str:
    """Return how much is left to do."""
    return f"{status.pending_up} to store, {status.pending_down} to place"


def verifying_text(verifying: Verifying) -> str:
    """Return how far a verification is."""
    return f"{verifying.done} of {verifying.total} entries, {size_text(verifying.size)} read"


def problem_line(problem: MountProblem) -> str:
    """Return one path that is not in sync: which, why, what to do."""
    detail = f" ({plain(problem.detail)})" if problem.detail else ""
    return f"{shown(problem.path)}: {plain(problem.code)}{detail}; {next_step(problem)}"


def lock_line(shown_lock: MountLock) -> str:
    """Return a lock: on what, whose, since when, why."""
    lock = shown_lock.lock
    reason = f": {plain(lock.reason)}" if lock.reason else ""
    whose = "own lock of this mount"
    if not shown_lock.is_own:
        whose = f"locked by {plain(lock.owner.author.name)} on {plain(lock.owner.host)}"
    return f"{shown(shown_lock.path)}  {whose}, since {local_text(lock.granted_ns)}{reason}"


def transfer_line(transfer: Transfer) -> str:
    """Return content on its way."""
    arrow = "up" if transfer.is_upload else "down"
    return (
        f"{arrow}  {shown(transfer.path)}  {size_text(transfer.done)} of {size_text(transfer.size)}"
    )


def change_line(change: Change) -> str:
    """Return one entry that was stored or placed: when, which way, what."""
    way = "up" if change.is_local else "down"
    path = _moved(change.path, change.old_path)
    return f"{local_text(change.wall_ns)}  {way:<4}  {change.effect.value:<7}  {path}"


def _moved(path: object, old_path: object | None) -> str:
    return str(path) if old_path is None else f"{old_path} -> {path}"


def plan_line(step: PlannedStep) -> str:
    """Return one thing that a mount would do."""
    where = "volume   " if step.is_upload else "directory"
    has_content = step.effect in (Effect.CREATED, Effect.CHANGED)
    size = f"  {size_text(step.size)}" if has_content else ""
    return f"{where}  {step.effect.value:<7}  {_moved(step.path, step.old_path)}{size}"


# -- Ends --------------------------------------------------------------------


def conclude_wait(result: WaitResult, output: Output, timeout_s: float | None) -> ExitCode:
    """Say how a wait ended, and return the exit code for it."""
    status = result.status
    if output.is_json:
        output.record(wait_record(result))
    match result.end:
        case WaitEnd.IN_SYNC:
            if not output.is_json:
                output.line(f"in sync  revision {revision_text(status)}  {status.entries} entries")
            return ExitCode.OK
        case WaitEnd.PROBLEMS:
            for problem in status.problems:
                output.complain(problem_line(problem))
            output.complain(f"{status.problem_count} paths are not in sync; the rest is")
            return ExitCode.PARTIAL
        case WaitEnd.TIMED_OUT:
            missing = f"{pending_text(status)}, {connection_text(status)}"
            bound = "" if timeout_s is None else f" after {timeout_s:g} s"
            output.complain(f"not in sync{bound}: {missing}; see more with 'syncline status'")
            return ExitCode.TIMED_OUT
        case WaitEnd.HALTED:
            return conclude_halt(status.halt, output)
        case WaitEnd.STOPPED:
            output.complain("the mount ended before all was in sync; start it again")
            return ExitCode.UNREACHABLE


def conclude_halt(halt: Halt | None, output: Output) -> ExitCode:
    """Say why a mount is halted, and return the exit code for it."""
    reason = "the mount is halted" if halt is None else f"halted: {halt.detail}"
    output.complain(f"{reason}; see what going on would do with 'syncline resume'")
    return ExitCode.HALTED
