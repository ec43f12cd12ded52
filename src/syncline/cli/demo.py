"""`syncline demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import example, mount_command_options

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output


@click.command("demo", epilog=example("syncline demo", "syncline demo --json"))
@mount_command_options
def command(is_json: bool, verbosity: int) -> int:
    """Show on this machine what Syncline does, in under a minute, and clean up.

    Starts a server and three clients as processes of their own in a temporary directory, puts a
    tree of some thousand files in, changes it from all sides, online and offline, and measures when
    each change is at the others. Nothing outside of that directory is touched, no other machine is
    spoken to. Exit code 0: all is equal in the end, on the server and at each client.
    """
    from syncline.cli.session import run_plain

    return run_plain(_demo, verbosity, is_json=is_json)


def _demo(output: Output) -> ExitCode:
    from syncline.cli.demo_play import play

    return play(output)
