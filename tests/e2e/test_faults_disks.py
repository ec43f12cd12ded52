"""Full and failing disks under a running mount or server: local trouble, told, and it heals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.limits import (
    assert_no_hot_loop,
    bench_on_small_disk,
    has_problem,
    heal,
    mount_on_small_disk,
    resize,
)
from tests.support.mounting import Mount, benching
from tests.support.processes import small_disk
from tests.support.realtree import MIB, digest_of_file, write_random
from tests.support.wait import wait_until

pytestmark = pytest.mark.process
slow = pytest.mark.slow


def test_a_client_whose_disk_is_full(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        write_random(ann.root / "grows", 3 * MIB, 1)
        (ann.root / "goes").write_bytes(b"goes")
        with mount_on_small_disk(bench, "ben", 8 * MIB) as (ben, disk):
            bench.assert_equal()
            old = digest_of_file(ben.root / "grows")
            write_random(ann.root / "grows", 7 * MIB, 2)
            write_random(ann.root / "new", 20 * MIB, 3)
            for path in (b"grows", b"new"):
                ben.wait_for(has_problem(path, "no_space"), f"to tell of {path!r}")

            # All else goes on, both ways.
            (ann.root / "small").write_bytes(b"small")
            (ann.root / "goes").unlink()
            (ben.root / "of ben").write_bytes(b"of ben")
            wait_until((ann.root / "of ben").exists, "an edit of the one whose disk is full")
            wait_until((ben.root / "small").exists, "a small file on the full disk")
            wait_until(lambda: not (ben.root / "goes").exists(), "a delete on the full disk")
            assert digest_of_file(ben.root / "grows") == old
            assert not (ben.root / "new").exists()
            assert ann.wait() is WaitEnd.IN_SYNC
            assert ben.wait() is WaitEnd.PROBLEMS
            ben.wait_for_phase(MountPhase.WAITING)
            assert_no_hot_loop(ben.process, bench.server.process)

            resize(disk, 64 * MIB)
            tree = heal(bench, ben)
            assert set(tree) == {b"grows", b"new", b"small", b"of ben"}
            ben.stop()


@slow
def test_a_server_whose_disk_is_full(tmp_path: Path) -> None:
    with bench_on_small_disk(tmp_path, 24 * MIB) as (bench, disk):
        ann, ben = bench.start("ann", "ben")
        write_random(ann.root / "grows", 3 * MIB, 1)
        bench.assert_equal()
        old = digest_of_file(ben.root / "grows")
        write_random(ann.root / "grows", 40 * MIB, 2)
        write_random(ann.root / "new", 40 * MIB, 3)
        for path in (b"grows", b"new"):
            ann.wait_for(has_problem(path, "no_space"), f"to tell of {path!r}")
        (ben.root / "small").write_bytes(b"small")
        wait_until((ann.root / "small").exists, "a small file over the full server")
        assert digest_of_file(ben.root / "grows") == old
        assert not (ben.root / "new").exists()
        assert_no_hot_loop(ann.process, ben.process, bench.server.process)
        resize(disk, 256 * MIB)
        assert set(heal(bench, ann, ben)) == {b"grows", b"new", b"small"}
        bench.stop_server()
        bench.server.assert_sound()


def fill_up(directory: Path) -> Path:
    """Take all the room of a file system; return what takes it."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    return ballast


@slow
def test_a_server_with_no_room_for_a_commit(tmp_path: Path) -> None:
    with bench_on_small_disk(tmp_path, 16 * MIB) as (bench, disk):
        ann, ben = bench.start("ann", "ben")
        (ann.root / "before").write_bytes(b"before")
        bench.assert_equal()
        ballast = fill_up(disk.outside)
        for number in range(400):
            write_random(ann.root / f"file {number}", 4_000, number)
        ann.wait_for(lambda status: bool(status.problems), "to tell that the server is full")
        assert ann.status().phase is not MountPhase.IN_SYNC
        assert ben.wait() is WaitEnd.IN_SYNC
        assert_no_hot_loop(ann.process, ben.process, bench.server.process)
        ballast.unlink()
        assert len(heal(bench, ann, ben)) == 401
        bench.stop_server()
        bench.server.assert_sound()


@dataclass
class ElsewhereMount(Mount):
    """A mount that keeps what it remembers where only its own processes see it by name."""

    seen: Path | None = None

    @property
    def state(self) -> Path:
        """Return the directory of what the mount remembers, as this process reaches it."""
        assert self.seen is not None
        return self.seen


@slow
def test_a_client_whose_state_has_no_room(tmp_path: Path) -> None:
    """What cannot be remembered is not taken as done: the whole mount waits, and says so."""
    with benching(tmp_path) as bench, small_disk(tmp_path / "kept", 8 * MIB) as disk:
        [ann] = bench.start("ann")
        ben = ElsewhereMount(tmp_path / "ben", "ben", bench.server.address, disk.wrapper)
        ben.seen = disk.outside
        bench.mounts.append(ben)
        (ann.root / "kept").write_bytes(b"kept")
        ben.start("--state", disk.directory)
        bench.assert_equal()

        ballast = fill_up(disk.outside)
        number = 0
        while ben.status().phase in (MountPhase.IN_SYNC, MountPhase.SYNCING):
            # Until the log of its database has no room left for one more page.
            number += 1
            assert number < 3_000, "the disk of its state never got full"
            (ann.root / f"of ann {number}").write_bytes(b"%d" % number)
            (ben.root / f"of ben {number}").write_bytes(b"%d" % number)
        ben.wait_for(lambda status: bool(status.problems), "to tell of its trouble")
        assert {each.code for each in ben.status().problems} <= {"no_space", "local_failure"}
        (ann.root / "kept").unlink()
        assert ann.wait() is WaitEnd.IN_SYNC
        assert_no_hot_loop(ben.process)
        assert ben.process.poll() is None, ben.log_end
        ballast.unlink()
        tree = heal(bench, ben)
        assert len(tree) == 2 * number
        assert not [path for path in tree if b"conflict" in path]
        ben.stop()
