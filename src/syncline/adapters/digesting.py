"""Digesting beside those who read and write: the threads that do it, and a digest in parts.

Digests let go of the interpreter lock, and touch nothing but bytes in memory: whoever has a file
reads or writes on meanwhile. A job here never waits for another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from blake3 import blake3

from syncline.core.identity import Digest

DIGEST_THREADS = 2


def digesters() -> ThreadPoolExecutor:
    """Return threads for digests; none of them starts before there is something to do."""
    return ThreadPoolExecutor(DIGEST_THREADS, thread_name_prefix="digest")


class PooledHasher:
    """A `Hasher` that digests one update while the caller gets the next one ready."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._hasher = blake3()
        self._last: Future[None] | None = None

    def update(self, parts: Sequence[bytes]) -> None:
        """Go on with these bytes, which are held until the next call has waited for them."""
        self._settle()
        self._last = self._threads.submit(self._add, parts)

    def digest(self) -> Digest:
        """Return the digest of all that came."""
        self._settle()
        return Digest(self._hasher.digest())

    def _settle(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def _add(self, parts: Sequence[bytes]) -> None:
        for part in parts:
            self._hasher.update(part)
