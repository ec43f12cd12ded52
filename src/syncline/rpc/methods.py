"""The methods of the service, from its descriptor: one table for the server and the client."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["Syncline"]
SERVICE_NAME: str = _SERVICE.full_name

M = TypeVar("M", bound=Message)
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Response]):
    """One method: its full path, its messages, and which side streams."""

    name: str
    path: str
    request: type[Request]
    response: type[Response]
    streams_requests: bool
    streams_responses: bool


def _method(
    name: str, request: type[Request], response: type[Response]
) -> Method[Request, Response]:
    described = _SERVICE.methods_by_name[name]
    assert GetMessageClass(described.input_type) is request, name
    assert GetMessageClass(described.output_type) is response, name
    return Method(
        name,
        f"/{SERVICE_NAME}/{name}",
        request,
        response,
        described.client_streaming,
        described.server_streaming,
    )


# Named one by one so that types are known to the checker; the asserts keep them true.
HELLO = _method("Hello", pb.HelloRequest, pb.HelloResponse)
STORE = _method("Store", pb.StoreRequest, pb.StoreResponse)
DELETE = _method("Delete", pb.DeleteRequest, pb.DeleteResponse)
FETCH = _method("Fetch", pb.FetchRequest, pb.FetchResponse)
WATCH = _method("Watch", pb.WatchRequest, pb.WatchResponse)
LIST = _method("List", pb.ListRequest, pb.ListResponse)
STAT = _method("Stat", pb.StatRequest, pb.StatResponse)
LOCK = _method("Lock", pb.LockRequest, pb.LockResponse)
RENEW = _method("Renew", pb.RenewRequest, pb.RenewResponse)
UNLOCK = _method("Unlock", pb.UnlockRequest, pb.UnlockResponse)
LIST_LOCKS = _method("ListLocks", pb.ListLocksRequest, pb.ListLocksResponse)

METHODS: Mapping[str, Method[Message, Message]] = {
    described.name: _method(
        described.name,
        GetMessageClass(described.input_type),
        GetMessageClass(described.output_type),
    )
    for described in _SERVICE.methods
}
"""Every method of the service by name."""


def encode(message: Message | bytes) -> bytes:
    """Return the bytes of a message; a shared message may have been encoded before."""
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
            request_deserializer=decode_or_empty(method.request),
            response_serializer=encode,
        )
    return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)
