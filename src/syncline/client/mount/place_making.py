"""Making entries where nothing is: files, links, directories, conflict copies."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import partial

from syncline.client.mount.place_batch import Batch, Done, aside_file, born_of, fingerprint, renamed
from syncline.client.mount.place_displaced import (
    LINKLESS,
    Displaced,
    Label,
    digest_of_state,
    free_displaced_name,
    is_same_content,
)
from syncline.client.mount.place_staging import Staged, Stager
from syncline.client.mount.place_swaps import rescue
from syncline.core.entries import Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.names import Name
from syncline.core.plans import KeepCopy
from syncline.core.trees import State
from syncline.ports.files import Directory, FileKind, Status


def create(batch: Batch, stager: Stager, id: EntryId, wanted: State, staged: Staged | None) -> bool:
    """Make an entry; tell whether it was done. Raises OSError where nothing was done.

    `staged` is there for a file or link.
    """
    if batch.session.local(id) is not None or not batch.is_free(wanted.place):
        batch.drop(wanted.place)
        return False
    [directory] = batch.open(wanted.parent)
    if staged is None:
        return _make_directory(batch, directory, id, wanted)
    batch.ground.own.staging.move(staged.name, directory, wanted.name)
    stager.took(staged)
    before = batch.before(id)
    batch.record(id, batch.placed(directory, wanted.name, staged, wanted))
    undo = partial(_undo_create, batch, directory, id, wanted, staged)
    batch.finish(Done(before, (wanted.parent,), undo))
    return True


def _undo_create(
    batch: Batch, directory: Directory, id: EntryId, wanted: State, staged: Staged
) -> None:
    """Take a placed thing back out of a directory that left the mount, if nobody touched it.

    It is let go of by its name, as what is displaced: somebody may have it open by now.
    """
    if not staged.is_untouched(directory.look(wanted.name)):
        raise OSError(errno.ESTALE, "it was changed since")
    displaced = batch.ground.own.displaced
    label = Label(id, digest_of_state(id, wanted), None, wanted.place)
    name = free_displaced_name(displaced, label)
    directory.move(wanted.name, displaced, name, keeps_writers=True)
    batch.has_left = True


def _make_directory(batch: Batch, directory: Directory, id: EntryId, wanted: State) -> bool:
    mode = wanted.mode if batch.ground.abilities.has_modes else 0o777
    directory.make_directory(wanted.name, mode)
    status = directory.look(wanted.name)
    before = batch.before(id)
    is_there = status is not None and status.kind is FileKind.DIRECTORY
    known = None
    if status is not None and is_there:
        known = fingerprint(status, born_of(directory, wanted.name))
    batch.record(id, Seen(wanted, known))
    undo = partial(directory.remove_directory, wanted.name)
    batch.finish(Done(before, (wanted.parent,), undo))
    return True


# -- conflict copies -----------------------------------------------------------


def keep_copy(batch: Batch, stager: Stager, action: KeepCopy) -> bool:
    """Give what an entry has a second name; tell whether it was done. Raises OSError."""
    id, wanted = action.id, action.wanted
    seen = batch.expected(action.source, action.expected)
    is_free = batch.session.local(id) is None and batch.is_free(wanted.place)
    if seen is None or not is_free:
        batch.drop(action.expected.place, wanted.place)
        return False
    origin = seen.state.place
    if action.source in batch.aside:
        # The copy takes the place of its source, which is out of it already.
        [target] = batch.open(wanted.parent)
        source, name = batch.ground.own.aside, Name(aside_file(action.source))
    else:
        source, target = batch.open(origin[0], wanted.parent)
        name = origin[1]
    status = batch.found(source, name, action.source, seen)
    if status is None:
        batch.drop(origin)
        return False
    try:
        source.link(name, target, wanted.name)
    except OSError as error:
        if error.errno not in LINKLESS:
            raise
        return _copy(batch, stager, action, source, name, seen)
    _record_link(batch, action, source, name, seen, status, target)
    return True


def _record_link(
    batch: Batch,
    action: KeepCopy,
    source: Directory,
    name: Name,
    seen: Seen,
    status: Status,
    target: Directory,
) -> None:
    origin, wanted = seen.state.place, action.wanted
    now = source.look(name)
    before = batch.before(action.id, action.source)
    known = seen.fingerprint
    copied: Seen = Seen(wanted)
    if now is not None and is_same_content(status, now) and status.mode == now.mode:
        if known is not None:
            # The second name moved the ctime of the first one, and of others that it had.
            batch.pass_on(status, now)
            known = renamed(known, now)
            batch.session.set_local(action.source, Seen(seen.state, known))
        copied = Seen(wanted, known)
        batch.copied[now.inode] = wanted.place
    batch.record(action.id, copied)
    undo = partial(_undo_copy, batch, action, source, name, target)
    batch.finish(Done(before, (origin[0], wanted.parent), undo))


def _undo_copy(
    batch: Batch, action: KeepCopy, source: Directory, name: Name, target: Directory
) -> None:
    """Take the second name away while the first one is there; else it is all there is.

    It leaves the mount as what is displaced does: a user may save over it in the last instant, or
    have it open.
    """
    id, wanted = action.id, action.wanted
    one, other = source.look(name), target.look(wanted.name)
    if one is None or other is None or one.inode != other.inode:
        raise OSError(errno.ESTALE, "it was changed since")
    home, displaced = target.status().inode, batch.ground.own.displaced
    label = Label(id, digest_of_state(id, wanted), None, wanted.place)
    out = free_displaced_name(displaced, label)
    target.move(wanted.name, displaced, out, keeps_writers=True)
    try:
        now = displaced.look(out)
    except OSError:
        # E5: it may be a user's.
        batch.has_left = True
        raise
    if now is None or now.inode != one.inode:
        rescue(batch, target, out, label)
        raise OSError(errno.ESTALE, "it was changed since")
    # Not judged: he may have saved over the first name, and written into this one.
    thing = Displaced(
        out,
        label,
        batch.parts(wanted.parent),
        home,
        now,
        batch.ground.clock.monotonic_s(),
        copy=action.expected.place,
        is_judged=False,
    )
    batch.displaced.append(thing)


def _copy(
    batch: Batch, stager: Stager, action: KeepCopy, source: Directory, name: Name, seen: Seen
) -> bool:
    """Copy what an entry has, where the file system gives no second names."""
    wanted = replace(action.wanted, mode=seen.state.mode, mtime_ns=seen.state.mtime_ns)
    if wanted.kind is Kind.LINK:
        staged, kind = stager.stage_link(wanted), FileKind.LINK
    else:
        file = source.open(name)
        try:
            staged, kind = stager.stage_copy(file, wanted), FileKind.FILE
        finally:
            file.close()
    if stager.digest(staged, kind) != digest_of_state(action.source, seen.state):
        batch.drop(seen.state.place)
        return False
    return create(batch, stager, action.id, action.wanted, staged)


def take_back_copy(batch: Batch, action: KeepCopy) -> None:
    """Undo a copy whose source kept its content: two names must not lead to one file."""
    copy, source = batch.session.local(action.id), batch.session.local(action.source)
    if copy is None or source is None or copy.state.place != action.wanted.place:
        return
    origin = source.state.place
    here, there = batch.open(origin[0], action.wanted.parent)
    _undo_copy(batch, action, here, origin[1], there)
    batch.session.set_local(action.id, None)
    batch.session.set_base(action.id, None)
    batch.touched.add(action.wanted.parent)
    batch.drop(action.wanted.place)
    batch.done.discard(action.id)
