"""Processes that stand still, and processes without descriptors or watches."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path

import pytest

from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.limits import assert_no_hot_loop, heal, stopped
from tests.support.mounting import Bench, Mount, benching
from tests.support.processes import Proxy, proxied
from tests.support.realtree import MIB, digest_of_file, write_random
from tests.support.wait import wait_until

pytestmark = pytest.mark.process
slow = pytest.mark.slow

FILES = 60
DIRECTORIES = 40


def fill(root: Path, seed: int) -> None:
    """Make some small files and a large one."""
    (root / "small").mkdir(exist_ok=True)
    for number in range(FILES):
        (root / "small" / f"file {number} of {seed}").write_bytes(b"%d" % number * seed)
    write_random(root / f"large {seed}", 12 * MIB, seed)


def has_begun(proxy: Proxy, before: tuple[int, int]) -> bool:
    """Tell whether a part of a large file went through a proxy."""
    return max(proxy.up_bytes - before[0], proxy.down_bytes - before[1]) > 3 * MIB


def assert_no_conflicts(tree: Collection[bytes]) -> None:
    assert not [path for path in tree if b"conflict" in path]


@pytest.mark.parametrize("who", ["sender", "receiver", "server"])
def test_a_process_that_stands_still_in_the_middle_of_a_transfer(tmp_path: Path, who: str) -> None:
    with benching(tmp_path) as bench, proxied(bench.server.address) as proxy:
        sender = bench.add("sender", address=proxy.address if who != "receiver" else None)
        receiver = bench.add("receiver", address=proxy.address if who == "receiver" else None)
        (sender.root / "shared").write_bytes(b"first")
        for mount in (sender, receiver):
            mount.start()
        bench.assert_equal()
        before = (proxy.up_bytes, proxy.down_bytes)
        fill(sender.root, 1)
        wait_until(lambda: has_begun(proxy, before), "the middle of a transfer")
        process = (
            bench.server.process
            if who == "server"
            else {"sender": sender, "receiver": receiver}[who].process
        )
        with stopped(process):
            # Users go on everywhere; nobody knows when it wakes.
            (sender.root / "shared").write_bytes(b"second")
            (receiver.root / "of the receiver").write_bytes(b"meanwhile")
            (sender.root / "small" / "file 0 of 1").unlink(missing_ok=True)
            if who == "sender":
                receiver.wait_for_phase(MountPhase.IN_SYNC)
            if who == "receiver":
                assert_goes_on(bench, sender)
        tree = bench.assert_equal()
        assert_no_conflicts(tree)
        assert (receiver.root / "shared").read_bytes() == b"second"
        assert (sender.root / "of the receiver").read_bytes() == b"meanwhile"
        assert digest_of_file(receiver.root / "large 1") == tree[b"large 1"].content
        assert len(tree) == 1 + FILES - 1 + 3


def assert_goes_on(bench: Bench, mount: Mount) -> None:
    """Fail unless a newcomer gets all from one mount while another one stands still."""
    newcomer = bench.add("newcomer")
    newcomer.start()
    wait_until((newcomer.root / "large 1").exists, "the large file at a newcomer", timeout_s=60)
    wait_until(lambda: (newcomer.root / "shared").read_bytes() == b"second", "an edit there")
    mount.wait_for_phase(MountPhase.IN_SYNC)


def limit_descriptors(mount: Mount, count: int | None) -> None:
    """Let a running process have descriptors below a number, or as many as it may at most."""
    pid = mount.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard if count is None else count, hard))


def highest_descriptor(mount: Mount) -> int:
    return max(map(int, os.listdir(f"/proc/{mount.process.pid}/fd")))


@pytest.mark.parametrize("spare", [2, *(pytest.param(many, marks=slow) for many in (0, 6, 12))])
def test_a_client_without_descriptors(tmp_path: Path, spare: int) -> None:
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")
        (ann.root / "kept").write_bytes(b"kept")
        (ben.root / "deep").mkdir()
        before = bench.assert_equal()
        limit_descriptors(ben, highest_descriptor(ben) + 1 + spare)
        for number in range(DIRECTORIES):
            inner = ann.root / f"directory {number}" / "inner"
            inner.mkdir(parents=True)
            (inner / "file").write_bytes(b"%d" % number)
            (ben.root / "deep" / f"of ben {number}").write_bytes(b"%d" % number)
        write_random(ann.root / "large", 6 * MIB, 1)
        assert ann.wait() is WaitEnd.IN_SYNC
        assert_no_hot_loop(ben.process, bench.server.process)
        assert ben.process.poll() is None, ben.log_end
        assert before.keys() <= ann.tree().keys()
        assert before.keys() <= ben.tree().keys()

        assert "oo many" in ben.log or "too_many" in ben.log
        limit_descriptors(ben, None)
        ben.wait_for(lambda status: status.is_connected, "to be connected again")
        tree = heal(bench, ben)
        assert len(tree) == len(before) + 4 * DIRECTORIES + 1
        assert_no_conflicts(tree)
        ben.stop()


WITHOUT_WATCHES = 'echo "$1" > /proc/sys/user/max_inotify_watches && shift && exec "$@"'
WATCHES = 10


@slow
def test_a_client_without_watches(tmp_path: Path) -> None:
    """In a user namespace of its own a process has as few watches as it is given."""
    wrapper = ("unshare", "--user", "--map-root-user", "sh", "-c", WITHOUT_WATCHES, "sh")
    if subprocess.run([*wrapper, str(WATCHES), "true"], capture_output=True).returncode:
        pytest.skip("a user namespace with few watches cannot be made here")
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        ben = bench.add("ben")
        ben.wrapper = (*wrapper, str(WATCHES))
        ben.start()
        for number in range(DIRECTORIES):
            (ann.root / f"directory {number}").mkdir()
            (ann.root / f"directory {number}" / "file").write_bytes(b"%d" % number)
        bench.assert_equal()
        ben.wait_for(lambda status: status.is_watch_degraded, "to tell that watches are missing")
        assert "watch" in ben.run("status", ben.root).stdout.decode()
        assert_no_hot_loop(ben.process)

        # Nobody waits here: a scan from time to time finds what no watch tells of.
        for number in range(DIRECTORIES):
            (ben.root / f"directory {number}" / "file").write_bytes(b"edited %d" % number)
        for number in range(DIRECTORIES):
            path = ann.root / f"directory {number}" / "file"
            edited = b"edited %d" % number
            wait_until(
                lambda path=path, edited=edited: path.read_bytes() == edited,  # type: ignore[misc]
                f"the edit of directory {number}",
                timeout_s=90.0,
            )
        # Who waits is not told that all is in sync before a scan saw what he did.
        (ben.root / f"directory {DIRECTORIES - 1}" / "file").write_bytes(b"last")
        bench.assert_equal()
        assert (ann.root / f"directory {DIRECTORIES - 1}" / "file").read_bytes() == b"last"

        for number in range(DIRECTORIES - 3):
            shutil.rmtree(ann.root / f"directory {number}")
        bench.assert_equal()
        ben.stop()
