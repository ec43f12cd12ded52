"""The metadata store: entries by revision, commits, and where each chunk lies.

Contract, for every adapter:

- Calls block; they are made from worker threads. One `write` session is open at a time in the whole
  store (a second one waits); any number of `read` sessions may be open beside it, each seeing one
  state of the store for as long as it is open.
- What a write session did is durable when its `with` block has been left without an exception, and
  has not happened at all otherwise, a crash at any moment included.
- States are never updated in place: an entry's row gets a successor. So `read(..., at=N)` answers
  for any past revision N.
- Errors: `NoSpace` when the disk is full (nothing happened), `Corrupt` when the store is damaged,
  `NotFound` for an unknown volume or a revision outside its history, `TooNew` at opening when it
  was written by a newer version, `InUse` and `LocalFailure` when a process or the disk refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from syncline.core.changes import Answer, Author, Token
from syncline.core.entries import Entry
from syncline.core.identity import CommitId, Digest, EntryId, OpId, ReplicaId, Revision, VolumeId
from syncline.core.names import Name
from syncline.core.table import Commit, Head, Table
from syncline.core.user_locks import UserLock
from syncline.ports.chunks import Location

LOCK_BREAKS_MAX = 10_000
"""Records of broken locks that are kept: years of what people do by hand, and few MiB."""


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the store knows it; `oldest` is the first revision whose table is still whole."""

    id: VolumeId
    name: str
    oldest: Revision


@dataclass(frozen=True, slots=True)
class RememberedAnswer:
    """What an op id came to; `fingerprint` tells a repeated STORE from another with its op id."""

    fingerprint: Digest
    answer: Answer


@dataclass(frozen=True, slots=True)
class StoredLock:
    """A user lock, how long it was held when it was last written, and how long it may last yet."""

    lock: UserLock
    held_s: float
    left_s: float


@dataclass(frozen=True, slots=True)
class LockBreak:
    """The record of a lock that somebody broke: who, from which host, and what it was.

    `path` is where the entry was then; `time_ns` is wall time.
    """

    time_ns: int
    by: Author
    by_host: str
    path: bytes
    lock: UserLock
    held_s: float


class TableReader(Table, Protocol):
    """A volume at one revision, and its chunk index as of the session."""

    def head(self) -> Head:
        """Return the head of the volume, whatever revision this session reads."""

    def children_after(self, parent: EntryId, after: Name | None, limit: int) -> Sequence[Entry]:
        """Return up to `limit` live children in order of name, those past `after`."""

    def page(self, after: EntryId | None, limit: int) -> Sequence[Entry]:
        """Return up to `limit` live entries of the table in order of id, those past `after`."""

    def previous(self, id: EntryId, revision: Revision) -> Entry | None:
        """Return the state that was superseded by the one with exactly this revision."""

    def commit(self, revision: Revision) -> Commit | None:
        """Return one commit with its entries; None where there is none."""

    def commit_id(self, revision: Revision) -> CommitId | None:
        """Return the id of one commit, without reading its entries; None where there is none."""

    def signature(self, revision: Revision) -> tuple[str, int] | None:
        """Return who made a commit, by human name, and when in ns; None where there is none."""

    def commits_after(self, revision: Revision, limit: int) -> Sequence[Commit]:
        """Return up to `limit` commits past `revision`, in order."""

    def answer(self, replica: ReplicaId, op_id: OpId) -> RememberedAnswer | None:
        """Return what `(replica, op id)` came to, if it made a commit."""

    def locate(self, digests: Iterable[Digest]) -> Mapping[Digest, Location]:
        """Return where chunks lie; those unknown or marked damaged are left out."""

    def damaged(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those that are marked damaged."""

    def has_damaged(self) -> bool:
        """Tell whether any chunk of the volume is marked damaged; costs one look-up."""

    def locks(self) -> Sequence[StoredLock]:
        """Return the user locks of now, whatever revision this session reads, by their tokens."""

    def last_token(self) -> Token:
        """Return the last token that was given; 0 before the first one."""

    def lock_breaks(self, limit: int) -> Sequence[LockBreak]:
        """Return up to `limit` records of broken locks, the newest first."""


class WriteSession(TableReader, Protocol):
    """A read session at the head that may also add; it sees its own additions."""

    def add_chunks(self, chunks: Mapping[Digest, Location]) -> None:
        """Index chunks; one that is there already keeps its place unless it is marked damaged."""

    def mark_damaged(self, chunks: Mapping[Digest, Location]) -> None:
        """Make chunks missing whose bytes are wrong; a later `add_chunks` heals them.

        One that does not lie at the place given is left as it is: it was healed meanwhile.
        """

    def forget_chunks(self) -> None:
        """Drop the whole chunk index of the volume, to rebuild it from packs."""

    def put_lock(self, stored: StoredLock) -> None:
        """Keep a user lock, in the place of one on the same entry."""

    def drop_lock(self, entry: EntryId) -> None:
        """Forget the user lock of an entry, if there is one."""

    def keep_token(self, token: Token) -> None:
        """Keep the last token that was given; asserts that tokens grow."""

    def add_lock_break(self, record: LockBreak) -> None:
        """Add a record of a broken lock; those past the newest `LOCK_BREAKS_MAX` go."""

    def add_commit(self, commit: Commit, remembered: RememberedAnswer) -> None:
        """Add the next revision and its states.

        Asserts T1, and that each superseded state is the newest one.
        """


class MetadataStore(Protocol):
    """All volumes of one server."""

    def volumes(self) -> Sequence[Volume]:
        """Return all volumes in order of name."""

    def create_volume(self, id: VolumeId, name: str) -> Volume:
        """Make an empty volume, durable on return; raise Exists for a name in use."""

    def read(
        self, volume: VolumeId, at: Revision | None = None
    ) -> AbstractContextManager[TableReader]:
        """Open a read session at revision `at`, the head when None."""

    def write(self, volume: VolumeId) -> AbstractContextManager[WriteSession]:
        """Open the write session."""

    def located(self, volume: VolumeId, pack: int) -> Iterator[tuple[Digest, Location]]:
        """Yield the index of one pack in order of offset, marked-damaged chunks too."""

    def close(self) -> None:
        """Let go of files and connections; no session may be open."""
