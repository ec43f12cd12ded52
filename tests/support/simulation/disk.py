"""The disk of one simulated machine: time, faults, hooks, crashes, devices."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from tests.support.simulation.contents import Contents
from tests.support.simulation.inodes import Device, Inode, Opened, refused, top
from tests.support.simulation.met import disk_fault

GRAIN_NS = 4_000_000
"""The tick of a kernel with HZ=250, to which file systems cut their times."""

EPOCH_NS = 1_700_000_000_000_000_000


class Process(Protocol):
    """A process of the engine."""

    @property
    def open_handles(self) -> int:
        """Return how many files and directories it has open."""

    def check_alive(self) -> None:
        """Raise Crashed in a process that died."""

    def die(self) -> None:
        """End it, with its handles, leases, claims and watches."""


class Crashed(BaseException):
    """The process is dead: raised by a hook, and by every later operation of that process."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What a process is about to do; the path is from the top of the disk.

    Names are those of the port's methods, with `file.` before those of a file.
    """

    name: str
    path: bytes
    process: str


@dataclass(slots=True)
class _Fault:
    name: str | None
    path: bytes | None
    error: int
    times: int | None

    def hits(self, operation: Operation) -> bool:
        return (
            self.times != 0
            and self.name in (None, operation.name)
            and self.path in (None, operation.path)
        )


class SimulatedDisk(Contents):
    """The disk of one machine, with the processes on it.

    `now_ns` gives the time; without it `clock_ns` does, which the test moves. `before` is the hook.
    `counts` has how often each operation was begun, `met` what trouble was met, and `has_failed`
    whether a fault hit the process that runs. `is_ordered`: see `journal`. Without `has_exchange`
    two things change names in the steps of `adapters.posix_renames`.
    """

    def __init__(
        self,
        now_ns: Callable[[], int] | None = None,
        *,
        grain_ns: int = GRAIN_NS,
        is_root: bool = True,
        is_ordered: bool = True,
        has_exchange: bool = True,
    ) -> None:
        self.clock_ns = EPOCH_NS
        super().__init__(
            now_ns or (lambda: self.clock_ns),
            grain_ns=grain_ns,
            is_root=is_root,
            is_ordered=is_ordered,
        )
        self.has_exchange = has_exchange
        self.before: Callable[[Operation], None] | None = None
        self.counts: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        self.has_failed = False
        self._faults: list[_Fault] = []
        self._processes: list[Process] = []
        self.user_files: list[Opened] = []
        self.claims: dict[int, Process] = {}

    @property
    def open_handles(self) -> int:
        """Return how many handles living processes have open."""
        return sum(process.open_handles for process in self._processes)

    def fail(
        self,
        error: int,
        *,
        operation: str | None = None,
        path: bytes | None = None,
        times: int | None = 1,
    ) -> None:
        """Let operations of the engine fail with an errno; None stands for all, or for ever."""
        self._faults.append(_Fault(operation, path, error, times))

    def heal(self) -> None:
        """Forget the faults."""
        self._faults.clear()

    def crash(self, random: Random, *, power_loss: bool) -> None:
        """Kill all processes of the engine, or cut the power.

        A kill takes their handles, leases and watches, and nothing else. A power loss also closes
        the files that users have open, and takes a legal part of what is not durable.
        """
        for process in self._processes:
            process.die()
        self._processes.clear()
        self.listeners.clear()
        if power_loss:
            for opened in self.user_files:
                self.close(opened)
            self.user_files.clear()
            self.lose_unsynced(random)

    def mount(self, directory: Inode) -> int:
        """Cover a directory with the root of a new device; return its number."""
        device = Device(len(self.devices) + 1, b"device-%d" % (len(self.devices) + 1))
        self.devices.append(device)
        root = self.new_root(device)
        directory = top(directory)
        directory.mounted, root.covers = root, directory
        return device.number

    def begin(self, operation: Operation, process: Process) -> None:
        """Count an operation, let others act before it, and let it fail if it is to."""
        process.check_alive()
        self.counts[operation.name] += 1
        if self.before is not None:
            try:
                self.before(operation)
            except Crashed:
                process.die()
                raise
            process.check_alive()
        for fault in self._faults:
            if fault.hits(operation):
                if fault.times is not None:
                    fault.times -= 1
                self.has_failed = True
                self.met[disk_fault(errno.errorcode[fault.error])] += 1
                raise refused(fault.error, operation.path)

    def register(self, process: Process) -> None:
        """Know a process."""
        self._processes.append(process)
