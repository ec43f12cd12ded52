"""What files on a real file system do that a simulated one does not: leases, inodes, owners, races.

The contract itself is in tests/contract.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.posix_handles import PosixDirectory
from syncline.ports.files import FileKind, Writers
from tests.support.wait import wait_until

NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another user")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[PosixDirectory]:
    with closing(PosixFiles(os.fsencode(tmp_path)).open_root()) as directory:
        yield directory


@contextmanager
def fails(*numbers: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno in numbers


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Have the rights of another user, and none of root's."""
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def put(directory: PosixDirectory, name: bytes, content: bytes = b"content") -> None:
    with closing(directory.create(name)) as file:
        file.write(content, 0)


def content_of(directory: PosixDirectory, name: bytes) -> bytes:
    with closing(directory.open(name)) as file:
        return file.read(1024, 0)


def names(directory: PosixDirectory) -> set[bytes]:
    return {name for name, _ in directory.list()}


def inode(directory: PosixDirectory, name: bytes) -> int:
    seen = directory.look(name)
    assert seen is not None
    return seen.inode


def opened_late(path: Path) -> bool:
    """Try to open a file for writing as somebody who does not wait for a lease."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return False
    return True


class TestBirth:
    def test_it_stays_with_the_file_wherever_that_goes(self, root: PosixDirectory) -> None:
        put(root, b"a")
        born_ns = root.born_ns(b"a")
        root.make_directory(b"d", 0o755)
        with closing(root.enter(b"d")) as below:
            root.move(b"a", below, b"b")
            below.set_mtime(b"b", 12345)
            below.set_mode(b"b", 0o640)
            assert below.born_ns(b"b") == born_ns
            with closing(below.open(b"b")) as file:
                assert file.born_ns() == born_ns

    def test_a_file_that_gets_the_inode_of_another_one_is_told_from_it(
        self, root: PosixDirectory
    ) -> None:
        put(root, b"a")
        first, born_ns = inode(root, b"a"), root.born_ns(b"a")
        if not born_ns:
            pytest.skip("this file system keeps no birth times")

        def is_later() -> bool:
            put(root, b"clock")
            later_ns = root.born_ns(b"clock")
            root.remove(b"clock")
            return later_ns > born_ns

        wait_until(is_later, "a tick of the kernel's clock")
        root.remove(b"a")
        for number in range(1000):
            put(root, b"%d" % number)
            if inode(root, b"%d" % number) == first:
                assert root.born_ns(b"%d" % number) > born_ns
                return
        pytest.skip("this file system does not give inodes out again")

    def test_a_link_and_a_directory_have_their_own(self, root: PosixDirectory) -> None:
        root.make_directory(b"d", 0o755)
        root.make_link(b"l", b"nowhere")
        assert root.born_ns(b"d") >= 0
        assert root.born_ns(b"l") >= 0
        with fails(errno.ENOENT):
            root.born_ns(b"nowhere")


class TestLease:
    def test_one_is_had_where_nobody_writes_and_ends_when_a_writer_comes(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        put(root, b"a")
        with closing(root.open(b"a")) as file:
            assert file.hold() is Writers.NONE
            assert content_of(root, b"a") == b"content"
            assert file.is_held()
            assert not opened_late(tmp_path / "a")
            assert not file.is_held()
            file.release()
            assert opened_late(tmp_path / "a")

    def test_a_writer_waits_until_the_holder_lets_go(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        put(root, b"a")
        with closing(root.open(b"a")) as file:
            assert file.hold() is Writers.NONE
            is_written = threading.Event()

            def write() -> None:
                (tmp_path / "a").write_bytes(b"later")
                is_written.set()

            writer = threading.Thread(target=write)
            writer.start()
            wait_until(lambda: not file.is_held(), "the end of the lease")
            assert not is_written.is_set()
            assert file.read(100, 0) == b"content"
            file.release()
            assert is_written.wait(20)
            writer.join()
            assert file.read(100, 0) == b"later"

    def test_none_is_had_while_somebody_has_it_open_for_writing(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        put(root, b"a")
        with closing(root.open(b"a")) as file:
            with (tmp_path / "a").open("ab"):
                assert file.hold() is Writers.SOME
                assert not file.is_held()
            assert file.hold() is Writers.NONE

    def test_letting_go_comes_by_closing_and_may_come_twice(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        put(root, b"a")
        file = root.open(b"a")
        file.release()
        assert file.hold() is Writers.NONE
        file.release()
        file.release()
        assert not file.is_held()
        assert opened_late(tmp_path / "a")
        assert file.hold() is Writers.NONE
        file.close()
        file.close()
        assert opened_late(tmp_path / "a")

    def test_a_rename_and_a_removal_leave_the_lease(self, root: PosixDirectory) -> None:
        put(root, b"a")
        with closing(root.open(b"a")) as file:
            assert file.hold() is Writers.NONE
            root.move(b"a", root, b"b")
            root.remove(b"b")
            assert file.is_held()

    @needs_root
    def test_nobody_knows_who_writes_to_the_file_of_another_user(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        tmp_path.chmod(0o755)
        put(root, b"a")
        root.set_mode(b"a", 0o644)
        with acting_as(NOBODY), closing(root.open(b"a")) as file:
            assert file.read(100, 0) == b"content"
            assert file.hold() is Writers.UNKNOWN
            assert not file.is_held()
            file.release()


class TestSpecialFiles:
    def test_a_fifo_is_refused_and_its_writer_goes_on_waiting(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        os.mkfifo(tmp_path / "fifo")
        is_open = threading.Event()

        def write() -> None:
            os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
            is_open.set()

        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(50):
            with fails(errno.EINVAL):
                root.open(b"fifo")
            with fails(errno.EINVAL):
                root.open_to_write(b"fifo")
            with fails(errno.ENOTDIR):
                root.enter(b"fifo")
        assert not is_open.is_set()
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        assert is_open.wait(20)
        writer.join()
        os.close(reader)

    def test_a_socket_and_a_device_are_refused(self, root: PosixDirectory, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            # By descriptor: the path of a socket must be short.
            listener.bind(f"/proc/self/fd/{root.fileno()}/socket")
            made = [b"socket"]
            with suppress(PermissionError):
                os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
                made.append(b"device")
            for name in made:
                seen = root.look(name)
                assert seen is not None
                assert seen.kind is FileKind.OTHER
                with fails(errno.EINVAL):
                    root.open(name)
                with fails(errno.EINVAL):
                    root.set_mode(name, 0o777)

    def test_a_directory_is_no_file(self, root: PosixDirectory) -> None:
        root.make_directory(b"d", 0o755)
        with fails(errno.EISDIR):
            root.open(b"d")


class TestStayingInside:
    def test_a_link_in_the_place_of_a_directory_is_refused(
        self, root: PosixDirectory, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        outside = tmp_path_factory.mktemp("outside")
        root.make_directory(b"d", 0o755)
        assert names(root) == {b"d"}
        (tmp_path / "d").rmdir()
        (tmp_path / "d").symlink_to(outside)
        before = outside.stat()
        with fails(errno.ENOTDIR, errno.ELOOP):
            root.enter(b"d")
        with fails(errno.ELOOP):
            root.set_mode(b"d", 0o777)
        with fails(errno.ENOTDIR):
            root.remove_directory(b"d")
        root.set_mtime(b"d", 7)
        after = outside.stat()
        assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)
        seen = root.look(b"d")
        assert seen is not None
        assert (seen.kind, seen.mtime_ns) == (FileKind.LINK, 7)

    def test_a_link_in_the_place_of_a_file_is_refused(
        self, root: PosixDirectory, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        secret = tmp_path_factory.mktemp("outside") / "secret"
        secret.write_bytes(b"secret")
        (tmp_path / "a").symlink_to(secret)
        with fails(errno.ELOOP):
            root.open(b"a")
        with fails(errno.ELOOP):
            root.open_to_write(b"a")
        with fails(errno.EEXIST):
            root.create(b"a")
        root.link(b"a", root, b"b")
        assert (tmp_path / "b").is_symlink()
        root.exchange(b"a", root, b"b")
        root.remove(b"a")
        assert secret.read_bytes() == b"secret"

    @pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc", b"../a"])
    def test_what_is_no_name_is_refused(self, root: PosixDirectory, name: bytes) -> None:
        calls: list[Callable[[], object]] = [
            lambda: root.look(name),
            lambda: root.born_ns(name),
            lambda: root.enter(name),
            lambda: root.open(name),
            lambda: root.create(name),
            lambda: root.read_link(name),
            lambda: root.make_directory(name, 0o755),
            lambda: root.make_link(name, b"target"),
            lambda: root.link(b"a", root, name),
            lambda: root.move(b"a", root, name),
            lambda: root.exchange(name, root, b"a"),
            lambda: root.remove(name),
            lambda: root.remove_directory(name),
            lambda: root.set_mode(name, 0o777),
            lambda: root.set_mtime(name, 0),
        ]
        for call in calls:
            with pytest.raises(AssertionError, match="is no name"):
                call()

    def test_a_handle_speaks_of_the_directory_wherever_it_goes(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        root.make_directory(b"d", 0o755)
        with closing(root.enter(b"d")) as directory:
            (tmp_path / "d").rename(tmp_path / "moved")
            (tmp_path / "d").mkdir()
            put(directory, b"a")
            assert names(directory) == {b"a"}
            assert (tmp_path / "moved" / "a").exists()
            assert not (tmp_path / "d" / "a").exists()
            (tmp_path / "moved" / "a").unlink()
            (tmp_path / "moved").rmdir()
            assert directory.list() == []
            assert directory.status().kind is FileKind.DIRECTORY
            with fails(errno.ENOENT):
                directory.create(b"a")


class TestMetadata:
    def test_looking_and_reading_leave_the_times(
        self, root: PosixDirectory, tmp_path: Path
    ) -> None:
        put(root, b"a")
        os.utime(tmp_path / "a", ns=(1_000, 2_000_000))
        before = (tmp_path / "a").stat()
        assert content_of(root, b"a") == b"content"
        after = (tmp_path / "a").stat()
        assert (after.st_atime_ns, after.st_ctime_ns) == (1_000, before.st_ctime_ns)

    @pytest.mark.parametrize("mtime_ns", [0, -1_500_000_001, 2**33 * 10**9 + 999_999_999])
    def test_any_time_is_set_to_the_ns(self, root: PosixDirectory, mtime_ns: int) -> None:
        put(root, b"a")
        root.make_link(b"l", b"nowhere")
        with closing(root.open_to_write(b"a")) as file:
            file.set_mtime(mtime_ns)
            assert file.status().mtime_ns == mtime_ns
        root.set_mtime(b"l", mtime_ns)
        seen = root.look(b"l")
        assert seen is not None
        assert seen.mtime_ns == mtime_ns

    @pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
    def test_the_umask_has_no_say(self, root: PosixDirectory, umask: int) -> None:
        before = os.umask(umask)
        try:
            root.make_directory(b"d", 0o751)
            put(root, b"a")
        finally:
            os.umask(before)
        assert {name: seen.mode for name, seen in root.list()} == {b"d": 0o751, b"a": 0o600}

    def test_a_set_gid_parent_has_no_say(self, root: PosixDirectory, tmp_path: Path) -> None:
        tmp_path.chmod(0o2755)
        root.make_directory(b"d", 0o755)
        seen = root.look(b"d")
        assert seen is not None
        assert seen.mode == 0o755

    def test_a_listing_has_every_name_as_bytes(self, root: PosixDirectory) -> None:
        odd = {b"not utf-8 \xff\xfe", b"n" * 255, b"a\nb", b" ", "caf\u00e9".encode(), b"..."}
        many = {b"%05d" % number for number in range(3000)}
        for name in odd | many:
            put(root, name, b"")
        found = root.list()
        assert {name for name, _ in found} == odd | many
        assert len(found) == len(odd | many)
        assert all(seen == root.look(name) for name, seen in found)

    def test_two_threads_list_by_one_handle(self, root: PosixDirectory) -> None:
        for number in range(2000):
            put(root, b"%d" % number, b"")
        counts: list[int] = []
        threads = [
            threading.Thread(target=lambda: counts.extend(len(root.list()) for _ in range(5)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counts == [2000] * 10

    def test_what_vanishes_while_it_is_listed_is_left_out(self, root: PosixDirectory) -> None:
        for number in range(1000):
            put(root, b"%d" % number, b"")
        remover = threading.Thread(
            target=lambda: [root.remove(b"%d" % number) for number in range(1, 1000)]
        )
        remover.start()
        lengths = [len(root.list())]
        while lengths[-1] > 1:
            lengths.append(len(root.list()))
        remover.join()
        assert names(root) == {b"0"}

    def test_a_closed_handle_is_good_for_nothing(self, root: PosixDirectory) -> None:
        root.make_directory(b"d", 0o755)
        directory = root.enter(b"d")
        directory.close()
        directory.close()
        with fails(errno.EBADF):
            directory.list()
        with fails(errno.EBADF):
            directory.create(b"a")
        file = root.create(b"a")
        file.close()
        with fails(errno.EBADF):
            file.read(1, 0)


@needs_root
class TestReadOnlyDirectories:
    """Its owner may change what is in a directory, whatever its mode is."""

    @pytest.fixture
    def directory(self, root: PosixDirectory) -> Iterator[PosixDirectory]:
        root.make_directory(b"d", 0o755)
        os.chown(b"d", NOBODY, NOBODY, dir_fd=root.fileno())
        with closing(root.enter(b"d")) as directory:
            with acting_as(NOBODY):
                put(directory, b"a", b"a")
                put(directory, b"b", b"b")
                directory.make_directory(b"full", 0o755)
                with closing(directory.enter(b"full")) as full:
                    put(full, b"in it")
                directory.set_mode(b"full", 0o555)
                directory.make_directory(b"empty", 0o500)
            os.chmod(directory.fileno(), 0o555)
            yield directory

    def test_every_change_of_names_is_made_and_the_mode_is_back(
        self, directory: PosixDirectory
    ) -> None:
        changes: list[Callable[[], object]] = [
            lambda: put(directory, b"new"),
            lambda: directory.make_directory(b"made", 0o700),
            lambda: directory.make_link(b"link", b"target"),
            lambda: directory.link(b"a", directory, b"second"),
            lambda: directory.move(b"second", directory, b"moved"),
            lambda: directory.exchange(b"a", directory, b"b"),
            lambda: directory.remove(b"moved"),
            lambda: directory.remove_directory(b"empty"),
        ]
        with acting_as(NOBODY):
            for change in changes:
                change()
                assert directory.status().mode == 0o555
            assert names(directory) == {b"a", b"b", b"full", b"new", b"made", b"link"}
            assert content_of(directory, b"a") == b"b"

    @pytest.mark.parametrize("has_rename_flags", [True, False])
    def test_a_read_only_directory_changes_its_parent(
        self, tmp_path: Path, directory: PosixDirectory, has_rename_flags: bool
    ) -> None:
        (tmp_path / "other").mkdir()
        os.chown(tmp_path / "other", NOBODY, NOBODY)
        (tmp_path / "other").chmod(0o555)
        files = PosixFiles(os.fsencode(tmp_path), has_rename_flags=has_rename_flags)
        with (
            closing(files.open_root()) as root,
            closing(root.enter(b"d")) as here,
            closing(root.enter(b"other")) as other,
        ):
            with acting_as(NOBODY):
                here.move(b"full", other, b"full")
                here.move(b"empty", here, b"still empty")
                here.exchange(b"still empty", other, b"full")
            assert (tmp_path / "d" / "still empty" / "in it").exists()
            modes = {name: seen.mode for name, seen in here.list()}
            assert modes[b"still empty"] == 0o555
            assert [(name, seen.mode) for name, seen in other.list()] == [(b"full", 0o500)]
            assert here.status().mode == other.status().mode == 0o555

    def test_the_mode_is_back_when_the_change_fails(self, directory: PosixDirectory) -> None:
        with acting_as(NOBODY):
            with fails(errno.ENOENT):
                directory.remove(b"nothing")
            with fails(errno.EEXIST):
                directory.move(b"a", directory, b"b")
            with fails(errno.ENOTEMPTY, errno.EEXIST):
                directory.remove_directory(b"full")
        assert directory.status().mode == 0o555
        assert content_of(directory, b"b") == b"b"

    def test_the_directory_of_another_user_stays_as_it_is(
        self, root: PosixDirectory, directory: PosixDirectory
    ) -> None:
        with acting_as(NOBODY):
            with fails(errno.EACCES):
                root.create(b"new")
            with fails(errno.EACCES):
                directory.move(b"a", root, b"a")
        assert root.status().mode & 0o777 == 0o700
        assert directory.status().mode == 0o555
        assert content_of(directory, b"a") == b"a"

    def test_what_may_not_be_read_is_not_read(self, directory: PosixDirectory) -> None:
        with acting_as(NOBODY):
            directory.set_mode(b"full", 0o300)
            with fails(errno.EACCES):
                directory.enter(b"full")
            directory.set_mode(b"a", 0o000)
            with fails(errno.EACCES):
                directory.open(b"a")
