"""User locks and the records of broken ones as rows of the metadata store."""

from __future__ import annotations

from syncline.core.changes import Author, Token
from syncline.core.identity import EntryId, ReplicaId
from syncline.core.user_locks import Owner, SessionId, UserLock
from syncline.ports.metadata import LockBreak, StoredLock

LockRow = tuple[bytes, int, bytes, str, str, bytes, str, float, float, int]
StoredRow = tuple[bytes, int, bytes, str, str, bytes, str, float, float, int, float, float]
BreakRow = tuple[
    int,
    bytes,
    str,
    str,
    bytes,
    float,
    bytes,
    int,
    bytes,
    str,
    str,
    bytes,
    str,
    float,
    float,
    int,
]


def lock_row(lock: UserLock) -> LockRow:
    """Return a lock as its columns; the ticket it was granted by is not kept."""
    owner = lock.owner
    return (
        lock.entry,
        lock.token,
        owner.author.replica,
        owner.author.name,
        owner.host,
        owner.session,
        lock.reason,
        lock.lease_s,
        lock.ttl_s,
        lock.granted_ns,
    )


def lock_of(row: LockRow) -> UserLock:
    """Return the lock of some columns."""
    entry, token, replica, name, host, session, reason, lease_s, ttl_s, granted_ns = row
    owner = Owner(Author(ReplicaId(replica), name), host, SessionId(session))
    return UserLock(EntryId(entry), Token(token), owner, reason, lease_s, ttl_s, granted_ns)


def stored_lock_of(row: StoredRow) -> StoredLock:
    """Return a lock with its times."""
    return StoredLock(lock_of(row[:10]), row[10], row[11])


def break_row(record: LockBreak) -> BreakRow:
    """Return the record of a broken lock as its columns."""
    by = record.by
    start = (record.time_ns, by.replica, by.name, record.by_host, record.path, record.held_s)
    return (*start, *lock_row(record.lock))


def break_of(row: BreakRow) -> LockBreak:
    """Return the record of some columns."""
    time_ns, replica, name, host, path, held_s = row[:6]
    by = Author(ReplicaId(replica), name)
    return LockBreak(time_ns, by, host, path, lock_of(row[6:]), held_s)
