"""Where blocking work goes, so that the event loop never waits for a disk or a hash."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Executor(Protocol):
    """Runs blocking calls elsewhere; bounded, in order of arrival for an executor of one thread.

    A call that has begun runs to its end even if the one who waits for it is cancelled.
    """

    async def run(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what `work` returns; raise what it raises."""

    def close(self) -> None:
        """Wait for what runs and take no more."""
