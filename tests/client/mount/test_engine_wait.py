"""`wait` ends, and says the truth, whatever is in its way."""

from __future__ import annotations

import asyncio

from syncline.core.trees import Mode
from syncline.ports.link import Committed, WatchEvent
from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.scenes import Player, Scene, simulated
from tests.support.simulation.disk import Operation
from tests.support.simulation.machines import Settings


async def mounted(scene: Scene, settings: Settings | None = None) -> Player:
    """Return a mount with one file."""
    ann = scene.add("ann", settings)
    ann.user.write(b"file", b"old")
    await scene.rest(ann)
    return ann


@simulated
async def test_without_its_directory_of_sentinels_everything_is_looked_at(scene: Scene) -> None:
    ann = await mounted(scene)
    ann.user.rmdir(b".syncline/sentinels")
    ann.user.write(b"file", b"newer")
    head = scene.head
    result = await ann.mount.wait(60.0)
    assert result.end is WaitEnd.IN_SYNC
    assert scene.head == head + 1
    assert result.status.cursor == scene.head


@simulated
async def test_what_is_locked_elsewhere_is_a_problem(scene: Scene) -> None:
    ann = await mounted(scene)
    ann.way.locked.add(ann.id(b"file"))
    ann.user.write(b"file", b"newer")
    asked_s = scene.now_s
    result = await ann.mount.wait(600.0)
    assert result.end is WaitEnd.PROBLEMS
    assert scene.now_s - asked_s < 5.0
    assert ann.problems == {b"file": "locked"}
    ann.way.locked.clear()
    await scene.rest(ann)
    assert (await ann.mount.wait(60.0)).end is WaitEnd.IN_SYNC


@simulated
async def test_a_sentinel_that_is_lost_is_made_up_for(scene: Scene) -> None:
    ann = await mounted(scene, Settings(queue_limit=100))
    lost: list[bytes] = []

    def crowd(operation: Operation) -> None:
        if operation.name == "create" and b"/sentinels/" in operation.path and not lost:
            lost.append(operation.path)
            for number in range(200):
                ann.user.write(b"file %d" % number, b"new")

    ann.disk.before = crowd
    result = await ann.mount.wait(300.0)
    assert lost
    assert result.end is WaitEnd.IN_SYNC
    assert result.status.entries == 201
    await scene.until(lambda: not ann.own(b"sentinels"), "no sentinel is left")


@simulated
async def test_a_wait_that_is_given_up_leaves_nothing(scene: Scene) -> None:
    ann = await mounted(scene)
    for timeout_s in (0.0, 0.0005, 0.002, 0.005, 0.01):
        assert (await ann.mount.wait(timeout_s)).end is WaitEnd.TIMED_OUT
    await scene.until(lambda: not ann.own(b"sentinels"), "no sentinel is left")


@simulated
async def test_many_waits_at_once_all_end(scene: Scene) -> None:
    ann = await mounted(scene)
    ann.user.write(b"file", b"newer")
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(ann.mount.wait(60.0)) for _ in range(10)]
    assert {wait.result().end for wait in waits} == {WaitEnd.IN_SYNC}
    assert ann.status.cursor == scene.head
    await scene.until(lambda: not ann.own(b"sentinels"), "no sentinel is left")


@simulated
async def test_a_wait_is_for_what_others_stored_before_it(scene: Scene) -> None:
    ann = await mounted(scene)
    bob = scene.add("bob")
    await scene.rest(ann, bob)
    for number in range(5):
        ann.user.write(b"file", b"%d" % number * 10)
        assert (await ann.mount.wait(60.0)).end is WaitEnd.IN_SYNC
        assert (await bob.mount.wait(60.0)).end is WaitEnd.IN_SYNC
        assert bob.contents() == {b"file": b"%d" % number * 10}


@simulated
async def test_a_wait_that_began_without_a_mount_goes_on_with_it(scene: Scene) -> None:
    ann = await mounted(scene)
    await ann.bury(power_loss=False)
    ann.user.write(b"file", b"newer")
    ann.start(scene.group)
    assert ann.is_in(MountPhase.STARTING)
    head = scene.head
    assert (await ann.mount.wait(60.0)).end is WaitEnd.IN_SYNC
    assert scene.head == head + 1


@simulated
async def test_neither_a_wait_nor_a_status_is_ahead_of_a_late_feed(scene: Scene) -> None:
    ann = await mounted(scene)
    bob = scene.add("bob")
    await scene.rest(ann, bob)

    async def late(event: WatchEvent) -> WatchEvent:
        if isinstance(event, Committed):
            await asyncio.sleep(5.0)
        return event

    bob.network.is_up = False
    await scene.until(lambda: not bob.status.is_connected, "it is noticed")
    ann.user.write(b"file", b"newer")
    await scene.rest(ann)
    bob.way.event = late
    bob.network.is_up = True
    await scene.until(lambda: bob.status.is_connected, "connected")
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(bob.mount.wait(60.0))
        while bob.contents() == {b"file": b"old"}:
            assert not bob.is_in(MountPhase.IN_SYNC)
            assert not wait.done()
            await scene.passes(0.1)
    assert wait.result().end is WaitEnd.IN_SYNC
    assert bob.contents() == {b"file": b"newer"}


@simulated
async def test_a_wait_ends_with_its_mount(scene: Scene) -> None:
    ann = await mounted(scene)
    ann.network.is_up = False
    ann.user.write(b"file", b"newer")
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(ann.mount.wait(60.0))
        await scene.passes(5.0)
        assert not wait.done()
        asked_s = scene.now_s
        await ann.bury(power_loss=False)
    assert wait.result().end is WaitEnd.STOPPED
    assert scene.now_s - asked_s < 1.0
    ann.network.is_up = True
    ann.start(scene.group)
    await scene.rest(ann)


@simulated
async def test_edits_that_are_never_sent_hold_no_wait_up(scene: Scene) -> None:
    ann = await mounted(scene)
    bob = scene.add("bob", Settings(mode=Mode.RECEIVE_ONLY))
    await scene.rest(ann, bob)
    bob.user.write(b"mine", b"mine")
    bob.user.write(b"file", b"edited")
    result = await bob.mount.wait(60.0)
    assert result.end is WaitEnd.IN_SYNC
    await scene.rest(ann, bob)
    assert set(bob.problems) == {b"mine", b"file"}
    assert not bob.way.proposals
