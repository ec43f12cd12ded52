"""Running a command of a client: configuration, connection, signals, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from syncline.cli.exits import ExitCode, exit_code
from syncline.cli.lock_options import held_tokens
from syncline.cli.options import ClientOptions
from syncline.cli.output import Output, error_record
from syncline.client.targets import Address, parse_address
from syncline.compose.config import ClientConfig, ClientFlags, load_client
from syncline.core.identity import Revision
from syncline.errors import SynclineError
from syncline.ports.link import LockingLink

_SIGNALS = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


@dataclass(frozen=True, slots=True)
class Session:
    """What the body of a command works with."""

    config: ClientConfig
    output: Output

    def link(self) -> LockingLink:
        """Open a link to the volume; whoever opens it closes it.

        What is stored and deleted through it is under the locks that the environment names.
        """
        # Here, and not above: whatever can be refused without gRPC is refused without its import.
        from syncline.compose.connect import open_link

        return open_link(self.config, held_tokens(os.environ))


Body = Callable[[Session], Coroutine[object, object, ExitCode]]


def run_client(options: ClientOptions, body: Body) -> int:
    """Run the body of a command until it ends or is told to; return the exit code."""
    start_log(logging.WARNING, options.verbosity)
    output = Output(is_json=options.is_json)
    try:
        flags = ClientFlags(options.config, options.server, options.volume, options.timeout_s)
        session = Session(load_client(os.environ, flags), output)
        return run_stoppable(lambda: body(session), output)
    except SynclineError as error:
        return fail(error, output)


def run_plain(body: Callable[[Output], ExitCode], verbosity: int, *, is_json: bool) -> int:
    """Run a command that needs no event loop; return the exit code."""
    start_log(logging.WARNING, verbosity)
    output = Output(is_json=is_json)
    try:
        return body(output)
    except SynclineError as error:
        return fail(error, output)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def fail(error: SynclineError, output: Output) -> ExitCode:
    """Say why a whole command failed; return the exit code."""
    output.failure(error)
    if output.is_json:
        output.record({"result": "failed", "error": error_record(error)})
    return exit_code(error)


def run_stoppable(
    main: Callable[[], Coroutine[object, object, ExitCode]], output: Output
) -> ExitCode:
    """Run `main`; SIGINT, SIGTERM and a closed output cancel it and decide the exit code."""
    stops: list[ExitCode] = []

    async def supervised() -> ExitCode:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"

        def stop(code: ExitCode) -> None:
            stops.append(code)
            task.cancel()
            for number in _SIGNALS:
                # A second signal ends the process at once, as if nobody listened.
                loop.remove_signal_handler(number)

        for number, code in _SIGNALS.items():
            loop.add_signal_handler(number, stop, code)
        with output.stopping(stop):
            return await main()

    try:
        with ungrouped():
            return asyncio.run(supervised())
    except (asyncio.CancelledError, SynclineError, BaseExceptionGroup):
        if not stops:
            raise
        if stops[0] in _SIGNALS.values():
            output.complain("interrupted; run the command again to go on")
        return stops[0]


@contextmanager
def ungrouped() -> Iterator[None]:
    """Raise the first of the errors that tasks of one group failed with, as if it came alone.

    A group that has anything else in it is a fault of ours and stays as it is.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        known, other = group.split(SynclineError)
        if known is None or other is not None:
            raise
        first: BaseException = known
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from group


def start_log(level: int, verbosity: int) -> None:
    """Log to stderr, one event a line; each -v lowers the level by a step."""
    # The core of gRPC writes to stderr past all logging; what matters of it comes as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "DEBUG" if verbosity > 1 else "NONE")
    logging.basicConfig(
        stream=sys.stderr,
        level=max(logging.DEBUG, level - 10 * verbosity),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    # Its own debugging tells of selectors, not of Syncline.
    logging.getLogger("asyncio").setLevel(logging.WARNING)


@asynccontextmanager
async def link_to(session: Session) -> AsyncIterator[LockingLink]:
    """Open a link for the length of the block."""
    link = session.link()
    try:
        yield link
    finally:
        await link.close()


def remote_address(raw: bytes) -> Address:
    """Return a path in a volume as a user wrote it; `/`, `.` and nothing are the root."""
    return parse_address(raw.rstrip(b"/") or b"." if raw.startswith(b"/") else raw)


def revision(number: int | None) -> Revision | None:
    """Return the revision that a user wrote, if he did."""
    return None if number is None else Revision(number)
