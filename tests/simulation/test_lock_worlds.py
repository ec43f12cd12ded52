"""Worlds of people who lock, wait, stall, break and edit: nobody ever writes past a lock.

One server in virtual time, some users, restarts. A watcher writes down what the server tells; the
oracle plays it again, commit by commit and lock by lock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.compose.direct import DirectLink
from syncline.core.changes import Accepted, Change, HeldToken, Proposal, Token
from syncline.core.entries import Entry
from syncline.core.identity import EntryId, OpId, Revision, VolumeId
from syncline.core.table import Cursor
from syncline.core.user_locks import NO_TICKET, Owner
from syncline.errors import Locked, NotFound, Unavailable
from syncline.ports.link import Committed, Progress, WatchBegin, WatchEvent
from syncline.ports.locks import (
    LocatedLock,
    LockWanted,
    UnlockTarget,
    UnlockWanted,
)
from syncline.server.limits import Limits
from syncline.server.volume import ServedVolume, Services
from tests.support.locks import owner
from tests.support.simulation.lock_oracle import LockOracle
from tests.support.simulation.loop import (
    Process,
    SimulatedClock,
    SimulatedExecutor,
    SimulatedLoop,
    run_simulated,
)
from tests.support.trees import delete, id_of, move, put_directory, put_file

SEEDS = range(1, 41)
STEPS = 60
DIRECTORIES = ["a", "b", "a/a", "b/b"]
FILES = ["f", "a/f", "b/f", "a/a/f", "b/b/f"]
LABELS = ["/", *DIRECTORIES, *FILES]
LIMITS = Limits(user_lock_grace_s=5.0)
GRACE_S = 30.0
VOLUME = VolumeId(b"volume of worlds")
USERS = [owner("ann", 1), owner("ann", 2), owner("ben", 1), owner("cat", 1)]


def parent_of(label: str) -> str:
    return label.rpartition("/")[0] or "/"


def first_changes() -> list[Change]:
    made: list[Change] = [
        put_directory(each, 0, parent_of(each), each[-1:].encode()) for each in DIRECTORIES
    ]
    return made + [put_file(each, 0, parent_of(each), each[-1:].encode()) for each in FILES]


@dataclass
class World:
    """The server and what it told."""

    loop: SimulatedLoop
    seeded: random.Random
    metadata: MemoryMetadataStore = field(default_factory=MemoryMetadataStore)
    chunks: MemoryChunkStore = field(default_factory=MemoryChunkStore)
    volume: ServedVolume | None = None
    log: list[WatchEvent] = field(default_factory=list)
    living: int = len(USERS)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    grants: int = 0
    lost: int = 0
    kept_out: int = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run the server, and write down what it tells, for the length of the block."""
        process, clock = Process("server"), SimulatedClock(self.loop, self.seeded.randrange(10**12))
        writer = SimulatedExecutor(process, self.seeded, is_ordered=True)
        workers = SimulatedExecutor(process, self.seeded, is_ordered=False)
        services = Services(self.metadata, clock, writer, workers, LIMITS)
        volume = ServedVolume(self.metadata.volumes()[0], self.chunks, services)
        async with volume.running():
            self.volume = volume
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(self._watch(volume))
                yield
                self.volume = None
                volume.user_locks.close()
                # What was submitted until now is done and told before the server is gone.
                await volume.writer.submit(lambda _: None)
                await asyncio.sleep(1.0)
                watcher.cancel()

    async def _watch(self, volume: ServedVolume) -> None:
        commits = [each.commit.revision for each in self.log if isinstance(each, Committed)]
        last = max(commits, default=0)
        begin = WatchBegin(USERS[0].author, Cursor(Revision(last), None), wants_locks=True)
        async with aclosing(DirectLink(volume).watch(begin, _no_progress())) as events:
            async for event in events:
                self.log.append(event)

    def link(self) -> DirectLink:
        if self.volume is None:
            raise Unavailable("the server is away")
        return DirectLink(self.volume)


async def _no_progress() -> AsyncIterator[Progress]:
    return
    yield


@dataclass
class User:
    """Somebody who does one thing after another, and does not always renew what he holds."""

    world: World
    who: Owner
    held: dict[EntryId, LocatedLock] = field(default_factory=dict)

    async def live(self) -> None:
        for _ in range(STEPS):
            await asyncio.sleep(self.world.seeded.choice([0.001, 0.004, 0.1, 4.0]))
            steps = [*[self.lock] * 2, *[self.edit] * 3, self.unlock, self.renew, self.stall]
            step = self.world.seeded.choice([*steps, self.break_one])
            try:
                await step()
            except (Locked, NotFound, Unavailable):
                continue
        self.world.living -= 1
        if not self.world.living:
            self.world.over.set()

    async def lock(self) -> None:
        seeded, loop = self.world.seeded, self.world.loop
        targets = tuple(map(id_of, seeded.sample(LABELS, seeded.choice([1, 1, 2]))))
        lease_s, wait_s = seeded.choice([0.0, 3.0, 10.0]), seeded.choice([0.0, 5.0, 20.0])
        ttl_s = seeded.choice([5.0, 20.0])
        wanted = LockWanted(self.who, targets, lease_s=lease_s, ttl_s=ttl_s, wait_s=wait_s)
        began_s = loop.time()
        try:
            locks = await self.world.link().lock(wanted)
        finally:
            assert loop.time() - began_s <= wait_s + 1.0, "a wait was forgotten"
        for each in locks:
            is_again = each.lock.ticket == NO_TICKET
            assert is_again or each.since_s < 0.1, "who waited was not woken at once"
        self.held.update({each.lock.entry: each for each in locks})
        self.world.grants += 1

    async def edit(self) -> None:
        link, seeded = self.world.link(), self.world.seeded
        assert self.world.volume is not None
        with self.world.metadata.read(VOLUME) as reader:
            states = {label: reader.entry(id_of(label)) for label in LABELS[1:]}
        change = self._change(states)
        sent = self.held.values() if seeded.random() < 0.5 else ()
        tokens = tuple(HeldToken(each.lock.entry, each.lock.token) for each in sent)
        op_id = OpId(seeded.randbytes(16))
        proposal = Proposal(self.who.author, op_id, (change,), {}, tokens=tokens)
        if change.__class__.__name__ == "PutFile":
            proposal = replace(proposal, inline={change.content.digest: b"content"})  # type: ignore[union-attr]
        [outcome] = (await link.store(proposal, _no_source)).outcomes
        if not isinstance(outcome, Accepted):
            self.world.lost += outcome.code.value == "lock_lost"
            self.world.kept_out += outcome.code.value == "locked"
            if outcome.code.value == "lock_lost":
                self.held.clear()

    def _change(self, states: dict[str, Entry | None]) -> Change:
        seeded = self.world.seeded
        label = seeded.choice(LABELS[1:])
        state = states[label]
        base = state.revision if state else 0
        to, name = seeded.choice(["/", *DIRECTORIES]), seeded.choice([b"f", b"a", b"b", b"g"])
        if seeded.random() < 0.3 and state is not None and state.is_live:
            return move(label, base, to, name)
        if seeded.random() < 0.15:
            return delete(label, base)
        if label in DIRECTORIES:
            return put_directory(label, base, to, name, mode=seeded.choice([0o755, 0o700]))
        made = put_file(label, base, to, name, mtime_ns=seeded.randrange(10**6))
        if state is not None and state.is_live:
            made = replace(made, parent=state.parent, name=state.name)
        return made

    async def unlock(self) -> None:
        if self.held:
            entry, lock = self.held.popitem()
            target = UnlockTarget(entry, lock.lock.token)
            await self.world.link().unlock(UnlockWanted(self.who.author, "h", (target,)))

    async def renew(self) -> None:
        tokens = [HeldToken(each.lock.entry, each.lock.token) for each in self.held.values()]
        left = await self.world.link().renew(self.who.author, tokens)
        for held, lease in zip(tokens, left, strict=True):
            # Lost, and known to be; some go on as if they did not know.
            if lease is None and self.world.seeded.random() < 0.5:
                del self.held[held.entry]

    async def stall(self) -> None:
        await asyncio.sleep(self.world.seeded.random() * 15)

    async def break_one(self) -> None:
        if self.world.seeded.random() < 0.3:
            target = UnlockTarget(id_of(self.world.seeded.choice(LABELS)), Token(0))
            wanted = UnlockWanted(self.who.author, "h", (target,), is_forced=True)
            await self.world.link().unlock(wanted)


async def _no_source(digest: object) -> bytes:
    raise AssertionError("all content is inline")


async def play(loop: SimulatedLoop, seed: int) -> World:
    world = World(loop, random.Random(seed))
    world.metadata.create_volume(VOLUME, "default")
    users = [User(world, each) for each in USERS]

    async with asyncio.TaskGroup() as tasks:
        is_first = True
        while not world.over.is_set():
            async with world.serving():
                if is_first:
                    is_first = False
                    op_id = OpId(world.seeded.randbytes(16))
                    content = put_file("f").content.digest
                    first = tuple(first_changes())
                    proposal = Proposal(USERS[0].author, op_id, first, {content: b"content"})
                    await world.link().store(proposal, _no_source)
                    for user in users:
                        tasks.create_task(user.live())
                with suppress(TimeoutError):
                    async with asyncio.timeout(20 + world.seeded.random() * 80):
                        await world.over.wait()
            await asyncio.sleep(world.seeded.random() * 3)
    async with world.serving():
        # All lives are over by then: what nobody renews ends by itself.
        await asyncio.sleep(20.0 + LIMITS.user_lock_grace_s + GRACE_S)
        assert world.volume is not None
        assert not world.volume.user_locks.locks and not world.volume.user_locks.book.book.queue
    return world


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_writes_past_a_lock_and_no_wait_is_forgotten(seed: int) -> None:
    world = run_simulated(lambda loop: play(loop, seed))
    oracle = LockOracle()
    for event in world.log:
        oracle.take(event)
    assert not oracle.locks
    assert world.grants > 5 and oracle.last_token > 5
    assert world.kept_out, "nobody was in anybody's way"


def test_a_seed_is_the_same_world_again() -> None:
    runs = [run_simulated(lambda loop: play(loop, 7)) for _ in range(2)]
    assert len({(each.grants, each.lost, each.kept_out, len(each.log)) for each in runs}) == 1
