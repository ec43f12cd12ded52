"""`syncline watch`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path, revision_number

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session
    from syncline.core.names import RelPath
    from syncline.ports.link import PathChange


@click.command(
    "watch",
    epilog=example(
        "syncline watch", "syncline watch photos --since 12", "syncline watch --json | jq .revision"
    ),
)
@click.argument("path", default=b"", type=raw_path)
@click.option(
    "--since",
    type=revision_number,
    metavar="REVISION",
    help="Begin with the commit after this one; 0: with the first. Default: from now on.",
)
@client_options
def command(path: bytes, since: int | None, options: ClientOptions) -> int:
    """Print each commit as it happens, until interrupted.

    Goes on over lost connections and restarts of the server, and misses nothing. With PATH, only
    changes at it or below it.
    """
    from syncline.cli.session import run_client

    return run_client(options, lambda session: _watch(session, path, since))


async def _watch(session: Session, raw: bytes, since: int | None) -> ExitCode:
    from contextlib import aclosing

    from syncline.cli.records import change_line, commit_record
    from syncline.cli.session import remote_address, revision
    from syncline.client.follow import follow
    from syncline.compose.connect import author
    from syncline.ports.link import Link

    path = remote_address(raw).path
    output = session.output

    async def connect() -> Link:
        return session.link()

    feed = follow(connect, author=author(session.config), since=revision(since))
    async with aclosing(feed):
        async for committed in feed:
            changes = [change for change in committed.changes if _concerns(change, path)]
            if output.is_json and changes:
                output.record(commit_record(committed, changes))
            for change in () if output.is_json else changes:
                output.line(change_line(committed, change))
    raise AssertionError("a feed goes on for ever")


def _concerns(change: PathChange, path: RelPath) -> bool:
    was = change.old_path
    return change.path.is_within(path) or (was is not None and was.is_within(path))
