"""Receiving content: which chunks are missing, asking for them, checking what comes.

Contents are walked in order, some thousand references at a time; what is missing of them is asked
for in one message, and arrives in that order. Chunks go to the workers in batches of a few MiB:
open what is compressed, digest, append as it came, and the whole digest of each content of several
chunks, for which chunks that the server had already are read back (S1). While a worker has one
batch, the next one arrives; memory is bounded by two, and by one page of references.

A chunk that is read back wrong is marked damaged, and so missing; the contents that have it are
gone through once more from their beginning, and then it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from blake3 import blake3

from syncline.core.bodies import ChunkBody, held_bytes, plain_bytes, plain_size
from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import ChunkRef, Content, check_unfolded, decode_piece
from syncline.errors import Corrupt, Invalid
from syncline.ports.chunks import Location
from syncline.server.damage import mark_damaged
from syncline.server.volume import ServedVolume

PAGE_REFS_MAX = 4096
"""References looked up and asked for at once: 128 KiB of digests in one message."""

BATCH_BYTES_MAX = 2 * 1024 * 1024
"""Content handed to a worker at once: enough that the hop costs nothing."""

BATCH_CHUNKS_MAX = 1024

ROUNDS_MAX = 6
"""Times that content is gone through: whole, for a damaged piece of its manifest, for damaged
chunks below that, and some for a disk that goes on failing meanwhile."""


@dataclass(slots=True)
class _Arriving:
    """Content on its way in, and the hash of what has been seen of it.

    `is_damaged`: something of it that the server had could not be read; it needs another round.
    """

    content: Content
    hasher: blake3 | None
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """One reference of a page; `data` is what arrived for it, None when the server has it."""

    arriving: _Arriving
    ref: ChunkRef
    data: ChunkBody | None


class Receiver:
    """Gets the contents of one STORE; awaits `progress` whenever something arrived or was read."""

    def __init__(
        self,
        volume: ServedVolume,
        request: Callable[[Sequence[Digest]], AsyncIterator[ChunkBody]],
        progress: Callable[[], Awaitable[None]],
    ) -> None:
        self._volume = volume
        self._request = request
        self._progress = progress

    async def receive(self, contents: Sequence[Content]) -> None:
        """Get all that is missing or damaged.

        Raises Invalid for content that does not match its digests, and Corrupt for a disk that
        damages chunks as fast as they come.
        """
        for _ in range(ROUNDS_MAX):
            contents = await self._go_through(contents)
            if not contents:
                return
        raise Corrupt(
            f"the chunks of content {contents[0].digest.hex()} are damaged again and again; "
            "look at the server's disk",
            digest=contents[0].digest.hex(),
            what="chunk",
        )

    async def _go_through(self, contents: Sequence[Content]) -> list[Content]:
        """Get what is missing; return the contents in which something turned out damaged."""
        arriving = [
            _Arriving(content, blake3() if _has_many(content) else None) for content in contents
        ]
        await self._get_pieces(arriving)
        page: list[tuple[_Arriving, ChunkRef]] = []
        async for pair in self._walk(arriving):
            page.append(pair)
            if len(page) >= PAGE_REFS_MAX:
                await self._get_page(page)
                page = []
                # So that neither memory nor what a restart looks through grows with the file.
                await self._volume.writer.index_chunks()
        await self._get_page(page)
        for one in arriving:
            _check_whole(one)
        return [one.content for one in arriving if one.is_damaged]

    async def _walk(
        self, arriving: Iterable[_Arriving]
    ) -> AsyncIterator[tuple[_Arriving, ChunkRef]]:
        """Yield the data chunks of all contents in order."""
        for one in arriving:
            if one.content.depth == 0:
                for ref in one.content.refs:
                    yield one, ref
                continue
            size = count = 0
            for piece in one.content.refs:
                refs = await self._read_piece(piece)
                if refs is None:
                    one.is_damaged = True
                    continue
                size += sum(ref.size for ref in refs)
                count += len(refs)
                check_unfolded(one.content, size=size, count=count, is_whole=False)
                for ref in refs:
                    yield one, ref
            if not one.is_damaged:
                check_unfolded(one.content, size=size, count=count, is_whole=True)

    async def _read_piece(self, piece: ChunkRef) -> tuple[ChunkRef, ...] | None:
        """Return what a piece names; None, and the piece is marked, where it is damaged."""
        damaged: dict[Digest, Location] = {}
        data = await self._volume.workers.run(self._read, piece.digest, damaged)
        if data is None:
            await mark_damaged(self._volume, damaged)
            return None
        _check_size(piece, data)
        try:
            return decode_piece(data)
        except Corrupt as error:
            raise Invalid(error.message, field="manifest", reason="piece") from error

    def _read(self, digest: Digest, damaged: dict[Digest, Location]) -> bytes | None:
        """Return a chunk; note where it lies when it is damaged there. Blocks.

        None as well for one that is there no more: someone else found it damaged just now.
        """
        location = self._volume.chunks.locate([digest]).get(digest)
        if location is None:
            return None
        try:
            return self._volume.chunks.read_at(digest, location)
        except Corrupt:
            damaged[digest] = location
            return None

    async def _get_pieces(self, arriving: Iterable[_Arriving]) -> None:
        """Get the pieces of long manifests: they say which data chunks there are."""
        pieces = [ref for one in arriving if one.content.depth for ref in one.content.refs]
        for start in range(0, len(pieces), PAGE_REFS_MAX):
            refs = pieces[start : start + PAGE_REFS_MAX]
            missing = await self._volume.workers.run(
                self._volume.chunks.missing, [ref.digest for ref in refs]
            )
            if not missing:
                continue
            sizes = {ref.digest: ref.size for ref in refs}
            batch: dict[Digest, ChunkBody] = {}
            async for digest, data in self._arrivals(missing):
                batch[digest] = data
                if len(batch) >= 16:
                    await self._volume.workers.run(self._keep, batch, sizes)
                    batch = {}
            await self._volume.workers.run(self._keep, batch, sizes)

    async def _arrivals(self, digests: Sequence[Digest]) -> AsyncIterator[tuple[Digest, ChunkBody]]:
        position = 0
        async for data in self._request(digests):
            await self._progress()
            yield digests[position], data
            position += 1
        if position != len(digests):
            raise Invalid("the stream ended before all chunks came", field="chunks", reason="few")

    def _keep(self, batch: dict[Digest, ChunkBody], sizes: dict[Digest, int]) -> None:
        for digest, data in batch.items():
            _check_chunk(digest, sizes[digest], data)
        self._volume.chunks.append(batch)

    async def _get_page(self, page: Sequence[tuple[_Arriving, ChunkRef]]) -> None:
        """Get what is missing of a page, and run all of it past the hashes."""
        if not page:
            return
        missing = await self._volume.workers.run(
            self._volume.chunks.missing, [ref.digest for _, ref in page]
        )
        batches: asyncio.Queue[Sequence[_Step]] = asyncio.Queue(1)
        try:
            async with asyncio.TaskGroup() as group:
                taking = group.create_task(self._take_all(batches))
                await self._gather(page, missing, batches)
                # An empty one is the last.
                await batches.put(())
                await taking
        except ExceptionGroup as errors:
            # One of the two failed, and the other was cancelled for it.
            raise errors.exceptions[0] from errors

    async def _gather(
        self,
        page: Sequence[tuple[_Arriving, ChunkRef]],
        missing: Sequence[Digest],
        batches: asyncio.Queue[Sequence[_Step]],
    ) -> None:
        """Put the steps of a page into batches, as what is missing arrives."""
        coming = self._arrivals(missing) if missing else None
        open_digests = set(missing)
        batch: list[_Step] = []
        size = 0
        for one, ref in page:
            data = None
            if ref.digest in open_digests:
                assert coming is not None
                open_digests.discard(ref.digest)
                _, data = await anext(coming)
                # What it holds now, and what it says that it will.
                size += max(len(held_bytes(data)), plain_size(data))
            else:
                size += ref.size
            batch.append(_Step(one, ref, data))
            if size >= BATCH_BYTES_MAX or len(batch) >= BATCH_CHUNKS_MAX:
                await batches.put(batch)
                await self._progress()
                batch, size = [], 0
        if batch:
            await batches.put(batch)
        if coming is not None:
            async for _ in coming:
                raise Invalid("a chunk came that nobody asked for", field="chunks", reason="many")

    async def _take_all(self, batches: asyncio.Queue[Sequence[_Step]]) -> None:
        while batch := await batches.get():
            await self._take(batch)

    async def _take(self, batch: Sequence[_Step]) -> None:
        await mark_damaged(self._volume, await self._volume.workers.run(self._digest, batch))

    def _digest(self, batch: Sequence[_Step]) -> dict[Digest, Location]:
        """Check, append and hash a batch, in a worker; return what the server had and is wrong."""
        fresh: dict[Digest, ChunkBody] = {}
        opened: dict[Digest, bytes] = {}
        for step in batch:
            if step.data is not None:
                digest = step.ref.digest
                opened[digest] = _check_chunk(digest, step.ref.size, step.data)
                fresh[digest] = step.data
        self._volume.chunks.append(fresh)
        damaged: dict[Digest, Location] = {}
        for step in batch:
            digest = step.ref.digest
            # What the server has is read, and its length is unproven.
            data = opened.get(digest) or self._read(digest, damaged)
            if data is None:
                step.arriving.is_damaged = True
                continue
            _check_size(step.ref, data)
            if step.arriving.hasher is not None:
                step.arriving.hasher.update(data)
        return damaged


def _has_many(content: Content) -> bool:
    """Tell whether the digest of the whole says more than the digest of its one chunk (M2)."""
    return len(content.refs) > 1 or content.depth > 0


def _check_size(ref: ChunkRef, data: bytes) -> None:
    """Check what a manifest says of a chunk that was found by its digest alone (M1)."""
    if len(data) != ref.size:
        raise Invalid(
            f"chunk {ref.digest.hex()} has {len(data)} bytes, not {ref.size}",
            field="chunks",
            reason="size",
        )


def _check_chunk(digest: Digest, size: int, body: ChunkBody) -> bytes:
    """Return the plain bytes of a chunk; nothing is opened that says to have another size."""
    try:
        plain = plain_bytes(body) if plain_size(body) == size else None
    except Corrupt as error:
        raise Invalid(
            f"chunk {digest.hex()} cannot be opened: {error.message}",
            field="chunks",
            reason="encoding",
        ) from error
    if plain is None or digest_of(plain) != digest:
        raise Invalid(
            f"a chunk that came does not have the digest {digest.hex()} and {size} bytes",
            field="chunks",
            reason="digest",
        )
    return plain


def _check_whole(one: _Arriving) -> None:
    if one.is_damaged or one.hasher is None:
        return
    if one.hasher.digest() != one.content.digest:
        raise Invalid(
            f"the chunks of a file do not make the digest {one.content.digest.hex()}",
            field="content",
            reason="digest",
        )
