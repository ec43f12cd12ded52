"""The contract of `ports.files`, on every adapter: what lies in a directory, and its attributes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncline.errors import InUse
from syncline.ports.files import Directory, FileKind, Writers
from tests.support.mount_adapters import BENCHES, ROOT, MountBench
from tests.support.mounts import (
    ALL,
    LINKED,
    LINKS,
    content,
    fill,
    inode,
    kinds,
    names,
    put,
    refuses,
)

LATE = 4_000_000_000 * 10**9 + 999_999_999
MTIMES = [0, 1, -1, -1_000_000_001, -2_000_000_000 * 10**9 + 1, 2**31 * 10**9 + 1, LATE]
"""Before 1970, before and after 2038, and with every digit of a nanosecond."""

LONGEST = b"n" * 255
NAMES = [LONGEST, b"\xff" * 255, b"...", b"-", b" ", b"a b.", b"\\", b"\n\x1b", "é".encode(), b".x"]
NAMES += [bytes([n]) for n in range(1, 256) if n not in b"/.- \\"]


@pytest.fixture(params=sorted(BENCHES))
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountBench]:
    bench = BENCHES[request.param](tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def root(mount: MountBench) -> Iterator[Directory]:
    with closing(mount.files().open_root()) as opened:
        yield opened


class TestLooking:
    def test_each_kind_is_told(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        wanted = {
            b"file": FileKind.FILE,
            b"directory": FileKind.DIRECTORY,
            b"fifo": FileKind.OTHER,
        } | dict.fromkeys(LINKS, FileKind.LINK)
        assert kinds(root) == wanted

    def test_a_list_and_a_look_say_the_same(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        assert dict(root.list()) == {name: root.look(name) for name in ALL}

    def test_nothing_is_none(self, root: Directory) -> None:
        assert root.look(b"nothing") is None
        assert root.list() == []

    def test_facts_of_a_file(self, mount: MountBench, root: Directory) -> None:
        mount.user.write(b"file", b"12345")
        mount.user.chmod(b"file", 0o6741)
        mount.user.utime(b"file", LATE)
        seen = root.look(b"file")
        assert seen is not None
        assert (seen.size, seen.mode, seen.mtime_ns) == (5, 0o6741, LATE)
        assert seen.device == root.status().device
        assert seen.inode != root.status().inode

    def test_facts_of_a_link_are_its_own(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        mount.user.utime(b"file", 5)
        mount.user.utime(b"to-file", 7)
        seen = root.look(b"to-file")
        assert seen is not None
        assert (seen.size, seen.mtime_ns) == (len(b"file"), 7)

    def test_a_handle_and_a_name_say_the_same(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        with closing(root.open(b"file")) as file, closing(root.enter(b"directory")) as inner:
            assert file.status() == root.look(b"file")
            assert inner.status() == root.look(b"directory")
            assert file.born_ns() == root.born_ns(b"file")

    def test_every_name_is_carried_as_it_is(self, mount: MountBench, root: Directory) -> None:
        for name in NAMES:
            put(root, name, name)
        assert names(root) == sorted(NAMES)
        assert all(content(root, name) == name for name in NAMES)
        assert sorted(mount.user.tree()) == sorted(NAMES)

    def test_a_name_that_is_too_long(self, root: Directory) -> None:
        put(root, b"file")
        name = LONGEST + b"n"
        with refuses(errno.ENAMETOOLONG):
            root.look(name)
        with refuses(errno.ENAMETOOLONG):
            root.create(name)
        with refuses(errno.ENAMETOOLONG):
            root.make_directory(name, 0o755)
        with refuses(errno.ENAMETOOLONG):
            root.make_link(name, b"x")
        with refuses(errno.ENAMETOOLONG):
            root.move(b"file", root, name)
        with refuses(errno.ENAMETOOLONG):
            root.link(b"file", root, name)
        assert names(root) == [b"file"]

    def test_what_comes_and_goes_disturbs_no_list(self, mount: MountBench, root: Directory) -> None:
        fill(mount)

        def churn() -> None:
            mount.user.write(b"guest", b"")
            mount.user.unlink(b"guest")

        with mount.meanwhile(churn):
            seen = [kinds(root) for _ in range(50)]
        assert all(set(ALL) <= set(kinds_seen) <= {*ALL, b"guest"} for kinds_seen in seen)

    def test_births_do_not_move(self, mount: MountBench, root: Directory) -> None:
        put(root, b"file")
        root.make_directory(b"directory", 0o755)
        root.make_link(b"link", b"x")
        born = {name: root.born_ns(name) for name in (b"file", b"directory", b"link")}
        mount.later()
        mount.user.write(b"file", b"more")
        mount.user.chmod(b"file", 0o600)
        root.set_mtime(b"link", 0)
        for name in born:
            root.move(name, root, name + b"2")
        assert {name: root.born_ns(name + b"2") for name in born} == born
        put(root, b"file")
        assert root.born_ns(b"file") != born[b"file"]
        with refuses(errno.ENOENT):
            root.born_ns(b"nothing")

    def test_times_move_with_what_they_are_of(self, mount: MountBench, root: Directory) -> None:
        def times() -> tuple[int, int]:
            seen = root.look(b"file")
            assert seen is not None
            mount.later()
            return seen.mtime_ns, seen.ctime_ns

        put(root, b"file", b"1")
        made = times()
        mount.user.write(b"file", b"2")
        written = times()
        mount.user.chmod(b"file", 0o640)
        changed = times()
        root.move(b"file", root, b"aside")
        root.move(b"aside", root, b"file")
        moved = times()
        assert written[0] > made[0] and written[1] > made[1]
        assert changed[0] == written[0] and changed[1] > written[1]
        assert moved[0] == written[0]
        assert content(root, b"file") == b"2"
        assert times() == moved, "reading moves none of them"

    def test_the_time_of_a_directory_moves_with_names(
        self, mount: MountBench, root: Directory
    ) -> None:
        before = root.status().mtime_ns
        mount.later()
        put(root, b"file")
        assert root.status().mtime_ns > before


class TestOpening:
    @pytest.mark.parametrize("name", [b"file", b"fifo"])
    def test_what_is_no_directory_is_not_entered(
        self, mount: MountBench, root: Directory, name: bytes
    ) -> None:
        fill(mount)
        with refuses(errno.ENOTDIR):
            root.enter(name)

    @pytest.mark.parametrize("name", LINKS)
    def test_no_link_is_followed(self, mount: MountBench, root: Directory, name: bytes) -> None:
        fill(mount)
        with refuses(*LINKED):
            root.enter(name)
        with refuses(errno.ELOOP):
            root.open(name)
        with refuses(errno.ELOOP):
            root.open_to_write(name)
        with refuses(errno.EEXIST):
            root.create(name)
        with refuses(errno.EEXIST):
            root.make_directory(name, 0o755)
        with refuses(errno.ELOOP):
            root.set_mode(name, 0o777)
        assert root.look(b"nothing") is None
        assert content(root, b"file") == b"content"

    def test_only_regular_files_are_opened(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        for opens in (root.open, root.open_to_write):
            with refuses(errno.EISDIR):
                opens(b"directory")
            with refuses(errno.EINVAL):
                opens(b"fifo")
            with refuses(errno.ENOENT):
                opens(b"nothing")
        with refuses(errno.ENOENT):
            root.enter(b"nothing")

    @pytest.mark.parametrize("name", ALL)
    def test_a_taken_name_is_not_made_again(
        self, mount: MountBench, root: Directory, name: bytes
    ) -> None:
        fill(mount)
        before = mount.user.tree()
        with refuses(errno.EEXIST):
            root.create(name)
        with refuses(errno.EEXIST):
            root.make_directory(name, 0o755)
        with refuses(errno.EEXIST):
            root.make_link(name, b"x")
        with refuses(errno.EEXIST):
            root.link(b"file", root, name)
        assert mount.user.tree() == before

    def test_a_new_file_is_its_owner_s_alone(self, root: Directory) -> None:
        before = os.umask(0)
        try:
            with closing(root.create(b"file")) as file:
                status = file.status()
        finally:
            os.umask(before)
        assert (status.kind, status.mode, status.size) == (FileKind.FILE, 0o600, 0)

    @pytest.mark.parametrize("mode", [0o000, 0o700, 0o777, 0o2755, 0o1777])
    def test_a_directory_has_exactly_its_mode(self, root: Directory, mode: int) -> None:
        before = os.umask(0o077)
        try:
            root.make_directory(b"directory", mode)
        finally:
            os.umask(before)
        seen = root.look(b"directory")
        assert seen is not None
        assert (seen.kind, seen.mode) == (FileKind.DIRECTORY, mode)

    def test_closed_is_closed(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        file, inner = root.open(b"file"), root.enter(b"directory")
        for handle in (file, inner):
            handle.close()
            handle.close()
        with refuses(errno.EBADF):
            file.read(1, 0)
        with refuses(errno.EBADF):
            inner.look(b"inside")
        with refuses(errno.EBADF):
            inner.create(b"new")


class TestContents:
    def test_what_is_written_is_read(self, root: Directory) -> None:
        with closing(root.create(b"file")) as file:
            file.write(b"hello world", 0)
            file.write(b"W", 6)
            assert file.read(100, 0) == b"hello World"
            assert file.read(5, 6) == b"World"
            assert file.read(5, 11) == file.read(5, 100) == b""
            assert file.read(0, 0) == b""
            assert file.status().size == 11
        with closing(root.open_to_write(b"file")) as file:
            file.write(b"J", 0)
            assert file.read(5, 0) == b"Jello"

    def test_a_hole_reads_as_zeros(self, root: Directory) -> None:
        with closing(root.create(b"file")) as file:
            file.write(b"end", 40_000_000)
            assert file.status().size == 40_000_003
            assert file.read(7, 39_999_996) == b"\0\0\0\0end"

    def test_truncation(self, root: Directory) -> None:
        with closing(root.create(b"file")) as file:
            file.write(b"hello", 0)
            file.truncate(2)
            assert file.read(10, 0) == b"he"
            file.truncate(4)
            assert file.read(10, 0) == b"he\0\0"
            file.truncate(0)
            assert file.read(10, 0) == b""

    def test_a_file_opened_to_be_read_is_not_written(self, root: Directory) -> None:
        put(root, b"file", b"kept")
        with closing(root.open(b"file")) as file:
            with refuses(errno.EBADF):
                file.write(b"x", 0)
            with refuses(errno.EINVAL):
                file.truncate(0)
        assert content(root, b"file") == b"kept"

    def test_every_user_sees_it(self, mount: MountBench, root: Directory) -> None:
        with closing(root.create(b"file")) as file:
            file.write(b"mine", 0)
            assert mount.user.read(b"file") == b"mine"
            mount.user.write(b"file", b"yours")
            assert file.read(10, 0) == b"yours"

    def test_a_removed_file_lives_while_it_is_open(
        self, mount: MountBench, root: Directory
    ) -> None:
        put(root, b"file", b"old")
        with closing(root.open(b"file")) as file:
            number = file.status().inode
            mount.user.unlink(b"file")
            put(root, b"file", b"new")
            assert file.read(10, 0) == b"old"
            assert file.status().inode == number != inode(root, b"file")
        assert content(root, b"file") == b"new"

    def test_links_are_read_as_they_are(self, root: Directory) -> None:
        targets = [b"x" * 4095, b"/absolute/../up", b"\xff\n\x01", b"."]
        for at, target in enumerate(targets):
            root.make_link(b"%d" % at, target)
        assert [root.read_link(b"%d" % at) for at in range(len(targets))] == targets

    def test_targets_that_no_link_can_have(self, root: Directory) -> None:
        with refuses(errno.ENOENT):
            root.make_link(b"link", b"")
        with refuses(errno.ENAMETOOLONG):
            root.make_link(b"link", b"x" * 4096)
        assert root.list() == []

    def test_what_is_no_link_has_no_target(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        for name in (b"file", b"directory", b"fifo"):
            with refuses(errno.EINVAL):
                root.read_link(name)
        with refuses(errno.ENOENT):
            root.read_link(b"nothing")

    def test_everything_can_be_made_durable(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        with closing(root.open_to_write(b"file")) as file:
            file.write(b"C", 0)
            file.sync()
        with closing(root.open(b"file")) as file:
            file.sync()
        root.sync()
        root.sync_all()
        assert content(root, b"file") == b"Content"


class TestAttributes:
    @pytest.mark.parametrize("mode", [0o000, 0o644, 0o755, 0o7777])
    def test_modes(self, mount: MountBench, root: Directory, mode: int) -> None:
        fill(mount)
        root.set_mode(b"file", mode)
        root.set_mode(b"directory", mode)
        with closing(root.create(b"other")) as file:
            file.set_mode(mode)
            assert file.status().mode == mode
        seen = {name: status.mode for name, status in root.list()}
        assert seen[b"file"] == seen[b"directory"] == seen[b"other"] == mode

    def test_what_has_no_mode_of_its_own(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        before = mount.user.tree()
        for name in LINKS:
            with refuses(errno.ELOOP):
                root.set_mode(name, 0o600)
        with refuses(errno.EINVAL):
            root.set_mode(b"fifo", 0o600)
        with refuses(errno.ENOENT):
            root.set_mode(b"nothing", 0o600)
        assert mount.user.tree() == before

    @pytest.mark.parametrize("mtime_ns", MTIMES)
    def test_mtimes_are_exact(self, mount: MountBench, root: Directory, mtime_ns: int) -> None:
        fill(mount)
        for name in ALL:
            root.set_mtime(name, mtime_ns)
        with closing(root.create(b"other")) as file:
            file.set_mtime(mtime_ns)
            assert file.status().mtime_ns == mtime_ns
        assert {status.mtime_ns for _, status in root.list()} == {mtime_ns}

    def test_the_mtime_of_a_link_is_not_that_of_its_target(
        self, mount: MountBench, root: Directory
    ) -> None:
        fill(mount)
        root.set_mtime(b"file", 1)
        root.set_mtime(b"to-file", 2)
        root.set_mtime(b"to-nothing", 3)
        seen = {name: status.mtime_ns for name, status in root.list()}
        assert (seen[b"file"], seen[b"to-file"], seen[b"to-nothing"]) == (1, 2, 3)
        with refuses(errno.ENOENT):
            root.set_mtime(b"nothing", 1)


class TestRemoving:
    @pytest.mark.parametrize("name", [b"file", b"fifo", *LINKS])
    def test_a_name_goes_and_nothing_else(
        self, mount: MountBench, root: Directory, name: bytes
    ) -> None:
        fill(mount)
        root.remove(name)
        assert names(root) == sorted(set(ALL) - {name})
        with refuses(errno.ENOENT):
            root.remove(name)

    def test_directories_go_their_own_way(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        with refuses(errno.EISDIR):
            root.remove(b"directory")
        with refuses(errno.ENOTEMPTY):
            root.remove_directory(b"directory")
        for name in (b"file", b"fifo", *LINKS):
            with refuses(errno.ENOTDIR):
                root.remove_directory(name)
        with refuses(errno.ENOENT):
            root.remove_directory(b"nothing")
        mount.user.unlink(b"directory/inside")
        mount.user.write(b"directory/.hidden", b"")
        with refuses(errno.ENOTEMPTY):
            root.remove_directory(b"directory")
        mount.user.unlink(b"directory/.hidden")
        root.remove_directory(b"directory")
        assert root.look(b"directory") is None

    def test_a_removed_directory_holds_nothing_more(
        self, mount: MountBench, root: Directory
    ) -> None:
        fill(mount)
        root.make_directory(b"gone", 0o755)
        with closing(root.enter(b"gone")) as gone:
            before = gone.status().inode
            mount.user.rmdir(b"gone")
            assert gone.status().inode == before
            assert gone.list() == []
            assert gone.look(b"x") is None
            gone.sync()
            with refuses(errno.ENOENT):
                gone.create(b"x")
            with refuses(errno.ENOENT):
                gone.make_directory(b"x", 0o755)
            with refuses(errno.ENOENT):
                gone.make_link(b"x", b"y")
            with refuses(errno.ENOENT):
                gone.enter(b"x")
            with refuses(errno.ENOENT):
                gone.open(b"x")
            with refuses(errno.ENOENT):
                gone.remove(b"x")
            with refuses(errno.ENOENT):
                root.link(b"file", gone, b"x")
            for name in (b"file", b"directory", b"to-file"):
                with refuses(errno.ENOENT):
                    root.move(name, gone, b"x")
                with refuses(errno.ENOENT):
                    root.exchange(name, gone, b"x")
        assert names(root) == sorted(ALL)

    def test_a_handle_stays_with_its_directory(self, mount: MountBench, root: Directory) -> None:
        mount.user.mkdir(b"above")
        mount.user.mkdir(b"above/old")
        with closing(root.enter(b"above")) as above, closing(above.enter(b"old")) as old:
            mount.user.rename(b"above/old", b"new")
            mount.user.rename(b"above", b"below")
            mount.user.mkdir(b"above")
            mount.user.mkdir(b"above/old")
            put(old, b"file", b"content")
            put(above, b"other")
            assert old.status() == root.look(b"new")
        assert mount.user.read(b"new/file") == b"content"
        assert mount.user.tree(b"above/old") == {}
        assert set(mount.user.tree(b"below")) == {b"other"}


class TestForgetting:
    @pytest.mark.parametrize("is_durable", [False, True])
    def test_what_is_forgotten_is_read_again(self, root: Directory, is_durable: bool) -> None:
        with closing(root.create(b"file")) as file:
            file.write(b"content" * 10_000, 0)
            if is_durable:
                file.sync()
            before = file.status()
            file.forget_cached()
            assert file.read(7, 7) == b"content"
            assert file.status() == before
        assert content(root, b"file") == b"content" * 10_000


class TestHolding:
    def test_nobody_writes(self, root: Directory) -> None:
        put(root, b"file")
        with closing(root.open(b"file")) as file:
            assert not file.is_held()
            file.release()
            assert file.hold() is Writers.NONE
            assert file.is_held()
            assert content(root, b"file") == b"", "readers do not end it"
            root.move(b"file", root, b"other")
            root.set_mode(b"other", 0o600)
            assert file.is_held()
            file.release()
            assert not file.is_held()

    def test_somebody_writes(self, mount: MountBench, root: Directory) -> None:
        with (
            closing(mount.user.open_writer(b"file")) as writer,
            closing(root.open(b"file")) as file,
        ):
            assert file.hold() is Writers.SOME
            assert not file.is_held()
            mount.user.unlink(b"file")
            assert file.hold() is Writers.SOME, "its name does not matter"
            writer.close()
            assert file.hold() is Writers.NONE

    def test_our_own_writing_counts(self, root: Directory) -> None:
        with closing(root.create(b"file")) as writing:
            assert writing.hold() is Writers.SOME
            with closing(root.open(b"file")) as file:
                assert file.hold() is Writers.SOME

    def test_a_writer_comes(self, mount: MountBench, root: Directory) -> None:
        put(root, b"file", b"old")
        with closing(root.open(b"file")) as file:
            assert file.hold() is Writers.NONE
            with refuses(errno.EAGAIN):
                mount.user.write(b"file", b"new")
            assert not file.is_held()
            assert file.read(10, 0) == b"old", "he waits until the holder lets go"
            file.release()
            mount.user.write(b"file", b"new")
            assert file.hold() is Writers.NONE
            assert file.read(10, 0) == b"new"

    def test_a_hold_ends_with_the_file(self, mount: MountBench, root: Directory) -> None:
        put(root, b"file", b"old")
        with closing(root.open(b"file")) as file:
            assert file.hold() is Writers.NONE
        mount.user.write(b"file", b"new")
        assert content(root, b"file") == b"new"

    def test_another_file_is_none_of_its_business(self, mount: MountBench, root: Directory) -> None:
        put(root, b"file")
        with closing(root.open(b"file")) as file:
            assert file.hold() is Writers.NONE
            mount.user.save(b"file", b"new")
            assert file.is_held(), "what is saved by a rename is another file"


class TestTheRoot:
    def test_what_stands_at_the_path(self, mount: MountBench, root: Directory) -> None:
        files = mount.files()
        seen = files.look_root()
        assert seen is not None
        assert (seen.is_directory, seen.is_empty, seen.marker) == (True, True, None)
        assert seen.inode == root.status().inode
        mount.owner.rename(ROOT, b"aside")
        assert files.look_root() is None
        with refuses(errno.ENOENT):
            files.open_root()
        mount.owner.mkdir(ROOT)
        other = files.look_root()
        assert other is not None
        assert other.inode != seen.inode
        assert other.filesystem == seen.filesystem
        mount.owner.rmdir(ROOT)
        mount.owner.write(ROOT, b"")
        no_directory = files.look_root()
        assert no_directory is not None
        assert (no_directory.is_directory, no_directory.is_empty) == (False, False)
        with refuses(errno.ENOTDIR):
            files.open_root()

    def test_the_marker_and_what_else_is_there(self, mount: MountBench) -> None:
        files = mount.files()
        mount.user.mkdir(b".syncline")
        mount.user.write(b".syncline/marker", b"0123\n")
        seen = files.look_root()
        assert seen is not None
        assert (seen.marker, seen.is_empty) == (b"0123", True)
        mount.user.write(b".other", b"")
        seen = files.look_root()
        assert seen is not None
        assert (seen.marker, seen.is_empty) == (b"0123", False)

    def test_one_process_has_it(self, mount: MountBench) -> None:
        first, second = mount.files(), mount.files()
        first.claim()
        first.claim()
        assert b".syncline/lock" in mount.user.tree()
        with pytest.raises(InUse):
            second.claim()
        first.close()
        second.claim()
        with pytest.raises(InUse):
            first.claim()
        second.close()
        second.close()

    def test_a_claim_never_leaves_the_root(self, mount: MountBench) -> None:
        mount.owner.mkdir(b"outside")
        mount.user.symlink(b".syncline", b"../outside")
        with refuses(*LINKED):
            mount.files().claim()
        assert mount.owner.tree(b"outside") == {}
