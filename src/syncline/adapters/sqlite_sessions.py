"""The sessions of the SQLite metadata store: the port's calls as statements on one connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from itertools import groupby
from typing import ParamSpec, TypeVar

from syncline.adapters import sqlite_queries as sql
from syncline.adapters.lock_rows import break_of, break_row, lock_row, stored_lock_of
from syncline.adapters.row_codec import decode_answer, encode_answer, entry_of, row_of
from syncline.adapters.sqlite_schema import translated
from syncline.core.changes import Author, Token
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    DIGEST_BYTES,
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
from syncline.core.user_locks import NO_TOKEN
from syncline.errors import NotFound
from syncline.ports.chunks import Location
from syncline.ports.metadata import LOCK_BREAKS_MAX, LockBreak, RememberedAnswer, StoredLock

CHILDREN_FIRST, CHILDREN_MAX = 16, 1024
"""Rows read at once for `children`: few at first, since a decision often looks at one alone."""

LOCATED_ROWS = 1024

P = ParamSpec("P")
R = TypeVar("R")


def translating(call: Callable[P, R]) -> Callable[P, R]:
    """Raise what SQLite raises in `call` as errors of ours."""

    @wraps(call)
    def translated_call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except sqlite3.Error as error:
            raise translated(error) from error

    return translated_call


class Reader:
    """A volume at one revision, inside one transaction."""

    @translating
    def __init__(
        self, connection: sqlite3.Connection, volume: VolumeId, at: Revision | None
    ) -> None:
        self._connection: sqlite3.Connection | None = connection
        row = connection.execute(sql.VOLUME, (volume,)).fetchone()
        if row is None:
            raise NotFound(f"there is no volume {volume.hex()}", volume=volume.hex())
        self._key, oldest = row
        row = connection.execute(sql.HEAD, (self._key,)).fetchone()
        self._head = (
            Head(NO_REVISION, genesis(volume), EMPTY_TABLE_DIGEST)
            if row is None
            else Head(Revision(row[0]), CommitId(row[1]), int.from_bytes(row[2], "big"))
        )
        self._at = self._head.revision if at is None else at
        if not oldest <= self._at <= self._head.revision:
            raise NotFound(
                f"there is no revision {at}; there are {oldest} to {self._head.revision}",
                revision=str(at),
            )
        self._is_past = self._at < self._head.revision

    def end(self) -> None:
        """Make every later call fail: the connection goes to another session."""
        self._connection = None

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise AssertionError("the session is over")
        return self._connection

    def head(self) -> Head:
        """Return the head of the volume, whatever revision this session reads."""
        return self._head

    @translating
    def entry(self, id: EntryId) -> Entry | None:
        """Return the newest state of an entry, a tombstone too."""
        row = self._open.execute(sql.ENTRY, (self._key, id, self._at)).fetchone()
        return None if row is None else entry_of(row)

    @translating
    def child(self, parent: EntryId, name: Name) -> Entry | None:
        """Return the live entry at a place."""
        place = (self._key, parent, name, self._at)
        row = self._open.execute(sql.CHILD, place).fetchone()
        if row is None and self._is_past:
            row = self._open.execute(sql.PAST_CHILD, place).fetchone()
            row = None if row is None else row[:-1]
        return None if row is None else entry_of(row)

    def children(self, parent: EntryId) -> Iterator[Entry]:
        """Yield the live children of a directory in order of name; may be left early."""
        after, limit = None, CHILDREN_FIRST
        while True:
            page = self.children_after(parent, after, limit)
            yield from page
            if len(page) < limit:
                return
            after, limit = page[-1].name, CHILDREN_MAX

    @translating
    def directories(self, parent: EntryId) -> Sequence[Entry]:
        """Return the live directories among the children, in order of name."""
        if self._is_past:
            return [child for child in self.children(parent) if child.kind is Kind.DIRECTORY]
        found = self._open.execute(sql.DIRECTORIES, (self._key, parent, self._at)).fetchall()
        return [entry_of(row) for row in found]

    @translating
    def children_after(self, parent: EntryId, after: Name | None, limit: int) -> Sequence[Entry]:
        """Return up to `limit` live children in order of name, those past `after`."""
        range = (self._key, parent, after or b"", self._at, limit)
        rows = self._open.execute(sql.CHILDREN, range).fetchall()
        if self._is_past:
            rows += self._open.execute(sql.PAST_CHILDREN, range).fetchall()
            rows.sort(key=lambda row: row[3])
        return [entry_of(row) for row in rows[:limit]]

    @translating
    def page(self, after: EntryId | None, limit: int) -> Sequence[Entry]:
        """Return up to `limit` live entries of the table in order of id, those past `after`."""
        range = (self._key, after or b"", self._at, limit)
        return [entry_of(row) for row in self._open.execute(sql.PAGE, range).fetchall()]

    @translating
    def previous(self, id: EntryId, revision: Revision) -> Entry | None:
        """Return the state that was superseded by the one with exactly this revision."""
        row = self._open.execute(sql.PREVIOUS, (self._key, id, revision)).fetchone()
        if row is None or row[-1] != revision:
            return None
        return entry_of(row[:-1])

    def commit(self, revision: Revision) -> Commit | None:
        """Return one commit with its entries; None where there is none."""
        for commit in self.commits_after(Revision(revision - 1), 1):
            return commit if commit.revision == revision else None
        return None

    @translating
    def commit_id(self, revision: Revision) -> CommitId | None:
        """Return the id of one commit, without reading its entries; None where there is none."""
        row = self._open.execute(sql.COMMIT_ID, (self._key, revision)).fetchone()
        return None if row is None else CommitId(row[0])

    @translating
    def signature(self, revision: Revision) -> tuple[str, int] | None:
        """Return who made a commit, by human name, and when in ns; None where there is none."""
        row = self._open.execute(sql.SIGNATURE, (self._key, revision)).fetchone()
        return None if row is None else (row[0], row[1])

    @translating
    def commits_after(self, revision: Revision, limit: int) -> Sequence[Commit]:
        """Return up to `limit` commits past `revision`, in order."""
        rows = self._open.execute(sql.COMMITS, (self._key, revision, limit)).fetchall()
        if not rows:
            return []
        states = self._open.execute(sql.COMMITTED, (self._key, rows[0][0], rows[-1][0])).fetchall()
        entries = {
            made: tuple(entry_of(row) for row in group)
            for made, group in groupby(states, key=lambda row: row[1])
        }
        return [
            Commit(
                Revision(made),
                CommitId(id),
                Author(ReplicaId(author), author_name),
                OpId(op_id),
                time_ns,
                is_confirmed == 1,
                entries.get(made, ()),
                int.from_bytes(table_digest, "big"),
            )
            for made, id, author, author_name, op_id, time_ns, is_confirmed, table_digest in rows
        ]

    @translating
    def answer(self, replica: ReplicaId, op_id: OpId) -> RememberedAnswer | None:
        """Return what `(replica, op id)` came to, if it made a commit."""
        row = self._open.execute(sql.ANSWER, (self._key, replica, op_id)).fetchone()
        return None if row is None else RememberedAnswer(Digest(row[0]), decode_answer(row[1]))

    @translating
    def locate(self, digests: Iterable[Digest]) -> Mapping[Digest, Location]:
        """Return where chunks lie; those unknown or marked damaged are left out."""
        rows = self._look_up(sql.LOCATE, sql.LOCATE_MANY, digests)
        return {Digest(digest): Location(pack, at, size) for digest, pack, at, size in rows}

    @translating
    def damaged(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return those that are marked damaged."""
        rows = self._look_up(sql.DAMAGED, sql.DAMAGED_MANY, digests)
        return {Digest(digest) for digest, _, _, _ in rows}

    @translating
    def has_damaged(self) -> bool:
        """Tell whether any chunk of the volume is marked damaged."""
        return self._open.execute(sql.HAS_DAMAGED, (self._key,)).fetchone() is not None

    @translating
    def locks(self) -> Sequence[StoredLock]:
        """Return the user locks of now by their tokens."""
        rows = self._open.execute(sql.LOCKS, (self._key,)).fetchall()
        return sorted((stored_lock_of(row) for row in rows), key=lambda each: each.lock.token)

    @translating
    def last_token(self) -> Token:
        """Return the last token that was given; 0 before the first one."""
        row = self._open.execute(sql.LAST_TOKEN, (self._key,)).fetchone()
        return NO_TOKEN if row is None else Token(row[0])

    @translating
    def lock_breaks(self, limit: int) -> Sequence[LockBreak]:
        """Return up to `limit` records of broken locks, the newest first."""
        rows = self._open.execute(sql.LOCK_BREAKS, (self._key, limit)).fetchall()
        return [break_of(row) for row in rows]

    def _look_up(
        self, one: str, many: str, digests: Iterable[Digest]
    ) -> list[tuple[bytes, int, int, int]]:
        """Return digest, pack, offset and size of what a pair of statements finds."""
        wanted = list(dict.fromkeys(digests))
        rows: list[tuple[bytes, int, int, int]] = []
        for start in range(0, len(wanted), sql.LOOK_UP_EACH):
            some = wanted[start : start + sql.LOOK_UP_EACH]
            if len(some) == 1:
                rows += self._open.execute(one, (self._key, some[0])).fetchall()
                continue
            # One statement for every count, so that it is compiled once.
            padding = [some[0]] * (sql.LOOK_UP_EACH - len(some))
            rows += self._open.execute(many, (self._key, *some, *padding)).fetchall()
        return rows

    @translating
    def located_after(self, pack: int, start: int) -> list[tuple[bytes, int, int]]:
        """Return up to `LOCATED_ROWS` chunks of a pack past an offset: digest, offset, size."""
        return self._open.execute(sql.LOCATED, (self._key, pack, start, LOCATED_ROWS)).fetchall()


class Writer(Reader):
    """The head of a volume inside the write transaction."""

    def __init__(self, connection: sqlite3.Connection, volume: VolumeId) -> None:
        super().__init__(connection, volume, None)
        self._at = Revision(REVISION_MAX)
        self.failure: Exception | None = None

    def add_chunks(self, chunks: Mapping[Digest, Location]) -> None:
        """Index chunks; one that is there already keeps its place unless it is marked damaged."""
        key = self._key
        # In order of key, neighbours share a page of the tree.
        self._do_many(
            sql.ADD_CHUNK,
            ((key, digest, at.pack, at.offset, at.size) for digest, at in sorted(chunks.items())),
        )

    def mark_damaged(self, chunks: Mapping[Digest, Location]) -> None:
        """Make chunks missing whose bytes are wrong; one that lies elsewhere is left as it is."""
        key = self._key
        self._do_many(
            sql.MARK_DAMAGED,
            ((key, digest, at.pack, at.offset, at.size) for digest, at in chunks.items()),
        )

    def forget_chunks(self) -> None:
        """Drop the whole chunk index of the volume, to rebuild it from packs."""
        self._do_many(sql.FORGET_CHUNKS, [(self._key,)])

    def put_lock(self, stored: StoredLock) -> None:
        """Keep a user lock, in the place of one on the same entry."""
        row = (self._key, *lock_row(stored.lock), stored.held_s, stored.left_s)
        self._do_many(sql.PUT_LOCK, [row])

    def drop_lock(self, entry: EntryId) -> None:
        """Forget the user lock of an entry, if there is one."""
        self._do_many(sql.DROP_LOCK, [(self._key, entry)])

    def keep_token(self, token: Token) -> None:
        """Keep the last token that was given; asserts that tokens grow."""
        if token <= self.last_token():
            raise AssertionError(f"token {token} was given before")
        self._do_many(sql.KEEP_TOKEN, [(self._key, token)])

    def add_lock_break(self, record: LockBreak) -> None:
        """Add a record of a broken lock; those past the newest `LOCK_BREAKS_MAX` go."""
        self._do_many(sql.ADD_LOCK_BREAK, [(self._key, *break_row(record))])
        self._do_many(sql.FORGET_LOCK_BREAKS, [(self._key, LOCK_BREAKS_MAX)])

    def add_commit(self, commit: Commit, remembered: RememberedAnswer) -> None:
        """Add the next revision and its states; see the port for what it asserts."""
        revision = commit.revision
        if revision != self._head.revision + 1:
            raise AssertionError(f"commit {revision} does not follow {self._head.revision}")  # T1
        if any(entry.revision != revision for entry in commit.entries):
            raise AssertionError("a commit has a state of another revision")
        key, author = self._key, commit.author
        digest = commit.table_digest.to_bytes(DIGEST_BYTES, "big")
        self._do_many(sql.NAME_REPLICA, [(key, author.replica, author.name)])
        self._do_many(
            sql.ADD_COMMIT,
            [
                (
                    key,
                    revision,
                    commit.id,
                    author.replica,
                    author.name,
                    commit.op_id,
                    commit.time_ns,
                    int(commit.is_confirmed),
                    digest,
                    remembered.fingerprint,
                    encode_answer(remembered.answer),
                )
            ],
        )
        # All places are freed before one is taken: entries may swap theirs.
        self._do_many(sql.SUPERSEDE, ((key, entry.id, revision) for entry in commit.entries))
        self._do_many(
            sql.ADD_ENTRY,
            ((key, ordinal, *row_of(entry)) for ordinal, entry in enumerate(commit.entries)),
        )
        self._head = Head(revision, commit.id, commit.table_digest)

    def _do_many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        if self.failure is not None:
            raise self.failure
        self.failure = AssertionError("a call of this session was left half done")
        try:
            self._open.executemany(statement, rows)
        except sqlite3.Error as error:
            self.failure = translated(error)
            raise self.failure from error
        self.failure = None
