"""Moving content from the server into local files: many small ones at once, large ones resumed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from syncline.client.placing import Placer
from syncline.client.staged import Target, failed
from syncline.client.staging import SourceChanged, Staging
from syncline.client.steady import ENDS_ALL, Steady
from syncline.core.identity import Digest
from syncline.core.manifests import ChunkRef, check_unfolded, decode_piece
from syncline.errors import Corrupt, Invalid, NotFound, ProtocolBroken, SynclineError
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.link import Link
from syncline.ports.report import PathOutcome, Report

DIGESTS_MAX = 1024
"""Chunks asked for in one FETCH."""

Ready = asyncio.Queue[list[bytes] | None]
"""Chunks on their way to the writer; None at the end."""

WRITE_BYTES = 2 * 1024 * 1024
"""Content of a large file that is gathered before it is written; twice that is in memory."""

SMALL_BYTES_MAX = 1024 * 1024
"""Files up to this size are held in memory and placed in batches; larger ones are staged."""


class Mover:
    """Fetches content and places it; several of its calls may run at once."""

    def __init__(
        self,
        link: Link,
        steady: Steady,
        placer: Placer,
        *,
        chunker: Chunker,
        executor: Executor,
        report: Report,
    ) -> None:
        self._link = link
        self._steady = steady
        self._placer = placer
        self._chunker = chunker
        self._executor = executor
        self._report = report

    # -- small files ---------------------------------------------------------

    async def small(self, targets: Sequence[Target]) -> list[PathOutcome]:
        """Fetch and place files of at most `SMALL_BYTES_MAX`; raise Unavailable and its like."""
        outcomes: list[PathOutcome] = []
        chunks: dict[Digest, bytes] = {}
        waiting = list(targets)
        while waiting:
            try:
                await self._get_all(waiting, chunks)
            except (NotFound, Corrupt) as error:
                spoilt = [target for target in waiting if _names(target, error)]
                if not spoilt:
                    raise ProtocolBroken(
                        f"the server misses a chunk that was not asked for: {error.message}"
                    ) from error
                outcomes += [failed(target, _of_path(error, target)) for target in spoilt]
                waiting = [target for target in waiting if target not in spoilt]
            else:
                break
        contents = [
            (target, b"".join(chunks[ref.digest] for ref in _refs(target))) for target in waiting
        ]
        if contents:
            outcomes += await self._executor.run(self._placer.place, contents)
        self._report.advance(sum(target.entry.size for target in targets))
        return outcomes

    async def _get_all(self, targets: Sequence[Target], chunks: dict[Digest, bytes]) -> None:
        wanted = list(dict.fromkeys(ref.digest for target in targets for ref in _refs(target)))
        await self._steady.run(lambda: self._get(wanted, chunks))

    async def _get(self, wanted: Sequence[Digest], chunks: dict[Digest, bytes]) -> None:
        """Add chunks that are not there yet, so that a repetition goes on where it broke off."""
        lacking = [digest for digest in wanted if digest not in chunks]
        for start in range(0, len(lacking), DIGESTS_MAX):
            asked = lacking[start : start + DIGESTS_MAX]
            count = 0
            async for chunk in self._link.fetch(asked):
                if count == len(asked):
                    raise ProtocolBroken("the server sent more chunks than it was asked for")
                chunks[asked[count]] = chunk
                count += 1
                self._steady.progress()
            if count < len(asked):
                raise ProtocolBroken("the server sent fewer chunks than it was asked for")

    # -- a large file --------------------------------------------------------

    async def large(self, target: Target) -> PathOutcome:
        """Fetch and place one file of any size; raise Unavailable and its like.

        What was staged then stays, and the next fetch of the same content begins there.
        """
        try:
            refs = await self._manifest(target)
            try:
                return await self._stage(target, refs, may_copy=True)
            except SourceChanged:
                return await self._stage(target, refs, may_copy=False)
        except OSError as error:
            return failed(target, error)
        except ENDS_ALL:
            raise
        except (NotFound, Corrupt, Invalid) as error:
            return failed(target, _of_path(error, target))
        except SynclineError as error:
            return failed(target, error)

    async def _manifest(self, target: Target) -> Sequence[ChunkRef]:
        content = target.entry.content
        assert content is not None
        if content.depth == 0:
            return content.refs
        pieces: dict[Digest, bytes] = {}
        digests = [ref.digest for ref in content.refs]
        await self._steady.run(lambda: self._get(digests, pieces))
        refs = [ref for digest in digests for ref in decode_piece(pieces[digest])]
        check_unfolded(content, size=sum(ref.size for ref in refs), count=len(refs), is_whole=True)
        return refs

    async def _stage(
        self, target: Target, refs: Sequence[ChunkRef], *, may_copy: bool
    ) -> PathOutcome:
        staging = Staging(target, refs, self._placer, self._chunker)
        try:
            there = await self._executor.run(staging.open, may_copy=may_copy)
            self._report.advance(there)
            await self._executor.run(staging.advance, ())
            await self._steady.run(lambda: self._stream(staging))
            return await self._executor.run(staging.finish)
        except (*ENDS_ALL, SourceChanged):
            raise
        except (OSError, SynclineError):
            await self._executor.run(staging.discard)
            raise
        finally:
            staging.close()

    async def _stream(self, staging: Staging) -> None:
        """Write all that is wanted; called again, go on after the last chunk that was written."""
        while wanted := staging.wanted(DIGESTS_MAX):
            ready: Ready = asyncio.Queue(1)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._write(staging, ready))
                    broken = await self._receive(wanted, ready)
            except ExceptionGroup as errors:
                # Only the writer raises, and only one thing.
                raise errors.exceptions[0] from errors
            if broken is not None:
                raise broken

    async def _write(self, staging: Staging, ready: Ready) -> None:
        while (chunks := await ready.get()) is not None:
            await self._executor.run(staging.advance, chunks)

    async def _receive(self, wanted: Sequence[Digest], ready: Ready) -> SynclineError | None:
        """Hand over chunks as they come; return what ended the call early.

        An error is returned and not raised, so that the writer finishes what it was given.
        """
        chunks: list[bytes] = []
        size = count = 0
        broken: SynclineError | None = None
        try:
            async for chunk in self._link.fetch(wanted):
                chunks.append(chunk)
                size += len(chunk)
                count += 1
                self._steady.progress()
                self._report.advance(len(chunk))
                if size >= WRITE_BYTES:
                    await ready.put(chunks)
                    chunks, size = [], 0
        except SynclineError as error:
            broken = error
        if broken is None and count != len(wanted):
            broken = ProtocolBroken("the server sent another number of chunks than asked for")
        await ready.put(chunks)
        await ready.put(None)
        return broken


def _refs(target: Target) -> Sequence[ChunkRef]:
    assert target.entry.content is not None
    return target.entry.content.refs


def is_small(target: Target) -> bool:
    """Tell whether a file is held in memory on its way."""
    content = target.entry.content
    return content is not None and content.depth == 0 and content.size <= SMALL_BYTES_MAX


def _names(target: Target, error: SynclineError) -> bool:
    """Tell whether an error is about a chunk of this file; of every file where it names none."""
    digest = error.fields.get("digest")
    return digest is None or any(ref.digest.hex() == digest for ref in _refs(target))


def _of_path(error: SynclineError, target: Target) -> SynclineError:
    """Return an error about content as one about a path."""
    fields = {**error.fields, "path": str(target.path)}
    return type(error)(f"'{target.path}': {error.message}", **fields)
