"""Whole worlds from seeds: server, mounts, users, faults, crashes, and what must then be true."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from syncline.core.safety import HaltReason
from tests.support.simulation.kinds import WorldKind
from tests.support.simulation.met import (
    BROKEN,
    CLONED,
    EXPIRED,
    GRANTED,
    HELD,
    IN_STEPS,
    KINDS,
    LOCKED_BY_USER,
    REPEATED,
    REPLAYED,
    STATE_OLD,
    SWAPPED,
    brake,
    refusal,
)
from tests.support.simulation.world import play

SEEDS = 200
OPERATIONS = 50
AT_ONCE = 10

KEPT = Path(__file__).parent.parent / "seeds.txt"


def kept_seeds() -> list[tuple[int, int, tuple[str, ...]]]:
    """Return the seeds that once found something: seed, operations, and what the world is."""
    found = []
    for line in KEPT.read_text("utf-8").splitlines():
        seed, operations, *words = line.partition("#")[0].split() or ("", "")
        if seed:
            found.append((int(seed), int(operations), tuple(words)))
    return found


@pytest.mark.parametrize("first", range(1, SEEDS + 1, AT_ONCE))
def test_a_world_comes_to_rest_with_all_that_users_saved(first: int) -> None:
    seeds = range(first, first + AT_ONCE)
    done = sum(play(seed, OPERATIONS, kind=short(seed)).operations for seed in seeds)
    assert done >= AT_ONCE * OPERATIONS


def short(seed: int) -> WorldKind:
    """Return the kind of a short world: its second act may take longer than its first one."""
    return replace(WorldKind.of_seed(seed), has_scenes=seed % 5 == 0)


@pytest.mark.parametrize(("seed", "operations", "words"), kept_seeds())
def test_a_seed_that_once_failed_stays_mended(
    seed: int, operations: int, words: tuple[str, ...]
) -> None:
    assert set(words) <= {"plain", "locks", "no-exchange", "scenes", "restarts"}
    kind = WorldKind.of_words(words)
    report = play(seed, operations, is_plain="plain" in words, kind=kind)
    assert report.operations >= operations


@pytest.mark.parametrize("words", ["plain", "", "scenes", "locks", "no-exchange", "restarts"])
def test_the_same_seed_is_the_same_world(words: str) -> None:
    kind = WorldKind.of_words([words])
    first, second = (play(7, OPERATIONS, is_plain=words == "plain", kind=kind) for _ in range(2))
    assert (first.virtual_s, first.met) == (second.virtual_s, second.met)


def test_each_kind_of_world_is_drawn() -> None:
    kinds = [WorldKind.of_seed(seed) for seed in range(1, SEEDS + 1)]
    for has_locks, has_exchange, has_restarts in product((True, False), repeat=3):
        assert WorldKind(has_locks, has_exchange, has_restarts=has_restarts) in kinds
    assert all(WorldKind.of_words(each.words) == each for each in kinds)


def test_a_world_with_trouble_counts_what_it_met() -> None:
    met = sum(
        (play(seed, OPERATIONS, kind=short(seed)).met for seed in range(1, 7)), Counter[str]()
    )
    assert met[REPEATED] and met[REPLAYED] and met[SWAPPED]
    assert any(met[brake(reason)] for reason in HaltReason)
    assert not any(name.startswith(("race:", "brake:")) and name not in KINDS for name in met)


def test_a_world_with_locks_counts_what_became_of_them() -> None:
    kind = WorldKind(has_locks=True, has_scenes=False)
    met = sum((play(seed, OPERATIONS, kind=kind).met for seed in range(2, 14)), Counter[str]())
    assert met[GRANTED] >= 10 and met[BROKEN] and met[EXPIRED]
    assert met[HELD] and met[LOCKED_BY_USER] and met[refusal("lock_lost")]


def test_a_world_without_exchange_does_it_in_steps() -> None:
    kind = WorldKind(has_exchange=False, has_scenes=False)
    assert play(2, OPERATIONS, kind=kind).met[IN_STEPS]
    assert not play(2, OPERATIONS, kind=replace(kind, has_exchange=True)).met[IN_STEPS]


def test_what_is_aimed_at_is_met() -> None:
    kind = WorldKind()
    met = sum((play(seed, OPERATIONS, kind=kind).met for seed in range(1, 21)), Counter[str]())
    aimed = (refusal("cycle"), refusal("atomic"), refusal("missing"), CLONED, STATE_OLD)
    assert all(met[name] for name in aimed), {name: met[name] for name in aimed}


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1001, 2001, AT_ONCE))
def test_a_thousand_worlds(first: int) -> None:
    done = sum(play(seed, 200).operations for seed in range(first, first + AT_ONCE))
    assert done >= AT_ONCE * 200
