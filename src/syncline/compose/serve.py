"""The server process: open the data, recover, listen, serve until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from syncline.adapters import allocator
from syncline.adapters.executors import ThreadExecutor
from syncline.adapters.system import RandomIds, SystemClock
from syncline.compose.at_rest import sparing
from syncline.compose.config import ServeConfig
from syncline.compose.data_directory import Stores, open_data
from syncline.compose.serve_mount import Follow, OwnMount, claimed_own, mounting
from syncline.ports.metadata import MetadataStore
from syncline.ports.mount_control import MountControl
from syncline.rpc.server import RpcServer
from syncline.server.recovery import describe, recover
from syncline.server.volume import ServedVolume, Services, VolumeSet

logger = logging.getLogger(__name__)

WORKER_THREADS = 4
STOP_GRACE_S = 3.0
"""How long calls under way may take to end after SIGTERM; what is not committed by then is cut."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready: where it listens, and its volumes."""

    address: str
    volumes: VolumeSet


async def unfollowed(control: MountControl) -> None:
    """Tell nobody of what happens in the server's own mount, for ever."""
    await asyncio.Event().wait()


async def serve(
    config: ServeConfig, ready: Callable[[str], None], follow: Follow = unfollowed
) -> None:
    """Serve until SIGTERM or SIGINT; call `ready` with the address when calls are answered.

    `follow` tells of what happens in the server's own mount, where it has one. Raises InUse for
    data, an address or a mount that another process has, what opening the data raises, and
    NotFound or Invalid for a directory that cannot be mounted.
    """
    allocator.keep_freed()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with running(config, follow) as server, sparing():
        ready(server.address)
        await stopping.wait()
        logger.info("server_stopping")
    logger.info("server_stopped")


@asynccontextmanager
async def running(config: ServeConfig, follow: Follow = unfollowed) -> AsyncIterator[Running]:
    """Run a server for the length of the block."""
    async with AsyncExitStack() as stack:
        stores = stack.enter_context(open_data(config.data, may_create=True))
        writer_thread = ThreadExecutor("writer", threads=1)
        stack.callback(writer_thread.close)
        workers = ThreadExecutor("worker", threads=WORKER_THREADS)
        stack.callback(workers.close)
        services = Services(stores.metadata, SystemClock(), writer_thread, workers, config.limits)
        ensure_volume(stores.metadata, config.volume)
        served = [
            await workers.run(_open_volume, stores, services, name) for name in _names(stores)
        ]
        volumes = VolumeSet(served, config.limits)
        # Before anybody is let in: what cannot be mounted keeps the server from starting.
        place = None
        if config.mount is not None:
            own = claimed_own(config.mount, config.data, volumes.find(config.volume))
            place = stack.enter_context(own)
        rpc = RpcServer(volumes)
        address = rpc.bind(config.listen)
        for volume in served:
            await stack.enter_async_context(volume.running())
        await rpc.start()
        stack.push_async_callback(rpc.stop, STOP_GRACE_S)
        for volume in served:
            # Before calls get their grace: a watcher would use up all of it.
            stack.callback(volume.feed.close)
            stack.callback(volume.user_locks.close)
        if place is not None:
            volume = volumes.find(config.volume)
            own_mount = OwnMount(place, volume, address, config.name, follow)
            # Entered last, so that it stops first, while its server still answers.
            await stack.enter_async_context(mounting(own_mount))
        logger.info("server_ready address=%s volumes=%d", address, len(served))
        yield Running(address, volumes)


def ensure_volume(metadata: MetadataStore, name: str) -> None:
    """Make the volume of this name unless it is there."""
    if all(volume.name != name for volume in metadata.volumes()):
        metadata.create_volume(RandomIds().volume(), name)


def _names(stores: Stores) -> list[str]:
    return [volume.name for volume in stores.metadata.volumes()]


def _open_volume(stores: Stores, services: Services, name: str) -> ServedVolume:
    """Open one volume and put right what a crash left."""
    facts = next(volume for volume in stores.metadata.volumes() if volume.name == name)
    chunks = stores.chunks(facts.id)
    findings = recover(stores.metadata, facts.id, chunks)
    for line in describe(findings):
        logger.warning("recovery volume=%s finding=%r", name, line)
    if findings.indexed:
        logger.info("recovery volume=%s chunks_indexed=%d", name, findings.indexed)
    return ServedVolume(facts, chunks, services)
