"""Things a user does at A, and what it took until they were at B."""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import inotify_simple
from inotify_simple import flags

from benchmarks.daemons import until
from benchmarks.measure import (
    Trouble,
    children_cpu_s,
    loopback_bytes,
    percentile,
    run,
)
from benchmarks.peers.site import Site
from benchmarks.trees import check_equal, paths_in

EQUAL_PATIENCE_S = 10.0
"""The last file is there a moment before the modes of directories, with some programs."""

EDIT_PAUSES_S = (0.03, 0.07)
"""Between what is seen and the next edit: longer than the moment in which two edits look as one."""

EDIT_BYTES = 1024
EDIT_PATIENCE_S = 30.0
BURST_EDITS = 10
BURST_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Took:
    """From the begin of the work until B had it: wall time, CPU of all, bytes on the loopback."""

    wall_s: float
    cpu_s: float
    carried: int


@dataclass(frozen=True, slots=True)
class Watched:
    """A site whose loopback is looked at `settle_s` after the work.

    By then the clients have told the server how far they are, and that belongs to the bytes.
    """

    site: Site
    settle_s: float


def took(
    watched: Watched, act: Callable[[], object], is_there: Callable[[], bool], what: str
) -> Took:
    """Do something at A, and wait until it is at B."""
    site = watched.site
    carried, cpu_s = loopback_bytes(), site.cpu_s()
    started = time.perf_counter()
    act()
    # What the user's own commands take is not the program's.
    by_hand_s = children_cpu_s()
    site.carry()
    wall_s = until(is_there, what) - started
    spent_s = site.cpu_s() - cpu_s + children_cpu_s() - by_hand_s
    time.sleep(watched.settle_s)
    return Took(wall_s, spent_s, loopback_bytes() - carried)


def arrival(watched: Watched, source: Path) -> dict[str, float]:
    """Copy a tree into A, wait for all of it at B, and check that it is the same."""
    site = watched.site
    copied: list[float] = []

    def copy() -> None:
        started = time.perf_counter()
        run(["cp", "-a", f"{source}/.", str(site.a)])
        copied.append(time.perf_counter() - started)

    found = took(watched, copy, is_complete(source, site.b), f"all of {source.name} is at B")
    until_equal(source, site.b)
    figures = {
        "s": found.wall_s,
        "s after the copy": found.wall_s - copied[0],
        "CPU s": found.cpu_s,
        "MB on the loopback": found.carried / 1e6,
    }
    return figures | {f"peak MiB, {role}": meter.peak_mib() for role, meter in site.meters.items()}


def is_complete(source: Path, target: Path) -> Callable[[], bool]:
    """Return what tells whether all names are there; a name that was seen is not looked at again.

    Every program here puts a file under its name when it is complete.
    """
    left = list(paths_in(source))

    def ask() -> bool:
        while left and os.path.lexists(target / left[-1]):
            left.pop()
        return not left

    return ask


def until_equal(source: Path, target: Path, patience_s: float = EQUAL_PATIENCE_S) -> None:
    """Return when two trees are equal; raise Trouble where they do not become it."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with suppress(Trouble, FileNotFoundError):
            return check_equal(source, target)
        time.sleep(0.2)
    return check_equal(source, target)


# -- edits ---------------------------------------------------------------------------


def edit_in_place(path: Path, content: bytes) -> None:
    """Write over a file, as `echo > file` does."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def edit_by_rename(path: Path, content: bytes) -> None:
    """Write beside a file and rename, as most editors do."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    beside.rename(path)


Edit = Callable[[Path, bytes], None]


def latencies_ms(site: Site, edit: Edit, *, most: int, most_s: float) -> list[float]:
    """Edit one file of 1 KiB again and again; return how long until the last of all had it.

    The directories are watched, not polled. The size varies by some bytes: two edits of one
    second and one size are the same to some programs, and that is not what this is about.
    """
    name = "edited"
    (site.a / name).write_bytes(os.urandom(EDIT_BYTES))
    site.settle()
    found: list[float] = []
    ends = time.monotonic() + most_s
    with inotify_simple.INotify(nonblocking=True) as watch:
        for each in site.others:
            watch.add_watch(os.fspath(each), flags.MOVED_TO | flags.CLOSE_WRITE | flags.CREATE)
        while len(found) < most and (time.monotonic() < ends or not found):
            content = os.urandom(EDIT_BYTES + 1 + len(found) % 64)
            started = time.perf_counter()
            edit(site.a / name, content)
            site.carry()
            _until_all_have(watch, [each / name for each in site.others], content)
            found.append(1000 * (time.perf_counter() - started))
            time.sleep(random.uniform(*EDIT_PAUSES_S))
    return found


def _until_all_have(watch: inotify_simple.INotify, paths: Sequence[Path], content: bytes) -> None:
    deadline = time.monotonic() + EDIT_PATIENCE_S
    left = list(paths)
    while left := [path for path in left if not has_content(path, content)]:
        if time.monotonic() > deadline:
            raise Trouble(f"an edit was not at {left[0].parent.name} after {EDIT_PATIENCE_S:g} s")
        select.select([watch.fileno()], [], [], 1)
        watch.read(timeout=0)


def has_content(path: Path, content: bytes) -> bool:
    """Tell whether a file is there and has that content."""
    try:
        return path.read_bytes() == content
    except FileNotFoundError:
        return False


def missed_last(site: Site, bursts: int) -> int:
    """Save a file of one size ten times at once, again and again.

    Returns how often B does not have the last version even when a later change of another file
    has come.
    """
    missed = 0
    path = site.a / "burst"
    for _ in range(bursts):
        for _ in range(BURST_EDITS):
            content = os.urandom(EDIT_BYTES)
            path.write_bytes(content)
            time.sleep(BURST_PAUSE_S)
        site.carry()
        try:
            until(partial(has_content, site.b / "burst", content), "the last version", 5)
        except Trouble:
            site.settle()
            missed += not has_content(site.b / "burst", content)
    return missed


def p50_p99(found: Sequence[float]) -> dict[str, float]:
    """Return the two columns of latencies."""
    return {"p50 ms": percentile(found, 0.5), "p99 ms": percentile(found, 0.99)}
