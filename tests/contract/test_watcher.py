"""The contract of `ports.watcher`, on every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import pytest

from syncline.core.identity import ROOT_ID, EntryId
from syncline.ports.files import Directory
from syncline.ports.watcher import Mark, Noticed, Watcher
from tests.support import mount_adapters
from tests.support.mount_adapters import ROOT, Hands, MountBench, PosixBench, SimulatedBench

BENCHES: dict[str, Callable[[Path], MountBench]] = {
    "inotify": PosixBench,
    "simulated": lambda at: SimulatedBench(),
}
WITHIN_S = 20.0
SENTINELS = b".syncline"
QUEUE = 16_384
"""What a watcher can be expected to hold before marks may be lost."""

DIRECTORY, OTHER, THIRD = (EntryId(bytes([n]) * 16) for n in (1, 2, 3))
NAMES = [b"n" * 255, b"\xff\xfe", b"a b", b"\n", b"-"]


class Watched:
    """A watched root with a directory `d` in it, and what the watcher tells."""

    def __init__(self, bench: MountBench) -> None:
        self.bench = bench
        self.user: Hands = bench.user
        self.watcher: Watcher = bench.watcher()
        self._open = ExitStack()
        self._numbers = count()
        self.user.mkdir(SENTINELS)
        self.user.mkdir(b"d")
        self.root = self.opened(bench.files().open_root())
        self.watcher.add_sentinels(self.enter(SENTINELS))
        assert self.watcher.add(self.root, ROOT_ID)

    def opened(self, directory: Directory) -> Directory:
        return self._open.enter_context(closing(directory))

    def enter(self, path: bytes) -> Directory:
        at = self.root
        for name in path.split(b"/"):
            at = self.opened(at.enter(name))
        return at

    def watch(self, path: bytes, id: EntryId) -> Directory:
        directory = self.enter(path)
        assert self.watcher.add(directory, id)
        return directory

    async def told(self) -> Noticed:
        """Return all that was told of what was done before this call, by way of a sentinel."""
        sentinel = b"sentinel-%d" % next(self._numbers)
        self.user.write(SENTINELS + b"/" + sentinel, b"")
        marks: list[Mark] = []
        is_overflown = is_root_gone = False
        while True:
            await asyncio.wait_for(self.watcher.wait(), WITHIN_S)
            noticed = self.watcher.take()
            marks += noticed.marks
            is_overflown |= noticed.is_overflown
            is_root_gone |= noticed.is_root_gone
            if sentinel in noticed.sentinels:
                return Noticed(tuple(marks), noticed.sentinels, is_overflown, is_root_gone)

    async def places(self) -> set[tuple[EntryId, bytes | None]]:
        return {(mark.directory, mark.name) for mark in (await self.told()).marks}

    async def mark(self, id: EntryId, name: bytes) -> Mark:
        found = [m for m in (await self.told()).marks if (m.directory, m.name) == (id, name)]
        assert len(found) == 1, found
        return found[0]

    def let_go(self) -> None:
        self._open.close()

    def close(self) -> None:
        self.let_go()
        self.watcher.close()
        self.bench.close()


@pytest.fixture(params=sorted(BENCHES))
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(BENCHES[request.param](tmp_path))
    yield made
    made.close()


CHANGES: dict[str, tuple[Callable[[Hands], None], set[bytes]]] = {
    "create": (lambda user: user.write(b"d/new", b""), {b"new"}),
    "write": (lambda user: user.write(b"d/file", b"x"), {b"file"}),
    "write in place": (lambda user: user.write(b"d/file", b"x", keeps_bytes=True), {b"file"}),
    "save": (lambda user: user.save(b"d/file", b"x"), {b"file", b".saving"}),
    "make a directory": (lambda user: user.mkdir(b"d/new"), {b"new"}),
    "make a link": (lambda user: user.symlink(b"d/new", b"x"), {b"new"}),
    "make a FIFO": (lambda user: user.mkfifo(b"d/new"), {b"new"}),
    "give a second name": (lambda user: user.link(b"d/file", b"d/new"), {b"new"}),
    "link in from elsewhere": (lambda user: user.link(b"file", b"d/new"), {b"new"}),
    "rename": (lambda user: user.rename(b"d/file", b"d/new"), {b"file", b"new"}),
    "rename over": (lambda user: user.rename(b"d/file", b"d/other"), {b"file", b"other"}),
    "move in": (lambda user: user.rename(b"file", b"d/new"), {b"new"}),
    "move in over": (lambda user: user.rename(b"file", b"d/file"), {b"file"}),
    "move out": (lambda user: user.rename(b"d/file", b"new"), {b"file"}),
    "exchange": (lambda user: user.exchange(b"d/file", b"d/sub"), {b"file", b"sub"}),
    "exchange with elsewhere": (lambda user: user.exchange(b"d/file", b"file"), {b"file"}),
    "remove": (lambda user: user.unlink(b"d/file"), {b"file"}),
    "remove a directory": (lambda user: user.rmdir(b"d/sub"), {b"sub"}),
    "chmod": (lambda user: user.chmod(b"d/file", 0o700), {b"file"}),
    "chmod of a directory": (lambda user: user.chmod(b"d/sub", 0o700), {b"sub"}),
    "utime": (lambda user: user.utime(b"d/file", 5), {b"file"}),
}


class TestMarks:
    @pytest.mark.parametrize("change", sorted(CHANGES))
    async def test_every_change_of_a_name_or_a_thing(self, watched: Watched, change: str) -> None:
        act, names = CHANGES[change]
        watched.user.write(b"file", b"")
        watched.user.write(b"d/file", b"")
        watched.user.write(b"d/other", b"")
        watched.user.mkdir(b"d/sub")
        watched.watch(b"d", DIRECTORY)
        await watched.told()
        act(watched.user)
        assert {name for id, name in await watched.places() if id == DIRECTORY} >= names

    async def test_nothing_else_is_told(self, watched: Watched) -> None:
        watched.user.mkdir(b"d/sub")
        watched.user.write(b"d/file", b"")
        watched.watch(b"d", DIRECTORY)
        await watched.told()
        watched.user.read(b"d/file")
        watched.user.write(b"d/sub/deep", b"")
        watched.user.mkdir(b"d/sub/deeper")
        watched.bench.owner.write(b"outside", b"")
        assert await watched.places() == set()

    async def test_names_are_told_as_they_are(self, watched: Watched) -> None:
        for name in NAMES:
            watched.user.write(name, b"")
        assert await watched.places() >= {(ROOT_ID, name) for name in NAMES}

    async def test_a_directory_as_such(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        watched.user.chmod(b"d", 0o700)
        assert await watched.places() >= {(DIRECTORY, None), (ROOT_ID, b"d")}

    async def test_our_own_hands_are_no_exception(self, watched: Watched) -> None:
        directory = watched.watch(b"d", DIRECTORY)
        with closing(directory.create(b"mine")) as file:
            file.write(b"x", 0)
        mark = await watched.mark(DIRECTORY, b"mine")
        assert mark.is_written

    async def test_a_write_that_is_closed(self, watched: Watched) -> None:
        watched.user.write(b"file", b"x")
        mark = await watched.mark(ROOT_ID, b"file")
        assert (mark.is_written, mark.is_open) == (True, False)

    async def test_a_write_that_goes_on(self, watched: Watched) -> None:
        with closing(watched.user.open_writer(b"file")) as writer:
            writer.write(b"x")
            mark = await watched.mark(ROOT_ID, b"file")
            assert (mark.is_written, mark.is_open) == (False, True)
            writer.write(b"y")
            mark = await watched.mark(ROOT_ID, b"file")
            assert (mark.is_written, mark.is_open) == (False, True)
        mark = await watched.mark(ROOT_ID, b"file")
        assert (mark.is_written, mark.is_open) == (True, False)

    async def test_a_cut_is_a_write(self, watched: Watched) -> None:
        watched.user.write(b"file", b"x")
        await watched.told()
        with closing(watched.user.open_writer(b"file", truncates=True)):
            mark = await watched.mark(ROOT_ID, b"file")
            assert (mark.is_written, mark.is_open) == (False, True)

    async def test_one_who_wrote_and_one_who_writes(self, watched: Watched) -> None:
        with closing(watched.user.open_writer(b"file")) as writer:
            watched.user.write(b"file", b"x")
            writer.write(b"y")
            mark = await watched.mark(ROOT_ID, b"file")
            assert (mark.is_written, mark.is_open) == (True, True)

    async def test_a_writer_is_told_by_the_name_of_now(self, watched: Watched) -> None:
        with closing(watched.user.open_writer(b"file")) as writer:
            writer.write(b"x")
            watched.user.rename(b"file", b"new")
            await watched.told()
            writer.write(b"y")
            assert (await watched.mark(ROOT_ID, b"new")).is_open
        assert (await watched.mark(ROOT_ID, b"new")).is_written

    @pytest.mark.parametrize("kind", sorted(mount_adapters.BENCHES))
    async def test_a_writer_is_told_of_after_a_swap_and_a_rescue(
        self, tmp_path: Path, kind: str
    ) -> None:
        with closing(Watched(mount_adapters.BENCHES[kind](tmp_path))) as watched:
            watched.user.write(SENTINELS + b"/placed", b"new")
            own = watched.enter(SENTINELS)
            with closing(watched.user.open_writer(b"d/file")) as writer:
                directory = watched.watch(b"d", DIRECTORY)
                own.exchange(b"placed", directory, b"file")
                own.move(b"placed", directory, b"rescued", keeps_writers=True)
                await watched.told()
                writer.write(b"late")
                assert (await watched.mark(DIRECTORY, b"rescued")).is_open
            assert (await watched.mark(DIRECTORY, b"rescued")).is_written

    @pytest.mark.parametrize("kind", sorted(mount_adapters.BENCHES))
    async def test_a_writer_is_told_of_after_a_removal_and_a_rescue(
        self, tmp_path: Path, kind: str
    ) -> None:
        with closing(Watched(mount_adapters.BENCHES[kind](tmp_path))) as watched:
            own = watched.enter(SENTINELS)
            with closing(watched.user.open_writer(b"d/file")) as writer:
                directory = watched.watch(b"d", DIRECTORY)
                directory.move(b"file", own, b"removed", keeps_writers=True)
                own.move(b"removed", directory, b"file", keeps_writers=True)
                await watched.told()
                writer.write(b"late")
                assert (await watched.mark(DIRECTORY, b"file")).is_open
            assert (await watched.mark(DIRECTORY, b"file")).is_written

    async def test_a_name_that_is_replaced_is_open_no_more(self, watched: Watched) -> None:
        with closing(watched.user.open_writer(b"file")) as writer:
            writer.write(b"x")
            watched.user.save(b"file", b"y")
            assert not (await watched.mark(ROOT_ID, b"file")).is_open

    async def test_other_changes_are_no_writing(self, watched: Watched) -> None:
        watched.user.write(b"file", b"x")
        await watched.told()
        watched.user.chmod(b"file", 0o600)
        watched.user.rename(b"file", b"new")
        for mark in (await watched.told()).marks:
            assert (mark.is_written, mark.is_open) == (False, False)


class TestDirectories:
    async def test_a_new_directory_is_told_by_its_parent_alone(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        watched.user.mkdir(b"d/new")
        watched.user.write(b"d/new/early", b"")
        assert {place for place in await watched.places() if place[0] == DIRECTORY} == {
            (DIRECTORY, b"new")
        }
        watched.watch(b"d/new", OTHER)
        watched.user.write(b"d/new/late", b"")
        assert await watched.places() == {(OTHER, b"late")}

    async def test_a_watch_and_then_a_list_miss_nothing(self, watched: Watched) -> None:
        numbers = count()
        directory = watched.enter(b"d")

        def make() -> None:
            number = next(numbers)
            if number < 200:
                watched.user.write(b"d/%d" % number, b"")

        with watched.bench.meanwhile(make):
            directory.look(b"0")
            assert watched.watcher.add(directory, DIRECTORY)
            listed = {name for name, _ in directory.list()}
            while directory.look(b"199") is None:
                pass
        told = {name for id, name in await watched.places() if id == DIRECTORY}
        assert listed | told == {b"%d" % number for number in range(200)}

    async def test_it_is_known_by_its_id_wherever_it_goes(self, watched: Watched) -> None:
        watched.user.mkdir(b"d/sub")
        watched.user.mkdir(b"d/sub/deep")
        watched.watch(b"d/sub", DIRECTORY)
        watched.watch(b"d/sub/deep", OTHER)
        watched.user.rename(b"d/sub", b"moved")
        watched.user.mkdir(b"d/sub")
        watched.user.mkdir(b"d/sub/deep")
        await watched.told()
        watched.user.write(b"moved/file", b"")
        watched.user.write(b"moved/deep/file", b"")
        watched.user.write(b"d/sub/file", b"")
        watched.user.write(b"d/sub/deep/file", b"")
        assert await watched.places() == {(DIRECTORY, b"file"), (OTHER, b"file")}

    async def test_it_is_the_directory_that_is_watched_and_not_its_path(
        self, watched: Watched
    ) -> None:
        directory = watched.enter(b"d")
        watched.user.rename(b"d", b"moved")
        watched.user.mkdir(b"d")
        assert watched.watcher.add(directory, DIRECTORY)
        await watched.told()
        watched.user.write(b"d/file", b"")
        watched.user.write(b"moved/other", b"")
        assert await watched.places() == {(DIRECTORY, b"other")}

    async def test_exchanged_directories_keep_their_ids(self, watched: Watched) -> None:
        watched.user.mkdir(b"e")
        watched.watch(b"d", DIRECTORY)
        watched.watch(b"e", OTHER)
        watched.user.exchange(b"d", b"e")
        await watched.told()
        watched.user.write(b"e/of-d", b"")
        watched.user.write(b"d/of-e", b"")
        assert await watched.places() == {(DIRECTORY, b"of-d"), (OTHER, b"of-e")}

    async def test_a_watch_ends_with_its_directory(self, watched: Watched) -> None:
        with closing(watched.root.enter(b"d")) as directory:
            assert watched.watcher.add(directory, DIRECTORY)
        watched.user.rmdir(b"d")
        watched.user.mkdir(b"d")
        noticed = await watched.told()
        assert (ROOT_ID, b"d") in {(mark.directory, mark.name) for mark in noticed.marks}
        assert not noticed.is_root_gone
        watched.user.write(b"d/file", b"")
        assert await watched.places() == set()
        assert not watched.watcher.is_watched(DIRECTORY)
        watched.watcher.forget(DIRECTORY)
        watched.watch(b"d", DIRECTORY)
        watched.user.write(b"d/file", b"x")
        assert await watched.places() == {(DIRECTORY, b"file")}


class TestIds:
    async def test_to_watch_twice_is_to_watch(self, watched: Watched) -> None:
        directory = watched.watch(b"d", DIRECTORY)
        assert watched.watcher.add(directory, DIRECTORY)
        watched.user.write(b"d/file", b"")
        await watched.mark(DIRECTORY, b"file")

    async def test_the_last_id_counts(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        watched.watch(b"d", OTHER)
        watched.user.write(b"d/file", b"")
        assert await watched.places() == {(OTHER, b"file")}

    async def test_an_id_is_of_one_directory(self, watched: Watched) -> None:
        watched.user.mkdir(b"e")
        watched.watch(b"d", DIRECTORY)
        watched.watch(b"e", DIRECTORY)
        await watched.told()
        watched.user.write(b"d/of-d", b"")
        watched.user.write(b"e/of-e", b"")
        assert await watched.places() == {(DIRECTORY, b"of-e")}

    async def test_what_is_forgotten_is_told_no_more(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        assert watched.watcher.is_watched(DIRECTORY)
        watched.watcher.forget(DIRECTORY)
        watched.watcher.forget(DIRECTORY)
        watched.watcher.forget(OTHER)
        watched.user.write(b"d/file", b"")
        assert await watched.places() == set()
        assert not watched.watcher.is_watched(DIRECTORY)
        watched.watch(b"d", OTHER)
        watched.user.write(b"d/file", b"")
        assert await watched.places() == {(OTHER, b"file")}

    async def test_what_was_noticed_before_is_told_by_the_new_id(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        watched.user.write(b"d/file", b"x")
        await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        watched.watcher.relabel(DIRECTORY, OTHER)
        mark = await watched.mark(OTHER, b"file")
        assert mark.is_written

    async def test_another_id_for_the_same(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        watched.watcher.relabel(DIRECTORY, OTHER)
        watched.watcher.relabel(THIRD, DIRECTORY)
        watched.user.write(b"d/file", b"")
        assert await watched.places() == {(OTHER, b"file")}
        watched.watcher.forget(DIRECTORY)
        watched.user.write(b"d/file", b"x")
        assert await watched.places() == {(OTHER, b"file")}
        watched.watcher.forget(OTHER)
        watched.user.write(b"d/file", b"y")
        assert await watched.places() == set()


class TestTaking:
    async def test_marks_of_one_place_are_one(self, watched: Watched) -> None:
        for _ in range(100):
            watched.user.write(b"file", b"x")
            watched.user.chmod(b"file", 0o600)
        await watched.mark(ROOT_ID, b"file")

    async def test_what_was_taken_is_gone(self, watched: Watched) -> None:
        watched.user.write(b"file", b"x")
        await watched.told()
        assert watched.watcher.take() == Noticed()
        assert watched.watcher.take() == Noticed()

    async def test_a_wait_takes_nothing(self, watched: Watched) -> None:
        watched.user.write(b"file", b"x")
        for _ in range(3):
            await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        await watched.mark(ROOT_ID, b"file")

    async def test_a_wait_lasts_until_something_comes(self, watched: Watched) -> None:
        await watched.told()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(watched.watcher.wait())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
            watched.user.write(b"file", b"x")
            await asyncio.wait_for(waiting, WITHIN_S)
        await watched.mark(ROOT_ID, b"file")

    async def test_a_wait_that_was_given_up_harms_nobody(self, watched: Watched) -> None:
        await watched.told()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(watched.watcher.wait())
            await asyncio.sleep(0)
            waiting.cancel()
        watched.user.write(b"file", b"x")
        await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        await watched.mark(ROOT_ID, b"file")

    async def test_sentinels_are_told_apart(self, watched: Watched) -> None:
        watched.user.write(SENTINELS + b"/one", b"")
        watched.user.write(b"two", b"")
        watched.user.rename(b"two", SENTINELS + b"/two")
        noticed = await watched.told()
        assert noticed.sentinels >= {b"one", b"two"}
        assert {mark.name for mark in noticed.marks} <= {b"two", SENTINELS}
        watched.user.unlink(SENTINELS + b"/one")
        assert len((await watched.told()).sentinels) == 1

    async def test_all_before_a_sentinel_has_been_told(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        for number in range(300):
            watched.user.write(b"d/%d" % number, b"")
        assert await watched.places() == {(DIRECTORY, b"%d" % number) for number in range(300)}


class TestTrouble:
    async def test_too_much_at_once_is_said(self, watched: Watched) -> None:
        watched.user.write(b"file", b"")
        watched.user.write(b"other", b"")
        await watched.told()
        for _ in range(QUEUE // 2 + 1):
            watched.user.chmod(b"file", 0o600)
            watched.user.chmod(b"other", 0o600)
        await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        assert watched.watcher.take().is_overflown
        watched.user.write(b"file", b"x")
        noticed = await watched.told()
        assert not noticed.is_overflown
        assert (ROOT_ID, b"file") in {(mark.directory, mark.name) for mark in noticed.marks}

    async def test_a_root_that_was_moved(self, watched: Watched) -> None:
        watched.watch(b"d", DIRECTORY)
        watched.user.rename(b"d", b"e")
        assert not (await watched.told()).is_root_gone
        watched.bench.owner.rename(ROOT, b"elsewhere")
        await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        assert watched.watcher.take().is_root_gone
        assert not watched.watcher.take().is_root_gone

    async def test_a_root_that_was_replaced(self, watched: Watched) -> None:
        watched.bench.owner.mkdir(b"other")
        await watched.told()
        watched.bench.owner.exchange(ROOT, b"other")
        await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        assert watched.watcher.take().is_root_gone

    async def test_what_is_beside_the_root(self, watched: Watched) -> None:
        await watched.told()
        watched.bench.owner.mkdir(b"beside")
        watched.bench.owner.rename(b"beside", b"other")
        watched.bench.owner.rmdir(b"other")
        noticed = await watched.told()
        assert (noticed.marks, noticed.is_root_gone) == ((), False)

    @pytest.mark.parametrize("is_open", [True, False])
    async def test_a_root_that_was_removed(self, watched: Watched, is_open: bool) -> None:
        await watched.told()
        if not is_open:
            watched.let_go()
        watched.bench.owner.rmtree(ROOT)
        await asyncio.wait_for(watched.watcher.wait(), WITHIN_S)
        assert watched.watcher.take().is_root_gone

    async def test_closed_is_closed(self, watched: Watched) -> None:
        await watched.told()
        watched.watcher.close()
        watched.watcher.close()
        watched.user.write(b"file", b"x")
        assert watched.user.read(b"file") == b"x"
