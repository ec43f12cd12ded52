"""Late writers of files with several names: what they write is looked for until they are done.

A watch tells of a write by the name that the file had when it was opened. Where that name is gone,
or ours, no watch tells of it by the names in the mount.
"""

from __future__ import annotations

import pytest

from syncline.core.identity import ROOT_ID
from syncline.core.plans import KeepCopy
from syncline.ports.watcher import Mark
from tests.support.placing import PlacingWorld
from tests.support.simulation.disk import Operation
from tests.support.simulation.user_side import Writer

MINE, THEIRS, SAVED = b"mine", b"theirs", b"saved over it"
LATE = b"written late"


def contested() -> PlacingWorld:
    """Let `x` be edited on both sides."""
    world = PlacingWorld()
    world.begin("x=old")
    world.user.write(b"x", world.known(MINE))
    world.edit("x", THEIRS)
    world.other.sync()
    world.scan()
    world.pull()
    world.pass_time()
    return world


def place(world: PlacingWorld) -> KeepCopy:
    """Place all at once; return what was to make the copy."""
    plan = world.plan()
    world.place(plan.placing)
    [copy] = [action for action in plan.placing if isinstance(action, KeepCopy)]
    return copy


def take_back(world: PlacingWorld) -> None:
    """Let a batch make the copy and take it back, because the swap fails."""

    def refuse(_: int, operation: Operation) -> None:
        if operation.name == "exchange":
            raise OSError(5, "Input/output error")

    with world.before_each(refuse):
        place(world)
    assert world.conflicts() == []
    assert world.applier.is_lingering


def write(world: PlacingWorld, writer: Writer) -> tuple[Mark, ...]:
    """Let him write; return where that makes the mount look."""
    world.pass_time()
    writer.write(LATE)
    return world.let_go()


def check_followed(world: PlacingWorld, writer: Writer, name: bytes) -> None:
    """Fail where he writes, and the mount does not look at a name in the root."""
    for _ in range(2):
        assert Mark(ROOT_ID, name, is_written=True) in write(world, writer)
        assert world.let_go() == ()
        world.scan()


def end(world: PlacingWorld, writer: Writer) -> None:
    """Let him close the file: nothing is kept for him then, and both sides are equal."""
    writer.close()
    world.let_go()
    assert world.leftovers() == []
    world.rest()
    world.check_equal()


def test_a_writer_of_a_rescued_file_is_looked_for_until_he_closes_it() -> None:
    """He opened it by a name over which the user saved; the one that is left is ours."""
    world = contested()
    writer = world.user.open_writer(b"x")
    take_back(world)
    world.user.save(b"x", SAVED)
    [rescued] = write(world, writer)
    assert rescued.name is not None
    assert world.let_go() == ()
    check_followed(world, writer, rescued.name)
    end(world, writer)
    assert sorted(world.paths().values()) == sorted([SAVED, THEIRS, 3 * LATE])


def test_a_rescued_file_that_the_user_deletes_is_rescued_again_when_it_is_written_to() -> None:
    world = contested()
    writer = world.user.open_writer(b"x")
    take_back(world)
    world.user.save(b"x", SAVED)
    [first] = write(world, writer)
    assert first.name is not None
    world.user.unlink(bytes(first.name))
    assert world.let_go() == ()
    [second] = write(world, writer)
    assert second.name is not None
    assert world.user.read(bytes(second.name)) == 2 * LATE
    check_followed(world, writer, second.name)
    end(world, writer)


def test_a_power_loss_leaves_what_was_rescued() -> None:
    for seed in range(20):
        world = PlacingWorld(is_ordered=False, seed=seed)
        world.begin("x=old")
        world.edit("x", THEIRS)
        world.other.sync()
        world.pull()
        writer = world.user.open_writer(b"x")
        world.place(world.plan().placing)
        assert len(write(world, writer)) == 1
        writer.close()
        world.let_go()
        world.crash(power_loss=True)
        world.start()
        world.rest()
        world.check_equal()
        assert sorted(world.paths().values()) == sorted([THEIRS, LATE]), seed


def test_a_writer_of_a_copy_is_found_where_the_user_moved_it() -> None:
    world = contested()
    writer = world.user.open_writer(b"x")
    copy = place(world)
    world.user.rename(copy.wanted.name, b"mine")
    world.scan()
    check_followed(world, writer, b"mine")
    end(world, writer)
    assert world.paths() == {b"x": THEIRS, b"mine": 2 * LATE}


def test_what_is_written_into_a_copy_that_the_user_deleted_is_rescued_though_we_have_it_twice() -> (
    None
):
    world = contested()
    writer = world.user.open_writer(b"x")
    take_back(world)
    world.pass_time()
    copy = place(world)
    assert len(world.leftovers()) == 2
    world.user.unlink(copy.wanted.name)
    world.scan()
    assert write(world, writer) != ()
    end(world, writer)
    assert sorted(world.paths().values()) == sorted([THEIRS, LATE + MINE[len(LATE) :]])


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_writer_of_a_copy_is_looked_for_after_a_restart(*, is_moved: bool) -> None:
    world = contested()
    writer = world.user.open_writer(b"x")
    name = bytes(place(world).wanted.name)
    if is_moved:
        world.user.rename(name, b"mine")
        name = b"mine"
        world.scan()
    world.crash(power_loss=False)
    writer.write(LATE)
    world.start()
    check_followed(world, writer, name)
    end(world, writer)
    assert world.paths() == {b"x": THEIRS, name: 3 * LATE}


def test_a_writer_of_what_is_rescued_after_a_restart_is_looked_for() -> None:
    world = contested()
    writer = world.user.open_writer(b"x")
    take_back(world)
    world.user.save(b"x", SAVED)
    world.crash(power_loss=False)
    writer.write(LATE)
    world.start()
    assert world.conflicts() != []
    [name] = [path for path, raw in world.paths().items() if raw == LATE]
    check_followed(world, writer, name)
    end(world, writer)
    assert sorted(world.paths().values()) == sorted([SAVED, THEIRS, 3 * LATE])


def test_what_we_have_twice_is_rescued_once() -> None:
    """A rescued file was deleted on the other side, and its writer goes on."""
    world = PlacingWorld()
    world.begin("x=old")
    world.edit("x", THEIRS)
    world.other.sync()
    world.pull()
    writer = world.user.open_writer(b"x")
    world.place(world.plan().placing)
    [rescued] = write(world, writer)
    assert rescued.name is not None
    world.rest()
    world.other.delete(world.other.at(rescued.name.decode()))
    world.rest()
    assert world.paths() == {b"x": THEIRS}
    assert len(world.leftovers()) == 2
    assert write(world, writer) != ()
    end(world, writer)
    assert sorted(world.paths().values()) == sorted([THEIRS, 2 * LATE])
