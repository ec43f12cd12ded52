"""What a mount shows of the paths that do not sync (G10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from syncline.client.mount.walker import parts_of, path_at
from syncline.core.identity import EntryId
from syncline.core.ignore import IGNORE_NAME, BadLine
from syncline.core.names import Name, RelPath
from syncline.core.plans import Problem
from syncline.core.trees import ProblemCode
from syncline.ports.mount_control import MountProblem
from syncline.ports.mount_state import MountSession, ObstacleReason

IGNORE_RULE = "ignore_rule"
"""The code of a `.synclineignore` with lines that are no patterns."""

BY_DESIGN = frozenset(
    {
        ProblemCode.LOCAL_CHANGE.value,
        ProblemCode.REMOTE_CHANGE.value,
        ObstacleReason.SPECIAL.value,
        IGNORE_RULE,
    }
)
"""Problems beside which the mount is in sync: its mode or the nature of the thing wants them, or
all that is wrong is what a synced file says. No waiting ends them."""

BAD_LINES_SHOWN_MAX = 3
BAD_LINE_CHARS_MAX = 40
"""How much of bad rules a problem shows: a line may have a megabyte."""


def plan_problems(
    session: MountSession, problems: Iterable[Problem]
) -> Iterator[tuple[EntryId, MountProblem]]:
    """Yield what the reconciler could not do; that an ignored entry is not followed is no problem.

    What could not be read is told by `exceptions_shown`, with its reason.
    """
    for problem in problems:
        if problem.code not in (ProblemCode.IGNORED, ProblemCode.UNREAD):
            yield problem.id, MountProblem(path_at(session, problem.place), problem.code.value, "")


def exceptions_shown(
    session: MountSession, bad_rules: Mapping[EntryId, Sequence[BadLine]]
) -> tuple[MountProblem, ...]:
    """Return what in the mount is not synced, by its nature or because it could not be read.

    So are ignore rules that mean nothing, after any other problem of their file. What is ignored
    costs nothing: there may be very much of it, and this is asked in each cycle.
    """
    found = [
        MountProblem(path_at(session, place), obstacle.reason.value, obstacle.detail)
        for place, obstacle in session.obstacles_not_ignored().items()
    ]
    for id, held in session.held_unread().items():
        path = RelPath(parts_of(session, id) or ())
        found.append(MountProblem(path, ProblemCode.UNREAD.value, held.detail))
    for directory, lines in bad_rules.items():
        parts = parts_of(session, directory)
        # A directory that was deleted elsewhere is known to the scanner for a little longer.
        if parts is not None:
            path = RelPath((*parts, Name(IGNORE_NAME)))
            found.append(MountProblem(path, IGNORE_RULE, _bad_lines_text(lines)))
    return tuple(sorted(found, key=lambda problem: problem.path.parts))


def _bad_lines_text(lines: Sequence[BadLine]) -> str:
    """Return which lines of a file are no patterns, for people."""
    shown = lines[:BAD_LINES_SHOWN_MAX]
    told = [f"line {line.number} is no pattern: '{_cut(line.text)}'" for line in shown]
    hidden = len(lines) - len(shown)
    return ", ".join([*told, *([f"and {hidden} more"] if hidden else [])])


def _cut(text: str) -> str:
    return text if len(text) <= BAD_LINE_CHARS_MAX else f"{text[:BAD_LINE_CHARS_MAX]}..."
