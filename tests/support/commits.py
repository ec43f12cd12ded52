"""Commits as a server makes them: decided on the session, chained, with their answer."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.core.changes import Answer, Author, Change, fingerprint
from syncline.core.commits import Decision, decide
from syncline.core.identity import OpId, ReplicaId, Revision, VolumeId, digest_of
from syncline.core.table import Commit, advance_digest, commit_id
from syncline.ports.metadata import RememberedAnswer, WriteSession

AUTHOR = Author(ReplicaId(b"R" * 16), "ann's laptop")


def volume_id(label: str) -> VolumeId:
    """Return the volume id that a label stands for, always the same."""
    return VolumeId(digest_of(label.encode())[:16])


def op_id(number: int) -> OpId:
    """Return the op id with a number."""
    return OpId(number.to_bytes(16, "big"))


def build_commit(
    session: WriteSession, changes: Sequence[Change], author: Author = AUTHOR, op: int | None = None
) -> tuple[Commit, RememberedAnswer, Decision]:
    """Decide changes at the head; the op id is the revision unless given."""
    head = session.head()
    revision = Revision(head.revision + 1)
    decision = decide(session, changes, revision)
    id = op_id(revision if op is None else op)
    # Not monotonic, on purpose: no adapter may take time for order.
    time_ns = -revision if revision % 3 else revision * 10**9
    is_confirmed = revision % 2 == 0
    entries = decision.entries
    commit = Commit(
        revision,
        commit_id(head.commit_id, revision, author, id, time_ns, is_confirmed, entries),
        author,
        id,
        time_ns,
        is_confirmed,
        entries,
        advance_digest(head.table_digest, decision.replaced, entries),
    )
    answer = Answer(revision, decision.outcomes)
    return commit, RememberedAnswer(fingerprint(changes, is_atomic=False), answer), decision


def commit_changes(
    session: WriteSession, changes: Sequence[Change], author: Author = AUTHOR, op: int | None = None
) -> Decision:
    """Decide changes and add the commit, unless nothing changes."""
    commit, remembered, decision = build_commit(session, changes, author, op)
    if not decision.is_empty:
        session.add_commit(commit, remembered)
    return decision
