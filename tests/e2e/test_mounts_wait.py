"""`syncline wait` in scripts: who waits at both sides never sees an old file."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from syncline.cli.exits import ExitCode
from syncline.ports.mount_control import WaitEnd
from tests.support.mounting import Mount, benching
from tests.support.processes import TIMEOUT_S

pytestmark = pytest.mark.process

ROUNDS = 110
COMMAND_ROUNDS = 3
BUSY_ROUNDS = 10
MANY_ROUNDS = 30
MANY = 12


def test_after_two_waits_no_old_file_is_seen(tmp_path: Path) -> None:
    """The waits are asked as the command asks them, without the start of a process each time."""
    with benching(tmp_path) as bench:
        sides = bench.start("left", "right")
        for round_ in range(ROUNDS):
            writer, reader = sides if round_ % 3 else sides[::-1]
            edit(writer, round_)
            assert writer.wait() is WaitEnd.IN_SYNC
            assert reader.wait() is WaitEnd.IN_SYNC
            check(reader, round_)
        bench.assert_equal()


def edit(mount: Mount, round_: int) -> None:
    """Change one file as scripts do: in place, or beside and renamed over it; add, move, remove."""
    content = f"round {round_}".encode()
    if round_ % 2:
        (mount.root / "file").write_bytes(content)
    else:
        (mount.root / "beside").write_bytes(content)
        (mount.root / "beside").rename(mount.root / "file")
    directory = mount.root / f"directory {round_ % 5}"
    directory.mkdir(exist_ok=True)
    (directory / f"of {round_}").write_bytes(content)
    for old in mount.root.glob(f"*/of {round_ - 3}"):
        old.unlink()
    for old in mount.root.glob(f"*/of {round_ - 1}"):
        old.rename(old.with_name(f"moved {round_ - 1}"))


def check(mount: Mount, round_: int) -> None:
    content = f"round {round_}".encode()
    assert (mount.root / "file").read_bytes() == content
    assert (mount.root / f"directory {round_ % 5}" / f"of {round_}").read_bytes() == content
    assert not list(mount.root.glob(f"*/of {round_ - 1}"))
    assert not (mount.root / "beside").exists()


def test_after_two_waits_none_of_many_files_is_old(tmp_path: Path) -> None:
    """So many at once that they are read by several threads, beside the cycles of the engine."""
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        for round_ in range(MANY_ROUNDS):
            content = f"round {round_}".encode()
            for number in range(MANY):
                (left.root / f"file {number}").write_bytes(content)
            assert left.wait() is WaitEnd.IN_SYNC
            assert right.wait() is WaitEnd.IN_SYNC
            found = [(right.root / f"file {number}").read_bytes() for number in range(MANY)]
            assert found == [content] * MANY, round_


def test_after_two_waits_nothing_in_a_new_directory_is_missing(tmp_path: Path) -> None:
    """What is found by listing a new directory was there before the call, too."""
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        bench.settle()
        for round_ in range(ROUNDS):
            directory = left.root / f"directory {round_}" / "inner"
            directory.mkdir(parents=True)
            (directory / "file").write_bytes(b"%d" % round_)
            assert left.wait() is WaitEnd.IN_SYNC
            assert right.wait() is WaitEnd.IN_SYNC
            found = right.root / f"directory {round_}" / "inner" / "file"
            assert found.read_bytes() == b"%d" % round_


def test_the_commands_do_the_same(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        for round_ in range(COMMAND_ROUNDS):
            edit(left, round_)
            assert left.run("wait", cwd=left.root).returncode == ExitCode.OK
            assert right.run("wait", right.root / ".").returncode == ExitCode.OK
            check(right, round_)
        [record] = right.records("wait", right.root)
        assert record["result"] == "in_sync"


def test_edits_of_others_meanwhile_do_not_hold_a_wait_up(tmp_path: Path) -> None:
    """It waits for what was before it, and not until nobody works any more."""
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        stopping = threading.Event()

        def work() -> None:
            count = 0
            while not stopping.wait(0.005):
                count += 1
                (right.root / f"busy {count % 3}").write_bytes(b"%d" % count)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for round_ in range(BUSY_ROUNDS):
                (left.root / "file").write_bytes(b"%d" % round_)
                assert left.wait(timeout_s=30) is WaitEnd.IN_SYNC
                assert right.wait(timeout_s=30) is WaitEnd.IN_SYNC
                assert (right.root / "file").read_bytes() == b"%d" % round_
        finally:
            stopping.set()
            thread.join()
        bench.assert_equal()


def test_a_wait_without_the_server_times_out_and_then_holds(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        bench.settle()
        bench.stop_server()
        (left.root / "file").write_bytes(b"offline")
        [record] = left.records("wait", left.root, "--timeout", "0.5", code=ExitCode.TIMED_OUT)
        assert record["result"] == "timed_out"
        ends: list[WaitEnd] = []
        waiting = threading.Thread(target=lambda: ends.append(left.wait()))
        waiting.start()
        bench.start_server()
        waiting.join(TIMEOUT_S)
        assert ends == [WaitEnd.IN_SYNC]
        assert right.wait() is WaitEnd.IN_SYNC
        assert (right.root / "file").read_bytes() == b"offline"
