"""Fresh identifiers: unpredictable outside of tests, repeatable in a simulation."""

from __future__ import annotations

from typing import Protocol

from syncline.core.identity import EntryId, OpId, ReplicaId, VolumeId


class Ids(Protocol):
    """Makes 16-byte identifiers, no two alike; may be called from any thread."""

    def entry(self) -> EntryId: ...

    def op(self) -> OpId: ...

    def replica(self) -> ReplicaId: ...

    def volume(self) -> VolumeId: ...
