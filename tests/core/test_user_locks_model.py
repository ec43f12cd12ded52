"""User locks against brute force: whatever happens in whatever order, the invariants hold."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from syncline.core.changes import Change, HeldToken
from syncline.core.commits import decide
from syncline.core.identity import EntryId, Revision
from syncline.core.lock_rules import keeping_out, lost_tokens
from syncline.core.table import path_of
from syncline.core.user_locks import (
    Book,
    LockEffect,
    LockLimits,
    LockRequest,
    SessionKey,
    Turn,
    after_commit,
    ask,
    end,
    withdraw,
)
from tests.support.locks import owner, request
from tests.support.tables import DictTable
from tests.support.trees import delete, directory, file, id_of, move, put_file

OWNERS = [owner("ann", 0), owner("ann", 1), owner("ben", 0), owner("cat", 0)]
DIRECTORIES = ["a", "b", "a/a", "a/b", "b/a", "a/a/a"]
FILES = ["f", "a/f", "a/a/f", "b/f", "a/a/a/f", "b/a/f"]
LABELS = ["/", *DIRECTORIES, *FILES]
NOW = 0

owners = st.sampled_from(OWNERS)
labels = st.sampled_from(LABELS)


def above(label: str) -> str:
    return label.rpartition("/")[0] or "/"


class Locks(RuleBasedStateMachine):
    """Sessions lock, wait, give up, lose locks and commit; a brute force looks on."""

    def __init__(self) -> None:
        super().__init__()
        self.table = DictTable(
            [directory(label, above(label), label[-1:].encode()) for label in DIRECTORIES]
            + [file(label, above(label), label[-1:].encode()) for label in FILES]
        )
        self.book = Book()
        self.revision = 1
        self.ticket = 0
        self.tokens = 0
        self.waiting: dict[int, LockRequest] = {}
        self.ended: list[HeldToken] = []

    # -- what happens ----------------------------------------------------------

    @rule(
        who=owners, what=st.lists(labels, min_size=1, max_size=3, unique=True), waits=st.booleans()
    )
    def ask(self, who: object, what: list[str], waits: bool) -> None:
        assert isinstance(who, type(OWNERS[0]))
        self.ticket += 1
        wanted = request(self.ticket, who, *what)
        self.waiting[self.ticket] = wanted
        limits = LockLimits(1000, 1000)
        turn = ask(self.book, self.table, wanted, limits, NOW, waits=waits)
        self.take(turn)
        assert waits or self.ticket not in self.waiting, "who does not wait has his answer"

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting)))
        found = request(ticket, OWNERS[0], "f").ticket
        self.take(withdraw(self.book, self.table, found, NOW, is_abandoned=True))
        assert ticket not in self.waiting

    @precondition(lambda self: self.book.locks)
    @rule(data=st.data(), effect=st.sampled_from([LockEffect.EXPIRED, LockEffect.BROKEN]))
    def lose(self, data: st.DataObject, effect: LockEffect) -> None:
        over = data.draw(
            st.lists(st.sampled_from(list(self.book.locks.values())), min_size=1, max_size=3)
        )
        self.take(end(self.book, self.table, over, effect, NOW))

    @rule(who=owners, data=st.data())
    def commit(self, who: object, data: st.DataObject) -> None:
        assert isinstance(who, type(OWNERS[0]))
        changes = data.draw(st.lists(self.changes(), min_size=1, max_size=3))
        kept_out = keeping_out(self.book.locks, self.table, changes, who.author)
        allowed = [change for index, change in enumerate(changes) if index not in kept_out]
        self.revision += 1
        decision = decide(self.table, allowed, Revision(self.revision))
        for entry in decision.entries:
            for sessions in (self.covers(entry.id), self.covers(entry.parent)):
                assert all(key[0] == who.author.replica for key in sessions), "past a lock"
        self.table.apply(decision)
        self.take(after_commit(self.book, self.table, decision.entries, NOW, who.author))

    def changes(self) -> st.SearchStrategy[Change]:
        def base(label: str) -> int:
            return self.table.states[id_of(label)].revision

        named = st.sampled_from([*DIRECTORIES, *FILES])
        places = st.sampled_from(["/", *DIRECTORIES])
        names = st.sampled_from([b"a", b"b", b"f", b"g"])
        moves = st.builds(
            lambda label, to, name: move(label, base(label), to, name), named, places, names
        )
        deletes = st.builds(lambda label: delete(label, base(label)), named)
        puts = st.builds(
            lambda label, raw: put_file(label, base(label), *self.place(label), content=raw),
            st.sampled_from(FILES),
            st.binary(max_size=2),
        )
        return st.one_of(moves, deletes, puts)

    def place(self, label: str) -> tuple[str, bytes]:
        state = self.table.states[id_of(label)]
        parent = next(each for each in LABELS if id_of(each) == state.parent)
        return parent, state.name

    # -- brute force -----------------------------------------------------------

    def take(self, turn: Turn) -> None:
        for change in turn.changes:
            if change.effect is LockEffect.GRANTED:
                assert change.lock.token > self.tokens  # U2
                self.tokens = change.lock.token
            else:
                self.ended.append(HeldToken(change.lock.entry, change.lock.token))
        self.book = turn.book
        for ticket, verdict in turn.settled.items():
            done = self.waiting.pop(ticket)
            if isinstance(verdict, tuple):
                assert [lock.entry for lock in verdict] == list(done.entries)
                earlier = [each for number, each in self.waiting.items() if number < ticket]
                assert not any(self.in_the_way(each, done) for each in earlier)  # U3

    def chain(self, id: EntryId) -> list[EntryId]:
        found = [id]
        while found[-1] != id_of("/"):
            found.append(self.table.states[found[-1]].parent)
        return found

    def covers(self, id: EntryId) -> set[SessionKey]:
        locks = self.book.locks
        return {locks[each].owner.key for each in self.chain(id) if each in locks}

    def overlap(self, one: EntryId, other: EntryId) -> bool:
        return one in self.chain(other) or other in self.chain(one)

    def in_the_way(self, earlier: LockRequest, later: LockRequest) -> bool:
        return earlier.owner.key != later.owner.key and any(
            self.overlap(one, other)
            for one in earlier.entries
            for other in later.entries
            if later.owner.key not in self.covers(other)
        )

    def is_blocked(self, wanted: LockRequest) -> bool:
        for entry in wanted.entries:
            for lock in self.book.locks.values():
                if lock.owner.key != wanted.owner.key and self.overlap(entry, lock.entry):
                    return True
        return False

    # -- what always holds -------------------------------------------------------

    @invariant()
    def nothing_is_covered_twice(self) -> None:  # U1
        for state in self.table.live():
            assert len(self.covers(state.id)) <= 1, path_of(self.table, state)

    @invariant()
    def locks_are_on_what_lives(self) -> None:
        for id in self.book.locks:
            assert id == id_of("/") or self.table.states[id].is_live

    @invariant()
    def nobody_waits_in_vain(self) -> None:  # U4
        assert [each.ticket for each in self.book.queue] == sorted(self.waiting)
        for ticket, wanted in self.waiting.items():
            earlier = [each for number, each in self.waiting.items() if number < ticket]
            is_behind = any(self.in_the_way(each, wanted) for each in earlier)
            assert is_behind or self.is_blocked(wanted), "it could be granted"

    @invariant()
    def what_ended_is_lost_for_ever(self) -> None:  # U6
        for each in OWNERS:
            lost = lost_tokens(self.book.locks, each.author, self.ended)
            assert list(lost) == self.ended

    def teardown(self) -> None:
        """When every lock ends in its turn, nobody is left waiting: no deadlock, no starving."""
        for _ in range(self.ticket + 1):
            if self.book.locks:
                over = list(self.book.locks.values())
                self.take(end(self.book, self.table, over, LockEffect.UNLOCKED, NOW))
        assert not self.waiting and not self.book.locks


TestLocks = Locks.TestCase
