"""What every SQLite file of ours shares: how it is made, migrated, checked and opened.

F1  A file under its own name is always whole: it is made beside, migrated, filled, then renamed.
F2  A migration happens in one transaction together with the version that it makes, so that one
    that is killed in the middle starts again.
F3  A file of a version that is not known, or that is damaged, is not changed by a byte.
F4  Only its owner can read it, from its first byte on.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

from syncline.errors import LocalFailure

Migration = tuple[int, Sequence[str]]
"""The version that a migration makes, and its statements."""

_HEADER = struct.Struct(">16sH6x2I28xI4xI20xI4x")
"""Magic, page size, change counter, pages, version of ours, application, counter of `pages`."""


class NotWhole(Exception):
    """The file is not what it should be; the message says why, for the middle of a sentence."""


class Meaning(Enum):
    """What an error of SQLite means."""

    NO_SPACE = auto()
    DAMAGED = auto()
    IN_USE = auto()
    OUR_FAULT = auto()
    LOCAL_FAILURE = auto()


def meaning_of(error: sqlite3.Error) -> Meaning:
    """Return what an error of SQLite means."""
    full_code = getattr(error, "sqlite_errorcode", None)
    if full_code is None:
        return Meaning.OUR_FAULT
    code = full_code & 0xFF
    if code == sqlite3.SQLITE_FULL or full_code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return Meaning.NO_SPACE
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Meaning.DAMAGED
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Meaning.IN_USE
    if code in (sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE):
        return Meaning.OUR_FAULT
    return Meaning.LOCAL_FAILURE


def require_sqlite() -> None:
    """Raise LocalFailure where the library is too old."""
    if sqlite3.sqlite_version_info < (3, 37):
        raise LocalFailure(f"SQLite 3.37 or newer is needed, this is {sqlite3.sqlite_version}")


def open_connection(path: Path, mode: str, timeout_s: float) -> sqlite3.Connection:
    """Open a file that is there, read-only (`ro`) or to write (`rw`), for any thread.

    Never mode=rwc: a store that went missing must not be replaced by an empty one.
    """
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=timeout_s,
        check_same_thread=False,
    )


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


def make(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a file beside, let `fill` write all that is in it, and give it its name (F1, F4).

    Raises NotWhole, OSError, and what `fill` raises.
    """
    if beside(path, "-wal").exists():
        # A new file would take the old one's log for its own.
        raise NotWhole("the file is gone, but its '-wal' is there")
    fresh = beside(path, ".new")
    for suffix in ("", "-journal", "-wal", "-shm"):
        beside(fresh, suffix).unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    fill(fresh)
    fresh.rename(path)
    _sync_directory(path.parent)


def check(path: Path, application_id: int, check_known: Callable[[int], None]) -> None:
    """Look at a file before anything is written (F3); raise NotWhole, OSError and sqlite3.Error.

    `check_known` is told each version that the file may have, and raises where it is not known.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise NotWhole("it is cut short")
    magic, page_bytes, changed, pages, version, application, counted = _HEADER.unpack(header)
    if magic != b"SQLite format 3\0" or application != application_id:
        raise NotWhole("it is another file")
    check_known(version)
    wal = beside(path, "-wal")
    has_log = wal.exists() and wal.stat().st_size > 0
    # SQLite takes a last page that is cut for a whole one. With a log it knows the size better.
    is_cut = changed == counted and path.stat().st_size < pages * page_bytes
    if is_cut and not has_log:
        raise NotWhole("it is cut short")
    # A newer version may stand in the log alone. Reading it read-only folds nothing back.
    if has_log:
        connection = open_connection(path, "ro", 0)
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
        finally:
            connection.close()
        check_known(version)


def beside(path: Path, suffix: str) -> Path:
    """Return the path of a file that belongs to another one."""
    return path.with_name(path.name + suffix)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
