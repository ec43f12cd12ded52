"""The mount state as plain maps and loops: what the adapters are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

from syncline.core.entries import Entry
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId, OpId
from syncline.core.names import Name
from syncline.core.trees import Place, State, is_same, state_of
from syncline.ports.mount_state import (
    Held,
    MountFacts,
    MountSession,
    Obstacle,
    ObstacleReason,
)


@dataclass
class Model:
    """Every call of a session, the obvious way."""

    known: MountFacts
    bases: dict[EntryId, State] = field(default_factory=dict)
    locals: dict[EntryId, Seen] = field(default_factory=dict)
    remotes: dict[EntryId, Entry] = field(default_factory=dict)
    authors: dict[EntryId, tuple[str, bool]] = field(default_factory=dict)
    held_ids: dict[EntryId, Held] = field(default_factory=dict)
    placed: dict[Place, Obstacle] = field(default_factory=dict)
    ops: dict[OpId, dict[EntryId, State | None]] = field(default_factory=dict)
    wanted: dict[EntryId, State | None] = field(default_factory=dict)
    pages: dict[EntryId, Entry] = field(default_factory=dict)

    def copy(self) -> Model:
        """Return a model that goes its own way."""
        return deepcopy(self)

    def facts(self) -> MountFacts:
        return self.known

    def set_facts(self, facts: MountFacts) -> None:
        self.known = facts

    # -- the trees -------------------------------------------------------------

    def there(self, id: EntryId) -> State | None:
        entry = self.remotes.get(id)
        return state_of(entry) if entry and entry.is_live else None

    def here(self, id: EntryId) -> State | None:
        return self.locals[id].state if id in self.locals else None

    def trees(self, id: EntryId) -> list[State | None]:
        return [self.bases.get(id), self.here(id), self.there(id)]

    def ids(self) -> list[EntryId]:
        return sorted(self.bases.keys() | self.locals.keys() | self.remotes.keys())

    def _tidy(self, id: EntryId, *, was_known: bool) -> None:
        if is_same(self.bases.get(id), self.there(id)):
            self.authors.pop(id, None)
        if self.trees(id) == [None, None, None]:
            self.remotes.pop(id, None)
            if was_known:
                self.held_ids.pop(id, None)

    def is_known(self, id: EntryId) -> bool:
        return id in self.bases or id in self.locals or id in self.remotes

    def base(self, id: EntryId) -> State | None:
        return self.bases.get(id)

    def local(self, id: EntryId) -> Seen | None:
        return self.locals.get(id)

    def remote(self, id: EntryId) -> Entry | None:
        return self.remotes.get(id)

    def author(self, id: EntryId) -> str | None:
        return self.authors[id][0] if id in self.authors else None

    def is_confirmed(self, id: EntryId) -> bool:
        return id in self.authors and self.authors[id][1]

    def set_base(self, id: EntryId, state: State | None) -> None:
        was_known = self.is_known(id)
        if state is None:
            self.bases.pop(id, None)
        else:
            self.bases[id] = state
        self._tidy(id, was_known=was_known)

    def set_local(self, id: EntryId, seen: Seen | None) -> None:
        was_known = self.is_known(id)
        if seen is None:
            self.locals.pop(id, None)
        else:
            self.locals[id] = seen
        self._tidy(id, was_known=was_known)

    def set_remote(self, entry: Entry, author: str, *, is_confirmed: bool) -> None:
        was_known = self.is_known(entry.id)
        self.remotes[entry.id] = entry
        self.authors[entry.id] = (author, is_confirmed)
        self._tidy(entry.id, was_known=was_known)

    def drop_remote(self, id: EntryId) -> None:
        was_known = self.is_known(id)
        self.remotes.pop(id, None)
        self.authors.pop(id, None)
        self._tidy(id, was_known=was_known)

    def relabel(self, old: EntryId, new: EntryId) -> None:
        if old in self.held_ids:
            self.held_ids[new] = self.held_ids.pop(old)
        for parent, name in list(self.placed):
            if parent == old:
                self.placed[new, name] = self.placed.pop((parent, name))
        for states in (self.wanted, *self.ops.values()):
            if old in states:
                noted = states.pop(old)
                states.setdefault(new, noted)
            for id, state in states.items():
                if state is not None and state.parent == old:
                    states[id] = replace(state, parent=new)
        inside = self.children(old)
        seen = self.locals[old]
        self.set_local(old, None)
        self.set_local(new, seen)
        for id, child in inside:
            self.set_local(id, replace(child, state=replace(child.state, parent=new)))

    def child(self, parent: EntryId, name: Name) -> EntryId | None:
        for id, seen in self.children(parent):
            if seen.state.name == name:
                return id
        return None

    def children(self, parent: EntryId) -> Sequence[tuple[EntryId, Seen]]:
        inside = [(id, seen) for id, seen in self.locals.items() if seen.state.parent == parent]
        return sorted(inside, key=lambda item: (item[1].state.name, item[0]))

    def with_inode(self, inode: int) -> Sequence[tuple[EntryId, Seen]]:
        return [
            (id, seen)
            for id, seen in sorted(self.locals.items(), key=lambda item: item[0])
            if seen.fingerprint is not None and seen.fingerprint.inode == inode
        ]

    def at_place(self, place: Place) -> set[EntryId]:
        return {id for id in self.ids() if any(s and s.place == place for s in self.trees(id))}

    def within(self, parent: EntryId) -> set[EntryId]:
        return {id for id in self.ids() if any(s and s.parent == parent for s in self.trees(id))}

    def dirty(self) -> Sequence[EntryId]:
        return [
            id
            for id in self.ids()
            if not is_same(self.bases.get(id), self.here(id))
            or not is_same(self.bases.get(id), self.there(id))
        ]

    def dirty_count(self) -> int:
        return len(self.dirty())

    def base_count(self) -> int:
        return len(self.bases)

    def remote_ids(self, after: EntryId | None, limit: int) -> Sequence[EntryId]:
        live = [id for id in self.ids() if self.there(id) and (after is None or id > after)]
        return live[:limit]

    def forget_all(self) -> None:
        for tree in (self.bases, self.locals, self.remotes, self.authors):
            tree.clear()
        for noted in (self.held_ids, self.placed, self.ops, self.wanted, self.pages):
            noted.clear()

    def forget_server(self) -> None:
        for id in self.ids():
            self.drop_remote(id)
            self.set_base(id, None)
        self.ops.clear()

    # -- exceptions ------------------------------------------------------------

    def set_held(self, id: EntryId, held: Held | None) -> None:
        if held is None:
            self.held_ids.pop(id, None)
        else:
            self.held_ids[id] = held

    def held(self) -> Mapping[EntryId, Held]:
        return self.held_ids

    def held_of(self, id: EntryId) -> Held | None:
        return self.held_ids.get(id)

    def held_unread(self) -> Mapping[EntryId, Held]:
        return {id: held for id, held in self.held_ids.items() if not held.is_ignored}

    def set_obstacle(self, place: Place, obstacle: Obstacle | None) -> None:
        if obstacle is None:
            self.placed.pop(place, None)
        else:
            self.placed[place] = obstacle

    def obstacle(self, place: Place) -> Obstacle | None:
        return self.placed.get(place)

    def obstacles_in(self, parent: EntryId) -> Mapping[Name, Obstacle]:
        return {place[1]: found for place, found in self.placed.items() if place[0] == parent}

    def obstacles_not_ignored(self) -> Mapping[Place, Obstacle]:
        return {
            place: found
            for place, found in self.placed.items()
            if found.reason is not ObstacleReason.IGNORED
        }

    # -- notes -----------------------------------------------------------------

    def note_sent(self, op: OpId, states: Mapping[EntryId, State | None]) -> None:
        self.ops.pop(op, None)
        self.ops[op] = dict(states)

    def sent(self, op: OpId) -> Mapping[EntryId, State | None] | None:
        return self.ops.get(op)

    def forget_sent(self, op: OpId) -> None:
        self.ops.pop(op, None)

    def all_sent(self) -> Sequence[OpId]:
        return list(self.ops)

    def note_intent(self, id: EntryId, wanted: State | None) -> None:
        self.wanted[id] = wanted

    def intents(self) -> Mapping[EntryId, State | None]:
        return self.wanted

    def forget_intents(self) -> None:
        self.wanted.clear()

    def clear_incoming(self) -> None:
        self.pages.clear()

    def add_incoming(self, entries: Iterable[Entry]) -> None:
        self.pages.update((entry.id, entry) for entry in entries)

    def incoming(self) -> Iterator[Entry]:
        yield from sorted(self.pages.values(), key=lambda entry: entry.id)

    def is_incoming(self, id: EntryId) -> bool:
        return id in self.pages

    # -- trees at the end of a session -----------------------------------------

    def misplaced(self) -> tuple[str, EntryId] | None:
        """Return a tree and an entry that keeps it from being one (S2)."""
        for tree, state_in in (("local", self.here), ("remote", self.there)):
            taken: set[Place] = set()
            for id in self.ids():
                state = state_in(id)
                if state is None:
                    continue
                above = state_in(state.parent)
                is_inside = state.parent == ROOT_ID or (above is not None and above.is_directory)
                if state.place in taken or not is_inside:
                    return tree, id
                taken.add(state.place)
        return None


def observed(
    session: MountSession | Model,
    ids: Sequence[EntryId],
    names: Sequence[Name],
    ops: Sequence[OpId],
    inodes: Sequence[int],
) -> dict[str, object]:
    """Return all that a session tells about these, by the name of the call."""
    parents = [ROOT_ID, *ids]
    places = [(parent, name) for parent in parents for name in names]
    page = session.remote_ids(None, 2)
    return {
        "facts": session.facts(),
        "base": [session.base(id) for id in ids],
        "local": [session.local(id) for id in ids],
        "remote": [session.remote(id) for id in ids],
        "author": [(session.author(id), session.is_confirmed(id)) for id in ids],
        "child": [session.child(*place) for place in places],
        "children": [list(session.children(parent)) for parent in parents],
        "with_inode": [list(session.with_inode(inode)) for inode in inodes],
        "at_place": [session.at_place(place) for place in places],
        "within": [session.within(parent) for parent in parents],
        "dirty": (list(session.dirty()), session.dirty_count()),
        "base_count": session.base_count(),
        "remote_ids": (list(page), list(session.remote_ids(page[-1], 9)) if page else []),
        "held": dict(session.held()),
        "held_of": [session.held_of(id) for id in ids],
        "held_unread": dict(session.held_unread()),
        "obstacles_not_ignored": dict(session.obstacles_not_ignored()),
        "obstacles_in": [dict(session.obstacles_in(parent)) for parent in parents],
        "obstacle": [session.obstacle(place) for place in places],
        "sent": [session.sent(op) for op in ops],
        "all_sent": list(session.all_sent()),
        "intents": dict(session.intents()),
        "incoming": list(session.incoming()),
        "is_incoming": [session.is_incoming(id) for id in ids],
    }
