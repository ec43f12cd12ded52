"""Operation locks while STOREs overlap: who waits, who is told, and who is put out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from syncline.core.changes import Refusal
from syncline.core.identity import Digest, OpId
from syncline.core.locks import OperationLocks, Ticket
from syncline.ports.link import Link
from syncline.rpc.link import GrpcLink
from syncline.server.limits import Limits
from syncline.server.operation_locks import LockQueue
from syncline.server.volume import ServedVolume
from tests.support.processes import proxied
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
    rpc_server,
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


async def test_a_stalled_transfer_takes_its_lock_again_at_the_commit(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    stalled, held = Held(), Held()
    slow = replace(put_file("f"), content=stalled.content([b"x" * 100]))
    other = replace(put_file("f"), content=held.content([b"y" * 100]))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids, wait_s=20), stalled))
        await eventually(lambda: bool(stalled.asked), "the first writer's chunks are asked for")
        await eventually(lambda: volume.locks.locks.count == 0, "the stalled lock is dropped")
        second = tasks.create_task(link.store(propose(other, ids=ids, author=BOB), held))
        await eventually(lambda: volume.locks.locks.count == 1, "the second writer has it")
        stalled.open.set()
        # The first one has all its content; it waits for the one who holds the entry now.
        await eventually(lambda: volume.locks.locks.count == 2, "it asks for the lock again")
        assert not first.done()
        held.open.set()
    assert accepted(second.result()) == [1] and codes(first.result()) == ["stale"]
    assert volume.locks.locks.count == 0


async def test_a_stalled_transfer_that_nobody_overtook_is_stored(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    source = Held()
    slow = replace(put_file("f"), content=source.content([b"x" * 100]))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(link.store(propose(slow, ids=ids), source))
        await eventually(lambda: bool(source.asked), "its chunks are asked for")
        await eventually(lambda: volume.locks.locks.count == 0, "the stalled lock is dropped")
        source.open.set()
    assert accepted(first.result()) == [1]


async def test_a_half_open_stream_keeps_its_lock_for_the_lease_alone(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    source = Chunks()
    content = source.content([bytes([number]) * 100_000 for number in range(20)])
    large = replace(put_file("f"), content=content)
    async with rpc_server(volume) as address:
        with proxied(address, up_max=300_000) as proxy:
            silent = GrpcLink(proxy.address, "default", timeout_s=30.0)
            async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                first = tasks.create_task(silent.store(propose(large, ids=ids), source))
                await eventually(lambda: volume.locks.locks.count == 1, "it holds the entry")
                await eventually(lambda: proxy.is_holding, "its line is silent")
                answer = await link.store(
                    propose(put_file("f"), ids=ids, author=BOB, wait_s=15, inline=[b"content"]),
                    Chunks(),
                )
                assert accepted(answer) == [1]
                # Nobody has told either side that anything is wrong.
                assert not first.done()
                first.cancel()
            await silent.close()


async def test_writers_of_many_entries_crosswise_all_come_through(
    link: Link, volume: ServedVolume, ids: SeededIds
) -> None:
    labels = [f"f{number}" for number in range(6)]
    made = [put_file(label, content=b"") for label in labels]
    accepted(await link.store(propose(*made, ids=ids), Chunks()))
    done: list[int] = []
    waited = 0

    async def write(number: int) -> None:
        nonlocal waited
        source = Chunks()
        for step in range(5):
            chunk = f"{number} {step}".encode()
            order = labels if number % 2 else labels[::-1]
            content = source.content([chunk])
            changes = [replace(put_file(each, 1), content=content) for each in order]
            waited = max(waited, volume.locks.locks.count)
            answer = await link.store(propose(*changes, ids=ids, wait_s=30), source)
            # Each is decided in its turn, of all its entries at once.
            assert len(set(codes(answer))) == 1 and codes(answer)[0] in ("ok", "stale")
            done.append(number)

    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        for number in range(6):
            tasks.create_task(write(number))
    assert sorted(done) == sorted([*range(6)] * 5) and waited > 1
    assert volume.locks.locks.count == 0


async def test_who_waits_does_nothing_until_he_is_woken() -> None:
    queue = LockQueue(SteppedClock(), stall_s=30)
    queue.locks = looked_at = LookedAt()
    woken = asyncio.Event()

    async def wait_for_it() -> None:
        async with queue.hold([put_directory("d")], BOB, OpId(b"2" * 16), 1000):
            woken.set()

    first = queue.hold([put_directory("d")], ALICE, OpId(b"1" * 16), 0)
    async with asyncio.TaskGroup() as tasks, first:
        waiting = tasks.create_task(wait_for_it())
        await eventually(lambda: queue.locks.count == 2, "the second one waits")
        looks = looked_at.looks
        for _ in range(500):
            await asyncio.sleep(0)
        assert looked_at.looks == looks and not waiting.done()
    assert woken.is_set()


class LookedAt(OperationLocks):
    """Locks that count how often somebody asks whether he has them."""

    looks = 0

    def is_granted(self, ticket: Ticket) -> bool:
        self.looks += 1
        return super().is_granted(ticket)


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
