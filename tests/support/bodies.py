"""Compressed chunks for tests, however small they are; and zstd by its one name."""

from __future__ import annotations

import random
import sys

from syncline.core.bodies import ChunkBody, Compressed

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd


def compressed(data: bytes) -> ChunkBody:
    """Return a chunk compressed; plain where that makes it no smaller."""
    raw = zstd.compress(data, 1)
    return Compressed(raw, len(data)) if len(raw) < len(data) else data


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that nothing makes smaller."""
    return random.Random(seed).randbytes(size)


def text(size: int) -> bytes:
    """Return bytes that become a third or less."""
    lines = size // 15 + 1
    return (b"%07d a line\n" * lines % tuple(range(lines)))[:size]
