"""Random calls on the adapters of `ports.mount_state`, beside a model that does the obvious."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.core.entries import Entry, Kind
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import ROOT_ID, EntryId, OpId, ReplicaId, Revision
from syncline.core.names import Name
from syncline.core.trees import State
from syncline.ports.mount_state import (
    Held,
    MountFacts,
    MountSession,
    MountState,
    Obstacle,
    ObstacleReason,
)
from tests.support.mount_model import Model, observed
from tests.support.trees import content_of, id_of

FACTS = MountFacts(ReplicaId(b"r" * 16), None, None)
OTHER_FACTS = MountFacts(ReplicaId(b"o" * 16), None, None)
IDS = [id_of(label) for label in ("d1", "d2", "f1", "f2", "f3")]
DIRECTORIES, FILES = IDS[:2], IDS[2:]
NAMES = [Name(b"m"), Name(b"n")]
OPS = [OpId(b"1" * 16), OpId(b"2" * 16)]
INODES = [1, 2**63]
CHUNKINGS = [content_of(b"1"), replace(content_of(b"1"), depth=1), content_of(b"2")]

ids = st.sampled_from(IDS)
parents = st.sampled_from([ROOT_ID, *DIRECTORIES])
places = st.tuples(parents, st.sampled_from(NAMES))
ops = st.sampled_from(OPS)


@st.composite
def states(draw: st.DrawFn, id: EntryId) -> State:
    parent, name = draw(places)
    if id in DIRECTORIES:
        return State(parent, name, Kind.DIRECTORY, draw(st.sampled_from([7, 5])), 0, None, None)
    content = draw(st.sampled_from(CHUNKINGS))
    return State(parent, name, Kind.FILE, 0o644, draw(st.integers(0, 1)), content, None)


marks = st.none() | st.builds(
    Fingerprint, st.sampled_from(INODES), *[st.integers(0, 1)] * 4, st.booleans()
)
with_states = ids.flatmap(lambda id: st.tuples(st.just(id), states(id)))
with_maybe = ids.flatmap(lambda id: st.tuples(st.just(id), st.none() | states(id)))


class Left(Exception):
    """What a session is left with."""


class Machine(RuleBasedStateMachine):
    """Random calls on an adapter and on the model; what both tell must be equal."""

    def __init__(self) -> None:
        super().__init__()
        self.state = self.begin()
        self.kept = Model(FACTS)
        self.block: AbstractContextManager[MountSession] | None = None

    def begin(self) -> MountState:
        raise NotImplementedError

    def restart(self) -> None:
        raise NotImplementedError

    @property
    def both(self) -> tuple[MountSession, Model]:
        if self.block is None:
            self.block = self.state.session()
            self.session = self.block.__enter__()
            self.model = self.kept.copy()
        return self.session, self.model

    def entry(self, id: EntryId, state: State, revision: int, *, is_live: bool) -> Entry:
        content = state.content if is_live else None
        return Entry(
            id,
            Revision(revision),
            state.parent,
            state.name,
            state.kind,
            state.mode,
            state.mtime_ns,
            content,
            None,
            is_live,
        )

    @rule(given=with_maybe)
    def set_base(self, given: tuple[EntryId, State | None]) -> None:
        for side in self.both:
            side.set_base(*given)

    @rule(given=with_maybe, mark=marks)
    def set_local(self, given: tuple[EntryId, State | None], mark: Fingerprint | None) -> None:
        id, state = given
        for side in self.both:
            side.set_local(id, None if state is None else Seen(state, mark))

    @rule(
        given=with_states,
        revision=st.integers(1, 3),
        author=st.sampled_from(["x", "y"]),
        is_live=st.booleans(),
        is_confirmed=st.booleans(),
    )
    def set_remote(
        self,
        given: tuple[EntryId, State],
        revision: int,
        author: str,
        is_live: bool,
        is_confirmed: bool,
    ) -> None:
        entry = self.entry(*given, revision, is_live=is_live)
        for side in self.both:
            side.set_remote(entry, author, is_confirmed=is_confirmed)

    @rule(given=with_states)
    def agree(self, given: tuple[EntryId, State]) -> None:
        id, state = given
        for side in self.both:
            side.set_remote(self.entry(id, state, 4, is_live=True), "x", is_confirmed=False)
            side.set_local(id, Seen(state, Fingerprint(1, 1, 2, 3, 4)))
            side.set_base(id, state)

    @rule(id=ids)
    def drop_remote(self, id: EntryId) -> None:
        for side in self.both:
            side.drop_remote(id)

    @rule(old=ids, new=ids)
    def relabel(self, old: EntryId, new: EntryId) -> None:
        _, model = self.both
        is_kind = (old in DIRECTORIES) == (new in DIRECTORIES)
        if is_kind and model.local(old) is not None and model.local(new) is None:
            for side in self.both:
                side.relabel(old, new)

    @rule(id=ids, held=st.none() | st.builds(Held, st.booleans()))
    def set_held(self, id: EntryId, held: Held | None) -> None:
        for side in self.both:
            side.set_held(id, held)

    @rule(place=places, found=st.none() | st.builds(Obstacle, st.sampled_from(ObstacleReason)))
    def set_obstacle(self, place: tuple[EntryId, Name], found: Obstacle | None) -> None:
        for side in self.both:
            side.set_obstacle(place, found)

    @rule(op=ops, given=st.lists(with_maybe, max_size=3))
    def note_sent(self, op: OpId, given: list[tuple[EntryId, State | None]]) -> None:
        for side in self.both:
            side.note_sent(op, dict(given))

    @rule(op=ops)
    def forget_sent(self, op: OpId) -> None:
        for side in self.both:
            side.forget_sent(op)

    @rule(given=with_maybe)
    def note_intent(self, given: tuple[EntryId, State | None]) -> None:
        for side in self.both:
            side.note_intent(*given)

    @rule(given=with_states)
    def add_incoming(self, given: tuple[EntryId, State]) -> None:
        for side in self.both:
            side.add_incoming([self.entry(*given, 1, is_live=True)])

    @rule(what=st.sampled_from(["forget_intents", "clear_incoming", "forget_server", "forget_all"]))
    def forget(self, what: str) -> None:
        for side in self.both:
            getattr(side, what)()

    @rule()
    def look(self) -> None:
        session, model = self.both
        looked = [observed(side, IDS, NAMES, OPS, INODES) for side in (session, model)]
        assert looked[0] == looked[1]

    @precondition(lambda self: self.block is not None)
    @rule()
    def commit(self) -> None:
        session, model = self.both
        while found := model.misplaced():
            tree, id = found
            for side in (session, model):
                if tree == "local":
                    side.set_local(id, None)
                else:
                    side.drop_remote(id)
        self.look()
        assert self.block is not None
        self.block.__exit__(None, None, None)
        self.block, self.kept = None, model

    @precondition(lambda self: self.block is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.block is not None
        error = Left()
        assert not self.block.__exit__(Left, error, None)
        self.block = None
        self.look()

    @precondition(lambda self: self.block is None)
    @rule()
    def reopen(self) -> None:
        self.state.close()
        self.restart()
        self.look()

    def teardown(self) -> None:
        if self.block is not None:
            self.commit()
        self.look()
        self.roll_back()
        self.state.close()


class MemoryMachine(Machine):
    def begin(self) -> MountState:
        return MemoryMountState(FACTS)

    def restart(self) -> None:
        """Nothing: the object outlives the process."""


class SqliteMachine(Machine):
    def begin(self) -> MountState:
        self.directory = Path(tempfile.mkdtemp())
        return SqliteMountState.open(self.directory / "state", FACTS)

    def restart(self) -> None:
        self.state = SqliteMountState.open(self.directory / "state", OTHER_FACTS)

    def teardown(self) -> None:
        super().teardown()
        shutil.rmtree(self.directory)


BRIEF = settings(max_examples=40, stateful_step_count=40)
TestMemory = MemoryMachine.TestCase
TestMemory.settings = BRIEF
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = BRIEF
