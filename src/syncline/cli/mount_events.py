"""What happened in a mount between two looks at its status: log lines, or objects for programs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from syncline.cli.mount_records import change_record, connection_text, next_step, status_record
from syncline.cli.output import Json, Output
from syncline.cli.text import plain
from syncline.core.names import escape
from syncline.ports.mount_control import Change, MountControl, MountStatus

logger = logging.getLogger(__name__)

LOOK_PAUSE_S = 0.25
"""Between two looks: a line may come so late, and a storm is told a few times a second."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log: a name, and what it is about as key=value."""

    level: int
    text: str


def events(before: MountStatus | None, now: MountStatus) -> Iterator[Event]:
    """Yield what happened between two looks; None: before the first one."""
    if before is None:
        place = escape(now.directory)
        yield Event(
            logging.INFO,
            f"mount_started directory='{place}' volume={plain(now.volume)}"
            f" server={plain(now.server)} mode={now.mode.value} name='{plain(now.replica)}'",
        )
    yield from _connection_events(before, now)
    yield from _change_events(before, now)
    yield from _problem_events(before, now)
    yield from _phase_events(before, now)


def _connection_events(before: MountStatus | None, now: MountStatus) -> Iterator[Event]:
    was_connected = before is not None and before.is_connected
    if now.is_connected and not was_connected:
        yield Event(logging.INFO, f"mount_connected server={plain(now.server)} head={now.head}")
    # On change, and not on each attempt: the reason of the first failure is told, and a new one.
    error = None if before is None else before.connection_error
    if not now.is_connected and (was_connected or now.connection_error not in (None, error)):
        reason = plain(now.connection_error or "")
        yield Event(
            logging.WARNING, f"mount_disconnected server={plain(now.server)} reason='{reason}'"
        )


def _change_events(before: MountStatus | None, now: MountStatus) -> Iterator[Event]:
    fresh = new_changes(before, now)
    told = 0 if before is None else before.change_count
    if now.change_count - told > len(fresh):
        yield Event(logging.INFO, f"mount_changes count={now.change_count - told - len(fresh)}")
    for change in fresh:
        way = "up" if change.is_local else "down"
        was = "" if change.old_path is None else f" old_path='{change.old_path}'"
        yield Event(
            logging.INFO,
            f"mount_change way={way} effect={change.effect.value} path='{change.path}'{was}",
        )


def new_changes(before: MountStatus | None, now: MountStatus) -> list[Change]:
    """Return those of the changes that a status still has which came since another one."""
    told = 0 if before is None else before.change_count
    return [change for change in now.changes if change.number > told]


def _problem_events(before: MountStatus | None, now: MountStatus) -> Iterator[Event]:
    known = set() if before is None else set(before.problems)
    for problem in now.problems:
        if problem not in known:
            yield Event(
                logging.WARNING,
                f"mount_problem path='{problem.path}' code={plain(problem.code)}"
                f" detail='{plain(problem.detail)}' next='{next_step(problem)}'",
            )
    count = 0 if before is None else before.problem_count
    if now.problem_count < count:
        yield Event(logging.INFO, f"mount_problems_left count={now.problem_count}")


def _phase_events(before: MountStatus | None, now: MountStatus) -> Iterator[Event]:
    if now.is_watch_degraded and not (before is not None and before.is_watch_degraded):
        yield Event(
            logging.WARNING,
            "mount_watches_exhausted effect='changes are found by scanning, and later'"
            " next='raise fs.inotify.max_user_watches'",
        )
    if now.halt is not None and (before is None or before.halt != now.halt):
        yield Event(
            logging.ERROR,
            f"mount_halted reason={now.halt.reason.value} detail='{plain(now.halt.detail)}'"
            f" resume='{plain(now.halt.resume)}' next='syncline resume'",
        )
    if before is None or before.phase is not now.phase:
        yield Event(
            logging.INFO,
            f"mount_phase phase={now.phase.value} revision={now.cursor}"
            f" pending_up={now.pending_up} pending_down={now.pending_down}"
            f" problems={now.problem_count} entries={now.entries}",
        )


def event_records(before: MountStatus | None, now: MountStatus) -> Iterator[dict[str, Json]]:
    """Yield the same as objects: each change, and the status where more than counts changed."""
    for change in new_changes(before, now):
        yield {"event": "change", **change_record(change)}
    if before is None or _facts(before) != _facts(now):
        yield {"event": "status", **status_record(now)}


def _facts(status: MountStatus) -> tuple[object, ...]:
    return (
        status.phase,
        connection_text(status),
        status.problem_count,
        status.problems,
        status.halt,
        status.is_watch_degraded,
        status.locks,
    )


Teller = Callable[[MountStatus | None, MountStatus], None]


def teller(output: Output) -> Teller:
    """Return what tells of events: to a program on stdout, else into the log."""

    def tell(before: MountStatus | None, now: MountStatus) -> None:
        if output.is_json:
            for record in event_records(before, now):
                output.record(record)
            return
        for event in events(before, now):
            logger.log(event.level, "%s", event.text)

    return tell


async def follow(control: MountControl, tell: Teller) -> None:
    """Tell of all that happens, for ever; of what happened by then when it is cancelled."""
    seen = 0
    before: MountStatus | None = None
    try:
        while True:
            seen = await control.changed(seen)
            now = control.status()
            tell(before, now)
            before = now
            await asyncio.sleep(LOOK_PAUSE_S)
    finally:
        tell(before, control.status())
