"""Ways to mount: one direction only, once, only the plan; and who is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncline.cli.exits import ExitCode
from syncline.ports.mount_control import MountPhase
from tests.support.mounting import Mount, benching
from tests.support.processes import JsonObject, free_port

pytestmark = pytest.mark.process


def test_send_only_places_nothing(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [other] = bench.start("other")
        (other.root / "shared").write_bytes(b"first")
        sender = bench.add("sender")
        (sender.root / "sent").write_bytes(b"sent")
        sender.start("--mode", "send-only")
        bench.settle()
        assert sender.contents() == {"sent": b"sent"}
        assert other.contents() == {"sent": b"sent", "shared": b"first"}

        (sender.root / "sent").write_bytes(b"edited")
        (sender.root / "second").write_bytes(b"second")
        bench.settle()
        (other.root / "sent").write_bytes(b"changed elsewhere")
        (other.root / "second").unlink()
        bench.settle()
        assert sender.contents() == {"sent": b"edited", "second": b"second"}
        assert other.contents() == {"sent": b"changed elsewhere", "shared": b"first"}
        assert sender.problems().get(b"sent") == "remote_change"
        assert not sender.leftovers()


def test_receive_only_sends_nothing(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [other] = bench.start("other")
        (other.root / "file").write_bytes(b"first")
        (other.root / "deleted here").write_bytes(b"first")
        receiver = bench.add("receiver")
        receiver.start("--mode", "receive-only")
        bench.assert_equal()
        head = bench.head()

        (receiver.root / "own").write_bytes(b"never sent")
        (receiver.root / "file").write_bytes(b"never sent either")
        bench.settle()
        assert bench.head() == head
        assert receiver.problems() == {b"own": "local_change", b"file": "local_change"}
        assert other.contents() == {"file": b"first", "deleted here": b"first"}

        (other.root / "more").write_bytes(b"more")
        (other.root / "deleted here").unlink()
        bench.settle()
        contents = receiver.contents()
        assert contents["more"] == b"more"
        assert contents["own"] == b"never sent"
        assert b"never sent either" in contents.values()
        assert "deleted here" not in contents
        assert bench.head() == head + 2
        assert not receiver.leftovers()


def test_once_syncs_both_ways_and_ends(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.add("left"), bench.add("right")
        (left.root / "of left").write_bytes(b"left")
        (right.root / "of right").write_bytes(b"right")
        left.once()
        right.once()
        assert left.contents() == {"of left": b"left"}
        assert right.contents() == {"of left": b"left", "of right": b"right"}
        (left.root / "of left").write_bytes(b"edited while nothing ran")
        left.once()
        right.once()
        expected = {"of left": b"edited while nothing ran", "of right": b"right"}
        assert left.contents() == right.contents() == expected
        assert not left.leftovers() and not right.leftovers()
        (left.root / "of left").unlink()
        [done] = [
            record
            for record in left.records(*left.arguments("--once"))
            if record.get("result") is not None
        ]
        assert done["result"] == "in_sync"
        right.once()
        assert right.contents() == {"of right": b"right"}


def test_once_without_a_server_gives_up(tmp_path: Path) -> None:
    with benching(tmp_path, is_serving=False) as bench:
        mount = bench.add("mount")
        (mount.root / "file").write_bytes(b"waits")
        ran = mount.once("--timeout", "1", code=ExitCode.UNREACHABLE)
        assert b"Traceback" not in ran.stderr and ran.stderr
        bench.start_server()
        mount.once()
        [record] = bench.server.cli.records("list", ".")
        assert record["path"] == "file"


def test_once_tells_of_problems(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount = bench.add("mount")
        (mount.root / "file").write_bytes(b"goes on")
        fd = os.open(mount.root, os.O_RDONLY)
        try:
            # A path that is longer than any volume holds.
            for _ in range(17):
                os.mkdir(b"d" * 250, dir_fd=fd)
                below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = below
        finally:
            os.close(fd)
        ran = mount.once(code=ExitCode.PARTIAL)
        assert b"Traceback" not in ran.stderr
        [record] = bench.server.cli.records("stat", "file")
        assert record["size"] == len(b"goes on")


def listing(mount: Mount) -> list[tuple[str, int, int, int]]:
    """Return all that is on disk of a mount, its own directory and its state included."""
    found = []
    for path in sorted(mount.home.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_ino, status.st_size, status.st_mtime_ns))
    return found


def planned(records: list[JsonObject]) -> set[tuple[object, ...]]:
    return {
        (record["direction"], record["effect"], record["path"])
        for record in records
        if record["result"] == "planned"
    }


@pytest.mark.parametrize("is_known", [True, False], ids=["mounted before", "never mounted"])
def test_a_dry_run_changes_nothing_and_tells_the_plan(tmp_path: Path, is_known: bool) -> None:
    with benching(tmp_path) as bench:
        [other] = bench.start("other")
        for name in ("edited", "deleted", "moved", "kept"):
            (other.root / name).write_bytes(name.encode())
        mount = bench.add("mount")
        bench.settle()
        if is_known:
            mount.once()
        (other.root / "edited").write_bytes(b"edited elsewhere")
        (other.root / "fresh").write_bytes(b"fresh")
        bench.settle()
        if is_known:
            (mount.root / "deleted").unlink()
            (mount.root / "moved").rename(mount.root / "elsewhere")
        (mount.root / "new").write_bytes(b"new")
        head, before = bench.head(), listing(mount)

        records = mount.records(*mount.arguments("--dry-run"))
        expected: set[tuple[object, ...]] = {("up", "created", "new"), ("down", "created", "fresh")}
        if is_known:
            expected |= {
                ("up", "deleted", "deleted"),
                ("up", "moved", "elsewhere"),
                ("down", "changed", "edited"),
            }
        else:
            names = ("edited", "deleted", "moved", "kept")
            expected |= {("down", "created", name) for name in names}
        assert planned(records) == expected
        assert records[-1]["result"] == "plan"
        assert records[-1]["steps"] == len(expected)
        shown = mount.run(*mount.arguments("--dry-run"))
        assert shown.returncode == 0 and shown.stdout.count(b"\n") == len(expected) + 1

        assert listing(mount) == before
        assert bench.head() == head
        mount.start()
        bench.assert_equal()


def test_a_directory_is_mounted_once(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [mount] = bench.start("mount")
        (mount.root / "file").write_bytes(b"content")
        bench.settle()
        for options in (("--once",), ("--dry-run",), ("--state", tmp_path / "another state")):
            refused = mount.run(*mount.arguments(*options))
            assert refused.returncode == ExitCode.IN_USE, (options, refused.stderr)
            assert b"mounted by another process" in refused.stderr
        (mount.root / "inner").mkdir()
        inner = mount.run("mount", mount.root / "inner", "--once")
        assert inner.returncode == ExitCode.USAGE
        assert mount.status().phase is MountPhase.IN_SYNC
        mount.kill()
        mount.once()


def test_status_tells_all_as_json(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [mount] = bench.start("mount")
        (mount.root / "file").write_bytes(b"content")
        os.mkfifo(mount.root / "pipe")
        bench.settle()
        [record] = mount.records("status", mount.root)
        [by_default] = [mount.run("status", "--json", cwd=mount.root)]
        assert by_default.returncode == 0
        assert record["phase"] == "in_sync" and record["connected"] is True
        assert record["name"] == "mount" and record["mode"] == "two-way"
        assert record["cursor"] == record["head"] == bench.head()
        assert (record["pending_up"], record["pending_down"], record["entries"]) == (0, 0, 1)
        assert record["problem_count"] == 1 and record["halt"] is None
        problems = record["problems"]
        assert isinstance(problems, list)
        [problem] = problems
        assert problem["path"] == "pipe" and problem["code"] == "special"
        assert problem["next_step"]
        shown = mount.run("status", mount.root)
        assert shown.returncode == 0 and b"pipe" in shown.stdout
        mount.stop()
        gone = mount.run("status", mount.root)
        assert gone.returncode == ExitCode.NOT_FOUND


def test_status_tells_that_the_server_is_away(tmp_path: Path) -> None:
    with benching(tmp_path, is_serving=False) as bench:
        mount = bench.add("mount", address=f"127.0.0.1:{free_port()}")
        mount.start()
        mount.wait_for_phase(MountPhase.CONNECTING)
        mount.wait_for(lambda status: status.connection_error is not None, "to say why")
        [record] = mount.records("status", mount.root)
        assert record["connected"] is False and record["connection_error"]
        assert record["head"] is None
