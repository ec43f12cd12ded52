"""What the scanner records of things that are no entries, cannot be read, or are ignored."""

from __future__ import annotations

import errno

import pytest

from syncline.client.mount.scan import Budget, Look
from syncline.core.identity import ROOT_ID, EntryId, digest_of
from syncline.core.names import Name
from syncline.ports.mount_state import Held, ObstacleReason
from syncline.ports.watcher import Mark
from tests.support.scanning import World, make_world
from tests.support.simulation.disk import Operation
from tests.support.trees import id_of


@pytest.fixture
def world() -> World:
    return make_world()


def recorded(world: World) -> World:
    world.pass_time(1)
    world.scanned.look_everywhere()
    world.pass_time(1)
    return world


def held(world: World) -> dict[EntryId, Held]:
    with world.scanned.state.session() as session:
        return dict(session.held())


def bad_rules(world: World) -> set[tuple[EntryId, int]]:
    rules = world.scanned.scanner.bad_rules
    return {(id, bad.number) for id, lines in rules.items() for bad in lines}


def paths(world: World) -> set[bytes]:
    return set(world.scanned.local())


def reason(world: World, path: bytes) -> ObstacleReason | None:
    obstacle = world.scanned.obstacle(path)
    return obstacle.reason if obstacle is not None else None


class TestWhatIsNoEntry:
    def test_a_fifo_is_an_obstacle_until_it_is_gone(self, world: World) -> None:
        world.user.mkfifo(b"p")
        recorded(world)
        assert reason(world, b"p") is ObstacleReason.SPECIAL
        world.user.unlink(b"p")
        world.scanned.rest()
        assert reason(world, b"p") is None

    def test_a_file_that_becomes_a_fifo_is_gone(self, world: World) -> None:
        world.user.write(b"f", b"1")
        recorded(world)
        world.user.unlink(b"f")
        world.user.mkfifo(b"f")
        world.scanned.rest()
        assert paths(world) == set()
        assert reason(world, b"f") is ObstacleReason.SPECIAL

    def test_own_and_staged_names_are_passed_over(self, world: World) -> None:
        world.user.mkdir(b".syncline")
        world.user.write(b".syncline/marker", b"m")
        world.user.write(b".syncline-0123456789abcdef-0123456789abcdef.part", b"half")
        world.user.mkdir(b"d")
        world.user.mkdir(b"d/.syncline")
        recorded(world)
        assert paths(world) == {b"d", b"d/.syncline"}
        assert reason(world, b".syncline") is None

    def test_another_file_system_is_not_entered(self, world: World) -> None:
        world.user.mkdir(b"new")
        world.user.mkdir(b"known")
        world.user.write(b"known/f", b"hidden later")
        world.user.mount(b"new")
        world.user.write(b"new/other", b"of another file system")
        recorded(world)
        assert reason(world, b"new") is ObstacleReason.FILE_SYSTEM
        assert paths(world) == {b"known", b"known/f"}
        world.user.mount(b"known")
        world.scanned.mark(ROOT_ID, b"known")
        world.scanned.rest()
        assert paths(world) == {b"known", b"known/f"}, "what is hidden is not gone"
        assert not held(world)[world.scanned.id(b"known")].is_ignored
        world.user.unmount(b"known")
        world.scanned.mark(ROOT_ID, b"known")
        world.scanned.rest()
        assert held(world) == {}

    def test_a_path_that_is_too_long_is_an_obstacle(self, world: World) -> None:
        path = b""
        for _ in range(16):
            path += b"n" * 254
            world.user.mkdir(path)
            path += b"/"
        world.user.write(path + b"x" * 20, b"too deep")
        recorded(world)
        assert len(paths(world)) == 16
        assert reason(world, path + b"x" * 20) is ObstacleReason.NAME

    def test_a_mark_of_an_unknown_directory_is_dropped(self, world: World) -> None:
        recorded(world)
        world.scanned.mark(EntryId(b"x" * 16), b"f")
        world.scanned.rest()
        assert world.scanned.marks.next_s() is None


class TestErrors:
    def test_a_known_file_that_cannot_be_read_is_held_and_heals(self, world: World) -> None:
        world.user.write(b"f", b"1")
        recorded(world)
        world.disk.fail(errno.EIO, operation="open", path=b"m/f")
        world.user.write(b"f", b"22")
        world.scanned.rest(most_s=1)
        id, seen = world.scanned.local()[b"f"]
        assert seen.state.content is not None
        assert seen.state.content.digest == digest_of(b"1")
        assert held(world) == {id: Held(is_ignored=False, detail="Input/output error")}
        world.scanned.rest()
        world.check()
        assert held(world) == {}

    def test_a_new_file_that_cannot_be_read_is_an_obstacle_and_heals(self, world: World) -> None:
        recorded(world)
        world.disk.fail(errno.EACCES, operation="open", path=b"m/f")
        world.user.write(b"f", b"1")
        world.scanned.rest(most_s=1)
        assert paths(world) == set()
        assert reason(world, b"f") is ObstacleReason.UNREAD
        world.scanned.rest()
        world.check()
        assert reason(world, b"f") is None

    @pytest.mark.parametrize("operation", ["list", "enter", "list.look"])
    def test_a_directory_that_cannot_be_read_keeps_what_is_in_it(
        self, world: World, operation: str
    ) -> None:
        world.user.mkdir(b"d")
        world.user.write(b"d/f", b"1")
        recorded(world)
        path = b"m/d/f" if operation == "list.look" else b"m/d"
        world.disk.fail(errno.EACCES, operation=operation, path=path, times=None)
        world.pass_time(1)
        with world.scanned.state.session() as session:
            looked = world.scanned.scanner.look_everywhere(session)
        assert paths(world) == {b"d", b"d/f"}
        assert list(held(world)) == [world.scanned.id(b"d")]
        world.disk.heal()
        world.scanned.wait(looked.waiting)
        world.scanned.rest()
        world.check()
        assert held(world) == {}

    def test_a_name_that_cannot_be_looked_at_is_not_absent(self, world: World) -> None:
        world.user.write(b"f", b"1")
        recorded(world)
        world.disk.fail(errno.EIO, operation="look", path=b"m/f", times=3)
        world.scanned.mark(ROOT_ID, b"f")
        world.scanned.rest(most_s=1)
        assert paths(world) == {b"f"}
        assert world.scanned.id(b"f") in held(world)
        world.scanned.rest()
        assert held(world) == {}

    def test_a_root_that_cannot_be_listed_deletes_nothing(self, world: World) -> None:
        world.user.write(b"f", b"1")
        recorded(world)
        world.disk.fail(errno.EIO, operation="list", path=b"m")
        world.scanned.look_everywhere()
        world.check()

    def test_a_file_that_never_holds_still_is_told_after_a_minute(self, world: World) -> None:
        world.user.write(b"f", b"1")
        recorded(world)
        writer = world.user.open_writer(b"f")
        for _ in range(65 * 5):
            writer.write(b"more")
            world.scanned.rest(most_s=0.2)
            world.pass_time(0.2)
        assert "written" in held(world)[world.scanned.id(b"f")].detail
        writer.close()
        world.scanned.rest()
        world.check()
        assert held(world) == {}

    def test_no_watch_left_is_remembered(self) -> None:
        world = make_world(watch_limit=1)
        world.user.mkdir(b"d")
        world.user.write(b"d/f", b"1")
        recorded(world)
        world.check()
        assert world.scanned.scanner.is_watch_exhausted


class TestIgnoring:
    def test_what_a_rule_covers_is_an_obstacle_and_not_watched(self, world: World) -> None:
        world.user.write(b".synclineignore", b"build\n*.log\n")
        world.user.mkdir(b"build")
        world.user.write(b"build/out", b"o")
        world.user.write(b"a.log", b"l")
        world.user.write(b"kept", b"k")
        recorded(world)
        assert paths(world) == {b".synclineignore", b"kept"}
        assert reason(world, b"build") is ObstacleReason.IGNORED
        assert reason(world, b"a.log") is ObstacleReason.IGNORED
        world.user.write(b"build/more", b"m")
        assert world.scanned.watcher.take().marks == ()

    def test_a_new_rule_holds_what_is_known_and_deletes_nothing(self, world: World) -> None:
        world.user.mkdir(b"build")
        world.user.mkdir(b"build/sub")
        world.user.write(b"build/sub/out", b"o")
        recorded(world)
        before = paths(world)
        world.user.save(b".synclineignore", b"build/\n")
        world.scanned.rest()
        assert paths(world) == before | {b".synclineignore"}
        covered = {world.scanned.id(path) for path in before}
        assert {id for id, each in held(world).items() if each.is_ignored} == covered
        world.user.write(b"build/sub/out", b"changed")
        world.user.unlink(b"build/sub/out")
        world.scanned.look_everywhere()
        assert paths(world) == before | {b".synclineignore"}

    def test_a_rule_that_is_gone_lets_everything_be_followed(self, world: World) -> None:
        world.user.mkdir(b"build")
        world.user.write(b"build/known", b"o")
        recorded(world)
        world.user.write(b".synclineignore", b"build\nnew\n")
        world.scanned.rest()
        world.user.write(b"new", b"n")
        world.user.write(b"build/known", b"changed while ignored")
        world.scanned.rest()
        assert reason(world, b"new") is ObstacleReason.IGNORED
        world.user.write(b".synclineignore", b"")
        world.scanned.rest()
        world.check()
        assert held(world) == {}
        assert reason(world, b"new") is None
        world.user.write(b"build/after", b"watched again")
        world.scanned.rest()
        world.check()

    def test_a_save_of_the_rules_uncovers_nothing_for_a_moment(self, world: World) -> None:
        world.user.write(b".synclineignore", b"secret\n")
        world.user.write(b"secret", b"s")
        recorded(world)
        world.user.rename(b".synclineignore", b".synclineignore~")
        for _ in range(10):
            world.scanned.look_once()
            world.pass_time(0.005)
        writer = world.user.open_writer(b".synclineignore")
        for _ in range(10):
            world.scanned.look_once()
            world.pass_time(0.005)
        writer.write(b"secret\nmore\n")
        writer.close()
        world.scanned.rest()
        assert paths(world) == {b".synclineignore", b".synclineignore~"}

    def test_what_vanished_while_it_was_ignored_is_not_asked_to_be_deleted(
        self, world: World
    ) -> None:
        world.user.write(b"cache", b"c")
        recorded(world)
        id, seen = world.scanned.local()[b"cache"]
        with world.scanned.state.session() as session:
            session.set_base(id, seen.state)
        world.user.write(b".synclineignore", b"cache\n")
        world.scanned.rest()
        world.user.unlink(b"cache")
        world.scanned.rest()
        world.user.unlink(b".synclineignore")
        world.scanned.rest()
        world.check()
        with world.scanned.state.session() as session:
            assert session.base(id) is None, "else it would look like a delete"

    def test_rules_of_a_directory_count_below_it_alone(self, world: World) -> None:
        world.user.mkdir(b"d")
        world.user.write(b"d/.synclineignore", b"x\n")
        world.user.write(b"d/x", b"ignored")
        world.user.write(b"x", b"kept")
        recorded(world)
        assert paths(world) == {b"d", b"d/.synclineignore", b"x"}

    def test_what_moves_out_of_an_ignored_place_is_the_same_entry(self, world: World) -> None:
        world.user.mkdir(b"build")
        world.user.write(b"build/f", b"1")
        recorded(world)
        id = world.scanned.id(b"build")
        world.user.write(b".synclineignore", b"build\n")
        world.scanned.rest()
        world.user.rename(b"build", b"product")
        world.scanned.rest()
        world.check()
        assert world.scanned.id(b"product") == id
        world.user.write(b"product/g", b"watched again")
        world.scanned.rest()
        world.check()

    def test_bad_lines_are_told(self, world: World) -> None:
        world.user.mkdir(b"d")
        world.user.write(b".synclineignore", b"ok\n!\n")
        world.user.write(b"d/.synclineignore", b"[a\n")
        recorded(world)
        below = world.scanned.id(b"d")
        assert bad_rules(world) == {(ROOT_ID, 2), (below, 1)}
        world.user.write(b".synclineignore", b"ok\n")
        world.scanned.rest()
        assert bad_rules(world) == {(below, 1)}
        world.scanned.scanner.relabel(below, id_of("other"))
        assert bad_rules(world) == {(id_of("other"), 1)}

    @pytest.mark.parametrize("is_everywhere", [False, True])
    def test_bad_lines_in_what_is_ignored_are_told_no_more(
        self, world: World, is_everywhere: bool
    ) -> None:
        world.user.mkdir(b"d")
        world.user.mkdir(b"d/e")
        world.user.write(b"d/e/.synclineignore", b"!\n")
        recorded(world)
        assert bad_rules(world) == {(world.scanned.id(b"d/e"), 1)}
        world.user.write(b".synclineignore", b"d\n")
        if is_everywhere:
            world.pass_time(1)
            world.scanned.look_everywhere()
        world.scanned.rest()
        world.check()
        assert bad_rules(world) == set()


class TestBudget:
    def test_a_call_is_cut_and_goes_on(self) -> None:
        world = make_world(budget=Budget(readings=3, names=8))
        for number in range(20):
            world.user.write(b"f%02d" % number, b"%d" % number)
            world.user.mkdir(b"d%02d" % number)
            world.user.write(b"d%02d/g" % number, b"in %d" % number)
        world.pass_time(1)
        scanned = world.scanned
        with scanned.state.session() as session:
            looked = scanned.scanner.look_everywhere(session)
        most = 0
        calls = 1
        while looked.is_cut:
            most = max(most, len(looked.readings))
            with scanned.state.session() as session:
                scanned.scanner.record(session, [scanned.read(each) for each in looked.readings])
                looked = scanned.scanner.look(session, ())
            calls += 1
        with scanned.state.session() as session:
            scanned.scanner.record(session, [scanned.read(each) for each in looked.readings])
        world.check()
        assert most == 3
        assert calls > 10

    def test_marks_are_looked_at_before_a_long_scan_goes_on(self) -> None:
        world = make_world(budget=Budget(readings=1_000, names=5))
        for number in range(50):
            world.user.mkdir(b"d%02d" % number)
        world.pass_time(1)
        scanned = world.scanned
        with scanned.state.session() as session:
            assert scanned.scanner.look_everywhere(session).is_cut
            world.user.write(b"d00x", b"urgent")
            looked = scanned.scanner.look(session, [Look(Mark(ROOT_ID, b"d00x"))])
        assert [reading.path.name for reading in looked.readings] == [b"d00x"]
        assert looked.is_cut


class TestListing:
    """What a look at a directory costs: its names are not looked at for its own sake."""

    @pytest.fixture
    def listings(self, world: World) -> list[bytes]:
        world.user.mkdir(b"d")
        world.user.write(b"d/f", b"1")
        recorded(world)
        found: list[bytes] = []

        def note(operation: Operation) -> None:
            if operation.name == "list":
                found.append(operation.path)

        world.disk.before = note
        return found

    def test_new_times_and_modes_of_a_directory(self, world: World, listings: list[bytes]) -> None:
        world.user.utime(b"d", 5)
        world.scanned.rest()
        assert listings == []
        world.user.chmod(b"d", 0o711)
        world.scanned.rest()
        assert listings == [b"m/d"], "who could not be read before may be now"
        assert world.scanned.local()[b"d"][1].state.mode == 0o711

    def test_a_directory_that_is_marked_to_be_listed(
        self, world: World, listings: list[bytes]
    ) -> None:
        world.user.write(b"d/g", b"2")
        world.scanned.watcher.take()
        world.pass_time(1)
        world.scanned.mark(world.scanned.id(b"d"), None)
        world.scanned.rest()
        assert b"d/g" not in paths(world)
        world.scanned.mark(world.scanned.id(b"d"), None, is_written=True)
        world.scanned.rest()
        assert listings == [b"m/d"]
        world.check()


class TestRecording:
    def test_a_result_follows_a_relabel(self, world: World) -> None:
        world.user.mkdir(b"d")
        recorded(world)
        world.user.write(b"d/f", b"1")
        world.pass_time(1)
        scanned = world.scanned
        old, new = scanned.id(b"d"), EntryId(b"n" * 16)
        with scanned.state.session() as session:
            looked = scanned.scanner.look(session, [Look(Mark(old, b"f"))])
        results = [scanned.read(reading) for reading in looked.readings]
        with scanned.state.session() as session:
            session.relabel(old, new)
            scanned.watcher.relabel(old, new)
            scanned.scanner.relabel(old, new)
            assert scanned.scanner.record(session, results) == ()
            assert session.child(new, Name(b"f")) is not None
        world.check()

    def test_a_result_of_a_place_that_somebody_else_has_now_is_dropped(self, world: World) -> None:
        recorded(world)
        world.user.write(b"f", b"1")
        world.pass_time(1)
        scanned = world.scanned
        with scanned.state.session() as session:
            first = scanned.scanner.look(session, [Look(Mark(ROOT_ID, b"f"))]).readings
            second = scanned.scanner.look(session, [Look(Mark(ROOT_ID, b"f"))]).readings
            scanned.scanner.record(session, [scanned.read(each) for each in first])
            waiting = scanned.scanner.record(session, [scanned.read(each) for each in second])
        assert [each.mark.name for each in waiting] == [b"f"]
        scanned.wait(waiting)
        scanned.rest()
        world.check()
        assert scanned.id(b"f") == first[0].id

    def test_a_file_read_before_it_vanished_is_looked_at_again(self, world: World) -> None:
        recorded(world)
        world.user.write(b"f", b"1")
        world.pass_time(1)
        scanned = world.scanned
        with scanned.state.session() as session:
            readings = scanned.scanner.look(session, [Look(Mark(ROOT_ID, b"f"))]).readings
            results = [scanned.read(each) for each in readings]
            world.user.unlink(b"f")
            scanned.scanner.look(session, [Look(Mark(ROOT_ID, b"f"))])
            waiting = scanned.scanner.record(session, results)
        scanned.watcher.take()
        scanned.wait(waiting)
        scanned.rest()
        world.check()

    def test_a_sweep_finds_what_no_mark_told(self, world: World) -> None:
        world.user.mkdir(b"d")
        world.user.write(b"d/f", b"1")
        world.user.write(b"g", b"2")
        recorded(world)
        before = {path: id for path, (id, _) in world.scanned.local().items()}
        world.user.rename(b"d", b"moved")
        world.user.write(b"moved/f", b"edited")
        world.user.unlink(b"g")
        world.user.mkdir(b"h")
        world.scanned.watcher.take()
        world.pass_time(1)
        world.scanned.look_everywhere()
        world.check()
        after = {path: id for path, (id, _) in world.scanned.local().items()}
        assert (after[b"moved"], after[b"moved/f"]) == (before[b"d"], before[b"d/f"])
