"""`syncline lock --hold`: a command that runs under locks, which end with it.

The command has the terminal, the streams and the signals as if it ran alone. Locks are given back
when it has ended, whatever ended it; when this process itself is killed, their lease ends them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from syncline.cli.exits import ExitCode
from syncline.cli.lock_options import TOKENS_VARIABLE, tokens_text
from syncline.cli.output import Output
from syncline.cli.records import shown
from syncline.cli.session import Session, remote_address
from syncline.cli.text import plain
from syncline.client.holding import LEASE_S, Holding, Loss
from syncline.compose.connect import author, fresh_session, host
from syncline.core.user_locks import LockEffect, Owner
from syncline.errors import SynclineError
from syncline.ports.link import LockingLink
from syncline.ports.locks import LocatedLock, LockWanted

NOT_FOUND, NOT_EXECUTABLE, SIGNALLED = 127, 126, 128
"""Exit codes by which a shell tells of a command that it could not run, or that a signal ended."""

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user wants locked while his command runs; None where he said nothing."""

    paths: Sequence[bytes]
    reason: str
    ttl_s: float | None
    lease_s: float | None
    wait_s: float


async def hold(
    session: Session, wish: Wish, program: Sequence[bytes], ended: list[int]
) -> ExitCode:
    """Lock, run the command, unlock; put the command's exit code, any number, into `ended`.

    Return LOCK_LOST when a lock was lost under a command that went well, else OK.
    """
    owner = Owner(author(session.config), host(), fresh_session())
    targets = tuple(remote_address(raw).path for raw in wish.paths)
    lease_s = wish.lease_s or (LEASE_S if wish.ttl_s is None else min(LEASE_S, wish.ttl_s))
    wanted = LockWanted(owner, targets, wish.reason, lease_s, wish.ttl_s or 0.0, wish.wait_s)
    losses: list[Loss] = []

    def lose(loss: Loss) -> None:
        losses.append(loss)
        session.output.complain(_loss_text(loss))

    async def connect() -> LockingLink:
        return session.link()

    link = session.link()
    try:
        locks = await link.lock(wanted)
        holding = Holding(connect, owner, locks, lost=lose, is_bounded=wish.ttl_s is not None)
        try:
            code = await _run_under(session.output, holding, program)
        finally:
            is_free = await _release(session.output, holding, link, locks)
    finally:
        await link.close()
    ended.append(code)
    # A success that others may have disturbed is none, and so is one that nobody can vouch for.
    is_sure = is_free and not losses
    return ExitCode.LOCK_LOST if code == 0 and not is_sure else ExitCode.OK


async def _run_under(output: Output, holding: Holding, program: Sequence[bytes]) -> int:
    async with asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(holding.run(), name="lock-holding")
        code = await _run(output, program, tokens_text(holding.held))
        keeper.cancel()
    return code


async def _release(
    output: Output, holding: Holding, link: LockingLink, locks: Sequence[LocatedLock]
) -> bool:
    """Give back the locks; tell whether the server heard of it."""
    try:
        await holding.release(link)
    except (SynclineError, TimeoutError):
        lease_s = min(each.lock.lease_s for each in locks)
        output.complain(
            f"the server cannot be reached: the locks are lost, or end within {lease_s:.0f} s"
        )
        return False
    return True


async def _run(output: Output, program: Sequence[bytes], tokens: str) -> int:
    """Run the command to its end; return its exit code as a shell would tell it."""
    environ = {**os.environ, TOKENS_VARIABLE: tokens}
    try:
        process = await asyncio.create_subprocess_exec(*program, env=environ)
    except FileNotFoundError:
        output.complain(f"there is no command '{os.fsdecode(program[0])}'")
        return NOT_FOUND
    except OSError as error:
        output.complain(f"'{os.fsdecode(program[0])}' cannot be run: {error.strerror}")
        return NOT_EXECUTABLE
    with _forwarding(process):
        code = await _end_of(process)
    return code if code >= 0 else SIGNALLED - code


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """Return the return code of a command; cancelled, raise that when the command has ended.

    Nobody leaves a command behind that believes to be under a lock.
    """
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            code = await process.wait()
        except asyncio.CancelledError as error:
            cancelled = error
        else:
            break
    if cancelled is not None:
        raise cancelled
    return code


@contextmanager
def _forwarding(process: asyncio.subprocess.Process) -> Iterator[None]:
    """Leave signals to the command, as if it ran alone: it ends, or it does not."""
    loop = asyncio.get_running_loop()
    # A terminal sends these to the command itself; sent again they would count twice.
    by_terminal = {signal.SIGINT, signal.SIGQUIT} if _has_terminal() else set()

    def forward(number: signal.Signals) -> None:
        if number not in by_terminal and process.returncode is None:
            process.send_signal(number)

    for number in _FORWARDED:
        loop.add_signal_handler(number, forward, number)
    try:
        yield
    finally:
        # From here on there is only the unlocking left, which has a bound of its own.
        for number in _FORWARDED:
            loop.add_signal_handler(number, _ignore)


def _has_terminal() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError, AttributeError):
        return False


def _ignore() -> None:
    """Let the unlocking come to its end."""


def _loss_text(loss: Loss) -> str:
    path = shown(loss.lock.path)
    change = loss.change
    if change is None:
        return f"the lock of '{path}' is lost: the server does not have it any more"
    by = "somebody" if change.by is None else plain(change.by.name)
    match change.effect:
        case LockEffect.BROKEN:
            return f"the lock of '{path}' was broken by {by}"
        case LockEffect.EXPIRED:
            return f"the lock of '{path}' is lost: it was not renewed in time, or its time is over"
        case LockEffect.DELETED:
            return f"the lock of '{path}' ended: {by} deleted what it was on"
        case LockEffect.UNLOCKED | LockEffect.GRANTED:
            return f"the lock of '{path}' was given up by {by}"
