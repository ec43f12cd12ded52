"""Bugs that are planted on purpose: the simulation must find each of them."""

from __future__ import annotations

import pytest

from tests.support.simulation.planted import BUGS, Plant, PlantLost, hunt, planted

SEEDS = range(1, 501)
OPERATIONS = 200
QUICK_OPERATIONS = 50

EASY = (
    "last-writer-wins",
    "swap-before-the-data-is-durable",
    "children-of-a-moved-directory-given-new-revisions",
)
"""What a few small worlds find."""


def originals() -> dict[str, list[object]]:
    """Return for each bug the functions that it replaces."""
    found: dict[str, list[object]] = {}
    for name in BUGS:
        with planted(name) as plant:
            found[name] = [original for _, _, original in plant.replaced]
    return found


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_is_planted_and_taken_out_again(name: str) -> None:
    before = originals()[name]
    with planted(name) as plant:
        assert plant.replaced
        for owner, attribute, original in plant.replaced:
            assert vars(owner)[attribute] is not original
        places = plant.replaced
    assert originals()[name] == before
    assert [vars(owner)[attribute] for owner, attribute, _ in places] == before


def test_a_bug_whose_place_is_gone_says_so() -> None:
    with pytest.raises(PlantLost, match="no_such_function"):
        Plant().replace(pytest, "no_such_function", lambda original: original)


def test_every_bug_says_what_it_is() -> None:
    assert len(BUGS) >= 15
    assert all(bug.__doc__ for bug in BUGS.values())


@pytest.mark.parametrize("name", EASY)
def test_a_few_worlds_find_what_is_easy(name: str) -> None:
    found = hunt(name, range(1, 21), QUICK_OPERATIONS)
    assert found.is_found
    assert found.ran


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_each_planted_bug_is_found(name: str) -> None:
    found = hunt(name, SEEDS, OPERATIONS)
    assert found.is_found, f"{len(SEEDS)} worlds did not find it; it ran {found.ran} times"
    assert found.ran
