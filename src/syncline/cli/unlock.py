"""`syncline unlock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_places import InMount
    from syncline.cli.output import Output
    from syncline.cli.session import Session
    from syncline.core.names import RelPath
    from syncline.ports.locks import Unlocked


@click.command(
    "unlock",
    epilog=example("syncline unlock report.odt", "syncline unlock report.odt --force"),
)
@click.argument("path", nargs=-1, required=True, type=raw_path)
@click.option(
    "--force", is_flag=True, help="Break the lock of another; he is told, and it is kept on record."
)
@client_options
def command(path: tuple[bytes, ...], force: bool, options: ClientOptions) -> int:
    """Give up your locks on paths; a path without a lock is well.

    In a running mount, what was changed under the lock is stored first.
    """
    from syncline.cli.lock_places import run_there

    return run_there(
        options,
        path,
        lambda found, output: _unlock_in_mount(found, output, is_forced=force),
        lambda session: _unlock(session, path, is_forced=force),
    )


def _unlock_in_mount(found: InMount, output: Output, *, is_forced: bool) -> ExitCode:
    from syncline.compose.control import ask_unlock

    result = ask_unlock(found.place.state, found.paths, is_forced=is_forced)
    return _tell(found.paths, result.unlocked, output)


async def _unlock(session: Session, raws: tuple[bytes, ...], *, is_forced: bool) -> ExitCode:
    from syncline.cli.session import link_to, remote_address
    from syncline.compose.connect import author, host
    from syncline.core.user_locks import NO_TOKEN
    from syncline.ports.locks import UnlockTarget, UnlockWanted

    paths = [remote_address(raw).path for raw in raws]
    targets = tuple(UnlockTarget(path, NO_TOKEN) for path in paths)
    wanted = UnlockWanted(author(session.config), host(), targets, is_forced)
    async with link_to(session) as link:
        return _tell(paths, await link.unlock(wanted), session.output)


def _tell(paths: Sequence[RelPath], unlocked: Sequence[Unlocked], output: Output) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_records import holder_text, lock_record
    from syncline.cli.records import shown
    from syncline.ports.locks import UnlockResult

    for path, each in zip(paths, unlocked, strict=True):
        if output.is_json:
            lock = None if each.lock is None else lock_record(each.lock)
            output.record({"path": str(path), "result": each.result.value, "lock": lock})
            continue
        was = ""
        if each.result is UnlockResult.BROKEN and each.lock is not None:
            was = f"  was of {holder_text(each.lock)}"
        output.line(f"{each.result.value.replace('_', ' '):<10} {shown(path)}{was}")
    return ExitCode.OK
