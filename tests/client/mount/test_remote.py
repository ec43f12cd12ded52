"""Remote moves by what the server tells, checked: commits, snapshots, heartbeats."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.client.mount import remote
from syncline.client.mount.remote import Applied, FeedMismatch, HistoryCut
from syncline.client.mount.views import closed_view
from syncline.core.changes import Change, Delete, Move, PutDirectory, PutFile
from syncline.core.entries import Entry, Kind, tombstone
from syncline.core.identity import ROOT_ID, CommitId, EntryId, Revision
from syncline.core.names import Name
from syncline.core.reconcile import reconcile
from syncline.core.table import (
    Cursor,
    Head,
    genesis,
)
from syncline.core.trees import Mount, state_of
from syncline.errors import ProtocolBroken
from syncline.ports.link import (
    Committed,
)
from syncline.ports.mount_state import MountSession, MountState
from tests.support.commits import AUTHOR, build_commit, op_id, volume_id
from tests.support.serving import (
    BOB,
)
from tests.support.told import (
    NEWCOMER,
    OWN,
    OWNER,
    VOLUME,
    Origin,
    apply,
    base_of,
    forged,
    opened,
    remembered,
    sending,
    set_local,
)
from tests.support.trees import (
    content_of,
    delete,
    directory,
    file,
    id_of,
    link,
    move,
    put_directory,
    put_file,
)


@pytest.fixture(params=["memory", "disk"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountState]:
    """Yield a state whose cursor is at the start of a volume."""
    state = opened(tmp_path, request.param)
    yield state
    state.close()


# -- commits -------------------------------------------------------------------


def random_change(table: dict[EntryId, Entry], draws: random.Random) -> Change:
    """Return a change that may be refused; what a commit keeps is then the server's business."""
    directories = [ROOT_ID, *(e.id for e in table.values() if e.kind is Kind.DIRECTORY)]
    parent, name = draws.choice(directories), Name(draws.choice([b"a", b"b", b"c", b"d"]))
    known = draws.choice([*table.values(), None])
    match draws.randrange(5):
        case 0 if known:
            return Delete(known.id, known.revision)
        case 1 | 2 if known:
            return Move(known.id, known.revision, parent, name)
        case 3:
            return PutDirectory(EntryId(draws.randbytes(16)), Revision(0), parent, name, 0o755)
        case _:
            content = content_of(draws.randbytes(4))
            id = EntryId(draws.randbytes(16))
            return PutFile(id, Revision(0), parent, name, 0o644, 5, content)


def test_remote_is_the_table_after_each_commit(state: MountState) -> None:
    draws, origin = random.Random(1), Origin()
    revision = 0
    while revision < 150:
        changes = [random_change(origin.table(), draws) for _ in range(draws.randrange(1, 9))]
        with origin.store.write(VOLUME) as session:
            commit, kept, _ = build_commit(session, changes)
            if not commit.entries:
                continue
            session.add_commit(commit, kept)
        applied = apply(state, Committed(commit, (), {}))
        assert applied == Applied(tuple(entry.id for entry in commit.entries), is_own=False)
        revision = commit.revision
        facts, table, _ = remembered(state)
        assert table == origin.table()
        assert facts.cursor == Cursor(revision, commit.id)
        assert facts.table_digest == commit.table_digest
    with state.session() as session:
        for entry in table.values():
            assert session.author(entry.id) == AUTHOR.name
            assert session.is_confirmed(entry.id) == (entry.revision % 2 == 0)


def test_several_commits_fit_in_one_session(state: MountState) -> None:
    origin = Origin()
    events = [origin.commit(put_directory("d")), origin.commit(put_file("f", parent="d"))]
    with state.session() as session:
        for event in events:
            remote.apply_commit(session, event, OWN)
    assert remembered(state)[1] == origin.table()


def refused(
    state: MountState, event: Committed, error: type[Exception], match: str | None = None
) -> None:
    """Fail unless a commit is refused, and nothing of it stays."""
    before = remembered(state)
    with pytest.raises(error, match=match), state.session() as session:
        remote.apply_commit(session, event, OWN)
    assert remembered(state) == before


def test_a_gap_and_a_repetition_break_the_protocol(state: MountState) -> None:
    origin = Origin()
    first, second, third = (origin.commit(put_file(name)) for name in "abc")
    refused(state, second, ProtocolBroken, "revision 2 came after 0")
    apply(state, first)
    refused(state, first, ProtocolBroken, "revision 1 came after 1")
    refused(state, third, ProtocolBroken, "revision 3 came after 1")


def test_a_commit_before_the_first_snapshot_breaks_the_protocol() -> None:
    state = MemoryMountState(NEWCOMER)
    refused(state, Origin().commit(put_file("a")), ProtocolBroken, "snapshot")


def test_a_commit_of_another_history_is_told_by_its_id(state: MountState) -> None:
    one, other = Origin(), Origin()
    apply(state, one.commit(put_file("a")))
    other.commit(put_file("b"))
    refused(state, other.commit(put_file("c")), HistoryCut)


def test_another_volume_is_another_history(state: MountState) -> None:
    with state.session() as session:
        other = genesis(volume_id("w"))
        session.set_facts(replace(session.facts(), cursor=Cursor(Revision(0), other)))
    refused(state, Origin().commit(put_file("a")), HistoryCut)


def test_a_commit_that_was_altered_is_told_by_its_id(state: MountState) -> None:
    event = Origin().commit(put_file("a"))
    [entry] = event.commit.entries
    altered = replace(event.commit, entries=(replace(entry, mode=0o755),))
    refused(state, replace(event, commit=altered), HistoryCut)


def test_a_table_that_went_apart_is_told_by_its_digest(state: MountState) -> None:
    origin = Origin()
    apply(state, origin.commit(put_file("a")), origin.commit(put_file("b")))
    with state.session() as session:
        session.set_remote(file("a", revision=1, mode=0o600), "x", is_confirmed=False)
    refused(state, origin.commit(delete("a", 1)), FeedMismatch)


# -- forged commits ----------------------------------------------------------------


GROWN = (
    put_directory("d"),
    put_directory("e", parent="d"),
    put_file("f", parent="e"),
    put_file("a"),
    put_directory("z"),
)


def gone(entry: Entry) -> Entry:
    return tombstone(entry, Revision(2))


FORGERIES = {
    "a slash in a name": (file("n", name=b"a/b", revision=2),),
    "an empty name": (file("n", name=b"", revision=2),),
    "a parent directory as a name": (file("n", name=b"..", revision=2),),
    "our own directory": (directory("n", name=b".syncline", revision=2),),
    "the root": (replace(directory("n", revision=2), id=ROOT_ID, parent=id_of("d")),),
    "itself as parent": (directory("n", "n", revision=2),),
    "a parent that never was": (file("n", "nowhere", revision=2),),
    "a parent that is a file": (file("n", "a", revision=2),),
    "a parent that dies with it": (
        gone(directory("z")),
        file("n", "z", revision=2),
    ),
    "a place taken twice at once": (
        file("n", name=b"x", revision=2),
        file("m", name=b"x", revision=2),
    ),
    "a place that is taken": (file("n", name=b"a", revision=2),),
    "the place of one that only changes": (
        file("a", revision=2, mode=0o600),
        file("n", name=b"a", revision=2),
    ),
    "no directory any more for one that only changes": (
        file("f", "e", revision=2, mode=0o600),
        gone(directory("e", "d")),
    ),
    "a file that becomes a directory": (directory("a", revision=2),),
    "a tombstone of another kind": (gone(directory("a")),),
    "two directories in each other": (
        directory("d", "z", revision=2),
        directory("z", "d", revision=2),
    ),
    "a directory in its own child": (directory("d", "e", revision=2),),
    "an entry below a ring": (
        file("n", "e", revision=2),
        directory("d", "e", revision=2),
    ),
    "a directory that is deleted and not empty": (gone(directory("e", "d")),),
    "an entry of another revision": (file("n", revision=1),),
    "an entry twice": (file("n", revision=2), file("n", revision=2, mode=0o600)),
    "a file without content": (replace(file("n", revision=2), content=None),),
    "a directory with content": (replace(directory("n", revision=2), content=content_of(b"x")),),
    "a link without a target": (replace(link("n", revision=2), target=None),),
    "a target of nothing": (link("n", revision=2, target=b""),),
    "a size that is none of its chunks": (
        replace(file("n", revision=2), content=replace(content_of(b"x"), size=2)),
    ),
    "set-uid": (file("n", revision=2, mode=0o4755),),
    "the time of a directory": (replace(directory("n", revision=2), mtime_ns=1),),
}


@pytest.mark.parametrize("entries", FORGERIES.values(), ids=FORGERIES.keys())
def test_what_is_no_tree_is_refused_whole(state: MountState, entries: tuple[Entry, ...]) -> None:
    apply(state, Origin().commit(*GROWN))
    beside = file("beside", revision=2)
    refused(state, forged(state, *entries), ProtocolBroken)
    refused(state, forged(state, beside, *entries), ProtocolBroken)
    apply(state, forged(state, beside))


def test_a_path_that_is_far_too_long_is_refused(state: MountState) -> None:
    parent = "/"
    deep = []
    for number in range(18):
        label = f"{number:03}" * 85
        deep.append(directory(label, parent, revision=1))
        parent = label
    refused(state, forged(state, *deep), ProtocolBroken, "too long")
    apply(state, forged(state, *deep[:17]))
    long = replace(deep[17], revision=Revision(2))
    refused(state, forged(state, long), ProtocolBroken, "too")


def test_an_id_that_is_another_kind_here_is_refused(state: MountState) -> None:
    set_local(state, file("n"))
    refused(state, forged(state, directory("n")), ProtocolBroken, "kind")


def test_what_only_looks_wrong_halfway_is_applied(state: MountState) -> None:
    apply(state, Origin().commit(*GROWN))
    swapped = (
        directory("d", name=b"z", revision=2),
        directory("z", name=b"d", revision=2),
        directory("e", "z", revision=2),
        gone(file("a")),
        directory("new", name=b"a", revision=2),
        file("f", "new", revision=2),
    )
    apply(state, forged(state, *swapped))
    assert set(remembered(state)[1].values()) == {entry for entry in swapped if entry.is_live}


def test_a_check_costs_what_changed(state: MountState) -> None:
    origin = Origin()
    apply(state, origin.commit(put_directory("d"), *(put_file(f"{n}", 0, "d") for n in range(900))))
    calls = 0

    class Counting:
        def __init__(self, session: MountSession) -> None:
            self._session = session

        def __getattr__(self, name: str) -> object:
            nonlocal calls
            calls += 1
            assert name != "within", "a directory that stays is not listed"
            return getattr(self._session, name)

    with state.session() as session:
        remote.apply_commit(Counting(session), origin.commit(move("d", 1, "/", b"x")), OWN)
    assert calls <= 15


# -- own commits ---------------------------------------------------------------------


def test_an_own_commit_moves_the_base_by_what_was_sent(state: MountState) -> None:
    origin, change = Origin(), put_file("a", content=b"sent")
    set_local(state, file("a", content=b"sent"))
    sending(state, op_id(7), change)
    set_local(state, file("a", content=b"edited since"))
    applied = apply(state, origin.commit(change, author=OWNER, op=7))
    assert applied == Applied((id_of("a"),), is_own=True, is_in_own_name=True)
    assert base_of(state, "a") == state_of(file("a", content=b"sent"))
    with state.session() as session:
        assert session.all_sent() == []
        plan = reconcile(closed_view(session, bytes(16)), Mount("own"))
    assert not plan.placing, "an edit made since is no conflict"
    assert [unit.changes[0].base for unit in plan.sending] == [1]


def test_an_own_delete_leaves_nothing(state: MountState) -> None:
    origin = Origin()
    apply(state, origin.commit(put_file("a")))
    with state.session() as session:
        session.set_base(id_of("a"), state_of(file("a")))
    sending(state, op_id(7), delete("a", 1))
    apply(state, origin.commit(delete("a", 1), author=OWNER, op=7))
    assert base_of(state, "a") is None
    assert remembered(state)[2] == []


def test_what_a_commit_does_not_have_keeps_its_base(state: MountState) -> None:
    origin = Origin()
    set_local(state, file("a"), file("b"))
    sending(state, op_id(7), put_file("a"), put_file("b"))
    apply(state, origin.commit(put_file("a"), author=OWNER, op=7))
    assert base_of(state, "a") == state_of(file("a"))
    assert base_of(state, "b") is None


def test_what_was_not_noted_keeps_its_base(state: MountState) -> None:
    set_local(state, file("a"), file("b"))
    sending(state, op_id(7), put_file("a"))
    apply(state, Origin().commit(put_file("a"), put_file("b"), author=OWNER, op=7))
    assert base_of(state, "a") == state_of(file("a"))
    assert base_of(state, "b") is None


def test_a_commit_of_others_or_without_a_note_moves_no_base(state: MountState) -> None:
    origin = Origin()
    set_local(state, file("a"), file("b"))
    sending(state, op_id(7), put_file("a"))
    assert not apply(state, origin.commit(put_file("a"), author=BOB, op=7)).is_own
    applied = apply(state, origin.commit(put_file("b"), author=OWNER, op=8))
    assert applied == Applied((id_of("b"),), is_own=False, is_in_own_name=True)
    assert base_of(state, "a") is None
    assert base_of(state, "b") is None
    with state.session() as session:
        assert session.all_sent() == [op_id(7)]


# -- heartbeats --------------------------------------------------------------------


def test_a_heartbeat_proves_the_table(state: MountState) -> None:
    origin = Origin()
    apply(state, origin.commit(put_file("a")))
    good = origin.head()
    ahead = Head(Revision(9), CommitId(bytes(32)), 9)
    with state.session() as session:
        remote.check_heartbeat(session, good)
        remote.check_heartbeat(session, ahead)
        for wrong in (replace(good, commit_id=bytes(32)), replace(good, table_digest=1)):
            with pytest.raises(FeedMismatch):
                remote.check_heartbeat(session, wrong)
        with pytest.raises(ProtocolBroken):
            remote.check_heartbeat(session, replace(good, revision=Revision(0)))


def test_a_heartbeat_says_nothing_to_a_newcomer() -> None:
    with MemoryMountState(NEWCOMER).session() as session:
        remote.check_heartbeat(session, Head(Revision(0), CommitId(bytes(32)), 1))
        assert session.facts() == NEWCOMER
