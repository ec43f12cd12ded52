"""Content-defined chunking: where content is cut depends on its bytes near the cut alone.

FastCDC 2020 with the bounds of `core.manifests`; `pyfastcdc` calls `CHUNK_BYTES_AVERAGE` the
average, but skips the minimum before it looks for a cut, so random content comes to about
`CHUNK_BYTES_MIN + CHUNK_BYTES_AVERAGE` a chunk. Hashing and cutting let go of the interpreter lock.

C1  The cuts of a stream are those of the whole content at once, however it is read.
C2  A stream of any length needs one window of memory, and the list of its chunks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3
from pyfastcdc import FastCDC

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
from syncline.ports.chunker import Chunked, Read

_WINDOW_BYTES = 4 * CHUNK_BYTES_MAX
"""At most one chunk's worth is carried over to the next window: a quarter is copied, not more."""

_COMPILED_MODULE = "pyfastcdc.cy."

_READ_BYTES = CHUNK_BYTES_MAX
"""What is asked of `read` at once: it comes as an object of its own beside the window."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A chunk in its content; `view` holds its bytes until the next one is asked for."""

    offset: int
    ref: ChunkRef
    view: memoryview


def cut(content: bytes | memoryview) -> list[int]:
    """Return where each chunk of `content` ends; the last one is its length."""
    return [chunk.offset + chunk.length for chunk in _cutter().cut_buf(content)]


class FastCdcChunker:
    """The chunker of the protocol's one size class; holds no state."""

    def chunk(self, read: Read) -> Chunked:
        """Read to the end; return the content digest, the chunks and the manifest.

        Raise TooLarge past the size that a content may have, LocalFailure in an installation
        without the compiled part of pyfastcdc, and what `read` raises.
        """
        stream = ChunkStream(read)
        for _ in stream:
            pass
        return stream.result()


class ChunkStream:
    """Cuts one stream, for those who need the bytes too: iterate to the end, then ask `result`.

    Raises what `FastCdcChunker.chunk` raises. Not to be used from two threads at a time.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._refs: list[ChunkRef] = []
        self._size = 0
        self._whole: Digest | None = None

    def __iter__(self) -> Iterator[Slice]:
        """Yield the chunks in order; may be asked for once."""
        # One byte past the minimum tells a small file apart without a window for it.
        small = memoryview(bytearray(CHUNK_BYTES_MIN + 1))
        filled = _fill_up(self._read, small, 0)
        if filled <= CHUNK_BYTES_MIN:
            yield from self._single(small[:filled])
            return
        window = memoryview(bytearray(_WINDOW_BYTES))
        window[:filled] = small
        yield from self._windows(window, filled)

    def result(self) -> Chunked:
        """Return the content and its chunks, once all of them were yielded."""
        assert self._whole is not None, "the stream was not read to its end"
        if len(self._refs) <= 1:
            content = single_chunk(self._whole, self._size)
            return Chunked(content, {}, content.refs)
        content, pieces = build_content(self._whole, self._size, self._refs)
        return Chunked(content, pieces, tuple(self._refs))

    def _single(self, view: memoryview) -> Iterator[Slice]:
        self._whole = digest_of(view)
        if len(view):
            yield self._slice(view, self._whole)

    def _windows(self, window: memoryview, filled: int) -> Iterator[Slice]:
        filled = _fill_up(self._read, window, filled)
        is_end = filled < len(window)
        if is_end and next(_cutter().cut_buf(window[:filled])).length == filled:
            # Content of one chunk has the digest of that chunk (M2): hashed once.
            yield from self._single(window[:filled])
            return
        hasher = blake3(window[:filled])
        while True:
            start = 0
            chunks = _cutter().cut_buf(window[:filled])
            # C1: a cut is sure only where as much as the longest chunk could be looked at.
            sure_until = filled if is_end else filled - CHUNK_BYTES_MAX + 1
            while start < sure_until:
                chunk = next(chunks)
                yield self._slice(chunk.data, digest_of(chunk.data))
                start += chunk.length
            if is_end:
                break
            carried = filled - start
            window[:carried] = window[start:filled]
            filled = _fill_up(self._read, window, carried)
            is_end = filled < len(window)
            hasher.update(window[carried:filled])
        self._whole = Digest(hasher.digest())

    def _slice(self, view: memoryview, digest: Digest) -> Slice:
        ref = ChunkRef(digest, len(view))
        found = Slice(self._size, ref, view)
        self._refs.append(ref)
        self._size += ref.size
        if self._size > CONTENT_BYTES_MAX:
            raise TooLarge(
                f"a file may have at most {CONTENT_BYTES_MAX} bytes", limit=str(CONTENT_BYTES_MAX)
            )
        return found


def _fill_up(read: Read, buffer: memoryview, filled: int) -> int:
    """Read until the buffer is full or the content ends; return how much of it is filled."""
    while filled < len(buffer):
        part = read(min(len(buffer) - filled, _READ_BYTES))
        if not part:
            break
        buffer[filled : filled + len(part)] = part
        filled += len(part)
    return filled


def _cutter() -> FastCDC:
    # One a call: it may not be shared by threads, and costs a microsecond.
    if not FastCDC.__module__.startswith(_COMPILED_MODULE):
        raise LocalFailure(
            "the compiled part of pyfastcdc is missing: its Python fallback is 200 times slower; "
            "install pyfastcdc from a wheel, or with a C compiler",
            reason="pyfastcdc",
        )
    return FastCDC(CHUNK_BYTES_AVERAGE, min_size=CHUNK_BYTES_MIN, max_size=CHUNK_BYTES_MAX)
