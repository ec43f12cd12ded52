"""Each row of the tables in `docs/RECONCILE.md`, played on the model until all is quiet."""

from __future__ import annotations

import pytest

from tests.support.merge import paths_of
from tests.support.outcomes import Row, grown, play, play_row, rows

ROWS = rows()
CHANGES = ("edit", "make", "delete", "chmod", "touch", "move", "swap", "mkdir", "link")


def test_the_page_has_every_kind_of_change_on_both_sides() -> None:
    assert len(ROWS) > 100
    assert len({(row.here, row.there) for row in ROWS}) == len(ROWS)
    for verb in CHANGES:
        for cell in ("here", "there"):
            assert any(f"{verb} " in getattr(row, cell) for row in ROWS), (verb, cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.here} | {row.there}")
def test_both_end_with_what_the_page_says(row: Row) -> None:
    world, found = play_row(row)
    assert found == row.outcome
    world.check_equal()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.here} | {row.there}")
def test_a_third_replica_that_did_nothing_ends_equal_after_any_cut(row: Row) -> None:
    world = grown("here", "there", "idle")
    here, there, _ = world.replicas
    play(here, row.here)
    play(there, row.there)
    there.sync()
    here.pull()
    plan = here.plan()
    here.carry_out(plan, placed=len(plan.placing) // 2, sent=len(plan.sending) // 2)
    world.rest()
    world.check_equal()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.here} | {row.there}")
def test_who_hears_nothing_of_the_other_learns_by_refusals(row: Row) -> None:
    world = grown("here", "there")
    here, there = world.replicas
    play(here, row.here)
    play(there, row.there)
    there.sync()
    here.carry_out(here.plan())
    world.rest()
    world.check_equal()
    assert paths_of(here.local) == paths_of(there.local)
