"""Putting a large content together out of its chunks, wherever they are; no I/O of its own.

Model: a staged file grows in order. For each chunk it is known beforehand whether the staged file
has it already (at its own offset, after an interruption, or further up), whether an older version
of the file has it, or whether it must come from the server.

P1  What lies in the staged file is believed chunk by chunk, after a look at the digests.
P2  The older version is a user's and changes: what was found there may not be what is copied. The
    whole tells (P3), and then each chunk (P1): it is not looked at a second time on its way.
P3  The whole is hashed as it grows: the content is right when `digest` and `offset` say so.
P4  A chunk of zeros at the end becomes a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import ChunkRef, Content, check_unfolded, decode_piece
from syncline.errors import Corrupt, LocalFailure
from syncline.ports.chunker import Hasher

SMALL_BYTES_MAX = 1024 * 1024
"""Contents up to this size are read once, held in memory, and sent and placed in batches; larger
ones are read again to be sent, travel by themselves and are staged."""

HASH_BYTES = 1024 * 1024
"""What is written before it goes to the hasher, so that its threads have something to do."""


def is_small(content: Content) -> bool:
    """Tell whether a content is held in memory on its way."""
    return content.depth == 0 and content.size <= SMALL_BYTES_MAX


class Unfolding:
    """Gathers the chunks of a manifest in pieces, and stops where they are too many (M5)."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._refs: list[ChunkRef] = []
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Take the next piece; raise Corrupt or Invalid where it cannot be one of the content's."""
        refs = decode_piece(piece)
        self._refs += refs
        self._size += sum(ref.size for ref in refs)
        self._check(is_whole=False)

    def result(self) -> Sequence[ChunkRef]:
        """Return all chunks in order; raise Invalid where they do not make the size."""
        self._check(is_whole=True)
        return self._refs

    def _check(self, *, is_whole: bool) -> None:
        check_unfolded(self._content, size=self._size, count=len(self._refs), is_whole=is_whole)


def unfold(content: Content, pieces: Iterable[bytes]) -> Sequence[ChunkRef]:
    """Return the chunks that the pieces of a content name; raise Corrupt or Invalid."""
    unfolding = Unfolding(content)
    for piece in pieces:
        unfolding.add(piece)
    return unfolding.result()


class SourceChanged(LocalFailure):
    """The local file that chunks were copied from was changed meanwhile."""


class Readable(Protocol):
    """A file to read; every call may raise OSError."""

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end."""


class Growing(Readable, Protocol):
    """A staged file."""

    def write(self, content: bytes, offset: int) -> None:
        """Write all of it."""

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow by a hole."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """A chunk that the older version, or the staged file itself, holds at `offset`."""

    is_own: bool
    offset: int


class Assembly:
    """One content on its way into a staged file; for one thread at a time."""

    def __init__(
        self, refs: Sequence[ChunkRef], staged: Growing, size_there: int, hasher: Hasher
    ) -> None:
        """Look at the `size_there` bytes that are staged already (P1); raise OSError."""
        self._refs = refs
        self._staged = staged
        self._end = size_there
        self._older: Readable | None = None
        self._hasher = hasher
        self._unhashed: list[bytes] = []
        self._unhashed_size = 0
        self._position = 0
        self.offset = 0
        self.has_copied = False
        """Something was taken from the older file."""
        self._plan: list[_Copy | None] = []
        known: dict[Digest, _Copy] = {}
        offset = 0
        for ref in refs:
            is_there = self._is_staged(ref, offset)
            self._plan.append(_Copy(True, offset) if is_there else known.get(ref.digest))
            known.setdefault(ref.digest, _Copy(True, offset))
            offset += ref.size

    def _is_staged(self, ref: ChunkRef, offset: int) -> bool:
        if offset + ref.size > self._end:
            return False
        return digest_of(self._staged.read(ref.size, offset)) == ref.digest

    @property
    def digest(self) -> Digest:
        """Return the digest of the first `offset` bytes (P3)."""
        self._hash()
        return self._hasher.digest()

    @property
    def here_bytes(self) -> int:
        """Return how many bytes need no trip, as far as is known now."""
        return sum(
            ref.size for ref, step in zip(self._refs, self._plan, strict=True) if step is not None
        )

    def copy_from(self, older: Readable, places: Mapping[Digest, int]) -> None:
        """Take what is lacking from another file, where that has it."""
        self._older = older
        for index, ref in enumerate(self._refs):
            if self._plan[index] is None and ref.digest in places:
                self._plan[index] = _Copy(False, places[ref.digest])

    def wanted(self, limit: int) -> list[Digest]:
        """Return the next chunks that must come from the server, in order."""
        digests: list[Digest] = []
        for index in range(self._position, len(self._refs)):
            if self._plan[index] is None:
                digests.append(self._refs[index].digest)
                if len(digests) >= limit:
                    break
        return digests

    def advance(self, chunks: Sequence[bytes]) -> None:
        """Write the next chunks from the server, and all that follows and is there already.

        The chunks were checked against their digests. Raises OSError, Corrupt for a manifest that
        lies about a size, and SourceChanged when the older file became shorter, or unreadable; what
        was written until then is found by the next assembly.
        """
        coming = iter(chunks)
        while self._position < len(self._refs):
            chunk = self._next(coming)
            if chunk is None:
                return
            if len(chunk) != self._refs[self._position].size:
                raise Corrupt("a chunk has another size than its manifest says", what="manifest")
            if self._plan[self._position] != _Copy(True, self.offset):
                self._write(chunk)
            self._unhashed.append(chunk)
            self._unhashed_size += len(chunk)
            if self._unhashed_size >= HASH_BYTES:
                self._hash()
            self.offset += len(chunk)
            self._position += 1

    def _next(self, coming: Iterator[bytes]) -> bytes | None:
        ref, step = self._refs[self._position], self._plan[self._position]
        if step is None:
            return next(coming, None)
        if step.is_own:
            return self._staged.read(ref.size, step.offset)
        assert self._older is not None, "a chunk is copied from nowhere"
        try:
            chunk = self._older.read(ref.size, step.offset)
        except OSError as error:
            # What is to be replaced need not be readable.
            raise SourceChanged("the file that is being replaced cannot be read") from error
        if len(chunk) != ref.size:
            raise SourceChanged("the file that is being replaced was changed meanwhile")
        self.has_copied = True
        return chunk

    def _hash(self) -> None:
        if self._unhashed:
            self._hasher.update(self._unhashed)
            self._unhashed, self._unhashed_size = [], 0

    def _write(self, chunk: bytes) -> None:
        end = self.offset + len(chunk)
        if self.offset >= self._end and not chunk[0] and chunk.count(0) == len(chunk):
            self._staged.truncate(end)
        else:
            self._staged.write(chunk, self.offset)
        self._end = max(self._end, end)
