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
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from syncline.client.mount.looking import DEGRADED_SCAN_S
from syncline.core.conflict_names import is_conflict_name
from syncline.core.identity import ReplicaId
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.core.safety import HaltReason
from syncline.ports.mount_control import MountPhase
from syncline.server import receive
from tests.support.simulation.aimed import Aimed
from tests.support.simulation.brakes import LIMITS, Brakes
from tests.support.simulation.disk import Crashed, Operation
from tests.support.simulation.history import check_chunks, check_history, commits_after, head_of
from tests.support.simulation.kinds import WorldKind
from tests.support.simulation.lockers import Lockers
from tests.support.simulation.loop import SimulatedLoop, run_simulated
from tests.support.simulation.machines import ClientMachine, ServerMachine, Settings
from tests.support.simulation.met import (
    DESCRIPTOR,
    KILL,
    POWER_LOSS,
    RENAMED,
    RESTARTED,
    SERVER_STOP,
    brake,
)
from tests.support.simulation.oracle import Oracle
from tests.support.simulation.races import Races
from tests.support.simulation.scene import Scene
from tests.support.simulation.trouble import Trouble
from tests.support.simulation.user_side import Node
from tests.support.simulation.users import Hands
from tests.support.simulation.watcher import QUEUE_LIMIT

REST_S = 600.0
"""Virtual time in which a calm world must come to rest."""

SETTLE_S = 3.0

AGAIN = 0.6
AGAIN_OPERATIONS = 250
"""How likely who starts again dies at once, where worlds have that, and within what."""

SECOND_ACTS = 40
"""So much users do in the second act of a world, beside what it aims at."""

PLAIN = 0.3
"""So many worlds have no trouble but crashes, lost messages and users who act at any moment."""

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


@dataclass(frozen=True, slots=True)
class Told:
    """What one user did alone: who, after which revision, and what his directory then was."""

    replica: ReplicaId
    head: int
    tree: dict[bytes, tuple[object, ...]]


class World:
    """One run of one seed."""

    def __init__(
        self,
        loop: SimulatedLoop,
        seed: int,
        operations: int,
        kind: WorldKind,
        *,
        is_plain: bool,
    ) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        self.trouble_random = random.Random(f"{seed} faults")
        self.is_plain = is_plain or self.trouble_random.random() < PLAIN
        self.weather = weather_of(self.random)
        self.oracle = Oracle()
        self.report = Report(seed)
        self._wanted = operations
        self._is_calm = False
        self._told: Told | None = None
        self._acts_max: int | None = None
        self.server = ServerMachine(loop, random.Random(self.random.getrandbits(64)))
        self.machines: list[ClientMachine] = []
        self.hands: dict[str, Hands] = {}
        for name in ("ann", "bob", "cleo")[: self.random.choice((2, 2, 3))]:
            settings = Settings(
                skew_ns=self.random.choice((0, 0, 10**17, -(10**17))),
                is_ordered=self.random.random() < 0.7,
                has_exchange=kind.has_exchange,
            )
            if not self.is_plain:
                _worsen(settings, self.trouble_random, has_time=not self.weather.is_serial)
            machine = ClientMachine(name, loop, self.server, self.random.getrandbits(64), settings)
            self.machines.append(machine)
            self.hands[name] = Hands(
                name,
                machine.user,
                random.Random(self.random.getrandbits(64)),
                self.oracle,
                loop.time,
                has_patience=not self.weather.is_serial,
                large=0.02 if self.is_plain else 0.05,
            )
        self.scene = Scene(
            self.machines,
            self.hands,
            self.server,
            self.oracle,
            self.trouble_random,
            loop.time,
            self.report.met,
        )
        self._restarts = random.Random(f"{seed} restarts") if kind.has_restarts else None
        self._left: dict[str, int] = {}
        """After so many operations of its disk a machine that just started dies."""
        self.races = Races(self.scene)
        is_allowed = not self.weather.is_serial
        self.brakes = Brakes(
            self.scene,
            self._fell,
            self._restart_server,
            is_allowed=is_allowed and not self.is_plain,
        )
        self.trouble = Trouble(self.scene, self.races, self.brakes)
        self.aimed: Aimed | None = None
        if self.brakes.is_allowed and kind.has_scenes:
            self.aimed = Aimed(self.scene, self.brakes, random.Random(f"{seed} aimed"))
        self.lockers: Lockers | None = None
        if kind.has_locks and is_allowed:
            self.lockers = Lockers(self.scene, self._fell, random.Random(f"{seed} locks"))
        self._server_turn = asyncio.Lock()

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
            beside = self._begin_trouble()
            if self.lockers is not None:
                beside.append(self._group.create_task(self.lockers.run()))
            await self._turbulence()
            self.scene.is_over = True
            for each in beside:
                await each
            await self._calm()
            if self.aimed is not None:
                await self._second_act(self.aimed)
            for keeper in keepers:
                keeper.cancel()
            for machine in self.machines:
                await machine.bury(power_loss=False)
            await self.server.stop()
        self.report.operations = self.done
        self.report.virtual_s = self.loop.time()
        self.report.crashes = sum(machine.crashes for machine in self.machines)
        for machine in self.machines:
            self.report.met += machine.disk.met + machine.network.met
        if self.lockers is not None:
            self.report.met.update(self.lockers.met())
        self.report.met[DESCRIPTOR] += sum(hands.late_writes for hands in self.hands.values())
        return self.report

    def _begin_trouble(self) -> list[asyncio.Task[None]]:
        if self.is_plain:
            return []
        for machine in self.machines:
            machine.network.trouble = self.trouble.of_network(machine)
        return [self._group.create_task(self.trouble.run())]

    async def _fell(self, machine: ClientMachine) -> None:
        """Let the process of a mount be gone when this returns."""
        await machine.bury(power_loss=False)
        while machine.is_running:
            await machine.bury(power_loss=False)

    async def _restart_server(self, meanwhile: Callable[[], None]) -> None:
        async with self._server_turn:
            await self.server.stop()
            self.report.met[SERVER_STOP] += 1
            meanwhile()
            await self.server.start(self._group)

    # -- turbulence ----------------------------------------------------------------

    def _hook(self, machine: ClientMachine) -> None:
        hands = self.hands[machine.name]

        def before(operation: Operation) -> None:
            if self._is_calm or self.scene.is_over:
                return
            if machine.name in self._left:
                self._left[machine.name] -= 1
                if not self._left[machine.name]:
                    self.report.met[RESTARTED] += 1
                    self._die(machine, operation)
            chance = self.random.random()
            # What is done here makes the engine do more, in whose windows more is done.
            is_tired = self._acts_max is not None and self.done >= self._acts_max
            if is_tired and chance < self.weather.act:
                return
            if chance < self.weather.act:
                self.report.met[f"act before {operation.name}"] += 1
                hands.act()
            elif chance < self.weather.act + self.weather.die:
                self._die(machine, operation)
            if self.brakes.is_allowed and not is_tired:
                self.races.before(machine, operation)

        machine.disk.before = before

    def _die(self, machine: ClientMachine, operation: Operation) -> None:
        self.report.met[f"die before {operation.name}"] += 1
        self.oracle.note(f"{self.loop.time():9.3f} {machine.name} dies: {operation.name}")
        self._left.pop(machine.name, None)
        machine.die()
        raise Crashed(operation.name)

    async def _turbulence(self) -> None:
        while self.done < self._wanted:
            await asyncio.sleep(self.random.expovariate(1 / 0.05))
            machine = self.random.choice(self.machines)
            if self.weather.is_serial:
                await self._rest()
                self._check_serial()
            self.hands[machine.name].act()
            if self.weather.is_serial:
                self._told = self._told_by(machine)
            machine.network.loss = self.weather.loss
            if self.random.random() < 0.02:
                machine.network.is_up = not machine.network.is_up
            if self.random.random() < self.weather.server_stop:
                self.oracle.note(f"{self.loop.time():9.3f} server restarts")
                async with self._server_turn:
                    await self.server.stop()
                    self.report.met[SERVER_STOP] += 1
                    await asyncio.sleep(self.random.random())
                    await self.server.start(self._group)

    def _told_by(self, machine: ClientMachine) -> Told:
        """Return what a user has just said, by what his directory is now."""
        stores = self.server.stores
        head = head_of(stores)
        return Told(machine.replica, head, comparable(self.hands[machine.name].tree()))

    def _check_serial(self) -> None:
        """Fail where one act of one user did not become just that, everywhere (G4)."""
        told = self._told
        if told is None:
            return
        for name, tree in self._trees().items():
            if comparable(tree) != told.tree:
                raise AssertionError(
                    f"{name} has not what the last user left: {self._differences()}"
                )
        for commit in commits_after(self.server.stores, told.head):
            if commit.author.replica != told.replica:
                raise AssertionError(f"{commit.author.name} wrote, and had nothing to write")

    async def _keep(self, machine: ClientMachine) -> None:
        """Start a mount again whenever it died."""
        while True:
            await asyncio.sleep(0.05)
            if not machine.is_running:
                is_power_loss = self.random.random() < self.weather.power_loss
                self.report.met[POWER_LOSS if is_power_loss else KILL] += 1
                await machine.bury(power_loss=is_power_loss)
                await asyncio.sleep(0.0 if self._is_calm else self.random.random())
                self.oracle.note(f"{self.loop.time():9.3f} {machine.name} starts again")
                if self._restarts is not None and self._restarts.random() < AGAIN:
                    self._left[machine.name] = self._restarts.randrange(1, AGAIN_OPERATIONS)
                machine.start(self._group)
            await self._agree(machine)

    async def _agree(self, machine: ClientMachine) -> None:
        """Do as a user who knows why a mount halted: resume it, unless there was an accident."""
        supervisor = machine.supervisor
        # Many times a second: a whole status takes long.
        halt = supervisor._standing_halt() if supervisor is not None else None
        if supervisor is None or halt is None or machine.name in self.scene.accidents:
            return
        if self.is_plain and halt.reason is not HaltReason.ROOT_EMPTIED:
            raise AssertionError(f"{machine.name} halted for nothing: {halt}")
        self.report.met[brake(halt.reason)] += 1
        self.oracle.note(f"{self.loop.time():9.3f} {machine.name} resumes: {halt.reason.value}")
        with suppress(Crashed):
            await supervisor.resume(halt)

    # -- calm ------------------------------------------------------------------------

    async def _calm(self) -> None:
        for hands in self.hands.values():
            hands.let_go()
        self._is_calm = True
        self.trouble.heal()
        self.oracle.note(f"{self.loop.time():9.3f} calm")
        for machine in self.machines:
            machine.network.is_up, machine.network.loss = True, 0.0
        if self.lockers is not None:
            await self.lockers.end()
        await self._rest()
        if self.lockers is not None:
            await self.lockers.check_over()
        self._check()

    async def _second_act(self, aimed: Aimed) -> None:
        """Play on, with scenes that aim at what was hardly met yet."""
        self.oracle.note(f"{self.loop.time():9.3f} second act")
        self._is_calm = self.scene.is_over = False
        self._acts_max = self.done + SECOND_ACTS
        others = self._group.create_task(self._go_on())
        await aimed.run()
        self.scene.is_over = True
        await others
        await self._calm()

    async def _go_on(self) -> None:
        """Let users do what they do anyway, until it is over."""
        while not self.scene.is_over:
            await asyncio.sleep(self.random.expovariate(1 / 0.3))
            if self._acts_max is not None and self.done < self._acts_max:
                self.hands[self.random.choice(self.machines).name].act()

    async def _rest(self) -> None:
        """Wait until all mounts are in sync and equal."""
        until_s = self.loop.time() + REST_S
        for machine in self.machines:
            machine.network.is_up = True
        # A status cannot know of an edit of this very instant.
        await asyncio.sleep(max(map(_settle_s, self.machines)))
        while not self._is_at_rest():
            self.trouble.has_lull = self.loop.time() > until_s - REST_S / 2
            if self.loop.time() > until_s:
                raise AssertionError(f"no rest after {REST_S:g} s: {self._differences()}")
            await asyncio.sleep(0.5)
        self.trouble.has_lull = False

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
            if comparable(first) != comparable(other):
                raise AssertionError(f"in sync, and not equal: {self._differences()}")
        self.oracle.check_kept(first, self.races.kept_outside())
        if self.weather.is_serial:
            self._check_serial()
        self.races.check_outside()
        for machine in self.machines:
            if machine.network.repairs and not self.brakes.is_restored:
                raise AssertionError(f"{machine.name} did not believe an honest feed")
            if machine.replica != machine.given:
                self.report.met[RENAMED] += 1
                if not self.brakes.is_identity_shared:
                    raise AssertionError(f"{machine.name} gave up an identity that is its own")
        check_history(self.server.stores)
        check_chunks(self.server.stores)
        names = [path.rpartition(b"/")[2] for path in first]
        self.report.conflicts = sum(map(is_conflict_name, names))
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
        trees = {name: comparable(tree) for name, tree in self._trees().items()}
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


def _worsen(settings: Settings, seeded: random.Random, *, has_time: bool) -> None:
    """Make a machine one that has little of what it needs; without watches all takes long."""
    settings.brakes = LIMITS
    settings.queue_limit = seeded.choice((QUEUE_LIMIT, QUEUE_LIMIT, 2, 6))
    settings.watch_limit = seeded.choice((None, None, None, 2, 4)) if has_time else None


def _settle_s(machine: ClientMachine) -> float:
    """Return how long an edit may be unknown to a status: without watches until the next scan."""
    supervisor = machine.supervisor
    is_degraded = supervisor is not None and supervisor.status().is_watch_degraded
    return 3 * DEGRADED_SCAN_S if is_degraded or machine.settings.watch_limit else SETTLE_S


def comparable(tree: dict[bytes, Node]) -> dict[bytes, tuple[object, ...]]:
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


class WorldFailed(AssertionError):
    """A world is not as it must be; `reason` is the error that showed it first."""

    def __init__(self, seed: int, error: BaseException, history: Iterable[str]) -> None:
        told = _told(error)
        lines = "\n".join(history)
        super().__init__(f"seed {seed} failed\n{told}\nhistory:\n{lines}")
        self.reason = first_of(error)

    def __reduce__(self) -> tuple[object, ...]:
        """Let it travel between processes as what it says."""
        return _failed_again, (self.args, self.reason)


def _failed_again(args: tuple[object, ...], reason: BaseException) -> WorldFailed:
    failed = WorldFailed.__new__(WorldFailed, *args)
    failed.args, failed.reason = args, reason
    return failed


def play(
    seed: int, operations: int = 200, *, is_plain: bool = False, kind: WorldKind | None = None
) -> Report:
    """Run one seed to its end; raise WorldFailed with a short history where it fails.

    `is_plain` leaves out the trouble that came later than the world, and `kind` says what else the
    world is, where that is not for the seed to say: old seeds keep their course.
    """
    worlds: list[World] = []

    async def main(loop: SimulatedLoop) -> Report:
        world = World(loop, seed, operations, kind or WorldKind.of_seed(seed), is_plain=is_plain)
        worlds.append(world)
        if not world.is_plain:
            # What came before a transfer stalls waits at the server, and may be lost there.
            receive.BATCH_CHUNKS_MAX = 1
        return await world.play()

    batch = receive.BATCH_CHUNKS_MAX
    try:
        return run_simulated(main)
    except (Exception, BaseExceptionGroup, Crashed) as error:  # noqa: BLE001
        history = worlds[0].oracle.history if worlds else ()
        raise WorldFailed(seed, error, history) from None
    finally:
        receive.BATCH_CHUNKS_MAX = batch


def first_of(error: BaseException) -> BaseException:
    """Return the first error of a group, however deep."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _told(error: BaseException) -> str:
    """Return what went wrong, without the groups around it."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(_told(each) for each in error.exceptions)
    return "".join(traceback.format_exception(error)[-12:])
