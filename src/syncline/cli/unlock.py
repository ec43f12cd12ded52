"""`syncline unlock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.options import ClientOptions, client_options, example, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import Session


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
    """Give up your locks on paths; a path without a lock is well."""
    from syncline.cli.session import run_client

    return run_client(options, lambda session: _unlock(session, path, is_forced=force))


async def _unlock(session: Session, raws: tuple[bytes, ...], *, is_forced: bool) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_records import holder_text, lock_record
    from syncline.cli.records import shown
    from syncline.cli.session import link_to, remote_address
    from syncline.compose.connect import author, host
    from syncline.core.user_locks import NO_TOKEN
    from syncline.ports.locks import UnlockResult, UnlockTarget, UnlockWanted

    paths = [remote_address(raw).path for raw in raws]
    targets = tuple(UnlockTarget(path, NO_TOKEN) for path in paths)
    wanted = UnlockWanted(author(session.config), host(), targets, is_forced)
    async with link_to(session) as link:
        for path, each in zip(paths, await link.unlock(wanted), strict=True):
            if session.output.is_json:
                lock = None if each.lock is None else lock_record(each.lock)
                session.output.record(
                    {"path": str(path), "result": each.result.value, "lock": lock}
                )
                continue
            was = ""
            if each.result is UnlockResult.BROKEN and each.lock is not None:
                was = f"  was of {holder_text(each.lock)}"
            session.output.line(f"{each.result.value.replace('_', ' '):<10} {shown(path)}{was}")
    return ExitCode.OK
