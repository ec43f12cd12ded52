"""What a batch takes back: what a user does to it just then is kept (P2)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from syncline.core.plans import KeepCopy, Plan
from syncline.ports.watcher import Mark
from tests.support.placing import PlacingWorld
from tests.support.simulation.disk import Crashed, Operation
from tests.support.simulation.user_side import Node, User, Writer

MINE, THEIRS, SAVED = b"mine", b"theirs", b"what the user saved"

UserAct = Callable[[User, bytes], None]


def _overwrite(user: User, path: bytes) -> None:
    user.write(path, SAVED)


def _save(user: User, path: bytes) -> None:
    user.save(path, SAVED)


def _replace_by_directory(user: User, path: bytes) -> None:
    user.unlink(path)
    user.mkdir(path)
    user.write(path + b"/inside", SAVED)


def _save_both(user: User, path: bytes) -> None:
    """Save another content over the source, and go on in the copy, which has its old one."""
    user.save(path.partition(b"/")[0] + b"/x", b"saved over the source")
    user.write(path, SAVED)


ACTS = (_overwrite, _save, _replace_by_directory, _save_both)


def contested(*, is_ordered: bool = True) -> tuple[PlacingWorld, Plan, KeepCopy]:
    """Let a file in a directory be edited on both sides; return what makes the copy, too."""
    world = PlacingWorld(is_ordered=is_ordered)
    world.begin("d/", "d/x=old")
    world.user.write(b"d/x", world.known(MINE))
    world.edit("d/x", THEIRS)
    world.other.sync()
    world.scan()
    world.pull()
    world.pass_time()
    plan = world.plan()
    [copy] = [action for action in plan.placing if isinstance(action, KeepCopy)]
    return world, plan, copy


def _leave(world: PlacingWorld, operation: Operation) -> None:
    """Let the directory leave its place as soon as the copy is made."""
    if world.conflicts() and world.user.exists(b"d"):
        world.user.rename(b"d", b"moved")


def _refuse(world: PlacingWorld, operation: Operation) -> None:
    """Let the source keep its content: the swap fails."""
    if operation.name == "exchange":
        raise OSError(errno.EIO, "Input/output error")


CAUSES = {"the directory left": _leave, "the swap failed": _refuse}


@contextmanager
def taken_back(
    world: PlacingWorld, cause: str, act: Callable[[int], None] = lambda _: None
) -> Iterator[None]:
    """Let a batch take its copy back; `act` gets the number of the operation to come."""

    def at(each: int, operation: Operation) -> None:
        act(each)
        CAUSES[cause](world, operation)

    with world.before_each(at):
        yield


def run(cause: str, act: UserAct, number: int) -> bool:
    """Let the user act on the copy before one operation; tell whether the batch came that far."""
    world, plan, _ = contested()
    last, is_done = -1, False

    def at(each: int) -> None:
        nonlocal last, is_done
        last = each
        if each == number and (copies := world.conflicts()):
            act(world.user, copies[0])
            is_done = True

    with taken_back(world, cause, at):
        world.place(plan.placing)
    world.rest()
    world.check_equal()
    there = list(world.paths().values())
    assert THEIRS in there, number
    if is_done:
        assert SAVED in there, f"what the user saved is lost, before operation {number}"
    else:
        assert there.count(MINE) == 1, number
    return last >= number


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("act", ACTS)
def test_what_a_user_saves_over_a_copy_that_is_taken_back_is_kept(cause: str, act: UserAct) -> None:
    for number in count():
        if not run(cause, act, number):
            assert number > 20
            break


@pytest.mark.parametrize("cause", CAUSES)
def test_a_writer_of_a_copy_that_is_taken_back_writes_into_its_source(cause: str) -> None:
    """No watch tells of it by the name of the source: it is looked for until he closes it."""
    world, plan, copy = contested()
    writers: list[Writer] = []

    def at(_: int) -> None:
        if not writers and (copies := world.conflicts()):
            writers.append(world.user.open_writer(copies[0]))

    with taken_back(world, cause, at):
        world.place(plan.placing)
    [writer] = writers
    assert world.conflicts() == []
    assert world.applier.is_lingering
    assert world.let_go() == ()
    for _ in range(2):
        world.pass_time()
        writer.write(SAVED)
        source = copy.expected.place
        assert world.let_go() == (Mark(*source, is_written=True),)
        assert world.let_go() == ()
    writer.close()
    assert world.let_go() == ()
    assert world.leftovers() == []
    world.rest()
    world.check_equal()
    assert sorted(world.paths().values()) == sorted([b"", THEIRS, 2 * SAVED])


@pytest.mark.parametrize("is_ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("power_loss", [True, False], ids=["power loss", "kill"])
@pytest.mark.parametrize("cause", CAUSES)
def test_a_crash_while_a_copy_is_taken_back_loses_neither_side(
    cause: str, power_loss: bool, is_ordered: bool
) -> None:
    for number in count():
        world, plan, _ = contested(is_ordered=is_ordered)

        def kill(each: int, number: int = number) -> None:
            if each == number:
                raise Crashed

        try:
            with taken_back(world, cause, kill):
                world.place(plan.placing)
        except Crashed:
            world.crash(power_loss=power_loss)
            world.start()
            world.rest()
            world.check_equal()
            assert {MINE, THEIRS} <= set(world.paths().values()), number
        else:
            assert number > 20
            break


def _chmod(user: User, path: bytes) -> None:
    user.chmod(path, 0o600)


@pytest.mark.parametrize("act", [_overwrite, _save, _chmod])
def test_attributes_that_are_taken_back_are_not_those_of_a_user(act: UserAct) -> None:
    is_taken_back = 0
    for number in count():
        world = PlacingWorld()
        world.begin("d/", "d/x=old")
        world.other.chmod(world.other.at("d/x"), 0o640)
        world.other.sync()
        world.pull()
        world.pass_time()
        plan = world.plan()
        before = world.user.tree()[b"d/x"]
        given: list[Node] = []

        def at(
            each: int,
            operation: Operation,
            number: int = number,
            world: PlacingWorld = world,
            given: list[Node] = given,
        ) -> None:
            if world.user.exists(b"d") and world.user.tree()[b"d/x"].mode == 0o640:
                world.user.rename(b"d", b"moved")
            # RACE: what he sets between the last look and this call is set back.
            is_late = operation.name == "file.set_mode"
            if each == number and world.user.exists(b"moved") and not is_late:
                act(world.user, b"moved/x")
                given.append(world.user.tree()[b"moved/x"])

        with world.before_each(at):
            world.place(plan.placing)
        there = world.user.tree()[b"moved/x"]
        if given:
            assert (there.mode, there.mtime_ns) == (given[0].mode, given[0].mtime_ns), number
        else:
            is_taken_back += there == before
        world.rest()
        world.check_equal()
        if number > 40:
            break
    assert is_taken_back
