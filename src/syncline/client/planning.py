"""Planning a STORE: what a local thing asks of what the server has. Pure.

P1  What is the same on both sides asks for nothing, unless the server lacks some of its content.
P2  What stands on the server is put on its own entry with its revision as base (G6).
P3  A thing never replaces one of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from syncline.client.reading import Ready
from syncline.core.changes import Put, PutDirectory, PutFile, PutLink, Refusal, RefusalCode
from syncline.core.entries import Kind
from syncline.core.identity import NO_REVISION, Digest, EntryId, Revision
from syncline.core.names import RelPath
from syncline.errors import (
    Corrupt,
    Exists,
    Invalid,
    Locked,
    LockLost,
    NotEmpty,
    NotFound,
    Stale,
    SynclineError,
)
from syncline.ports.link import Located


@dataclass(frozen=True, slots=True)
class Standing:
    """What the server has at a path: an entry without its manifest, which a table need not hold."""

    id: EntryId
    revision: Revision
    kind: Kind
    mode: int
    mtime_ns: int
    digest: Digest | None
    target: bytes | None
    is_damaged: bool = False


def standing_of(located: Located) -> Standing:
    """Return the part of an entry that planning looks at."""
    entry = located.entry
    return Standing(
        entry.id,
        entry.revision,
        entry.kind,
        entry.mode,
        entry.mtime_ns,
        entry.digest,
        entry.target,
        located.is_damaged,
    )


def standing_of_put(put: Put) -> Standing:
    """Return what a directory's put will have made, for the children that are proposed with it."""
    assert isinstance(put, PutDirectory)
    return Standing(put.id, put.base, Kind.DIRECTORY, put.mode, 0, None, None)


def is_same(ready: Ready, standing: Standing) -> bool:
    """Tell whether there is nothing to store (P1)."""
    if ready.found.kind is not standing.kind:
        return False
    match standing.kind:
        case Kind.DIRECTORY:
            # A directory that only has to be there has no say on the mode.
            return ready.is_made or ready.mode == standing.mode
        case Kind.LINK:
            return (ready.target, ready.mtime_ns) == (standing.target, standing.mtime_ns)
        case Kind.FILE:
            assert ready.content is not None
            if standing.is_damaged:
                return False
            wanted = (ready.content.digest, ready.mode, ready.mtime_ns)
            return wanted == (standing.digest, standing.mode, standing.mtime_ns)
        case _:
            assert_never(standing.kind)


def put_for(ready: Ready, standing: Standing | None, parent: EntryId, new_id: EntryId) -> Put:
    """Return the change that makes the server's side like the local one (P2)."""
    id, base = (standing.id, standing.revision) if standing else (new_id, NO_REVISION)
    name = ready.found.remote.name
    match ready.found.kind:
        case Kind.DIRECTORY:
            return PutDirectory(id, base, parent, name, ready.mode)
        case Kind.LINK:
            assert ready.target is not None
            return PutLink(id, base, parent, name, ready.mtime_ns, ready.target)
        case Kind.FILE:
            assert ready.content is not None
            return PutFile(id, base, parent, name, ready.mode, ready.mtime_ns, ready.content)
        case _:
            assert_never(ready.found.kind)


def obstacle(
    ready: Ready, standing: Standing | None, if_revision: Revision | None
) -> SynclineError | None:
    """Return why a thing may not be put where it should go (P3), None where it may."""
    path = ready.found.remote
    if if_revision is not None and not ready.is_made:
        stale = stale_error(path, if_revision, standing.revision if standing else None)
        if stale:
            return stale
    if standing is not None and standing.kind is not ready.found.kind:
        return another_kind(path, standing.kind)
    return None


def another_kind(path: RelPath, standing: Kind) -> Exists:
    """Return the error for a path that something of another kind has."""
    kind = kind_word(standing)
    return Exists(
        f"a {kind} stands at '{path}'; delete it first, or store under another path",
        path=str(path),
        kind=kind,
    )


def kind_word(kind: Kind) -> str:
    """Return what people call a kind."""
    match kind:
        case Kind.FILE:
            return "file"
        case Kind.DIRECTORY:
            return "directory"
        case Kind.LINK:
            return "symbolic link"
        case _:
            assert_never(kind)


def stale_error(path: RelPath, wanted: Revision, current: Revision | None) -> Stale | None:
    """Return the error for a path whose revision is not the wanted one; None is not there."""
    if (current or NO_REVISION) == wanted:
        return None
    if current is None:
        text = f"'{path}' is not on the server, it was to be at revision {wanted}"
    elif wanted == NO_REVISION:
        text = f"'{path}' exists at revision {current} and was to be new"
    else:
        text = f"'{path}' is at revision {current}, not {wanted}; look at it and decide again"
    return Stale(text, path=str(path), current=str(current or 0), expected=str(wanted))


def needs_new_look(refusal: Refusal) -> bool:
    """Tell whether the server's table moved on under a change, so that planning again may help."""
    return refusal.code in (
        RefusalCode.STALE,
        RefusalCode.NAME_TAKEN,
        RefusalCode.PARENT_GONE,
        RefusalCode.MISSING,
        RefusalCode.NOT_EMPTY,
    )


def refusal_error(refusal: Refusal, path: RelPath) -> SynclineError:
    """Return the error that a refused change is for the one who asked for this path."""
    shown = str(path)
    current = str(refusal.current.revision) if refusal.current else "0"
    match refusal.code:
        case RefusalCode.LOCKED:
            return _locked(refusal, shown)
        case RefusalCode.LOCK_LOST:
            text = f"'{shown}': the lock that this was to be done under is lost; {refusal.detail}"
            return LockLost(text, path=shown)
        case RefusalCode.STALE:
            text = f"'{shown}' is changed by others faster than it can be written; try again"
            return Stale(text, path=shown, current=current)
        case RefusalCode.NAME_TAKEN:
            return Exists(f"something else stands at '{shown}' now", path=shown)
        case RefusalCode.PARENT_GONE:
            return NotFound(f"the directory of '{shown}' is deleted again and again", path=shown)
        case RefusalCode.NOT_EMPTY:
            return NotEmpty(
                f"the directory '{shown}' is not empty; delete with --recursive what is in it",
                path=shown,
            )
        case RefusalCode.MISSING:
            text = f"the server does not keep the content of '{shown}' that it was sent"
            return Corrupt(text, path=shown, what="chunk")
        case RefusalCode.CYCLE | RefusalCode.INVALID | RefusalCode.ATOMIC:
            reason = refusal.detail or refusal.code.value
            return Invalid(f"'{shown}': {reason}", field="path", reason=reason, path=shown)
        case _:
            assert_never(refusal.code)


def _locked(refusal: Refusal, shown: str) -> Locked:
    holder = refusal.holder
    if holder is None:
        return Locked(f"'{shown}' is locked by another writer; try again", path=shown)
    fields = {
        "path": shown,
        "holder": holder.name,
        "since_s": f"{holder.since_s:.3f}",
        "expires_s": f"{holder.expires_s:.3f}",
    }
    said = f"'{shown}' is locked by {holder.name}"
    if holder.entry is None:
        return Locked(f"{said} since {holder.since_s:.0f} s; try again", **fields)
    reason = f" ({holder.reason})" if holder.reason else ""
    return Locked(
        f"{said} on {holder.host}{reason} since {holder.since_s:.0f} s, for at most"
        f" {holder.expires_s:.0f} s more; see 'syncline locks'",
        **fields,
        host=holder.host,
        reason=holder.reason,
        entry=holder.entry.hex(),
    )
