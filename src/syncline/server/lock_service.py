"""The use cases of user locks: LOCK, RENEW, UNLOCK, the list, and the sweep of what is over.

All of it belongs to the event loop; `user_locks` has what happens in the writer's thread.

K4  Nobody is told of a lock before it is durable; watchers hear of it in the order of commits.
K5  A call that ends without having told its caller gives back what it was granted.
K6  No wait is forgotten: what a session settles wakes the call that waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from syncline.core import user_locks as core
from syncline.core.changes import Author, HeldToken, Proposal, Refusal
from syncline.core.entries import Entry
from syncline.core.identity import ROOT_ID, EntryId, VolumeId
from syncline.core.names import RelPath
from syncline.core.table import Table
from syncline.core.user_locks import (
    LockChange,
    LockEffect,
    LockRequest,
    SessionId,
    Ticket,
    UserLock,
    Verdict,
)
from syncline.errors import Invalid, NotFound, Throttled, Unavailable
from syncline.ports.clock import Clock
from syncline.ports.executor import Executor
from syncline.ports.locks import (
    LeaseLeft,
    LocatedLock,
    LockNews,
    LockTable,
    LockWanted,
    ToldLockChange,
    Unlocked,
    UnlockResult,
    UnlockWanted,
)
from syncline.ports.metadata import MetadataStore, StoredLock, TableReader, WriteSession
from syncline.server.feed import Feed
from syncline.server.limits import Limits
from syncline.server.user_locks import (
    LockBook,
    LockTimes,
    Paths,
    Step,
    entry_at,
    locked_error,
    not_found,
    paths_of,
    refusals,
)
from syncline.server.writer import Writer

logger = logging.getLogger(__name__)

CHECKPOINT_S = 60.0
"""How often times are written: a crash of the server gives at most so much more."""

LATE_S = 2.0
"""A sweep that comes later than this says that the server was not let run: nobody's time."""


@dataclass(slots=True)
class _Waiting:
    """A LOCK call that has no answer yet."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    verdict: Verdict | None = None
    paths: Paths = field(default_factory=dict)


class UserLocks:
    """The user locks of one volume."""

    def __init__(
        self,
        book: LockBook,
        stored: Sequence[StoredLock],
        writer: Writer,
        feed: Feed,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.book = book
        self.times = LockTimes(clock)
        self.times.resume(stored, limits.user_lock_grace_s)
        self.locks: Mapping[EntryId, UserLock] = book.book.locks
        """As of what is durable and told; never changed in place."""
        self._writer = writer
        self._feed = feed
        self._clock = clock
        self._limits = limits
        self._waiting: dict[Ticket, _Waiting] = {}
        self._last_ticket = core.NO_TICKET
        self._over: dict[HeldToken, None] = {}
        self._gone: dict[Ticket, None] = {}
        self._is_closed = False
        self._swept_s = self._kept_s = clock.monotonic_s()

    # -- what a STORE asks -------------------------------------------------------

    def concerns(self, proposal: Proposal) -> bool:
        """Tell whether a proposal must be looked at at all: without locks it costs nothing."""
        return bool(self.locks) or bool(proposal.tokens)

    def early(self, table: Table, proposal: Proposal) -> dict[int, Refusal]:
        """Return what is refused before anything travels; for any thread."""
        return refusals(self.locks, self.times, table, proposal)

    def final(self, session: WriteSession, proposal: Proposal) -> dict[int, Refusal]:
        """Return what is refused in the commit; for the writer's thread."""
        locks = self.book.book.locks
        if not locks and not proposal.tokens:
            return {}
        return refusals(locks, self.times, session, proposal)

    def follow(self, session: WriteSession, entries: Sequence[Entry], by: Author) -> Step | None:
        """Take in a commit, in the writer's thread; the step is for `tell`, after the commit."""
        return self.book.follow(session, entries, by)

    # -- calls -------------------------------------------------------------------

    async def lock(self, wanted: LockWanted) -> tuple[LocatedLock, ...]:
        """Lock all targets or none; wait for others as long as the call wants.

        Raises Locked, NotFound, Invalid for a time out of range, Throttled when a limit is reached.
        """
        lease_s, ttl_s = self._range(wanted.lease_s, "lease"), self._range(wanted.ttl_s, "ttl")
        wait_s = min(wanted.wait_s, self._limits.user_lock_wait_max_s)
        self._last_ticket = ticket = Ticket(self._last_ticket + 1)
        request = LockRequest(
            ticket, wanted.owner, (), wanted.reason, lease_s, ttl_s or self._limits.user_lock_max_s
        )
        self._waiting[ticket] = waiting = _Waiting()
        is_told = False
        try:
            step = await self._do(
                lambda session: self.book.ask(session, wanted.targets, request, waits=wait_s > 0)
            )
            if step.error is not None:
                raise step.error
            verdict = await self._verdict(ticket, waiting, wait_s)
            is_told = True
        finally:
            del self._waiting[ticket]
            if not is_told:
                self._gone[ticket] = None
                self._take_back(ticket)  # K5
        return self._granted(verdict, waiting.paths)

    async def _verdict(self, ticket: Ticket, waiting: _Waiting, wait_s: float) -> Verdict:
        if not waiting.done.is_set() and not self._is_closed:
            try:
                async with asyncio.timeout(wait_s):
                    await waiting.done.wait()
            except TimeoutError:
                await self._do(
                    lambda session: self.book.withdraw(session, ticket, is_abandoned=False)
                )
        if waiting.verdict is None and self._is_closed:
            raise Unavailable("the server is stopping; ask for the lock again when it is back")
        assert waiting.verdict is not None, "a request that does not wait has come to something"
        return waiting.verdict

    def _take_back(self, ticket: Ticket) -> None:
        """Have what a call asked for or was granted taken back; `sweep` asks for it until it is."""

        def told(step: Step) -> None:
            self.tell(step)
            self._gone.pop(ticket, None)

        self._writer.post(
            lambda session: self.book.withdraw(session, ticket, is_abandoned=True), after=told
        )

    def close(self) -> None:
        """End the calls that wait: the server is stopping."""
        self._is_closed = True
        for waiting in self._waiting.values():
            waiting.done.set()

    def _granted(self, verdict: Verdict, paths: Paths) -> tuple[LocatedLock, ...]:
        match verdict:
            case tuple():
                return tuple(self._located(lock, paths[lock.entry]) for lock in verdict)
            case core.Blocked(_, lock):
                path = RelPath() if lock is None else paths[lock.entry]
                raise locked_error(lock, path, self.times)
            case core.Gone(entry):
                raise NotFound(
                    "what was to be locked was deleted meanwhile", entry=entry.hex(), what="entry"
                )
            case core.Full(limit, is_own):
                whose = "this replica has" if is_own else "the volume has"
                raise Throttled(
                    f"{whose} {limit} locks, held or waited for, which is the limit",
                    limit=str(limit),
                    scope="client" if is_own else "server",
                )

    def _range(self, seconds: float, field: str) -> float:
        low, high = self._limits.user_lock_min_s, self._limits.user_lock_max_s
        if seconds and not low <= seconds <= high:
            raise Invalid(
                f"the {field} of a lock is {low:g} to {high:g} seconds, not {seconds:g}",
                field=field,
                reason="range",
            )
        return seconds

    async def renew(
        self, author: Author, tokens: Sequence[HeldToken], ttl_s: float
    ) -> list[LeaseLeft | None]:
        """Renew leases; None where the lock is lost. Raises Invalid for a time out of range.

        A longer life is durable on return; a lease alone costs no writing.
        """
        self._range(ttl_s, "ttl")
        found: list[LeaseLeft | None] = []
        for held in tokens:
            times = None
            lock = self.locks.get(held.entry)
            is_own = lock is not None and lock.owner.author.replica == author.replica
            if lock is not None and is_own and lock.token == held.token:
                times = self.times.renew(held.token, ttl_s)
            found.append(LeaseLeft(times.expires_s, times.ends_s) if times else None)
        if ttl_s and any(found):
            # A crash may make a lock longer than it was told, and never shorter.
            longer = self.times.all(held.token for held in tokens)
            await self._writer.submit(lambda session: self.book.checkpoint(session, longer))
        return found

    def renew_session(self, author: Author, session: SessionId) -> int:
        """Renew all that a session holds; return how many locks that is."""
        return self.times.renew_session((author.replica, session))

    async def unlock(self, wanted: UnlockWanted) -> list[Unlocked]:
        """Unlock all targets; raise Locked, with nothing done, when one is another's, NotFound."""
        held_s = None
        if wanted.is_forced:
            tokens = [lock.token for lock in self.locks.values()]
            held_s = {token: times.since_s for token, times in self.times.all(tokens).items()}
        targets = [(each.target, each.token) for each in wanted.targets]
        # Before they end, with the times that they had.
        times = self.times.all(lock.token for lock in self.locks.values())
        step = await self._do(
            lambda session: self.book.unlock(session, targets, wanted.author, wanted.host, held_s)
        )
        if step.error is not None:
            raise step.error
        if step.blocker is not None:
            raise locked_error(step.blocker, step.paths[step.blocker.entry], self.times)
        answers = []
        for lock in step.found:
            if lock is None:
                answers.append(Unlocked(UnlockResult.NOT_LOCKED, None))
                continue
            is_own = lock.is_of(wanted.author)
            left = times.get(lock.token)
            since_s = left.since_s if left else 0.0
            shown = LocatedLock(lock, step.paths[lock.entry], since_s, 0.0, 0.0)
            answers.append(
                Unlocked(UnlockResult.UNLOCKED if is_own else UnlockResult.BROKEN, shown)
            )
        return answers

    # -- what is told ------------------------------------------------------------

    async def listing(
        self, metadata: MetadataStore, volume: VolumeId, workers: Executor, path: RelPath
    ) -> list[LocatedLock]:
        """Return the locks on a path, below and above it, by path; raise NotFound."""
        # Before the rows: they have all that was locked by now, and not what is made meanwhile.
        locks = self.locks

        def look() -> list[tuple[UserLock, RelPath]]:
            with metadata.read(volume) as reader:
                return _find(locks, reader, path)

        return [self._located(lock, where) for lock, where in await workers.run(look)]

    async def table(
        self, metadata: MetadataStore, volume: VolumeId, workers: Executor
    ) -> tuple[int, LockTable]:
        """Return all locks, and the number of the news that they include."""
        told = self._feed.news_count
        locks = await self.listing(metadata, volume, workers, RelPath())
        return told, LockTable(tuple(locks))

    def tell(self, step: Step | None) -> None:
        """Take in what is durable now: times, who waited, watchers; in the order of sessions."""
        if step is None:
            return
        self.locks = step.book.locks
        news: list[ToldLockChange] = []
        for change in step.changes:
            if change.effect is LockEffect.GRANTED:
                self.times.begin(change.lock)
            located = self._located(change.lock, step.paths[change.lock.entry])
            news.append(ToldLockChange(change.effect, located, change.by))
            if change.effect is not LockEffect.GRANTED:
                self.times.drop(change.lock.token)
                self._over.pop(HeldToken(change.lock.entry, change.lock.token), None)
            _log(change, located.path)
        for ticket, verdict in step.settled.items():
            if isinstance(verdict, tuple):
                for lock in verdict:
                    self.times.begin(lock)
                    self._over.pop(HeldToken(lock.entry, lock.token), None)
            waiting = self._waiting.get(ticket)
            if waiting is not None:
                waiting.verdict, waiting.paths = verdict, step.paths
                waiting.done.set()  # K6
        if news:
            self._feed.publish_news(LockNews(tuple(news)))

    def _located(self, lock: UserLock, path: RelPath) -> LocatedLock:
        times = self.times.of(lock.token)
        return LocatedLock(lock, path, times.since_s, times.expires_s, times.ends_s)

    # -- time --------------------------------------------------------------------

    def sweep(self, every_s: float) -> None:
        """End what is over; called every `every_s` seconds, or so."""
        now_s = self._clock.monotonic_s()
        late_s = now_s - self._swept_s - every_s
        self._swept_s = now_s
        for held in self.times.due(late_s if late_s > LATE_S else 0.0):
            self._over[held] = None
        if self._over:
            # Again at each sweep until it is done: a full disk may have kept it from being written.
            over = [self.locks[held.entry] for held in self._over]
            self._post(lambda session: self.book.expire(session, over))
        for ticket in self._gone:
            self._take_back(ticket)
        if self.locks and now_s - self._kept_s >= CHECKPOINT_S:
            self.keep_times()

    def keep_times(self) -> None:
        """Write how long each lock may last yet."""
        self._kept_s = self._clock.monotonic_s()
        if self.locks:
            times = self.times.all(lock.token for lock in self.locks.values())
            self._writer.post(lambda session: self.book.checkpoint(session, times))

    async def _do(self, work: Callable[[WriteSession], Step]) -> Step:
        return await self._writer.submit(work, after=self.tell)

    def _post(self, work: Callable[[WriteSession], Step]) -> None:
        self._writer.post(work, after=self.tell)


def _find(
    locks: Mapping[EntryId, UserLock], reader: TableReader, path: RelPath
) -> list[tuple[UserLock, RelPath]]:
    """Return the locks on a path, below and above it, by path; raise NotFound."""
    entry = entry_at(reader, path)
    if entry is None:
        raise not_found(path)
    chosen: list[UserLock]
    if entry == ROOT_ID:
        chosen = list(locks.values())
    else:
        above = core.Paths(reader)
        chosen = [*core.covering(locks, above, entry), *core.below(locks, above, entry)]
    paths = paths_of(reader, chosen)
    found = [(lock, paths[lock.entry]) for lock in chosen]
    return sorted(found, key=lambda each: each[1].parts)


def _log(change: LockChange, path: RelPath) -> None:
    level = logging.WARNING if change.effect is LockEffect.BROKEN else logging.INFO
    lock, owner = change.lock, change.lock.owner
    logger.log(
        level,
        "lock_%s path=%r token=%d holder=%r host=%r by=%r",
        change.effect.value,
        str(path),
        lock.token,
        owner.author.name,
        owner.host,
        change.by.name if change.by else "",
    )
