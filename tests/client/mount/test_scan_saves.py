"""How programs save and users move: which entry a thing is afterwards."""

from __future__ import annotations

import errno

import pytest

from syncline.client.mount.scan import Look
from syncline.core.identity import ROOT_ID, EntryId, digest_of
from syncline.ports.watcher import Mark
from tests.support.scanning import World, make_world
from tests.support.simulation.disk import Operation


@pytest.fixture
def world() -> World:
    """A mount with a file `f`, directories `d` and `e` with a file each, all recorded."""
    world = make_world()
    user = world.user
    user.write(b"f", b"one")
    user.mkdir(b"d")
    user.write(b"d/x", b"in d")
    user.mkdir(b"e")
    user.write(b"e/y", b"in e")
    world.pass_time(1)
    world.scanned.look_everywhere()
    world.pass_time(1)
    world.scanned.readings.clear()
    return world


def ids(world: World) -> dict[bytes, bytes]:
    return {path: id for path, (id, _) in world.scanned.local().items()}


def content(world: World, path: bytes) -> bytes:
    state = world.scanned.local()[path][1].state
    assert state.content is not None
    return state.content.digest


def step(world: World, seconds: float = 0.002) -> None:
    """Let the scanner work between two steps of a program."""
    world.scanned.look_once()
    world.pass_time(seconds)


class TestSaves:
    """One edit each, and the file stays the same file."""

    def check_one_edit(self, world: World, before: dict[bytes, bytes], text: bytes) -> None:
        world.scanned.rest()
        world.check()
        assert ids(world) == before
        assert content(world, b"f") == digest_of(text)

    def test_vim(self, world: World) -> None:
        before = ids(world)
        user = world.user
        user.write(b"4913", b"")
        step(world)
        user.unlink(b"4913")
        step(world)
        user.rename(b"f", b"f~")
        step(world, 0.004)
        user.write(b"f", b"two")
        step(world)
        user.unlink(b"f~")
        self.check_one_edit(world, before, b"two")

    def test_vim_that_keeps_its_backup_makes_a_new_entry_of_it(self, world: World) -> None:
        before = ids(world)
        world.user.rename(b"f", b"f~")
        step(world, 0.004)
        world.user.write(b"f", b"two")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert after.pop(b"f~") not in before.values()
        assert after == before

    def test_emacs_with_its_lock_link(self, world: World) -> None:
        before = ids(world)
        world.user.symlink(b".#f", b"me@host.1:2")
        step(world)
        world.user.write(b"f", b"two")
        step(world)
        world.user.unlink(b".#f")
        self.check_one_edit(world, before, b"two")

    def test_truncate_and_write_is_not_published_empty(self, world: World) -> None:
        before = ids(world)
        writer = world.user.open_writer(b"f", truncates=True)
        for _ in range(20):
            step(world)
        assert content(world, b"f") == digest_of(b"one")
        writer.write(b"two")
        step(world)
        writer.close()
        self.check_one_edit(world, before, b"two")

    def test_libreoffice(self, world: World) -> None:
        before = ids(world)
        user = world.user
        user.write(b".~lock.f#", b"me")
        step(world)
        user.write(b"lu1234.tmp", b"two")
        step(world)
        user.unlink(b"f")
        step(world, 0.03)
        user.rename(b"lu1234.tmp", b"f")
        step(world)
        user.unlink(b".~lock.f#")
        self.check_one_edit(world, before, b"two")

    def test_write_beside_and_rename_over(self, world: World) -> None:
        before = ids(world)
        world.user.write(b"sedAbCdEf", b"two")
        step(world)
        world.user.rename(b"sedAbCdEf", b"f")
        self.check_one_edit(world, before, b"two")

    def test_the_same_with_a_file_that_was_recorded_already(self, world: World) -> None:
        before = ids(world)
        world.user.write(b"f.part", b"two")
        world.scanned.rest()
        assert b"f.part" in ids(world)
        world.user.rename(b"f.part", b"f")
        self.check_one_edit(world, before, b"two")

    def test_sixty_saves_in_a_second_end_with_the_last(self, world: World) -> None:
        before = ids(world)
        for number in range(60):
            world.user.save(b"f", b"save %d" % number)
            step(world, 0.016)
        self.check_one_edit(world, before, b"save 59")

    def test_same_size_and_mtime_with_other_content_is_noticed(self, world: World) -> None:
        before = ids(world)
        mtime_ns = world.user.tree()[b"f"].mtime_ns
        world.user.write(b"f", b"two")
        world.user.utime(b"f", mtime_ns)
        self.check_one_edit(world, before, b"two")

    def test_delete_and_make_again_is_an_edit(self, world: World) -> None:
        before = ids(world)
        world.user.unlink(b"f")
        step(world, 0.05)
        world.user.write(b"f", b"two")
        self.check_one_edit(world, before, b"two")

    def test_a_log_that_is_written_to_all_the_time_is_complete_in_the_end(
        self, world: World
    ) -> None:
        before = ids(world)
        writer = world.user.open_writer(b"f")
        writer.seek(3)
        for number in range(2_000):
            writer.write(b"%d\n" % number)
            step(world, 0.005)
        assert len(world.scanned.readings) <= 25, "once a second, not once a line"
        writer.close()
        self.check_one_edit(
            world, before, b"one" + b"".join(b"%d\n" % number for number in range(2_000))
        )

    def test_a_file_that_stays_open_is_read_when_its_writer_pauses(self, world: World) -> None:
        writer = world.user.open_writer(b"f")
        writer.write(b"two")
        world.scanned.rest(most_s=2.0)
        assert content(world, b"f") == digest_of(b"two")
        writer.close()
        world.scanned.rest()
        world.check()


class TestMoves:
    def test_a_file(self, world: World) -> None:
        before = ids(world)
        world.user.rename(b"f", b"d/g")
        world.scanned.rest()
        world.check()
        assert ids(world)[b"d/g"] == before[b"f"]
        assert not world.scanned.readings, "a move is no reason to read"

    def test_a_file_edited_right_before_it_moves_is_read_at_its_new_place(
        self, world: World
    ) -> None:
        before = ids(world)
        world.user.write(b"f", b"two")
        world.user.rename(b"f", b"g")
        world.scanned.rest()
        world.check()
        assert ids(world)[b"g"] == before[b"f"]
        assert content(world, b"g") == digest_of(b"two")

    def test_an_edit_that_leaves_size_and_mtime_and_moves_is_read(self, world: World) -> None:
        mtime_ns = world.user.tree()[b"f"].mtime_ns
        world.user.write(b"f", b"two")
        world.user.utime(b"f", mtime_ns)
        world.user.rename(b"f", b"g")
        world.scanned.rest()
        world.check()

    def test_a_directory_at_once_and_without_a_look_at_what_is_in_it(self, world: World) -> None:
        before = ids(world)
        world.user.mkdir(b"d/deep")
        for number in range(50):
            world.user.write(b"d/deep/%d" % number, b"%d" % number)
        world.scanned.rest()
        world.pass_time(1)
        world.scanned.readings.clear()
        looks = world.disk.counts["look"] + world.disk.counts["list.look"]
        world.user.rename(b"d", b"e/d2")
        assert world.scanned.look_once()
        assert ids(world)[b"e/d2"] == before[b"d"], "at once"
        world.scanned.rest()
        world.check()
        looked = world.disk.counts["look"] + world.disk.counts["list.look"] - looks
        assert looked < 20, "the names below it are not looked at"
        assert not world.scanned.readings

    def test_directories_change_places(self, world: World) -> None:
        before = ids(world)
        world.user.exchange(b"d", b"e")
        world.scanned.look_once()
        world.check()
        after = ids(world)
        assert (after[b"d"], after[b"e"]) == (before[b"e"], before[b"d"])
        assert after[b"d/y"] == before[b"e/y"]

    def test_directories_change_places_by_three_renames(self, world: World) -> None:
        before = ids(world)
        for old, new in ((b"d", b"t"), (b"e", b"d"), (b"t", b"e")):
            world.user.rename(old, new)
            step(world)
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"d"], after[b"e"]) == (before[b"e"], before[b"d"])

    def test_files_change_places_as_two_edits(self, world: World) -> None:
        before = ids(world)
        world.user.exchange(b"f", b"d/x")
        world.scanned.rest()
        world.check()
        assert ids(world) == before

    def test_a_file_and_a_directory_change_places(self, world: World) -> None:
        before = ids(world)
        world.user.exchange(b"f", b"d")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"f"], after[b"d"]) == (before[b"d"], before[b"f"])

    @pytest.mark.parametrize("names", [(b"a", b"z"), (b"z", b"a")])
    def test_a_file_and_a_link_change_places_that_cannot_be_read_just_then(
        self, world: World, names: tuple[bytes, bytes]
    ) -> None:
        file, link = names
        world.user.write(file, b"written")
        world.user.symlink(link, b"where")
        world.scanned.rest()
        before = ids(world)
        world.disk.fail(errno.EIO, operation="read_link", times=None)
        world.user.exchange(file, link)
        world.scanned.rest(1.0)
        assert ids(world).keys() == before.keys()
        world.disk.heal()
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[file], after[link]) == (before[link], before[file])

    def test_out_of_a_directory_and_that_one_into_it(self, world: World) -> None:
        world.user.mkdir(b"d/in")
        world.scanned.rest()
        before = ids(world)
        world.user.rename(b"d/in", b"c")
        world.user.rename(b"d", b"c/d")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"c"], after[b"c/d"]) == (before[b"d/in"], before[b"d"])

    def test_a_directory_takes_the_place_of_the_one_that_it_was_in(self, world: World) -> None:
        world.user.mkdir(b"d/in")
        world.scanned.rest()
        before = ids(world)
        world.user.rename(b"d/in", b"t")
        world.user.rename(b"d", b"t/in")
        world.user.rename(b"t", b"d")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"d"], after[b"d/in"]) == (before[b"d/in"], before[b"d"])
        assert after[b"d/in/x"] == before[b"d/x"]

    def test_a_directory_moves_with_edits_inside(self, world: World) -> None:
        before = ids(world)
        world.user.rename(b"d", b"c")
        world.user.write(b"c/x", b"edited")
        world.user.write(b"c/new", b"new")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"c"], after[b"c/x"]) == (before[b"d"], before[b"d/x"])

    def test_a_directory_is_renamed_and_made_anew(self, world: World) -> None:
        before = ids(world)
        world.user.rename(b"d", b"old")
        world.user.mkdir(b"d")
        world.user.write(b"d/x", b"another")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"old"], after[b"old/x"]) == (before[b"d"], before[b"d/x"])
        assert after[b"d"] not in before.values()

    def test_a_directory_removed_and_made_anew_is_the_same_one(self, world: World) -> None:
        before = ids(world)
        world.user.rmtree(b"d")
        world.user.mkdir(b"d")
        world.user.write(b"d/x", b"another")
        world.scanned.rest()
        world.check()
        assert ids(world) == before

    def test_out_of_the_mount_changed_and_back(self, world: World) -> None:
        before = ids(world)
        world.outside.rename(b"m/d", b"kept")
        world.outside.write(b"kept/x", b"changed outside")
        world.outside.write(b"kept/more", b"more")
        world.outside.rename(b"kept", b"m/d")
        world.scanned.rest()
        world.check()
        assert ids(world)[b"d/x"] == before[b"d/x"]

    def test_a_tree_moved_in_from_outside_and_written_to_at_once(self, world: World) -> None:
        outside = world.outside
        outside.mkdir(b"t")
        outside.mkdir(b"t/u")
        outside.write(b"t/u/v", b"v")
        outside.rename(b"t", b"m/t")
        world.user.write(b"t/u/w", b"w")
        world.scanned.look_once()
        world.user.mkdir(b"t/u/z")
        world.user.write(b"t/u/z/q", b"q")
        world.scanned.rest()
        world.check()

    def test_logs_are_rotated(self, world: World) -> None:
        world.user.write(b"f.1", b"older")
        world.scanned.rest()
        world.pass_time(1)
        before = ids(world)
        world.user.rename(b"f.1", b"f.2")
        step(world)
        world.user.rename(b"f", b"f.1")
        step(world)
        world.user.write(b"f", b"")
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"f"], after[b"f.1"]) == (before[b"f"], before[b"f.1"])

    def test_a_hard_link_is_a_file_of_its_own_and_follows_edits(self, world: World) -> None:
        before = ids(world)
        world.user.link(b"f", b"g")
        world.scanned.rest()
        world.check()
        assert ids(world)[b"f"] == before[b"f"]
        world.user.write(b"g", b"through g", keeps_bytes=True)
        world.scanned.rest()
        world.check()

    def test_all_names_of_a_link_follow_a_change_of_one(self, world: World) -> None:
        world.user.symlink(b"l", b"target")
        world.user.link(b"l", b"k")
        world.scanned.rest()
        world.check()
        world.user.utime(b"l", 5)
        world.scanned.rest()
        world.check()

    def test_an_edit_by_another_name_while_a_hard_link_is_read(self, world: World) -> None:
        world.user.link(b"f", b"g")
        world.pass_time(1)
        scanned = world.scanned
        with scanned.state.session() as session:
            readings = scanned.scanner.look(session, [Look(Mark(ROOT_ID, b"g"))]).readings
        results = [scanned.read(reading) for reading in readings]
        scanned.watcher.take()
        world.user.write(b"f", b"through f", keeps_bytes=True)
        world.scanned.look_once()
        with scanned.state.session() as session:
            scanned.wait(scanned.scanner.record(session, results))
        scanned.rest()
        world.check()

    def test_a_change_in_the_same_tick_that_nobody_tells_of_is_seen(self, world: World) -> None:
        world.user.write(b"f", b"two")
        world.scanned.look_once()
        assert content(world, b"f") == digest_of(b"two")
        writer = world.user.open_writer(b"f")
        writer.write(b"333")
        writer.close()
        world.scanned.watcher.take()
        world.scanned.rest()
        world.check()

    def test_a_directory_seen_in_itself_half_way(self, world: World) -> None:
        world.user.mkdir(b"d/p")
        world.scanned.rest()
        before = ids(world)

        def before_look(operation: Operation) -> None:
            if (operation.name, operation.path) == ("look", b"m/d/p/in"):
                world.disk.before = None
                world.user.rename(b"d/p", b"p")
                world.user.rename(b"d", b"p/in")

        world.disk.before = before_look
        world.scanned.mark(EntryId(before[b"d/p"]), b"in")
        world.scanned.look_once()
        assert world.disk.before is None, "the race happened"
        world.scanned.rest()
        world.check()
        after = ids(world)
        assert (after[b"p"], after[b"p/in"]) == (before[b"d/p"], before[b"d"])

    def test_a_hard_link_of_a_file_whose_directory_moves_meanwhile(self, world: World) -> None:
        world.user.link(b"d/x", b"g")
        world.user.rename(b"d", b"c")
        noticed = world.scanned.watcher.take().marks
        world.scanned.marks.add(
            [mark for mark in noticed if mark.name == b"g"], world.scanned.now_s()
        )
        world.scanned.rest(most_s=0.03)
        assert b"g" in ids(world), "recorded before the directory was found"
        world.scanned.marks.add(noticed, world.scanned.now_s())
        world.scanned.rest()
        world.check()

    def test_a_file_becomes_a_directory_and_back(self, world: World) -> None:
        before = ids(world)
        world.user.unlink(b"f")
        world.user.mkdir(b"f")
        world.user.write(b"f/inner", b"i")
        world.scanned.rest()
        world.check()
        assert ids(world)[b"f"] != before[b"f"]
        world.user.rmtree(b"f")
        world.user.write(b"f", b"again")
        world.scanned.rest()
        world.check()

    def test_an_inode_that_is_used_again_is_no_move(self, world: World) -> None:
        before = ids(world)
        world.user.unlink(b"f")
        world.pass_time(0.01)
        world.user.write(b"g", b"one")
        world.scanned.rest()
        world.check()
        assert ids(world)[b"g"] not in before.values()
