"""The machines of a simulated world: one with the server, and one for each mount."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.client.mount.control import MountSupervisor, Shown
from syncline.client.mount.engine import Lanes
from syncline.client.mount.parts import Parts
from syncline.client.steady import Backoff
from syncline.core.changes import Author
from syncline.core.identity import ReplicaId, VolumeId
from syncline.core.safety import Limits as BrakeLimits
from syncline.core.trees import Mode, Mount
from syncline.errors import LocalFailure, NoSpace, SynclineError, Unavailable
from syncline.ports.link import LockingLink
from syncline.ports.mount_state import MountFacts
from syncline.server.limits import Limits
from syncline.server.recovery import recover
from syncline.server.volume import ServedVolume, Services
from tests.support.serving import Backend, SeededIds
from tests.support.simulation.disk import Crashed, Operation, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.simulation.history import Stores
from tests.support.simulation.links import Network, SimulatedLink
from tests.support.simulation.loop import (
    Process,
    SimulatedClock,
    SimulatedExecutor,
    SimulatedLoop,
)
from tests.support.simulation.user_side import User
from tests.support.simulation.watcher import QUEUE_LIMIT, SimulatedWatcher

ROOT = b"mount"

T = TypeVar("T")


class ServerMachine:
    """The server: its stores outlive its process."""

    def __init__(self, loop: SimulatedLoop, seeded: random.Random) -> None:
        self.backend = Backend.in_memory()
        self.volume: ServedVolume | None = None
        self._loop = loop
        self._random = seeded
        self._stop: asyncio.Event | None = None
        self._ended: asyncio.Task[None] | None = None
        self.process = Process("server")
        self.observe: Callable[[ServedVolume], Coroutine[object, object, None]] | None = None
        """Who looks on while it serves, each time anew."""
        ids = SeededIds(seeded.getrandbits(32))
        self.backend.metadata.create_volume(VolumeId(ids.volume()), "default")

    @property
    def stores(self) -> Stores:
        """Return where the volume is, whether it is served or not."""
        return Stores(self.backend.metadata, self.backend.chunks)

    async def start(self, group: asyncio.TaskGroup) -> None:
        """Start the process; return when it serves."""
        self.process = Process("server")
        self._stop = asyncio.Event()
        ready = asyncio.Event()
        self._ended = group.create_task(self._run(ready, self._stop))
        await ready.wait()

    async def _run(self, ready: asyncio.Event, stop: asyncio.Event) -> None:
        async with AsyncExitStack() as stack:
            facts = self.backend.metadata.volumes()[0]
            recover(self.backend.metadata, facts.id, self.backend.chunks)
            process = self.process
            services = Services(
                self.backend.metadata,
                SimulatedClock(self._loop),
                SimulatedExecutor(process, self._random, is_ordered=True),
                SimulatedExecutor(process, self._random, is_ordered=False),
                Limits(),
            )
            volume = ServedVolume(facts, self.backend.chunks, services)
            await stack.enter_async_context(volume.running())
            stack.callback(volume.feed.close)
            self.volume = volume
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            observer = tasks.create_task(self.observe(volume)) if self.observe else None
            ready.set()
            await stop.wait()
            if observer is not None:
                observer.cancel()

    async def stop(self) -> None:
        """End the process; what was committed stays, calls under way break."""
        self.volume = None
        if self._stop is not None and self._ended is not None:
            self._stop.set()
            await self._ended
            self.process.kill()
            # As a power loss would leave them: what was not synced is gone.
            assert isinstance(self.backend.chunks, MemoryChunkStore)
            self.backend.chunks.crash()


@dataclass
class Settings:
    """What one machine is like."""

    mode: Mode = Mode.TWO_WAY
    skew_ns: int = 0
    is_ordered: bool = True
    brakes: BrakeLimits = field(default_factory=BrakeLimits)
    watch_limit: int | None = None
    queue_limit: int = QUEUE_LIMIT
    read_s: float = 0.002
    """How long, at most, files wait until they are read, and until that is told: a slow disk."""
    has_exchange: bool = True
    """Whether the file system can let two things change names in one step."""


class ClientMachine:
    """A disk with a user and a mount on it; disk and state outlive the process of the mount."""

    def __init__(
        self,
        name: str,
        loop: SimulatedLoop,
        server: ServerMachine,
        seed: int,
        settings: Settings,
    ) -> None:
        self.name = name
        self.random = random.Random(seed)
        self.settings = settings
        self.clock = SimulatedClock(loop, settings.skew_ns)
        self.disk = SimulatedDisk(
            self.clock.wall_ns,
            is_ordered=settings.is_ordered,
            has_exchange=settings.has_exchange,
        )
        self.user = User(self.disk, ROOT)
        User(self.disk).mkdir(ROOT)
        self.network = Network(random.Random(seed + 1))
        self.supervisor: MountSupervisor | None = None
        self.crashes = 0
        self._ids = SeededIds(seed)
        self.given = self._ids.replica()
        """The identity that it began with; it may take another one."""
        self.state = MemoryMountState(MountFacts(self.given, None, None))
        self._server = server
        self._loop = loop
        self._process = Process(name)
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._asked: set[asyncio.Task[object]] = set()

    @property
    def replica(self) -> ReplicaId:
        """Return the identity that the state has now."""
        with self.state.session() as session:
            return session.facts().replica

    @property
    def is_running(self) -> bool:
        """Tell whether the process of the mount lives."""
        return self._task is not None and not self._task.done()

    def start(self, group: asyncio.TaskGroup) -> None:
        """Start the process of the mount."""
        process = self._process = Process(self.name)
        self._group = group
        self.disk.has_failed = False
        files = SimulatedFiles(self.disk, ROOT, process=self.name)
        parts = Parts(
            files,
            SimulatedWatcher(
                self.disk,
                watch_limit=self.settings.watch_limit,
                queue_limit=self.settings.queue_limit,
            ),
            self.state,
            Mount(self.name, self.settings.mode),
            Author(self.replica, self.name),
            self._ids,
            self.clock,
            FastCdcChunker(),
            self.settings.brakes,
            self.name,
        )
        lanes = Lanes(
            SimulatedExecutor(process, self.random, is_ordered=True),
            SimulatedExecutor(process, self.random, is_ordered=False, most_s=self.settings.read_s),
        )
        self.supervisor = MountSupervisor(
            parts,
            lanes,
            self.connect,
            Shown(ROOT, "default", "simulated"),
            backoff=Backoff(jitter=self.random.random),
        )
        self._task = group.create_task(self._run(self.supervisor), name=self.name)

    async def _run(self, supervisor: MountSupervisor) -> None:
        process = self._process
        try:
            await supervisor.run()
        except BaseExceptionGroup as errors:
            _, other = errors.split((Crashed, asyncio.CancelledError))
            if other is not None and self.disk.has_failed:
                # A process may end with the error of a disk; who watches over it starts it again.
                _, other = other.split((OSError, LocalFailure, NoSpace))
                process.kill()
            if other is not None or not process.is_dead:
                raise
        except (Crashed, asyncio.CancelledError):
            if not process.is_dead:
                raise
        except (OSError, LocalFailure, NoSpace):
            if not self.disk.has_failed:
                raise
            process.kill()

    async def connect(self) -> LockingLink:
        """Return a link to the server; raise Unavailable."""
        await self.network.travel()
        if self._server.volume is None:
            raise Unavailable("the simulated server is away")
        return SimulatedLink(
            self._server.volume, self._server.process, self.network, self._has_cursor
        )

    def _has_cursor(self) -> bool:
        """Tell whether the mount saw the whole table once."""
        return self.supervisor is not None and self.supervisor.status().cursor is not None

    def forget(self) -> None:
        """Lose the state, and with it the identity; nothing may run."""
        self.given = self._ids.replica()
        self.state = MemoryMountState(MountFacts(self.given, None, None))

    def die(self) -> None:
        """Kill the process from inside: whoever calls raises Crashed afterwards."""
        self._process.kill()

    async def bury(self, *, power_loss: bool) -> None:
        """Make the death of the process complete, by kill -9 or by a power loss."""
        self._process.kill()
        self.crashes += 1
        self.state.crash()
        self.disk.crash(self.random, power_loss=power_loss)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        self.supervisor = None
        for asked in self._asked:
            asked.cancel()

    async def ask(
        self, question: Callable[[MountSupervisor], Coroutine[object, object, T]]
    ) -> T | SynclineError | None:
        """Ask the mount as its user does; return its answer, or None where it died meanwhile."""
        supervisor = self.supervisor
        if supervisor is None or self._group is None or self._process.is_dead:
            return None

        async def answer() -> T | SynclineError | None:
            try:
                return await question(supervisor)
            except SynclineError as error:
                return error
            except Crashed:
                return None

        task = self._group.create_task(answer(), name=f"{self.name} asks")
        self._asked.add(task)
        try:
            await asyncio.wait((task,))
        finally:
            self._asked.discard(task)
        return None if task.cancelled() else task.result()


def crash_here(operation: Operation) -> None:
    """Die before this operation."""
    raise Crashed(operation.name)
