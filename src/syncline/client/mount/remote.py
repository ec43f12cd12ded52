"""Moving remote: what the server tells, checked, in the transaction that moves the cursor (G3).

Model: remote is the table at the cursor's revision. A commit turns it into the next table; a
snapshot replaces it. Both are checked before they count, because a client does not trust that what
a server tells is a tree, nor that it is the history it saw before.

R1  The cursor moves by one commit at a time, along the chain of commit ids, or by a whole snapshot;
    in the same session as the entries and the table digest, which is compared with the server's.
R2  Remote is a tree afterwards (V1) and no entry changes its kind (V2). What breaks it is refused
    as a whole.
R3  Absence from a snapshot counts only at its end, and only on the history that was seen: where
    that is cut, base is forgotten and nothing is deleted.
R4  The base moves by this mount's own commits: by what was local when they were sent.
R5  What a crash may have left of an entry in the mount is known as that entry's, also where the
    entry is deleted before anybody looked.

Every error leaves it to the caller to roll the session back: after one, its session must not be
finished. Besides `FeedMismatch` and `HistoryCut` each call raises ProtocolBroken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from syncline.core.conflict_names import UNKNOWN_AUTHOR
from syncline.core.entries import MODE_MASK, Entry, Kind, parse_target
from syncline.core.identity import ROOT_ID, EntryId, OpId, ReplicaId, Revision
from syncline.core.manifests import check_content
from syncline.core.merging import confirmed
from syncline.core.names import TOLD_PATH_BYTES_MAX, is_reserved, parse_name
from syncline.core.table import (
    EMPTY_TABLE_DIGEST,
    Commit,
    Cursor,
    Head,
    TableDigest,
    advance_digest,
    commit_id,
)
from syncline.core.trees import Place, State, is_same, state_of
from syncline.errors import Invalid, ProtocolBroken, TooLarge
from syncline.ports.link import Committed, ResetReason
from syncline.ports.mount_state import MountSession

IDS_AT_ONCE = 1_000
"""Entries of remote whose ids are in memory while absences are looked for."""

SOUND_MAX = 65_536
"""Directories that a check remembers to be sound: some 10 MiB."""


class FeedMismatch(Exception):
    """What the feed came to is not the server's table: only a snapshot helps."""


class HistoryCut(Exception):
    """The server's history is not the one that was seen here: a human must say how to go on."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was recorded: the entries of which remote changed, and whether this mount made it.

    `is_in_own_name`: it bears the name of this mount, made here or not.
    """

    ids: tuple[EntryId, ...]
    is_own: bool
    is_in_own_name: bool = False


# -- commits -------------------------------------------------------------------


def apply_commit(session: MountSession, event: Committed, own: ReplicaId) -> Applied:
    """Move remote by the next commit; `own` is the replica id of this mount.

    Costs O(changes x depth), and a listing of each directory that is deleted. Raises ProtocolBroken
    for a commit that does not follow the cursor or whose entries make no tree, HistoryCut where the
    chain breaks, FeedMismatch where the table digest differs.
    """
    commit = event.commit
    facts = session.facts()
    _check_chain(facts.cursor, commit)
    _check_told(commit.entries, oldest=commit.revision, newest=commit.revision)
    before = [session.remote(entry.id) for entry in commit.entries]
    digest = advance_digest(facts.table_digest, before, commit.entries)
    if digest != commit.table_digest:
        # Before the tree is looked at: what breaks it may be the remote that is wrong here.
        raise FeedMismatch(f"the table digest of revision {commit.revision} is not the server's")
    for entry in commit.entries:
        _check_kind(session, entry)
        if not entry.is_live:
            expect_placed(session, entry.id)
        session.set_remote(entry, commit.author.name, is_confirmed=commit.is_confirmed)
    ids = tuple(entry.id for entry in commit.entries)
    _Tree(session).check(_replaced(before, commit.entries))
    cursor = Cursor(commit.revision, commit.id)
    session.set_facts(replace(facts, cursor=cursor, table_digest=digest))
    is_in_own_name = commit.author.replica == own
    is_own = is_in_own_name and _confirm_own(session, commit.op_id, ids)
    return Applied(ids, is_own, is_in_own_name)


def _replaced(before: Sequence[Entry | None], after: Sequence[Entry]) -> Iterator[EntryId]:
    """Yield the entries that may break the tree: all but those that stay where they were.

    Who comes to the place of one that stays, or takes its directory away, is looked at for himself.
    """
    for old, new in zip(before, after, strict=True):
        if old is None or _place(old) is None or _place(old) != _place(new):
            yield new.id


def _place(entry: Entry) -> Place | None:
    return (entry.parent, entry.name) if entry.is_live else None


def _check_chain(cursor: Cursor | None, commit: Commit) -> None:
    """Check R1."""
    if cursor is None:
        raise ProtocolBroken("a commit came before the first snapshot was whole")
    assert cursor.commit_id is not None, "a mount's cursor has a commit id"
    if commit.revision != cursor.revision + 1:
        raise ProtocolBroken(f"revision {commit.revision} came after {cursor.revision}")
    id = commit_id(
        cursor.commit_id,
        commit.revision,
        commit.author,
        commit.op_id,
        commit.time_ns,
        commit.is_confirmed,
        commit.entries,
    )
    if id != commit.id:
        raise HistoryCut(f"commit {commit.revision} does not go on from the one seen before")


def _confirm_own(session: MountSession, op: OpId, ids: Iterable[EntryId]) -> bool:
    """Move the base by what was sent (R4), and forget the note; tell whether there was one."""
    sent = session.sent(op)
    if sent is None:
        return False
    for id in ids:
        if id in sent:
            session.set_base(id, confirmed(session.base(id), sent[id], _live(session, id)))
    session.forget_sent(op)
    return True


def expect_placed(session: MountSession, id: EntryId) -> None:
    """Know what may have been placed of an entry that is deleted now (R5).

    Who has neither base nor local is forgotten with its delete, and what a crash left of it in the
    mount would be a user's new thing then.
    """
    if session.base(id) is None and session.local(id) is None:
        wanted = session.intents().get(id)
        if wanted is not None:
            session.set_base(id, wanted)


def _live(session: MountSession, id: EntryId) -> State | None:
    entry = session.remote(id)
    return state_of(entry) if entry is not None and entry.is_live else None


def check_heartbeat(session: MountSession, head: Head) -> None:
    """Compare the server's head with remote, where they are at one revision.

    Raises FeedMismatch where they differ, ProtocolBroken for a head behind the cursor.
    """
    facts = session.facts()
    if facts.cursor is None or head.revision > facts.cursor.revision:
        return
    if head.revision < facts.cursor.revision:
        raise ProtocolBroken(f"the head went back to revision {head.revision}")
    if (head.commit_id, head.table_digest) != (facts.cursor.commit_id, facts.table_digest):
        raise FeedMismatch(f"revision {head.revision} of the server is not the one that is here")


def learn_tombstone(session: MountSession, told: Entry) -> bool:
    """Know a tombstone that a refusal named, where remote has nothing of its entry.

    A snapshot has no tombstones, and a resurrection builds on the revision of one. Return whether
    it was news; anything else waits for the feed. The table and its digest stay as they are.
    """
    known = session.remote(told.id)
    if told.is_live or (known is not None and (known.is_live or known.revision >= told.revision)):
        return False
    cursor = session.facts().cursor
    if cursor is None or told.revision > cursor.revision:
        return False
    _check_told((told,), oldest=Revision(1), newest=cursor.revision)
    _check_kind(session, told)
    session.set_remote(told, UNKNOWN_AUTHOR, is_confirmed=False)
    return True


# -- snapshots -------------------------------------------------------------------


def begin_snapshot(session: MountSession) -> None:
    """Forget the pages of a snapshot that did not become whole."""
    session.clear_incoming()


def add_page(session: MountSession, entries: Sequence[Entry]) -> None:
    """Keep a page until the snapshot is whole; remote stays as it is."""
    _check_told(entries, oldest=Revision(1), newest=None)
    for entry in entries:
        if not entry.is_live:
            raise ProtocolBroken("a snapshot has a tombstone")
        if session.is_incoming(entry.id):
            raise ProtocolBroken("a snapshot has an entry twice")
    session.add_incoming(entries)


def end_snapshot(session: MountSession, head: Head, reason: ResetReason) -> Applied:
    """Make remote what the pages say, and move the cursor to `head`.

    After HISTORY_CUT base and remote are forgotten first, so that absence means nothing (R3); to
    ask a human before that is the caller's. Memory holds the ids of what changed, no entries.

    Raises FeedMismatch where the pages are not the table of `head`, HistoryCut where they deny what
    was seen of the same history, ProtocolBroken where they make no tree.
    """
    if _digest_incoming(session, head) != head.table_digest:
        raise FeedMismatch(f"the snapshot is not the table of revision {head.revision}")
    if reason is ResetReason.HISTORY_CUT:
        session.forget_server()
    else:
        _check_goes_on(session.facts().cursor, head)
    # First, while remote is what it was: a newcomer has nothing to look through.
    changed = _drop_absent(session)
    for entry in session.incoming():
        known = session.remote(entry.id)
        if known == entry:
            continue
        if reason is ResetReason.CURSOR_TOO_OLD and known and known.revision >= entry.revision:
            raise HistoryCut(f"revision {entry.revision} of an entry is not the one seen before")
        _check_kind(session, entry)
        session.set_remote(entry, UNKNOWN_AUTHOR, is_confirmed=False)
        changed.append(entry.id)
    _Tree(session).check(changed)
    _confirm_sent(session, frozenset(changed))
    session.clear_incoming()
    cursor = Cursor(head.revision, head.commit_id)
    session.set_facts(replace(session.facts(), cursor=cursor, table_digest=head.table_digest))
    return Applied(tuple(changed), is_own=False)


def _digest_incoming(session: MountSession, head: Head) -> TableDigest:
    digest = EMPTY_TABLE_DIGEST
    for entry in session.incoming():
        if entry.revision > head.revision:
            raise ProtocolBroken(f"a snapshot of {head.revision} has revision {entry.revision}")
        digest = advance_digest(digest, (), (entry,))
    return digest


def _check_goes_on(cursor: Cursor | None, head: Head) -> None:
    """Check as far as it can be seen that a head is of the history that the cursor is of."""
    if cursor is None or head.revision > cursor.revision:
        return
    if (head.revision, head.commit_id) != (cursor.revision, cursor.commit_id):
        raise HistoryCut(f"the server is at revision {head.revision}, {cursor.revision} was seen")


def _drop_absent(session: MountSession) -> list[EntryId]:
    """Drop what lives in remote and is not in the snapshot; return what that was."""
    dropped: list[EntryId] = []
    after: EntryId | None = None
    while ids := session.remote_ids(after, IDS_AT_ONCE):
        after = ids[-1]
        absent = [id for id in ids if not session.is_incoming(id)]
        for id in absent:
            expect_placed(session, id)
            session.drop_remote(id)
        dropped += absent
    return dropped


def _confirm_sent(session: MountSession, changed: Collection[EntryId]) -> None:
    """Confirm each STORE that the snapshot shows: its commit will not come on the feed.

    Without that an edit made since would look as if two had changed the same content (G4). The
    commit is taken for made where it changed an entry to what was sent; else it may come yet.
    """
    for op in session.all_sent():
        sent = session.sent(op) or {}
        if any(id in changed and is_same(state, _live(session, id)) for id, state in sent.items()):
            _confirm_own(session, op, sent)


# -- what a server may tell --------------------------------------------------------


def _check_told(entries: Sequence[Entry], *, oldest: Revision, newest: Revision | None) -> None:
    """Check each entry by itself, its revision too, and that none is there twice."""
    if len({entry.id for entry in entries}) < len(entries):
        raise ProtocolBroken("the server told of one entry twice at once")
    for entry in entries:
        if entry.revision < oldest or (newest is not None and entry.revision > newest):
            raise ProtocolBroken(f"an entry has revision {entry.revision} where it cannot be")
        try:
            _check_entry(entry)
        except (Invalid, TooLarge) as error:
            raise ProtocolBroken(f"the server told of an impossible entry: {error}") from error


def _check_entry(entry: Entry) -> None:
    parse_name(entry.name)
    is_file = entry.is_live and entry.kind is Kind.FILE
    is_link = entry.is_live and entry.kind is Kind.LINK
    if entry.id in (ROOT_ID, entry.parent):
        raise Invalid("it is the root, or in itself", field="id")
    if is_reserved(entry.name, at_root=entry.parent == ROOT_ID):
        raise Invalid("its name is reserved", field="name")
    if (entry.content is not None) != is_file or (entry.target is not None) != is_link:
        raise Invalid("content or target do not fit its kind", field="kind")
    if entry.mode & ~MODE_MASK:
        raise Invalid(f"mode {entry.mode:o} is more than permission bits", field="mode")
    if entry.kind is Kind.DIRECTORY and entry.mtime_ns:
        raise Invalid("the time of a directory does not travel", field="mtime_ns")
    if entry.content is not None:
        check_content(entry.content)
    if entry.target is not None:
        parse_target(entry.target)


def _check_kind(session: MountSession, entry: Entry) -> None:
    """Check V2 against what was known before."""
    seen, known = session.local(entry.id), session.remote(entry.id)
    kinds = {state.kind for state in (session.base(entry.id), known) if state is not None}
    if seen is not None:
        kinds.add(seen.state.kind)
    if kinds - {entry.kind}:
        raise ProtocolBroken("the server told that an entry is of another kind than before")


class _Tree:
    """Checks that remote is still a tree, by looking at what changed (R2)."""

    def __init__(self, session: MountSession) -> None:
        self._session = session
        self._path_bytes: dict[EntryId, int] = {ROOT_ID: 0}
        """How long the paths of directories are that were found to hang below the root."""

    def check(self, changed: Iterable[EntryId]) -> None:
        """Raise ProtocolBroken where an entry of these makes remote no tree."""
        for id in changed:
            entry = self._live(id)
            if entry is None:
                self._check_empty(id)
                continue
            for other in self._session.at_place((entry.parent, entry.name)):
                if other != id and self._is_in(other, entry.parent, entry.name):
                    raise ProtocolBroken("the server told of two entries at one place")
            self._check_above(entry)

    def _live(self, id: EntryId) -> Entry | None:
        entry = self._session.remote(id)
        return entry if entry is not None and entry.is_live else None

    def _is_in(self, id: EntryId, parent: EntryId, name: bytes | None = None) -> bool:
        entry = self._live(id)
        if entry is None or entry.parent != parent:
            return False
        return name is None or entry.name == name

    def _check_empty(self, id: EntryId) -> None:
        if any(self._is_in(child, id) for child in self._session.within(id)):
            raise ProtocolBroken("the server deleted a directory with something in it")

    def _check_above(self, entry: Entry) -> None:
        """Walk up to the root, or to where an earlier walk was; a ring grows too long."""
        below: list[Entry] = []
        path_bytes = len(entry.name)
        parent = entry.parent
        while parent not in self._path_bytes:
            above = self._live(parent)
            if above is None or above.kind is not Kind.DIRECTORY:
                raise ProtocolBroken("the server told of an entry that is in no directory")
            path_bytes += len(above.name) + 1
            if path_bytes > TOLD_PATH_BYTES_MAX:
                raise ProtocolBroken("the server told of directories in a ring, or far too deep")
            below.append(above)
            parent = above.parent
        if len(self._path_bytes) > SOUND_MAX:
            self._path_bytes = {ROOT_ID: 0, parent: self._path_bytes[parent]}
        for above in reversed(below):
            length = self._path_bytes[parent] + len(above.name) + 1
            self._path_bytes[above.id] = length
            parent = above.id
        if self._path_bytes[entry.parent] + len(entry.name) > TOLD_PATH_BYTES_MAX:
            raise ProtocolBroken("the server told of a path that is far too long")
