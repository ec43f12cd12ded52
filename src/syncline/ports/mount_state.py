"""What a mount remembers: observations, never work to do.

Model: base, local and remote of each entry (`syncline.core.trees`), with what tells a change of
local without reading; the cursor of remote; and small notes that let a crash be recognised.

S1  Local and remote are kept where they differ from base; an entry that all three know alike costs
    one row. `dirty` are the entries that differ, found without looking at the others.
S2  Local is a tree, and so is what lives in remote, at the end of every session.
S3  What a session did is durable when its block has been left without an exception, and has not
    happened at all otherwise, a crash at any moment included.
S4  An entry that base and local lack, and remote lacks or has as a tombstone, is forgotten.

Contract, for every adapter: calls block, come from one thread at a time; one session is open at a
time and sees its own changes. Errors: `NoSpace`, `Corrupt` (the store is damaged), `TooNew`
and `InUse` at opening, `LocalFailure` for other I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from syncline.core.entries import Entry
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId, OpId, ReplicaId, VolumeId
from syncline.core.names import Name
from syncline.core.safety import Consent, RootIdentity
from syncline.core.table import Cursor, TableDigest
from syncline.core.trees import Place, State


@dataclass(frozen=True, slots=True)
class MountFacts:
    """What a mount knows of itself. `cursor` is None before the first snapshot is whole.

    `table_digest` is that of the remote tree, in step with the cursor. `consent` is what a human
    allowed by `syncline resume`, until it is done.
    """

    replica: ReplicaId
    volume: VolumeId | None
    root: RootIdentity | None
    cursor: Cursor | None = None
    table_digest: TableDigest = 0
    consent: Consent | None = None


class ObstacleReason(Enum):
    """Why something in the mount is no entry; the values are stable."""

    SPECIAL = "special"
    """A FIFO, socket or device."""
    IGNORED = "ignored"
    FILE_SYSTEM = "file_system"
    """Another file system is mounted there."""
    UNREAD = "unread"
    """It is new and could not be read."""
    NAME = "name"
    """Its name is not allowed in a volume."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Something that takes a place and is not synced; `detail` is for people."""

    reason: ObstacleReason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """Why an entry must stay as it is in the mount: `is_ignored`, else it could not be read."""

    is_ignored: bool
    detail: str = ""


class Trees(Protocol):
    """The three trees."""

    def base(self, id: EntryId) -> State | None: ...

    def local(self, id: EntryId) -> Seen | None: ...

    def remote(self, id: EntryId) -> Entry | None:
        """Return the newest state that the server told of; a tombstone too, while it is kept."""

    def author(self, id: EntryId) -> str | None:
        """Return who made the remote state, where it differs from base."""

    def is_confirmed(self, id: EntryId) -> bool:
        """Tell whether the remote state that differs from base comes of a confirmed commit."""

    def set_base(self, id: EntryId, state: State | None) -> None: ...

    def set_local(self, id: EntryId, seen: Seen | None) -> None: ...

    def set_remote(self, entry: Entry, author: str, *, is_confirmed: bool) -> None:
        """Know a newer state, or the tombstone, of an entry."""

    def drop_remote(self, id: EntryId) -> None:
        """Know that the server has no such entry, without a tombstone that says so."""

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Know the local thing `old` as the entry `new`, which local lacks; what is in it follows.

        Held entries, and obstacles in it, follow too.
        """

    def child(self, parent: EntryId, name: Name) -> EntryId | None:
        """Return who is at a place in local."""

    def children(self, parent: EntryId) -> Sequence[tuple[EntryId, Seen]]:
        """Return who is in a directory in local, in order of name."""

    def with_inode(self, inode: int) -> Sequence[tuple[EntryId, Seen]]:
        """Return who had this inode when it was last seen in local."""

    def at_place(self, place: Place) -> set[EntryId]:
        """Return who is at a place in any of the three trees; tombstones do not count."""

    def within(self, parent: EntryId) -> set[EntryId]:
        """Return who is in a directory in any of the three trees; tombstones do not count."""

    def dirty(self) -> Sequence[EntryId]:
        """Return the entries of which local or remote differs from base, in order of id."""

    def dirty_count(self) -> int: ...

    @property
    def has_changed(self) -> bool:
        """Tell whether this session changed anything that a plan follows from.

        That is the three trees, who is held, and the obstacles; not the facts and the notes.
        """

    def base_count(self) -> int:
        """Return how many entries base has."""

    def remote_ids(self, after: EntryId | None, limit: int) -> Sequence[EntryId]:
        """Return entries that live in remote, in order of id, those past `after`."""

    def forget_all(self) -> None:
        """Forget base, local, remote and all notes; the facts stay."""

    def forget_server(self) -> None:
        """Forget base and remote, and what was sent; what local is stays."""


class Exceptions(Protocol):
    """What in the mount is not as an entry should be."""

    def set_held(self, id: EntryId, held: Held | None) -> None: ...

    def held(self) -> Mapping[EntryId, Held]: ...

    def held_of(self, id: EntryId) -> Held | None: ...

    def held_unread(self) -> Mapping[EntryId, Held]:
        """Return who is held and not ignored; ignored ones cost nothing."""

    def set_obstacle(self, place: Place, obstacle: Obstacle | None) -> None: ...

    def obstacle(self, place: Place) -> Obstacle | None: ...

    def obstacles_in(self, parent: EntryId) -> Mapping[Name, Obstacle]: ...

    def obstacles_not_ignored(self) -> Mapping[Place, Obstacle]:
        """Return all obstacles but those that are ignored; these cost nothing."""


class Notes(Protocol):
    """What lets answers and crashes be recognised."""

    def note_sent(self, op: OpId, states: Mapping[EntryId, State | None]) -> None:
        """Remember what was local when the changes of a STORE were made."""

    def sent(self, op: OpId) -> Mapping[EntryId, State | None] | None: ...

    def forget_sent(self, op: OpId) -> None: ...

    def all_sent(self) -> Sequence[OpId]: ...

    def note_intent(self, id: EntryId, wanted: State | None) -> None:
        """Remember what is about to be placed; None: that it is about to be removed."""

    def intents(self) -> Mapping[EntryId, State | None]: ...

    def forget_intents(self) -> None: ...

    def clear_incoming(self) -> None: ...

    def add_incoming(self, entries: Iterable[Entry]) -> None:
        """Add a page of a snapshot that is not whole yet."""

    def incoming(self) -> Iterator[Entry]:
        """Yield the entries of the snapshot in order of id; the trees may be changed meanwhile."""

    def is_incoming(self, id: EntryId) -> bool: ...


class MountSession(Trees, Exceptions, Notes, Protocol):
    """One transaction."""

    def facts(self) -> MountFacts: ...

    def set_facts(self, facts: MountFacts) -> None: ...


class MountState(Protocol):
    """The store of one mount."""

    def session(self) -> AbstractContextManager[MountSession]:
        """Open a session."""

    def close(self) -> None:
        """Let go of files."""
