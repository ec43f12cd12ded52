"""`kill -9` of clients and server in the middle of work: nothing torn, nothing lost, nothing left.

The moments are found by what was done so far, and not by a clock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounting import Bench, Mount, benching
from tests.support.realtree import MIB, digest_of_file, write_random
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

FILES = 150
LARGE_BYTES = 6 * MIB


def fill(root: Path) -> None:
    """Make many small files in some directories, and two large ones."""
    for index in range(FILES):
        directory = root / f"directory {index % 7}" / f"inner {index % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file {index}").write_bytes(f"content {index}".encode() * 50)
    for number in range(2):
        write_random(root / f"large {number}", LARGE_BYTES, number)


def kill_sender(bench: Bench) -> None:
    bench.mounts[0].kill()


def kill_receiver(bench: Bench) -> None:
    bench.mounts[1].kill()


def kill_server(bench: Bench) -> None:
    bench.kill_server()


def kill_all(bench: Bench) -> None:
    for mount in bench.running:
        mount.kill()
    bench.kill_server()


def files_in(mount: Mount) -> int:
    own = mount.root / ".syncline"
    return sum(path.is_file() for path in mount.root.rglob("*") if not path.is_relative_to(own))


def large_is_under_way(receiver: Mount) -> bool:
    """Tell whether a part of a large file lies in the receiver's staging."""
    staging = receiver.root / ".syncline" / "staging"
    try:
        return any(path.stat().st_size > MIB // 2 for path in staging.iterdir())
    except FileNotFoundError:
        return False


def assert_whole(receiver: Mount, digests: dict[str, bytes]) -> None:
    """Fail where a path at the receiver has anything but its whole content."""
    for name, digest in digests.items():
        path = receiver.root / name
        if path.exists():
            assert digest_of_file(path) == digest, name
    for path in receiver.root.glob("directory */*/file *"):
        assert path.read_bytes() == f"content {path.name.split()[1]}".encode() * 50, path


@pytest.mark.parametrize("kill", [kill_sender, kill_receiver, kill_server, kill_all])
def test_killed_in_the_middle_it_goes_on(tmp_path: Path, kill: Callable[[Bench], None]) -> None:
    with benching(tmp_path) as bench:
        sender, receiver = bench.add("sender"), bench.add("receiver")
        fill(sender.root)
        digests = {
            f"large {number}": digest_of_file(sender.root / f"large {number}")
            for number in range(2)
        }
        receiver.start()
        sender.start()
        moments: list[tuple[str, Callable[[], bool]]] = [
            ("a first file", lambda: files_in(receiver) > 0),
            ("more files", lambda: files_in(receiver) > FILES // 3),
            (
                "a large file on its way",
                lambda: large_is_under_way(receiver) or files_in(receiver) >= FILES + 2,
            ),
        ]
        for what, is_reached in moments:
            wait_until(is_reached, what, timeout_s=60)
            kill(bench)
            assert_whole(receiver, digests)
            bench.restart()
        tree = bench.assert_equal()
        assert sum(b"file" in path or b"large" in path for path in tree) == FILES + 2
        assert_whole(receiver, digests)
        check_no_second_life(bench, sender, receiver)


def check_no_second_life(bench: Bench, sender: Mount, receiver: Mount) -> None:
    """Deletes and moves after the crashes work as ever: what is remembered is right."""
    (sender.root / "directory 0").rename(sender.root / "moved")
    (receiver.root / "large 0").unlink()
    tree = bench.assert_equal()
    assert b"large 0" not in tree and b"directory 0" not in tree
    assert not [path for path in tree if b"conflict" in path]
    for mount in bench.running:
        mount.stop()
        assert not mount.leftovers()
    bench.stop_server()
    bench.server.assert_sound()


def test_kills_under_a_stream_of_saves(tmp_path: Path) -> None:
    """Saves go on while each process is killed in turn: the last saves live, without conflicts."""
    with benching(tmp_path) as bench:
        writer, reader = bench.start("writer", "reader")
        files = [writer.root / f"file {number}" for number in range(5)]
        for path in files:
            path.write_bytes(b"0")
        bench.assert_equal()
        stopping = threading.Event()
        saves = [0]

        def save() -> None:
            while not stopping.wait(0.002):
                saves[0] += 1
                path = files[saves[0] % len(files)]
                beside = path.with_name(path.name + ".new")
                beside.write_bytes(b"%d" % saves[0])
                beside.rename(path)

        thread = threading.Thread(target=save)
        thread.start()
        try:
            for kill in (kill_server, kill_sender, kill_receiver) * 2:
                before = newest(reader)
                wait_until(lambda b=before: newest(reader) > b, "a save to arrive")  # type: ignore[misc]
                kill(bench)
                bench.restart()
        finally:
            stopping.set()
            thread.join()
        tree = bench.assert_equal()
        assert set(tree) == {path.name.encode() for path in files}
        assert newest(reader) == saves[0]


def newest(mount: Mount) -> int:
    found = [0]
    for number in range(5):
        try:
            found.append(int((mount.root / f"file {number}").read_bytes()))
        except FileNotFoundError:
            # Between the two halves of a crash nothing is missing at the reader; a name is.
            continue
    return max(found)


def test_sigterm_under_load_ends_in_order(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        sender, receiver = bench.add("sender"), bench.add("receiver")
        fill(sender.root)
        receiver.start()
        sender.start()
        wait_until(lambda: files_in(receiver) > 20, "some files", timeout_s=60)
        assert receiver.stop() < 10
        assert sender.stop() < 10
        bench.restart()
        bench.assert_equal()


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        sender, receiver = bench.add("sender"), bench.add("receiver")
        fill(sender.root)
        receiver.start()
        sender.start()
        wait_until(lambda: files_in(receiver) > 20, "some files", timeout_s=60)
        for mount in (sender, receiver):
            mount.process.terminate()
            mount.process.terminate()
            assert mount.process.wait(10) in (0, 143, -15)
            mount.close()
        bench.restart()
        bench.assert_equal()
