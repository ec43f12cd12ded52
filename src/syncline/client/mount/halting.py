"""Brakes that the server's history pulls, and what resuming does to what is remembered.

H1  Resuming never deletes by itself: it forgets what is no longer true, and everything is compared
    anew; or it lets one plan delete what the human was shown.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from syncline.core.safety import Consent, Halt, HaltReason, check_history
from syncline.core.table import Cursor, Head
from syncline.ports.link import ServerFacts
from syncline.ports.mount_state import MountFacts, MountSession

AS_NEW = (
    "merge this directory with the volume as a new mount, send what the volume lacks, and delete"
    " nothing"
)


def cut_halt(cursor: Cursor, head: Head) -> Halt:
    """Return the halt for a server that does not go on from what was seen."""
    halt = check_history(cursor.revision, head.revision, is_on_chain=False)
    assert halt is not None, "a cut history halts"
    return halt


def denied_halt(detail: str) -> Halt:
    """Return the halt for a server whose feed denies what was seen."""
    return Halt(HaltReason.HISTORY_CUT, detail, AS_NEW)


def volume_halt(facts: ServerFacts) -> Halt:
    """Return the halt for a volume that is not the one this mount was made with."""
    return Halt(
        HaltReason.HISTORY_CUT,
        f"the volume '{facts.volume_name}' of this server is another one than before",
        AS_NEW,
    )


def release(session: MountSession, halt: Halt) -> None:
    """Record that a human wants to go on."""
    facts = session.facts()
    reason = halt.reason
    match reason:
        case HaltReason.ROOT_EMPTIED | HaltReason.MASS_DELETE | HaltReason.MASS_REMOVAL:
            session.set_facts(replace(facts, consent=Consent(reason, halt.count)))
        case HaltReason.ROOT_REPLACED:
            session.forget_all()
            session.set_facts(_as_new(replace(facts, root=None)))
        case HaltReason.HISTORY_CUT:
            session.forget_server()
            session.set_facts(_as_new(facts))
        case HaltReason.ROOT_MISSING | HaltReason.ROOT_OTHER_TYPE:
            # The root is looked at again, and nothing else is to be done.
            pass
        case _:
            assert_never(reason)


def _as_new(facts: MountFacts) -> MountFacts:
    return replace(facts, volume=None, cursor=None, table_digest=0, consent=None)
