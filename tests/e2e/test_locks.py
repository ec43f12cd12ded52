"""User locks with real processes: killed, stopped, restarted, in each other's way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.house import ROOT
from tests.support.processes import (
    TIMEOUT_S,
    Cli,
    Server,
    command,
    end,
    environment,
    line_of,
    proxied,
)
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

WHILE_HELD = 'while kill -0 "$PPID" 2>/dev/null && ! test -e "$1"; do sleep 0.05; done'
"""A command that lasts until a file is there, or the process that runs it is not."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    server.start()
    yield server
    server.close()


@pytest.fixture
def ann(server: Server, tmp_path: Path) -> Cli:
    """Return a user, with `x` and `d/f` in the volume."""
    (tmp_path / "ann").mkdir()
    cli = Cli(server.address, tmp_path / "ann")
    (cli.home / "x").write_text("first")
    (cli.home / "d").mkdir()
    (cli.home / "d" / "f").write_text("first")
    cli.records("store", "x", "d")
    return cli


@pytest.fixture
def ben(server: Server, tmp_path: Path) -> Cli:
    (tmp_path / "ben").mkdir()
    cli = Cli(server.address, tmp_path / "ben")
    (cli.home / "x").write_text("of ben")
    return cli


def is_locked(cli: Cli, path: str = "x") -> bool:
    return bool(cli.records("locks", path))


Hold = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start a command under a lock; return when it is held. What still runs is ended."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(cli: Cli, path: str, *program: str, lease: str = "30s") -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command("lock", path, "--hold", "--lease", lease, "--", *program),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=cli.environ,
            cwd=cli.home,
        )
        processes.append(process)
        wait_until(lambda: is_locked(cli, path), "the lock is held", timeout_s=TIMEOUT_S)
        return process

    yield start
    for process in processes:
        end(process)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """Return the exit code and what was complained of."""
    _, complaint = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, complaint


def test_a_holder_that_is_killed_keeps_others_out_for_its_lease_alone(
    ann: Cli, ben: Cli, hold: Hold
) -> None:
    process = hold(ann, "x", "sh", "-c", WHILE_HELD, "sh", "never", lease="2s")
    assert ben.run("store", "x").returncode == 6
    process.kill()
    process.wait(TIMEOUT_S)
    assert ben.run("lock", "x", "--wait", "60s").returncode == 0
    assert ben.run("store", "x").returncode == 0


def test_a_holder_that_is_stopped_past_its_lease_can_do_no_harm(
    ann: Cli, ben: Cli, hold: Hold
) -> None:
    go = ann.home / "go"
    late = f'{WHILE_HELD}; echo late > x; "$2" -m syncline store x; echo $? > code; exit 0'
    process = hold(ann, "x", "sh", "-c", late, "sh", str(go), sys.executable, lease="1s")
    os.kill(process.pid, signal.SIGSTOP)
    # Its connection is open and its machine answers: nothing but the lease says that it is gone.
    assert ben.run("lock", "x", "--wait", "60s").returncode == 0
    assert ben.run("store", "x").returncode == 0
    go.touch()
    wait_until(lambda: (ann.home / "code").exists(), "it stored", timeout_s=TIMEOUT_S)
    wait_until(lambda: (ann.home / "code").read_text() == "21\n", "its token was lost")
    os.kill(process.pid, signal.SIGCONT)
    code, complaint = ended(process)
    assert code == 21 and b"is lost" in complaint, (code, complaint)
    assert ben.run("fetch", "x", "--to", "seen").returncode == 0
    assert (ben.home / "seen").read_text() == "of ben"


def test_a_holder_that_is_cut_off_loses_the_lock_and_says_so(
    ann: Cli, ben: Cli, server: Server, hold: Hold
) -> None:
    done = ann.home / "done"
    with proxied(server.address) as proxy:
        far = Cli(proxy.address, ann.home)
        process = hold(far, "x", "sh", "-c", WHILE_HELD, "sh", str(done), lease="2s")
    assert ben.run("lock", "x", "--wait", "60s").returncode == 0
    done.touch()
    code, complaint = ended(process)
    assert code == 21 and b"cannot be reached" in complaint, (code, complaint)


def test_a_holder_whose_line_is_silent_keeps_others_out_for_its_lease_alone(
    ann: Cli, ben: Cli, server: Server, hold: Hold
) -> None:
    done = ann.home / "done"
    with proxied(server.address) as proxy:
        far = Cli(proxy.address, ann.home)
        process = hold(far, "x", "sh", "-c", WHILE_HELD, "sh", str(done), lease="2s")
        # Nobody is told that the connection is gone.
        proxy.up_max = 0
        assert ben.run("lock", "x", "--wait", "60s").returncode == 0
        done.touch()
        code, complaint = ended(process)
    assert code == 21 and b"is lost" in complaint, (code, complaint)


def test_a_restart_of_the_server_frees_nothing(
    ann: Cli, ben: Cli, server: Server, hold: Hold
) -> None:
    done = ann.home / "done"
    process = hold(ann, "d", "sh", "-c", WHILE_HELD, "sh", str(done))
    assert ann.run("lock", "x", "--reason", "figures").returncode == 0
    before = [record["token"] for record in ben.records("locks")]
    server.kill()
    server.start()
    (ben.home / "f").write_text("of ben")
    for path, to in (("x", "x"), ("f", "d/f")):
        ran = ben.run("store", path, "--to", to)
        assert ran.returncode == 6, ran.stderr
    tokens = [record["token"] for record in ben.records("locks")]
    assert tokens == before and len(set(tokens)) == 2
    # The holder finds its way back, and is still the one.
    done.touch()
    assert ended(process) == (0, b"")
    wait_until(lambda: not is_locked(ben, "d"), "it was given back")
    assert ben.run("store", "f", "--to", "d/f").returncode == 0
    assert ann.run("unlock", "x").returncode == 0 and ben.run("store", "x").returncode == 0


@pytest.mark.parametrize(
    ("program", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -9 $$"), 137),
        (("sh", "-c", "kill -15 $$"), 143),
        (("no-such-command",), 127),
        (("/",), 126),
        (("true",), 0),
    ],
    ids=lambda value: str(value)[-16:],
)
def test_the_lock_ends_with_the_command_whatever_ended_it(
    ann: Cli, program: tuple[str, ...], code: int
) -> None:
    ran = ann.run("lock", "x", "--hold", "--", *program)
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == b"" and not is_locked(ann)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_to_the_command_and_the_lock_is_given_back(
    ann: Cli, number: signal.Signals, hold: Hold
) -> None:
    process = hold(ann, "x", sys.executable, "-c", "import signal; signal.pause()")
    process.send_signal(number)
    code, complaint = ended(process)
    # Python takes SIGINT for an exception of its own.
    assert code in (128 + number, 1 if number is signal.SIGINT else 128 + number), complaint
    assert not is_locked(ann)


def test_the_command_stores_under_its_lock_and_others_do_not(
    ann: Cli, ben: Cli, hold: Hold
) -> None:
    (ann.home / "d" / "f").write_text("second")
    (ben.home / "d").mkdir()
    (ben.home / "d" / "f").write_text("of ben")
    process = hold(ann, "d", "sh", "-c", WHILE_HELD, "sh", str(ann.home / "done"))
    [failed] = [each for each in ben.records("store", "d", code=13) if each["result"] == "failed"]
    assert failed["path"] == "d/f"
    assert ben.run("lock", "d/f").returncode == 6 and ben.run("lock", "x").returncode == 0
    (ann.home / "done").touch()
    assert ended(process)[0] == 0
    script = f'"{sys.executable}" -m syncline store d'
    ran = ann.run("lock", "d", "--hold", "--", "sh", "-c", script)
    assert ran.returncode == 0 and b"stored" in ran.stdout, ran.stderr


def test_who_deletes_what_he_has_locked_loses_nothing(ann: Cli) -> None:
    script = f'"{sys.executable}" -m syncline delete x'
    ran = ann.run("lock", "x", "--hold", "--", "sh", "-c", script)
    assert ran.returncode == 0 and b"lock" not in ran.stderr, ran.stderr
    assert ann.run("stat", "x").returncode == 3


def test_who_loses_the_lock_by_force_is_told_and_the_success_is_none(
    ann: Cli, ben: Cli, server: Server, hold: Hold
) -> None:
    done = ann.home / "done"
    process = hold(ann, "x", "sh", "-c", WHILE_HELD, "sh", str(done))
    assert ben.run("unlock", "x").returncode == 6
    [broken] = ben.records("unlock", "x", "--force")
    assert broken["result"] == "broken"
    done.touch()
    code, complaint = ended(process)
    assert code == 21 and b"was broken by" in complaint, complaint
    assert "lock_broken path='x'" in server.log


def test_nobody_to_complain_to_ends_neither_the_other_locks_nor_the_command(
    ann: Cli, ben: Cli
) -> None:
    done = ann.home / "done"
    process = subprocess.Popen(
        command("lock", "d", "x", "--hold", "--", "sh", "-c", WHILE_HELD, "sh", str(done)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=ann.environ,
        cwd=ann.home,
    )
    try:
        assert process.stderr is not None
        process.stderr.close()
        wait_until(lambda: is_locked(ben), "the locks are held", timeout_s=TIMEOUT_S)
        ben.records("unlock", "x", "--force")
        # The holder hears of it meanwhile, and cannot tell it.
        ben.records("lock", "x")
        ben.records("unlock", "x")
        assert process.poll() is None and is_locked(ben, "d")
        done.touch()
        process.wait(TIMEOUT_S)
        assert not is_locked(ben, "d")
    finally:
        end(process)


def test_list_stat_and_locks_show_who_holds(ann: Cli, ben: Cli) -> None:
    assert ann.run("lock", "d", "--reason", "new figures", "--ttl", "1h").returncode == 0
    [lock] = ben.records("locks", "d/f")
    assert lock["path"] == "d" and lock["reason"] == "new figures"
    listed = {each["path"]: each["lock"] for each in ben.records("list", "--recursive")}
    assert listed["x"] is None and listed["d/f"] == listed["d"]
    assert isinstance(listed["d"], dict) and listed["d"]["holder"] == lock["holder"]
    [found] = ben.records("stat", "d/f")
    assert isinstance(found["lock"], dict) and found["lock"]["path"] == "d"
    assert b"[locked by " in ben.run("list").stdout
    assert b"new figures" in ben.run("stat", "d").stdout
    assert b"new figures" in ben.run("locks").stdout


def test_who_watches_is_told_of_each_lock_in_order(ann: Cli, ben: Cli) -> None:
    ann.records("lock", "x", "--reason", "proofs")
    watching = subprocess.Popen(
        command("locks", "--watch", "--json"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=ben.environ,
        cwd=ben.home,
    )
    try:
        told = [json.loads(line_of(watching))]
        ann.records("unlock", "x")
        ann.records("lock", "d")
        ben.records("unlock", "d", "--force")
        told += [json.loads(line_of(watching)) for _ in range(3)]
    finally:
        end(watching)
    assert told[0]["reason"] == "proofs"
    assert [(each["effect"], each["path"], each["by"] is None) for each in told] == [
        ("held", "x", True),
        ("unlocked", "x", False),
        ("granted", "d", True),
        ("broken", "d", False),
    ]


def test_a_mount_keeps_what_is_edited_under_anothers_lock_and_sends_it_after(
    ann: Cli, ben: Cli, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    mounted.mkdir()

    def problems() -> list[str]:
        [status] = ben.records("status", mounted)
        found = status["problems"]
        assert isinstance(found, list)
        return [f"{each['path']} {each['code']}" for each in found]

    with ben.start("mount", mounted) as mount:
        line_of(mount)
        wait_until(lambda: (mounted / "x").exists(), "the volume is there", timeout_s=TIMEOUT_S)
        assert ann.run("lock", "x").returncode == 0
        (mounted / "x").write_text("edited all the same")
        wait_until(lambda: problems() == ["x locked"], "it is shown", timeout_s=TIMEOUT_S)
        assert (mounted / "x").read_text() == "edited all the same"
        assert ann.run("unlock", "x").returncode == 0
        wait_until(lambda: problems() == [], "it is tried again", timeout_s=TIMEOUT_S)
    assert ann.run("fetch", "x", "--to", "seen").returncode == 0
    assert (ann.home / "seen").read_text() == "edited all the same"


def test_two_processes_contend_for_one_path_and_none_starves(
    ann: Cli, server: Server, tmp_path: Path
) -> None:
    rounds, claim = 150, tmp_path / "claim"
    worker = ROOT / "tests" / "support" / "lock_worker.py"
    began_s = time.monotonic()
    clients = [
        subprocess.Popen(
            [sys.executable, str(worker), server.address, str(number), str(rounds), str(claim)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(ann.home),
        )
        for number in range(2)
    ]
    try:
        for client in clients:
            out, complaint = client.communicate(timeout=TIMEOUT_S)
            assert client.returncode == 0, complaint.decode()
            waits_ms = [float(line) for line in out.split()]
            assert len(waits_ms) == rounds
            # Whoever has to wait, waits for one turn of the other and not for all of them; a few
            # waits are of the machine's own making.
            often_ms = sorted(waits_ms)[rounds * 9 // 10]
            assert often_ms < 1000 * (time.monotonic() - began_s) / 10
    finally:
        for client in clients:
            end(client)
    assert not is_locked(ann)
