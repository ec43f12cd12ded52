"""What the simulated disk can do beyond the contract: hooks, faults, limits, time, crashes."""

from __future__ import annotations

import errno
from contextlib import closing
from itertools import count
from random import Random

import pytest

from syncline.core.identity import ROOT_ID, EntryId
from syncline.ports.files import Writers
from tests.support.mounts import Machine, content, names, put, refuses
from tests.support.simulation.disk import EPOCH_NS, GRAIN_NS, Crashed, Operation, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.simulation.user_side import User
from tests.support.simulation.watcher import SimulatedWatcher


@pytest.fixture
def machine() -> Machine:
    return Machine()


class TestTheHook:
    def test_it_is_called_before_every_operation(self, machine: Machine) -> None:
        machine.user.mkdir(b"d")
        seen: list[Operation] = []
        machine.disk.before = seen.append
        with closing(machine.root.enter(b"d")) as directory:
            with closing(directory.create(b"file")) as file:
                file.write(b"x", 0)
                file.sync()
            directory.move(b"file", machine.root, b"new")
        machine.root.list()
        assert [(operation.name, operation.path) for operation in seen] == [
            ("enter", b"d"),
            ("create", b"d/file"),
            ("file.write", b"d/file"),
            ("file.sync", b"d/file"),
            ("move", b"d/file"),
            ("list", b""),
            ("list.look", b"d"),
            ("list.look", b"new"),
        ]
        assert {operation.process for operation in seen} == {"engine"}
        assert machine.disk.counts["list.look"] == 2

    def test_users_act_in_it_and_do_not_call_it(self, machine: Machine) -> None:
        machine.user.write(b"file", b"old")

        def act(operation: Operation) -> None:
            if operation.name == "file.read":
                machine.disk.before = None
                machine.user.write(b"file", b"new")

        machine.disk.before = act
        assert content(machine.root, b"file") == b"new"

    def test_a_list_can_miss_what_moves_and_shows_nothing_twice(self, machine: Machine) -> None:
        for name in (b"a", b"b"):
            machine.user.write(name, name)

        def act(operation: Operation) -> None:
            if operation.path == b"b":
                machine.disk.before = None
                machine.user.rename(b"b", b"c")

        machine.disk.before = act
        assert names(machine.root) == [b"a"]
        assert names(machine.root) == [b"a", b"c"]

    def test_a_crashed_process_does_nothing_more(self, machine: Machine) -> None:
        def die(operation: Operation) -> None:
            if operation.name == "file.sync":
                raise Crashed

        machine.disk.before = die
        with pytest.raises(Crashed), closing(machine.root.create(b"file")) as file:
            try:
                file.write(b"x", 0)
                file.sync()
            finally:
                with pytest.raises(Crashed):
                    machine.root.remove(b"file")
        machine.disk.before = None
        with pytest.raises(Crashed):
            machine.root.list()
        assert machine.disk.open_handles == 0
        assert names(machine.boot()) == [b"file"]


class TestFaults:
    @pytest.mark.parametrize("error", [errno.EIO, errno.EACCES, errno.ENOSPC, errno.EMFILE])
    def test_an_operation_fails_so_often(self, machine: Machine, error: int) -> None:
        machine.user.write(b"file", b"x")
        machine.disk.fail(error, operation="open", path=b"file", times=2)
        for _ in range(2):
            with refuses(error):
                machine.root.open(b"file")
        assert content(machine.root, b"file") == b"x"

    def test_others_do_not_fail(self, machine: Machine) -> None:
        machine.user.write(b"file", b"x")
        machine.user.write(b"other", b"y")
        machine.disk.fail(errno.EIO, operation="file.read", path=b"file", times=None)
        for _ in range(3):
            with refuses(errno.EIO):
                content(machine.root, b"file")
        assert content(machine.root, b"other") == b"y"
        assert machine.user.read(b"file") == b"x"
        machine.disk.heal()
        assert content(machine.root, b"file") == b"x"

    def test_what_failed_did_not_happen(self, machine: Machine) -> None:
        machine.disk.fail(errno.EIO)
        with refuses(errno.EIO):
            machine.root.make_directory(b"d", 0o755)
        assert machine.root.look(b"d") is None


class TestSpace:
    def test_a_full_disk_takes_what_fits(self, machine: Machine) -> None:
        machine.user.write(b"old", b"12345")
        machine.disk.capacity = 8
        with closing(machine.root.create(b"new")) as file:
            with refuses(errno.ENOSPC):
                file.write(b"abcdef", 0)
            assert file.read(10, 0) == b"abc"
            file.write(b"ABC", 0)
            with refuses(errno.ENOSPC):
                file.truncate(4)
        with refuses(errno.ENOSPC):
            machine.user.write(b"other", b"x")

    def test_space_comes_back_when_nobody_needs_it(self, machine: Machine) -> None:
        machine.disk.capacity = 5
        machine.user.write(b"file", b"12345")
        with closing(machine.root.open(b"file")) as file:
            machine.user.link(b"file", b"twin")
            machine.user.unlink(b"file")
            machine.user.unlink(b"twin")
            with refuses(errno.ENOSPC):
                machine.user.write(b"new", b"x")
            assert file.read(5, 0) == b"12345"
        machine.user.write(b"new", b"54321")
        assert machine.disk.used == 5


class TestInodesAndTimes:
    def test_the_lowest_number_is_used_again(self, machine: Machine) -> None:
        for name in (b"a", b"b", b"c"):
            machine.user.write(name, b"")
        numbers = {name: status.inode for name, status in machine.root.list()}
        machine.user.unlink(b"b")
        machine.user.unlink(b"a")
        machine.user.mkdir(b"d")
        machine.user.write(b"e", b"")
        again = {name: status.inode for name, status in machine.root.list()}
        assert (again[b"d"], again[b"e"]) == (numbers[b"a"], numbers[b"b"])

    def test_a_number_is_kept_while_it_is_open(self, machine: Machine) -> None:
        machine.user.write(b"a", b"")
        with closing(machine.root.open(b"a")) as file:
            machine.user.unlink(b"a")
            machine.user.write(b"b", b"")
            assert machine.root.look(b"b") != file.status()
            number = file.status().inode
        machine.user.write(b"c", b"")
        seen = machine.root.look(b"c")
        assert seen is not None
        assert seen.inode == number

    def test_writes_within_a_grain_leave_the_same_times(self, machine: Machine) -> None:
        machine.user.write(b"file", b"one")
        before = machine.root.look(b"file")
        machine.disk.clock_ns += GRAIN_NS - 1
        machine.user.write(b"file", b"two")
        assert machine.root.look(b"file") == before
        machine.disk.clock_ns += 1
        machine.user.write(b"file", b"two")
        after = machine.root.look(b"file")
        assert before is not None and after is not None
        assert after.mtime_ns - before.mtime_ns == after.ctime_ns - before.ctime_ns == GRAIN_NS

    def test_time_can_come_from_outside(self) -> None:
        times = count(EPOCH_NS, 1_000)
        disk = SimulatedDisk(lambda: next(times), grain_ns=10_000)
        user = User(disk)
        for number in range(20):
            user.write(b"%d" % number, b"")
        seen = {node.mtime_ns for node in user.tree().values()}
        assert len(seen) > 1
        assert all(mtime_ns % 10_000 == 0 for mtime_ns in seen)


class TestDevices:
    def test_another_device_at_a_directory(self, machine: Machine) -> None:
        machine.user.mkdir(b"d")
        machine.user.write(b"d/below", b"hidden")
        machine.user.write(b"file", b"")
        before = machine.root.look(b"d")
        number = machine.user.mount(b"d")
        mounted = machine.root.look(b"d")
        assert before is not None and mounted is not None
        assert mounted.device == number != before.device == machine.root.status().device
        assert dict(machine.root.list())[b"d"] == mounted
        with closing(machine.root.enter(b"d")) as other:
            assert other.status() == mounted
            put(other, b"new")
            for act in (machine.root.move, machine.root.exchange, machine.root.link):
                with refuses(errno.EXDEV):
                    act(b"file", other, b"new2" if act != machine.root.exchange else b"new")
        with refuses(errno.EBUSY):
            machine.root.move(b"d", machine.root, b"e")
        with refuses(errno.EBUSY):
            machine.root.exchange(b"d", machine.root, b"file")
        with refuses(errno.EBUSY):
            machine.root.remove_directory(b"d")
        machine.user.unmount(b"d")
        assert machine.root.look(b"d") == before
        assert machine.user.read(b"d/below") == b"hidden"

    def test_a_root_that_is_unmounted(self, machine: Machine) -> None:
        machine.user.mkdir(b"mount")
        machine.user.mount(b"mount")
        files = SimulatedFiles(machine.disk, b"mount")
        watcher = SimulatedWatcher(machine.disk)
        seen = files.look_root()
        watcher.add(files.open_root(), ROOT_ID)
        machine.user.unmount(b"mount")
        assert watcher.take().is_root_gone
        now = files.look_root()
        assert seen is not None and now is not None
        assert seen.filesystem != now.filesystem

    def test_file_systems_without_leases(self, machine: Machine) -> None:
        machine.disk.has_leases = False
        machine.user.write(b"file", b"")
        with closing(machine.root.open(b"file")) as file:
            assert file.hold() is Writers.UNKNOWN
            assert not file.is_held()


class TestPermissions:
    def test_modes_count_where_one_is_not_root(self) -> None:
        machine = Machine(is_root=False)
        machine.user.write(b"file", b"x")
        machine.user.mkdir(b"d")
        machine.user.write(b"d/inside", b"")
        machine.user.chmod(b"file", 0o000)
        machine.user.chmod(b"d", 0o600)
        with refuses(errno.EACCES):
            machine.root.open(b"file")
        with refuses(errno.EACCES):
            machine.user.read(b"file")
        with closing(machine.root.enter(b"d")) as directory:
            with refuses(errno.EACCES):
                directory.look(b"inside")
            with refuses(errno.EACCES):
                directory.list()
            machine.user.chmod(b"d", 0o500)
            assert names(directory) == [b"inside"]
            with refuses(errno.EACCES):
                machine.user.write(b"d/new", b"")
            directory.remove(b"inside")
            put(directory, b"new")
            machine.user.chmod(b"d", 0o000)
        with refuses(errno.EACCES):
            machine.root.enter(b"d")

    def test_root_may_all(self, machine: Machine) -> None:
        machine.user.write(b"file", b"x")
        machine.user.chmod(b"file", 0o000)
        assert content(machine.root, b"file") == b"x"


class TestWatches:
    def test_there_is_no_watch_left(self, machine: Machine) -> None:
        watcher = SimulatedWatcher(machine.disk, watch_limit=2)
        ids = [EntryId(bytes([n]) * 16) for n in range(3)]
        for name in (b"a", b"b", b"c"):
            machine.user.mkdir(name)
        directories = [machine.root.enter(name) for name in (b"a", b"b", b"c")]
        added = [watcher.add(d, id) for d, id in zip(directories, ids, strict=True)]
        assert added == [True, True, False]
        assert watcher.add(directories[0], ids[0])
        watcher.forget(ids[1])
        assert watcher.add(directories[2], ids[2])

    def test_what_overflows_is_lost(self, machine: Machine) -> None:
        watcher = SimulatedWatcher(machine.disk, queue_limit=3)
        watcher.add(machine.root, ROOT_ID)
        for name in (b"a", b"b", b"c", b"d"):
            machine.user.mkdir(name)
        noticed = watcher.take()
        assert noticed.is_overflown
        assert [mark.name for mark in noticed.marks] == [b"a", b"b", b"c"]

    def test_watches_end_with_their_process(self, machine: Machine) -> None:
        watcher = SimulatedWatcher(machine.disk)
        watcher.add(machine.root, ROOT_ID)
        machine.disk.crash(Random(0), power_loss=False)
        machine.user.write(b"file", b"")
        assert watcher.take().marks == ()
        with pytest.raises(Crashed):
            watcher.add(machine.root, ROOT_ID)
