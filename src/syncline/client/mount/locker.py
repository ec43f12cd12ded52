"""What the user of a mount asks about locks: to lock, to unlock, and who holds what.

It works beside the cycles, on the connection of the mount: who holds the locks is the mount, and
its stream renews them. What is held for a caller has a session, and a stream, of its own.

K1  A lock that came of a call whose caller was told nothing is given back, whether the call was
    given up, or broke, or its answer was not read. For another caller it may have been granted as
    well: who was told of a lock keeps it, and while one asks for the same, nothing is decided.
K2  A hold ends with its call, however that ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from syncline.client.holding import LEASE_S, Holding, Loss
from syncline.client.mount.engine import Engine
from syncline.client.mount.following import Connect
from syncline.client.mount.locks import mount_session, path_of_lock, target_at
from syncline.client.steady import Backoff
from syncline.core.changes import Token
from syncline.core.identity import EntryId
from syncline.core.names import RelPath
from syncline.core.user_locks import NO_TOKEN, Owner, SessionId, UserLock
from syncline.errors import Invalid, Locked, NotFound, SynclineError, Throttled, Unavailable
from syncline.ports.link import LockingLink
from syncline.ports.locks import LocatedLock, LockWanted, Unlocked, UnlockTarget, UnlockWanted
from syncline.ports.mount_control import (
    HoldEnd,
    HoldEvent,
    LockAsked,
    LockLost,
    LocksResult,
    StatusNews,
)
from syncline.ports.mount_state import MountSession

logger = logging.getLogger(__name__)

SETTLE_S = 10.0
"""How long a lock waits until what the server had is placed, and an unlock until what was changed
under the lock is stored: whoever is next then has it. Large content may take longer."""

HOLDS_MAX = 16
"""Each has a connection to the server of its own."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """A call of `lock`: what it wants, and the newest grant that was known before."""

    entries: frozenset[EntryId]
    before: Token


class Grants:
    """What callers of a mount were told of, and what not (K1); it outlives the engine."""

    def __init__(self) -> None:
        self.calls: set[_Call] = set()
        self.untold: list[_Call] = []
        self.told: Counter[Token] = Counter()
        self.changed = asyncio.Event()
        self.gate = asyncio.Lock()
        """Whoever asks meanwhile must not be granted what is about to be given back."""

    def give_back(self, result: LocksResult) -> None:
        """Take the locks of an answer for those that its caller was not told of."""
        for each in result.locks:
            self.told[each.lock.token] -= 1
            before = Token(each.lock.token - 1)
            self.untold.append(_Call(frozenset({each.lock.entry}), before))
        self.changed.set()


class Locker:
    """The calls about locks for one engine; `run` is a task beside it."""

    def __init__(
        self,
        engine: Engine,
        connect: Connect,
        news: StatusNews,
        grants: Grants,
        backoff: Backoff | None = None,
    ) -> None:
        self._engine = engine
        self._connect = connect
        self._news = news
        self._grants = grants
        self._backoff = backoff or Backoff()
        self._holds = 0

    async def run(self) -> None:
        """Give back what nobody was told of (K1), for ever."""
        pauses = self._backoff.pauses()
        grants = self._grants
        while True:
            await grants.changed.wait()
            grants.changed.clear()
            try:
                async with grants.gate:
                    await self._give_back_untold()
                pauses = self._backoff.pauses()
            except SynclineError as error:
                logger.debug("locks_not_given_back code=%s error=%r", error.code, error.message)
                grants.changed.set()
                await asyncio.sleep(next(pauses))

    async def _give_back_untold(self) -> None:
        grants = self._grants
        asked = {entry for call in grants.calls for entry in call.entries}
        ready = [call for call in grants.untold if call.entries.isdisjoint(asked)]
        if not ready:
            return
        link = self._link()
        owner = self._owner(mount_session(self._engine.parts.author))
        mine = [
            lock
            async for lock in _all_locks(link)
            if lock.owner.key == owner.key
            and grants.told[lock.token] <= 0
            and any(lock.entry in call.entries and lock.token > call.before for call in ready)
        ]
        if mine:
            logger.info("locks_given_back count=%d", len(mine))
            targets = tuple(UnlockTarget(lock.entry, lock.token) for lock in mine)
            await link.unlock(UnlockWanted(mine[0].owner.author, owner.host, targets))
        grants.untold = [call for call in grants.untold if call not in ready]

    async def lock(self, asked: LockAsked) -> LocksResult:
        """Lock what is at the paths; return when the mount has what the server had before."""
        link = self._link()
        targets = await self._with_state(lambda session: _targets(session, asked.paths))
        owner = self._owner(mount_session(self._engine.parts.author))
        call, grants = _Call(frozenset(targets), self._engine.phases.locks.newest), self._grants
        async with grants.gate:
            grants.calls.add(call)
        is_settled = False
        try:
            granted = await link.lock(
                LockWanted(owner, targets, asked.reason, LEASE_S, asked.ttl_s, asked.wait_s)
            )
            await self._placed(granted)
            self._note_told(granted)
            is_settled = True
        except (Locked, NotFound, Invalid, Throttled):
            is_settled = True
            raise
        finally:
            grants.calls.discard(call)
            if not is_settled:
                grants.untold.append(call)
            grants.changed.set()
        return LocksResult(_at(asked.paths, targets, granted))

    def _note_told(self, granted: Sequence[LocatedLock]) -> None:
        locks, told = self._engine.phases.locks, self._grants.told
        alive, newest = locks.tokens_told, locks.newest
        for token in [each for each in told if each <= newest and each not in alive]:
            del told[token]
        told.update(each.lock.token for each in granted)

    async def hold(
        self, asked: LockAsked, tell: Callable[[HoldEvent], None], over: asyncio.Event
    ) -> HoldEnd:
        """Lock what is at the paths until `over` is set; see `ports.mount_control`."""
        if self._holds == HOLDS_MAX:
            raise Throttled(
                f"this mount holds locks for {HOLDS_MAX} commands, which is the limit",
                limit=str(HOLDS_MAX),
                scope="client",
            )
        self._link()
        owner = self._owner(SessionId(self._engine.parts.ids.op()))
        locks = self._engine.phases.locks
        self._holds += 1
        locks.join(owner.session)
        try:
            return await self._hold(owner, asked, tell, over)
        finally:
            locks.leave(owner.session)
            self._holds -= 1

    async def _hold(
        self,
        owner: Owner,
        asked: LockAsked,
        tell: Callable[[HoldEvent], None],
        over: asyncio.Event,
    ) -> HoldEnd:
        targets = await self._with_state(lambda session: _targets(session, asked.paths))
        lease_s = asked.lease_s or (min(LEASE_S, asked.ttl_s) if asked.ttl_s else LEASE_S)
        wanted = LockWanted(owner, targets, asked.reason, lease_s, asked.ttl_s, asked.wait_s)
        link = await self._connect()
        try:
            granted = _at(asked.paths, targets, await link.lock(wanted))
            return await self._held(link, granted, tell, over, is_bounded=bool(asked.ttl_s))
        finally:
            await link.close()

    async def _held(
        self,
        link: LockingLink,
        granted: tuple[LocatedLock, ...],
        tell: Callable[[HoldEvent], None],
        over: asyncio.Event,
        *,
        is_bounded: bool,
    ) -> HoldEnd:
        events: list[HoldEvent] = [LocksResult(granted)]
        tell_now: Callable[[HoldEvent], None] = events.append
        holding = Holding(
            self._connect,
            granted[0].lock.owner,
            granted,
            lost=lambda loss: tell_now(_lost(loss)),
            is_bounded=is_bounded,
        )
        is_released = True
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(holding.run(), name="lock-holding")
            try:
                await self._placed(granted)
                # A loss is told after what is lost.
                tell_now = tell
                for event in events:
                    tell(event)
                await over.wait()
                # As with an unlock: else the next holder would be handed what is older.
                await self._settled(self._engine.wait)
            finally:
                is_released = await _released(holding, link)
                keeping.cancel()
        tokens = {each.lock.token for each in granted}
        told = self._engine.phases.locks
        await self._settled(None, lambda: not is_released or tokens.isdisjoint(told.tokens_told))
        return HoldEnd(is_released)

    async def unlock(self, paths: Sequence[RelPath], *, is_forced: bool) -> tuple[Unlocked, ...]:
        """Unlock what is at the paths; return when the mount has heard of it."""
        link = self._link()
        targets = await self._with_state(lambda session: _targets(session, paths))
        parts, locks = self._engine.parts, self._engine.phases.locks
        own = [locks.own[target] for target in targets if target in locks.own]
        if own:
            await self._settled(self._engine.wait)
            link = self._link()
        # A mount that has another name now is still the one that locked.
        author = own[0].owner.author if own else parts.author
        wanted = UnlockWanted(
            author, parts.host, tuple(UnlockTarget(each, NO_TOKEN) for each in targets), is_forced
        )
        found = await link.unlock(wanted)
        over = {each.lock.lock.token for each in found if each.lock is not None}
        await self._settled(None, lambda: over.isdisjoint(locks.tokens_told))
        return tuple(
            replace(each, lock=None if each.lock is None else replace(each.lock, path=path))
            for each, path in zip(found, paths, strict=True)
        )

    async def locks(self, path: RelPath) -> tuple[LocatedLock, ...]:
        """Return the locks on a path of the mount, below it and above it, by path."""
        found = [each async for each in self._link().locks(RelPath())]

        def around(session: MountSession) -> tuple[LocatedLock, ...]:
            here = [replace(each, path=path_of_lock(session, each)) for each in found]
            return tuple(
                each for each in here if each.path.is_within(path) or path.is_within(each.path)
            )

        locks = await self._with_state(around)
        return tuple(sorted(locks, key=lambda each: each.path.parts))

    def _owner(self, session: SessionId) -> Owner:
        parts = self._engine.parts
        return Owner(parts.author, parts.host, session)

    async def _placed(self, granted: Sequence[LocatedLock]) -> None:
        """Wait until the mount knows of locks, and has what the server had before."""
        locks, newest = self._engine.phases.locks, max(each.lock.token for each in granted)
        await self._settled(self._engine.wait, lambda: locks.newest >= newest)

    def _link(self) -> LockingLink:
        follower = self._engine.follower
        if follower.link is None:
            reason = "" if follower.error is None else f": {follower.error.message}"
            raise Unavailable(f"the mount has no connection to the server{reason}")
        return follower.link

    async def _with_state(self, look: Callable[[MountSession], T]) -> T:
        def work() -> T:
            with self._engine.parts.state.session() as session:
                return look(session)

        return await self._engine.lanes.thread.run(work)

    async def _settled(
        self,
        wait: Callable[[], Awaitable[object]] | None,
        is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        """Wait until something is heard, and then as `wait` does; for `SETTLE_S` at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                seen = 0
                while not is_heard():
                    seen = await self._news.after(seen)
                if wait is not None:
                    await wait()


async def _all_locks(link: LockingLink) -> AsyncIterator[UserLock]:
    async for each in link.locks(RelPath()):
        yield each.lock


async def _released(holding: Holding, link: LockingLink) -> bool:
    """Give back what is held; tell whether the server heard of it."""
    try:
        await holding.release(link)
    except (SynclineError, TimeoutError) as error:
        logger.warning("locks_not_released error=%r", str(error))
        return False
    return True


def _at(
    paths: Sequence[RelPath], targets: Sequence[EntryId], locks: Sequence[LocatedLock]
) -> tuple[LocatedLock, ...]:
    """Return locks with the paths that they were asked for by."""
    at = dict(zip(targets, paths, strict=True))
    return tuple(replace(each, path=at[each.lock.entry]) for each in locks)


def _lost(loss: Loss) -> LockLost:
    change = loss.change
    if change is None:
        return LockLost(loss.lock, None, None)
    return LockLost(loss.lock, change.effect, None if change.by is None else change.by.name)


def _targets(session: MountSession, paths: Sequence[RelPath]) -> tuple[EntryId, ...]:
    found: list[EntryId] = []
    for path in paths:
        target = target_at(session, path)
        if target is None:
            raise NotFound(
                f"'{path}' is not in the volume yet; if it is a new file, wait until it is stored"
                " with 'syncline wait', then lock it",
                path=str(path),
                what="path",
            )
        found.append(target)
    return tuple(found)
