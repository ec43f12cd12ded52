"""The format of the SQLite metadata store: its tables, its versions, and how a file is opened.

Several connections of one process share it; how a file is made and checked says `sqlite_making`.
"""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from syncline.adapters.sqlite_making import (
    Meaning,
    Migration,
    NotWhole,
    check,
    make,
    meaning_of,
    migrate,
    open_connection,
    require_sqlite,
)
from syncline.errors import Corrupt, InUse, LocalFailure, NoSpace, SynclineError, TooNew

APPLICATION_ID = 0x53594E43
"""`SYNC` in the header of the file, for `file` and for us."""

OLDEST_READABLE = 1
NEWEST_READABLE = 3
WRITTEN = 3

_TABLES = (
    """
    CREATE TABLE volumes (
      key INTEGER PRIMARY KEY,
      id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
      name TEXT NOT NULL UNIQUE,
      oldest INTEGER NOT NULL CHECK (oldest >= 0)
    ) STRICT
    """,
    """
    CREATE TABLE replicas (
      volume INTEGER NOT NULL REFERENCES volumes (key),
      id BLOB NOT NULL CHECK (length(id) = 16),
      name TEXT NOT NULL,
      PRIMARY KEY (volume, id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE commits (
      volume INTEGER NOT NULL REFERENCES volumes (key),
      revision INTEGER NOT NULL CHECK (revision > 0),
      id BLOB NOT NULL CHECK (length(id) = 32),
      author BLOB NOT NULL,
      author_name TEXT NOT NULL,
      op_id BLOB NOT NULL CHECK (length(op_id) = 16),
      time_ns INTEGER NOT NULL,
      is_confirmed INTEGER NOT NULL CHECK (is_confirmed IN (0, 1)),
      table_digest BLOB NOT NULL CHECK (length(table_digest) = 32),
      fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
      answer BLOB NOT NULL,
      PRIMARY KEY (volume, revision),
      UNIQUE (volume, author, op_id),
      FOREIGN KEY (volume, author) REFERENCES replicas (volume, id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE entries (
      volume INTEGER NOT NULL REFERENCES volumes (key),
      id BLOB NOT NULL CHECK (length(id) = 16),
      revision INTEGER NOT NULL CHECK (revision > 0),
      superseded_by INTEGER CHECK (superseded_by > revision),
      ordinal INTEGER NOT NULL,
      parent BLOB NOT NULL CHECK (length(parent) = 16),
      name BLOB NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
      kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 3),
      mode INTEGER NOT NULL,
      mtime_ns INTEGER NOT NULL,
      size INTEGER NOT NULL,
      digest BLOB,
      manifest BLOB,
      target BLOB,
      is_live INTEGER NOT NULL CHECK (is_live IN (0, 1)),
      PRIMARY KEY (volume, id, revision)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE UNIQUE INDEX placed ON entries (volume, parent, name)
    WHERE is_live = 1 AND superseded_by IS NULL
    """,
    """
    CREATE UNIQUE INDEX was_placed ON entries (volume, parent, name, revision, superseded_by)
    WHERE is_live = 1 AND superseded_by IS NOT NULL
    """,
    "CREATE UNIQUE INDEX committed ON entries (volume, revision, ordinal)",
    """
    CREATE TABLE chunks (
      volume INTEGER NOT NULL REFERENCES volumes (key),
      digest BLOB NOT NULL CHECK (length(digest) = 32),
      pack INTEGER NOT NULL,
      start INTEGER NOT NULL CHECK (start >= 0),
      size INTEGER NOT NULL CHECK (size > 0),
      is_damaged INTEGER NOT NULL DEFAULT 0 CHECK (is_damaged IN (0, 1)),
      PRIMARY KEY (volume, digest)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX packed ON chunks (volume, pack, start)",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

_DAMAGED = ("CREATE INDEX damaged ON chunks (volume, digest) WHERE is_damaged = 1",)

_LOCKS = (
    """
    CREATE TABLE locks (
      volume INTEGER NOT NULL REFERENCES volumes (key),
      entry BLOB NOT NULL CHECK (length(entry) = 16),
      token INTEGER NOT NULL CHECK (token > 0),
      replica BLOB NOT NULL CHECK (length(replica) = 16),
      name TEXT NOT NULL,
      host TEXT NOT NULL,
      session BLOB NOT NULL CHECK (length(session) = 16),
      reason TEXT NOT NULL,
      lease_s REAL NOT NULL,
      ttl_s REAL NOT NULL,
      granted_ns INTEGER NOT NULL,
      held_s REAL NOT NULL,
      left_s REAL NOT NULL,
      PRIMARY KEY (volume, entry)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE lock_tokens (
      volume INTEGER PRIMARY KEY REFERENCES volumes (key),
      last INTEGER NOT NULL CHECK (last > 0)
    ) STRICT
    """,
    """
    CREATE TABLE lock_breaks (
      number INTEGER PRIMARY KEY AUTOINCREMENT,
      volume INTEGER NOT NULL REFERENCES volumes (key),
      time_ns INTEGER NOT NULL,
      by_replica BLOB NOT NULL CHECK (length(by_replica) = 16),
      by_name TEXT NOT NULL,
      by_host TEXT NOT NULL,
      path BLOB NOT NULL,
      entry BLOB NOT NULL CHECK (length(entry) = 16),
      token INTEGER NOT NULL,
      replica BLOB NOT NULL CHECK (length(replica) = 16),
      name TEXT NOT NULL,
      host TEXT NOT NULL,
      session BLOB NOT NULL CHECK (length(session) = 16),
      reason TEXT NOT NULL,
      lease_s REAL NOT NULL,
      ttl_s REAL NOT NULL,
      granted_ns INTEGER NOT NULL,
      held_s REAL NOT NULL
    ) STRICT
    """,
    "CREATE INDEX broken ON lock_breaks (volume, number)",
)

MIGRATIONS: tuple[Migration, ...] = ((1, _TABLES), (2, _DAMAGED), (3, _LOCKS))

BUSY_TIMEOUT_S = 10.0
"""Nobody else should have the file open; a backup by hand may, and must not make us hang."""


def translated(error: sqlite3.Error) -> SynclineError | AssertionError:
    """Return what an error of SQLite means to the inside; an AssertionError where we are wrong."""
    match meaning_of(error):
        case Meaning.NO_SPACE:
            return NoSpace(
                "the server's disk is full; nothing was changed, make room and try again",
                where="server",
            )
        case Meaning.DAMAGED:
            return damaged(str(error))
        case Meaning.IN_USE:
            return InUse("another process holds the metadata store; end it and try again")
        case Meaning.OUR_FAULT:
            return AssertionError(f"the metadata store refused what breaks its rules: {error}")
        case Meaning.LOCAL_FAILURE:
            return LocalFailure(
                f"the metadata store cannot be read or written: {error}; look at the server's disk",
                reason=getattr(error, "sqlite_errorname", "unknown"),
            )


def translated_os(error: OSError, path: Path) -> SynclineError:
    """Return what a failed system call on the store's own files means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the server's disk is full; make room and try again", where="server")
    return LocalFailure(f"'{path}' cannot be used: {error.strerror}", path=str(path))


def damaged(reason: str) -> Corrupt:
    """Return the error for a file that is not what it should be."""
    return Corrupt(
        f"the metadata store is damaged ({reason}); stop the server and restore it from a backup",
        what="metadata",
    )


def connect(path: Path) -> sqlite3.Connection:
    """Open one connection to a store that is there, with the settings that all of them share."""
    connection = open_connection(path, "rw", BUSY_TIMEOUT_S)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def prepare(path: Path) -> None:
    """Make the store's file if there is none, else check it and bring it to the written version.

    Raise TooNew for an unknown version and Corrupt for what is no whole store (both untouched),
    NoSpace or LocalFailure where the file cannot be made.
    """
    require_sqlite()
    try:
        if not path.exists():
            make(path, _bring_up)
        check(path, APPLICATION_ID, _check_known)
        _bring_up(path)
    except NotWhole as error:
        raise damaged(f"'{path}': {error}") from error
    except sqlite3.Error as error:
        raise translated(error) from error
    except OSError as error:
        raise translated_os(error, path) from error


def _bring_up(path: Path) -> None:
    """Bring a file to the newest version."""
    connection = connect(path)
    try:
        migrate(connection, MIGRATIONS)
        _use_wal(connection)
    finally:
        connection.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LocalFailure("the file system of the metadata store cannot share memory (WAL)")


def _check_known(version: int) -> None:
    if not OLDEST_READABLE <= version <= NEWEST_READABLE:
        raise TooNew(
            f"the metadata store has format {version}, this version of Syncline reads"
            f" {OLDEST_READABLE} to {NEWEST_READABLE}; nothing was touched,"
            " use the version that wrote it",
            found=str(version),
            newest=str(NEWEST_READABLE),
        )
