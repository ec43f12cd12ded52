"""`syncline server`: maintenance of a server's data while no server runs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from syncline.cli.options import FILE_PATH, config_option, example, verbose_option

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output

_data_option = click.option(
    "--data", type=FILE_PATH, metavar="DIR", help="Where the server keeps everything."
)
_json_option = click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")


@click.group("server", epilog=example("syncline server verify --data /srv/syncline"))
def command() -> None:
    """Check and repair the data of a server at rest."""


@command.command(
    "rebuild",
    epilog=example("syncline server rebuild --data /srv/syncline"),
)
@_data_option
@_json_option
@config_option
@verbose_option
def rebuild_command(
    data: Path | None,
    is_json: bool,
    config: Path | None,
    verbosity: int,
) -> int:
    """Build the index of chunks again from the packs.

    For a server whose index is lost or wrong; it must not be running.
    """
    return _maintain(_rebuild, data, config, verbosity, is_json=is_json)


@command.command(
    "verify",
    epilog=example("syncline server verify --data /srv/syncline"),
)
@_data_option
@_json_option
@config_option
@verbose_option
def verify_command(
    data: Path | None,
    is_json: bool,
    config: Path | None,
    verbosity: int,
) -> int:
    """Read everything that a server keeps and name what is damaged.

    What is damaged is marked, so that the next store of that content repairs it. The server must
    not be running. Each finding is a line.
    """
    return _maintain(_verify, data, config, verbosity, is_json=is_json)


def _maintain(
    work: Callable[[Path, Output], ExitCode],
    data: Path | None,
    config: Path | None,
    verbosity: int,
    *,
    is_json: bool,
) -> int:
    import logging
    import os

    from syncline.cli.exits import exit_code
    from syncline.cli.output import Output, error_record
    from syncline.cli.session import start_log
    from syncline.compose.config import ServeFlags, load_data
    from syncline.errors import SynclineError

    start_log(logging.WARNING, verbosity)
    output = Output(is_json=is_json)
    try:
        return work(load_data(os.environ, ServeFlags(config=config, data=data)), output)
    except SynclineError as error:
        output.failure(error)
        if is_json:
            output.record({"result": "failed", "error": error_record(error)})
        return exit_code(error)


def _rebuild(data: Path, output: Output) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.text import plain
    from syncline.compose.maintenance import rebuild_data

    damaged = 0
    for name, found in rebuild_data(data).volumes.items():
        damaged += len(found.damaged)
        if output.is_json:
            output.record(
                {
                    "volume": name,
                    "result": "rebuilt",
                    "chunks": found.indexed,
                    "damaged": len(found.damaged),
                    "cut_bytes": found.cut_bytes,
                }
            )
        else:
            output.line(
                f"rebuilt  volume '{plain(name)}'  {found.indexed} chunks, "
                f"{len(found.damaged)} damaged, {found.cut_bytes} bytes of a torn tail cut"
            )
    if not damaged:
        return ExitCode.OK
    output.complain(f"{damaged} chunks are damaged; 'syncline server verify' names their files")
    return ExitCode.CORRUPT


def _verify(data: Path, output: Output) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.text import plain
    from syncline.compose.maintenance import verify_data

    findings = 0
    for finding in verify_data(data):
        findings += 1
        if output.is_json:
            output.record({"result": "damaged", "finding": plain(finding)})
        else:
            output.line(f"damaged  {plain(finding)}")
    if output.is_json:
        output.record({"result": "verified", "findings": findings})
    elif not findings:
        output.line("verified  all that the server keeps is whole")
    if not findings:
        return ExitCode.OK
    output.complain(f"{findings} findings; store the files that are named again to repair them")
    return ExitCode.CORRUPT
