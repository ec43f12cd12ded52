"""How user locks look: a line for people, an object for programs; docs/CLI.md has the fields."""

from __future__ import annotations

from collections.abc import Sequence

from syncline.cli.lock_options import duration_text
from syncline.cli.output import Json
from syncline.cli.records import shown, utc_text
from syncline.cli.text import plain
from syncline.core.identity import Revision
from syncline.core.names import RelPath
from syncline.core.user_locks import LockEffect
from syncline.errors import TooNew
from syncline.ports.link import Located, LockingLink
from syncline.ports.locks import LocatedLock, ToldLockChange


def lock_record(located: LocatedLock) -> dict[str, Json]:
    """Return a lock."""
    lock = located.lock
    return {
        "path": str(located.path),
        "entry": lock.entry.hex(),
        "token": lock.token,
        "holder": lock.owner.author.name,
        "replica": lock.owner.author.replica.hex(),
        "host": lock.owner.host,
        "session": lock.owner.session.hex(),
        "reason": lock.reason,
        "since": utc_text(lock.granted_ns),
        "since_ns": lock.granted_ns,
        "since_s": round(located.since_s, 3),
        "expires_s": round(located.expires_s, 3),
        "ends_s": round(located.ends_s, 3),
    }


def holder_text(located: LocatedLock) -> str:
    """Return who holds a lock, since when, and why."""
    lock = located.lock
    reason = f": {plain(lock.reason)}" if lock.reason else ""
    since = duration_text(located.since_s)
    return f"{plain(lock.owner.author.name)} on {plain(lock.owner.host)}, since {since}{reason}"


def lock_line(located: LocatedLock) -> str:
    """Return a lock: its path, who holds it, for how long at most."""
    ends = duration_text(located.ends_s)
    return f"{shown(located.path)}  {holder_text(located)} (for at most {ends} more)"


def change_record(change: ToldLockChange) -> dict[str, Json]:
    """Return a lock that was granted or is over."""
    by = None if change.by is None else change.by.name
    return {"effect": change.effect.value, **lock_record(change.lock), "by": by}


def change_line(change: ToldLockChange) -> str:
    """Return what happened to a lock, to which, and by whom."""
    path = shown(change.lock.path)
    by = "" if change.by is None else f", by {plain(change.by.name)}"
    if change.effect is LockEffect.GRANTED:
        return f"{change.effect.value:<8}  {lock_line(change.lock)}"
    holder = plain(change.lock.lock.owner.author.name)
    return f"{change.effect.value:<8}  {path}  held by {holder}{by}"


class LockMarks:
    """The locks beside a listing: who keeps others from which path."""

    def __init__(self, locks: Sequence[LocatedLock]) -> None:
        self._by_path = {each.path.parts: each for each in locks}

    @classmethod
    async def look(cls, link: LockingLink, at: Revision | None) -> LockMarks:
        """Ask for the locks of now; there are none in the past, or on a server without locks."""
        if at is not None:
            return cls([])
        try:
            return cls([located async for located in link.locks(RelPath())])
        except TooNew:
            return cls([])

    def of(self, path: RelPath) -> LocatedLock | None:
        """Return the lock that covers a path: its own, or that of a directory above."""
        if not self._by_path:
            return None
        for count in range(len(path.parts), -1, -1):
            found = self._by_path.get(path.parts[:count])
            if found is not None:
                return found
        return None

    def record(self, located: Located) -> dict[str, Json]:
        """Return the field of an entry's object."""
        found = self.of(located.path)
        return {"lock": None if found is None else lock_record(found)}

    def lines(self, located: Located) -> list[str]:
        """Return the facts of an entry that are about its lock."""
        found = self.of(located.path)
        return [] if found is None else [f"  {'locked':<8}  {holder_text(found)}"]

    def suffix(self, located: Located) -> str:
        """Return what stands behind an entry's line."""
        found = self.of(located.path)
        return "" if found is None else f"  [locked by {plain(found.lock.owner.author.name)}]"
