"""The chunker: cuts content where the content itself says, so that an insertion moves few cuts.

Contract, for every adapter:

- Calls block and may come from several threads at once.
- Equal bytes give equal cuts, whatever the sizes that `read` returns them in.
- At most a few chunks are in memory at once, whatever the length of the content.
- What `read` raises goes through untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from syncline.core.identity import Digest
from syncline.core.manifests import ChunkRef, Content

Read = Callable[[int], bytes]
"""Returns at most so many bytes, as a file does; nothing at the end."""


@dataclass(frozen=True, slots=True)
class Chunked:
    """Content cut into chunks.

    `refs` are all its chunks in order, also where the manifest is long and `content` lists only the
    pieces of it; `pieces` are the bytes of those pieces, which are stored beside the chunks.
    """

    content: Content
    pieces: dict[Digest, bytes]
    refs: tuple[ChunkRef, ...]


class Chunker(Protocol):
    """Content-defined chunking with the one size class of the protocol."""

    def chunk(self, read: Read) -> Chunked:
        """Read to the end; return the content digest, the chunks and the manifest."""
