"""The user locks of a volume as its writer's thread has them, and what they refuse.

Locks begin and end in the write sessions in which commits are made. So each of them is before or
after each commit, the same for the check in the commit, for the rows, and for whoever watches.

K1  The book belongs to the writer's thread; a session that comes to nothing takes it back.
K2  The loop has the locks as of what is durable, and who waits for an answer (`lock_service`).
K3  A lock that is over keeps others out until the session that ends it, and nobody can renew it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from syncline.core import user_locks as core
from syncline.core.changes import Author, HeldToken, Holder, Proposal, Refusal, RefusalCode, Token
from syncline.core.entries import Entry
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.lock_leases import Leases, LeaseTimes
from syncline.core.lock_rules import keeping_out, lost_tokens
from syncline.core.names import RelPath
from syncline.core.table import Table, path_of, resolve
from syncline.core.user_locks import (
    NO_TOKEN,
    Book,
    LockChange,
    LockEffect,
    LockRequest,
    SessionKey,
    Ticket,
    Turn,
    UserLock,
    Verdict,
)
from syncline.errors import Locked, NotFound, SynclineError
from syncline.ports.clock import Clock
from syncline.ports.locks import Target
from syncline.ports.metadata import LockBreak, StoredLock, TableReader, WriteSession
from syncline.server.limits import Limits

Paths = Mapping[EntryId, RelPath]


@dataclass(frozen=True, slots=True)
class Step:
    """What a session made of the book, for the loop: `paths` are of the locks that it speaks of."""

    book: Book
    changes: tuple[LockChange, ...] = ()
    settled: Mapping[Ticket, Verdict] = field(default_factory=dict)
    paths: Paths = field(default_factory=dict)
    error: SynclineError | None = None
    found: tuple[UserLock | None, ...] = ()
    """What an UNLOCK found at each target."""
    blocker: UserLock | None = None
    """Another's lock, for which an UNLOCK did nothing."""


class LockBook:
    """The locks as the writer's thread has them (K1), and what they mean to a commit."""

    def __init__(self, session: TableReader, clock: Clock, limits: Limits) -> None:
        self._clock = clock
        self._limits = core.LockLimits(limits.user_locks_max, limits.user_locks_each_max)
        locks = {stored.lock.entry: stored.lock for stored in session.locks()}
        self.book = Book(locks, last_token=session.last_token())
        self._before = self.book

    def begin(self) -> None:
        """Remember the book: a session begins."""
        self._before = self.book

    def undo(self) -> None:
        """Take back what the session did: it came to nothing."""
        self.book = self._before

    def ask(
        self,
        session: WriteSession,
        targets: Sequence[Target],
        request: LockRequest,
        *,
        waits: bool,
    ) -> Step:
        """Grant, deny or queue a request for what is at `targets` now."""
        entries = []
        for target in targets:
            entry = entry_at(session, target)
            if entry is None:
                return Step(self.book, error=not_found(target))
            entries.append(entry)
        request = replace(request, entries=tuple(dict.fromkeys(entries)))
        turn = core.ask(
            self.book, session, request, self._limits, self._clock.wall_ns(), waits=waits
        )
        return self._take(session, turn)

    def withdraw(self, session: WriteSession, ticket: Ticket, *, is_abandoned: bool) -> Step:
        """Take a request out of the queue."""
        now_ns = self._clock.wall_ns()
        turn = core.withdraw(self.book, session, ticket, now_ns, is_abandoned=is_abandoned)
        return self._take(session, turn)

    def expire(self, session: WriteSession, over: Sequence[UserLock]) -> Step:
        """End locks that are over; one that was asked for again since is another value, and not."""
        now_ns, locks = self._clock.wall_ns(), self.book.locks
        still = [lock for lock in over if locks.get(lock.entry) is lock]
        return self._take(session, core.end(self.book, session, still, LockEffect.EXPIRED, now_ns))

    def unlock(
        self,
        session: WriteSession,
        targets: Sequence[tuple[Target, Token]],
        author: Author,
        host: str,
        held_s: Mapping[Token, float] | None,
    ) -> Step:
        """End locks for their owner; with `held_s`, break those of others and keep a record."""
        found: list[UserLock | None] = []
        for target, token in targets:
            entry = entry_at(session, target)
            if entry is None and token == NO_TOKEN:
                return Step(self.book, error=not_found(target))
            # A lock that ended with its entry must not keep the others from being given back.
            lock = None if entry is None else self.book.locks.get(entry)
            found.append(lock if lock is not None and token in (NO_TOKEN, lock.token) else None)
        locks = list(dict.fromkeys(lock for lock in found if lock is not None))
        others = [lock for lock in locks if not lock.is_of(author)]
        paths = paths_of(session, locks)
        if others and held_s is None:
            return Step(self.book, paths=paths, blocker=others[0])
        now_ns = self._clock.wall_ns()
        own = [lock for lock in locks if lock not in others]
        first = core.end(self.book, session, own, LockEffect.UNLOCKED, now_ns, author)
        turn = core.end(first.book, session, others, LockEffect.BROKEN, now_ns, author)
        turn = Turn(turn.book, (*first.changes, *turn.changes), {**first.settled, **turn.settled})
        for lock in others:
            since_s = (held_s or {}).get(lock.token, 0.0)
            path = bytes(paths[lock.entry])
            session.add_lock_break(LockBreak(now_ns, author, host, path, lock, since_s))
        step = self._take(session, turn)
        return replace(step, found=tuple(found), paths={**step.paths, **paths})

    def follow(self, session: WriteSession, entries: Iterable[Entry], by: Author) -> Step | None:
        """Take in a commit; None when it changes nothing about locks."""
        if not self.book.locks and not self.book.queue:
            return None
        turn = core.after_commit(self.book, session, entries, self._clock.wall_ns(), by)
        return self._take(session, turn) if turn.changes or turn.settled else None

    def checkpoint(self, session: WriteSession, times: Mapping[Token, LeaseTimes]) -> None:
        """Write how long each lock may last yet."""
        for lock in self.book.locks.values():
            left = times.get(lock.token)
            if left is not None:
                session.put_lock(StoredLock(lock, left.since_s, left.kept_s))

    def _take(self, session: WriteSession, turn: Turn) -> Step:
        """Write what a turn changed, and make its book the one of now."""
        told: dict[EntryId, UserLock] = {}
        for change in turn.changes:
            lock = change.lock
            told[lock.entry] = lock
            if change.effect is LockEffect.GRANTED:
                session.put_lock(StoredLock(lock, 0.0, lock.ttl_s))
            else:
                session.drop_lock(lock.entry)
        for verdict in turn.settled.values():
            match verdict:
                case tuple():
                    for lock in verdict:
                        if lock.ticket == core.NO_TICKET:
                            # Asked for again: its times begin anew.
                            session.put_lock(StoredLock(lock, 0.0, lock.ttl_s))
                        told[lock.entry] = lock
                case core.Blocked():
                    if verdict.lock is not None:
                        told[verdict.lock.entry] = verdict.lock
                case core.Gone() | core.Full():
                    pass
        if turn.book.last_token != self.book.last_token:
            session.keep_token(turn.book.last_token)
        self.book = turn.book
        return Step(turn.book, turn.changes, turn.settled, paths_of(session, told.values()))


def entry_at(table: Table, target: Target) -> EntryId | None:
    """Return the live entry at a path, or with an id; the root counts as one."""
    if isinstance(target, RelPath):
        if not target.parts:
            return ROOT_ID
        entry = resolve(table, target)
    elif target == ROOT_ID:
        return ROOT_ID
    else:
        entry = table.entry(target)
    return entry.id if entry is not None and entry.is_live else None


def not_found(target: Target) -> NotFound:
    """Return the error for a target that is not there."""
    if isinstance(target, RelPath):
        return NotFound(f"there is no '{target}' on the server", path=str(target), what="path")
    return NotFound(f"there is no entry {target.hex()}", entry=target.hex(), what="entry")


def paths_of(table: Table, locks: Iterable[UserLock]) -> dict[EntryId, RelPath]:
    """Return where the entries of locks are; of a deleted one, where it was last."""
    found = {ROOT_ID: RelPath()}
    for lock in locks:
        if lock.entry not in found:
            entry = table.entry(lock.entry)
            assert entry is not None, "a lock is on an entry that was never there"
            found[lock.entry] = path_of(table, entry)
    return found


class LockTimes:
    """The leases, for the loop and for the threads that tell of a holder (K2)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._leases = Leases()
        # Told of in refusals, which are made in the writer's thread and in workers.
        self._guard = threading.Lock()

    def resume(self, stored: Iterable[StoredLock], grace_s: float) -> None:
        """Go on with what a server had before this one."""
        now_s = self._clock.monotonic_s()
        with self._guard:
            for each in stored:
                self._leases.resume(each.lock, each.held_s, each.left_s, grace_s, now_s)

    def begin(self, lock: UserLock) -> None:
        """Start the lease of a grant, or take over what a lock says now."""
        with self._guard:
            self._leases.begin(lock, self._clock.monotonic_s())

    def drop(self, token: Token) -> None:
        """Forget a lock that is over."""
        with self._guard:
            self._leases.drop(token)

    def renew(self, token: Token, ttl_s: float) -> LeaseTimes | None:
        """Renew a lease; None: the lock is over."""
        now_s = self._clock.monotonic_s()
        with self._guard:
            self._leases.renew(token, now_s, ttl_s)
            return self._leases.times(token, now_s)

    def renew_session(self, session: SessionKey) -> int:
        """Renew all that a session holds; return how many locks that is."""
        with self._guard:
            return self._leases.renew_session(session, self._clock.monotonic_s())

    def due(self, late_s: float) -> Sequence[HeldToken]:
        """Return what is over; `late_s`: for so long nobody could renew anything."""
        with self._guard:
            if late_s > 0:
                self._leases.delay(late_s)
            return self._leases.due(self._clock.monotonic_s())

    def of(self, token: Token) -> LeaseTimes:
        """Return a lock's times; zeros when it is over."""
        with self._guard:
            times = self._leases.times(token, self._clock.monotonic_s())
        return times or LeaseTimes(0.0, 0.0, 0.0, 0.0)

    def all(self, tokens: Iterable[Token]) -> dict[Token, LeaseTimes]:
        """Return the times of those locks that are not over."""
        with self._guard:
            return self._leases.left(tokens, self._clock.monotonic_s())


def refusals(
    locks: Mapping[EntryId, UserLock], times: LockTimes, table: Table, proposal: Proposal
) -> dict[int, Refusal]:
    """Return what the locks refuse of a proposal, by the place of the change."""
    author, tokens = proposal.author, proposal.tokens
    lost = lost_tokens(locks, author, tokens)
    if lost:
        named = ", ".join(f"{held.entry.hex()} with token {held.token}" for held in lost[:4])
        refusal = Refusal(RefusalCode.LOCK_LOST, detail=f"not held any more: {named}")
        return dict.fromkeys(range(len(proposal.changes)), refusal)
    kept_out = keeping_out(locks, table, proposal.changes, author, tokens)
    return {
        index: Refusal(RefusalCode.LOCKED, holder=holder(lock, times))
        for index, lock in kept_out.items()
    }


def holder(lock: UserLock, times: LockTimes) -> Holder:
    """Return who holds a lock, as a refusal tells it."""
    author, now = lock.owner.author, times.of(lock.token)
    return Holder(
        author.name,
        author.replica,
        now.since_s,
        now.expires_s,
        lock.owner.host,
        lock.reason,
        lock.entry,
    )


def locked_error(lock: UserLock | None, path: RelPath, times: LockTimes) -> Locked:
    """Return the error for a lock that another has; `path` is where that lock is."""
    if lock is None:
        return Locked("others wait for this lock since earlier; wait for it too, or try again")
    now, owner = times.of(lock.token), lock.owner
    reason = f": {lock.reason}" if lock.reason else ""
    return Locked(
        f"'{path or '.'}' is locked by {owner.author.name} on {owner.host} since"
        f" {now.since_s:.0f} s, for at most {now.expires_s:.0f} s more{reason}",
        path=str(path),
        entry=lock.entry.hex(),
        holder=owner.author.name,
        replica=owner.author.replica.hex(),
        host=owner.host,
        since_s=f"{now.since_s:.3f}",
        expires_s=f"{now.expires_s:.3f}",
        reason=lock.reason,
    )
