"""The control of a running mount: what it shows, and what it can be asked to do.

Contract, for every adapter:

- All calls come from the event loop of the mount; any number of them may wait at once, and each may
  be cancelled.
- `status` never blocks and costs no more than what it returns: counts are kept, not counted.
- Nothing here fails because the server is away; that is part of the status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from syncline.core.names import RelPath
from syncline.core.safety import Halt
from syncline.core.trees import Mode
from syncline.core.user_locks import LockEffect, UserLock
from syncline.ports.link import Effect
from syncline.ports.locks import LocatedLock, Unlocked

PROBLEMS_SHOWN_MAX = 100
TRANSFERS_SHOWN_MAX = 20
CHANGES_SHOWN_MAX = 20
LOCKS_SHOWN_MAX = 100
"""How much of each a status carries; beyond, the counts alone tell of them."""

FINDINGS_SHOWN_MAX = 100
"""How much of what differs a verification names; beyond, the log of the mount does."""


class MountPhase(Enum):
    """What a mount is about; the values are stable."""

    STARTING = "starting"
    SCANNING = "scanning"
    """Looking at everything in the directory; what differs is not known yet."""
    CONNECTING = "connecting"
    """The server is away; local edits are noticed and wait."""
    SYNCING = "syncing"
    IN_SYNC = "in_sync"
    """All that was noticed is stored, all that was told is placed, and no path has a problem."""
    WAITING = "waiting"
    """Nothing is left to do but paths with problems."""
    HALTED = "halted"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class MountProblem:
    """What keeps one path from being in sync, or `ignore_rule`: what a synced one says in vain.

    Other codes are values of `ProblemCode` and `ObstacleReason`, and codes of errors; `detail` is
    for people and may be empty.
    """

    path: RelPath
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class MountLock:
    """A user lock in the volume, at its path in the mount; `is_own`: this mount holds it."""

    path: RelPath
    lock: UserLock
    is_own: bool


@dataclass(frozen=True, slots=True)
class Transfer:
    """Content on its way, `done` of `size` bytes; an upload goes to the server."""

    path: RelPath
    is_upload: bool
    done: int
    size: int


@dataclass(frozen=True, slots=True)
class Change:
    """One entry that was stored (`is_local`: it was changed here) or placed (elsewhere).

    `number` counts the changes of this run from 1; `old_path` is where a moved entry was.
    """

    number: int
    effect: Effect
    path: RelPath
    is_local: bool
    wall_ns: int
    old_path: RelPath | None = None


@dataclass(frozen=True, slots=True)
class Verifying:
    """How far a verification is: entries looked at, of about so many, and bytes read again."""

    done: int = 0
    total: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class MountStatus:
    """All that a mount shows of itself at one moment.

    `connection_error` says why the last attempt failed; None while connected and before any.
    `cursor` is the revision up to which the feed was taken in, `head` the newest one that the
    server told of; None: not known yet. `pending_up` and `pending_down` are entries that wait to be
    stored and placed, problems not counted. `entries` are those in base. `is_watch_degraded`: the
    system has no watches left, so changes are found by scanning from time to time.
    `change_count` is the number of the newest change; the tuples are the newest or worst, bounded.
    """

    phase: MountPhase
    directory: bytes
    volume: str
    server: str
    mode: Mode
    replica: str
    is_connected: bool = False
    connection_error: str | None = None
    cursor: int | None = None
    head: int | None = None
    pending_up: int = 0
    pending_down: int = 0
    entries: int = 0
    problem_count: int = 0
    problems: tuple[MountProblem, ...] = ()
    transfers: tuple[Transfer, ...] = ()
    change_count: int = 0
    changes: tuple[Change, ...] = ()
    """Oldest first."""
    halt: Halt | None = None
    is_watch_degraded: bool = False
    verifying: Verifying | None = None
    """None while nobody verifies."""
    lock_count: int = 0
    locks: tuple[MountLock, ...] = ()
    """As last told: own ones first, then by path."""


class WaitEnd(Enum):
    """How a wait ended; the values are stable."""

    IN_SYNC = "in_sync"
    PROBLEMS = "problems"
    """All is done but paths with problems, which only a user can change."""
    TIMED_OUT = "timed_out"
    HALTED = "halted"
    STOPPED = "stopped"
    """The mount stops."""


@dataclass(frozen=True, slots=True)
class WaitResult:
    """How a wait ended, and the status at that moment, which tells what is missing."""

    end: WaitEnd
    status: MountStatus


class ResumeEnd(Enum):
    """What became of a request to resume; the values are stable."""

    NOT_HALTED = "not_halted"
    HALTED = "halted"
    """Still halted: nobody agreed yet, or to another halt than the one of now."""
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class ResumeResult:
    """What became of it; `halt` is the one that was resumed, or that stands."""

    end: ResumeEnd
    halt: Halt | None


@dataclass(frozen=True, slots=True)
class LockAsked:
    """Paths in a mount that its user wants locked, all or none; `ttl_s` 0: as long as may be.

    `lease_s` is for `hold`: how long the locks outlive the mount; 0: as long as is usual.
    """

    paths: tuple[RelPath, ...]
    reason: str = ""
    ttl_s: float = 0.0
    wait_s: float = 0.0
    lease_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LocksResult:
    """Locks, by their paths in the mount."""

    locks: tuple[LocatedLock, ...]


@dataclass(frozen=True, slots=True)
class LockLost:
    """A lock that was held for a caller and is not any more.

    `effect` and `by`, the name of who did it, say why, where the server told.
    """

    lock: LocatedLock
    effect: LockEffect | None
    by: str | None


@dataclass(frozen=True, slots=True)
class HoldEnd:
    """The end of a hold; `is_released`: the server heard that the locks are given back."""

    is_released: bool


HoldEvent = LocksResult | LockLost


@dataclass(frozen=True, slots=True)
class UnlockedResult:
    """What came of each path that was to be unlocked, in their order."""

    unlocked: tuple[Unlocked, ...]


class FindingCode(Enum):
    """What a verification finds wrong with a path; the values are stable."""

    CONTENT = "content_differs"
    """The bytes are not those that were recorded, though size and times say that nobody wrote."""
    MISSING = "missing"
    """An entry is not where it was recorded, and no look tells where it went."""
    EXTRA = "extra"
    """Something is there that no look records."""
    KIND = "kind_differs"
    """A thing of another kind, or another directory, is where the entry was recorded."""
    ATTRIBUTES = "mode_differs"
    TABLE = "table_differs"
    """What the mount knows of the entry is not what the server has of it at that revision."""
    DAMAGED = "server_damaged"
    """The server lacks some of its content, and this mount could not give it back."""


class VerifyEnd(Enum):
    """How a verification ended; the values are stable."""

    EQUAL = "equal"
    """All was read again, and nothing differs."""
    FINDINGS = "findings"
    PENDING = "pending"
    """Nothing was found to be wrong, but some paths have problems or change all the time."""
    TIMED_OUT = "timed_out"
    HALTED = "halted"
    STOPPED = "stopped"
    """The mount stops."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """How a verification ended, and what it came to until then.

    `entries` were looked at, with `size` bytes of content; `refilled` files were sent again because
    the server lacked some of them. `findings` and `pending` are the first of so many.
    """

    end: VerifyEnd
    status: MountStatus
    entries: int = 0
    size: int = 0
    refilled: int = 0
    findings: tuple[MountProblem, ...] = ()
    finding_count: int = 0
    pending: tuple[RelPath, ...] = ()
    pending_count: int = 0


class MountControl(Protocol):
    """One running mount."""

    def status(self) -> MountStatus:
        """Return what it shows now."""

    async def changed(self, seen: int) -> int:
        """Return the number of the newest status as soon as it is another one than `seen`.

        A caller starts with 0, which is never the newest.
        """

    async def wait(self, timeout_s: float | None) -> WaitResult:
        """Return when each edit made before the call is stored, and each revision up to the
        server's head of the time of the call is placed.

        Or when that cannot be: at a halt, at a stop, when nothing but problems is left, and at the
        timeout (None: never).
        """

    async def verify(self, timeout_s: float | None) -> VerifyResult:
        """Wait as `wait` does; then read all of the mount again and compare it with what was
        recorded, and that with the table of the server.

        Changes nothing in the mount and deletes nothing at the server; sends content again that the
        server lacks. One at a time: another call waits. Raises what a link raises.
        """

    async def resume(self, agreed: Halt | None) -> ResumeResult:
        """Release the brakes, if `agreed` equals the halt that stands; else only show that one.

        So a human who agreed to the deletion of ten files never deletes a thousand that came later.
        """

    async def lock(self, asked: LockAsked) -> LocksResult:
        """Lock what is at the paths for this mount, which renews the locks while it is connected.

        Returns when the mount knows of them and, but for what takes long, has placed what the
        server had before. Raises what `Locking.lock` raises; NotFound for what is not stored yet,
        Unavailable while the mount has no connection.
        """

    def give_back(self, result: LocksResult) -> None:
        """Have the locks of an answer of `lock` given back, which nobody has read.

        But for those that another caller was told of. It is done as soon as the server is there.
        """

    async def hold(
        self, asked: LockAsked, tell: Callable[[HoldEvent], None], over: asyncio.Event
    ) -> HoldEnd:
        """Lock as `lock` does, for one caller alone, until `over` is set; then as `unlock` does.

        `tell` is called with the locks when they are held, and for each that is lost afterwards.
        The locks are a session of their own: other calls of `lock` and `hold` are kept out. When
        it is cancelled it gives back what it holds. Raises what `lock` raises.
        """

    async def unlock(self, paths: tuple[RelPath, ...], *, is_forced: bool) -> UnlockedResult:
        """Give up locks, when what was changed under them is stored, but for what takes long.

        `is_forced` breaks those of others. Raises what `Locking.unlock` raises, and as `lock`.
        """

    async def locks(self, path: RelPath) -> LocksResult:
        """Ask the server for the locks on a path of the mount, below it and above it, by path.

        Raises what `Locking.locks` raises, and Unavailable.
        """


class StatusNews:
    """Tells those who wait in `MountControl.changed`; for one event loop."""

    def __init__(self) -> None:
        self._newest = 1
        self._arrived = asyncio.Event()

    def note(self) -> None:
        """Say that the status is another one now."""
        self._newest += 1
        self._arrived.set()
        self._arrived = asyncio.Event()

    async def after(self, seen: int) -> int:
        """Return the number of the newest status, as soon as it is not `seen`."""
        while self._newest == seen:
            await self._arrived.wait()
        return self._newest


# -- What `--dry-run` shows --------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One thing that a mount would do: in the volume (`is_upload`) or in the directory.

    `size` is that of content that would travel; `old_path` is where a moved entry is.
    """

    is_upload: bool
    effect: Effect
    path: RelPath
    size: int = 0
    old_path: RelPath | None = None


@dataclass(frozen=True, slots=True)
class PlanShown:
    """All that a mount would do now. With a halt it would do none of it before `resume`."""

    steps: tuple[PlannedStep, ...] = ()
    problems: tuple[MountProblem, ...] = ()
    halt: Halt | None = None
