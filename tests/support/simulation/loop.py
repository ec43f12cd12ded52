"""A world in one thread: virtual time, executors without threads, and processes that can be killed.

Time moves only when nobody has anything to do: then it jumps to the next timer. So a minute of a
mount takes milliseconds, and the same seed gives the same run, step by step.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine
from typing import ParamSpec, TypeVar

from tests.support.simulation.disk import EPOCH_NS, Crashed

P = ParamSpec("P")
T = TypeVar("T")


class Deadlock(AssertionError):
    """Nothing is scheduled, nobody can ever wake anybody."""


class _Selector(selectors.BaseSelector):
    """Never waits; the time it was asked to wait is what the clock moves by."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._keys: dict[object, selectors.SelectorKey] = {}

    def register(self, fileobj: object, events: int, data: object = None) -> selectors.SelectorKey:
        key = selectors.SelectorKey(fileobj, 0, events, data)  # type: ignore[arg-type]
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: object) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Deadlock("nothing is scheduled")
        self.now_s += max(0.0, timeout)
        return []

    def get_map(self) -> dict[object, selectors.SelectorKey]:  # type: ignore[override]
        return self._keys

    def close(self) -> None:
        self._keys.clear()


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock is virtual."""

    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._virtual.now_s

    def skip(self, seconds: float) -> None:
        """Let time pass while a synchronous call runs."""
        self._virtual.now_s += seconds


def run_simulated(main: Callable[[SimulatedLoop], Coroutine[object, object, T]]) -> T:
    """Run a world to its end."""
    loop = SimulatedLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


class SimulatedClock:
    """The two clocks of one machine; the wall clock may be wrong by a constant."""

    def __init__(self, loop: SimulatedLoop, skew_ns: int = 0) -> None:
        self._loop = loop
        self.skew_ns = skew_ns

    def wall_ns(self) -> int:
        return EPOCH_NS + self.skew_ns + int(self._loop.time() * 1e9)

    def monotonic_s(self) -> float:
        return self._loop.time()


class Process:
    """Something that can be killed: once it is dead none of its calls does anything any more."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_dead = False

    def check(self) -> None:
        """Raise Crashed in a process that is dead."""
        if self.is_dead:
            raise Crashed(self.name)

    def kill(self) -> None:
        """Be dead from now on."""
        self.is_dead = True


class SimulatedExecutor:
    """Runs calls inline, a random moment later; in order of arrival when `is_ordered`."""

    def __init__(
        self, process: Process, seeded: random.Random, *, is_ordered: bool, most_s: float = 0.002
    ) -> None:
        self._process = process
        self._random = seeded
        self._most_s = most_s
        self._turn = asyncio.Lock() if is_ordered else None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._turn is None:
            return await self._later(work, *args, **kwargs)
        async with self._turn:
            return await self._later(work, *args, **kwargs)

    async def _later(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(self._random.random() * self._most_s)
        self._process.check()
        done = work(*args, **kwargs)
        # The one who waits hears of it later, as across threads.
        await asyncio.sleep(self._random.random() * self._most_s)
        return done

    def close(self) -> None:
        """Have nothing to let go of."""
