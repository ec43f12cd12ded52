"""Moving content from the server into local files: many small ones at once, large ones resumed."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.client.assembling import SourceChanged, unfold
from syncline.client.assembling import is_small as is_small_content
from syncline.client.placing import Placer
from syncline.client.staged import Target, failed
from syncline.client.staging import Staging
from syncline.client.steady import ENDS_ALL, Steady
from syncline.client.streaming import DIGESTS_MAX, stream
from syncline.core.identity import Digest
from syncline.core.manifests import ChunkRef
from syncline.errors import Corrupt, Invalid, NotFound, ProtocolBroken, SynclineError
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.link import Link
from syncline.ports.report import PathOutcome, Report


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
        """Fetch and place files that `is_small` tells of; raise Unavailable and its like."""
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
        return unfold(content, (pieces[digest] for digest in digests))

    async def _stage(
        self, target: Target, refs: Sequence[ChunkRef], *, may_copy: bool
    ) -> PathOutcome:
        staging = Staging(target, refs, self._placer, self._chunker)
        try:
            there = await self._executor.run(staging.open, may_copy=may_copy)
            self._report.advance(there)
            await self._executor.run(staging.advance, ())
            await self._steady.run(
                lambda: stream(self._link, self._executor, staging, self._arrived)
            )
            return await self._executor.run(staging.finish)
        except (*ENDS_ALL, SourceChanged):
            raise
        except (OSError, SynclineError):
            await self._executor.run(staging.discard)
            raise
        finally:
            staging.close()

    def _arrived(self, size: int) -> None:
        self._steady.progress()
        self._report.advance(size)


def _refs(target: Target) -> Sequence[ChunkRef]:
    assert target.entry.content is not None
    return target.entry.content.refs


def is_small(target: Target) -> bool:
    """Tell whether a file is held in memory on its way."""
    content = target.entry.content
    return content is not None and is_small_content(content)


def _names(target: Target, error: SynclineError) -> bool:
    """Tell whether an error is about a chunk of this file; of every file where it names none."""
    digest = error.fields.get("digest")
    return digest is None or any(ref.digest.hex() == digest for ref in _refs(target))


def _of_path(error: SynclineError, target: Target) -> SynclineError:
    """Return an error about content as one about a path."""
    fields = {**error.fields, "path": str(target.path)}
    return type(error)(f"'{target.path}': {error.message}", **fields)
