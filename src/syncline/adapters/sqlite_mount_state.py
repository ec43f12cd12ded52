"""The mount state in one SQLite file, held by one process and used from one thread at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from syncline.adapters import sqlite_mount_queries as sql
from syncline.adapters.sqlite_files import SqliteFile
from syncline.adapters.sqlite_mount_notes import MountNotes
from syncline.adapters.sqlite_mount_rows import FactsRow, facts_of, facts_row
from syncline.adapters.sqlite_mount_schema import FORMAT
from syncline.adapters.sqlite_mount_transaction import Transaction
from syncline.adapters.sqlite_mount_trees import Counts, MountTrees, Records
from syncline.ports.mount_state import MountFacts

CACHE_KIB = 8 * 1024
WAL_BYTES_KEPT = 16 * 1024 * 1024
"""The log's file is cut back to this after a burst that made it longer."""

LOCK_SUFFIX = "-lock"


class SqliteMountSession(MountNotes, MountTrees):
    """One transaction; see `syncline.ports.mount_state` for the contract."""

    def __init__(
        self, transaction: Transaction, facts: MountFacts, counts: Counts, known: Records
    ) -> None:
        super().__init__(transaction, counts, known)
        self._facts = facts

    def facts(self) -> MountFacts:
        """Return what the mount knows of itself."""
        self._db.check()
        return self._facts

    def set_facts(self, facts: MountFacts) -> None:
        """Know this of the mount from now on."""
        self._db.do(sql.SET_FACTS, *facts_row(facts))
        self._facts = facts


class SqliteMountState:
    """The store of one mount; see `syncline.ports.mount_state` for the contract."""

    def __init__(self, file: SqliteFile, connection: sqlite3.Connection, lock: int) -> None:
        """Take over what `open` has opened."""
        self._file = file
        self._connection: sqlite3.Connection | None = connection
        self._lock = lock
        self._transaction: Transaction | None = None
        # Sessions share what was read: nobody else can change the tables while the lock is held.
        self._known: Records = {}
        found = Transaction(connection, file).row(_facts_and_counts, sql.FACTS)
        if found is None:
            raise file.damaged("it has no facts")
        self._facts, self._counts = found

    @classmethod
    def open(cls, path: Path, facts_if_new: MountFacts) -> SqliteMountState:
        """Open the store, or make it where there is none; its directory must be there.

        Raise InUse where another process, or another object of this one, has it; TooNew or Corrupt
        with the file untouched; NoSpace or LocalFailure.
        """
        file = SqliteFile(path, FORMAT)
        try:
            lock = _locked(file)
            try:
                return cls._open_locked(file, facts_if_new, lock)
            except BaseException:
                os.close(lock)
                raise
        except sqlite3.Error as error:
            raise file.translated(error) from error
        except OSError as error:
            raise file.translated_os(error) from error

    @classmethod
    def _open_locked(
        cls, file: SqliteFile, facts_if_new: MountFacts, lock: int
    ) -> SqliteMountState:
        def fill(connection: sqlite3.Connection) -> None:
            connection.execute(sql.ADD_FACTS, facts_row(facts_if_new))

        file.prepare(fill)
        connection = file.connect()
        try:
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
            return cls(file, connection, lock)
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def session(self) -> Iterator[SqliteMountSession]:
        """Open a session; what it did has not happened when the block is left with an error."""
        connection = self._connection
        if connection is None:
            raise AssertionError("the mount's state is closed")
        if self._transaction is not None:
            raise AssertionError("one session is open at a time")
        transaction = self._transaction = Transaction(connection, self._file)
        try:
            transaction.begin()
            session = SqliteMountSession(transaction, self._facts, self._counts, self._known)
            yield session
            session.write()
            counts, facts = session.counts(), session.facts()
            if counts != self._counts:
                transaction.do(sql.SET_COUNTS, counts.base, counts.dirty)
            transaction.commit()
            self._counts, self._facts = counts, facts
        except BaseException:
            # What it set, and what it read after it had written that, has not happened.
            self._known.clear()
            raise
        finally:
            self._transaction = None
            transaction.end()

    def rest(self) -> None:
        """Hold nothing in memory that the file has as well; between sessions alone."""
        assert self._transaction is None, "a session is open"
        self._known.clear()
        if self._connection is not None:
            self._connection.execute("PRAGMA shrink_memory").close()

    def close(self) -> None:
        """Let go of files; a session that is open is rolled back."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if self._transaction is not None:
                self._transaction.end()
            connection.close()
        except sqlite3.Error as error:
            raise self._file.translated(error) from error
        finally:
            os.close(self._lock)


def _facts_and_counts(row: tuple[*FactsRow, int, int]) -> tuple[MountFacts, Counts]:
    return facts_of(row[:-2]), Counts(*row[-2:])


def _locked(file: SqliteFile) -> int:
    """Return the descriptor of the held lock file; the kernel lets go of it with the process.

    A file beside, because SQLite's own locks are lost when the process closes any descriptor of the
    store, and come too late for two that make one.
    """
    fd = os.open(file.beside(LOCK_SUFFIX), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(fd, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise file.in_use() from error
    except OSError:
        os.close(fd)
        raise
    return fd
