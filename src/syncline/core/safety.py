"""The brakes: when a plan must not be carried out before a human has said so.

Model: facts in, a halt or nothing out. A halt stops a mount before anything is deleted or
overwritten on either side, says why, and says what `syncline resume` would do.

B1  A root that is missing, of another type, another one than before, or emptied says nothing about
    what users deleted: no plan is made of it.
B2  Deletes that pass a share and a floor halt, whichever side they come from, at once or little by
    little. What a human confirmed elsewhere does not count.
B3  A server whose history does not hold what this replica has seen is not believed.
B4  A brake is never the reason why another mount stands still.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from syncline.core.identity import Revision


class HaltReason(Enum):
    """Why a mount halts; the values are stable."""

    ROOT_MISSING = "root_missing"
    ROOT_OTHER_TYPE = "root_other_type"
    ROOT_REPLACED = "root_replaced"
    ROOT_EMPTIED = "root_emptied"
    MASS_DELETE = "mass_delete"
    MASS_REMOVAL = "mass_removal"
    HISTORY_CUT = "history_cut"


@dataclass(frozen=True, slots=True)
class Halt:
    """The brakes were pulled. `detail`: what was seen; `resume`: what resuming would do.

    `count` is how many entries resuming would delete.
    """

    reason: HaltReason
    detail: str
    resume: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class Consent:
    """What a human allowed by resuming: so many deletes, of the kind that halted, and no more."""

    reason: HaltReason
    count: int


_SENT = frozenset({HaltReason.MASS_DELETE, HaltReason.ROOT_EMPTIED})
"""What deletes in the volume; `MASS_REMOVAL` deletes in the directory."""


def is_agreed(consent: Consent | None, halt: Halt) -> bool:
    """Tell whether a human has agreed to what pulled the brakes (B2)."""
    if consent is None or halt.count > consent.count:
        return False
    if halt.reason is HaltReason.MASS_DELETE:
        return consent.reason in _SENT
    return consent.reason is halt.reason


def left_of(consent: Consent | None, deletes: int, removals: int) -> Consent | None:
    """Return what is left of a consent: no more than what a plan still has to delete.

    So what was agreed to is used up, and an accident that comes later halts again.
    """
    if consent is None:
        return None
    count = min(consent.count, deletes if consent.reason in _SENT else removals)
    return Consent(consent.reason, count) if count else None


def is_told_as_confirmed(consent: Consent | None) -> bool:
    """Tell whether what is sent now is what a human confirmed: the receivers need not ask again."""
    return consent is not None and consent.reason in _SENT


@dataclass(frozen=True, slots=True)
class RootIdentity:
    """What tells one root from another: the marker in it, its inode, its file system's id."""

    marker: bytes
    inode: int
    filesystem: bytes


@dataclass(frozen=True, slots=True)
class RootSeen:
    """What stands where the root should be. `marker` is None where there is none to read.

    `is_empty`: nothing is in it but the client's own directory.
    """

    is_directory: bool
    marker: bytes | None
    inode: int
    filesystem: bytes
    is_empty: bool


@dataclass(frozen=True, slots=True)
class Limits:
    """How many deletes are too many. Both `share` (of all entries) and `floor` must be passed.

    `emptied_floor`: a root with fewer entries in base may be emptied by its user without a halt.
    """

    share: float = 0.5
    floor: int = 1_000
    emptied_floor: int = 10


def check_root(
    known: RootIdentity, seen: RootSeen | None, entries: int, limits: Limits
) -> Halt | None:
    """Return a halt where the root is not the one that base speaks of (B1).

    `entries` is the number of entries in base. None for `seen`: nothing is at the path.
    """
    if seen is None:
        return Halt(
            HaltReason.ROOT_MISSING,
            "the mounted directory is not there",
            "nothing, until the directory is back",
        )
    if not seen.is_directory:
        return Halt(
            HaltReason.ROOT_OTHER_TYPE,
            "what is at the path of the mount is no directory",
            "nothing, until the directory is back",
        )
    fault = _root_fault(known, seen)
    if fault:
        return Halt(
            HaltReason.ROOT_REPLACED,
            fault,
            "merge what is in this directory with the volume as a new mount; delete nothing",
        )
    if seen.is_empty and entries >= limits.emptied_floor:
        return Halt(
            HaltReason.ROOT_EMPTIED,
            f"the directory is empty, and had {entries} entries",
            f"delete {entries} entries in the volume",
            entries,
        )
    return None


def _root_fault(known: RootIdentity, seen: RootSeen) -> str | None:
    if seen.filesystem != known.filesystem:
        return "the directory is on another file system: something was mounted or unmounted"
    if seen.marker is None:
        return "the directory has no marker: it is another one, or was emptied"
    if seen.marker != known.marker:
        return "the directory has the marker of another mount"
    if seen.inode != known.inode:
        return "the directory was replaced by a copy of it"
    return None


def check_deletes(
    deletes: int, removals: int, confirmed: int, entries: int, limits: Limits, *, gone: int = 0
) -> Halt | None:
    """Return a halt where a plan deletes too much (B2).

    `deletes` are to be sent, `removals` to be done in the mount, `confirmed` of them come of
    commits that a human confirmed; `entries` is the number of entries in base. `gone`: by so many
    base has shrunk lately: what is deleted little by little counts as one.
    """
    entries += gone
    if deletes and _is_mass(deletes + gone, entries, limits):
        return Halt(
            HaltReason.MASS_DELETE,
            f"{deletes + gone} of {entries} entries were deleted in this directory",
            f"delete {deletes} entries in the volume",
            deletes,
        )
    unconfirmed = removals - confirmed
    if unconfirmed > 0 and _is_mass(unconfirmed + gone, entries, limits):
        return Halt(
            HaltReason.MASS_REMOVAL,
            f"{unconfirmed + gone} of {entries} entries were deleted in the volume",
            f"delete {removals} entries in this directory",
            removals,
        )
    return None


def _is_mass(count: int, entries: int, limits: Limits) -> bool:
    return count > limits.floor and count > limits.share * entries


@dataclass(slots=True)
class Shrinking:
    """By how much the number of entries shrank lately, which no human agreed to.

    It is the most of the last `window_s` that counts: files that are made and deleted over and over
    are no loss.
    """

    window_s: float = 600.0
    _peaks: deque[tuple[float, int]] = field(default_factory=deque)

    def gone(self, entries: int, now_s: float) -> int:
        """Note how many entries there are now; return by how many they were more."""
        while self._peaks and self._peaks[-1][1] <= entries:
            self._peaks.pop()
        self._peaks.append((now_s, entries))
        while self._peaks[0][0] < now_s - self.window_s:
            self._peaks.popleft()
        return self._peaks[0][1] - entries

    def forget(self) -> None:
        """Begin anew: a human agreed to what is deleted now."""
        self._peaks.clear()


def check_history(seen: Revision, head: Revision, *, is_on_chain: bool) -> Halt | None:
    """Return a halt where the server's history lacks the newest commit seen here (B3).

    `is_on_chain`: the commit of revision `seen` on the server is the one that was seen.
    """
    if is_on_chain and seen <= head:
        return None
    return Halt(
        HaltReason.HISTORY_CUT,
        f"the server is at revision {head} and does not know revision {seen} as it was seen here:"
        " it was restored from a backup, or it is another volume",
        "merge this directory with the volume as a new mount, send what the volume lacks,"
        " and delete nothing",
    )
