"""The order of system calls of real processes: durable before named, named before remembered.

What a power loss may do follows from this order alone; the simulation plays it out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.cli.exits import ExitCode
from syncline.ports.mount_control import WaitEnd
from tests.support.limits import assert_no_hot_loop, has_problem
from tests.support.mounting import Bench, Mount, benching
from tests.support.processes import TIMEOUT_S, serving
from tests.support.programs import needs
from tests.support.realtree import MIB, write_random
from tests.support.traces import (
    RENAMES,
    SENDS,
    SYNCS,
    WRITES,
    Call,
    between,
    is_over,
    on,
    only,
    read_trace,
    recorder,
    those,
)
from tests.support.wait import wait_until

pytestmark = [pytest.mark.process, pytest.mark.slow, needs("strace")]

MANY = 60
STATE = "mount.sqlite3"
METADATA = "metadata.sqlite3"


def skip_unless_traced(directory: Path) -> None:
    line = [*recorder(directory / "probe"), "true"]
    done = subprocess.run(line, capture_output=True)
    if done.returncode:
        pytest.skip(f"processes cannot be traced here: {done.stderr!r}")


def calls_of(mount: Mount, trace: Path) -> list[Call]:
    """End a recorded mount; return what it did."""
    process = mount.process.pid
    mount.stop()
    wait_until(lambda: is_over(trace, process), "the end of the record")
    return read_trace(trace)


def is_state(call: Call) -> bool:
    return call.name in WRITES and (on(call, STATE) or on(call, f"{STATE}-wal"))


def is_sync_of(call: Call, path: str) -> bool:
    return call.name in SYNCS and (on(call, path) or call.name == "syncfs")


def names_of(calls: list[Call], placed: Call) -> set[str]:
    """Return the names that content had in the engine's own directories before it was placed."""
    names = {moved_name(placed)}
    for call in reversed(those(calls, RENAMES)):
        if call.end < placed.begin and call.text.split('"')[-2] in names:
            names.add(moved_name(call))
    return names


def moved_name(call: Call) -> str:
    """Return the first name of a rename."""
    return call.text.split('"')[1]


def check_placed(calls: list[Call], directory: str, name: str) -> None:
    """Check one path: content durable, then named, then the name durable, then remembered."""
    renames = those(calls, RENAMES, f"{directory}>", f'"{name}"')
    placed = only(
        [call for call in renames if call.text.split('"')[-2] == name], f"{name} is placed once"
    )
    names = names_of(calls, placed)
    writes = [
        call for call in calls if call.name in WRITES and any(on(call, each) for each in names)
    ]
    assert writes, f"nothing was written for {name}"
    last = max(call.end for call in writes)
    synced = between(
        calls, last, placed.begin, lambda call: any(is_sync_of(call, each) for each in names)
    )
    assert synced, f"{name} was named before its content was durable"

    named = between(calls, placed.end, 10**9, lambda call: is_sync_of(call, directory))
    assert named, f"the name {name} was never made durable"
    early = [call for call in calls if is_state(call) and placed.begin < call.begin < named[0].end]
    assert not early, f"{name} was remembered before its name was durable"
    remembered = between(
        calls, named[0].end, 10**9, lambda call: call.name in SYNCS and on(call, f"{STATE}-wal")
    )
    assert remembered, f"{name} was never remembered"
    if "RENAME_EXCHANGE" in placed.text:
        old = moved_name(placed)
        gone = [call for call in calls if call.name == "unlinkat" and f'"{old}"' in call.text]
        assert only(gone, f"the old {name} is let go of").begin > remembered[0].end


def test_a_mount_names_what_is_durable_and_remembers_what_is_named(tmp_path: Path) -> None:
    skip_unless_traced(tmp_path)
    trace = tmp_path / "ben.trace"
    with serving(tmp_path / "server") as server:
        bench = Bench(tmp_path, server)
        try:
            [ann] = bench.start("ann")
            (ann.root / "in").mkdir()
            (ann.root / "in" / "replaced").write_bytes(b"old")
            write_random(ann.root / "in" / "replaced large", 4 * MIB, 1)
            ben = bench.add("ben")
            ben.start()
            bench.assert_equal()
            ben.stop()

            ben.wrapper = recorder(trace)
            ben.start()
            bench.assert_equal()
            (ann.root / "in" / "new").write_bytes(b"new" * 100)
            bench.assert_equal()
            (ann.root / "in" / "replaced").write_bytes(b"replaced" * 100)
            bench.assert_equal()
            write_random(ann.root / "in" / "new large", 4 * MIB, 2)
            write_random(ann.root / "in" / "replaced large", 5 * MIB, 3)
            bench.assert_equal()
            bench.stop_server()
            for number in range(MANY):
                (ann.root / "in" / f"many {number}").write_bytes(b"%d" % number * 50)
            bench.start_server()
            bench.assert_equal()
            calls = calls_of(ben, trace)
        finally:
            for mount in bench.mounts:
                mount.close()
    names = ("new", "replaced", "new large", "replaced large")
    for name in (*names, *(f"many {number}" for number in range(MANY))):
        check_placed(calls, "ben/mount/in", name)
    many = those(calls, RENAMES, "many ")
    assert len(many) == MANY
    syncs = between(calls, many[0].begin, many[-1].end, lambda call: call.name in SYNCS)
    assert len(syncs) < MANY, "many files share a sync"


def test_a_server_answers_and_tells_what_is_durable(tmp_path: Path) -> None:
    """Chunks, then the commit, then the answer and the push: content shows in the push itself."""
    skip_unless_traced(tmp_path)
    trace = tmp_path / "server.trace"
    mark = "a mark of some length "
    with serving(tmp_path / "server", wrapper=recorder(trace)) as server:
        bench = Bench(tmp_path, server)
        try:
            ann, _ = bench.start("ann", "ben")
            (ann.root / "before").write_bytes(b"before")
            bench.assert_equal()
            (ann.root / "file").write_bytes((mark * 40).encode())
            bench.assert_equal()
            process = server.process.pid
            server.stop()
        finally:
            for mount in bench.mounts:
                mount.close()
    wait_until(lambda: is_over(trace, process), "the end of the record")
    calls = read_trace(trace)

    packed = only(those(calls, WRITES, ".pack>", mark), "one chunk is packed")
    pack_durable = between(
        calls, packed.end, 10**9, lambda call: call.name in SYNCS and ".pack>" in call.text
    )[0]
    commits = [call for call in calls if call.name in WRITES and on(call, f"{METADATA}-wal")]
    early = [call for call in commits if packed.begin < call.begin < pack_durable.end]
    assert not early, "a commit was written before its chunks were durable"
    commit = next(call for call in commits if call.begin > pack_durable.end)
    durable = between(
        calls, commit.end, 10**9, lambda call: call.name in SYNCS and on(call, f"{METADATA}-wal")
    )[0]
    pushed = [call for call in those(calls, SENDS, mark) if "socket:" in call.text[:200]]
    assert pushed, "the push brings small content along"
    assert pushed[0].begin > durable.end, "it was told before it was durable"
    told = between(calls, commit.begin, durable.end, lambda call: is_answer(call))
    assert not told, [call.text[:200] for call in told]


def is_answer(call: Call) -> bool:
    """Tell whether a call sends something to a client that is more than a few bytes of HTTP/2."""
    size = call.text.rpartition("= ")[2]
    return call.name == "sendmsg" and "socket:" in call.text[:200] and int(size) > 60


def failing(path: Path, *names: str) -> list[str]:
    """Return options of strace by which calls on one path fail, as on a bad disk."""
    calls = ",".join(names)
    options = ("-f", "-P", str(path), "-e", f"trace={calls}", "-o", "/dev/null")
    return ["strace", *options, "-e", f"inject={calls}:error=EIO", "-e", "signal=none"]


@contextmanager
def failing_now(process: subprocess.Popen[bytes], path: Path, *names: str) -> Iterator[None]:
    """Let calls of a running process on one path fail, for the length of the block."""
    tracer = subprocess.Popen(
        [*failing(path, *names), "-p", str(process.pid)], stderr=subprocess.PIPE
    )
    try:
        assert tracer.stderr is not None
        assert b" attached" in tracer.stderr.readline()
        yield
    finally:
        tracer.terminate()
        tracer.communicate(timeout=TIMEOUT_S)


def test_a_server_whose_sync_fails_does_not_answer_well(tmp_path: Path) -> None:
    """What such a sync may have lost is not believed afterwards, either."""
    skip_unless_traced(tmp_path)
    before, after = tmp_path / "before", tmp_path / "after"
    before.write_bytes(b"before" * 1_000)
    after.write_bytes(b"after" * 1_000)
    with serving(tmp_path / "server") as server:
        server.cli.records("store", before)
        head = server.cli.head()
        [pack] = server.packs()
        with failing_now(server.process, pack, "fsync", "fdatasync"):
            ran = server.cli.run("store", after, "--timeout", "5")
            assert ran.returncode != 0 and b"Traceback" not in ran.stderr, ran.stderr
            assert server.cli.head() == head
            assert server.cli.run("stat", "after").returncode == ExitCode.NOT_FOUND
        # The kernel forgets that a sync failed; the server does not.
        server.cli.records("store", after)
        assert server.cli.head() == head + 1
        again = sorted(set(server.packs()) - {pack})
        assert again, "the content was written again, elsewhere"
        assert b"after" * 1_000 in again[-1].read_bytes()
        server.kill()
        server.start()
        server.cli.records("fetch", "before", "after", "--to", f"{tmp_path}/copies/")
        assert (tmp_path / "copies" / "after").read_bytes() == after.read_bytes()
        server.stop()
        server.assert_sound()


def test_a_file_that_cannot_be_read_is_not_gone(tmp_path: Path) -> None:
    skip_unless_traced(tmp_path)
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        ben = bench.add("ben")
        for name in ("bad", "good"):
            (ben.root / name).write_bytes(b"old")
        ben.start()
        bench.assert_equal()
        ben.stop()
        for name in ("bad", "good"):
            (ben.root / name).write_bytes(b"edited")
        bad = failing(ben.root / "bad", "read", "pread64", "preadv", "preadv2")
        ben.wrapper = [bad[0], "-D", *bad[1:]]
        ben.start()
        ben.wait_for(has_problem(b"bad"), "to tell of what cannot be read")
        (ben.root / "new").write_bytes(b"new")
        wait_until(lambda: (ann.root / "new").exists(), "all else to be sent")
        assert ben.wait() is WaitEnd.PROBLEMS
        assert ann.contents() == {"bad": b"old", "good": b"edited", "new": b"new"}
        assert_no_hot_loop(ben.process)
        ben.stop()
        ben.wrapper = ()
        ben.start()
        tree = bench.assert_equal()
        assert set(tree) == {b"bad", b"good", b"new"}
        assert (ann.root / "bad").read_bytes() == b"edited"
