"""What the mount state in memory adds to its contract: crashes, and checks of its users."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, ReplicaId
from syncline.core.trees import state_of
from syncline.ports.mount_state import MountFacts, MountSession
from tests.support.trees import directory, file, id_of

A, B, D = id_of("a"), id_of("b"), id_of("d")


@pytest.fixture
def state() -> MemoryMountState:
    return MemoryMountState(MountFacts(ReplicaId(b"r" * 16), None, None))


def test_a_crash_loses_the_open_session_alone(state: MemoryMountState) -> None:
    with state.session() as session:
        session.set_base(A, state_of(file("a")))
    with state.session() as lost:
        lost.set_base(B, state_of(file("b")))
        state.crash()
        with pytest.raises(AssertionError, match="over"):
            lost.set_base(B, None)
        with state.session() as session:
            session.set_base(D, state_of(directory("d")))
    with state.session() as session:
        assert [session.base(id) is not None for id in (A, B, D)] == [True, False, True]


def test_a_session_that_nobody_leaves_is_lost(state: MemoryMountState) -> None:
    block = state.session()
    session = block.__enter__()
    session.set_base(A, state_of(file("a")))
    state.crash()
    del block, session
    with state.session() as later:
        assert later.base_count() == 0


def twice_here(session: MountSession) -> None:
    session.set_local(A, Seen(state_of(file("a", name=b"n"))))
    session.set_local(B, Seen(state_of(file("b", name=b"n"))))


def twice_there(session: MountSession) -> None:
    session.set_remote(file("a", name=b"n"), "x", is_confirmed=False)
    session.set_remote(file("b", name=b"n"), "x", is_confirmed=False)


def in_nothing_here(session: MountSession) -> None:
    session.set_local(A, Seen(state_of(file("a", "d"))))


def in_a_file_there(session: MountSession) -> None:
    session.set_remote(file("b"), "x", is_confirmed=False)
    session.set_remote(file("a", "b"), "x", is_confirmed=False)


def above_nothing_here(session: MountSession) -> None:
    session.set_local(id_of("kept"), None)


@pytest.mark.parametrize(
    "spoil", [twice_here, twice_there, in_nothing_here, in_a_file_there, above_nothing_here]
)
def test_a_session_that_leaves_no_tree_is_refused(
    state: MemoryMountState, spoil: Callable[[MountSession], None]
) -> None:
    with state.session() as session:
        session.set_local(id_of("kept"), Seen(state_of(directory("kept"))))
        session.set_local(id_of("inside"), Seen(state_of(file("inside", "kept"))))
    with pytest.raises(AssertionError, match=r"in (local|remote)"), state.session() as session:
        spoil(session)
    with state.session() as session:
        assert session.dirty_count() == 2
        assert len(session.within(ROOT_ID)) == 1
