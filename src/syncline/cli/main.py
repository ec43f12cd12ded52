"""The `syncline` command: finds the subcommand and imports that one alone."""

from __future__ import annotations

import importlib
import sys

import click

from syncline import __version__
from syncline.cli.exits import ExitCode
from syncline.cli.options import example
from syncline.cli.text import plain

_COMMANDS = {
    "demo": ("syncline.cli.demo", "Show on this machine what Syncline does, and clean up."),
    "serve": ("syncline.cli.serve", "Run a server that keeps a volume."),
    "mount": ("syncline.cli.mount", "Keep a directory equal to a volume."),
    "status": ("syncline.cli.status", "Show what a running mount is about."),
    "wait": ("syncline.cli.wait", "Wait until a running mount is in sync."),
    "verify": ("syncline.cli.verify", "Read a running mount again and compare it with its server."),
    "resume": ("syncline.cli.resume", "Let a halted mount go on."),
    "store": ("syncline.cli.store", "Store local files, directories and links in a volume."),
    "fetch": ("syncline.cli.fetch", "Fetch paths of a volume to this machine."),
    "delete": ("syncline.cli.delete", "Delete paths of a volume."),
    "list": ("syncline.cli.listing", "List what is in a volume."),
    "stat": ("syncline.cli.stat", "Show all that is known of paths in a volume."),
    "lock": ("syncline.cli.lock", "Keep others from changing paths of a volume."),
    "unlock": ("syncline.cli.unlock", "Give up locks, or break those of others."),
    "locks": ("syncline.cli.locks", "List who keeps others from changing what."),
    "watch": ("syncline.cli.watch", "Print each commit as it happens."),
    "server": ("syncline.cli.server", "Check and repair the data of a server at rest."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, and named without that."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order that a newcomer meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        found = _COMMANDS.get(cmd_name)
        if found is None:
            return None
        command = importlib.import_module(found[0]).command
        assert isinstance(command, click.Command), f"{found[0]} has no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table, so that none has to be imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    name="syncline",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("syncline serve &", "syncline store photos", "syncline list --recursive"),
)
@click.version_option(__version__, message="syncline %(version)s")
def group() -> None:
    """Keep a folder identical on many machines, through one server."""


def main() -> None:
    """Run the command line and end the process with the exit code of docs/CLI.md."""
    try:
        # Without standalone mode click returns what the command returned: its exit code.
        code = group.main(prog_name="syncline", standalone_mode=False)
    except click.ClickException as error:
        _complain(error)
        code = ExitCode.USAGE
    except click.Abort:
        code = ExitCode.INTERRUPTED
    sys.exit(int(code or 0))


def _complain(error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return
    message = plain(error.format_message()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "syncline"
    click.echo(f"syncline: {message}; '{path} --help' shows how it is used", err=True)
