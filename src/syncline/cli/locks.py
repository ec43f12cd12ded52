"""`syncline locks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session


@click.command(
    "locks",
    epilog=example("syncline locks", "syncline locks photos --json", "syncline locks --watch"),
)
@click.argument("path", default=b"", type=raw_path)
@click.option("--watch", is_flag=True, help="Go on with what happens to locks, until interrupted.")
@client_options
def command(path: bytes, watch: bool, options: ClientOptions) -> int:
    """List the locks of a volume; with PATH, those on it, below it and above it.

    A line has path, holder, host, since when, why, and how long it lasts at most.
    """
    from syncline.cli.session import run_client

    body = _watch if watch else _list
    return run_client(options, lambda session: body(session, path))


async def _list(session: Session, raw: bytes) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_records import lock_line, lock_record
    from syncline.cli.session import link_to, remote_address

    async with link_to(session) as link:
        async for located in link.locks(remote_address(raw).path):
            if session.output.is_json:
                session.output.record(lock_record(located))
            else:
                session.output.line(lock_line(located))
    return ExitCode.OK


async def _watch(session: Session, raw: bytes) -> ExitCode:
    from syncline.cli.lock_records import change_line, change_record, lock_line, lock_record
    from syncline.cli.session import remote_address
    from syncline.client.holding import follow_locks
    from syncline.compose.connect import author
    from syncline.ports.locks import LocatedLock, LockTable

    path, output = remote_address(raw).path, session.output

    def concerns(located: LocatedLock) -> bool:
        return located.path.is_within(path) or path.is_within(located.path)

    async for event in follow_locks(lambda: session.link(), author(session.config)):
        if isinstance(event, LockTable):
            for located in filter(concerns, event.locks):
                if output.is_json:
                    output.record({"effect": "held", **lock_record(located), "by": None})
                else:
                    output.line(f"held      {lock_line(located)}")
            continue
        for change in event.changes:
            if concerns(change.lock):
                if output.is_json:
                    output.record(change_record(change))
                else:
                    output.line(change_line(change))
    raise AssertionError("a feed goes on for ever")
