"""One SQLite file as a store of ours: how it is made, checked, migrated and opened.

F1  A file under its own name is always whole: it is made beside, migrated, filled, then renamed.
F2  A migration happens in one transaction together with the version that it makes, so that one
    that is killed in the middle starts again.
F3  A file of a version that is not known, or that is damaged, is not changed by a byte.
F4  Only its owner can read it, from its first byte on.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from syncline.adapters.sqlite_schema import Migration, migrate
from syncline.core.names import escape
from syncline.errors import Corrupt, InUse, LocalFailure, NoSpace, SynclineError, TooNew

_HEADER = struct.Struct(">16sH6x2I28xI4xI20xI4x")
"""Magic, page size, change counter, pages, version of ours, application, counter of `pages`."""


@dataclass(frozen=True, slots=True)
class SqliteFormat:
    """A kind of store: its versions, and what to tell people of it.

    `name` begins a sentence; `remedy` is what to do where it is damaged; `where` is whose disk.
    """

    name: str
    code: str
    where: str
    remedy: str
    application_id: int
    oldest: int
    newest: int
    migrations: Sequence[Migration]


@dataclass(frozen=True, slots=True)
class SqliteFile:
    """A file of some format at a path; nothing is open."""

    path: Path
    format: SqliteFormat

    def damaged(self, reason: str) -> Corrupt:
        """Return the error for a file that is not what it should be."""
        return Corrupt(
            f"{self.format.name} in '{self._shown}' is damaged ({reason}); {self.format.remedy}",
            what=self.format.code,
            path=self._shown,
        )

    def in_use(self) -> InUse:
        """Return the error for a file that another process holds."""
        return InUse(
            f"another process uses '{self._shown}'; end it and try again", path=self._shown
        )

    def translated(self, error: sqlite3.Error) -> SynclineError | AssertionError:
        """Return what an error of SQLite means; an AssertionError where we are wrong."""
        full_code = getattr(error, "sqlite_errorcode", None)
        if full_code is None:
            return AssertionError(f"'{self._shown}' was used wrongly: {error}")
        code = full_code & 0xFF
        if code == sqlite3.SQLITE_FULL or full_code == sqlite3.SQLITE_IOERR_SHMSIZE:
            return self._no_space()
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self.damaged(str(error))
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self.in_use()
        if code in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE):
            return AssertionError(f"'{self._shown}' refused what breaks its rules: {error}")
        return LocalFailure(
            f"'{self._shown}' cannot be read or written: {error}; look at the disk",
            path=self._shown,
            reason=getattr(error, "sqlite_errorname", "unknown"),
        )

    def translated_os(self, error: OSError) -> SynclineError:
        """Return what a failed system call on the file means."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return self._no_space()
        return LocalFailure(f"'{self._shown}' cannot be used: {error.strerror}", path=self._shown)

    def _no_space(self) -> NoSpace:
        return NoSpace(
            f"the disk of '{self._shown}' is full; nothing was changed, make room and try again",
            where=self.format.where,
            path=self._shown,
        )

    @property
    def _shown(self) -> str:
        return escape(os.fsencode(self.path))

    def prepare(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        """Make the file if there is none, else check it and bring it to the newest version.

        `fill` writes what a new file begins with. The caller keeps others away meanwhile. Raise
        TooNew or Corrupt with the file untouched; sqlite3.Error and OSError are left as they are.
        """
        if sqlite3.sqlite_version_info < (3, 37):
            raise LocalFailure(f"SQLite 3.37 or newer is needed, this is {sqlite3.sqlite_version}")
        if not self.path.exists():
            self._create(fill)
        self._check()
        connection = self.connect()
        try:
            migrate(connection, self.format.migrations)
        finally:
            connection.close()

    def connect(self) -> sqlite3.Connection:
        """Open the only connection: durable at each commit, and closed to others while it lasts."""
        connection = self._open("rw")
        try:
            # Before the log is looked at, so that its index is in memory of our own.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            assert mode == "wal", "a log needs no shared memory where the file is held by one"
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, mode: str) -> sqlite3.Connection:
        # Never mode=rwc: a store that went missing must not be replaced by an empty one.
        return sqlite3.connect(
            f"file:{quote(os.fsencode(self.path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            timeout=0,
            check_same_thread=False,
        )

    def beside(self, suffix: str) -> Path:
        """Return the path of a file that belongs to this one."""
        return self.path.with_name(self.path.name + suffix)

    def _create(self, fill: Callable[[sqlite3.Connection], None]) -> None:
        """Make a first file beside, then give it its name (F1)."""
        if self.beside("-wal").exists():
            # A new file would take the old one's log for its own.
            raise self.damaged("the file is gone, but its '-wal' is there")
        fresh = SqliteFile(self.beside(".new"), self.format)
        for suffix in ("", "-journal", "-wal", "-shm"):
            fresh.beside(suffix).unlink(missing_ok=True)
        descriptor = os.open(fresh.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        connection = fresh.connect()
        try:
            migrate(connection, self.format.migrations)
            fill(connection)
        finally:
            connection.close()
        fresh.path.rename(self.path)
        _sync_directory(self.path.parent)

    def _check(self) -> None:
        """Raise TooNew or Corrupt before anything is written (F3)."""
        with self.path.open("rb") as file:
            header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise self.damaged("it is cut short")
        magic, page_bytes, changed, pages, version, application, counted = _HEADER.unpack(header)
        if magic != b"SQLite format 3\0" or application != self.format.application_id:
            raise self.damaged("it is another file")
        self._check_known(version)
        wal = self.beside("-wal")
        has_log = wal.exists() and wal.stat().st_size > 0
        # SQLite takes a last page that is cut for a whole one. With a log it knows the size.
        is_cut = changed == counted and self.path.stat().st_size < pages * page_bytes
        if is_cut and not has_log:
            raise self.damaged("it is cut short")
        # A newer version may stand in the log alone. Reading it read-only folds nothing back.
        if has_log:
            connection = self._open("ro")
            try:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
            finally:
                connection.close()
            self._check_known(version)

    def _check_known(self, version: int) -> None:
        format = self.format
        if not format.oldest <= version <= format.newest:
            raise TooNew(
                f"{format.name} in '{self._shown}' has format {version}, this version of Syncline"
                f" reads {format.oldest} to {format.newest}; nothing was touched, use the version"
                " that wrote it",
                found=str(version),
                newest=str(format.newest),
            )


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
