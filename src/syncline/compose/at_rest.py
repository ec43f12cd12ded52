"""The memory of a process that runs for long: kept at hand while it works, given back at rest."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from syncline.adapters import allocator

LOOK_S = 10.0
"""How often it is looked whether the process is at rest: 20 microseconds each time."""

COLLECT_AT = (50_000, 50, 100)
"""New objects before the collector looks for rings among them, and how much seldomer among older
ones. Nearly all is freed without it: in a burst of 10,000 files it took a seventh of the time."""

QUIET_SHARE = 0.02
"""A process that takes less of a processor than this is at rest."""


@asynccontextmanager
async def sparing(let_go: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
    """Look after the memory of this process for the length of the block; enter it when ready.

    `let_go` is to drop what need not be held at rest.
    """

    async def come() -> None:
        if let_go is not None:
            await let_go()
        gc.collect()
        allocator.give_back()

    # What was made for the start lives on: from here the collector need not go through it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AT)
    allocator.give_back()
    async with asyncio.TaskGroup() as group:
        looking = group.create_task(at_rest(time.process_time, come), name="memory")
        try:
            yield
        finally:
            looking.cancel()


async def at_rest(
    used_s: Callable[[], float], come: Callable[[], Awaitable[None]], every_s: float = LOOK_S
) -> None:
    """Call `come` each time that the process was at work and is at rest again, for ever.

    `used_s` tells how many seconds of a processor it took so far.
    """
    was_busy = False
    before_s = used_s()
    while True:
        await asyncio.sleep(every_s)
        now_s = used_s()
        is_busy = now_s - before_s > QUIET_SHARE * every_s
        if was_busy and not is_busy:
            await come()
        was_busy, before_s = is_busy, now_s
