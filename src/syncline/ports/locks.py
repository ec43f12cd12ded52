"""User locks as a client asks for them and sees them; see `syncline.core.user_locks` for the rules.

Contract of `Locking`, for every adapter:

- All calls may run at once. Each ends by its answer, by a typed error, or by cancellation.
- `lock` gives all or nothing. Repeated by the same session it gives what that holds, with the same
  tokens: after an Unavailable or TimedOut it may be sent again. A call that is cancelled, or whose
  connection breaks, gives back what it was granted, unless it was asked for again meanwhile.
- A lock that was granted is durable. It ends by itself when its lease is not renewed.
- Errors besides each call's own: those of `syncline.ports.link`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from syncline.core.changes import Author, HeldToken, Token
from syncline.core.identity import EntryId
from syncline.core.names import RelPath
from syncline.core.user_locks import LockEffect, Owner, UserLock

Target = RelPath | EntryId
"""What is to be locked or unlocked: what is at a path at the head, or an entry wherever it is."""


@dataclass(frozen=True, slots=True)
class LocatedLock:
    """A lock with the path of its entry and its times in seconds, as of the moment it was told.

    `since_s`: held for so long. `expires_s`: over so soon unless it is renewed; `ends_s`: over so
    soon in any case.
    """

    lock: UserLock
    path: RelPath
    since_s: float
    expires_s: float
    ends_s: float


@dataclass(frozen=True, slots=True)
class LockTable:
    """All locks of the volume as of now; changes follow."""

    locks: tuple[LocatedLock, ...]


@dataclass(frozen=True, slots=True)
class ToldLockChange:
    """A lock that was granted or is over; `by` is who ended it, where somebody did."""

    effect: LockEffect
    lock: LocatedLock
    by: Author | None


@dataclass(frozen=True, slots=True)
class LockNews:
    """What happened to locks at one moment, in order, between the commits before and after it."""

    changes: tuple[ToldLockChange, ...]


@dataclass(frozen=True, slots=True)
class LockWanted:
    """What a session wants locked; `lease_s` 0: nobody will renew it, it lasts for `ttl_s`."""

    owner: Owner
    targets: tuple[Target, ...]
    reason: str = ""
    lease_s: float = 0.0
    ttl_s: float = 0.0
    """0: as long as the server allows."""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UnlockTarget:
    """What is to be unlocked; with a token only the lock of that grant, else the owner's own."""

    target: Target
    token: Token


@dataclass(frozen=True, slots=True)
class UnlockWanted:
    """What an owner wants unlocked; `is_forced` breaks the locks of others."""

    author: Author
    host: str
    targets: tuple[UnlockTarget, ...]
    is_forced: bool = False


class UnlockResult(Enum):
    """What came of one target."""

    UNLOCKED = "unlocked"
    BROKEN = "broken"
    NOT_LOCKED = "not_locked"


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What came of one target, and the lock that was there."""

    result: UnlockResult
    lock: LocatedLock | None


@dataclass(frozen=True, slots=True)
class LeaseLeft:
    """A renewed lease: over in `expires_s` unless renewed again, in `ends_s` in any case."""

    expires_s: float
    ends_s: float


class Locking(Protocol):
    """The locks of one volume."""

    async def lock(self, wanted: LockWanted) -> Sequence[LocatedLock]:
        """Lock all targets, in their order; raise Locked with the holder in the fields, NotFound,
        Invalid for a time out of range, Throttled when the table is full."""

    async def renew(
        self, author: Author, tokens: Sequence[HeldToken], ttl_s: float = 0.0
    ) -> Sequence[LeaseLeft | None]:
        """Renew leases, and with `ttl_s` let the locks last so long from now; None: it is lost."""

    async def unlock(self, wanted: UnlockWanted) -> Sequence[Unlocked]:
        """Unlock all targets; raise Locked, with nothing done, when one is another's, NotFound."""

    def locks(self, path: RelPath) -> AsyncIterator[LocatedLock]:
        """Yield the locks on a path, below it and above it, by path; raise NotFound."""
