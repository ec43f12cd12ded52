"""Which chunks a volume has: those in the metadata store, and those written but not indexed yet.

X1  A chunk is *pending* from its append until a write session that indexed it is durable, or until
    a sync of its pack failed or it was read wrong. So it is always found in one place or the other.
X2  Who looks a chunk up asks `pending` first and then opens a read session: a chunk leaves
    `pending` only after it can be seen in every session opened later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

from syncline.core.bodies import ChunkBody
from syncline.core.identity import Digest, VolumeId
from syncline.errors import Corrupt, NotFound
from syncline.ports.chunks import ChunkStore, Location
from syncline.ports.metadata import MetadataStore, TableReader, WriteSession


class ChunkIndex:
    """The chunks of one volume; its methods block and may be called from any thread."""

    def __init__(self, metadata: MetadataStore, volume: VolumeId, chunks: ChunkStore) -> None:
        self._metadata = metadata
        self._volume = volume
        self._chunks = chunks
        self._pending: dict[Digest, Location] = {}
        self._lock = threading.Lock()
        self.losses = 0
        """Grows whenever a chunk that was there may be there no more."""
        self.has_damaged = self._look_for_damaged()
        """Whether a chunk is marked damaged: kept, because each watcher is told again and again."""

    def locate(self, digests: Sequence[Digest]) -> dict[Digest, Location]:
        """Return where chunks lie; the unknown and the damaged are left out."""
        found = self._find_pending(digests)
        rest = [digest for digest in digests if digest not in found]
        if rest:
            with self._metadata.read(self._volume) as reader:
                found.update(reader.locate(rest))
        return found

    def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        """Return the chunks that are not there, each once, in the order asked."""
        found = self.locate(digests)
        return list(dict.fromkeys(digest for digest in digests if digest not in found))

    def missing_in(self, session: TableReader, digests: Iterable[Digest]) -> set[Digest]:
        """Return what is not there as a session sees it; for the writer, whose word counts."""
        wanted = set(digests)
        wanted -= self._find_pending(wanted).keys()
        return wanted - session.locate(wanted).keys()

    def _find_pending(self, digests: Iterable[Digest]) -> dict[Digest, Location]:
        with self._lock:
            if not self._pending:
                return {}
            pending = self._pending
            return {digest: pending[digest] for digest in digests if digest in pending}

    def append(self, chunks: Mapping[Digest, ChunkBody]) -> None:
        """Write checked chunks; they can be read at once and are durable after a commit."""
        if not chunks:
            return
        locations = self._chunks.append(list(chunks.items()))
        with self._lock:
            self._pending.update(zip(chunks, locations, strict=True))

    @property
    def pending_count(self) -> int:
        """Return how many chunks wait for a write session to index them."""
        return len(self._pending)

    def index_pending(self, session: WriteSession) -> dict[Digest, Location]:
        """Make pending chunks durable and add them to the session; call `settle` when it is over.

        When the sync fails, nothing that is pending can be trusted any more, and it is forgotten.
        """
        with self._lock:
            pending = dict(self._pending)
        if not pending:
            return pending
        try:
            self._chunks.sync(list(pending.values()))
        except BaseException:
            with self._lock:
                self._pending.clear()
                self.losses += 1
            raise
        session.add_chunks(pending)
        return pending

    def settle(self, indexed: Mapping[Digest, Location]) -> None:
        """Forget what a durable session has indexed (X1)."""
        with self._lock:
            for digest, location in indexed.items():
                if self._pending.get(digest) == location:
                    del self._pending[digest]
        if self.has_damaged:
            self.has_damaged = self._look_for_damaged()

    def _look_for_damaged(self) -> bool:
        with self._metadata.read(self._volume) as reader:
            return reader.has_damaged()

    def mark_damaged(self, session: WriteSession, chunks: Mapping[Digest, Location]) -> None:
        """Make chunks missing that were read wrong at these places; for the writer's thread."""
        with self._lock:
            dropped = {
                digest: location
                for digest, location in chunks.items()
                if self._pending.get(digest) == location
            }
            for digest in dropped:
                del self._pending[digest]
            self.losses += 1
        # A commit of the same session may name it already: it gets a row, so that the mark is seen.
        session.add_chunks(dropped)
        session.mark_damaged(chunks)
        self.has_damaged = True

    def damaged(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return those that are marked damaged."""
        with self._metadata.read(self._volume) as reader:
            return reader.damaged(digests)

    def read(self, digest: Digest) -> bytes:
        """Return a chunk; raise NotFound when it is not there, Corrupt when its bytes are wrong."""
        location = self.locate([digest]).get(digest)
        if location is None:
            raise NotFound(
                f"chunk {digest.hex()} is not in this volume", digest=digest.hex(), what="chunk"
            )
        return self.read_at(digest, location)

    def read_at(self, digest: Digest, location: Location) -> bytes:
        """Return the chunk at a location; raise Corrupt when its bytes are wrong."""
        try:
            return self._chunks.read(digest, location)
        except Corrupt as error:
            error.fields.setdefault("digest", digest.hex())
            raise

    def read_body_at(self, digest: Digest, location: Location) -> ChunkBody:
        """Return the chunk at a location as it lies there; raise Corrupt when it is wrong."""
        try:
            return self._chunks.read_body(digest, location)
        except Corrupt as error:
            error.fields.setdefault("digest", digest.hex())
            raise
