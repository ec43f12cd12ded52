"""The root of a real mount: what is told of it, and who may have it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from syncline.adapters.posix_files import PosixFiles
from syncline.errors import InUse

CLAIM = """
import sys
from syncline.adapters.posix_files import PosixFiles
files = PosixFiles(sys.argv[1].encode())
files.claim()
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top").mkdir()
    return tmp_path / "top"


@pytest.fixture
def files(top: Path) -> Iterator[PosixFiles]:
    with closing(PosixFiles(os.fsencode(top))) as files:
        yield files


class TestLook:
    def test_nothing_is_there(self, files: PosixFiles, top: Path) -> None:
        top.rmdir()
        assert files.look_root() is None
        top.symlink_to("nowhere")
        assert files.look_root() is None
        top.unlink()
        assert PosixFiles(os.fsencode(top / "below")).look_root() is None
        top.write_bytes(b"a file")
        assert PosixFiles(os.fsencode(top / "below")).look_root() is None

    def test_a_file_is_there(self, files: PosixFiles, top: Path) -> None:
        top.rmdir()
        top.write_bytes(b"a file")
        seen = files.look_root()
        assert seen is not None
        assert not seen.is_directory
        assert seen.marker is None
        with pytest.raises(NotADirectoryError):
            files.open_root()

    def test_a_fifo_is_looked_at_without_opening_it(self, files: PosixFiles, top: Path) -> None:
        top.rmdir()
        os.mkfifo(top)
        seen = files.look_root()
        assert seen is not None
        assert not seen.is_directory

    def test_an_empty_directory(self, files: PosixFiles, top: Path) -> None:
        seen = files.look_root()
        assert seen is not None
        assert seen.is_directory
        assert seen.marker is None
        assert seen.is_empty
        assert seen.inode == top.stat().st_ino
        assert seen.filesystem == os.statvfs(top).f_fsid.to_bytes(8, "big")

    def test_the_marker_is_read_and_does_not_count_as_content(
        self, files: PosixFiles, top: Path
    ) -> None:
        (top / ".syncline").mkdir()
        seen = files.look_root()
        assert seen is not None
        assert (seen.marker, seen.is_empty) == (None, True)
        (top / ".syncline" / "marker").write_bytes(b"\xffmark\n")
        seen = files.look_root()
        assert seen is not None
        assert (seen.marker, seen.is_empty) == (b"\xffmark", True)
        (top / "a").touch()
        seen = files.look_root()
        assert seen is not None
        assert (seen.marker, seen.is_empty) == (b"\xffmark", False)

    def test_the_path_may_lead_through_links(self, files: PosixFiles, top: Path) -> None:
        link = top.parent / "link"
        link.symlink_to(top)
        with closing(PosixFiles(os.fsencode(link))) as linked:
            assert linked.look_root() == files.look_root()
            with closing(linked.open_root()) as root:
                assert root.status().inode == top.stat().st_ino

    def test_another_file_system_has_another_id(self, files: PosixFiles, top: Path) -> None:
        memory = Path("/dev/shm")
        if not memory.exists() or memory.stat().st_dev == top.stat().st_dev:
            pytest.skip("there is no second file system")
        seen, other = files.look_root(), PosixFiles(os.fsencode(memory)).look_root()
        assert seen is not None
        assert other is not None
        assert other.filesystem != seen.filesystem

    def test_a_marker_that_cannot_be_read_is_an_error_and_not_absent(
        self, files: PosixFiles, top: Path
    ) -> None:
        (top / ".syncline").mkdir()
        marker = top / ".syncline" / "marker"
        marker.symlink_to("elsewhere")
        with pytest.raises(OSError) as caught:
            files.look_root()
        assert caught.value.errno == errno.ELOOP
        marker.unlink()
        os.mkfifo(marker)
        with pytest.raises(OSError) as caught:
            files.look_root()
        assert caught.value.errno == errno.EINVAL

    def test_a_link_for_the_clients_directory_is_not_followed(
        self, files: PosixFiles, top: Path
    ) -> None:
        other = top.parent / "other"
        other.mkdir()
        (other / "marker").write_bytes(b"mark\n")
        (top / ".syncline").symlink_to(other)
        seen = files.look_root()
        assert seen is not None
        assert seen.marker is None
        with pytest.raises(OSError) as caught:
            files.claim()
        assert caught.value.errno in (errno.ENOTDIR, errno.ELOOP)


class TestClaim:
    def test_one_alone_has_it(self, files: PosixFiles, top: Path) -> None:
        files.claim()
        files.claim()
        lock = (top / ".syncline" / "lock").stat()
        assert lock.st_mode & 0o777 == 0o600
        with closing(PosixFiles(os.fsencode(top))) as second:
            with pytest.raises(InUse, match=str(os.getpid())) as caught:
                second.claim()
            assert str(top) in caught.value.message
            assert caught.value.fields == {"path": str(top), "pid": str(os.getpid())}
            files.close()
            files.close()
            second.claim()

    def test_a_link_for_the_lock_is_not_followed(self, files: PosixFiles, top: Path) -> None:
        (top / ".syncline").mkdir()
        (top / "precious").write_bytes(b"precious")
        (top / ".syncline" / "lock").symlink_to(top / "precious")
        with pytest.raises(OSError) as caught:
            files.claim()
        assert caught.value.errno == errno.ELOOP
        assert (top / "precious").read_bytes() == b"precious"

    def test_without_a_root_there_is_nothing_to_claim(self, files: PosixFiles, top: Path) -> None:
        top.rmdir()
        with pytest.raises(FileNotFoundError):
            files.claim()

    @pytest.mark.process
    def test_a_killed_holder_lets_go(self, files: PosixFiles, top: Path) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(top)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"claimed\n"
            with pytest.raises(InUse, match=f"process {holder.pid}"):
                files.claim()
            holder.send_signal(signal.SIGKILL)
            holder.wait(60)
        files.claim()
        assert (top / ".syncline" / "lock").read_text() == f"{os.getpid()}\n"
