"""`syncline serve`."""

from __future__ import annotations

from pathlib import Path

import click

from syncline.cli.options import FILE_PATH, config_option, example, verbose_option


@click.command(
    "serve",
    epilog=example(
        "syncline serve",
        "syncline serve --data /srv/syncline --listen 127.0.0.1:0 --volume photos",
    ),
)
@click.option("--data", type=FILE_PATH, metavar="DIR", help="Where the server keeps everything.")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
@click.option("--volume", metavar="NAME", help="The volume to keep; made when it is new.")
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Allow an address that other machines can reach, without any protection.",
)
@config_option
@verbose_option
def command(
    data: Path | None,
    listen: str | None,
    volume: str | None,
    insecure: bool | None,
    config: Path | None,
    verbosity: int,
) -> int:
    """Run a server that keeps a volume, in the foreground, until SIGTERM or SIGINT.

    Prints one line when it is ready. Listens on 127.0.0.1:42001 unless told otherwise.
    """
    import asyncio
    import logging
    import os

    from syncline.cli.exits import ExitCode, exit_code
    from syncline.cli.output import Output
    from syncline.cli.session import start_log, ungrouped
    from syncline.compose.config import ServeFlags, load_serve
    from syncline.core.names import escape
    from syncline.errors import SynclineError

    start_log(logging.INFO, verbosity)
    output = Output(is_json=False)
    try:
        loaded = load_serve(os.environ, ServeFlags(config, data, listen, volume, insecure))
        from syncline.compose.serve import serve

        def ready(address: str) -> None:
            place = escape(os.fsencode(loaded.data))
            output.line(f"syncline: serving volume '{loaded.volume}' on {address}, data in {place}")

        with ungrouped():
            asyncio.run(serve(loaded, ready))
    except SynclineError as error:
        output.failure(error)
        return exit_code(error)
    return ExitCode.OK
