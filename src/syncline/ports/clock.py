"""Time, as an argument: wall time is for people, monotonic time for leases and deadlines."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two clocks; both may be called from any thread."""

    def wall_ns(self) -> int:
        """Return ns since 1970; it may jump either way and decides nothing."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
