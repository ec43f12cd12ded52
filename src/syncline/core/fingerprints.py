"""Fingerprints: what the file system says of a thing without reading it.

Model: a file whose fingerprint is the one taken after it was placed or read is unchanged.
What differs may be an edit and is read again; equal times alone prove nothing (`is_provisional`).
"""

from __future__ import annotations

from dataclasses import dataclass

from syncline.core.trees import State

GRAIN_NS = 20_000_000
"""Kernels stamp times with the tick of their clock, at most 10 ms (HZ=100): two writes inside one
tick can leave one and the same time. What is younger than two ticks proves nothing yet."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Inode, birth time, size, mtime and ctime; times in ns. `born_ns` is 0 where nobody knows it.

    `is_provisional`: it was taken within the clock's grain of the last change, so a later write
    could have left the same one.
    """

    inode: int
    born_ns: int
    size: int
    mtime_ns: int
    ctime_ns: int
    is_provisional: bool = False

    def is_unchanged(self, other: Fingerprint) -> bool:
        """Tell whether content, mode and times are the same, as far as times can tell."""
        return (self.inode, self.size, self.mtime_ns, self.ctime_ns) == (
            other.inode,
            other.size,
            other.mtime_ns,
            other.ctime_ns,
        )

    def is_renamed(self, other: Fingerprint) -> bool:
        """Tell the same of a thing that was renamed in between, which moves its ctime."""
        return (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was last seen of an entry in the mount; no fingerprint: look closely next time."""

    state: State
    fingerprint: Fingerprint | None = None
