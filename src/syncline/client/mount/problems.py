"""What a mount shows of the paths that do not sync (G10)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from syncline.client.mount.walker import parts_of, path_at
from syncline.core.identity import EntryId
from syncline.core.names import RelPath
from syncline.core.plans import Problem
from syncline.core.trees import ProblemCode
from syncline.ports.mount_control import MountProblem
from syncline.ports.mount_state import MountSession, ObstacleReason

BY_DESIGN = frozenset(
    {ProblemCode.LOCAL_CHANGE.value, ProblemCode.REMOTE_CHANGE.value, ObstacleReason.SPECIAL.value}
)
"""Problems that no waiting ends: the mode of the mount, or the nature of the thing, wants them."""


def plan_problems(
    session: MountSession, problems: Iterable[Problem]
) -> Iterator[tuple[EntryId, MountProblem]]:
    """Yield what the reconciler could not do; that an ignored entry is not followed is no problem.

    What could not be read is told by `exceptions_shown`, with its reason.
    """
    for problem in problems:
        if problem.code not in (ProblemCode.IGNORED, ProblemCode.UNREAD):
            yield problem.id, MountProblem(path_at(session, problem.place), problem.code.value, "")


def exceptions_shown(session: MountSession) -> tuple[MountProblem, ...]:
    """Return what in the mount is not synced, by its nature or because it could not be read.

    What is ignored costs nothing: there may be very much of it, and this is asked in each cycle.
    """
    found = [
        MountProblem(path_at(session, place), obstacle.reason.value, obstacle.detail)
        for place, obstacle in session.obstacles_not_ignored().items()
    ]
    for id, held in session.held_unread().items():
        path = RelPath(parts_of(session, id) or ())
        found.append(MountProblem(path, ProblemCode.UNREAD.value, held.detail))
    return tuple(sorted(found, key=lambda problem: problem.path.parts))
