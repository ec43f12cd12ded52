"""User locks in a few words: who asks for what."""

from __future__ import annotations

from syncline.core.changes import Author
from syncline.core.identity import ReplicaId
from syncline.core.user_locks import LockRequest, Owner, SessionId, Ticket
from tests.support.trees import id_of


def replica(name: str) -> ReplicaId:
    """Return the replica of a person, always the same."""
    return ReplicaId(name.encode().ljust(16, b"."))


def author(name: str) -> Author:
    """Return a person as an author."""
    return Author(replica(name), name)


def owner(name: str, session: int = 0) -> Owner:
    """Return a session of a person."""
    return Owner(author(name), f"{name}-host", SessionId(bytes([session]) * 16))


def request(ticket: int, who: Owner, *labels: str, ttl_s: float = 600.0) -> LockRequest:
    """Return what somebody asks for; labels are those of `tests.support.trees`."""
    return LockRequest(Ticket(ticket), who, tuple(map(id_of, labels)), "a reason", 0.0, ttl_s)
