"""Users who lock, unlock, break, wait, and edit what others hold; see `lock_oracle` for the truth.

Model: they ask the mounts themselves, as the command line does, and sometimes the server, as a
program that works under a lock. A user who dies takes his calls along. What is held back by a lock
is kept and comes through when the lock is over, which the oracles of the world see; all locks are
over some time after the last act.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress

from syncline.client.holding import LEASE_S as MOUNT_LEASE_S
from syncline.client.mount.locks import mount_session
from syncline.compose.direct import DirectLink
from syncline.core.changes import Author, HeldToken, RefusalCode
from syncline.core.identity import ReplicaId
from syncline.core.names import RelPath
from syncline.core.table import Cursor
from syncline.core.user_locks import NO_TOKEN, LockEffect, Owner, SessionId, UserLock
from syncline.errors import Locked, SynclineError, Unavailable
from syncline.ports.files import FileKind
from syncline.ports.link import Progress, WatchBegin
from syncline.ports.locks import LocatedLock, LockWanted, UnlockTarget, UnlockWanted
from syncline.ports.mount_control import LockAsked, LocksResult
from syncline.server.volume import ServedVolume
from tests.support.simulation.history import live_entries
from tests.support.simulation.lock_oracle import LockOracle
from tests.support.simulation.machines import ClientMachine
from tests.support.simulation.met import (
    BROKEN,
    DELETED,
    DENIED,
    EXPIRED,
    GRANTED,
    HELD,
    HOLDER_DIED,
    UNLOCKED,
    WAITED,
)
from tests.support.simulation.scene import Scene

EVERY_S = 0.1
TTL_S = (1.0, 5.0, 20.0)
WAIT_S = (0.0, 5.0, 15.0)
LEASE_S = 1.5
GONE_S = 120.0
"""After so long without a holder each lock is over: a life, a lease, a restart of the server."""

LOOKER = Author(ReplicaId(b"who looks on    "), "oracle")

EFFECTS = {
    LockEffect.GRANTED: GRANTED,
    LockEffect.UNLOCKED: UNLOCKED,
    LockEffect.EXPIRED: EXPIRED,
    LockEffect.BROKEN: BROKEN,
    LockEffect.DELETED: DELETED,
}


class Lockers:
    """The locks of one world, as its users take them."""

    def __init__(
        self,
        scene: Scene,
        bury: Callable[[ClientMachine], Awaitable[None]],
        seeded: random.Random,
    ) -> None:
        self._scene = scene
        self._bury = bury
        self._random = seeded
        self._oracle = LockOracle()
        self._known: object = None
        scene.server.observe = self._look_on

    # -- what the server tells -----------------------------------------------------------

    async def _look_on(self, volume: ServedVolume) -> None:
        """Check all that a server tells from its start to its end."""
        stores = self._scene.server.stores
        is_restored = self._known not in (None, stores.metadata)
        self._known = stores.metadata
        self._oracle.begin(live_entries(stores), is_restored=is_restored)
        head = volume.feed.head
        begin = WatchBegin(LOOKER, Cursor(head.revision, None), wants_locks=True)
        with suppress(Unavailable):
            async with aclosing(DirectLink(volume).watch(begin, _silent())) as events:
                async for event in events:
                    self._oracle.take(event, volume.feed.head.revision)

    def met(self) -> dict[str, int]:
        """Return how often each thing happened to a lock, by the names of `met`."""
        return {EFFECTS[effect]: count for effect, count in self._oracle.effects.items()}

    def locks(self) -> list[UserLock]:
        """Return all locks that there are, in the order of their grants."""
        volume = self._scene.server.volume
        locks = volume.user_locks.locks.values() if volume is not None else ()
        return sorted(locks, key=lambda lock: lock.token)

    # -- acting --------------------------------------------------------------------------

    async def run(self) -> None:
        """Act until it is over, one thing beside the other."""
        acts: tuple[tuple[Callable[[ClientMachine], Awaitable[None]], int], ...] = (
            (self._lock, 8),
            (self._contend, 10),
            (self._lock_unheard, 8),
            (self._unlock, 4),
            (self._break, 2),
            (self._work_under_lock, 3),
            (self._edit_held, 12),
            (self._duel, 5),
            (self._die, 4),
        )
        async with asyncio.TaskGroup() as group:
            while not self._scene.is_over:
                await asyncio.sleep(self._random.expovariate(1 / EVERY_S))
                machine = self._random.choice(self._scene.machines)
                [act] = self._random.choices([a for a, _ in acts], [w for _, w in acts])
                if not self._scene.hands[machine.name].is_away:
                    group.create_task(self._act(act, machine))

    async def _act(
        self, act: Callable[[ClientMachine], Awaitable[None]], machine: ClientMachine
    ) -> None:
        try:
            await act(machine)
        except OSError:
            # What a user wanted was impossible just then.
            return
        except SynclineError as error:
            self._scene.met[DENIED] += isinstance(error, Locked)

    async def _lock(self, machine: ClientMachine) -> None:
        paths = self._paths(machine)
        if paths:
            await self._ask_lock(machine, tuple(self._random.sample(paths, 1)))

    async def _ask_lock(self, machine: ClientMachine, paths: tuple[RelPath, ...]) -> None:
        ttl_s, wait_s = self._random.choice(TTL_S), self._random.choice(WAIT_S)
        asked = LockAsked(paths, "simulated", ttl_s, wait_s)
        since_s = self._scene.now_s()
        self._scene.note(f"{machine.name} locks {paths[0]} for {ttl_s:g} s")
        answer = await machine.ask(lambda supervisor: supervisor.lock(asked))
        if isinstance(answer, SynclineError):
            raise answer
        if isinstance(answer, LocksResult):
            self._count_wait(answer.locks, since_s)

    def _count_wait(self, granted: Sequence[LocatedLock], since_s: float) -> None:
        """Count a grant that came later than at once; `since_s` is when it was asked for."""
        latest_s = max(each.since_s for each in granted)
        self._scene.met[WAITED] += self._scene.now_s() - latest_s - since_s > 0.3

    def _paths(self, machine: ClientMachine) -> list[RelPath]:
        """Return what a user may lock: mostly files, rarely directories, hardly ever all."""
        tree = self._scene.hands[machine.name].tree()
        draw = self._random.random()
        if draw < 0.02:
            return [RelPath()]
        kind = FileKind.DIRECTORY if draw < 0.2 else FileKind.FILE
        return [RelPath.parse(path) for path, node in tree.items() if node.kind is kind]

    async def _contend(self, machine: ClientMachine) -> None:
        """Lock what another one holds, or what that is in."""
        path = self._held_by_others(machine)
        if path is not None and (not path or machine.user.exists(path)):
            await self._ask_lock(machine, (RelPath.parse(path),))

    def _held_by_others(self, machine: ClientMachine) -> bytes | None:
        """Return where the server has something that another one holds."""
        author = Author(machine.replica, machine.name)
        others = [lock for lock in self.locks() if not lock.is_of(author)]
        return self._scene.server_path(self._random.choice(others).entry) if others else None

    async def _lock_at_once(self, machine: ClientMachine, path: RelPath) -> LocatedLock:
        """Lock for a mount, and do not wait until it has heard of it."""
        author = Author(machine.replica, machine.name)
        owner = Owner(author, machine.name, mount_session(author))
        link = await machine.connect()
        wanted = LockWanted(owner, (path,), "simulated", MOUNT_LEASE_S, self._random.choice(TTL_S))
        [lock] = await link.lock(wanted)
        return lock

    async def _lock_unheard(self, machine: ClientMachine) -> None:
        """Lock something that another one edits before he has heard of it."""
        other, paths = self._other(machine), self._paths(machine)
        if not paths:
            return
        path = self._random.choice(paths)
        other.network.ears.clear()
        try:
            await self._lock_at_once(machine, path)
            self._edit(other, bytes(path))
            await asyncio.sleep(self._random.uniform(0.2, 1.0))
        finally:
            other.network.ears.set()

    async def _unlock(self, machine: ClientMachine) -> None:
        await self._give_back(machine)

    async def _give_back(self, machine: ClientMachine) -> None:
        supervisor = machine.supervisor
        own = [each.path for each in supervisor.status().locks if each.is_own] if supervisor else []
        if own:
            paths = (self._random.choice(own),)
            answer = await machine.ask(lambda each: each.unlock(paths, is_forced=False))
            if isinstance(answer, SynclineError):
                raise answer

    async def _break(self, machine: ClientMachine) -> None:
        locks = self.locks()
        if locks:
            await self._force(machine, self._random.choice(locks))

    async def _force(self, machine: ClientMachine, lock: UserLock) -> None:
        """Break a lock, whoever has it."""
        target = UnlockTarget(lock.entry, NO_TOKEN)
        wanted = UnlockWanted(
            Author(machine.replica, machine.name), machine.name, (target,), is_forced=True
        )
        self._scene.note(f"{machine.name} breaks a lock of {lock.owner.author.name}")
        link = await machine.connect()
        await link.unlock(wanted)

    async def _work_under_lock(self, machine: ClientMachine) -> None:
        """Lock for a session of its own, as a program does; some live, some forget to renew."""
        paths = self._paths(machine)
        if not paths:
            return
        link = await machine.connect()
        session = SessionId(self._random.randbytes(16))
        author = Author(machine.replica, machine.name)
        wanted = LockWanted(
            Owner(author, machine.name, session),
            (self._random.choice(paths),),
            lease_s=LEASE_S,
            ttl_s=self._random.choice(TTL_S),
            wait_s=self._random.choice(WAIT_S),
        )
        since_s = self._scene.now_s()
        locks = await link.lock(wanted)
        self._count_wait(locks, since_s)
        tokens = [HeldToken(each.lock.entry, each.lock.token) for each in locks]
        while self._random.random() < 0.7 and not self._scene.is_over:
            await asyncio.sleep(self._random.uniform(0.3, 1.0))
            if None in await link.renew(author, tokens):
                return
            self._scene.hands[machine.name].act()
        if self._random.random() < 0.5:
            targets = tuple(UnlockTarget(each.entry, each.token) for each in tokens)
            await link.unlock(UnlockWanted(author, machine.name, targets))

    async def _edit_held(self, machine: ClientMachine) -> None:
        """Let a user change what another one holds."""
        path = self._held_by_others(machine)
        if path is None:
            return
        tree = self._scene.hands[machine.name].tree()
        below = [each for each in tree if each == path or each.startswith(path + b"/") or not path]
        if below:
            self._edit(machine, self._random.choice(below))
            await asyncio.sleep(0.5)
            self._scene.met[HELD] += _is_held(machine)

    def _edit(self, machine: ClientMachine, path: bytes) -> None:
        """Change what is at a path in one of several ways."""
        hands, user = self._scene.hands[machine.name], machine.user
        if hands.is_away or not user.exists(path):
            return
        name = path + b"-%d" % self._random.getrandbits(16)
        draw = self._random.random()
        if draw < 0.15:
            hands.rename_to(path, name)
        elif user.inode(path).is_directory:
            hands.create_at(path + b"/" + name.rpartition(b"/")[2])
        elif user.inode(path).kind is FileKind.LINK or draw < 0.25:
            hands.give_up_at(path)
            user.unlink(path)
        elif draw < 0.6:
            hands.save_at(path)
        else:
            hands.edit_at(path)

    async def _duel(self, machine: ClientMachine) -> None:
        """Let a lock be broken while its holder, who has not heard of it, edits under it."""
        paths = self._paths(machine)
        if not paths:
            return
        path = self._random.choice(paths)
        lock = await self._lock_at_once(machine, path)
        # Until the mount knows that it holds it.
        await asyncio.sleep(self._random.uniform(0.02, 0.2))
        machine.network.ears.clear()
        try:
            await self._force(self._other(machine), lock.lock)
            self._edit(machine, bytes(path))
            await asyncio.sleep(self._random.uniform(0.1, 1.0))
        finally:
            machine.network.ears.set()

    async def _die(self, machine: ClientMachine) -> None:
        """Let a holder die: he comes back as one, or too late."""
        author = Author(machine.replica, machine.name)
        if any(lock.is_of(author) for lock in self.locks()):
            self._scene.met[HOLDER_DIED] += 1
            self._scene.note(f"{machine.name} dies as a holder")
            await self._bury(machine)

    def _other(self, machine: ClientMachine) -> ClientMachine:
        return self._random.choice([m for m in self._scene.machines if m is not machine])

    # -- the end -------------------------------------------------------------------------

    async def end(self) -> None:
        """Let some give back what they hold; the rest ends by itself."""
        for machine in self._scene.machines:
            machine.network.ears.set()
            if self._random.random() < 0.5:
                with suppress(SynclineError):
                    await self._give_back(machine)

    async def check_over(self) -> None:
        """Fail where a lock does not end, or a mount believes in one that did."""
        until_s = self._scene.now_s() + GONE_S
        while self.locks() or any(map(_lock_count, self._scene.machines)):
            if self._scene.now_s() > until_s:
                left = [f"{lock.owner.author.name} {lock.token}" for lock in self.locks()]
                seen = {each.name: _lock_count(each) for each in self._scene.machines}
                raise AssertionError(f"locks that do not end: {left}, and mounts see {seen}")
            await asyncio.sleep(0.5)


async def _silent() -> AsyncIterator[Progress]:
    return
    yield


def _lock_count(machine: ClientMachine) -> int:
    supervisor = machine.supervisor
    return 0 if supervisor is None else supervisor.status().lock_count


def _is_held(machine: ClientMachine) -> bool:
    supervisor = machine.supervisor
    problems = supervisor.status().problems if supervisor is not None else ()
    return any(
        each.code == RefusalCode.LOCKED.value and each.detail.startswith("held:")
        for each in problems
    )
