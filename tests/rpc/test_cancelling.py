"""A cancellation that comes while an error is dealt with is not lost.

Whoever follows a server for ever would else go on after he was told to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from syncline.core.identity import Revision
from syncline.core.table import Cursor
from syncline.ports.link import Link, Progress, WatchBegin
from tests.support.serving import ALICE, Backend, grpc_link, served


async def test_a_watch_that_is_cancelled_while_it_ends_by_an_error() -> None:
    is_ending, may_end = asyncio.Event(), asyncio.Event()

    async def progress() -> AsyncGenerator[Progress, None]:
        try:
            await asyncio.Event().wait()
            yield Progress(Cursor(Revision(0), None), 0, 0)
        finally:
            is_ending.set()
            await may_end.wait()

    async def follow(link: Link) -> None:
        watching = link.watch(WatchBegin(ALICE, None), progress())
        assert isinstance(watching, AsyncGenerator)
        async with aclosing(watching):
            async for _ in watching:
                # The first thing that is told: from now on the server stops.
                volume.feed.close()

    async with served(Backend.in_memory()) as volume, grpc_link(volume) as link:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(follow(link))
            await is_ending.wait()
            task.cancel()
            may_end.set()
        assert task.cancelled()
