"""`syncline lock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from syncline.cli.lock_options import TTL_S, duration
from syncline.cli.options import ClientOptions, client_options, example, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.lock_hold import Wish
    from syncline.cli.lock_places import InMount
    from syncline.cli.output import Output
    from syncline.cli.session import Session
    from syncline.ports.locks import LocatedLock


@click.command(
    "lock",
    epilog=example(
        "syncline lock report.odt --reason 'new figures' --ttl 8h",
        "syncline lock ~/shared/plans --wait 30s",
        "syncline lock photos --wait 30s --hold -- sh -c 'syncline store photos'",
    ),
)
@click.argument("arguments", nargs=-1, required=True, type=raw_path, metavar="PATH... [COMMAND]")
@click.option("--reason", default="", metavar="TEXT", help="What others read beside the lock.")
@click.option(
    "--ttl", type=duration, metavar="TIME", help="The longest that it lasts. Default: 8h."
)
@click.option(
    "--wait",
    type=duration,
    default=0.0,
    metavar="TIME",
    help="Wait for others so long. Default: not at all.",
)
@click.option(
    "--hold",
    is_flag=True,
    help="Run what follows -- under the lock, and unlock when it ends, however it ends.",
)
@click.option(
    "--lease",
    type=duration,
    metavar="TIME",
    help="With --hold: when the lock ends after who holds it was killed or cut off. Default: 30s.",
)
@client_options
def command(
    arguments: tuple[bytes, ...],
    reason: str,
    ttl: float | None,
    wait: float,
    hold: bool,
    lease: float | None,
    options: ClientOptions,
) -> int:
    """Keep others from changing a file; or a directory, with all that is below it.

    PATH is in a running mount, which then holds the lock, or in a volume. Others can look and
    fetch. Several paths are locked together or not at all. With --hold, PATH... and the command are
    parted by --: the lock ends with the command, whose exit code this one has.
    """
    from syncline.cli.lock_places import run_there

    split = _split(arguments) if hold else None
    if split is None:
        if lease is not None:
            raise click.UsageError("--lease goes with --hold: nothing else renews a lease")
        life_s = TTL_S if ttl is None else ttl
        return run_there(
            options,
            arguments,
            lambda found, output: _lock_in_mount(found, output, reason, life_s, wait),
            lambda session: _lock(session, arguments, reason, life_s, wait),
        )
    paths, program = split
    from syncline.cli.lock_hold import Wish
    from syncline.cli.lock_hold import hold as hold_locks

    wish = Wish(paths, reason, ttl, lease, wait)
    ended: list[int] = []
    code = run_there(
        options,
        paths,
        lambda found, output: _hold_in_mount(found, output, wish, program, ended),
        lambda session: hold_locks(session, wish, program, ended),
    )
    return ended[0] if ended and code == 0 else code


def _split(arguments: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Return the paths and the command, which click gives in one after it took away the `--`."""
    import os
    import sys

    raw = [os.fsencode(each) for each in sys.argv]
    if b"--" not in raw:
        raise click.UsageError("--hold needs a command: write it after --, as in '--hold -- make'")
    program = tuple(raw[raw.index(b"--") + 1 :])
    paths = arguments[: len(arguments) - len(program)]
    if not program or not paths:
        raise click.UsageError("--hold needs a path before -- and a command after it")
    return paths, program


def _lock_in_mount(
    found: InMount, output: Output, reason: str, ttl_s: float, wait_s: float
) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.compose.control import ask_lock
    from syncline.ports.mount_control import LockAsked

    asked = LockAsked(found.paths, reason, ttl_s, wait_s)
    for located in ask_lock(found.place.state, asked).locks:
        _tell(located, output)
    return ExitCode.OK


def _hold_in_mount(
    found: InMount, output: Output, wish: Wish, program: tuple[bytes, ...], ended: list[int]
) -> ExitCode:
    from syncline.cli.lock_hold import hold_in_mount
    from syncline.cli.session import run_stoppable
    from syncline.ports.mount_control import LockAsked

    asked = LockAsked(found.paths, wish.reason, wish.ttl_s or 0.0, wish.wait_s, wish.lease_s or 0.0)
    state = found.place.state
    return run_stoppable(lambda: hold_in_mount(output, state, asked, program, ended), output)


async def _lock(
    session: Session, raws: tuple[bytes, ...], reason: str, ttl_s: float, wait_s: float
) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.session import link_to, remote_address
    from syncline.compose.connect import author, host, lock_session
    from syncline.core.user_locks import Owner
    from syncline.ports.locks import LockWanted

    who = author(session.config)
    owner = Owner(who, host(), lock_session(who))
    targets = tuple(remote_address(raw).path for raw in raws)
    wanted = LockWanted(owner, targets, reason, 0.0, ttl_s, wait_s)
    async with link_to(session) as link:
        for located in await link.lock(wanted):
            _tell(located, session.output)
    return ExitCode.OK


def _tell(located: LocatedLock, output: Output) -> None:
    from syncline.cli.lock_options import duration_text
    from syncline.cli.lock_records import lock_record
    from syncline.cli.records import shown

    if output.is_json:
        output.record({"result": "locked", **lock_record(located)})
    else:
        life = duration_text(located.ends_s)
        output.line(f"locked     {shown(located.path)}  for {life}, token {located.lock.token}")
