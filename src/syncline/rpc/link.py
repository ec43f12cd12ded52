"""The link to one volume over gRPC. No call is repeated here: a wrapper does that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import replace

import grpc.aio

from syncline import __version__
from syncline.core.bodies import ChunkBody, Compressed, plain_bytes, plain_size
from syncline.core.changes import Answer, Author, HeldToken, Proposal
from syncline.core.identity import Digest, Revision, digest_of
from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.core.names import RelPath
from syncline.errors import Corrupt, ProtocolBroken, SynclineError
from syncline.ports.link import (
    ChunkSource,
    Located,
    Progress,
    ServerFacts,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LeaseLeft, LocatedLock, LockWanted, Unlocked, UnlockWanted
from syncline.rpc import convert_locks
from syncline.rpc.calls import (
    StreamCall,
    ask,
    only_error,
    raise_if_cancelled,
    server_said,
    stream_stream,
    unary_stream,
)
from syncline.rpc.channel import open_channel
from syncline.rpc.convert_answers import AnswerReader, digest_groups
from syncline.rpc.convert_entries import invalid
from syncline.rpc.convert_reads import (
    STAT_PATHS_MAX,
    Listing,
    facts_from_pb,
    fetch_to_pb,
    hello_to_pb,
    list_page_from_pb,
    list_to_pb,
    stat_answer_from_pb,
    stat_to_pb,
)
from syncline.rpc.convert_store import check_proposal, delete_to_pb
from syncline.rpc.convert_watch import WatchReader, progress_to_pb, watch_begin_to_pb
from syncline.rpc.frames import ChunkUnpacker, Frame
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.methods import (
    DELETE,
    FETCH,
    HELLO,
    LIST,
    LIST_LOCKS,
    LOCK,
    RENEW,
    STAT,
    STORE,
    UNLOCK,
    WATCH,
)
from syncline.rpc.store_call import StoreCall

_HASH_INLINE_BYTES_MAX = CHUNK_BYTES_MAX
"""Up to here a digest (6 GB/s) costs less than the way to a thread and back."""

_OPENING_COSTS = 8
"""To open a compressed byte takes so many times as long as a digest of it."""

_OPEN_BYTES_MAX = 2 * CHUNK_BYTES_MAX
"""Plain content that is opened at once; what is behind it waits for its turn."""

_WatchCall = StreamCall[pb.WatchRequest, pb.WatchResponse]


class GrpcLink:
    """Implements `syncline.ports.link.Link`.

    `timeout_s` is the deadline of a unary call; a stream may be longer, but not without a message
    for so long. A STORE or DELETE may besides wait for locks as long as its proposal says.
    Iterators hold a call open: leave them early with `contextlib.aclosing`.
    """

    def __init__(
        self, target: str, volume: str, *, timeout_s: float, tokens: Sequence[HeldToken] = ()
    ) -> None:
        """Name the server (`host:port`) and the volume; nothing is sent before the first call.

        `tokens` are of user locks that every STORE and DELETE is made under.
        """
        self._tokens = tuple(tokens)
        self._target = target
        self._volume = volume
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None

    def _open(self) -> grpc.aio.Channel:
        # At the first call and not before: a channel belongs to the event loop that it is made in.
        if self._channel is None:
            self._channel = open_channel(self._target)
        return self._channel

    async def close(self) -> None:
        """End all calls and let go of the connection."""
        if self._channel is not None:
            await self._channel.close(None)

    async def hello(self) -> ServerFacts:
        """Return the facts; raise TooNew when the two sides speak no common protocol."""
        request = hello_to_pb(self._volume, __version__)
        response = await ask(self._open(), HELLO, request, self._timeout_s)
        with server_said():
            return facts_from_pb(response)

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        """Make one commit; `source` is asked for the chunks that the server lacks, in order."""
        proposal = self._under_locks(proposal)
        check_proposal(proposal)
        timeout_s = self._timeout_s + proposal.wait_s
        async with stream_stream(self._open(), STORE, timeout_s) as call:
            return await StoreCall(call, self._volume, proposal, source, timeout_s).run()

    async def delete(self, proposal: Proposal) -> Answer:
        """Make one commit of deletes; raise Invalid when the proposal has anything else."""
        request = delete_to_pb(self._volume, self._under_locks(proposal))
        timeout_s = self._timeout_s + proposal.wait_s
        response = await ask(self._open(), DELETE, request, timeout_s)
        reader = AnswerReader(len(proposal.changes))
        with server_said():
            reader.add(response)
            if reader.answer is None:
                raise invalid("outcomes", "not one for each change")
        return reader.answer

    def _under_locks(self, proposal: Proposal) -> Proposal:
        return replace(proposal, tokens=(*proposal.tokens, *self._tokens))

    async def fetch(self, digests: Sequence[Digest]) -> AsyncGenerator[bytes, None]:
        """Yield chunks in the order asked, each checked against its digest (G8)."""
        for part in digest_groups(digests):
            request = fetch_to_pb(self._volume, part)
            async with unary_stream(self._open(), FETCH, request, self._timeout_s) as call:
                unpacker = ChunkUnpacker()
                position = 0
                while (response := await call.read()) is not None:
                    bodies = _unpack(unpacker, response)
                    if len(part) - position < len(bodies):
                        raise ProtocolBroken("the server sent more chunks than were asked for")
                    for group in _opened_at_once(bodies):
                        expected = part[position : position + len(group)]
                        position += len(group)
                        for chunk in await _open_checked(expected, group):
                            yield chunk
                if position < len(part) or unpacker.is_partial:
                    raise ProtocolBroken("the server ended a FETCH before its last chunk")

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncGenerator[WatchEvent, None]:
        """Yield what happens, for ever; send what `progress` yields meanwhile.

        The end of `progress` ends nothing; a typed error out of it ends the watch with it.
        """
        failures: list[BaseException] = []
        try:
            async with (
                stream_stream(self._open(), WATCH, self._timeout_s) as call,
                asyncio.TaskGroup() as group,
            ):
                opening = watch_begin_to_pb(self._volume, begin)
                report = group.create_task(_report(call, opening, progress, failures))
                revision = begin.cursor.revision if begin.cursor else None
                reader = WatchReader(revision, wants_locks=begin.wants_locks)
                while (response := await call.read()) is not None:
                    with server_said():
                        event = reader.add(response)
                    if event is not None:
                        yield event
                report.cancel()
        except BaseExceptionGroup as errors:
            raise_if_cancelled()
            failures.append(only_error(errors))
        if failures:
            raise failures[0]
        raise ProtocolBroken("the server ended a WATCH as if there were nothing more to come")

    async def list(
        self, path: RelPath, *, is_recursive: bool, at: Revision | None
    ) -> AsyncGenerator[Located, None]:
        """Yield what is at and below a path, all of one revision."""
        listing = Listing(path, is_recursive, at)
        request = list_to_pb(self._volume, listing)
        listed: Revision | None = at
        async with unary_stream(self._open(), LIST, request, self._timeout_s) as call:
            while (response := await call.read()) is not None:
                with server_said():
                    revision, entries = list_page_from_pb(response, listing)
                    if listed not in (None, revision):
                        raise invalid("revision", "the pages of a listing have different ones")
                listed = revision
                for located in entries:
                    yield located

    async def stat(self, paths: Sequence[RelPath], at: Revision | None) -> Sequence[Located | None]:
        """Return what is at each path; many paths are asked for in parts, at one revision."""
        found: list[Located | None] = []
        for start in range(0, len(paths), STAT_PATHS_MAX):
            part = paths[start : start + STAT_PATHS_MAX]
            request = stat_to_pb(self._volume, part, at)
            response = await ask(self._open(), STAT, request, self._timeout_s)
            with server_said():
                revision, results = stat_answer_from_pb(response, part)
                if at not in (None, revision):
                    raise invalid("revision", "is not the revision that was asked for")
            # An empty volume has no revision to ask for again; what comes later is not seen twice.
            at = revision or None
            found.extend(results)
        return found

    async def lock(self, wanted: LockWanted) -> Sequence[LocatedLock]:
        """Lock all targets or none; the call may be as long as it wants to wait."""
        request = convert_locks.lock_request_to_pb(self._volume, wanted)
        response = await ask(self._open(), LOCK, request, self._timeout_s + wanted.wait_s)
        with server_said():
            return convert_locks.lock_response_from_pb(response)

    async def renew(
        self, author: Author, tokens: Sequence[HeldToken], ttl_s: float = 0.0
    ) -> Sequence[LeaseLeft | None]:
        """Renew leases; None where a lock is lost."""
        request = convert_locks.renew_to_pb(self._volume, author, tokens, ttl_s)
        response = await ask(self._open(), RENEW, request, self._timeout_s)
        with server_said():
            return convert_locks.renewed_from_pb(response, len(tokens))

    async def unlock(self, wanted: UnlockWanted) -> Sequence[Unlocked]:
        """Unlock all targets, or none when one is another's."""
        request = convert_locks.unlock_to_pb(self._volume, wanted)
        response = await ask(self._open(), UNLOCK, request, self._timeout_s)
        with server_said():
            return convert_locks.unlocked_from_pb(response, len(wanted.targets))

    async def locks(self, path: RelPath) -> AsyncGenerator[LocatedLock, None]:
        """Yield the locks on a path, below it and above it, by path."""
        request = pb.ListLocksRequest(volume=self._volume, path=bytes(path))
        async with unary_stream(self._open(), LIST_LOCKS, request, self._timeout_s) as call:
            while (response := await call.read()) is not None:
                with server_said():
                    locks = [convert_locks.lock_from_pb(lock) for lock in response.locks]
                for located in locks:
                    yield located


def _unpack(unpacker: ChunkUnpacker, response: pb.FetchResponse | Frame) -> list[ChunkBody]:
    with server_said():
        if not isinstance(response, Frame):
            raise invalid("part", "a FETCH by digest has chunks alone")
        return unpacker.add(response)


def _opened_at_once(bodies: Sequence[ChunkBody]) -> Iterator[Sequence[ChunkBody]]:
    """Yield the chunks of a message in parts: little that is compressed may open to very much."""
    start = size = 0
    for index, body in enumerate(bodies):
        size += plain_size(body)
        if size >= _OPEN_BYTES_MAX:
            yield bodies[start : index + 1]
            start, size = index + 1, 0
    if start < len(bodies):
        yield bodies[start:]


async def _open_checked(digests: Sequence[Digest], bodies: Sequence[ChunkBody]) -> Sequence[bytes]:
    """Return the chunks plain; raise Corrupt for the first that is not what its digest says."""
    work = sum(
        _OPENING_COSTS * body.size if isinstance(body, Compressed) else len(body) for body in bodies
    )
    if work > _HASH_INLINE_BYTES_MAX:
        return await asyncio.to_thread(_open_all, digests, bodies)
    return _open_all(digests, bodies)


def _open_all(digests: Sequence[Digest], bodies: Sequence[ChunkBody]) -> list[bytes]:
    plain: list[bytes] = []
    for digest, body in zip(digests, bodies, strict=True):
        try:
            chunk = plain_bytes(body)
        except Corrupt as error:
            raise Corrupt(
                f"the server sent a chunk that cannot be opened: {error.message}",
                digest=digest.hex(),
            ) from error
        if digest_of(chunk) != digest:
            raise Corrupt("the server sent a chunk with other bytes", digest=digest.hex())
        plain.append(chunk)
    return plain


async def _report(
    call: _WatchCall,
    begin: pb.WatchRequest,
    progress: AsyncIterator[Progress],
    failures: list[BaseException],
) -> None:
    """Open the WATCH and send progress. Never raises one of our errors.

    An error out of this task would cancel the consumer of the iterator in the middle of his own
    work; so it is kept, and the call ended, for the reading side to find.
    """
    try:
        if not await call.write(begin):
            return
        async for item in progress:
            if not await call.write(progress_to_pb(item)):
                return
    except SynclineError as error:
        failures.append(error)
        call.end()
