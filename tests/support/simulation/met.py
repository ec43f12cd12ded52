"""What the worlds are to meet: the names of the kinds that are counted.

A world counts what happened in it by these names; `tools/simulate.py` adds them up and can ask that
each was met often enough.
"""

from __future__ import annotations

from syncline.core.changes import RefusalCode
from syncline.core.safety import HaltReason

READ = "race: edited while it was read"
DOWNLOADED = "race: edited while its successor came"
CHECKED = "race: changed between check and swap"
SWAPPED = "race: changed between swap and record"
DESCRIPTOR = "race: written through a descriptor from before the swap"
LINK_IN_PATH = "race: a link swapped into a path"
DIRECTORY_IN_PATH = "race: another directory swapped into a path"
MOVED_OUT = "race: a directory moved out while written into"

RACES = (
    READ,
    DOWNLOADED,
    CHECKED,
    SWAPPED,
    DESCRIPTOR,
    LINK_IN_PATH,
    DIRECTORY_IN_PATH,
    MOVED_OUT,
)

NEVER_REFUSED = frozenset({"invalid"})
"""Honest clients ask for nothing that is against the rules of the protocol."""


def refusal(code: str) -> str:
    """Return the name under which a refusal, or an error of a STORE, is counted."""
    return f"refusal: {code}"


REPLAYED = refusal("answered again by its op id")
LOCKED_BY_USER = refusal("locked by a user")
"""Without that, `locked` is by another operation."""

REFUSALS = (
    *(refusal(code.value) for code in RefusalCode if code.value not in NEVER_REFUSED),
    refusal("no_space"),
    REPLAYED,
    LOCKED_BY_USER,
)


def brake(reason: HaltReason) -> str:
    """Return the name under which a halt is counted."""
    return f"brake: {reason.value}"


STATE_LOST = "brake: state lost"
STATE_OLD = "brake: state from an old copy"
CLONED = "brake: identity cloned"

RENAMED = "brake: identity changed for one that others have too"

BRAKES = (*(brake(reason) for reason in HaltReason), STATE_LOST, STATE_OLD, CLONED, RENAMED)

GRANTED = "lock: granted"
DENIED = "lock: denied"
WAITED = "lock: granted after a wait"
UNLOCKED = "lock: given back"
EXPIRED = "lock: over by itself"
BROKEN = "lock: broken by another"
DELETED = "lock: gone with what it was on"
HELD = "lock: edit held back"
HOLDER_DIED = "lock: holder died"

LOCKS = (GRANTED, DENIED, WAITED, UNLOCKED, EXPIRED, BROKEN, DELETED, HELD, HOLDER_DIED)

KILL = "fault: kill -9"
POWER_LOSS = "fault: power loss"
RESTARTED = "fault: killed again soon after its start"
SERVER_STOP = "fault: power loss of the server"
REQUEST_LOST = "fault: request lost"
ANSWER_LOST = "fault: answer lost"
REPEATED = "fault: request repeated"
STREAM_CUT = "fault: stream cut"
STALLED = "fault: transfer stalled"
OVERFLOW = "fault: watch queue overflow"
NO_WATCHES = "fault: out of watches"
CLOCK_FORWARD = "fault: clock set forward"
CLOCK_BACK = "fault: clock set back"
SERVER_FULL = "fault: disk of the server full"
SERVER_SYNC = "fault: sync of the server failed"
IN_STEPS = "fault: no exchange of names in one step"


def disk_fault(code: str) -> str:
    """Return the name under which a refused file operation is counted."""
    return f"fault: {code}"


DISK_FAULTS = ("ENOSPC", "EIO", "EACCES", "EMFILE", "EROFS")

FAULTS = (
    KILL,
    POWER_LOSS,
    RESTARTED,
    SERVER_STOP,
    REQUEST_LOST,
    ANSWER_LOST,
    REPEATED,
    STREAM_CUT,
    STALLED,
    *map(disk_fault, DISK_FAULTS),
    OVERFLOW,
    NO_WATCHES,
    CLOCK_FORWARD,
    CLOCK_BACK,
    SERVER_FULL,
    SERVER_SYNC,
    IN_STEPS,
)

KINDS: tuple[str, ...] = (*RACES, *REFUSALS, *BRAKES, *LOCKS, *FAULTS)
