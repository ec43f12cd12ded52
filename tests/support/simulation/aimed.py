"""The second act of a world: what chance alone seldom brings about is brought about on purpose.

Model: it begins when the first act is over and was found well, so that the first one of a seed is
the same whatever is added here. It draws from a stream of its own. Each scene prepares one refusal,
one kind of trouble or one accident; what comes of it is judged as after any other trouble. A mount
that is *deaf* is one that the server's news reach late: what it sends then builds on what is past.
"""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from syncline.core.changes import Proposal
from syncline.ports.files import FileKind
from syncline.ports.mount_control import MountPhase
from tests.support.simulation.brakes import LIMITS, QUIET_S, Brakes
from tests.support.simulation.history import head_of
from tests.support.simulation.links import NetworkTrouble
from tests.support.simulation.machines import ClientMachine
from tests.support.simulation.races import lose_pending
from tests.support.simulation.scene import Scene
from tests.support.simulation.trouble import FAILING
from tests.support.simulation.users import Hands

REMOVED_SHARE = 0.45
"""So much each of two users deletes: too much together, and for each of them not."""

FILES_MIN = 14
RARE_FAULTS = ("EIO", "EACCES", "EROFS", "EMFILE")

Act = Callable[[], Awaitable[None]]


class StallOnce(NetworkTrouble):
    """A network where one transfer stands still after its first piece."""

    def __init__(self, seeded: random.Random, on_stall: Callable[[Proposal], None]) -> None:
        super().__init__(seeded, 0.0, 0.0, 0.0, on_stall, _nothing)
        self._pieces = 0

    def stall_s(self) -> float:
        self._pieces += 1
        return 2.0 if self._pieces == 2 else 0.0


def _nothing(_: object) -> None:
    return


class Aimed:
    """The scenes of one world, one after the other."""

    def __init__(self, scene: Scene, brakes: Brakes, seeded: random.Random) -> None:
        self._scene = scene
        self._brakes = brakes
        self._random = seeded

    async def run(self) -> None:
        """Play some scenes, with ordinary users in between."""
        refused: tuple[Act, ...] = (self._cycle, self._ring, self._missing)
        accidents: tuple[Act, ...] = (
            self._root_away,
            self._root_of_another_type,
            self._removals,
            self._state_lost,
            self._state_old,
            self._cloned,
        )
        scenes = [*refused, self._faults, *self._random.sample(accidents, 2)]
        self._random.shuffle(scenes)
        for act in scenes:
            with suppress(OSError):
                # What a user wanted was impossible just then.
                await act()
            for machine in self._scene.machines:
                machine.network.trouble = None
                machine.network.ears.set()
            await asyncio.sleep(self._random.random())

    # -- preparing ---------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[tuple[ClientMachine, ClientMachine]]:
        """Yield two machines that have all that the server has, while no user does anything."""
        everybody = self._scene.hands.values()
        for hands in everybody:
            hands.is_away = True
        try:
            one, other = self._random.sample(self._scene.machines, 2)
            await self._equal()
            yield one, other
        finally:
            for hands in everybody:
                hands.is_away = False

    async def _equal(self) -> None:
        """Wait until all mounts have what the server has; raise TimeoutError."""
        until_s = self._scene.now_s() + QUIET_S
        for machine in self._scene.machines:
            machine.disk.heal()
            machine.network.is_up = True
        await asyncio.sleep(0.5)
        while not all(map(self._is_equal, self._scene.machines)):
            if self._scene.now_s() > until_s:
                raise TimeoutError
            await asyncio.sleep(0.1)

    def _is_equal(self, machine: ClientMachine) -> bool:
        supervisor = machine.supervisor
        if supervisor is None:
            return False
        status = supervisor.status()
        head = head_of(self._scene.server.stores)
        return status.phase is MountPhase.IN_SYNC and status.cursor == head

    @asynccontextmanager
    async def _deaf(self, machine: ClientMachine) -> AsyncIterator[None]:
        """Let the news of the server wait while its user acts, and a moment longer."""
        machine.network.ears.clear()
        try:
            yield
            await asyncio.sleep(self._random.uniform(0.3, 1.0))
        finally:
            machine.network.ears.set()

    async def _stored(self, since: int) -> None:
        """Wait until the server has a newer revision; raise TimeoutError."""
        until_s = self._scene.now_s() + 5.0
        while head_of(self._scene.server.stores) <= since:
            if self._scene.now_s() > until_s:
                raise TimeoutError
            await asyncio.sleep(0.05)

    def _hands(self, machine: ClientMachine) -> Hands:
        return self._scene.hands[machine.name]

    def _name(self) -> bytes:
        return b"s%d" % self._random.getrandbits(24)

    # -- refusals ----------------------------------------------------------------------

    async def _cycle(self) -> None:
        """Let two users move two directories into each other."""
        async with self._alone() as (one, other):
            first, second = self._name(), self._name()
            one.user.mkdir(first)
            one.user.mkdir(second)
            await self._equal()
            head = head_of(self._scene.server.stores)
            self._scene.note(f"{one.name} and {other.name} move {first!r}, {second!r}")
            async with self._deaf(other):
                self._hands(one).rename_to(first, second + b"/" + first)
                await self._stored(head)
                self._hands(other).rename_to(second, first + b"/" + second)

    async def _ring(self) -> None:
        """Let one user change a directory while another one exchanges it for a second one."""
        async with self._alone() as (one, other):
            first, second = self._name(), self._name()
            one.user.mkdir(first)
            one.user.mkdir(second)
            await self._equal()
            head = head_of(self._scene.server.stores)
            self._scene.note(f"{other.name} exchanges {first!r}, {second!r}")
            async with self._deaf(other):
                one.user.chmod(self._random.choice((first, second)), 0o700)
                await self._stored(head)
                other.user.exchange(first, second)

    async def _missing(self) -> None:
        """Lose at the server what it had of a transfer that stands still."""
        async with self._alone() as (one, other):
            hands, there = self._hands(one), self._hands(other)
            path, size = self._name(), hands.large

            def lose(_: Proposal) -> None:
                lose_pending(self._scene)
                there.create_at(self._name())

            one.network.trouble = StallOnce(self._random, lose)
            hands.large = 1.0
            try:
                hands.create_at(path)
            finally:
                hands.large = size
            await asyncio.sleep(4.0)

    # -- disks -------------------------------------------------------------------------

    async def _faults(self) -> None:
        """Let a disk refuse what the engine is about to do for an edit of either side."""
        machine = self._random.choice(self._scene.machines)
        for code in self._random.sample(RARE_FAULTS, 2):
            for operation in self._random.sample(FAILING[code], 3):
                machine.disk.fail(getattr(errno, code), operation=operation, times=2)
            self._scene.note(f"{machine.name} {code} for a moment")
            for hands in self._scene.hands.values():
                for _ in range(3):
                    hands.act()
            await asyncio.sleep(self._random.uniform(0.5, 1.5))
            machine.disk.heal()

    # -- accidents ---------------------------------------------------------------------

    def _victim(self) -> ClientMachine:
        return self._random.choice(self._scene.machines)

    async def _root_away(self) -> None:
        await self._brakes.cause(self._victim(), self._brakes.root_away)

    async def _root_of_another_type(self) -> None:
        await self._brakes.cause(self._victim(), self._brakes.root_of_another_type)

    async def _state_lost(self) -> None:
        await self._brakes.cause(self._victim(), self._brakes.state_lost)

    async def _state_old(self) -> None:
        machine = self._victim()
        self._brakes.remember(machine)
        await asyncio.sleep(self._random.uniform(1.0, 3.0))
        await self._brakes.cause(machine, self._brakes.state_old)

    async def _cloned(self) -> None:
        watched = [m for m in self._scene.machines if m.settings.watch_limit is None]
        if not watched:
            return
        machine = self._random.choice(watched)
        self._hands(machine).let_go()
        await self._brakes.cause(machine, self._brakes.identity_cloned)

    async def _removals(self) -> None:
        """Let two users delete much of the rest each, without having heard of each other."""
        async with self._alone() as (one, other):
            hands = self._hands(one)
            tree = hands.tree()
            kinds = [node.kind for node in tree.values()]
            for _ in range(max(FILES_MIN, len(kinds) - kinds.count(FileKind.FILE)) + 2):
                hands.create_at(self._name())
            await self._equal()
            tree = hands.tree()
            files = [path for path, node in tree.items() if node.kind is FileKind.FILE]
            self._random.shuffle(files)
            count = min(int(REMOVED_SHARE * len(tree)), len(files) // 2)
            if count <= LIMITS.floor or 2 * count <= LIMITS.share * len(tree):
                return
            head = head_of(self._scene.server.stores)
            self._scene.note(f"{one.name} and {other.name} delete {count} of {len(tree)} each")
            async with self._deaf(other):
                self._delete(one, files[:count])
                await self._stored(head)
                await asyncio.sleep(0.5)
                self._delete(other, files[count : 2 * count])
                await asyncio.sleep(0.5)
            await asyncio.sleep(2.0)

    def _delete(self, machine: ClientMachine, paths: list[bytes]) -> None:
        for path in paths:
            if machine.user.exists(path):
                self._hands(machine).give_up_at(path)
                machine.user.unlink(path)
