"""Reading the chunks of a STORE a little ahead: many of them with one trip to a worker thread.

They come ready to travel: compressed where that pays.

A server asks for chunks one by one, nearly always in the order of the content. What it has already
it passes over, and then what was read ahead was read in vain: after that only what is asked for is
read, until it asks in order again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from syncline.core.bodies import ChunkBody
from syncline.core.identity import Digest
from syncline.ports.executor import Executor

AHEAD_BYTES_MIN = 512 * 1024
AHEAD_BYTES_MAX = 2 * 1024 * 1024
"""What one trip reads at the most: a worker is busy for a millisecond, and the trip costs a tenth
of that. A reader holds that much, and a chunk."""

ReadOn = Callable[[Digest, int], Sequence[tuple[Digest, ChunkBody]]]
"""Returns a chunk, and what follows it in its content while that is together below so many bytes.

Blocks. Only the first one may make it raise."""


class ReadAhead:
    """Gives the chunks of one STORE; its calls come one at a time."""

    def __init__(self, executor: Executor, read_on: ReadOn) -> None:
        self._executor = executor
        self._read_on = read_on
        self._held: dict[Digest, ChunkBody] = {}
        self._ahead = 0

    async def get(self, digest: Digest) -> ChunkBody:
        """Return a chunk; raise what reading it raises."""
        chunk = self._held.pop(digest, None)
        if chunk is None:
            chunk = await self._read(digest)
        return chunk

    async def _read(self, digest: Digest) -> ChunkBody:
        if self._held:
            self._ahead = 0
            self._held.clear()
        else:
            self._ahead = min(max(2 * self._ahead, AHEAD_BYTES_MIN), AHEAD_BYTES_MAX)
        (_, chunk), *ahead = await self._executor.run(self._read_on, digest, self._ahead)
        self._held.update(ahead)
        return chunk
