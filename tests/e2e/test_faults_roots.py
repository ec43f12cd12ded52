"""A disk that is unmounted under a running mount, and comes back; files that cannot be changed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from syncline.core.safety import HaltReason
from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.limits import assert_no_hot_loop, has_problem, heal, in_namespace
from tests.support.mounting import Bench, Mount, benching
from tests.support.processes import SmallDisk, small_disk
from tests.support.realtree import MIB, Fact
from tests.support.wait import wait_until

pytestmark = pytest.mark.process
slow = pytest.mark.slow

FILES = 40
GONE = {HaltReason.ROOT_REPLACED, HaltReason.ROOT_EMPTIED, HaltReason.ROOT_MISSING}


class Disk:
    """A disk with a mounted directory on it, which is put away and brought back."""

    def __init__(self, disk: SmallDisk, mount: Mount) -> None:
        self._disk = disk
        self._place = mount.root
        mount.wrapper, mount.place = disk.wrapper, mount.root
        mount.root = disk.outside
        self.bring()

    def bring(self) -> None:
        in_namespace(self._disk, "mount", "--bind", self._disk.directory, self._place)

    def put_away(self) -> None:
        in_namespace(self._disk, "umount", "--lazy", self._place)


@contextmanager
def on_a_disk(bench: Bench, name: str) -> Iterator[tuple[Mount, Disk]]:
    """Start a mount whose directory is where a disk is mounted."""
    mount = bench.add(name)
    with small_disk(mount.home / "disk", 64 * MIB) as disk:
        try:
            yield mount, Disk(disk, mount)
        finally:
            mount.close()


def fill(bench: Bench, other: Mount) -> dict[bytes, Fact]:
    for number in range(FILES):
        directory = other.root / f"directory {number % 4}"
        directory.mkdir(exist_ok=True)
        (directory / f"file {number}").write_bytes(b"%d" % number)
    return bench.assert_equal()


def assert_nothing_gone(tree: dict[bytes, Fact], *mounts: Mount) -> None:
    for mount in mounts:
        found = mount.tree()
        assert {path: found.get(path) for path in tree} == tree, mount.name


@pytest.mark.parametrize("when", ["while it runs", pytest.param("while it is stopped", marks=slow)])
def test_a_disk_that_is_unmounted_and_mounted_again(tmp_path: Path, when: str) -> None:
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        with on_a_disk(bench, "ben") as (ben, disk):
            ben.start()
            tree = fill(bench, ann)
            if when == "while it runs":
                disk.put_away()
            else:
                ben.stop()
                disk.put_away()
                ben.start()
            (ann.root / "meanwhile").write_bytes(b"meanwhile")
            ben.wait_for(lambda status: status.halt is not None, "to tell that it halted")
            status = ben.status()
            assert status.halt is not None and status.halt.reason in GONE
            assert status.phase is MountPhase.HALTED
            assert ann.wait() is WaitEnd.IN_SYNC
            assert_nothing_gone(tree, ann, ben)
            assert_no_hot_loop(ben.process)

            # Who has the disk elsewhere in the meantime may change it.
            (ben.root / "directory 0" / "file 0").write_bytes(b"edited")
            shutil.rmtree(ben.root / "directory 1")
            disk.bring()
            ben.wait_for(lambda status: status.halt is None, "to find its disk again")
            tree = bench.assert_equal()
            assert (ann.root / "directory 0" / "file 0").read_bytes() == b"edited"
            assert (ben.root / "meanwhile").read_bytes() == b"meanwhile"
            assert b"directory 1" not in tree
            assert len(tree) == FILES + 4 - FILES // 4
            ben.stop()


def test_who_waits_is_told_that_the_disk_is_gone(tmp_path: Path) -> None:
    """What was written where the disk had been is in no mount: no wait may say that it is."""
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        with on_a_disk(bench, "ben") as (ben, disk):
            bare = bench.directory / "ben" / "mount"
            ben.start()
            fill(bench, ann)
            disk.put_away()
            (bare / "written beside").write_bytes(b"where the disk had been")
            assert ben.wait() is WaitEnd.HALTED
            assert ben.status().phase is MountPhase.HALTED
            disk.bring()
            ben.wait_for(lambda status: status.halt is None, "to find its disk again")
            bench.assert_equal()


def chattr(flag: str, *paths: Path) -> None:
    done = subprocess.run(["chattr", flag, *paths], capture_output=True)
    if done.returncode:
        pytest.skip(f"chattr {flag} is not possible here: {done.stderr!r}")


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    """Let nobody change files, for the length of the block."""
    with ExitStack() as stack:
        for path in paths:
            chattr("+i", path)
            stack.callback(chattr, "-i", path)
        yield


def test_files_that_nobody_may_change(tmp_path: Path) -> None:
    """An administrator of one machine fixed them: there they stay, and all else goes on."""
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")
        for name in ("edited", "deleted", "moved", "with mode"):
            (ann.root / name).write_bytes(b"old " + name.encode())
        (ann.root / "fixed").mkdir()
        (ann.root / "fixed" / "inner").write_bytes(b"inner")
        before = bench.assert_equal()
        fixed = [ben.root / name for name in ("edited", "deleted", "moved", "with mode", "fixed")]
        with immutable(*fixed):
            (ann.root / "edited").write_bytes(b"new content")
            (ann.root / "deleted").unlink()
            (ann.root / "moved").rename(ann.root / "elsewhere")
            (ann.root / "with mode").chmod(0o600)
            (ann.root / "fixed" / "new").write_bytes(b"new")
            (ann.root / "other").write_bytes(b"other")
            (ben.root / "of ben").write_bytes(b"of ben")
            wait_until((ben.root / "other").exists, "all else to arrive")
            wait_until((ann.root / "of ben").exists, "all else to be sent")
            for path in (b"edited", b"deleted", b"elsewhere", b"with mode", b"fixed/new"):
                ben.wait_for(has_problem(path), f"to tell of {path!r}")
            assert ben.wait() is WaitEnd.PROBLEMS
            assert ann.wait() is WaitEnd.IN_SYNC
            assert_nothing_gone(before, ben)
            assert_no_hot_loop(ben.process, bench.server.process)
        tree = heal(bench, ben)
        assert set(tree) == {
            b"edited", b"elsewhere", b"with mode", b"fixed", b"fixed/inner", b"fixed/new",
            b"other", b"of ben",
        }  # fmt: skip
        assert (ben.root / "edited").read_bytes() == b"new content"
