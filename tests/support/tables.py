"""A file table in a dictionary: the simplest thing that `core.table.Table` can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from syncline.core.commits import Decision
from syncline.core.entries import Entry, Kind
from syncline.core.identity import EntryId
from syncline.core.names import Name
from syncline.core.table import EMPTY_TABLE_DIGEST, TableDigest, advance_digest, path_of


class DictTable:
    """The newest state of each entry, tombstones too. Finds by looking through all of them."""

    def __init__(self, states: Iterable[Entry] = ()) -> None:
        self.states: dict[EntryId, Entry] = {state.id: state for state in states}

    def entry(self, id: EntryId) -> Entry | None:
        return self.states.get(id)

    def child(self, parent: EntryId, name: Name) -> Entry | None:
        return next((child for child in self.children(parent) if child.name == name), None)

    def children(self, parent: EntryId) -> Iterator[Entry]:
        found = [state for state in self.live() if state.parent == parent]
        return iter(sorted(found, key=lambda state: state.name))

    def directories(self, parent: EntryId) -> list[Entry]:
        return [child for child in self.children(parent) if child.kind is Kind.DIRECTORY]

    def live(self) -> list[Entry]:
        """Return all live entries, in no order that means anything."""
        return [state for state in self.states.values() if state.is_live]

    def apply(self, decision: Decision) -> None:
        """Supersede states; fails where the decision names others than the newest ones."""
        for new, old in zip(decision.entries, decision.replaced, strict=True):
            assert self.states.get(new.id) == old, "a decision supersedes what is not the newest"
            self.states[new.id] = new

    def digest(self) -> TableDigest:
        """Return the table digest, computed anew from all entries."""
        return advance_digest(EMPTY_TABLE_DIGEST, (), self.live())

    def tree(self) -> dict[bytes, EntryId]:
        """Return who is at which path."""
        return {bytes(path_of(self, state)): state.id for state in self.live()}
