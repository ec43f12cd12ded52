"""What lanes of work beside the cycles have in common: pauses after trouble, and errors to hand on.

L1  A lane never ends the mount: what it cannot deal with is raised by the control task, which can.
L2  After trouble with the server a lane waits, longer each time, until it went well once (C3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from syncline.client.steady import Backoff
from syncline.errors import SynclineError

FIRST_S = 0.1
"""The first pause after trouble with the server."""


class Lane:
    """The pause and the error of one kind of lanes; for the control task's loop."""

    def __init__(self) -> None:
        self.pause_until_s: float | None = None
        """When the server is to be asked again; None: at once."""
        self._pauses = pauses(FIRST_S)
        self._error: SynclineError | OSError | None = None

    def connected(self) -> None:
        """Begin anew with another connection."""
        self.pause_until_s = None

    def well(self) -> None:
        """Note that the server did as it was asked."""
        self._pauses = pauses(FIRST_S)

    def pause(self) -> None:
        """Note that it did not."""
        self.pause_until_s = loop_s() + next(self._pauses)

    def is_pause_over(self, now_s: float) -> bool:
        """Tell, once, that a pause ended."""
        if self.pause_until_s is None or self.pause_until_s > now_s:
            return False
        self.pause_until_s = None
        return True

    def hand_on(self, error: SynclineError | OSError) -> None:
        """Let the control task deal with trouble of the mount or its state."""
        self._error = error

    def raise_error(self) -> None:
        """Raise what was handed on."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def pauses(first_s: float) -> Iterator[float]:
    """Yield how long to wait after trouble, again and again: each time longer, at most 30 s."""
    return Backoff(first_s, most_s=30.0, jitter=lambda: 0.0).pauses()


def loop_s() -> float:
    """Return the time of the running loop, which all times of the control task are of."""
    return asyncio.get_running_loop().time()
