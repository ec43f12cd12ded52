"""The service: convert and check, call one use case, convert back.

What a caller sends is checked here once; errors are raised as ours and mapped by the interceptor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import grpc.aio

from syncline import __version__
from syncline.core.bodies import ChunkBody
from syncline.core.changes import Outcome
from syncline.core.identity import Digest
from syncline.errors import Invalid, SynclineError, TimedOut
from syncline.ports.link import (
    LOCKS,
    PROTOCOL,
    PROTOCOL_OLDEST,
    Committed,
    Heartbeat,
    ServerFacts,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LockNews, LockTable
from syncline.rpc import (
    convert_answers,
    convert_locks,
    convert_reads,
    convert_store,
    convert_watch,
)
from syncline.rpc.convert_entries import located_to_pb
from syncline.rpc.frames import FETCH_FIELD, ChunkPacker, ChunkUnpacker, Frame
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.methods import Behaviour
from syncline.server.feed import FeedItem, WithPaths
from syncline.server.fetch import fetch_bodies, fetch_chunks, fetch_content, find_file
from syncline.server.listing import listing, stat
from syncline.server.store import delete, store
from syncline.server.volume import ServedVolume, VolumeSet
from syncline.server.watch import Watched, Watcher, encoded, watch

logger = logging.getLogger(__name__)

T = TypeVar("T")

PROPOSAL_COPIES = 4
"""What a proposal takes in memory for each byte on the wire, at the most: as objects of changes."""

_Read = Sequence[ChunkBody] | SynclineError | None
"""Chunks that were read for a FETCH, or why there are no more; None at the end."""

Context = grpc.aio.ServicerContext[object, object]


class Servicer:
    """Serves the volumes of a server."""

    def __init__(self, volumes: VolumeSet) -> None:
        self._volumes = volumes

    def behaviours(self) -> dict[str, Behaviour]:
        """Return each method by its name on the wire."""
        return {
            "Hello": self.hello,
            "Store": self.store,
            "Delete": self.delete,
            "Fetch": self.fetch,
            "Watch": self.watch,
            "List": self.list,
            "Stat": self.stat,
            "Lock": self.lock,
            "Renew": self.renew,
            "Unlock": self.unlock,
            "ListLocks": self.list_locks,
        }

    async def hello(self, request: pb.HelloRequest, context: Context) -> pb.HelloResponse:
        """Say what this server speaks; a client that cannot speak it finds out by the numbers."""
        volume = self._volumes.find(convert_reads.hello_from_pb(request))
        return convert_reads.facts_to_pb(
            ServerFacts(
                PROTOCOL,
                PROTOCOL_OLDEST,
                __version__,
                frozenset({LOCKS}),
                volume.id,
                volume.facts.name,
                volume.feed.head,
            )
        )

    async def store(
        self, requests: AsyncIterator[pb.StoreRequest | Frame], context: Context
    ) -> None:
        """Assemble the proposal and carry it out; the upload writes to the stream in between."""
        limits = self._volumes.limits
        with (
            self._volumes.stores.enter(context.peer()),
            self._volumes.proposals.hold() as memory,
        ):
            begin = await _next(requests, limits.first_message_wait_s)
            if isinstance(begin, Frame) or begin.WhichOneof("part") != "begin":
                raise Invalid("a STORE starts with its begin", field="part", reason="order")
            reader = convert_store.ProposalReader(begin.begin)
            volume = self._volumes.find(reader.volume)
            while not reader.is_complete:
                message = await _next(requests, limits.message_wait_s)
                if isinstance(message, Frame) or message.WhichOneof("part") != "changes":
                    raise Invalid("the changes of a STORE follow", field="part", reason="order")
                memory.take(PROPOSAL_COPIES * message.ByteSize())
                reader.add(message.changes)
            upload = _Upload(requests, context, volume)
            answer = await store(volume, reader.proposal(), upload)
            for frame in convert_answers.answer_frames(answer):
                await context.write(pb.StoreResponse(committed=frame))

    async def delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:
        """Carry out a DELETE."""
        name, proposal = convert_store.delete_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.stores.enter(context.peer()):
            return convert_answers.delete_answer_to_pb(await delete(volume, proposal))

    async def fetch(self, request: pb.FetchRequest, context: Context) -> None:
        """Send one file by its path, or chunks by their digests."""
        name, wanted = convert_reads.fetch_from_pb(request)
        volume = self._volumes.find(name)
        batches: AsyncGenerator[Sequence[ChunkBody], None]
        with self._volumes.reads.enter(context.peer()):
            if isinstance(wanted, convert_reads.FileAddress):
                found = await find_file(volume, wanted.path, wanted.at)
                await context.write(pb.FetchResponse(found=located_to_pb(found)))
                batches = fetch_content(volume, found.entry, wanted.offset)
            elif wanted.may_be_zstd:
                batches = fetch_bodies(volume, wanted.digests)
            else:
                batches = fetch_chunks(volume, wanted.digests)
            ready: asyncio.Queue[_Read] = asyncio.Queue(1)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_read_ahead(batches, ready))
                    await _send_chunks(ready, context)
            except ExceptionGroup as errors:
                # Only the sender raises: what was read wrong, or that nobody takes it any more.
                raise errors.exceptions[0] from errors

    async def watch(self, requests: AsyncIterator[pb.WatchRequest], context: Context) -> None:
        """Send the feed, and take note of what the client says of its progress meanwhile."""
        with self._volumes.watches.enter(context.peer()):
            first = await _next(requests, self._volumes.limits.first_message_wait_s)
            name, begin = convert_watch.watch_begin_from_pb(first)
            volume = self._volumes.find(name)
            logger.info("watch_begin volume=%s replica=%s", name, begin.author.replica.hex())
            watcher = Watcher(begin.author)
            async with asyncio.TaskGroup() as tasks:
                listener = tasks.create_task(
                    _listen(requests, watcher, partial(_renew, volume, begin))
                )
                events = watch(volume, begin)
                async with aclosing(events):
                    async for event in events:
                        for frame in await _event_frames(
                            volume, event, wants_inline=begin.wants_inline
                        ):
                            await context.write(frame)
                        # What was sent is let go before the wait for what follows.
                        del event
                        if watcher.broken is not None:
                            break
                listener.cancel()
            if watcher.broken is not None:
                raise watcher.broken

    async def list(
        self, request: pb.ListRequest, context: Context
    ) -> AsyncIterator[pb.ListResponse]:
        """Send a listing in pages."""
        name, wanted = convert_reads.list_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.reads.enter(context.peer()):
            pages = listing(volume, wanted.path, is_recursive=wanted.is_recursive, at=wanted.at)
            async with aclosing(pages):
                async for page in pages:
                    for frame in convert_reads.list_frames(page.revision, page.entries):
                        yield frame

    async def stat(self, request: pb.StatRequest, context: Context) -> pb.StatResponse:
        """Tell what is at some paths."""
        name, paths, at = convert_reads.stat_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.reads.enter(context.peer()):
            revision, found = await stat(volume, paths, at)
        return convert_reads.stat_answer_to_pb(revision, found)

    async def lock(self, request: pb.LockRequest, context: Context) -> pb.LockResponse:
        """Lock entries, now or after a wait."""
        name, wanted = convert_locks.lock_request_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.lock_waits.enter(context.peer()):
            locks = await volume.user_locks.lock(wanted)
        return pb.LockResponse(locks=[convert_locks.lock_to_pb(each) for each in locks])

    async def renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        """Renew leases."""
        name, author, tokens, ttl_s = convert_locks.renew_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.unlocks.enter(context.peer()):
            leases = await volume.user_locks.renew(author, tokens, ttl_s)
        return convert_locks.renewed_to_pb(leases)

    async def unlock(self, request: pb.UnlockRequest, context: Context) -> pb.UnlockResponse:
        """End locks."""
        name, wanted = convert_locks.unlock_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.unlocks.enter(context.peer()):
            return convert_locks.unlocked_to_pb(await volume.user_locks.unlock(wanted))

    async def list_locks(
        self, request: pb.ListLocksRequest, context: Context
    ) -> AsyncIterator[pb.ListLocksResponse]:
        """Send the locks on a path, below and above it."""
        name, path = convert_locks.list_locks_from_pb(request)
        volume = self._volumes.find(name)
        with self._volumes.reads.enter(context.peer()):
            locks = await volume.user_locks.listing(
                volume.metadata, volume.id, volume.workers, path
            )
            for frame in convert_locks.list_locks_frames(locks):
                yield frame


async def _event_frames(
    volume: ServedVolume, event: Watched, *, wants_inline: bool
) -> Sequence[pb.WatchResponse | bytes]:
    """Return the messages of an event; a commit of the feed is encoded once for all watchers."""
    match event:
        case FeedItem():
            inline = event.inline if wants_inline else {}
            encode = partial(_encode, Committed(event.commit, (), inline))
            return await encoded(volume, event, encode, variant=bool(inline))
        case WithPaths():
            encode = partial(_encode, Committed(event.commit, event.changes, {}))
            return await encoded(volume, event, encode, variant=False)
        case SnapshotPage():
            return await volume.workers.run(_encode, event)
        case Heartbeat() | SnapshotBegin() | SnapshotEnd() | LockTable() | LockNews():
            return list(convert_watch.event_frames(event))


async def _read_ahead(
    batches: AsyncGenerator[Sequence[ChunkBody], None], ready: asyncio.Queue[_Read]
) -> None:
    """Read the next batch while one is sent; what was read before an error is sent first."""
    try:
        async with aclosing(batches):
            async for batch in batches:
                await ready.put(batch)
    except SynclineError as error:
        await ready.put(error)
    else:
        await ready.put(None)


async def _send_chunks(ready: asyncio.Queue[_Read], context: Context) -> None:
    packer = ChunkPacker(FETCH_FIELD)
    while (batch := await ready.get()) is not None:
        if isinstance(batch, SynclineError):
            for frame in packer.flush():
                await context.write(frame)
            raise batch
        for data in batch:
            for frame in packer.add(data):
                await context.write(frame)
    for frame in packer.flush():
        await context.write(frame)


def _encode(event: WatchEvent) -> list[bytes]:
    return [frame.SerializeToString() for frame in convert_watch.event_frames(event)]


def _renew(volume: ServedVolume, begin: WatchBegin) -> None:
    """Take a sign of life of a watcher for its leases."""
    if begin.session is not None:
        volume.user_locks.renew_session(begin.author, begin.session)


async def _listen(
    requests: AsyncIterator[pb.WatchRequest], watcher: Watcher, renew: Callable[[], None]
) -> None:
    """Take note of a watcher's progress until it has no more to say.

    What breaks the protocol is left for the sender to say: gRPC takes no abort beside a write.
    """
    async for message in requests:
        try:
            watcher.progress = convert_watch.progress_from_pb(message)
        except Invalid as error:
            watcher.broken = error
            return
        renew()
        logger.debug(
            "watch_progress replica=%s placed=%d pending=%d problems=%d",
            watcher.author.replica.hex(),
            watcher.progress.placed.revision,
            watcher.progress.pending,
            watcher.progress.problems,
        )


async def _next(requests: AsyncIterator[T], wait_s: float) -> T:
    """Return the next message of a stream; raise Invalid at its end, TimedOut when it is late."""
    try:
        async with asyncio.timeout(wait_s):
            return await anext(requests)
    except StopAsyncIteration as error:
        raise Invalid("the stream ended too early", field="stream", reason="short") from error
    except TimeoutError as error:
        raise TimedOut(f"the stream owed a message for {wait_s:.0f} s", side="client") from error


class _Upload:
    """The client's end of a STORE."""

    def __init__(
        self,
        requests: AsyncIterator[pb.StoreRequest | Frame],
        context: Context,
        volume: ServedVolume,
    ) -> None:
        self._requests = requests
        self._context = context
        self._volume = volume
        self._unpacker = ChunkUnpacker()
        self._spoke_s = volume.clock.monotonic_s()

    async def alive(self) -> None:
        """Say something when nothing was said for long: the client's deadline is by progress."""
        now_s = self._volume.clock.monotonic_s()
        if now_s - self._spoke_s >= self._volume.limits.heartbeat_s:
            self._spoke_s = now_s
            await self._context.write(pb.StoreResponse(granted=pb.Granted()))

    async def grant(self, outcomes: Sequence[Outcome]) -> None:
        """Tell the client what stands."""
        for frame in convert_answers.granted_frames(outcomes):
            await self._context.write(pb.StoreResponse(granted=frame))

    async def request(self, digests: Sequence[Digest]) -> AsyncIterator[ChunkBody]:
        """Ask for chunks and yield what comes, as many as were asked for."""
        for frame in convert_answers.missing_frames(digests):
            await self._context.write(pb.StoreResponse(missing=frame))
        left = len(digests)
        while left:
            message = await _next(self._requests, self._volume.limits.message_wait_s)
            if not isinstance(message, Frame):
                raise Invalid("chunks were asked for", field="part", reason="order")
            for data in self._unpacker.add(message):
                left -= 1
                if left < 0:
                    raise Invalid("a chunk came unasked", field="chunks", reason="many")
                yield data
        if self._unpacker.is_partial:
            raise Invalid("a chunk came unasked", field="chunks", reason="many")
