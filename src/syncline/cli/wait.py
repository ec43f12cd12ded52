"""`syncline wait`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import example, mount_command_options, raw_path, wait_seconds

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output


@click.command(
    "wait",
    epilog=example("syncline wait && make", "syncline wait ~/work --timeout 10"),
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
    """Wait until a running mount is in sync, both ways.

    That is when each edit made before the call is stored, and everything up to the newest revision
    that the server had at the call is placed. Without DIR it is the mount that the current
    directory lies in. Exit code 13: all is, but paths with problems; 19: the mount is halted.
    """
    from syncline.cli.session import run_plain

    return run_plain(lambda output: _wait(directory, timeout_s, output), verbosity, is_json=is_json)


def _wait(directory: bytes | None, timeout_s: float | None, output: Output) -> ExitCode:
    from syncline.cli.mount_records import conclude_wait
    from syncline.compose.control import ask_wait
    from syncline.compose.mount_places import find_mount

    result = ask_wait(find_mount(directory).state, timeout_s)
    return conclude_wait(result, output, timeout_s)
