"""FETCH: content by address or by digest, checked before it leaves (G8).

A chunk whose bytes are wrong is marked damaged, so that the next STORE that holds it fills it
again; the caller is told which one it is, then and each time until it is healed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import TypeVar

from syncline.core.bodies import ChunkBody, Compressed, plain_size
from syncline.core.entries import Entry, Kind
from syncline.core.identity import Digest, Revision
from syncline.core.manifests import ChunkRef, decode_piece
from syncline.core.names import RelPath
from syncline.core.table import resolve
from syncline.errors import Corrupt, Invalid, NotFound
from syncline.ports.chunks import Location
from syncline.ports.link import Located
from syncline.server.damage import mark_damaged
from syncline.server.listing import Describer, pinned
from syncline.server.volume import ServedVolume

BATCH_BYTES_MAX = 2 * 1024 * 1024
BATCH_CHUNKS_MAX = 256
"""Chunks read by a worker at once; what one FETCH has in memory."""

DIGESTS_MAX = 16384
"""Chunks that one FETCH may ask for."""

B = TypeVar("B", bytes, bytes | Compressed)

_ReadAt = Callable[[Digest, Location], B]
"""Gives a chunk at its place, plain or as it lies there; raises Corrupt."""


async def fetch_chunks(
    volume: ServedVolume, digests: Sequence[Digest]
) -> AsyncGenerator[Sequence[bytes], None]:
    """Yield chunks in the order asked, some at a time.

    Raises NotFound for a chunk this volume does not have, Corrupt for one whose bytes are wrong.
    """
    async with aclosing(_batches(volume, digests, volume.chunks.read_at)) as batches:
        async for batch in batches:
            yield batch


async def fetch_bodies(
    volume: ServedVolume, digests: Sequence[Digest]
) -> AsyncGenerator[Sequence[ChunkBody], None]:
    """Yield chunks as they are stored, compressed or plain, and raise what `fetch_chunks` raises.

    What is compressed was opened and checked like all the rest (G8).
    """
    async with aclosing(_batches(volume, digests, volume.chunks.read_body_at)) as batches:
        async for batch in batches:
            yield batch


async def _batches(
    volume: ServedVolume, digests: Sequence[Digest], read_at: _ReadAt[B]
) -> AsyncGenerator[Sequence[B], None]:
    if len(digests) > DIGESTS_MAX:
        raise Invalid(
            f"{len(digests)} chunks are too many for one FETCH, the limit is {DIGESTS_MAX}",
            field="digests",
            reason="many",
        )
    position = 0
    while position < len(digests):
        data = await _read(volume, digests[position : position + BATCH_CHUNKS_MAX], read_at)
        position += len(data)
        yield data


async def find_file(volume: ServedVolume, path: RelPath, at: Revision | None) -> Located:
    """Return the entry at a path for a FETCH by address; raise NotFound."""
    revision = pinned(volume, at)
    return await volume.workers.run(_find, volume, path, revision)


def _find(volume: ServedVolume, path: RelPath, at: Revision) -> Located:
    with volume.metadata.read(volume.id, at) as reader:
        entry = resolve(reader, path)
        if entry is None:
            raise NotFound(
                f"there is no '{path}' at revision {at}", path=str(path), revision=str(at)
            )
        (located,) = Describer(reader, volume.chunks).describe([(path, entry)])
        return located


async def fetch_content(
    volume: ServedVolume, entry: Entry, offset: int
) -> AsyncGenerator[Sequence[bytes], None]:
    """Yield the bytes of a file from `offset` on; nothing for a directory or a link."""
    if entry.kind is not Kind.FILE or entry.content is None:
        return
    if not 0 <= offset <= entry.content.size:
        raise Invalid(
            f"offset {offset} is past the end, the file has {entry.content.size} bytes",
            field="offset",
            reason="range",
        )
    skip = offset
    if entry.content.depth == 0:
        lists: Iterable[ChunkRef | None] = [None]
    else:
        lists = entry.content.refs
    for piece in lists:
        refs = entry.content.refs if piece is None else await _piece(volume, piece)
        wanted: list[Digest] = []
        for ref in refs:
            if skip >= ref.size and not wanted:
                skip -= ref.size
            else:
                wanted.append(ref.digest)
        async for data in fetch_chunks(volume, wanted):
            if skip and data:
                data = [data[0][skip:], *data[1:]]
                skip = 0
            yield data


async def _piece(volume: ServedVolume, piece: ChunkRef) -> Sequence[ChunkRef]:
    (data,) = await _read(volume, [piece.digest], volume.chunks.read_at)
    return decode_piece(data)


async def _read(
    volume: ServedVolume, digests: Sequence[Digest], read_at: _ReadAt[B]
) -> Sequence[B]:
    """Read the first few chunks; mark one that is damaged before saying so."""
    damaged: dict[Digest, Location] = {}
    try:
        return await volume.workers.run(_read_some, volume, digests, read_at, damaged)
    except Corrupt:
        await mark_damaged(volume, damaged)
        raise


def _read_some(
    volume: ServedVolume,
    digests: Sequence[Digest],
    read_at: _ReadAt[B],
    damaged: dict[Digest, Location],
) -> list[B]:
    """Return the first few chunks; note in `damaged` where one lies that makes this fail."""
    located = volume.chunks.locate(digests)
    data: list[B] = []
    size = 0
    for digest in digests:
        location = located.get(digest)
        if location is None:
            raise _absent(volume, digest)
        try:
            data.append(read_at(digest, location))
        except Corrupt:
            damaged[digest] = location
            raise
        # The plain size, because each of these bytes was gone through.
        size += plain_size(data[-1])
        if size >= BATCH_BYTES_MAX:
            break
    return data


def _absent(volume: ServedVolume, digest: Digest) -> NotFound | Corrupt:
    """Return the error for a chunk that has no place."""
    shown = digest.hex()
    if volume.chunks.damaged([digest]):
        return Corrupt(
            f"chunk {shown} is damaged; store a file that has it again to repair it",
            digest=shown,
            what="chunk",
        )
    return NotFound(f"chunk {shown} is not in this volume", digest=shown, what="chunk")
