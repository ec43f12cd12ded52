"""Plans: what the reconciler returns, and what its steps expect to find.

Model: a plan has five ordered parts that are carried out independently. Each may be cut off
anywhere: the rest is derived again from what was observed.

A1  `placing` is in an order in which each action can be done by creating, renaming, exchanging or
    removing one name; `sending` in an order that `core.commits.decide` accepts.
A2  An entry has at most one action a side; `SetAside` alone comes in addition, to break a ring.
A3  An action says what it expects to find. Where the mount holds something else, the action is
    dropped and nothing is touched: the next plan sees the change.
A4  A unit of `sending` goes into one STORE; an atomic one goes alone and as `is_atomic`.
"""

from __future__ import annotations

from dataclasses import dataclass

from syncline.core.changes import Change, Delete
from syncline.core.identity import EntryId
from syncline.core.names import Name
from syncline.core.trees import Place, ProblemCode, State


@dataclass(frozen=True, slots=True)
class Relabel:
    """Know the local thing `local_id` as the entry `id` from now on; nothing is read or written."""

    local_id: EntryId
    id: EntryId


@dataclass(frozen=True, slots=True)
class Confirm:
    """Move the base of an entry to what both sides have; None: both sides are without it."""

    id: EntryId
    base: State | None


@dataclass(frozen=True, slots=True)
class Create:
    """Make an entry where nothing is; its content comes from the server."""

    id: EntryId
    wanted: State


@dataclass(frozen=True, slots=True)
class KeepCopy:
    """Give the content of the local entry `source` a second name, as the new entry `id`.

    Comes before the action that replaces the content of `source`. A hard link does it: who still
    writes through an open descriptor then writes into the copy.
    """

    id: EntryId
    source: EntryId
    expected: State
    wanted: State


@dataclass(frozen=True, slots=True)
class Alter:
    """Give an entry another place, content, mode or mtime; `expected` is what the plan saw.

    After a `SetAside` of the entry it is found there and not at its expected place.
    """

    id: EntryId
    expected: State
    wanted: State


@dataclass(frozen=True, slots=True)
class Exchange:
    """Let two entries change places in one step; nothing else about them changes."""

    first: Alter
    second: Alter


@dataclass(frozen=True, slots=True)
class SetAside:
    """Take an entry out of the tree for a moment, under a name of the client's own directory."""

    id: EntryId
    expected: State


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete an entry; a directory is empty by then."""

    id: EntryId
    expected: State


Placing = Create | KeepCopy | Alter | Exchange | SetAside | Remove


def ids_of(action: Placing) -> set[EntryId]:
    """Return the entries that an action changes."""
    match action:
        case Exchange(first, second):
            return {first.id, second.id}
        case _:
            return {action.id}


@dataclass(frozen=True, slots=True)
class Unit:
    """Changes that belong into one STORE (A4).

    `heir`: who has the content of what this deletes. Where large content is sent later than the
    rest, this is not sent before that of the heir (I4).
    """

    changes: tuple[Change, ...]
    is_atomic: bool = False
    heir: EntryId | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What keeps one entry from being equal on both sides; `place` is where it would be."""

    id: EntryId
    place: Place
    code: ProblemCode


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, part by part; within a part the order counts."""

    relabels: tuple[Relabel, ...] = ()
    confirms: tuple[Confirm, ...] = ()
    placing: tuple[Placing, ...] = ()
    sending: tuple[Unit, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing is to be done; there may be problems all the same."""
        return not (self.relabels or self.confirms or self.placing or self.sending)

    @property
    def removals(self) -> int:
        """Return how many entries the plan deletes in the mount."""
        return sum(isinstance(action, Remove) for action in self.placing)

    @property
    def deletes(self) -> int:
        """Return how many entries the plan asks the server to delete."""
        return sum(isinstance(change, Delete) for unit in self.sending for change in unit.changes)


def aside_name(id: EntryId) -> Name:
    """Return the name an entry has at the server's root within a STORE that breaks a ring."""
    return Name(b".syncline-aside-" + id.hex().encode())
