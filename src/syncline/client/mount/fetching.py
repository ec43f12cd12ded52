"""Fetching content for a mount: many small ones into memory, each large one into staging.

F1  What is in memory, or staged under its name, has its digest (G8).
F2  Trouble with one content is a problem of that one alone; trouble with the server ends the call.
F3  A repetition after a broken connection goes on where the first call ended.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from weakref import WeakValueDictionary

from syncline.client.assembling import SMALL_BYTES_MAX, SourceChanged, Unfolding, unfold
from syncline.client.local import local_error
from syncline.client.mount.contents import PIECES_KEPT_MAX, Contents
from syncline.client.mount.growing import (
    GrowingFile,
    Sign,
    content_name,
    find,
    sign_of,
)
from syncline.client.mount.handles import Handles
from syncline.client.mount.mounted_file import MountedFile
from syncline.client.mount.own_directory import STAGING, OwnDirectory
from syncline.client.streaming import DIGESTS_MAX, fetching, stream
from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import ChunkRef, Content
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.errors import Corrupt, Invalid, NotFound, ProtocolBroken, SynclineError
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.files import Directory
from syncline.ports.link import Link

SPOILING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})
"""After these a part is removed: its space is wanted, or its bytes count as lost."""

Progress = Callable[[int], None]
"""Told how many bytes more of a content are here."""


class Fetcher:
    """Gets content for one mount; several calls may run at once, but one alone for each content."""

    def __init__(
        self,
        link: Link,
        contents: Contents,
        own: OwnDirectory,
        reads: Executor,
        chunker: Chunker,
    ) -> None:
        self._link = link
        self._contents = contents
        self._own = own
        self._reads = reads
        self._chunker = chunker
        self._signs: dict[Digest, Sign] = {}
        self._locks: WeakValueDictionary[Digest, Lock] = WeakValueDictionary()
        self._guard = Lock()

    async def small(self, contents: Sequence[Content]) -> Mapping[Digest, SynclineError]:
        """Get contents of at most `SMALL_BYTES_MAX` into memory; return the failures by digest.

        A failure is NotFound, Corrupt or Invalid. All contents of one call are in memory at once:
        together they may have half the bytes that `Contents` holds. Raises the link's errors about
        the server; what arrived before one is kept (F3).
        """
        gathering = _Gathering(self._link, self._contents, contents)
        while (asked := gathering.lacking(DIGESTS_MAX)) or gathering.is_unsettled:
            broken = await gathering.get(asked) if asked else None
            await self._reads.run(gathering.settle)
            if broken is not None:
                gathering.fail(broken)
        return gathering.failures

    async def large(
        self, content: Content, older: MountedFile | None, root: Directory, progress: Progress
    ) -> bytes:
        """Stage a content; return its name in `own.staging`, where it is whole and durable.

        Goes on with what an earlier call or run left there. `older` is a file of the mount that may
        have chunks of it, below `root`; it need not be there any more.

        Raises NotFound, Corrupt and Invalid about the content, NoSpace and LocalFailure about the
        disk, and the link's errors about the server.
        """
        told = _Told(progress)
        try:
            if await self._is_found(content.digest):
                told.reach(content.size)
            else:
                refs = await self._chunks_of(content)
                try:
                    await self._grow(content, refs, older, root, told)
                except SourceChanged:
                    await self._grow(content, refs, None, root, told)
        except OSError as error:
            raise local_error(error, _path(content.digest)) from error
        return content_name(content.digest)

    def staged(self, digest: Digest) -> bytes | None:
        """Return the name of a whole staged content that this run made or checked; else None.

        After a restart `large` finds and checks what is there, without a download. Costs one
        `lstat`; raises OSError.
        """
        known = self._signs.get(digest)
        status = self._own.staging.look(content_name(digest)) if known is not None else None
        return content_name(digest) if status is not None and sign_of(status) == known else None

    # -- a large content -------------------------------------------------------

    def _lock_of(self, digest: Digest) -> Lock:
        with self._guard:
            return self._locks.setdefault(digest, Lock())

    async def _is_found(self, digest: Digest) -> bool:
        known, lock, handles = self._signs.pop(digest, None), self._lock_of(digest), Handles()
        try:
            found = await self._reads.run(find, digest, self._own, known, lock, handles)
        finally:
            handles.close()
        if found is not None:
            self._signs[digest] = found
        return found is not None

    async def _chunks_of(self, content: Content) -> Sequence[ChunkRef]:
        if content.depth == 0:
            return content.refs
        held = self._contents.get_pieces(content)
        if held is not None:
            return await self._reads.run(unfold, content, held)
        unfolding = Unfolding(content)
        digests = [ref.digest for ref in content.refs]
        count = 0
        async with fetching(self._link, digests) as coming:
            async for piece in coming:
                if count == len(digests):
                    raise ProtocolBroken("the server sent more chunks than it was asked for")
                if len(digests) <= PIECES_KEPT_MAX:
                    self._contents.put(digests[count], piece)
                count += 1
                await self._reads.run(unfolding.add, piece)
        if count < len(digests):
            raise ProtocolBroken("the server sent fewer chunks than it was asked for")
        return unfolding.result()

    async def _grow(
        self,
        content: Content,
        refs: Sequence[ChunkRef],
        older: MountedFile | None,
        root: Directory,
        told: _Told,
    ) -> None:
        lock = self._lock_of(content.digest)
        file = GrowingFile(content, refs, self._own, self._chunker, lock)
        try:
            told.begin(await self._reads.run(file.open, older, root))
            await stream(self._link, self._reads, file, told.add)
            self._signs[content.digest] = await self._reads.run(file.finish)
        except OSError as error:
            if error.errno in SPOILING:
                await self._reads.run(file.discard)
            raise
        finally:
            file.close()


def _path(digest: Digest) -> bytes:
    return b"/".join((RESERVED_ROOT_NAME, STAGING, content_name(digest)))


class _Told:
    """Counts what is here of a content; a second beginning tells nothing twice."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._here = 0
        self._told = 0

    def begin(self, here: int) -> None:
        """Count from `here` on."""
        self._here = 0
        self.add(here)

    def add(self, size: int) -> None:
        """Count so many bytes more."""
        self.reach(self._here + size)

    def reach(self, here: int) -> None:
        """Tell that so many bytes are here."""
        self._here = here
        if here > self._told:
            self._progress(here - self._told)
            self._told = here


@dataclass(frozen=True, slots=True)
class _Need:
    """A small content and what it waits for: its chunks, or first the pieces of its manifest."""

    content: Content
    refs: Sequence[ChunkRef]
    is_folded: bool


class _Gathering:
    """Some small contents while their chunks arrive."""

    def __init__(self, link: Link, contents: Contents, wanted: Sequence[Content]) -> None:
        self.failures: dict[Digest, SynclineError] = {}
        self._link = link
        self._contents = contents
        self._chunks: dict[Digest, bytes] = {}
        self._needs: dict[Digest, _Need] = {}
        for content in wanted:
            assert content.size <= SMALL_BYTES_MAX, "a large content is held in memory"
            if contents.get(content.digest) is None:
                self._needs[content.digest] = _Need(content, content.refs, content.depth > 0)

    @property
    def is_unsettled(self) -> bool:
        """Tell whether a content is neither here nor failed."""
        return bool(self._needs)

    def lacking(self, limit: int) -> list[Digest]:
        """Return the next chunks to ask for."""
        asked: dict[Digest, None] = {}
        for need in self._needs.values():
            for ref in need.refs:
                if ref.digest not in self._chunks:
                    asked[ref.digest] = None
            if len(asked) >= limit:
                break
        return list(asked)[:limit]

    async def get(self, asked: Sequence[Digest]) -> SynclineError | None:
        """Fetch chunks; return what ended that early, so that what came before it counts (F3)."""
        count = 0
        try:
            async with fetching(self._link, asked) as coming:
                async for chunk in coming:
                    if count == len(asked):
                        return ProtocolBroken("the server sent more chunks than it was asked for")
                    self._chunks[asked[count]] = chunk
                    count += 1
        except SynclineError as error:
            return error
        if count < len(asked):
            return ProtocolBroken("the server sent fewer chunks than it was asked for")
        return None

    def settle(self) -> None:
        """Put what is whole into memory, after a look at its digest; blocks."""
        for digest, need in list(self._needs.items()):
            parts = [self._chunks[ref.digest] for ref in need.refs if ref.digest in self._chunks]
            if len(parts) < len(need.refs):
                continue
            del self._needs[digest]
            try:
                if need.is_folded:
                    refs = unfold(need.content, parts)
                    self._needs[digest] = _Need(need.content, refs, is_folded=False)
                else:
                    self._contents.put(digest, _joined(need.content, parts))
            except (Corrupt, Invalid) as error:
                self.failures[digest] = error

    def fail(self, error: SynclineError) -> None:
        """Give up the contents that an error is about; raise it where it is about the server."""
        spoilt = error.fields.get("digest")
        if not isinstance(error, (NotFound, Corrupt)) or spoilt is None:
            raise error
        about = [
            digest
            for digest, need in self._needs.items()
            if any(ref.digest.hex() == spoilt for ref in need.refs)
        ]
        if not about:
            raise ProtocolBroken(
                f"the server misses a chunk that it was not asked for: {error.message}"
            ) from error
        for digest in about:
            del self._needs[digest]
            self.failures[digest] = error


def _joined(content: Content, parts: Sequence[bytes]) -> bytes:
    """Return the whole; the one chunk of a content was checked when it arrived (M2)."""
    if len(parts) == 1 and content.depth == 0:
        return parts[0]
    joined = b"".join(parts)
    if digest_of(joined) != content.digest:
        raise Corrupt(
            f"the chunks of content {content.digest.hex()} do not make that digest",
            digest=content.digest.hex(),
            what="content",
        )
    return joined
