"""Answers to STORE and DELETE on the wire; see `convert_entries` for W1 to W4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

from syncline.core.changes import (
    Accepted,
    Answer,
    Holder,
    Outcome,
    Refusal,
    RefusalCode,
)
from syncline.core.identity import (
    Digest,
    Revision,
    parse_digest,
    parse_entry_id,
    parse_revision,
)
from syncline.rpc.convert_entries import (
    FRAME_BYTES,
    ITEM_WIRE_BYTES,
    REF_WIRE_BYTES,
    author_from_pb,
    entry_from_pb,
    entry_to_pb,
    entry_weight,
    group,
    invalid,
    milliseconds,
    parse_label,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

_REFUSALS = {
    pb.REFUSAL_CODE_STALE: RefusalCode.STALE,
    pb.REFUSAL_CODE_NAME_TAKEN: RefusalCode.NAME_TAKEN,
    pb.REFUSAL_CODE_PARENT_GONE: RefusalCode.PARENT_GONE,
    pb.REFUSAL_CODE_NOT_EMPTY: RefusalCode.NOT_EMPTY,
    pb.REFUSAL_CODE_CYCLE: RefusalCode.CYCLE,
    pb.REFUSAL_CODE_LOCKED: RefusalCode.LOCKED,
    pb.REFUSAL_CODE_MISSING: RefusalCode.MISSING,
    pb.REFUSAL_CODE_INVALID: RefusalCode.INVALID,
    pb.REFUSAL_CODE_ATOMIC: RefusalCode.ATOMIC,
    pb.REFUSAL_CODE_LOCK_LOST: RefusalCode.LOCK_LOST,
}
_REFUSALS_TO_PB = {code: value for value, code in _REFUSALS.items()}

_MISSING_NAMED = 64
"""Digests in one refusal: it names the first ones (`Refusal.missing`)."""

_DETAIL_CHARACTERS = 500

DIGESTS_PER_MESSAGE = 16384
"""34 bytes a digest: 544 KiB."""


def holder_to_pb(holder: Holder) -> pb.Holder:
    """Return the message for a holder; times below zero or past 49 days are cut."""
    return pb.Holder(
        author=pb.Author(replica=holder.replica, name=holder.name),
        since_ms=milliseconds(holder.since_s),
        expires_ms=milliseconds(holder.expires_s),
        host=holder.host,
        reason=holder.reason,
        entry=holder.entry or b"",
    )


def holder_from_pb(message: pb.Holder) -> Holder:
    """Return a checked holder."""
    author = author_from_pb(message.author)
    return Holder(
        author.name,
        author.replica,
        message.since_ms / 1000,
        message.expires_ms / 1000,
        parse_label(message.host, "host") if message.host else "",
        parse_label(message.reason, "reason") if message.reason else "",
        parse_entry_id(message.entry) if message.entry else None,
    )


def outcome_to_pb(outcome: Outcome) -> pb.Outcome:
    """Return the message for an outcome."""
    match outcome:
        case Accepted():
            accepted = pb.Accepted(revision=outcome.revision, replaced=outcome.replaced)
            return pb.Outcome(accepted=accepted)
        case Refusal():
            return pb.Outcome(
                refusal=pb.Refusal(
                    code=_REFUSALS_TO_PB[outcome.code],
                    current=entry_to_pb(outcome.current) if outcome.current else None,
                    holder=holder_to_pb(outcome.holder) if outcome.holder else None,
                    missing=outcome.missing[:_MISSING_NAMED],
                    detail=outcome.detail[:_DETAIL_CHARACTERS],
                )
            )
        case _:
            assert_never(outcome)


def outcome_from_pb(message: pb.Outcome) -> Outcome:
    """Return a checked outcome."""
    match message.WhichOneof("result"):
        case "accepted":
            accepted = message.accepted
            return Accepted(
                parse_revision(accepted.revision), parse_revision(accepted.replaced, "replaced")
            )
        case "refusal":
            refusal = message.refusal
            code = _REFUSALS.get(refusal.code)
            if code is None:
                raise invalid("code", f"refusal {refusal.code} is not known")
            return Refusal(
                code,
                entry_from_pb(refusal.current) if refusal.HasField("current") else None,
                holder_from_pb(refusal.holder) if refusal.HasField("holder") else None,
                tuple(parse_digest(digest, "missing") for digest in refusal.missing),
                refusal.detail[:_DETAIL_CHARACTERS],
            )
        case _:
            raise invalid("result", "the outcome says nothing that is known")


def _outcome_weight(outcome: Outcome) -> int:
    match outcome:
        case Accepted():
            return ITEM_WIRE_BYTES
        case Refusal():
            current = entry_weight(outcome.current) if outcome.current else 0
            named = min(len(outcome.missing), _MISSING_NAMED) * REF_WIRE_BYTES
            # A character is at most 4 bytes; what a holder says of himself has 3 times 255.
            return ITEM_WIRE_BYTES + 1024 + current + named + 4 * _DETAIL_CHARACTERS
        case _:
            assert_never(outcome)


def answer_frames(answer: Answer) -> Iterator[pb.Committed]:
    """Yield an answer in parts: each has the revision, and the next outcomes in order."""
    for outcomes in group(answer.outcomes, _outcome_weight):
        yield pb.Committed(
            revision=answer.revision,
            outcomes=[outcome_to_pb(outcome) for outcome in outcomes],
            is_replay=answer.is_replay,
        )


def granted_frames(outcomes: Sequence[Outcome]) -> Iterator[pb.Granted]:
    """Yield what stands before content travels, in parts."""
    for part in group(outcomes, _outcome_weight):
        yield pb.Granted(outcomes=[outcome_to_pb(outcome) for outcome in part])


def delete_answer_to_pb(answer: Answer) -> pb.DeleteResponse:
    """Return the one message for the answer of a DELETE.

    Past the weight of a message, refusals travel without `current`; WATCH or STAT tells it.
    """
    response = pb.DeleteResponse(revision=answer.revision, is_replay=answer.is_replay)
    weight = 0
    for outcome in answer.outcomes:
        weight += _outcome_weight(outcome)
        if weight > 2 * FRAME_BYTES and isinstance(outcome, Refusal):
            outcome = Refusal(outcome.code, detail="see the entry itself")
        response.outcomes.append(outcome_to_pb(outcome))
    return response


class AnswerReader:
    """Assembles an answer of `count` outcomes from its parts."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._outcomes: list[Outcome] = []
        self._revision: Revision | None = None
        self._is_replay = False

    def add(self, message: pb.Committed | pb.DeleteResponse) -> None:
        """Take the next part; raise Invalid for one that cannot belong to the answer."""
        revision = parse_revision(message.revision)
        if self._revision not in (None, revision):
            raise invalid("revision", "the parts of an answer have different ones")
        if not message.outcomes or len(message.outcomes) + len(self._outcomes) > self._count:
            raise invalid("outcomes", "not one for each change")
        self._revision, self._is_replay = revision, message.is_replay
        self._outcomes.extend(outcome_from_pb(outcome) for outcome in message.outcomes)

    @property
    def answer(self) -> Answer | None:
        """Return the answer when each change has its outcome, None before."""
        if self._revision is None or len(self._outcomes) < self._count:
            return None
        return Answer(self._revision, tuple(self._outcomes), self._is_replay)


def missing_frames(digests: Sequence[Digest]) -> Iterator[pb.Missing]:
    """Yield the digests of chunks to send, in order, in parts; they may come compressed."""
    for part in digest_groups(digests):
        yield pb.Missing(digests=part, encodings=[pb.ENCODING_ZSTD])


@dataclass(frozen=True, slots=True)
class Wanted:
    """A chunk that the server asks for, and whether it may come compressed."""

    digest: Digest
    may_be_zstd: bool


def missing_from_pb(message: pb.Missing) -> tuple[Wanted, ...]:
    """Return what the server asks for, the digests checked; unknown encodings are passed over."""
    if not message.digests:
        raise invalid("missing", "names no chunk")
    may_be_zstd = pb.ENCODING_ZSTD in message.encodings
    return tuple(Wanted(parse_digest(digest, "missing"), may_be_zstd) for digest in message.digests)


def digest_groups(digests: Sequence[Digest]) -> Iterator[Sequence[Digest]]:
    """Cut digests, in order, into groups for one message each."""
    for start in range(0, len(digests), DIGESTS_PER_MESSAGE):
        yield digests[start : start + DIGESTS_PER_MESSAGE]
