"""A user acts before any file operation of a batch: what he saved is never lost (E2, G1, G9)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from random import Random

import pytest

from syncline.core.plans import Create
from tests.support.placing import PlacingWorld
from tests.support.placing_scenes import SCENES, world_before
from tests.support.simulation.disk import Operation
from tests.support.simulation.user_side import User

SAVED = b"what the user saved"
PATHS = (b"x", b"y", b"d/f", b"d/g", b"n", b"d/n", b"l", b"e/f", b"t")

UserAct = Callable[[User, bytes], None]


def _overwrite(user: User, path: bytes) -> None:
    user.read(path)
    user.write(path, SAVED)


def _append(user: User, path: bytes) -> None:
    user.read(path)
    writer = user.open_writer(path)
    try:
        writer.write(SAVED)
        writer.truncate(len(SAVED))
    finally:
        writer.close()


def _save(user: User, path: bytes) -> None:
    user.save(path, SAVED)


def _create(user: User, path: bytes) -> None:
    if user.exists(path):
        raise FileExistsError
    user.write(path, SAVED)


def _delete(user: User, path: bytes) -> None:
    user.unlink(path)


def _rename(user: User, path: bytes) -> None:
    user.rename(path, b"renamed by the user")


def _replace_by_directory(user: User, path: bytes) -> None:
    user.unlink(path)
    user.mkdir(path)
    user.write(path + b"/inside", SAVED)


def _replace_by_link(user: User, path: bytes) -> None:
    user.unlink(path)
    user.symlink(path, b"/etc/passwd")


def _chmod(user: User, path: bytes) -> None:
    user.chmod(path, 0o600)


ACTS: Mapping[str, UserAct] = {
    "overwrite": _overwrite,
    "write in place": _append,
    "save": _save,
    "create": _create,
    "delete": _delete,
    "rename": _rename,
    "replace by directory": _replace_by_directory,
    "replace by link": _replace_by_link,
    "chmod": _chmod,
}


def given_up(user: User, path: bytes) -> set[bytes]:
    """Return what is at a path: what an act there may overwrite."""
    with suppress(OSError):
        return {user.read(path)}
    return set()


def _forgo_copy(user: User, path: bytes) -> None:
    """Delete the conflict copy that was just made, and go on in its source."""
    for other in user.tree():
        if b"conflict" in other:
            user.unlink(other)
    _append(user, path)


SAVING = frozenset({_overwrite, _append, _save, _create, _replace_by_directory, _forgo_copy})


def run(
    name: str,
    act: UserAct,
    path: bytes,
    number: int,
    later: tuple[UserAct, int] | None = None,
) -> bool:
    """Let the user act before one operation; tell whether it came that far.

    `later`: what he does as well, so many operations after that.
    """
    world = world_before(SCENES[name])
    plan = world.plan()
    wanted_before = remote_contents(world)
    gone: set[bytes] = set()
    acts = {number: act}
    if later is not None:
        acts[number + later[1]] = later[0]
    done: list[UserAct] = []
    last = -1

    def at(each: int, operation: Operation) -> None:
        nonlocal last
        last = each
        if each in acts:
            before = given_up(world.user, path)
            with suppress(OSError):
                acts[each](world.user, path)
                done.append(acts[each])
            gone.update(before - given_up(world.user, path))

    with world.before_each(at):
        world.place(plan.placing)
    if last < max(acts):
        return False
    saved = bool(done) and done[-1] in SAVING
    world.rest()
    world.check_equal()
    there = set(world.paths().values())
    assert remote_contents(world) <= there
    if saved:
        assert SAVED in there, "what the user saved is lost"
    lost = wanted_before - there - gone
    assert not lost, lost
    return True


def remote_contents(world: PlacingWorld) -> set[bytes]:
    return {
        world.contents[state.content.digest]
        for state in world.server.live().values()
        if state.content is not None
    }


@pytest.mark.parametrize("name", SCENES)
def test_what_a_user_does_meanwhile_is_kept(name: str) -> None:
    """Some of the moments; `run` with any other is as good."""
    random = Random(name)
    for act in ACTS.values():
        for path in random.sample(PATHS, 4):
            run(name, act, path, random.randrange(50))


def test_what_is_saved_at_any_moment_of_a_swap_is_kept() -> None:
    for act in (_overwrite, _append, _save):
        for number in count():
            if not run("edit", act, b"x", number):
                assert number > 20
                break


@pytest.mark.parametrize("name", ["create", "edit", "move and edit", "rotate", "remove tree"])
def test_what_is_done_in_a_directory_that_is_moved_out_is_undone(name: str) -> None:
    undone = 0
    for number in count():
        world = world_before(SCENES[name])
        plan = world.plan()
        outside = User(world.disk, b"outside")
        before = contents_of(User(world.disk, b"mount/d"))
        taken: dict[bytes, bytes] = {}

        def at(
            each: int,
            operation: Operation,
            number: int = number,
            world: PlacingWorld = world,
            taken: dict[bytes, bytes] = taken,
        ) -> None:
            if each == number:
                User(world.disk).rename(b"mount/d", b"outside/d")
                taken.update(contents_of(User(world.disk, b"outside/d")))

        with world.before_each(at):
            world.place(plan.placing)
        if not outside.exists(b"d"):
            break
        after = contents_of(User(world.disk, b"outside/d"))
        # RACE: after the last look nothing can be undone; then all was done before.
        assert after in (before, taken)
        undone += after == before != taken
        world.rest()
        world.check_equal()
    assert undone > 0


def _delete_tree(user: User) -> None:
    user.rmtree(b"d")


def _rename_tree(user: User) -> None:
    user.rename(b"d", b"renamed by the user")


@pytest.mark.parametrize("act", [_delete_tree, _rename_tree])
@pytest.mark.parametrize("name", ["nest", "rotate", "swap directories", "turn inside out", "wrap"])
def test_a_directory_that_leaves_its_place_takes_nothing_else_along(
    name: str, act: Callable[[User], None]
) -> None:
    """Nor does local lose its form, whatever of the batch could be taken back."""
    for number in count():
        world = world_before(SCENES[name])
        before = set(world.paths().values())
        plan = world.plan()
        done: list[set[bytes]] = []

        def at(
            each: int,
            operation: Operation,
            number: int = number,
            world: PlacingWorld = world,
            done: list[set[bytes]] = done,
        ) -> None:
            if each == number:
                inside = User(world.disk, b"mount/d").tree() if world.user.exists(b"d") else {}
                with suppress(OSError):
                    act(world.user)
                done.append({node.content for node in inside.values()})

        with world.before_each(at):
            world.place(plan.placing)
        if not done:
            assert number > 10
            break
        gone = done[0] if act is _delete_tree else set()
        wanted = remote_contents(world)
        world.rest()
        world.check_equal()
        assert (before & wanted) - gone <= set(world.paths().values())


def test_a_directory_is_not_moved_into_itself_where_a_user_just_took_the_two_apart() -> None:
    """The kernel would do it; local would have a ring, and whoever looks for a path no end."""
    for number in count():
        world = world_before(SCENES["wrap"])
        before = set(world.paths().values())
        actions = sorted(world.plan().placing, key=lambda each: not isinstance(each, Create))
        done: list[int] = []

        def at(
            each: int,
            operation: Operation,
            number: int = number,
            world: PlacingWorld = world,
            done: list[int] = done,
        ) -> None:
            if each == number:
                done.append(each)
                with suppress(OSError):
                    world.user.rename(b"d/s", b"renamed by the user")

        with world.before_each(at):
            world.place(actions)
        if not done:
            assert number > 10
            break
        world.rest()
        world.check_equal()
        assert before == set(world.paths().values())


def contents_of(user: User) -> dict[bytes, bytes]:
    return {path: node.content for path, node in user.tree().items()}


def test_who_deletes_the_copy_and_goes_on_in_its_source_loses_nothing() -> None:
    for number in count():
        if not run("conflict", _forgo_copy, b"x", number):
            assert number > 20
            break


@pytest.mark.parametrize("then", [_overwrite, _append, _save])
def test_what_is_saved_over_a_thing_that_is_just_taken_back_is_kept(then: UserAct) -> None:
    for number in count():
        steps = [run("edit", _other_kind, b"x", number, (then, step)) for step in range(1, 5)]
        if not any(steps):
            assert number > 20
            break


def _other_kind(user: User, path: bytes) -> None:
    user.unlink(path)
    user.symlink(path, b"/etc/passwd")


@pytest.mark.parametrize("name", ["edit", "remove"])
def test_what_cannot_be_given_a_name_at_once_gets_one_soon(name: str) -> None:
    world = world_before(SCENES[name])
    plan = world.plan()
    moves = count()

    def spoil(each: int, operation: Operation) -> None:
        if operation.name == "exchange" or (operation.name == "move" and name == "remove"):
            with suppress(OSError):
                _append(world.user, b"x")
        if operation.name == "move" and b"displaced" in operation.path and next(moves) < 3:
            raise OSError(errno.EIO, "Input/output error")

    with world.before_each(spoil):
        world.place(plan.placing)
    world.pass_time()
    world.let_go()
    assert world.leftovers() == []
    world.rest()
    world.check_equal()
    assert SAVED in world.paths().values()


def test_what_lies_in_a_directory_that_could_not_be_listed_gets_a_name_soon() -> None:
    world = world_before(SCENES["edit"])
    plan = world.plan()

    def spoil(each: int, operation: Operation) -> None:
        if operation.name == "exchange":
            with suppress(OSError):
                _append(world.user, b"x")
        if operation.name == "move" and b"displaced" in operation.path:
            world.disk.fail(errno.EIO, operation="list")
            raise OSError(errno.EIO, "Input/output error")

    with world.before_each(spoil), pytest.raises(OSError, match="error"):
        world.place(plan.placing)
    world.pass_time()
    world.let_go()
    assert world.leftovers() == []
    world.rest()
    world.check_equal()
    assert SAVED in world.paths().values()


def test_what_is_to_get_back_into_a_directory_that_is_deleted_just_then_is_kept() -> None:
    world = world_before(SCENES["edit"])
    plan = world.plan()
    writer = world.user.open_writer(b"d/f")
    world.place(plan.placing)
    writer.write(SAVED)
    writer.close()

    def delete(each: int, operation: Operation) -> None:
        if operation.name == "move" and world.user.exists(b"d"):
            world.user.rmtree(b"d")

    with world.before_each(delete):
        world.let_go()
    assert not world.user.exists(b"d")
    world.let_go()
    assert world.leftovers() == []
    world.rest()
    assert any(content.startswith(SAVED) for content in world.paths().values())


def test_a_disk_that_turns_read_only_in_the_middle_leaves_nothing_out() -> None:
    world = world_before(SCENES["edit"])
    plan = world.plan()

    def freeze(each: int, operation: Operation) -> None:
        if operation.name == "exchange":
            world.disk.fail(errno.EROFS, operation="exchange", times=None)
            world.disk.fail(errno.EROFS, operation="move", times=None)

    with world.before_each(freeze):
        world.place(plan.placing)
    world.disk.heal()
    world.pass_time()
    world.let_go()
    world.let_go()
    assert world.user.tree(b".syncline/displaced") == {}
    world.rest()
    world.check_equal()
