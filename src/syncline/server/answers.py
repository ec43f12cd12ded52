"""The answer of a STORE: what its refusals may say, and how much of it is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from syncline.core.changes import Answer, Outcome, Proposal, Refusal, RefusalCode
from syncline.core.entries import Entry
from syncline.core.manifests import REF_BYTES
from syncline.ports.metadata import TableReader

REMEMBERED_BYTES_MAX = 64 * 1024
"""States kept with a remembered answer; else refusals could grow the metadata without a commit."""


def corrected(
    session: TableReader, refused: dict[int, Refusal], entries: Sequence[Entry]
) -> dict[int, Refusal]:
    """Let early refusals name states as they are after the commit, not as they were foreseen."""
    made = {entry.id: entry for entry in entries}
    return {
        index: refusal
        if refusal.current is None
        else replace(
            refusal, current=made.get(refusal.current.id) or session.entry(refusal.current.id)
        )
        for index, refusal in refused.items()
    }


def trimmed(answer: Answer) -> Answer:
    """Return what is remembered of an answer: past a bound, refusals without what they ran into."""
    left = REMEMBERED_BYTES_MAX
    outcomes: list[Outcome] = []
    for outcome in answer.outcomes:
        if isinstance(outcome, Refusal) and outcome.current is not None:
            content = outcome.current.content
            left -= 200 + len(outcome.current.target or b"")
            left -= REF_BYTES * len(content.refs) if content else 0
            if left < 0:
                outcome = replace(outcome, current=None)
        outcomes.append(outcome)
    return replace(answer, outcomes=tuple(outcomes))


def all_refused(proposal: Proposal, refused: dict[int, Refusal]) -> tuple[Outcome, ...]:
    """Return the outcomes of an atomic STORE that came to nothing."""
    return tuple(
        refused.get(index, Refusal(RefusalCode.ATOMIC)) for index in range(len(proposal.changes))
    )
