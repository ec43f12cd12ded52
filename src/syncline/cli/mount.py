"""`syncline mount`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from syncline.cli.options import FILE_PATH, ClientOptions, client_options, example, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output
    from syncline.compose.config import MountConfig


@click.command(
    "mount",
    epilog=example(
        "syncline mount ~/work",
        "syncline mount ~/work --server files.example.org:42001 --volume photos",
        "syncline mount ~/work --once",
        "syncline mount ~/work --dry-run",
    ),
)
@click.argument("directory", metavar="DIR", type=raw_path)
@click.option("--name", metavar="NAME", help="The name of this replica for people.")
@click.option(
    "--state", type=FILE_PATH, metavar="DIR", help="Where to keep what the mount remembers."
)
@click.option("--mode", metavar="MODE", help="two-way (the default), send-only or receive-only.")
@click.option("--once", "is_once", is_flag=True, help="End when all is in sync.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Show what it would do; do nothing.")
@client_options
def command(
    directory: bytes,
    name: str | None,
    state: Path | None,
    mode: str | None,
    is_once: bool,
    is_dry: bool,
    options: ClientOptions,
) -> int:
    """Keep a directory equal to a volume, in the foreground, until SIGINT or SIGTERM.

    What lies in DIR is loaded, and from then on changes go both ways. The server may be away, now
    or later. On a terminal it shows a live view, elsewhere it logs to stderr.
    """
    import logging
    import os

    from syncline.cli.output import Output
    from syncline.cli.session import fail, start_log
    from syncline.compose.config import ClientFlags, MountFlags, load_mount
    from syncline.errors import SynclineError

    if is_once and is_dry:
        raise click.UsageError("--once and --dry-run exclude each other")
    output = Output(is_json=options.is_json)
    # What the live view shows, and what a script that syncs once cares for, is not logged as well.
    is_logged = not (is_once or is_dry or output.is_live)
    start_log(logging.INFO if is_logged else logging.WARNING, options.verbosity)
    try:
        flags = ClientFlags(options.config, options.server, options.volume, options.timeout_s, name)
        config = load_mount(os.environ, flags, MountFlags(directory, mode, state))
        return _run(config, output, is_once=is_once, is_dry=is_dry)
    except SynclineError as error:
        return fail(error, output)


def _run(config: MountConfig, output: Output, *, is_once: bool, is_dry: bool) -> ExitCode:
    from syncline.cli.mounting import run_mounted, show_plan, sync_once
    from syncline.cli.session import run_stoppable
    from syncline.compose.mount import dry_run, running_mount

    if is_dry:
        return run_stoppable(lambda: show_plan(dry_run(config), output), output)
    mounted = running_mount(config)
    if is_once:
        patience_s = config.client.timeout_s
        return run_stoppable(lambda: sync_once(mounted, output, patience_s), output)
    return run_mounted(mounted, output)
