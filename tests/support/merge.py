"""A tiny executable model of the whole: one server and some replicas, all in dictionaries.

The server is `decide` over a dictionary. A replica has a local tree that users change, the last
states that both sides confirmed, and what it was told of the table. It carries out plans step by
step, checks what a file system would refuse, and may stop anywhere. Oracles watch every step:

- nothing a mount holds alone is overwritten or removed (I3);
- no entry is deleted that no user deleted, but for equal content and merged directories (I4);
- the order of a plan is possible on a file system, and on the server's table (A1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

from syncline.core.changes import Delete, Move
from syncline.core.commits import decide
from syncline.core.conflict_names import is_conflict_name
from syncline.core.entries import LINK_MODE, Entry, Kind
from syncline.core.identity import ID_BYTES, ROOT_ID, EntryId, Revision, digest_of
from syncline.core.merging import confirmed
from syncline.core.names import Name
from syncline.core.plans import (
    Alter,
    Create,
    Exchange,
    KeepCopy,
    Placing,
    Plan,
    Remove,
    SetAside,
    Unit,
)
from syncline.core.reconcile import reconcile
from syncline.core.trees import Mode, Mount, Place, State, Substance, View, state_of
from tests.support.tables import DictTable
from tests.support.trees import content_of

_ASIDE = Name(b"aside")


class Server:
    """The table, its head, who made what, and every content it ever had."""

    def __init__(self) -> None:
        self.table = DictTable()
        self.revision = Revision(0)
        self.authors: dict[EntryId, str] = {}
        self.history: set[Substance] = set()
        self.log: list[tuple[Entry, ...]] = []

    def store(self, unit: Unit, author: str) -> tuple[Entry, ...]:
        """Commit a unit; return the new states."""
        revision = Revision(self.revision + 1)
        decision = decide(self.table, unit.changes, revision, is_atomic=unit.is_atomic)
        self.table.apply(decision)
        if decision.entries:
            self.revision = revision
            self.log.append(decision.entries)
        for entry in decision.entries:
            self.authors[entry.id] = author
            if entry.is_live:
                self.history.add(state_of(entry).substance)
        return decision.entries

    def live(self) -> dict[EntryId, State]:
        return {entry.id: state_of(entry) for entry in self.table.live()}


@dataclass(slots=True)
class Oracle:
    """What users did, and so what may be gone and what must be there.

    `merged`: what a replica gave up for an equal entry, maybe before it heard of its own STORE.
    """

    saved: set[Substance] = field(default_factory=set)
    given_up: set[Substance] = field(default_factory=set)
    deleted: set[EntryId] = field(default_factory=set)
    merged: set[EntryId] = field(default_factory=set)


@dataclass(slots=True)
class Replica:
    """One mount and its client. User operations return whether they were possible."""

    name: str
    server: Server
    oracle: Oracle
    mount: Mount
    local: dict[EntryId, State] = field(default_factory=dict)
    base: dict[EntryId, State] = field(default_factory=dict)
    remote: dict[EntryId, Entry] = field(default_factory=dict)
    obstacles: set[Place] = field(default_factory=set)
    cursor: int = 0
    _sent: dict[tuple[EntryId, Revision], State | None] = field(default_factory=dict)
    _count: Iterator[int] = field(default_factory=count)

    def fresh(self) -> EntryId:
        """Return an id, or bytes to derive ids from, that nobody else has."""
        return EntryId(digest_of(f"{self.name} {next(self._count)}".encode())[:ID_BYTES])

    # -- reading -------------------------------------------------------------

    def at(self, path: str) -> EntryId:
        """Return who is at a path; fails where nobody is."""
        id = ROOT_ID
        for part in path.split("/") if path else []:
            id = self.children(id)[Name(part.encode())]
        return id

    def children(self, parent: EntryId) -> dict[Name, EntryId]:
        return {state.name: id for id, state in self.local.items() if state.parent == parent}

    def is_within(self, id: EntryId, directory: EntryId) -> bool:
        for _ in range(len(self.local) + 1):
            if id in (ROOT_ID, directory):
                return id == directory
            id = self.local[id].parent
        raise AssertionError("a ring")

    def below(self, id: EntryId) -> list[EntryId]:
        """Return an entry and what is in it, children first."""
        found = [inner for child in self.children(id).values() for inner in self.below(child)]
        return [*found, id]

    def paths(self) -> dict[str, State]:
        return paths_of(self.local)

    # -- what users do -------------------------------------------------------

    def make(self, path: str, kind: Kind, raw: bytes = b"") -> EntryId:
        """Create a file, directory or link with a fresh id."""
        parent, _, name = path.rpartition("/")
        return self.make_at((self.at(parent), Name(name.encode())), kind, raw)

    def make_at(self, place: Place, kind: Kind, raw: bytes = b"") -> EntryId:
        assert place[1] not in self.children(place[0])
        id = self.fresh()
        self.local[id] = state(place, kind, raw)
        self.oracle.saved.add(self.local[id].substance)
        return id

    def edit(self, id: EntryId, raw: bytes) -> None:
        """Save another content; what was placed there before is given up by this user."""
        old = self.local[id]
        self.local[id] = state(old.place, old.kind, raw, mode=old.mode)
        if self.local[id].substance != old.substance:
            self.oracle.given_up.add(old.substance)
            self.oracle.saved.add(self.local[id].substance)

    def shift(self, id: EntryId, place: Place) -> bool:
        """Rename, where a file system would do it without replacing anything."""
        if place[1] in self.children(place[0]) or self.is_within(place[0], id):
            return False
        self.local[id] = self.local[id].at(place)
        return True

    def swap(self, one: EntryId, other: EntryId) -> bool:
        if self.is_within(one, other) or self.is_within(other, one):
            return False
        first, second = self.local[one], self.local[other]
        self.local[one], self.local[other] = first.at(second.place), second.at(first.place)
        return True

    def chmod(self, id: EntryId, mode: int) -> None:
        self.local[id] = replace(self.local[id], mode=mode)

    def delete(self, id: EntryId) -> None:
        """Delete with all that is below."""
        for gone in self.below(id):
            old = self.local.pop(gone)
            self.oracle.deleted.add(gone)
            if not old.is_directory:
                self.oracle.given_up.add(old.substance)

    # -- what the client does ------------------------------------------------

    def pull(self, commits: int = 10**9) -> None:
        """Hear of the next commits, in order, whole.

        An answer to a STORE says nothing before its commit is heard: remote is one table (V1). Then
        the base moves by what was local when it was sent, whatever the user did since.
        """
        for entries in self.server.log[self.cursor : self.cursor + commits]:
            self.cursor += 1
            self.remote.update((entry.id, entry) for entry in entries)
            for entry in entries:
                if (entry.id, entry.revision) in self._sent:
                    self._confirm(entry.id, self._sent.pop((entry.id, entry.revision)))

    def view(self) -> View:
        return View(
            dict(self.base),
            dict(self.local),
            dict(self.remote),
            self.fresh(),
            dict(self.server.authors),
            frozenset(self.obstacles),
        )

    def plan(self) -> Plan:
        return reconcile(self.view(), self.mount)

    def carry_out(self, plan: Plan, *, placed: int = 10**9, sent: int = 10**9) -> None:
        """Do the first `placed` actions and send the first `sent` units of a plan."""
        for relabel in plan.relabels:
            self._relabel(relabel.local_id, relabel.id)
        for confirm in plan.confirms:
            self._move_base(confirm.id, confirm.base)
        seen = dict(self.local)
        for action in plan.placing[:placed]:
            self._place(action, plan)
        for id in [id for id, old in self.local.items() if old.parent == id]:
            self._put_back(id, seen[id].place)
        for unit in plan.sending[:sent]:
            self._send(unit, seen)

    def _put_back(self, id: EntryId, place: Place) -> None:
        """Give an entry a place that was aside at a cut: a client does so before it looks again."""
        parent = place[0]
        is_there = parent == ROOT_ID or parent in self.local
        if not is_there or not self._is_free(place) or self._inside(parent, id):
            place = (ROOT_ID, Name(b"rescued-" + id.hex().encode()))
        self.local[id] = self.local[id].at(place)

    def sync(self) -> Plan:
        """Do one whole cycle."""
        self.pull()
        plan = self.plan()
        self.carry_out(plan)
        return plan

    def _relabel(self, old: EntryId, new: EntryId) -> None:
        assert new not in self.local, "a relabel would hide an entry"
        self.oracle.merged.add(old)
        self.local = {
            new if id == old else id: state.at((new, state.name)) if state.parent == old else state
            for id, state in self.local.items()
        }
        self.obstacles = {(new if p == old else p, name) for p, name in self.obstacles}

    def _move_base(self, id: EntryId, base: State | None) -> None:
        if base is None:
            self.base.pop(id, None)
        else:
            self.base[id] = base

    def _confirm(self, id: EntryId, seen: State | None) -> None:
        entry = self.remote.get(id)
        there = state_of(entry) if entry is not None and entry.is_live else None
        self._move_base(id, confirmed(self.base.get(id), seen, there))

    def _is_free(self, place: Place) -> bool:
        return place not in self.obstacles and place[1] not in self.children(place[0])

    def _place(self, action: Placing, plan: Plan) -> None:
        match action:
            case Create(id, wanted):
                assert id not in self.local
                self._enter(id, wanted)
            case KeepCopy(id, source, expected, wanted):
                assert id not in self.local
                assert self.local[source].substance == expected.substance == wanted.substance
                self._enter(id, wanted)
            case Alter(id, expected, wanted):
                self._alter(id, expected, wanted)
            case Exchange(first, second):
                for half in (first, second):
                    assert self.local[half.id] == half.expected
                    assert half.expected.at(half.wanted.place) == half.wanted
                assert first.expected.place == second.wanted.place
                assert second.expected.place == first.wanted.place
                assert self.swap(first.id, second.id)
                self._confirm(first.id, first.wanted)
                self._confirm(second.id, second.wanted)
            case SetAside(id, expected):
                assert self.local[id] == expected
                self.local[id] = expected.at((id, _ASIDE))
            case Remove(id, expected):
                assert self.local[id] == expected
                assert not self.children(id), "a directory is removed with something in it"
                assert all(parent != id for parent, _ in self.obstacles)
                self._check_kept(id, expected, None)
                if expected.is_directory and id not in self.remote:
                    self.oracle.merged.add(id)
                del self.local[id]
                self._confirm(id, None)

    def _enter(self, id: EntryId, wanted: State) -> None:
        assert wanted.parent == ROOT_ID or self.local[wanted.parent].is_directory
        assert self._is_free(wanted.place), "a place is taken before it is free"
        self.local[id] = wanted
        self._confirm(id, wanted)

    def _alter(self, id: EntryId, expected: State, wanted: State) -> None:
        now = self.local[id]
        assert now == expected or now.at(expected.place) == expected
        if wanted.place != now.place:
            assert wanted.parent == ROOT_ID or self.local[wanted.parent].is_directory
            assert self._is_free(wanted.place), "a place is taken before it is free"
            assert not self._inside(wanted.parent, id), "a directory is moved into itself"
        if now.substance != wanted.substance:
            self._check_kept(id, now, wanted)
        self.local[id] = wanted
        self._confirm(id, wanted)

    def _inside(self, id: EntryId, directory: EntryId) -> bool:
        while id not in (ROOT_ID, directory) and self.local[id].parent != id:
            id = self.local[id].parent
        return id == directory

    def _check_kept(self, id: EntryId, old: State, new: State | None) -> None:
        """Fail where content that only this mount has would go (I3)."""
        if old.is_directory or old.substance in self.server.history:
            return
        others = [state for other, state in self.local.items() if other != id]
        assert any(state.substance == old.substance for state in others), "content is lost"

    def _send(self, unit: Unit, seen: dict[EntryId, State]) -> None:
        for change in unit.changes:
            if isinstance(change, Delete):
                self._check_delete(change)
        names = {bytes(c.name) for c in unit.changes if isinstance(c, Move)}
        assert unit.is_atomic or not any(name.startswith(b".syncline") for name in names)
        for entry in self.server.store(unit, self.name):
            assert not entry.name.startswith(b".syncline-aside"), "left aside on the server"
            self._sent[entry.id, entry.revision] = seen.get(entry.id)

    def _check_delete(self, change: Delete) -> None:
        """Fail where no user deleted, and no equal content stays (I4).

        One that the server refuses as stale, because it was decided before the entry was what it is
        now, deletes nothing.
        """
        id = change.id
        if id in self.oracle.deleted | self.oracle.merged:
            return
        entry = self.server.table.entry(id)
        assert entry is not None and entry.is_live
        if change.base != entry.revision:
            return
        gone = state_of(entry).substance
        if gone in self.oracle.given_up:
            return
        stays = [state for other, state in self.server.live().items() if other != id]
        assert entry.kind is not Kind.DIRECTORY, "a delete that no user made"
        assert any(each.substance == gone for each in stays), "a delete that no user made"


def state(place: Place, kind: Kind, raw: bytes = b"", *, mode: int | None = None) -> State:
    """Return a state as a user makes it; the mtime follows from the content."""
    mtime_ns = int.from_bytes(digest_of(raw)[:4], "big")
    match kind:
        case Kind.FILE:
            return State(*place, kind, mode or 0o644, mtime_ns, content_of(raw), None)
        case Kind.DIRECTORY:
            return State(*place, kind, mode or 0o755, 0, None, None)
        case Kind.LINK:
            return State(*place, kind, LINK_MODE, mtime_ns, None, raw)


def paths_of(tree: dict[EntryId, State]) -> dict[str, State]:
    """Return what is at which path; fails where it is no tree."""
    found: dict[str, State] = {}
    for id, each in tree.items():
        parts = [each.name.decode()]
        parent = each.parent
        while parent != ROOT_ID:
            assert len(parts) <= len(tree), "a ring"
            parts.append(tree[parent].name.decode())
            parent = tree[parent].parent
        path = "/".join(reversed(parts))
        assert path not in found, f"two entries at {path}, one is {id.hex()}"
        found[path] = each
    return found


@dataclass(slots=True)
class World:
    """A server and its replicas."""

    server: Server
    oracle: Oracle
    replicas: list[Replica]

    @classmethod
    def of(cls, *names: str, modes: tuple[Mode, ...] = ()) -> World:
        server, oracle = Server(), Oracle()
        all_modes = modes or (Mode.TWO_WAY,) * len(names)
        return cls(
            server,
            oracle,
            [
                Replica(name, server, oracle, Mount(name, mode))
                for name, mode in zip(names, all_modes, strict=True)
            ],
        )

    def rest(self, rounds: int = 12) -> int:
        """Let everybody work until all is quiet; return how many rounds it took."""
        for done in range(rounds):
            if all(replica.sync().is_quiet for replica in self.replicas):
                return done
        raise AssertionError("the replicas do not come to rest")

    def check_equal(self) -> None:
        """Fail where replicas differ, or where what must be there is not (G1, G3)."""
        table = self.server.live()
        for replica in self.replicas:
            assert replica.local == table, replica.name
            assert replica.base == table, replica.name
            assert replica.plan().is_quiet
        there = {each.substance for each in table.values()}
        contents = {each for each in self.oracle.saved if each[0] is not Kind.DIRECTORY}
        assert contents - self.oracle.given_up <= there, "content is lost"
        assert there - {(Kind.DIRECTORY, b"")} <= contents, "content is invented"

    def conflicts(self) -> list[str]:
        """Return the paths of conflict copies."""
        found = []
        for path, each in paths_of(self.server.live()).items():
            if is_conflict_name(each.name):
                found.append(path)
        return sorted(found)
