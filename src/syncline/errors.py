"""Every error that Syncline raises on purpose, each with a stable code.

What is expected (stale, locked, a taken name, a missing chunk) is a value inside the program, see
`syncline.core.changes.Refusal`; it becomes one of these errors only where a caller asked for a
single thing and did not get it. A broken invariant of ours is an `AssertionError`.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Retry(Enum):
    """What a caller may do about an error."""

    NEVER = "never"
    BACKOFF = "backoff"
    AFTER_USER = "after_user"


class SynclineError(Exception):
    """Base of all; `fields` are facts for machines (text only), the message is for people."""

    code: ClassVar[str] = "internal"
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, message: str, **fields: str) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class Internal(SynclineError):
    """The other side failed in a way that it did not foresee."""


class Invalid(SynclineError):
    """An argument breaks a rule of the protocol or of the command line."""

    code = "invalid"
    retry = Retry.AFTER_USER


class Unavailable(SynclineError):
    """The server cannot be reached, or went away in the middle."""

    code = "unavailable"
    retry = Retry.BACKOFF


class TimedOut(SynclineError):
    """The deadline passed, or a transfer made no progress for that long."""

    code = "timed_out"
    retry = Retry.BACKOFF


class Throttled(SynclineError):
    """A limit of the server on streams, requests or waiting work was reached."""

    code = "throttled"
    retry = Retry.BACKOFF


class TooLarge(SynclineError):
    """One message, commit or content is over a stated limit."""

    code = "too_large"
    retry = Retry.AFTER_USER


class Denied(SynclineError):
    """The caller is known and may not do this."""

    code = "denied"
    retry = Retry.AFTER_USER


class NotSignedIn(SynclineError):
    """The caller did not say who it is."""

    code = "not_signed_in"
    retry = Retry.AFTER_USER


class NoSpace(SynclineError):
    """A disk or a quota is full; `fields["where"]` says whose."""

    code = "no_space"
    retry = Retry.AFTER_USER


class NotFound(SynclineError):
    """There is no such volume, path, entry, revision or chunk."""

    code = "not_found"
    retry = Retry.AFTER_USER


class Exists(SynclineError):
    """Something stands where a new thing was to be put."""

    code = "exists"
    retry = Retry.AFTER_USER


class NotEmpty(SynclineError):
    """A directory that was to be deleted still has live children."""

    code = "not_empty"
    retry = Retry.AFTER_USER


class Stale(SynclineError):
    """A change named a base that is not the newest revision of its entry."""

    code = "stale"
    retry = Retry.AFTER_USER


class Locked(SynclineError):
    """Another writer holds a lock on the entry or the name."""

    code = "locked"
    retry = Retry.BACKOFF


class LockLost(SynclineError):
    """A lock that the caller said to hold is over, or was never his."""

    code = "lock_lost"
    retry = Retry.AFTER_USER


class CursorExpired(SynclineError):
    """A watcher's cursor is not in the history of this server any more."""

    code = "cursor_expired"
    retry = Retry.AFTER_USER


class ProtocolBroken(SynclineError):
    """The other side did what the protocol does not allow."""

    code = "protocol"


class Corrupt(SynclineError):
    """Stored or received bytes do not match their digest."""

    code = "corrupt"
    retry = Retry.AFTER_USER


class TooNew(SynclineError):
    """The other side, or the data on disk, is of a version this one does not know."""

    code = "too_new"
    retry = Retry.AFTER_USER


class InUse(SynclineError):
    """Another process holds what must be held by one alone."""

    code = "in_use"
    retry = Retry.AFTER_USER


class LocalFailure(SynclineError):
    """The local file system refused: no permission, unreadable, busy, not a regular file."""

    code = "local_failure"
    retry = Retry.AFTER_USER


class Partial(SynclineError):
    """Some paths of one command succeeded and some failed."""

    code = "partial"
    retry = Retry.AFTER_USER


def all_errors() -> list[type[SynclineError]]:
    """Return each concrete error class, for tables that must be complete."""
    return list(SynclineError.__subclasses__())
