"""Swapping content in and out of a place, and looking at what came out.

Each swap is one rename. What came out is judged by what local said of it: as it was seen, with
nobody writing to it, it may go once the base is recorded; anything else is a user's (E2).
"""

from __future__ import annotations

import errno
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from syncline.client.mount.place_batch import Batch, Done
from syncline.client.mount.place_displaced import (
    KINDS,
    Displaced,
    Label,
    conflict_names,
    digest_at,
    digest_of_file,
    digest_of_state,
    free_displaced_name,
    is_copied,
    move_out,
    parse_label,
)
from syncline.client.mount.place_staging import Staged, Stager
from syncline.core.entries import Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.names import Name, escape
from syncline.core.trees import State
from syncline.ports.files import EXCHANGE_PREFIX, Directory, FileKind, Status, Writers

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Out:
    """The entry that leaves a place, and what local says of it."""

    id: EntryId
    seen: Seen


def swap(
    batch: Batch, stager: Stager, out: Out, id: EntryId, wanted: State, staged: Staged
) -> bool:
    """Put a staged thing in the place of a file or link, in one step; tell whether it was done.

    `out.id` is `id` where an entry changes its content, else `out` is removed for it. Raises
    OSError where nothing was done.
    """
    place = out.seen.state.place
    [directory] = batch.open(place[0])
    ready = _ready(batch, directory, out)
    if ready is None:
        batch.drop(place)
        return False
    own = batch.ground.own
    label = Label(
        out.id, digest_of_state(out.id, out.seen.state), digest_of_state(id, wanted), place
    )
    name = free_displaced_name(own.displaced, label)
    # Under its new name before the swap: what the swap leaves there is told by it (D1).
    own.staging.move(staged.name, own.displaced, name)
    try:
        own.displaced.exchange(name, directory, place[1])
    except OSError:
        # Also for where it cannot be moved back.
        batch.has_left = True
        _name_halfway(own.displaced, replace(label, wanted=None))
        own.displaced.move(name, own.staging, staged.name)
        raise
    stager.took(staged)
    try:
        is_another = _came_another_kind(own.displaced, name, out.seen.state.kind)
        placed = batch.placed(directory, place[1], staged, wanted)
    except OSError:
        # What is not recorded would look like a user's, and nobody would let go of what came out.
        _swap_back(batch, directory, label, name)
        raise
    if is_another:
        return _swap_back(batch, directory, label, name)
    before = batch.before(out.id, id)
    if out.id != id:
        batch.record(out.id, None)
    batch.record(id, placed)
    thing, _ = _kept(batch, directory, name, label, out.seen)
    batch.pass_on(ready, None if thing is None else thing.status)
    undo = partial(_undo_swap, batch, directory, place[1], name, staged)
    batch.finish(Done(before, (place[0],), undo, thing))
    return True


def _ready(batch: Batch, directory: Directory, out: Out) -> Status | None:
    """Return what a place holds, and make it durable; None where it is not what local says.

    Otherwise a power loss could tear it after it was swapped out, and it would look like a user's.
    """
    name = out.seen.state.name
    status = batch.found(directory, name, out.id, out.seen)
    if status is None:
        return None
    if batch.is_few and out.seen.state.kind is Kind.FILE:
        # RACE: what this user may not read is not synced: a copy too many may come of it.
        with suppress(PermissionError):
            file = directory.open(name)
            try:
                file.sync()
            finally:
                file.close()
    return status


def _came_another_kind(displaced: Directory, name: bytes, kind: Kind) -> bool:
    status = displaced.look(name)
    return status is not None and KINDS.get(status.kind) is not kind


def _swap_back(
    batch: Batch,
    directory: Directory,
    label: Label,
    name: bytes,
) -> bool:
    """Give a user back what he put there in the last instant; False, as nothing was done."""
    own, place = batch.ground.own, label.place
    batch.drop(place)
    # He may have saved over what was placed, or have it open: its name tells what it should be.
    batch.has_left = True
    try:
        own.displaced.exchange(name, directory, place[1])
    except FileNotFoundError:
        # He took away what was placed: his thing gets its name back.
        rescue(batch, directory, name, replace(label, wanted=None))
    except OSError:
        _name_halfway(own.displaced, _placed_label(label))
        raise
    return False


def _placed_label(label: Label) -> Label:
    """Return the label of what a swap placed, once it is out of its place again."""
    return replace(label, expected=label.wanted or label.expected, wanted=None)


def _name_halfway(displaced: Directory, label: Label) -> None:
    """Give what an exchange in steps could not put back, because a user took its place, a label.

    By that it is let go of as what came out of a swap, and does not wait for the next start. The
    label says of no swap that it was done (`wanted` is None).
    """
    with suppress(OSError):
        for name, _ in displaced.list():
            if name.startswith(EXCHANGE_PREFIX):
                displaced.move(name, displaced, free_displaced_name(displaced, label))


def _undo_swap(
    batch: Batch, directory: Directory, place_name: Name, name: bytes, staged: Staged
) -> None:
    """Take a placed file back out of a directory that left the mount, if nobody touched it."""
    if not staged.is_untouched(directory.look(place_name)):
        raise OSError(errno.ESTALE, "it was changed since")
    own = batch.ground.own
    # What comes out is let go of by its name: somebody may have it open by now (D2, D3).
    batch.has_left = True
    try:
        own.displaced.exchange(name, directory, place_name)
    except OSError:
        label = parse_label(name)
        assert label is not None, "what a swap took out has a label"
        _name_halfway(own.displaced, _placed_label(label))
        raise


def remove(batch: Batch, out: Out) -> bool:
    """Take a file or link out of the mount; tell whether it was done. Raises OSError."""
    state = out.seen.state
    [directory] = batch.open(state.parent)
    ready = _ready(batch, directory, out)
    if ready is None:
        batch.drop(state.place)
        return False
    displaced = batch.ground.own.displaced
    label = Label(out.id, digest_of_state(out.id, state), None, state.place)
    name = free_displaced_name(displaced, label)
    directory.move(state.name, displaced, name, keeps_writers=True)
    thing, is_expected = _kept(batch, directory, name, label, out.seen)
    if not is_expected:
        return False
    before = batch.before(out.id)
    batch.record(out.id, None)
    batch.pass_on(ready, None if thing is None else thing.status)
    undo = partial(displaced.move, name, directory, state.name)
    batch.finish(Done(before, (state.parent,), undo, thing))
    return True


# -- what came out -------------------------------------------------------------


def _kept(
    batch: Batch, directory: Directory, name: bytes, label: Label, seen: Seen
) -> tuple[Displaced | None, bool]:
    """Return what to keep until it may go, and whether that is what local said; rescue it if not.

    What cannot be looked at just now is left: who lets go of it judges it by its name.
    """
    try:
        thing = _judged(batch, directory, name, label, seen)
    except OSError:
        # E5: it may be a user's.
        batch.has_left = True
        return None, True
    if thing is None:
        rescue(batch, directory, name, label)
    return thing, thing is not None


def _judged(
    batch: Batch, directory: Directory, name: bytes, label: Label, seen: Seen
) -> Displaced | None:
    """Return what to keep until it may go; None where it is not what local said; raise OSError."""
    displaced = batch.ground.own.displaced
    status = displaced.look(name)
    if status is None:
        return None
    thing = Displaced(
        name,
        label,
        batch.parts(label.place[0]),
        directory.status().inode,
        status,
        batch.ground.clock.monotonic_s(),
        copy=batch.copied.get(status.inode),
    )
    if is_copied(displaced, thing, status):
        return thing
    if status.kind is FileKind.FILE:
        return _judged_file(displaced, thing, seen)
    is_expected = digest_at(displaced, name, status.kind, label.id) == label.expected
    return replace(thing, is_idle=True) if is_expected else None


def _judged_file(displaced: Directory, thing: Displaced, seen: Seen) -> Displaced | None:
    try:
        file = displaced.open(thing.name)
    except PermissionError:
        return thing if _is_as_seen(thing.status, seen) else None
    try:
        writers = file.hold()
        now = file.status()
        if not _is_as_seen(now, seen) and digest_of_file(file) != thing.label.expected:
            return None
        is_idle = writers is Writers.NONE and file.is_held()
        return replace(thing, status=now, is_idle=is_idle)
    finally:
        file.close()


def _is_as_seen(status: Status, seen: Seen) -> bool:
    """Tell whether times prove that a file was renamed and nothing else."""
    known = seen.fingerprint
    if known is None or known.is_provisional:
        return False
    return (known.inode, known.size, known.mtime_ns) == (
        status.inode,
        status.size,
        status.mtime_ns,
    )


def rescue(batch: Batch, directory: Directory, name: bytes, label: Label) -> None:
    """Give a user's content a name in the mount: its own after a removal, else one beside it.

    Where that fails it stays where it is, and is looked at again soon, or at the next start (D1).
    """
    displaced, place = batch.ground.own.displaced, label.place
    try:
        status = displaced.look(name)
        if status is None:
            return
        digest = digest_at(displaced, name, status.kind, label.id)
        names = conflict_names(
            directory,
            place[1],
            batch.ground.replica,
            digest,
            lambda other: batch.session.child(place[0], other) is not None,
        )
        wish = place[1] if label.wanted is None else next(names)
        found = move_out(displaced, name, directory, wish, names)
    except OSError as error:
        logger.warning("rescue failed name=%s error=%s", escape(name), error.strerror)
        batch.has_left = True
        return
    batch.touched.add(place[0])
    batch.drop((place[0], found))
    batch.drop(place)
    if found != place[1]:
        batch.rescued.append(batch.path((place[0], found)))
