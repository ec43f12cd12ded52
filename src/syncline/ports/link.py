"""The link: what a client asks of a server, whether through gRPC or in the same process.

Contract, for every adapter:

- All calls may run at once. Each ends: by its answer, by a typed error, or by cancellation.
- `store` and `delete` are once-only by `(replica, op id)`: after an `Unavailable` or `TimedOut` the
  same proposal may be sent again and gets the first answer.
- What an answer says was accepted is durable on the server.
- Content that `fetch` yields was checked against its digest.
- Errors besides each call's own: `Unavailable`, `TimedOut`, `Throttled`, `Invalid`, `NotFound` (no
  such volume), `TooNew`, `ProtocolBroken`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from syncline.core.bodies import ChunkBody
from syncline.core.changes import Answer, Author, Proposal
from syncline.core.entries import Entry
from syncline.core.identity import Digest, Revision, VolumeId
from syncline.core.names import RelPath
from syncline.core.table import Commit, Cursor, Head
from syncline.core.user_locks import SessionId
from syncline.ports.locks import Locking, LockNews, LockTable

PROTOCOL = 1
PROTOCOL_OLDEST = 1

LOCKS = "locks"
"""The capability of a server that has user locks: Lock, Renew, Unlock, ListLocks, on WATCH too."""

ChunkSource = Callable[[Digest], Awaitable[ChunkBody]]
"""Gives a chunk that the proposal names, plain or compressed; raises LocalFailure when it no longer
can. What the server does not take compressed the link opens on the way."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says of itself and of the volume."""

    protocol: int
    protocol_oldest: int
    server_version: str
    capabilities: frozenset[str]
    volume: VolumeId
    volume_name: str
    head: Head


@dataclass(frozen=True, slots=True)
class Located:
    """A live entry, its path at the asked revision, and who made that state of it when.

    `is_damaged`: the server knows that it lacks some of this content; a STORE of it repairs it.
    """

    path: RelPath
    entry: Entry
    author: str
    time_ns: int
    is_damaged: bool = False


class Effect(Enum):
    """What a commit did to one entry, in the words of `syncline watch`."""

    CREATED = "created"
    CHANGED = "changed"
    MODE = "mode"
    MOVED = "moved"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class PathChange:
    """One entry of a commit by its path; `old_path` is where it was, when that is elsewhere."""

    effect: Effect
    path: RelPath
    old_path: RelPath | None
    entry: Entry


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit from the feed; `changes` only when paths were asked for, `inline` small content."""

    commit: Commit
    changes: tuple[PathChange, ...]
    inline: dict[Digest, bytes]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server lives, and its head is here.

    `has_damaged`: it knows that it lacks chunks; a listing says of which files.
    """

    head: Head
    has_damaged: bool = False


class ResetReason(Enum):
    """Why a watcher gets a snapshot and not what follows its cursor."""

    NEWCOMER = "newcomer"
    HISTORY_CUT = "history_cut"
    CURSOR_TOO_OLD = "cursor_too_old"


@dataclass(frozen=True, slots=True)
class SnapshotBegin:
    """The whole file table at `head` follows in pages."""

    reason: ResetReason
    head: Head


@dataclass(frozen=True, slots=True)
class SnapshotPage:
    """Some live entries of the snapshot, in order of id."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """The snapshot is whole: only now does absence mean anything."""

    head: Head


WatchEvent = (
    Committed | Heartbeat | SnapshotBegin | SnapshotPage | SnapshotEnd | LockTable | LockNews
)
"""Of locks only a watcher hears that asked for them: a table first, then news in the order of the
commits, and the table again where news were lost."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a client tells the server on its WATCH stream."""

    placed: Cursor
    pending: int
    problems: int


@dataclass(frozen=True, slots=True)
class WatchBegin:
    """How a watcher starts. Without a cursor it gets a snapshot first, unless `from_head`.

    `session`: each progress that follows renews the leases of what it holds.
    """

    author: Author
    cursor: Cursor | None
    from_head: bool = False
    wants_inline: bool = False
    wants_paths: bool = False
    wants_locks: bool = False
    session: SessionId | None = None


class Link(Protocol):
    """One volume of one server."""

    async def hello(self) -> ServerFacts:
        """Return the facts; raise TooNew when the two sides speak no common protocol."""

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        """STORE: send what the server lacks, commit; raise Corrupt or NoSpace."""

    async def delete(self, proposal: Proposal) -> Answer:
        """DELETE: the same for deletes alone."""

    def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        """Yield chunks in the order asked; raise NotFound or Corrupt, `digest` in the fields."""

    def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        """Yield commits for ever, in order, each once and whole; raise when the stream breaks."""

    def list(
        self, path: RelPath, *, is_recursive: bool, at: Revision | None
    ) -> AsyncIterator[Located]:
        """Yield what is at and below a path, parents first, names in order of bytes.

        Raise NotFound for a path or a revision that is not there. A directory itself is not among
        its own children; a file yields itself.
        """

    async def stat(self, paths: Sequence[RelPath], at: Revision | None) -> Sequence[Located | None]:
        """Return what is at each path; the root and what is absent are None."""

    async def close(self) -> None:
        """End all calls and let go of the connection."""


class LockingLink(Link, Locking, Protocol):
    """A link through which locks are held, too."""
