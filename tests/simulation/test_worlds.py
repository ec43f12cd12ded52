"""Whole worlds from seeds: server, mounts, users, faults, crashes, and what must then be true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.simulation.world import play

SEEDS = 200
OPERATIONS = 50
AT_ONCE = 10

KEPT = Path(__file__).parent.parent / "seeds.txt"


def kept_seeds() -> list[tuple[int, int]]:
    """Return the seeds that once found something: seed and operations, a comment behind them."""
    found = []
    for line in KEPT.read_text("utf-8").splitlines():
        facts = line.partition("#")[0].split()
        if facts:
            found.append((int(facts[0]), int(facts[1])))
    return found


@pytest.mark.parametrize("first", range(1, SEEDS + 1, AT_ONCE))
def test_a_world_comes_to_rest_with_all_that_users_saved(first: int) -> None:
    done = sum(play(seed, OPERATIONS).operations for seed in range(first, first + AT_ONCE))
    assert done >= AT_ONCE * OPERATIONS


@pytest.mark.parametrize(("seed", "operations"), kept_seeds())
def test_a_seed_that_once_failed_stays_mended(seed: int, operations: int) -> None:
    assert play(seed, operations).operations >= operations


def test_the_same_seed_is_the_same_world() -> None:
    first, second = play(7, OPERATIONS), play(7, OPERATIONS)
    assert (first.virtual_s, first.met) == (second.virtual_s, second.met)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1001, 2001, AT_ONCE))
def test_a_thousand_worlds(first: int) -> None:
    done = sum(play(seed, 200).operations for seed in range(first, first + AT_ONCE))
    assert done >= AT_ONCE * 200
