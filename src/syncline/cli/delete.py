"""`syncline delete`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path, revision_number

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session


@click.command(
    "delete",
    epilog=example(
        "syncline delete report.txt",
        "syncline delete photos --recursive",
        "syncline delete report.txt --if-revision 12",
    ),
)
@click.argument("path", nargs=-1, required=True, type=raw_path)
@click.option("--recursive", is_flag=True, help="Delete what is in a directory too.")
@click.option(
    "--if-revision",
    type=revision_number,
    metavar="N",
    help="Refuse as stale unless the path is at revision N there.",
)
@client_options
def command(
    path: tuple[bytes, ...],
    recursive: bool,
    if_revision: int | None,
    options: ClientOptions,
) -> int:
    """Delete paths of a volume; their past stays readable with --at.

    A directory with something in it is left alone without --recursive.
    """
    from syncline.cli.session import run_client

    return run_client(
        options, lambda session: _delete(session, path, if_revision, is_recursive=recursive)
    )


async def _delete(
    session: Session, raws: tuple[bytes, ...], if_revision: int | None, *, is_recursive: bool
) -> ExitCode:
    from syncline.cli.report import CommandReport
    from syncline.cli.session import link_to, remote_address, revision
    from syncline.client.delete import LOCK_WAIT_S, delete
    from syncline.compose.connect import author, ids

    paths = [remote_address(raw).path for raw in raws]
    report = CommandReport(session.output)
    async with link_to(session) as link:
        with report.shown():
            await delete(
                link,
                paths,
                author=author(session.config),
                ids=ids(),
                report=report,
                is_recursive=is_recursive,
                if_revision=revision(if_revision),
                retry_s=session.config.timeout_s,
                lock_wait_s=min(LOCK_WAIT_S, session.config.timeout_s),
            )
    return report.conclude()
