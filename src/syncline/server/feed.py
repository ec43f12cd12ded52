"""The feed: recent commits in memory, shared by all watchers of a volume.

F1  `publish` is called once a commit, in order of revision, after the commit is durable.
F2  A watcher holds a position alone. What left the ring is read from the store's rows, so a slow
    watcher costs nobody memory and loses nothing but the inline content.
F3  Watchers at one position hold one item: what was read, worked out or encoded for the first of
    them is there for the others as long as one of them has use for it, and no longer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from weakref import ReferenceType, WeakValueDictionary

from syncline.core.identity import Digest, Revision
from syncline.core.table import Commit, Head
from syncline.ports.link import PathChange
from syncline.ports.locks import LockNews

NEWS_MAX = 1024
"""News of locks that are kept for slow watchers; who missed some gets the table of locks again."""

NEWS_CHANGES_MAX = 4096
"""Changes in all news that are kept: each has a path, which may take some 5 KB of memory."""

ENTRY_COST_BYTES = 600
REF_COST_BYTES = 250
COPIES = 3
"""What a commit takes in memory, about: objects, and bytes once as they are and encoded for those
watchers who want content and for those who do not."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class WithPaths:
    """A commit and the paths of what it changed, for tools; `frames` as in a FeedItem."""

    commit: Commit
    changes: tuple[PathChange, ...]
    frames: dict[bool, list[bytes]] = field(default_factory=dict)


@dataclass(slots=True, eq=False, weakref_slot=True)
class FeedItem:
    """A commit with its small content; `frames` keeps what a sender encoded, by variant.

    `with_paths` is weak because paths of a deep tree are far larger than its entries: the ring,
    which does not count them, must not keep them.
    """

    commit: Commit
    inline: dict[Digest, bytes]
    frames: dict[bool, list[bytes]] = field(default_factory=dict)
    with_paths: ReferenceType[WithPaths] | None = None
    cost_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        """Reckon the cost once, in the thread that makes the item."""
        self.cost_bytes = self._cost()

    def _cost(self) -> int:
        size = sum(map(len, self.inline.values()))
        refs = 0
        for entry in self.commit.entries:
            size += len(entry.name) + len(entry.target or b"")
            refs += len(entry.content.refs) if entry.content else 0
        objects = ENTRY_COST_BYTES * (1 + len(self.commit.entries)) + REF_COST_BYTES * refs
        return objects + COPIES * size


@dataclass(frozen=True, slots=True)
class FeedNews:
    """News of locks: their number, and the commit that they follow."""

    number: int
    after: Revision
    news: LockNews


class Feed:
    """The ring of one volume. One event loop owns it."""

    def __init__(self, head: Head, *, bytes_max: int) -> None:
        self.head = head
        self._bytes_max = bytes_max
        self._bytes = 0
        self._ring: deque[FeedItem] = deque()
        self._shared: WeakValueDictionary[Revision, FeedItem] = WeakValueDictionary()
        self._turns: WeakValueDictionary[Revision, asyncio.Lock] = WeakValueDictionary()
        self._news = asyncio.Event()
        self._lock_news: deque[FeedNews] = deque()
        self._lock_changes = 0
        self.news_count = 0
        """How many news of locks there were."""
        self.is_closed = False

    def close(self) -> None:
        """Wake all watchers for the last time: the server is stopping."""
        self.is_closed = True
        self._news.set()

    def publish(self, item: FeedItem) -> None:
        """Append the newest commit and wake all watchers (F1)."""
        commit = item.commit
        assert commit.revision == self.head.revision + 1, "a commit was published out of order"
        self.head = Head(commit.revision, commit.id, commit.table_digest)
        self._ring.append(item)
        self._shared[commit.revision] = item
        self._bytes += item.cost_bytes
        while self._bytes > self._bytes_max and self._ring:
            self._bytes -= self._ring.popleft().cost_bytes
        self._wake()

    def publish_news(self, news: LockNews) -> None:
        """Append news of locks: they follow the head of now."""
        self.news_count += 1
        self._lock_news.append(FeedNews(self.news_count, self.head.revision, news))
        self._lock_changes += len(news.changes)
        while len(self._lock_news) > NEWS_MAX or self._lock_changes > NEWS_CHANGES_MAX:
            self._lock_changes -= len(self._lock_news.popleft().news.changes)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def news_after(self, number: int) -> FeedNews | None:
        """Return the news of locks that follow those of a number, when they are kept yet."""
        if not self._lock_news:
            return None
        index = number + 1 - self._lock_news[0].number
        return self._lock_news[index] if 0 <= index < len(self._lock_news) else None

    def after(self, revision: Revision) -> FeedItem | None:
        """Return the commit that follows `revision` when the ring still has it (F2)."""
        if not self._ring:
            return None
        index = revision - self._ring[0].commit.revision + 1
        return self._ring[index] if 0 <= index < len(self._ring) else None

    def at_hand(self, revision: Revision) -> FeedItem | None:
        """Return the commit that follows `revision` when the ring or a watcher has it (F3)."""
        return self.after(revision) or self._shared.get(Revision(revision + 1))

    def share(self, item: FeedItem) -> FeedItem:
        """Return the item of this commit that all watchers use: an earlier one, else `item`."""
        return self._shared.setdefault(item.commit.revision, item)

    def turn(self, revision: Revision) -> asyncio.Lock:
        """Return the lock for work on one commit, so that the second in the line finds it done."""
        return self._turns.setdefault(revision, asyncio.Lock())

    async def wait(
        self, revision: Revision, timeout_s: float | None, news: int | None = None
    ) -> bool:
        """Wait for a commit past `revision` or the end; tell whether one of them came in time.

        With `news`, wait for news of locks past that number too. `timeout_s` is in seconds over all
        that is published meanwhile; None waits for ever.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while (
                    not self.is_closed
                    and self.head.revision <= revision
                    and (news is None or self.news_count <= news)
                ):
                    await self._news.wait()
        except TimeoutError:
            return False
        return True
