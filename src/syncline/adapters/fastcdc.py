"""Content-defined chunking: where content is cut depends on its bytes near the cut alone.

FastCDC 2020 with the bounds of `core.manifests`; `pyfastcdc` calls `CHUNK_BYTES_AVERAGE` the
average, but skips the minimum before it looks for a cut, so random content comes to about
`CHUNK_BYTES_MIN + CHUNK_BYTES_AVERAGE` a chunk. Hashing and cutting let go of the interpreter lock.

C1  The cuts of a stream are those of the whole content at once, however it is read.
C2  A stream of any length needs a few longest chunks of memory, and the list of its chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3
from pyfastcdc import FastCDC

from syncline.adapters.digesting import PooledHasher, digesters
from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import (
    CHUNK_BYTES_AVERAGE,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    CONTENT_BYTES_MAX,
    ChunkRef,
    build_content,
    single_chunk,
)
from syncline.errors import LocalFailure, TooLarge
from syncline.ports.chunker import Chunked, Hasher, Read

_WINDOW_BYTES = 2 * CHUNK_BYTES_MAX
"""At most one chunk's worth is carried over when it moves on, and what is in it stays near."""

_COMPILED_MODULE = "pyfastcdc.cy."

_READ_BYTES = CHUNK_BYTES_MAX
"""What is asked of `read` at once: it comes as an object of its own beside the window."""

_BATCH_BYTES = 2 * CHUNK_BYTES_MAX
"""What is compared at once, while the next one is read."""


def cut(content: bytes | memoryview) -> list[int]:
    """Return where each chunk of `content` ends; the last one is its length."""
    return [chunk.offset + chunk.length for chunk in _cutter().cut_buf(content)]


class FastCdcChunker:
    """The chunker of the protocol's one size class.

    The caller's thread reads and cuts; what is longer than a window is digested beside it.
    """

    def __init__(self) -> None:
        """Start no thread yet."""
        self._digesters = digesters()

    def chunk(self, read: Read) -> Chunked:
        """Read to the end; return the content digest, the chunks and the manifest.

        Raise TooLarge past the size that a content may have, LocalFailure in an installation
        without the compiled part of pyfastcdc, and what `read` raises.
        """
        # One byte past the minimum tells a small file apart without a window for it.
        small = _Window(read, CHUNK_BYTES_MIN + 1)
        small.fill()
        if not small.is_full:
            return _single(small.view)
        window = _Window(read, _WINDOW_BYTES, small)
        window.fill()
        if not window.is_full:
            return _short(window.view)
        return self._long(window)

    def _long(self, window: _Window) -> Chunked:
        """Go on from a full window: what was read is digested while more is read and cut."""
        digesting = _Digesting()
        sizes = _sure_sizes(window.view, is_end=False)
        size = 0
        while sizes:
            size += sum(sizes)
            _check_size(size)
            job = self._digesters.submit(digesting.go_on, window.take_pieces(), sizes)
            try:
                window.move_on(sum(sizes))
                sizes = _sure_sizes(window.view, is_end=not window.is_full)
            finally:
                # After an error, too: nothing is left at work on what nobody waits for.
                job.result()
        content, pieces = build_content(digesting.whole(), size, digesting.refs)
        return Chunked(content, pieces, tuple(digesting.refs))

    def count_equal(self, read: Read, refs: Sequence[ChunkRef]) -> int:
        """Return with how many of `refs`, in order, what is read begins.

        Raise what `read` raises.
        """
        equal, batch = 0, _read_chunks(read, refs, 0)
        while batch.count:
            job = self._digesters.submit(_count_equal, batch, refs)
            try:
                following = _read_chunks(read, refs, batch.first + batch.count)
            finally:
                found = job.result()
            equal += found
            if found < batch.count:
                break
            batch = following
        return equal

    def hasher(self) -> Hasher:
        """Return the digest of nothing yet."""
        return PooledHasher(self._digesters)


def _single(view: memoryview) -> Chunked:
    # Content of one chunk has the digest of that chunk (M2): hashed once.
    content = single_chunk(digest_of(view), len(view))
    return Chunked(content, {}, content.refs)


def _short(view: memoryview) -> Chunked:
    sizes = _sure_sizes(view, is_end=True)
    if len(sizes) == 1:
        return _single(view)
    digesting = _Digesting()
    digesting.go_on([view], sizes)
    content, pieces = build_content(digesting.whole(), len(view), digesting.refs)
    return Chunked(content, pieces, tuple(digesting.refs))


class _Window:
    """The part of a stream that is being cut, and the pieces of it that were read last.

    It is for the cutting thread alone. Who digests gets the pieces: what one processor wrote and
    another one has read is slow to be written again.
    """

    def __init__(self, read: Read, size: int, begun: _Window | None = None) -> None:
        self._read = read
        self._buffer = memoryview(bytearray(size))
        self._filled = 0
        self._pieces: list[bytes] = []
        if begun is not None:
            self._filled = begun._filled
            self._buffer[: self._filled] = begun.view
            self._pieces = begun._pieces

    @property
    def view(self) -> memoryview:
        """Return what is in it."""
        return self._buffer[: self._filled]

    @property
    def is_full(self) -> bool:
        """Tell whether the content may go on behind it."""
        return self._filled == len(self._buffer)

    def fill(self) -> None:
        """Read until it is full or the content ends."""
        while not self.is_full:
            piece = self._read(min(len(self._buffer) - self._filled, _READ_BYTES))
            if not piece:
                return
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            self._pieces.append(piece)

    def take_pieces(self) -> list[bytes]:
        """Return what was read since the last call."""
        pieces, self._pieces = self._pieces, []
        return pieces

    def move_on(self, size: int) -> None:
        """Drop so many bytes, and fill up again."""
        left = self._filled - size
        self._buffer[:left] = self._buffer[size : self._filled]
        self._filled = left
        self.fill()


class _Digesting:
    """The digests of a stream and of its chunks; its calls come one at a time."""

    def __init__(self) -> None:
        self.refs: list[ChunkRef] = []
        self._hasher = blake3()
        self._held: deque[memoryview] = deque()

    def go_on(self, pieces: Sequence[bytes | memoryview], sizes: Sequence[int]) -> None:
        """Take what was read, and then the sizes of the next chunks in all that was."""
        for piece in pieces:
            self._hasher.update(piece)
            self._held.append(memoryview(piece))
        for size in sizes:
            self.refs.append(ChunkRef(self._next(size), size))

    def _next(self, size: int) -> Digest:
        hasher = blake3()
        while size:
            piece = self._held.popleft()
            hasher.update(piece[:size])
            if len(piece) > size:
                self._held.appendleft(piece[size:])
            size -= min(size, len(piece))
        return Digest(hasher.digest())

    def whole(self) -> Digest:
        """Return the digest of all that came."""
        return Digest(self._hasher.digest())


def _sure_sizes(view: memoryview, *, is_end: bool) -> list[int]:
    """Return the sizes of chunks: all of them at the end of the content, else the sure ones.

    C1: a cut is sure only where as much as the longest chunk could be looked at.
    """
    sure_until = len(view) if is_end else len(view) - CHUNK_BYTES_MAX + 1
    sizes: list[int] = []
    start = 0
    chunks = _cutter().cut_buf(view)
    while start < sure_until:
        sizes.append(next(chunks).length)
        start += sizes[-1]
    return sizes


def _check_size(size: int) -> None:
    if size > CONTENT_BYTES_MAX:
        raise TooLarge(
            f"a file may have at most {CONTENT_BYTES_MAX} bytes", limit=str(CONTENT_BYTES_MAX)
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    """What was read where `count` chunks may be, from the one numbered `first` on."""

    first: int
    count: int
    content: bytes


def _read_chunks(read: Read, refs: Sequence[ChunkRef], first: int) -> _Batch:
    """Read as much as the next chunks have, and no more than a few of them."""
    size = count = 0
    for index in range(first, len(refs)):
        if count and size + refs[index].size > _BATCH_BYTES:
            break
        size += refs[index].size
        count += 1
    content = read(size) if size else b""
    while len(content) < size and (more := read(size - len(content))):
        content += more
    return _Batch(first, count, content)


def _count_equal(batch: _Batch, refs: Sequence[ChunkRef]) -> int:
    start = 0
    with memoryview(batch.content) as view:
        for count in range(batch.count):
            ref = refs[batch.first + count]
            end = start + ref.size
            if end > len(view) or digest_of(view[start:end]) != ref.digest:
                return count
            start = end
    return batch.count


def _cutter() -> FastCDC:
    # One a call: it may not be shared by threads, and costs a microsecond.
    if not FastCDC.__module__.startswith(_COMPILED_MODULE):
        raise LocalFailure(
            "the compiled part of pyfastcdc is missing: its Python fallback is 200 times slower; "
            "install pyfastcdc from a wheel, or with a C compiler",
            reason="pyfastcdc",
        )
    return FastCDC(CHUNK_BYTES_AVERAGE, min_size=CHUNK_BYTES_MIN, max_size=CHUNK_BYTES_MAX)
