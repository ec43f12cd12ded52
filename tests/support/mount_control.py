"""A mount that does nothing but show what a test scripted, and record what it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from syncline.core.changes import Author, Token
from syncline.core.identity import EntryId, ReplicaId
from syncline.core.names import RelPath
from syncline.core.safety import Halt, HaltReason
from syncline.core.trees import Mode
from syncline.core.user_locks import Owner, SessionId, UserLock
from syncline.ports.link import Effect
from syncline.ports.locks import LocatedLock, Unlocked, UnlockResult
from syncline.ports.mount_control import (
    Change,
    HoldEnd,
    HoldEvent,
    LockAsked,
    LocksResult,
    MountLock,
    MountPhase,
    MountProblem,
    MountStatus,
    ResumeEnd,
    ResumeResult,
    StatusNews,
    Transfer,
    UnlockedResult,
    VerifyEnd,
    Verifying,
    VerifyResult,
    WaitEnd,
    WaitResult,
)

RAW = b"a\n\xff\\b/\xc3\xa9\x1b[2J"
SHOWN = "a\\x0a\\xff\\\\b/é\\x1b[2J"
HALT = Halt(HaltReason.MASS_DELETE, "2000 of 3000 entries were deleted", "delete 2000 entries")
LOCK = UserLock(
    EntryId(b"e" * 16),
    Token(7),
    Owner(Author(ReplicaId(b"r" * 16), "bob\x1b"), "box\x1b", SessionId(b"s" * 16)),
    "new figures\x1b",
    30.0,
    28_800.0,
    1_700_000_000_123_456_789,
)
LOCATED = LocatedLock(LOCK, RelPath.parse(RAW), 12.5, 29.25, 28_787.5)
IDLE = MountStatus(
    MountPhase.IN_SYNC,
    b"/home/\xff/work",
    "photos",
    "127.0.0.1:1",
    Mode.TWO_WAY,
    "anna@laptop",
    is_connected=True,
    cursor=12,
    head=12,
    entries=5000,
)
BUSY = replace(
    IDLE,
    phase=MountPhase.SYNCING,
    head=14,
    pending_up=3,
    pending_down=2,
    problem_count=2,
    problems=(
        MountProblem(RelPath.parse(RAW), "special", "a FIFO"),
        MountProblem(RelPath(), "something new", ""),
    ),
    transfers=(Transfer(RelPath.parse(RAW), True, 1024, 4096),),
    change_count=7,
    changes=(
        Change(6, Effect.CREATED, RelPath.parse(RAW), True, 1_700_000_000_123_456_789),
        Change(7, Effect.MOVED, RelPath.parse(b"new"), False, 1, RelPath.parse(b"old")),
    ),
    is_watch_degraded=True,
    verifying=Verifying(40, 5000, 12_345),
    lock_count=3,
    locks=(MountLock(RelPath.parse(b"own"), LOCK, True), MountLock(RelPath(), LOCK, False)),
)
AWAY = replace(
    IDLE,
    phase=MountPhase.CONNECTING,
    is_connected=False,
    connection_error="nobody listens\x1b there",
    cursor=None,
    head=None,
)
ROTTEN = VerifyResult(
    VerifyEnd.FINDINGS,
    IDLE,
    5000,
    7_000_000,
    2,
    (MountProblem(RelPath.parse(RAW), "content_differs", "other bytes\x1b"),),
    3,
    (RelPath.parse(RAW),),
    2,
)
HALTED = replace(IDLE, phase=MountPhase.HALTED, halt=HALT)


class ScriptedControl:
    """A mount without files: `show` moves it on, `asked` is what came."""

    def __init__(self, status: MountStatus = IDLE) -> None:
        self.asked: list[object] = []
        self.is_open = False
        self.verified: VerifyResult | None = None
        """What a verification comes to; None: it goes on."""
        self.granted: tuple[LocatedLock, ...] = (LOCATED,)
        self.grants = asyncio.Event()
        """Set: locks are granted at once."""
        self.grants.set()
        self.tell: Callable[[HoldEvent], None] | None = None
        """What tells the newest hold that was granted."""
        self.hold_end = HoldEnd(is_released=True)
        self.news = StatusNews()
        self._status = status

    def show(self, status: MountStatus) -> None:
        """Show another status from now on."""
        self._status = status
        self.news.note()

    def status(self) -> MountStatus:
        """Return what is shown."""
        return self._status

    async def changed(self, seen: int) -> int:
        """Wait for `show`."""
        return await self.news.after(seen)

    async def wait(self, timeout_s: float | None) -> WaitResult:
        """Wait until the script shows that nothing is pending."""
        self.asked.append(("wait", timeout_s))
        seen = 0
        try:
            async with asyncio.timeout(timeout_s):
                while (end := _end(self._status)) is None:
                    seen = await self.changed(seen)
        except TimeoutError:
            end = WaitEnd.TIMED_OUT
        except asyncio.CancelledError:
            self.asked.append("cancelled")
            raise
        return WaitResult(end, self._status)

    async def verify(self, timeout_s: float | None) -> VerifyResult:
        """Return what the test wants found, when the script shows that nothing is pending."""
        self.asked.append(("verify", timeout_s))
        seen = 0
        try:
            async with asyncio.timeout(timeout_s):
                while self.verified is None:
                    seen = await self.changed(seen)
        except TimeoutError:
            return VerifyResult(VerifyEnd.TIMED_OUT, self._status, 40)
        except asyncio.CancelledError:
            self.asked.append("cancelled")
            raise
        return self.verified

    async def resume(self, agreed: Halt | None) -> ResumeResult:
        """Go on if it is the halt that is shown."""
        self.asked.append(("resume", agreed))
        halt = self._status.halt
        if halt is None:
            return ResumeResult(ResumeEnd.NOT_HALTED, None)
        if agreed != halt:
            return ResumeResult(ResumeEnd.HALTED, halt)
        self.show(replace(self._status, phase=MountPhase.IN_SYNC, halt=None))
        return ResumeResult(ResumeEnd.RESUMED, halt)

    async def lock(self, asked: LockAsked) -> LocksResult:
        """Give the locks of the script, and note what was asked."""
        self.asked.append(asked)
        await self._granted()
        return LocksResult(self.granted)

    def give_back(self, result: LocksResult) -> None:
        """Note what nobody was told of."""
        self.asked.append(("given back", result))

    async def hold(
        self, asked: LockAsked, tell: Callable[[HoldEvent], None], over: asyncio.Event
    ) -> HoldEnd:
        """Hold the locks of the script until it is over."""
        self.asked.append(("hold", asked))
        await self._granted()
        self.tell = tell
        tell(LocksResult(self.granted))
        await over.wait()
        self.asked.append("released")
        return self.hold_end

    async def _granted(self) -> None:
        try:
            await self.grants.wait()
        except asyncio.CancelledError:
            self.asked.append("cancelled")
            raise

    async def unlock(self, paths: tuple[RelPath, ...], *, is_forced: bool) -> UnlockedResult:
        """Unlock as many of the locks of the script as are asked for."""
        self.asked.append((paths, is_forced))
        result = UnlockResult.BROKEN if is_forced else UnlockResult.UNLOCKED
        return UnlockedResult(tuple(Unlocked(result, each) for each in self.granted[: len(paths)]))

    async def locks(self, path: RelPath) -> LocksResult:
        """Show the locks of the script."""
        self.asked.append(path)
        return LocksResult(self.granted)

    @asynccontextmanager
    async def mounted(self) -> AsyncIterator[ScriptedControl]:
        """Be mounted for the length of the block."""
        self.is_open = True
        try:
            yield self
        finally:
            self.is_open = False


def _end(status: MountStatus) -> WaitEnd | None:
    ends = {
        MountPhase.IN_SYNC: WaitEnd.IN_SYNC,
        MountPhase.WAITING: WaitEnd.PROBLEMS,
        MountPhase.HALTED: WaitEnd.HALTED,
        MountPhase.STOPPING: WaitEnd.STOPPED,
    }
    return ends.get(status.phase)
