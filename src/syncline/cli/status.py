"""`syncline status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import example, mount_command_options, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output


@click.command(
    "status", epilog=example("syncline status", "syncline status ~/work", "syncline status --json")
)
@click.argument("directory", required=False, metavar="[DIR]", type=raw_path)
@mount_command_options
def command(directory: bytes | None, is_json: bool, verbosity: int) -> int:
    """Show what a running mount is about: connection, what is pending, each problem, last changes.

    Without DIR it is the mount that the current directory lies in.
    """
    from syncline.cli.session import run_plain

    return run_plain(lambda output: _status(directory, output), verbosity, is_json=is_json)


def _status(directory: bytes | None, output: Output) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.mount_records import status_lines, status_record
    from syncline.compose.control import ask_status
    from syncline.compose.mount_places import find_mount

    status = ask_status(find_mount(directory).state)
    if output.is_json:
        output.record(status_record(status))
    else:
        for line in status_lines(status):
            output.line(line)
    return ExitCode.OK if status.halt is None else ExitCode.HALTED
