"""The feed: recent commits in memory, shared by all watchers of a volume.

F1  `publish` is called once a commit, in order of revision, after the commit is durable.
F2  A watcher holds a position alone. What left the ring is read from the store's rows, so a slow
    watcher costs nobody memory and loses nothing but the inline content.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from syncline.core.identity import Digest, Revision
from syncline.core.table import Commit, Head

ENTRY_COST_BYTES = 600
REF_COST_BYTES = 250
COPIES = 3
"""What a commit takes in memory, about: objects, and bytes once as they are and encoded for those
watchers who want content and for those who do not."""


@dataclass(slots=True)
class FeedItem:
    """A commit with its small content; `frames` keeps what a sender encoded, by variant."""

    commit: Commit
    inline: dict[Digest, bytes]
    frames: dict[bool, list[bytes]] = field(default_factory=dict)
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


class Feed:
    """The ring of one volume. One event loop owns it."""

    def __init__(self, head: Head, *, bytes_max: int) -> None:
        self.head = head
        self._bytes_max = bytes_max
        self._bytes = 0
        self._ring: deque[FeedItem] = deque()
        self._news = asyncio.Event()
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
        self._bytes += item.cost_bytes
        while self._bytes > self._bytes_max and self._ring:
            self._bytes -= self._ring.popleft().cost_bytes
        self._news.set()
        self._news = asyncio.Event()

    def after(self, revision: Revision) -> FeedItem | None:
        """Return the commit that follows `revision` when the ring still has it (F2)."""
        if not self._ring:
            return None
        index = revision - self._ring[0].commit.revision + 1
        return self._ring[index] if 0 <= index < len(self._ring) else None

    async def wait(self, revision: Revision, timeout_s: float) -> bool:
        """Wait for a commit past `revision` or the end; tell whether one of them came in time."""
        if self.is_closed or self.head.revision > revision:
            return True
        news = self._news
        try:
            async with asyncio.timeout(timeout_s):
                await news.wait()
        except TimeoutError:
            return False
        return True
