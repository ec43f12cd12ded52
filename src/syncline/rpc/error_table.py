"""The one table between our errors and gRPC's: both directions, and nowhere else.

A status carries the class of the error in its code, for any gRPC client, and in its details
(`google.rpc.Status` with one `google.rpc.ErrorInfo`) the stable code and the fields of ours.

B1  Each class of `errors.all_errors()` comes back as itself with its fields.
B2  What travels is bounded far below 8 KiB of trailing metadata, which any gRPC client accepts.
B3  A message has only printable characters, whoever sent it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from syncline import errors
from syncline.errors import SynclineError

DOMAIN = "syncline"
DETAILS_KEY = "grpc-status-details-bin"

_MESSAGE_BYTES_MAX = 1024
_FIELDS_BYTES_MAX = 2048
"""At worst 3 KiB of grpc-message, percent-encoded, and 4.2 KiB of details in base 64 (B2)."""

_STATUS: dict[type[SynclineError], grpc.StatusCode] = {
    errors.Internal: grpc.StatusCode.INTERNAL,
    errors.Invalid: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.TimedOut: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Throttled: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Denied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotSignedIn: grpc.StatusCode.UNAUTHENTICATED,
    errors.NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Exists: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotEmpty: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Stale: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Locked: grpc.StatusCode.ABORTED,
    errors.LockLost: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CursorExpired: grpc.StatusCode.OUT_OF_RANGE,
    errors.ProtocolBroken: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Corrupt: grpc.StatusCode.DATA_LOSS,
    errors.TooNew: grpc.StatusCode.UNIMPLEMENTED,
    errors.InUse: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LocalFailure: grpc.StatusCode.INTERNAL,
    errors.Partial: grpc.StatusCode.ABORTED,
}

_BY_CODE: dict[str, type[SynclineError]] = {kind.code: kind for kind in _STATUS}

# A status without our details: from gRPC itself, a proxy, or a server that is not ours. Codes that
# would make a client act on its data (stale, cursor expired) are believed with details alone.
_BARE: dict[grpc.StatusCode, type[SynclineError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TimedOut,
    # A server over its limit of pending requests answers so.
    grpc.StatusCode.CANCELLED: errors.Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Throttled,
    grpc.StatusCode.UNIMPLEMENTED: errors.TooNew,
    grpc.StatusCode.UNAUTHENTICATED: errors.NotSignedIn,
    grpc.StatusCode.PERMISSION_DENIED: errors.Denied,
    grpc.StatusCode.INVALID_ARGUMENT: errors.Invalid,
}


def to_abort(error: SynclineError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Return the status, message and trailing metadata that tell `error` to a client."""
    message = _printable(error.message, _MESSAGE_BYTES_MAX)
    status = _STATUS.get(type(error), grpc.StatusCode.INTERNAL)
    reason = error_details_pb2.ErrorInfo(
        reason=error.code, domain=DOMAIN, metadata=_bounded(error.fields)
    )
    details = status_pb2.Status(code=status.value[0], message=message)
    details.details.add().Pack(reason)
    return status, message, ((DETAILS_KEY, details.SerializeToString()),)


def from_rpc_error(error: grpc.aio.AioRpcError) -> SynclineError:
    """Return our error for a failed call: by its details, else by the bare status."""
    status = error.code()
    message = _printable(error.details() or status.name.lower(), _MESSAGE_BYTES_MAX)
    told = _error_info(error)
    if told is not None and told.reason in _BY_CODE:
        typed = _BY_CODE[told.reason](message)
        # Not as keywords: a field of a hostile server may be called "message".
        typed.fields = dict(told.metadata)
        return typed
    kind = _bare_kind(status, message)
    if kind is errors.Internal:
        message = f"the server failed ({status.name}): {message}"
    return kind(_plainly(message))


_UNREACHABLE = re.compile(
    r"failed to connect to all addresses; last error: \w+: \w+:(?P<address>\S+): "
    r"(?:Failed to connect to remote host: )?(?P<reason>.+)"
)


def _plainly(message: str) -> str:
    """Return what gRPC says of a server that cannot be reached in words for people."""
    found = _UNREACHABLE.fullmatch(message)
    if found is None:
        return message
    return f"cannot reach the server at {found['address']}: {found['reason']}"


def _bare_kind(status: grpc.StatusCode, message: str) -> type[SynclineError]:
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in message:
        return errors.TooLarge
    # The connection broke under the call; gRPC tells so by these texts alone.
    kind = _BARE.get(status, errors.Internal)
    if kind is errors.Internal and ("Stream removed" in message or "RST_STREAM" in message):
        return errors.Unavailable
    return kind


def _error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo | None:
    # The stubs do not know that it yields pairs.
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    value = next((value for key, value in metadata if key == DETAILS_KEY), None)
    if not isinstance(value, bytes):
        return None
    try:
        for detail in status_pb2.Status.FromString(value).details:
            told = error_details_pb2.ErrorInfo()
            if detail.Unpack(told) and told.domain == DOMAIN:
                return told
    except DecodeError:
        return None
    return None


def _printable(text: str, limit: int) -> str:
    r"""Return at most `limit` bytes of printable UTF-8; `\xNN` for the rest."""
    if not text.isprintable():
        text = "".join(
            character
            if character.isprintable()
            else "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
            for character in text
        )
    return _cut(text, limit)


def _cut(text: str, limit: int) -> str:
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "..."


def _bounded(fields: dict[str, str]) -> dict[str, str]:
    """Return fields that fit together; a long one is cut, what follows a full list is left out."""
    bounded: dict[str, str] = {}
    left = _FIELDS_BYTES_MAX
    for key, value in fields.items():
        left -= len(key) + 8
        if left <= 3:
            break
        bounded[key] = _cut(value, left)
        left -= len(bounded[key].encode())
    return bounded
