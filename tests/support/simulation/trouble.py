"""What goes wrong with disks, clocks, networks and the server of a world, and heals by itself."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable

from syncline.adapters.memory_chunks import MemoryChunkStore
from tests.support.simulation.brakes import Brakes
from tests.support.simulation.links import NetworkTrouble
from tests.support.simulation.machines import ClientMachine
from tests.support.simulation.met import (
    CLOCK_BACK,
    CLOCK_FORWARD,
    DISK_FAULTS,
    SERVER_FULL,
    SERVER_SYNC,
)
from tests.support.simulation.races import Races
from tests.support.simulation.scene import Scene

READS = ("open", "file.read", "list", "enter", "look", "read_link", "file.status")
WRITES = ("create", "file.write", "file.sync", "sync", "sync_all", "make_directory", "make_link")
NAMES = ("move", "exchange", "link", "remove", "remove_directory", "set_mode", "file.set_mtime")

FAILING = {
    "ENOSPC": ("create", "file.write", "make_directory", "make_link", "move", "exchange"),
    "EIO": (*READS, *WRITES, *NAMES),
    "EACCES": ("open", "enter", "list", *NAMES),
    "EMFILE": ("open", "create", "enter"),
    "EROFS": (*WRITES, *NAMES),
}
"""Which operations a disk refuses with an error."""

JUMP_S = (1, 60, 3_600, 86_400 * 400)


class Trouble:
    """All the trouble of one world; `run` lives as long as its turbulence."""

    def __init__(self, scene: Scene, races: Races, brakes: Brakes) -> None:
        self._scene = scene
        self._random = scene.random
        self._races = races
        self._brakes = brakes
        self.has_lull = False
        """Nothing new happens: what is tried twice a minute must have luck some time."""
        # Who acts alone waits for rest in between, and takes far longer.
        self._every_s = 1.0 if brakes.is_allowed else 15.0

    def of_network(self, machine: ClientMachine) -> NetworkTrouble:
        """Return how bad the network of a machine is."""
        return NetworkTrouble(
            random.Random(self._random.getrandbits(64)),
            repeats=0.1,
            stalls=self._random.choice((0.02, 0.1, 0.3)),
            cuts=self._random.choice((0.0, 0.005)),
            on_stall=lambda proposal: self._races.on_stall(machine, proposal),
            on_fetch=lambda digests: self._races.on_fetch(machine, digests),
        )

    async def run(self) -> None:
        """Make trouble, one thing after the other."""
        acts: tuple[tuple[Callable[[], Awaitable[None]], int], ...] = (
            (self._disk, 10),
            (self._clock, 2),
            (self._server_full, 2),
            (self._server_sync, 3),
            (self._collide, 12 if self._brakes.is_allowed else 0),
            (self._brakes.act, 4 if self._brakes.is_allowed else 0),
        )
        if self._brakes.is_allowed:
            for _ in range(self._random.choice((1, 2, 3))):
                await asyncio.sleep(self._random.random() * 2.0)
                await self._brakes.act()
        while not self._scene.is_over:
            await asyncio.sleep(self._random.expovariate(1 / self._every_s))
            if not (self._scene.is_over or self.has_lull):
                [act] = self._random.choices([a for a, _ in acts], [w for _, w in acts])
                await act()

    async def _collide(self) -> None:
        self._races.collide()

    async def _disk(self) -> None:
        """Let a few operations of a disk fail, or some of them for a while."""
        machine = self._random.choice(self._scene.machines)
        code = self._random.choice(DISK_FAULTS)
        times = self._random.choice((1, 1, 2, 5, None))
        operation = self._random.choice(FAILING[code])
        self._scene.note(f"{machine.name} {code} of {operation} times {times}")
        machine.disk.fail(getattr(errno, code), operation=operation, times=times)
        await asyncio.sleep(self._random.expovariate(1 / 2.0))
        machine.disk.heal()

    async def _clock(self) -> None:
        machine = self._random.choice(self._scene.machines)
        jump_s = self._random.choice(JUMP_S) * self._random.choice((-1, 1))
        self._scene.met[CLOCK_FORWARD if jump_s > 0 else CLOCK_BACK] += 1
        self._scene.note(f"{machine.name} clock {jump_s:+d} s")
        machine.clock.skew_ns += jump_s * 10**9

    async def _server_full(self) -> None:
        chunks = self._chunks()
        chunks.capacity_bytes = 0
        self._scene.met[SERVER_FULL] += 1
        self._scene.note("server is full")
        await asyncio.sleep(self._random.expovariate(1 / 2.0))
        chunks.capacity_bytes = None

    async def _server_sync(self) -> None:
        chunks = self._chunks()
        if chunks._failing_syncs:
            return
        self._scene.met[SERVER_SYNC] += 1
        self._scene.note("next sync of the server fails")
        chunks.fail_next_sync()

    def _chunks(self) -> MemoryChunkStore:
        chunks = self._scene.server.backend.chunks
        assert isinstance(chunks, MemoryChunkStore), "a simulated server has its chunks in memory"
        return chunks

    def heal(self) -> None:
        """Let it be over."""
        for machine in self._scene.machines:
            machine.disk.heal()
            machine.network.trouble = None
        chunks = self._chunks()
        chunks.capacity_bytes, chunks._failing_syncs = None, 0
