"""The bounds of one commit, counted in one way by whoever makes, sends and receives a proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from syncline.core.changes import (
    CHANGES_MAX,
    COMMIT_BYTES_MAX,
    Change,
    Delete,
    Move,
    PutDirectory,
    PutFile,
    PutLink,
)
from syncline.core.manifests import REF_BYTES
from syncline.errors import Invalid, TooLarge


def change_bytes(change: Change) -> int:
    """Return what a change counts towards `COMMIT_BYTES_MAX`: name, target, manifest."""
    match change:
        case PutFile():
            return len(change.name) + REF_BYTES * len(change.content.refs)
        case PutLink():
            return len(change.name) + len(change.target)
        case PutDirectory() | Move():
            return len(change.name)
        case Delete():
            return 0
        case _:
            assert_never(change)


@dataclass(slots=True)
class CommitBounds:
    """How much of a commit's bounds is used up."""

    changes: int = 0
    used_bytes: int = 0

    def add(self, change: Change, inline_bytes: int) -> None:
        """Count a change and the inline content that comes with it; raise TooLarge over a bound."""
        self.changes += 1
        self.used_bytes += change_bytes(change) + inline_bytes
        if self.changes > CHANGES_MAX:
            raise TooLarge(
                f"a commit has at most {CHANGES_MAX} changes; send the rest in another one",
                field="changes",
                limit=str(CHANGES_MAX),
            )
        if self.used_bytes > COMMIT_BYTES_MAX:
            raise TooLarge(
                f"a commit has at most {COMMIT_BYTES_MAX} bytes before its chunks; "
                "send the rest in another one",
                field="changes",
                limit=str(COMMIT_BYTES_MAX),
            )

    def finish(self) -> None:
        """Raise Invalid where there was no change at all."""
        if not self.changes:
            raise Invalid("a commit has at least one change", field="changes", reason="none")
