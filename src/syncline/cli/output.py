"""What a command says: lines or JSON on stdout, failures on stderr, each line out at once.

All text is UTF-8 whatever the locale, with paths escaped, so that a program can read it back.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, TextIO

from syncline.cli.exits import ExitCode, hint
from syncline.cli.text import plain
from syncline.errors import SynclineError, Unavailable

if TYPE_CHECKING:
    from syncline.cli.progress import Bar

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]


def error_record(error: SynclineError) -> dict[str, Json]:
    """Return an error as JSON: its stable code, its sentence, its facts."""
    return {"code": error.code, "message": plain(error.message), "fields": dict(error.fields)}


class Output:
    """The two streams of a command; owned by one task.

    When a stream cannot be written any more, `| head` is done for one, the command ends: through
    `stopping` where it can be stopped in order, else at once.
    """

    def __init__(self, *, is_json: bool) -> None:
        self.is_json = is_json
        self._bar: Bar | None = None
        self._is_line_above_bar = False
        self._stop: Callable[[ExitCode], None] = _exit

    @contextmanager
    def stopping(self, stop: Callable[[ExitCode], None]) -> Iterator[None]:
        """Call `stop` when nobody can hear the command any more, for the length of the block."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = _exit

    @contextmanager
    def progress(self) -> Iterator[Bar | None]:
        """Show a bar for the length of the block; None where nobody would look at it."""
        if self.is_json or sys.stderr is None or not sys.stderr.isatty():
            yield None
            return
        from syncline.cli.progress import Bar

        # What goes to the same terminal must go through the bar, or each would tear the other.
        self._is_line_above_bar = sys.stdout is not None and sys.stdout.isatty()
        self._bar = bar = Bar()
        try:
            yield bar
        finally:
            self._bar = None
            bar.stop()

    @property
    def is_live(self) -> bool:
        """Tell whether somebody looks at stdout, so that a picture may be drawn there."""
        return not self.is_json and sys.stdout is not None and sys.stdout.isatty()

    def line(self, text: str) -> None:
        """Say a line to a person."""
        if self._bar is not None and self._is_line_above_bar:
            self._bar.line(text)
        else:
            self._write(sys.stdout, text)

    def record(self, record: Mapping[str, Json]) -> None:
        """Say an object to a program, as one line."""
        self._write(sys.stdout, json.dumps(record, ensure_ascii=False, separators=(",", ":")))

    def complain(self, text: str) -> None:
        """Say a line on stderr."""
        if self._bar is not None:
            self._bar.line(f"syncline: {plain(text)}")
        else:
            self._write(sys.stderr, f"syncline: {plain(text)}")

    def failure(self, error: SynclineError, *, path: str | None = None) -> None:
        """Say what happened, to which path if to one, and what to do next."""
        problems = error.fields.get("problems")
        if problems is None:
            self.complain(sentence(error, path=path))
            return
        for problem in problems.split("\n"):
            # Each says itself what would be right.
            self.complain(problem)

    def _write(self, stream: TextIO | None, text: str) -> None:
        if stream is None:
            return
        try:
            stream.flush()
            stream.buffer.write(text.encode("utf-8", "backslashreplace") + b"\n")
            stream.buffer.flush()
        except OSError as error:
            _silence(stream)
            if isinstance(error, BrokenPipeError):
                self._stop(ExitCode.PIPE_CLOSED)
                return
            if stream is sys.stdout:
                self.complain(f"the output cannot be written: {error.strerror}")
            self._stop(ExitCode.LOCAL)


def sentence(error: SynclineError, *, path: str | None = None) -> str:
    """Return `path: what happened; what to do`, with neither the path nor the advice twice.

    A message of ours that has a semicolon says itself what to do, and knows better; what gRPC says
    of a server that cannot be reached has semicolons and no advice.
    """
    message = error.message
    is_named = path is None or f"'{path}'" in message or message.startswith(f"{path}:")
    whole = message if is_named else f"{path}: {message}"
    has_advice = "; " in message and not isinstance(error, Unavailable)
    return whole if has_advice else f"{whole}; {hint(error)}"


def _silence(stream: TextIO) -> None:
    # What Python still holds for the stream, and what is said later, would only fail again.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _exit(code: ExitCode) -> NoReturn:
    raise SystemExit(int(code))
