"""User locks of real mounts: asked for in the directory, shown to others, gone with the process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.client.holding import LEASE_S
from syncline.ports.mount_control import WaitEnd
from tests.support.mounting import Bench, Mount, benching
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

QUICK_S = 1.0
LOAD_S = 10.0
"""How much later everything may be on a machine that has other things to do."""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with benching(tmp_path) as bench:
        yield bench


@pytest.fixture
def pair(bench: Bench) -> tuple[Mount, Mount]:
    """Return two mounts with `plans/f` and `g`."""
    ann, bob = bench.start("ann", "bob")
    (ann.root / "plans").mkdir()
    (ann.root / "plans" / "f").write_text("first")
    (ann.root / "g").write_text("first")
    bench.settle()
    return ann, bob


def lock(mount: Mount, path: str, *options: str) -> None:
    [record] = mount.records("lock", mount.root / path, *options)
    assert (record["result"], record["path"], record["holder"]) == ("locked", path, mount.name)


def unlock(mount: Mount, path: str) -> None:
    [record] = mount.records("unlock", mount.root / path)
    assert (record["path"], record["result"]) == (path, "unlocked")


def edit_held(bob: Mount, path: str) -> None:
    """Edit a file that ann has locked; return when it is shown as held."""
    bob.wait_for(lambda status: bool(status.locks), "knows of the lock")
    (bob.root / path).write_text("of bob")
    bob.wait_for(lambda _: bob.problems() == {path.encode(): "locked"}, "holds the edit")


def text(mount: Mount, path: str) -> str:
    return (mount.root / path).read_text()


def synced_s(mount: Mount, path: str) -> float:
    """Return when a mount has the text of bob."""
    wait_until(lambda: text(mount, path) == "of bob", "it is synced")
    return time.monotonic()


def test_an_edit_under_a_lock_is_held_shown_and_synced_at_once_at_its_end(
    bench: Bench, pair: tuple[Mount, Mount]
) -> None:
    ann, bob = pair
    lock(ann, "plans/f", "--reason", "new figures")
    edit_held(bob, "plans/f")
    [status] = bob.records("status", bob.root)
    [shown] = status["locks"] if isinstance(status["locks"], list) else []
    assert (shown["path"], shown["holder"], shown["own"]) == ("plans/f", "ann", False)
    [problem] = status["problems"] if isinstance(status["problems"], list) else []
    assert problem["detail"].startswith("held: locked by ann (")
    assert problem["detail"].endswith(", new figures")
    assert b"held: locked by ann" in bob.run("status", bob.root).stdout
    assert b"own lock of this mount" in ann.run("status", ann.root).stdout
    waited = bob.run("wait", bob.root)
    assert waited.returncode == 13 and b"locked by ann" in waited.stderr
    assert text(ann, "plans/f") == "first" and text(bob, "plans/f") == "of bob"
    unlock(ann, "plans/f")
    done_s = time.monotonic()
    assert synced_s(ann, "plans/f") - done_s < QUICK_S
    bench.settle()
    bench.assert_equal()
    assert bob.problems() == {} and bob.records("locks", bob.root) == []


def test_what_both_changed_is_a_conflict_copy_when_the_lock_ends(
    bench: Bench, pair: tuple[Mount, Mount]
) -> None:
    ann, bob = pair
    lock(ann, "plans/f")
    edit_held(bob, "plans/f")
    (ann.root / "plans" / "f").write_text("of ann")
    # At once: what was changed under the lock is stored before it is given up.
    unlock(ann, "plans/f")
    bench.settle()
    bench.assert_equal()
    found = sorted(bob.contents().values())
    assert found == [b"first", b"of ann", b"of bob"] and text(bob, "plans/f") == "of ann"


def test_a_locked_directory_stays_locked_where_its_holder_moves_it(
    bench: Bench, pair: tuple[Mount, Mount]
) -> None:
    ann, bob = pair
    lock(ann, "plans")
    (ann.root / "plans").rename(ann.root / "moved")
    wait_until(lambda: (bob.root / "moved" / "f").exists(), "it is moved everywhere")
    edit_held(bob, "moved/f")
    [shown] = bob.records("locks", bob.root / "moved" / "f")
    assert (shown["path"], shown["holder"]) == ("moved", "ann")
    unlock(ann, "moved")
    synced_s(ann, "moved/f")
    bench.settle()
    bench.assert_equal()


def test_a_restart_of_the_server_and_of_the_mount_keeps_the_lock(
    bench: Bench, pair: tuple[Mount, Mount]
) -> None:
    ann, bob = pair
    lock(ann, "g")
    bench.kill_server()
    ann.kill()
    bench.restart()
    edit_held(bob, "g")
    ann.wait_for(lambda status: any(each.is_own for each in status.locks), "knows its own lock")
    [shown] = ann.records("locks", ann.root)
    assert (shown["path"], shown["token"]) == ("g", 1)
    unlock(ann, "g")
    synced_s(ann, "g")
    bench.settle()
    bench.assert_equal()


@pytest.mark.slow
def test_a_mount_that_is_killed_keeps_others_out_for_its_lease_alone(
    bench: Bench, pair: tuple[Mount, Mount]
) -> None:
    ann, bob = pair
    lock(ann, "g")
    # Long enough that nothing but a renewal has kept it.
    started_s = time.monotonic()
    wait_until(lambda: time.monotonic() - started_s > LEASE_S + 5, "a lease", timeout_s=60)
    edit_held(bob, "g")
    ann.kill()
    killed_s = time.monotonic()
    wait_until(lambda: bob.problems() == {}, "the lock is over", timeout_s=LEASE_S + LOAD_S)
    assert bob.wait() is WaitEnd.IN_SYNC
    assert time.monotonic() - killed_s < LEASE_S + LOAD_S
    ann.start()
    bench.settle()
    bench.assert_equal()
    assert text(ann, "g") == "of bob"


def test_a_path_means_the_mount_that_it_lies_in_or_a_path_of_the_volume(
    bench: Bench, pair: tuple[Mount, Mount]
) -> None:
    ann, bob = pair
    inside = ann.root / "plans"
    there = ("--server", ann.address)
    # By a relative path, from within.
    ran = ann.run("lock", "f", cwd=inside)
    assert ran.returncode == 0 and ran.stdout.startswith(b"locked     plans/f"), ran.stderr
    [own] = ann.status().locks
    assert own.is_own
    # A server that is named, and a place that is no mount, mean the volume: another owner.
    assert ann.run("lock", "plans/f", *there, cwd=inside).returncode == 6
    assert ann.run("lock", "g", *there).returncode == 0
    assert [each["path"] for each in ann.records("locks", *there)] == ["g", "plans/f"]
    assert [each["path"] for each in bob.records("locks", bob.root)] == ["g", "plans/f"]
    assert bob.run("unlock", bob.root / "plans" / "f").returncode == 6
    assert ann.run("unlock", "f", cwd=inside).returncode == 0
    missing = ann.run("lock", inside / "none")
    assert missing.returncode == 3 and b"syncline wait" in missing.stderr
    held = ann.run("lock", "f", "--hold", "--", "true", cwd=inside)
    assert held.returncode == 2 and b"is mounted" in held.stderr
    mixed = ann.run("lock", inside / "f", "elsewhere")
    assert mixed.returncode == 2 and b"not all in one running mount" in mixed.stderr
    own_files = ann.run("lock", ann.root / ".syncline" / "staging")
    assert own_files.returncode == 2 and b"never synced" in own_files.stderr
    # A link is locked itself, and not what it points to.
    os.symlink("plans/f", ann.root / "link")
    bench.settle()
    lock(ann, "link")
    ann.stop()
    # A mount that does not run can hold nothing: the path is one of the volume.
    assert ann.run("locks", cwd=inside).returncode == 7
