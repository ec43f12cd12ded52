"""What is not at its place any more: found elsewhere by now, too young to tell, or gone."""

from __future__ import annotations

from dataclasses import replace

from syncline.client.mount.read import NOT_THERE
from syncline.client.mount.scan_memory import (
    MARGIN_S,
    SOON_S,
    STUCK_S,
    UNSWEPT_S,
    VANISHED_S,
    Look,
)
from syncline.client.mount.scan_pass import Pass
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name
from syncline.core.trees import Place

LIMBO_PREFIX = b".syncline-limbo-"


def settle_one(run: Pass) -> None:
    """Decide about one entry that was not at its place, after all else was looked at."""
    id, (place, look) = run.memory.vanished.popitem()
    seen = run.session.local(id)
    if seen is None or seen.state.place != place:
        return
    try:
        status = run.status_at(place)
    except OSError as error:
        if error.errno in NOT_THERE:
            # Its directory is gone too, and takes it along; or moved, and is looked at again.
            run.memory.stick(run.failing(place[0]) or place[0], look)
        else:
            run.trouble(look, error)
        return
    if status is not None:
        run.memory.looks.append(look)
        return
    if id in run.claimed or look.quiet_s < VANISHED_S:
        run.wait(look.mark, max(VANISHED_S - look.quiet_s + MARGIN_S, SOON_S))
        return
    if run.memory.is_watch_exhausted and not run.memory.is_sweeping:
        # It may be in a directory that has no watch: a move, and nobody's delete (G4).
        run.memory.is_sweep_wanted = True
        run.wait(look.mark, UNSWEPT_S)
        return
    was_ignored = run.is_ignored(id)
    if not remove(run, id, is_sure=False):
        run.wait(look.mark, STUCK_S)
    elif was_ignored:
        # It went while nobody looked, which asks nobody to delete it: the volume's comes back.
        run.session.set_base(id, None)


def remove(run: Pass, root: EntryId, *, is_sure: bool) -> bool:
    """Record that an entry is gone, with all that is in it.

    Unless `is_sure`, nothing is done, and False returned, while something of it was seen elsewhere
    too early to say that it moved there.
    """
    found = [root]
    for id in found:
        run.names += 1
        if not is_sure and id in run.claimed:
            return False
        found.extend(child for child, _ in run.session.children(id))
    for id in reversed(found):
        _forget(run, id)
    return True


def _forget(run: Pass, id: EntryId) -> None:
    seen = run.session.local(id)
    assert seen is not None, "what is removed is in local"
    run.release(id)
    if seen.state.is_directory:
        for name in run.session.obstacles_in(id):
            run.session.set_obstacle((id, name), None)
        run.watcher.forget(id)
        run.walker.forget(id)
        run.memory.forget_directory(id)
        run.memory.unstick(id)
    run.memory.settle(seen.state.place)
    run.memory.vanished.pop(id, None)
    run.session.set_local(id, None)
    free(run, seen.state.place)


def free(run: Pass, place: Place) -> None:
    """Look again at a place that somebody waits for, now that it is free."""
    look = run.memory.deferred.pop(place, None)
    if look is not None:
        run.memory.looks.appendleft(look)


def displace(run: Pass, id: EntryId) -> None:
    """Take an entry from a place where another thing is; it is found elsewhere, or is gone.

    It keeps a place of no path until then: what is in it stays in a tree (P1).
    """
    seen = run.session.local(id)
    assert seen is not None, "what is displaced is in local"
    name = Name(LIMBO_PREFIX + id.hex().encode())
    run.session.set_local(id, replace(seen, state=seen.state.at((ROOT_ID, name))))
    run.limbo.append(id)
    run.memory.vanished.pop(id, None)
    run.walker.close()
    run.memory.changes += 1
    free(run, seen.state.place)


def end_limbo(run: Pass) -> None:
    """Let what was displaced and not found be gone."""
    while run.limbo:
        id = run.limbo.pop()
        seen = run.session.local(id)
        if seen is not None and seen.state.name.startswith(LIMBO_PREFIX):
            remove(run, id, is_sure=True)


def end_stuck(run: Pass) -> None:
    """Put off what lies in directories that were not found; those that are gone need no look."""
    for looks in run.memory.stuck.values():
        for look in looks.values():
            if run.is_known(look.mark.directory):
                run.wait(look.mark, STUCK_S)
    run.memory.stuck.clear()


def is_limbo(look: Look) -> bool:
    """Tell whether a look is at a place that is none."""
    return look.mark.name is not None and look.mark.name.startswith(LIMBO_PREFIX)
