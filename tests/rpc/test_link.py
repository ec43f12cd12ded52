"""The link against servers that do what the protocol does not allow; a script is the server."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest

from syncline.core.bodies import ChunkBody, Compressed
from syncline.core.changes import Accepted, Answer, Author, Delete, Proposal, PutFile
from syncline.core.identity import (
    ROOT_ID,
    CommitId,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    digest_of,
)
from syncline.core.manifests import CHUNK_BYTES_MAX, single_chunk
from syncline.core.names import Name, RelPath
from syncline.core.table import Cursor, Head
from syncline.errors import (
    Corrupt,
    LocalFailure,
    NoSpace,
    NotFound,
    ProtocolBroken,
    TimedOut,
    TooNew,
    Unavailable,
)
from syncline.ports.link import Heartbeat, Progress, WatchBegin, WatchEvent
from syncline.rpc.channel import SERVER_OPTIONS
from syncline.rpc.convert_entries import head_to_pb
from syncline.rpc.error_table import to_abort
from syncline.rpc.frames import FETCH_FIELD, ChunkUnpacker, Frame, pack_chunks
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.link import GrpcLink
from syncline.rpc.methods import METHODS, Behaviour, generic_handler
from tests.support.bodies import compressed, zstd

Context = grpc.aio.ServicerContext[object, object]

AUTHOR = Author(ReplicaId(b"r" * 16), "ann")
HEAD = Head(Revision(3), CommitId(b"c" * 32), 5)
CHUNKS = [bytes([number]) * (300_000 + number) for number in range(12)]
DIGESTS = [digest_of(chunk) for chunk in CHUNKS]
BY_DIGEST = dict(zip(DIGESTS, CHUNKS, strict=True))


async def unexpected(request: object, context: Context) -> object:
    raise AssertionError("the script has no such call")


@asynccontextmanager
async def scripted(timeout_s: float = 20.0, **script: Behaviour) -> AsyncIterator[GrpcLink]:
    """Serve a script by method name; yield a link to it."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    behaviours = {name: script.get(name, unexpected) for name in METHODS}
    server.add_generic_rpc_handlers((generic_handler(behaviours),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    link = GrpcLink(f"127.0.0.1:{port}", "v", timeout_s=timeout_s)
    try:
        yield link
    finally:
        await link.close()
        await server.stop(None)


def answering(*responses: object) -> Behaviour:
    """Return a behaviour that sends these, whatever it is asked, and ends well."""

    async def behaviour(request: object, context: Context) -> AsyncIterator[object]:
        for response in responses:
            yield response

    return behaviour


def returning(response: object) -> Behaviour:
    async def behaviour(request: object, context: Context) -> object:
        return response

    return behaviour


def put(number: int) -> PutFile:
    content = single_chunk(DIGESTS[number], len(CHUNKS[number]))
    return PutFile(
        EntryId(DIGESTS[number][:16]), Revision(0), ROOT_ID, Name(b"%d" % number), 0o644, 0, content
    )


def proposal(count: int = len(CHUNKS)) -> Proposal:
    return Proposal(AUTHOR, OpId(b"o" * 16), tuple(put(number) for number in range(count)), {})


async def source(digest: Digest) -> bytes:
    return BY_DIGEST[digest]


def committed(count: int) -> pb.StoreResponse:
    accepted = pb.Outcome(accepted=pb.Accepted(revision=4))
    return pb.StoreResponse(committed=pb.Committed(revision=4, outcomes=[accepted] * count))


def missing(*digests: Digest, encodings: Sequence[int] = ()) -> pb.StoreResponse:
    return pb.StoreResponse(missing=pb.Missing(digests=digests, encodings=encodings))


@dataclass
class Receiver:
    """A server's end of a STORE that asks for everything, in two parts."""

    received: list[ChunkBody] = field(default_factory=list)
    encodings: Sequence[int] = ()
    """What it says that it takes; a server that came before them says nothing."""

    async def __call__(
        self, requests: AsyncIterator[pb.StoreRequest | Frame], context: Context
    ) -> AsyncIterator[pb.StoreResponse]:
        yield pb.StoreResponse(granted=pb.Granted())
        yield missing(*DIGESTS[:5], encodings=self.encodings)
        yield missing(*DIGESTS[5:], encodings=self.encodings)
        unpacker = ChunkUnpacker()
        async for request in requests:
            if isinstance(request, Frame):
                self.received += unpacker.add(request)
            if len(self.received) == len(CHUNKS):
                break
        yield committed(5)
        yield committed(len(CHUNKS) - 5)


def behaviour_of(receiver: Receiver) -> Behaviour:
    async def store(
        requests: AsyncIterator[pb.StoreRequest | Frame], context: Context
    ) -> AsyncIterator[pb.StoreResponse]:
        async for response in receiver(requests, context):
            yield response

    return store


async def test_store_sends_what_is_missing_in_order() -> None:
    receiver = Receiver()
    async with scripted(Store=behaviour_of(receiver)) as link:
        answer = await link.store(proposal(), source)
    assert receiver.received == CHUNKS
    accepted = Accepted(Revision(4), Revision(0))
    assert answer == Answer(Revision(4), (accepted,) * len(CHUNKS))


async def packed_source(digest: Digest) -> ChunkBody:
    return compressed(BY_DIGEST[digest])


@pytest.mark.parametrize("encodings", [[], [0], [2, 1000]])
async def test_a_server_that_does_not_take_compressed_chunks_gets_plain_ones(
    encodings: list[int],
) -> None:
    receiver = Receiver(encodings=encodings)
    async with scripted(Store=behaviour_of(receiver)) as link:
        await link.store(proposal(), packed_source)
    assert receiver.received == CHUNKS


@pytest.mark.parametrize("encodings", [[1], [1000, 1]])
async def test_a_server_that_takes_compressed_chunks_gets_them(encodings: list[int]) -> None:
    receiver = Receiver(encodings=encodings)
    async with scripted(Store=behaviour_of(receiver)) as link:
        await link.store(proposal(), packed_source)
    assert receiver.received == [compressed(chunk) for chunk in CHUNKS]
    assert all(isinstance(chunk, Compressed) for chunk in receiver.received)


async def test_the_error_of_the_server_wins_while_we_write() -> None:
    async def store(requests: AsyncIterator[pb.StoreRequest | Frame], context: Context) -> None:
        await context.write(missing(*DIGESTS * 40))
        async for request in requests:
            if isinstance(request, Frame):
                break
        code, message, metadata = to_abort(NoSpace("the disk is full", where="server"))
        await context.abort(code, message, metadata)

    async with scripted(Store=store) as link:
        with pytest.raises(NoSpace) as caught:
            await link.store(proposal(), source)
    assert caught.value.fields == {"where": "server"}


async def test_an_answer_before_all_was_sent_is_an_answer() -> None:
    async with scripted(Store=answering(missing(*DIGESTS * 40), committed(12))) as link:
        answer = await link.store(proposal(), source)
    assert answer.revision == 4


async def test_what_the_source_raises_ends_the_store() -> None:
    started = asyncio.Event()
    ended = asyncio.Event()

    async def store(requests: AsyncIterator[pb.StoreRequest | Frame], context: Context) -> None:
        await context.write(missing(*DIGESTS))
        try:
            async for _ in requests:
                started.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def broken(digest: Digest) -> bytes:
        await started.wait()
        raise LocalFailure("gone", path="x")

    async with scripted(Store=store) as link:
        with pytest.raises(LocalFailure):
            await link.store(proposal(), broken)
        await asyncio.wait_for(ended.wait(), 20)


BAD_STORES: dict[str, list[object]] = {
    "no answer": [],
    "too few outcomes": [committed(11)],
    "too many outcomes": [committed(13)],
    "something after the answer": [committed(12), missing(DIGESTS[0])],
    "unset": [pb.StoreResponse()],
    "no message": [b"\xff\xff\xff"],
    "short digest": [pb.StoreResponse(missing=pb.Missing(digests=[b"x"]))],
}


@pytest.mark.parametrize("name", BAD_STORES)
async def test_bad_stores(name: str) -> None:
    async with scripted(Store=answering(*BAD_STORES[name])) as link:
        with pytest.raises(ProtocolBroken):
            await link.store(proposal(), source)


async def silent_stream(request: object, context: Context) -> AsyncIterator[object]:
    await asyncio.Event().wait()
    yield pb.StoreResponse()


async def silent(request: object, context: Context) -> object:
    await asyncio.Event().wait()
    return None


async def drain(items: AsyncIterator[object]) -> list[object]:
    return [item async for item in items]


async def no_progress() -> AsyncIterator[Progress]:
    for item in ():
        yield item


def watching(link: GrpcLink, begin: WatchBegin | None = None) -> AsyncIterator[WatchEvent]:
    return link.watch(begin or WatchBegin(AUTHOR, None, from_head=True), no_progress())


CALLS: dict[str, Callable[[GrpcLink], Awaitable[object]]] = {
    "Hello": lambda link: link.hello(),
    "Store": lambda link: link.store(proposal(), source),
    "Delete": lambda link: link.delete(deletes()),
    "Fetch": lambda link: drain(link.fetch(DIGESTS)),
    "Watch": lambda link: drain(watching(link)),
    "List": lambda link: drain(link.list(RelPath(), is_recursive=True, at=None)),
    "Stat": lambda link: link.stat([RelPath.parse(b"name")], None),
}


def deletes() -> Proposal:
    return Proposal(AUTHOR, OpId(b"o" * 16), (Delete(EntryId(b"e" * 16), Revision(1)),), {})


@pytest.mark.parametrize("name", CALLS)
async def test_a_silent_server_times_out(name: str) -> None:
    script = silent_stream if METHODS[name].streams_responses else silent
    async with scripted(0.3, **{name: script}) as link:
        with pytest.raises(TimedOut):
            await CALLS[name](link)


@pytest.mark.parametrize("name", CALLS)
async def test_no_message_and_an_empty_one_break_the_protocol(name: str) -> None:
    method = METHODS[name]
    for raw in (b"\xff\xff\xff", b""):
        if name == "List" and not raw:
            continue  # an empty page is none
        script = answering(raw) if method.streams_responses else returning(raw)
        async with scripted(**{name: script}) as link:
            with pytest.raises(ProtocolBroken):
                await CALLS[name](link)


@pytest.mark.parametrize("name", CALLS)
async def test_nobody_listens(name: str) -> None:
    link = GrpcLink("127.0.0.1:1", "v", timeout_s=20)
    with pytest.raises(Unavailable):
        await CALLS[name](link)
    await link.close()
    with pytest.raises(Unavailable):
        await CALLS[name](link)


@pytest.mark.parametrize("name", CALLS)
async def test_closing_the_link_ends_its_calls(name: str) -> None:
    arrived = asyncio.Event()

    async def stream(request: object, context: Context) -> AsyncIterator[object]:
        arrived.set()
        await asyncio.Event().wait()
        yield pb.StoreResponse()

    async def unary(request: object, context: Context) -> object:
        arrived.set()
        await asyncio.Event().wait()
        return None

    async def caller(link: GrpcLink) -> None:
        with pytest.raises(Unavailable):
            await CALLS[name](link)

    script: Behaviour = stream if METHODS[name].streams_responses else unary
    async with scripted(**{name: script}) as link, asyncio.TaskGroup() as group:
        group.create_task(caller(link))
        await asyncio.wait_for(arrived.wait(), 20)
        await link.close()


@pytest.mark.parametrize("name", CALLS)
async def test_cancelling_a_call_is_cancelling(name: str) -> None:
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def stream(request: object, context: Context) -> AsyncIterator[object]:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield pb.StoreResponse()

    async def unary(request: object, context: Context) -> object:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return None

    async def caller(link: GrpcLink) -> None:
        await CALLS[name](link)

    script: Behaviour = stream if METHODS[name].streams_responses else unary
    async with scripted(**{name: script}) as link:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(caller(link))
            await asyncio.wait_for(arrived.wait(), 20)
            task.cancel()
        assert task.cancelled()
        await asyncio.wait_for(ended.wait(), 20)


# -- Fetch -------------------------------------------------------------------


def fetched(*chunks: ChunkBody) -> list[object]:
    return list(pack_chunks(chunks, FETCH_FIELD))


async def test_fetch_yields_chunks_in_order() -> None:
    async with scripted(Fetch=answering(*fetched(*CHUNKS))) as link:
        assert await drain(link.fetch(DIGESTS)) == CHUNKS


async def test_compressed_chunks_are_asked_for_and_come_out_plain() -> None:
    asked: list[pb.FetchRequest] = []

    async def fetch(request: pb.FetchRequest, context: Context) -> AsyncIterator[object]:
        asked.append(request)
        bodies = [compressed(chunk) if n % 3 else chunk for n, chunk in enumerate(CHUNKS)]
        for response in fetched(*bodies):
            yield response

    async with scripted(Fetch=fetch) as link:
        assert await drain(link.fetch(DIGESTS)) == CHUNKS
    assert [list(request.chunks.encodings) for request in asked] == [[pb.ENCODING_ZSTD]]


async def test_chunks_of_one_message_are_opened_a_few_at_a_time() -> None:
    parts = [bytes([n]) * CHUNK_BYTES_MAX for n in range(64)]
    digests = [digest_of(part) for part in parts]
    (message,) = fetched(*map(compressed, parts))
    del parts
    async with scripted(Fetch=answering(message)) as link:
        count = 0
        tracemalloc.start()
        try:
            async with aclosing(link.fetch(digests)) as chunks:
                async for chunk in chunks:
                    assert chunk[0] == count and len(chunk) == CHUNK_BYTES_MAX
                    count += 1
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == 64
    # Two parts of two chunks, the last one of each, and what opening takes beside them.
    assert peak < 12 * CHUNK_BYTES_MAX


LYING_BODIES: dict[str, ChunkBody] = {
    "another chunk": compressed(CHUNKS[2]),
    "garbage": Compressed(b"no zstd at all", len(CHUNKS[1])),
    "another size": Compressed(zstd.compress(CHUNKS[1]), len(CHUNKS[1]) - 1),
    "a bomb": Compressed(zstd.compress(bytes(2**28)), CHUNK_BYTES_MAX),
}


@pytest.mark.parametrize("what", LYING_BODIES)
async def test_a_compressed_chunk_that_lies_is_corrupt(what: str) -> None:
    async with scripted(Fetch=answering(*fetched(CHUNKS[0], LYING_BODIES[what]))) as link:
        with pytest.raises(Corrupt) as caught:
            await drain(link.fetch(DIGESTS[:2]))
    assert caught.value.fields["digest"] == DIGESTS[1].hex()


async def test_a_chunk_with_other_bytes_is_corrupt() -> None:
    for wrong in (b"x" + CHUNKS[1][1:], bytes(1024 * 1024)):
        async with scripted(Fetch=answering(*fetched(CHUNKS[0], wrong))) as link:
            got = []
            with pytest.raises(Corrupt) as caught:
                async for chunk in link.fetch(DIGESTS[:2]):
                    got.append(chunk)
        assert got in ([], [CHUNKS[0]])
        assert caught.value.fields["digest"] == DIGESTS[1].hex()


BAD_FETCHES: dict[str, list[object]] = {
    "too few": fetched(*CHUNKS[:-1]),
    "too many": fetched(*CHUNKS, b"x"),
    "middle of a chunk": [
        *fetched(*CHUNKS[:-1]),
        pb.FetchResponse(chunks=pb.ChunkFrame(pieces=[pb.ChunkPiece(data=b"x", is_cut=True)])),
    ],
    "by path": [pb.FetchResponse(found=pb.Located())],
    "an unknown encoding": [
        pb.FetchResponse(
            chunks=pb.ChunkFrame(pieces=[pb.ChunkPiece(data=b"x", encoding=2, size=10)])
        )
    ],
    "a size that no chunk has": [
        pb.FetchResponse(
            chunks=pb.ChunkFrame(pieces=[pb.ChunkPiece(data=b"x", encoding=1, size=2**30)])
        )
    ],
    "empty piece": [pb.FetchResponse(chunks=pb.ChunkFrame(pieces=[pb.ChunkPiece()]))],
}


@pytest.mark.parametrize("name", BAD_FETCHES)
async def test_bad_fetches(name: str) -> None:
    async with scripted(Fetch=answering(*BAD_FETCHES[name])) as link:
        with pytest.raises(ProtocolBroken):
            await drain(link.fetch(DIGESTS))


async def test_a_missing_chunk_is_not_found() -> None:
    async def fetch(request: object, context: Context) -> None:
        code, message, metadata = to_abort(NotFound("no such chunk", digest="ab"))
        await context.abort(code, message, metadata)

    async with scripted(Fetch=fetch) as link:
        with pytest.raises(NotFound) as caught:
            await drain(link.fetch(DIGESTS))
    assert caught.value.fields == {"digest": "ab"}


async def test_a_fetch_that_is_left_early_ends_on_the_server() -> None:
    ended = asyncio.Event()

    async def fetch(request: object, context: Context) -> AsyncIterator[object]:
        try:
            yield fetched(CHUNKS[0])[0]
            for frame in fetched(*CHUNKS[1:]):
                yield frame
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with scripted(Fetch=fetch) as link:
        chunks = link.fetch(DIGESTS)
        async with aclosing(chunks):
            async for chunk in chunks:
                assert chunk == CHUNKS[0]
                break
        await asyncio.wait_for(ended.wait(), 20)


# -- Watch -------------------------------------------------------------------

BEAT = pb.WatchResponse(heartbeat=pb.Heartbeat(head=head_to_pb(HEAD)))


async def test_watch_sends_progress_and_ends_when_left() -> None:
    told: list[pb.WatchRequest] = []
    ended = asyncio.Event()

    async def watch(
        requests: AsyncIterator[pb.WatchRequest], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        try:
            yield BEAT
            async for request in requests:
                told.append(request)
                yield BEAT
        finally:
            ended.set()

    async def progress() -> AsyncIterator[Progress]:
        yield Progress(Cursor(Revision(3), HEAD.commit_id), 1, 2)
        await asyncio.Event().wait()

    async with scripted(Watch=watch) as link:
        begin = WatchBegin(AUTHOR, Cursor(Revision(3), HEAD.commit_id))
        events = link.watch(begin, progress())
        async with aclosing(events):
            for _ in range(3):
                assert await anext(events) == Heartbeat(HEAD)
        await asyncio.wait_for(ended.wait(), 20)
    assert [request.WhichOneof("part") for request in told] == ["begin", "progress"]
    assert told[1].progress.problems == 2


async def test_what_progress_raises_ends_the_watch_with_it() -> None:
    async def watch(requests: object, context: Context) -> AsyncIterator[pb.WatchResponse]:
        yield BEAT
        await asyncio.Event().wait()

    async def progress() -> AsyncIterator[Progress]:
        raise LocalFailure("state lost")
        yield

    async with scripted(Watch=watch) as link:
        with pytest.raises(LocalFailure):
            await drain(link.watch(WatchBegin(AUTHOR, None, from_head=True), progress()))


def begins(revision: int, count: int) -> pb.WatchResponse:
    author = pb.Author(replica=AUTHOR.replica, name="ann")
    begin = pb.CommitBegin(revision=revision, author=author, op_id=b"o" * 16, count=count)
    return pb.WatchResponse(begin=begin)


GARBAGE_NAME = pb.Entry(id=b"i" * 16, revision=4, parent=bytes(16), name=b"../x", kind=pb.KIND_LINK)
BAD_WATCHES: dict[str, list[object]] = {
    "ends": [BEAT],
    "ends inside a commit": [begins(4, 0)],
    "count": [begins(4, 1), pb.WatchResponse(end=pb.CommitEnd(head=head_to_pb(HEAD)))],
    "gap": [begins(5, 0)],
    "garbage name": [
        begins(4, 1),
        pb.WatchResponse(entries=pb.CommitEntries(entries=[pb.CommitEntry(entry=GARBAGE_NAME)])),
    ],
}


@pytest.mark.parametrize("name", BAD_WATCHES)
async def test_bad_watches(name: str) -> None:
    begin = WatchBegin(AUTHOR, Cursor(Revision(3), None))
    async with scripted(Watch=answering(*BAD_WATCHES[name])) as link:
        with pytest.raises(ProtocolBroken):
            await drain(watching(link, begin))


# -- The rest ----------------------------------------------------------------


def entry(name: bytes) -> pb.Entry:
    return pb.Entry(
        id=name.ljust(16, b"i")[:16],
        revision=3,
        parent=bytes(16),
        name=name,
        kind=pb.KIND_LINK,
        target=b"there",
    )


def page(revision: int, *paths: bytes) -> pb.ListResponse:
    entries = [
        pb.Located(path=path, entry=entry(path.rpartition(b"/")[2]), author="ann") for path in paths
    ]
    return pb.ListResponse(revision=revision, entries=entries)


async def test_list_yields_all_pages() -> None:
    async with scripted(List=answering(page(3, b"a", b"a/b"), page(3, b"c"))) as link:
        found = [item async for item in link.list(RelPath(), is_recursive=True, at=None)]
    assert [bytes(item.path) for item in found] == [b"a", b"a/b", b"c"]


BAD_LISTS: dict[str, list[object]] = {
    "another revision": [page(3, b"a"), page(4, b"b")],
    "not the one asked for": [page(4, b"a")],
    "climbing": [page(3, b"../a")],
    "reserved": [page(3, b".syncline")],
    "empty name": [page(3, b"a/")],
    "NUL": [page(3, b"a\0b")],
}


@pytest.mark.parametrize("name", BAD_LISTS)
async def test_bad_lists(name: str) -> None:
    async with scripted(List=answering(*BAD_LISTS[name])) as link:
        with pytest.raises(ProtocolBroken):
            await drain(link.list(RelPath(), is_recursive=True, at=Revision(3)))


async def test_stat_of_many_paths_is_of_one_revision() -> None:
    asked: list[pb.StatRequest] = []

    async def stat(request: pb.StatRequest, context: Context) -> pb.StatResponse:
        asked.append(request)
        results = [
            pb.StatResult(found=page(7, path).entries[0]) if path.startswith(b"a") else None
            for path in request.paths
        ]
        found = [result or pb.StatResult() for result in results]
        return pb.StatResponse(revision=7, results=found)

    paths = [RelPath.parse(b"%s%d" % (b"ab"[i % 2 : i % 2 + 1], i)) for i in range(200)]
    async with scripted(Stat=stat) as link:
        found = await link.stat(paths, None)
    assert [item and item.path for item in found] == [
        path if bytes(path).startswith(b"a") else None for path in paths
    ]
    assert [request.revision for request in asked] == [0, 7, 7]


async def test_bad_stats() -> None:
    for response in (
        pb.StatResponse(revision=3),
        pb.StatResponse(revision=3, results=[pb.StatResult(found=page(3, b"b").entries[0])]),
        pb.StatResponse(revision=4, results=[pb.StatResult()]),
    ):
        async with scripted(Stat=returning(response)) as link:
            with pytest.raises(ProtocolBroken):
                await link.stat([RelPath.parse(b"a")], Revision(3))


async def test_a_server_that_is_too_new_is_told_before_its_answer_is_read() -> None:
    newer = pb.HelloResponse(protocol=9, protocol_oldest=8, volume_id=b"what?")
    async with scripted(Hello=returning(newer)) as link:
        with pytest.raises(TooNew):
            await link.hello()


async def test_one_link_serves_calls_at_once() -> None:
    waiting: set[int] = set()
    release = asyncio.Event()

    async def fetch(request: pb.FetchRequest, context: Context) -> AsyncIterator[object]:
        waiting.add(len(waiting))
        if len(waiting) == 20:
            release.set()
        await release.wait()
        for frame in fetched(CHUNKS[0]):
            yield frame

    async def one(link: GrpcLink) -> None:
        assert await drain(link.fetch(DIGESTS[:1])) == CHUNKS[:1]

    async with scripted(Fetch=fetch) as link, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(one(link))
    assert len(waiting) == 20, "all calls were under way at once"
