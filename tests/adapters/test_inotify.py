"""What the real watcher tells, and that it says so when something was lost.

The contract itself is in tests/contract.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncline.adapters.inotify import InotifyWatcher
from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.posix_handles import PosixDirectory
from syncline.core.identity import ROOT_ID, EntryId
from syncline.ports.files import FileKind
from syncline.ports.watcher import Mark, Noticed
from tests.support.wait import eventually, wait_until

FIRST = EntryId(b"1" * 16)
SECOND = EntryId(b"2" * 16)
WAIT_S = 20


@pytest.fixture
def watcher() -> Iterator[InotifyWatcher]:
    with closing(InotifyWatcher()) as watcher:
        yield watcher


@pytest.fixture
def root(tmp_path: Path) -> Iterator[PosixDirectory]:
    (tmp_path / "root").mkdir()
    with closing(PosixFiles(os.fsencode(tmp_path / "root")).open_root()) as directory:
        yield directory


@pytest.fixture
def top(tmp_path: Path) -> Path:
    return tmp_path / "root"


def watch(watcher: InotifyWatcher, path: Path, id: EntryId) -> bool:
    with closing(PosixFiles(os.fsencode(path)).open_root()) as directory:
        return watcher.add(directory, id)


def queue_length() -> int:
    """Return how many events the kernel holds."""
    length = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if length > 100_000:
        pytest.skip("the queue of the kernel is very long here")
    return length


class TestMarks:
    def test_a_file_is_open_until_its_writer_closes_it(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        assert watcher.add(root, FIRST)
        with (top / "a").open("wb") as file:
            assert watcher.take().marks == (Mark(FIRST, b"a"),)
            file.write(b"content")
            file.flush()
            assert watcher.take().marks == (Mark(FIRST, b"a", is_open=True),)
        assert watcher.take().marks == (Mark(FIRST, b"a", is_written=True),)
        assert watcher.take() == Noticed()

    def test_marks_of_one_place_are_merged(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        for _ in range(3):
            (top / "a").write_bytes(b"content")
        (top / "b").write_bytes(b"content")
        assert watcher.take().marks == (
            Mark(FIRST, b"a", is_written=True),
            Mark(FIRST, b"b", is_written=True),
        )
        with (top / "a").open("ab", buffering=0) as file:
            (top / "a").write_bytes(b"closed")
            file.write(b"still open")
            assert watcher.take().marks == (Mark(FIRST, b"a", is_written=True, is_open=True),)

    def test_a_file_in_the_place_of_an_open_one_is_not_open(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "new").touch()
        watcher.add(root, FIRST)
        with (top / "a").open("wb", buffering=0) as file:
            file.write(b"content")
            (top / "new").rename(top / "a")
            marks = set(watcher.take().marks)
        assert marks == {Mark(FIRST, b"a"), Mark(FIRST, b"new")}

    @pytest.mark.parametrize(
        ("act", "names"),
        [
            (lambda top: (top / "file").unlink(), {b"file"}),
            (lambda top: (top / "file").rename(top / "new"), {b"file", b"new"}),
            (lambda top: (top / "file").rename(top.parent / "out"), {b"file"}),
            (lambda top: (top.parent / "outside").rename(top / "in"), {b"in"}),
            (lambda top: (top / "file").chmod(0o640), {b"file"}),
            (lambda top: os.utime(top / "file", ns=(0, 0)), {b"file"}),
            (lambda top: (top / "new").mkdir(), {b"new"}),
            (lambda top: (top / "directory").rmdir(), {b"directory"}),
            (lambda top: (top / "directory").chmod(0o700), {b"directory"}),
            (lambda top: (top / "new").symlink_to("nowhere"), {b"new"}),
            (lambda top: os.link(top / "file", top / "new"), {b"new"}),
            (lambda top: os.mkfifo(top / "fifo"), {b"fifo"}),
            (lambda top: (top / os.fsdecode(b"\xff\n")).touch(), {b"\xff\n"}),
            (lambda top: (top / ("n" * 255)).touch(), {b"n" * 255}),
        ],
    )
    def test_every_change_is_told(
        self,
        watcher: InotifyWatcher,
        root: PosixDirectory,
        top: Path,
        act: Callable[[Path], object],
        names: set[bytes],
    ) -> None:
        (top / "file").touch()
        (top / "directory").mkdir()
        (top.parent / "outside").touch()
        watcher.add(root, FIRST)
        act(top)
        assert {(mark.directory, mark.name) for mark in watcher.take().marks} == {
            (FIRST, name) for name in names
        }

    def test_an_exchange_is_told_on_both_sides(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "a").touch()
        (top / "directory").mkdir()
        (top / "directory" / "b").touch()
        watcher.add(root, ROOT_ID)
        with closing(root.enter(b"directory")) as directory:
            watcher.add(directory, FIRST)
            root.exchange(b"a", directory, b"b")
        assert set(watcher.take().marks) == {Mark(ROOT_ID, b"a"), Mark(FIRST, b"b")}

    def test_the_directory_as_such_is_told(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        top.chmod(0o700)
        assert watcher.take().marks == (Mark(FIRST, None),)

    def test_looking_is_no_change(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "a").write_bytes(b"content")
        watcher.add(root, FIRST)
        root.list()
        with closing(root.open(b"a")) as file:
            file.read(100, 0)
            file.hold()
        assert watcher.take() == Noticed()

    def test_the_clients_own_directory_is_not_told(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "below").mkdir()
        watcher.add(root, ROOT_ID)
        watch(watcher, top / "below", FIRST)
        (top / ".syncline").mkdir()
        (top / ".syncline").chmod(0o700)
        (top / "below" / ".syncline").mkdir()
        assert watcher.take().marks == (Mark(FIRST, b".syncline"),)


class TestWatches:
    def test_a_watch_goes_with_its_directory(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "a" / "below").mkdir(parents=True)
        assert watch(watcher, top / "a", FIRST)
        (top / "a").rename(top / "b")
        (top / "a").mkdir()
        (top / "a" / "other").touch()
        (top / "b" / "new").touch()
        marks = watcher.take().marks
        assert {mark.name for mark in marks if mark.name} == {b"new"}
        assert {mark.directory for mark in marks} == {FIRST}

    def test_the_newest_id_of_a_directory_counts(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        watcher.add(root, SECOND)
        watcher.forget(FIRST)
        (top / "a").mkdir()
        assert watcher.take().marks == (Mark(SECOND, b"a"),)

    def test_the_newest_directory_of_an_id_counts(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        for name in ("a", "b"):
            (top / name).mkdir()
            assert watch(watcher, top / name, FIRST)
        (top / "a" / "old").mkdir()
        (top / "b" / "new").mkdir()
        assert watcher.take().marks == (Mark(FIRST, b"new"),)

    def test_relabelling_reaches_what_was_noticed_before(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        (top / "a").mkdir()
        watcher.relabel(FIRST, SECOND)
        (top / "b").mkdir()
        assert watcher.take().marks == (Mark(SECOND, b"a"), Mark(SECOND, b"b"))
        watcher.relabel(FIRST, SECOND)
        watcher.forget(FIRST)
        (top / "c").mkdir()
        assert watcher.take().marks == (Mark(SECOND, b"c"),)

    async def test_relabelling_reaches_what_was_read_before(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        (top / "a").write_bytes(b"content")
        await asyncio.wait_for(watcher.wait(), WAIT_S)
        watcher.relabel(FIRST, SECOND)
        assert watcher.take().marks == (Mark(SECOND, b"a", is_written=True),)

    def test_what_is_forgotten_is_not_told(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.forget(FIRST)
        watcher.add(root, FIRST)
        watcher.forget(FIRST)
        (top / "a").mkdir()
        assert watcher.take() == Noticed()
        watcher.add(root, FIRST)
        (top / "b").mkdir()
        assert watcher.take().marks == (Mark(FIRST, b"b"),)

    def test_a_removed_directory_lets_go_of_its_id(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        for _ in range(3):
            (top / "a").mkdir()
            assert watch(watcher, top / "a", FIRST)
            (top / "a" / "b").mkdir()
            assert Mark(FIRST, b"b") in watcher.take().marks
            shutil.rmtree(top / "a")
        watcher.take()
        watcher.forget(FIRST)
        assert watcher.take() == Noticed()

    def test_a_directory_removed_and_not_noticed_yet_can_be_forgotten(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "a").mkdir()
        watch(watcher, top / "a", FIRST)
        (top / "a").rmdir()
        watcher.forget(FIRST)
        assert watcher.take() == Noticed()

    @pytest.mark.parametrize("is_open", [True, False])
    @pytest.mark.parametrize(
        "leave",
        [
            lambda top: top.rename(top.parent / "moved"),
            lambda top: (top.parent / "new").mkdir() or (top.parent / "new").rename(top),
            shutil.rmtree,
        ],
    )
    def test_a_root_that_is_gone_is_told(
        self,
        watcher: InotifyWatcher,
        root: PosixDirectory,
        top: Path,
        leave: Callable[[Path], object],
        is_open: bool,
    ) -> None:
        watcher.add(root, ROOT_ID)
        if not is_open:
            root.close()
        leave(top)
        assert watcher.take().is_root_gone
        assert not watcher.take().is_root_gone

    def test_what_happens_beside_the_root_is_not_told(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, ROOT_ID)
        (top.parent / "beside").mkdir()
        (top.parent / "beside").rmdir()
        assert watcher.take() == Noticed()
        watcher.forget(ROOT_ID)
        shutil.rmtree(top)
        assert watcher.take() == Noticed()

    def test_the_root_of_everything_has_nothing_above(self, watcher: InotifyWatcher) -> None:
        assert watch(watcher, Path("/"), ROOT_ID)
        watcher.forget(ROOT_ID)
        assert watch(watcher, Path("/"), ROOT_ID)

    def test_another_directory_that_is_gone_is_no_root(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / "a").mkdir()
        watcher.add(root, ROOT_ID)
        watch(watcher, top / "a", FIRST)
        (top / "a").rename(top / "b")
        (top / "b").rmdir()
        assert not watcher.take().is_root_gone

    def test_sentinels_come_after_what_was_before(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        (top / ".syncline" / "wait").mkdir(parents=True)
        watcher.add(root, ROOT_ID)
        with closing(root.enter(b".syncline")) as own, closing(own.enter(b"wait")) as sentinels:
            watcher.add_sentinels(sentinels)
        (top / "a").mkdir()
        (top / ".syncline" / "wait" / "one").touch()
        (top / ".syncline" / "wait" / "one").unlink()
        (top / "b").touch()
        (top / "b").rename(top / ".syncline" / "wait" / "two")
        noticed = watcher.take()
        assert noticed.sentinels == {b"one", b"two"}
        assert {mark.name for mark in noticed.marks} == {b"a", b"b"}
        assert watcher.take() == Noticed()


class TestWaiting:
    async def test_it_ends_when_something_was_noticed(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, ROOT_ID)
        for number in range(3):
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(watcher.wait())
                await asyncio.sleep(0)
                (top / ".syncline").mkdir(exist_ok=True)
                assert not waiting.done()
                (top / f"{number}").mkdir()
                await asyncio.wait_for(waiting, WAIT_S)
            await asyncio.wait_for(watcher.wait(), WAIT_S)
            assert watcher.take().marks == (Mark(ROOT_ID, b"%d" % number),)

    async def test_the_loop_empties_the_queue_before_it_runs_over(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        (top / "0").mkdir()
        await asyncio.wait_for(watcher.wait(), WAIT_S)
        for number in range(queue_length()):
            (top / f"{number % 2}").rename(top / f"{(number + 1) % 2}")
            if number % 500 == 0:
                await asyncio.sleep(0)
        noticed = watcher.take()
        assert not noticed.is_overflown
        assert set(noticed.marks) == {Mark(FIRST, b"0"), Mark(FIRST, b"1")}

    async def test_closing_ends_the_reading_and_may_come_twice(
        self, root: PosixDirectory, top: Path
    ) -> None:
        watcher = InotifyWatcher()
        watcher.add(root, FIRST)
        (top / "a").mkdir()
        await asyncio.wait_for(watcher.wait(), WAIT_S)
        watcher.close()
        watcher.close()
        with pytest.raises(ValueError, match="closed"):
            watcher.add(root, FIRST)


class TestLimits:
    def test_a_queue_that_ran_over_is_told_once(
        self, watcher: InotifyWatcher, root: PosixDirectory, top: Path
    ) -> None:
        watcher.add(root, FIRST)
        (top / "0").touch()
        for number in range(queue_length()):
            (top / f"{number}").rename(top / f"{number + 1}")
        noticed = watcher.take()
        assert noticed.is_overflown
        assert len(noticed.marks) > 100
        (top / "new").mkdir()
        assert watcher.take() == Noticed(marks=(Mark(FIRST, b"new"),))

    def test_marks_past_the_limit_are_lost_and_told(self, root: PosixDirectory, top: Path) -> None:
        with closing(InotifyWatcher(marks_max=5)) as watcher:
            watcher.add(root, FIRST)
            for number in range(5):
                (top / f"{number}").write_bytes(b"content")
            assert not watcher.take().is_overflown
            for number in range(10, 16):
                (top / f"{number}").write_bytes(b"content")
            noticed = watcher.take()
            assert noticed.is_overflown
            assert [mark.name for mark in noticed.marks] == [b"10", b"11", b"12", b"13", b"14"]
            assert watcher.take() == Noticed()

    @pytest.mark.process
    def test_a_system_without_watches_or_instances_is_told(self, tmp_path: Path) -> None:
        inside = [shutil.which("unshare") or "", "--user", "--map-root-user"]
        limits = Path("/proc/sys/user/max_inotify_watches")
        if not inside[0] or not limits.exists() or subprocess.run([*inside, "true"]).returncode:
            pytest.skip("there are no user namespaces here")
        ran = subprocess.run(
            [*inside, sys.executable, "-c", LIMITED, tmp_path],
            capture_output=True,
            timeout=60,
        )
        assert (ran.stderr, ran.returncode) == (b"", 0)
        assert ran.stdout.splitlines() == [b"3 of 5 watched, 3 told", b"no instance: local_failure"]


LIMITED = """
import os, sys
from pathlib import Path
from syncline.adapters.inotify import InotifyWatcher
from syncline.adapters.posix_files import PosixFiles
from syncline.errors import LocalFailure

limits = Path("/proc/sys/user")
(limits / "max_inotify_watches").write_text("3")
watcher = InotifyWatcher()
files = PosixFiles(os.fsencode(sys.argv[1]))
root = files.open_root()
watched = 0
for number in range(5):
    root.make_directory(b"%d" % number, 0o755)
    directory = root.enter(b"%d" % number)
    watched += watcher.add(directory, b"%16d" % number)
    directory.make_directory(b"new", 0o755)
    directory.close()
print(watched, "of 5 watched,", len(watcher.take().marks), "told")
(limits / "max_inotify_instances").write_text("1")
try:
    InotifyWatcher()
except LocalFailure as error:
    assert "max_user_instances" in error.message, error.message
    print("no instance:", error.code)
watcher.close()
root.close()
"""


class Mirror:
    """Knows every path below a root by marks alone: the watch first, then the listing."""

    def __init__(self, watcher: InotifyWatcher, root: PosixDirectory) -> None:
        self.files: set[bytes] = set()
        self._watcher = watcher
        self._directories: dict[EntryId, tuple[bytes, PosixDirectory]] = {}
        self._known: dict[bytes, EntryId] = {}
        self._watch(b"", root)

    def apply(self, noticed: Noticed) -> None:
        assert not noticed.is_overflown
        for mark in noticed.marks:
            path, directory = self._directories[mark.directory]
            if mark.name is not None:
                seen = directory.look(mark.name)
                if seen is not None:
                    self._see(path + b"/" + mark.name, mark.name, directory, seen.kind)

    def close(self) -> None:
        for path, directory in self._directories.values():
            if path:
                directory.close()

    def _watch(self, path: bytes, directory: PosixDirectory) -> None:
        id = EntryId(b"%016d" % len(self._known))
        self._known[path] = id
        self._directories[id] = (path, directory)
        assert self._watcher.add(directory, id)
        for name, seen in directory.list():
            self._see(path + b"/" + name, name, directory, seen.kind)

    def _see(self, path: bytes, name: bytes, directory: PosixDirectory, kind: FileKind) -> None:
        if kind is FileKind.FILE:
            self.files.add(path)
        elif path not in self._known:
            self._watch(path, directory.enter(name))


async def test_no_file_in_fresh_nested_directories_is_lost(
    watcher: InotifyWatcher, root: PosixDirectory, top: Path
) -> None:
    made: set[bytes] = set()
    is_done = threading.Event()

    def write() -> None:
        for number in range(400):
            above = b"a%d/b%d/c%d" % (number % 20, number % 100, number)
            os.makedirs(os.fsencode(top) + b"/" + above)
            for file in range(50):
                path = b"/" + above + b"/%d" % file
                os.close(os.open(os.fsencode(top) + path, os.O_CREAT | os.O_WRONLY))
                made.add(path)
            # Two events a file: the queue of the kernel must not run over on a busy machine.
            wait_until(lambda: len(made) - len(mirror.files) < 4000, "the reader", timeout_s=60)
        is_done.set()

    with closing(Mirror(watcher, root)) as mirror:
        writer = threading.Thread(target=write)
        writer.start()

        def is_whole() -> bool:
            mirror.apply(watcher.take())
            return is_done.is_set() and len(mirror.files) >= len(made)

        await eventually(is_whole, "every file", timeout_s=120)
        writer.join()
        assert len(made) == 20_000
        assert mirror.files == made
