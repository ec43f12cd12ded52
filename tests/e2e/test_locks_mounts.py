"""User locks of real mounts: asked for in the directory, shown to others, gone with the process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from syncline.client.holding import LEASE_S
from syncline.compose.control_messages import AskLock, write_request
from syncline.core.names import RelPath
from syncline.ports.mount_control import LockAsked, WaitEnd
from tests.support.mounting import Bench, Mount, benching
from tests.support.processes import TIMEOUT_S, command, end
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
    [before] = ann.records("locks", ann.root)
    bench.kill_server()
    ann.kill()
    bench.restart()
    edit_held(bob, "g")
    ann.wait_for(lambda status: any(each.is_own for each in status.locks), "knows its own lock")
    [shown] = ann.records("locks", ann.root)
    assert (shown["path"], shown["token"]) == ("g", before["token"])
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
    # So does a command that runs under a lock: it is the mount's.
    held = ann.run("lock", "f", "--hold", "--", "syncline-no-such-command", cwd=inside)
    assert held.returncode == 127, held.stderr
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


# -- locks for the length of a command -------------------------------------------

WHILE_HELD = 'while kill -0 "$PPID" 2>/dev/null && ! test -e "$1"; do sleep 0.05; done'
"""A command that lasts until a file is there, or the process that runs it is not."""

Hold = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def hold(pair: tuple[Mount, Mount]) -> Iterator[Hold]:
    """Start a command of ann under a lock; return when it is held. What still runs is ended."""
    ann, _ = pair
    processes: list[subprocess.Popen[bytes]] = []

    def start(path: str, *program: str, lease: str = "30s") -> subprocess.Popen[bytes]:
        process = started(ann, "lock", path, "--hold", "--lease", lease, "--", *program)
        processes.append(process)
        wait_until(lambda: paths_locked(ann) == [path], "the lock is held", timeout_s=TIMEOUT_S)
        return process

    yield start
    for process in processes:
        end(process)


def started(mount: Mount, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command in the directory of a mount."""
    return subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=mount.environ,
        cwd=mount.root,
    )


def paths_locked(mount: Mount) -> list[object]:
    """Return what is locked, as the server says to a mount."""
    return [record["path"] for record in mount.records("locks", mount.root)]


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Return the exit code and what was complained of."""
    _, complaint = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, complaint


def is_free_soon(mount: Mount) -> None:
    """Wait until nothing is locked; long before a lease would have ended it."""
    wait_until(lambda: paths_locked(mount) == [], "it is given back", timeout_s=LEASE_S - 5)


@pytest.mark.parametrize(
    ("script", "code"),
    [("echo of bob > g", 0), ("echo of bob > g; exit 7", 7), ("echo of bob > g; kill -9 $$", 137)],
)
def test_a_command_runs_under_a_lock_that_ends_with_it(
    bench: Bench, pair: tuple[Mount, Mount], script: str, code: int
) -> None:
    ann, bob = pair
    ran = ann.run("lock", "g", "--hold", "--", "sh", "-c", script, cwd=ann.root)
    assert (ran.returncode, ran.stderr, ran.stdout) == (code, b"", b"")
    # What the command made was stored before the lock was given back.
    bench.settle()
    assert text(bob, "g") == "of bob\n" and paths_locked(bob) == []
    assert ann.status().lock_count == 0


def test_a_lock_of_a_command_keeps_out_others_and_other_commands_here(
    bench: Bench, pair: tuple[Mount, Mount], hold: Hold
) -> None:
    ann, bob = pair
    process = hold("plans", "sh", "-c", WHILE_HELD, "sh", str(ann.home / "done"))
    edit_held(bob, "plans/f")
    assert [each.is_own for each in ann.status().locks] == [True]
    for arguments in (("lock", "plans/f"), ("lock", "plans/f", "--hold", "--", "true")):
        ran = ann.run(*arguments, cwd=ann.root)
        assert ran.returncode == 6 and b"locked by ann" in ran.stderr, ran.stderr
    (ann.home / "done").touch()
    assert ended(process) == (0, b"")
    synced_s(ann, "plans/f")
    bench.settle()
    bench.assert_equal()


def test_who_is_killed_while_he_holds_frees_the_lock_at_once(
    pair: tuple[Mount, Mount], hold: Hold
) -> None:
    ann, bob = pair
    process = hold("g", "sh", "-c", WHILE_HELD, "sh", "never")
    process.kill()
    process.wait(TIMEOUT_S)
    is_free_soon(bob)
    lock(ann, "g")


def test_a_lock_that_is_broken_under_a_command_is_told_and_its_success_is_none(
    pair: tuple[Mount, Mount], hold: Hold
) -> None:
    ann, bob = pair
    done = ann.home / "done"
    process = hold("g", "sh", "-c", WHILE_HELD, "sh", str(done))
    [broken] = bob.records("unlock", bob.root / "g", "--force")
    assert broken["result"] == "broken"
    done.touch()
    code, complaint = ended(process)
    assert code == 21 and b"the lock of 'g' was broken by bob" in complaint, complaint


def test_a_mount_that_is_killed_or_stopped_takes_its_locks_with_it(
    pair: tuple[Mount, Mount], hold: Hold
) -> None:
    ann, bob = pair
    done = ann.home / "done"
    process = hold("g", "sh", "-c", WHILE_HELD, "sh", str(done))
    ann.stop()
    is_free_soon(bob)
    done.touch()
    code, complaint = ended(process)
    assert code == 21 and b"the mount" in complaint, complaint
    done.unlink()
    ann.start()
    process = hold("g", "sh", "-c", WHILE_HELD, "sh", str(done), lease="2s")
    ann.kill()
    wait_until(lambda: paths_locked(bob) == [], "the lease is over", timeout_s=TIMEOUT_S)
    done.touch()
    assert ended(process)[0] == 21
    ann.start()


def test_who_deletes_what_he_has_locked_loses_nothing(pair: tuple[Mount, Mount]) -> None:
    ann, bob = pair
    script = f'rm g && "{sys.executable}" -m syncline wait .'
    ran = ann.run("lock", "g", "--hold", "--", "sh", "-c", script, cwd=ann.root)
    assert ran.returncode == 0 and b"lock" not in ran.stderr, ran.stderr
    assert bob.wait() is WaitEnd.IN_SYNC and not (bob.root / "g").exists()


def test_who_is_killed_with_the_answer_unread_leaves_no_lock(
    pair: tuple[Mount, Mount], tmp_path: Path
) -> None:
    ann, bob = pair
    request = tmp_path / "request"
    request.write_bytes(write_request(AskLock(LockAsked((RelPath.parse(b"g"),)))))
    for _ in range(3):
        caller = subprocess.Popen([sys.executable, "-c", DEAF_CALLER, ann.state, request])
        try:
            wait_until(lambda: bob.status().lock_count == 1, "it is granted")
        finally:
            end(caller)
        wait_until(lambda: bob.status().lock_count == 0, "it is given back", timeout_s=LEASE_S - 5)
    lock(ann, "g")
    assert [each.is_own for each in ann.status().locks] == [True]


DEAF_CALLER = """
import os, signal, socket, sys
os.chdir(sys.argv[1])
connection = socket.socket(socket.AF_UNIX)
connection.connect("control.sock")
connection.sendall(open(sys.argv[2], "rb").read())
signal.pause()
"""
"""Asks a mount for a lock and never reads the answer."""
