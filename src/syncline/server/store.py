"""STORE and DELETE: from a proposal to a durable commit.

The order of writes (docs/FORMAT.md): chunks are appended, made durable, indexed; then the commit's
rows; then the feed is told; then the caller. A crash at any point leaves the old table or the new.

S1  Content is checked against its digest before a commit names it (G8): each chunk when it arrives,
    content of several chunks as a whole.
S2  The writer decides. What was granted before the content travelled saves work and promises
    nothing: the revision check is made again in the write session (G6).
S3  A change that was refused once in an operation stays refused in it, so that the answer agrees
    with what the client was told when it began.
S4  `(replica, op id)` makes one commit: a repetition gets the first answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from syncline.core.bodies import ChunkBody
from syncline.core.bounds import CommitBounds
from syncline.core.changes import (
    Accepted,
    Answer,
    Change,
    Delete,
    Outcome,
    Proposal,
    PutFile,
    Refusal,
    RefusalCode,
    fingerprint,
)
from syncline.core.commits import Decision, decide
from syncline.core.identity import NO_REVISION, Digest, Revision, digest_of
from syncline.core.manifests import INLINE_BYTES_MAX, Content, decode_piece
from syncline.core.table import Commit, Head, advance_digest, commit_id
from syncline.errors import Corrupt, Invalid, NotFound, TooLarge
from syncline.ports.metadata import RememberedAnswer, TableReader, WriteSession
from syncline.server.answers import all_refused, corrected, trimmed
from syncline.server.feed import FeedItem
from syncline.server.operation_locks import HeldLocks
from syncline.server.receive import Receiver
from syncline.server.user_locks import Step
from syncline.server.volume import ServedVolume

MISSING_SHOWN_MAX = 64
"""Digests named in a MISSING refusal; who lacks more learns of them when he tries again."""


class Upload(Protocol):
    """The other side of a STORE, asked for what the server lacks."""

    async def grant(self, outcomes: Sequence[Outcome]) -> None:
        """Tell what stands before any content travels."""

    async def alive(self) -> None:
        """Called often while the server works without needing anything: a sign of life is due."""

    def request(self, digests: Sequence[Digest]) -> AsyncIterator[ChunkBody]:
        """Ask for chunks; yield the bytes in that order. The bytes are not checked yet."""


@dataclass(slots=True)
class _Plan:
    """A proposal on its way through, and what of it was refused."""

    proposal: Proposal
    fingerprint: Digest
    refused: dict[int, Refusal]
    losses: int = -1

    def standing(self) -> list[tuple[int, Change]]:
        """Return the changes that were not refused yet."""
        return [pair for pair in enumerate(self.proposal.changes) if pair[0] not in self.refused]


async def store(volume: ServedVolume, proposal: Proposal, upload: Upload) -> Answer:
    """Carry out a STORE; return when its commit is durable, or when nothing was to be committed.

    Raises Invalid and TooLarge for a proposal that breaks the protocol: content that does not match
    its digest is Invalid, because the caller sent it. Corrupt only where the server's own disk
    damages chunks again and again.
    """
    check_bounds(proposal)
    plan = _Plan(proposal, fingerprint(proposal.changes, is_atomic=proposal.is_atomic), {})
    if any(_travels(proposal, change) for change in proposal.changes):
        # The writer looks as well; this spares content the trip.
        remembered = await volume.workers.run(_remembered, volume, plan)
        if remembered is not None:
            return remembered
    if sum(map(len, proposal.inline.values())) > INLINE_BYTES_MAX:
        await volume.workers.run(_check_inline, proposal)
    else:
        # A hop to another thread takes longer than to digest so little.
        _check_inline(proposal)
    if volume.user_locks.concerns(proposal):
        ended = await volume.workers.run(_beside_locks, volume, plan)
        if ended is not None:
            return ended
    wait_s = min(proposal.wait_s, volume.limits.lock_wait_max_s)
    async with volume.locks.hold(proposal.changes, proposal.author, proposal.op_id, wait_s) as held:
        for index, holder in held.refused.items():
            plan.refused.setdefault(index, Refusal(RefusalCode.LOCKED, holder=holder))
        if any(_travels(proposal, change) for _, change in plan.standing()):
            await _receive(volume, plan, upload, held)
        blocker = await held.retake(wait_s)
        if blocker is not None:
            for index, _ in plan.standing():
                plan.refused[index] = Refusal(RefusalCode.LOCKED, holder=blocker)
        answer, _, _ = await volume.writer.submit(
            lambda session: _commit(volume, session, plan),
            after=lambda result: _publish(volume, result[1], result[2]),
        )
    if isinstance(answer, Invalid):
        raise answer
    return answer


async def delete(volume: ServedVolume, proposal: Proposal) -> Answer:
    """Carry out a DELETE: a STORE of deletes alone."""
    if not all(isinstance(change, Delete) for change in proposal.changes):
        raise Invalid("a DELETE holds deletes alone", field="changes", reason="kind")
    return await store(volume, proposal, _NoUpload())


class _NoUpload:
    """The other side of a DELETE, which has nothing to send."""

    async def grant(self, outcomes: Sequence[Outcome]) -> None:
        """Never called: a delete has no content."""
        raise AssertionError("a delete has no content to grant")

    async def alive(self) -> None:
        """Never called: a delete has no content."""
        raise AssertionError("a delete takes no time over content")

    def request(self, digests: Sequence[Digest]) -> AsyncIterator[ChunkBody]:
        """Never called: a delete has no content."""
        raise AssertionError("a delete has no content to ask for")


def check_bounds(proposal: Proposal) -> None:
    """Raise Invalid or TooLarge for a proposal over the bounds of one commit (G11)."""
    bounds = CommitBounds(used_bytes=sum(map(len, proposal.inline.values())))
    for change in proposal.changes:
        bounds.add(change, 0)
    bounds.finish()


def _beside_locks(volume: ServedVolume, plan: _Plan) -> Answer | None:
    """Refuse what user locks keep out, before anything is stored (S2).

    Return the answer when nothing of it is left, or when it was given before: an operation that was
    done must not be told that it is locked out.
    """
    with volume.metadata.read(volume.id) as reader:
        remembered = _replay(reader, plan)
        if remembered is not None:
            return remembered
        plan.refused.update(volume.user_locks.early(reader, plan.proposal))
        head = reader.head()
    if plan.refused and (plan.proposal.is_atomic or not plan.standing()):
        return Answer(head.revision, all_refused(plan.proposal, plan.refused))
    return None


def _remembered(volume: ServedVolume, plan: _Plan) -> Answer | None:
    with volume.metadata.read(volume.id) as reader:
        return _replay(reader, plan)


def _replay(reader: TableReader, plan: _Plan) -> Answer | None:
    """Return the first answer to this op id (S4); raise Invalid when it asked something else."""
    remembered = reader.answer(plan.proposal.author.replica, plan.proposal.op_id)
    if remembered is None:
        return None
    if remembered.fingerprint != plan.fingerprint:
        raise Invalid(
            "this op id was used for other changes; make a fresh one for each operation",
            field="op id",
            reason="reused",
        )
    return replace(remembered.answer, is_replay=True)


def _check_inline(proposal: Proposal) -> None:
    """Check inline content against its digest, and each length that a change says of it (S1)."""
    for digest, data in proposal.inline.items():
        if len(data) > INLINE_BYTES_MAX:
            raise TooLarge(
                f"inline content has {len(data)} bytes, the limit is {INLINE_BYTES_MAX}",
                limit=str(INLINE_BYTES_MAX),
            )
        if digest_of(data) != digest:
            raise Invalid(
                f"inline content does not have the digest {digest.hex()}",
                field="inline",
                reason="digest",
            )
    for change in proposal.changes:
        if not isinstance(change, PutFile):
            continue
        for ref in change.content.refs:
            known = proposal.inline.get(ref.digest)
            if known is not None and len(known) != ref.size:
                raise Invalid(
                    f"inline content {ref.digest.hex()} has {len(known)} bytes, not {ref.size}",
                    field="inline",
                    reason="size",
                )


def _travels(proposal: Proposal, change: Change) -> bool:
    """Tell whether a change has content that inline content alone does not prove (S1)."""
    if not isinstance(change, PutFile) or not change.content.refs:
        return False
    content = change.content
    return bool(content.depth) or any(
        ref.digest != content.digest or ref.digest not in proposal.inline for ref in content.refs
    )


async def _receive(volume: ServedVolume, plan: _Plan, upload: Upload, held: HeldLocks) -> None:
    """Find out what stands, tell it, and get the chunks that are missing for it."""
    await volume.workers.run(_decide_early, volume, plan)
    # Without the states that refusals ran into: those of this very STORE have no revision yet.
    outcomes = [
        replace(plan.refused[index], current=None)
        if index in plan.refused
        else Accepted(NO_REVISION, change.base)
        for index, change in enumerate(plan.proposal.changes)
    ]
    await upload.grant(outcomes)
    contents = [
        change.content
        for _, change in plan.standing()
        if isinstance(change, PutFile) and _travels(plan.proposal, change)
    ]
    if plan.proposal.is_atomic and plan.refused:
        return
    shared = {ref.digest for content in contents for ref in content.refs}
    shared &= plan.proposal.inline.keys()
    # What a larger content shares with inline ones is there like any other chunk from now on.
    await volume.workers.run(
        volume.chunks.append, {digest: plan.proposal.inline[digest] for digest in shared}
    )

    async def progress() -> None:
        held.progress()
        await upload.alive()

    plan.losses = volume.chunks.losses
    # What arrives of a transfer that breaks is pending and stays: the next try goes on from there.
    await Receiver(volume, upload.request, progress).receive(contents)


def _decide_early(volume: ServedVolume, plan: _Plan) -> None:
    """Refuse what cannot hold, before its content travels for nothing (S2, S3)."""
    standing = plan.standing()
    with volume.metadata.read(volume.id) as reader:
        decision = decide(reader, [change for _, change in standing], Revision(1))
    for (index, _), outcome in zip(standing, decision.outcomes, strict=True):
        if isinstance(outcome, Refusal):
            plan.refused[index] = outcome


def _commit(
    volume: ServedVolume, session: WriteSession, plan: _Plan
) -> tuple[Answer | Invalid, FeedItem | None, Step | None]:
    """Decide and write, in the writer's thread and its session."""
    try:
        replayed = _replay(session, plan)
    except Invalid as error:
        # Nothing is written yet: a value, so that the session is not spoiled for the others.
        return error, None, None
    if replayed is not None:
        return replayed, None, None
    proposal = plan.proposal
    head = session.head()
    refused = dict(plan.refused)
    if not (proposal.is_atomic and refused):
        # Else nobody asked for chunks: it had come to nothing before that.
        refused.update(_missing(volume, session, plan))
    refused.update(volume.user_locks.final(session, proposal))
    if proposal.is_atomic and refused:
        refused = corrected(session, refused, ())
        return Answer(head.revision, all_refused(proposal, refused)), None, None
    standing = [pair for pair in enumerate(proposal.changes) if pair[0] not in refused]
    revision = Revision(head.revision + 1)
    decision = decide(
        session, [change for _, change in standing], revision, is_atomic=proposal.is_atomic
    )
    outcomes: dict[int, Outcome] = {**corrected(session, refused, decision.entries)}
    for (index, _), outcome in zip(standing, decision.outcomes, strict=True):
        outcomes[index] = outcome
    ordered = tuple(outcomes[index] for index in range(len(proposal.changes)))
    inline = _accepted_inline(proposal, outcomes)
    # Also when nothing changes: a chunk that was found damaged is filled again.
    absent = volume.chunks.missing_in(session, inline)
    volume.chunks.append({digest: inline[digest] for digest in absent})
    if decision.is_empty:
        return Answer(head.revision, ordered), None, None
    commit = _next_commit(head, proposal, decision, volume.clock.wall_ns())
    answer = Answer(revision, ordered)
    session.add_commit(commit, RememberedAnswer(plan.fingerprint, trimmed(answer)))
    step = volume.user_locks.follow(session, decision.entries, proposal.author)
    return answer, FeedItem(commit, inline), step


def _next_commit(head: Head, proposal: Proposal, decision: Decision, time_ns: int) -> Commit:
    """Return the commit that follows the head."""
    revision = Revision(head.revision + 1)
    id = commit_id(
        head.commit_id,
        revision,
        proposal.author,
        proposal.op_id,
        time_ns,
        proposal.is_confirmed,
        decision.entries,
    )
    return Commit(
        revision,
        id,
        proposal.author,
        proposal.op_id,
        time_ns,
        proposal.is_confirmed,
        decision.entries,
        advance_digest(head.table_digest, decision.replaced, decision.entries),
    )


def _accepted_inline(proposal: Proposal, outcomes: dict[int, Outcome]) -> dict[Digest, bytes]:
    """Return the inline content that accepted changes name."""
    found = {}
    for index, change in enumerate(proposal.changes):
        if isinstance(change, PutFile) and isinstance(outcomes[index], Accepted):
            digest = change.content.digest
            if digest in proposal.inline:
                found[digest] = proposal.inline[digest]
    return found


def _missing(volume: ServedVolume, session: TableReader, plan: _Plan) -> dict[int, Refusal]:
    """Refuse changes whose chunks are not all there as the write session sees it."""
    inline = plan.proposal.inline
    wanted = {
        index: [ref.digest for ref in change.content.refs if ref.digest not in inline]
        for index, change in plan.standing()
        if isinstance(change, PutFile)
    }
    every = {digest for digests in wanted.values() for digest in digests}
    absent = volume.chunks.missing_in(session, every) if every else set()
    refusals = {}
    for index, change in plan.standing():
        if not isinstance(change, PutFile):
            continue
        lacking = [digest for digest in dict.fromkeys(wanted[index]) if digest in absent]
        if change.content.depth and not lacking and plan.losses != volume.chunks.losses:
            lacking = _lacking_below(volume, session, change.content)
        if lacking:
            refusals[index] = Refusal(
                RefusalCode.MISSING, missing=tuple(lacking[:MISSING_SHOWN_MAX])
            )
    return refusals


def _lacking_below(volume: ServedVolume, session: TableReader, content: Content) -> list[Digest]:
    """Return chunks that the pieces of a long manifest name and the server lacks; some, not all.

    Only after a loss: nothing else takes a chunk away between its arrival and this commit. The
    pieces are read again, because to remember what they named would take memory for each chunk.
    """
    for piece in dict.fromkeys(ref.digest for ref in content.refs):
        try:
            refs = decode_piece(volume.chunks.read(piece))
        except (Corrupt, NotFound):
            return [piece]
        absent = volume.chunks.missing_in(session, {ref.digest for ref in refs})
        if absent:
            return [ref.digest for ref in refs if ref.digest in absent]
    return []


def _publish(volume: ServedVolume, item: FeedItem | None, step: Step | None) -> None:
    if item is not None:
        volume.feed.publish(item)
    volume.user_locks.tell(step)
