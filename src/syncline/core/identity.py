"""Identifiers and digests: fixed-length bytes that are told apart by type."""

from __future__ import annotations

from typing import NewType

from blake3 import blake3

from syncline.errors import Invalid

EntryId = NewType("EntryId", bytes)
ReplicaId = NewType("ReplicaId", bytes)
OpId = NewType("OpId", bytes)
VolumeId = NewType("VolumeId", bytes)
CommitId = NewType("CommitId", bytes)
Digest = NewType("Digest", bytes)
Revision = NewType("Revision", int)
"""The number of a commit in its volume; 0 is the volume before its first commit."""

ID_BYTES = 16
DIGEST_BYTES = 32
REVISION_MAX = 2**63 - 1

ROOT_ID = EntryId(bytes(ID_BYTES))
"""The root of every volume: always live, always a directory, never changed by a commit."""

NO_REVISION = Revision(0)


def _exact(raw: bytes, size: int, field: str) -> bytes:
    if len(raw) != size:
        raise Invalid(
            f"{field} must have {size} bytes, not {len(raw)}", field=field, reason="length"
        )
    return raw


def parse_entry_id(raw: bytes, field: str = "entry id") -> EntryId:
    """Return 16 bytes as an entry id; raise Invalid otherwise."""
    return EntryId(_exact(raw, ID_BYTES, field))


def parse_replica_id(raw: bytes) -> ReplicaId:
    """Return 16 bytes as a replica id; raise Invalid otherwise."""
    return ReplicaId(_exact(raw, ID_BYTES, "replica id"))


def parse_op_id(raw: bytes) -> OpId:
    """Return 16 bytes as an op id; raise Invalid otherwise."""
    return OpId(_exact(raw, ID_BYTES, "op id"))


def parse_digest(raw: bytes, field: str = "digest") -> Digest:
    """Return 32 bytes as a digest; raise Invalid otherwise."""
    return Digest(_exact(raw, DIGEST_BYTES, field))


def parse_commit_id(raw: bytes) -> CommitId:
    """Return 32 bytes as a commit id; raise Invalid otherwise."""
    return CommitId(_exact(raw, DIGEST_BYTES, "commit id"))


def parse_revision(number: int, field: str = "revision") -> Revision:
    """Return a number as a revision; raise Invalid below 0 or past 63 bits."""
    if not 0 <= number <= REVISION_MAX:
        raise Invalid(f"{field} {number} is out of range", field=field, reason="range")
    return Revision(number)


def digest_of(content: bytes | memoryview) -> Digest:
    """Return the BLAKE3 digest of bytes: what `b3sum` prints, 32 bytes."""
    return Digest(blake3(content).digest())


EMPTY_DIGEST = digest_of(b"")
