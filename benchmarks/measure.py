"""Running processes and reading what they cost."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SYNCLINE = str(Path(sys.executable).parent / "syncline")
TICKS = os.sysconf("SC_CLK_TCK")
STOP_WAIT_S = 30

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
"""Of Linux: sched.h, sockios.h, if.h."""


class Trouble(Exception):
    """A program did not do what is measured: it says what, and that is its result."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took: wall time, and its CPU."""

    wall_s: float
    client_s: float


@dataclass(frozen=True, slots=True)
class Process:
    """A running process, and what the kernel says of it."""

    pid: int

    def fine_cpu_s(self) -> float:
        """Return the CPU seconds of the threads that live now, exactly: for what hardly runs."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory_peak_mib(self) -> float:
        """Return the largest resident size so far."""
        return self._kib("status", "VmHWM:") / 1024

    def memory_mib(self) -> float:
        """Return the resident size."""
        return self._kib("status", "VmRSS:") / 1024

    def memory_shared_mib(self) -> float:
        """Return the resident size where what several processes share counts once in all."""
        return self._kib("smaps_rollup", "Pss:") / 1024

    def _kib(self, file: str, label: str) -> int:
        for line in Path(f"/proc/{self.pid}/{file}").read_text().splitlines():
            if line.startswith(label):
                return int(line.split()[1])
        return 0

    def family(self) -> list[Process]:
        """Return this process and all that live below it."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(Process(pid))
            with suppress(FileNotFoundError, ProcessLookupError):
                waiting += children(pid)
        return found

    def family_cpu_s(self) -> float:
        """Return the CPU seconds of the family, those included that have ended and were seen."""
        return sum(each._cpu_s_with_ended() for each in self.family())

    def _cpu_s_with_ended(self) -> float:
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return sum(map(int, fields[11:15])) / TICKS


def tracing(summary: Path) -> list[str]:
    """Return what counts the syncs of the command that follows."""
    calls = "trace=fsync,fdatasync,syncfs,sync_file_range"
    return ["strace", "-f", "-q", "-c", "-e", calls, "-o", str(summary)]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, by any of its threads, and that live."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run(command: Sequence[str]) -> Cost:
    """Run a command to its end and return what it cost; raise Trouble where it fails."""
    before = children_cpu_s()
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, check=False)
    wall_s = time.perf_counter() - started
    if done.returncode:
        words = done.stderr.decode(errors="replace")[-500:]
        raise Trouble(f"{command} ended with {done.returncode}: {words}")
    return Cost(wall_s, children_cpu_s() - before)


def children_cpu_s() -> float:
    """Return the CPU seconds of all that this process has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def is_traceable() -> bool:
    """Tell whether system calls can be counted here."""
    return shutil.which("strace") is not None


def count_syncs(summary: Path) -> int:
    """Return how many sync calls a strace summary has counted."""
    total = 0
    for line in summary.read_text().splitlines():
        fields = line.split()
        if fields and fields[-1] in ("fsync", "fdatasync", "syncfs", "sync_file_range"):
            total += int(fields[3])
    return total


def use_own_network() -> bool:
    """Give this process and its children a loopback of their own, if it may.

    Then what the loopback has carried is theirs alone.
    """
    if ctypes.CDLL(None).unshare(CLONE_NEWNET):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request.ljust(40, b"\0"))
    return True


def loopback_bytes() -> int:
    """Return what the loopback has carried so far, headers and acknowledgements included."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == "lo":
            return int(fields.split()[0])
    return 0


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
