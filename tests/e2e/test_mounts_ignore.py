"""What is not synced: ignored names, special files, and what cannot be read; others go on."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.support.mounting import benching
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

RULES = b"*.tmp\n/build/\n!keep.tmp\n"


def test_ignored_names_stay_where_they_are(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.add("left"), bench.add("right")
        (left.root / ".synclineignore").write_bytes(RULES)
        (left.root / "build" / "deep").mkdir(parents=True)
        (left.root / "build" / "deep" / "output").write_bytes(b"never sent")
        (left.root / "some.tmp").write_bytes(b"never sent")
        (left.root / "keep.tmp").write_bytes(b"kept")
        (left.root / "source").write_bytes(b"sent")
        left.start()
        right.start()
        bench.settle()
        synced = {".synclineignore": RULES, "keep.tmp": b"kept", "source": b"sent"}
        assert right.contents() == synced
        (right.root / "own.tmp").write_bytes(b"stays here")
        (right.root / "build").mkdir()
        (right.root / "build" / "output").write_bytes(b"stays here")
        (left.root / "build" / "more").write_bytes(b"more")
        (left.root / "source").write_bytes(b"edited")
        bench.settle()
        synced["source"] = b"edited"
        assert right.contents() == {
            **synced,
            "own.tmp": b"stays here",
            "build/output": b"stays here",
        }
        assert "own.tmp" not in left.contents()
        assert not left.problems() and not right.problems()


def test_new_rules_delete_nothing_and_lifted_ones_sync(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        (left.root / "logs").mkdir()
        (left.root / "logs" / "a.log").write_bytes(b"first")
        (left.root / "file").write_bytes(b"first")
        bench.assert_equal()
        head = bench.head()
        (left.root / ".synclineignore").write_bytes(b"*.log\n")
        bench.settle()
        assert (right.root / ".synclineignore").read_bytes() == b"*.log\n"
        (left.root / "logs" / "a.log").write_bytes(b"not followed")
        (right.root / "logs" / "b.log").write_bytes(b"not sent")
        (left.root / "file").write_bytes(b"followed")
        bench.settle()
        assert bench.head() == head + 2
        assert right.contents()["logs/a.log"] == b"first"
        assert right.contents()["file"] == b"followed"
        assert "logs/b.log" not in left.contents()
        (right.root / ".synclineignore").unlink()
        bench.assert_equal()
        contents = left.contents()
        assert contents["logs/a.log"] == b"not followed"
        assert contents["logs/b.log"] == b"not sent"
        assert right.contents() == contents


def test_a_removed_directory_keeps_what_is_ignored_in_it(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        (left.root / ".synclineignore").write_bytes(b"*.tmp\n")
        (left.root / "directory").mkdir()
        (left.root / "directory" / "file").write_bytes(b"file")
        bench.assert_equal()
        (right.root / "directory" / "own.tmp").write_bytes(b"stays")
        (left.root / "directory" / "file").unlink()
        (left.root / "directory").rmdir()
        left.wait()
        wait_until(lambda: not (right.root / "directory" / "file").exists(), "the delete")
        assert (right.root / "directory" / "own.tmp").read_bytes() == b"stays"
        right.wait_for(lambda status: status.problem_count > 0, "to tell")
        assert right.problems() == {b"directory": "holds_unsynced"}
        (right.root / "directory" / "own.tmp").unlink()
        bench.assert_equal()
        assert not (right.root / "directory").exists()


def test_special_files_are_problems_and_others_go_on(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.add("left"), bench.add("right")
        os.mkfifo(left.root / "pipe")
        (left.root / "directory").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            fd = os.open(left.root, os.O_RDONLY)
            try:
                listener.bind(f"/proc/self/fd/{fd}/directory/socket")
            finally:
                os.close(fd)
        (left.root / "file").write_bytes(b"goes on")
        left.start()
        right.start()
        bench.settle()
        os.mkfifo(left.root / "later")
        (left.root / "directory" / "beside").write_bytes(b"goes on")
        bench.settle()
        special = dict.fromkeys((b"pipe", b"directory/socket", b"later"), "special")
        assert left.problems() == special
        assert right.contents() == {"file": b"goes on", "directory/beside": b"goes on"}
        assert not right.problems()
        # The same name elsewhere: what stands there is in the way, and stays.
        (right.root / "later").write_bytes(b"of right")
        right.wait()
        left.wait_for(lambda status: status.cursor == status.head, "to know of it")
        (left.root / "later").unlink()
        (left.root / "pipe").unlink()
        bench.settle()
        assert left.contents()["later"] == b"of right"
        assert left.problems() == {b"directory/socket": "special"}


def test_a_link_is_carried_and_never_followed(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "secret").write_bytes(b"secret")
        (left.root / "out").symlink_to(outside)
        (left.root / "loop").symlink_to(".")
        (left.root / "nowhere").symlink_to("nothing")
        bench.assert_equal()
        (outside / "secret").write_bytes(b"edited")
        # The same path is a link here and a directory there: nothing goes through the link.
        (right.root / "out").unlink()
        (right.root / "out").mkdir()
        (right.root / "out" / "inside").write_bytes(b"inside")
        bench.assert_equal()
        assert (left.root / "out" / "inside").read_bytes() == b"inside"
        assert sorted(path.name for path in outside.iterdir()) == ["secret"]
