"""What failed is left alone for longer and longer, and told when it lasts."""

from __future__ import annotations

import pytest

from syncline.client.mount.patience import MOST_S, QUIET_FAILURES, Patience
from syncline.core.names import Name, RelPath
from syncline.ports.mount_control import MountProblem
from tests.support.trees import id_of

A, B = id_of("a"), id_of("b")
PROBLEM = MountProblem(RelPath((Name(b"a"),)), "busy", "it changed")


def fail_until_due(patience: Patience, now_s: float, *, is_certain: bool) -> float:
    """Let an entry fail; return when it is to be tried again."""
    patience.fail(A, PROBLEM, now_s, is_certain=is_certain)
    assert patience.waiting(now_s) == {A}
    due_s = patience.next_s(now_s)
    assert due_s is not None
    assert not patience.waiting(due_s)
    return due_s


@pytest.mark.parametrize("is_certain", [False, True])
def test_each_pause_is_longer_up_to_a_bound(is_certain: bool) -> None:
    patience, now_s = Patience(), 0.0
    pauses = []
    for _ in range(15):
        due_s = fail_until_due(patience, now_s, is_certain=is_certain)
        pauses.append(due_s - now_s)
        now_s = due_s
    assert pauses == sorted(pauses)
    assert pauses[4] > 10 * pauses[0]
    assert pauses[-1] == pytest.approx(MOST_S)
    patience.forgive([A])
    assert fail_until_due(patience, now_s, is_certain=is_certain) - now_s == pytest.approx(
        pauses[0]
    )


def test_a_race_is_told_when_it_lasts() -> None:
    patience, now_s = Patience(), 0.0
    for _ in range(QUIET_FAILURES):
        now_s = fail_until_due(patience, now_s, is_certain=False)
        assert not patience.problems()
        assert patience.is_hoping
    fail_until_due(patience, now_s, is_certain=False)
    assert patience.problems() == [(A, PROBLEM)]
    assert not patience.is_hoping


def test_what_is_certain_is_told_at_once_and_may_pause_longer() -> None:
    patience = Patience()
    patience.fail(A, PROBLEM, 0.0, is_certain=True, at_least_s=60.0)
    assert patience.problems() == [(A, PROBLEM)]
    assert patience.next_s(0.0) == 60.0
    patience.keep_only([B])
    assert not patience.problems()


def test_those_that_lost_a_race_are_tried_again_together() -> None:
    patience = Patience()
    for _ in range(3):
        patience.fail(A, PROBLEM, 0.0, is_certain=False)
    patience.fail(B, PROBLEM, 0.0, is_certain=False)
    due_s = patience.next_s(0.0)
    assert due_s is not None
    assert patience.waiting(0.0) == {A, B}
    assert patience.waiting(due_s) == frozenset()


def test_all_are_tried_again_with_another_connection() -> None:
    patience = Patience()
    patience.fail(A, PROBLEM, 0.0, is_certain=True)
    patience.forgive_all()
    assert not patience.waiting(0.0)
    assert patience.problems() == [(A, PROBLEM)]
