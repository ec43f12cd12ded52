"""Changes: what a client asks of the server, and the answers a change can get.

Model: a change names its entry, the base revision that it builds on (0: the entry is new), and the
state it wants. Changes of one STORE are read in order; `base` always speaks of the table before it.

C1  Every change names its base (G6).
C2  The zero value of a kind of change on the wire means nothing, never "delete".
C3  A put never moves; a move never edits. Both may stand in one STORE for the same entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NewType, assert_never

from blake3 import blake3

from syncline.core.entries import Entry
from syncline.core.identity import Digest, EntryId, OpId, ReplicaId, Revision
from syncline.core.manifests import Content
from syncline.core.names import Name


@dataclass(frozen=True, slots=True)
class PutFile:
    """Make a file, or give it new content, mode or mtime."""

    id: EntryId
    base: Revision
    parent: EntryId
    name: Name
    mode: int
    mtime_ns: int
    content: Content


@dataclass(frozen=True, slots=True)
class PutDirectory:
    """Make a directory, or give it a new mode."""

    id: EntryId
    base: Revision
    parent: EntryId
    name: Name
    mode: int


@dataclass(frozen=True, slots=True)
class PutLink:
    """Make a symbolic link, or give it a new target or mtime."""

    id: EntryId
    base: Revision
    parent: EntryId
    name: Name
    mtime_ns: int
    target: bytes


@dataclass(frozen=True, slots=True)
class Move:
    """Give an entry another place; what hangs below a directory moves with it, untouched."""

    id: EntryId
    base: Revision
    parent: EntryId
    name: Name


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an entry; a directory only when it has no live child."""

    id: EntryId
    base: Revision


Put = PutFile | PutDirectory | PutLink
Change = Put | Move | Delete


def fingerprint(changes: Iterable[Change], *, is_atomic: bool) -> Digest:
    """Return a digest of what a STORE asks for: tells a repetition from a reused op id.

    Whether content came inline or in chunks makes no difference.
    """
    hasher = blake3(b"syncline proposal v1\0")
    hasher.update(bytes([is_atomic]))
    for change in changes:
        encoded = _encode_change(change)
        hasher.update(len(encoded).to_bytes(4, "big") + encoded)
    return Digest(hasher.digest())


def _encode_change(change: Change) -> bytes:
    start = change.id + change.base.to_bytes(8, "big")
    match change:
        case Delete():
            return b"d" + start
        case Move():
            return b"m" + start + change.parent + change.name
        case PutDirectory():
            return b"D" + start + change.parent + change.mode.to_bytes(4, "big") + change.name
        case PutLink():
            time = change.mtime_ns.to_bytes(8, "big", signed=True)
            size = len(change.name).to_bytes(2, "big")
            return b"L" + start + change.parent + time + size + change.name + change.target
        case PutFile():
            time = change.mtime_ns.to_bytes(8, "big", signed=True)
            mode = change.mode.to_bytes(4, "big")
            return b"F" + start + change.parent + time + mode + change.content.digest + change.name
        case _:
            assert_never(change)


CHANGES_MAX = 2048
"""Changes in one commit: keeps a commit's rows and its frames small beside 4 MiB messages."""

COMMIT_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of names, manifests, targets and inline content in one STORE before its chunks."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who makes a commit: a replica and its human name."""

    replica: ReplicaId
    name: str


Token = NewType("Token", int)
"""The number of the grant of a user lock in its volume; 0 is none."""


@dataclass(frozen=True, slots=True)
class HeldToken:
    """What a writer says that it holds: the lock of an entry, by the token of its grant."""

    entry: EntryId
    token: Token


@dataclass(frozen=True, slots=True)
class Proposal:
    """One STORE before it is decided.

    `inline` holds content of at most `INLINE_BYTES_MAX` by digest. `wait_s` is how long the caller
    is ready to wait for an operation lock. `is_confirmed`: a human said yes to what it does.
    `tokens` are the user locks that the caller believes to hold; one that is lost refuses it all.
    """

    author: Author
    op_id: OpId
    changes: tuple[Change, ...]
    inline: dict[Digest, bytes]
    is_atomic: bool = False
    is_confirmed: bool = False
    wait_s: float = 0.0
    tokens: tuple[HeldToken, ...] = ()


class RefusalCode(Enum):
    """Why a change did not happen; the values are stable and on the wire by name."""

    STALE = "stale"
    NAME_TAKEN = "name_taken"
    PARENT_GONE = "parent_gone"
    NOT_EMPTY = "not_empty"
    CYCLE = "cycle"
    LOCKED = "locked"
    MISSING = "missing"
    INVALID = "invalid"
    ATOMIC = "atomic"
    LOCK_LOST = "lock_lost"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock; times are seconds from now on the server's monotonic clock.

    `entry` is the one that a user lock is on, it may be a directory above; None: it is the lock of
    another operation, which has no host and no reason.
    """

    name: str
    replica: ReplicaId
    since_s: float
    expires_s: float
    host: str = ""
    reason: str = ""
    entry: EntryId | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """A change that was not made, and what stands in its way.

    `current`: the state on the server that a STALE, NAME_TAKEN, PARENT_GONE or NOT_EMPTY ran into;
    None where the server knows no such entry. `missing`: the first chunks that a MISSING lacks.
    """

    code: RefusalCode
    current: Entry | None = None
    holder: Holder | None = None
    missing: tuple[Digest, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A change that holds: the entry has `revision`; `replaced` is the one it had before, or 0."""

    revision: Revision
    replaced: Revision


Outcome = Accepted | Refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """What a STORE or DELETE comes to: the revision it made (or met), and an outcome a change."""

    revision: Revision
    outcomes: tuple[Outcome, ...]
    is_replay: bool = False
