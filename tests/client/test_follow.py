"""WATCH for tools: in order, once, over anything that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from syncline.client.follow import follow
from syncline.client.steady import Backoff
from syncline.core.identity import CommitId, Revision
from syncline.core.table import Cursor
from syncline.errors import (
    CursorExpired,
    NotFound,
    ProtocolBroken,
    SynclineError,
    Throttled,
    TimedOut,
    Unavailable,
)
from syncline.ports.link import (
    Committed,
    Heartbeat,
    Link,
    Progress,
    ResetReason,
    SnapshotBegin,
    WatchBegin,
    WatchEvent,
)
from tests.client.test_store import make
from tests.support.links import QUICK, Client, ScriptedLink, failing, nothing
from tests.support.serving import ALICE
from tests.support.wait import eventually


@pytest.fixture
async def commits(other: Client, tmp_path: Path) -> None:
    for number in range(1, 6):
        await other.store(make(tmp_path / "f", b"%d" % number))


def watching(
    link: Link, since: int | None = None, *, silence_s: float = 30.0, backoff: Backoff = QUICK
) -> AsyncGenerator[Committed, None]:
    async def connect() -> Link:
        return link

    return follow(
        connect,
        author=ALICE,
        since=None if since is None else Revision(since),
        backoff=backoff,
        silence_s=silence_s,
    )


async def take(events: AsyncIterator[Committed], count: int) -> list[int]:
    revisions: list[int] = []
    async with asyncio.timeout(20):
        while len(revisions) < count:
            revisions.append((await anext(events)).commit.revision)
    return revisions


@pytest.mark.usefixtures("commits")
async def test_from_a_past_revision_in_order(link: ScriptedLink) -> None:
    async with aclosing(watching(link, 2)) as events:
        first = await anext(events)
        assert await take(events, 2) == [4, 5]
    assert first.commit.revision == 3
    assert [bytes(change.path) for change in first.changes] == [b"f"]


@pytest.mark.usefixtures("commits")
async def test_over_breaks_each_commit_once(link: ScriptedLink) -> None:
    broken: list[SynclineError] = [
        Unavailable("gone"),
        Throttled("busy"),
        TimedOut("slow"),
        Unavailable("gone"),
    ]
    link.before["event"] = [hook for error in broken for hook in (nothing, nothing, failing(error))]
    async with aclosing(watching(link, 0)) as events:
        assert await take(events, 5) == [1, 2, 3, 4, 5]
    assert link.count("watch") == link.count("close") == 5
    assert link.count("hello") == 1


@pytest.mark.usefixtures("commits")
async def test_from_the_head_without_a_gap(
    link: ScriptedLink, other: Client, tmp_path: Path
) -> None:
    async def change() -> None:
        # Between the break and the next connection: it must not be lost.
        await other.store(make(tmp_path / "f", b"late"))
        raise Unavailable("gone")

    link.before["watch"] = [nothing, change]
    link.before["event"] = [failing(Unavailable("gone"))]
    async with aclosing(watching(link)) as events:
        assert await take(events, 1) == [6]


async def test_a_revision_past_the_head_is_not_found(link: ScriptedLink) -> None:
    with pytest.raises(NotFound) as raised:
        await take(watching(link, 9), 1)
    assert raised.value.fields["head"] == "0"


async def test_the_first_contact_raises(link: ScriptedLink) -> None:
    link.before["hello"] = [failing(Unavailable("nobody there"))]
    with pytest.raises(Unavailable):
        await take(watching(link), 1)
    assert link.count("close") == 1


async def test_no_error_of_the_way_ends_it_later(
    link: ScriptedLink, other: Client, tmp_path: Path
) -> None:
    link.before["watch"] = [failing(Unavailable("gone"))] * 50
    async with aclosing(watching(link)) as events:
        async with asyncio.TaskGroup() as group:
            taken = group.create_task(take(events, 1))
            await eventually(lambda: link.count("watch") >= 20, "the watcher tries again")
            await other.store(make(tmp_path / "f"))
        assert taken.result() == [1]


class _Told(ScriptedLink):
    """Gives one list of events after the other, then is silent."""

    def tell(self, *streams: list[WatchEvent]) -> None:
        self.streams = list(streams)
        self.begins: list[WatchBegin] = []

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        self.calls.append("watch")
        self.begins.append(begin)
        for event in self.streams.pop(0) if self.streams else []:
            yield event
        async for _ in progress:
            raise AssertionError("a tool has no progress to tell")


@pytest.mark.usefixtures("commits")
async def test_a_silent_link_is_left(link: ScriptedLink) -> None:
    told = _Told(link.inner)
    told.tell()
    async with aclosing(watching(told, silence_s=0.01)) as events, asyncio.TaskGroup() as group:
        reader = group.create_task(take(events, 1))
        await eventually(lambda: told.count("watch") >= 3, "the watcher connects again")
        reader.cancel()
    assert told.count("close") >= 2


@pytest.mark.usefixtures("commits")
async def test_another_history_is_an_error_and_not_a_gap(link: ScriptedLink) -> None:
    head = (await link.inner.hello()).head
    told = _Told(link.inner)
    told.tell([SnapshotBegin(ResetReason.HISTORY_CUT, head)])
    with pytest.raises(CursorExpired):
        await take(watching(told, 3), 1)


@pytest.mark.usefixtures("commits")
async def test_a_gap_is_the_servers_fault(link: ScriptedLink) -> None:
    async with aclosing(watching(link, 3)) as events:
        fourth = await anext(events)
    told = _Told(link.inner)
    told.tell([fourth])
    with pytest.raises(ProtocolBroken):
        await take(watching(told, 1), 1)


@pytest.mark.usefixtures("commits")
async def test_a_heartbeat_at_the_cursor_pins_the_history(link: ScriptedLink) -> None:
    head = (await link.inner.hello()).head
    async with aclosing(watching(link, 3)) as events:
        fourth = await anext(events)
        fifth = await anext(events)
    told = _Told(link.inner)
    told.tell([fourth, fifth, Heartbeat(head)], [])
    async with aclosing(watching(told, 3, silence_s=0.01)) as events:
        assert await take(events, 2) == [4, 5]
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(take(events, 1))
            await eventually(lambda: told.count("watch") >= 2, "the watcher connects again")
            reader.cancel()
    assert told.begins[0].cursor == Cursor(Revision(3), None)
    assert told.begins[1].cursor == Cursor(head.revision, CommitId(head.commit_id))


def test_pauses_grow_to_a_bound_and_are_spread() -> None:
    steady = Backoff(0.1, 5.0, jitter=lambda: 0.0).pauses()
    assert [next(steady) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    early = Backoff(0.1, 5.0, jitter=lambda: 0.999).pauses()
    assert next(early) < 0.06
