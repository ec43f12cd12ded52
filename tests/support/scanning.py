"""A scanner on a simulated or a real directory, driven as the engine drives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.client.mount.marks import Marks
from syncline.client.mount.mounted_file import Way
from syncline.client.mount.read import ReadResult, read
from syncline.client.mount.scan import DEFAULT_BUDGET, Budget, Looked, Reading, Scanner, Waiting
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId, ReplicaId, digest_of
from syncline.core.names import Name
from syncline.ports.clock import Clock
from syncline.ports.files import Directory, FileKind
from syncline.ports.mount_state import MountFacts, Obstacle
from syncline.ports.watcher import Mark, Watcher
from tests.support.serving import SeededIds
from tests.support.simulation.disk import EPOCH_NS, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.simulation.user_side import Node, User
from tests.support.simulation.watcher import SimulatedWatcher

ROUNDS_MAX = 3_000
"""A scanner that is not at rest after so many rounds goes round in a circle."""

Shown = dict[bytes, tuple[Kind, bytes, int, int]]
"""Kind, digest or target, mode, mtime by path."""


@dataclass(slots=True)
class DiskClock:
    """The time of a simulated disk."""

    disk: SimulatedDisk

    def wall_ns(self) -> int:
        return self.disk.clock_ns

    def monotonic_s(self) -> float:
        return (self.disk.clock_ns - EPOCH_NS) / 1e9


@dataclass(slots=True)
class Scanned:
    """A mount that is scanned; `advance` lets time pass."""

    root: Directory
    watcher: Watcher
    clock: Clock
    advance: Callable[[float], None]
    state: MemoryMountState = field(
        default_factory=lambda: MemoryMountState(MountFacts(ReplicaId(bytes(16)), None, None))
    )
    marks: Marks = field(default_factory=Marks)
    budget: Budget = DEFAULT_BUDGET
    is_reading_late: bool = False
    """Readings come back after the next look only, the last one first."""
    scanner: Scanner = field(init=False)
    readings: list[Reading] = field(default_factory=list)
    late: list[ReadResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scanner = Scanner(self.root, self.watcher, SeededIds(7), self.clock, self.budget)

    # -- driving ---------------------------------------------------------------

    def now_s(self) -> float:
        return self.clock.monotonic_s()

    def look_everywhere(self) -> None:
        """Look at everything, and come to rest."""
        with self.state.session() as session:
            looked = self.scanner.look_everywhere(session)
        self._follow(looked)
        self.rest()

    def look_once(self) -> bool:
        """Look at what is due; tell whether there was anything."""
        noticed = self.watcher.take()
        assert not noticed.is_overflown, "this test overflows nothing"
        self.marks.add(noticed.marks, self.now_s())
        looks = self.marks.take(self.now_s())
        if not looks and not self.late:
            return False
        with self.state.session() as session:
            looked = self.scanner.look(session, looks)
        self._follow(looked)
        return True

    def rest(self, most_s: float = 1e9) -> None:
        """Look at what is due, and let time pass, until nothing is left, or for so long."""
        end_s = self.now_s() + most_s
        for _ in range(ROUNDS_MAX):
            if self.look_once():
                continue
            due_s = self.marks.next_s()
            if due_s is None or due_s > end_s:
                return
            self.advance(max(due_s - self.now_s(), 1e-6))
        raise AssertionError(f"no rest: {list(self.marks._pending.values())[:5]}")

    def _follow(self, looked: Looked) -> None:
        while True:
            self.wait(looked.waiting)
            self.readings.extend(looked.readings)
            results = [self.read(reading) for reading in looked.readings]
            if self.is_reading_late:
                results, self.late = self.late, results[::-1]
            with self.state.session() as session:
                waiting = self.scanner.record(session, results)
            self.wait(waiting)
            if not looked.is_cut:
                return
            with self.state.session() as session:
                looked = self.scanner.look(session, ())

    def read(self, reading: Reading) -> ReadResult:
        with Way(self.root) as way:
            return read(way, reading, FastCdcChunker(), self.clock)

    def wait(self, waiting: Sequence[Waiting]) -> None:
        self.marks.wait(waiting, self.now_s())

    def mark(self, directory: EntryId, name: bytes | None, **flags: bool) -> None:
        self.marks.add([Mark(directory, name, **flags)], self.now_s())

    # -- looking ---------------------------------------------------------------

    def local(self) -> dict[bytes, tuple[EntryId, Seen]]:
        """Return local by path."""
        found: dict[bytes, tuple[EntryId, Seen]] = {}
        with self.state.session() as session:
            todo: list[tuple[EntryId, bytes]] = [(ROOT_ID, b"")]
            for directory, prefix in todo:
                for id, seen in session.children(directory):
                    path = prefix + seen.state.name
                    assert path not in found, "a place is taken twice"
                    found[path] = (id, seen)
                    todo.append((id, path + b"/"))
        return found

    def shown(self) -> Shown:
        """Return what local says of each path."""
        return {path: shown_of(seen) for path, (_, seen) in self.local().items()}

    def id(self, path: bytes) -> EntryId:
        return self.local()[path][0]

    def obstacle(self, path: bytes) -> Obstacle | None:
        above, _, name = path.rpartition(b"/")
        parent = self.id(above) if above else ROOT_ID
        with self.state.session() as session:
            return session.obstacle((parent, Name(name)))


def shown_of(seen: Seen) -> tuple[Kind, bytes, int, int]:
    state = seen.state
    what = state.content.digest if state.content is not None else state.target or b""
    return state.kind, what, state.mode, state.mtime_ns


def disk_shown(tree: dict[bytes, Node]) -> Shown:
    """Return what local should say of a tree; what is never synced is left out."""
    kinds = {
        FileKind.FILE: Kind.FILE,
        FileKind.DIRECTORY: Kind.DIRECTORY,
        FileKind.LINK: Kind.LINK,
    }
    found: Shown = {}
    for path, node in tree.items():
        if node.kind is FileKind.OTHER:
            continue
        kind = kinds[node.kind]
        what = digest_of(node.content) if kind is Kind.FILE else node.content
        mtime_ns = 0 if kind is Kind.DIRECTORY else node.mtime_ns
        found[path] = (kind, what, node.mode & MODE_MASK, mtime_ns)
    return found


@dataclass(slots=True)
class World:
    """A simulated disk with a user, and the scanner of the directory `m` on it."""

    disk: SimulatedDisk
    user: User
    outside: User
    scanned: Scanned

    def pass_time(self, seconds: float) -> None:
        self.disk.clock_ns += round(seconds * 1e9)

    def expected(self) -> Shown:
        return disk_shown(self.user.tree())

    def check(self) -> None:
        """Check that local is what the disk has."""
        assert self.scanned.shown() == self.expected()


def make_world(
    *,
    is_root: bool = True,
    budget: Budget = DEFAULT_BUDGET,
    is_reading_late: bool = False,
    watch_limit: int | None = None,
) -> World:
    disk = SimulatedDisk(is_root=is_root)
    outside = User(disk)
    outside.mkdir(b"m")
    files = SimulatedFiles(disk, b"m")
    clock = DiskClock(disk)

    def advance(seconds: float) -> None:
        disk.clock_ns += round(seconds * 1e9)

    scanned = Scanned(
        files.open_root(),
        SimulatedWatcher(disk, watch_limit=watch_limit),
        clock,
        advance,
        budget=budget,
        is_reading_late=is_reading_late,
    )
    return World(disk, User(disk, b"m"), outside, scanned)
