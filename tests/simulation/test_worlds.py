"""Whole worlds from seeds: server, mounts, users, faults, crashes, and what must then be true."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from syncline.core.safety import HaltReason
from tests.support.simulation.met import KINDS, REPEATED, REPLAYED, SWAPPED, brake
from tests.support.simulation.world import play

SEEDS = 200
OPERATIONS = 50
AT_ONCE = 10

KEPT = Path(__file__).parent.parent / "seeds.txt"


def kept_seeds() -> list[tuple[int, int, bool]]:
    """Return the seeds that once found something: seed, operations, and whether it is plain."""
    found = []
    for line in KEPT.read_text("utf-8").splitlines():
        facts = line.partition("#")[0].split()
        if facts:
            found.append((int(facts[0]), int(facts[1]), "plain" in facts[2:]))
    return found


@pytest.mark.parametrize("first", range(1, SEEDS + 1, AT_ONCE))
def test_a_world_comes_to_rest_with_all_that_users_saved(first: int) -> None:
    seeds = range(first, first + AT_ONCE)
    done = sum(play(seed, OPERATIONS).operations for seed in seeds)
    assert done >= AT_ONCE * OPERATIONS


@pytest.mark.parametrize(("seed", "operations", "is_plain"), kept_seeds())
def test_a_seed_that_once_failed_stays_mended(
    seed: int, operations: int, *, is_plain: bool
) -> None:
    assert play(seed, operations, is_plain=is_plain).operations >= operations


@pytest.mark.parametrize("is_plain", [True, False])
def test_the_same_seed_is_the_same_world(*, is_plain: bool) -> None:
    first, second = (play(7, OPERATIONS, is_plain=is_plain) for _ in range(2))
    assert (first.virtual_s, first.met) == (second.virtual_s, second.met)


def test_a_world_with_trouble_counts_what_it_met() -> None:
    met = sum((play(seed, OPERATIONS).met for seed in range(1, 7)), Counter[str]())
    assert met[REPEATED] and met[REPLAYED] and met[SWAPPED]
    assert any(met[brake(reason)] for reason in HaltReason)
    assert not any(name.startswith(("race:", "brake:")) and name not in KINDS for name in met)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1001, 2001, AT_ONCE))
def test_a_thousand_worlds(first: int) -> None:
    done = sum(play(seed, 200).operations for seed in range(first, first + AT_ONCE))
    assert done >= AT_ONCE * 200
