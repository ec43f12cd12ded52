"""`syncline fetch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path, revision_number

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session


@click.command(
    "fetch",
    epilog=example(
        "syncline fetch report.txt",
        "syncline fetch photos --to /tmp/photos --no-overwrite",
        "syncline fetch report.txt --at 12 --to report.old.txt",
    ),
)
@click.argument("path", nargs=-1, required=True, type=raw_path)
@click.option(
    "--to",
    type=raw_path,
    metavar="LOCAL",
    help="Where on this machine; a directory, or what ends in a slash, takes them inside.",
)
@click.option("--at", type=revision_number, metavar="REVISION", help="As it was at this revision.")
@click.option("--no-overwrite", is_flag=True, help="Leave alone what stands there and differs.")
@client_options
def command(
    path: tuple[bytes, ...],
    to: bytes | None,
    at: int | None,
    no_overwrite: bool,
    options: ClientOptions,
) -> int:
    """Fetch paths of a volume to this machine, as they are or were.

    A directory comes with all that is in it; "." stands for all that is in the volume. A file
    appears whole or not at all.
    """
    from syncline.cli.session import run_client

    return run_client(
        options, lambda session: _fetch(session, path, to, at, may_overwrite=not no_overwrite)
    )


async def _fetch(
    session: Session,
    raws: tuple[bytes, ...],
    to: bytes | None,
    at: int | None,
    *,
    may_overwrite: bool,
) -> ExitCode:
    from contextlib import closing

    from syncline.cli.report import CommandReport
    from syncline.cli.session import link_to, remote_address, revision
    from syncline.client.fetch import fetch
    from syncline.client.targets import fetch_places
    from syncline.compose.connect import chunker, executor

    places = fetch_places([remote_address(raw) for raw in raws], to)
    report = CommandReport(session.output)
    async with link_to(session) as link:
        with closing(executor()) as threads, report.shown():
            await fetch(
                link,
                places,
                chunker=chunker(),
                executor=threads,
                report=report,
                at=revision(at),
                may_overwrite=may_overwrite,
                retry_s=session.config.timeout_s,
            )
    return report.conclude()
