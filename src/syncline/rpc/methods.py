"""The methods of the service, from its descriptor: one table for the server and the client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from syncline.rpc.frames import FETCH_FIELD, STORE_FIELD, Frame, frame_decoder
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["Syncline"]
SERVICE_NAME: str = _SERVICE.full_name

M = TypeVar("M", bound=Message)
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response")


def encode(message: Message | bytes) -> bytes:
    """Return the bytes of a message; what is shared, or bulk content, was encoded before."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def decode_or_empty(kind: type[M]) -> Callable[[bytes], M]:
    """Return a server's decoder: what is no message becomes an empty one, which is Invalid (W1).

    Were it to raise, gRPC would log a traceback and answer UNKNOWN.
    """

    def decode(raw: bytes) -> M:
        try:
            return kind.FromString(raw)
        except DecodeError:
            return kind()

    return decode


def decode_or_none(kind: type[M]) -> Callable[[bytes], M | None]:
    """Return a client's decoder: None for what is no message; the caller says ProtocolBroken."""

    def decode(raw: bytes) -> M | None:
        try:
            return kind.FromString(raw)
        except DecodeError:
            return None

    return decode


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One method: its full path, its messages and how they are decoded, and which side streams."""

    name: str
    path: str
    request: type[Request]
    response: type[Message]
    decode_request: Callable[[bytes], Message | Frame | None]
    decode_response: Callable[[bytes], Response | None]
    streams_requests: bool
    streams_responses: bool


def _method(
    name: str,
    request: type[Request],
    response: type[Message],
    decode_response: Callable[[bytes], Response | None],
    decode_request: Callable[[bytes], Message | Frame | None] | None = None,
) -> Method[Request, Response]:
    described = _SERVICE.methods_by_name[name]
    assert GetMessageClass(described.input_type) is request, name
    assert GetMessageClass(described.output_type) is response, name
    return Method(
        name,
        f"/{SERVICE_NAME}/{name}",
        request,
        response,
        decode_request or decode_or_empty(request),
        decode_response,
        described.client_streaming,
        described.server_streaming,
    )


def _plain(name: str, request: type[Request], response: type[M]) -> Method[Request, M]:
    return _method(name, request, response, decode_or_none(response))


# Named one by one so that types are known to the checker; the asserts keep them true.
HELLO = _plain("Hello", pb.HelloRequest, pb.HelloResponse)
STORE = _method(
    "Store",
    pb.StoreRequest,
    pb.StoreResponse,
    decode_or_none(pb.StoreResponse),
    frame_decoder(pb.StoreRequest, STORE_FIELD, pb.StoreRequest),
)
DELETE = _plain("Delete", pb.DeleteRequest, pb.DeleteResponse)
FETCH: Method[pb.FetchRequest, pb.FetchResponse | Frame] = _method(
    "Fetch",
    pb.FetchRequest,
    pb.FetchResponse,
    frame_decoder(pb.FetchResponse, FETCH_FIELD, lambda: None),
)
WATCH = _plain("Watch", pb.WatchRequest, pb.WatchResponse)
LIST = _plain("List", pb.ListRequest, pb.ListResponse)
STAT = _plain("Stat", pb.StatRequest, pb.StatResponse)
LOCK = _plain("Lock", pb.LockRequest, pb.LockResponse)
RENEW = _plain("Renew", pb.RenewRequest, pb.RenewResponse)
UNLOCK = _plain("Unlock", pb.UnlockRequest, pb.UnlockResponse)
LIST_LOCKS = _plain("ListLocks", pb.ListLocksRequest, pb.ListLocksResponse)

_ALL = (HELLO, STORE, DELETE, FETCH, WATCH, LIST, STAT, LOCK, RENEW, UNLOCK, LIST_LOCKS)

METHODS: Mapping[str, Method[Message, object]] = {
    method.name: cast("Method[Message, object]", method) for method in _ALL
}
"""Every method of the service by name."""

assert METHODS.keys() == {each.name for each in _SERVICE.methods}, "a method is left out"


Behaviour = Callable[..., object]
"""An async method of a servicer: a coroutine function, or an async generator where it streams."""


def generic_handler(
    behaviours: Mapping[str, Behaviour],
) -> grpc.GenericRpcHandler[Message, Message]:
    """Return the handler that serves every method; asserts that none is left out or unknown."""
    assert behaviours.keys() == METHODS.keys(), "a method has no behaviour, or the reverse"
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers = {}
    for name, method in METHODS.items():
        make = makers[method.streams_requests, method.streams_responses]
        handlers[name] = make(
            behaviours[name],
            request_deserializer=method.decode_request,
            response_serializer=encode,
        )
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)
