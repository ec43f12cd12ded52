"""User locks: who keeps others from changing an entry and what is below it.

Model: a lock is on one entry, the root of a volume included, and covers that entry and whatever is
below it at the moment: locks follow entries through moves. It belongs to a session of an owner. A
request wants the locks of some entries at once and gets all or none; who waits stands in one queue.
A `Book` is a value: each rule here takes one and returns the `Turn` that leads to the next.

U1  No entry is covered by locks of two sessions, whatever is granted or moved.
U2  Each grant of a volume has a token greater than all before it. It is the time of the grant in
    microseconds, or the next number where the clock does not go on: so a server that goes on from
    an older copy of its data gives no token again either, unless its clock went back as well.
U3  No request is granted before an earlier one that waits and wants what overlaps, but for what
    the session's own locks cover already: no starving.
U4  After a turn no request waits that could be granted: no lost wake-up.
U5  A session that asks again for what it holds has it, with the token that it has.
U6  A lock ends once, by the token it was granted with, and the end is told.

This module has no clock: that a lock is over is told to it (`core.lock_leases`), and so is the wall
time of a grant. What a commit may change beside locks is in `core.lock_rules`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NewType

from syncline.core.changes import Author, HeldToken, Token
from syncline.core.entries import Entry, Kind
from syncline.core.identity import ROOT_ID, EntryId, ReplicaId
from syncline.core.table import Table

SessionId = NewType("SessionId", bytes)
"""Which of an owner's sessions: 16 bytes, chosen by the client. Sessions keep each other out."""

SessionKey = tuple[ReplicaId, SessionId]

Ticket = NewType("Ticket", int)
NO_TOKEN = Token(0)
NO_TICKET = Ticket(0)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lock: a replica and its human name, the host it is on, and the session."""

    author: Author
    host: str
    session: SessionId

    @property
    def key(self) -> SessionKey:
        """Return what tells this session from every other one."""
        return self.author.replica, self.session


@dataclass(frozen=True, slots=True)
class UserLock:
    """A lock on an entry.

    `lease_s`: it ends so long after its last renewal; 0: nobody needs to renew it. `ttl_s`: it ends
    so long after its grant in any case. `granted_ns` is wall time, for people alone.
    """

    entry: EntryId
    token: Token
    owner: Owner
    reason: str
    lease_s: float
    ttl_s: float
    granted_ns: int
    ticket: Ticket = NO_TICKET

    def is_of(self, author: Author) -> bool:
        """Tell whether it belongs to this replica under this name, whichever session."""
        return self.owner.author == author


@dataclass(frozen=True, slots=True)
class LockRequest:
    """Some entries that a session wants locked, all or none."""

    ticket: Ticket
    owner: Owner
    entries: tuple[EntryId, ...]
    reason: str
    lease_s: float
    ttl_s: float


class LockEffect(Enum):
    """What happened to a lock."""

    GRANTED = "granted"
    UNLOCKED = "unlocked"
    EXPIRED = "expired"
    BROKEN = "broken"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class LockChange:
    """A lock that was granted or that is over; `by` is who ended it, where somebody did."""

    effect: LockEffect
    lock: UserLock
    by: Author | None = None


@dataclass(frozen=True, slots=True)
class LockLimits:
    """How many locks a volume has, and how many of them one replica; waiting ones count."""

    total_max: int
    each_max: int


# -- Why a request is not granted --------------------------------------------


@dataclass(frozen=True, slots=True)
class Blocked:
    """Another session holds `lock`, or wants it and waits since earlier (`lock` is None)."""

    entry: EntryId
    lock: UserLock | None


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such live entry any more."""

    entry: EntryId


@dataclass(frozen=True, slots=True)
class Full:
    """A limit is reached: the replica's own, or that of the volume."""

    limit: int
    is_own: bool


Denial = Blocked | Gone | Full
Verdict = tuple[UserLock, ...] | Denial


@dataclass(frozen=True, slots=True)
class Book:
    """The locks of a volume, who waits for some, in order, and the last token that was given."""

    locks: Mapping[EntryId, UserLock] = field(default_factory=dict)
    queue: tuple[LockRequest, ...] = ()
    last_token: Token = NO_TOKEN


@dataclass(frozen=True, slots=True)
class Turn:
    """The next book, what happened to locks, in order, and what requests came to that are done.

    The changes name each lock that began or ended; a lock that was asked for again is in `settled`
    alone.
    """

    book: Book
    changes: tuple[LockChange, ...] = ()
    settled: Mapping[Ticket, Verdict] = field(default_factory=dict)


def ask(
    book: Book, table: Table, request: LockRequest, limits: LockLimits, now_ns: int, *, waits: bool
) -> Turn:
    """Grant a request, deny it, or put it into the queue when it may wait.

    What it comes to is in `settled`; nothing is there while it waits.
    """
    assert request.entries and len(set(request.entries)) == len(request.entries)
    assert request.ticket != NO_TICKET, "a request is known by its ticket"
    full = _full(book, request, limits)
    if full is not None:
        return Turn(book, settled={request.ticket: full})
    turn = settle(replace(book, queue=(*book.queue, request)), table, now_ns)
    if request.ticket in turn.settled or waits:
        return turn
    denial = _denial(turn.book, table, request)
    assert denial is not None, "what could be granted was granted"  # U4
    queue = tuple(each for each in turn.book.queue if each.ticket != request.ticket)
    settled = {**turn.settled, request.ticket: denial}
    return replace(turn, book=replace(turn.book, queue=queue), settled=settled)


def settle(book: Book, table: Table, now_ns: int) -> Turn:
    """Grant what can be granted, in the order of the queue (U3, U4)."""
    paths = Paths(table)
    claims, held = _Claims(paths), _Held(book.locks, paths)
    left: list[LockRequest] = []
    changes: list[LockChange] = []
    settled: dict[Ticket, Verdict] = {}
    token = book.last_token
    for request in book.queue:
        denial = _gone(table, request) or held.blocking(request)
        if isinstance(denial, Gone):
            settled[request.ticket] = denial
            continue
        if denial is not None or claims.overlap(held.locks, request) is not None:
            left.append(request)
            claims.add(request)
            continue
        for lock in held.grant(request, token, now_ns):
            token = lock.token
            changes.append(LockChange(LockEffect.GRANTED, lock))
        settled[request.ticket] = tuple(held.locks[entry] for entry in request.entries)
    return Turn(Book(held.locks, tuple(left), token), tuple(changes), settled)


def withdraw(book: Book, table: Table, ticket: Ticket, now_ns: int, *, is_abandoned: bool) -> Turn:
    """Take a request out of the queue; `is_abandoned`: and give back what it was granted.

    In `settled` is what it waited for in vain; nothing when it does not wait any more.
    """
    request = next((each for each in book.queue if each.ticket == ticket), None)
    if request is not None:
        denial = _denial(book, table, request)
        assert denial is not None, "what could be granted was granted"  # U4
        queue = tuple(each for each in book.queue if each.ticket != ticket)
        turn = settle(replace(book, queue=queue), table, now_ns)
        return replace(turn, settled={**turn.settled, ticket: denial})
    if not is_abandoned:
        return Turn(book)
    granted = [lock for lock in book.locks.values() if lock.ticket == ticket]
    return end(book, table, granted, LockEffect.UNLOCKED, now_ns)


def end(
    book: Book,
    table: Table,
    over: Iterable[HeldToken | UserLock],
    effect: LockEffect,
    now_ns: int,
    by: Author | None = None,
) -> Turn:
    """End locks by entry and token (U6), and let in who waited; what is not held so is left."""
    locks = dict(book.locks)
    ended: list[LockChange] = []
    for each in over:
        lock = locks.get(each.entry)
        if lock is not None and lock.token == each.token:
            del locks[each.entry]
            ended.append(LockChange(effect, lock, by))
    if not ended:
        return Turn(book)
    turn = settle(replace(book, locks=locks), table, now_ns)
    return replace(turn, changes=(*ended, *turn.changes))


def after_commit(
    book: Book, table: Table, entries: Iterable[Entry], now_ns: int, by: Author
) -> Turn:
    """Follow a commit: locks of deleted entries end, and a move may have freed one who waits."""
    changed = tuple(entries)
    gone = [
        book.locks[entry.id] for entry in changed if not entry.is_live and entry.id in book.locks
    ]
    if gone:
        return end(book, table, gone, LockEffect.DELETED, now_ns, by)
    # Most commits are of files that nobody asked for: these change no way up of what is asked for.
    wanted = {id for request in book.queue for id in request.entries}
    concerns = any(
        entry.kind is Kind.DIRECTORY or entry.id in wanted or entry.id in book.locks
        for entry in changed
    )
    return settle(book, table, now_ns) if wanted and concerns else Turn(book)


def holder_of(book: Book, entry: EntryId, token: Token, author: Author) -> UserLock | None:
    """Return the lock of an entry when this replica was granted it with this token."""
    lock = book.locks.get(entry)
    if lock is None or lock.token != token or lock.owner.author.replica != author.replica:
        return None
    return lock


class Paths:
    """What is above entries in one table; each directory is looked up once."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._known: dict[EntryId, tuple[EntryId, ...]] = {ROOT_ID: ()}

    def above(self, id: EntryId) -> tuple[EntryId, ...]:
        """Return the directories above an entry, the nearest first, the root last.

        Of one that is not there, nothing.
        """
        below: list[EntryId] = []
        while id not in self._known:
            below.append(id)
            entry = self._table.entry(id)
            if entry is None:
                self._known[id] = ()
                below.pop()
                break
            id = entry.parent
        path = self._known[id]
        for each in reversed(below):
            path = (id, *path)
            self._known[each] = path
            id = each
        return path

    def is_directory(self, id: EntryId) -> bool:
        """Tell whether something can be below it."""
        if id == ROOT_ID:
            return True
        entry = self._table.entry(id)
        return entry is not None and entry.kind is Kind.DIRECTORY


def covering(locks: Mapping[EntryId, UserLock], paths: Paths, entry: EntryId) -> Iterator[UserLock]:
    """Yield the locks that cover an entry: its own, and those of what is above it."""
    if entry in locks:
        yield locks[entry]
    for above in paths.above(entry):
        if above in locks:
            yield locks[above]


def below(locks: Mapping[EntryId, UserLock], paths: Paths, entry: EntryId) -> Iterator[UserLock]:
    """Yield the locks of what is below an entry, in order of their tokens."""
    for lock in sorted(locks.values(), key=lambda lock: lock.token):
        if entry in paths.above(lock.entry):
            yield lock


class _Held:
    """The locks of a turn as they grow, with the first ones below each directory.

    Without these, each who waits for a directory would look at each lock.
    """

    def __init__(self, locks: Mapping[EntryId, UserLock], paths: Paths) -> None:
        self.locks = dict(locks)
        self._paths = paths
        self._below: dict[EntryId, list[UserLock]] | None = None

    def blocking(self, request: LockRequest) -> Blocked | None:
        """Return the first lock of another session that covers an entry, or is below it (U1)."""
        session = request.owner.key
        if not self.locks:
            return None
        for entry in request.entries:
            for lock in covering(self.locks, self._paths, entry):
                if lock.owner.key != session:
                    return Blocked(entry, lock)
            if not self._paths.is_directory(entry):
                continue
            for lock in self._first_below(entry):
                if lock.owner.key != session:
                    return Blocked(entry, lock)
        return None

    def grant(self, request: LockRequest, last_token: Token, now_ns: int) -> list[UserLock]:
        """Give fresh tokens (U2) and return what they are of; what the session has keeps its own.

        Such a lock (U5) is no longer the work of the request that it came from: who gives up that
        one does not take it away from this one.
        """
        owner, reason = request.owner, request.reason
        lease_s, ttl_s = request.lease_s, request.ttl_s
        fresh: list[UserLock] = []
        token = max(last_token, now_ns // 1000 - 1)
        for entry in request.entries:
            held = self.locks.get(entry)
            if held is not None:
                self.locks[entry] = replace(
                    held, reason=reason, lease_s=lease_s, ttl_s=ttl_s, ticket=NO_TICKET
                )
                continue
            token += 1
            lock = UserLock(
                entry, Token(token), owner, reason, lease_s, ttl_s, now_ns, request.ticket
            )
            self.locks[entry] = lock
            fresh.append(lock)
            if self._below is not None:
                self._note(self._below, lock)
        return fresh

    def _first_below(self, entry: EntryId) -> Sequence[UserLock]:
        """Return the first lock below a directory, and the first of another session than that."""
        if self._below is None:
            self._below = {}
            for lock in sorted(self.locks.values(), key=lambda lock: lock.token):
                self._note(self._below, lock)
        return self._below.get(entry, ())

    def _note(self, below: dict[EntryId, list[UserLock]], lock: UserLock) -> None:
        for above in self._paths.above(lock.entry):
            first = below.setdefault(above, [])
            if not first or (len(first) == 1 and first[0].owner.key != lock.owner.key):
                first.append(lock)


class _Claims:
    """What those want who wait since earlier; of the same session nothing is in the way."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._wanted: dict[EntryId, set[SessionKey]] = {}
        self._above: dict[EntryId, set[SessionKey]] = {}

    def add(self, request: LockRequest) -> None:
        session = request.owner.key
        for entry in request.entries:
            self._wanted.setdefault(entry, set()).add(session)
            for above in self._paths.above(entry):
                self._above.setdefault(above, set()).add(session)

    def overlap(self, locks: Mapping[EntryId, UserLock], request: LockRequest) -> EntryId | None:
        """Return the first entry that is wanted since earlier.

        What the session's own locks cover already is not: the others wait for these in any case,
        and it would wait for those who wait for it.
        """
        session = {request.owner.key}
        for entry in request.entries:
            if any(True for _ in covering(locks, self._paths, entry)):
                continue
            if self._above.get(entry, set()) - session:
                return entry
            for covered in (entry, *self._paths.above(entry)):
                if self._wanted.get(covered, set()) - session:
                    return entry
        return None


def _gone(table: Table, request: LockRequest) -> Gone | None:
    for id in request.entries:
        if id == ROOT_ID:
            continue
        entry = table.entry(id)
        if entry is None or not entry.is_live:
            return Gone(id)
    return None


def _denial(book: Book, table: Table, request: LockRequest) -> Denial | None:
    """Return why a request is not granted, with those who asked before it."""
    paths = Paths(table)
    denial = _gone(table, request) or _Held(book.locks, paths).blocking(request)
    if denial is not None:
        return denial
    claims = _Claims(paths)
    for earlier in book.queue:
        if earlier.ticket == request.ticket:
            break
        claims.add(earlier)
    entry = claims.overlap(book.locks, request)
    return None if entry is None else Blocked(entry, None)


def _full(book: Book, request: LockRequest, limits: LockLimits) -> Full | None:
    """Count what there is and what is asked for; what the session has already costs nothing."""
    session, replica = request.owner.key, request.owner.author.replica
    more = sum(
        entry not in book.locks or book.locks[entry].owner.key != session
        for entry in request.entries
    )
    own = sum(lock.owner.author.replica == replica for lock in book.locks.values())
    total = len(book.locks)
    for waiting in book.queue:
        total += len(waiting.entries)
        own += len(waiting.entries) if waiting.owner.author.replica == replica else 0
    if more and own + more > limits.each_max:
        return Full(limits.each_max, is_own=True)
    if more and total + more > limits.total_max:
        return Full(limits.total_max, is_own=False)
    return None
