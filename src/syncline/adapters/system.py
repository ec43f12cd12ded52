"""The clock and the randomness of the machine."""

from __future__ import annotations

import os
import time

from syncline.core.identity import ID_BYTES, EntryId, OpId, ReplicaId, VolumeId


class SystemClock:
    """The machine's clocks."""

    def wall_ns(self) -> int:
        """Return ns since 1970."""
        return time.time_ns()

    def monotonic_s(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()


class RandomIds:
    """Identifiers of 128 random bits from the kernel."""

    def entry(self) -> EntryId:
        """Return an entry id that nobody has."""
        return EntryId(os.urandom(ID_BYTES))

    def op(self) -> OpId:
        """Return an op id that nobody has."""
        return OpId(os.urandom(ID_BYTES))

    def replica(self) -> ReplicaId:
        """Return a replica id that nobody has."""
        return ReplicaId(os.urandom(ID_BYTES))

    def volume(self) -> VolumeId:
        """Return a volume id that nobody has."""
        return VolumeId(os.urandom(ID_BYTES))
