"""The brakes: a root that is gone, empty or another one deletes nothing, and `resume` goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.cli.exits import ExitCode
from syncline.core.safety import HaltReason
from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.mounting import OWN, Bench, Mount, benching
from tests.support.realtree import Fact

pytestmark = pytest.mark.process

FILES = 30
MANY = 1_300
"""So many that more than a thousand of them can be deleted at once."""

Tree = dict[bytes, Fact]
running = pytest.mark.parametrize("is_running", [True, False], ids=["running", "stopped"])


def fill(bench: Bench, count: int = FILES) -> tuple[Mount, Mount, Tree]:
    """Return two mounts that are equal and have so many files, and their tree."""
    mount, other = bench.start("mount", "other")
    for index in range(count):
        directory = mount.root / f"directory {index % 3}"
        directory.mkdir(exist_ok=True)
        (directory / f"file {index}").write_bytes(b"%d" % index)
    return mount, other, bench.assert_equal()


def aside(mount: Mount) -> Path:
    return mount.home / "mount moved away"


def removed(mount: Mount) -> None:
    mount.root.rename(aside(mount))


def emptied(mount: Mount) -> None:
    for path in mount.root.iterdir():
        if path.name != OWN:
            shutil.rmtree(path)


def replaced(mount: Mount) -> None:
    """Put another directory there: what an unmounted disk leaves behind."""
    mount.root.rename(aside(mount))
    mount.root.mkdir()


def replaced_by_a_file(mount: Mount) -> None:
    mount.root.rename(aside(mount))
    mount.root.write_bytes(b"no directory")


def replaced_by_a_copy(mount: Mount) -> None:
    mount.root.rename(aside(mount))
    shutil.copytree(aside(mount), mount.root, symlinks=True)


def halt(mount: Mount, what: Callable[[Mount], None], *, is_running: bool) -> None:
    """Do something to the root of a mount, while it runs or not, and leave it running."""
    if not is_running:
        mount.stop()
    what(mount)
    if not is_running:
        mount.start()


def assert_halted(mount: Mount, other: Mount, tree: Tree, reason: HaltReason) -> None:
    """Fail unless it halts for a reason, and deleted nothing anywhere."""
    # It may pass through others: between a rename and a mkdir there is no root at all.
    mount.wait_for(
        lambda status: status.halt is not None and status.halt.reason is reason, reason.value
    )
    assert mount.wait() is WaitEnd.HALTED
    [record] = mount.records("status", mount.root, code=ExitCode.HALTED)
    assert record["phase"] == "halted"
    halted = record["halt"]
    assert isinstance(halted, dict) and halted["reason"] == reason.value
    assert halted["detail"] and halted["resume"]
    shown = mount.run("resume", mount.root)
    assert shown.returncode == ExitCode.HALTED, "nobody agreed"
    assert halted["resume"].encode() in shown.stdout
    assert mount.status().phase is MountPhase.HALTED
    # Its wait asks the server for the newest revision.
    assert other.wait() is WaitEnd.IN_SYNC
    assert other.tree() == tree, "nothing was deleted"


def resume(mount: Mount) -> None:
    [record] = mount.records("resume", mount.root, "--yes")
    assert record["result"] == "resumed"


@running
def test_an_emptied_root_halts_until_it_is_meant(tmp_path: Path, is_running: bool) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench)
        halt(mount, emptied, is_running=is_running)
        assert_halted(mount, other, tree, HaltReason.ROOT_EMPTIED)
        resume(mount)
        bench.assert_equal()
        assert not other.contents()


def test_a_root_that_was_removed_and_comes_back_goes_on(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench)
        halt(mount, removed, is_running=True)
        assert_halted(mount, other, tree, HaltReason.ROOT_MISSING)
        (other.root / "meanwhile").write_bytes(b"meanwhile")
        (aside(mount) / "directory 0" / "file 0").write_bytes(b"edited")
        aside(mount).rename(mount.root)
        mount.wait_for(lambda status: status.halt is None, "to find it again")
        bench.assert_equal()
        contents = mount.contents()
        assert contents["meanwhile"] == b"meanwhile"
        assert contents["directory 0/file 0"] == b"edited"
        assert len(contents) == FILES + 1


def test_a_root_that_is_not_there_is_not_mounted(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench)
        mount.stop()
        removed(mount)
        ran = mount.once(code=ExitCode.NOT_FOUND)
        assert b"there is no directory" in ran.stderr
        assert other.wait() is WaitEnd.IN_SYNC and other.tree() == tree
        aside(mount).rename(mount.root)
        mount.start()
        bench.assert_equal()


@running
@pytest.mark.parametrize(
    "what", [replaced, pytest.param(replaced_by_a_copy, marks=pytest.mark.slow)]
)
def test_another_root_halts_and_is_merged_when_that_is_meant(
    tmp_path: Path, is_running: bool, what: Callable[[Mount], None]
) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench)
        halt(mount, what, is_running=is_running)
        assert_halted(mount, other, tree, HaltReason.ROOT_REPLACED)
        (mount.root / "new").write_bytes(b"of the other root")
        resume(mount)
        assert bench.assert_equal().keys() == {*tree, b"new"}
        assert len(mount.contents()) == FILES + 1


def test_a_file_in_place_of_the_root_halts(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench)
        halt(mount, replaced_by_a_file, is_running=True)
        assert_halted(mount, other, tree, HaltReason.ROOT_OTHER_TYPE)
        mount.root.unlink()
        aside(mount).rename(mount.root)
        mount.wait_for(lambda status: status.halt is None, "to find it again")
        bench.assert_equal()


def test_an_emptied_root_without_its_marker_halts(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench)
        mount.stop()
        for path in mount.root.iterdir():
            shutil.rmtree(path)
        mount.start()
        assert_halted(mount, other, tree, HaltReason.ROOT_REPLACED)
        resume(mount)
        bench.assert_equal()
        assert len(mount.contents()) == FILES, "without a marker it is a new mount"


def test_a_mass_delete_halts_once_and_then_reaches_all(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, tree = fill(bench, MANY)
        bench.stop_server()
        for number in range(3):
            for path in sorted((mount.root / f"directory {number}").iterdir())[:350]:
                path.unlink()
        bench.start_server()
        assert_halted(mount, other, tree, HaltReason.MASS_DELETE)
        resume(mount)
        bench.assert_equal()
        assert len(other.contents()) == MANY - 1_050
