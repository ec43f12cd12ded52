"""A server without a process: volumes on memory or on disk, and links to them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from syncline.adapters.executors import ThreadExecutor
from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.packs import PackStore
from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.adapters.system import SystemClock
from syncline.compose.direct import DirectLink
from syncline.core.bodies import ChunkBody
from syncline.core.changes import Accepted, Answer, Author, Change, OpId, Proposal, Refusal
from syncline.core.identity import Digest, EntryId, ReplicaId, VolumeId, digest_of
from syncline.core.manifests import ChunkRef, Content, build_content, single_chunk
from syncline.errors import LocalFailure
from syncline.ports.chunks import ChunkStore
from syncline.ports.link import Link
from syncline.ports.metadata import MetadataStore
from syncline.rpc.link import GrpcLink
from syncline.rpc.server import RpcServer
from syncline.server.limits import Limits
from syncline.server.recovery import recover
from syncline.server.volume import ServedVolume, Services, VolumeSet
from tests.support.bodies import compressed

ALICE = Author(ReplicaId(b"alice replica id"), "alice@laptop")
BOB = Author(ReplicaId(b"bob's replica id"), "bob@desk")


class SeededIds:
    """Identifiers that a seed repeats."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)

    def entry(self) -> EntryId:
        return EntryId(self._random.randbytes(16))

    def op(self) -> OpId:
        return OpId(self._random.randbytes(16))

    def replica(self) -> ReplicaId:
        return ReplicaId(self._random.randbytes(16))

    def volume(self) -> VolumeId:
        return VolumeId(self._random.randbytes(16))


@dataclass
class Backend:
    """The two stores of a server, and how to open them again."""

    directory: Path | None
    metadata: MetadataStore
    chunks: ChunkStore

    @classmethod
    def in_memory(cls) -> Backend:
        return cls(None, MemoryMetadataStore(), MemoryChunkStore())

    @classmethod
    def on_disk(cls, directory: Path) -> Backend:
        return cls(
            directory,
            SqliteMetadataStore(directory / "metadata.sqlite3"),
            PackStore(directory / "packs"),
        )

    def close(self) -> None:
        self.metadata.close()
        self.chunks.close()


@asynccontextmanager
async def served(
    backend: Backend, *, limits: Limits | None = None, name: str = "default"
) -> AsyncIterator[ServedVolume]:
    """Serve the one volume of a backend, as `compose` does it."""
    limits = limits or Limits()
    async with AsyncExitStack() as stack:
        writer_thread = ThreadExecutor("test-writer", threads=1)
        stack.callback(writer_thread.close)
        workers = ThreadExecutor("test-worker", threads=2)
        stack.callback(workers.close)
        if not backend.metadata.volumes():
            backend.metadata.create_volume(VolumeId(b"volume of a test"), name)
        facts = backend.metadata.volumes()[0]
        recover(backend.metadata, facts.id, backend.chunks)
        services = Services(backend.metadata, SystemClock(), writer_thread, workers, limits)
        volume = ServedVolume(facts, backend.chunks, services)
        await stack.enter_async_context(volume.running())
        stack.callback(volume.feed.close)
        yield volume


@asynccontextmanager
async def direct_link(volume: ServedVolume) -> AsyncIterator[Link]:
    """Link to a volume without a wire."""
    yield DirectLink(volume)


@asynccontextmanager
async def grpc_link(volume: ServedVolume, *, timeout_s: float = 20.0) -> AsyncIterator[Link]:
    """Link to a volume through a gRPC server on the loopback address."""
    async with rpc_server(volume) as address:
        link = GrpcLink(address, volume.facts.name, timeout_s=timeout_s)
        try:
            yield link
        finally:
            await link.close()


@asynccontextmanager
async def rpc_server(volume: ServedVolume) -> AsyncIterator[str]:
    """Serve a volume by gRPC; yield the address."""
    server = RpcServer(VolumeSet([volume], volume.limits))
    address = server.bind("127.0.0.1:0")
    await server.start()
    try:
        yield address
    finally:
        volume.feed.close()
        await server.stop(0.2)


@dataclass
class Chunks:
    """A source of chunks that notes what it was asked for; it may compress what it gives."""

    known: dict[Digest, bytes] = field(default_factory=dict)
    asked: list[Digest] = field(default_factory=list)
    is_compressing: ClassVar[bool] = False

    async def __call__(self, digest: Digest) -> ChunkBody:
        self.asked.append(digest)
        if digest not in self.known:
            raise LocalFailure("the source of the test does not have this chunk")
        data = self.known[digest]
        return compressed(data) if self.is_compressing else data

    def content(self, parts: Sequence[bytes]) -> Content:
        """Return the content that the parts make, each a chunk; the source has them all."""
        refs = []
        for part in parts:
            digest = digest_of(part)
            self.known[digest] = part
            refs.append(ChunkRef(digest, len(part)))
        whole = b"".join(parts)
        if len(parts) == 1:
            return single_chunk(refs[0].digest, refs[0].size)
        content, pieces = build_content(digest_of(whole), len(whole), refs)
        self.known.update(pieces)
        return content


def propose(
    *changes: Change,
    ids: SeededIds,
    author: Author = ALICE,
    inline: Sequence[bytes] = (),
    is_atomic: bool = False,
    wait_s: float = 0.0,
) -> Proposal:
    """Return a proposal of changes with a fresh op id."""
    return Proposal(
        author,
        ids.op(),
        changes,
        {digest_of(data): data for data in inline},
        is_atomic=is_atomic,
        wait_s=wait_s,
    )


def accepted(answer: Answer) -> list[int]:
    """Return the revisions of an answer in which nothing was refused."""
    revisions = []
    for outcome in answer.outcomes:
        assert isinstance(outcome, Accepted), outcome
        revisions.append(outcome.revision)
    return revisions


def codes(answer: Answer) -> list[str]:
    """Return `ok` or the code of the refusal for each change."""
    return [
        outcome.code.value if isinstance(outcome, Refusal) else "ok" for outcome in answer.outcomes
    ]


async def fetched(link: Link, content: Content) -> bytes:
    """Return content of direct chunks as the link gives it."""
    data = [chunk async for chunk in link.fetch([ref.digest for ref in content.refs])]
    return b"".join(data)
