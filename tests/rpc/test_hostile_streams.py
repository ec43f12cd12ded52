"""Streams and connections that stop, flood, hang or never were HTTP/2."""

from __future__ import annotations

import asyncio
import resource
import struct
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from syncline.compose.direct import DirectLink
from syncline.core.identity import ROOT_ID, digest_of
from syncline.errors import SynclineError, Throttled
from syncline.rpc.error_table import from_rpc_error
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.methods import METHODS, STORE, encode
from syncline.server.limits import Limits
from tests.support.hostile import (
    FINE,
    INVALID,
    TIMED_OUT,
    Target,
    attacked,
    begin,
    changes,
    chunks,
    fresh_id,
    of_parts,
    put_content,
    put_file,
    unharmed,
    watch,
)
from tests.support.serving import Backend, Chunks, SeededIds, accepted, propose
from tests.support.trees import put_file as put_file_value
from tests.support.wait import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

WATCHES, STORES = 8, 10
RING_BYTES = 256 * 1024


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    limits = Limits(
        watches_each_max=WATCHES,
        stores_each_max=STORES,
        ring_bytes_max=RING_BYTES,
        heartbeat_s=0.1,
    )
    async with attacked(Backend.on_disk(tmp_path_factory.mktemp("data")), limits) as target:
        yield target


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """A server that waits half a second for a message that it is owed."""
    limits = Limits(message_wait_s=0.5, first_message_wait_s=0.5)
    async with attacked(Backend.on_disk(tmp_path_factory.mktemp("data")), limits) as target:
        yield target


@pytest_asyncio.fixture(loop_scope="module")
async def channel(target: Target) -> AsyncIterator[grpc.aio.Channel]:
    """Another connection, for many calls at once."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target.address, options=options) as channel:
        yield channel


def opened(channel: grpc.aio.Channel, name: str) -> grpc.aio.StreamStreamCall:
    method = METHODS[name]
    return channel.stream_stream(
        method.path, request_serializer=encode, response_deserializer=method.response.FromString
    )()


# -- Streams that stop -------------------------------------------------------

MISSING = of_parts([b"never sent", b"nor this"])

STOPS: dict[str, tuple[str, list[Message]]] = {
    "before the begin": ("Store", []),
    "after the begin": ("Store", [begin()]),
    "before the last change": ("Store", [begin(), changes(put_file(), is_last=False)]),
    "before the chunks": ("Store", [begin(), changes(put_content(MISSING))]),
    "between two chunks": (
        "Store",
        [begin(), changes(put_content(of_parts([b"sent", b"unsent"]))), chunks(b"sent")],
    ),
    "inside a chunk": (
        "Store",
        [
            begin(),
            changes(put_content(of_parts([b"unfinished", b"2"]))),
            chunks(b"unf", is_cut=True),
        ],
    ),
    "before the begin of a watch": ("Watch", []),
}


@pytest.mark.parametrize("moment", STOPS)
async def test_a_stream_that_owes_a_message_is_ended(impatient: Target, moment: str) -> None:
    method, messages = STOPS[moment]
    async with unharmed(impatient):
        told = await impatient.say(method, *messages, closes=False)
        assert told.verdict == TIMED_OUT


@pytest.mark.parametrize("moment", STOPS)
async def test_a_stream_that_is_closed_half_way_is_refused(target: Target, moment: str) -> None:
    method, messages = STOPS[moment]
    async with unharmed(target):
        assert (await target.say(method, *messages)).verdict == INVALID


@pytest.mark.parametrize("moment", [moment for moment in STOPS if STOPS[moment][1]])
async def test_a_stream_that_is_cancelled_leaves_nothing(
    target: Target, channel: grpc.aio.Channel, moment: str
) -> None:
    async with unharmed(target):
        call = opened(channel, "Store")
        for message in STOPS[moment][1]:
            await call.write(message)
        await eventually(lambda: target.volumes.stores.count == 1, "the STORE has begun")
        call.cancel()


async def test_a_stalled_store_holds_its_entry_and_no_other(
    target: Target, channel: grpc.aio.Channel
) -> None:
    held = put_content(MISSING)
    async with unharmed(target, commits=1):
        call = opened(channel, "Store")
        await call.write(begin())
        await call.write(changes(held))
        await eventually(lambda: target.volume.locks.locks.count == 1, "the lock is held")
        same_name = put_file(name=held.file.name)
        told = await target.store(same_name, put_file(id=held.id), put_file())
        assert told.outcomes() == ["LOCKED", "LOCKED", "ok"]
        (refused, *_) = told.responses[0].committed.outcomes
        assert refused.refusal.holder.author.name == "hostile"
        call.cancel()


async def test_a_watcher_that_breaks_the_rules_is_told_so_even_while_it_is_written_to(
    target: Target,
) -> None:
    async with unharmed(target):
        for _ in range(20):
            told = await target.say("Watch", watch(from_head=True), pb.WatchRequest(), closes=False)
            assert told.verdict == INVALID


# -- Floods ------------------------------------------------------------------

FLOOD = 300


def flood_messages(number: int) -> tuple[str, list[Message]]:
    listed: Sequence[tuple[str, list[Message]]] = (
        ("Store", [begin(), changes(put_content(MISSING))]),
        ("Watch", [watch()]),
        ("Watch", [watch(from_head=True)]),
        ("Store", [begin()]),
        ("Store", []),
    )
    return listed[number % len(listed)]


async def test_streams_that_are_opened_and_cancelled_leave_nothing(
    target: Target, channel: grpc.aio.Channel
) -> None:
    async with unharmed(target):
        for number in range(FLOOD):
            name, messages = flood_messages(number)
            call = opened(channel, name)
            for message in messages:
                try:
                    await call.write(message)
                except grpc.aio.AioRpcError as error:
                    # Refused before all of it was sent.
                    assert error.code() is not grpc.StatusCode.UNKNOWN
                    break
            call.cancel()


async def test_reads_that_are_cancelled_leave_nothing(
    target: Target, channel: grpc.aio.Channel
) -> None:
    files = [put_file(b"x" * 40_000) for _ in range(20)]
    requests: list[tuple[str, Message]] = [
        ("List", pb.ListRequest(volume="default", is_recursive=True)),
        ("Fetch", pb.FetchRequest(volume="default", file=pb.FetchFile(path=files[0].file.name))),
        (
            "Fetch",
            pb.FetchRequest(
                volume="default", chunks=pb.FetchChunks(digests=[digest_of(b"x" * 40_000)] * 400)
            ),
        ),
    ]
    async with unharmed(target, commits=1):
        assert (await target.store(*files)).outcomes() == ["ok"] * len(files)
        for number in range(FLOOD):
            name, request = requests[number % len(requests)]
            method = METHODS[name]
            call = channel.unary_stream(
                method.path,
                request_serializer=encode,
                response_deserializer=method.response.FromString,
            )(request)
            if number % 2:
                await call.read()
            call.cancel()


async def test_silent_connections_keep_nobody_out(target: Target) -> None:
    host, _, port = target.address.rpartition(":")
    async with unharmed(target), AsyncExitStack() as stack:
        for _ in range(FLOOD):
            _, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target.address, options=options) as channel:
            hello = channel.unary_unary(
                METHODS["Hello"].path,
                request_serializer=encode,
                response_deserializer=pb.HelloResponse.FromString,
            )
            request = pb.HelloRequest(volume="default", protocol=1, protocol_oldest=1)
            answer = await hello(request, timeout=5)
        assert answer.volume_name == "default"


async def refusal(call: grpc.aio.StreamStreamCall) -> SynclineError:
    """Return the error that ends a call which has said nothing yet."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            raise AssertionError("a call over the bound was answered")
    return from_rpc_error(caught.value)


async def test_one_connection_has_a_bound_on_its_watches(
    target: Target, channel: grpc.aio.Channel
) -> None:
    async with unharmed(target):
        held = [opened(channel, "Watch") for _ in range(WATCHES)]
        for call in held:
            await call.write(watch(from_head=True))
            assert (await call.read()).HasField("heartbeat")
        error = await refusal(opened(channel, "Watch"))
        assert isinstance(error, Throttled)
        assert error.fields == {"limit": str(WATCHES), "scope": "client"}
        other = await target.say("Watch", watch(from_head=True), closes=False, responses_max=1)
        assert other.verdict == FINE
        for call in held:
            call.cancel()


async def test_one_connection_has_a_bound_on_its_stores(
    target: Target, channel: grpc.aio.Channel
) -> None:
    """Streams that have not even begun count, so that silence is no way around the bound."""
    async with unharmed(target, commits=1):
        held = [opened(channel, "Store") for _ in range(STORES)]
        for call in held[::2]:
            await call.write(begin())
        await eventually(lambda: target.volumes.stores.count == STORES, "all STOREs are there")
        assert isinstance(await refusal(opened(channel, "Store")), Throttled)
        assert (await target.store(put_file())).verdict == FINE
        for call in held:
            call.cancel()


# -- A watcher that does not read --------------------------------------------

COMMITS = 2000


async def commit_many(target: Target, count: int, size: int) -> None:
    """Make commits of one small file each, some at a time."""
    link, ids = DirectLink(target.volume), SeededIds(9)
    numbers: Iterator[int] = iter(range(count))

    async def some() -> None:
        for number in numbers:
            data = b"%08d" % number * (size // 8)
            change = put_file_value(f"{size} {number}", content=data)
            accepted(await link.store(propose(change, ids=ids, inline=[data]), Chunks()))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(32):
            tasks.create_task(some())


async def test_a_watcher_that_does_not_read_slows_only_itself(
    target: Target, channel: grpc.aio.Channel
) -> None:
    async with unharmed(target, commits=COMMITS):
        first = (await target.held()).revision
        slow, quick = opened(channel, "Watch"), opened(channel, "Watch")
        for call in (slow, quick):
            await call.write(watch(from_head=True, wants_inline=True))
            assert (await call.read()).HasField("heartbeat")
        seen: list[int] = []

        async def follow(call: grpc.aio.StreamStreamCall) -> None:
            while len(seen) < COMMITS:
                event = await call.read()
                if event.HasField("end"):
                    seen.append(event.end.head.revision)

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            tasks.create_task(follow(quick))
            await commit_many(target, COMMITS, 1024)
        wanted = list(range(first + 1, first + COMMITS + 1))
        assert seen == wanted
        kept = [revision for revision in wanted if target.volume.feed.after(revision - 1)]
        assert kept[-1] == wanted[-1] and len(kept) * 1024 <= RING_BYTES
        seen.clear()
        async with asyncio.timeout(30):
            await follow(slow)
        assert seen == wanted
        slow.cancel()
        quick.cancel()


async def test_the_ring_counts_all_that_it_keeps(target: Target) -> None:
    """Targets of links and manifests are memory too, whatever they are called."""
    commits, links, target_bytes = 12, 100, 4000
    async with unharmed(target, commits=commits):
        first = (await target.held()).revision
        for _ in range(commits):
            listed = []
            for _ in range(links):
                id = fresh_id()
                link = pb.PutLink(
                    parent=ROOT_ID,
                    name=id.hex().encode(),
                    target=id.hex().encode() * (target_bytes // 32),
                )
                listed.append(pb.Change(id=id, link=link))
            assert (await target.store(*listed)).outcomes() == ["ok"] * links
        kept = [
            revision
            for revision in range(first, first + commits)
            if target.volume.feed.after(revision)
        ]
        assert len(kept) * links * target_bytes <= RING_BYTES


# -- Messages that are too large, and bombs ----------------------------------


async def test_a_message_over_4_mib_is_refused(target: Target) -> None:
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target.address, options=options) as channel:
        for size in (4 * 2**20 + 1, 5 * 10**6, 16 * 2**20):
            async with unharmed(target):
                call = channel.unary_unary(METHODS["Stat"].path)(bytes(size), timeout=10)
                assert await call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# -- HTTP/2 by hand ----------------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0, 1, 3, 4, 6, 7, 8, 9,
)  # fmt: skip
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(path: bytes, **more: bytes) -> bytes:
    """Return header fields without any compression: each a literal that is not indexed."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
        **{name.replace("_", "-").encode(): value for name, value in more.items()},
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in fields.items()
    )


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int


async def answers(target: Target, sent: bytes, *, timeout_s: float = 5.0) -> list[Frame]:
    """Send bytes; return the frames that came until the stream or the connection ended."""
    host, _, port = target.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    frames: list[Frame] = []
    with closing(writer):
        try:
            writer.write(sent)
            async with asyncio.timeout(timeout_s):
                while True:
                    head = await reader.readexactly(9)
                    size = int.from_bytes(head[:3], "big")
                    frames.append(Frame(head[3], head[4], int.from_bytes(head[5:9], "big")))
                    await reader.readexactly(size)
                    if is_ended(frames[-1:]):
                        break
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
    return frames


def opening(path: str, **more: bytes) -> bytes:
    """Return what starts a connection and a call on stream 1."""
    begun = frame(HEADERS, headers(path.encode(), **more), flags=END_HEADERS, stream=1)
    return PREFACE + frame(SETTINGS) + begun


def is_ended(got: Sequence[Frame]) -> bool:
    """Tell whether the server ended the call on stream 1."""
    return any(
        one.stream == 1 and (one.kind == RST_STREAM or one.flags & END_STREAM) for one in got
    )


async def test_a_length_prefix_of_4_gib_is_refused_before_anything_is_held(
    target: Target,
) -> None:
    for prefix in (b"\0\xff\xff\xff\xff", b"\1\xff\xff\xff\xff", b"\0\x00\x40\x00\x01"):
        async with unharmed(target):
            # The message is never whole; so it is the prefix that ends the call.
            sent = opening(STORE.path) + frame(DATA, prefix + b"and no more", stream=1)
            assert is_ended(await answers(target, sent))


async def test_a_bomb_is_unpacked_up_to_the_limit_of_a_message(target: Target) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    message = b"\1" + len(packed).to_bytes(4, "big") + packed
    frames = [message[start : start + 16_000] for start in range(0, len(message), 16_000)]
    sent = opening(METHODS["Stat"].path, grpc_encoding=b"gzip")
    sent += b"".join(frame(DATA, part, stream=1) for part in frames)
    assert len(sent) < 2**19
    async with unharmed(target):
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert is_ended(await answers(target, sent))
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
        assert grown_kib < 64 * 1024, "256 MiB were unpacked"


GARBAGE = {
    "nothing": b"",
    "garbage": b"\xff\0" * 5000,
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "half of the preface": PREFACE[:12],
    "the preface alone": PREFACE,
    "a frame of 16 MiB": PREFACE + frame(SETTINGS) + b"\xff\xff\xff\0\0\0\0\0\1" + bytes(70_000),
    "data of no stream": PREFACE + frame(SETTINGS) + frame(DATA, b"data"),
    "settings that are cut": PREFACE + frame(SETTINGS, b"12345"),
    "no window": PREFACE + frame(SETTINGS) + frame(WINDOW_UPDATE, bytes(4)),
    "headers that are none": PREFACE
    + frame(SETTINGS)
    + frame(HEADERS, b"\xff" * 100, flags=END_HEADERS, stream=1),
    "a table that was never filled": PREFACE
    + frame(SETTINGS)
    + frame(HEADERS, b"\xfe" * 10, flags=END_HEADERS, stream=1),
    "endless headers": PREFACE
    + frame(SETTINGS)
    + frame(HEADERS, headers(b"/x"), stream=1)
    + frame(CONTINUATION, b"\0\1a\1b" * 3000, stream=1) * 50,
    "a flood of pings": PREFACE + frame(SETTINGS) + frame(PING, bytes(8)) * 10_000,
    "a flood of settings": PREFACE + frame(SETTINGS) * 10_000,
    "a flood of resets": PREFACE
    + frame(SETTINGS)
    + b"".join(
        frame(HEADERS, headers(STORE.path.encode()), flags=END_HEADERS, stream=stream)
        + frame(RST_STREAM, bytes(4), stream=stream)
        for stream in range(3, 2003, 2)
    ),
}


@pytest.mark.parametrize("what", GARBAGE)
async def test_bytes_that_are_not_the_protocol_harm_nobody(target: Target, what: str) -> None:
    async with unharmed(target):
        got = await answers(target, GARBAGE[what], timeout_s=0.3)
        assert not any(frame.kind == HEADERS and frame.stream == 1 for frame in got) or (
            what in ("headers that are none", "a table that was never filled", "endless headers")
        )
