"""The three trees that the reconciler compares, and what a mount is like.

Model: a *state* is what a replica can hold of an entry: its place, content and metadata, without id
and revision. Base, local and remote are maps from entry id to such states. The scanner gives an
entry that it knows the id of base, and a new thing a fresh id.

V1  Local is a tree: each parent is the root or a local directory, each place is taken once. So is
    what lives in remote, because it is the table at one revision: the feed alone moves it, never
    an answer. A tombstone in remote gives the revision that a resurrection builds on.
V2  One id has one kind in all trees: a thing of another kind at the same place has a fresh id.
V3  Base holds, aspect by aspect, the last value that both sides had. Its aspects may come from
    different moments, so base need not be a tree.
V4  An error is never absence: what could not be read stands in local as base has it, and in
    `held`; so does an entry that an ignore rule covers. Any other thing that is never synced
    (ignored, a socket) is an obstacle and no entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from syncline.core.entries import Entry, Kind
from syncline.core.identity import EntryId, Revision
from syncline.core.manifests import Content
from syncline.core.names import Name

Place = tuple[EntryId, Name]
"""Where an entry is: the directory that holds it, and the name it has there."""

Substance = tuple[Kind, bytes]
"""What tells contents apart: kind, and the digest of a file or the target of a link."""


@dataclass(frozen=True, slots=True)
class State:
    """What a replica holds of an entry; the fields are those of `Entry`."""

    parent: EntryId
    name: Name
    kind: Kind
    mode: int
    mtime_ns: int
    content: Content | None
    target: bytes | None

    @property
    def place(self) -> Place:
        """Return where it is."""
        return (self.parent, self.name)

    @property
    def substance(self) -> Substance:
        """Return what tells its content from another; the chunking does not count."""
        if self.content is not None:
            return (self.kind, self.content.digest)
        return (self.kind, self.target or b"")

    @property
    def is_directory(self) -> bool:
        """Tell whether other entries can be in it."""
        return self.kind is Kind.DIRECTORY

    def at(self, place: Place) -> State:
        """Return the same state in another place."""
        if place == (self.parent, self.name):
            return self
        return replace(self, parent=place[0], name=place[1])


def state_of(entry: Entry) -> State:
    """Return what a replica can hold of an entry."""
    return State(
        entry.parent,
        entry.name,
        entry.kind,
        entry.mode,
        entry.mtime_ns,
        entry.content,
        entry.target,
    )


def is_same(one: State | None, other: State | None) -> bool:
    """Tell whether nobody could tell two states apart; two absences are the same."""
    if one is other:
        return True
    if one is None or other is None:
        return False
    return (
        one.name == other.name
        and one.parent == other.parent
        and one.mode == other.mode
        and one.mtime_ns == other.mtime_ns
        and one.substance == other.substance
    )


Tree = Mapping[EntryId, State]


class ProblemCode(Enum):
    """Why an entry is not placed or not sent; the values are stable."""

    LOCAL_CHANGE = "local_change"
    """Receive-only: the mount was changed here; the change stays and is not sent."""
    REMOTE_CHANGE = "remote_change"
    """Send-only: the volume was changed elsewhere; the change is not placed here."""
    UNREAD = "unread"
    """The local thing could not be read, so nothing is done to it."""
    IGNORED = "ignored"
    """An ignore rule covers an entry of the volume, so the mount does not follow it."""
    OBSTRUCTED = "obstructed"
    """Something that is never synced takes the place."""
    HOLDS_UNSYNCED = "holds_unsynced"
    """The directory was deleted elsewhere, but holds what is never synced."""
    LINKS_NOT_HELD = "links_not_held"
    """The file system of the mount has no symbolic links."""
    CASE_CLASH = "case_clash"
    """The file system of the mount takes this name and another one for the same."""
    BLOCKED = "blocked"
    """It waits for another entry that has a problem."""


@dataclass(frozen=True, slots=True)
class View:
    """Three trees, whole or closed (`syncline.core.closure`), and what else a decision needs.

    `authors`: who made the newest state of a remote entry; needed where that is not in base.
    `held`: entries that must stay in the mount as they are, or absent, and the reason.
    `obstacles`: places in the mount that something takes which is never synced.
    `seed`: fresh bytes from outside; ids of conflict copies are derived from them.
    """

    base: Tree
    local: Tree
    remote: Mapping[EntryId, Entry]
    seed: bytes
    authors: Mapping[EntryId, str] = field(default_factory=dict)
    obstacles: frozenset[Place] = frozenset()
    held: Mapping[EntryId, ProblemCode] = field(default_factory=dict)

    def remote_revision(self, id: EntryId) -> Revision:
        """Return what a change of this entry builds on; 0 where the server never told of it."""
        known = self.remote.get(id)
        return known.revision if known else Revision(0)


def live_states(remote: Mapping[EntryId, Entry]) -> dict[EntryId, State]:
    """Return what lives in a table."""
    return {id: state_of(entry) for id, entry in remote.items() if entry.is_live}


class Mode(Enum):
    """Which way changes flow through a mount."""

    TWO_WAY = "two-way"
    SEND_ONLY = "send-only"
    RECEIVE_ONLY = "receive-only"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the file system of a mount can hold; `time_grain_ns` is the step of its mtimes."""

    has_modes: bool = True
    has_links: bool = True
    has_case: bool = True
    time_grain_ns: int = 1


@dataclass(frozen=True, slots=True)
class Mount:
    """The mount that a plan is for; `replica` is its human name, which conflict copies carry."""

    replica: str
    mode: Mode = Mode.TWO_WAY
    abilities: Abilities = Abilities()
