"""Placing where two entries are names of one file: each rename of ours moves the ctime of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from syncline.core.entries import Kind
from syncline.core.identity import ROOT_ID
from syncline.core.names import Name
from syncline.core.plans import KeepCopy
from tests.support.placing import PlacingWorld
from tests.support.simulation.disk import Operation
from tests.support.simulation.user_side import User


def linked(kind: Kind, *paths: bytes, has_exchange: bool = True) -> PlacingWorld:
    """Let the user have one file or link under several names; all sides know of them."""
    world = PlacingWorld(has_exchange=has_exchange)
    world.begin(f"{paths[0].decode()}{'@' if kind is Kind.LINK else '='}old")
    for path in paths[1:]:
        world.user.link(paths[0], path)
    world.rest()
    world.check_equal()
    world.pass_time()
    return world


def rotate(world: PlacingWorld, paths: Sequence[str]) -> None:
    """Let the other replica give each entry the name of the next one."""
    ids = [world.other.at(path) for path in paths]
    assert world.other.shift(ids[-1], (ROOT_ID, Name(b"for a moment")))
    for id, path in reversed(list(zip(ids, paths[1:], strict=False))):
        assert world.other.shift(id, (ROOT_ID, Name(path.encode())))
    assert world.other.shift(ids[-1], (ROOT_ID, Name(paths[0].encode())))


def placed_at_once(world: PlacingWorld) -> None:
    """Place what the other replica did, in one batch."""
    world.other.sync()
    world.scan()
    world.pull()
    placed = world.place(world.plan().placing)
    assert (placed.looks, placed.problems, placed.rescued) == ((), (), ())
    world.rest()
    world.check_equal()


@pytest.mark.parametrize("has_exchange", [True, False])
@pytest.mark.parametrize("kind", [Kind.FILE, Kind.LINK])
@pytest.mark.parametrize("names", [("x", "y"), ("x", "y", "z")])
@pytest.mark.parametrize("edited", ["", "x", "y"])
def test_names_of_one_file_change_places(
    names: Sequence[str], edited: str, kind: Kind, *, has_exchange: bool
) -> None:
    paths = [name.encode() for name in names]
    world = linked(kind, *paths, has_exchange=has_exchange)
    rotate(world, names)
    if edited:
        world.edit(edited, b"new")
    placed_at_once(world)
    assert world.paths() == {path: b"new" if path.decode() == edited else b"old" for path in paths}


@pytest.mark.parametrize("has_exchange", [True, False])
def test_a_conflict_at_one_name_of_a_file_lets_the_other_be_moved(*, has_exchange: bool) -> None:
    world = linked(Kind.FILE, b"x", b"y", has_exchange=has_exchange)
    world.user.write(b"x", world.known(b"mine"))
    world.edit("x", b"theirs")
    assert world.other.shift(world.other.at("y"), (ROOT_ID, Name(b"z")))
    world.other.sync()
    world.scan()
    world.pull()
    plan = world.plan()
    assert any(isinstance(action, KeepCopy) for action in plan.placing)
    placed = world.place(plan.placing)
    assert (placed.looks, placed.problems, placed.rescued) == ((), (), ())
    world.rest()
    world.check_equal()
    assert sorted(world.paths().values()) == [b"mine", b"mine", b"theirs"]


def _write(world: PlacingWorld, user: User, path: bytes) -> None:
    user.write(path, world.known(b"mine"))


def _chmod(world: PlacingWorld, user: User, path: bytes) -> None:
    user.chmod(path, 0o600)


@pytest.mark.parametrize("has_exchange", [True, False])
@pytest.mark.parametrize("act", [_write, _chmod])
def test_what_a_user_does_by_the_other_name_meanwhile_is_kept(
    act: Callable[[PlacingWorld, User, bytes], None], *, has_exchange: bool
) -> None:
    number, is_reached = 0, True
    while is_reached:
        world = linked(Kind.FILE, b"x", b"y", b"z", has_exchange=has_exchange)
        rotate(world, ("x", "y", "z"))
        world.edit("x", b"new")
        world.other.sync()
        world.scan()
        world.pull()
        plan = world.plan()
        done: list[bytes] = []

        def meanwhile(
            at: int,
            operation: Operation,
            world: PlacingWorld = world,
            number: int = number,
            done: list[bytes] = done,
        ) -> None:
            old = [path for path, raw in world.paths().items() if raw == b"old"]
            if at >= number and not done and old:
                # Who finds a lease waits: he comes a moment later.
                with suppress(BlockingIOError):
                    act(world, world.user, old[-1])
                    done.append(old[-1])

        with world.before_each(meanwhile):
            world.place(plan.placing)
        is_reached = bool(done)
        world.rest()
        tree = world.user.tree()
        if is_reached and act is _write:
            assert b"mine" in world.paths().values()
        elif is_reached:
            assert 0o600 in {tree[path].mode for path in world.paths()}
        assert b"new" in world.paths().values()
        number += 1
    assert number > 10
