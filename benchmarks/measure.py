"""Running processes and reading what they cost."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SYNCLINE = str(Path(sys.executable).parent / "syncline")
TICKS = os.sysconf("SC_CLK_TCK")
STOP_WAIT_S = 30

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1
"""Of Linux: sched.h, sockios.h, if.h."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a piece of work took: wall time, and CPU of the client's and the server's process."""

    wall_s: float
    client_s: float
    server_s: float


@dataclass(frozen=True, slots=True)
class Process:
    """A running process, and what the kernel says of it."""

    pid: int

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process so far, in steps of a tick."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

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


@dataclass(frozen=True, slots=True)
class Server(Process):
    """A running server: its address, process and data."""

    address: str
    data: Path

    @property
    def env(self) -> dict[str, str]:
        """Return the environment for commands that talk to it."""
        return os.environ | {
            "SYNCLINE_SERVER": self.address,
            "XDG_STATE_HOME": str(self.data.parent / "state"),
            "XDG_CONFIG_HOME": str(self.data.parent / "config"),
        }


@contextmanager
def server(home: Path, *, trace: Path | None = None) -> Iterator[Server]:
    """Run a server on fresh data below `home`; with `trace`, count its syncs there by strace."""
    data = home / "data"
    command = [SYNCLINE, "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    if trace is not None:
        command = [*tracing(trace), *command]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " on " not in line:
            raise SystemExit("the server did not start")
        address = line.split(" on ")[1].split(",")[0]
        pid = process.pid if trace is None else children(process.pid)[0]
        yield Server(pid, address, data)
        os.kill(pid, signal.SIGTERM)
    finally:
        try:
            process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(data, ignore_errors=True)


def tracing(summary: Path) -> list[str]:
    """Return what counts the syncs of the command that follows."""
    calls = "trace=fsync,fdatasync,syncfs,sync_file_range"
    return ["strace", "-f", "-q", "-c", "-e", calls, "-o", str(summary)]


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that live."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def run(command: Sequence[str], server: Server | None = None) -> Cost:
    """Run a command to its end and return what it cost; stop the benchmark where it fails."""
    before, served = _children_s(), server.cpu_s() if server else 0.0
    started = time.perf_counter()
    done = subprocess.run(
        command, env=server.env if server else None, capture_output=True, check=False
    )
    wall_s = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr.decode()[-500:]}")
    return Cost(wall_s, _children_s() - before, (server.cpu_s() - served) if server else 0.0)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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


def spread(values: Sequence[float], unit: str = "") -> str:
    """Return the median with the least and the most."""
    low, high = min(values), max(values)
    return f"{median(values):.2f}{unit} ({low:.2f}-{high:.2f})"
