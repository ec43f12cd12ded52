"""User locks over time: leases, jumps of clocks, restarts, and a disk that is full."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.system import SystemClock
from syncline.compose.direct import DirectLink
from syncline.core.changes import HeldToken
from syncline.core.identity import Revision, VolumeId
from syncline.core.table import Cursor
from syncline.core.user_locks import LockEffect
from syncline.errors import Locked, NoSpace
from syncline.ports.link import LockingLink, Progress, WatchBegin
from syncline.ports.locks import (
    LocatedLock,
    LockNews,
)
from syncline.ports.metadata import WriteSession
from syncline.rpc.link import GrpcLink
from syncline.server.limits import Limits
from syncline.server.lock_service import UserLocks
from syncline.server.volume import ServedVolume
from tests.support.lock_calls import (
    ANN,
    BEN,
    FAST,
    edit,
    locked,
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
from tests.support.trees import id_of
from tests.support.wait import eventually

NOTHING = Chunks()


# -- time --------------------------------------------------------------------


async def test_a_lease_that_is_not_renewed_ends_and_a_renewed_one_goes_on(
    link: LockingLink, volume: ServedVolume
) -> None:
    [kept] = await locked(link, ANN, "x", lease_s=2.0)
    [lost] = await locked(link, ANN, "d", lease_s=0.1)
    both = [HeldToken(each.lock.entry, each.lock.token) for each in (kept, lost)]
    await eventually(lambda: len(volume.user_locks.locks) == 1, "the short one ends")
    left, gone = await link.renew(ALICE, both)
    assert left is not None and 1 < left.expires_s < 2.1 and gone is None
    assert await link.renew(BOB, both) == [None, None], "they are not his"
    longer = await link.renew(ALICE, both[:1], 3000.0)
    assert longer[0] is not None and 2990 < longer[0].ends_s < 3000.1


async def test_a_longer_life_is_on_disk_before_it_is_told(
    link: LockingLink, volume: ServedVolume
) -> None:
    [lock] = await locked(link, ANN, "x", ttl_s=60.0)
    await locked(link, ANN, "d", ttl_s=60.0)
    held = HeldToken(lock.lock.entry, lock.lock.token)
    [left] = await link.renew(ALICE, [held], 3000.0)
    with volume.metadata.read(volume.id) as reader:
        stored = {each.lock.entry: each.left_s for each in reader.locks()}
    assert left is not None and stored == {id_of("x"): pytest.approx(3000, abs=9), id_of("d"): 60.0}
    await link.renew(BOB, [held], 5000.0)
    with volume.metadata.read(volume.id) as reader:
        assert max(each.left_s for each in reader.locks()) < 3001, "it is not his"


async def test_signs_of_life_on_a_watch_renew_and_silence_does_not(
    volume: ServedVolume,
) -> None:
    async with rpc_server(volume) as address:
        link = GrpcLink(address, "default", timeout_s=20.0)
        await locked(link, ANN, "x", lease_s=0.4)
        alive = asyncio.Event()

        async def signs() -> AsyncIterator[Progress]:
            for _ in range(20):
                yield Progress(Cursor(Revision(0), None), 0, 0)
                await asyncio.sleep(0.05)
            alive.set()
            await asyncio.Event().wait()

        begin = WatchBegin(ALICE, None, from_head=True, wants_locks=True, session=ANN.session)
        async with asyncio.timeout(20), aclosing(link.watch(begin, signs())) as events:
            news = None
            async for event in events:
                if isinstance(event, LockNews):
                    news = event
                    break
        assert alive.is_set(), "it lasted longer than its lease, as long as there were signs"
        assert news is not None and news.changes[0].effect is LockEffect.EXPIRED
        await link.close()


async def test_a_lock_that_is_asked_for_again_as_it_ends_is_not_taken_away(
    volume: ServedVolume,
) -> None:
    link = DirectLink(volume)
    [first] = await locked(link, ANN, "x", lease_s=0.05)
    locks = volume.user_locks
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(locked(link, ANN, "x", lease_s=20.0))
        while locks.times.of(first.lock.token).expires_s > 0.0:
            # The loop stands still meanwhile: the call and the sweep come into one session.
            pass
        tasks.create_task(_sweep_next(locks))
    [again] = asking.result()
    assert 19 < again.expires_s < 20.1
    await locked(link, BEN, "d")
    assert id_of("x") in locks.locks, "what was granted lasts"
    left = await link.renew(ALICE, [HeldToken(again.lock.entry, again.lock.token)])
    assert left[0] is not None and left[0].expires_s > 19


async def _sweep_next(locks: UserLocks) -> None:
    locks.sweep(0.05)


async def test_a_jump_of_the_wall_clock_neither_frees_nor_freezes_a_lock(
    volume: ServedVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = DirectLink(volume)
    [lasting] = await locked(link, ANN, "x")
    years_ns = 10 * 365 * 86_400 * 10**9
    now_ns = SystemClock().wall_ns
    for jump_ns in (years_ns, -years_ns):
        monkeypatch.setattr(SystemClock, "wall_ns", lambda _, by=jump_ns: now_ns() + by)
        [short] = await locked(link, BEN, "d", lease_s=0.2)
        await eventually(lambda: set(volume.user_locks.locks) == {id_of("x")}, "its lease is over")
        with pytest.raises(Locked):
            await locked(link, BEN, "x")
        assert short.lock.token > lasting.lock.token
    assert 0 < volume.user_locks.times.of(lasting.lock.token).ends_s <= 600


# -- restarts ------------------------------------------------------------------


async def test_a_restart_keeps_locks_tokens_and_what_was_left(
    tmp_path: Path, ids: SeededIds
) -> None:
    backend = Backend.on_disk(tmp_path)
    async with served(backend) as volume:
        link = DirectLink(volume)
        await planted(link, ids)
        await locked(link, BEN, "d")
        await unlocked(link, BEN, "d")
        [lock] = await locked(link, ANN, "x", lease_s=60.0, ttl_s=600.0, reason="figures")
    backend.close()
    backend = Backend.on_disk(tmp_path)
    grace = Limits(user_lock_grace_s=7.0)
    async with served(backend, limits=grace) as volume:
        link = DirectLink(volume)
        [found] = [each async for each in link.locks(path(""))]
        assert replace(found.lock, ticket=lock.lock.ticket) == lock.lock
        assert 66 < found.expires_s < 67.1 and 600 < found.ends_s < 607.1
        answer = await link.store(
            propose(edit("x", 1, "/", b"1"), ids=ids, author=BOB, inline=[b"1"]), NOTHING
        )
        assert codes(answer) == ["locked"]
        mine = under(propose(edit("x", 1, "/", b"1"), ids=ids, inline=[b"1"]), lock)
        assert accepted(await link.store(mine, NOTHING)) == [2]
        [fresh] = await locked(link, BEN, "d")
        assert fresh.lock.token > lock.lock.token, "no token is given twice"
    backend.close()


async def test_restarts_in_a_row_do_not_add_up_to_a_lock_that_never_ends(
    tmp_path: Path, ids: SeededIds
) -> None:
    for count in range(4):
        backend = Backend.on_disk(tmp_path)
        async with served(backend) as volume:
            link = DirectLink(volume)
            if not count:
                await planted(link, ids)
                await locked(link, ANN, "x", ttl_s=20.0)
            [found] = [each async for each in link.locks(path(""))]
            assert found.ends_s <= 20.0 + (Limits().user_lock_grace_s if count else 0.0)
        backend.close()


async def test_a_server_that_goes_on_from_older_data_gives_no_token_again(
    tmp_path: Path, ids: SeededIds
) -> None:
    async def grants(where: Path) -> list[LocatedLock]:
        os.makedirs(where, exist_ok=True)
        backend = Backend.on_disk(where)
        async with served(backend) as volume:
            link = DirectLink(volume)
            if not volume.feed.head.revision:
                await planted(link, ids)
            found: list[LocatedLock] = []
            for _ in range(3):
                found += await locked(link, ANN, "x")
                await unlocked(link, ANN, "x")
        backend.close()
        return found

    before = await grants(tmp_path / "live")
    shutil.copytree(tmp_path / "live", tmp_path / "backup")
    lost = await grants(tmp_path / "live")
    after = await grants(tmp_path / "backup")
    tokens = [each.lock.token for each in (*before, *lost, *after)]
    assert tokens == sorted(set(tokens))


# -- a disk that is full ---------------------------------------------------------


class FullDisk(MemoryMetadataStore):
    """A store that keeps nothing while it is full."""

    is_full = False

    @contextmanager
    def write(self, volume: VolumeId) -> Iterator[WriteSession]:
        with super().write(volume) as session:
            yield session
            if self.is_full:
                raise NoSpace("the disk is full", where="server")


async def test_what_could_not_be_written_did_not_happen(ids: SeededIds) -> None:
    metadata = FullDisk()
    backend = Backend(None, metadata, MemoryChunkStore())
    async with served(backend, limits=FAST) as volume:
        link = DirectLink(volume)
        await planted(link, ids)
        [first] = await locked(link, ANN, "x", lease_s=0.1)
        await locked(link, ANN, "d")
        metadata.is_full = True
        with pytest.raises(NoSpace):
            await locked(link, BEN, "d/f")
        with pytest.raises(NoSpace):
            await unlocked(link, ANN, "d")
        await eventually(
            lambda: bool(volume.user_locks.times.of(first.lock.token).ends_s == 0), "over"
        )
        assert set(volume.user_locks.locks) == {id_of("x"), id_of("d")}
        metadata.is_full = False
        await eventually(lambda: set(volume.user_locks.locks) == {id_of("d")}, "it ends after all")
        with pytest.raises(Locked):
            await locked(link, BEN, "d/f")
        [lock] = await locked(link, BEN, "x")
        assert lock.lock.token > first.lock.token
    backend.close()


async def test_who_gave_up_on_a_full_disk_gets_nothing_afterwards(ids: SeededIds) -> None:
    metadata = FullDisk()
    backend = Backend(None, metadata, MemoryChunkStore())
    async with served(backend, limits=FAST) as volume:
        link = DirectLink(volume)
        await planted(link, ids)
        await locked(link, ANN, "x")
        waiting = volume.user_locks.book

        async def wait() -> None:
            with pytest.raises(NoSpace):
                await locked(link, BEN, "x", wait_s=0.3)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(wait())
            await eventually(lambda: len(waiting.book.queue) == 1, "he waits")
            metadata.is_full = True
        metadata.is_full = False
        await eventually(lambda: not waiting.book.queue, "nobody waits")
        await unlocked(link, ANN, "x")
        assert not volume.user_locks.locks
    backend.close()
