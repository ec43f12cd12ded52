"""What the user of a mount asks about locks: to lock, to unlock, and who holds what.

It works beside the cycles, on the connection of the mount: who holds the locks is the mount, and
its stream renews them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from syncline.client.holding import LEASE_S
from syncline.client.mount.engine import Engine
from syncline.client.mount.locks import mount_session, path_of_lock, target_at
from syncline.core.identity import EntryId
from syncline.core.names import RelPath
from syncline.core.user_locks import NO_TOKEN, Owner
from syncline.errors import NotFound, Unavailable
from syncline.ports.link import LockingLink
from syncline.ports.locks import LocatedLock, LockWanted, Unlocked, UnlockTarget, UnlockWanted
from syncline.ports.mount_control import LockAsked, StatusNews
from syncline.ports.mount_state import MountSession

SETTLE_S = 10.0
"""How long a lock waits until what the server had is placed, and an unlock until what was changed
under the lock is stored: whoever is next then has it. Large content may take longer."""

T = TypeVar("T")


class Locker:
    """The calls about locks for one engine."""

    def __init__(self, engine: Engine, news: StatusNews) -> None:
        self._engine = engine
        self._news = news

    async def lock(self, asked: LockAsked) -> tuple[LocatedLock, ...]:
        """Lock what is at the paths; return when the mount has what the server had before."""
        link = self._link()
        targets = await self._with_state(lambda session: _targets(session, asked.paths))
        parts = self._engine.parts
        owner = Owner(parts.author, parts.host, mount_session(parts.author))
        granted = await link.lock(
            LockWanted(owner, targets, asked.reason, LEASE_S, asked.ttl_s, asked.wait_s)
        )
        newest = max(each.lock.token for each in granted)
        await self._settled(self._engine.wait, lambda: self._engine.phases.locks.newest >= newest)
        paths = dict(zip(targets, asked.paths, strict=True))
        return tuple(replace(each, path=paths[each.lock.entry]) for each in granted)

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
