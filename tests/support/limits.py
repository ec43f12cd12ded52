"""Mounts and servers that run short of something: room, descriptors, watches, a root, time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.ports.mount_control import MountPhase, MountStatus
from tests.support.mounting import Bench, Mount
from tests.support.processes import SmallDisk, serving, small_disk
from tests.support.realtree import Fact
from tests.support.wait import wait_until

WATCHED_S = 3.0
BUSY_SHARE_MAX = 0.35
"""Of one processor. A loop without a pause takes all of it; a mount that waits, a hundredth."""


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Return the seconds of processor time that a process and all its threads took."""
    fields = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def assert_no_hot_loop(*processes: subprocess.Popen[bytes]) -> None:
    """Fail where a process is busy over some seconds although it has nothing to do but wait."""
    started_s, before = time.monotonic(), [cpu_s(each) for each in processes]
    # No condition to wait for: what is measured is what happens while nothing does.
    time.sleep(WATCHED_S)
    passed_s = time.monotonic() - started_s
    shares = [(cpu_s(each) - old) / passed_s for each, old in zip(processes, before, strict=True)]
    assert max(shares) < BUSY_SHARE_MAX, shares


def in_namespace(disk: SmallDisk, *line: str | Path) -> None:
    """Run a command of the system where a small disk is mounted; skip where it may not be."""
    done = subprocess.run([*disk.wrapper, *map(str, line)], capture_output=True)
    if done.returncode:
        pytest.skip(f"not possible here: {line}: {done.stderr!r}")


def resize(disk: SmallDisk, size_bytes: int) -> None:
    """Give a small disk another size."""
    in_namespace(disk, "mount", "-o", f"remount,size={size_bytes}", disk.directory)


@contextmanager
def bench_on_small_disk(directory: Path, size_bytes: int) -> Iterator[tuple[Bench, SmallDisk]]:
    """Run a server whose data is on a file system of its own, and mounts, while the block lasts."""
    with (
        small_disk(directory / "disk", size_bytes) as disk,
        serving(directory / "server", wrapper=disk.wrapper, data=disk.directory / "data") as server,
    ):
        bench = Bench(directory, server)
        try:
            yield bench, disk
        finally:
            for mount in bench.mounts:
                mount.close()


@contextmanager
def mount_on_small_disk(
    bench: Bench, name: str, size_bytes: int
) -> Iterator[tuple[Mount, SmallDisk]]:
    """Start a mount whose directory is a file system of its own, for the length of the block."""
    mount = bench.add(name)
    with small_disk(mount.root, size_bytes) as disk:
        mount.wrapper, mount.place, mount.root = disk.wrapper, mount.root, disk.outside
        try:
            mount.start()
            yield mount, disk
        finally:
            mount.close()


def has_problem(path: bytes, *codes: str) -> Callable[[MountStatus], bool]:
    """Return a condition: a path has a problem with one of these codes, if any is named."""

    def is_met(status: MountStatus) -> bool:
        return any(
            bytes(each.path) == path and (not codes or each.code in codes)
            for each in status.problems
        )

    return is_met


def heal(bench: Bench, *mounts: Mount) -> dict[bytes, Fact]:
    """Wait until all problems went away by themselves; then all must be equal; return the tree.

    What is left alone for a while is tried again after half a minute at the latest.
    """
    for mount in mounts:
        mount.wait_for(
            lambda status: status.phase is MountPhase.IN_SYNC, "to heal by itself", timeout_s=90.0
        )
    return bench.assert_equal()


@contextmanager
def stopped(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """Hold processes, as a laptop does that sleeps, for the length of the block."""
    for each in processes:
        each.send_signal(signal.SIGSTOP)
    try:
        for each in processes:
            wait_until(lambda: state_of(each) == "T", "the process stands still")  # noqa: B023
        yield
    finally:
        for each in processes:
            each.send_signal(signal.SIGCONT)


def state_of(process: subprocess.Popen[bytes]) -> str:
    """Return the letter by which the kernel tells what a process does."""
    return Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
