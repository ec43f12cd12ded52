"""Rows of the mount state in SQLite, and the values that they stand for.

Decoding raises what `GARBLED` lists for a row that no encoder here could have made.
"""

from __future__ import annotations

import struct

from syncline.adapters.mount_records import Record
from syncline.adapters.row_codec import decode_manifest, encode_manifest
from syncline.adapters.sqlite_mount_queries import ABSENT, AS_BASE, DIFFERS, TOMBSTONE
from syncline.core.entries import Entry, Kind
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import (
    DIGEST_BYTES,
    CommitId,
    EntryId,
    ReplicaId,
    Revision,
    VolumeId,
)
from syncline.core.names import Name
from syncline.core.safety import Consent, HaltReason, RootIdentity
from syncline.core.table import Cursor
from syncline.core.trees import State, state_of
from syncline.errors import Corrupt
from syncline.ports.mount_state import Held, MountFacts, Obstacle, ObstacleReason

GARBLED = (Corrupt, KeyError, ValueError, struct.error)

StateRow = tuple[
    bytes | None,
    bytes | None,
    int | None,
    int | None,
    int | None,
    int | None,
    bytes | None,
    bytes | None,
    bytes | None,
]
"""parent, name, kind, mode, mtime, size, digest, manifest, target; all None for no state."""

StoredRow = tuple[bytes, bytes, int, int, int, int, bytes | None, bytes | None, bytes | None]
"""The same of a state that is there."""

NO_STATE: StateRow = (None,) * 9

FactsRow = tuple[
    bytes,
    bytes | None,
    bytes | None,
    int | None,
    bytes | None,
    int | None,
    bytes | None,
    bytes,
    str,
]
"""replica, volume, root marker, inode and file system, cursor, table digest, consent."""

_KINDS = {int(kind): kind for kind in Kind}


# -- states --------------------------------------------------------------------


def state_row(state: State | None) -> StateRow:
    """Return the columns of a state."""
    if state is None:
        return NO_STATE
    content = state.content
    if content is None:
        size, digest, manifest = 0, None, None
    else:
        size, digest, manifest = content.size, content.digest, encode_manifest(content)
    return (
        state.parent,
        state.name,
        state.kind,
        state.mode,
        state.mtime_ns,
        size,
        digest,
        manifest,
        state.target,
    )


def stored_state(row: StoredRow) -> State:
    """Return the state that columns hold."""
    parent, name, kind, mode, mtime_ns, size, digest, manifest, target = row
    return State(
        EntryId(parent),
        Name(name),
        _KINDS[kind],
        mode,
        mtime_ns,
        None if digest is None else decode_manifest(digest, size, manifest),
        target,
    )


def state_of_row(row: StateRow) -> State | None:
    """Return the state that columns hold, or None where they hold none."""
    parent, name, kind, mode, mtime_ns, size, digest, manifest, target = row
    if parent is None:
        return None
    if name is None or kind is None or mode is None or mtime_ns is None or size is None:
        raise ValueError("there is half a state")
    return stored_state((parent, name, kind, mode, mtime_ns, size, digest, manifest, target))


def entry_of_state(id: EntryId, revision: int, state: State, *, is_live: bool) -> Entry:
    """Return what the server told of an entry that has this state."""
    return Entry(
        id,
        Revision(revision),
        state.parent,
        state.name,
        state.kind,
        state.mode,
        state.mtime_ns,
        state.content,
        state.target,
        is_live,
    )


# -- fingerprints --------------------------------------------------------------

_FINGERPRINT = struct.Struct(">qIQqIqI?")
"""Birth time, size, mtime, ctime, provisional. Times are seconds and ns: 64 bits of ns end in 2262,
and file systems go further."""
_SECOND_NS = 1_000_000_000


def inode_column(inode: int) -> int:
    """Return an inode of 64 bits as the signed integer that a column holds."""
    return inode - (1 << 64) if inode >> 63 else inode


def _inode_of(column: int) -> int:
    return column + (1 << 64) if column < 0 else column


def fingerprint_row(seen: Seen | None) -> tuple[int | None, bytes | None]:
    """Return the columns of a fingerprint: inode, and the rest."""
    if seen is None or seen.fingerprint is None:
        return None, None
    found = seen.fingerprint
    rest = _FINGERPRINT.pack(
        *divmod(found.born_ns, _SECOND_NS),
        found.size,
        *divmod(found.mtime_ns, _SECOND_NS),
        *divmod(found.ctime_ns, _SECOND_NS),
        found.is_provisional,
    )
    return inode_column(found.inode), rest


def _fingerprint_of(inode: int | None, rest: bytes | None) -> Fingerprint | None:
    if inode is None or rest is None:
        return None
    born_s, born_ns, size, mtime_s, mtime_ns, ctime_s, ctime_ns, is_provisional = (
        _FINGERPRINT.unpack(rest)
    )
    return Fingerprint(
        _inode_of(inode),
        born_s * _SECOND_NS + born_ns,
        size,
        mtime_s * _SECOND_NS + mtime_ns,
        ctime_s * _SECOND_NS + ctime_ns,
        is_provisional,
    )


# -- records -------------------------------------------------------------------

EntryRow = tuple[
    bytes,
    int,
    bytes | None,
    bytes | None,
    int | None,
    int | None,
    int | None,
    int | None,
    bytes | None,
    bytes | None,
    bytes | None,
    int,
    int | None,
    bytes | None,
    int,
    int | None,
    bytes | None,
    int,
]
"""id, is dirty, base's state, here, inode, fingerprint, there, revision, author, is confirmed."""


def differing_local(record: Record | None) -> State | None:
    """Return the state of local where base's row cannot stand for it."""
    if record is None or record.local is None or record.local.state == record.base:
        return None
    return record.local.state


def differing_remote(record: Record | None) -> Entry | None:
    """Return the state of remote where base's row cannot stand for it."""
    if record is None or record.remote is None:
        return None
    is_as_base = record.remote.is_live and state_of(record.remote) == record.base
    return None if is_as_base else record.remote


def entry_row(id: EntryId, record: Record, local: State | None, remote: Entry | None) -> EntryRow:
    """Return the row of an entry of which these states differ from base."""
    here, there = ABSENT, ABSENT
    if record.local is not None:
        here = AS_BASE if local is None else DIFFERS
    if record.remote is not None:
        there = AS_BASE if remote is None else DIFFERS if remote.is_live else TOMBSTONE
    return (
        id,
        int(record.is_dirty),
        *state_row(record.base),
        here,
        *fingerprint_row(record.local),
        there,
        None if record.remote is None else record.remote.revision,
        None if record.author is None else text_column(record.author),
        int(record.is_confirmed),
    )


def needs_local(row: EntryRow) -> bool:
    """Tell whether the state of local stands in another row."""
    return row[11] == DIFFERS


def needs_remote(row: EntryRow) -> bool:
    """Tell whether the state of remote stands in another row."""
    return row[14] in (DIFFERS, TOMBSTONE)


def record_of(row: EntryRow, local: State | None, remote: State | None) -> Record:
    """Return the record that a row stands for, with the states that stand elsewhere."""
    id, is_dirty = row[:2]
    base = state_of_row(row[2:11])
    here, inode, fingerprint, there, revision, author, is_confirmed = row[11:]
    seen = None
    if here != ABSENT:
        state = base if here == AS_BASE else local
        if state is None:
            raise ValueError("an entry has no state of local")
        seen = Seen(state, _fingerprint_of(inode, fingerprint))
    entry = None
    if there != ABSENT:
        state = base if there == AS_BASE else remote
        if state is None or revision is None:
            raise ValueError("an entry has no state of remote")
        entry = entry_of_state(EntryId(id), revision, state, is_live=there != TOMBSTONE)
    return Record(
        base,
        seen,
        entry,
        None if author is None else text_of(author),
        is_confirmed == 1,
        is_dirty == 1,
    )


# -- facts and exceptions ------------------------------------------------------


def text_column(text: str) -> bytes:
    """Return a text as bytes: one may quote a name that is not UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def text_of(column: bytes) -> str:
    """Return the text that a column holds."""
    return column.decode("utf-8", "surrogatepass")


def facts_row(facts: MountFacts) -> FactsRow:
    """Return the columns of what a mount knows of itself."""
    root, cursor = facts.root, facts.cursor
    return (
        facts.replica,
        facts.volume,
        root.marker if root else None,
        inode_column(root.inode) if root else None,
        root.filesystem if root else None,
        cursor.revision if cursor else None,
        cursor.commit_id if cursor else None,
        facts.table_digest.to_bytes(DIGEST_BYTES, "big"),
        _consent_column(facts.consent),
    )


def facts_of(row: FactsRow) -> MountFacts:
    """Return what a mount knows of itself."""
    replica, volume, marker, inode, filesystem, revision, commit_id, digest, consent = row
    root = None
    if marker is not None:
        if inode is None or filesystem is None:
            raise ValueError("the mount has half a root")
        root = RootIdentity(marker, _inode_of(inode), filesystem)
    cursor = None
    if revision is not None:
        cursor = Cursor(Revision(revision), None if commit_id is None else CommitId(commit_id))
    return MountFacts(
        ReplicaId(replica),
        None if volume is None else VolumeId(volume),
        root,
        cursor,
        int.from_bytes(digest, "big"),
        _consent_of(consent),
    )


def _consent_column(consent: Consent | None) -> str:
    return "" if consent is None else f"{consent.reason.value} {consent.count}"


def _consent_of(column: str) -> Consent | None:
    if not column:
        return None
    reason, _, count = column.partition(" ")
    return Consent(HaltReason(reason), int(count))


def held_of(is_ignored: int, detail: bytes) -> Held:
    """Return why an entry is held."""
    return Held(is_ignored=is_ignored == 1, detail=text_of(detail))


def obstacle_of(reason: str, detail: bytes) -> Obstacle:
    """Return what takes a place."""
    return Obstacle(ObstacleReason(reason), text_of(detail))
