"""Each heartbeat says whether the server lacks chunks, so that whoever has them hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest

from syncline.core.table import Cursor
from syncline.ports.link import Heartbeat, Link, WatchBegin
from syncline.server.chunk_index import ChunkIndex
from syncline.server.damage import mark_damaged
from syncline.server.volume import ServedVolume
from tests.contract.test_link import no_progress
from tests.support.serving import (
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    direct_link,
    grpc_link,
    propose,
    served,
)
from tests.support.trees import put_file


@pytest.fixture(params=["direct", "grpc"])
async def served_link(
    request: pytest.FixtureRequest,
) -> AsyncIterator[tuple[Link, ServedVolume, Backend]]:
    backend = Backend.in_memory()
    async with served(backend) as volume:
        opened = direct_link(volume) if request.param == "direct" else grpc_link(volume)
        async with opened as link:
            yield link, volume, backend
    backend.close()


async def heartbeat(link: Link, volume: ServedVolume) -> Heartbeat:
    """Return what a watcher is told first."""
    head = volume.feed.head
    begin = WatchBegin(BOB, Cursor(head.revision, head.commit_id))
    events = link.watch(begin, no_progress())
    async with aclosing(events), asyncio.timeout(20):  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Heartbeat):
                return event
    raise AssertionError("the watch ended")


async def test_damage_is_told_until_it_is_filled(
    served_link: tuple[Link, ServedVolume, Backend],
) -> None:
    link, volume, backend = served_link
    ids, source = SeededIds(), Chunks()
    parts = [b"one" * 1000, b"two" * 1000]
    put = replace(put_file("a"), content=source.content(parts))
    accepted(await link.store(propose(put, ids=ids), source))
    head = volume.feed.head
    assert await heartbeat(link, volume) == Heartbeat(head, has_damaged=False)

    digest = put.content.refs[1].digest
    await mark_damaged(volume, volume.chunks.locate([digest]))
    assert await heartbeat(link, volume) == Heartbeat(head, has_damaged=True)
    index = ChunkIndex(backend.metadata, volume.id, backend.chunks)
    assert index.has_damaged, "it is known at the start"

    # Nothing changes by it but that the chunk is there again.
    source.asked.clear()
    assert accepted(await link.store(propose(replace(put, base=1), ids=ids), source)) == [1]
    assert source.asked == [digest]
    assert await heartbeat(link, volume) == Heartbeat(head, has_damaged=False)
