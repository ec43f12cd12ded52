"""The contract of `ports.files`, on every adapter: moves, exchanges, second names."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncline.ports.files import Directory, FileKind, Writers
from tests.support.mount_adapters import BENCHES, MountBench
from tests.support.mounts import ALL, LINKS, content, fill, inode, kinds, names, put, refuses


@pytest.fixture(params=sorted(BENCHES))
def mount(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountBench]:
    bench = BENCHES[request.param](tmp_path)
    yield bench
    bench.close()


@pytest.fixture
def root(mount: MountBench) -> Iterator[Directory]:
    with closing(mount.files().open_root()) as opened:
        yield opened


class TestMoving:
    @pytest.mark.parametrize("there", ALL)
    @pytest.mark.parametrize("name", ALL)
    def test_nothing_is_replaced_where_writers_are_kept(
        self, mount: MountBench, root: Directory, name: bytes, there: bytes
    ) -> None:
        fill(mount)
        before = mount.user.tree()
        with refuses(errno.EEXIST):
            root.move(name, root, there, keeps_writers=True)
        with refuses(errno.ENOENT):
            root.move(b"nothing", root, there, keeps_writers=True)
        assert mount.user.tree() == before
        seen = inode(root, name)
        root.move(name, root, b"new", keeps_writers=True)
        assert (inode(root, b"new"), root.look(name)) == (seen, None)

    @pytest.mark.parametrize("name", ALL)
    def test_each_kind_moves_as_it_is(
        self, mount: MountBench, root: Directory, name: bytes
    ) -> None:
        fill(mount)
        mount.user.mkdir(b"other")
        before, born = root.look(name), root.born_ns(name)
        assert before is not None
        with closing(root.enter(b"other")) as other:
            root.move(name, other, b"new")
            after = other.look(b"new")
            assert after is not None
            assert other.born_ns(b"new") == born
            assert names(other) == [b"new"]
        assert (after.kind, after.inode, after.mode) == (before.kind, before.inode, before.mode)
        assert after.size == before.size
        if name != b"directory":
            assert after.mtime_ns == before.mtime_ns
        assert root.look(name) is None

    def test_what_is_in_a_directory_goes_with_it(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        root.move(b"directory", root, b"new")
        assert mount.user.read(b"new/inside") == b"inner"

    @pytest.mark.parametrize("there", ALL)
    @pytest.mark.parametrize("name", ALL)
    def test_nothing_is_replaced(
        self, mount: MountBench, root: Directory, name: bytes, there: bytes
    ) -> None:
        fill(mount)
        before = mount.user.tree()
        with refuses(errno.EEXIST):
            root.move(name, root, there)
        assert mount.user.tree() == before

    def test_not_even_an_empty_directory_or_another_name_of_it(
        self, mount: MountBench, root: Directory
    ) -> None:
        fill(mount)
        mount.user.mkdir(b"empty")
        mount.user.link(b"file", b"twin")
        before = mount.user.tree()
        with refuses(errno.EEXIST):
            root.move(b"directory", root, b"empty")
        with refuses(errno.EEXIST):
            root.move(b"file", root, b"twin")
        assert mount.user.tree() == before

    def test_what_is_not_there(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        before = mount.user.tree()
        with refuses(errno.ENOENT):
            root.move(b"nothing", root, b"new")
        with refuses(errno.ENOENT):
            root.move(b"nothing", root, b"file")
        assert mount.user.tree() == before

    def test_a_directory_does_not_go_into_itself(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        mount.user.mkdir(b"directory/deep")
        before = mount.user.tree()
        with (
            closing(root.enter(b"directory")) as directory,
            closing(directory.enter(b"deep")) as deep,
        ):
            for inner in (directory, deep):
                with refuses(errno.EINVAL):
                    root.move(b"directory", inner, b"new")
        assert mount.user.tree() == before

    def test_an_open_file_goes_on(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        with closing(root.open(b"file")) as file:
            assert file.hold() is Writers.NONE
            root.move(b"file", root, b"new")
            assert file.read(100, 0) == b"content"
            assert file.status() == root.look(b"new")
            assert file.is_held()

    def test_a_writer_writes_on(self, mount: MountBench, root: Directory) -> None:
        with closing(mount.user.open_writer(b"file")) as writer:
            writer.write(b"one")
            root.move(b"file", root, b"new")
            writer.write(b" two")
        assert content(root, b"new") == b"one two"
        assert root.look(b"file") is None


class TestExchanging:
    @pytest.mark.parametrize("there", ALL)
    @pytest.mark.parametrize("name", ALL)
    def test_two_things_change_names(
        self, mount: MountBench, root: Directory, name: bytes, there: bytes
    ) -> None:
        fill(mount)
        one, other = inode(root, name), inode(root, there)
        born = root.born_ns(name), root.born_ns(there)
        root.exchange(name, root, there)
        assert (inode(root, there), inode(root, name)) == (one, other)
        assert (root.born_ns(there), root.born_ns(name)) == born
        assert names(root) == sorted(ALL)

    def test_across_directories(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        mount.user.mkdir(b"other")
        with closing(root.enter(b"directory")) as inner, closing(root.enter(b"other")) as other:
            root.exchange(b"file", inner, b"inside")
            assert content(root, b"file") == b"inner"
            assert content(inner, b"inside") == b"content"
            inner.exchange(b"inside", root, b"other")
            assert kinds(inner) == {b"inside": FileKind.DIRECTORY}
            assert content(root, b"other") == b"content"
            put(other, b"new")
        assert b"directory/inside/new" in mount.user.tree()

    def test_links_are_exchanged_and_not_followed(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        root.exchange(b"to-file", root, b"file")
        assert root.read_link(b"file") == b"file"
        assert content(root, b"to-file") == b"content"

    def test_both_must_be_there(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        before = mount.user.tree()
        for name in ALL:
            with refuses(errno.ENOENT):
                root.exchange(name, root, b"nothing")
            with refuses(errno.ENOENT):
                root.exchange(b"nothing", root, name)
        assert mount.user.tree() == before

    def test_two_names_of_one_thing(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        mount.user.link(b"file", b"twin")
        before = mount.user.tree()
        root.exchange(b"file", root, b"twin")
        root.exchange(b"file", root, b"file")
        root.exchange(b"directory", root, b"directory")
        assert mount.user.tree() == before

    def test_a_directory_does_not_go_into_itself(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        mount.user.mkdir(b"directory/deep")
        mount.user.mkdir(b"directory/deep/er")
        before = mount.user.tree()
        with (
            closing(root.enter(b"directory")) as directory,
            closing(directory.enter(b"deep")) as deep,
        ):
            for inner, name in ((directory, b"inside"), (directory, b"deep"), (deep, b"er")):
                with refuses(errno.EINVAL):
                    root.exchange(b"directory", inner, name)
                with refuses(errno.EINVAL):
                    inner.exchange(name, root, b"directory")
        assert mount.user.tree() == before

    def test_open_files_stay_with_their_content(self, mount: MountBench, root: Directory) -> None:
        put(root, b"old", b"old")
        put(root, b"new", b"new")
        with (
            closing(mount.user.open_writer(b"old")) as writer,
            closing(root.open(b"old")) as old,
        ):
            root.exchange(b"old", root, b"new")
            writer.write(b"late")
            assert old.read(10, 0) == b"late"
            assert old.hold() is Writers.SOME
        assert (content(root, b"old"), content(root, b"new")) == (b"new", b"late")


class TestSecondNames:
    def test_two_names_are_one_file(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        with closing(root.enter(b"directory")) as inner:
            root.link(b"file", inner, b"twin")
            assert inode(inner, b"twin") == inode(root, b"file")
            assert inner.born_ns(b"twin") == root.born_ns(b"file")
            mount.user.write(b"file", b"new")
            assert content(inner, b"twin") == b"new"
            root.set_mode(b"file", 0o751)
            seen = inner.look(b"twin")
            assert seen is not None
            assert seen.mode == 0o751
            root.remove(b"file")
            assert content(inner, b"twin") == b"new"
            inner.remove(b"twin")
            assert inner.look(b"twin") is None

    @pytest.mark.parametrize("name", LINKS)
    def test_a_link_gets_one_itself(self, mount: MountBench, root: Directory, name: bytes) -> None:
        fill(mount)
        root.link(name, root, b"twin")
        assert inode(root, b"twin") == inode(root, name)
        assert root.read_link(b"twin") == root.read_link(name)

    def test_what_gets_none(self, mount: MountBench, root: Directory) -> None:
        fill(mount)
        before = mount.user.tree()
        with refuses(errno.EPERM):
            root.link(b"directory", root, b"twin")
        with refuses(errno.ENOENT):
            root.link(b"nothing", root, b"twin")
        with refuses(errno.EEXIST):
            root.link(b"directory", root, b"file")
        with refuses(errno.EEXIST):
            root.link(b"file", root, b"file")
        assert mount.user.tree() == before
