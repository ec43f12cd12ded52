"""The metadata store in one SQLite file: the default of a server.

One connection writes, behind a lock. Each read session has a connection of its own for as long as
it is open, and is one read transaction on it; a few connections are kept for the next sessions.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from syncline.adapters import sqlite_queries as sql
from syncline.adapters.sqlite_schema import connect, prepare
from syncline.adapters.sqlite_sessions import LOCATED_ROWS, Reader, Writer, translating
from syncline.core.identity import NO_REVISION, Digest, Revision, VolumeId
from syncline.errors import Corrupt, Exists
from syncline.ports.chunks import Location
from syncline.ports.metadata import Volume

READERS_IDLE_MAX = 4
"""Connections kept between read sessions; how many are open is bounded by the callers' threads."""

READER_CACHE_KIB = 4 * 1024
WRITER_CACHE_KIB = 16 * 1024
WAL_BYTES_KEPT = 64 * 1024 * 1024
"""The log's file is cut back to this after a burst that made it longer."""


class SqliteMetadataStore:
    """All volumes of one server in one file; see `syncline.ports.metadata` for the contract."""

    @translating
    def __init__(self, path: Path) -> None:
        """Open the store, or make it where there is none; its directory must be there.

        Raise TooNew or Corrupt with the file untouched, NoSpace or LocalFailure.
        """
        self._path = path
        prepare(self._path)
        self._write_lock = threading.Lock()
        self._pool_lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._is_closed = False
        self._writer = connect(self._path)
        self._writer.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        self._writer.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")

    # -- volumes ---------------------------------------------------------------

    @translating
    def volumes(self) -> Sequence[Volume]:
        """Return all volumes in order of name."""
        with self._reading() as connection:
            rows = connection.execute(sql.VOLUMES).fetchall()
        return [Volume(VolumeId(id), name, Revision(oldest)) for id, name, oldest in rows]

    @translating
    def create_volume(self, id: VolumeId, name: str) -> Volume:
        """Make an empty volume, durable on return; raise Exists for a name or an id in use."""
        with self._writing() as connection:
            if connection.execute(sql.VOLUME_TAKEN, (id, name)).fetchone() is not None:
                raise Exists(f"there is a volume '{name}' already", volume=name)
            connection.execute(sql.ADD_VOLUME, (id, name))
        return Volume(id, name, NO_REVISION)

    # -- sessions --------------------------------------------------------------

    @contextmanager
    def read(self, volume: VolumeId, at: Revision | None = None) -> Iterator[Reader]:
        """Open a read session; raise NotFound for a volume or a revision that is not there."""
        with self._reading() as connection:
            reader = Reader(connection, volume, at)
            try:
                yield reader
            finally:
                reader.end()

    @contextmanager
    def write(self, volume: VolumeId) -> Iterator[Writer]:
        """Open the write session; raise NotFound for a volume that is not there."""
        with self._writing() as connection:
            writer = Writer(connection, volume)
            try:
                yield writer
            finally:
                writer.end()
            if writer.failure is not None:
                # Part of a call may have been done: the session must not become durable.
                raise writer.failure

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._take()
        try:
            _run(connection, "BEGIN")
            yield connection
        finally:
            self._give(connection)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            connection = self._writer
            _run(connection, "BEGIN IMMEDIATE")
            try:
                yield connection
                _run(connection, "COMMIT")
            except BaseException:
                # SQLite itself has rolled back after some errors, a full disk among them.
                if connection.in_transaction:
                    _run(connection, "ROLLBACK")
                raise

    @translating
    def _take(self) -> sqlite3.Connection:
        with self._pool_lock:
            if self._is_closed:
                raise AssertionError("the metadata store is closed")
            if self._idle:
                return self._idle.pop()
        connection = connect(self._path)
        connection.execute("PRAGMA query_only = ON")
        connection.execute(f"PRAGMA cache_size = -{READER_CACHE_KIB}")
        return connection

    @translating
    def _give(self, connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
        with self._pool_lock:
            if not self._is_closed and len(self._idle) < READERS_IDLE_MAX:
                self._idle.append(connection)
                return
        connection.close()

    # -- the rest --------------------------------------------------------------

    def located(self, volume: VolumeId, pack: int) -> Iterator[tuple[Digest, Location]]:
        """Yield the index of one pack in order of offset, marked-damaged chunks too."""
        start = -1
        while True:
            # No transaction stays open while the caller reads the pack.
            with self.read(volume) as reader:
                rows = reader.located_after(pack, start)
            for digest, offset, size in rows:
                yield Digest(digest), Location(pack, offset, size)
                start = offset
            if len(rows) < LOCATED_ROWS:
                return

    def integrity_lines(self) -> Sequence[str]:
        """Return what SQLite itself finds wrong with the file; reads all of it."""
        try:
            return self._integrity_lines()
        except Corrupt as error:
            # So damaged that the check itself cannot go on.
            return [error.message]

    @translating
    def _integrity_lines(self) -> Sequence[str]:
        with self._reading() as connection:
            rows = connection.execute("PRAGMA integrity_check").fetchall()
            orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
        return [
            *(line for (line,) in rows if line != "ok"),
            *(f"a row of {table} has no row of {parent}" for table, _, parent, _ in orphans),
        ]

    def close(self) -> None:
        """Let go of files and connections; no session may be open."""
        with self._write_lock, self._pool_lock:
            self._is_closed = True
            while self._idle:
                self._idle.pop().close()
            # Last, so that it is this one that folds the log back into the file.
            self._writer.close()


@translating
def _run(connection: sqlite3.Connection, statement: str) -> None:
    connection.execute(statement)
