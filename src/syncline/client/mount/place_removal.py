"""Removing directories: only what is empty, and what local says is empty."""

from __future__ import annotations

import errno
from functools import partial

from syncline.client.mount.place_batch import Batch, Done
from syncline.client.mount.place_swaps import Out


def remove_directory(batch: Batch, out: Out) -> bool:
    """Remove a directory; tell whether it was done. Raises OSError.

    RACE: an empty directory that a user put in its place in the last instant goes with it.
    """
    id, state = out.id, out.seen.state
    session = batch.session
    inside = [child for child, _ in session.children(id) if child not in batch.aside]
    if inside or session.obstacles_in(id):
        batch.look_into(id)
        return False
    [parent] = batch.open(state.parent)
    if batch.found(parent, state.name, id, out.seen) is None:
        batch.drop(state.place)
        return False
    try:
        parent.remove_directory(state.name)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            batch.look_into(id)
            return False
        raise
    batch.forget(id)
    before = batch.before(id)
    batch.record(id, None)
    undo = partial(parent.make_directory, state.name, state.mode)
    batch.finish(Done(before, (state.parent,), undo))
    return True
