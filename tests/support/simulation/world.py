"""A world: a server, some mounts, their users, and everything that can go wrong, from one seed.

Turbulence comes first: users act between any two file operations of an engine, processes die there,
messages are lost. Then it gets calm, everything is started again, and what `oracle` says must be
true. The world is the same for the same seed, whatever machine it runs on.
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections import Counter
from dataclasses import dataclass, field

from syncline.core.conflict_names import is_conflict_name
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.core.safety import HaltReason
from syncline.ports.mount_control import MountPhase
from tests.support.simulation.disk import Crashed, Operation
from tests.support.simulation.loop import SimulatedLoop, run_simulated
from tests.support.simulation.machines import ClientMachine, ServerMachine, Settings
from tests.support.simulation.oracle import Oracle
from tests.support.simulation.user_side import Node
from tests.support.simulation.users import Hands

REST_S = 600.0
"""Virtual time in which a calm world must come to rest."""

SETTLE_S = 3.0

LEFTOVERS = (b"staging", b"aside", b"displaced", b"sentinels")


@dataclass(frozen=True)
class Weather:
    """How bad it gets; each is a likelihood at one step."""

    act: float = 0.02
    die: float = 0.0
    power_loss: float = 0.5
    loss: float = 0.0
    server_stop: float = 0.0
    is_serial: bool = False
    """One user at a time, and rest in between: then nobody may see a conflict."""


def weather_of(seeded: random.Random) -> Weather:
    """Return the weather of a seed."""
    kind = seeded.random()
    if kind < 0.15:
        return Weather(act=0.0, die=0.0005, is_serial=True)
    if kind < 0.35:
        return Weather()
    if kind < 0.55:
        return Weather(die=0.001)
    if kind < 0.7:
        return Weather(loss=0.01)
    return Weather(act=0.03, die=0.001, loss=0.005, server_stop=0.05)


@dataclass
class Report:
    """What a world came to."""

    seed: int
    operations: int = 0
    crashes: int = 0
    conflicts: int = 0
    virtual_s: float = 0.0
    met: Counter[str] = field(default_factory=Counter)


class World:
    """One run of one seed."""

    def __init__(self, loop: SimulatedLoop, seed: int, operations: int) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.weather = weather_of(self.random)
        self.oracle = Oracle()
        self.report = Report(seed)
        self._wanted = operations
        self._is_calm = False
        self.server = ServerMachine(loop, random.Random(self.random.getrandbits(64)))
        self.machines: list[ClientMachine] = []
        self.hands: dict[str, Hands] = {}
        for name in ("ann", "bob", "cleo")[: self.random.choice((2, 2, 3))]:
            settings = Settings(
                skew_ns=self.random.choice((0, 0, 10**17, -(10**17))),
                is_ordered=self.random.random() < 0.7,
            )
            machine = ClientMachine(name, loop, self.server, self.random.getrandbits(64), settings)
            self.machines.append(machine)
            self.hands[name] = Hands(
                name,
                machine.user,
                random.Random(self.random.getrandbits(64)),
                self.oracle,
                loop.time,
                has_patience=not self.weather.is_serial,
            )

    @property
    def done(self) -> int:
        """Return how many things users did."""
        return sum(hands.done for hands in self.hands.values())

    async def play(self) -> Report:
        """Live through it; raise AssertionError where something is not as it must be."""
        async with asyncio.TaskGroup() as self._group:
            await self.server.start(self._group)
            for machine in self.machines:
                self._hook(machine)
                machine.start(self._group)
            keepers = [self._group.create_task(self._keep(m)) for m in self.machines]
            await self._turbulence()
            await self._calm(keepers)
            for machine in self.machines:
                await machine.bury(power_loss=False)
            await self.server.stop()
        self.report.operations = self.done
        self.report.virtual_s = self.loop.time()
        self.report.crashes = sum(machine.crashes for machine in self.machines)
        return self.report

    # -- turbulence ----------------------------------------------------------------

    def _hook(self, machine: ClientMachine) -> None:
        hands = self.hands[machine.name]

        def before(operation: Operation) -> None:
            if self._is_calm:
                return
            chance = self.random.random()
            if chance < self.weather.act:
                self.report.met[f"act before {operation.name}"] += 1
                hands.act()
            elif chance < self.weather.act + self.weather.die:
                self.report.met[f"die before {operation.name}"] += 1
                self.oracle.note(f"{self.loop.time():9.3f} {machine.name} dies: {operation.name}")
                machine.die()
                raise Crashed(operation.name)

        machine.disk.before = before

    async def _turbulence(self) -> None:
        while self.done < self._wanted:
            await asyncio.sleep(self.random.expovariate(1 / 0.05))
            machine = self.random.choice(self.machines)
            if self.weather.is_serial:
                await self._rest()
            self.hands[machine.name].act()
            machine.network.loss = self.weather.loss
            if self.random.random() < 0.02:
                machine.network.is_up = not machine.network.is_up
            if self.random.random() < self.weather.server_stop:
                self.oracle.note(f"{self.loop.time():9.3f} server restarts")
                await self.server.stop()
                await asyncio.sleep(self.random.random())
                await self.server.start(self._group)

    async def _keep(self, machine: ClientMachine) -> None:
        """Start a mount again whenever it died."""
        while True:
            await asyncio.sleep(0.05)
            if not machine.is_running:
                is_power_loss = self.random.random() < self.weather.power_loss
                await machine.bury(power_loss=is_power_loss)
                await asyncio.sleep(0.0 if self._is_calm else self.random.random())
                self.oracle.note(f"{self.loop.time():9.3f} {machine.name} starts again")
                machine.start(self._group)
            await self._agree(machine)

    async def _agree(self, machine: ClientMachine) -> None:
        """Do as a user who emptied his directory on purpose."""
        supervisor = machine.supervisor
        halt = supervisor.status().halt if supervisor is not None else None
        if supervisor is not None and halt is not None:
            assert halt.reason is HaltReason.ROOT_EMPTIED, halt
            self.report.met[f"halted {halt.reason.value}"] += 1
            await supervisor.resume(halt)

    # -- calm ------------------------------------------------------------------------

    async def _calm(self, keepers: list[asyncio.Task[None]]) -> None:
        for hands in self.hands.values():
            hands.let_go()
        self._is_calm = True
        self.oracle.note(f"{self.loop.time():9.3f} calm")
        for machine in self.machines:
            machine.network.is_up, machine.network.loss = True, 0.0
        await self._rest()
        for keeper in keepers:
            keeper.cancel()
        self._check()

    async def _rest(self) -> None:
        """Wait until all mounts are in sync and equal."""
        until_s = self.loop.time() + REST_S
        for machine in self.machines:
            machine.network.is_up = True
        # A status cannot know of an edit of this very instant.
        await asyncio.sleep(SETTLE_S)
        while not self._is_at_rest():
            if self.loop.time() > until_s:
                raise AssertionError(f"no rest after {REST_S:g} s: {self._differences()}")
            await asyncio.sleep(0.5)

    def _is_at_rest(self) -> bool:
        for machine in self.machines:
            if not machine.is_running or machine.supervisor is None:
                return False
            status = machine.supervisor.status()
            if status.phase is not MountPhase.IN_SYNC or status.cursor != self._head():
                return False
            if self._is_calm and self._leftovers(machine.name):
                return False
        return True

    def _head(self) -> int | None:
        volume = self.server.volume
        return None if volume is None else volume.feed.head.revision

    def _trees(self) -> dict[str, dict[bytes, Node]]:
        return {name: hands.tree() for name, hands in self.hands.items()}

    def _check(self) -> None:
        """Fail where the world at rest is not as it must be."""
        trees = self._trees()
        first, *others = trees.values()
        for name, tree in trees.items():
            self.oracle.check_content(tree, name)
        for other in others:
            if _comparable(first) != _comparable(other):
                raise AssertionError(f"in sync, and not equal: {self._differences()}")
        self.oracle.check_kept(first)
        for path in first:
            self.report.conflicts += is_conflict_name(path.rpartition(b"/")[2])
        if self.weather.is_serial and self.report.conflicts:
            raise AssertionError("a conflict that nobody made")

    def _leftovers(self, name: str) -> list[bytes]:
        """Return what lies in the client's own directory and is still to go."""
        own = RESERVED_ROOT_NAME
        return [
            path
            for path in self.hands[name].user.tree()
            for place in LEFTOVERS
            if path.startswith(own + b"/" + place + b"/")
        ]

    def _differences(self) -> str:
        lines = []
        trees = {name: _comparable(tree) for name, tree in self._trees().items()}
        for path in sorted(set().union(*trees.values())):
            nodes = {name: tree.get(path) for name, tree in trees.items()}
            if len(set(nodes.values())) > 1:
                shown = {name: str(node)[:90] for name, node in nodes.items()}
                lines.append(f"{path!r}: {shown}")
        for machine in self.machines:
            if machine.supervisor is not None:
                status = machine.supervisor.status()
                lines.append(
                    f"{machine.name}: {status.phase.value} cursor={status.cursor}"
                    f" head={status.head}/{self._head()} up={status.pending_up}"
                    f" down={status.pending_down} problems={status.problems} halt={status.halt}"
                    f" error={status.connection_error} left={self._leftovers(machine.name)}"
                )
        return "\n  ".join(lines)


def _comparable(tree: dict[bytes, Node]) -> dict[bytes, tuple[object, ...]]:
    """Return what replicas have in common: the mtime of a directory does not travel."""
    return {
        path: (
            node.kind,
            node.content if len(node.content) < 200 else (len(node.content), hash(node.content)),
            node.mode,
            0 if node.kind.value == "directory" else node.mtime_ns,
        )
        for path, node in tree.items()
    }


def play(seed: int, operations: int = 200) -> Report:
    """Run one seed to its end; raise AssertionError with a short history where it fails."""
    worlds: list[World] = []

    async def main(loop: SimulatedLoop) -> Report:
        worlds.append(World(loop, seed, operations))
        return await worlds[0].play()

    try:
        return run_simulated(main)
    except (Exception, BaseExceptionGroup, Crashed) as error:  # noqa: BLE001
        history = "\n".join(worlds[0].oracle.history) if worlds else ""
        raise AssertionError(f"seed {seed} failed\n{_told(error)}\nhistory:\n{history}") from None


def _told(error: BaseException) -> str:
    """Return what went wrong, without the groups around it."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(_told(each) for each in error.exceptions)
    return "".join(traceback.format_exception(error)[-12:])
