"""The user locks of the volume as a mount knows them: its own, and those that keep it out.

Model: the feed tells of locks in the order of commits. They are kept in memory alone: a stream
begins with all of them. A mount is one session, told by its replica id, which its state keeps: so
one that was started again finds its locks in the table. What it holds for the length of a command
is a session of its own each.

L1  What another's lock covers is not asked for: the change stays here, as a problem, and is planned
    again when the lock is over. The server has the last word; what it refuses is tried again.
L2  An entry that is held so is left as it is on both sides: what its holder makes of it meanwhile
    meets the edit once, at the end, and not with each of his commits.
L3  A STORE names the own locks that cover it and no others: one that is lost refuses all of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import assert_never

from syncline.client.mount.walker import parts_of, path_wanted
from syncline.core.changes import Author, Change, Delete, HeldToken, RefusalCode, Token
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import RelPath, escape
from syncline.core.plans import KeepCopy, Plan, ids_of
from syncline.core.trees import is_same
from syncline.core.user_locks import NO_TOKEN, LockEffect, SessionId, UserLock
from syncline.ports.locks import LocatedLock, LockNews, LockTable, ToldLockChange
from syncline.ports.mount_control import LOCKS_SHOWN_MAX, MountLock, MountProblem
from syncline.ports.mount_state import MountSession, Trees

logger = logging.getLogger(__name__)

Locks = Mapping[EntryId, UserLock]


def mount_session(author: Author) -> SessionId:
    """Return the session of a mount: always the same, and no other mount has its replica id."""
    return SessionId(author.replica)


class MountLocks:
    """What a mount knows of locks; its mappings are replaced and never changed in place.

    The mount thread takes in what the feed tells; any thread may look.
    """

    def __init__(self, author: Author) -> None:
        self._author = author
        self._sessions = frozenset({mount_session(author)})
        self._told: Mapping[EntryId, LocatedLock] = {}
        self._first: Sequence[LocatedLock] = ()
        self._lost: frozenset[Token] = frozenset()
        self.own: Locks = {}
        self.others: Locks = {}
        self.newest = NO_TOKEN
        """The newest grant that was told of: of all up to it the mount knows."""
        self.shown: tuple[MountLock, ...] = ()

    @property
    def count(self) -> int:
        """Return how many locks there are."""
        return len(self._told)

    @property
    def tokens_told(self) -> set[Token]:
        """Return the tokens of all locks there are."""
        return {each.lock.token for each in self._told.values()}

    def join(self, session: SessionId) -> None:
        """Take the locks of one more session for own ones, before it has any."""
        self._sessions |= {session}

    def leave(self, session: SessionId) -> None:
        """Take them for those of another session of the same owner, from the next news on."""
        self._sessions -= {session}

    # -- what the feed tells -----------------------------------------------------

    def hear(self, event: LockTable | LockNews) -> bool:
        """Take in the table of locks, or what happened to some; tell whether others' are over."""
        before = self.others
        match event:
            case LockTable(locks):
                told = {each.lock.entry: each for each in locks}
                tokens = {each.lock.token for each in locks}
                for lock in self.own.values():
                    if lock.token not in tokens:
                        _log_lost(self._told[lock.entry], None)
                self._lost = frozenset()
            case LockNews(changes):
                told = dict(self._told)
                for change in changes:
                    self._follow(told, change)
            case _:
                assert_never(event)
        self._keep(told)
        left = {lock.token for lock in self.others.values()}
        return any(lock.token not in left for lock in before.values())

    def _follow(self, told: dict[EntryId, LocatedLock], change: ToldLockChange) -> None:
        located = change.lock
        lock = located.lock
        if change.effect is LockEffect.GRANTED:
            told[lock.entry] = located
            return
        known = told.get(lock.entry)
        if known is None or known.lock.token != lock.token:
            return
        del told[lock.entry]
        if self.is_own(lock) and not self._is_own_doing(change):
            _log_lost(located, change)

    def _is_own_doing(self, change: ToldLockChange) -> bool:
        """Tell whether this mount gave a lock up, or deleted what it was on."""
        if change.effect is LockEffect.DELETED:
            return change.by is not None and change.by.replica == self._author.replica
        return change.effect is LockEffect.UNLOCKED

    def forget(self) -> None:
        """Know of no locks: the server has none."""
        self._keep({})

    def lose(self, tokens: Iterable[HeldToken]) -> None:
        """Name these no more: the server said that one of them is lost; the feed will tell which.

        Without them the changes are the same; what the token gave was to be told of this.
        """
        self._lost |= {held.token for held in tokens}

    def _keep(self, told: Mapping[EntryId, LocatedLock]) -> None:
        locks = {id: each.lock for id, each in told.items()}
        self._told = told
        self._first = sorted(told.values(), key=lambda each: not self.is_own(each.lock))[
            :LOCKS_SHOWN_MAX
        ]
        self.own = {id: lock for id, lock in locks.items() if self.is_own(lock)}
        self.others = {id: lock for id, lock in locks.items() if not self._may_write(lock)}
        self.newest = max((self.newest, *(lock.token for lock in locks.values())))

    def is_own(self, lock: UserLock) -> bool:
        """Tell whether this mount holds a lock, whatever name it goes by now."""
        owner = lock.owner
        return owner.author.replica == self._author.replica and owner.session in self._sessions

    def _may_write(self, lock: UserLock) -> bool:
        return self.is_own(lock) or lock.is_of(self._author)

    # -- what it means for plans -------------------------------------------------

    def held(self, trees: Trees, plan: Plan) -> dict[EntryId, UserLock]:
        """Return the entries of a plan that locks of others hold back, with the lock (L1, L2)."""
        if not self.others:
            return {}
        cover = _Cover(trees, self.others)
        found: dict[EntryId, UserLock] = {}
        above: dict[EntryId, UserLock] = {}
        for unit in plan.sending:
            for change in unit.changes:
                lock = cover.of_change(change)
                if lock is None and isinstance(change, Delete):
                    # The directory of what stays cannot go either.
                    lock = above.get(change.id)
                if lock is not None:
                    found.update((each.id, lock) for each in unit.changes)
                    above.update((id, lock) for id in _way_up(trees, change.id))
                    break
        for action in plan.placing:
            for id in ids_of(action):
                lock = cover.of(id) if _is_changed_here(trees, id) else None
                if lock is not None:
                    found[id] = lock
        for action in plan.placing:
            # The copy is sent as well as made: not before its source goes.
            if isinstance(action, KeepCopy) and action.source in found:
                found[action.id] = found[action.source]
        return found

    def tokens(self, trees: Trees, changes: Sequence[Change]) -> tuple[HeldToken, ...]:
        """Return the own locks that changes are made under (L3)."""
        own, lost = self.own, self._lost
        if not own:
            return ()
        seen: set[EntryId] = set()
        for change in changes:
            for id in _ends(change):
                for above in _way_up(trees, id):
                    if above in seen:
                        break
                    seen.add(above)
        locks = [own[id] for id in own if id in seen and own[id].token not in lost]
        return tuple(HeldToken(lock.entry, lock.token) for lock in locks)

    # -- what is shown -----------------------------------------------------------

    def show(self, trees: Trees) -> None:
        """Find where the locked entries are in the mount now."""
        if not self._told:
            self.shown = ()
            return
        shown = [
            MountLock(path_of_lock(trees, each), each.lock, self.is_own(each.lock))
            for each in self._first
        ]
        self.shown = tuple(sorted(shown, key=lambda each: (not each.is_own, each.path.parts)))


class _Cover:
    """Which lock covers an entry; what is above it is looked up once."""

    def __init__(self, trees: Trees, locks: Locks) -> None:
        self._trees = trees
        self._locks = locks
        self._known: dict[EntryId, UserLock | None] = {}

    def of(self, id: EntryId) -> UserLock | None:
        """Return the nearest lock on an entry or above it."""
        passed: list[EntryId] = []
        found: UserLock | None = None
        for each in _way_up(self._trees, id):
            if each in self._known:
                found = self._known[each]
                break
            passed.append(each)
            if each in self._locks:
                found = self._locks[each]
                break
        self._known.update(dict.fromkeys(passed, found))
        return found

    def of_change(self, change: Change) -> UserLock | None:
        """Return the lock that covers what is changed, or the place that it goes to."""
        return next((lock for id in _ends(change) if (lock := self.of(id)) is not None), None)


def _ends(change: Change) -> tuple[EntryId, ...]:
    return (change.id,) if isinstance(change, Delete) else (change.id, change.parent)


def _way_up(trees: Trees, id: EntryId) -> Iterator[EntryId]:
    """Yield an entry and what is above it where the server has it; else where the mount has it."""
    passed: set[EntryId] = set()
    # Two trees in one way may lead around: what was moved in both.
    while id != ROOT_ID and id not in passed:
        passed.add(id)
        yield id
        known = trees.remote(id)
        if known is not None and known.is_live:
            id = known.parent
            continue
        seen = trees.local(id)
        if seen is None:
            return
        id = seen.state.parent
    yield ROOT_ID


def _is_changed_here(trees: Trees, id: EntryId) -> bool:
    seen = trees.local(id)
    return not is_same(trees.base(id), None if seen is None else seen.state)


# -- Paths and texts ---------------------------------------------------------


def target_at(trees: Trees, path: RelPath) -> EntryId | None:
    """Return the stored entry at a path of the mount; None where there is none, or not yet."""
    id = ROOT_ID
    for name in path.parts:
        here = trees.child(id, name)
        if here is None:
            # Deleted here, and not in the volume yet: it is where it was.
            place = (id, name)
            here = min(
                (each for each in trees.at_place(place) if trees.local(each) is None), default=None
            )
        if here is None or not _is_stored(trees, here):
            return None
        id = here
    return id


def _is_stored(trees: Trees, id: EntryId) -> bool:
    known = trees.remote(id)
    return trees.base(id) is not None or (known is not None and known.is_live)


def path_of_entry(trees: Trees, id: EntryId) -> RelPath | None:
    """Return where an entry is in the mount, or was, or will be; None where nobody knows it."""
    parts = parts_of(trees, id)
    if parts is not None:
        return RelPath(parts)
    state = trees.base(id) or trees.remote(id)
    return None if state is None else path_wanted(trees, (state.parent, state.name))


def path_of_lock(trees: Trees, located: LocatedLock) -> RelPath:
    """Return where a locked entry is in the mount; where it does not have it, as it was told."""
    return path_of_entry(trees, located.lock.entry) or located.path


def held_problems(
    session: MountSession, held: Mapping[EntryId, UserLock]
) -> Iterator[tuple[EntryId, MountProblem]]:
    """Yield what locks of others hold back, but for copies that are not there yet."""
    for id, lock in held.items():
        path = path_of_entry(session, id)
        if path is None:
            continue
        owner = lock.owner
        detail = held_text(owner.author.name, owner.host, lock.granted_ns, lock.reason)
        yield id, MountProblem(path, RefusalCode.LOCKED.value, detail)


def held_text(name: str, host: str, since_ns: int, reason: str) -> str:
    """Return who holds back an edit, where, since when by the server's clock, and why."""
    since = datetime.fromtimestamp(since_ns // 1_000_000_000, UTC).isoformat(sep=" ")
    why = f", {_shown(reason)}" if reason else ""
    return f"held: locked by {_shown(name)} ({_shown(host)}) since {since[:19]} UTC{why}"


def _shown(text: str) -> str:
    return escape(text.encode("utf-8", "surrogatepass"))


def _log_lost(located: LocatedLock, change: ToldLockChange | None) -> None:
    by = "" if change is None or change.by is None else change.by.name
    effect = "gone" if change is None else change.effect.value
    logger.warning("lock_lost path='%s' effect=%s by=%r", located.path, effect, by)
