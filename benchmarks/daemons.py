"""Programs that run until they are stopped, and what they cost with all that they start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from benchmarks.measure import STOP_WAIT_S, Process, Trouble, children

POLL_S = 0.01
PATIENCE_S = 200.0


def until(is_done: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> float:
    """Ask again and again; return when it was so, by `time.perf_counter`, or raise Trouble."""
    deadline = time.monotonic() + patience_s
    while not is_done():
        if time.monotonic() > deadline:
            raise Trouble(f"after {patience_s:g} s still not: {what}")
        time.sleep(POLL_S)
    return time.perf_counter()


@dataclass(slots=True)
class Daemon:
    """A program that runs for the length of a `with` block, and may be started anew within it.

    With `is_traced` the command is strace's, and what it runs is what is told to stop.
    """

    command: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=lambda: os.environ)
    is_traced: bool = False
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop, as far as it still runs."""
        self.stop()

    def start(self) -> None:
        """Start the program; what it says goes to its log."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self._process is not None, "it was never started"
        return self._process.pid

    def check(self) -> None:
        """Raise Trouble, with its last words, where it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            words = self.log.read_text(errors="replace").strip()[-300:]
            raise Trouble(f"{Path(self.command[0]).name} has ended: {words}")

    def stop(self) -> None:
        """Ask it to end, and end it where it does not."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        family = [each.pid for each in Process(process.pid).family()]
        for pid in children(process.pid) if self.is_traced else [process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in family[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until_listening(port: int, daemon: Daemon) -> None:
    """Return when a port of the loopback answers."""

    def is_listening() -> bool:
        daemon.check()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    until(is_listening, f"port {port} answers", 30)


@dataclass(frozen=True, slots=True)
class Meter:
    """What some daemons cost together: they and all that they started."""

    daemons: tuple[Daemon, ...]

    def cpu_s(self) -> float:
        """Return the CPU seconds so far, in steps of a tick."""
        return sum(Process(each.pid).family_cpu_s() for each in self.daemons)

    def fine_cpu_s(self) -> float:
        """Return the CPU seconds of the threads that live now, exactly."""
        return self._sum(Process.fine_cpu_s)

    def peak_mib(self) -> float:
        """Return the sum of the largest resident sizes of what lives now."""
        return self._sum(Process.memory_peak_mib)

    def memory_mib(self) -> float:
        """Return the resident size."""
        return self._sum(Process.memory_mib)

    def memory_shared_mib(self) -> float:
        """Return the resident size where what several processes share counts once in all."""
        return self._sum(Process.memory_shared_mib)

    def _sum(self, figure: Callable[[Process], float]) -> float:
        total = 0.0
        for daemon in self.daemons:
            for each in Process(daemon.pid).family():
                # What a program starts for a moment may end while it is looked at.
                with suppress(FileNotFoundError, ProcessLookupError):
                    total += figure(each)
        return total
