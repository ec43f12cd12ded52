"""The contract of `ports.mount_state`, on every adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.core.entries import Entry, tombstone
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import (
    ROOT_ID,
    CommitId,
    OpId,
    ReplicaId,
    Revision,
    VolumeId,
    digest_of,
)
from syncline.core.manifests import ChunkRef, Content
from syncline.core.names import Name
from syncline.core.safety import Consent, HaltReason, RootIdentity
from syncline.core.table import Cursor
from syncline.core.trees import state_of
from syncline.ports.mount_state import (
    Held,
    MountFacts,
    MountSession,
    MountState,
    Obstacle,
    ObstacleReason,
)
from tests.support.mount_model import Model, observed
from tests.support.trees import content_of, directory, file, id_of, link

FACTS = MountFacts(ReplicaId(b"r" * 16), None, None)
ALL_FACTS = MountFacts(
    ReplicaId(b"s" * 16),
    VolumeId(b"v" * 16),
    RootIdentity(b"marker", 2**64 - 1, b"\xff file system"),
    Cursor(Revision(2**63 - 1), CommitId(b"c" * 32)),
    2**256 - 1,
    Consent(HaltReason.MASS_DELETE, 25),
)
A, B, D, E = id_of("a"), id_of("b"), id_of("d"), id_of("e")


def op(number: int) -> OpId:
    return OpId(number.to_bytes(16, "big"))


def mark(inode: int = 7) -> Fingerprint:
    return Fingerprint(inode, 1, 2, 3, 4)


def seen(entry: Entry, inode: int = 7) -> Seen:
    return Seen(state_of(entry), mark(inode))


def know(session: MountSession, entry: Entry, inode: int = 7) -> None:
    """Let all three trees know the same of an entry."""
    session.set_base(entry.id, state_of(entry))
    session.set_local(entry.id, seen(entry, inode))
    session.set_remote(entry, "somebody", is_confirmed=False)


@pytest.fixture(params=["memory", "sqlite"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountState]:
    state: MountState
    if request.param == "memory":
        state = MemoryMountState(FACTS)
    else:
        state = SqliteMountState.open(tmp_path / "state", FACTS)
    yield state
    state.close()


class Left(Exception):
    """What a test leaves a session with."""


# -- sessions ------------------------------------------------------------------


def test_it_begins_with_its_facts_alone(state: MountState) -> None:
    with state.session() as session:
        assert session.facts() == FACTS
        assert (session.dirty_count(), session.base_count(), session.all_sent()) == (0, 0, [])
        assert session.child(ROOT_ID, Name(b"a")) is None
        assert session.remote(A) is None


def test_facts_are_kept(state: MountState) -> None:
    with state.session() as session:
        session.set_facts(ALL_FACTS)
        assert session.facts() == ALL_FACTS
    with state.session() as session:
        assert session.facts() == ALL_FACTS
        session.set_facts(replace(ALL_FACTS, cursor=Cursor(Revision(0), None), root=None))
    with state.session() as session:
        assert session.facts().cursor == Cursor(Revision(0), None)
        assert session.facts().root is None


def test_a_session_that_is_left_with_an_error_did_not_happen(state: MountState) -> None:
    with state.session() as session:
        know(session, file("a"))
        session.note_sent(op(1), {A: state_of(file("a"))})
        session.note_sent(op(2), {})
        before = observed(session, [A, B, D], [Name(b"a")], [op(1)], [7, 8])
    with pytest.raises(Left), state.session() as session:
        session.set_facts(ALL_FACTS)
        know(session, file("a", content=b"new"))
        know(session, directory("d"), 8)
        session.set_held(A, Held(is_ignored=False))
        session.set_obstacle((D, Name(b"fifo")), Obstacle(ObstacleReason.SPECIAL))
        session.forget_sent(op(1))
        session.note_sent(op(1), {B: None})
        session.note_intent(A, None)
        session.add_incoming([file("b")])
        assert session.dirty_count() == 0
        session.forget_server()
        session.forget_all()
        raise Left
    with state.session() as session:
        assert observed(session, [A, B, D], [Name(b"a")], [op(1)], [7, 8]) == before


def test_a_session_that_is_over_does_nothing(state: MountState) -> None:
    with state.session() as session:
        know(session, file("a"))
    calls: list[Callable[[], object]] = [
        session.facts,
        session.dirty,
        session.dirty_count,
        session.base_count,
        session.held,
        lambda: session.held_of(A),
        lambda: session.base(A),
        lambda: session.set_base(A, None),
        lambda: session.set_held(A, None),
        lambda: list(session.incoming()),
        session.forget_all,
    ]
    for call in calls:
        with pytest.raises(AssertionError, match="over"):
            call()
    with state.session() as session:
        assert session.base_count() == 1


def test_one_session_is_open_at_a_time(state: MountState) -> None:
    with state.session() as session:
        with pytest.raises(AssertionError, match="one session"), state.session():
            pass
        know(session, file("a"))
    with state.session() as session:
        assert session.base(A) == state_of(file("a"))


# -- the trees -----------------------------------------------------------------


@pytest.mark.parametrize("entry", [file("a"), directory("a"), link("a"), file("a", content=b"")])
def test_what_all_know_alike_is_not_dirty(state: MountState, entry: Entry) -> None:
    with state.session() as session:
        know(session, entry)
    with state.session() as session:
        assert session.base(A) == state_of(entry)
        assert session.local(A) == seen(entry)
        assert session.remote(A) == entry
        assert (session.dirty(), session.dirty_count(), session.base_count()) == ([], 0, 1)


def test_each_tree_keeps_its_own_when_another_moves(state: MountState) -> None:
    old, new = file("a"), file("a", content=b"new", revision=2)
    with state.session() as session:
        know(session, old)
    with state.session() as session:
        session.set_base(A, state_of(new))
    with state.session() as session:
        assert session.local(A) == seen(old)
        assert session.remote(A) == old
        assert session.dirty() == [A]
        session.set_remote(new, "b", is_confirmed=True)
        session.set_base(A, None)
    with state.session() as session:
        assert session.remote(A) == new
        assert session.local(A) == seen(old)
        assert session.base(A) is None


def test_an_author_is_known_while_remote_differs(state: MountState) -> None:
    new = file("a", content=b"new", revision=2)
    with state.session() as session:
        know(session, file("a"))
        assert (session.author(A), session.is_confirmed(A)) == (None, False)
        session.set_remote(new, "somebody é", is_confirmed=True)
    with state.session() as session:
        assert (session.author(A), session.is_confirmed(A)) == ("somebody é", True)
        session.set_base(A, state_of(new))
    with state.session() as session:
        assert (session.author(A), session.is_confirmed(A)) == (None, False)
        assert session.remote(A) == new


def test_another_chunking_is_no_change_and_is_kept(state: MountState) -> None:
    content = content_of(b"content")
    parts = tuple(ChunkRef(digest_of(part), 1) for part in (b"a", b"b"))
    cut = replace(file("a"), content=Content(content.digest, content.size, 1, parts))
    with state.session() as session:
        know(session, file("a"))
        session.set_remote(cut, "x", is_confirmed=False)
    with state.session() as session:
        assert session.dirty() == []
        assert session.author(A) is None
        assert session.remote(A) == cut
        assert session.base(A) == state_of(file("a"))


def test_a_tombstone_is_kept_while_it_is_needed(state: MountState) -> None:
    dead = tombstone(file("a"), Revision(5))
    with state.session() as session:
        know(session, file("a"))
        session.set_remote(dead, "b", is_confirmed=True)
    with state.session() as session:
        assert session.remote(A) == dead
        assert (session.author(A), session.is_confirmed(A)) == ("b", True)
        assert session.remote_ids(None, 9) == []
        session.set_base(A, None)
        assert session.remote(A) == dead
        assert session.dirty() == [A]
        session.set_held(A, Held(is_ignored=True))
        session.set_local(A, None)
    with state.session() as session:
        assert session.remote(A) is None
        assert session.dirty() == []
        assert session.held() == {}


def test_a_dropped_remote_is_absent(state: MountState) -> None:
    with state.session() as session:
        know(session, file("a"))
        session.drop_remote(A)
        session.drop_remote(B)
    with state.session() as session:
        assert session.remote(A) is None
        assert session.dirty() == [A]
        session.set_base(A, None)
        session.set_local(A, None)
        assert session.dirty_count() == 0


def test_who_is_where(state: MountState) -> None:
    here = file("a", "d", b"here")
    there = file("a", "d", b"there", revision=2)
    with state.session() as session:
        know(session, directory("d"))
        know(session, file("a", "d", b"base"))
        know(session, file("b", "d", b"z"), 8)
        session.set_local(A, seen(here, 9))
        session.set_remote(there, "x", is_confirmed=False)
    with state.session() as session:
        assert session.children(D) == [(A, seen(here, 9)), (B, seen(file("b", "d", b"z"), 8))]
        assert session.child(D, Name(b"here")) == A
        assert session.child(D, Name(b"base")) is None
        assert session.child(D, Name(b"there")) is None
        for name in (b"here", b"there", b"base"):
            assert session.at_place((D, Name(name))) == {A}
        assert session.within(D) == {A, B}
        assert session.within(ROOT_ID) == {D}
        assert session.with_inode(9) == [(A, seen(here, 9))]
        assert session.with_inode(10) == []


def test_two_may_stand_at_one_place_in_base_and_in_passing(state: MountState) -> None:
    one, two = file("a", name=b"n"), file("b", name=b"n")
    with state.session() as session:
        session.set_base(A, state_of(one))
        session.set_base(B, state_of(two))
        session.set_local(A, seen(one))
        session.set_local(B, seen(two, 8))
        assert session.child(ROOT_ID, Name(b"n")) == min(A, B)
        assert session.at_place((ROOT_ID, Name(b"n"))) == {A, B}
        session.set_local(A, None)
    with state.session() as session:
        assert session.child(ROOT_ID, Name(b"n")) == B
        assert session.at_place((ROOT_ID, Name(b"n"))) == {A, B}


def test_a_directory_keeps_what_it_holds_through_a_swap(state: MountState) -> None:
    with state.session() as session:
        know(session, file("a"))
        know(session, file("b"), 8)
    with state.session() as session:
        session.set_local(A, Seen(state_of(file("a")).at((ROOT_ID, Name(b"b"))), mark()))
        session.set_local(B, Seen(state_of(file("b")).at((ROOT_ID, Name(b"a"))), mark(8)))
    with state.session() as session:
        assert session.child(ROOT_ID, Name(b"a")) == B
        assert session.child(ROOT_ID, Name(b"b")) == A
        assert session.dirty() == sorted([A, B])


@pytest.mark.parametrize("inode", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_fingerprint_comes_back_whatever_the_file_system_says(
    state: MountState, inode: int
) -> None:
    times = 2**64, -(2**63) - 1
    found = Seen(
        state_of(file("a")),
        Fingerprint(inode, times[0], 2**60, times[1], times[0] + 1, is_provisional=True),
    )
    with state.session() as session:
        session.set_local(A, found)
    with state.session() as session:
        assert session.local(A) == found
        assert session.with_inode(inode) == [(A, found)]


def test_what_is_set_twice_in_a_session_leaves_nothing_behind(state: MountState) -> None:
    moved = file("a", name=b"moved", revision=2)
    with state.session() as session:
        know(session, file("a"))
        session.set_local(A, seen(moved))
        session.set_remote(moved, "x", is_confirmed=False)
    with state.session() as session:
        for inode in (8, 9):
            session.set_local(A, seen(file("a"), inode))
            session.set_remote(file("a", revision=inode), "x", is_confirmed=False)
    with state.session() as session:
        assert session.at_place((ROOT_ID, Name(b"moved"))) == set()
        assert session.child(ROOT_ID, Name(b"moved")) is None
        assert session.within(ROOT_ID) == {A}
        assert [session.with_inode(inode) for inode in (7, 8)] == [[], []]


def test_remote_is_listed_in_pages(state: MountState) -> None:
    entries = [file(f"f{number}") for number in range(20)]
    ids = sorted(entry.id for entry in entries)
    with state.session() as session:
        for entry in entries:
            session.set_remote(entry, "x", is_confirmed=False)
        session.set_local(A, seen(file("a")))
        found = list(session.remote_ids(None, 7))
        while page := session.remote_ids(found[-1], 7):
            found += page
            session.drop_remote(page[0])
    assert found == ids


def test_relabel(state: MountState) -> None:
    inside, below = file("a", "d"), directory("e", "d")
    new = id_of("new")
    with state.session() as session:
        session.set_local(D, seen(directory("d"), 1))
        know(session, inside)
        know(session, below, 8)
        session.set_remote(directory("new", name=b"d"), "x", is_confirmed=False)
        session.set_remote(directory("d"), "x", is_confirmed=False)
        session.set_held(D, Held(is_ignored=False, detail="no right"))
        session.set_obstacle((D, Name(b"fifo")), Obstacle(ObstacleReason.SPECIAL, "a\udcff"))
        session.note_sent(op(1), {D: state_of(directory("d")), A: state_of(inside)})
        session.note_intent(E, state_of(below))
        session.drop_remote(D)
        session.drop_remote(A)
        session.drop_remote(E)
    with state.session() as session:
        session.relabel(D, new)
    moved = Seen(replace(state_of(inside), parent=new), mark())
    with state.session() as session:
        assert session.local(D) is None
        assert session.local(new) == seen(directory("d"), 1)
        assert session.local(A) == moved
        assert session.base(A) == state_of(inside)
        assert [id for id, _ in session.children(new)] == [A, E]
        assert session.held() == {new: Held(is_ignored=False, detail="no right")}
        assert session.held_unread() == session.held()
        assert list(session.obstacles_not_ignored()) == [(new, Name(b"fifo"))]
        assert session.obstacles_in(D) == {}
        assert session.obstacles_in(new) == {
            Name(b"fifo"): Obstacle(ObstacleReason.SPECIAL, "a\udcff")
        }
        assert session.sent(op(1)) == {new: state_of(directory("d")), A: moved.state}
        assert session.intents() == {E: replace(state_of(below), parent=new)}


def test_a_relabel_leaves_what_was_noted_of_the_entry_itself(state: MountState) -> None:
    with state.session() as session:
        session.set_local(A, seen(file("a")))
        session.note_sent(op(1), {A: state_of(file("a")), B: None})
        session.note_sent(op(2), {A: None})
        session.note_intent(A, state_of(file("a")))
        session.note_intent(B, None)
        session.relabel(A, B)
    with state.session() as session:
        assert session.sent(op(1)) == {B: None}
        assert session.sent(op(2)) == {B: None}
        assert session.intents() == {B: None}


def test_relabel_is_for_a_local_thing_and_an_entry_that_local_lacks(state: MountState) -> None:
    with pytest.raises(AssertionError, match="relabel"), state.session() as session:
        session.relabel(A, B)
    with pytest.raises(AssertionError, match="relabel"), state.session() as session:
        session.set_local(A, seen(file("a")))
        session.set_local(B, seen(file("b")))
        session.relabel(A, B)


def test_forgetting_the_server_keeps_what_local_is(state: MountState) -> None:
    with state.session() as session:
        session.set_facts(ALL_FACTS)
        know(session, directory("d"), 1)
        know(session, file("a", "d"))
        session.set_remote(file("a", "d", content=b"new", revision=3), "x", is_confirmed=False)
        session.set_remote(file("b"), "x", is_confirmed=False)
        session.set_held(A, Held(is_ignored=False))
        session.set_held(B, Held(is_ignored=True))
        session.note_sent(op(1), {A: None})
        session.note_intent(A, None)
        session.add_incoming([file("b")])
    with state.session() as session:
        session.forget_server()
    with state.session() as session:
        assert (session.base_count(), session.dirty_count()) == (0, 2)
        assert session.children(D) == [(A, seen(file("a", "d")))]
        assert session.with_inode(1) == [(D, seen(directory("d"), 1))]
        assert [session.base(A), session.remote(A), session.remote(D)] == [None] * 3
        assert session.held() == {A: Held(is_ignored=False)}
        assert session.all_sent() == []
        assert session.intents() == {A: None}
        assert session.is_incoming(B)
        assert session.facts() == ALL_FACTS
        session.forget_all()
    with state.session() as session:
        empty = observed(session, [A, B, D], [Name(b"a")], [op(1)], [1, 7])
        model = Model(ALL_FACTS)
        assert empty == observed(model, [A, B, D], [Name(b"a")], [op(1)], [1, 7])


def test_a_session_tells_whether_it_changed_what_a_plan_follows_from(state: MountState) -> None:
    place = (ROOT_ID, Name(b"socket"))

    def change(session: MountSession) -> None:
        know(session, file("a"))
        session.set_held(A, Held(is_ignored=True))
        session.set_obstacle(place, Obstacle(ObstacleReason.SPECIAL))

    changes: list[Callable[[MountSession], None]] = [
        lambda session: session.set_local(A, seen(file("a"), inode=8)),
        lambda session: session.set_held(A, None),
        lambda session: session.set_obstacle(place, None),
        lambda session: session.set_base(A, None),
        lambda session: session.forget_server(),
    ]
    for make in (change, *changes):
        with state.session() as session:
            assert not session.has_changed
            make(session)
            assert session.has_changed
        if make is change:
            with state.session() as session:
                change(session)
                session.set_facts(ALL_FACTS)
                session.note_sent(op(1), {A: None})
                session.note_intent(A, None)
                assert not session.has_changed


# -- exceptions and notes ------------------------------------------------------


def test_exceptions(state: MountState) -> None:
    place = (ROOT_ID, Name(b"\xff"))
    with state.session() as session:
        for reason in ObstacleReason:
            session.set_obstacle((D, Name(reason.value.encode())), Obstacle(reason, "why"))
        session.set_obstacle(place, Obstacle(ObstacleReason.NAME))
        session.set_obstacle(place, Obstacle(ObstacleReason.UNREAD, "x"))
        session.set_held(A, Held(is_ignored=True))
        session.set_held(A, Held(is_ignored=False, detail="\udcff"))
        session.set_held(B, Held(is_ignored=True))
    with state.session() as session:
        assert session.obstacle(place) == Obstacle(ObstacleReason.UNREAD, "x")
        assert session.obstacles_in(ROOT_ID) == {place[1]: Obstacle(ObstacleReason.UNREAD, "x")}
        assert {found.reason for found in session.obstacles_in(D).values()} == set(ObstacleReason)
        told = dict(session.obstacles_not_ignored())
        assert told.pop(place) == Obstacle(ObstacleReason.UNREAD, "x")
        assert told == {
            (D, Name(reason.value.encode())): Obstacle(reason, "why")
            for reason in ObstacleReason
            if reason is not ObstacleReason.IGNORED
        }
        unread = Held(is_ignored=False, detail="\udcff")
        assert session.held() == {A: unread, B: Held(is_ignored=True)}
        assert [session.held_of(id) for id in (A, B, D)] == [unread, Held(is_ignored=True), None]
        assert session.held_unread() == {A: unread}
        session.set_obstacle(place, Obstacle(ObstacleReason.IGNORED))
        session.set_held(A, Held(is_ignored=True))
        assert place not in session.obstacles_not_ignored()
        assert session.held_unread() == {}
        session.set_obstacle(place, None)
        session.set_held(A, None)
        session.set_held(B, None)
    with state.session() as session:
        assert session.obstacle(place) is None
        assert session.held() == {}
        assert session.held_of(A) is None


def test_what_was_sent(state: MountState) -> None:
    states = {A: state_of(link("a")), B: None}
    with state.session() as session:
        session.note_sent(op(9), states)
        session.note_sent(op(1), {})
        session.note_sent(op(5), {D: state_of(directory("d"))})
    with state.session() as session:
        assert session.all_sent() == [op(9), op(1), op(5)]
        assert session.sent(op(9)) == states
        assert session.sent(op(1)) == {}
        assert session.sent(op(2)) is None
        session.note_sent(op(9), {})
        session.forget_sent(op(1))
        session.forget_sent(op(2))
    with state.session() as session:
        assert session.all_sent() == [op(5), op(9)]
        assert session.sent(op(9)) == {}


def test_intents(state: MountState) -> None:
    with state.session() as session:
        session.note_intent(A, None)
        session.note_intent(A, state_of(file("a")))
        session.note_intent(B, None)
        session.note_sent(op(1), {A: None})
    with state.session() as session:
        assert session.intents() == {A: state_of(file("a")), B: None}
        session.forget_intents()
        assert session.intents() == {}
        assert session.sent(op(1)) == {A: None}


def test_a_snapshot_is_read_while_the_trees_change(state: MountState) -> None:
    entries = sorted((file(f"f{number}") for number in range(1500)), key=lambda entry: entry.id)
    with state.session() as session:
        session.add_incoming(reversed(entries[:800]))
        session.add_incoming(entries[700:])
    with state.session() as session:
        found = []
        for entry in session.incoming():
            found.append(entry)
            session.set_remote(entry, "x", is_confirmed=False)
            assert session.child(entry.parent, entry.name) is None
        assert found == entries
        assert session.is_incoming(entries[0].id)
        assert not session.is_incoming(A)
        session.clear_incoming()
        assert list(session.incoming()) == []
    with state.session() as session:
        assert len(session.remote_ids(None, 5000)) == 1500
