"""`syncline verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import example, mount_command_options, raw_path, wait_seconds

if TYPE_CHECKING:
    from pathlib import Path

    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output
    from syncline.ports.mount_control import VerifyResult

LOOK_S = 0.25
"""How often a terminal is told how far it is."""


@click.command(
    "verify",
    epilog=example("syncline verify", "syncline verify ~/work --timeout 600"),
)
@click.argument("directory", required=False, metavar="[DIR]", type=raw_path)
@click.option(
    "--timeout",
    "timeout_s",
    type=wait_seconds,
    metavar="SECONDS",
    help="Give up after so long, with exit code 8. Default: never.",
)
@mount_command_options
def command(directory: bytes | None, timeout_s: float | None, is_json: bool, verbosity: int) -> int:
    """Read all of a running mount again, and compare it with its records and its server.

    It waits first until the mount is in sync. Whatever differs is named and stays as it is. Content
    that the server lacks and the mount has is sent again. Without DIR it is the mount that the
    current directory lies in. Exit code 20: something differs; 13: nothing does, but some paths
    have problems or change all the time; 19: the mount is halted.
    """
    from syncline.cli.session import run_plain

    return run_plain(
        lambda output: _verify(directory, timeout_s, output), verbosity, is_json=is_json
    )


def _verify(directory: bytes | None, timeout_s: float | None, output: Output) -> ExitCode:
    import sys

    from syncline.cli.verify_records import conclude_verify
    from syncline.compose.control import ask_verify
    from syncline.compose.mount_places import find_mount

    state = find_mount(directory).state
    is_watched = not output.is_json and sys.stderr is not None and sys.stderr.isatty()
    result = _watched(state, timeout_s) if is_watched else ask_verify(state, timeout_s)
    return conclude_verify(result, output, timeout_s)


def _watched(state: Path, timeout_s: float | None) -> VerifyResult:
    """Verify, and show how far it is on the terminal."""
    from threading import Thread

    from syncline.cli.verify_records import Drawing
    from syncline.compose.control import ask_status, ask_verify
    from syncline.errors import SynclineError

    outcomes: list[VerifyResult | SynclineError] = []

    def ask() -> None:
        try:
            outcomes.append(ask_verify(state, timeout_s))
        except SynclineError as error:
            outcomes.append(error)

    # A daemon: whoever interrupts the command does not wait for the answer.
    asking = Thread(target=ask, name="verify", daemon=True)
    asking.start()
    with Drawing() as drawing:
        while asking.is_alive():
            try:
                drawing.show(ask_status(state).verifying)
            except SynclineError:
                # The same will be the answer to the one that counts.
                drawing.show(None)
            asking.join(LOOK_S)
    [outcome] = outcomes
    if isinstance(outcome, SynclineError):
        raise outcome
    return outcome
