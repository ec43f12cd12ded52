"""Comparing the table that a mount knows with that of the server, entry by entry.

Model: the server sends its whole table at one revision, in order of id; remote is read in the same
order, a few entries at a time. Both go on living meanwhile, so what may have changed since proves
nothing and is left to the feed, which checks it by itself.

T1  Only what both sides knew at one and the same time differs: an entry whose revisions neither the
    cursor nor the revision of the server's table has passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from syncline.client.mount.walker import path_wanted
from syncline.core.entries import Entry
from syncline.core.identity import EntryId, Revision
from syncline.core.names import RelPath
from syncline.core.table import EMPTY_TABLE_DIGEST, Head, advance_digest
from syncline.ports.mount_control import FindingCode, MountProblem
from syncline.ports.mount_state import MountSession, MountState

IDS_AT_ONCE = 256
"""Entries of remote that are read at once: as many as a page of a snapshot has."""


class TableCheck:
    """Compares remote with one snapshot; all calls come from the mount thread."""

    def __init__(self, state: MountState, head: Head) -> None:
        self._state = state
        self._head = head
        self._digest = EMPTY_TABLE_DIGEST
        self._after: EntryId | None = None

    def page(self, entries: Sequence[Entry]) -> list[MountProblem]:
        """Compare what comes next in order of id, up to the last of these; return what differs."""
        self._digest = advance_digest(self._digest, (), entries)
        told = {entry.id: entry for entry in entries}
        with self._state.session() as session:
            return list(self._compare(session, told, entries[-1].id if entries else None))

    def end(self) -> list[MountProblem]:
        """Compare what is left, and the digests; return what differs."""
        found: list[MountProblem] = []
        while True:
            with self._state.session() as session:
                ids = session.remote_ids(self._after, IDS_AT_ONCE)
                if not ids:
                    return found + self._compare_digests(session)
                found += self._compare(session, {}, ids[-1])

    def _compare(
        self, session: MountSession, told: Mapping[EntryId, Entry], last: EntryId | None
    ) -> Iterator[MountProblem]:
        if last is None:
            return
        known: set[EntryId] = set()
        after = self._after
        while ids := session.remote_ids(after, IDS_AT_ONCE):
            known.update(id for id in ids if id <= last)
            after = ids[-1]
            if after >= last:
                break
        self._after = last
        cursor = session.facts().cursor
        at = cursor.revision if cursor is not None else Revision(0)
        for id in sorted(known | told.keys()):
            detail = self._difference(session.remote(id), told.get(id), at)
            entry = told.get(id) or session.remote(id)
            if detail and entry is not None:
                path = path_wanted(session, (entry.parent, entry.name))
                yield MountProblem(path, FindingCode.TABLE.value, detail)

    def _difference(self, here: Entry | None, there: Entry | None, at: Revision) -> str:
        """Return what is wrong with an entry; nothing where it may have changed since (T1)."""
        head = self._head.revision
        if here == there:
            return ""
        if here is not None and here.revision > head:
            return ""
        is_here = here is not None and here.is_live
        if there is None:
            # Deleted at the server by then; here as well, if the feed has told of it.
            return "the server does not have it" if is_here and at >= head else ""
        if there.revision > at:
            return ""
        if here is not None and is_here:
            if here.revision == there.revision:
                return f"revision {here.revision} of it is not the same here and at the server"
            return f"here it has revision {here.revision}, at the server {there.revision}"
        # Deleted since, perhaps, and forgotten when nobody had it any more.
        return "the server has it, and the table here does not" if at <= head else ""

    def _compare_digests(self, session: MountSession) -> list[MountProblem]:
        facts = session.facts()
        found = []
        if self._digest != self._head.table_digest:
            found.append(f"what the server sent of revision {self._head.revision} is not its table")
        is_same_time = facts.cursor is not None and facts.cursor.revision == self._head.revision
        if is_same_time and facts.table_digest != self._head.table_digest:
            found.append(f"the table digest of revision {self._head.revision} is not the server's")
        return [MountProblem(RelPath(), FindingCode.TABLE.value, detail) for detail in found]
