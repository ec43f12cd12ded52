"""The proposals of STORE and DELETE on the wire; see `convert_entries` for W1 to W4."""

from __future__ import annotations

from collections.abc import Iterator

from syncline.core.bounds import CommitBounds, change_bytes
from syncline.core.changes import (
    CHANGES_MAX,
    Change,
    Delete,
    Proposal,
    PutFile,
)
from syncline.core.identity import Digest, parse_op_id
from syncline.core.manifests import REF_BYTES
from syncline.errors import TooLarge
from syncline.rpc.convert_changes import change_from_pb, change_to_pb
from syncline.rpc.convert_entries import (
    ITEM_WIRE_BYTES,
    REF_WIRE_BYTES,
    author_from_pb,
    author_to_pb,
    group,
    inline_for,
    invalid,
    milliseconds,
    parse_label,
)
from syncline.rpc.convert_locks import tokens_from_pb, tokens_to_pb
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb


def begin_to_pb(volume: str, proposal: Proposal) -> pb.StoreBegin:
    """Return the message that opens a STORE or DELETE."""
    return pb.StoreBegin(
        volume=volume,
        author=author_to_pb(proposal.author),
        op_id=proposal.op_id,
        is_atomic=proposal.is_atomic,
        is_confirmed=proposal.is_confirmed,
        wait_ms=milliseconds(proposal.wait_s),
        tokens=tokens_to_pb(proposal.tokens),
    )


def check_proposal(proposal: Proposal) -> None:
    """Raise TooLarge for a proposal that a server must refuse, Invalid for an empty one."""
    bounds = CommitBounds()
    seen: dict[Digest, bytes] = {}
    for change in proposal.changes:
        bounds.add(change, _size(_first_time(change, proposal.inline, seen)))
    bounds.finish()


def change_frames(proposal: Proposal) -> Iterator[pb.StoreChanges]:
    """Yield the changes of a proposal in frames, the last one marked; content inline only once."""
    seen: dict[Digest, bytes] = {}
    weighed = [(change, _first_time(change, proposal.inline, seen)) for change in proposal.changes]
    left = len(weighed)
    for batch in group(weighed, lambda item: _change_weight(*item)):
        left -= len(batch)
        yield pb.StoreChanges(
            changes=[change_to_pb(change, inline) for change, inline in batch], is_last=not left
        )


def _first_time(
    change: Change, inline: dict[Digest, bytes], seen: dict[Digest, bytes]
) -> dict[Digest, bytes]:
    """Return the inline content to send with this change: what no change before it carries."""
    if not isinstance(change, PutFile) or change.content.digest in seen:
        return {}
    raw = inline_for(change.content, inline)
    if raw is None:
        return {}
    seen[change.content.digest] = raw
    return {change.content.digest: raw}


def _size(inline: dict[Digest, bytes]) -> int:
    return sum(map(len, inline.values()))


def _change_weight(change: Change, inline: dict[Digest, bytes]) -> int:
    return ITEM_WIRE_BYTES + change_bytes(change) * REF_WIRE_BYTES // REF_BYTES + _size(inline)


class ProposalReader:
    """Assembles a proposal from its begin and frames of changes, within the limits (W4)."""

    def __init__(self, begin: pb.StoreBegin) -> None:
        """Check the begin; raise Invalid."""
        self.volume = parse_label(begin.volume, "volume")
        self._author = author_from_pb(begin.author)
        self._op_id = parse_op_id(begin.op_id)
        self._is_atomic = begin.is_atomic
        self._is_confirmed = begin.is_confirmed
        self._wait_s = begin.wait_ms / 1000
        self._tokens = tokens_from_pb(begin.tokens)
        self._changes: list[Change] = []
        self._inline: dict[Digest, bytes] = {}
        self._bounds = CommitBounds()
        self.is_complete = False

    def add(self, frame: pb.StoreChanges) -> None:
        """Take the next frame; raise Invalid or TooLarge before more than the limits is kept."""
        if self.is_complete:
            raise invalid("changes", "come after the last of them")
        if not frame.changes:
            raise invalid("changes", "a frame has none")
        for message in frame.changes:
            taken: dict[Digest, bytes] = {}
            change = change_from_pb(message, taken)
            self._bounds.add(change, _size(taken))
            self._changes.append(change)
            self._inline.update(taken)
        self.is_complete = frame.is_last

    def proposal(self) -> Proposal:
        """Return the whole proposal; the digests of its inline content are still to be checked."""
        assert self.is_complete, "the last frame has not arrived"
        return Proposal(
            self._author,
            self._op_id,
            tuple(self._changes),
            self._inline,
            self._is_atomic,
            self._is_confirmed,
            self._wait_s,
            self._tokens,
        )


def delete_to_pb(volume: str, proposal: Proposal) -> pb.DeleteRequest:
    """Return the message for deletes alone; raise Invalid for any other change."""
    check_proposal(proposal)
    if not all(isinstance(change, Delete) for change in proposal.changes):
        raise invalid("changes", "DELETE takes deletes alone")
    return pb.DeleteRequest(
        begin=begin_to_pb(volume, proposal),
        targets=[pb.DeleteTarget(id=change.id, base=change.base) for change in proposal.changes],
    )


def delete_from_pb(message: pb.DeleteRequest) -> tuple[str, Proposal]:
    """Return the volume and the checked proposal of a DELETE."""
    reader = ProposalReader(message.begin)
    if len(message.targets) > CHANGES_MAX:
        raise TooLarge(
            f"a commit has at most {CHANGES_MAX} changes", field="changes", limit=f"{CHANGES_MAX}"
        )
    frame = pb.StoreChanges(is_last=True)
    for target in message.targets:
        frame.changes.add(id=target.id, base=target.base).delete.SetInParent()
    reader.add(frame)
    return reader.volume, reader.proposal()
