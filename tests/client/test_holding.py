"""Holding locks: they live as long as somebody gives signs of life, and a loss is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from syncline.client.holding import Holding, Loss, follow_locks
from syncline.client.steady import Backoff
from syncline.core.changes import Token
from syncline.core.names import RelPath
from syncline.core.user_locks import LockEffect, Owner, SessionId
from syncline.errors import Denied, ProtocolBroken, SynclineError, Unavailable
from syncline.ports.link import LockingLink, Progress, WatchBegin, WatchEvent
from syncline.ports.locks import LockNews, LockTable, LockWanted, UnlockTarget, UnlockWanted
from syncline.rpc.link import GrpcLink
from syncline.server.limits import Limits
from syncline.server.volume import ServedVolume
from tests.support.serving import (
    ALICE,
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    propose,
    rpc_server,
    served,
)
from tests.support.trees import delete, put_file
from tests.support.wait import eventually

ANN = Owner(ALICE, "laptop", SessionId(b"a" * 16))
X = RelPath.parse(b"x")
QUICK = Backoff(first_s=0.01, most_s=0.05)
LIMITS = Limits(user_lock_min_s=0.05, user_lock_max_s=1.0, lock_stall_s=0.2, heartbeat_s=0.1)
"""No lock lasts longer than a second, unless its holder says so; sweeps each 50 ms."""


@dataclass
class Scene:
    """A volume with `x`, and links that are gone while the scene is cut."""

    volume: ServedVolume
    address: str
    losses: list[Loss] = field(default_factory=list)
    is_cut: bool = False
    links: list[GrpcLink] = field(default_factory=list)

    def link(self) -> GrpcLink:
        if self.is_cut:
            raise Unavailable("the cable is cut")
        self.links.append(GrpcLink(self.address, "default", timeout_s=20.0))
        return self.links[-1]

    async def connect(self) -> LockingLink:
        return self.link()

    async def cut(self) -> None:
        self.is_cut = True
        for link in self.links:
            await link.close()

    async def holding(self, *, lease_s: float, is_bounded: bool = False) -> Holding:
        locks = await self.link().lock(LockWanted(ANN, (X,), lease_s=lease_s))
        return Holding(
            self.connect,
            ANN,
            locks,
            lost=self.losses.append,
            is_bounded=is_bounded,
            backoff=QUICK,
        )

    @property
    def is_held(self) -> bool:
        return bool(self.volume.user_locks.locks)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    backend = Backend.in_memory()
    async with served(backend, limits=LIMITS) as volume, rpc_server(volume) as address:
        scene = Scene(volume, address)
        await scene.link().store(
            propose(put_file("x"), ids=SeededIds(), inline=[b"content"]), Chunks()
        )
        yield scene
        scene.is_cut = False
        for link in scene.links:
            await link.close()
    backend.close()


@asynccontextmanager
async def kept(holding: Holding) -> AsyncIterator[None]:
    """Keep the locks alive for the length of the block."""
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(holding.run())
        yield
        keeper.cancel()


def later(seconds: float) -> Callable[[], bool]:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    return lambda: loop.time() > end_s


async def test_it_outlives_its_lease_and_its_life_while_it_is_held(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.8)
    async with kept(holding):
        await eventually(later(2.5), "time goes by")
        assert scene.is_held and not scene.losses
    await eventually(lambda: not scene.is_held, "the lease ends with the signs of life")


async def test_it_outlives_its_life_over_streams_that_are_all_short(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.8)
    async with kept(holding):
        end = later(2.0)
        while not end():
            await eventually(lambda: holding.is_connected, "it watches")
            await eventually(later(0.15), "a stream is shorter than a quarter of the life")
            await scene.cut()
            scene.is_cut = False
        assert scene.is_held and not scene.losses


async def test_an_error_of_the_server_ends_neither_the_holding_nor_the_lock(scene: Scene) -> None:
    failures: list[SynclineError] = [ProtocolBroken("nonsense"), Denied("no", action="watch")]
    connect = scene.connect

    async def broken() -> LockingLink:
        if failures:
            raise failures.pop()
        return await connect()

    holding = Holding(
        broken,
        ANN,
        await scene.link().lock(LockWanted(ANN, (X,), lease_s=0.8)),
        lost=scene.losses.append,
        is_bounded=False,
        backoff=QUICK,
    )
    async with kept(holding):
        await eventually(lambda: holding.is_connected, "it watches after all")
        assert scene.is_held and not scene.losses and not failures


async def test_a_server_that_allows_less_than_before_keeps_the_lock_to_its_end(
    scene: Scene,
) -> None:
    holding = await scene.holding(lease_s=0.4)
    scene.volume.user_locks._limits = replace(LIMITS, user_lock_max_s=0.5)  # as after a restart
    async with kept(holding):
        await eventually(lambda: bool(scene.losses), "its life is over")
    [loss] = scene.losses
    assert loss.change is not None and loss.change.effect is LockEffect.EXPIRED
    assert len(scene.links) < 5, "one stream was enough"


async def test_a_bounded_life_ends_and_is_told_once(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.4, is_bounded=True)
    async with asyncio.timeout(20):
        await holding.run()
    [loss] = scene.losses
    assert loss.change is not None and loss.change.effect is LockEffect.EXPIRED
    assert holding.held == ()


async def test_a_short_break_loses_nothing_and_a_long_one_is_told(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.8)
    async with kept(holding):
        await eventually(lambda: holding.is_connected, "it watches")
        await scene.cut()
        await eventually(later(0.2), "the cable is cut")
        scene.is_cut = False
        await eventually(later(1.2), "it is there again")
        assert scene.is_held and not scene.losses
        await scene.cut()
        await eventually(lambda: not scene.is_held, "the lease ends")
        scene.is_cut = False
        await eventually(lambda: bool(scene.losses), "the table says so")
    [loss] = scene.losses
    assert loss.change is None and loss.lock.path == X


async def test_who_breaks_it_is_named_and_nothing_is_given_back(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.8)
    async with kept(holding):
        await eventually(lambda: holding.is_connected, "it hears of losses")
        target = (UnlockTarget(X, Token(0)),)
        await scene.link().unlock(UnlockWanted(BOB, "desk", target, is_forced=True))
        await eventually(lambda: bool(scene.losses), "it is told")
    [loss] = scene.losses
    assert loss.change is not None and loss.change.by == BOB
    ben = Owner(BOB, "desk", SessionId(b"b" * 16))
    await scene.link().lock(LockWanted(ben, (X,)))
    await holding.release(scene.link())
    assert scene.is_held, "it is another's now"


class LateLink(GrpcLink):
    """A link whose stream tells of locks that are over when it may."""

    tells: asyncio.Event

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncGenerator[WatchEvent, None]:
        async with aclosing(super().watch(begin, progress)) as events:
            async for event in events:
                if isinstance(event, LockNews):
                    await self.tells.wait()
                yield event


@pytest.mark.parametrize("is_told_first", [True, False])
async def test_who_deletes_what_he_holds_loses_nothing(
    scene: Scene, *, is_told_first: bool
) -> None:
    tells = asyncio.Event()

    async def connect() -> LockingLink:
        link = LateLink(scene.address, "default", timeout_s=20.0)
        link.tells = tells
        scene.links.append(link)
        return link

    locks = await scene.link().lock(LockWanted(ANN, (X,), lease_s=0.8))
    holding = Holding(connect, ANN, locks, lost=scene.losses.append, is_bounded=False)
    async with kept(holding):
        await eventually(lambda: holding.is_connected, "it hears of losses")
        gone = propose(delete("x", 1), ids=SeededIds(7))
        assert accepted(await scene.link().delete(gone)) == [2]
        if is_told_first:
            tells.set()
            await eventually(lambda: holding.held == (), "it is told")
            await holding.release(scene.link())
        else:
            async with asyncio.TaskGroup() as tasks:
                releasing = tasks.create_task(holding.release(scene.link()))
                await eventually(later(0.3), "the answer to the release is there")
                assert not releasing.done()
                tells.set()
    assert not scene.losses and not scene.is_held


async def test_what_is_not_there_at_the_end_is_lost(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.8)
    target = (UnlockTarget(X, Token(0)),)
    await scene.link().unlock(UnlockWanted(BOB, "desk", target, is_forced=True))
    # Nobody has watched, so nobody says why.
    await holding.release(scene.link())
    [loss] = scene.losses
    assert loss.change is None and holding.held == ()


async def test_what_is_released_is_free_at_once(scene: Scene) -> None:
    holding = await scene.holding(lease_s=0.8)
    async with kept(holding):
        await eventually(lambda: holding.is_connected, "it hears of its own release")
        await holding.release(scene.link())
        assert not scene.is_held
        await eventually(lambda: not holding.is_connected, "there is nothing left to hear")
    assert not scene.losses


async def test_a_follower_of_locks_goes_on_after_a_break_with_the_table(scene: Scene) -> None:
    events = follow_locks(scene.link, BOB, QUICK)
    seen: list[str] = []
    async with asyncio.timeout(20), aclosing(events):
        async for event in events:
            match event:
                case LockTable(locks):
                    seen.append(f"table {len(locks)}")
                    link = scene.link()
                    if len(seen) == 1:
                        await link.lock(LockWanted(ANN, (X,)))
                case LockNews(changes):
                    seen += [change.effect.value for change in changes]
                    for each in scene.links:
                        await each.close()
            if len(seen) == 3:
                break
    assert seen == ["table 0", "granted", "table 1"]


async def test_a_follower_that_never_reaches_the_server_says_so() -> None:
    def gone() -> LockingLink:
        return GrpcLink("127.0.0.1:1", "default", timeout_s=5.0)

    waiting: Awaitable[object] = anext(follow_locks(gone, BOB, QUICK))
    with pytest.raises(Unavailable):
        await waiting
