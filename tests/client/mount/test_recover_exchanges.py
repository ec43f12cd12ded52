"""A crash inside an exchange in steps: no place stays empty, and nothing is deleted or lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.posix_files import PosixFiles
from syncline.client.mount.confirming import note_intents
from syncline.client.mount.own_directory import open_own
from syncline.client.mount.place import Applier
from syncline.client.mount.place_batch import Ground, born_of, fingerprint
from syncline.client.mount.recover import put_back
from syncline.client.mount.staged_content import Inline
from syncline.core.fingerprints import Seen
from syncline.core.identity import ReplicaId, digest_of
from syncline.core.plans import Alter, Exchange, Placing
from syncline.core.trees import Abilities, state_of
from syncline.ports.files import EXCHANGE_PREFIX
from syncline.ports.mount_state import MountFacts
from tests.support.placing import CountedIds, PlacingWorld, crash_at
from tests.support.placing_scenes import CONFLICTS, SCENES, world_before
from tests.support.simulation.disk import Crashed, Operation
from tests.support.trees import file, id_of

SWAPS = ("edit", "edit link", "move and edit", "replace", "replace by link", "conflict")
EXCHANGES = ("swap", "swap directories")
STEPS = ("exchange.move", "exchange.unlink")


def stopped(name: str, *, is_ordered: bool = True) -> Iterator[PlacingWorld]:
    """Yield a world for each step of each exchange of a scene, at which the process has died."""
    for number in count():
        world = world_before(SCENES[name], is_ordered=is_ordered, has_exchange=False, seed=number)
        plan = world.plan()
        if not crash_at_step(world, number, partial(world.place, plan.placing)):
            assert number >= 2
            world.rest()
            world.check_equal()
            return
        yield world


def crash_at_step(world: PlacingWorld, number: int, act: Callable[[], object]) -> bool:
    """Kill the process before one step of an exchange; tell whether it came that far."""
    left = number

    def kill(_: int, operation: Operation) -> None:
        nonlocal left
        if operation.name in STEPS:
            left -= 1
            if left < 0:
                raise Crashed

    try:
        with world.before_each(kill):
            act()
    except Crashed:
        return True
    return False


def check_mended(world: PlacingWorld, name: str) -> None:
    table = world.server.live()
    world.start()
    assert not [path for path in world.paths() if EXCHANGE_PREFIX in path]
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == CONFLICTS.get(name, 0)
    if name not in CONFLICTS:
        assert world.server.live() == table, "the mount changed nothing"


@pytest.mark.parametrize("name", [*SWAPS, *EXCHANGES])
def test_a_kill_at_each_step_is_mended(name: str) -> None:
    for world in stopped(name):
        world.crash(power_loss=False)
        check_mended(world, name)


@pytest.mark.parametrize("is_ordered", [True, False])
@pytest.mark.parametrize("name", [*SWAPS, *EXCHANGES])
def test_a_power_loss_at_each_step_is_mended(name: str, is_ordered: bool) -> None:
    for world in stopped(name, is_ordered=is_ordered):
        world.crash(power_loss=True)
        check_mended(world, name)


@pytest.mark.parametrize("name", SCENES)
def test_a_kill_anywhere_is_mended_without_exchanges(name: str) -> None:
    for number in count(len(name) % 3, 3):
        world = world_before(SCENES[name], has_exchange=False, seed=number)
        plan = world.plan()
        if not crash_at(world, number, partial(world.place, plan.placing)):
            break
        world.crash(power_loss=False)
        check_mended(world, name)


@pytest.mark.parametrize("name", ["edit", "replace", "conflict", "swap", "swap directories"])
def test_a_second_crash_while_the_first_is_mended_does_no_harm(name: str) -> None:
    for world in stopped(name):
        world.crash(power_loss=False)
        for number in count(0, 3):
            if not crash_at(world, number, world.start):
                break
            world.crash(power_loss=False)
        check_mended(world, name)


def crash_between(world: PlacingWorld, at: str, act: Callable[[], object], *, before: str) -> None:
    """Let a user act before one operation, and kill the process before the same or a later one."""
    has_acted = False

    def kill(_: int, operation: Operation) -> None:
        nonlocal has_acted
        if operation.name == at and not has_acted:
            has_acted = True
            act()
        if has_acted and operation.name == before:
            raise Crashed

    plan = world.plan()
    with pytest.raises(Crashed), world.before_each(kill):
        world.place(plan.placing)


def test_what_a_user_saved_in_the_last_instant_keeps_its_place() -> None:
    world = world_before(lambda world: world.edit("d/f", b"edited"), has_exchange=False)
    saved = world.known(b"saved in the last instant")
    act = partial(world.user.save, b"d/f", saved)
    crash_between(world, "exchange", act, before="exchange.move")
    world.crash(power_loss=False)
    assert b"d/f" not in world.paths()
    world.start()
    assert world.paths()[b"d/f"] == saved
    world.rest()
    world.check_equal()
    assert saved in world.paths().values()


def test_what_a_user_makes_at_the_empty_place_stays_there() -> None:
    world = world_before(lambda world: world.edit("d/f", b"edited"), has_exchange=False)
    made = world.known(b"made in between")
    act = partial(world.user.write, b"d/f", made)
    crash_between(world, "exchange.move", act, before="exchange.move")
    world.crash(power_loss=False)
    assert world.leftovers()
    world.start()
    assert world.paths()[b"d/f"] == made
    assert not [path for path in world.paths() if EXCHANGE_PREFIX in path]
    world.rest()
    world.check_equal()
    assert made in world.paths().values()


@pytest.mark.parametrize("is_saved", [False, True])
def test_who_takes_the_empty_place_under_a_running_mount_leaves_nothing_behind(
    is_saved: bool,
) -> None:
    world = world_before(lambda world: world.edit("d/f", b"edited"), has_exchange=False)
    plan = world.plan()
    saved, made = world.known(b"saved in the last instant"), world.known(b"made in between")
    done: list[str] = []

    def act(_: int, operation: Operation) -> None:
        is_first = operation.name not in done
        done.append(operation.name)
        if operation.name == "exchange" and is_saved and is_first:
            world.user.save(b"d/f", saved)
        if operation.name == "exchange.move" and is_first:
            world.user.write(b"d/f", made)

    with world.before_each(act):
        world.place(plan.placing)
    assert "exchange.move" in done
    world.rest()
    world.check_equal()
    assert world.leftovers() == []
    found = set(world.paths().values())
    assert made in found
    assert (saved in found) == is_saved


def test_what_is_nobodys_gets_a_name_in_the_root() -> None:
    world = PlacingWorld(has_exchange=False)
    world.begin("f")
    for home in (b"staging", b"displaced"):
        world.user.write(b".syncline/" + home + b"/" + EXCHANGE_PREFIX + b"7", b"a " + home)
    world.crash(power_loss=False)
    world.start()
    world.scan()
    assert {b"a staging", b"a displaced", b"f"} == set(world.paths().values())
    assert len(world.conflicts()) == 2
    assert world.leftovers() == []


def test_of_two_names_of_one_file_the_lost_one_is_given_back() -> None:
    world = PlacingWorld(has_exchange=False)
    world.begin("x=big")
    world.user.link(b"x", b"again")
    world.rest()
    world.other.sync()
    world.edit("x", b"big edited")
    world.edit("again", b"again edited")
    world.other.sync()
    world.scan()
    world.pull()
    world.pass_time()
    plan = world.plan()
    assert crash_at_step(world, 0, lambda: world.place(plan.placing))
    world.crash(power_loss=False)
    table = world.server.live()
    world.start()
    assert {b"x", b"again"} == world.paths().keys()
    world.rest()
    assert world.server.live() == table
    world.check_equal()


# -- a real file system ------------------------------------------------------------


class Killed(BaseException):
    """The process is dead: raised by every later step."""


class FixedClock:
    """A clock that is far from the times of all files."""

    def wall_ns(self) -> int:
        return 2**62

    def monotonic_s(self) -> float:
        return 0.0


class RealMount:
    """A real directory on a file system without the flags of `renameat2`; `a` and `b` in it."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.state = MemoryMountState(MountFacts(ReplicaId(bytes(16)), None, None))
        entries = {name: file(name, content=b"old " + name.encode()) for name in "ab"}
        self.old = {name: state_of(entry) for name, entry in entries.items()}
        self.files = PosixFiles(os.fsencode(at), has_rename_flags=False)
        with closing(self.files.open_root()) as root, self.state.session() as session:
            for name, state in self.old.items():
                (at / name).write_bytes(b"old " + name.encode())
                (at / name).chmod(state.mode)
                os.utime(at / name, ns=(0, state.mtime_ns))
                status = root.look(name.encode())
                assert status is not None
                seen = Seen(state, fingerprint(status, born_of(root, name.encode())))
                session.set_remote(entries[name], "x", is_confirmed=False)
                session.set_base(id_of(name), state)
                session.set_local(id_of(name), seen)

    def edit(self) -> Placing:
        """Return the action that brings new content."""
        return Alter(id_of("a"), self.old["a"], state_of(file("a", content=b"new")))

    def swap(self) -> Placing:
        """Return the action that lets both change places."""
        one, other = self.old["a"], self.old["b"]
        return Exchange(
            Alter(id_of("a"), one, one.at(other.place)),
            Alter(id_of("b"), other, other.at(one.place)),
        )

    def place(self, action: Placing) -> None:
        """Begin a process, and carry out an action."""
        with closing(self.files.open_root()) as root, closing(open_own(root)) as own:
            clock, device = FixedClock(), root.status().device
            applier = Applier(root, own, device, CountedIds(), clock, "here", Abilities())
            with self.state.session() as session:
                note_intents(session, [action])
            with self.state.session() as session:
                applier.place(session, [action], {digest_of(b"new"): Inline(b"new")})
                session.forget_intents()

    def recover(self) -> None:
        """Begin another process."""
        self.state.crash()
        with closing(self.files.open_root()) as root, closing(open_own(root)) as own:
            ground = Ground(root, own, root.status().device, FixedClock(), "here", Abilities())
            with self.state.session() as session:
                put_back(session, ground)

    def found(self) -> dict[str, bytes]:
        """Return what the user sees."""
        return {path.name: path.read_bytes() for path in self.at.iterdir() if path.is_file()}


def kill_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Kill the process before one of the system calls that an exchange in steps makes."""
    left = number

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: object, **options: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            real(*arguments, **options)

        return called

    for name in ("rename", "link", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


OUTCOMES = {
    "edit": [{"a": b"old a", "b": b"old b"}, {"a": b"new", "b": b"old b"}],
    "swap": [{"a": b"old a", "b": b"old b"}, {"a": b"old b", "b": b"old a"}],
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_kill_at_each_system_call_leaves_the_old_or_the_new(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for number in count():
        at = tmp_path / str(number)
        at.mkdir()
        mount = RealMount(at)
        action = mount.edit() if name == "edit" else mount.swap()
        try:
            with monkeypatch.context() as patched:
                kill_at(patched, number)
                mount.place(action)
        except Killed:
            mount.recover()
            seen.append(mount.found())
            assert not [path for path in at.rglob("*") if EXCHANGE_PREFIX in os.fsencode(path)]
        else:
            break
    assert len(seen) >= 4
    assert [each for each in OUTCOMES[name] if each in seen] == OUTCOMES[name]
    assert [each for each in seen if each not in OUTCOMES[name]] == []
