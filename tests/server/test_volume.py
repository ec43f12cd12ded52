"""A served volume beyond its use cases: restarts, failing disks, limits, the ring of the feed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.core.changes import Proposal
from syncline.core.identity import Revision, digest_of
from syncline.core.table import Cursor
from syncline.errors import Corrupt, Invalid, NoSpace, NotFound, Throttled, Unavailable
from syncline.ports.link import Link, WatchBegin
from syncline.ports.metadata import WriteSession
from syncline.server.limits import Budget, Gate, Limits
from syncline.server.recovery import rebuild, recover
from syncline.server.verify import verify_metadata
from syncline.server.verify_chunks import verify_chunks
from syncline.server.volume import ServedVolume
from tests.contract.test_link import no_progress, take, tree
from tests.support.serving import (
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    codes,
    direct_link,
    fetched,
    propose,
    served,
)
from tests.support.trees import delete, put_directory, put_file, put_link


def findings(backend: Backend, volume: ServedVolume) -> list[str]:
    return [
        *verify_metadata(backend.metadata, volume.id),
        *verify_chunks(backend.metadata, volume.facts, backend.chunks),
    ]


async def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    ids, source = SeededIds(), Chunks()
    backend = Backend.on_disk(tmp_path)
    content = source.content([b"one" * 1000, b"two" * 1000])
    async with served(backend) as volume, direct_link(volume) as link:
        await link.store(propose(replace(put_file("f"), content=content), ids=ids), source)
        head = volume.feed.head
    backend.close()
    backend = Backend.on_disk(tmp_path)
    async with served(backend) as volume, direct_link(volume) as link:
        assert volume.feed.head == head
        assert await fetched(link, content) == b"one" * 1000 + b"two" * 1000
        assert findings(backend, volume) == []
    backend.close()


async def test_chunks_of_a_broken_transfer_are_found_after_a_crash(tmp_path: Path) -> None:
    ids, source = SeededIds(), Chunks()
    backend = Backend.on_disk(tmp_path)
    content = source.content([bytes([number]) * 1000 for number in range(10)])
    async with served(backend) as volume:
        volume.chunks.append({ref.digest: source.known[ref.digest] for ref in content.refs[:6]})
    # Nothing was indexed, and the store is not closed: what lies in the pack is all there is.
    backend.metadata.close()
    backend = Backend.on_disk(tmp_path)
    async with served(backend) as volume, direct_link(volume) as link:
        answer = await link.store(propose(replace(put_file("f"), content=content), ids=ids), source)
        assert accepted(answer) == [1]
        assert source.asked == [ref.digest for ref in content.refs[6:]]
    backend.close()


async def test_the_index_is_rebuilt_from_packs_alone(tmp_path: Path) -> None:
    ids, source = SeededIds(), Chunks()
    backend = Backend.on_disk(tmp_path)
    content = source.content([bytes([number]) * 70_000 for number in range(80)])
    async with served(backend) as volume, direct_link(volume) as link:
        await link.store(propose(replace(put_file("f"), content=content), ids=ids), source)
        with backend.metadata.write(volume.id) as session:
            session.forget_chunks()
        with pytest.raises(NotFound):
            await fetched(link, content)
        assert any("lacks" in line for line in findings(backend, volume))
        with pytest.raises(Corrupt):
            await fetched(link, content)
    backend.close()
    backend = Backend.on_disk(tmp_path)
    report = rebuild(backend.metadata, volume.id, backend.chunks)
    assert (report.indexed, report.damaged) == (len(source.known), ())
    async with served(backend) as volume:
        assert findings(backend, volume) == []
    backend.close()


async def test_a_damaged_chunk_is_named_not_served_and_filled_again() -> None:
    ids, source = SeededIds(), Chunks()
    backend = Backend.in_memory()
    content = source.content([b"good" * 100, b"soon damaged" * 100])
    damaged = content.refs[1].digest
    async with served(backend) as volume, direct_link(volume) as link:
        change = replace(put_file("f"), content=content)
        await link.store(propose(change, ids=ids), source)
        assert isinstance(backend.chunks, MemoryChunkStore)
        with backend.metadata.read(volume.id) as reader:
            location = reader.locate([damaged])[damaged]
        backend.chunks.flip(location.pack, location.offset + location.size - 1)
        told = findings(backend, volume)
        assert any(damaged.hex() in line for line in told)
        assert any("'f' at revision 1" in line for line in told)
        with pytest.raises(Corrupt) as caught:
            await fetched(link, content)
        assert caught.value.fields["digest"] == damaged.hex()
        source.asked.clear()
        again = replace(put_file("g"), content=content)
        assert accepted(await link.store(propose(again, ids=ids), source)) == [2]
        assert source.asked == [damaged]
        assert await fetched(link, content) == b"good" * 100 + b"soon damaged" * 100


async def test_a_full_disk_is_a_clear_error_and_nothing_is_half_done() -> None:
    ids, source = SeededIds(), Chunks()
    backend = Backend.in_memory()
    assert isinstance(backend.chunks, MemoryChunkStore)
    async with served(backend) as volume, direct_link(volume) as link:
        await link.store(propose(put_file("a", content=b"x"), ids=ids, inline=[b"x"]), source)
        backend.chunks.capacity_bytes = 2_000
        big = replace(put_file("big"), content=source.content([b"B" * 50_000]))
        with pytest.raises(NoSpace):
            await link.store(propose(big, ids=ids), source)
        small = put_file("small", content=b"i" * 5_000)
        with pytest.raises(NoSpace):
            await link.store(propose(small, ids=ids, inline=[b"i" * 5_000]), source)
        assert list(await tree(link)) == [b"a"]
        answer = await link.store(propose(put_directory("no content"), ids=ids), source)
        assert accepted(answer) == [2]
        backend.chunks.capacity_bytes = None
        assert accepted(await link.store(propose(big, ids=ids), source)) == [3]
        assert findings(backend, volume) == []


async def test_one_writer_at_fault_does_not_fail_the_others() -> None:
    ids = SeededIds()
    backend = Backend.in_memory()
    assert isinstance(backend.chunks, MemoryChunkStore)
    async with served(backend) as volume, direct_link(volume) as link:
        backend.chunks.capacity_bytes = 10_000
        failed: list[int] = []

        async def write(number: int) -> None:
            data = bytes([number]) * (60_000 if number == 3 else 100)
            proposal = propose(put_file(str(number), content=data), ids=ids, inline=[data])
            try:
                accepted(await link.store(proposal, Chunks()))
            except NoSpace:
                failed.append(number)

        async with asyncio.TaskGroup() as tasks:
            for number in range(8):
                tasks.create_task(write(number))
        assert failed == [3]
        assert len(await tree(link)) == 7


async def test_a_watcher_behind_the_ring_reads_rows_and_misses_nothing() -> None:
    ids = SeededIds()
    backend = Backend.in_memory()
    async with (
        served(backend, limits=Limits(ring_bytes_max=5_000)) as volume,
        direct_link(volume) as link,
    ):
        events = link.watch(WatchBegin(BOB, Cursor(Revision(0), None)), no_progress())
        async with aclosing(events):  # type: ignore[type-var]
            await anext(events)
            for number in range(200):
                await link.store(propose(put_directory(str(number)), ids=ids), Chunks())
            assert volume.feed.after(Revision(0)) is None, "the ring forgot the first commits"
            commits = await take(events, 200)
        assert [item.commit.revision for item in commits] == list(range(1, 201))


async def test_inline_content_is_in_the_ring_only_as_long_as_it_fits() -> None:
    ids = SeededIds()
    async with (
        served(Backend.in_memory(), limits=Limits(ring_bytes_max=200_000)) as volume,
        direct_link(volume) as link,
    ):
        for number in range(10):
            data = bytes([number]) * 60_000
            await link.store(
                propose(put_file(str(number), content=data), ids=ids, inline=[data]), Chunks()
            )
        assert volume.feed.after(Revision(0)) is None
        newest = volume.feed.after(Revision(9))
        assert newest is not None and newest.inline == {digest_of(data): data}


async def test_watchers_end_when_the_server_stops() -> None:
    async with served(Backend.in_memory()) as volume, direct_link(volume) as link:
        events = link.watch(WatchBegin(BOB, None, from_head=True), no_progress())
        await anext(events)
        volume.feed.close()
        with pytest.raises(Unavailable):
            await anext(events)


async def test_a_stopped_writer_says_so() -> None:
    ids = SeededIds()
    async with served(Backend.in_memory()) as volume, direct_link(volume) as link:
        volume.writer.close()
        with pytest.raises(Unavailable, match="stopping"):
            await link.store(propose(put_directory("d"), ids=ids), Chunks())


def test_a_gate_counts_each_caller_and_all() -> None:
    gate = Gate("calls", total_max=3, each_max=2)
    with gate.enter("a"), gate.enter("a"):
        with pytest.raises(Throttled, match="this client has 2"), gate.enter("a"):
            raise AssertionError("over the bound of one caller")
        inside = gate.enter("b")
        inside.__enter__()
        with pytest.raises(Throttled, match="the server has 3"), gate.enter("c"):
            raise AssertionError("over the bound of all")
        inside.__exit__(None, None, None)
        with gate.enter("c"):
            assert gate.count == 3
    assert gate.count == 0


async def test_recovery_of_a_clean_store_changes_nothing(tmp_path: Path) -> None:
    ids = SeededIds()
    backend = Backend.on_disk(tmp_path)
    async with served(backend) as volume, direct_link(volume) as link:
        await link.store(propose(put_file("a", content=b"x"), ids=ids, inline=[b"x"]), Chunks())
    backend.close()
    backend = Backend.on_disk(tmp_path)
    report = recover(backend.metadata, volume.id, backend.chunks)
    assert (report.indexed, report.damaged, report.cut_bytes) == (0, (), 0)
    async with served(backend) as volume, direct_link(volume) as link:
        assert codes(await link.store(propose(put_directory("b"), ids=ids), Chunks())) == ["ok"]
    backend.close()


async def test_a_reused_op_id_spoils_nobody_elses_commit() -> None:
    ids = SeededIds()
    async with served(Backend.in_memory()) as volume, direct_link(volume) as link:
        first = propose(put_directory("first"), ids=ids)
        await link.store(first, Chunks())
        sessions = 0

        def count(session: WriteSession) -> None:
            nonlocal sessions
            sessions += 1

        async with asyncio.TaskGroup() as tasks:
            wrong = tasks.create_task(refused(link, replace(first, changes=(put_directory("x"),))))
            counted = tasks.create_task(volume.writer.submit(count))
            right = tasks.create_task(link.store(propose(put_directory("y"), ids=ids), Chunks()))
        assert "op id" in wrong.result() and counted.done()
        assert accepted(right.result()) == [2]
        assert sessions == 1, "the batch ran once"


async def refused(link: Link, proposal: Proposal) -> str:
    with pytest.raises(Invalid) as caught:
        await link.store(proposal, Chunks())
    return caught.value.message


async def test_an_early_refusal_names_no_state_that_never_was() -> None:
    """The file that the refusal ran into is of the same STORE, and got its revision after it."""
    ids, source = SeededIds(), Chunks()
    async with served(Backend.in_memory()) as volume, direct_link(volume) as link:
        for number in range(5):
            await link.store(propose(put_directory(str(number)), ids=ids), source)
        large = replace(put_file("late", name=b"d"), content=source.content([b"y" * 99]))
        answer = await link.store(propose(put_directory("d"), large, ids=ids), source)
        assert codes(answer) == ["ok", "name_taken"]
        current = getattr(answer.outcomes[1], "current", None)
        assert current is not None and current.revision == 6


async def test_an_atomic_store_that_failed_names_no_state_that_never_was() -> None:
    ids, source = SeededIds(), Chunks()
    async with served(Backend.in_memory()) as volume, direct_link(volume) as link:
        large = replace(put_file("late", name=b"d"), content=source.content([b"y" * 99]))
        answer = await link.store(
            propose(put_directory("d"), large, ids=ids, is_atomic=True), source
        )
        assert codes(answer) == ["atomic", "name_taken"]
        assert getattr(answer.outcomes[1], "current", 1) is None
        assert volume.feed.head.revision == 0


async def test_what_is_remembered_of_refusals_is_bounded() -> None:
    ids, source = SeededIds(), Chunks()
    backend = Backend.in_memory()
    async with served(backend) as volume, direct_link(volume) as link:
        await link.store(
            propose(*[put_link(str(n), target=b"t" * 4000) for n in range(100)], ids=ids), source
        )
        stale = [delete(str(n), 7) for n in range(100)]
        proposal = propose(*stale, put_directory("d"), ids=ids)
        answer = await link.store(proposal, source)
        assert all(getattr(outcome, "current", 1) is not None for outcome in answer.outcomes)
        with backend.metadata.read(volume.id) as reader:
            kept = reader.answer(proposal.author.replica, proposal.op_id)
        assert kept is not None and codes(kept.answer) == codes(answer)
        states = [outcome for outcome in kept.answer.outcomes if getattr(outcome, "current", None)]
        assert 0 < len(states) < 20


async def test_a_budget_is_shared_and_given_back() -> None:
    budget = Budget("tests", bytes_max=100)
    with budget.hold() as one, budget.hold() as other:
        one.take(60)
        other.take(40)
        with pytest.raises(Throttled, match="used up"):
            other.take(1)
    assert budget.used_bytes == 0
