"""What other replicas do, for each kind of action of a plan; small enough to stop at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from syncline.core.entries import Kind
from syncline.core.names import Name
from syncline.core.trees import Place
from tests.support.placing import PlacingWorld

Scene = Callable[[PlacingWorld], None]

BEGIN = ("d/", "d/f=one", "d/g=two", "e/", "e/h=three", "l@target", "x=big", "y=small")


def _place(world: PlacingWorld, path: str) -> Place:
    parent, _, name = path.rpartition("/")
    return world.other.at(parent), Name(name.encode())


def _shift(world: PlacingWorld, path: str, to_path: str) -> None:
    assert world.other.shift(world.other.at(path), _place(world, to_path))


def _create(world: PlacingWorld) -> None:
    world.make("n", b"new")
    world.make("d/n", b"newer")
    world.make("m@", b"where", Kind.LINK)


def _create_tree(world: PlacingWorld) -> None:
    world.make("t", kind=Kind.DIRECTORY)
    world.make("t/u", kind=Kind.DIRECTORY)
    world.make("t/u/n", b"new")


def _edit(world: PlacingWorld) -> None:
    world.edit("d/f", b"one edited")
    world.edit("x", b"big edited")


def _edit_link(world: PlacingWorld) -> None:
    world.edit("l", b"elsewhere")


def _chmod(world: PlacingWorld) -> None:
    world.other.chmod(world.other.at("x"), 0o640)
    world.other.chmod(world.other.at("d"), 0o700)


def _move(world: PlacingWorld) -> None:
    _shift(world, "d/f", "e/f")
    _shift(world, "y", "z")


def _move_directory(world: PlacingWorld) -> None:
    _shift(world, "d", "e/d")


def _move_and_edit(world: PlacingWorld) -> None:
    world.edit("d/f", b"one edited")
    _shift(world, "d/f", "e/f")
    world.other.chmod(world.other.at("e/f"), 0o600)


def _hand_over(world: PlacingWorld) -> None:
    """Let others take the places of what was moved and edited."""
    world.edit("d/f", b"one edited")
    _shift(world, "d/f", "e/f")
    world.make("d/f", b"another one")
    world.other.delete(world.other.at("y"))
    _shift(world, "x", "y")
    world.edit("y", b"big edited")
    world.make("x", b"yet another one")


def _swap(world: PlacingWorld) -> None:
    assert world.other.swap(world.other.at("x"), world.other.at("y"))


def _swap_directories(world: PlacingWorld) -> None:
    assert world.other.swap(world.other.at("d"), world.other.at("e"))


def _rotate(world: PlacingWorld) -> None:
    _shift(world, "x", "w")
    _shift(world, "y", "x")
    _shift(world, "d/f", "y")
    _shift(world, "w", "d/f")


def _nest(world: PlacingWorld) -> None:
    world.make("d/n", kind=Kind.DIRECTORY)
    _shift(world, "e", "d/n/e")
    world.make("e", b"has its place")


def _turn_inside_out(world: PlacingWorld) -> None:
    _shift(world, "d", "e/d")
    _shift(world, "e/d", "w")
    _shift(world, "e", "w/d")
    _shift(world, "w", "e")


def _wrap(world: PlacingWorld) -> None:
    """Let what was in a directory be what is around it."""
    world.make("d/s", kind=Kind.DIRECTORY)
    world.other.sync()
    world.rest()
    world.make("d/s/n", kind=Kind.DIRECTORY)
    _shift(world, "d/s", "s")
    _shift(world, "d", "s/n/d")


def _remove(world: PlacingWorld) -> None:
    world.other.delete(world.other.at("x"))
    world.other.delete(world.other.at("l"))


def _remove_tree(world: PlacingWorld) -> None:
    world.other.delete(world.other.at("d"))


def _replace(world: PlacingWorld) -> None:
    world.other.delete(world.other.at("x"))
    world.make("x", b"another one")


def _replace_by_link(world: PlacingWorld) -> None:
    world.other.delete(world.other.at("x"))
    world.make("x", b"target", Kind.LINK)


def _conflict(world: PlacingWorld) -> None:
    world.user.write(b"x", world.known(b"mine"))
    world.user.write(b"d/f", world.known(b"mine too"))
    world.edit("x", b"theirs")
    world.edit("d/f", b"theirs too")
    _shift(world, "d/f", "e/f")


def _drop(world: PlacingWorld) -> None:
    world.user.write(b"x", world.known(b"mine"))
    world.user.rename(b"x", b"d/x")
    world.edit("x", b"theirs")
    world.make("d/x", b"theirs")


def _replace_by_directory(world: PlacingWorld) -> None:
    world.other.delete(world.other.at("x"))
    world.make("x", kind=Kind.DIRECTORY)
    world.make("x/n", b"new")


SCENES: Mapping[str, Scene] = {
    "create": _create,
    "create tree": _create_tree,
    "edit": _edit,
    "edit link": _edit_link,
    "chmod": _chmod,
    "move": _move,
    "move directory": _move_directory,
    "move and edit": _move_and_edit,
    "hand over": _hand_over,
    "swap": _swap,
    "swap directories": _swap_directories,
    "rotate": _rotate,
    "nest": _nest,
    "turn inside out": _turn_inside_out,
    "wrap": _wrap,
    "remove": _remove,
    "remove tree": _remove_tree,
    "replace": _replace,
    "replace by link": _replace_by_link,
    "replace by directory": _replace_by_directory,
    "conflict": _conflict,
    "drop": _drop,
}

CONFLICTS: Mapping[str, int] = {"conflict": 2, "drop": 1}
"""How many conflict copies a scene makes."""


def world_before(
    scene: Scene, *, is_ordered: bool = True, has_exchange: bool = True, seed: int = 1
) -> PlacingWorld:
    """Return a world at rest, in which another replica has then stored what a scene says."""
    world = PlacingWorld(is_ordered=is_ordered, has_exchange=has_exchange, seed=seed)
    world.begin(*BEGIN)
    world.check_equal()
    scene(world)
    world.other.sync()
    world.scan()
    world.pull()
    world.pass_time()
    return world
