"""`syncline stat`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path, revision_number

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session
    from syncline.core.names import RelPath

PATHS_AT_ONCE = 256
"""Paths of 4,096 bytes in one request stay far below the limit of a message, 4 MiB."""


@click.command(
    "stat",
    epilog=example("syncline stat report.txt", "syncline stat . --json"),
)
@click.argument("path", nargs=-1, required=True, type=raw_path)
@click.option("--at", type=revision_number, metavar="REVISION", help="As it was at this revision.")
@client_options
def command(path: tuple[bytes, ...], at: int | None, options: ClientOptions) -> int:
    """Show all that is known of paths in a volume: kind, revision, author, mode, size, digest.

    "." shows the volume itself, with its newest revision.
    """
    from syncline.cli.session import run_client

    return run_client(options, lambda session: _stat(session, path, at))


async def _stat(session: Session, raws: tuple[bytes, ...], at: int | None) -> ExitCode:
    from syncline.cli.exits import exit_code
    from syncline.cli.lock_records import LockMarks
    from syncline.cli.output import error_record
    from syncline.cli.records import (
        located_record,
        shown,
        stat_lines,
        volume_lines,
        volume_record,
    )
    from syncline.cli.report import combine
    from syncline.cli.session import link_to, remote_address, revision
    from syncline.errors import NotFound

    paths = [remote_address(raw).path for raw in raws]
    output = session.output
    codes: Counter[ExitCode] = Counter()

    def absent(path: RelPath) -> None:
        when = "" if at is None else f" at revision {at}"
        error = NotFound(f"there is no such path in the volume{when}", path=str(path))
        codes[exit_code(error)] += 1
        output.failure(error, path=shown(path))
        if output.is_json:
            output.record({"path": str(path), "result": "failed", "error": error_record(error)})

    async with link_to(session) as link:
        marks = await LockMarks.look(link, revision(at))
        for start in range(0, len(paths), PATHS_AT_ONCE):
            some = paths[start : start + PATHS_AT_ONCE]
            for path, located in zip(some, await link.stat(some, revision(at)), strict=True):
                if not path.parts:
                    facts = await link.hello()
                    lines, record = volume_lines(facts), volume_record(facts)
                elif located is None:
                    absent(path)
                    continue
                else:
                    lines = [*stat_lines(located), *marks.lines(located)]
                    record = {**located_record(located), **marks.record(located)}
                if output.is_json:
                    output.record(record)
                for line in () if output.is_json else lines:
                    output.line(line)
    failed = codes.total()
    if failed and len(paths) > 1:
        output.complain(f"{failed} of {len(paths)} paths failed")
    return combine(codes, is_all_failed=failed == len(paths))
