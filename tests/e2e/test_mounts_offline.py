"""Offline is normal: edits while a client, or the server, is not there, and both sides changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.ports.mount_control import MountPhase
from tests.support.mounting import Bench, Mount, benching

pytestmark = pytest.mark.process

Cut = Callable[[Bench, Mount], None]


def conflicts(contents: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in contents.items() if "(conflict of" in path}


def fill(root: Path) -> None:
    (root / "directory" / "inner").mkdir(parents=True)
    (root / "gone").mkdir()
    for name in ("edited", "deleted", "moved", "mode", "directory/inner/file", "gone/file"):
        (root / name).write_bytes(b"first " + name.encode())


def edit_all_kinds(root: Path, who: str) -> None:
    """Do one of each: each file is changed by one side alone."""
    (root / "edited").write_bytes(b"edited by " + who.encode())
    (root / "deleted").unlink()
    (root / "moved").rename(root / "directory" / "moved")
    (root / "mode").chmod(0o700)
    (root / "directory" / "inner").rename(root / "renamed")
    shutil.rmtree(root / "gone")
    (root / f"new of {who}" / "deep").mkdir(parents=True)
    (root / f"new of {who}" / "deep" / "file").write_bytes(who.encode())
    (root / "link").symlink_to(who)


def check_all_kinds(mount: Mount, who: str) -> None:
    root = mount.root
    contents = mount.contents()
    assert not conflicts(contents)
    assert contents["edited"] == b"edited by " + who.encode()
    assert contents["directory/moved"] == b"first moved"
    assert contents["renamed/file"] == b"first directory/inner/file"
    assert contents[f"new of {who}/deep/file"] == who.encode()
    assert (root / "mode").stat().st_mode & 0o777 == 0o700
    assert (root / "link").readlink() == Path(who)
    assert not {"deleted", "moved", "gone/file"} & contents.keys()
    assert not (root / "gone").exists() and not (root / "directory" / "inner").exists()


def client_stops(bench: Bench, mount: Mount) -> None:
    mount.stop()


def client_dies(bench: Bench, mount: Mount) -> None:
    mount.kill()


def server_stops(bench: Bench, mount: Mount) -> None:
    bench.stop_server()
    mount.wait_for(lambda status: not status.is_connected, "to see that the server is away")


def both_stop(bench: Bench, mount: Mount) -> None:
    mount.stop()
    bench.stop_server()


@pytest.mark.parametrize(
    "cut",
    [client_stops, pytest.param(client_dies, marks=pytest.mark.slow), server_stops, both_stop],
)
def test_what_was_edited_offline_is_found(tmp_path: Path, cut: Cut) -> None:
    with benching(tmp_path) as bench:
        mount, other = bench.start("mount", "other")
        fill(mount.root)
        bench.assert_equal()
        cut(bench, mount)
        edit_all_kinds(mount.root, "mount")
        bench.restart()
        bench.assert_equal()
        check_all_kinds(other, "mount")
        check_all_kinds(mount, "mount")


def test_clients_start_before_their_server(tmp_path: Path) -> None:
    with benching(tmp_path, is_serving=False) as bench:
        left, right = bench.add("left"), bench.add("right")
        (left.root / "before").write_bytes(b"before the start")
        left.start()
        right.start()
        waiting = left.wait_for_phase(MountPhase.CONNECTING)
        assert not waiting.is_connected
        (right.root / "meanwhile").write_bytes(b"while waiting")
        right.wait_for_phase(MountPhase.CONNECTING)
        bench.start_server()
        bench.assert_equal()
        assert right.contents() == {
            "before": b"before the start",
            "meanwhile": b"while waiting",
        }


def test_the_server_restarts_under_connected_clients(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        for round_ in range(3):
            (left.root / f"left {round_}").write_bytes(b"%d" % round_)
            bench.assert_equal()
            server_stops(bench, left)
            (right.root / f"right {round_}").write_bytes(b"%d" % round_)
            bench.start_server()
            bench.assert_equal()
        assert len(left.contents()) == 6


@pytest.mark.parametrize("cut", [client_stops, server_stops])
def test_edits_of_both_sides_are_both_kept(tmp_path: Path, cut: Cut) -> None:
    with benching(tmp_path) as bench:
        left, right, watcher = bench.start("left", "right", "watcher")
        for name in ("edited.txt", "same", "mode and edit", "edit and delete", "delete and edit"):
            (left.root / name).write_bytes(b"first")
        (left.root / "both delete").write_bytes(b"first")
        (left.root / "edit and move").write_bytes(b"first")
        (left.root / "removed").mkdir()
        (left.root / "removed" / "old").write_bytes(b"old")
        bench.assert_equal()
        for mount in (left, right):
            if bench.is_serving:
                cut(bench, mount)
        edit_left(left.root)
        edit_right(right.root)
        if not bench.is_serving:
            bench.start_server()
        if not left.is_running:
            # One after the other, so that it is known who was first.
            left.start()
            bench.settle()
            right.start()
        bench.assert_equal()
        check_both(watcher, is_left_first=cut is client_stops)


def edit_left(root: Path) -> None:
    (root / "edited.txt").write_bytes(b"of left")
    (root / "same").write_bytes(b"the same edit")
    (root / "mode and edit").chmod(0o600)
    (root / "edit and delete").write_bytes(b"edited")
    (root / "delete and edit").unlink()
    (root / "both delete").unlink()
    (root / "edit and move").write_bytes(b"edited")
    (root / "created.txt").write_bytes(b"created by left")
    (root / "created same").write_bytes(b"created by both")
    (root / "made").mkdir()
    (root / "made" / "left").write_bytes(b"left")
    shutil.rmtree(root / "removed")


def edit_right(root: Path) -> None:
    (root / "edited.txt").write_bytes(b"of right")
    (root / "same").write_bytes(b"the same edit")
    (root / "mode and edit").write_bytes(b"edited")
    (root / "edit and delete").unlink()
    (root / "delete and edit").write_bytes(b"edited")
    (root / "both delete").unlink()
    (root / "edit and move").rename(root / "moved")
    (root / "created.txt").write_bytes(b"created by right")
    (root / "created same").write_bytes(b"created by both")
    (root / "made").mkdir()
    (root / "made" / "right").write_bytes(b"right")
    (root / "removed" / "new").write_bytes(b"new")


def check_both(mount: Mount, *, is_left_first: bool) -> None:
    contents = mount.contents()
    copies = conflicts(contents)
    for stem, texts in {
        "edited": {b"of left", b"of right"},
        "created": {b"created by left", b"created by right"},
    }.items():
        [(path, copied)] = [item for item in copies.items() if item[0].startswith(stem)]
        loser = copied.rsplit(b" ", 1)[-1].decode()
        assert path.startswith(f"{stem} (conflict of {loser}, ") and path.endswith(").txt")
        assert {contents[f"{stem}.txt"], copied} == texts
        assert not is_left_first or loser == "right"
    assert len(copies) == 2, copies
    kept = {path: content for path, content in contents.items() if path not in copies}
    del kept["edited.txt"], kept["created.txt"]
    assert kept == {
        "same": b"the same edit",
        "mode and edit": b"edited",
        "edit and delete": b"edited",
        "delete and edit": b"edited",
        "moved": b"edited",
        "created same": b"created by both",
        "made/left": b"left",
        "made/right": b"right",
        "removed/new": b"new",
    }
    assert (mount.root / "mode and edit").stat().st_mode & 0o777 == 0o600


def test_three_edits_of_one_file_are_all_kept(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mounts = bench.start("one", "two", "three")
        (mounts[0].root / "file").write_bytes(b"first")
        bench.assert_equal()
        bench.stop_server()
        for mount in mounts:
            (mount.root / "file").write_bytes(b"of " + mount.name.encode())
        bench.start_server()
        bench.assert_equal()
        contents = mounts[0].contents()
        assert set(contents.values()) == {b"of one", b"of two", b"of three"}
        assert len(contents) == 3 and len(conflicts(contents)) == 2


def test_both_save_as_fast_as_they_can(tmp_path: Path) -> None:
    """Saves meet all the time; whatever becomes of them, both end equal, and the last ones live."""
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        (left.root / "file").write_bytes(b"first")
        bench.assert_equal()
        for round_ in range(200):
            for mount in (left, right):
                (mount.root / "file").write_bytes(f"{mount.name} {round_}".encode())
        bench.assert_equal()
        found = set(left.contents().values())
        assert b"left 199" in found and b"right 199" in found, found
