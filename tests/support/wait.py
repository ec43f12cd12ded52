"""Waiting for a condition, with a bound and a word about what did not come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_PAUSE_S = 0.005
"""Between two looks: short beside anything a test waits for, long beside the look itself."""


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
    """Return as soon as `condition` holds; fail with `what` when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        time.sleep(_PAUSE_S)


async def eventually(condition: Callable[[], bool], what: str, *, timeout_s: float = 20.0) -> None:
    """Do the same without blocking the event loop."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(_PAUSE_S)
