"""Calls about user locks on a served volume, and two people who make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from syncline.core.changes import Change, HeldToken, Proposal, Token
from syncline.core.names import RelPath
from syncline.core.user_locks import Owner, SessionId
from syncline.ports.link import LockingLink, Progress
from syncline.ports.locks import (
    LocatedLock,
    LockWanted,
    UnlockResult,
    UnlockTarget,
    UnlockWanted,
)
from syncline.server.limits import Limits
from tests.support.serving import (
    ALICE,
    BOB,
    Chunks,
    SeededIds,
    accepted,
    propose,
)
from tests.support.trees import put_directory, put_file

ANN = Owner(ALICE, "laptop", SessionId(b"a" * 16))
BEN = Owner(BOB, "desk", SessionId(b"b" * 16))
FAST = Limits(user_lock_min_s=0.05, lock_stall_s=0.2)
"""Sweeps each 50 ms."""


async def planted(link: LockingLink, ids: SeededIds) -> None:
    """Put `d/`, `d/f` and `x` into the volume, at revision 1."""
    files = [put_directory("d"), put_file("f", 0, "d"), put_file("x")]
    accepted(await link.store(propose(*files, ids=ids, inline=[b"content"]), Chunks()))


def path(raw: str) -> RelPath:
    """Return a path."""
    return RelPath.parse(raw.encode())


async def locked(
    link: LockingLink,
    who: Owner,
    *paths: str,
    lease_s: float = 0.0,
    ttl_s: float = 600.0,
    wait_s: float = 0.0,
    reason: str = "",
) -> Sequence[LocatedLock]:
    """Lock paths for somebody."""
    wanted = LockWanted(who, tuple(map(path, paths)), reason, lease_s, ttl_s, wait_s)
    return await link.lock(wanted)


async def unlocked(
    link: LockingLink, who: Owner, name: str, token: int = 0, *, is_forced: bool = False
) -> UnlockResult:
    """Unlock a path; return what came of it."""
    targets = (UnlockTarget(path(name), Token(token)),)
    [done] = await link.unlock(UnlockWanted(who.author, who.host, targets, is_forced))
    return done.result


def edit(label: str, base: int, parent: str, raw: bytes) -> Change:
    """Return a change of the content of a file."""
    return put_file(label, base, parent, content=raw)


def under(proposal: Proposal, *locks: LocatedLock) -> Proposal:
    """Return a proposal that names the tokens of locks."""
    tokens = tuple(HeldToken(each.lock.entry, each.lock.token) for each in locks)
    return replace(proposal, tokens=tokens)


async def no_progress() -> AsyncIterator[Progress]:
    """Tell of no progress, and end."""
    return
    yield
