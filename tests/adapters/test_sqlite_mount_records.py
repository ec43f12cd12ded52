"""What the mount state in SQLite keeps in memory: what is not written yet, and what was read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters import sqlite_mount_trees
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import ROOT_ID, EntryId, ReplicaId
from syncline.core.names import Name
from syncline.core.trees import State, state_of
from syncline.ports.mount_state import Held, MountFacts, MountSession, Obstacle, ObstacleReason
from tests.support.trees import file, id_of

OTHER_ROOT = id_of("d")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SqliteMountState]:
    state = SqliteMountState.open(tmp_path / "state", MountFacts(ReplicaId(b"r" * 16), None, None))
    yield state
    state.close()


@contextmanager
def statements(state: SqliteMountState) -> Iterator[list[str]]:
    """Return what SQLite is asked to do meanwhile."""
    assert state._connection is not None
    seen: list[str] = []
    state._connection.set_trace_callback(seen.append)
    try:
        yield seen
    finally:
        state._connection.set_trace_callback(None)


def here(name: str, parent: EntryId = ROOT_ID) -> State:
    return replace(state_of(file(name)), parent=parent)


def put(session: MountSession, label: str, state: State, inode: int = 1) -> EntryId:
    id = id_of(label)
    session.set_local(id, Seen(state, Fingerprint(inode, 1, 2, 3, 4)))
    return id


def found(session: MountSession) -> tuple[object, ...]:
    """Return what each look-up by an index tells of one place, one directory, one inode."""
    place = (ROOT_ID, Name(b"a"))
    return (
        session.child(*place),
        [id for id, _ in session.children(ROOT_ID)],
        [id for id, _ in session.with_inode(1)],
        session.at_place(place),
        session.within(ROOT_ID),
    )


def test_a_look_up_sees_what_is_set_and_writes_nothing(state: SqliteMountState) -> None:
    with state.session() as session:
        written, moved = put(session, "a", here("a")), put(session, "b", here("b"), 2)
    with state.session() as session, statements(state) as seen:
        put(session, "a", here("a", OTHER_ROOT), 3)
        put(session, "b", here("a"))
        assert found(session) == (moved, [moved], [moved], {moved}, {moved})
        assert [id for id, _ in session.children(OTHER_ROOT)] == [written]
        session.set_local(moved, None)
        assert found(session) == (None, [], [], set(), set())
        new = put(session, "c", here("a"))
        after = found(session)
        assert after == (new, [new], [new], {new}, {new})
        assert not [each for each in seen if "INSERT" in each]
        # The tables tell the same once it is written.
        session.dirty()
        assert found(session) == after
    with state.session() as session:
        assert found(session) == after


def test_an_entry_that_stays_beside_one_that_leaves_is_found(state: SqliteMountState) -> None:
    with state.session() as session:
        first, second = put(session, "a", here("a")), put(session, "b", here("a"))
    with state.session() as session:
        stays, leaves = sorted((first, second), reverse=True)
        session.set_local(leaves, None)
        assert found(session) == (stays, [stays], [stays], {stays}, {stays})


def test_an_entry_that_moves_on_is_where_it_is_now(state: SqliteMountState) -> None:
    with state.session() as session:
        id = put(session, "a", here("a"))
        session.set_base(id, here("a"))
    for is_base_moved in (False, True):
        with state.session() as session:
            put(session, "a", here("a"))
            put(session, "a", here("b", OTHER_ROOT), 2)
            everywhere = {id}
            if is_base_moved:
                session.set_base(id, here("b", OTHER_ROOT))
                everywhere = set()
            assert found(session) == (None, [], [], everywhere, everywhere)
            assert [each for each, _ in session.children(OTHER_ROOT)] == [id]


def test_a_later_session_reads_nothing_again(state: SqliteMountState) -> None:
    with state.session() as session:
        ids = [put(session, f"f{number}", here(f"f{number}")) for number in range(50)]
    with state.session() as session, statements(state) as seen:
        assert all(session.local(id) for id in ids)
        assert session.local(id_of("nobody")) is None
        assert len(seen) == 1
        assert session.local(id_of("nobody")) is None
        assert len(seen) == 1


@pytest.mark.parametrize("is_written", [False, True])
def test_what_a_failed_session_knew_is_forgotten(
    state: SqliteMountState, *, is_written: bool
) -> None:
    with state.session() as session:
        kept = put(session, "a", here("a"))
    before = here("a")
    with pytest.raises(InterruptedError), state.session() as session:
        session.set_local(kept, Seen(here("other")))
        new = put(session, "b", here("b"))
        if is_written:
            session.dirty()
        raise InterruptedError
    with state.session() as session:
        seen = session.local(kept)
        assert seen is not None
        assert seen.state == before
        assert session.local(new) is None
        assert session.child(ROOT_ID, Name(b"b")) is None
        assert session.dirty() == [kept]


def test_few_records_in_memory_tell_the_same(
    state: SqliteMountState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_mount_trees, "RECORDS_MAX", 4)
    ids = [id_of(f"f{number}") for number in range(20)]
    with state.session() as session:
        for number, id in enumerate(ids):
            session.set_local(id, Seen(here(f"f{number:02}")))
            assert session.child(ROOT_ID, Name(b"f%02d" % number)) == id
            assert len(session._known) <= 4
        # Half of them moves, in an order that has nothing to do with what is in memory.
        for number, id in list(enumerate(ids))[::-2]:
            session.set_local(id, Seen(here(f"f{number:02}", OTHER_ROOT)))
        assert [id for id, _ in session.children(OTHER_ROOT)] == ids[1::2]
        assert [id for id, _ in session.children(ROOT_ID)] == ids[::2]
    with state.session() as session:
        assert session.within(OTHER_ROOT) == set(ids[1::2])
        assert session.dirty() == sorted(ids)


def test_an_exception_is_found_in_the_session_that_set_it_and_later(
    state: SqliteMountState,
) -> None:
    place, held = (ROOT_ID, Name(b"a")), Held(is_ignored=True)
    obstacle = Obstacle(ObstacleReason.SPECIAL)
    with state.session() as session:
        assert session.held_of(id_of("a")) is None
        assert session.obstacle(place) is None
        assert session.obstacles_in(ROOT_ID) == {}
        session.set_held(id_of("a"), held)
        session.set_obstacle(place, obstacle)
        assert session.held_of(id_of("a")) == held
        assert session.obstacle(place) == obstacle
    with state.session() as session:
        assert session.held_of(id_of("a")) == held
        assert session.obstacles_in(ROOT_ID) == {place[1]: obstacle}
    with state.session() as session:
        session.set_held(id_of("a"), None)
        session.set_obstacle(place, None)
    with state.session() as session:
        assert not session.held()
        assert session.obstacle(place) is None
