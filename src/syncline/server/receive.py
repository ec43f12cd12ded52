"""Receiving content: which chunks are missing, asking for them, checking what comes.

Contents are walked in order, some thousand references at a time; what is missing of them is asked
for in one message, and arrives in that order. Chunks go to the workers in batches of a few MiB:
digest, append, and the whole digest of each content of several chunks, for which chunks that the
server had already are read back (S1). Memory is bounded by one batch and one page of references.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import ChunkRef, Content, check_unfolded, decode_piece
from syncline.errors import Corrupt, Invalid
from syncline.server.volume import ServedVolume

PAGE_REFS_MAX = 4096
"""References looked up and asked for at once: 128 KiB of digests in one message."""

BATCH_BYTES_MAX = 4 * 1024 * 1024
"""Content handed to a worker at once: enough that the hop costs nothing."""

BATCH_CHUNKS_MAX = 1024


@dataclass(slots=True)
class _Arriving:
    """Content on its way in, and the hash of what has been seen of it."""

    content: Content
    hasher: blake3 | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One reference of a page; `data` is what arrived for it, None when the server has it."""

    arriving: _Arriving
    ref: ChunkRef
    data: bytes | None


class Receiver:
    """Gets the contents of one STORE. `progress` is called whenever something arrived."""

    def __init__(
        self,
        volume: ServedVolume,
        request: Callable[[Sequence[Digest]], AsyncIterator[bytes]],
        progress: Callable[[], None],
    ) -> None:
        self._volume = volume
        self._request = request
        self._progress = progress

    async def receive(self, contents: Sequence[Content]) -> None:
        """Get all that is missing; raise Invalid for content that does not match its digests."""
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
        await self._get_page(page)
        for one in arriving:
            _check_whole(one)

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
                refs = await self._volume.workers.run(self._read_piece, piece)
                size += sum(ref.size for ref in refs)
                count += len(refs)
                check_unfolded(one.content, size=size, count=count, is_whole=False)
                for ref in refs:
                    yield one, ref
            check_unfolded(one.content, size=size, count=count, is_whole=True)

    def _read_piece(self, piece: ChunkRef) -> tuple[ChunkRef, ...]:
        try:
            data = self._volume.chunks.read(piece.digest)
            _check_size(piece, data)
            return decode_piece(data)
        except Corrupt as error:
            if "pack" in error.fields:
                raise
            raise Invalid(error.message, field="manifest", reason="piece") from error

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
            batch: dict[Digest, bytes] = {}
            async for digest, data in self._arrivals(missing):
                batch[digest] = data
                if len(batch) >= 16:
                    await self._volume.workers.run(self._keep, batch, sizes)
                    batch = {}
            await self._volume.workers.run(self._keep, batch, sizes)

    async def _arrivals(self, digests: Sequence[Digest]) -> AsyncIterator[tuple[Digest, bytes]]:
        position = 0
        async for data in self._request(digests):
            self._progress()
            yield digests[position], data
            position += 1
        if position != len(digests):
            raise Invalid("the stream ended before all chunks came", field="chunks", reason="few")

    def _keep(self, batch: dict[Digest, bytes], sizes: dict[Digest, int]) -> None:
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
                size += len(data)
            else:
                size += ref.size
            batch.append(_Step(one, ref, data))
            if size >= BATCH_BYTES_MAX or len(batch) >= BATCH_CHUNKS_MAX:
                await self._volume.workers.run(self._digest, batch)
                batch, size = [], 0
        await self._volume.workers.run(self._digest, batch)
        if coming is not None:
            async for _ in coming:
                raise Invalid("a chunk came that nobody asked for", field="chunks", reason="many")

    def _digest(self, batch: Sequence[_Step]) -> None:
        """Check, append and hash a batch, in a worker."""
        fresh: dict[Digest, bytes] = {}
        for step in batch:
            if step.data is not None:
                _check_chunk(step.ref.digest, step.ref.size, step.data)
                fresh[step.ref.digest] = step.data
        self._volume.chunks.append(fresh)
        for step, data in self._with_data(batch, fresh):
            hasher = step.arriving.hasher
            if hasher is not None:
                hasher.update(data)

    def _with_data(
        self, batch: Sequence[_Step], fresh: dict[Digest, bytes]
    ) -> Iterator[tuple[_Step, bytes]]:
        """Yield each step with its bytes; what the server has is read, its length is unproven."""
        for step in batch:
            data = fresh.get(step.ref.digest)
            if data is None:
                data = self._volume.chunks.read(step.ref.digest)
            _check_size(step.ref, data)
            yield step, data


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


def _check_chunk(digest: Digest, size: int, data: bytes) -> None:
    if len(data) != size or digest_of(data) != digest:
        raise Invalid(
            f"a chunk that came does not have the digest {digest.hex()} and {size} bytes",
            field="chunks",
            reason="digest",
        )


def _check_whole(one: _Arriving) -> None:
    if one.hasher is not None and one.hasher.digest() != one.content.digest:
        raise Invalid(
            f"the chunks of a file do not make the digest {one.content.digest.hex()}",
            field="content",
            reason="digest",
        )
