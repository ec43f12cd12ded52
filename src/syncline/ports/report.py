"""What a long piece of work tells the one who watches it, and what it comes to path by path."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from syncline.core.identity import NO_REVISION, Revision
from syncline.core.names import RelPath
from syncline.errors import SynclineError


class Result(Enum):
    """What one path of a command came to."""

    STORED = "stored"
    FETCHED = "fetched"
    DELETED = "deleted"
    UNCHANGED = "unchanged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PathOutcome:
    """One path of a command. `local` is the path on this machine, None where there is none.

    `replaced` is the revision that a store superseded (0: the path is new). `error` is set exactly
    when `result` is FAILED.
    """

    result: Result
    path: RelPath
    local: bytes | None = None
    revision: Revision = NO_REVISION
    replaced: Revision = NO_REVISION
    size: int = 0
    error: SynclineError | None = None


class Report(Protocol):
    """Listens to a command; called from one task, must not block."""

    def expect(self, paths: int, size: int) -> None:
        """Say that this much more work was found: paths, and bytes of content."""

    def advance(self, size: int) -> None:
        """Say that so many bytes of content went over the wire, or turned out to need no trip."""

    def finish(self, outcome: PathOutcome) -> None:
        """Say that one path is done, well or not."""
