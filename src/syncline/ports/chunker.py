"""The chunker: cuts content where the content itself says, so that an insertion moves few cuts.

Contract, for every adapter:

- Calls block and may come from several threads at once.
- Equal bytes give equal cuts, whatever the sizes that `read` returns them in.
- At most a few chunks are in memory at once, whatever the length of the content.
- `read` is called by the caller's thread alone, and what it raises goes through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class Hasher(Protocol):
    """The digest of a content that comes in parts; for one thread at a time."""

    def update(self, parts: Sequence[bytes]) -> None:
        """Go on with these bytes; may return before they are digested."""

    def digest(self) -> Digest:
        """Return the digest of all that came."""


class Chunker(Protocol):
    """Content-defined chunking with the one size class of the protocol."""

    def chunk(self, read: Read) -> Chunked:
        """Read to the end; return the content digest, the chunks and the manifest."""

    def count_equal(self, read: Read, refs: Sequence[ChunkRef]) -> int:
        """Return with how many of `refs`, in order, what is read begins; nothing is cut.

        Reads no further than a few chunks behind the first one that differs.
        """

    def hasher(self) -> Hasher:
        """Return the digest of nothing yet."""
