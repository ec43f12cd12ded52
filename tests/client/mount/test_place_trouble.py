"""An operation of a batch fails: nothing is left out of the mount, and nothing is invented.

What was done before the failure and is not recorded would look like a user's change.
"""

from __future__ import annotations

import errno
from itertools import count

import pytest

from syncline.errors import LocalFailure
from tests.support.placing import PlacingWorld
from tests.support.placing_scenes import CONFLICTS, SCENES, world_before
from tests.support.simulation.disk import Operation


def failing_at(world: PlacingWorld, number: int) -> tuple[bool, bool]:
    """Place with one operation that fails; tell whether it came that far, and whether all failed.

    All of a batch fails where its names cannot be made durable.
    """
    plan = world.plan()
    is_done = False

    def fail(each: int, operation: Operation) -> None:
        nonlocal is_done
        if each == number:
            is_done = True
            raise OSError(errno.EIO, "Input/output error")

    try:
        with world.before_each(fail):
            world.place(plan.placing)
    except (LocalFailure, OSError):
        return is_done, True
    return is_done, False


def left_out(world: PlacingWorld) -> list[bytes]:
    """Return what of the mount is in the client's own directory."""
    own = world.user.tree(b".syncline")
    return [path for path in own if path.startswith((b"displaced/", b"aside/"))]


@pytest.mark.parametrize("name", [each for each in SCENES if each not in CONFLICTS])
def test_trouble_at_any_step_changes_nothing_for_the_others(name: str) -> None:
    whole_failures = 0
    for number in count():
        world = world_before(SCENES[name])
        wanted = world.server.live()
        is_done, is_whole = failing_at(world, number)
        if not is_done:
            assert number > 3
            break
        whole_failures += is_whole
        world.pass_time()
        world.let_go()
        assert left_out(world) == [], number
        world.rest()
        if not is_whole:
            assert world.server.live() == wanted, number
    assert whole_failures < number / 3


@pytest.mark.parametrize("name", CONFLICTS)
def test_trouble_at_any_step_leaves_nothing_of_a_conflict_out(name: str) -> None:
    for number in count():
        world = world_before(SCENES[name])
        mine = {content for content in world.paths().values() if content.startswith(b"mine")}
        is_done, _ = failing_at(world, number)
        if not is_done:
            assert number > 20
            break
        world.pass_time()
        world.let_go()
        assert left_out(world) == [], number
        world.rest()
        assert mine <= set(world.paths().values()), number
        assert not [path for path in world.paths() if path.startswith(b"rescued-")]
