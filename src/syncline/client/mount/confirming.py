"""What the engine records around a plan: new names of things, the base, and notes for later.

Model: the base moves only by what both sides were seen to have. A plan says where that is so
already; the rest is confirmed when it happened: placing by the applier, sending by the feed, which
needs to know what was local when a STORE was made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from syncline.core.plans import (
    Alter,
    Confirm,
    Create,
    Exchange,
    KeepCopy,
    Placing,
    Relabel,
    Remove,
    SetAside,
)
from syncline.ports.mount_state import MountSession
from syncline.ports.watcher import Watcher


def carry_relabels(session: MountSession, relabels: Iterable[Relabel], watcher: Watcher) -> None:
    """Know local things as the entries that they are; comes before the confirms of the same plan.

    The watcher follows at once: a session that fails afterwards leaves marks of directories that
    the state does not know, so the caller then looks everywhere.
    """
    for relabel in relabels:
        seen = session.local(relabel.local_id)
        assert seen is not None, "a plan relabels what is not in local"
        session.relabel(relabel.local_id, relabel.id)
        if seen.state.is_directory:
            watcher.relabel(relabel.local_id, relabel.id)


def carry_confirms(session: MountSession, confirms: Iterable[Confirm]) -> None:
    """Move the base to what both sides have."""
    for confirm in confirms:
        session.set_base(confirm.id, confirm.base)


def note_intents(session: MountSession, actions: Iterable[Placing]) -> None:
    """Note what each entry becomes by these actions; None for one that is removed.

    An entry that is only set aside has no intent: it is put back after a crash.
    """
    for action in actions:
        match action:
            case Create(id, wanted) | KeepCopy(id, _, _, wanted) | Alter(id, _, wanted):
                session.note_intent(id, wanted)
            case Exchange(first, second):
                session.note_intent(first.id, first.wanted)
                session.note_intent(second.id, second.wanted)
            case Remove(id):
                session.note_intent(id, None)
            case SetAside():
                pass
            case _:
                assert_never(action)
