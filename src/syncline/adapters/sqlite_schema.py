"""The format of the SQLite metadata store: its tables, its versions, and how a file is opened.

F1  A file under its own name is always whole: it is made beside, migrated, and then renamed.
F2  A migration happens in one transaction together with the version that it makes, so that one
    that is killed in the middle starts again.
F3  A file of a version that is not known here is not changed by a byte.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from syncline.errors import Corrupt, InUse, LocalFailure, NoSpace, SynclineError, TooNew

APPLICATION_ID = 0x53594E43
"""`SYNC` in the header of the file, for `file` and for us."""

OLDEST_READABLE = 1
NEWEST_READABLE = 2
WRITTEN = 2

Migration = tuple[int, Sequence[str]]
"""The version that a migration makes, and its statements."""

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

MIGRATIONS: tuple[Migration, ...] = ((1, _TABLES), (2, _DAMAGED))

BUSY_TIMEOUT_S = 10.0
"""Nobody else should have the file open; a backup by hand may, and must not make us hang."""


def translated(error: sqlite3.Error) -> SynclineError | AssertionError:
    """Return what an error of SQLite means to the inside; an AssertionError where we are wrong."""
    full_code = getattr(error, "sqlite_errorcode", None)
    if full_code is None:
        return AssertionError(f"the metadata store was used wrongly: {error}")
    code = full_code & 0xFF
    if code == sqlite3.SQLITE_FULL or full_code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return NoSpace(
            "the server's disk is full; nothing was changed, make room and try again",
            where="server",
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return InUse("another process holds the metadata store; end it and try again")
    if code in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE):
        return AssertionError(f"the metadata store refused what breaks its rules: {error}")
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
    connection = _open(path, "rw")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _open(path: Path, mode: str) -> sqlite3.Connection:
    # Never mode=rwc: a store that went missing must not be replaced by an empty one.
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
        check_same_thread=False,
    )


def prepare(path: Path) -> None:
    """Make the store's file if there is none, else check it and bring it to the written version.

    Raise TooNew for an unknown version and Corrupt for what is no whole store (both untouched),
    NoSpace or LocalFailure where the file cannot be made.
    """
    if sqlite3.sqlite_version_info < (3, 37):
        raise LocalFailure(f"SQLite 3.37 or newer is needed, this is {sqlite3.sqlite_version}")
    try:
        if not path.exists():
            _create(path)
        _check_version(path)
        connection = connect(path)
        try:
            migrate(connection, MIGRATIONS)
            _use_wal(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise translated(error) from error
    except OSError as error:
        raise translated_os(error, path) from error


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Carry out the migrations past the file's version, each in one transaction (F2)."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for made, statements in migrations:
        if made <= version:
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {made}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _create(path: Path) -> None:
    """Make an empty store beside, then give it its name (F1)."""
    if _beside(path, "-wal").exists():
        # A new file would take the old one's log for its own.
        raise damaged(f"'{path}' is gone, but its '-wal' is there")
    fresh = _beside(path, ".new")
    for name in (fresh, _beside(fresh, "-journal"), _beside(fresh, "-wal"), _beside(fresh, "-shm")):
        name.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    connection = connect(fresh)
    try:
        migrate(connection, MIGRATIONS)
        _use_wal(connection)
    finally:
        connection.close()
    fresh.rename(path)
    _sync_directory(path.parent)


def _use_wal(connection: sqlite3.Connection) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise LocalFailure("the file system of the metadata store cannot share memory (WAL)")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_HEADER = struct.Struct(">16sH6x2I28xI4xI20xI4x")
"""Magic, page size, change counter, pages, version of ours, application, counter of `pages`."""


def _check_version(path: Path) -> None:
    """Raise TooNew or Corrupt before anything is written (F3)."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise damaged(f"'{path}' is cut short")
    magic, page_bytes, changed, pages, version, application_id, counted = _HEADER.unpack(header)
    if magic != b"SQLite format 3\0" or application_id != APPLICATION_ID:
        raise damaged(f"'{path}' is not a metadata store")
    _check_known(version)
    wal = _beside(path, "-wal")
    has_log = wal.exists() and wal.stat().st_size > 0
    # SQLite takes a last page that is cut for a whole one. With a log, it knows the size better.
    is_cut = changed == counted and path.stat().st_size < pages * page_bytes
    if is_cut and not has_log:
        raise damaged(f"'{path}' is cut short")
    # A newer version may still stand in the log alone. Reading it read-only folds nothing back.
    if has_log:
        connection = _open(path, "ro")
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        finally:
            connection.close()
        _check_known(version)


def _check_known(version: int) -> None:
    if not OLDEST_READABLE <= version <= NEWEST_READABLE:
        raise TooNew(
            f"the metadata store has format {version}, this version of Syncline reads"
            f" {OLDEST_READABLE} to {NEWEST_READABLE}; nothing was touched,"
            " use the version that wrote it",
            found=str(version),
            newest=str(NEWEST_READABLE),
        )
