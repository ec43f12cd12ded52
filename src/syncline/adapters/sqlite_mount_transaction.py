"""The statements of one session of the mount state, all or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import TypeVar

from syncline.adapters.sqlite_files import SqliteFile
from syncline.adapters.sqlite_mount_rows import GARBLED

R = TypeVar("R")
T = TypeVar("T")


class Transaction:
    """What a session reads and writes by.

    SQLite may have rolled back on its own after an error, and would then write without a
    transaction: nothing is done past the first error, and its session cannot become durable.
    """

    def __init__(self, connection: sqlite3.Connection, file: SqliteFile) -> None:
        self._connection = connection
        self._file = file
        self._is_over = False
        self.failure: Exception | None = None

    def begin(self) -> None:
        """Begin the transaction."""
        self.do("BEGIN")

    def commit(self) -> None:
        """Make what was done durable."""
        self.do("COMMIT")

    def end(self) -> None:
        """Undo what was not committed, and make every later call fail; may be called twice."""
        if self._is_over:
            return
        self._is_over = True
        self.failure = AssertionError("the session is over")
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._file.translated(error) from error

    def rows(self, decode: Callable[[R], T], statement: str, *parameters: object) -> list[T]:
        """Return what the rows of a statement stand for."""
        self.check()
        try:
            rows = self._connection.execute(statement, parameters).fetchall()
            return [decode(row) for row in rows]
        except sqlite3.Error as error:
            raise self._failed(self._file.translated(error)) from error
        except GARBLED as error:
            raise self._failed(self._garbled(error)) from error

    def row(self, decode: Callable[[R], T], statement: str, *parameters: object) -> T | None:
        """Return what the first row of a statement stands for; None where there is none."""
        self.check()
        try:
            row = self._connection.execute(statement, parameters).fetchone()
            return None if row is None else decode(row)
        except sqlite3.Error as error:
            raise self._failed(self._file.translated(error)) from error
        except GARBLED as error:
            raise self._failed(self._garbled(error)) from error

    def decoded(self, decode: Callable[[R], T], row: R) -> T:
        """Return what a row stands for."""
        try:
            return decode(row)
        except GARBLED as error:
            raise self._failed(self._garbled(error)) from error

    def do(self, statement: str, *parameters: object) -> None:
        """Carry out a statement."""
        self.check()
        try:
            self._connection.execute(statement, parameters)
        except sqlite3.Error as error:
            raise self._failed(self._file.translated(error)) from error

    def do_many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Carry out a statement once for each row of parameters."""
        self.check()
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._failed(self._file.translated(error)) from error

    def check(self) -> None:
        """Raise what went wrong before, or that the session is over."""
        if self.failure is not None:
            raise self.failure

    def _failed(self, failure: Exception) -> Exception:
        self.failure = failure
        return failure

    def _garbled(self, error: Exception) -> Exception:
        return self._file.damaged(f"a row is garbled: {error}")
