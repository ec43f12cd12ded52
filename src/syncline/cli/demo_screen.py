"""What the demo shows: plain lines, in colours on a terminal, or objects for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from syncline.cli.output import Json, Output

if TYPE_CHECKING:
    from rich.console import Console

NAME_WIDTH = 6
TEXT_WIDTH = 48
CELL_WIDTH = 10

Advance = Callable[[str, int], None]
"""Takes who, and how many entries are there now."""


class Screen:
    """Shows each thing once: to a person as a line, to a program as an object."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._console: Console | None = None
        self._part = 0
        if output.is_live:
            from rich.console import Console

            self._console = Console()

    def title(self, text: str) -> None:
        """Show what begins."""
        self._line(text, "bold")

    def part(self, text: str) -> None:
        """Show the heading of the next part."""
        self._part += 1
        self._line("", "")
        self._line(f"{self._part}. {text}", "bold cyan")

    def note(self, text: str, style: str = "") -> None:
        """Show a line of a part."""
        self._line(f"   {text}", style)

    def columns(self, names: Sequence[str]) -> None:
        """Show the heads of a table whose last columns are those of clients."""
        self.row("who", "what", names, "dim")

    def row(self, who: str, what: str, cells: Sequence[str], style: str = "") -> None:
        """Show a row of a table."""
        shown = "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)
        self._line(f"   {who:<{NAME_WIDTH}} {what:<{TEXT_WIDTH}}{shown}", style)

    def record(self, record: Mapping[str, Json]) -> None:
        """Tell a program."""
        if self._output.is_json:
            self._output.record(record)

    @contextmanager
    def progress(self, names: Sequence[str], total: int) -> Iterator[Advance]:
        """Show a bar for each name while somebody looks; without a terminal nothing."""
        if self._console is None:
            yield lambda _name, _count: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("   {task.description:<6}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            tasks = {name: progress.add_task(name, total=total) for name in names}
            yield lambda name, count: progress.update(tasks[name], completed=min(count, total))

    def _line(self, text: str, style: str) -> None:
        if self._output.is_json:
            return
        if self._console is None:
            self._output.line(text.rstrip())
            return
        from rich.text import Text

        self._console.print(Text(text.rstrip(), style=style), soft_wrap=True)


def ms_text(ms: float) -> str:
    """Return a time for people, with as many digits as it is worth."""
    if ms >= 10_000:
        return f"{ms / 1000:.1f} s"
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.1f} ms"
