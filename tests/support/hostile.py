"""An attacker with the generated messages, and the check that a server took no harm from him."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from syncline.core.identity import ROOT_ID, digest_of
from syncline.core.table import Head
from syncline.rpc.error_table import DETAILS_KEY
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.methods import METHODS, Method, encode
from syncline.rpc.server import RpcServer
from syncline.server.limits import Limits
from syncline.server.volume import ServedVolume, VolumeSet
from tests.support.serving import Backend, served
from tests.support.wait import eventually

TIMEOUT_S = 10.0
REPLICA = b"hostile replica."

_numbers = itertools.count(1)


def fresh_id() -> bytes:
    """Return 16 bytes that no one has used: for entries and operations."""
    return next(_numbers).to_bytes(16, "big")


@dataclass(frozen=True)
class Told:
    """How a call ended, and what came before."""

    code: grpc.StatusCode
    reason: str
    fields: dict[str, str]
    message: str
    responses: list[Message]

    @property
    def verdict(self) -> tuple[grpc.StatusCode, str]:
        return self.code, self.reason

    def outcomes(self) -> list[str]:
        """Return `ok` or the code of the refusal for each change of a STORE or DELETE."""
        assert self.code is grpc.StatusCode.OK, self
        found = []
        for response in self.responses:
            if isinstance(response, pb.StoreResponse):
                found += list(response.committed.outcomes)
            elif isinstance(response, pb.DeleteResponse):
                found += list(response.outcomes)
        return [
            pb.RefusalCode.Name(outcome.refusal.code).removeprefix("REFUSAL_CODE_")
            if outcome.HasField("refusal")
            else "ok"
            for outcome in found
        ]


INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "invalid")
TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too_large")
THROTTLED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "throttled")
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "not_found")
TIMED_OUT = (grpc.StatusCode.DEADLINE_EXCEEDED, "timed_out")
FINE = (grpc.StatusCode.OK, "")


# -- Messages that are in order, to be spoiled -------------------------------


def author(name: str = "hostile", replica: bytes = REPLICA) -> pb.Author:
    return pb.Author(replica=replica, name=name)


def begin(**more: object) -> pb.StoreRequest:
    opening = pb.StoreBegin(volume="default", author=author(), op_id=fresh_id())
    opening.MergeFrom(pb.StoreBegin(**more))
    return pb.StoreRequest(begin=opening)


def changes(*listed: pb.Change, is_last: bool = True) -> pb.StoreRequest:
    return pb.StoreRequest(changes=pb.StoreChanges(changes=listed, is_last=is_last))


def content(data: bytes) -> pb.Content:
    return of_parts([data] if data else [])


def of_parts(parts: Iterable[bytes]) -> pb.Content:
    """Return the content of direct chunks."""
    made = pb.Content()
    whole = b""
    for part in parts:
        made.refs.add(digest=digest_of(part), size=len(part))
        whole += part
    made.digest, made.size = digest_of(whole), len(whole)
    return made


def put_file(
    data: bytes = b"data",
    *,
    name: bytes | None = None,
    parent: bytes = ROOT_ID,
    id: bytes | None = None,
    is_inline: bool = True,
) -> pb.Change:
    id = fresh_id() if id is None else id
    put = pb.PutFile(
        parent=parent, name=id.hex().encode() if name is None else name, content=content(data)
    )
    if is_inline:
        put.inline = data
    return pb.Change(id=id, file=put)


def put_content(listed: pb.Content) -> pb.Change:
    """Return the change for a file with content as it stands, nothing of it inline."""
    change = put_file()
    change.file.ClearField("inline")
    change.file.content.CopyFrom(listed)
    return change


def put_directory(
    name: bytes | None = None, *, parent: bytes = ROOT_ID, id: bytes | None = None
) -> pb.Change:
    id = fresh_id() if id is None else id
    made = pb.PutDirectory(parent=parent, name=id.hex().encode() if name is None else name)
    return pb.Change(id=id, directory=made)


def put_link(target: bytes = b"target", *, name: bytes | None = None) -> pb.Change:
    id = fresh_id()
    made = pb.PutLink(
        parent=ROOT_ID, name=id.hex().encode() if name is None else name, target=target
    )
    return pb.Change(id=id, link=made)


def move(id: bytes, base: int, parent: bytes, name: bytes) -> pb.Change:
    return pb.Change(id=id, base=base, move=pb.Move(parent=parent, name=name))


def delete(id: bytes, base: int) -> pb.Change:
    return pb.Change(id=id, base=base, delete=pb.DeleteEntry())


def chunks(*pieces: bytes, is_cut: bool = False) -> pb.StoreRequest:
    frame = pb.ChunkFrame()
    for piece in pieces:
        frame.pieces.add(data=piece, is_cut=is_cut)
    return pb.StoreRequest(chunks=frame)


def watch(**more: object) -> pb.WatchRequest:
    opening = pb.WatchBegin(volume="default", author=author())
    opening.MergeFrom(pb.WatchBegin(**more))
    return pb.WatchRequest(begin=opening)


# -- The target ---------------------------------------------------------------


class _Complaints(logging.Handler):
    """Keeps what nobody may have to read: errors, tracebacks, lines that were broken up."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.levelno >= logging.ERROR or record.exc_info or not line.isprintable():
            error = record.exc_info[1] if record.exc_info else None
            self.found.append(f"{record.name}: {line!r} {error!r}")


@dataclass
class Target:
    """A server under attack."""

    volume: ServedVolume
    volumes: VolumeSet
    address: str
    blocking: grpc.Channel
    complaints: list[str] = field(default_factory=list)
    tasks_at_rest: int = 0

    async def say(
        self,
        method: str,
        *messages: Message | bytes,
        closes: bool = True,
        responses_max: int | None = None,
    ) -> Told:
        """Make a call with these messages as they are; return how it ended.

        A call of which `responses_max` messages were read is cancelled and counts as OK. Without
        `closes` the client's side of the stream stays open, silent, until the server ends it.
        """
        # A thread, because of `grpc.aio` only: there a write that comes too late for the call hides
        # what the server had to say.
        return await asyncio.to_thread(
            _say,
            self.blocking,
            METHODS[method],
            messages,
            closes=closes,
            responses_max=responses_max,
        )

    async def store(
        self, *listed: pb.Change, after: Iterable[Message] = (), **more: object
    ) -> Told:
        """STORE changes, and send what else there is without being asked."""
        return await self.say("Store", begin(**more), changes(*listed), *after)

    async def held(self) -> Head:
        """Return the head as a stranger sees it, which also shows that the server answers."""
        told = await self.say(
            "Hello", pb.HelloRequest(volume="default", protocol=1, protocol_oldest=1)
        )
        assert told.verdict == FINE, told
        head = told.responses[0].head
        digest = int.from_bytes(head.table_digest, "big")
        return Head(head.revision, head.commit_id, digest)

    def is_at_rest(self) -> bool:
        """Tell whether nothing is left of any call: no lock, no place taken, no task."""
        gates = (self.volumes.stores, self.volumes.reads, self.volumes.watches)
        return (
            self.volume.locks.locks.count == 0
            and sum(gate.count for gate in gates) == 0
            and len(asyncio.all_tasks()) <= self.tasks_at_rest
        )


def _say(
    channel: grpc.Channel,
    method: Method[Message, Message],
    messages: Sequence[Message | bytes],
    *,
    closes: bool,
    responses_max: int | None,
) -> Told:
    over = threading.Event()

    def requests() -> Iterator[Message | bytes]:
        yield from messages
        if not closes:
            over.wait(TIMEOUT_S)

    open_call = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, True): channel.stream_stream,
    }[method.streams_requests, method.streams_responses]
    multi = open_call(
        method.path, request_serializer=encode, response_deserializer=method.response.FromString
    )
    responses: list[Message] = []
    try:
        if not method.streams_responses:
            answer, call = multi.with_call(messages[0], timeout=TIMEOUT_S)
            return _told(call, [answer])
        call = multi(requests() if method.streams_requests else messages[0], timeout=TIMEOUT_S)
        for response in call:
            responses.append(response)
            if len(responses) == responses_max:
                call.cancel()
                return Told(grpc.StatusCode.OK, "", {}, "", responses)
        return _told(call, responses)
    except grpc.RpcError as error:
        return _told(error, responses)
    finally:
        over.set()


def _told(call: grpc.Call, responses: list[Message]) -> Told:
    info = error_details_pb2.ErrorInfo()
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY:
            (detail,) = status_pb2.Status.FromString(value).details
            assert detail.Unpack(info) and info.domain == "syncline"
    return Told(call.code(), info.reason, dict(info.metadata), call.details() or "", responses)


@asynccontextmanager
async def attacked(backend: Backend, limits: Limits | None = None) -> AsyncIterator[Target]:
    """Serve a volume on the loopback address for a module of attacks."""
    limits = limits or Limits()
    complaints = _Complaints()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.found.append(f"event loop: {context}"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(complaints)
    root.setLevel(logging.INFO)
    try:
        async with served(backend, limits=limits) as volume:
            volumes = VolumeSet([volume], limits)
            server = RpcServer(volumes)
            address = server.bind("127.0.0.1:0")
            await server.start()
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(address, options=options) as blocking:
                target = Target(volume, volumes, address, blocking, complaints.found)
                await target.held()
                target.tasks_at_rest = len(asyncio.all_tasks())
                yield target
            volume.feed.close()
            await server.stop(0.2)
    finally:
        root.removeHandler(complaints)
        root.setLevel(level)
        loop.set_exception_handler(None)
        backend.close()


@asynccontextmanager
async def unharmed(target: Target, *, commits: int = 0) -> AsyncIterator[None]:
    """Check around an attack that nothing came of it but `commits`, and that all still works."""
    target.complaints.clear()
    before = await target.held()
    # Tasks of the test itself (a fixture's, this one) may differ from those of another test.
    target.tasks_at_rest = len(asyncio.all_tasks())
    yield
    await eventually(target.is_at_rest, "the server is at rest after an attack")
    after = await target.held()
    assert after.revision == before.revision + commits
    if not commits:
        assert after == before
    made = put_file(b"all is well")
    told = await target.store(made)
    assert told.outcomes() == ["ok"]
    request = pb.DeleteRequest(begin=begin().begin)
    request.targets.add(id=made.id, base=after.revision + 1)
    assert (await target.say("Delete", request)).outcomes() == ["ok"]
    assert (await target.held()).table_digest == after.table_digest
    assert not target.complaints, target.complaints
