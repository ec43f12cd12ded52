"""Moving entries within the mount: to a free place, for each other's, or aside for a moment."""

from __future__ import annotations

import errno
from functools import partial

from syncline.client.mount.place_batch import Batch, Done, aside_file, renamed
from syncline.client.mount.place_displaced import is_same_content
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name
from syncline.core.plans import Exchange, SetAside
from syncline.core.trees import Place
from syncline.ports.files import Directory, Status


def shift(batch: Batch, id: EntryId, seen: Seen, place: Place) -> Seen | None:
    """Move an entry to a free place; return what local says of it then, None where it did not.

    Raises OSError where nothing was done.
    """
    origin = seen.state.place
    is_aside = id in batch.aside
    if not batch.is_free(place) or batch.is_inside(id, place[0]):
        batch.drop(origin, place)
        return None
    if is_aside:
        [target] = batch.open(place[0])
        source, name = batch.ground.own.aside, aside_file(id)
    else:
        source, target = batch.open(origin[0], place[0])
        name = origin[1]
    status = batch.found(source, name, id, seen) if not is_aside else source.look(name)
    if status is None:
        batch.drop(origin)
        return None
    source.move(name, target, place[1])
    try:
        now = target.look(place[1])
    except OSError:
        target.move(place[1], source, name)
        raise
    is_ours = now is not None and now.inode == status.inode
    if not is_ours and not is_aside:
        _return(batch, target, place, source, name)
        batch.drop(origin, place)
        return None
    before = batch.before(id)
    was_aside = batch.aside.pop(id, None)
    # What was aside is ours alone: it did get there, and a user took it away at once.
    moved = _renamed(seen, status, now if now is not None and is_ours else status, place)
    batch.record(id, moved)
    if is_ours:
        batch.pass_on(status, now)
    else:
        batch.drop(place)
    undo = partial(_undo_shift, batch, id, status.inode, target, place[1], source, name, was_aside)
    touched = (place[0],) if is_aside else (origin[0], place[0])
    batch.finish(Done(before, touched, undo))
    return moved


def _return(batch: Batch, target: Directory, place: Place, source: Directory, name: bytes) -> None:
    """Give back what was moved in place of the entry: a user put it there in the last instant."""
    try:
        target.move(place[1], source, name)
    except OSError:
        # It is whole where it is, and is looked at there.
        batch.touched.add(place[0])


def _renamed(seen: Seen, status: Status, now: Status, place: Place) -> Seen:
    """Return what local says of a thing that was moved; without times where it was written to."""
    known = seen.fingerprint
    state = seen.state.at(place)
    if known is None or state.is_directory:
        return Seen(state, known)
    if not is_same_content(status, now) or status.mode != now.mode:
        return Seen(state)
    return Seen(state, renamed(known, now))


def _undo_shift(
    batch: Batch,
    id: EntryId,
    inode: int,
    target: Directory,
    target_name: Name,
    source: Directory,
    name: bytes,
    was_aside: Place | None,
) -> None:
    _check_inode(target, target_name, inode)
    target.move(target_name, source, name)
    if was_aside is not None:
        batch.aside[id] = was_aside


def _check_inode(directory: Directory, name: bytes, inode: int) -> None:
    status = directory.look(name)
    if status is None or status.inode != inode:
        raise OSError(errno.ESTALE, "it was changed since")


def exchange(batch: Batch, action: Exchange) -> bool:
    """Let two entries change places; tell whether it was done. Raises OSError."""
    one, other = action.first, action.second
    seen, other_seen = (
        batch.expected(one.id, one.expected),
        batch.expected(other.id, other.expected),
    )
    place, other_place = one.expected.place, other.expected.place
    if seen is None or other_seen is None or batch.aside.keys() & {one.id, other.id}:
        batch.drop(place, other_place)
        return False
    if batch.is_inside(one.id, other_place[0]) or batch.is_inside(other.id, place[0]):
        batch.drop(place, other_place)
        return False
    source, target = batch.open(place[0], other_place[0])
    status = batch.found(source, place[1], one.id, seen)
    other_status = batch.found(target, other_place[1], other.id, other_seen)
    if status is None or other_status is None:
        batch.drop(place, other_place)
        return False
    source.exchange(place[1], target, other_place[1])
    undo = partial(source.exchange, place[1], target, other_place[1])
    try:
        now, other_now = target.look(other_place[1]), source.look(place[1])
    except OSError:
        # Not recorded, it would look like two edits of a user.
        undo()
        raise
    is_done = (
        now is not None
        and other_now is not None
        and (now.inode, other_now.inode) == (status.inode, other_status.inode)
    )
    if not is_done:
        batch.drop(place, other_place)
        undo()
        return False
    assert now is not None
    assert other_now is not None
    before = batch.before(one.id, other.id)
    batch.record(one.id, _renamed(seen, status, now, other_place))
    batch.record(other.id, _renamed(other_seen, other_status, other_now, place))
    batch.pass_on(status, now)
    batch.pass_on(other_status, other_now)
    batch.finish(Done(before, (place[0], other_place[0]), undo))
    return True


def set_aside(batch: Batch, action: SetAside) -> bool:
    """Take an entry out of the tree for a moment; tell whether it was done. Raises OSError."""
    id, place = action.id, action.expected.place
    seen = batch.expected(id, action.expected)
    [directory] = batch.open(place[0])
    status = None if seen is None else batch.found(directory, place[1], id, seen)
    if status is None:
        batch.drop(place)
        return False
    aside, name = batch.ground.own.aside, aside_file(id)
    directory.move(place[1], aside, name)
    # Known at once, so that it gets back whatever fails.
    batch.aside[id] = place
    now = aside.look(name)
    if now is None or now.inode != status.inode:
        aside.move(name, directory, place[1])
        del batch.aside[id]
        batch.drop(place)
        return False
    undo = partial(_undo_aside, batch, id, directory, place[1])
    batch.finish(Done(batch.before(id), (place[0],), undo))
    batch.pass_on(status, now)
    return True


def _undo_aside(batch: Batch, id: EntryId, directory: Directory, name: Name) -> None:
    batch.ground.own.aside.move(aside_file(id), directory, name)
    del batch.aside[id]


def return_all(batch: Batch) -> None:
    """Put back what is still aside; where its place is taken, or gone, into the root (A3)."""
    for id in sorted(batch.aside):
        seen = batch.session.local(id)
        place = batch.aside[id]
        assert seen is not None, "what is aside is in local"
        batch.drop(place)
        if not _is_back(batch, id, place):
            _into_root(batch, id, seen)
        del batch.aside[id]
        batch.done.discard(id)


def _is_back(batch: Batch, id: EntryId, place: Place) -> bool:
    """Try to put an entry where it was; tell whether that was possible."""
    if not batch.is_free_for(id, place):
        return False
    aside, name = batch.ground.own.aside, aside_file(id)
    try:
        [directory] = batch.open(place[0])
        aside.move(name, directory, place[1])
    except OSError:
        return False
    batch.touched.add(place[0])
    return True


def _into_root(batch: Batch, id: EntryId, seen: Seen) -> None:
    """Give an entry a name of its own in the root: the next plan takes it from there."""
    place = (ROOT_ID, rescued_name(id))
    aside = batch.ground.own.aside
    aside.move(aside_file(id), batch.ground.root, place[1])
    batch.touched.add(ROOT_ID)
    batch.record(id, Seen(seen.state.at(place), seen.fingerprint))
    batch.drop(place)
    batch.rescued.append(batch.path(place))


def rescued_name(id: EntryId) -> Name:
    """Return the name in the root of an entry that has no other place."""
    return Name(b"rescued-" + id.hex().encode())
