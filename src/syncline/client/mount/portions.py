"""What of a plan is done now: what is not busy, in slices that a session can hold.

D1  What is left out takes with it what needs it: a copy its source (I3), an entry its directory.
D2  A slice ends where nothing is half done: no copy waits for its change, nothing is set aside.
D3  Large content is sent with nothing else. What it came with in one unit goes first, among what is
    small and in its turn, because others may need it; the next plan sends the content.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.batching import is_large
from syncline.core.changes import Delete
from syncline.core.identity import ROOT_ID, Digest, EntryId
from syncline.core.manifests import Content
from syncline.core.plans import (
    Alter,
    Create,
    KeepCopy,
    Placing,
    SetAside,
    Unit,
    ids_of,
)
from syncline.ports.mount_state import MountSession

SLICE_ACTIONS_MAX = 1_000
SLICE_BYTES_MAX = 16 * 1024 * 1024
"""How much is placed in one session."""


def needed(action: Placing) -> Content | None:
    """Return the content that an action brings into the mount; None where it brings none."""
    match action:
        case Create(_, wanted):
            return wanted.content
        case Alter(_, expected, wanted):
            return wanted.content if expected.substance != wanted.substance else None
        case _:
            return None


def large_of(actions: Sequence[Placing]) -> Iterator[Digest]:
    """Yield the large contents that actions bring."""
    for action in actions:
        content = needed(action)
        if content is not None and content.size > SMALL_BYTES_MAX:
            yield content.digest


def possible(actions: Sequence[Placing], busy: Collection[EntryId]) -> Iterator[Placing]:
    """Return the actions whose entries are not busy; a copy and its source go together (I3)."""
    left = set(busy)
    for action in actions:
        if isinstance(action, KeepCopy) and left & {action.id, action.source}:
            left |= {action.id, action.source}
    return (action for action in actions if not ids_of(action) & left)


def sliced(actions: Sequence[Placing]) -> Iterator[tuple[Placing, ...]]:
    """Cut actions into slices; an entry that is copied or set aside is in one with its change."""
    found: list[Placing] = []
    size = 0
    waiting: set[EntryId] = set()
    for action in actions:
        content = needed(action)
        weight = content.size if content is not None and content.size <= SMALL_BYTES_MAX else 0
        is_full = len(found) >= SLICE_ACTIONS_MAX or size + weight > SLICE_BYTES_MAX
        if found and not waiting and is_full:
            yield tuple(found)
            found, size = [], 0
        found.append(action)
        size += weight
        match action:
            case KeepCopy(_, source):
                waiting.add(source)
            case SetAside(id):
                waiting.add(id)
            case _:
                waiting -= ids_of(action)
    if found:
        yield tuple(found)


def ready(
    session: MountSession, units: Sequence[Unit], busy: Collection[EntryId]
) -> Iterator[Unit]:
    """Yield the units that need nothing which is left out; large ones need their directory.

    What has an heir stays while large content of the heir is still to be sent, which comes last.
    """
    left: set[EntryId] = set()
    late = {change.id for unit in units for change in unit.changes if is_large(change)}
    for unit in map(_without_large, units):
        ids = {change.id for change in unit.changes}
        parents = {change.parent for change in unit.changes if not isinstance(change, Delete)}
        is_waiting = any(id in busy for id in ids) or bool(left & (ids | parents))
        is_waiting |= unit.heir is not None and (unit.heir in late or unit.heir in busy)
        if not is_waiting and any(is_large(change) for change in unit.changes):
            is_waiting = not all(_is_there(session, parent) for parent in parents)
        if is_waiting:
            left |= ids
        else:
            yield unit


def _without_large(unit: Unit) -> Unit:
    """Leave large content out of a unit of several changes (D3).

    Nothing else in the unit needs it: it is the content of a file that moves as well, or of a new
    one; and what leaves for an heir never does so in one unit with that (I4).
    """
    if len(unit.changes) == 1 or not any(map(is_large, unit.changes)):
        return unit
    return replace(unit, changes=tuple(each for each in unit.changes if not is_large(each)))


def _is_there(session: MountSession, directory: EntryId) -> bool:
    if directory == ROOT_ID:
        return True
    known = session.remote(directory)
    return known is not None and known.is_live
