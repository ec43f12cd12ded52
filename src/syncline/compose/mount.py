"""A mount in a process: its state, its files, its watcher and its control connection, wired."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from syncline.adapters import allocator
from syncline.adapters.executors import ThreadExecutor
from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.inotify import InotifyWatcher
from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.adapters.system import RandomIds, SystemClock
from syncline.client.mount.control import MountSupervisor, Shown
from syncline.client.mount.dry import plan_dry
from syncline.client.mount.engine import Lanes
from syncline.client.mount.parts import Parts
from syncline.compose.at_rest import sparing
from syncline.compose.config import MountConfig
from syncline.compose.connect import host
from syncline.compose.control import serving_control
from syncline.compose.mount_places import claimed, looked_up
from syncline.core.changes import Author
from syncline.core.identity import EntryId
from syncline.core.safety import Limits
from syncline.core.trees import Mount
from syncline.ports.files import Directory, Files
from syncline.ports.link import LockingLink
from syncline.ports.mount_control import MountControl, PlanShown
from syncline.ports.mount_state import MountFacts, MountState
from syncline.ports.watcher import Noticed, Watcher
from syncline.rpc.link import GrpcLink

READER_THREADS = 2
STATE_FILE = "mount.sqlite3"

Connect = Callable[[], Awaitable[LockingLink]]


@asynccontextmanager
async def running_mount(config: MountConfig) -> AsyncIterator[MountControl]:
    """Run a mount for the length of the block.

    Raises InUse, NotFound and Invalid for a directory that cannot be mounted, Corrupt and TooNew
    for a state that cannot be used, and what ends the mount while it runs.
    """
    allocator.keep_freed()
    client = config.client

    async def connect() -> LockingLink:
        return GrpcLink(client.server, client.volume, timeout_s=client.timeout_s)

    async with AsyncExitStack() as stack:
        place = stack.enter_context(claimed(config.directory, config.state))
        state = open_state(place.state)
        stack.callback(state.close)
        control = await stack.enter_async_context(
            mounted(config, os.fsencode(place.directory), state, connect)
        )
        await stack.enter_async_context(serving_control(place.state, control))
        yield control


def open_state(directory: Path) -> SqliteMountState:
    """Open what a mount remembers; a new one gets a replica id of its own."""
    facts = MountFacts(RandomIds().replica(), None, None)
    return SqliteMountState.open(directory / STATE_FILE, facts)


@asynccontextmanager
async def mounted(
    config: MountConfig, directory: bytes, state: SqliteMountState, connect: Connect
) -> AsyncIterator[MountControl]:
    """Run the engine of a mount for the length of the block."""
    client = config.client
    with state.session() as session:
        replica = session.facts().replica
    async with AsyncExitStack() as stack:
        files = PosixFiles(directory)
        stack.callback(files.close)
        watcher = InotifyWatcher()
        stack.callback(watcher.close)
        thread = ThreadExecutor("mount", threads=1)
        stack.callback(thread.close)
        reads = ThreadExecutor("reader", threads=READER_THREADS)
        stack.callback(reads.close)
        parts = _parts(config, files, watcher, state, Author(replica, client.name))
        shown = Shown(directory, client.volume, client.server)
        supervisor = MountSupervisor(parts, Lanes(thread, reads), connect, shown)
        # In the thread of all sessions none is open meanwhile.
        await stack.enter_async_context(sparing(partial(thread.run, state.rest)))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(supervisor.run(), name="mount")
            try:
                yield supervisor
            finally:
                running.cancel()


async def dry_run(config: MountConfig) -> PlanShown:
    """Return what a mount would do now; write nothing into the directory.

    Raises what `running_mount` raises, and Unavailable where the server is away.
    """
    client = config.client
    async with AsyncExitStack() as stack:
        place = stack.enter_context(looked_up(config.directory, config.state))
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="syncline-")))
        state = open_copy(place.state, scratch)
        stack.callback(state.close)
        link = GrpcLink(client.server, client.volume, timeout_s=client.timeout_s)
        stack.push_async_callback(link.close)
        thread = ThreadExecutor("mount", threads=1)
        stack.callback(thread.close)
        with state.session() as session:
            replica = session.facts().replica
        files = PosixFiles(os.fsencode(place.directory))
        stack.callback(files.close)
        return await plan_dry(
            _parts(config, files, Unwatched(), state, Author(replica, client.name)), link, thread
        )


def open_copy(directory: Path, scratch: Path) -> SqliteMountState:
    """Open a copy of what a mount remembers, made in `scratch`; a new one where there is none."""
    for source in sorted(directory.glob(STATE_FILE + "*")):
        shutil.copy(source, scratch / source.name)
    return open_state(scratch)


class Unwatched:
    """A watcher that sees nothing: for one look."""

    def add(self, directory: Directory, id: EntryId) -> bool:
        """Do as if it were watched."""
        return True

    def add_sentinels(self, directory: Directory) -> None:
        """Do nothing."""

    def is_watched(self, id: EntryId) -> bool:
        """Tell that it is not: what is not looked at is not known."""
        return False

    def forget(self, id: EntryId) -> None:
        """Do nothing."""

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Do nothing."""

    async def wait(self) -> None:
        """Never return."""
        await asyncio.Event().wait()

    def take(self) -> Noticed:
        """Return nothing."""
        return Noticed()

    def close(self) -> None:
        """Do nothing."""


def _parts(
    config: MountConfig, files: Files, watcher: Watcher, state: MountState, author: Author
) -> Parts:
    return Parts(
        files,
        watcher,
        state,
        Mount(author.name, config.mode),
        author,
        RandomIds(),
        SystemClock(),
        FastCdcChunker(),
        Limits(),
        host(),
    )
