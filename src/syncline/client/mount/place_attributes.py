"""Setting mode and mtime of what is in place, and nothing else about it."""

from __future__ import annotations

import errno
from functools import partial

from syncline.client.mount.place_batch import Batch, Done
from syncline.core.entries import Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.trees import State
from syncline.ports.files import Directory, File, Status, Writers


def set_attributes(batch: Batch, id: EntryId, seen: Seen, wanted: State) -> bool:
    """Give an entry in its place another mode and mtime; tell whether it was done.

    Raises OSError where nothing, or not all of it, was done.
    """
    [directory] = batch.open(wanted.parent)
    status = batch.found(directory, wanted.name, id, seen)
    if status is None:
        batch.drop(wanted.place)
        return False
    before = batch.before(id)
    if wanted.kind is Kind.FILE:
        placed = _set_of_file(batch, directory, status, seen.state, wanted)
    else:
        placed = _set_by_name(batch, directory, seen, wanted)
    if placed is None:
        batch.drop(wanted.place)
        return False
    batch.record(id, placed)
    undo = partial(_restore, batch, directory, status.inode, seen.state, wanted)
    batch.finish(Done(before, (wanted.parent,), undo))
    return True


def _set_of_file(
    batch: Batch, directory: Directory, status: Status, old: State, wanted: State
) -> Seen | None:
    """Set them through a handle, so that no other file gets them; None where one is there now.

    Under a lease nobody writes between the check and the new time; without one the content is
    digested again at the next look, because that time may cover a write. RACE: a mode or time that
    a user sets between the check and ours is not kept.
    """
    try:
        file = directory.open(wanted.name)
    except PermissionError:
        return _set_by_name(batch, directory, Seen(old), wanted)
    try:
        writers = file.hold()
        if file.status() != status:
            return None
        _set(batch, file, old, wanted)
        now, born_ns = file.status(), file.born_ns()
        is_untouched = writers is Writers.NONE and file.is_held()
        if batch.is_few:
            file.sync()
        else:
            batch.needs_sync_all = True
    finally:
        file.close()
    if not is_untouched or now.size != status.size:
        return Seen(wanted)
    return Seen(wanted, batch.fresh_fingerprint(now, born_ns))


def _set(batch: Batch, file: File, old: State, wanted: State) -> None:
    if old.mtime_ns != wanted.mtime_ns:
        file.set_mtime(wanted.mtime_ns)
    if old.mode != wanted.mode and batch.ground.abilities.has_modes:
        file.set_mode(wanted.mode)


def _set_by_name(batch: Batch, directory: Directory, seen: Seen, wanted: State) -> Seen | None:
    """Set them by name: RACE: what a user puts there in that instant gets them, too."""
    if wanted.kind is not Kind.LINK and batch.ground.abilities.has_modes:
        directory.set_mode(wanted.name, wanted.mode)
    if wanted.kind is not Kind.DIRECTORY:
        directory.set_mtime(wanted.name, wanted.mtime_ns)
    batch.needs_sync_all = True
    known = seen.fingerprint
    if wanted.kind is Kind.DIRECTORY or known is None:
        return Seen(wanted, known)
    now = directory.look(wanted.name)
    if now is None or now.inode != known.inode or now.size != known.size:
        return Seen(wanted)
    if wanted.kind is Kind.LINK and directory.read_link(wanted.name) != wanted.target:
        # An inode number is soon another link's.
        return Seen(wanted)
    return Seen(wanted, batch.fresh_fingerprint(now, known.born_ns))


def _restore(batch: Batch, directory: Directory, inode: int, old: State, wanted: State) -> None:
    """Set mode and mtime back in a directory that left the mount, if nobody touched the entry."""
    now = directory.look(old.name)
    if now is None or now.inode != inode or not _has(batch, now, wanted):
        raise OSError(errno.ESTALE, "it was changed since")
    if old.kind is not Kind.FILE:
        _set_by_name(batch, directory, Seen(wanted), old)
    elif _set_of_file(batch, directory, now, wanted, old) is None:
        raise OSError(errno.ESTALE, "it was changed since")


def _has(batch: Batch, status: Status, wanted: State) -> bool:
    """Tell whether a thing has the mode and mtime that were set, as far as they can be held."""
    abilities = batch.ground.abilities
    grain = abilities.time_grain_ns
    is_time = status.mtime_ns // grain == wanted.mtime_ns // grain
    return (is_time or wanted.kind is Kind.DIRECTORY) and (
        status.mode == wanted.mode or wanted.kind is Kind.LINK or not abilities.has_modes
    )
