"""Looking at one name: what is there now, and which entry that is.

N1  A live place of the same kind is an edit of its entry, whatever its inode; a directory that is
    known from elsewhere moved there all the same.
N2  A place whose entry is not what is there now is taken by another only when it was looked for
    where that one went: such looks are deferred to the end.
"""

from __future__ import annotations

from dataclasses import replace

from syncline.client.local import is_staged
from syncline.client.mount.read import fingerprint_of, mtime_of
from syncline.client.mount.scan_arrivals import (
    arrival,
    arrived,
    is_there_twice,
    look_at_other_names,
    take_arrival,
)
from syncline.client.mount.scan_gone import displace, is_limbo
from syncline.client.mount.scan_memory import (
    MARGIN_S,
    MOVED_S,
    NEW_S,
    SOON_S,
    VANISHED_S,
    Listing,
    Look,
)
from syncline.client.mount.scan_moves import (
    KINDS,
    Origin,
    Step,
    find_mover,
    has_loop,
    ring_of,
)
from syncline.client.mount.scan_pass import Pass
from syncline.client.mount.scan_rules import RulesUnsettled, is_covered, refresh_rules
from syncline.client.reading import SECOND_LOOK_S
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.ignore import IGNORE_NAME
from syncline.core.names import PATH_BYTES_MAX, Name, is_reserved
from syncline.core.trees import Place
from syncline.ports.files import FileKind, Status
from syncline.ports.mount_state import Obstacle, ObstacleReason
from syncline.ports.watcher import Mark


def is_passed_over(directory: EntryId, name: bytes) -> bool:
    """Tell whether a name is the client's own and no one's entry."""
    return is_reserved(name, at_root=directory == ROOT_ID) or is_staged(name)


def look_at(run: Pass, look: Look, *, is_last: bool = False) -> None:
    """Look at a place, and record what is there; `is_last`: all else was looked at."""
    directory, name = look.mark.directory, look.mark.name
    if name is None:
        _look_at_directory(run, look)
        return
    if not run.is_known(directory) or run.is_ignored(directory):
        return
    if is_passed_over(directory, name) or is_limbo(look):
        return
    run.names += 1
    run.memory.note_looked((directory, Name(name)))
    try:
        handle = run.open(directory)
    except OSError as error:
        run.cannot_open(look, error)
        return
    try:
        status = handle.look(name)
        if name == IGNORE_NAME:
            refresh_rules(run, directory, look)
        examine(run, look, status, is_last=is_last)
    except OSError as error:
        run.trouble(look, error)
    except RulesUnsettled:
        run.wait(look.mark, SECOND_LOOK_S)


def _look_at_directory(run: Pass, look: Look) -> None:
    directory = look.mark.directory
    if not run.is_known(directory):
        return
    if look.mark.is_written or directory == ROOT_ID:
        run.memory.listings.append(Listing(directory, False, look.quiet_s))
    if directory == ROOT_ID:
        return
    seen = run.session.local(directory)
    assert seen is not None, "the directory is known"
    run.memory.looks.append(Look(Mark(seen.state.parent, seen.state.name), look.quiet_s))


def examine(run: Pass, look: Look, status: Status | None, *, is_last: bool = False) -> None:
    """Record what was seen at a name; raise OSError where it changes meanwhile."""
    name = look.mark.name
    assert name is not None, "only a name is examined"
    place = (look.mark.directory, Name(name))
    run.memory.deferred.pop(place, None)
    id = run.session.child(*place)
    _note_left(run, look, id, status)
    if status is None:
        _missing(run, look, place, id)
        return
    obstacle = _obstacle(run, place, status, is_known=id is not None)
    if obstacle is not None:
        _obstructed(run, look, id, obstacle, is_last=is_last)
        return
    if id is None:
        arrived(run, look, place, status, is_last=is_last)
        return
    run.obstruct(place, None)
    seen = run.session.local(id)
    assert seen is not None, "who is at a place in local is in local"
    if KINDS[status.kind] is not seen.state.kind:
        if _is_freed(run, look, id, None, is_last=is_last):
            arrived(run, look, place, status, is_last=is_last)
    elif seen.state.kind is Kind.DIRECTORY:
        _same_directory(run, look, id, seen, status, is_last=is_last)
    elif seen.state.kind is Kind.LINK:
        _same_link(run, look, id, seen, status)
    else:
        _same_file(run, look, id, seen, status)


def _missing(run: Pass, look: Look, place: Place, id: EntryId | None) -> None:
    run.obstruct(place, None)
    if id is None:
        run.memory.settle(place)
        return
    seen = run.session.local(id)
    is_directory = seen is not None and seen.state.is_directory
    if run.is_ignored(id) and is_covered(run, place, is_directory=is_directory):
        return
    run.vanish(id, place, look)


def _note_left(run: Pass, look: Look, id: EntryId | None, status: Status | None) -> None:
    """Take what a mark says of the thing that was at a name before: it may have other names now.

    It was written to by this one, so it is read wherever it turns up.
    """
    seen = run.session.local(id) if id is not None else None
    if id is None or seen is None or seen.fingerprint is None or seen.state.is_directory:
        return
    known = seen.fingerprint
    if status is not None and status.inode == known.inode:
        return
    look_at_other_names(run, look, id, known.inode)
    if look.mark.is_written and not known.is_provisional:
        run.session.set_local(id, Seen(seen.state, replace(known, is_provisional=True)))


# -- what is no entry ------------------------------------------------------------


def _obstacle(run: Pass, place: Place, status: Status, *, is_known: bool) -> Obstacle | None:
    is_directory = status.kind is FileKind.DIRECTORY
    if is_covered(run, place, is_directory=is_directory):
        return Obstacle(ObstacleReason.IGNORED)
    if status.device != run.device:
        return Obstacle(ObstacleReason.FILE_SYSTEM, "another file system is mounted there")
    if status.kind is FileKind.OTHER:
        return Obstacle(ObstacleReason.SPECIAL, "it is no file, directory or symbolic link")
    if not is_known and len(bytes(run.path_of(place))) > PATH_BYTES_MAX:
        return Obstacle(ObstacleReason.NAME, f"its path has more than {PATH_BYTES_MAX} bytes")
    return None


def _obstructed(
    run: Pass, look: Look, id: EntryId | None, obstacle: Obstacle, *, is_last: bool
) -> None:
    place = (look.mark.directory, Name(look.mark.name or b""))
    if id is None:
        run.memory.settle(place)
        run.obstruct(place, obstacle)
    elif obstacle.reason is ObstacleReason.IGNORED:
        ignore_all(run, id)
    elif obstacle.reason is ObstacleReason.FILE_SYSTEM:
        # What is below the other file system is hidden, and not gone.
        run.hold(id, obstacle.detail)
    elif _is_freed(run, look, id, None, is_last=is_last):
        run.obstruct(place, obstacle)


def ignore_all(run: Pass, root: EntryId) -> None:
    """Stop following an entry and all that is in it; local stays as it is."""
    found = [root]
    for id in found:
        run.ignore(id)
        # Also where it is not listed: a look at everything that just began has forgotten that.
        run.watcher.forget(id)
        run.memory.forget_directory(id)
        found.extend(child for child, _ in run.session.children(id))


# -- what is of the same kind as before ------------------------------------------


def _same_file(run: Pass, look: Look, id: EntryId, seen: Seen, status: Status) -> None:
    place, mark = seen.state.place, look.mark
    known = seen.fingerprint
    now = fingerprint_of(status, 0, is_provisional=False)
    is_changed = known is None or known.is_provisional or not known.is_unchanged(now)
    # Two changes of the mode within one tick of the clock leave one and the same ctime.
    is_changed = is_changed or status.mode & MODE_MASK != seen.state.mode
    if not is_changed and not mark.is_written:
        run.release(id)
        run.memory.settle(place)
        return
    if mark.is_open and not mark.is_written and look.quiet_s < SECOND_LOOK_S / 2:
        run.wait_open(look, place)
        return
    if known is None or not known.is_unchanged(now):
        look_at_other_names(run, look, id, status.inode)
    run.read(id, place, status, is_new=False)


def _same_link(run: Pass, look: Look, id: EntryId, seen: Seen, status: Status) -> None:
    run.release(id)
    run.memory.settle(seen.state.place)
    known = seen.fingerprint
    now = fingerprint_of(status, 0, is_provisional=False)
    if known is not None and known.is_unchanged(now) and not known.is_provisional:
        return
    look_at_other_names(run, look, id, status.inode)
    place = seen.state.place
    directory = run.open(place[0])
    target, born_ns = directory.read_link(place[1]), directory.born_ns(place[1])
    is_provisional = run.is_young(status)
    state = replace(seen.state, target=target, mtime_ns=mtime_of(status))
    fingerprint = fingerprint_of(status, born_ns, is_provisional=is_provisional)
    run.session.set_local(id, Seen(state, fingerprint))
    if is_provisional:
        run.wait(Mark(*place), SOON_S)


def _same_directory(
    run: Pass, look: Look, id: EntryId, seen: Seen, status: Status, *, is_last: bool
) -> None:
    place = seen.state.place
    known = seen.fingerprint
    born_ns = run.open(place[0]).born_ns(place[1])
    is_same_inode = known is None or known.inode == status.inode
    is_reborn = known is not None and bool(known.born_ns and born_ns != known.born_ns)
    if is_same_inode and not is_reborn:
        _still_there(run, look, id, seen, status, born_ns)
        return
    mover = find_mover(run, place, status)
    if mover is None:
        if not is_last:
            run.memory.deferred[place] = look
        elif not run.is_too_early(look, place, NEW_S):
            _adopt(run, look, id, seen, status, born_ns)
    elif mover.origin is Origin.THERE:
        is_there_twice(run, look, place, status)
    elif _is_freed(run, look, id, Step(mover, place, status), is_last=is_last):
        arrived(run, look, place, status, is_last=is_last)


def _still_there(
    run: Pass, look: Look, id: EntryId, seen: Seen, status: Status, born_ns: int
) -> None:
    was_held = run.session.held_of(id) is not None
    was_ignored = run.release(id)
    run.memory.settle(seen.state.place)
    mode = status.mode & MODE_MASK
    known = seen.fingerprint
    # Where no birth times are kept the mtime tells one directory from another.
    is_known_well = known is not None and (born_ns != 0 or known.mtime_ns == status.mtime_ns)
    if mode != seen.state.mode or not is_known_well:
        fingerprint = fingerprint_of(status, born_ns, is_provisional=False)
        run.session.set_local(id, Seen(replace(seen.state, mode=mode), fingerprint))
    is_deep = was_ignored or id not in run.memory.listed or born_ns == 0
    # Else the watcher tells of all that happens in it.
    if is_deep or was_held or mode != seen.state.mode or not run.watcher.is_watched(id):
        run.memory.listings.append(Listing(id, is_deep, look.quiet_s))


def _adopt(run: Pass, look: Look, id: EntryId, seen: Seen, status: Status, born_ns: int) -> None:
    """Know an unknown directory as the one that had its place; all in it is compared (N1)."""
    fingerprint = fingerprint_of(status, born_ns, is_provisional=False)
    state = replace(seen.state, mode=status.mode & MODE_MASK)
    run.session.set_local(id, Seen(state, fingerprint))
    run.release(id)
    run.watcher.forget(id)
    run.walker.close()
    run.memory.forget_directory(id)
    run.memory.settle(seen.state.place)
    run.memory.listings.append(Listing(id, True, look.quiet_s))
    run.memory.changes += 1


def _is_freed(
    run: Pass, look: Look, occupant: EntryId, arriving: Step | None, *, is_last: bool
) -> bool:
    """Free a place whose entry is not there any more; tell whether it is free now (N2)."""
    place = (look.mark.directory, Name(look.mark.name or b""))
    if arriving is None:
        arriving = _arriving(run, place)
    if arriving is not None and _is_ring(run, look, arriving, occupant):
        return False
    if not is_last:
        run.memory.deferred[place] = look
        return False
    if occupant in run.claimed or look.quiet_s < VANISHED_S:
        if arriving is not None:
            run.claimed.add(arriving.mover.id)
        run.wait(look.mark, max(VANISHED_S - look.quiet_s + MARGIN_S, SOON_S))
        return False
    displace(run, occupant)
    return True


def _arriving(run: Pass, place: Place) -> Step | None:
    status = run.status_at(place)
    if status is None or status.kind not in KINDS:
        return None
    mover = find_mover(run, place, status)
    if mover is None or mover.origin is Origin.THERE:
        return None
    return Step(mover, place, status)


def _is_ring(run: Pass, look: Look, arriving: Step, occupant: EntryId) -> bool:
    """Record that entries changed places in a ring, all of it at once; False where none did."""
    ring = ring_of(run, arriving, occupant)
    if ring is None or has_loop(run, {step.mover.id: step.place for step in ring}):
        return False
    if any(not step.mover.seen.state.is_directory for step in ring) and look.quiet_s < MOVED_S:
        return False
    found = [arrival(run, Look(Mark(*step.place), look.quiet_s), step) for step in ring]
    for each in found:
        take_arrival(run, each)
    return True
