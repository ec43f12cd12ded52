"""The metadata store in memory: for tests of what stands on the port, and for the simulation.

Whatever a session left is durable as far as a simulated crash goes: the object outlives it.
"""

from __future__ import annotations

import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Generic, TypeVar

from syncline.core.changes import Token
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    NO_REVISION,
    REVISION_MAX,
    CommitId,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    VolumeId,
)
from syncline.core.names import Name
from syncline.core.table import EMPTY_TABLE_DIGEST, Commit, Head, genesis
from syncline.core.user_locks import NO_TICKET, NO_TOKEN
from syncline.errors import Exists, NotFound
from syncline.ports.chunks import Location
from syncline.ports.metadata import (
    LOCK_BREAKS_MAX,
    LockBreak,
    RememberedAnswer,
    StoredLock,
    Volume,
)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


Undo = list[Callable[[], None]]


class _Versions(Generic[K, V]):
    """A mapping that keeps what it was: each value holds from its version until the next one.

    One thread puts while others get, each at a version that does not change any more.
    """

    def __init__(self) -> None:
        self._values: dict[K, list[tuple[int, V]]] = {}
        self._lock = threading.Lock()

    def put(self, key: K, version: int, value: V, undo: Undo) -> None:
        with self._lock:
            self._values.setdefault(key, []).append((version, value))
        undo.append(lambda: self._drop(key))

    def _drop(self, key: K) -> None:
        with self._lock:
            self._values[key].pop()

    def get(self, key: K, version: int) -> V | None:
        with self._lock:
            values = self._values.get(key)
            if not values:
                return None
            if values[-1][0] <= version:
                return values[-1][1]
            position = bisect_right(values, version, key=lambda value: value[0])
            return values[position - 1][1] if position else None

    def known(self) -> list[K]:
        """Return all keys that ever were put."""
        with self._lock:
            return list(self._values)


@dataclass(frozen=True, slots=True)
class _Indexed:
    location: Location
    is_damaged: bool


@dataclass(frozen=True, slots=True)
class _Locks:
    """The user locks of a volume; a value, replaced as a whole."""

    locks: Mapping[EntryId, StoredLock] = field(default_factory=dict)
    last_token: Token = NO_TOKEN
    breaks: tuple[LockBreak, ...] = ()


class _VolumeRows:
    """A volume. States and places go by revision, chunks by the number of the write session."""

    def __init__(self, facts: Volume) -> None:
        self.facts = facts
        self.genesis = Head(NO_REVISION, genesis(facts.id), EMPTY_TABLE_DIGEST)
        self.commits: list[Commit] = []
        self.answers: dict[tuple[ReplicaId, OpId], tuple[Revision, RememberedAnswer]] = {}
        self.states: _Versions[EntryId, Entry] = _Versions()
        self.places: _Versions[tuple[EntryId, Name], EntryId | None] = _Versions()
        self.names: dict[EntryId, dict[Name, None]] = {}
        self.chunks: _Versions[Digest, _Indexed | None] = _Versions()
        self.head = self.genesis
        self.session = 0
        self.locks = _Locks()


class MemoryMetadataStore:
    """All volumes of one server; see `syncline.ports.metadata` for the contract."""

    def __init__(self) -> None:
        self._volumes: dict[VolumeId, _VolumeRows] = {}
        self._write_lock = threading.Lock()
        self._publish_lock = threading.Lock()

    def volumes(self) -> Sequence[Volume]:
        """Return all volumes in order of name."""
        volumes = [rows.facts for rows in list(self._volumes.values())]
        return sorted(volumes, key=lambda volume: volume.name)

    def create_volume(self, id: VolumeId, name: str) -> Volume:
        """Make an empty volume; raise Exists for a name or an id in use."""
        with self._write_lock:
            if any(id == volume.id or name == volume.name for volume in self.volumes()):
                raise Exists(f"there is a volume '{name}' already", volume=name)
            volume = Volume(id, name, NO_REVISION)
            self._volumes[id] = _VolumeRows(volume)
        return volume

    @contextmanager
    def read(self, volume: VolumeId, at: Revision | None = None) -> Iterator[_Reader]:
        """Open a read session; raise NotFound for a volume or a revision that is not there."""
        rows = self._rows(volume)
        with self._publish_lock:
            head, session, locks = rows.head, rows.session, rows.locks
        revision = head.revision if at is None else at
        if not rows.facts.oldest <= revision <= head.revision:
            raise NotFound(
                f"there is no revision {at}; there are {rows.facts.oldest} to {head.revision}",
                revision=str(at),
            )
        yield _Reader(rows, head, revision, session, locks)

    @contextmanager
    def write(self, volume: VolumeId) -> Iterator[_Writer]:
        """Open the write session; raise NotFound for a volume that is not there."""
        with self._write_lock:
            writer = _Writer(self._rows(volume))
            try:
                yield writer
            except BaseException:
                writer.undo()
                raise
            with self._publish_lock:
                writer.publish()

    def _rows(self, volume: VolumeId) -> _VolumeRows:
        if volume not in self._volumes:
            raise NotFound(f"there is no volume {volume.hex()}", volume=volume.hex())
        return self._volumes[volume]

    def located(self, volume: VolumeId, pack: int) -> Iterator[tuple[Digest, Location]]:
        """Yield the index of one pack in order of offset, marked-damaged chunks too."""
        with self.read(volume) as reader:
            found = reader.in_pack(pack)
        yield from sorted(found, key=lambda chunk: chunk[1])

    def close(self) -> None:
        """Do nothing: there are no files."""


class _Reader:
    """A volume at one revision."""

    def __init__(self, rows: _VolumeRows, head: Head, at: int, session: int, locks: _Locks) -> None:
        self._rows = rows
        self._head = head
        self._at = at
        self._session = session
        self._locks = locks

    def head(self) -> Head:
        """Return the head of the volume, whatever revision this session reads."""
        return self._head

    def entry(self, id: EntryId) -> Entry | None:
        """Return the newest state of an entry, a tombstone too."""
        return self._rows.states.get(id, self._at)

    def child(self, parent: EntryId, name: Name) -> Entry | None:
        """Return the live entry at a place."""
        id = self._rows.places.get((parent, name), self._at)
        return None if id is None else self.entry(id)

    def children(self, parent: EntryId) -> Iterator[Entry]:
        """Return the live children of a directory in order of name."""
        return iter(self.children_after(parent, None, sys.maxsize))

    def directories(self, parent: EntryId) -> Sequence[Entry]:
        """Return the live directories among the children, in order of name."""
        return [child for child in self.children(parent) if child.kind is Kind.DIRECTORY]

    def children_after(self, parent: EntryId, after: Name | None, limit: int) -> Sequence[Entry]:
        """Return up to `limit` live children in order of name, those past `after`."""
        # A copy: the writer may put names while this one looks through them.
        names = tuple(self._rows.names.get(parent, ()))
        wanted = sorted(name for name in names if name > (after or b""))
        found = (self.child(parent, name) for name in wanted)
        return list(islice((entry for entry in found if entry is not None), limit))

    def page(self, after: EntryId | None, limit: int) -> Sequence[Entry]:
        """Return up to `limit` live entries of the table in order of id, those past `after`."""
        ids = [id for id in self._rows.states.known() if id > (after or b"")]
        found = (self.entry(id) for id in sorted(ids))
        live = (entry for entry in found if entry is not None and entry.is_live)
        return list(islice(live, limit))

    def previous(self, id: EntryId, revision: Revision) -> Entry | None:
        """Return the state that was superseded by the one with exactly this revision."""
        states = self._rows.states
        successor = states.get(id, min(revision, self._head.revision))
        if successor is None or successor.revision != revision:
            return None
        return states.get(id, revision - 1)

    def commit(self, revision: Revision) -> Commit | None:
        """Return one commit with its entries; None where there is none."""
        if not 0 < revision <= self._head.revision:
            return None
        return self._rows.commits[revision - 1]

    def commit_id(self, revision: Revision) -> CommitId | None:
        """Return the id of one commit, without reading its entries; None where there is none."""
        commit = self.commit(revision)
        return None if commit is None else commit.id

    def signature(self, revision: Revision) -> tuple[str, int] | None:
        """Return who made a commit, by human name, and when in ns; None where there is none."""
        commit = self.commit(revision)
        return None if commit is None else (commit.author.name, commit.time_ns)

    def commits_after(self, revision: Revision, limit: int) -> Sequence[Commit]:
        """Return up to `limit` commits past `revision`, in order."""
        return self._rows.commits[revision : min(revision + limit, self._head.revision)]

    def answer(self, replica: ReplicaId, op_id: OpId) -> RememberedAnswer | None:
        """Return what `(replica, op id)` came to, if it made a commit."""
        revision, remembered = self._rows.answers.get((replica, op_id), (NO_REVISION, None))
        return remembered if revision <= self._head.revision else None

    def locate(self, digests: Iterable[Digest]) -> Mapping[Digest, Location]:
        """Return where chunks lie; those unknown or marked damaged are left out."""
        found = ((digest, self._rows.chunks.get(digest, self._session)) for digest in digests)
        return {
            digest: indexed.location
            for digest, indexed in found
            if indexed is not None and not indexed.is_damaged
        }

    def damaged(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those that are marked damaged."""
        found = ((digest, self._rows.chunks.get(digest, self._session)) for digest in digests)
        return {digest for digest, indexed in found if indexed is not None and indexed.is_damaged}

    def has_damaged(self) -> bool:
        """Tell whether any chunk of the volume is marked damaged."""
        return bool(self.damaged(self._rows.chunks.known()))

    def locks(self) -> Sequence[StoredLock]:
        """Return the user locks of now by their tokens."""
        return sorted(self._locks.locks.values(), key=lambda stored: stored.lock.token)

    def last_token(self) -> Token:
        """Return the last token that was given; 0 before the first one."""
        return self._locks.last_token

    def lock_breaks(self, limit: int) -> Sequence[LockBreak]:
        """Return up to `limit` records of broken locks, the newest first."""
        return list(self._locks.breaks[::-1][:limit])

    def in_pack(self, pack: int) -> list[tuple[Digest, Location]]:
        """Return the chunks of one pack, damaged or not, in no order."""
        chunks = self._rows.chunks
        found = ((digest, chunks.get(digest, self._session)) for digest in chunks.known())
        return [
            (digest, indexed.location)
            for digest, indexed in found
            if indexed is not None and indexed.location.pack == pack
        ]


class _Writer(_Reader):
    """The head of a volume; what it puts is seen by others after `publish`."""

    def __init__(self, rows: _VolumeRows) -> None:
        super().__init__(rows, rows.head, REVISION_MAX, rows.session + 1, rows.locks)
        self._undo: Undo = []

    def publish(self) -> None:
        """Let sessions that open from now on see it all."""
        self._rows.head = self._head
        self._rows.session = self._session
        self._rows.locks = self._locks

    def undo(self) -> None:
        """Take back all that this session did."""
        rows = self._rows
        for commit in rows.commits[rows.head.revision :]:
            del rows.answers[commit.author.replica, commit.op_id]
        del rows.commits[rows.head.revision :]
        while self._undo:
            self._undo.pop()()

    def add_chunks(self, chunks: Mapping[Digest, Location]) -> None:
        """Index chunks; one that is there already keeps its place unless it is marked damaged."""
        for digest, location in chunks.items():
            indexed = self._rows.chunks.get(digest, self._session)
            if indexed is None or indexed.is_damaged:
                self._index(digest, _Indexed(location, is_damaged=False))

    def mark_damaged(self, chunks: Mapping[Digest, Location]) -> None:
        """Make chunks missing whose bytes are wrong; one that lies elsewhere is left as it is."""
        for digest, location in chunks.items():
            indexed = self._rows.chunks.get(digest, self._session)
            if indexed is not None and indexed.location == location:
                self._index(digest, _Indexed(location, is_damaged=True))

    def forget_chunks(self) -> None:
        """Drop the whole chunk index of the volume, to rebuild it from packs."""
        for digest in self._rows.chunks.known():
            self._index(digest, None)

    def _index(self, digest: Digest, indexed: _Indexed | None) -> None:
        self._rows.chunks.put(digest, self._session, indexed, self._undo)

    def put_lock(self, stored: StoredLock) -> None:
        """Keep a user lock, in the place of one on the same entry."""
        kept = replace(stored, lock=replace(stored.lock, ticket=NO_TICKET))
        locks = {**self._locks.locks, stored.lock.entry: kept}
        self._locks = replace(self._locks, locks=locks)

    def drop_lock(self, entry: EntryId) -> None:
        """Forget the user lock of an entry, if there is one."""
        left = {id: stored for id, stored in self._locks.locks.items() if id != entry}
        self._locks = replace(self._locks, locks=left)

    def keep_token(self, token: Token) -> None:
        """Keep the last token that was given; asserts that tokens grow."""
        if token <= self._locks.last_token:
            raise AssertionError(f"token {token} was given before")
        self._locks = replace(self._locks, last_token=token)

    def add_lock_break(self, record: LockBreak) -> None:
        """Add a record of a broken lock; those past the newest `LOCK_BREAKS_MAX` go."""
        kept = replace(record, lock=replace(record.lock, ticket=NO_TICKET))
        breaks = (*self._locks.breaks, kept)[-LOCK_BREAKS_MAX:]
        self._locks = replace(self._locks, breaks=breaks)

    def add_commit(self, commit: Commit, remembered: RememberedAnswer) -> None:
        """Add the next revision and its states; see the port for what it asserts."""
        self._check(commit)
        rows, revision = self._rows, commit.revision
        rows.commits.append(commit)
        rows.answers[commit.author.replica, commit.op_id] = (revision, remembered)
        # All places are freed before one is taken: entries may swap theirs.
        for entry in commit.entries:
            old = self.entry(entry.id)
            if old is not None and old.is_live:
                rows.places.put((old.parent, old.name), revision, None, self._undo)
        for entry in commit.entries:
            rows.states.put(entry.id, revision, entry, self._undo)
            if entry.is_live:
                rows.names.setdefault(entry.parent, {})[entry.name] = None
                rows.places.put((entry.parent, entry.name), revision, entry.id, self._undo)
        self._head = Head(revision, commit.id, commit.table_digest)

    def _check(self, commit: Commit) -> None:
        """Assert all that the tables of the durable store would refuse, before anything is put."""
        revision = commit.revision
        if revision != self._head.revision + 1:
            raise AssertionError(f"commit {revision} does not follow {self._head.revision}")  # T1
        if any(entry.revision != revision for entry in commit.entries):
            raise AssertionError("a commit has a state of another revision")
        if (commit.author.replica, commit.op_id) in self._rows.answers:
            raise AssertionError("an op id makes one commit")
        changed = {entry.id for entry in commit.entries}
        places = {(entry.parent, entry.name) for entry in commit.entries if entry.is_live}
        if len(changed) < len(commit.entries):
            raise AssertionError("a commit has two states of one entry")
        if len(places) < sum(entry.is_live for entry in commit.entries):
            raise AssertionError("a commit puts two entries at one place")  # K2
        for parent, name in places:
            standing = self.child(parent, name)
            if standing is not None and standing.id not in changed:
                raise AssertionError("a commit takes a place that is not free")  # K2
