"""`syncline list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path, revision_number

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session


@click.command(
    "list",
    epilog=example(
        "syncline list", "syncline list photos --recursive", "syncline list photos --at 12 --json"
    ),
)
@click.argument("path", default=b"", type=raw_path)
@click.option("--recursive", is_flag=True, help="List what is in directories too, at any depth.")
@click.option("--at", type=revision_number, metavar="REVISION", help="As it was at this revision.")
@client_options
def command(
    path: bytes,
    recursive: bool,
    at: int | None,
    options: ClientOptions,
) -> int:
    """List what is in a directory of a volume, or in the whole volume.

    A line has mode, size in bytes, time of change, revision and path, and who has locked it.
    """
    from syncline.cli.session import run_client

    return run_client(options, lambda session: _list(session, path, at, is_recursive=recursive))


async def _list(session: Session, raw: bytes, at: int | None, *, is_recursive: bool) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_records import LockMarks
    from syncline.cli.records import located_line, located_record
    from syncline.cli.session import link_to, remote_address, revision

    path = remote_address(raw).path
    output = session.output
    async with link_to(session) as link:
        marks = await LockMarks.look(link, revision(at))
        async for located in link.list(path, is_recursive=is_recursive, at=revision(at)):
            if output.is_json:
                output.record({**located_record(located), **marks.record(located)})
            else:
                output.line(located_line(located) + marks.suffix(located))
    return ExitCode.OK
