"""Mounts of one volume in one process: real directories, real inotify, real SQLite, no wire.

Each mount has a `Line` to the server of its own, which can be cut and mended, and notes what went
over it. Users act through ordinary system calls, in the test or in a thread beside it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import struct
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG
from typing import ParamSpec, TypeVar

from syncline.compose.config import ClientConfig, MountConfig
from syncline.compose.direct import DirectLink
from syncline.compose.mount import mounted, open_state
from syncline.core.entries import Entry, Kind
from syncline.core.identity import ROOT_ID, EntryId, Revision
from syncline.core.manifests import decode_piece
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.core.table import Commit
from syncline.ports.mount_control import MountControl, MountPhase, MountProblem, WaitEnd
from syncline.server.volume import ServedVolume
from tests.support.lines import Line
from tests.support.realtree import Fact, differences, snapshot
from tests.support.serving import Backend, served
from tests.support.wait import eventually

P = ParamSpec("P")
T = TypeVar("T")

SETTLE_S = 30.0
"""Far more than anything takes: a test that needs it all has failed."""

ROUNDS_MAX = 50
COMMITS_MAX = 1_000_000

_CAPABILITY_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_KINDS = {Kind.FILE: S_IFREG, Kind.DIRECTORY: S_IFDIR, Kind.LINK: S_IFLNK}


@dataclass
class Mounted:
    """One mount: its directory, its control, its line."""

    name: str
    root: Path
    control: MountControl
    line: Line

    def path(self, path: bytes) -> bytes:
        """Return a path below the root for system calls."""
        return os.path.join(os.fsencode(self.root), path)

    def write(self, path: bytes, content: bytes) -> None:
        """Write a file in place; make it, and the directories above it, where there is none."""
        where = Path(os.fsdecode(self.path(path)))
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content)

    def save(self, path: bytes, content: bytes) -> None:
        """Write a file beside, and rename it over the old one."""
        beside = path + b".new"
        self.write(beside, content)
        self.rename(beside, path)

    def read(self, path: bytes) -> bytes:
        """Return the content of a file."""
        return Path(os.fsdecode(self.path(path))).read_bytes()

    def mkdir(self, path: bytes) -> None:
        """Make a directory, and those above it."""
        os.makedirs(self.path(path), exist_ok=True)

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename what is at `old`; a file or an empty directory at `new` is replaced."""
        os.rename(self.path(old), self.path(new))

    def remove(self, path: bytes) -> None:
        """Remove a file, a link, or a directory with all that is in it."""
        where = self.path(path)
        if os.path.isdir(where) and not os.path.islink(where):
            shutil.rmtree(where)
        else:
            os.unlink(where)

    def status(self, path: bytes) -> os.stat_result:
        """Return what `lstat` says."""
        return os.lstat(self.path(path))

    def tree(self) -> dict[bytes, Fact]:
        """Return all that is in the directory, without what is the client's own."""
        found = snapshot(self.root)
        own = RESERVED_ROOT_NAME + b"/"
        return {
            path: fact
            for path, fact in found.items()
            if path != RESERVED_ROOT_NAME and not path.startswith(own)
        }

    def names(self) -> set[bytes]:
        """Return all paths in the directory."""
        return set(self.tree())

    def contents(self) -> dict[bytes, bytes]:
        """Return the content of each file."""
        return {
            path: Path(os.fsdecode(self.path(path))).read_bytes()
            for path, fact in self.tree().items()
            if fact.kind == S_IFREG
        }

    def leftovers(self) -> list[str]:
        """Return what lies staged, displaced or set aside in the client's own directory."""
        own = self.root / os.fsdecode(RESERVED_ROOT_NAME)
        return [str(path) for path in own.glob("*/*")]

    async def rest(self, phases: Collection[MountPhase] = (MountPhase.IN_SYNC,)) -> None:
        """Wait until it shows one of these phases."""
        await eventually(
            lambda: self.control.status().phase in phases,
            f"{self.name} is {phases}",
            timeout_s=SETTLE_S,
        )

    async def let_go(self) -> None:
        """Wait until nothing lies staged, displaced or set aside."""
        await eventually(lambda: not self.leftovers(), f"nothing is left over by {self.name}")

    async def noticed(self, pending: int = 1) -> None:
        """Wait until it knows of so many edits that it cannot send: its line is cut."""
        assert self.line.is_cut
        await eventually(
            lambda: self.control.status().pending_up >= pending,
            f"{self.name} has noticed {pending} edits",
        )

    def problems(self) -> dict[bytes, str]:
        """Return the code of each problem by its path."""
        return {bytes(each.path): each.code for each in self.shown_problems()}

    def shown_problems(self) -> Sequence[MountProblem]:
        """Return the problems."""
        return self.control.status().problems


@dataclass
class Mounts:
    """All mounts of one volume, and what its server has."""

    backend: Backend
    volume: ServedVolume
    all: list[Mounted]

    @property
    def head(self) -> Revision:
        """Return the newest revision."""
        return self.volume.feed.head.revision

    def entry(self, path: bytes) -> Entry:
        """Return the live entry at a path of the server."""
        return self.entries()[path]

    def id(self, path: bytes) -> EntryId:
        """Return the id of the entry at a path of the server."""
        return self.entry(path).id

    def entries(self) -> dict[bytes, Entry]:
        """Return all live entries of the server by their paths."""
        found: dict[bytes, Entry] = {}
        with self.backend.metadata.read(self.volume.id) as table:
            waiting = [(ROOT_ID, b"")]
            while waiting:
                directory, below = waiting.pop()
                for entry in table.children(directory):
                    path = os.path.join(below, entry.name)
                    found[path] = entry
                    if entry.kind is Kind.DIRECTORY:
                        waiting.append((entry.id, path))
        return found

    def commits(self, after: Revision) -> list[Commit]:
        """Return all commits past a revision."""
        with self.backend.metadata.read(self.volume.id) as table:
            return list(table.commits_after(after, COMMITS_MAX))

    async def content(self, entry: Entry) -> bytes:
        """Return the content of one state of a file, as the server has it."""
        assert entry.content is not None
        link = DirectLink(self.volume)
        refs = entry.content.refs
        if entry.content.depth:
            pieces = [piece async for piece in link.fetch([ref.digest for ref in refs])]
            refs = tuple(ref for piece in pieces for ref in decode_piece(piece))
        return b"".join([chunk async for chunk in link.fetch([ref.digest for ref in refs])])

    def states(self, after: Revision, id: EntryId) -> list[Entry]:
        """Return the states that an entry got past a revision."""
        return [each for commit in self.commits(after) for each in commit.entries if each.id == id]

    async def settle(
        self, *mounts: Mounted, end: WaitEnd = WaitEnd.IN_SYNC, timeout_s: float = SETTLE_S
    ) -> None:
        """Wait until these mounts (all, if none is named) have nothing left to do."""
        chosen = mounts or tuple(self.all)
        phase = MountPhase.IN_SYNC if end is WaitEnd.IN_SYNC else MountPhase.WAITING
        for _ in range(ROUNDS_MAX):
            head = self.head
            for mount in chosen:
                result = await mount.control.wait(timeout_s)
                assert result.end in (end, WaitEnd.IN_SYNC), (mount.name, result)
            for mount in chosen:
                await mount.rest({phase, MountPhase.IN_SYNC})
            if self.head == head:
                return
        raise AssertionError(f"{ROUNDS_MAX} rounds did not bring rest: head {self.head}")

    async def settle_equal(self, *, timeout_s: float = SETTLE_S) -> dict[bytes, Fact]:
        """Wait for rest, compare all directories and the server, and return what they hold."""
        await self.settle(timeout_s=timeout_s)
        first = self.all[0].tree()
        others = {other.name: other.tree() for other in self.all[1:]}
        others["the server"] = self._server_tree()
        unequal = {name: differences(first, other) for name, other in others.items()}
        assert not any(unequal.values()), unequal
        for mount in self.all:
            await mount.let_go()
        return first

    def _server_tree(self) -> dict[bytes, Fact]:
        return {path: _fact(entry) for path, entry in self.entries().items()}


def _fact(entry: Entry) -> Fact:
    kind = _KINDS[entry.kind]
    match entry.kind:
        case Kind.DIRECTORY:
            return Fact(kind, entry.mode, 0, 0, b"")
        case Kind.LINK:
            return Fact(kind, 0o777, entry.mtime_ns, 0, entry.target or b"")
        case Kind.FILE:
            return Fact(kind, entry.mode, entry.mtime_ns, entry.size, entry.digest or b"")


@asynccontextmanager
async def mounts(
    directory: Path, *names: str, backend: Backend | None = None
) -> AsyncIterator[Mounts]:
    """Serve a volume, and mount it once for each name, in directories below `directory`.

    Without `backend` it is a new volume that is gone afterwards.
    """
    async with AsyncExitStack() as stack:
        if backend is None:
            backend = Backend.in_memory()
            stack.callback(backend.close)
        volume = await stack.enter_async_context(served(backend))
        found = Mounts(backend, volume, [])
        for name in names:
            found.all.append(await stack.enter_async_context(mount(directory, volume, name)))
        await found.settle()
        yield found


@asynccontextmanager
async def mount(directory: Path, volume: ServedVolume, name: str) -> AsyncIterator[Mounted]:
    """Mount a volume in `directory / name`; what is there is merged."""
    root = directory / name
    root.mkdir(exist_ok=True)
    kept = directory / f"state of {name}"
    kept.mkdir(exist_ok=True)
    line = Line(volume)
    config = MountConfig(os.fsencode(root), replace(ClientConfig(), name=name))
    state = open_state(kept)
    try:
        async with mounted(config, os.fsencode(root), state, line.connect) as control:
            yield Mounted(name, root, control, line)
    finally:
        state.close()


@contextmanager
def modes_obeyed() -> Iterator[None]:
    """Take from this thread, and from those that it starts, root's right to pass over modes."""
    with _capabilities_without(_DAC_OVERRIDE, _DAC_READ_SEARCH):
        yield


@contextmanager
def _capabilities_without(*numbers: int) -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    before = ctypes.create_string_buffer(24)
    if libc.capget(header, before) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets = list(struct.unpack("6I", before.raw))
    for number in numbers:
        sets[0] &= ~(1 << number)
    if libc.capset(header, struct.pack("6I", *sets)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        if libc.capset(header, before.raw) != 0:
            raise OSError(ctypes.get_errno(), "capset")


async def paced(count: int, per_s: float) -> AsyncIterator[int]:
    """Yield numbers at the pace of a user or a program, which is part of a case."""
    clock = asyncio.get_running_loop()
    start_s = clock.time()
    for number in range(count):
        await asyncio.sleep(start_s + number / per_s - clock.time())
        yield number


async def beside(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Let a user act in a thread of its own, while the mounts work."""
    return await asyncio.to_thread(act, *args, **kwargs)
