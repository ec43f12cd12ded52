"""Who came to a new place: a known entry that is not at its own any more, or nobody known.

M1  A new place and a known entry are one thing if inode and birth time are the same. Where no birth
    times are kept, size and mtime must be the same too, and a file is read again.
M2  A file moved only if its own place has no file now: a file there is an edit of it. A directory
    moved if another directory is at its place, or none.
M3  What is still at its own place as well is another name of the same file, and a separate entry.
M4  Who would come to lie in itself was seen half-way: nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from syncline.client.mount.read import NOT_THERE
from syncline.client.mount.scan_gone import LIMBO_PREFIX
from syncline.client.mount.scan_pass import Pass
from syncline.core.entries import Kind
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.trees import Place
from syncline.ports.files import FileKind, Status

RING_MAX = 64
"""Directories that change places in a ring: more are seen one by one, and as gone and new."""

KINDS: Mapping[FileKind, Kind] = {
    FileKind.FILE: Kind.FILE,
    FileKind.DIRECTORY: Kind.DIRECTORY,
    FileKind.LINK: Kind.LINK,
}


class Origin(Enum):
    """What is known of the place that an entry had."""

    LEFT = "left"
    UNSURE = "unsure"
    """The directory that it was in is not at its own place."""
    THERE = "there"
    """The same directory is at both places."""


@dataclass(frozen=True, slots=True)
class Mover:
    """A known entry that was seen in another place."""

    id: EntryId
    seen: Seen
    origin: Origin
    born_ns: int


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of a ring, its new place, and what was seen there."""

    mover: Mover
    place: Place
    status: Status


def find_mover(run: Pass, place: Place, status: Status) -> Mover | None:
    """Return who came to a place (M1-M3); raise OSError where the place itself changes."""
    kind = KINDS[status.kind]
    known = [
        (id, seen)
        for id, seen in run.session.with_inode(status.inode)
        if seen.state.kind is kind and seen.state.place != place
    ]
    if not known:
        return None
    born_ns = run.open(place[0]).born_ns(place[1])
    # Of two that had the inode, the newer one: a file that was renamed over another has both.
    known.sort(key=lambda each: (_ctime_of(each[1]), each[0]), reverse=True)
    for id, seen in known:
        if seen.fingerprint is None or not is_one(seen.fingerprint, status, born_ns):
            continue
        origin = _origin(run, seen)
        if origin is Origin.THERE and kind is not Kind.DIRECTORY:
            continue
        return Mover(id, seen, origin, born_ns)
    return None


def _ctime_of(seen: Seen) -> int:
    return seen.fingerprint.ctime_ns if seen.fingerprint is not None else 0


def is_one(known: Fingerprint, status: Status, born_ns: int) -> bool:
    """Tell whether a status is of the thing that a fingerprint was taken of (M1)."""
    if known.inode != status.inode:
        return False
    if known.born_ns and born_ns:
        return known.born_ns == born_ns
    if status.kind is FileKind.DIRECTORY:
        return known.mtime_ns == status.mtime_ns
    return (known.size, known.mtime_ns) == (status.size, status.mtime_ns)


def _origin(run: Pass, seen: Seen) -> Origin:
    """Look whether an entry is at its recorded place.

    An error says nothing of a file, which may have two places; a directory has only one.
    """
    if seen.state.name.startswith(LIMBO_PREFIX):
        return Origin.LEFT
    try:
        status = run.status_at(seen.state.place)
    except OSError as error:
        is_elsewhere = seen.state.is_directory or error.errno in NOT_THERE
        return Origin.UNSURE if is_elsewhere else Origin.THERE
    if status is None or KINDS.get(status.kind) is not seen.state.kind:
        return Origin.LEFT
    assert seen.fingerprint is not None, "it was found by its inode"
    if seen.state.is_directory and status.inode != seen.fingerprint.inode:
        return Origin.LEFT
    return Origin.THERE


def ring_of(run: Pass, first: Step, occupant: EntryId) -> Sequence[Step] | None:
    """Return who changed places in a ring, if the one whose place was taken ends it."""
    steps = [first]
    displaced = run.session.local(occupant)
    assert displaced is not None, "who has a place is in local"
    if displaced.fingerprint is None:
        return None
    while len(steps) < RING_MAX:
        target = steps[-1].mover.seen.state.place
        try:
            status = run.status_at(target)
            if status is None or status.kind not in KINDS:
                return None
            if KINDS[status.kind] is displaced.state.kind:
                born_ns = run.open(target[0]).born_ns(target[1])
                if is_one(displaced.fingerprint, status, born_ns):
                    mover = Mover(occupant, displaced, Origin.LEFT, born_ns)
                    return [*steps, Step(mover, target, status)]
            following = find_mover(run, target, status)
        except OSError:
            return None
        if following is None or following.origin is Origin.THERE:
            return None
        if following.id in (step.mover.id for step in steps):
            return None
        steps.append(Step(following, target, status))
    return None


def has_loop(run: Pass, places: Mapping[EntryId, Place]) -> bool:
    """Tell whether somebody would lie in itself with these new places (M4)."""
    for start in places:
        passed = {start}
        id = places[start][0]
        while id != ROOT_ID:
            seen = run.session.local(id)
            if id in passed or seen is None:
                return True
            passed.add(id)
            id = places[id][0] if id in places else seen.state.parent
    return False
