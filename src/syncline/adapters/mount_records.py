"""What a mount knows of one entry, and the calls of `ports.mount_state` that follow from it.

Both adapters keep records by id; they differ in where, and in how they find one by its place.

D1  A record is what the port tells: nothing in it is "as base". An adapter may keep less where
    two trees hold exactly the same, and gives back what it was given.
D2  `is_dirty`, and what is kept of the author, are derived from the three trees in `known` alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from syncline.core.entries import Entry
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.trees import State, is_same, state_of


@dataclass(frozen=True, slots=True)
class Record:
    """One entry in the three trees; `author` and `is_confirmed` are of a remote unlike base."""

    base: State | None
    local: Seen | None
    remote: Entry | None
    author: str | None
    is_confirmed: bool
    is_dirty: bool


def known(
    base: State | None,
    local: Seen | None,
    remote: Entry | None,
    author: str | None,
    *,
    is_confirmed: bool,
) -> Record | None:
    """Return the record of an entry, or None for one that is to be forgotten (S4)."""
    is_there = remote is not None and remote.is_live
    if base is None and local is None and not is_there:
        return None
    differs_there = not is_same(base, live_state(remote))
    differs_here = not is_same(base, local.state if local else None)
    return Record(
        base,
        local,
        remote,
        author if differs_there else None,
        is_confirmed and differs_there,
        differs_there or differs_here,
    )


def live_state(remote: Entry | None) -> State | None:
    """Return what lives in remote."""
    return None if remote is None or not remote.is_live else state_of(remote)


class RecordTrees(ABC):
    """The calls on the trees that need no index, for a session of either adapter."""

    has_changed = False

    @abstractmethod
    def _record(self, id: EntryId) -> Record | None:
        """Return what is known of an entry."""

    @abstractmethod
    def _keep(self, id: EntryId, record: Record | None) -> None:
        """Know this of an entry from now on; None: forget it, and that it is held."""

    @abstractmethod
    def _rename_in_notes(self, old: EntryId, new: EntryId) -> None:
        """Let held, obstacles in it, sent states and intents follow from one id to another."""

    @abstractmethod
    def children(self, parent: EntryId) -> Sequence[tuple[EntryId, Seen]]:
        """Return who is in a directory in local, in order of name."""

    def base(self, id: EntryId) -> State | None:
        """Return the state that both sides had last."""
        record = self._record(id)
        return record.base if record else None

    def local(self, id: EntryId) -> Seen | None:
        """Return what was last seen in the mount."""
        record = self._record(id)
        return record.local if record else None

    def remote(self, id: EntryId) -> Entry | None:
        """Return the newest state that the server told of, a kept tombstone too."""
        record = self._record(id)
        return record.remote if record else None

    def author(self, id: EntryId) -> str | None:
        """Return who made the remote state, where it differs from base."""
        record = self._record(id)
        return record.author if record else None

    def is_confirmed(self, id: EntryId) -> bool:
        """Tell whether the remote state that differs from base comes of a confirmed commit."""
        record = self._record(id)
        return record.is_confirmed if record else False

    def set_base(self, id: EntryId, state: State | None) -> None:
        """Move the base of an entry; local and remote stay what they are."""
        old = self._record(id)
        if old is None:
            self._keep(id, known(state, None, None, None, is_confirmed=False))
        else:
            self._keep(
                id,
                known(state, old.local, old.remote, old.author, is_confirmed=old.is_confirmed),
            )

    def set_local(self, id: EntryId, seen: Seen | None) -> None:
        """Know what is in the mount; None: it is not there."""
        old = self._record(id)
        if old is None:
            self._keep(id, known(None, seen, None, None, is_confirmed=False))
        else:
            self._keep(
                id, known(old.base, seen, old.remote, old.author, is_confirmed=old.is_confirmed)
            )

    def set_remote(self, entry: Entry, author: str, *, is_confirmed: bool) -> None:
        """Know a newer state, or the tombstone, of an entry."""
        old = self._record(entry.id)
        base, local = (old.base, old.local) if old else (None, None)
        self._keep(entry.id, known(base, local, entry, author, is_confirmed=is_confirmed))

    def drop_remote(self, id: EntryId) -> None:
        """Know that the server has no such entry, without a tombstone that says so."""
        old = self._record(id)
        if old is not None:
            self._keep(id, known(old.base, old.local, None, None, is_confirmed=False))

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Know the local thing `old` as the entry `new`; what is in it follows.

        AssertionError where local lacks `old` or has `new`.
        """
        seen = self.local(old)
        if seen is None or self.local(new) is not None:
            raise AssertionError("a relabel needs a local thing, and an entry that local lacks")
        # Before the old id may be forgotten, and with it that it is held.
        self._rename_in_notes(old, new)
        inside = self.children(old)
        self.set_local(old, None)
        self.set_local(new, seen)
        for id, child in inside:
            self.set_local(id, replace(child, state=replace(child.state, parent=new)))
