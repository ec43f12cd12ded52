"""Each brake is tripped, and none is by what users do every day."""

from __future__ import annotations

from dataclasses import replace

import pytest

from syncline.core.identity import Revision
from syncline.core.safety import (
    HaltReason,
    Limits,
    RootIdentity,
    RootSeen,
    Shrinking,
    check_deletes,
    check_history,
    check_root,
)

KNOWN = RootIdentity(b"marker", 7, b"disk")
SEEN = RootSeen(is_directory=True, marker=b"marker", inode=7, filesystem=b"disk", is_empty=False)
LIMITS = Limits()


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (None, HaltReason.ROOT_MISSING),
        (replace(SEEN, is_directory=False), HaltReason.ROOT_OTHER_TYPE),
        (replace(SEEN, marker=None, is_empty=True), HaltReason.ROOT_REPLACED),
        (replace(SEEN, marker=b"other"), HaltReason.ROOT_REPLACED),
        (replace(SEEN, inode=8), HaltReason.ROOT_REPLACED),
        (replace(SEEN, filesystem=b"tmpfs"), HaltReason.ROOT_REPLACED),
        (replace(SEEN, is_empty=True), HaltReason.ROOT_EMPTIED),
    ],
)
def test_b1_a_strange_root_halts(seen: RootSeen | None, reason: HaltReason) -> None:
    halt = check_root(KNOWN, seen, 10, LIMITS)
    assert halt is not None
    assert halt.reason is reason
    assert halt.detail
    assert halt.resume


def test_b1_the_same_root_does_not_halt() -> None:
    assert check_root(KNOWN, SEEN, 100_000, LIMITS) is None


@pytest.mark.parametrize("entries", [0, 1, 9])
def test_b1_a_user_may_empty_a_small_root(entries: int) -> None:
    assert check_root(KNOWN, replace(SEEN, is_empty=True), entries, LIMITS) is None


@pytest.mark.parametrize(
    ("count", "entries", "is_halt"),
    [
        (0, 0, False),
        (1_000, 1_000, False),  # the floor is not passed
        (1_001, 1_001, True),
        (1_001, 2_001, True),
        (1_001, 2_002, False),  # the share is not passed
        (6_000, 10_000, True),
        (5_000, 10_000, False),
    ],
)
def test_b2_deletes_halt_by_share_and_floor(count: int, entries: int, is_halt: bool) -> None:
    sent = check_deletes(count, 0, 0, entries, LIMITS)
    placed = check_deletes(0, count, 0, entries, LIMITS)
    assert (sent is not None, placed is not None) == (is_halt, is_halt)
    if sent is not None and placed is not None:
        assert sent.reason is HaltReason.MASS_DELETE
        assert placed.reason is HaltReason.MASS_REMOVAL
        assert str(count) in sent.resume
        assert str(count) in placed.resume


def test_b2_what_is_deleted_little_by_little_counts_as_one() -> None:
    halt = check_deletes(300, 0, 0, 2_000, LIMITS, gone=2_000)
    assert halt is not None
    assert (halt.reason, halt.count) == (HaltReason.MASS_DELETE, 300)
    assert "2300 of 4000" in halt.detail
    placed = check_deletes(0, 300, 0, 2_000, LIMITS, gone=2_000)
    assert placed is not None
    assert placed.reason is HaltReason.MASS_REMOVAL
    assert check_deletes(0, 0, 0, 500, LIMITS, gone=3_500) is None
    assert check_deletes(0, 300, 300, 2_000, LIMITS, gone=2_000) is None


def test_shrinking_is_from_the_most_of_a_while() -> None:
    shrinking = Shrinking(window_s=600.0)
    assert [shrinking.gone(count, 1.0) for count in (4_000, 3_500, 3_800, 3_000)] == [
        0,
        500,
        200,
        1_000,
    ]
    assert shrinking.gone(3_000, 600.0) == 1_000
    assert shrinking.gone(3_000, 602.0) == 0


def test_what_is_made_and_deleted_over_and_over_is_no_loss() -> None:
    shrinking = Shrinking()
    for now_s in range(100):
        assert shrinking.gone(5_000, float(now_s)) <= 900
        assert shrinking.gone(5_900, now_s + 0.5) == 0


def test_what_a_human_agreed_to_is_no_loss() -> None:
    shrinking = Shrinking()
    shrinking.gone(4_000, 1.0)
    shrinking.forget()
    assert shrinking.gone(500, 2.0) == 0


def test_b2_what_a_human_confirmed_does_not_count() -> None:
    assert check_deletes(0, 2_000, 2_000, 2_000, LIMITS) is None
    assert check_deletes(0, 4_000, 500, 4_000, LIMITS) is not None


@pytest.mark.parametrize(
    ("seen", "head", "is_on_chain", "is_halt"),
    [(5, 5, True, False), (5, 9, True, False), (5, 9, False, True), (5, 4, True, True)],
)
def test_b3_a_server_that_forgot_halts(
    seen: int, head: int, is_on_chain: bool, is_halt: bool
) -> None:
    halt = check_history(Revision(seen), Revision(head), is_on_chain=is_on_chain)
    assert (halt is not None) is is_halt
    if halt is not None:
        assert halt.reason is HaltReason.HISTORY_CUT
        assert "delete nothing" in halt.resume
