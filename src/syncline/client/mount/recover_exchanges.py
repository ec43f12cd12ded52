"""After a crash inside an exchange in steps: what it took out of its place goes back.

Model: where a file system cannot exchange two names in one step, a thing of the mount is for a
moment under a name of `EXCHANGE_PREFIX` alone (`ports.files`), in the client's own directory for
content that is swapped, in the mount for entries that change places. Whose it is, its inode tells,
or else the label that the swap gave to the other thing before (`place_displaced`, D1).

X1  It is back before the first scan: an empty place must not look like a user's delete (G4).
X2  Only a second name of what has its place is removed. What has lost its place becomes what a swap
    in one step leaves, and is judged like that; what is nobody's gets a name in the root.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncline.client.mount.place_batch import Batch, born_of
from syncline.client.mount.place_displaced import (
    KINDS,
    Label,
    conflict_names,
    digest_at,
    digest_of_state,
    free_displaced_name,
    full_place,
    move_out,
    parse_label,
)
from syncline.client.mount.walker import Walker
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, Digest, EntryId, digest_of
from syncline.core.names import Name, escape
from syncline.core.trees import Place
from syncline.ports.files import EXCHANGE_PREFIX, Directory, Status
from syncline.ports.mount_state import MountSession

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Thing:
    """What lies under such a name, and the entries that it may be, by its inode."""

    home: Directory
    name: bytes
    status: Status
    owners: Sequence[tuple[EntryId, Seen]]


@dataclass(frozen=True, slots=True)
class _Spot:
    """What lies at a place; not `is_known` where its directory cannot be looked into."""

    is_known: bool
    status: Status | None

    @property
    def is_free(self) -> bool:
        return self.is_known and self.status is None

    def has(self, status: Status | None) -> bool:
        return self.status is not None and status is not None and self.status.inode == status.inode


def return_swapped(batch: Batch, *, is_last: bool) -> None:
    """Put back what a cut-off swap of content took out; raises OSError.

    Directories on the way may have been moved by the same batch, so it is tried before these are
    known as moved, and after that (`is_last`) the rest gets another name.
    """
    own = batch.ground.own
    for home in (own.staging, own.displaced):
        for thing in _things(batch, home):
            if not _is_back(batch, thing) and is_last:
                _let_out(batch, thing)
    for thing in _things(batch, own.top) if is_last else ():
        # A marker that was written anew.
        own.top.remove(thing.name)


def return_exchanged(batch: Batch) -> None:
    """Put back, or forward, what a cut-off exchange of two entries took out; raises OSError.

    Comes before it is known what moved, because that is told by where things are now.
    """
    session = batch.session
    homes: set[EntryId] = set()
    for id, wanted in session.intents().items():
        seen = session.local(id)
        if wanted is not None and seen is not None and seen.state.place != wanted.place:
            homes.add(wanted.parent)
    for id in sorted(homes):
        # With handles of its own: those of the batch are good until the next is opened.
        with Walker(batch.ground.root) as walker:
            try:
                home = walker.open(session, id)
                things = list(_things(batch, home))
            except OSError as error:
                # The scan takes what lies there for a move of the entry to that name.
                logger.warning("unlooked directory=%s error=%s", id.hex(), error.strerror)
                continue
            for thing in things:
                _return_entry(batch, thing)
            batch.touched.add(id)


def _things(batch: Batch, home: Directory) -> Iterator[_Thing]:
    for name, status in sorted(home.list()):
        if name.startswith(EXCHANGE_PREFIX):
            owners = _owners(batch.session, home, name, status)
            yield _Thing(home, name, status, owners)


def _owners(
    session: MountSession, home: Directory, name: bytes, status: Status
) -> list[tuple[EntryId, Seen]]:
    born_ns = born_of(home, name)
    return [
        (id, seen)
        for id, seen in session.with_inode(status.inode)
        if KINDS.get(status.kind) is seen.state.kind
        and seen.fingerprint is not None
        and seen.fingerprint.born_ns == born_ns
    ]


def _look(batch: Batch, place: Place) -> _Spot:
    try:
        [directory] = batch.open(place[0])
        return _Spot(is_known=True, status=directory.look(place[1]))
    except OSError:
        return _Spot(is_known=False, status=None)


# -- content that was swapped ------------------------------------------------------


def _is_back(batch: Batch, thing: _Thing) -> bool:
    """Try to give a thing its place again; tell whether it has it."""
    is_second_name = False
    for places in _places(batch, thing):
        looks = [(place, _look(batch, place)) for place in places]
        if any(spot.has(thing.status) for _, spot in looks):
            # The last step was cut off, or an earlier return. Another file with the same inode, a
            # hard link, may still be the one that lost its place.
            is_second_name = True
        elif any(_is_put(batch, thing, place) for place, spot in looks if spot.is_free):
            return True
    if is_second_name:
        thing.home.remove(thing.name)
    return is_second_name


def _is_put(batch: Batch, thing: _Thing, place: Place) -> bool:
    """Move a thing to a free place; False where that was taken meanwhile."""
    [directory] = batch.open(place[0])
    try:
        thing.home.move(thing.name, directory, place[1])
    except FileExistsError:
        return False
    batch.touched.add(place[0])
    return True


def _places(batch: Batch, thing: _Thing) -> Iterator[list[Place]]:
    """Yield, for each entry that a thing may be, the places that it may have had."""
    session = batch.session
    labels = [
        label
        for name, _ in sorted(batch.ground.own.displaced.list())
        if (label := parse_label(name)) is not None and label.wanted is not None
    ]
    for id, seen in thing.owners:
        if _is_swapped(batch, id, seen):
            continue
        told = [full_place(session, label) for label in labels if label.id == id]
        yield [*told, seen.state.place]
    if not thing.owners:
        # A user saved it in the last instant, or it was being placed.
        yield from ([full_place(session, label)] for label in _labels(batch, thing, labels))


def _is_swapped(batch: Batch, id: EntryId, seen: Seen) -> bool:
    """Tell whether an entry has its new content at its new place: what it had is displaced."""
    wanted = batch.session.intents().get(id)
    if wanted is None or wanted.place == seen.state.place:
        return False
    digest = digest_of_state(id, wanted)
    try:
        [directory] = batch.open(wanted.parent)
        status = directory.look(wanted.name)
        return (
            digest != digest_of_state(id, seen.state)
            and status is not None
            and digest_at(directory, wanted.name, status.kind, id) == digest
        )
    except OSError:
        return False


def _labels(batch: Batch, thing: _Thing, labels: Sequence[Label]) -> Sequence[Label]:
    """Return the labels that a thing without an owner may be of."""
    digest = _digest(thing)
    told = [label for label in labels if digest in (label.expected, label.wanted)]
    free = [label for label in labels if _look(batch, full_place(batch.session, label)).is_free]
    return told or (free if len(free) == 1 else [])


def _digest(thing: _Thing) -> Digest:
    try:
        return digest_at(thing.home, thing.name, thing.status.kind, ROOT_ID)
    except OSError as error:
        # It equals nothing then, and is kept.
        logger.warning("unread name=%s error=%s", escape(thing.name), error.strerror)
        return digest_of(thing.name)


def _let_out(batch: Batch, thing: _Thing) -> None:
    """Let what lost its place be judged as displaced, or give it a name in the root (X2)."""
    ground = batch.ground
    label = _label_of(batch.session, thing)
    if label is not None:
        name = free_displaced_name(ground.own.displaced, label)
        thing.home.move(thing.name, ground.own.displaced, name)
        return
    wish = Name(b"rescued-" + thing.name.removeprefix(EXCHANGE_PREFIX))
    names = conflict_names(ground.root, wish, ground.replica, _digest(thing), lambda _: False)
    found = move_out(thing.home, thing.name, ground.root, next(names), names)
    batch.touched.add(ROOT_ID)
    batch.rescued.append(batch.path((ROOT_ID, found)))


def _label_of(session: MountSession, thing: _Thing) -> Label | None:
    """Return the label of what an intent was to replace or to place; None of anything else."""
    intents = session.intents()
    for id, seen in thing.owners:
        if id in intents:
            wanted = intents[id]
            new = None if wanted is None else digest_of_state(id, wanted)
            return Label(id, digest_of_state(id, seen.state), new, seen.state.place)
    digest = _digest(thing)
    for id, wanted in intents.items():
        found = session.local(id)
        for state in (wanted, None if found is None else found.state):
            if state is not None and digest_of_state(id, state) == digest:
                # It tells nothing of whether the swap was done, only that it may go.
                return Label(id, digest, None, state.place)
    return None


# -- entries that changed places ----------------------------------------------------


def _return_entry(batch: Batch, thing: _Thing) -> None:
    """Give an entry its place again, or the one that it was on its way to."""
    intents = batch.session.intents()
    for id, seen in thing.owners:
        wanted, place = intents.get(id), seen.state.place
        if wanted is None:
            continue
        here, there = _look(batch, place), _look(batch, wanted.place)
        if here.has(thing.status) or there.has(thing.status):
            thing.home.remove(thing.name)
            return
        if here.has(there.status):
            _part(batch, place)
        for target in (place, wanted.place):
            if _look(batch, target).is_free and _is_put(batch, thing, target):
                return
        # Users took both places: it gets a name beside them, and the scan follows it by its inode.
        names = conflict_names(
            thing.home, place[1], batch.ground.replica, _digest(thing), lambda _: False
        )
        move_out(thing.home, thing.name, thing.home, next(names), names)
        return


def _part(batch: Batch, place: Place) -> None:
    """Free a place where the other entry, in the middle of its move, has a second name."""
    displaced = batch.ground.own.displaced
    [directory] = batch.open(place[0])
    status = directory.look(place[1])
    owners = [] if status is None else _owners(batch.session, directory, place[1], status)
    for id, seen in owners[:1]:
        # It is judged there, so that what a user put here just now comes back.
        label = Label(id, digest_of_state(id, seen.state), None, place)
        directory.move(place[1], displaced, free_displaced_name(displaced, label))
        batch.touched.add(place[0])
