"""What tests of a mount's transfers need: files on a disk, contents on a server, executors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from threading import Event
from typing import ParamSpec, TypeVar

from blake3 import blake3

from syncline.adapters.executors import ThreadExecutor
from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.posix_files import PosixFiles
from syncline.client.mount.mounted_file import Above, MountedFile
from syncline.client.mount.own_directory import OwnDirectory, open_own
from syncline.core.changes import PutFile
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, EntryId, Revision, digest_of
from syncline.core.manifests import ChunkRef, Content, build_content, single_chunk
from syncline.core.names import Name
from syncline.ports.chunker import Chunked, Read
from syncline.ports.files import Directory
from syncline.ports.link import Link
from tests.support.serving import Chunks, SeededIds, accepted, propose
from tests.support.simulation.files import SimulatedFiles

P = ParamSpec("P")
R = TypeVar("R")

KIB = 1024
MIB = 1024 * 1024


class InlineExecutor:
    """Runs blocking work at once, as a simulation does."""

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return work(*args, **kwargs)

    def close(self) -> None: ...


class HeldExecutor(ThreadExecutor):
    """Begins work in a thread at once, and goes on with it when it is let."""

    def __init__(self) -> None:
        super().__init__("test-held", threads=2)
        self.begun = Event()
        self.may_go_on = Event()
        self.ended = Event()

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        def held() -> R:
            self.begun.set()
            assert self.may_go_on.wait(20.0)
            try:
                return work(*args, **kwargs)
            finally:
                self.ended.set()

        return await super().run(held)


class FixedChunker(FastCdcChunker):
    """Cuts after every so many bytes: long manifests without much content."""

    def __init__(self, chunk_bytes: int) -> None:
        super().__init__()
        self.chunk_bytes = chunk_bytes

    def chunk(self, read: Read) -> Chunked:
        hasher = blake3()
        refs: list[ChunkRef] = []
        while chunk := read(self.chunk_bytes):
            while len(chunk) < self.chunk_bytes and (more := read(self.chunk_bytes - len(chunk))):
                chunk += more
            hasher.update(chunk)
            refs.append(ChunkRef(digest_of(chunk), len(chunk)))
        digest, size = Digest(hasher.digest()), sum(ref.size for ref in refs)
        if len(refs) <= 1:
            return Chunked(single_chunk(digest, size), {}, tuple(refs))
        content, pieces = build_content(digest, size, refs)
        return Chunked(content, pieces, tuple(refs))


def cut(whole: bytes, chunk_bytes: int) -> list[bytes]:
    """Return the chunks that `FixedChunker` makes."""
    return [whole[start : start + chunk_bytes] for start in range(0, len(whole), chunk_bytes)]


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that a seed repeats."""
    return Random(seed).randbytes(size)


def content_of(whole: bytes, chunk_bytes: int = MIB) -> Content:
    """Return the content that `FixedChunker` makes."""
    return Chunks().content(cut(whole, chunk_bytes)) if whole else single_chunk(digest_of(b""), 0)


def put_of(whole: bytes, number: int = 1, *, chunk_bytes: int = MIB) -> PutFile:
    """Return the change that makes a new file in the root."""
    return PutFile(
        EntryId(number.to_bytes(16, "big")),
        NO_REVISION,
        ROOT_ID,
        Name(b"file-%d" % number),
        0o644,
        0,
        content_of(whole, chunk_bytes),
    )


@dataclass
class Stored:
    """Puts contents on a server, each as a file of its own."""

    link: Link
    ids: SeededIds = field(default_factory=lambda: SeededIds(77))

    async def content(self, parts: Sequence[bytes]) -> Content:
        """Store a content with these chunks."""
        source = Chunks()
        content = source.content(parts)
        put = PutFile(
            self.ids.entry(),
            Revision(0),
            ROOT_ID,
            Name(self.ids.op().hex().encode()),
            0,
            0,
            content,
        )
        accepted(await self.link.store(propose(put, ids=self.ids), source))
        return content

    async def whole(self, whole: bytes, chunk_bytes: int = MIB) -> Content:
        """Store a content cut as `FixedChunker` does."""
        return await self.content(cut(whole, chunk_bytes))


def write(directory: Directory, name: bytes, whole: bytes) -> MountedFile:
    """Make a file, or give it other content in place; return the way to it from there."""
    is_new = directory.look(name) is None
    file = directory.create(name) if is_new else directory.open_to_write(name)
    try:
        file.truncate(0)
        file.write(whole, 0)
    finally:
        file.close()
    return MountedFile((), Name(name))


def read(directory: Directory, name: bytes) -> bytes:
    """Return the content of a file."""
    file = directory.open(name)
    try:
        return file.read(file.status().size, 0)
    finally:
        file.close()


def names(directory: Directory) -> set[bytes]:
    """Return what is in a directory."""
    return {name for name, _ in directory.list()}


def below(root: Directory, *path: bytes) -> Iterator[Above]:
    """Yield the directories of a path with their inodes; makes those that are missing."""
    directory = root
    for name in path:
        if directory.look(name) is None:
            directory.make_directory(name, 0o755)
        inner = directory.enter(name)
        if directory is not root:
            directory.close()
        directory = inner
        yield Above(Name(name), directory.status().inode)
    if directory is not root:
        directory.close()


def open_descriptors() -> int:
    """Return how many descriptors of files and directories this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("/")
        except FileNotFoundError:
            continue
    return count


@dataclass
class Disk:
    """The root of a mount on a real or a simulated disk, and what is ours in it."""

    files: PosixFiles | SimulatedFiles
    root: Directory
    own: OwnDirectory

    @classmethod
    def open(cls, files: PosixFiles | SimulatedFiles) -> Disk:
        root = files.open_root()
        return cls(files, root, open_own(root))

    @property
    def open_handles(self) -> int:
        if isinstance(self.files, SimulatedFiles):
            return self.files.open_handles
        return open_descriptors()

    def close(self) -> None:
        self.own.close()
        self.root.close()
