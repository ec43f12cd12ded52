"""`syncline locks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_places import InMount
    from syncline.cli.output import Output
    from syncline.cli.session import Session
    from syncline.ports.locks import LocatedLock


@click.command(
    "locks",
    epilog=example("syncline locks", "syncline locks photos --json", "syncline locks --watch"),
)
@click.argument("path", default=b"", type=raw_path)
@click.option("--watch", is_flag=True, help="Go on with what happens to locks, until interrupted.")
@client_options
def command(path: bytes, watch: bool, options: ClientOptions) -> int:
    """List the locks of a volume; with PATH, those on it, below it and above it.

    PATH, or the current directory, may be in a running mount: then they are those of its volume.
    A line has path, holder, host, since when, why, and how long it lasts at most.
    """
    from syncline.cli.lock_places import run_there

    body = _watch if watch else _list
    in_mount = _watch_in_mount if watch else _list_in_mount
    return run_there(
        options,
        (path,),
        lambda found, output: in_mount(found, output, options),
        lambda session: body(session, path),
    )


def _list_in_mount(found: InMount, output: Output, options: ClientOptions) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.compose.control import ask_locks

    for located in ask_locks(found.place.state, found.paths[0]).locks:
        _tell(located, output)
    return ExitCode.OK


def _watch_in_mount(found: InMount, output: Output, options: ClientOptions) -> ExitCode:
    from dataclasses import replace

    from syncline.cli.exits import ExitCode
    from syncline.cli.session import run_client

    # Nothing in the mount is asked: its volume is watched.
    there = replace(options, server=found.status.server, volume=found.status.volume)
    path = bytes(found.paths[0])
    return ExitCode(run_client(there, lambda session: _watch(session, path)))


def _tell(located: LocatedLock, output: Output) -> None:
    from syncline.cli.lock_records import lock_line, lock_record

    if output.is_json:
        output.record(lock_record(located))
    else:
        output.line(lock_line(located))


async def _list(session: Session, raw: bytes) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import link_to, remote_address

    async with link_to(session) as link:
        async for located in link.locks(remote_address(raw).path):
            _tell(located, session.output)
    return ExitCode.OK


async def _watch(session: Session, raw: bytes) -> ExitCode:
    from syncline.cli.lock_records import change_line, change_record, lock_line, lock_record
    from syncline.cli.session import remote_address
    from syncline.client.holding import follow_locks
    from syncline.compose.connect import author
    from syncline.ports.locks import LockTable

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
