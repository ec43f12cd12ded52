"""Mounts at work: a server and two clients, each a process; what is done in A shows up in B."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import inotify_simple
from inotify_simple import flags

from benchmarks.measure import (
    STOP_WAIT_S,
    SYNCLINE,
    Process,
    Server,
    children,
    count_syncs,
    loopback_bytes,
    percentile,
    run,
    server,
    tracing,
)
from benchmarks.rows import check_equal, rsync_daemon

POLL_S = 0.05
"""How often B is counted while many files are on their way: costs a tenth of a core at most."""

EDIT_PAUSES_S = (0.03, 0.07)
"""Between what is seen and the next edit: longer than the moment in which two edits look as one."""

PATIENCE_S = 200.0
SETTLE_S = 1.5
"""After this the two clients have told the server how far they are: it belongs to the bytes."""


@dataclass(frozen=True, slots=True)
class Mounted(Process):
    """A running client and its directory."""

    directory: Path


@dataclass(frozen=True, slots=True)
class Pair:
    """A server and its two clients."""

    server: Server
    a: Mounted
    b: Mounted

    @property
    def processes(self) -> tuple[Process, ...]:
        """Return the three, in the order in which content passes them."""
        return (self.a, self.server, self.b)

    def wait(self) -> None:
        """Return when both are in sync."""
        for each in (self.a, self.b):
            wait(each.directory, self.server)


NOT_YET = (3, 7)
"""How `wait` ends while the client is just starting."""


def wait(directory: Path, running: Server) -> None:
    """Return when a client, which may just be starting, is in sync."""
    deadline = time.monotonic() + PATIENCE_S
    command = [SYNCLINE, "wait", str(directory), "--timeout", "600"]
    while True:
        done = subprocess.run(command, env=running.env, capture_output=True, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline or done.returncode not in NOT_YET:
            raise SystemExit(f"{directory} is not in sync: {done.stderr.decode()[-300:]}")
        time.sleep(POLL_S)


@contextmanager
def mounted(directory: Path, running: Server, *, trace: Path | None = None) -> Iterator[Mounted]:
    """Run a client for the length of the block; with `trace`, count its syncs there by strace."""
    directory.mkdir(exist_ok=True)
    command = [SYNCLINE, "mount", str(directory), "--server", running.address]
    command += ["--name", directory.name]
    if trace is not None:
        command = [*tracing(trace), *command]
    with (directory.parent / f"{directory.name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=running.env, stdout=log, stderr=log)
    try:
        pid = process.pid if trace is None else _traced(process)
        yield Mounted(pid, directory)
        os.kill(pid, signal.SIGTERM)
        process.wait(STOP_WAIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _traced(process: subprocess.Popen[bytes]) -> int:
    """Return the client below strace, as soon as it is there: strace has children of its own."""
    while process.poll() is None:
        for pid in children(process.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mount" in words and b"strace" not in words:
                return pid
        time.sleep(POLL_S)
    raise SystemExit("strace did not start the client")


@contextmanager
def pair(home: Path, *, traces: tuple[Path, Path, Path] | None = None) -> Iterator[Pair]:
    """Run a server and two clients below `home`, in sync; what is in A and B is removed after.

    `traces` are those of A, the server and B.
    """
    of_a, of_server, of_b = traces or (None, None, None)
    with ExitStack() as stack:
        for name in ("A", "B", "state"):
            stack.callback(shutil.rmtree, home / name, ignore_errors=True)
        running = stack.enter_context(server(home, trace=of_server))
        a = stack.enter_context(mounted(home / "A", running, trace=of_a))
        b = stack.enter_context(mounted(home / "B", running, trace=of_b))
        both = Pair(running, a, b)
        both.wait()
        yield both


def until(is_done: Callable[[], bool], what: str) -> float:
    """Ask again and again; return when it was so, by `time.perf_counter`."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_done():
        if time.monotonic() > deadline:
            raise SystemExit(f"after {PATIENCE_S:g} s still not: {what}")
        time.sleep(POLL_S)
    return time.perf_counter()


def count_entries(directory: Path) -> int:
    """Return how many entries a client has placed so far."""
    total = 0
    waiting = [os.fspath(directory)]
    while waiting:
        with os.scandir(waiting.pop()) as found:
            for entry in found:
                if entry.name == ".syncline":
                    continue
                total += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    return total


def make_tree(directory: Path, entries: int) -> None:
    """Write something like a tree of sources: text of skewed sizes, some links, deep directories.

    A thirteenth are directories; files have 12 kB on the average. The same for each run.
    """
    chance = random.Random(7)
    words = [chance.randbytes(chance.randint(1, 6)).hex() for _ in range(4000)]
    text = " ".join(chance.choices(words, k=100_000)).encode()
    directories = [directory]
    directory.mkdir(parents=True)
    for number in range(entries):
        parent = chance.choice(directories[-40:])
        if number % 13 == 0:
            directories.append(parent / f"part{number}")
            directories[-1].mkdir()
        elif number % 130 == 7:
            (parent / f"link{number}").symlink_to(f"part{number}")
        else:
            size = min(int(chance.lognormvariate(8.3, 1.5)), 400_000)
            start = chance.randrange(len(text) - size)
            (parent / f"source{number}.txt").write_bytes(text[start : start + size])


# -- one edit --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EditLatency:
    """Milliseconds from the begin of an edit at A until B has all of it."""

    p50: float
    p99: float


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


def edit_latency(both: Pair, edit: Callable[[Path, bytes], None], count: int) -> EditLatency:
    """Edit one known file of 1 KiB again and again; B's directory is watched, not polled."""
    here, there = both.a.directory / "edited", both.b.directory / "edited"
    here.write_bytes(os.urandom(1024))
    until(there.exists, "the file that is to be edited is at B")
    both.wait()
    found: list[float] = []
    changes = flags.MOVED_TO | flags.CLOSE_WRITE | flags.CREATE
    with inotify_simple.INotify(nonblocking=True) as watch:
        watch.add_watch(os.fspath(both.b.directory), changes)
        for _ in range(count):
            content = os.urandom(1024)
            started = time.perf_counter()
            edit(here, content)
            _until_equal(watch, there, content)
            found.append(1000 * (time.perf_counter() - started))
            time.sleep(random.uniform(*EDIT_PAUSES_S))
    return EditLatency(percentile(found, 0.5), percentile(found, 0.99))


def _until_equal(watch: inotify_simple.INotify, path: Path, content: bytes) -> None:
    deadline = time.monotonic() + 60
    while path.read_bytes() != content:
        if time.monotonic() > deadline:
            raise SystemExit(f"an edit did not arrive at {path}")
        select.select([watch.fileno()], [], [], 1)
        watch.read(timeout=0)


def rsync_edit_latency(home: Path, count: int) -> EditLatency | None:
    """Do the same with rsync to a daemon and from there, each started at the edit."""
    if shutil.which("rsync") is None:
        return None
    source, target = home / "rsync-a", home / "rsync-b"
    source.mkdir()
    found: list[float] = []
    with rsync_daemon(home) as address:
        for _ in range(count):
            started = time.perf_counter()
            # Without a change of size rsync looks at whole seconds of the mtime alone.
            (source / "edited").write_bytes(os.urandom(1024))
            run(["rsync", "-aI", f"{source}/", f"{address}/tree/"])
            run(["rsync", "-aI", f"{address}/tree/", f"{target}/"])
            found.append(1000 * (time.perf_counter() - started))
    for directory in (source, target, home / "module"):
        shutil.rmtree(directory)
    return EditLatency(percentile(found, 0.5), percentile(found, 0.99))


# -- many entries, or much content -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrival:
    """What it took until a tree that is copied into A was in B.

    `wall_s` counts from the begin of the copy, `after_s` from its end; CPU and peak memory are of
    A, the server and B.
    """

    wall_s: float
    after_s: float
    cpu_s: tuple[float, ...]
    peak_mib: tuple[float, ...]


def arrival(source: Path, home: Path) -> Arrival:
    """Copy a tree into A of a fresh pair, and wait for the last entry of it in B."""
    with pair(home) as both:
        found = _arrive(source, both)
        check_equal(source, both.b.directory)
        return found


def fill(source: Path, both: Pair) -> None:
    """Copy a tree into A, and return when all is in sync."""
    _arrive(source, both)
    both.wait()


def _arrive(source: Path, both: Pair) -> Arrival:
    expected = count_entries(source)
    before = [each.cpu_s() for each in both.processes]
    started = time.perf_counter()
    run(["cp", "-a", f"{source}/.", str(both.a.directory)])
    copied = time.perf_counter()
    ended = until(lambda: count_entries(both.b.directory) >= expected, "all entries are at B")
    return Arrival(
        ended - started,
        ended - copied,
        tuple(each.cpu_s() - so_far for each, so_far in zip(both.processes, before, strict=True)),
        tuple(each.memory_peak_mib() for each in both.processes),
    )


def rsync_arrival(source: Path, home: Path) -> Arrival | None:
    """Copy a tree beside, push it to an rsync daemon, and then pull it from there."""
    if shutil.which("rsync") is None:
        return None
    begin, end = home / "rsync-a", home / "rsync-b"
    begin.mkdir()
    with rsync_daemon(home) as address:
        started = time.perf_counter()
        run(["cp", "-a", f"{source}/.", str(begin)])
        copied = time.perf_counter()
        costs = [
            run(["rsync", "-a", f"{begin}/", f"{address}/tree/"]),
            run(["rsync", "-a", f"{address}/tree/", f"{end}/"]),
        ]
        ended = time.perf_counter()
        check_equal(source, end)
    for directory in (begin, end, home / "module"):
        shutil.rmtree(directory)
    return Arrival(ended - started, ended - copied, tuple(cost.client_s for cost in costs), ())


def arrival_syncs(source: Path, home: Path) -> tuple[int, ...] | None:
    """Return how many syncs an arrival takes at A, the server and B; start and end not counted."""
    if shutil.which("strace") is None:
        return None
    traces = (home / "syncs-a", home / "syncs-server", home / "syncs-b")
    counts: list[list[int]] = []
    for is_empty in (True, False):
        with pair(home, traces=traces) as both:
            if not is_empty:
                fill(source, both)
        counts.append([count_syncs(trace) for trace in traces])
    return tuple(full - rest for rest, full in zip(*counts, strict=True))


# -- what comes after ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rename:
    """What a rename at A took until B had it; `carried` is what the loopback carried, in bytes."""

    wall_ms: float
    carried: int


def rename(both: Pair, old: str, new: str) -> Rename:
    """Rename a file or directory at A, which is in sync, and wait for it at B."""
    before = loopback_bytes()
    here, there = both.a.directory, both.b.directory
    with inotify_simple.INotify(nonblocking=True) as watch:
        watch.add_watch(os.fspath((there / new).parent), flags.MOVED_TO | flags.CREATE)
        started = time.perf_counter()
        (here / old).rename(here / new)
        while not (there / new).exists():
            select.select([watch.fileno()], [], [], 1)
            watch.read(timeout=0)
        wall_ms = 1000 * (time.perf_counter() - started)
    time.sleep(SETTLE_S)
    return Rename(wall_ms, loopback_bytes() - before)


def until_equal_counts(both: Pair) -> None:
    """Return when B has as many entries as A."""
    expected = count_entries(both.a.directory)
    until(lambda: count_entries(both.b.directory) >= expected, "all entries are at B")


def restarts(source: Path, home: Path, repetitions: int) -> list[float]:
    """Bring a tree in sync, then start B's client again and again, and edit a file at A meanwhile.

    Returns seconds from the start of the process until B has the edit.
    """
    with ExitStack() as stack:
        for name in ("A", "B", "state"):
            stack.callback(shutil.rmtree, home / name, ignore_errors=True)
        running = stack.enter_context(server(home))
        a = stack.enter_context(mounted(home / "A", running))
        with mounted(home / "B", running) as b:
            (a.directory / "edited").write_bytes(b"first")
            fill(source, Pair(running, a, b))
        return [_restart(home, running, a) for _ in range(repetitions)]


def _restart(home: Path, running: Server, a: Mounted) -> float:
    content = os.urandom(1024)
    with inotify_simple.INotify(nonblocking=True) as watch:
        watch.add_watch(os.fspath(home / "B"), flags.MOVED_TO | flags.CLOSE_WRITE)
        started = time.perf_counter()
        with mounted(home / "B", running):
            edit_in_place(a.directory / "edited", content)
            _until_equal(watch, home / "B" / "edited", content)
            return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Idle:
    """What a process takes while nothing happens: CPU seconds, resident and proportional MiB."""

    cpu_s: float
    resident_mib: float
    shared_mib: float


def idle(both: Pair, seconds: float) -> tuple[Idle, ...]:
    """Do nothing; return what A, the server and B took."""
    before = [each.fine_cpu_s() for each in both.processes]
    time.sleep(seconds)
    return tuple(
        Idle(each.fine_cpu_s() - so_far, each.memory_mib(), each.memory_shared_mib())
        for each, so_far in zip(both.processes, before, strict=True)
    )


def edit_latency_among(home: Path, files: int, count: int) -> tuple[EditLatency, Arrival]:
    """Return the latency of an edit beside many files, and what it took to get these in sync.

    They lie in A and B before the clients start, so nothing but their entries travels.
    """
    make_files(home / "A", files)
    run(["cp", "-a", str(home / "A"), str(home / "B")])
    started = time.perf_counter()
    with pair(home) as both:
        ready_s = time.perf_counter() - started
        cost = Arrival(
            ready_s,
            ready_s,
            tuple(each.cpu_s() for each in both.processes),
            tuple(each.memory_peak_mib() for each in both.processes),
        )
        return edit_latency(both, edit_in_place, count), cost


def make_files(directory: Path, count: int) -> None:
    """Write many files of a few bytes, a hundred to a directory."""
    directory.mkdir()
    for number in range(count):
        folder = directory / f"{number // 100:04d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:06d}").write_bytes(b"%d\n" % number)
