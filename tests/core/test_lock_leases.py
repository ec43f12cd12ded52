"""Leases: renewed or over, told once; the server's own stops are nobody's time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.changes import HeldToken, Token
from syncline.core.lock_leases import Leases
from syncline.core.user_locks import UserLock
from tests.support.locks import owner
from tests.support.trees import id_of

ANN, BEN = owner("ann"), owner("ben")


def lock(token: int, *, lease_s: float = 10.0, ttl_s: float = 100.0) -> UserLock:
    return UserLock(id_of(f"e{token}"), Token(token), ANN, "", lease_s, ttl_s, 0)


def over(leases: Leases, now_s: float) -> list[int]:
    return [held.token for held in leases.due(now_s)]


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_a_lease_is_over_when_it_is_not_renewed_and_told_once(leases: Leases) -> None:
    leases.begin(lock(1), 5.0)
    assert over(leases, 14.9) == []
    assert leases.due(15.0) == [HeldToken(id_of("e1"), Token(1))]
    assert over(leases, 99.0) == [] and not leases.renew(Token(1), 15.0)  # V1


def test_renewed_it_goes_on_until_its_life_is_over(leases: Leases) -> None:
    leases.begin(lock(1, ttl_s=25.0), 0.0)
    for now_s in (9.0, 18.0, 24.0):
        assert over(leases, now_s) == [] and leases.renew(Token(1), now_s)
    times = leases.times(Token(1), 24.0)
    assert times is not None and (times.since_s, times.expires_s, times.ends_s) == (24.0, 1.0, 1.0)
    assert over(leases, 25.0) == [1]


def test_a_longer_life_may_be_asked_for(leases: Leases) -> None:
    leases.begin(lock(1, ttl_s=15.0), 0.0)
    assert leases.renew(Token(1), 9.0, ttl_s=50.0)
    assert leases.renew(Token(1), 18.0) and over(leases, 27.0) == [] and over(leases, 28.0) == [1]


@given(
    st.floats(0.0, 1e9), st.floats(1.0, 86_400.0), st.floats(1.0, 86_400.0), st.floats(0.0, 10.0)
)
def test_nobody_is_told_of_more_than_was_given(
    now_s: float, lease_s: float, ttl_s: float, later_s: float
) -> None:
    leases = Leases()

    def are_within(life_s: float, more_s: float = 0.0) -> bool:
        times = leases.times(Token(1), now_s)
        assert times is not None
        return times.expires_s <= min(lease_s, life_s) + more_s and times.ends_s <= life_s + more_s

    leases.begin(lock(1, lease_s=lease_s, ttl_s=ttl_s), now_s)
    assert are_within(ttl_s)  # V3
    leases.resume(lock(1, lease_s=lease_s, ttl_s=ttl_s), 3.0, ttl_s, 30.0, now_s)
    assert are_within(ttl_s, 30.0)
    now_s += later_s
    leases.renew(Token(1), now_s, 2 * ttl_s)
    assert are_within(2 * ttl_s, 30.0)


def test_without_a_lease_it_lasts_for_its_life(leases: Leases) -> None:
    leases.begin(lock(1, lease_s=0.0, ttl_s=50.0), 0.0)
    assert over(leases, 49.0) == [] and over(leases, 50.0) == [1]


def test_a_sign_of_life_renews_all_of_a_session_and_nothing_else(leases: Leases) -> None:
    for each in (lock(1), lock(2), replace(lock(3), owner=BEN)):
        leases.begin(each, 0.0)
    assert leases.renew_session(ANN.key, 9.0) == 2
    assert over(leases, 10.0) == [3]
    leases.drop(Token(1))
    assert leases.renew_session(ANN.key, 18.0) == 1 and leases.renew_session(BEN.key, 18.0) == 0


def test_a_renewal_makes_nothing_shorter(leases: Leases) -> None:
    leases.resume(lock(1), 3.0, 60.0, 30.0, 0.0)
    leases.renew(Token(1), 1.0)
    assert over(leases, 39.0) == [] and over(leases, 40.0) == [1]


def test_after_a_restart_there_is_what_was_left_and_a_grace(leases: Leases) -> None:
    leases.resume(lock(1, lease_s=0.0), 95.0, 5.0, 30.0, 1000.0)
    leases.resume(lock(2), 95.0, 5.0, 30.0, 1000.0)
    leases.resume(lock(3), 20.0, 80.0, 30.0, 1000.0)
    times = leases.times(Token(1), 1000.0)
    assert times is not None and (times.since_s, times.ends_s) == (95.0, 35.0)
    assert over(leases, 1034.9) == []
    assert over(leases, 1035.0) == [1, 2] and over(leases, 1040.0) == [3]


def test_the_grace_of_a_restart_is_not_kept_over_the_next_one(leases: Leases) -> None:
    leases.begin(lock(1, ttl_s=20.0), 0.0)
    now_s = 0.0
    for _ in range(10):
        now_s += 5.0
        times = leases.times(Token(1), now_s)
        assert times is not None and times.kept_s == max(0.0, 20.0 - now_s)
        leases = Leases()
        leases.resume(lock(1, ttl_s=20.0), times.since_s, times.kept_s, 30.0, now_s)
    assert over(leases, 79.9) == [] and over(leases, 80.0) == [1]  # V4


def test_a_life_that_is_asked_for_after_a_restart_is_kept(leases: Leases) -> None:
    leases.resume(lock(1), 3.0, 5.0, 30.0, 0.0)
    leases.renew(Token(1), 1.0, ttl_s=50.0)
    times = leases.times(Token(1), 1.0)
    assert times is not None and times.kept_s == 50.0


def test_time_in_which_the_server_stood_still_is_given_back(leases: Leases) -> None:
    leases.begin(lock(1), 0.0)
    leases.delay(100.0)  # V2
    assert over(leases, 109.0) == [] and over(leases, 110.0) == [1]


def test_asked_for_again_it_begins_anew_but_is_held_since_then(leases: Leases) -> None:
    leases.begin(lock(1), 0.0)
    leases.begin(lock(1, ttl_s=20.0), 9.0)
    times = leases.times(Token(1), 9.0)
    assert times is not None and (times.since_s, times.expires_s, times.ends_s) == (9.0, 10.0, 20.0)
