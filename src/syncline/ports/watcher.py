"""The watcher: tells which places of a mount may have changed; the scan then is the truth.

Contract, for every adapter:

- A directory is watched by the id of its entry, so that moves change nothing. What happens in it
  after `add` has returned is told; so a caller adds the watch first and lists the directory then.
- Marks may come too often, and for what the client did itself; they never come too seldom, except
  where `Noticed.is_overflown` says that some were lost.
- `add` and `forget` may be called from any thread; the others from the control task alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from syncline.core.identity import EntryId
from syncline.ports.files import Directory


@dataclass(frozen=True, slots=True)
class Mark:
    """A place that may have changed: a name in a directory, or the directory as such (None).

    `is_written`: a writer closed it, so its content is read again whatever its fingerprint says; of
    a directory as such: its names are looked at, which no watcher tells for itself.
    `is_open`: it was written to and not closed yet.
    """

    directory: EntryId
    name: bytes | None
    is_written: bool = False
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Noticed:
    """What came since the last look. `sentinels`: names that appeared in the sentinel directory."""

    marks: tuple[Mark, ...] = ()
    sentinels: frozenset[bytes] = frozenset()
    is_overflown: bool = False
    is_root_gone: bool = False
    """The root itself was moved, removed or unmounted: look at it at once."""


class Watcher(Protocol):
    """Watches the directories of one mount."""

    def add(self, directory: Directory, id: EntryId) -> bool:
        """Watch a directory, or go on doing so; False where the system has no watch left for it.

        A directory watched under another id is watched under this one from now on.
        """

    def add_sentinels(self, directory: Directory) -> None:
        """Watch the directory in which a new name means: all that came before has been told."""

    def is_watched(self, id: EntryId) -> bool:
        """Tell whether a directory is watched under this id."""

    def forget(self, id: EntryId) -> None:
        """Stop watching; nothing happens where it is not watched."""

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Know a watched directory by another id."""

    async def wait(self) -> None:
        """Return when something was noticed that was not taken yet."""

    def take(self) -> Noticed:
        """Return what was noticed, and forget it; never blocks."""

    def close(self) -> None:
        """Stop."""
