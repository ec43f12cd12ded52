"""The bytes of a chunk as they travel and as they lie in packs: plain, or compressed with zstd.

Z1  A digest is always of the plain bytes, and who was given a body checks these.
Z2  Opening a body takes no more memory than the plain size that was stated, which is at most
    `CHUNK_BYTES_MAX`, whatever the bytes are.
Z3  What is compressed is smaller than what it says to be plain: else it is no body at all.
Z4  Each call has a zstd context of its own: one that two threads share ends the interpreter.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.errors import Corrupt

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVEL = 1
"""Half the time of level 3, and a twelfth more bytes (programs and their text)."""

CHUNK_BYTES_LEAST = 4096
"""A chunk below this is left as it is: it would save a packet at most, and costs a context of zstd
on either side, 15 microseconds each."""

SAVED_LEAST = 8
"""One byte in so many must be saved, or the chunk stays plain."""

PROBE_BYTES = 16 * 1024
"""What is tried of a large chunk, from its middle: headers say little of what follows them."""

PROBED_FROM_BYTES = 64 * 1024
"""Up to here all of a chunk is tried at once: it costs what a probe costs."""

PASSED_MOST = 15
"""Chunks of a content that are not even tried when those before them did not pay."""

_WINDOW_LOG_MAX = CHUNK_BYTES_MAX.bit_length() - 1
_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): _WINDOW_LOG_MAX}


@dataclass(frozen=True, slots=True)
class Compressed:
    """One zstd frame, and how many bytes it makes. Nothing of it is checked yet but Z3."""

    data: bytes
    size: int

    def __post_init__(self) -> None:
        if not 0 < len(self.data) < self.size <= CHUNK_BYTES_MAX:
            raise Corrupt(
                f"{len(self.data)} compressed bytes for {self.size} plain ones are no chunk",
                what="chunk",
            )


ChunkBody = bytes | Compressed
"""A chunk, plain or compressed."""


def plain_size(body: ChunkBody) -> int:
    """Return how many bytes the chunk has."""
    return body.size if isinstance(body, Compressed) else len(body)


def held_bytes(body: ChunkBody) -> bytes:
    """Return what is stored and sent of a body."""
    return body.data if isinstance(body, Compressed) else body


def plain_bytes(body: ChunkBody) -> bytes:
    """Return the chunk; raise Corrupt for what is not one whole frame of the stated size (Z2).

    Blocks: some 1 GB/s.
    """
    if not isinstance(body, Compressed):
        return body
    decompressor = zstd.ZstdDecompressor(options=_OPTIONS)
    try:
        plain = decompressor.decompress(body.data, max_length=body.size + 1)
    except zstd.ZstdError as error:
        raise Corrupt(f"compressed bytes are damaged: {error}", what="chunk") from error
    if len(plain) != body.size or not decompressor.eof or decompressor.unused_data:
        raise Corrupt(
            f"compressed bytes are not one whole frame of {body.size} bytes", what="chunk"
        )
    return plain


class Compressor:
    """Compresses the chunks of one content where that pays; for one thread at a time."""

    def __init__(self) -> None:
        self._failures = 0
        self._to_pass = 0

    def pack(self, chunk: bytes) -> ChunkBody:
        """Return the body of the next chunk. Blocks: some 400 MB/s where it compresses."""
        if len(chunk) < CHUNK_BYTES_LEAST:
            return chunk
        if self._to_pass:
            self._to_pass -= 1
            return chunk
        data = _compress(chunk)
        if data is None:
            self._failures = min(self._failures + 1, PASSED_MOST.bit_length())
            self._to_pass = 2**self._failures - 1
            return chunk
        self._failures = 0
        return Compressed(data, len(chunk))


def _compress(chunk: bytes) -> bytes | None:
    """Return a chunk compressed; None where that does not pay."""
    if len(chunk) > PROBED_FROM_BYTES:
        start = (len(chunk) - PROBE_BYTES) // 2
        probe = memoryview(chunk)[start : start + PROBE_BYTES]
        if not _pays(len(zstd.compress(probe, LEVEL)), PROBE_BYTES):
            return None
    data = zstd.compress(chunk, LEVEL)
    return data if _pays(len(data), len(chunk)) else None


def _pays(size: int, plain: int) -> bool:
    return size + plain // SAVED_LEAST <= plain
