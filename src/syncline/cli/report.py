"""The report of store, fetch and delete: each path as it is done, and what the whole came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from syncline.cli.exits import ExitCode, exit_code
from syncline.cli.output import Output
from syncline.cli.records import outcome_line, outcome_record, shown, size_text
from syncline.ports.report import PathOutcome, Result

if TYPE_CHECKING:
    from syncline.cli.progress import Bar


class CommandReport:
    """Listens to one command. Keeps counts alone, nothing for each path."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._bar: Bar | None = None
        self._results: Counter[Result] = Counter()
        self._codes: Counter[ExitCode] = Counter()
        self._bytes = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a bar while the command runs, where somebody looks."""
        with self._output.progress() as bar:
            self._bar = bar
            try:
                yield
            finally:
                self._bar = None

    def expect(self, paths: int, size: int) -> None:
        """Take more work into the bar."""
        if self._bar is not None:
            self._bar.expect(paths, size)

    def advance(self, size: int) -> None:
        """Move the bar on by bytes."""
        if self._bar is not None:
            self._bar.advance(size)

    def finish(self, outcome: PathOutcome) -> None:
        """Say what one path came to."""
        self._results[outcome.result] += 1
        self._bytes += outcome.size
        if self._bar is not None:
            self._bar.finish()
        if self._output.is_json:
            self._output.record(outcome_record(outcome))
        if outcome.error is not None:
            self._codes[exit_code(outcome.error)] += 1
            self._output.failure(outcome.error, path=shown(outcome.path))
        elif not self._output.is_json:
            self._output.line(outcome_line(outcome))

    @property
    def done(self) -> int:
        """Return how many paths went well so far."""
        return self._results.total() - self._results[Result.FAILED]

    def conclude(self) -> ExitCode:
        """Say what all paths came to, and return the exit code of the command."""
        total = self._results.total()
        failed = self._results[Result.FAILED]
        if total > 1 and not self._output.is_json:
            counts = ", ".join(
                f"{self._results[result]} {result.value}"
                for result in Result
                if self._results[result]
            )
            self._output.line(f"{total} paths: {counts}; {size_text(self._bytes)}")
        if failed and total > 1:
            self._output.complain(f"{failed} of {total} paths failed")
        return combine(self._codes, is_all_failed=failed == total)


def combine(codes: Counter[ExitCode], *, is_all_failed: bool) -> ExitCode:
    """Return one exit code: that of all failures where nothing else happened, else PARTIAL."""
    if not codes:
        return ExitCode.OK
    [first, *others] = codes
    return first if is_all_failed and not others else ExitCode.PARTIAL
