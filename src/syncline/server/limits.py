"""What one server is ready to do at once: every queue, stream and wait has a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from syncline.errors import Throttled


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a server, with their defaults."""

    stores_max: int = 1024
    """STOREs and DELETEs under way or waiting for a lock, of all clients."""

    stores_each_max: int = 128
    """The same for one connection."""

    proposal_bytes_max: int = 256 * 1024 * 1024
    """Memory for the changes and inline content of all STOREs under way."""

    reads_max: int = 256
    """FETCHes, LISTs and STATs under way, of all clients; each has at most 3 MiB in memory."""

    reads_each_max: int = 64
    """The same for one connection."""

    watches_max: int = 4096
    """WATCH streams, of all clients. An idle one costs about 34 KiB."""

    watches_each_max: int = 64
    """The same for one connection."""

    streams_per_connection_max: int = 1024
    """Calls under way on one connection; further ones wait in the client."""

    lock_wait_max_s: float = 60.0
    """How long a STORE may wait for an operation lock, whatever it asks for."""

    lock_stall_s: float = 30.0
    """Without transfer progress for so long, a STORE's locks are dropped until its commit."""

    user_locks_max: int = 4096
    """User locks of a volume, those that are waited for too. One takes about 1 KiB of memory."""

    user_locks_each_max: int = 512
    """The same for one replica."""

    user_lock_min_s: float = 1.0
    """The shortest lease or life of a user lock: a shorter one would end between two renewals."""

    user_lock_max_s: float = 86_400.0
    """The longest life that a user lock may ask for; a holder that lives may go on after it."""

    user_lock_wait_max_s: float = 3600.0
    """How long a LOCK may wait, whatever it asks for."""

    user_lock_grace_s: float = 30.0
    """What holders get to come back after a restart of the server, above what they had left."""

    lock_waits_max: int = 1024
    """LOCK calls under way or waiting, of all clients; apart from these as many UNLOCKs, RENEWs."""

    lock_waits_each_max: int = 64
    """The same for one connection."""

    first_message_wait_s: float = 10.0
    """How long a new stream may be silent."""

    message_wait_s: float = 120.0
    """How long a stream may owe the server its next message."""

    heartbeat_s: float = 5.0
    """How often an idle WATCH stream says where the head is."""

    ring_bytes_max: int = 32 * 1024 * 1024
    """Recent commits kept in memory for watchers, their inline content included."""


class Budget:
    """Memory that all callers share; who asks for what is not there is refused."""

    def __init__(self, what: str, *, bytes_max: int) -> None:
        self._what = what
        self._bytes_max = bytes_max
        self.used_bytes = 0

    @contextmanager
    def hold(self) -> Iterator[Holding]:
        """Give back at the end of the block what was taken in it."""
        holding = Holding(self)
        try:
            yield holding
        finally:
            self.used_bytes -= holding.bytes

    def take(self, size: int) -> None:
        """Count `size` bytes; raise Throttled when they are not there."""
        if self.used_bytes + size > self._bytes_max:
            raise Throttled(
                f"the server's memory for {self._what} is used up; try again in a moment",
                limit=str(self._bytes_max),
                scope="server",
            )
        self.used_bytes += size


class Holding:
    """What one caller has taken of a budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.bytes = 0

    def take(self, size: int) -> None:
        """Take `size` bytes more; raise Throttled when they are not there."""
        self._budget.take(size)
        self.bytes += size


class Gate:
    """Counts what is under way, in all and for each caller, and refuses what is over a bound."""

    def __init__(self, what: str, *, total_max: int, each_max: int) -> None:
        self._what = what
        self._total_max = total_max
        self._each_max = each_max
        self._each: Counter[Hashable] = Counter()

    @property
    def count(self) -> int:
        """Return how many are inside."""
        return self._each.total()

    @contextmanager
    def enter(self, caller: Hashable) -> Iterator[None]:
        """Hold a place for the length of the block; raise Throttled when there is none."""
        if self._each[caller] >= self._each_max:
            raise Throttled(
                f"this client has {self._each_max} {self._what} under way, which is the limit",
                limit=str(self._each_max),
                scope="client",
            )
        if self.count >= self._total_max:
            raise Throttled(
                f"the server has {self._total_max} {self._what} under way, which is its limit",
                limit=str(self._total_max),
                scope="server",
            )
        self._each[caller] += 1
        try:
            yield
        finally:
            self._each[caller] -= 1
            if not self._each[caller]:
                del self._each[caller]
