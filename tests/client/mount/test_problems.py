"""What a mount shows of paths that do not sync, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.client.mount.problems import exceptions_shown
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, ReplicaId
from syncline.core.ignore import IGNORE_NAME, BadLine
from syncline.core.names import Name
from syncline.core.trees import state_of
from syncline.ports.mount_control import MountProblem
from syncline.ports.mount_state import (
    Held,
    MountFacts,
    MountState,
    Obstacle,
    ObstacleReason,
)
from tests.support.trees import directory, file, id_of

FACTS = MountFacts(ReplicaId(bytes(16)), None, None)
IGNORED = Obstacle(ObstacleReason.IGNORED)


@pytest.fixture(params=["memory", "disk"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountState]:
    state: MountState = MemoryMountState(FACTS)
    if request.param == "disk":
        state = SqliteMountState.open(tmp_path / "state.sqlite3", FACTS)
    yield state
    state.close()


def shown(problems: tuple[MountProblem, ...]) -> list[tuple[str, str, str]]:
    return [(str(each.path), each.code, each.detail) for each in problems]


def test_what_cannot_be_synced_is_shown_and_what_is_ignored_is_not(state: MountState) -> None:
    with state.session() as session:
        for entry in (directory("d"), file("f", "d", b"secret"), file("g", "d", b"built")):
            session.set_local(entry.id, Seen(state_of(entry)))
        session.set_held(id_of("f"), Held(is_ignored=False, detail="permission denied"))
        session.set_held(id_of("g"), Held(is_ignored=True))
        session.set_obstacle((ROOT_ID, Name(b"fifo")), Obstacle(ObstacleReason.SPECIAL, "a FIFO"))
        session.set_obstacle((id_of("d"), Name(b"old")), Obstacle(ObstacleReason.UNREAD))
        session.set_obstacle((id_of("d"), Name(b"cache")), IGNORED)
    with state.session() as session:
        assert shown(exceptions_shown(session, {})) == [
            ("d/old", "unread", ""),
            ("d/secret", "unread", "permission denied"),
            ("fifo", "special", "a FIFO"),
        ]


def test_bad_rules_are_told_by_their_lines_with_a_bound(state: MountState) -> None:
    long = BadLine(7, "[" + "a" * 100)
    lines = [BadLine(2, "!"), BadLine(5, "[z-a]"), long, BadLine(8, "!"), BadLine(9, "!")]
    with state.session() as session:
        for entry in (directory("d"), file("f", "d", IGNORE_NAME)):
            session.set_local(entry.id, Seen(state_of(entry)))
        rules = {id_of("d"): lines, ROOT_ID: lines[:1], id_of("gone"): lines}
        assert shown(exceptions_shown(session, rules)) == [
            (".synclineignore", "ignore_rule", "line 2 is no pattern: '!'"),
            (
                "d/.synclineignore",
                "ignore_rule",
                "line 2 is no pattern: '!', line 5 is no pattern: '[z-a]', line 7 is no pattern:"
                f" '[{'a' * 39}...', and 2 more",
            ),
        ]
        session.set_held(id_of("f"), Held(is_ignored=False, detail="permission denied"))
        codes = [code for _, code, _ in shown(exceptions_shown(session, rules))]
        assert codes == ["ignore_rule", "unread", "ignore_rule"]


def test_ignored_things_are_not_read(tmp_path: Path) -> None:
    state = SqliteMountState.open(tmp_path / "state.sqlite3", FACTS)
    costs = []
    for count in (10, 3_000):
        with state.session() as session:
            for number in range(count):
                session.set_held(id_of(f"f{number}"), Held(is_ignored=True))
                session.set_obstacle((ROOT_ID, Name(b"%d" % number)), IGNORED)
        costs.append(_steps(state))
    assert costs[0] == costs[1]
    state.close()


def _steps(state: SqliteMountState) -> int:
    """Return how many steps of its machine SQLite makes to find what is shown."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    assert state._connection is not None
    state._connection.set_progress_handler(step, 1)
    with state.session() as session:
        assert exceptions_shown(session, {}) == ()
    state._connection.set_progress_handler(None, 1)
    return steps
