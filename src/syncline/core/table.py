"""The file table, its commits and its proofs.

Model: the table of a volume at a revision is the set of its newest states; commit N turns table
N-1 into table N. A commit id is a hash of the one before and of this commit: the chain. The table
digest is a sum over live entries, so it is updated in O(changes) and needs no order.

T1  Revisions of a volume are 1, 2, 3, ... without a gap; table 0 is empty.
T2  Equal commit ids mean equal history.
T3  Equal table digests mean equal tables, up to a collision of a sum of 256-bit hashes. It is a
    proof against mistakes and not against a server that forges.

What can be wrong with a path's address is found here as well: `resolve` walks names from the root.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from syncline.core.changes import Author
from syncline.core.entries import Entry, Kind, encode_entry, entry_hash
from syncline.core.identity import (
    DIGEST_BYTES,
    ROOT_ID,
    CommitId,
    EntryId,
    OpId,
    Revision,
    VolumeId,
)
from syncline.core.names import Name, RelPath

TableDigest = int
"""A number below 2**256; on the wire 32 bytes, big-endian."""

EMPTY_TABLE_DIGEST: TableDigest = 0
_MODULUS = 1 << (8 * DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a volume stands: newest revision, its commit id, the digest of its table."""

    revision: Revision
    commit_id: CommitId
    table_digest: TableDigest


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a client has seen; without a commit id it trusts the number alone (tools do)."""

    revision: Revision
    commit_id: CommitId | None


@dataclass(frozen=True, slots=True)
class Commit:
    """What one revision changed. `entries` are the new states.

    Their order says nothing about the table, but it is fixed: the commit id hashes it.
    """

    revision: Revision
    id: CommitId
    author: Author
    op_id: OpId
    time_ns: int
    is_confirmed: bool
    entries: tuple[Entry, ...]
    table_digest: TableDigest


class Table(Protocol):
    """A table to read; every call answers for the same revision."""

    def entry(self, id: EntryId) -> Entry | None:
        """Return the newest state of an entry, a tombstone too; None if there never was one."""

    def child(self, parent: EntryId, name: Name) -> Entry | None:
        """Return the live entry at a place."""

    def children(self, parent: EntryId) -> Iterator[Entry]:
        """Yield the live children of a directory in order of name; may be left early."""

    def directories(self, parent: EntryId) -> Sequence[Entry]:
        """Return the live directories among the children, in order of name."""


def genesis(volume: VolumeId) -> CommitId:
    """Return the commit id of revision 0: it tells two volumes of one name apart."""
    return CommitId(blake3(b"syncline volume v1\0" + volume).digest())


_COMMIT = struct.Struct(">32sQ16s16sqBI")


def commit_id(
    previous: CommitId,
    revision: Revision,
    author: Author,
    op_id: OpId,
    time_ns: int,
    is_confirmed: bool,
    entries: Sequence[Entry],
) -> CommitId:
    """Return the hash that chains a commit to its history (T2); layout in `docs/PROTOCOL.md`.

    previous 32, revision 8, replica id 16, op id 16, time in ns 8 signed, confirmed 1, count of
    entries 4, then each encoded entry in the commit's order, after its length in 4; big-endian.
    """
    hasher = blake3(b"syncline commit v1\0")
    hasher.update(
        _COMMIT.pack(
            previous,
            revision,
            author.replica,
            op_id,
            time_ns,
            is_confirmed,
            len(entries),
        )
    )
    for entry in entries:
        encoded = encode_entry(entry)
        hasher.update(len(encoded).to_bytes(4, "big") + encoded)
    return CommitId(hasher.digest())


def advance_digest(
    digest: TableDigest, replaced: Iterable[Entry | None], entries: Iterable[Entry]
) -> TableDigest:
    """Return the table digest after states are superseded; tombstones count for nothing."""
    for old in replaced:
        if old is not None and old.is_live:
            digest -= entry_hash(old)
    for new in entries:
        if new.is_live:
            digest += entry_hash(new)
    return digest % _MODULUS


def resolve(table: Table, path: RelPath) -> Entry | None:
    """Return the live entry at a path; None where a part is missing. The root has no entry."""
    entry: Entry | None = None
    parent = ROOT_ID
    for name in path.parts:
        if entry is not None and entry.kind is not Kind.DIRECTORY:
            return None
        entry = table.child(parent, name)
        if entry is None:
            return None
        parent = entry.id
    return entry


def path_of(table: Table, entry: Entry) -> RelPath:
    """Return the address of an entry by its parents; of a tombstone, the address it had last."""
    parts = [entry.name]
    parent = entry.parent
    while parent != ROOT_ID:
        above = table.entry(parent)
        assert above is not None, "an entry has a parent that was never there"
        parts.append(above.name)
        parent = above.parent
    return RelPath(tuple(reversed(parts)))
