"""What surrounds every call of the service: typed errors become statuses, here and nowhere else."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import cast

import grpc.aio

from syncline.errors import SynclineError
from syncline.rpc.error_table import to_abort
from syncline.rpc.methods import Behaviour

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[object, object]


def with_errors(behaviour: Behaviour) -> Behaviour:
    """Return the behaviour with its typed errors mapped by the one table."""
    if inspect.isasyncgenfunction(behaviour):
        yields = cast("Callable[[object, Context], AsyncIterator[object]]", behaviour)

        @wraps(behaviour)
        async def stream(request: object, context: Context) -> AsyncIterator[object]:
            async with _mapped(behaviour.__name__, context):
                async for response in yields(request, context):
                    yield response

        return stream
    answers = cast("Callable[[object, Context], Awaitable[object]]", behaviour)

    @wraps(behaviour)
    async def call(request: object, context: Context) -> object:
        async with _mapped(behaviour.__name__, context):
            return await answers(request, context)

    return call


def _first(group: BaseExceptionGroup[SynclineError]) -> SynclineError:
    """Return the error that ended a call; what failed because of it is beside it in the group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SynclineError)
    return error


@asynccontextmanager
async def _mapped(method: str, context: Context) -> AsyncIterator[None]:
    try:
        try:
            yield
        except* SynclineError as group:
            raise _first(group) from group
    except SynclineError as error:
        logger.info(
            "call_failed method=%s peer=%s code=%s message=%r",
            method,
            context.peer(),
            error.code,
            error.message,
        )
        code, message, metadata = to_abort(error)
        await context.abort(code, message, metadata)
    except grpc.aio.InternalError as error:
        # How gRPC says that a message could not be sent any more: whom to is gone.
        logger.info("peer_gone method=%s peer=%s error=%r", method, context.peer(), str(error))
