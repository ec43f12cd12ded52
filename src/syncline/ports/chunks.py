"""The chunk store: immutable chunks of one volume, many to a pack.

Contract, for every adapter:

- Calls block and may come from several threads at once.
- `append` makes chunks readable at their location at once, but durable only after a later `sync`;
  an `append` may cut nothing and lose nothing when it raises: the chunks before it stay good.
- `sync` makes durable all that was appended before it was called. When it raises, everything
  appended since the last good `sync` counts as lost, `read` of it raises `Corrupt`, and the store
  goes on in a new pack: a failed fsync is never retried as if nothing was lost.
- `read` and `read_body` check the plain bytes against the digest: they return the right bytes or
  raise `Corrupt`.
- Errors: `NoSpace` when the disk is full, `Corrupt` for wrong bytes, `LocalFailure` for other I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from syncline.core.bodies import ChunkBody
from syncline.core.identity import Digest


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """Where a chunk's record starts, and how many bytes the whole record takes."""

    pack: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Record:
    """A chunk found by looking through the packs; `digest` is None where the bytes are wrong."""

    location: Location
    digest: Digest | None


class ChunkStore(Protocol):
    """The chunks of one volume."""

    def append(self, chunks: Sequence[tuple[Digest, ChunkBody]]) -> list[Location]:
        """Write chunks that were checked against their digests; return where each one lies.

        A chunk is kept in the body that it came in, compressed or plain.
        """

    def sync(self, locations: Sequence[Location] = ()) -> None:
        """Make all that was appended so far durable, with one sync a pack.

        Raises too when one of `locations` was lost in a sync that somebody else asked for.
        """

    def read(self, digest: Digest, location: Location) -> bytes:
        """Return the bytes of a chunk; raise Corrupt when they do not match the digest."""

    def read_body(self, digest: Digest, location: Location) -> ChunkBody:
        """Return a chunk as it was appended; raise Corrupt when it does not match the digest."""

    def packs(self) -> Sequence[int]:
        """Return the numbers of all packs, oldest first."""

    def scan(self, pack: int, offset: int) -> Iterator[Record]:
        """Look through a pack from a record's start; yield good and damaged records in order.

        A torn tail, which a crash may leave, ends the scan and is not yielded.
        """

    def cut_tail(self, pack: int, end: int) -> int:
        """Drop what a crash left torn behind `end` in the pack; return how many bytes that was."""

    def close(self) -> None:
        """Let go of files; what was not synced may be lost."""
