"""`syncline store`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path, revision_number

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session


@click.command(
    "store",
    epilog=example(
        "syncline store report.txt",
        "syncline store photos --to archive/2024/",
        "syncline store report.txt --if-revision 12",
    ),
)
@click.argument("local", nargs=-1, required=True, type=raw_path)
@click.option(
    "--to",
    type=raw_path,
    metavar="REMOTE",
    help="Where in the volume; a directory, or what ends in a slash, takes them inside.",
)
@click.option(
    "--if-revision",
    type=revision_number,
    metavar="N",
    help="Refuse as stale unless the file is at revision N there; 0: must not exist.",
)
@client_options
def command(
    local: tuple[bytes, ...], to: bytes | None, if_revision: int | None, options: ClientOptions
) -> int:
    """Store local files, directories and links in a volume.

    A directory goes with all that is in it; "DIR/." stands for what is in it. What stands at a path
    already is replaced, and its old content stays in the history.
    """
    from syncline.cli.session import run_client

    return run_client(options, lambda session: _store(session, local, to, if_revision))


async def _store(
    session: Session, locals_: tuple[bytes, ...], to: bytes | None, if_revision: int | None
) -> ExitCode:
    from contextlib import closing

    from syncline.cli.report import CommandReport
    from syncline.cli.session import link_to, revision
    from syncline.client.store import LOCK_WAIT_S, store
    from syncline.client.targets import parse_address, store_sources
    from syncline.compose.connect import author, chunker, executor, ids

    address = None if to is None else parse_address(to)
    report = CommandReport(session.output)
    async with link_to(session) as link:
        sources = await store_sources(link, locals_, address)
        with closing(executor()) as threads, report.shown():
            await store(
                link,
                sources,
                author=author(session.config),
                ids=ids(),
                chunker=chunker(),
                executor=threads,
                report=report,
                if_revision=revision(if_revision),
                retry_s=session.config.timeout_s,
                lock_wait_s=min(LOCK_WAIT_S, session.config.timeout_s),
            )
    return report.conclude()
