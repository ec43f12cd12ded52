"""`syncline lock --hold`: a command that runs under locks, which end with it.

The command has the terminal, the streams and the signals as if it ran alone. Locks are given back
when it has ended, whatever ended it; when this process itself is killed, their lease ends them, or
the mount that holds them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from syncline.cli.exits import ExitCode
from syncline.cli.lock_options import TOKENS_VARIABLE, tokens_text
from syncline.cli.output import Output
from syncline.cli.records import shown
from syncline.cli.session import Session, remote_address
from syncline.cli.text import plain
from syncline.client.holding import LEASE_S, Holding, Loss
from syncline.compose.connect import author, fresh_session, host
from syncline.compose.control import held_by_mount
from syncline.compose.control_hold import MountHold
from syncline.core.user_locks import LockEffect, Owner
from syncline.errors import SynclineError
from syncline.ports.link import LockingLink
from syncline.ports.locks import LocatedLock, LockWanted
from syncline.ports.mount_control import LockAsked, LockLost

NOT_FOUND, NOT_EXECUTABLE, SIGNALLED = 127, 126, 128
"""Exit codes by which a shell tells of a command that it could not run, or that a signal ended."""

END_WAIT_S = 60.0
"""How long a mount has to store what was changed under the locks, and to give them back."""

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
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(holding.run(), name="lock-holding")
            try:
                code = await _run(session.output, program, tokens_text(holding.held))
            finally:
                is_free = await _release(session.output, holding, link, locks)
                keeper.cancel()
    finally:
        await link.close()
    ended.append(code)
    # A success that others may have disturbed is none, and so is one that nobody can vouch for.
    is_sure = is_free and not losses
    return ExitCode.LOCK_LOST if code == 0 and not is_sure else ExitCode.OK


async def hold_in_mount(
    output: Output, state: Path, asked: LockAsked, program: Sequence[bytes], ended: list[int]
) -> ExitCode:
    """Have the mount that uses a state hold locks while the command runs; as `hold`."""
    losses: list[LockLost] = []

    def lose(loss: LockLost) -> None:
        losses.append(loss)
        output.complain(_lost_text(loss.lock, loss.effect, loss.by))

    async with held_by_mount(state, asked) as held, asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(_listen(output, held, lose), name="lock-holding")
        try:
            # No tokens: they are the mount's, which names them when it stores.
            code = await _run(output, program, None)
        finally:
            held.release()
            is_free = await _heard_end(output, listening)
    ended.append(code)
    return ExitCode.LOCK_LOST if code == 0 and (losses or not is_free) else ExitCode.OK


async def _listen(output: Output, held: MountHold, lose: Callable[[LockLost], None]) -> bool:
    """Tell of losses until the hold is over; tell whether the mount gave the locks back."""
    try:
        end = await held.listen(lose)
    except SynclineError as error:
        # The command goes on, as with a lock that is lost.
        lease_s = min(each.lock.lease_s for each in held.locks)
        output.complain(
            f"{error.message}; the locks are lost, or end within {lease_s:.0f} s of its end"
        )
        return False
    if not end.is_released:
        output.complain("the server cannot be reached: the locks are lost, or end by themselves")
    return end.is_released


async def _heard_end(output: Output, listening: asyncio.Task[bool]) -> bool:
    await asyncio.wait((listening,), timeout=END_WAIT_S)
    if listening.done():
        return listening.result()
    listening.cancel()
    output.complain("the mount does not answer: the locks end with this command")
    return False


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


async def _run(output: Output, program: Sequence[bytes], tokens: str | None) -> int:
    """Run the command to its end; return its exit code as a shell would tell it."""
    environ = dict(os.environ) if tokens is None else {**os.environ, TOKENS_VARIABLE: tokens}
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
    change = loss.change
    if change is None:
        return _lost_text(loss.lock, None, None)
    return _lost_text(loss.lock, change.effect, None if change.by is None else change.by.name)


def _lost_text(lock: LocatedLock, effect: LockEffect | None, name: str | None) -> str:
    path = shown(lock.path)
    by = "somebody" if name is None else plain(name)
    match effect:
        case None:
            return f"the lock of '{path}' is lost: the server does not have it any more"
        case LockEffect.BROKEN:
            return f"the lock of '{path}' was broken by {by}"
        case LockEffect.EXPIRED:
            return f"the lock of '{path}' is lost: it was not renewed in time, or its time is over"
        case LockEffect.DELETED:
            return f"the lock of '{path}' ended: {by} deleted what it was on"
        case LockEffect.UNLOCKED | LockEffect.GRANTED:
            return f"the lock of '{path}' was given up by {by}"
