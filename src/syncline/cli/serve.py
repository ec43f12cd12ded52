"""`syncline serve`."""

from __future__ import annotations

from pathlib import Path

import click

from syncline.cli.options import FILE_PATH, config_option, example, verbose_option


def _directory(value: str | Path) -> Path:
    if not value:
        # An empty variable of a script would be the current directory.
        raise click.BadParameter("it is empty; name a directory")
    return Path(value)


@click.command(
    "serve",
    epilog=example(
        "syncline serve",
        "syncline serve --data /srv/syncline --listen 127.0.0.1:0 --volume photos",
        "syncline serve --mount /srv/files",
    ),
)
@click.option("--data", type=FILE_PATH, metavar="DIR", help="Where the server keeps everything.")
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
@click.option("--volume", metavar="NAME", help="The volume to keep; made when it is new.")
@click.option(
    "--mount",
    type=_directory,
    metavar="DIR",
    help="Keep a plain directory of this machine equal to the volume. Stores its content twice.",
)
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
    mount: Path | None,
    insecure: bool | None,
    config: Path | None,
    verbosity: int,
) -> int:
    """Run a server that keeps a volume, in the foreground, until SIGTERM or SIGINT.

    Prints one line when it is ready. Listens on 127.0.0.1:42001 unless told otherwise.

    With --mount, what lies in the directory is loaded, and from then on changes go both ways, as in
    'syncline mount'; 'status', 'wait' and 'resume' work there too. All content is then on this
    machine twice: in the directory, and in the server's data with its history.
    """
    import asyncio
    import logging
    import os

    from syncline.cli.exits import ExitCode, exit_code
    from syncline.cli.mount_events import follow, teller
    from syncline.cli.output import Output
    from syncline.cli.session import start_log, ungrouped
    from syncline.compose.config import ServeFlags, load_serve
    from syncline.core.names import escape
    from syncline.errors import SynclineError
    from syncline.ports.mount_control import MountControl

    start_log(logging.INFO, verbosity)
    output = Output(is_json=False)
    try:
        flags = ServeFlags(config, data, listen, volume, insecure, mount)
        loaded = load_serve(os.environ, flags)
        from syncline.compose.serve import serve

        def ready(address: str) -> None:
            place = escape(os.fsencode(loaded.data))
            mounted = ""
            if loaded.mount is not None:
                mounted = f", mounted in {escape(os.path.realpath(os.fsencode(loaded.mount)))}"
            output.line(
                f"syncline: serving volume '{loaded.volume}' on {address}, data in {place}{mounted}"
            )

        async def told(control: MountControl) -> None:
            await follow(control, teller(output))

        with ungrouped():
            asyncio.run(serve(loaded, ready, told))
    except SynclineError as error:
        output.failure(error)
        return exit_code(error)
    return ExitCode.OK
