"""The server's own mount: a plain directory of its machine, kept equal to a volume it serves.

Model: a mount like any other, on the same code, linked to the volume without a wire. What it
remembers lies in the data directory of the server; commands find it from the mounted directory.

S1  A directory that cannot be mounted at the start keeps the server from starting. What goes wrong
    later halts or ends the mount alone: the server serves on, and the mount is begun again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from syncline.client.steady import Backoff
from syncline.compose.config import ClientConfig, MountConfig
from syncline.compose.control import serving_control
from syncline.compose.direct import DirectLink
from syncline.compose.mount import mounted, open_state
from syncline.compose.mount_places import MountPlace, claimed, default_state
from syncline.core.names import escape
from syncline.core.trees import Mode
from syncline.errors import Invalid, SynclineError
from syncline.ports.link import LockingLink
from syncline.ports.mount_control import MountControl
from syncline.server.volume import ServedVolume

logger = logging.getLogger(__name__)

MOUNTS_NAME = "mounts"
PAUSES = Backoff(first_s=1.0, most_s=60.0)
"""After a failure: whatever it was, a disk or a file system, a person has to see to it."""

Follow = Callable[[MountControl], Coroutine[object, object, None]]
"""Tells of what happens in a mount, for ever."""


@contextmanager
def claimed_own(directory: Path, data: Path, volume: ServedVolume) -> Iterator[MountPlace]:
    """Hold the directory of the server's own mount, and its state, for the length of the block.

    Raises what `mount_places.claimed` raises, and Invalid where directory and data lie in each
    other.
    """
    real, store = Path(os.path.realpath(directory)), Path(os.path.realpath(data))
    if real.is_relative_to(store) or store.is_relative_to(real):
        raise Invalid(
            f"the mounted directory '{_shown(real)}' and the data of the server, '{_shown(store)}',"
            " must not lie in each other; choose another directory with --mount or --data",
            path=_shown(real),
        )
    # A place for each directory: one that is mounted instead of another begins anew, by L3.
    state = store / MOUNTS_NAME / volume.id.hex() / default_state(real).name
    with claimed(os.fsencode(directory), state) as place:
        yield place


@dataclass(frozen=True, slots=True)
class OwnMount:
    """What the server's own mount is made of; `address` is where the server listens."""

    place: MountPlace
    volume: ServedVolume
    address: str
    replica: str
    follow: Follow


@asynccontextmanager
async def mounting(own: OwnMount) -> AsyncIterator[None]:
    """Keep the directory mounted for the length of the block, which begins when it can be asked.

    Raises what opening its state raises: Corrupt, TooNew, NoSpace.
    """
    started = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(_keep(own, started), name="own-mount")
        await started.wait()
        try:
            yield
        finally:
            keeping.cancel()


async def _keep(own: OwnMount, started: asyncio.Event) -> None:
    """Run the mount for ever, again after each failure (S1)."""
    shown = own.place.shown
    told = ""
    pauses = PAUSES.pauses()
    while True:
        try:
            await _run(own, started)
        except* (SynclineError, OSError) as failed:
            if not started.is_set():
                raise
            reason = "; ".join(str(error) for error in _leaves(failed))
            if reason != told:
                # On change only: a disk that stays full for days fills no log.
                logger.error("own_mount_failed directory=%r error=%r", shown, reason)
            told = reason
        await asyncio.sleep(next(pauses))


async def _run(own: OwnMount, started: asyncio.Event) -> None:
    async def connect() -> LockingLink:
        return DirectLink(own.volume)

    place = own.place
    client = ClientConfig(server=own.address, volume=own.volume.facts.name, name=own.replica)
    directory = os.fsencode(place.directory)
    config = MountConfig(directory, client, Mode.TWO_WAY, place.state)
    state = open_state(place.state)
    try:
        async with (
            mounted(config, directory, state, connect) as control,
            serving_control(place.state, control),
        ):
            started.set()
            await own.follow(control)
    finally:
        state.close()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _shown(path: Path) -> str:
    return escape(os.fsencode(path))
