"""The watch feed: nobody overtakes it, and watchers share what they read and encode."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import pairwise
from pathlib import Path

import pytest

from syncline.core.changes import Author, Change
from syncline.core.entries import Entry
from syncline.core.identity import EntryId, ReplicaId, Revision
from syncline.core.table import Commit, Cursor, path_of
from syncline.errors import Unavailable
from syncline.ports.link import Effect, Heartbeat, ResetReason, SnapshotBegin, WatchBegin
from syncline.server.feed import FeedItem, WithPaths
from syncline.server.limits import Limits
from syncline.server.volume import ServedVolume
from syncline.server.watch import Addresses, Watched, encoded, watch
from tests.contract.test_link import no_progress, take
from tests.support.commits import build_commit
from tests.support.serving import (
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    direct_link,
    propose,
    served,
)
from tests.support.tables import DictTable
from tests.support.trees import delete, directory, file, move, put_directory, put_file
from tests.support.wait import eventually

NO_RING = Limits(ring_bytes_max=0)
NO_RING_QUICK = Limits(ring_bytes_max=0, heartbeat_s=0.01)
START = Cursor(Revision(0), None)


@pytest.fixture(params=["memory", "disk"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return Backend.in_memory() if request.param == "memory" else Backend.on_disk(tmp_path)


def make_durable(volume: ServedVolume, *changes: Change) -> Commit:
    """Do what the writer does before it publishes: the commit is in the rows and not yet told."""
    with volume.metadata.write(volume.id) as session:
        commit, remembered, _ = build_commit(session, changes)
        session.add_commit(commit, remembered)
    return commit


async def following(
    events: AsyncGenerator[Watched, None], *, within_s: float = 20.0
) -> FeedItem | WithPaths:
    """Return the next commit of a watch."""
    async with asyncio.timeout(within_s):
        while True:
            event = await anext(events)
            if isinstance(event, FeedItem | WithPaths):
                return event
            assert isinstance(event, Heartbeat)


async def watchers(
    stack: AsyncExitStack, volume: ServedVolume, begin: WatchBegin, count: int
) -> list[AsyncGenerator[Watched, None]]:
    """Return watches that are closed with the stack."""
    return [await stack.enter_async_context(aclosing(watch(volume, begin))) for _ in range(count)]


async def all_following(
    watches: Sequence[AsyncGenerator[Watched, None]],
) -> list[FeedItem | WithPaths]:
    """Return the next commit of each watch, asked for at once."""
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(following(events)) for events in watches]
    return [task.result() for task in asked]


# -- order (G7) ----------------------------------------------------------------


async def test_a_commit_that_is_durable_and_not_published_is_not_told(backend: Backend) -> None:
    async with served(backend, limits=NO_RING) as volume:
        commits = [make_durable(volume, put_directory(str(number))) for number in range(4)]
        seen: list[Commit] = []

        async def see() -> None:
            async with aclosing(watch(volume, WatchBegin(BOB, START))) as events:
                while len(seen) < len(commits):
                    seen.append((await following(events)).commit)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(see())
            for count, commit in enumerate(commits, 1):
                volume.feed.publish(FeedItem(commit, {}))
                await eventually(lambda: len(seen) >= count, "told")  # noqa: B023
                assert seen == commits[:count]
    backend.close()


async def test_no_heartbeat_is_behind_what_was_told() -> None:
    async with served(Backend.in_memory(), limits=NO_RING_QUICK) as volume:
        first, second = (make_durable(volume, put_directory(name)) for name in "ab")
        async with aclosing(watch(volume, WatchBegin(BOB, START))) as events:
            assert isinstance(await anext(events), Heartbeat)
            volume.feed.publish(FeedItem(first, {}))
            assert (await following(events)).commit == first
            for _ in range(3):
                assert await anext(events) == Heartbeat(volume.feed.head)
            assert volume.feed.head.revision == 1
            volume.feed.publish(FeedItem(second, {}))
            assert (await following(events)).commit == second


@pytest.mark.parametrize("knows_id", [False, True])
async def test_a_cursor_ahead_of_the_feed_waits_for_it(backend: Backend, knows_id: bool) -> None:
    async with served(backend, limits=NO_RING_QUICK) as volume:
        first, second, third = (make_durable(volume, put_directory(name)) for name in "abc")
        cursor = Cursor(second.revision, second.id if knows_id else None)
        async with aclosing(watch(volume, WatchBegin(BOB, cursor))) as events:
            async with asyncio.TaskGroup() as tasks:
                told = tasks.create_task(anext(events))
                volume.feed.publish(FeedItem(first, {}))
                for _ in range(5):
                    assert not await volume.feed.wait(first.revision, 0.01)
                    assert not told.done(), "told a head behind its cursor"
                volume.feed.publish(FeedItem(second, {}))
            assert told.result() == Heartbeat(volume.feed.head)
            volume.feed.publish(FeedItem(third, {}))
            assert (await following(events)).commit == third
    backend.close()


async def test_a_cursor_ahead_of_the_feed_ends_with_the_server() -> None:
    async with served(Backend.in_memory()) as volume:
        made = make_durable(volume, put_directory("a"))
        begin = WatchBegin(BOB, Cursor(made.revision, made.id))
        async with aclosing(watch(volume, begin)) as events:
            volume.feed.close()
            with pytest.raises(Unavailable):
                await anext(events)


async def test_a_cursor_of_another_history_gets_a_snapshot(backend: Backend) -> None:
    async with served(backend) as volume:
        made = make_durable(volume, put_directory("a"))
        volume.feed.publish(FeedItem(made, {}))
        for cursor, reason in (
            (Cursor(Revision(1), volume.feed.head.commit_id), None),
            (Cursor(Revision(1), type(made.id)(bytes(32))), ResetReason.HISTORY_CUT),
            (Cursor(Revision(0), made.id), ResetReason.HISTORY_CUT),
            (Cursor(Revision(2), None), ResetReason.HISTORY_CUT),
        ):
            async with aclosing(watch(volume, WatchBegin(BOB, cursor))) as events:
                first = await anext(events)
            head = volume.feed.head
            assert first == (Heartbeat(head) if reason is None else SnapshotBegin(reason, head))
    backend.close()


async def test_waiting_goes_on_while_the_feed_is_not_there_yet() -> None:
    async with served(Backend.in_memory()) as volume:
        first, second = (make_durable(volume, put_directory(name)) for name in "ab")
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(volume.feed.wait(Revision(1), 20.0))
            volume.feed.publish(FeedItem(first, {}))
            assert not await volume.feed.wait(Revision(1), 0.01)
            assert not waiting.done()
            volume.feed.publish(FeedItem(second, {}))
        assert waiting.result()


@pytest.mark.parametrize("ring_bytes_max", [0, 3_000])
async def test_many_watchers_of_many_writers_see_each_commit_once(
    backend: Backend, ring_bytes_max: int
) -> None:
    writers, each = 4, 400
    async with (
        served(backend, limits=Limits(ring_bytes_max=ring_bytes_max)) as volume,
        direct_link(volume) as link,
    ):

        async def write(number: int) -> None:
            ids = SeededIds(number)
            author = Author(ReplicaId(bytes([number]) * 16), f"writer {number}")
            for index in range(each):
                change = put_directory(f"{number}-{index}")
                accepted(await link.store(propose(change, ids=ids, author=author), Chunks()))

        async def see() -> list[int]:
            events = link.watch(WatchBegin(BOB, START), no_progress())
            async with aclosing(events):  # type: ignore[type-var]
                return [told.commit.revision for told in await take(events, writers * each)]

        async with asyncio.TaskGroup() as tasks:
            seeing = [tasks.create_task(see()) for _ in range(4)]
            for number in range(writers):
                tasks.create_task(write(number))
        for task in seeing:
            assert task.result() == list(range(1, writers * each + 1))
    backend.close()


# -- sharing -------------------------------------------------------------------


def items_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, FeedItem) for thing in gc.get_objects())


async def test_watchers_at_one_position_share_what_was_read(backend: Backend) -> None:
    many = [put_file(f"f{number}") for number in range(100)]
    async with AsyncExitStack() as stack:
        volume = await stack.enter_async_context(served(backend, limits=NO_RING))
        before = items_alive()
        for _ in range(3):
            revision = volume.feed.head.revision
            made = make_durable(volume, *many, put_directory(f"d{revision}"))
            many = [
                put_file(f"f{number}", revision + 1, content=b"%d" % revision)
                for number in range(100)
            ]
            volume.feed.publish(FeedItem(made, {}))
            del made
        assert items_alive() <= before, "nobody keeps what left the ring"
        watches = await watchers(stack, volume, WatchBegin(BOB, START), 10)
        for revision in (1, 2, 3):
            bound = 4 - revision
            told = await all_following(watches)
            assert {item.commit.revision for item in told} == {revision}
            assert len({id(item) for item in told}) == 1
            del told
            # A worker lets go of what it returned a moment after the loop has it.
            await eventually(
                lambda bound=bound: items_alive() - before <= bound, "what was told is let go"
            )
    backend.close()


async def test_a_commit_is_encoded_once_and_a_large_one_in_a_worker() -> None:
    async with served(Backend.in_memory(), limits=NO_RING) as volume:
        small = FeedItem(make_durable(volume, put_file("a")), {})
        changes = [put_directory(f"d{number}") for number in range(200)]
        large = FeedItem(make_durable(volume, *changes), {})
        for item, where in ((small, "MainThread"), (large, "test-worker")):
            threads: list[str] = []

            def encode() -> list[bytes]:
                threads.append(threading.current_thread().name)  # noqa: B023
                return [b"frame"]

            async with asyncio.TaskGroup() as tasks:
                asked = [
                    tasks.create_task(encoded(volume, item, encode, variant=False))
                    for _ in range(10)
                ]
            assert len({id(task.result()) for task in asked}) == 1
            assert len(threads) == 1 and threads[0].startswith(where)
            assert await encoded(volume, item, encode, variant=True) == [b"frame"]
            assert len(threads) == 2, "another variant is another encoding"


# -- paths ---------------------------------------------------------------------


class CountingTable(DictTable):
    """Counts look-ups by id."""

    looked_up = 0

    def entry(self, id: EntryId) -> Entry | None:
        self.looked_up += 1
        return super().entry(id)


def nested(depth: int) -> list[Entry]:
    labels = ["/", *(f"n{number}" for number in range(depth))]
    return [directory(label, parent, b"d") for parent, label in pairwise(labels)]


@pytest.mark.parametrize("order", [1, -1])
def test_addresses_look_up_each_parent_once(order: int) -> None:
    depth = 300
    entries = [*nested(depth), file("f", f"n{depth - 1}"), file("g"), file("h", "n0")]
    table = CountingTable(entries)
    addresses = Addresses(table)
    found = [addresses.of(entry) for entry in entries[::order]]
    assert table.looked_up <= depth
    assert found == [path_of(table, entry) for entry in entries[::order]]


async def test_tools_share_the_paths_of_a_commit(backend: Backend) -> None:
    async with AsyncExitStack() as stack:
        volume = await stack.enter_async_context(served(backend))
        chain = [put_directory("a"), put_directory("b", parent="a"), put_file("f", parent="b")]
        make = [
            make_durable(volume, *chain),
            make_durable(volume, move("b", 1, "/", b"c"), delete("f", 1)),
        ]
        watches = await watchers(stack, volume, WatchBegin(BOB, START, wants_paths=True), 5)
        shown: list[list[tuple[Effect, str, str]]] = []
        for commit in make:
            volume.feed.publish(FeedItem(commit, {}))
            told = await all_following(watches)
            assert len({id(event) for event in told}) == 1
            (event, *_) = told
            assert isinstance(event, WithPaths)
            shown.append([(c.effect, str(c.path), str(c.old_path)) for c in event.changes])
    assert shown == [
        [
            (Effect.CREATED, "a", "None"),
            (Effect.CREATED, "a/b", "None"),
            (Effect.CREATED, "a/b/f", "None"),
        ],
        [(Effect.DELETED, "a/b/f", "None"), (Effect.MOVED, "c", "a/b")],
    ]
    backend.close()


async def test_paths_of_a_deep_import_take_little_time(tmp_path: Path) -> None:
    backend = Backend.on_disk(tmp_path)
    async with served(backend) as volume:
        labels = ["/", *(f"n{number}" for number in range(1_000))]
        made = make_durable(
            volume,
            *(put_directory(label, parent=parent, name=b"d") for parent, label in pairwise(labels)),
        )
        begin = WatchBegin(BOB, START, wants_paths=True)
        async with aclosing(watch(volume, begin)) as events:
            volume.feed.publish(FeedItem(made, {}))
            # It takes well below a second; with a walk to the root for each path, many.
            event = await following(events, within_s=5.0)
        assert isinstance(event, WithPaths)
        assert [len(change.path.parts) for change in event.changes] == list(range(1, 1_001))
    backend.close()
