"""Which chunks of a content an older version of its file has, and where.

O1  Most of an older version is the same, at another offset at the most. So its chunks are looked
    for where the ones before them were found to lie; only where one is not there, the file is cut
    until it is known again where one is.
O2  What is found is found wherever it lies, as if the whole file had been cut.
O3  The file is a user's: where a chunk was found is where it was at that moment.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from syncline.client.assembling import Readable
from syncline.core.identity import Digest
from syncline.core.manifests import CHUNK_BYTES_MAX, ChunkRef
from syncline.ports.chunker import Chunker, Read

SPAN_BYTES_MIN = 8 * CHUNK_BYTES_MAX
SPAN_BYTES_MAX = 64 * CHUNK_BYTES_MAX
"""How much is cut before the next attempt to go on without: more, the shorter the last one led."""


def places_in(older: Readable, refs: Sequence[ChunkRef], chunker: Chunker) -> dict[Digest, int]:
    """Return where the first of each of `refs` lies in a file, as far as it has them.

    Blocks. Raises OSError, and what the chunker raises.
    """
    search = _Search(older, refs, chunker)
    span = SPAN_BYTES_MIN
    while not search.is_done:
        if not search.cut(span):
            break
        compared = search.compare()
        span = SPAN_BYTES_MIN if compared >= span else min(2 * span, SPAN_BYTES_MAX)
    return search.places


class _Search:
    """A walk through the older file: at `offset` the chunk number `_next` is expected."""

    def __init__(self, older: Readable, refs: Sequence[ChunkRef], chunker: Chunker) -> None:
        self.places: dict[Digest, int] = {}
        self._older = older
        self._refs = refs
        self._chunker = chunker
        self._offset = 0
        self._next = 0
        self._is_aligned = True
        self._numbers: dict[Digest, list[int]] = {}
        for number, ref in enumerate(refs):
            self._numbers.setdefault(ref.digest, []).append(number)
        self.compare()

    @property
    def is_done(self) -> bool:
        """Tell whether all is found that is looked for."""
        return len(self.places) == len(self._numbers)

    def compare(self) -> int:
        """Go on while the expected chunks are there; return how many bytes they have."""
        if not self._is_aligned:
            return 0
        began = self._offset
        # Not the last one: that it ends there says nothing but that the new content does (O2).
        expected = self._refs[self._next : -1]
        count = self._chunker.count_equal(self._read_from(self._offset, None), expected)
        for ref in expected[:count]:
            self._found(ref.digest, ref.size)
        self._next += count
        return self._offset - began

    def cut(self, span: int) -> bool:
        """Cut what comes next; tell whether there is more behind it."""
        refs = self._chunker.chunk(self._read_from(self._offset, span)).refs
        size = sum(ref.size for ref in refs)
        if not size:
            return False
        is_end = size < span
        # Where the span ends, nothing but the span says so: what is near it is cut anew.
        sure_until = self._offset + (size if is_end else size - CHUNK_BYTES_MAX + 1)
        for ref in refs:
            if self._offset >= sure_until:
                break
            self._note(ref)
        return not is_end

    def _note(self, ref: ChunkRef) -> None:
        numbers = self._numbers.get(ref.digest)
        self._is_aligned = numbers is not None
        if numbers is None:
            self._offset += ref.size
            return
        # Of several equal ones that which comes next: zeros do not lead back to the first ones.
        index = bisect_left(numbers, self._next)
        self._next = numbers[index if index < len(numbers) else 0] + 1
        self._found(ref.digest, ref.size)

    def _found(self, digest: Digest, size: int) -> None:
        self.places.setdefault(digest, self._offset)
        self._offset += size

    def _read_from(self, offset: int, most: int | None) -> Read:
        left = most

        def read(size: int) -> bytes:
            nonlocal offset, left
            piece = self._older.read(size if left is None else min(size, left), offset)
            offset += len(piece)
            if left is not None:
                left -= len(piece)
            return piece

        return read
