"""Memory is given back once a process that worked is at rest, and not before or again."""

from __future__ import annotations

import asyncio

from syncline.compose.at_rest import at_rest, sparing

EVERY_S = 0.001
BUSY_S = EVERY_S
LITTLE_S = EVERY_S / 1000


async def test_it_comes_after_work_and_not_at_rest() -> None:
    """Looked at again and again: at rest, at work twice, at rest until nobody looks any more."""
    looks = [0.0, LITTLE_S, LITTLE_S, BUSY_S, 2 * BUSY_S, 2 * BUSY_S + LITTLE_S]
    is_over = asyncio.Event()
    left = iter(looks)
    seen = 0
    came_after: list[int] = []

    def used_s() -> float:
        nonlocal seen
        seen += 1
        if seen == len(looks) + 5:
            is_over.set()
        return next(left, looks[-1])

    async def come() -> None:
        came_after.append(seen)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        looking = group.create_task(at_rest(used_s, come, EVERY_S))
        await is_over.wait()
        looking.cancel()
    assert came_after == [len(looks)]


async def test_it_looks_for_as_long_as_the_block_lasts() -> None:
    async with sparing():
        assert any(task.get_name() == "memory" for task in asyncio.all_tasks())
    assert not any(task.get_name() == "memory" for task in asyncio.all_tasks())
