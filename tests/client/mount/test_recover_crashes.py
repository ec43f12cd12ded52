"""A crash before any file operation of a batch: nothing lost, torn, left behind or in conflict."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from tests.support.placing import PlacingWorld, crash_at
from tests.support.placing_scenes import CONFLICTS, SCENES, world_before

DELETED = (b"n", b"d/n", b"x", b"d/f", b"t/u/n", b"m")


def crashed(
    name: str, *, is_ordered: bool = True, power_loss: bool = False, step: int = 1
) -> Iterator[PlacingWorld]:
    """Yield a world for each operation, or each of some, before which a batch can end."""
    for number in count(len(name) % step, step):
        world = world_before(SCENES[name], is_ordered=is_ordered, seed=number)
        plan = world.plan()
        if not crash_at(world, number, partial(world.place, plan.placing)):
            assert number > len(plan.placing)
            world.rest()
            world.check_equal()
            return
        world.crash(power_loss=power_loss)
        yield world


def check_mended(world: PlacingWorld, name: str) -> None:
    """Fail where the mount does not become what the scene wants."""
    whole = {*world.contents.values(), b""}
    assert set(world.paths().values()) <= whole, "a torn file"
    world.start()
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == CONFLICTS.get(name, 0)


@pytest.mark.parametrize("name", SCENES)
def test_a_kill_anywhere_is_mended(name: str) -> None:
    for world in crashed(name):
        check_mended(world, name)


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("name", SCENES)
def test_a_power_loss_anywhere_is_mended(name: str, is_ordered: bool) -> None:
    for world in crashed(name, is_ordered=is_ordered, power_loss=True, step=5):
        check_mended(world, name)


@pytest.mark.parametrize("name", [each for each in SCENES if each not in CONFLICTS])
def test_the_server_may_go_on_before_the_restart(name: str) -> None:
    for world in crashed(name, step=5):
        for path in ("n", "d/n", "x", "d/f", "e/f", "t/u/n", "l"):
            places = world.other.paths()
            if path in places and not places[path].is_directory:
                world.edit(path, b"newest " + path.encode())
        world.other.sync()
        check_mended(world, name)


# Not "rotate": what is put back from aside under a name of its own counts as moved, and a delete
# yields to a move.
@pytest.mark.parametrize("name", [each for each in SCENES if each not in {*CONFLICTS, "rotate"}])
def test_the_server_may_delete_before_the_restart_what_was_placed(name: str) -> None:
    for world in crashed(name, step=5):
        for path in map(bytes.decode, DELETED):
            places = world.other.paths()
            if path in places and not places[path].is_directory:
                world.other.delete(world.other.at(path))
        world.other.sync()
        deleted = set(DELETED) - {path.encode() for path in world.other.paths()}
        world.pull()
        check_mended(world, name)
        assert not deleted & world.paths().keys()


@pytest.mark.parametrize("name", ["edit", "replace", "rotate", "remove", "conflict"])
def test_a_second_crash_while_the_first_is_mended_does_no_harm(name: str) -> None:
    for world in crashed(name, step=7):
        for number in count(0, 5):
            if not crash_at(world, number, world.start):
                break
            world.crash(power_loss=False)
        check_mended(world, name)


@pytest.mark.parametrize("name", [each for each in SCENES if each not in CONFLICTS])
def test_a_second_crash_after_the_first_look_makes_no_conflict(name: str) -> None:
    for world in crashed(name, step=3):
        world.start(is_cut=True)
        for path in ("n", "d/n", "x", "d/f", "e/f", "t/u/n", "l"):
            places = world.other.paths()
            if path in places and not places[path].is_directory:
                world.edit(path, b"newest " + path.encode())
        world.other.sync()
        # What is newer is told before everything was looked at.
        world.pull()
        world.scan()
        world.crash(power_loss=False)
        check_mended(world, name)


def test_an_edit_of_a_placed_file_before_the_restart_is_an_edit_of_what_was_placed() -> None:
    for world in crashed("edit"):
        if world.user.read(b"x") == b"big edited":
            world.user.write(b"x", b"edited after it was placed")
            world.start()
            world.rest()
            world.check_equal()
            assert world.paths()[b"x"] == b"edited after it was placed"
            assert world.conflicts() == []


def test_what_a_late_writer_wrote_before_the_restart_is_rescued() -> None:
    world = world_before(SCENES["edit"])
    plan = world.plan()
    writer = world.user.open_writer(b"x")
    world.place(plan.placing)
    assert world.leftovers(), "a file that is open for writing is kept"
    world.crash(power_loss=False)
    writer.write(b"written late, and long")
    writer.close()
    world.start()
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == 1
    assert world.paths()[world.conflicts()[0]] == b"written late, and long"


def _touch(world: PlacingWorld) -> None:
    id = world.other.at("x")
    world.other.local[id] = replace(world.other.local[id], mtime_ns=77)


def _there_and_back(world: PlacingWorld) -> None:
    _edit_placed(world, b"first")
    world.edit("x", b"second")


def _edit_placed(world: PlacingWorld, raw: bytes) -> None:
    world.edit("x", raw)
    world.other.sync()
    world.pass_time()
    world.sync()
    assert world.paths()[b"x"] == raw


@pytest.mark.parametrize("change", [_touch, _there_and_back])
def test_what_an_earlier_batch_displaced_says_nothing_of_a_later_one(
    change: Callable[[PlacingWorld], None],
) -> None:
    for number in count():
        world = PlacingWorld()
        world.begin("x=first")
        writer = world.user.open_writer(b"x")
        _edit_placed(world, b"second")
        assert world.leftovers(), "a file that is open for writing is kept"
        change(world)
        world.other.sync()
        world.pull()
        plan = world.plan()
        wanted = world.server.live()
        if not crash_at(world, number, partial(world.place, plan.placing)):
            assert number > len(plan.placing)
            break
        world.crash(power_loss=False)
        world.start()
        writer.close()
        world.rest()
        world.check_equal()
        assert world.server.live() == wanted, number


def test_strange_things_in_our_directory_are_given_back() -> None:
    world = PlacingWorld()
    world.begin("f")
    world.user.write(b".syncline/displaced/strange", b"somebody's")
    world.user.write(b".syncline/aside/strange too", b"somebody else's")
    world.user.write(b".syncline/staging/place-old", b"half of something")
    world.crash(power_loss=False)
    world.start()
    world.scan()
    assert {b"somebody's", b"somebody else's", b"f"} == set(world.paths().values())
    assert world.leftovers() == []
