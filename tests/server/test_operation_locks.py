"""Operation locks while STOREs overlap: who waits, who is told, and who is put out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from syncline.core.changes import Refusal
from syncline.core.identity import Digest, OpId
from syncline.ports.link import Link
from syncline.server.limits import Limits
from syncline.server.operation_locks import LockQueue
from syncline.server.volume import ServedVolume
from tests.support.serving import (
    ALICE,
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    codes,
    direct_link,
    propose,
    served,
)
from tests.support.trees import put_directory, put_file
from tests.support.wait import eventually


@dataclass
class Held(Chunks):
    """A source that gives nothing before it is told to."""

    def __post_init__(self) -> None:
        self.open = asyncio.Event()

    async def __call__(self, digest: Digest) -> bytes:
        self.asked.append(digest)
        await self.open.wait()
        return self.known[digest]


@pytest.fixture
async def volume() -> AsyncIterator[ServedVolume]:
    async with served(Backend.in_memory(), limits=Limits(lock_stall_s=0.2)) as volume:
        yield volume


@pytest.fixture
async def link(volume: ServedVolume) -> AsyncIterator[Link]:
    async with direct_link(volume) as link:
        yield link


@pytest.fixture
def ids() -> SeededIds:
    return SeededIds()


async def test_the_second_writer_is_told_who_holds_the_path(link: Link, ids: SeededIds) -> None:
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids), source))
        await eventually(lambda: bool(source.asked), "the first writer's chunks are asked for")
        answer = await link.store(
            propose(put_file("g", name=b"f", content=b""), put_directory("d"), ids=ids, author=BOB),
            Chunks(),
        )
        assert codes(answer) == ["locked", "ok"]
        refusal = answer.outcomes[0]
        assert isinstance(refusal, Refusal) and refusal.holder is not None
        assert refusal.holder.name == "alice@laptop"
        assert refusal.holder.since_s >= 0 and refusal.holder.expires_s <= 0.2
        source.open.set()
    assert accepted(first.result()) == [2]


async def test_a_waiting_writer_is_woken_when_the_lock_is_free(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    other = replace(put_file("f"), content=source.content([b"y" * 100]))
    ready = Chunks(source.known)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids), source))
        await eventually(lambda: bool(source.asked), "the first writer's chunks are asked for")
        second = tasks.create_task(
            link.store(propose(other, ids=ids, author=BOB, wait_s=20), ready)
        )
        await eventually(lambda: volume.locks.locks.count == 2, "the second writer waits")
        assert not second.done()
        source.open.set()
    assert accepted(first.result()) == [1]
    assert codes(second.result()) == ["stale"], "it saw what the first one made"
    assert volume.locks.locks.count == 0


async def test_a_stalled_transfer_loses_its_lock_and_finds_out_at_the_commit(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids), source))
        await eventually(lambda: bool(source.asked), "the first writer's chunks are asked for")
        await eventually(lambda: volume.locks.locks.count == 0, "the stalled lock is dropped")
        answer = await link.store(
            propose(put_file("g", name=b"f", content=b"q"), ids=ids, author=BOB, inline=[b"q"]),
            Chunks(),
        )
        assert accepted(answer) == [1]
        source.open.set()
    assert codes(first.result()) == ["name_taken"]


async def test_a_writer_that_goes_away_frees_its_locks(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids), source))
        await eventually(lambda: bool(source.asked), "the first writer's chunks are asked for")
        first.cancel()
    assert volume.locks.locks.count == 0
    answer = await link.store(
        propose(put_file("f", content=b"q"), ids=ids, inline=[b"q"]), Chunks()
    )
    assert accepted(answer) == [1]


async def test_writers_of_different_paths_do_not_wait(link: Link, ids: SeededIds) -> None:
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids), source))
        await eventually(lambda: bool(source.asked), "the first writer's chunks are asked for")
        for number in range(10):
            answer = await link.store(propose(put_directory(str(number)), ids=ids), Chunks())
            assert accepted(answer) == [number + 1]
        assert not first.done()
        source.open.set()
    assert accepted(first.result()) == [11]


async def test_a_repetition_takes_over_from_the_operation_it_repeats(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    """The first connection is half open: nobody tells the server that it is gone."""
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    proposal = propose(slow, ids=ids)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(proposal, source))
        await eventually(lambda: bool(source.asked), "the first try's chunks are asked for")
        second = await link.store(proposal, Chunks(source.known))
        assert accepted(second) == [1] and not second.is_replay
        source.open.set()
    assert first.result().is_replay and accepted(first.result()) == [1]
    assert volume.feed.head.revision == 1


@dataclass
class SteppedClock:
    """A clock that the test moves."""

    now_s: float = 1000.0

    def wall_ns(self) -> int:
        return int(self.now_s * 1e9)

    def monotonic_s(self) -> float:
        return self.now_s


async def test_a_lock_that_was_waited_for_is_not_swept_before_its_holder_wakes() -> None:
    clock = SteppedClock()
    queue = LockQueue(clock, stall_s=30)
    taken = asyncio.Event()

    async def wait_for_it() -> None:
        async with queue.hold([put_directory("d")], BOB, OpId(b"2" * 16), 1000) as held:
            assert held.ticket is not None, "it was swept in its sleep"
            taken.set()

    async with asyncio.TaskGroup() as tasks:
        async with queue.hold([put_directory("d")], ALICE, OpId(b"1" * 16), 0):
            tasks.create_task(wait_for_it())
            await eventually(lambda: queue.locks.count == 2, "the second one waits")
            clock.now_s += 1000
        # The first one has left, the second one's task has had no turn yet.
        assert not taken.is_set()
        assert queue.sweep() == 0
    assert taken.is_set()
