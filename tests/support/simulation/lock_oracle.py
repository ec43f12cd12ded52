"""What must be true of locks at every moment of a server: told commit by commit, lock by lock.

Model: what a watcher is told, in order, is the server's time. At each moment no entry is covered by
two sessions, no commit is of another than who holds what it changes, and tokens grow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from syncline.core.entries import Entry
from syncline.core.identity import ROOT_ID, EntryId, ReplicaId, Revision
from syncline.core.user_locks import LockEffect
from syncline.ports.link import Committed, WatchEvent
from syncline.ports.locks import LocatedLock, LockNews, LockTable

NO_REVISION = Revision(0)


class LockOracle:
    """Plays again what was told: the table, and who covers what."""

    def __init__(self) -> None:
        self.states: dict[EntryId, Entry] = {}
        self.locks: dict[EntryId, LocatedLock] = {}
        self.last_token = 0
        self.effects: Counter[LockEffect] = Counter()
        self._unseen_upto = NO_REVISION

    def begin(self, states: Mapping[EntryId, Entry], *, is_restored: bool) -> None:
        """Begin with a server that was started; what it made before and did not tell is unseen.

        `is_restored`: its metadata is older than what was told, its tokens too.
        """
        self.states = dict(states)
        self.locks = {}
        if is_restored:
            self.last_token = 0

    def covers(self, id: EntryId, states: Mapping[EntryId, Entry]) -> set[tuple[ReplicaId, bytes]]:
        """Return the sessions whose locks cover an entry."""
        found = set()
        while True:
            if id in self.locks:
                found.add(self.locks[id].lock.owner.key)
            if id == ROOT_ID:
                return found
            id = states[id].parent

    def take(self, event: WatchEvent, head: Revision = NO_REVISION) -> None:
        """Take what was told; `head` is the server's at the moment it told a whole table."""
        match event:
            case Committed(commit):
                before = dict(self.states)
                self.states.update({entry.id: entry for entry in commit.entries})
                if commit.revision > self._unseen_upto:
                    self._check_commit(event, before)
            case LockTable(locks):
                told = {each.lock.entry: each.lock.token for each in locks}
                known = {id: each.lock.token for id, each in self.locks.items()}
                assert told.items() <= known.items() or not self.locks, "a lock out of nowhere"
                self.locks = {each.lock.entry: each for each in locks}
                self.last_token = max([self.last_token, *told.values()])
                self._unseen_upto = head
            case LockNews(changes):
                for change in changes:
                    self._change(change.effect, change.lock)
            case _:
                return
        if self.locks:
            for state in self.states.values():
                if state.is_live:
                    assert len(self.covers(state.id, self.states)) <= 1, "two hold one entry"

    def _check_commit(self, event: Committed, before: Mapping[EntryId, Entry]) -> None:
        for entry in event.commit.entries:
            old = before.get(entry.id)
            passed = self.covers(entry.id, self.states)
            if old is not None and old.is_live:
                passed |= self.covers(entry.id, before)
            replicas = {replica for replica, _ in passed}
            assert replicas <= {event.commit.author.replica}, "a commit went past a lock"

    def _change(self, effect: LockEffect, located: LocatedLock) -> None:
        lock = located.lock
        self.effects[effect] += 1
        if effect is LockEffect.GRANTED:
            assert lock.token > self.last_token and lock.entry not in self.locks
            self.last_token = lock.token
            self.locks[lock.entry] = located
        else:
            assert self.locks.pop(lock.entry).lock.token == lock.token
        if effect is LockEffect.DELETED:
            assert not self.states[lock.entry].is_live, "its end was told before its reason"
