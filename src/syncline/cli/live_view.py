"""The live view of a mount on a terminal: state, transfers, problems, last changes."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from syncline.cli.mount_records import (
    PHASES,
    WATCH_DEGRADED,
    change_line,
    connection_text,
    lock_line,
    pending_text,
    problem_line,
    revision_text,
)
from syncline.cli.records import shown, size_text
from syncline.cli.text import plain
from syncline.core.names import escape
from syncline.ports.mount_control import MountControl, MountPhase, MountStatus, Transfer

DRAWS_PER_S = 8
TRANSFERS_MAX = 5
PROBLEMS_MAX = 5
LOCKS_MAX = 2
CHANGES_MAX = 6
BAR_WIDTH = 24

_STYLES = {
    MountPhase.IN_SYNC: "bold green",
    MountPhase.HALTED: "bold red",
    MountPhase.WAITING: "bold yellow",
    MountPhase.CONNECTING: "bold yellow",
}


def view(status: MountStatus) -> RenderableType:
    """Return the picture of a status; no line of it is wider than the terminal."""
    parts: list[RenderableType] = [
        _line(
            (PHASES[status.phase], _STYLES.get(status.phase, "bold cyan")),
            (f"  {escape(status.directory)}", "bold"),
        ),
        _line(
            (f"{plain(status.volume)} on {plain(status.server)}, {status.mode.value}, ", "dim"),
            (connection_text(status), "dim" if status.is_connected else "yellow"),
        ),
        _line(
            (f"revision {revision_text(status)}, {status.entries} entries, ", "dim"),
            (pending_text(status), "dim"),
        ),
    ]
    if status.halt is not None:
        parts.append(_line((f"halted: {plain(status.halt.detail)}", "red")))
        parts.append(_line((f"'syncline resume' will: {plain(status.halt.resume)}", "red")))
    if status.is_watch_degraded:
        parts.append(_line((f"watches: {WATCH_DEGRADED}", "yellow")))
    if status.transfers:
        parts.append(_transfers(status.transfers))
    parts += [_line((problem_line(each), "yellow")) for each in status.problems[:PROBLEMS_MAX]]
    hidden = status.problem_count - min(len(status.problems), PROBLEMS_MAX)
    if hidden > 0:
        parts.append(_line((f"and {hidden} more problems: 'syncline status' shows them", "yellow")))
    parts += [_line((lock_line(each), "cyan")) for each in status.locks[:LOCKS_MAX]]
    hidden = status.lock_count - min(len(status.locks), LOCKS_MAX)
    if hidden > 0:
        parts.append(_line((f"and {hidden} more locks: 'syncline locks' shows them", "cyan")))
    parts += [_line((change_line(each), "")) for each in status.changes[-CHANGES_MAX:]]
    return Group(*parts)


def _line(*pieces: tuple[str, str]) -> Text:
    # Names are never read as markup of rich.
    return Text.assemble(*pieces, no_wrap=True, overflow="ellipsis")


def _transfers(transfers: tuple[Transfer, ...]) -> Table:
    grid = Table.grid(padding=(0, 1), expand=False)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for transfer in transfers[:TRANSFERS_MAX]:
        # What grows under the reader's hands must not show more than the whole.
        total = max(transfer.size, transfer.done, 1)
        grid.add_row(
            Text("up" if transfer.is_upload else "down"),
            ProgressBar(total=total, completed=transfer.done, width=BAR_WIDTH),
            Text(f"{size_text(transfer.done)} of {size_text(transfer.size)}"),
            Text(shown(transfer.path)),
        )
    return grid


async def show_live(control: MountControl, console: Console | None = None) -> None:
    """Draw the status of a mount for ever, a few times a second at most; None: on stdout."""
    console = console or Console()
    seen = 0
    with Live(console=console, auto_refresh=False, redirect_stdout=False) as live, _log_above(live):
        try:
            while True:
                seen = await control.changed(seen)
                live.update(view(control.status()), refresh=True)
                await asyncio.sleep(1 / DRAWS_PER_S)
        finally:
            live.update(view(control.status()), refresh=True)


@contextmanager
def _log_above(live: Live) -> Iterator[None]:
    """Show what is logged above the picture: written past it, each would tear the other."""
    if not sys.stderr.isatty():
        yield
        return
    root = logging.getLogger()
    before = root.handlers[:]
    above = _Above(live.console)
    if before:
        above.setFormatter(before[0].formatter)
    root.handlers[:] = [above]
    try:
        yield
    finally:
        root.handlers[:] = before


class _Above(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line above the picture; rich locks, so any thread may."""
        self._console.print(Text(plain(self.format(record))), soft_wrap=True)
