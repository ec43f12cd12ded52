"""A client that knows docs/PROTOCOL.md, generated code and bare grpcio, and never imports ours.

As a program, `bare.py GENERATED ADDRESS SCENARIO`, it plays one scenario and prints what it saw as
JSON. It is a process of its own because one process can hold the messages of `proto/` only once.
"""

from __future__ import annotations

import json
import queue
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import grpc
from blake3 import blake3
from google.rpc import error_details_pb2, status_pb2

pb = None
"""The generated messages; `main` imports them from the directory it is given."""

ROOT = bytes(16)
TIMEOUT_S = 20
REPLICA = b"bare replica id "
CHUNK_MOST, PIECE_REFS, DIRECT_REFS = 1 << 20, 7281, 64
Facts = dict[str, object]


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


# -- Changes -----------------------------------------------------------------


def content_of(parts: list[bytes]) -> tuple[object, dict[bytes, bytes]]:
    """Return the content whose chunks are `parts`, and all chunks that it may need."""
    chunks = {digest(part): part for part in parts}
    refs = [(digest(part), len(part)) for part in parts]
    whole = b"".join(parts)
    depth = 0
    if len(refs) > DIRECT_REFS:
        depth, pieces = 1, []
        for start in range(0, len(refs), PIECE_REFS):
            pieces.append(b"".join(d + struct.pack(">I", n) for d, n in refs[start:][:PIECE_REFS]))
        chunks.update({digest(piece): piece for piece in pieces})
        refs = [(digest(piece), len(piece)) for piece in pieces]
    content = pb.Content(digest=digest(whole), size=len(whole), depth=depth)
    for name, size in refs:
        content.refs.add(digest=name, size=size)
    return content, chunks


def file(id: bytes, name: bytes, parts: list[bytes], **more: object) -> object:
    """Return the change for a file whose content is to travel as chunks."""
    content, _ = content_of(parts)
    base = more.pop("base", 0)
    put = pb.PutFile(parent=ROOT, name=name, mode=0o644, mtime_ns=5, content=content)
    put.MergeFrom(pb.PutFile(**more))
    return pb.Change(id=id, base=base, file=put)


def small_file(id: bytes, name: bytes, data: bytes, **more: object) -> object:
    """Return the change for a file that carries its content."""
    return file(id, name, [data] if data else [], inline=data, **more)


# -- The proofs --------------------------------------------------------------


def encode_entry(entry: object) -> bytes:
    return (
        entry.id
        + struct.pack(">Q", entry.revision)
        + entry.parent
        + struct.pack(
            ">BBIqQ",
            entry.kind,
            not entry.is_deleted,
            entry.mode,
            entry.mtime_ns,
            entry.content.size,
        )
        + (entry.content.digest or bytes(32))
        + struct.pack(">HI", len(entry.name), len(entry.target))
        + entry.name
        + entry.target
    )


def entry_number(entry: object) -> int:
    return int.from_bytes(digest(b"syncline entry v1\0" + encode_entry(entry)), "big")


@dataclass
class Copy:
    """A copy of the file table, kept by a watcher, that proves each commit before it counts."""

    revision: int
    commit_id: bytes
    table: dict[bytes, object] = field(default_factory=dict)
    inline: dict[bytes, bytes] = field(default_factory=dict)
    begun: object = None
    arrived: list[object] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)

    @classmethod
    def empty(cls, volume_id: bytes) -> Copy:
        return cls(0, digest(b"syncline volume v1\0" + volume_id))

    def digest(self) -> bytes:
        total = sum(entry_number(entry) for entry in self.table.values()) % (1 << 256)
        return total.to_bytes(32, "big")

    def cursor(self) -> object:
        return pb.Cursor(revision=self.revision, commit_id=self.commit_id)

    def put(self, entry: object) -> None:
        if entry.is_deleted:
            self.table.pop(entry.id, None)
        else:
            self.table[entry.id] = entry

    def add(self, event: object) -> str:
        """Take the next message of a WATCH stream; return which one it was."""
        part = event.WhichOneof("part")
        if part == "begin":
            assert event.begin.revision == self.revision + 1
            self.begun, self.arrived = event.begin, []
        elif part == "entries":
            for item in event.entries.entries:
                self.arrived.append(item.entry)
                if item.HasField("inline"):
                    assert digest(item.inline) == item.entry.content.digest
                    self.inline[item.entry.name] = item.inline
        elif part == "end":
            self._end(event.end.head)
        elif part == "snapshot_begin":
            self.table.clear()
        elif part == "snapshot_page":
            for entry in event.snapshot_page.entries:
                self.put(entry)
        elif part == "snapshot_end":
            head = event.snapshot_end.head
            assert self.digest() == head.table_digest
            self.revision, self.commit_id = head.revision, head.commit_id
        return part

    def _end(self, head: object) -> None:
        begun = self.begun
        assert len(self.arrived) == begun.count
        hashed = b"syncline commit v1\0" + self.commit_id + struct.pack(">Q", begun.revision)
        hashed += begun.author.replica + begun.op_id
        hashed += struct.pack(">qBI", begun.time_ns, begun.is_confirmed, begun.count)
        for entry in self.arrived:
            encoded = encode_entry(entry)
            hashed += struct.pack(">I", len(encoded)) + encoded
        assert digest(hashed) == head.commit_id
        for entry in self.arrived:
            self.put(entry)
        assert self.digest() == head.table_digest
        self.revision, self.commit_id = head.revision, head.commit_id
        self.commits.append(head.revision)


# -- Calls -------------------------------------------------------------------


@dataclass
class Stored:
    """What a STORE came to, and which chunks it was asked for."""

    revision: int
    outcomes: list[str]
    states: list[object]
    is_replay: bool
    granted: int
    asked: list[bytes]


def describe(outcome: object) -> str:
    if outcome.WhichOneof("result") == "accepted":
        return f"{outcome.accepted.replaced}->{outcome.accepted.revision}"
    return pb.RefusalCode.Name(outcome.refusal.code).removeprefix("REFUSAL_CODE_")


def frames_of(data: bytes) -> Iterator[object]:
    """Yield the frames of one chunk, cut where the page advises."""
    step = 256 * 1024
    for start in range(0, len(data), step):
        is_cut = start + step < len(data)
        yield pb.ChunkFrame(pieces=[pb.ChunkPiece(data=data[start : start + step], is_cut=is_cut)])


class Chunks:
    """Joins the pieces of frames to chunks."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self._open = b""

    def add(self, frame: object) -> None:
        for piece in frame.pieces:
            self._open += piece.data
            if not piece.is_cut:
                self.done.append(self._open)
                self._open = b""


def error_of(error: grpc.RpcError) -> list[str]:
    """Return the status and the reason of a failed call."""
    found = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(found).details:
        detail.Unpack(info)
    return [error.code().name, info.domain, info.reason]


class Client:
    """One volume of one server."""

    def __init__(self, stub: object, volume: str = "default") -> None:
        self.stub = stub
        self.volume = volume
        self._ops = 0

    def begin(self, op_id: bytes | None = None, **more: object) -> object:
        self._ops += 1
        author = pb.Author(replica=REPLICA, name="bare@test")
        op_id = op_id or struct.pack(">QQ", 7, self._ops)
        return pb.StoreBegin(volume=self.volume, author=author, op_id=op_id, **more)

    def hello(self) -> object:
        request = pb.HelloRequest(volume=self.volume, protocol=1, protocol_oldest=1)
        return self.stub.Hello(request, timeout=TIMEOUT_S)

    def store(
        self,
        changes: list[object],
        chunks: dict[bytes, bytes] | None = None,
        per_frame: int = 500,
        **begin: object,
    ) -> Stored:
        """STORE as the page draws it; each outcome list may come in several messages."""
        requests: queue.SimpleQueue[object] = queue.SimpleQueue()
        requests.put(pb.StoreRequest(begin=self.begin(**begin)))
        for start in range(0, len(changes), per_frame):
            part = changes[start : start + per_frame]
            frame = pb.StoreChanges(changes=part, is_last=start + per_frame >= len(changes))
            requests.put(pb.StoreRequest(changes=frame))
        stored = Stored(0, [], [], False, 0, [])
        try:
            for response in self.stub.Store(iter(requests.get, None), timeout=TIMEOUT_S):
                part = response.WhichOneof("part")
                if part == "granted":
                    stored.granted += len(response.granted.outcomes)
                elif part == "missing":
                    for wanted in response.missing.digests:
                        stored.asked.append(wanted)
                        for frame in frames_of(chunks[wanted]):
                            requests.put(pb.StoreRequest(chunks=frame))
                else:
                    stored.revision = response.committed.revision
                    stored.is_replay = response.committed.is_replay
                    stored.outcomes += map(describe, response.committed.outcomes)
                    stored.states += [o.refusal.current for o in response.committed.outcomes]
        finally:
            requests.put(None)
        assert len(stored.outcomes) == len(changes)
        return stored

    def delete(self, *targets: tuple[bytes, int], **begin: object) -> tuple[int, list[str]]:
        request = pb.DeleteRequest(begin=self.begin(**begin))
        for id, base in targets:
            request.targets.add(id=id, base=base)
        answer = self.stub.Delete(request, timeout=TIMEOUT_S)
        return answer.revision, [describe(outcome) for outcome in answer.outcomes]

    def list(self, path: bytes = b"", **more: object) -> list[object]:
        request = pb.ListRequest(volume=self.volume, path=path, **more)
        return [
            found for page in self.stub.List(request, timeout=TIMEOUT_S) for found in page.entries
        ]

    def stat(self, *paths: bytes, **more: object) -> list[object]:
        request = pb.StatRequest(volume=self.volume, paths=paths, **more)
        return list(self.stub.Stat(request, timeout=TIMEOUT_S).results)

    def fetch_file(self, path: bytes, **more: object) -> tuple[object, bytes]:
        wanted = pb.FetchFile(path=path, **more)
        responses = self.stub.Fetch(
            pb.FetchRequest(volume=self.volume, file=wanted), timeout=TIMEOUT_S
        )
        found = next(responses).found
        chunks = Chunks()
        for response in responses:
            chunks.add(response.chunks)
        return found, b"".join(chunks.done)

    def fetch_chunks(self, digests: Iterable[bytes]) -> list[bytes]:
        wanted = pb.FetchChunks(digests=digests)
        chunks = Chunks()
        for response in self.stub.Fetch(
            pb.FetchRequest(volume=self.volume, chunks=wanted), timeout=TIMEOUT_S
        ):
            chunks.add(response.chunks)
        return chunks.done

    def watch(self, copy: Copy, until: Callable[[Copy, str], bool], **begin: object) -> list[str]:
        """Feed a copy from a WATCH stream until it is enough; return the messages by name."""
        requests: queue.SimpleQueue[object] = queue.SimpleQueue()
        author = pb.Author(replica=REPLICA, name="bare@test")
        start = pb.WatchBegin(volume=self.volume, author=author, **begin)
        requests.put(pb.WatchRequest(begin=start))
        events = self.stub.Watch(iter(requests.get, None), timeout=TIMEOUT_S)
        seen: list[str] = []
        try:
            for event in events:
                seen.append(copy.add(event))
                if until(copy, seen[-1]):
                    placed = pb.WatchProgress(placed=copy.cursor(), pending=0, problems=0)
                    requests.put(pb.WatchRequest(progress=placed))
                    return seen
        finally:
            events.cancel()
            requests.put(None)
        raise AssertionError("a WATCH stream ended by itself")


# -- Scenarios ---------------------------------------------------------------

A, B, C, D = (bytes([number]) * 16 for number in b"ABCD")


def greet(client: Client, channel: grpc.Channel) -> Facts:
    """Hello, the health of both names, and the services that reflection lists."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    hello = client.hello()
    health = health_pb2_grpc.HealthStub(channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (told,) = reflection.ServerReflectionInfo(asked, timeout=TIMEOUT_S)
    return {
        "protocol": [hello.protocol_oldest, hello.protocol],
        "volume": hello.volume_name,
        "head": hello.head.revision,
        "is_genesis": hello.head.commit_id == Copy.empty(hello.volume_id).commit_id,
        "table_digest": hello.head.table_digest.hex(),
        "limits": {field.name: value for field, value in hello.limits.ListFields()},
        "health": [
            health.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S).status
            for name in ("", "syncline.v1.Syncline")
        ],
        "services": sorted(service.name for service in told.list_services_response.service),
    }


def small(client: Client, channel: grpc.Channel) -> Facts:
    """A file, a directory with a file in it, and a link, in one STORE; then all ways to look."""
    inner = small_file(C, b"inner \xff", b"", parent=B)
    link = pb.PutLink(parent=B, name=b"link", mtime_ns=-7, target=b"../a file")
    changes = [
        small_file(A, b"a file", b"hello\n", mode=0o4755),
        pb.Change(id=B, directory=pb.PutDirectory(parent=ROOT, name=b"dir", mode=0o750)),
        inner,
        pb.Change(id=D, link=link),
    ]
    stored = client.store(changes)
    listed = client.list(is_recursive=True)
    found, data = client.fetch_file(b"a file")
    stat = client.stat(b"dir/link", b"no such", b"")
    return {
        "outcomes": stored.outcomes,
        "asked": len(stored.asked),
        "listed": [
            [
                item.path.decode("latin1"),
                item.entry.kind,
                f"{item.entry.mode:o}",
                item.entry.mtime_ns,
                item.entry.content.size,
            ]
            for item in listed
        ],
        "flat": [item.path.decode("latin1") for item in client.list()],
        "itself": [item.path.decode("latin1") for item in client.list(b"a file")],
        "author": found.author,
        "data": data.decode(),
        "target": stat[0].found.entry.target.decode(),
        "found": [result.HasField("found") for result in stat],
    }


def chunked(client: Client, channel: grpc.Channel) -> Facts:
    """Three chunks, one of them at the limit; more than 64; and what need not travel again."""
    three = [b"x" * CHUNK_MOST, b"y" * 300_000, b"z"]
    many = [struct.pack(">I", number) * 50 for number in range(200)]
    contents = [content_of(three), content_of(many)]
    chunks = {**contents[0][1], **contents[1][1]}
    first = client.store([file(A, b"three", three), file(B, b"many", many)], chunks)
    again = client.store([file(C, b"three again", three), file(D, b"many again", many)], {})
    grown = client.store(
        [file(A, b"three", [*three, b"more"], base=first.revision)], {digest(b"more"): b"more"}
    )
    _, by_path = client.fetch_file(b"many")
    _, from_offset = client.fetch_file(b"three", offset=CHUNK_MOST + 299_999)
    _, old = client.fetch_file(b"three", revision=1)
    return {
        "outcomes": first.outcomes,
        "granted": first.granted,
        "asked": len(first.asked),
        "asked_again": len(again.asked),
        "asked_grown": len(grown.asked),
        "grown": grown.outcomes,
        "depth": contents[1][0].depth,
        "by_path": by_path == b"".join(many),
        "from_offset": from_offset.decode(),
        "old": old == b"".join(three),
        "by_digest": client.fetch_chunks(map(digest, reversed(three))) == three[::-1],
    }


def once(client: Client, channel: grpc.Channel) -> Facts:
    """An op id twice; a stale base; deletes, and what they are refused for."""
    op_id = b"the same op id.."
    changes = [
        pb.Change(id=A, directory=pb.PutDirectory(parent=ROOT, name=b"dir", mode=0o755)),
        small_file(B, b"file", b"one", parent=A),
    ]
    first = client.store(changes, op_id=op_id)
    again = client.store(changes, op_id=op_id)
    try:
        client.store(changes[:1], op_id=op_id)
        reused = []
    except grpc.RpcError as error:
        reused = error_of(error)
    edited = client.store([small_file(B, b"file", b"two", parent=A, base=1)])
    stale = client.store([small_file(B, b"file", b"three", parent=A, base=1)])
    mixed = [small_file(C, b"c", b"c"), small_file(D, b"dir", b"d")]
    atomic = client.store(mixed, is_atomic=True)
    refused = client.delete((A, 1), (B, 1))
    gone = client.delete((B, 2), (A, 1))
    try:
        client.fetch_file(b"dir/file")
        absent = []
    except grpc.RpcError as error:
        absent = error_of(error)
    return {
        "first": [first.revision, first.outcomes, first.is_replay],
        "again": [again.revision, again.outcomes, again.is_replay],
        "reused": reused,
        "edited": edited.outcomes,
        "stale": [stale.outcomes, stale.states[0].revision, stale.revision],
        "atomic": atomic.outcomes,
        "refused": refused,
        "gone": gone,
        "absent": absent,
        "old": client.fetch_file(b"dir/file", revision=1)[1].decode(),
    }


def many(client: Client, channel: grpc.Channel) -> Facts:
    """Answers of several messages: a STORE of 1,500 changes, and its 1,500 refusals."""
    changes = [
        small_file(struct.pack(">QQ", 1, n), b"%06d" % n, b"data %d" % n) for n in range(1500)
    ]
    stored = client.store(changes)
    parts = [b"chunk", b"more"]
    travelling = [file(struct.pack(">QQ", 2, n), b"f%06d" % n, parts) for n in range(1500)]
    granted = client.store(travelling, content_of(parts)[1])
    refused = client.store(changes)
    return {
        "accepted": stored.outcomes.count("0->1"),
        "granted": granted.granted,
        "asked": len(granted.asked),
        "replayed": granted.outcomes.count("0->2"),
        "refused": refused.outcomes.count("STALE"),
        "revision": refused.revision,
    }


def watch(client: Client, channel: grpc.Channel) -> Facts:
    """Every commit from the first one on, each proved; then a snapshot, then a forged cursor."""
    link = pb.PutLink(parent=ROOT, name=b"link", mtime_ns=-1, target=b"t")
    tree = [
        small_file(A, b"a", b"one", mtime_ns=-1),
        pb.Change(id=B, directory=pb.PutDirectory(parent=ROOT, name=b"dir", mode=0o711)),
        small_file(C, b"inner", b"two", parent=B),
        pb.Change(id=D, link=link),
    ]
    client.store(tree)
    client.store([pb.Change(id=A, base=1, move=pb.Move(parent=B, name=b"moved"))])
    parts = [b"1" * 70_000, b"2" * 70_000]
    client.store(
        [file(C, b"inner", parts, parent=B, base=1)], content_of(parts)[1], is_confirmed=True
    )
    client.delete((D, 1))
    copy = Copy.empty(client.hello().volume_id)
    seen = client.watch(
        copy, lambda copy, _: copy.revision == 4, cursor=copy.cursor(), wants_inline=True
    )
    client.store([small_file(D, b"link2", b"again", base=0)])
    client.store([small_file(b"E" * 16, b"e", b"live")])
    client.watch(copy, lambda copy, _: copy.revision == 5, cursor=copy.cursor(), wants_inline=True)
    newcomer = Copy(0, b"")
    snapshot = client.watch(newcomer, lambda _, part: part == "snapshot_end")
    forged = pb.Cursor(revision=2, commit_id=digest(b"another history"))
    reset = client.watch(Copy(0, b""), lambda _, part: part == "snapshot_end", cursor=forged)
    return {
        "seen": seen[:1],
        "commits": copy.commits,
        "names": sorted(entry.name.decode() for entry in copy.table.values()),
        "inline": {name.decode(): data.decode() for name, data in sorted(copy.inline.items())},
        "snapshot": [snapshot[0], snapshot[-1]],
        "equal": newcomer.table == copy.table and newcomer.digest() == copy.digest(),
        "reset": [reset[0], reset[-1]],
    }


SCENARIOS = {
    "greet": greet,
    "small": small,
    "chunked": chunked,
    "once": once,
    "many": many,
    "watch": watch,
}


def main(generated: str, address: str, scenario: str) -> None:
    """Play one scenario against a server."""
    global pb
    sys.path.insert(0, generated)
    import syncline_pb2
    import syncline_pb2_grpc

    pb = syncline_pb2
    with grpc.insecure_channel(address) as channel:
        client = Client(syncline_pb2_grpc.SynclineStub(channel))
        facts = SCENARIOS[scenario](client, channel)
    assert "syncline" not in sys.modules, "a bare client knows nothing of ours"
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
