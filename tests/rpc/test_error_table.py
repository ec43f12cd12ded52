"""Every error crosses a real connection as itself."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from syncline import errors
from syncline.errors import SynclineError, all_errors
from syncline.rpc.channel import CLIENT_OPTIONS, SERVER_OPTIONS, open_channel
from syncline.rpc.error_table import DETAILS_KEY, from_rpc_error, to_abort

Behaviour = Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]
PATH = "/test.Test/Call"


@asynccontextmanager
async def serving(behaviour: Behaviour) -> AsyncIterator[tuple[str, grpc.aio.Channel]]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(behaviour)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Test", {"Call": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target = f"127.0.0.1:{port}"
    async with open_channel(target) as channel:
        yield target, channel
    await server.stop(None)


async def failure(
    channel: grpc.aio.Channel, request: bytes = b"", path: str = PATH
) -> SynclineError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(path)(request, timeout=10)
    return from_rpc_error(caught.value)


def aborting(error: SynclineError) -> Behaviour:
    async def behaviour(_: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        code, message, metadata = to_abort(error)
        await context.abort(code, message, metadata)
        raise AssertionError("abort raises")

    return behaviour


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.code)
async def test_each_error_comes_back_as_itself(kind: type[SynclineError]) -> None:
    sent = kind("it did not work: a\\x0a", path="dir/\\xff", revision="7")
    async with serving(aborting(sent)) as (_, channel):
        got = await failure(channel)
    assert type(got) is kind
    assert (got.message, got.fields) == (sent.message, sent.fields)


async def test_long_and_strange_texts_are_bounded_and_printable() -> None:
    fields = {"message": "ü" * 5000, "self": "x" * 9000, "late": "y"}
    sent = errors.NotFound("\x1b[2J\udcff\n" + "é" * 20_000)
    sent.fields = fields
    async with serving(aborting(sent)) as (_, channel):
        got = await failure(channel)
    assert isinstance(got, errors.NotFound)
    assert got.message.startswith("\\x1b[2J\\xed\\xb3\\xbf\\x0aéé")
    assert got.message.isprintable()
    assert len(got.message.encode()) <= 1024
    assert got.fields["message"].startswith("üüü")
    _, message, metadata = to_abort(sent)
    assert len(message.encode()) * 3 + len(metadata[0][1]) * 4 / 3 < 8000


def bare(
    code: grpc.StatusCode, details: str = "", metadata: tuple[tuple[str, bytes], ...] = ()
) -> SynclineError:
    trailing = grpc.aio.Metadata(*metadata)
    return from_rpc_error(
        grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)
    )


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", errors.TimedOut),
        (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "Stream removed (Deadline Exceeded)",
            errors.TimedOut,
        ),
        (grpc.StatusCode.CANCELLED, "", errors.Unavailable),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", errors.Throttled),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (9 vs. 4)",
            errors.TooLarge,
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "", errors.TooNew),
        (grpc.StatusCode.UNAUTHENTICATED, "", errors.NotSignedIn),
        (grpc.StatusCode.UNKNOWN, "boom", errors.Internal),
        (grpc.StatusCode.UNKNOWN, "Stream removed", errors.Unavailable),
        (grpc.StatusCode.INTERNAL, "", errors.Internal),
        (
            grpc.StatusCode.INTERNAL,
            "Received RST_STREAM with error code 2",
            errors.Unavailable,
        ),
        (grpc.StatusCode.FAILED_PRECONDITION, "", errors.Internal),
        (grpc.StatusCode.OUT_OF_RANGE, "", errors.Internal),
    ],
)
def test_bare_statuses(code: grpc.StatusCode, details: str, kind: type[SynclineError]) -> None:
    got = bare(code, details)
    assert type(got) is kind
    assert got.message


def test_broken_details_fall_back_to_the_status() -> None:
    for raw in (b"\xff\xff", b"", to_abort(errors.Stale("x"))[2][0][1][:-3]):
        got = bare(grpc.StatusCode.UNAVAILABLE, "x", ((DETAILS_KEY, raw),))
        assert type(got) is errors.Unavailable


async def test_what_grpc_says_by_itself() -> None:
    async def echo(request: bytes, _: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request

    async with serving(echo) as (target, channel):
        assert type(await failure(channel, path="/test.Test/Other")) is errors.TooNew
        assert type(await failure(channel, bytes(5 * 1024 * 1024))) is errors.TooLarge
        # Another client may compress: 64 MiB in 64 KiB are not unpacked by the server.
        async with grpc.aio.insecure_channel(target) as other:
            bomb = other.unary_unary(PATH)(bytes(1 << 26), compression=grpc.Compression.Gzip)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await bomb
        assert type(from_rpc_error(caught.value)) is errors.TooLarge
    async with open_channel("127.0.0.1:1") as nobody:
        assert type(await failure(nobody)) is errors.Unavailable


def test_the_server_allows_the_pings_of_the_client() -> None:
    client, server = dict(CLIENT_OPTIONS), dict(SERVER_OPTIONS)
    allowed = server["grpc.http2.min_ping_interval_without_data_ms"]
    sent = client["grpc.keepalive_time_ms"]
    assert isinstance(allowed, int)
    assert isinstance(sent, int)
    assert 2 * allowed <= sent


async def test_a_server_that_is_not_there_is_said_so_in_plain_words() -> None:
    """Guards against another wording in a later gRPC: then the words above need a look."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_channel(address) as channel:
            call = channel.unary_unary("/any/Method")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=10)
    error = from_rpc_error(caught.value)
    assert isinstance(error, errors.Unavailable)
    assert error.message == f"cannot reach the server at {address}: Connection refused"
