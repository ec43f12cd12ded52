"""User locks of a served volume: what is refused, who is woken, who is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.compose.direct import DirectLink
from syncline.core.changes import Author, HeldToken, Refusal, Token
from syncline.core.identity import CommitId, ReplicaId, Revision, VolumeId
from syncline.core.table import EMPTY_TABLE_DIGEST, Cursor, Head
from syncline.core.user_locks import LockEffect, Owner, SessionId, UserLock
from syncline.errors import Invalid, Locked, NotFound, Throttled, Unavailable
from syncline.ports.link import Committed, LockingLink, WatchBegin, WatchEvent
from syncline.ports.locks import (
    LocatedLock,
    LockNews,
    LockTable,
    ToldLockChange,
    UnlockResult,
    UnlockTarget,
    UnlockWanted,
)
from syncline.ports.metadata import TableReader
from syncline.rpc.link import GrpcLink
from syncline.server.feed import NEWS_CHANGES_MAX, Feed
from syncline.server.limits import Limits
from syncline.server.volume import ServedVolume
from tests.support.lock_calls import (
    ANN,
    BEN,
    FAST,
    edit,
    locked,
    no_progress,
    path,
    planted,
    under,
    unlocked,
)
from tests.support.serving import (
    ALICE,
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    codes,
    propose,
    rpc_server,
    served,
)
from tests.support.trees import delete, id_of, move, put_file
from tests.support.wait import eventually

NOTHING = Chunks()


# -- what is refused -----------------------------------------------------------


async def test_others_are_told_who_holds_it_and_the_owner_stores(
    link: LockingLink, ids: SeededIds
) -> None:
    [lock] = await locked(link, ANN, "d", reason="figures")
    assert (lock.path, lock.lock.owner) == (path("d"), ANN)
    change = edit("f", 1, "d", b"1")
    answer = await link.store(propose(change, ids=ids, author=BOB, inline=[b"1"]), NOTHING)
    [refusal] = answer.outcomes
    assert isinstance(refusal, Refusal) and refusal.holder is not None
    holder = refusal.holder
    assert refusal.code.value == "locked" and answer.revision == 1
    assert (holder.name, holder.host, holder.reason) == ("alice@laptop", "laptop", "figures")
    assert holder.entry == id_of("d") and 590 < holder.expires_s <= 600
    stored = await link.store(under(propose(change, ids=ids, inline=[b"1"]), lock), NOTHING)
    assert accepted(stored) == [2]
    deleted = await link.delete(propose(delete("f", 2), ids=ids, author=BOB))
    assert codes(deleted) == ["locked"]


async def test_what_is_not_locked_goes_on_beside_it_unless_it_is_atomic(
    link: LockingLink, ids: SeededIds
) -> None:
    await locked(link, ANN, "d")
    changes = [edit("f", 1, "d", b"1"), edit("x", 1, "/", b"1")]
    whole = propose(*changes, ids=ids, author=BOB, inline=[b"1"], is_atomic=True)
    assert codes(await link.store(whole, NOTHING)) == ["locked", "atomic"]
    each = propose(*changes, ids=ids, author=BOB, inline=[b"1"])
    assert codes(await link.store(each, NOTHING)) == ["locked", "ok"]


async def test_a_lost_token_refuses_all_of_it_before_content_travels(
    link: LockingLink, ids: SeededIds
) -> None:
    [lock] = await locked(link, ANN, "d")
    await unlocked(link, ANN, "d")
    source = Chunks()
    content = source.content([b"large" * 20_000, b"and more" * 20_000])
    changes = [replace(put_file("new"), content=content), edit("x", 1, "/", b"1")]
    late = under(propose(*changes, ids=ids, inline=[b"1"]), lock)
    assert codes(await link.store(late, source)) == ["lock_lost", "lock_lost"]
    assert source.asked == []
    [again] = await locked(link, ANN, "d")
    assert again.lock.token > lock.lock.token
    assert codes(await link.store(under(late, lock), source)) == ["lock_lost", "lock_lost"]
    stolen = under(propose(edit("x", 1, "/", b"1"), ids=ids, author=BOB, inline=[b"1"]), again)
    assert codes(await link.store(stolen, NOTHING)) == ["lock_lost"]


async def test_an_operation_that_was_done_is_answered_again_after_the_lock_is_lost(
    link: LockingLink, ids: SeededIds
) -> None:
    [lock] = await locked(link, ANN, "x")
    proposal = under(propose(edit("x", 1, "/", b"1"), ids=ids, inline=[b"1"]), lock)
    accepted(await link.store(proposal, NOTHING))
    await unlocked(link, ANN, "x")
    again = await link.store(proposal, NOTHING)
    assert again.is_replay and accepted(again) == [2]


async def test_a_lock_that_comes_while_content_travels_is_seen_in_the_commit(
    volume: ServedVolume, ids: SeededIds
) -> None:
    link = DirectLink(volume)
    source = Chunks()
    content = source.content([b"large" * 20_000, b"and more" * 20_000])

    async def slow(digest: object) -> bytes:
        assert isinstance(digest, bytes)
        if not source.asked:
            await locked(link, ANN, "d")
        return await source(type(content.digest)(digest))

    change = replace(put_file("new", 0, "d"), content=content)
    answer = await link.store(propose(change, ids=ids, author=BOB), slow)
    assert codes(answer) == ["locked"] and source.asked


# -- calls -------------------------------------------------------------------


async def test_all_or_none_and_clear_words_about_the_holder(link: LockingLink) -> None:
    await locked(link, ANN, "d/f", reason="figures")
    with pytest.raises(Locked) as refused:
        await locked(link, BEN, "x", "d")
    fields = refused.value.fields
    assert fields["holder"] == "alice@laptop" and fields["host"] == "laptop"
    assert fields["path"] == "d/f" and fields["reason"] == "figures"
    assert [each.path async for each in link.locks(path(""))] == [path("d/f")]
    with pytest.raises(NotFound):
        await locked(link, BEN, "x", "nothing")
    with pytest.raises(Invalid):
        await locked(link, BEN, "x", ttl_s=10**6)
    with pytest.raises(Invalid):
        await locked(link, BEN, "x", lease_s=0.01)


async def test_who_waits_is_woken_at_once_in_the_order_of_asking(link: LockingLink) -> None:
    await locked(link, ANN, "x")
    order: list[str] = []

    async def wait(name: str) -> None:
        who = replace(BEN, session=SessionId(name.encode() * 16))
        [lock] = await locked(link, who, "x", wait_s=20.0)
        order.append(name)
        assert await unlocked(link, who, "x", lock.lock.token) is UnlockResult.UNLOCKED

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for name in "abc":
            tasks.create_task(wait(name))
            await asyncio.sleep(0.05)
        await unlocked(link, ANN, "x")
    assert order == ["a", "b", "c"]


async def test_who_waits_does_nothing_until_he_is_woken(volume: ServedVolume) -> None:
    link, sessions = DirectLink(volume), 0
    await locked(link, ANN, "x")
    book = volume.user_locks.book
    begin = book.begin

    def counted() -> None:
        nonlocal sessions
        sessions += 1
        begin()

    book.begin = counted  # type: ignore[method-assign]
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(locked(link, BEN, "x", wait_s=20.0))
        await eventually(lambda: len(book.book.queue) == 1, "he waits")
        before = sessions
        for _ in range(500):
            await asyncio.sleep(0)
        assert sessions == before and not waiting.done()
        await unlocked(link, ANN, "x")
    assert sessions == before + 1, "he is granted it in the session that ends the other's"


async def test_a_wait_ends_with_the_holder_in_its_answer(link: LockingLink) -> None:
    await locked(link, ANN, "x")
    with pytest.raises(Locked, match="alice@laptop"):
        await locked(link, BEN, "x", wait_s=0.1)
    await unlocked(link, ANN, "x")
    assert await locked(link, BEN, "x"), "nobody is left in the queue"


async def test_a_call_that_is_gone_holds_nothing(volume: ServedVolume) -> None:
    async with rpc_server(volume) as address:
        other = GrpcLink(address, "default", timeout_s=20.0)
        link = DirectLink(volume)
        await locked(link, ANN, "x")

        async def wait() -> None:
            with pytest.raises(Unavailable):
                await locked(other, BEN, "x", wait_s=20.0)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait())
            await eventually(lambda: len(volume.user_locks.book.book.queue) == 1, "it waits")
            await other.close()
        await eventually(lambda: not volume.user_locks.book.book.queue, "the queue is left")
        await unlocked(link, ANN, "x")
        assert not volume.user_locks.locks


async def test_those_who_wait_do_not_keep_the_holder_from_giving_it_back(ids: SeededIds) -> None:
    backend = Backend.in_memory()
    limits = replace(FAST, lock_waits_max=1, lock_waits_each_max=1)
    async with served(backend, limits=limits) as volume, rpc_server(volume) as address:
        await planted(DirectLink(volume), ids)
        link, other = (GrpcLink(address, "default", timeout_s=20.0) for _ in range(2))
        [lock] = await locked(link, ANN, "x")
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(locked(other, BEN, "x", wait_s=20.0))
            await eventually(lambda: len(volume.user_locks.book.book.queue) == 1, "he waits")
            held = HeldToken(lock.lock.entry, lock.lock.token)
            assert (await link.renew(ALICE, [held], 60.0))[0] is not None
            assert await unlocked(link, ANN, "x") is UnlockResult.UNLOCKED
        assert waiting.result()[0].lock.owner == BEN
        await link.close()
        await other.close()
    backend.close()


async def test_a_server_that_stops_keeps_nobody_waiting(volume: ServedVolume) -> None:
    link = DirectLink(volume)
    await locked(link, ANN, "x")

    async def wait() -> None:
        with pytest.raises(Unavailable):
            await locked(link, BEN, "x", wait_s=600.0)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(wait())
        await eventually(lambda: len(volume.user_locks.book.book.queue) == 1, "it waits")
        volume.user_locks.close()
    await eventually(lambda: not volume.user_locks.book.book.queue, "the queue is left")


async def test_anothers_lock_is_broken_by_force_alone_and_on_record(
    link: LockingLink, volume: ServedVolume
) -> None:
    [lock] = await locked(link, ANN, "x", reason="figures")
    with pytest.raises(Locked):
        await unlocked(link, BEN, "x")
    assert await unlocked(link, BEN, "x", is_forced=True) is UnlockResult.BROKEN
    assert await unlocked(link, BEN, "x", is_forced=True) is UnlockResult.NOT_LOCKED
    with volume.metadata.read(volume.id) as reader:
        [record] = reader.lock_breaks(10)
        assert reader.locks() == []
    assert (record.by, record.by_host, record.path) == (BOB, "desk", b"x")
    assert (record.lock.owner, record.lock.reason) == (ANN, "figures")
    assert record.lock.token == lock.lock.token


async def test_a_later_session_of_the_owner_may_unlock_but_not_take_over(
    link: LockingLink,
) -> None:
    later = replace(ANN, session=SessionId(b"z" * 16))
    [lock] = await locked(link, ANN, "x")
    with pytest.raises(Locked):
        await locked(link, later, "x")
    assert await unlocked(link, later, "x", lock.lock.token + 1) is UnlockResult.NOT_LOCKED
    assert await unlocked(link, later, "x") is UnlockResult.UNLOCKED


async def test_the_token_of_a_deleted_entry_does_not_keep_the_other_locks(
    link: LockingLink, volume: ServedVolume, ids: SeededIds
) -> None:
    locks = await locked(link, ANN, "x", "d")
    await link.delete(propose(delete("x", 1), ids=ids))
    targets = tuple(UnlockTarget(each.lock.entry, each.lock.token) for each in locks)
    done = await link.unlock(UnlockWanted(ALICE, "laptop", targets))
    assert [each.result for each in done] == [UnlockResult.NOT_LOCKED, UnlockResult.UNLOCKED]
    assert not volume.user_locks.locks
    with pytest.raises(NotFound):
        await link.unlock(UnlockWanted(ALICE, "laptop", (UnlockTarget(path("x"), Token(0)),)))


async def test_limits_say_whose_they_are(ids: SeededIds) -> None:
    backend = Backend.in_memory()
    limits = Limits(user_locks_max=2, user_locks_each_max=1)
    async with served(backend, limits=limits) as volume:
        link = DirectLink(volume)
        await planted(link, ids)
        await locked(link, ANN, "x")
        with pytest.raises(Throttled) as full:
            await locked(link, ANN, "d")
        assert full.value.fields == {"limit": "1", "scope": "client"}
        await locked(link, BEN, "d/f")
        cat = Owner(Author(ReplicaId(b"c" * 16), "cat"), "h", SessionId(b"c" * 16))
        with pytest.raises(Throttled) as full:
            await locked(link, cat, "d")
        assert full.value.fields == {"limit": "2", "scope": "server"}
    backend.close()


# -- what is told --------------------------------------------------------------


async def test_watchers_hear_of_locks_in_the_order_of_commits(
    link: LockingLink, ids: SeededIds
) -> None:
    await locked(link, ANN, "x")
    begin = WatchBegin(BOB, Cursor(Revision(1), None), wants_locks=True)
    old = WatchBegin(BOB, Cursor(Revision(1), None))
    events = link.watch(begin, no_progress())
    seen: list[WatchEvent] = []
    async with asyncio.timeout(20):
        while not any(isinstance(event, LockTable) for event in seen):
            seen.append(await anext(events))
        table = seen[-1]
        assert isinstance(table, LockTable) and [each.path for each in table.locks] == [path("x")]
        for number in range(3):
            content = str(number).encode()
            change = edit("f", 1 if not number else 1 + number, "d", content)
            accepted(await link.store(propose(change, ids=ids, inline=[content]), NOTHING))
            await locked(link, ANN, "d")
            await unlocked(link, ANN, "d")
        accepted(await link.store(propose(delete("x", 1), ids=ids), NOTHING))
        told: list[str] = []
        while "deleted" not in told:
            match await anext(events):
                case Committed(commit):
                    told.append(str(commit.revision))
                case LockNews(changes):
                    told += [change.effect.value for change in changes]
                case _:
                    pass
        wanted = [[str(number), "granted", "unlocked"] for number in (2, 3, 4)]
        assert told == [word for words in wanted for word in words] + ["5", "deleted"]
        others = link.watch(old, no_progress())
        plain = [await anext(others) for _ in range(5)]
        assert not any(isinstance(event, LockTable | LockNews) for event in plain)


async def test_who_missed_news_gets_the_table_again(volume: ServedVolume) -> None:
    link = DirectLink(volume)
    begin = WatchBegin(BOB, None, from_head=True, wants_locks=True)
    events = link.watch(begin, no_progress())
    async with asyncio.timeout(60):
        while not isinstance(await anext(events), LockTable):
            pass
        for _ in range(520):
            await locked(link, ANN, "x")
            await unlocked(link, ANN, "x")
        await locked(link, BEN, "d")
        found = await anext(events)
    assert isinstance(found, LockTable) and [each.path for each in found.locks] == [path("d")]


def test_news_of_long_paths_are_kept_within_a_bound() -> None:
    feed = Feed(Head(Revision(0), CommitId(bytes(32)), EMPTY_TABLE_DIGEST), bytes_max=1)
    lock = UserLock(id_of("x"), Token(1), ANN, "", 0.0, 60.0, 0)
    change = ToldLockChange(LockEffect.GRANTED, LocatedLock(lock, path("x"), 0.0, 60.0, 60.0), None)
    for _ in range(100):
        feed.publish_news(LockNews((change,) * 64))
    kept = [found for number in range(100) if (found := feed.news_after(number)) is not None]
    assert [each.number for each in kept] == list(range(37, 101))
    assert sum(len(each.news.changes) for each in kept) == NEWS_CHANGES_MAX
    feed.publish_news(LockNews((change,) * (NEWS_CHANGES_MAX + 1)))
    assert feed.news_after(100) is None, "who misses it gets the table"


class SlowRows(MemoryMetadataStore):
    """A store beside whose next look at rows something happens."""

    beside: Callable[[], None] | None = None

    @contextmanager
    def read(self, volume: VolumeId, at: Revision | None = None) -> Iterator[TableReader]:
        with super().read(volume, at) as session:
            beside, self.beside = self.beside, None
            if beside is not None:
                beside()
            yield session


async def test_a_lock_on_what_was_just_made_does_not_break_a_list(ids: SeededIds) -> None:
    metadata = SlowRows()
    backend = Backend(None, metadata, MemoryChunkStore())
    async with served(backend, limits=FAST) as volume:
        link = DirectLink(volume)
        await planted(link, ids)
        await locked(link, ANN, "x")
        loop = asyncio.get_running_loop()

        async def make() -> None:
            accepted(
                await link.store(propose(put_file("new"), ids=ids, inline=[b"content"]), NOTHING)
            )
            await locked(link, ANN, "new")

        metadata.beside = lambda: asyncio.run_coroutine_threadsafe(make(), loop).result(20)
        found = [each.path async for each in link.locks(path(""))]
        assert found == [path("x")] and metadata.beside is None
        assert [each.path async for each in link.locks(path(""))] == [path("new"), path("x")]
    backend.close()


async def test_the_list_has_what_is_on_a_path_below_and_above(
    link: LockingLink, ids: SeededIds
) -> None:
    await locked(link, ANN, "d")
    await locked(link, BEN, "x")
    accepted(await link.store(propose(move("d", 1, "/", b"e"), ids=ids), NOTHING))
    for name, expected in (("", ["e", "x"]), ("e", ["e"]), ("e/f", ["e"]), ("x", ["x"])):
        assert [str(each.path) async for each in link.locks(path(name))] == expected
    with pytest.raises(NotFound):
        [each async for each in link.locks(path("d"))]


# -- contention ----------------------------------------------------------------


async def test_two_clients_contend_for_one_path_and_none_starves(
    volume: ServedVolume, ids: SeededIds
) -> None:
    rounds, holders, turns = 150, 0, []
    base = 1

    async def work(link: LockingLink, who: Owner) -> None:
        nonlocal holders, base
        for _ in range(rounds):
            [lock] = await locked(link, who, "x", wait_s=30.0)
            holders += 1
            assert holders == 1, "two hold it at one time"
            content = str(len(turns)).encode()
            change = edit("x", base, "/", content)
            proposal = propose(change, ids=ids, author=who.author, inline=[content])
            [base] = accepted(await link.store(under(proposal, lock), NOTHING))
            turns.append(who.host)
            holders -= 1
            await unlocked(link, who, "x", lock.lock.token)

    async with rpc_server(volume) as address:
        links = [GrpcLink(address, "default", timeout_s=30.0) for _ in range(2)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            for link, who in zip(links, (ANN, BEN), strict=True):
                tasks.create_task(work(link, who))
        for link in links:
            await link.close()
    assert len(turns) == 2 * rounds
    changed = sum(one != other for one, other in pairwise(turns))
    assert changed > rounds, "they take turns while both want it"
