"""What the simulated disk loses, and keeps, when a process dies or the power goes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from random import Random

import pytest

from syncline.ports.files import FileKind, Writers
from tests.support.mounts import Machine, put, refuses
from tests.support.simulation.files import SimulatedDirectory, SimulatedFiles
from tests.support.simulation.user_side import User

TRIES = 200
"""How many power losses are tried where each outcome that is legal must come about."""


@pytest.fixture
def machine() -> Machine:
    return Machine()


def place(root: SimulatedDirectory, name: bytes, *, syncs_bytes: bool) -> None:
    """Make a file aside and move it into place, without syncing a directory."""
    with closing(root.create(b"staged")) as file:
        file.write(b"content", 0)
        file.set_mode(0o640)
        if syncs_bytes:
            file.sync()
    root.move(b"staged", root, name)


def after_power_loss(prepare: Callable[[Machine], None], **options: bool) -> list[User]:
    """Return what is left after the same and many power losses."""
    left = []
    for seed in range(TRIES):
        machine = Machine(**options)
        prepare(machine)
        machine.disk.crash(Random(seed), power_loss=True)
        left.append(machine.user)
    return left


def contents(user: User) -> dict[bytes, bytes]:
    return {path: node.content for path, node in user.tree().items()}


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def is_ordered(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class TestCrashes:
    def test_a_kill_keeps_everything(self, machine: Machine) -> None:
        place(machine.root, b"file", syncs_bytes=False)
        machine.root.make_directory(b"d", 0o755)
        before = machine.user.tree()
        with closing(machine.user.open_writer(b"open")) as writer:
            held = machine.root.open(b"file")
            assert held.hold() is Writers.NONE
            machine.disk.crash(Random(1), power_loss=False)
            writer.write(b"on")
            machine.user.write(b"file", b"no lease is left")
        assert set(machine.user.tree()) == {*before, b"open"}
        assert machine.disk.open_handles == 0
        machine.disk.crash(Random(1), power_loss=True)
        with refuses(errno.EBADF):
            writer.write(b"more")

    def test_a_claim_ends_with_its_process(self, machine: Machine) -> None:
        SimulatedFiles(machine.disk).claim()
        machine.disk.crash(Random(1), power_loss=False)
        SimulatedFiles(machine.disk).claim()
        assert b".syncline/lock" in machine.user.tree()

    def test_nothing_synced_and_anything_is_left(self, is_ordered: bool) -> None:
        left = after_power_loss(
            lambda machine: place(machine.root, b"file", syncs_bytes=False), is_ordered=is_ordered
        )
        seen = {tuple(contents(user).items()) for user in left}
        assert () in seen
        assert ((b"staged", b""),) in seen
        assert ((b"file", b""),) in seen, "a name without its bytes"
        assert ((b"file", b"content"),) in seen
        assert ((b"file", bytes(7)),) in seen
        assert ((b"file", b"cont"),) in seen
        assert all(set(contents(user)) <= {b"file", b"staged"} for user in left)
        assert all(len(user.tree()) <= 1 for user in left)

    def test_synced_bytes_stay_with_their_name(self, is_ordered: bool) -> None:
        left = after_power_loss(
            lambda machine: place(machine.root, b"file", syncs_bytes=True), is_ordered=is_ordered
        )
        seen = {tuple(contents(user).items()) for user in left}
        assert seen == {(), ((b"staged", b"content"),), ((b"file", b"content"),)}
        assert all(node.mode == 0o640 for user in left for node in user.tree().values())

    def test_a_name_that_survives_has_the_mode_that_was_set_before(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            with closing(machine.root.create(b"staged")) as file:
                file.sync()
            machine.root.set_mode(b"staged", 0o640)
            machine.root.set_mtime(b"staged", 5)
            machine.root.move(b"staged", machine.root, b"file")

        left = [user.tree() for user in after_power_loss(prepare, is_ordered=is_ordered)]
        placed = [tree[b"file"] for tree in left if b"file" in tree]
        assert {(node.mode, node.mtime_ns) for node in placed} == {(0o640, 5)}
        staged = [tree[b"staged"] for tree in left if b"staged" in tree]
        assert {node.mode for node in staged} == {0o600, 0o640}

    def test_old_bytes_come_back_where_new_ones_were_not_synced(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            machine.user.write(b"file", b"old")
            with closing(machine.root.open_to_write(b"file")) as file:
                file.write(b"1111", 0)
                file.write(b"22", 0)

        left = after_power_loss(prepare, is_ordered=is_ordered)
        seen = {user.read(b"file") for user in left}
        assert seen == {b"old", b"2211", b"", b"2", b"22", b"221", bytes(4)}

    def test_what_left_a_directory_is_not_lost_with_it(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            machine.user.mkdir(b"d")
            machine.user.write(b"d/file", b"content")
            with closing(machine.root.enter(b"d")) as directory:
                directory.move(b"file", machine.root, b"file")
            machine.root.remove_directory(b"d")

        left = after_power_loss(prepare, is_ordered=is_ordered)
        assert {tuple(contents(user)) for user in left} == {
            (b"d", b"d/file"),
            (b"d", b"file"),
            (b"file",),
        }

    def test_a_synced_directory_keeps_its_names(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            place(machine.root, b"file", syncs_bytes=True)
            machine.root.sync()

        for user in after_power_loss(prepare, is_ordered=is_ordered):
            assert contents(user) == {b"file": b"content"}
            assert user.tree()[b"file"].mode == 0o640

    def test_a_synced_file_system_keeps_all(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            for number in range(5):
                place(machine.root, b"%d" % number, syncs_bytes=False)
            machine.root.sync_all()
            machine.root.remove(b"0")

        for user in after_power_loss(prepare, is_ordered=is_ordered):
            kept = {b"%d" % number: b"content" for number in range(5)}
            assert contents(user) in (kept, {k: v for k, v in kept.items() if k != b"0"})

    def test_what_the_user_did_is_durable(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            machine.root.make_directory(b"d", 0o755)
            place(machine.root, b"file", syncs_bytes=False)
            machine.user.write(b"d/mine", b"mine")
            machine.user.write(b"file", b"mine too")
            machine.user.rename(b"file", b"renamed")
            machine.user.chmod(b"d/mine", 0o600)

        for user in after_power_loss(prepare, is_ordered=is_ordered):
            assert contents(user) == {b"d": b"", b"d/mine": b"mine", b"renamed": b"mine too"}
            assert user.tree()[b"d/mine"].mode == 0o600

    def test_what_the_user_wrote_keeps_the_name_it_had(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            place(machine.root, b"file", syncs_bytes=False)
            machine.user.write(b"file", b"mine")

        for user in after_power_loss(prepare, is_ordered=is_ordered):
            assert contents(user) == {b"file": b"mine"}

    def test_an_exchange_is_whole(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            machine.user.write(b"file", b"old")
            with closing(machine.root.create(b"staged")) as file:
                file.write(b"new", 0)
                file.sync()
            machine.root.sync()
            machine.root.exchange(b"staged", machine.root, b"file")
            machine.root.remove(b"staged")

        seen = {
            tuple(contents(user).items())
            for user in after_power_loss(prepare, is_ordered=is_ordered)
        }
        assert seen == {
            ((b"file", b"old"), (b"staged", b"new")),
            ((b"file", b"new"), (b"staged", b"old")),
            ((b"file", b"new"),),
        }

    def test_ordered_names_survive_in_their_order(self) -> None:
        def prepare(machine: Machine) -> None:
            for number in range(3):
                machine.user.write(b"old%d" % number, b"")
            for number in range(3):
                machine.root.move(b"old%d" % number, machine.root, b"new%d" % number)

        ordered = after_power_loss(prepare, is_ordered=True)
        assert {tuple(contents(user)) for user in ordered} == {
            (b"old0", b"old1", b"old2"),
            (b"new0", b"old1", b"old2"),
            (b"new0", b"new1", b"old2"),
            (b"new0", b"new1", b"new2"),
        }
        unordered = after_power_loss(prepare, is_ordered=False)
        assert len({tuple(contents(user)) for user in unordered}) == 8

    @pytest.mark.parametrize("synced", [0, 1])
    def test_a_sync_of_one_directory_says_of_another_what_the_journal_says(
        self, is_ordered: bool, synced: int
    ) -> None:
        def prepare(machine: Machine) -> None:
            for name in (b"a", b"b"):
                machine.user.mkdir(name)
                machine.user.write(name + b"/old", name)
            directories = [machine.root.enter(name) for name in (b"a", b"b")]
            for directory in directories:
                directory.move(b"old", directory, b"new")
            directories[synced].sync()

        seen = {tuple(contents(user)) for user in after_power_loss(prepare, is_ordered=is_ordered)}
        both = (b"a", b"a/new", b"b", b"b/new")
        one = [(b"a", b"a/new", b"b", b"b/old"), (b"a", b"a/old", b"b", b"b/new")][synced]
        assert seen == ({both} if is_ordered and synced else {both, one})

    def test_a_number_that_was_used_again_is_of_one_thing(self, is_ordered: bool) -> None:
        def prepare(machine: Machine) -> None:
            machine.user.write(b"old", b"old")
            machine.root.remove(b"old")
            put(machine.root, b"new", b"new")

        for seed in range(TRIES):
            machine = Machine(is_ordered=is_ordered)
            prepare(machine)
            machine.disk.crash(Random(seed), power_loss=True)
            numbers = [status.inode for _, status in machine.boot().list()]
            assert len(numbers) <= 1
            machine.user.write(b"next", b"")
            numbers = [status.inode for _, status in machine.boot().list()]
            assert len(set(numbers)) == len(numbers)

    def test_directories_moved_into_each_other_make_no_circle(self) -> None:
        def prepare(machine: Machine) -> None:
            machine.user.mkdir(b"a")
            machine.user.mkdir(b"a/b")
            with closing(machine.root.enter(b"a")) as a, closing(a.enter(b"b")) as b:
                a.move(b"b", machine.root, b"b")
                machine.root.move(b"a", b, b"a")

        left = after_power_loss(prepare, is_ordered=False)
        assert {tuple(contents(user)) for user in left} == {
            (b"a", b"a/b"),
            (b"a", b"b"),
            (b"b", b"b/a"),
        }

    def test_space_is_counted_right_afterwards(self, is_ordered: bool) -> None:
        for seed in range(TRIES):
            machine = Machine(is_ordered=is_ordered)
            machine.user.write(b"old", b"0123456789")
            place(machine.root, b"file", syncs_bytes=False)
            machine.root.remove(b"old")
            machine.disk.crash(Random(seed), power_loss=True)
            assert machine.disk.used == sum(map(len, contents(machine.user).values()))


def step(machine: Machine, random: Random) -> Callable[[], None]:
    """Return something that the engine or the user may do."""
    root, user = machine.root, machine.user
    name, other = (b"%d" % random.randrange(5) for _ in range(2))
    content = random.randbytes(3)
    return random.choice(
        [
            lambda: put(root, name, content),
            lambda: root.make_directory(name, 0o755),
            lambda: root.move(name, root, other),
            lambda: root.exchange(name, root, other),
            lambda: root.remove(name),
            lambda: root.remove_directory(name),
            lambda: root.link(name, root, other),
            lambda: root.enter(name).move(other, root, name),
            lambda: root.move(name, root.enter(other), name),
            lambda: root.sync(),
            lambda: user.write(name, content),
            lambda: user.rename(name, other),
            lambda: user.rename(name, other + b"/" + name),
            lambda: user.unlink(name),
        ]
    )


def storm(seed: int, *, is_ordered: bool) -> list[object]:
    """Let engine and user do random things, cut the power, and return all that can be seen."""
    random = Random(seed)
    machine = Machine(is_ordered=is_ordered)
    seen: list[object] = []
    for _ in range(6):
        for _ in range(40):
            try:
                step(machine, random)()
            except OSError as error:
                seen.append(error.errno)
        machine.disk.crash(random, power_loss=True)
        check_whole(machine)
        machine.root = machine.boot()
        seen.append(machine.user.tree())
        seen.append([(name, status.inode) for name, status in machine.root.list()])
    return seen


def check_whole(machine: Machine) -> None:
    """Fail unless names, links, numbers and space of a disk fit together."""
    inodes = machine.disk.inodes()
    assert len({inode.number for inode in inodes}) == len(inodes)
    for inode in inodes:
        for name, dentry in inode.entries.items():
            assert (dentry.parent, dentry.name) == (inode, name)
            assert not dentry.inode.is_freed
    for inode in inodes[1:]:
        led = [d for above in inodes for d in above.entries.values() if d.inode is inode]
        assert inode.links == len(led)
        assert inode.kind is not FileKind.DIRECTORY or led == [inode.entry]
    device = machine.disk.devices[0]
    assert len(device.freed) + len(inodes) == device.first_free - 2
    assert machine.disk.used == sum(len(inode.content) for inode in inodes)


@pytest.mark.parametrize("seed", range(30))
def test_a_disk_is_whole_after_any_power_loss_and_repeats_itself(
    seed: int, is_ordered: bool
) -> None:
    first = storm(seed, is_ordered=is_ordered)
    assert len(first) > 12
    assert storm(seed, is_ordered=is_ordered) == first
