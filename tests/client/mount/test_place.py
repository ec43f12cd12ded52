"""Placing on a disk at rest: each kind of action, what it leaves, and what it costs."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.system import SystemClock
from syncline.client.mount.own_directory import STAGING, open_own
from syncline.client.mount.place import Applier
from syncline.client.mount.staged_content import Inline, StagedFile
from syncline.client.mount.walker import OPEN_MAX
from syncline.core.entries import Entry, Kind
from syncline.core.identity import ROOT_ID, Digest, digest_of
from syncline.core.names import RESERVED_ROOT_NAME, Name
from syncline.core.plans import Alter, Create, KeepCopy, Placing, Remove
from syncline.core.trees import Abilities, state_of
from syncline.errors import LocalFailure
from syncline.ports.mount_state import MountFacts
from syncline.ports.watcher import Mark
from tests.support.placing import CountedIds, PlacingWorld
from tests.support.placing_scenes import SCENES, world_before
from tests.support.simulation.disk import Operation
from tests.support.trees import directory, file, id_of, link

SYNCS = ("sync", "file.sync", "sync_all")


@pytest.mark.parametrize("name", SCENES)
def test_each_kind_of_action_is_placed_and_leaves_nothing(name: str) -> None:
    world = world_before(SCENES[name])
    handles = world.disk.open_handles
    world.place(world.plan().placing)
    assert world.disk.open_handles == handles
    assert world.placed[-1].problems == world.placed[-1].lacking == ()
    if name != "conflict":
        assert world.placed[-1].looks == world.placed[-1].rescued == ()
    world.rest()
    world.check_equal()


def remote_file(world: PlacingWorld, name: str, **other: int) -> None:
    """Let the other replica make a file with a mode or mtime of its own."""
    id = world.make(name, name.encode())
    world.other.local[id] = replace(world.other.local[id], **other)


def test_modes_and_times_arrive_exactly() -> None:
    world = PlacingWorld()
    remote_file(world, "old", mtime_ns=-(10**18) + 1)
    remote_file(world, "future", mtime_ns=8 * 10**18 + 7)
    remote_file(world, "zero", mtime_ns=0)
    remote_file(world, "secret", mode=0o600)
    remote_file(world, "fixed", mode=0o444)
    world.other.sync()
    world.rest()
    world.check_equal()
    tree = world.user.tree()
    assert tree[b"old"].mtime_ns == -(10**18) + 1
    assert tree[b"future"].mtime_ns == 8 * 10**18 + 7
    assert tree[b"zero"].mtime_ns == 0
    assert (tree[b"secret"].mode, tree[b"fixed"].mode) == (0o600, 0o444)


def test_modes_are_left_alone_where_the_file_system_has_none() -> None:
    world = PlacingWorld(abilities=Abilities(has_modes=False))
    world.begin("f", "d/")
    world.other.chmod(world.other.at("f"), 0o600)
    world.edit("f", b"other")
    world.other.sync()
    operations = world.operations(world.rest)
    assert not [each for each in operations if each.name in ("set_mode", "file.set_mode")]
    assert world.paths() == {b"f": b"other", b"d": b""}


def test_a_path_is_never_missing_while_its_content_changes() -> None:
    for name in ("edit", "edit link", "replace", "replace by link", "conflict"):
        world = world_before(SCENES[name])
        plan = world.plan()
        there: list[bool] = []

        def look(
            number: int,
            operation: Operation,
            world: PlacingWorld = world,
            there: list[bool] = there,
        ) -> None:
            there.append(world.user.exists(b"x") and world.user.exists(b"l"))

        with world.before_each(look):
            world.place(plan.placing)
        assert all(there)


def test_what_has_no_content_yet_is_left_out_with_what_serves_it() -> None:
    for name in ("edit", "replace", "conflict", "move and edit"):
        world = world_before(SCENES[name])
        before = world.paths()
        plan = world.plan()
        world.lacking = set(world.contents)
        placed = world.place(plan.placing)
        assert placed.lacking
        assert (placed.problems, placed.done) == ((), 0)
        assert world.paths() == before
        world.lacking = set()
        world.rest()
        world.check_equal()


def test_a_thousand_files_cost_few_syncs() -> None:
    world = PlacingWorld()
    world.make("d", kind=Kind.DIRECTORY)
    for number in range(1_000):
        world.make(f"d/{number}", b"content %d" % number)
    world.other.sync()
    world.scan()
    world.pull()
    plan = world.plan()
    world.disk.counts.clear()
    placed = world.place(plan.placing)
    assert placed.done == 1_001
    assert sum(world.disk.counts[each] for each in SYNCS) == 3
    world.rest()
    world.check_equal()


def test_more_directories_than_are_kept_open() -> None:
    world = PlacingWorld()
    for number in range(OPEN_MAX + 20):
        world.make(f"{number}", kind=Kind.DIRECTORY)
        world.make(f"{number}/d", kind=Kind.DIRECTORY)
        world.make(f"{number}/d/f", b"content %d" % number)
    deep = "deep"
    world.make(deep, kind=Kind.DIRECTORY)
    for _ in range(OPEN_MAX + 20):
        deep += "/d"
        world.make(deep, kind=Kind.DIRECTORY)
    world.make(deep + "/f", b"at the bottom")
    world.other.sync()
    world.rest()
    world.check_equal()


def test_a_conflict_copy_without_hard_links() -> None:
    for error in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
        world = world_before(SCENES["conflict"])
        world.disk.fail(error, operation="link", times=None)
        world.rest()
        world.check_equal()
        assert len(world.conflicts()) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENOSPC, "no_space"),
        (errno.EACCES, "denied"),
        (errno.EROFS, "read_only"),
        (errno.EIO, "io"),
        (errno.EMFILE, "too_many_files"),
    ],
)
@pytest.mark.parametrize("operation", ["create", "file.write", "move", "exchange", "file.sync"])
def test_trouble_with_one_entry_is_its_own(operation: str, error: int, code: str) -> None:
    world = world_before(SCENES["edit"])
    world.make("n", b"new")
    world.other.sync()
    world.pull()
    plan = world.plan()
    world.disk.fail(error, operation=operation)
    placed = world.place(plan.placing)
    assert [problem.code for problem in placed.problems] == [code]
    assert placed.done == 2
    world.rest()
    world.check_equal()
    assert world.conflicts() == []


def test_nothing_is_named_whose_bytes_may_be_lost() -> None:
    world = PlacingWorld()
    for number in range(20):
        world.make(f"{number}", b"content %d" % number)
    world.make("d", kind=Kind.DIRECTORY)
    world.other.sync()
    world.scan()
    world.pull()
    plan = world.plan()
    world.disk.fail(errno.EIO, operation="sync_all")
    placed = world.place(plan.placing)
    assert len(placed.problems) == 20
    assert world.paths() == {b"d": b""}
    assert world.leftovers() == []


def test_names_that_do_not_become_durable_are_not_recorded() -> None:
    world = world_before(SCENES["create"])
    plan = world.plan()
    world.disk.fail(errno.EIO, operation="sync")
    with pytest.raises(LocalFailure):
        world.place(plan.placing)
    with world.state.session() as session:
        assert session.child(ROOT_ID, Name(b"n")) is None
    world.crash(power_loss=False)
    world.start()
    world.rest()
    world.check_equal()
    assert world.conflicts() == []


# -- late writers ----------------------------------------------------------------


def edited_under_a_writer(
    name: str,
) -> tuple[PlacingWorld, Callable[[bytes], None], Callable[[], None]]:
    """Place a change of a file that a user has open; return how he writes, and closes."""
    world = world_before(SCENES[name])
    plan = world.plan()
    writer = world.user.open_writer(b"x")
    world.place(plan.placing)
    assert len(world.leftovers()) == 1
    return world, writer.write, writer.close


@pytest.mark.parametrize("name", ["edit", "remove", "replace"])
def test_what_a_writer_has_open_lingers_until_he_closes_it(name: str) -> None:
    world, _, close = edited_under_a_writer(name)
    assert world.let_go() == ()
    assert len(world.leftovers()) == 1
    close()
    assert world.let_go() == ()
    world.rest()
    world.check_equal()
    assert world.conflicts() == []


@pytest.mark.parametrize("name", ["edit", "remove", "replace"])
def test_a_look_that_is_refused_for_once_takes_nothing_from_a_writer(name: str) -> None:
    world, write, close = edited_under_a_writer(name)
    world.pass_time()
    world.let_go()
    world.disk.fail(errno.EACCES, operation="open")
    world.let_go()
    world.pass_time()
    write(b"written late, and longer")
    close()
    assert len(world.let_go()) == 1
    world.rest()
    world.check_equal()
    assert b"written late, and longer" in world.paths().values()


@pytest.mark.parametrize("name", ["edit", "replace"])
def test_what_a_late_writer_writes_becomes_a_conflict_copy(name: str) -> None:
    world, write, close = edited_under_a_writer(name)
    world.pass_time()
    write(b"written late, and longer")
    [mark] = world.let_go()
    assert isinstance(mark, Mark)
    write(b" and later still")
    close()
    world.rest()
    world.check_equal()
    [copy] = world.conflicts()
    assert world.paths()[copy] == b"written late, and longer and later still"


def test_what_is_written_late_into_a_removed_file_comes_back_under_its_name() -> None:
    world, write, close = edited_under_a_writer("remove")
    world.pass_time()
    write(b"written late, and longer")
    close()
    assert len(world.let_go()) == 1
    world.rest()
    world.check_equal()
    assert world.paths()[b"x"] == b"written late, and longer"


def test_a_late_writer_of_a_conflict_writes_into_the_copy() -> None:
    world = world_before(SCENES["conflict"])
    plan = world.plan()
    writer = world.user.open_writer(b"x")
    world.place(plan.placing)
    world.pass_time()
    writer.write(b"written late, and longer")
    writer.close()
    world.let_go()
    world.rest()
    world.check_equal()
    assert len(world.conflicts()) == 2
    assert b"written late, and longer" in world.paths().values()


def test_a_late_writer_of_a_conflict_is_looked_for_until_he_closes_it() -> None:
    """What he writes is in the copy, and no watch tells of it by the name of the copy."""
    world = world_before(SCENES["conflict"])
    plan = world.plan()
    copies = [action for action in plan.placing if isinstance(action, KeepCopy)]
    [copy] = [action for action in copies if action.expected.name == b"x"]
    writer = world.user.open_writer(b"x")
    world.place(plan.placing)
    assert world.let_go() == ()
    assert world.applier.is_lingering
    for _ in range(2):
        world.pass_time()
        writer.write(b"written late")
        assert world.let_go() == (Mark(*copy.wanted.place, is_written=True),)
        assert world.let_go() == ()
    writer.close()
    assert world.let_go() == ()
    assert not world.applier.is_lingering
    assert world.leftovers() == []


def test_letting_go_costs_nothing_when_nothing_lingers() -> None:
    world = world_before(SCENES["edit"])
    world.place(world.plan().placing)
    assert world.operations(world.let_go) == []


# -- a real file system ------------------------------------------------------------


class Posix:
    """A mount in a real directory, and its session."""

    def __init__(self, path: Path) -> None:
        self.path = path
        ids = CountedIds()
        self.state = MemoryMountState(MountFacts(ids.replica(), ids.volume(), None))
        self.root = PosixFiles(bytes(path)).open_root()
        self.own = open_own(self.root)
        device = self.root.status().device
        self.applier = Applier(self.root, self.own, device, ids, SystemClock(), "here", Abilities())

    def place(
        self,
        entries: list[Entry],
        actions: list[Placing],
        contents: dict[Digest, Inline | StagedFile],
    ) -> None:
        with self.state.session() as session:
            for entry in entries:
                session.set_remote(entry, "other", is_confirmed=False)
            placed = self.applier.place(session, actions, contents)
        assert (placed.problems, placed.looks, placed.lacking) == ((), (), ())
        assert placed.done == len(actions)
        with self.state.session() as session:
            assert self.applier.let_go(session) == ()

    def close(self) -> None:
        self.own.close()
        self.root.close()


def test_a_real_directory_holds_what_was_placed(tmp_path: Path) -> None:
    mount = Posix(tmp_path)
    old = [directory("d"), file("f", "d", content=b"one"), link("l"), file("g", mode=0o444)]
    mount.place(
        old,
        [Create(entry.id, state_of(entry)) for entry in old],
        {digest_of(raw): Inline(raw) for raw in (b"one", b"content")},
    )
    new = [file("f", "d", b"h", revision=2, content=b"two", mode=0o600, mtime_ns=-5)]
    mount.place(
        new,
        [
            Alter(id_of("f"), state_of(old[1]), state_of(new[0])),
            Remove(id_of("l"), state_of(old[2])),
        ],
        {digest_of(b"two"): Inline(b"two")},
    )
    mount.close()
    assert (tmp_path / "d" / "h").read_bytes() == b"two"
    status = (tmp_path / "d" / "h").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o600, -5)
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o444
    assert sorted(each.name for each in tmp_path.iterdir()) == [".syncline", "d", "g"]
    own = tmp_path / ".syncline"
    assert [each for each in own.rglob("*") if not each.is_dir()] == []


def test_a_staged_file_is_moved_to_its_place_and_copied_for_a_second_one(tmp_path: Path) -> None:
    mount = Posix(tmp_path)
    raw = bytes(range(256)) * 8_192
    name = digest_of(raw).hex().encode()
    staging = tmp_path / RESERVED_ROOT_NAME.decode() / STAGING.decode()
    (staging / name.decode()).write_bytes(raw)
    inode = (staging / name.decode()).stat().st_ino
    entries = [file("a", content=raw), file("b", content=raw)]
    mount.place(
        entries,
        [Create(entry.id, state_of(entry)) for entry in entries],
        {digest_of(raw): StagedFile(name)},
    )
    mount.close()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == raw
    assert inode in {(tmp_path / each).stat().st_ino for each in "ab"}
    assert list(staging.iterdir()) == []
