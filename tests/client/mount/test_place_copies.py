"""An edit that loses is replaced only where its content has another name that was looked at."""

from __future__ import annotations

import errno
from contextlib import suppress
from itertools import count

import pytest

from syncline.core.conflict_names import conflict_name
from syncline.core.identity import digest_of
from syncline.core.names import Name
from syncline.core.plans import Alter, KeepCopy, Plan
from syncline.errors import LocalFailure
from tests.support.placing import MOUNT_NAME, PlacingWorld
from tests.support.placing_scenes import SCENES, world_before
from tests.support.simulation.disk import Operation

MINE = b"mine"
OTHERS_COPY = b"x (conflict of other, 0123abcd)"


def own_copy(name: bytes, content: bytes) -> bytes:
    """Return the name that a conflict copy has here."""
    found = conflict_name(Name(name), MOUNT_NAME, digest_of(content), lambda _: False)
    return bytes(found)


def contested(name: bytes, *second: bytes) -> tuple[PlacingWorld, Plan]:
    """Let a file be edited on both sides, and the user have his content under other names, too.

    Returned is a plan that counts on those: it makes no copy.
    """
    world = PlacingWorld()
    world.begin(f"{name.decode()}=old")
    for each in (name, *second):
        world.user.write(each, world.known(MINE))
    world.edit(name.decode(), b"theirs")
    world.other.sync()
    world.scan()
    world.pull()
    world.pass_time()
    plan = world.plan()
    assert any(isinstance(action, Alter) for action in plan.placing)
    assert not second or not any(isinstance(action, KeepCopy) for action in plan.placing)
    return world, plan


SECOND_NAMES = {
    "conflict name": (b"x", own_copy(b"x", MINE)),
    "plain name": (OTHERS_COPY, b"x"),
    "another conflict name": (OTHERS_COPY, own_copy(b"x", MINE)),
}


@pytest.mark.parametrize("case", SECOND_NAMES)
def test_a_second_name_lets_an_edit_be_replaced(case: str) -> None:
    name, second = SECOND_NAMES[case]
    world, plan = contested(name, second)
    placed = world.place(plan.placing)
    assert (placed.looks, placed.problems, placed.lacking) == ((), (), ())
    assert world.paths() == {name: b"theirs", second: MINE}
    world.rest()
    world.check_equal()
    assert world.paths() == {name: b"theirs", second: MINE}


@pytest.mark.parametrize("case", SECOND_NAMES)
def test_a_second_name_that_is_gone_by_now_does_not(case: str) -> None:
    name, second = SECOND_NAMES[case]
    world, plan = contested(name, second)
    world.user.unlink(second)
    placed = world.place(plan.placing)
    assert placed.entries == frozenset()
    assert placed.looks
    assert world.paths() == {name: MINE}
    world.rest()
    world.check_equal()
    assert MINE in world.paths().values()


@pytest.mark.parametrize("name", [b"x", own_copy(b"x", MINE)], ids=["plain", "conflict"])
def test_the_name_of_an_edit_is_no_second_one(name: bytes) -> None:
    world, plan = contested(name)
    # The part of the plan that makes the second name failed.
    rest = [action for action in plan.placing if not isinstance(action, KeepCopy)]
    placed = world.place(rest)
    assert placed.entries == frozenset()
    assert world.paths() == {name: MINE}
    world.rest()
    world.check_equal()
    assert sorted(world.paths().values()) == [MINE, b"theirs"]


def test_a_second_name_with_another_content_is_none() -> None:
    world, _ = contested(b"x")
    world.user.write(own_copy(b"x", MINE), world.known(b"edited, and longer"))
    world.scan()
    rest = [action for action in world.plan().placing if not isinstance(action, KeepCopy)]
    assert world.place(rest).entries == frozenset()
    assert world.paths()[b"x"] == MINE
    world.rest()
    world.check_equal()
    assert sorted(world.paths().values()) == [b"edited, and longer", MINE, b"theirs"]


def test_a_second_name_is_where_an_edit_moves_to() -> None:
    world = world_before(SCENES["conflict"])
    second = b"e/" + own_copy(b"f", b"mine too")
    world.user.write(second, b"mine too")
    world.scan()
    plan = world.plan()
    world.place([action for action in plan.placing if not isinstance(action, KeepCopy)])
    paths = world.paths()
    assert (paths[b"e/f"], paths[second]) == (b"theirs too", b"mine too")
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == 2


@pytest.mark.parametrize("name", ["conflict", "drop"])
def test_trouble_with_a_copy_takes_nothing_of_its_source(name: str) -> None:
    for number in count():
        world = world_before(SCENES[name])
        plan = world.plan()
        before = {each for each in world.paths().values() if each.startswith(b"mine")}
        is_done = False

        def spoil(each: int, operation: Operation, number: int = number) -> None:
            nonlocal is_done
            if each == number:
                is_done = True
                raise OSError(errno.EIO, "Input/output error")

        with world.before_each(spoil), suppress(LocalFailure):
            world.place(plan.placing)
        if not is_done:
            assert number > 20
            break
        world.let_go()
        assert before <= set(world.paths().values()), number
        # What was staged is cleared by the next start.
        world.crash(power_loss=False)
        world.start()
        world.rest()
        world.check_equal()
        assert before <= set(world.paths().values()), number
