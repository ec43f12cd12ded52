"""WATCH: each commit after a cursor, in order, once and whole; or a snapshot and what follows (G7).

A watcher whose cursor is not on this server's chain gets a snapshot that says so. The snapshot is
read in pages at one pinned revision; commits that come meanwhile follow it.

Rows hold commits that are durable and not yet published; a watcher is told none of them before the
feed is, and no head behind what it was told.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from syncline.core.changes import Author
from syncline.core.entries import Entry, Kind
from syncline.core.identity import NO_REVISION, ROOT_ID, CommitId, EntryId, Revision
from syncline.core.names import RelPath
from syncline.core.table import Commit, Cursor, Table, genesis
from syncline.errors import Corrupt, Invalid, Unavailable
from syncline.ports.link import (
    Effect,
    Heartbeat,
    PathChange,
    Progress,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
)
from syncline.ports.locks import LockNews, LockTable
from syncline.ports.metadata import TableReader
from syncline.server.feed import FeedItem, WithPaths
from syncline.server.volume import ServedVolume

SNAPSHOT_PAGE_ENTRIES = 256
"""Small, because an entry with the longest manifest takes some 200 KiB of memory."""

CATCH_UP_COMMITS = 64
CATCH_UP_BYTES = 1024 * 1024
"""What is read from rows at once for a watcher that fell behind the ring: it holds all of that
while it is slow. One commit of the most entries takes more, and comes alone."""

LOOP_PARTS_MAX = 128
"""Entries and chunks that the event loop encodes itself, in about 3 ms; more go to a worker."""

Watched = (
    FeedItem
    | WithPaths
    | Heartbeat
    | SnapshotBegin
    | SnapshotPage
    | SnapshotEnd
    | LockTable
    | LockNews
)


@dataclass(slots=True)
class Watcher:
    """A connected replica, and what it last said of itself."""

    author: Author
    progress: Progress | None = None
    broken: Invalid | None = None


async def watch(volume: ServedVolume, begin: WatchBegin) -> AsyncGenerator[Watched, None]:
    """Yield what a watcher gets, for ever.

    The first event comes at once, or as soon as the feed has reached the cursor. News of locks
    stand between the commits that they came between. Raise Unavailable when the server stops,
    Corrupt when a commit is not in the store.
    """
    reason = await volume.workers.run(_reset_reason, volume, begin)
    if reason is None:
        position = await _start(volume, begin.cursor)
        yield _heartbeat(volume)
    else:
        head = volume.feed.head
        yield SnapshotBegin(reason, head)
        async for page in _snapshot(volume, head.revision):
            yield page
        yield SnapshotEnd(head)
        position = head.revision
    news: _News | None = None
    if begin.wants_locks:
        news = _News(volume)
        yield await news.table()
    while True:
        if news is not None:
            for told in await news.upto(position):
                yield told
        told_upto = None if news is None else news.told
        if not await volume.feed.wait(position, volume.limits.heartbeat_s, told_upto):
            yield _heartbeat(volume)
            continue
        if volume.feed.is_closed:
            raise _stopping()
        if volume.feed.head.revision <= position:
            # News of locks alone, and no commit.
            continue
        items = await _next_items(volume, position)
        # What was told is let go: a watcher that is slow holds no more than what follows.
        while items:
            item = items.popleft()
            position = item.commit.revision
            yield await _with_paths(volume, item) if begin.wants_paths else item
            del item
            if news is not None:
                for told in await news.upto(position):
                    yield told


def _heartbeat(volume: ServedVolume) -> Heartbeat:
    return Heartbeat(volume.feed.head, volume.chunks.has_damaged)


class _News:
    """What one watcher was told of locks."""

    def __init__(self, volume: ServedVolume) -> None:
        self._volume = volume
        self.told = 0

    async def table(self) -> LockTable:
        """Return all locks; what follows is told from there on."""
        volume = self._volume
        self.told, table = await volume.user_locks.table(volume.metadata, volume.id, volume.workers)
        return table

    async def upto(self, position: Revision) -> Sequence[LockNews | LockTable]:
        """Return what comes before the commit after `position`, in order.

        The whole table, where some of it is not kept any more.
        """
        feed = self._volume.feed
        told: list[LockNews | LockTable] = []
        while self.told < feed.news_count:
            found = feed.news_after(self.told)
            if found is None:
                told = [await self.table()]
            elif found.after > position:
                break
            else:
                self.told = found.number
                told.append(found.news)
        return told


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping; watch again when it is back")


async def _start(volume: ServedVolume, cursor: Cursor | None) -> Revision:
    """Return the first position, once the feed is not behind it."""
    if cursor is None:
        return volume.feed.head.revision
    await volume.feed.wait(Revision(cursor.revision - 1), None)
    if volume.feed.head.revision < cursor.revision:
        raise _stopping()
    return cursor.revision


async def encoded(
    volume: ServedVolume,
    event: FeedItem | WithPaths,
    encode: Callable[[], list[bytes]],
    *,
    variant: bool,
) -> list[bytes]:
    """Return the messages of a commit, encoded once for all watchers of a variant.

    `encode` must be fit to run in any thread: for a large commit it runs in a worker.
    """
    frames = event.frames.get(variant)
    if frames is not None:
        return frames
    if not _is_large(event.commit.entries):
        return event.frames.setdefault(variant, encode())
    async with volume.feed.turn(event.commit.revision):
        frames = event.frames.get(variant)
        if frames is None:
            frames = event.frames[variant] = await volume.workers.run(encode)
        return frames


def _is_large(entries: Iterable[Entry]) -> bool:
    parts = sum(1 + len(entry.content.refs) if entry.content else 1 for entry in entries)
    return parts > LOOP_PARTS_MAX


def _reset_reason(volume: ServedVolume, begin: WatchBegin) -> ResetReason | None:
    """Return why the watcher must start from a snapshot; None when it can go on."""
    cursor = begin.cursor
    if cursor is None:
        return None if begin.from_head else ResetReason.NEWCOMER
    if cursor.revision < volume.facts.oldest:
        return ResetReason.CURSOR_TOO_OLD
    with volume.metadata.read(volume.id) as reader:
        if cursor.revision > reader.head().revision:
            return ResetReason.HISTORY_CUT
        if cursor.commit_id is None:
            return None
        if _commit_id_at(volume, reader, cursor) != cursor.commit_id:
            return ResetReason.HISTORY_CUT
    return None


def _commit_id_at(volume: ServedVolume, reader: TableReader, cursor: Cursor) -> CommitId | None:
    if cursor.revision == NO_REVISION:
        return genesis(volume.id)
    return reader.commit_id(cursor.revision)


async def _snapshot(volume: ServedVolume, at: Revision) -> AsyncIterator[SnapshotPage]:
    after: EntryId | None = None
    while True:
        entries = await volume.workers.run(_page, volume, at, after)
        if not entries:
            return
        yield SnapshotPage(tuple(entries))
        after = entries[-1].id


def _page(volume: ServedVolume, at: Revision, after: EntryId | None) -> Sequence[Entry]:
    with volume.metadata.read(volume.id, at) as reader:
        return reader.page(after, SNAPSHOT_PAGE_ENTRIES)


async def _next_items(volume: ServedVolume, position: Revision) -> deque[FeedItem]:
    """Return what follows a position: from the feed, else from rows, without inline content."""
    feed = volume.feed
    item = feed.at_hand(position)
    if item is not None:
        return deque([item])
    async with feed.turn(Revision(position + 1)):
        item = feed.at_hand(position)
        if item is not None:
            return deque([item])
        # Before the hop: what is durable by then and not published comes when the feed has it.
        upto = feed.head.revision
        items = await volume.workers.run(_items_from_rows, volume, position, upto)
        if not items:
            raise Corrupt(
                f"the commit after revision {position} is not in the store",
                what="commit",
                revision=str(position + 1),
            )
        return deque(map(feed.share, items))


def _items_from_rows(volume: ServedVolume, position: Revision, upto: Revision) -> list[FeedItem]:
    items: list[FeedItem] = []
    cost_bytes = 0
    last = min(upto, position + CATCH_UP_COMMITS)
    with volume.metadata.read(volume.id) as reader:
        for revision in range(position + 1, last + 1):
            commit = reader.commit(Revision(revision))
            if commit is None:
                break
            items.append(FeedItem(commit, {}))
            cost_bytes += items[-1].cost_bytes
            if cost_bytes >= CATCH_UP_BYTES:
                break
    return items


async def _with_paths(volume: ServedVolume, item: FeedItem) -> WithPaths:
    """Return a commit with its paths, worked out once for all tools that are there."""
    async with volume.feed.turn(item.commit.revision):
        told = item.with_paths() if item.with_paths else None
        if told is None:
            changes = await volume.workers.run(_path_changes, volume, item.commit)
            told = WithPaths(item.commit, changes)
            item.with_paths = weakref.ref(told)
        return told


def _path_changes(volume: ServedVolume, commit: Commit) -> tuple[PathChange, ...]:
    with (
        volume.metadata.read(volume.id, commit.revision) as now,
        volume.metadata.read(volume.id, Revision(commit.revision - 1)) as before,
    ):
        sides = Addresses(now), Addresses(before)
        changes = [_path_change(*sides, before.entry(entry.id), entry) for entry in commit.entries]
    changes.sort(key=lambda change: change.path.parts)
    return tuple(changes)


class Addresses:
    """Paths of entries in one table; a directory that many lie below is looked up once."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._directories = {ROOT_ID: RelPath()}

    def of(self, entry: Entry) -> RelPath:
        """Return the address of an entry; of a tombstone, the address it had last."""
        path = self._directories.get(entry.id)
        if path is None:
            path = self._directory(entry.parent).child(entry.name)
            if entry.kind is Kind.DIRECTORY:
                self._directories[entry.id] = path
        return path

    def _directory(self, id: EntryId) -> RelPath:
        below: list[Entry] = []
        while id not in self._directories:
            above = self._table.entry(id)
            assert above is not None, "an entry has a parent that was never there"
            below.append(above)
            id = above.parent
        path = self._directories[id]
        for entry in reversed(below):
            path = self._directories[entry.id] = path.child(entry.name)
        return path


def _path_change(now: Addresses, before: Addresses, old: Entry | None, entry: Entry) -> PathChange:
    path = now.of(entry)
    if old is None or not old.is_live:
        return PathChange(Effect.CREATED, path, None, entry)
    old_path = before.of(old)
    if not entry.is_live:
        return PathChange(Effect.DELETED, old_path, None, entry)
    if (old.parent, old.name) != (entry.parent, entry.name):
        return PathChange(Effect.MOVED, path, old_path, entry)
    if (old.digest, old.target) != (entry.digest, entry.target):
        return PathChange(Effect.CHANGED, path, None, entry)
    return PathChange(Effect.MODE, path, None, entry)
