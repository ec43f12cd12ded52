"""Going on after a broken connection: how long to pause, and when to give up.

The first contact of a command is never repeated: a wrong address is told at once. After it, a
broken connection is waited out for as long as the caller allows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from syncline.errors import (
    Denied,
    Internal,
    NotSignedIn,
    ProtocolBroken,
    Throttled,
    TimedOut,
    TooNew,
    Unavailable,
)

T = TypeVar("T")

ENDS_ALL = (
    Unavailable,
    TimedOut,
    Throttled,
    Denied,
    NotSignedIn,
    TooNew,
    ProtocolBroken,
    Internal,
)
"""Errors that are about the server and not about a path: what comes after one fails as well."""

RETRY_S = 30.0
"""How long a command waits for a server that went away in the middle of it."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts: they double from `first_s` to `most_s`, each cut by up to a half.

    `jitter` gives numbers in [0, 1), so that clients that broke together do not come back together.
    """

    first_s: float = 0.1
    most_s: float = 5.0
    jitter: Callable[[], float] = random.random

    def pauses(self) -> Iterator[float]:
        """Yield pauses in seconds, for ever."""
        pause_s = self.first_s
        while True:
            yield pause_s * (1.0 - 0.5 * self.jitter())
            pause_s = min(self.most_s, pause_s * 2.0)


class Steady:
    """Repeats calls that a broken connection ended; one a command."""

    def __init__(self, retry_s: float = RETRY_S, backoff: Backoff | None = None) -> None:
        self._retry_s = retry_s
        self._backoff = backoff or Backoff()
        self._progress = 0
        self.is_reached = False

    def progress(self) -> None:
        """Note that bytes moved: the time to give up counts from the last sign of life."""
        self._progress += 1
        self.is_reached = True

    async def run(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` returns; repeat it after Unavailable and Throttled.

        Raises them when the server was never reached, or for `retry_s` did not come back.
        """
        pauses = self._backoff.pauses()
        started_s = asyncio.get_running_loop().time()
        seen = self._progress
        while True:
            try:
                answer = await call()
            except (Unavailable, Throttled):
                now_s = asyncio.get_running_loop().time()
                if self._progress != seen:
                    seen = self._progress
                    started_s = now_s
                    pauses = self._backoff.pauses()
                if not self.is_reached or now_s - started_s >= self._retry_s:
                    raise
                await asyncio.sleep(next(pauses))
            else:
                self.is_reached = True
                return answer
