"""What a mount does when its disk, its watches or its root are not as they should be."""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path

import pytest

from syncline.client.mount import looking, marks
from syncline.client.mount.growing import content_name
from syncline.core.changes import Proposal
from syncline.core.identity import digest_of
from syncline.core.manifests import CONTENT_BYTES_MAX
from syncline.core.safety import HaltReason
from syncline.ports.mount_control import WaitEnd
from tests.support.pair import mount
from tests.support.scenes import Scene, large_content, run_scene, simulated
from tests.support.serving import Backend, served
from tests.support.simulation.disk import Operation
from tests.support.simulation.machines import Settings
from tests.support.simulation.user_side import User
from tests.support.wait import eventually

LARGE = large_content(1)

UNSTOPPED_BYTES = CONTENT_BYTES_MAX
"""A file that takes minutes to read."""
BEGUN_BYTES = 64 * 2**20


# -- full and broken disks -----------------------------------------------------------


@simulated
async def test_an_edit_back_to_what_was_placed_once_is_an_edit(scene: Scene) -> None:
    """Also where the record of that placing failed, and the process dies long after it."""
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.write(b"file", b"old")
    await scene.rest(ann, bob)
    ann.disk.fail(errno.EIO, operation="sync")
    bob.user.write(b"file", b"placed")
    await scene.rest(ann, bob)
    ann.user.write(b"file", b"other")
    await scene.rest(ann, bob)
    await ann.bury(power_loss=False)
    ann.user.write(b"file", b"placed")
    ann.start(scene.group)
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents() == {b"file": b"placed"}


@pytest.mark.parametrize("content", [b"newer", LARGE], ids=["small", "large"])
def test_a_full_disk_of_the_state_is_waited_out(content: bytes) -> None:
    async def play(scene: Scene) -> None:
        ann = scene.add("ann")
        ann.user.write(b"file", b"old")
        await scene.rest(ann)
        ann.way.locked.add(ann.id(b"file"))

        def fill(proposal: Proposal) -> None:
            ann.state.is_full = bool(proposal.changes)

        # What the answer comes to is recorded beside the cycles.
        ann.way.before_store = fill
        ann.user.write(b"file", content)
        await scene.until(lambda: ann.problems.get(b"") == "no_space", "it is told")
        before = ann.state.sessions
        await scene.passes(300.0)
        assert 5 <= ann.state.sessions - before <= 40
        synced = ann.disk.counts["sync_all"]
        ann.way.before_store = None
        ann.state.is_full = False
        ann.way.locked.clear()
        await scene.rest(ann)
        assert not ann.status.problems
        # What was placed before the trouble may not have been durable.
        assert ann.disk.counts["sync_all"] == synced + 1

    run_scene(play)


@pytest.mark.parametrize("failing", [1, 2])
def test_staging_that_cannot_be_looked_at_is_looked_at_again(failing: int) -> None:
    async def play(scene: Scene) -> None:
        ann, bob = scene.add("ann"), scene.add("bob")
        await scene.rest(ann, bob)
        staged = b"mount/.syncline/staging/" + content_name(digest_of(LARGE))
        looks: list[Operation] = []

        def spoil(operation: Operation) -> None:
            if operation.name == "look" and operation.path == staged and bob.user.exists(staged_at):
                looks.append(operation)
                if len(looks) == failing:
                    raise OSError(errno.EIO, "Input/output error")

        staged_at = staged.removeprefix(b"mount/")
        bob.disk.before = spoil
        ann.user.write(b"large", LARGE)
        await scene.rest(ann, bob)
        bob.disk.before = None
        assert len(looks) >= failing
        assert bob.contents() == {b"large": LARGE}
        assert bob.way.fetched_bytes <= 2 * len(LARGE)
        assert not bob.own(b"staging")

    run_scene(play)


# -- watches -------------------------------------------------------------------------


@simulated
async def test_a_wait_looks_at_what_has_no_watch(scene: Scene) -> None:
    # The root takes the only watch; sentinels have theirs.
    ann = scene.add("ann", Settings(watch_limit=1))
    ann.user.mkdir(b"unwatched")
    await scene.rest(ann)
    for number in range(3):
        ann.user.write(b"unwatched/file", b"%d" % number)
        asked_s = scene.now_s
        assert (await ann.mount.wait(60.0)).end is WaitEnd.IN_SYNC
        assert scene.now_s - asked_s < 5.0
        with ann.state.session() as session:
            assert session.base_count() == 2
            assert session.dirty_count() == 0
        assert ann.way.proposals[-1].inline == {digest_of(b"%d" % number): b"%d" % number}


@simulated
async def test_what_moves_to_where_no_watch_is_is_not_deleted_meanwhile(scene: Scene) -> None:
    ann, bob = scene.add("ann", Settings(watch_limit=1)), scene.add("bob")
    ann.user.mkdir(b"unwatched")
    ann.user.write(b"file", b"1")
    ann.user.write(b"other", b"2")
    await scene.rest(ann, bob)
    head = scene.head
    ann.user.rename(b"file", b"unwatched/file")
    await scene.until(lambda: b"unwatched/file" in bob.contents(), "it moved", within_s=5.0)
    assert scene.head == head + 1, "it was one change"
    ann.user.unlink(b"other")
    await scene.until(lambda: b"other" not in bob.contents(), "it is gone", within_s=5.0)
    await scene.rest(ann, bob)
    assert bob.contents() == ann.contents() == {b"unwatched": None, b"unwatched/file": b"1"}


@simulated
async def test_a_directory_that_comes_back_is_watched_again(scene: Scene) -> None:
    ann, bob, cleo = (scene.add(name) for name in ("ann", "bob", "cleo"))
    ann.user.mkdir(b"d")
    await scene.rest(ann, bob, cleo)
    cleo.network.is_up = False
    await scene.until(lambda: cleo.status.connection_error is not None, "it is away")
    ann.user.rmdir(b"d")
    await scene.rest(ann, bob)
    assert not bob.user.exists(b"d")
    # It lives on because of that, as the same entry.
    cleo.user.write(b"d/x", b"x")
    cleo.network.is_up = True
    await scene.until(lambda: b"d/x" in bob.contents(), "it came back")
    await scene.rest(ann, bob, cleo)
    bob.user.write(b"d/y", b"y")
    await scene.until(lambda: b"d/y" in ann.contents(), "the new file is seen", within_s=10.0)


@simulated
async def test_without_watches_everything_is_looked_at_from_time_to_time(scene: Scene) -> None:
    ann, bob = scene.add("ann", Settings(watch_limit=0)), scene.add("bob")
    await scene.rest(ann, bob)
    assert ann.status.is_watch_degraded
    assert not bob.status.is_watch_degraded
    ann.user.mkdir(b"new")
    ann.user.write(b"new/file", b"new")
    took_s = await scene.until(lambda: b"new/file" in bob.contents(), "it is found")
    assert took_s < 40.0
    ann.user.write(b"new/file", b"newer")
    head = scene.head
    assert (await ann.mount.wait(60.0)).end is WaitEnd.IN_SYNC
    assert scene.head == head + 1
    assert (await bob.mount.wait(60.0)).end is WaitEnd.IN_SYNC
    assert bob.contents() == ann.contents()
    before = ann.disk.counts["list"]
    await scene.passes(300.0)
    assert 4 <= ann.disk.counts["list"] - before <= 40


def test_marks_that_are_too_many_are_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(marks, "MARKS_MAX", 100)

    async def play(scene: Scene) -> None:
        ann, bob = scene.add("ann"), scene.add("bob")
        await scene.rest(ann, bob)
        for round_ in range(2):
            for number in range(1_000):
                ann.user.write(b"%d %d" % (round_, number), b"")
            await scene.passes(0.2)
        await scene.rest(ann, bob)
        assert len(bob.contents()) == 2_000
        ann.disk.counts.clear()
        await scene.passes(60.0)
        assert not ann.disk.counts["list"]

    run_scene(play)
    assert 2 <= len(overflows(caplog)) <= 6


def test_who_has_too_much_to_read_neither_spins_nor_fills_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(looking, "READINGS_MAX", 20)

    async def play(scene: Scene) -> None:
        ann = scene.add("ann", Settings(queue_limit=30, read_s=20.0))
        await scene.rest(ann)
        for number in range(40):
            ann.user.write(b"file %d" % number, b"%d" % number)
        await scene.passes(0.5)
        before = ann.state.sessions
        # The watcher loses some of it: a look at everything is due, and cannot begin.
        for burst in range(10):
            for number in range(40):
                ann.user.write(b"more %d %d" % (burst, number), b"")
            await scene.passes(0.05)
        await scene.passes(1.0)
        assert ann.state.sessions - before < 30
        assert len(overflows(caplog)) <= 2
        await scene.rest(ann, within_s=3_000.0)
        assert ann.status.entries == 440

    run_scene(play)


def overflows(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of changes that were lost."""
    return [line for line in caplog.messages if "watch_overflow" in line]


# -- readings ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_directory_gets_another_id_while_its_files_are_read(seed: int) -> None:
    async def play(scene: Scene) -> None:
        ann, bob = scene.add("ann"), scene.add("bob", Settings(read_s=1.0))
        bob.random.seed(seed)
        await scene.rest(ann, bob)
        bob.network.is_up = False
        bob.user.mkdir(b"both")
        await scene.until(lambda: bob.status.pending_up == 1, "the directory is known")
        ann.user.mkdir(b"both")
        ann.user.write(b"both/ann", b"ann")
        await scene.rest(ann)
        for number in range(40):
            bob.user.write(b"both/%d" % number, b"%d" % number * 50)
        bob.network.is_up = True
        await scene.rest(ann, bob, within_s=300.0)
        assert len(bob.contents()) == 42
        assert ann.contents() == bob.contents()
        assert (await bob.mount.wait(60.0)).end is WaitEnd.IN_SYNC

    run_scene(play)


def read_bytes() -> int:
    """Return how many bytes this process has read, from whatever file."""
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["rchar"])


async def test_a_mount_that_ends_does_not_read_a_large_file_to_its_end(tmp_path: Path) -> None:
    backend = Backend.in_memory()
    try:
        async with served(backend) as volume:
            async with mount(tmp_path, volume, "ann") as ann:
                await ann.rest()
                before = read_bytes()
                with (ann.root / "sparse").open("wb") as file:
                    file.truncate(UNSTOPPED_BYTES)
                await eventually(lambda: read_bytes() > before + BEGUN_BYTES, "it is read")
                started_s = time.monotonic()
            assert time.monotonic() - started_s < 20.0
    finally:
        backend.close()


# -- the root ------------------------------------------------------------------------


@simulated
async def test_a_root_that_goes_and_comes_back_leaves_nothing_behind(scene: Scene) -> None:
    ann = scene.add("ann")
    for number in range(20):
        ann.user.write(b"file %d" % number, b"%d" % number)
    await scene.rest(ann)
    top = User(ann.disk)
    before = (ann.disk.open_handles, len(asyncio.all_tasks()))
    for number in range(5):
        top.rename(b"mount", b"away")
        waited = await ann.mount.wait(30.0)
        assert waited.end is WaitEnd.HALTED
        halt = ann.status.halt
        assert halt is not None
        assert halt.reason is HaltReason.ROOT_MISSING
        User(ann.disk, b"away").write(b"meanwhile %d" % number, b"new")
        top.rename(b"away", b"mount")
        await scene.rest(ann)
    assert ann.status.entries == 25
    assert (ann.disk.open_handles, len(asyncio.all_tasks())) == before
