"""What came to a place that nobody has in local: a new thing, or a known entry that moved."""

from __future__ import annotations

from dataclasses import dataclass, replace

from syncline.client.mount.read import (
    GRAIN_S,
    fingerprint_of,
    mtime_of,
)
from syncline.client.mount.scan_gone import free
from syncline.client.mount.scan_memory import MOVED_S, NEW_S, SOON_S, UNREAD_S, Listing, Look
from syncline.client.mount.scan_moves import KINDS, Origin, Step, find_mover, has_loop
from syncline.client.mount.scan_pass import Pass
from syncline.client.reading import SECOND_LOOK_S
from syncline.core.entries import LINK_MODE, MODE_MASK, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId
from syncline.core.trees import Place, State
from syncline.ports.files import Status
from syncline.ports.mount_state import Obstacle, ObstacleReason
from syncline.ports.watcher import Mark


def arrived(run: Pass, look: Look, place: Place, status: Status, *, is_last: bool) -> None:
    """Record what is at a place that is free in local; raise OSError where it changes."""
    mover = find_mover(run, place, status)
    if mover is None:
        _appeared(run, look, place, status)
        return
    if mover.origin is Origin.THERE:
        is_there_twice(run, look, place, status)
        return
    if mover.origin is Origin.UNSURE and not is_last:
        run.memory.deferred[place] = look
        return
    if not mover.seen.state.is_directory and run.is_too_early(look, place, MOVED_S):
        run.claimed.add(mover.id)
        return
    if has_loop(run, {mover.id: place}):
        # A directory above was moved as well, and not found yet.
        if is_last:
            run.claim(mover.id, look, SOON_S)
        else:
            run.memory.deferred[place] = look
        return
    take_arrival(run, arrival(run, look, Step(mover, place, status)))


def is_there_twice(run: Pass, look: Look, place: Place, status: Status) -> None:
    """Tell a directory that moved between two looks from one that is mounted in two places."""
    again = run.status_at(place)
    if again is None or again.inode != status.inode:
        run.wait(look.mark, SOON_S)
        return
    detail = "the same directory is at another place as well"
    id = run.session.child(*place)
    if id is None:
        run.obstruct(place, Obstacle(ObstacleReason.FILE_SYSTEM, detail))
    else:
        run.hold(id, detail)
    run.wait(look.mark, UNREAD_S)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A known entry that is in another place, and what to record of it.

    `is_read`: its content is to be read again.
    """

    look: Look
    step: Step
    seen: Seen
    is_read: bool


def arrival(run: Pass, look: Look, step: Step) -> Arrival:
    """Look at what is to be recorded of an entry in its new place; raise OSError."""
    mover, place, status = step.mover, step.place, step.status
    state = mover.seen.state.at(place)
    is_young = run.is_young(status)
    now = fingerprint_of(status, mover.born_ns, is_provisional=is_young)
    known = mover.seen.fingerprint
    assert known is not None, "it was found by its inode"
    is_read = False
    match state.kind:
        case Kind.DIRECTORY:
            now = replace(now, is_provisional=False)
            state = replace(state, mode=status.mode & MODE_MASK)
        case Kind.LINK:
            # The text of a link never changes, but an inode number is soon another link's.
            now = replace(now, is_provisional=is_young or mover.born_ns == 0)
            target = run.open(place[0]).read_link(place[1])
            state = replace(state, mtime_ns=mtime_of(status), target=target)
        case Kind.FILE:
            is_sure = known.born_ns != 0 and not known.is_provisional and not look.mark.is_written
            is_read = not is_sure or not known.is_renamed(now)
            # Until it was read, the old times keep anybody from taking its content for the old.
            now = replace(known, is_provisional=True) if is_read else now
            if not is_read:
                state = replace(state, mode=status.mode & MODE_MASK)
    return Arrival(look, step, Seen(state, now), is_read)


def take_arrival(run: Pass, found: Arrival) -> None:
    """Record that an entry is in another place."""
    look, mover, place, status = found.look, found.step.mover, found.step.place, found.step.status
    old, state = mover.seen.state.place, found.seen.state
    run.obstruct(place, None)
    was_ignored = run.release(mover.id)
    run.session.set_local(mover.id, found.seen)
    run.memory.settle(old)
    run.memory.settle(place)
    run.memory.vanished.pop(mover.id, None)
    run.memory.changes += state.is_directory
    free(run, old)
    if mover.origin is Origin.UNSURE and not state.is_directory:
        # It may be at its old place too, under another name of the directory.
        run.memory.stick(old[0], Look(Mark(*old), look.quiet_s))
    if state.is_directory:
        run.walker.forget(mover.id)
        is_deep = was_ignored or mover.id not in run.memory.listed
        run.memory.listings.append(Listing(mover.id, is_deep, look.quiet_s))
    elif found.is_read:
        run.read(mover.id, place, status, is_new=False)
    elif found.seen.fingerprint is not None and found.seen.fingerprint.is_provisional:
        run.wait(Mark(*place), GRAIN_S)


def _appeared(run: Pass, look: Look, place: Place, status: Status) -> None:
    kind = KINDS[status.kind]
    if kind is Kind.DIRECTORY:
        _new_directory(run, look, place, status)
        return
    if run.is_too_early(look, place, NEW_S):
        return
    if look.mark.is_open and not look.mark.is_written and look.quiet_s < SECOND_LOOK_S / 2:
        run.wait_open(look, place)
        return
    if kind is Kind.FILE:
        run.read(run.ids.entry(), place, status, is_new=True)
        return
    directory = run.open(place[0])
    target, born_ns = directory.read_link(place[1]), directory.born_ns(place[1])
    is_young = run.is_young(status)
    state = State(*place, Kind.LINK, LINK_MODE, mtime_of(status), None, target)
    run.obstruct(place, None)
    run.memory.settle(place)
    fingerprint = fingerprint_of(status, born_ns, is_provisional=is_young)
    id = run.ids.entry()
    run.session.set_local(id, Seen(state, fingerprint))
    look_at_other_names(run, look, id, status.inode)
    if is_young:
        run.wait(Mark(*place), GRAIN_S)


def look_at_other_names(run: Pass, look: Look, id: EntryId, inode: int) -> None:
    """Look at the other names of what changed: the watcher tells only of the one it was told by."""
    if look.is_other_name or inode in run.linked:
        return
    run.linked.add(inode)
    known = run.session.with_inode(inode)
    if any(other != id for other, _ in known):
        for _, seen in known:
            mark = Mark(seen.state.parent, seen.state.name)
            run.memory.looks.append(Look(mark, look.quiet_s, is_other_name=True))


def _new_directory(run: Pass, look: Look, place: Place, status: Status) -> None:
    born_ns = run.open(place[0]).born_ns(place[1])
    id = run.ids.entry()
    state = State(*place, Kind.DIRECTORY, status.mode & MODE_MASK, 0, None, None)
    run.obstruct(place, None)
    fingerprint = fingerprint_of(status, born_ns, is_provisional=False)
    run.session.set_local(id, Seen(state, fingerprint))
    run.memory.listings.append(Listing(id, True, look.quiet_s))
    run.memory.changes += 1
