"""One call of a client: its messages, its deadline by progress, and its errors as ours.

R1  Every failure of gRPC leaves this module as a typed error, by the one table.
R2  What the server sent and we cannot accept is ProtocolBroken, never Invalid: the caller's own
    arguments were checked before.
R3  CancelledError means that the caller was cancelled, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, Protocol, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from syncline.errors import (
    Invalid,
    ProtocolBroken,
    SynclineError,
    TimedOut,
    TooLarge,
    Unavailable,
)
from syncline.rpc.error_table import from_rpc_error
from syncline.rpc.methods import Method, encode

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")
RawRequest = TypeVar("RawRequest", contravariant=True)
RawResponse = TypeVar("RawResponse", covariant=True)
T = TypeVar("T")


class _RawCall(Protocol[RawRequest, RawResponse]):
    """What the streaming calls of grpc.aio have in common."""

    def __aiter__(self) -> AsyncGenerator[RawResponse | None, None]: ...

    async def write(self, request: RawRequest | bytes, /) -> None: ...

    def cancel(self) -> bool: ...

    def add_done_callback(self, callback: Callable[[_Ended], None]) -> None: ...


class _Ended(Protocol):
    """A call of which the status is known: none of these waits."""

    async def code(self) -> grpc.StatusCode: ...

    async def details(self) -> str: ...

    async def trailing_metadata(self) -> grpc.aio.Metadata: ...


@contextmanager
def rpc_errors() -> Iterator[None]:
    """Turn what gRPC raises into our errors (R1, R3)."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error
    except (grpc.aio.UsageError, asyncio.InvalidStateError) as error:
        raise Unavailable("the link is closed") from error
    except asyncio.CancelledError as error:
        raise_if_cancelled()
        # The channel was closed under the call.
        raise Unavailable("the link was closed during the call") from error


def raise_if_cancelled() -> None:
    """Raise CancelledError where the current task is being cancelled (R3).

    Also for whoever takes a group of errors apart: when the body of a TaskGroup ends by an error,
    and the group is cancelled from outside while its tasks end, Python before 3.13 tells of the
    error alone, and who deals with it would go on for ever
    (https://github.com/python/cpython/issues/116720). Only where the error is the body's: one of a
    task that comes after the body has ended counts as a cancellation as well, and stays one.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def server_said() -> Iterator[None]:
    """Turn a message that is not acceptable into ProtocolBroken (R2)."""
    try:
        yield
    except (Invalid, TooLarge) as error:
        fields = {key: value for key, value in error.fields.items() if key in ("field", "reason")}
        raise ProtocolBroken(
            f"the server sent what the protocol does not allow: {error.message}", **fields
        ) from error


def timed_out(timeout_s: float) -> TimedOut:
    """Return the error for a call without progress."""
    return TimedOut(f"no progress for {timeout_s:g} s", timeout_s=f"{timeout_s:g}")


async def ask(
    channel: grpc.aio.Channel,
    method: Method[Request, Response],
    request: Request,
    timeout_s: float,
) -> Response:
    """Make a unary call with a deadline; return its answer."""
    with rpc_errors():
        call = channel.unary_unary(
            method.path,
            request_serializer=encode,
            response_deserializer=method.decode_response,
        )
        response = cast("Response | None", await call(request, timeout=timeout_s))
    return _decoded(response)


class StreamCall(Generic[Request, Response]):
    """A streaming call; `timeout_s` bounds the wait for one message, not the whole.

    `read` belongs to one task and `write` to one task. Cancelling either ends the call.

    R4  A failed write hides nothing: grpc.aio then puts an INTERNAL of its own in the place of the
        status that the server sent, before or after it arrives, and its `read` drops what has
        arrived. So messages are taken by iteration, and the first status is kept.
    """

    def __init__(self, call: _RawCall[Request, Response], timeout_s: float) -> None:
        self._call = call
        self._responses = aiter(call)
        self._timeout_s = timeout_s
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._keep_status)

    def _keep_status(self, call: _Ended) -> None:
        self._first = grpc.aio.AioRpcError(
            _at_once(call.code()),
            grpc.aio.Metadata(),
            _at_once(call.trailing_metadata()),
            details=_at_once(call.details()),
            debug_error_string=None,
        )

    async def read(self) -> Response | None:
        """Return the next message, None at the end of a call that went well."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self.read_slowly()
        except TimeoutError as error:
            raise timed_out(self._timeout_s) from error

    async def read_slowly(self) -> Response | None:
        """Return the next message as `read` does, for a caller that has a deadline of its own."""
        with rpc_errors():
            try:
                return _decoded(await anext(self._responses))
            except StopAsyncIteration:
                return None
            except grpc.aio.AioRpcError as error:
                if not _is_failed_write(error):
                    raise
                first = self._first
                if first is None or _is_failed_write(first):
                    raise Unavailable("the server ended the call while we wrote") from error
                if first.code() is grpc.StatusCode.OK:
                    return None
                raise first from error

    async def write(self, request: Request | bytes) -> bool:
        """Send a message, which may be encoded already.

        False when the call is over, and `read` tells why.
        """
        try:
            await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return False
        except asyncio.CancelledError:
            raise_if_cancelled()
            return False
        return True

    def end(self) -> None:
        """End the call; nothing happens to one that is over."""
        self._call.cancel()

    async def close(self) -> None:
        """End the call and let go of it."""
        self._call.cancel()
        await self._responses.aclose()


def _is_failed_write(error: grpc.aio.AioRpcError) -> bool:
    return (
        error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"
    )


def _at_once(waiting: Coroutine[object, None, T]) -> T:
    """Return what a coroutine returns that has nothing to wait for."""
    try:
        waiting.send(None)
    except StopIteration as stop:
        return cast("T", stop.value)
    waiting.close()
    raise AssertionError("the status of an ended call is not known")


@asynccontextmanager
async def unary_stream(
    channel: grpc.aio.Channel,
    method: Method[Request, Response],
    request: Request,
    timeout_s: float,
) -> AsyncIterator[StreamCall[Request, Response]]:
    """Open a call that answers with a stream; end it with the block."""
    with rpc_errors():
        raw = channel.unary_stream(
            method.path,
            request_serializer=encode,
            response_deserializer=method.decode_response,
        )(request)
    call = StreamCall(cast("_RawCall[Request, Response]", raw), timeout_s)
    try:
        yield call
    finally:
        await call.close()


@asynccontextmanager
async def stream_stream(
    channel: grpc.aio.Channel, method: Method[Request, Response], timeout_s: float
) -> AsyncIterator[StreamCall[Request, Response]]:
    """Open a call that streams both ways; end it with the block."""
    with rpc_errors():
        raw = channel.stream_stream(
            method.path,
            request_serializer=encode,
            response_deserializer=method.decode_response,
        )(None)
    call = StreamCall(cast("_RawCall[Request, Response]", raw), timeout_s)
    try:
        yield call
    finally:
        await call.close()


def _decoded(response: Response | None) -> Response:
    if response is None:
        raise ProtocolBroken("the server sent bytes that are no message")
    return response


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error that a group of tasks ended with.

    A bug of ours, which has no type of ours, is never hidden by an error that has.
    """
    leaves = list(_leaves(group))
    for leaf in leaves:
        if not isinstance(leaf, SynclineError):
            return leaf
    return leaves[0]


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
