"""The progress bar on a terminal: bytes, rate and paths, drawn a few times a second."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

DRAWS_PER_S = 8
LINES_MAX = 200


class Bar:
    """One bar on stderr, and the lines that scroll past above it.

    Everything is held for a moment and drawn together: the terminal draws the bar again after each
    batch of lines, and the rate is made of the last thousand steps, however small they are.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.fields[paths]}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            refresh_per_second=DRAWS_PER_S,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, paths="")
        self._bytes_total = 0
        self._bytes_done = 0
        self._paths_total = 0
        self._paths_done = 0
        self._lines: list[str] = []
        self._drawn_s = time.monotonic()
        self._progress.start()

    def expect(self, paths: int, size: int) -> None:
        """Take more paths and bytes into the whole."""
        self._paths_total += paths
        self._bytes_total += size
        self._draw_if_due()

    def advance(self, size: int) -> None:
        """Move on by bytes."""
        self._bytes_done += size
        self._draw_if_due()

    def finish(self) -> None:
        """Move on by a path."""
        self._paths_done += 1
        self._draw_if_due()

    def line(self, text: str) -> None:
        """Show a line above the bar, soon."""
        self._lines.append(text)
        self._draw_if_due()

    def stop(self) -> None:
        """Show what is held, and take the bar away."""
        self._draw()
        self._progress.stop()

    def _draw_if_due(self) -> None:
        is_due = time.monotonic() - self._drawn_s >= 1 / DRAWS_PER_S
        if is_due or len(self._lines) >= LINES_MAX:
            self._draw()

    def _draw(self) -> None:
        self._drawn_s = time.monotonic()
        # What turns out to be more than was expected must not show more than the whole.
        total = max(self._bytes_total, self._bytes_done)
        paths = f"{self._paths_done}/{max(self._paths_done, self._paths_total)} paths"
        self._progress.update(self._task, completed=self._bytes_done, total=total, paths=paths)
        if self._lines:
            self._console.print(Text("\n".join(self._lines)), soft_wrap=True)
            self._lines.clear()
