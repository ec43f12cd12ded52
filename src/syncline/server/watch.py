"""WATCH: each commit after a cursor, in order, once and whole; or a snapshot and what follows (G7).

A watcher whose cursor is not on this server's chain gets a snapshot that says so. The snapshot is
read in pages at one pinned revision; commits that come meanwhile follow it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from syncline.core.changes import Author
from syncline.core.entries import Entry
from syncline.core.identity import NO_REVISION, CommitId, EntryId, Revision
from syncline.core.table import Commit, Cursor, genesis, path_of
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
from syncline.ports.metadata import TableReader
from syncline.server.feed import FeedItem
from syncline.server.volume import ServedVolume

SNAPSHOT_PAGE_ENTRIES = 256
"""Small, because an entry with the longest manifest takes some 200 KiB of memory."""

CATCH_UP_COMMITS = 64
CATCH_UP_BYTES = 4 * 1024 * 1024
"""What is read from rows at once for a watcher that fell behind the ring."""


@dataclass(frozen=True, slots=True)
class WithPaths:
    """A commit and the paths of what it changed, for tools."""

    commit: Commit
    changes: tuple[PathChange, ...]


Watched = FeedItem | WithPaths | Heartbeat | SnapshotBegin | SnapshotPage | SnapshotEnd


@dataclass(slots=True)
class Watcher:
    """A connected replica, and what it last said of itself."""

    author: Author
    progress: Progress | None = None
    broken: Invalid | None = None


async def watch(volume: ServedVolume, begin: WatchBegin) -> AsyncGenerator[Watched, None]:
    """Yield what a watcher gets, for ever. The first event comes at once."""
    reason = await volume.workers.run(_reset_reason, volume, begin)
    if reason is None:
        position = begin.cursor.revision if begin.cursor else volume.feed.head.revision
        yield Heartbeat(volume.feed.head)
    else:
        head = volume.feed.head
        yield SnapshotBegin(reason, head)
        async for page in _snapshot(volume, head.revision):
            yield page
        yield SnapshotEnd(head)
        position = head.revision
    while True:
        if not await volume.feed.wait(position, volume.limits.heartbeat_s):
            yield Heartbeat(volume.feed.head)
            continue
        if volume.feed.is_closed:
            raise Unavailable("the server is stopping; watch again when it is back")
        for item in await _next_items(volume, position):
            position = item.commit.revision
            if begin.wants_paths:
                yield await volume.workers.run(_with_paths, volume, item.commit)
            else:
                yield item


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
    commit = reader.commit(cursor.revision)
    return None if commit is None else commit.id


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


async def _next_items(volume: ServedVolume, position: Revision) -> Sequence[FeedItem]:
    """Return what follows a position: from the ring, else from rows, without inline content."""
    item = volume.feed.after(position)
    if item is not None:
        return [item]
    items = await volume.workers.run(_items_from_rows, volume, position)
    if not items:
        raise Corrupt(
            f"the commit after revision {position} is not in the store",
            what="commit",
            revision=str(position + 1),
        )
    return items


def _items_from_rows(volume: ServedVolume, position: Revision) -> list[FeedItem]:
    items: list[FeedItem] = []
    with volume.metadata.read(volume.id) as reader:
        while len(items) < CATCH_UP_COMMITS and sum(i.cost_bytes for i in items) < CATCH_UP_BYTES:
            commit = reader.commit(Revision(position + len(items) + 1))
            if commit is None:
                break
            items.append(FeedItem(commit, {}))
    return items


def _with_paths(volume: ServedVolume, commit: Commit) -> WithPaths:
    with (
        volume.metadata.read(volume.id, commit.revision) as now,
        volume.metadata.read(volume.id, Revision(commit.revision - 1)) as before,
    ):
        changes = [_path_change(now, before, entry) for entry in commit.entries]
    changes.sort(key=lambda change: change.path.parts)
    return WithPaths(commit, tuple(changes))


def _path_change(now: TableReader, before: TableReader, entry: Entry) -> PathChange:
    old = before.entry(entry.id)
    path = path_of(now, entry)
    if old is None or not old.is_live:
        return PathChange(Effect.CREATED, path, None, entry)
    old_path = path_of(before, old)
    if not entry.is_live:
        return PathChange(Effect.DELETED, old_path, None, entry)
    if (old.parent, old.name) != (entry.parent, entry.name):
        return PathChange(Effect.MOVED, path, old_path, entry)
    if (old.digest, old.target) != (entry.digest, entry.target):
        return PathChange(Effect.CHANGED, path, None, entry)
    return PathChange(Effect.MODE, path, None, entry)
