"""FETCH: content by address or by digest, checked before it leaves (G8).

A chunk whose bytes are wrong is marked damaged, so that the next STORE that holds it fills it
again; the caller is told which one it is.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterable, Sequence

from syncline.core.entries import Entry, Kind
from syncline.core.identity import Digest, Revision
from syncline.core.manifests import ChunkRef, decode_piece
from syncline.core.names import RelPath
from syncline.core.table import resolve
from syncline.errors import Corrupt, Invalid, NotFound
from syncline.ports.link import Located
from syncline.server.listing import Describer, pinned
from syncline.server.volume import ServedVolume

logger = logging.getLogger(__name__)

BATCH_BYTES_MAX = 2 * 1024 * 1024
BATCH_CHUNKS_MAX = 256
"""Chunks read by a worker at once; what one FETCH has in memory."""

DIGESTS_MAX = 16384
"""Chunks that one FETCH may ask for."""


async def fetch_chunks(
    volume: ServedVolume, digests: Sequence[Digest]
) -> AsyncGenerator[Sequence[bytes], None]:
    """Yield chunks in the order asked, some at a time.

    Raises NotFound for a chunk this volume does not have, Corrupt for one whose bytes are wrong.
    """
    if len(digests) > DIGESTS_MAX:
        raise Invalid(
            f"{len(digests)} chunks are too many for one FETCH, the limit is {DIGESTS_MAX}",
            field="digests",
            reason="many",
        )
    position = 0
    while position < len(digests):
        data = await _read(volume, digests[position : position + BATCH_CHUNKS_MAX])
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
        return Describer(reader).locate(path, entry)


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
    (data,) = await _read(volume, [piece.digest])
    return decode_piece(data)


async def _read(volume: ServedVolume, digests: Sequence[Digest]) -> Sequence[bytes]:
    """Read the first few chunks; mark one that is damaged before saying so."""
    try:
        return await volume.workers.run(_read_some, volume, digests)
    except Corrupt as error:
        damaged = error.fields.get("digest")
        if damaged is not None:
            digest = Digest(bytes.fromhex(damaged))
            logger.error("chunk_damaged digest=%s pack=%s", damaged, error.fields.get("pack"))
            await volume.writer.submit(lambda session: session.mark_damaged([digest]))
        raise


def _read_some(volume: ServedVolume, digests: Sequence[Digest]) -> list[bytes]:
    located = volume.chunks.locate(digests)
    data: list[bytes] = []
    size = 0
    for digest in digests:
        location = located.get(digest)
        if location is None:
            raise NotFound(
                f"chunk {digest.hex()} is not in this volume, or it is damaged",
                digest=digest.hex(),
                what="chunk",
            )
        data.append(volume.chunks.read_at(digest, location))
        size += len(data[-1])
        if size >= BATCH_BYTES_MAX:
            break
    return data
