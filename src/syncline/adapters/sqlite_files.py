"""One SQLite file as a store of ours that one process has to itself; see `sqlite_making`."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from syncline.adapters.sqlite_making import (
    Meaning,
    Migration,
    NotWhole,
    beside,
    check,
    make,
    meaning_of,
    migrate,
    open_connection,
    require_sqlite,
)
from syncline.core.names import escape
from syncline.errors import Corrupt, InUse, LocalFailure, NoSpace, SynclineError, TooNew


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
        match meaning_of(error):
            case Meaning.NO_SPACE:
                return self._no_space()
            case Meaning.DAMAGED:
                return self.damaged(str(error))
            case Meaning.IN_USE:
                return self.in_use()
            case Meaning.OUR_FAULT:
                return AssertionError(f"'{self._shown}' refused what breaks its rules: {error}")
            case Meaning.LOCAL_FAILURE:
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
        require_sqlite()
        try:
            if not self.path.exists():
                make(self.path, lambda fresh: SqliteFile(fresh, self.format)._bring_up(fill))
            check(self.path, self.format.application_id, self._check_known)
        except NotWhole as error:
            raise self.damaged(str(error)) from error
        self._bring_up(None)

    def _bring_up(self, fill: Callable[[sqlite3.Connection], None] | None) -> None:
        """Bring the file to the newest version; `fill` writes what a new one begins with."""
        connection = self.connect()
        try:
            migrate(connection, self.format.migrations)
            if fill is not None:
                fill(connection)
        finally:
            connection.close()

    def connect(self) -> sqlite3.Connection:
        """Open the only connection: durable at each commit, and closed to others while it lasts."""
        connection = open_connection(self.path, "rw", 0)
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

    def beside(self, suffix: str) -> Path:
        """Return the path of a file that belongs to this one."""
        return beside(self.path, suffix)

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
