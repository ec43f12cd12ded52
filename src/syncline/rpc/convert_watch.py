"""The WATCH stream on the wire: commits in frames, snapshots in pages, heartbeats, progress.

V1  A commit is a begin, frames of entries, an end; as many entries as the begin said, each of the
    commit's revision, no entry twice.
V2  Commits follow each other without a gap; the first follows the cursor or the snapshot.
V3  A snapshot is a begin, pages in order of id, an end with the head of the begin; heartbeats may
    stand between its pages.
V4  Locks are told of to whom asked alone: a table in one or more messages, with nothing between
    them, then news; never inside a commit or a snapshot. The table may come again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import assert_never

from syncline.core.changes import CHANGES_MAX, Author
from syncline.core.entries import Entry
from syncline.core.identity import Digest, EntryId, OpId, Revision, parse_op_id, parse_revision
from syncline.core.table import Commit, Head
from syncline.errors import ProtocolBroken
from syncline.ports.link import (
    Committed,
    Effect,
    Heartbeat,
    PathChange,
    Progress,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LocatedLock, LockNews, LockTable
from syncline.rpc.convert_entries import (
    author_from_pb,
    author_to_pb,
    cursor_from_pb,
    cursor_to_pb,
    entry_from_pb,
    entry_to_pb,
    entry_weight,
    group,
    head_from_pb,
    head_to_pb,
    inline_for,
    invalid,
    parse_label,
    path_from_pb,
    take_inline,
)
from syncline.rpc.convert_locks import (
    lock_event_frames,
    lock_from_pb,
    lock_news_from_pb,
    parse_session,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

LOCKS_MAX = 65_536
"""What is kept of a table of locks that comes in parts."""

_EFFECTS = {
    pb.EFFECT_CREATED: Effect.CREATED,
    pb.EFFECT_CHANGED: Effect.CHANGED,
    pb.EFFECT_MODE: Effect.MODE,
    pb.EFFECT_MOVED: Effect.MOVED,
    pb.EFFECT_DELETED: Effect.DELETED,
}
_EFFECTS_TO_PB = {effect: value for value, effect in _EFFECTS.items()}

_REASONS = {
    pb.RESET_REASON_NEWCOMER: ResetReason.NEWCOMER,
    pb.RESET_REASON_HISTORY_CUT: ResetReason.HISTORY_CUT,
    pb.RESET_REASON_CURSOR_TOO_OLD: ResetReason.CURSOR_TOO_OLD,
}
_REASONS_TO_PB = {reason: value for value, reason in _REASONS.items()}


# -- What the client says ----------------------------------------------------


def watch_begin_to_pb(volume: str, begin: WatchBegin) -> pb.WatchRequest:
    """Return the message that opens a WATCH."""
    return pb.WatchRequest(
        begin=pb.WatchBegin(
            volume=volume,
            author=author_to_pb(begin.author),
            cursor=cursor_to_pb(begin.cursor) if begin.cursor else None,
            from_head=begin.from_head,
            wants_inline=begin.wants_inline,
            wants_paths=begin.wants_paths,
            wants_locks=begin.wants_locks,
            session=begin.session or b"",
        )
    )


def watch_begin_from_pb(message: pb.WatchRequest) -> tuple[str, WatchBegin]:
    """Return the volume and how the watcher starts; raise Invalid for any other message."""
    if not message.HasField("begin"):
        raise invalid("begin", "a WATCH opens with it")
    begin = message.begin
    cursor = cursor_from_pb(begin.cursor) if begin.HasField("cursor") else None
    if cursor is not None and begin.from_head:
        raise invalid("from_head", "contradicts the cursor")
    return parse_label(begin.volume, "volume"), WatchBegin(
        author_from_pb(begin.author),
        cursor,
        begin.from_head,
        begin.wants_inline,
        begin.wants_paths,
        begin.wants_locks,
        parse_session(begin.session) if begin.session else None,
    )


def progress_to_pb(progress: Progress) -> pb.WatchRequest:
    """Return the message for what a client has placed."""
    return pb.WatchRequest(
        progress=pb.WatchProgress(
            placed=cursor_to_pb(progress.placed),
            pending=progress.pending,
            problems=progress.problems,
        )
    )


def progress_from_pb(message: pb.WatchRequest) -> Progress:
    """Return checked progress; raise Invalid for any other message."""
    if not message.HasField("progress") or not message.progress.HasField("placed"):
        raise invalid("progress", "only it may follow the begin, with a cursor")
    progress = message.progress
    return Progress(cursor_from_pb(progress.placed), progress.pending, progress.problems)


# -- What the server says ----------------------------------------------------


def event_frames(event: WatchEvent) -> Iterator[pb.WatchResponse]:
    """Yield the messages for one event, in order; each far below the limit of a message."""
    match event:
        case Committed():
            yield from _commit_frames(event)
        case Heartbeat():
            head, has_damaged = head_to_pb(event.head), event.has_damaged
            yield pb.WatchResponse(heartbeat=pb.Heartbeat(head=head, has_damaged=has_damaged))
        case SnapshotBegin():
            reason, head = _REASONS_TO_PB[event.reason], head_to_pb(event.head)
            yield pb.WatchResponse(snapshot_begin=pb.SnapshotBegin(reason=reason, head=head))
        case SnapshotPage():
            for part in group(event.entries, entry_weight):
                page = pb.SnapshotPage(entries=[entry_to_pb(entry) for entry in part])
                yield pb.WatchResponse(snapshot_page=page)
        case SnapshotEnd():
            yield pb.WatchResponse(snapshot_end=pb.SnapshotEnd(head=head_to_pb(event.head)))
        case LockTable() | LockNews():
            yield from lock_event_frames(event)
        case _:
            assert_never(event)


def _commit_frames(committed: Committed) -> Iterator[pb.WatchResponse]:
    commit = committed.commit
    yield pb.WatchResponse(
        begin=pb.CommitBegin(
            revision=commit.revision,
            author=author_to_pb(commit.author),
            op_id=commit.op_id,
            time_ns=commit.time_ns,
            is_confirmed=commit.is_confirmed,
            count=len(commit.entries),
        )
    )
    paths = {change.entry.id: change for change in committed.changes}
    sent: set[Digest] = set()
    items: list[_Item] = []
    for entry in commit.entries:
        raw = inline_for(entry.content, committed.inline)
        if entry.content is not None and raw is not None:
            raw = None if entry.content.digest in sent else raw
            sent.add(entry.content.digest)
        items.append(_Item(entry, raw, paths.get(entry.id)))
    for part in group(items, _Item.weight):
        entries = pb.CommitEntries(entries=[item.to_pb() for item in part])
        yield pb.WatchResponse(entries=entries)
    head = Head(commit.revision, commit.id, commit.table_digest)
    yield pb.WatchResponse(end=pb.CommitEnd(head=head_to_pb(head)))


@dataclass(frozen=True, slots=True)
class _Item:
    """One entry of a commit as it travels."""

    entry: Entry
    inline: bytes | None
    path: PathChange | None

    def weight(self) -> int:
        paths = 0
        if self.path is not None:
            old = self.path.old_path
            paths = len(bytes(self.path.path)) + (len(bytes(old)) if old else 0)
        return entry_weight(self.entry) + len(self.inline or b"") + paths

    def to_pb(self) -> pb.CommitEntry:
        change = self.path
        path = None
        if change is not None:
            path = pb.PathChange(
                effect=_EFFECTS_TO_PB[change.effect],
                path=bytes(change.path),
                old_path=bytes(change.old_path) if change.old_path else None,
            )
        return pb.CommitEntry(entry=entry_to_pb(self.entry), inline=self.inline, path=path)


def _path_change_from_pb(message: pb.PathChange, entry: Entry) -> PathChange:
    effect = _EFFECTS.get(message.effect)
    if effect is None:
        raise invalid("effect", f"{message.effect} is not known")
    if (effect is Effect.DELETED) == entry.is_live:
        raise invalid("effect", "contradicts the state of its entry")
    path = path_from_pb(message.path)
    if path.name != entry.name:
        raise invalid("path", "does not end with the name of its entry")
    old_path = path_from_pb(message.old_path) if message.HasField("old_path") else None
    return PathChange(effect, path, old_path, entry)


@dataclass(slots=True)
class _OpenCommit:
    """A commit of which more is to come."""

    revision: Revision
    author: Author
    op_id: OpId
    time_ns: int
    is_confirmed: bool
    count: int
    entries: dict[EntryId, Entry] = field(default_factory=dict)
    changes: list[PathChange] = field(default_factory=list)
    inline: dict[Digest, bytes] = field(default_factory=dict)

    @classmethod
    def begin(cls, message: pb.CommitBegin) -> _OpenCommit:
        if message.count > CHANGES_MAX:
            raise invalid("count", f"a commit has at most {CHANGES_MAX} entries")
        return cls(
            parse_revision(message.revision),
            author_from_pb(message.author),
            parse_op_id(message.op_id),
            message.time_ns,
            message.is_confirmed,
            message.count,
        )

    def add(self, frame: pb.CommitEntries) -> None:
        if not frame.entries or len(self.entries) + len(frame.entries) > self.count:
            raise invalid("entries", "none in a frame, or more than the begin said")
        for message in frame.entries:
            entry = entry_from_pb(message.entry)
            if entry.revision != self.revision or entry.id in self.entries:
                raise invalid("entries", "one of another revision, or one twice")
            self.entries[entry.id] = entry
            if message.HasField("inline"):
                take_inline(entry.content, message.inline, self.inline)
            if message.HasField("path"):
                self.changes.append(_path_change_from_pb(message.path, entry))

    def end(self, message: pb.CommitEnd) -> Committed:
        head = head_from_pb(message.head)
        if head.revision != self.revision or len(self.entries) != self.count:
            raise invalid("end", "the commit is not whole, or ends as another one")
        if len(self.changes) not in (0, self.count):
            raise invalid("path", "some entries of a commit have one, some have none")
        # In the order that tools show, whatever the order of the entries.
        self.changes.sort(key=lambda change: change.path.parts)
        commit = Commit(
            self.revision,
            head.commit_id,
            self.author,
            self.op_id,
            self.time_ns,
            self.is_confirmed,
            tuple(self.entries.values()),
            head.table_digest,
        )
        return Committed(commit, tuple(self.changes), self.inline)


class WatchReader:
    """Assembles events from the messages of a server, and checks their order (V1-V4)."""

    def __init__(self, cursor: Revision | None, *, wants_locks: bool = False) -> None:
        """Start after a cursor's revision; None: the first commit says where we are."""
        self._wants_locks = wants_locks
        self._locks: list[LocatedLock] = []
        self._has_locks = False
        self._in_locks = False
        self._last = cursor
        self._commit: _OpenCommit | None = None
        self._snapshot: Head | None = None
        self._page_end = b""

    def add(self, message: pb.WatchResponse) -> WatchEvent | None:
        """Return the event that this message completes; raise Invalid or ProtocolBroken."""
        part = message.WhichOneof("part")
        if (part in ("entries", "end")) != (self._commit is not None):
            raise ProtocolBroken(f"a WATCH stream has {part} where it cannot stand")
        if self._in_locks and part != "lock_table":
            raise ProtocolBroken(f"a WATCH stream has {part} where it cannot stand")
        in_snapshot = part in ("snapshot_page", "snapshot_end")
        if part != "heartbeat" and in_snapshot != (self._snapshot is not None):
            raise ProtocolBroken(f"a WATCH stream has {part} where it cannot stand")
        match part:
            case "begin":
                self._begin(message.begin)
                return None
            case "entries":
                assert self._commit is not None, "checked above"
                self._commit.add(message.entries)
                return None
            case "end":
                assert self._commit is not None, "checked above"
                committed = self._commit.end(message.end)
                self._commit, self._last = None, committed.commit.revision
                return committed
            case "heartbeat":
                beat = message.heartbeat
                return Heartbeat(head_from_pb(beat.head), beat.has_damaged)
            case "snapshot_begin":
                return self._begin_snapshot(message.snapshot_begin)
            case "snapshot_page":
                return self._page(message.snapshot_page)
            case "snapshot_end":
                return self._end_snapshot(message.snapshot_end)
            case "lock_table" if self._wants_locks:
                return self._lock_table(message.lock_table)
            case "lock_news" if self._has_locks:
                return lock_news_from_pb(message.lock_news)
            case _:
                raise invalid("part", "the message says nothing that is known")

    def _lock_table(self, message: pb.LockTable) -> LockTable | None:
        self._locks += [lock_from_pb(lock) for lock in message.locks]
        if len(self._locks) > LOCKS_MAX:
            raise invalid("locks", "more than any volume may have")
        self._in_locks = not message.is_last
        if self._in_locks:
            return None
        locks, self._locks, self._has_locks = tuple(self._locks), [], True
        return LockTable(locks)

    def _begin(self, message: pb.CommitBegin) -> None:
        commit = _OpenCommit.begin(message)
        if commit.revision != (commit.revision if self._last is None else self._last + 1):
            raise ProtocolBroken(
                f"commit {commit.revision} follows {self._last}",
                revision=str(commit.revision),
            )
        if not commit.revision:
            raise invalid("revision", "0 is no commit")
        self._commit = commit

    def _begin_snapshot(self, message: pb.SnapshotBegin) -> SnapshotBegin:
        reason = _REASONS.get(message.reason)
        if reason is None:
            raise invalid("reason", f"{message.reason} is not known")
        self._snapshot = head_from_pb(message.head)
        self._page_end = b""
        return SnapshotBegin(reason, self._snapshot)

    def _page(self, message: pb.SnapshotPage) -> SnapshotPage:
        assert self._snapshot is not None, "checked by the caller"
        entries = tuple(entry_from_pb(entry) for entry in message.entries)
        for entry in entries:
            if not entry.is_live or entry.revision > self._snapshot.revision:
                raise invalid("entries", "a snapshot has live entries up to its revision alone")
            if entry.id <= self._page_end:
                raise invalid("entries", "a snapshot is in order of id")
            self._page_end = entry.id
        return SnapshotPage(entries)

    def _end_snapshot(self, message: pb.SnapshotEnd) -> SnapshotEnd:
        head = head_from_pb(message.head)
        if head != self._snapshot:
            raise ProtocolBroken("a snapshot ends with another head than it began with")
        self._snapshot, self._last = None, head.revision
        return SnapshotEnd(head)
