"""Remote moves by whole snapshots, and by what a real server tells from the first one on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.client.mount import remote
from syncline.client.mount.remote import Applied, FeedMismatch, HistoryCut
from syncline.client.mount.views import closed_view
from syncline.core.changes import Change
from syncline.core.conflict_names import UNKNOWN_AUTHOR
from syncline.core.entries import Entry, tombstone
from syncline.core.fingerprints import Seen
from syncline.core.identity import CommitId, Revision
from syncline.core.reconcile import reconcile
from syncline.core.table import (
    EMPTY_TABLE_DIGEST,
    Cursor,
    Head,
    advance_digest,
)
from syncline.core.trees import Mount, state_of
from syncline.errors import ProtocolBroken
from syncline.ports.link import (
    Committed,
    Heartbeat,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.mount_state import MountState
from syncline.server.volume import ServedVolume
from tests.contract.test_link import no_progress
from tests.support.commits import op_id
from tests.support.serving import (
    ALICE,
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    direct_link,
    propose,
    served,
)
from tests.support.told import (
    NEWCOMER,
    OWNER,
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
    delete,
    directory,
    file,
    id_of,
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


# -- snapshots -----------------------------------------------------------------------


def pages(state: MountState, *entries: Entry, size: int = 2) -> None:
    """Begin a snapshot and add its pages, each in a session of its own."""
    with state.session() as session:
        remote.begin_snapshot(session)
    ordered = sorted(entries, key=lambda entry: entry.id)
    for start in range(0, len(ordered), size):
        with state.session() as session:
            remote.add_page(session, ordered[start : start + size])


def head_of(revision: int, *entries: Entry) -> Head:
    digest = advance_digest(EMPTY_TABLE_DIGEST, (), entries)
    return Head(Revision(revision), CommitId(bytes([revision]) * 32), digest)


def end(state: MountState, head: Head, reason: ResetReason = ResetReason.NEWCOMER) -> Applied:
    with state.session() as session:
        return remote.end_snapshot(session, head, reason)


def in_sync(state: MountState, *changes: Change) -> Origin:
    """Let all three trees have what a first commit makes."""
    origin = Origin()
    for entry in apply_entries(state, origin.commit(*changes)):
        with state.session() as session:
            session.set_local(entry.id, Seen(state_of(entry)))
            session.set_base(entry.id, state_of(entry))
    return origin


def apply_entries(state: MountState, event: Committed) -> tuple[Entry, ...]:
    apply(state, event)
    return event.commit.entries


def planned(state: MountState) -> tuple[int, int, int]:
    """Return how many removals, deletes and units a plan has."""
    with state.session() as session:
        plan = reconcile(closed_view(session, bytes(16)), Mount("own"))
    return plan.removals, plan.deletes, len(plan.sending)


def test_a_snapshot_counts_when_it_is_whole(state: MountState) -> None:
    in_sync(state, put_file("a"), put_file("b"))
    table = (file("b"), directory("d", revision=5), file("n", "d", revision=6))
    before = remembered(state)
    pages(state, *table)
    assert remembered(state) == before
    applied = end(state, head_of(6, *table), ResetReason.CURSOR_TOO_OLD)
    assert set(applied.ids) == {id_of("a"), id_of("d"), id_of("n")}
    assert not applied.is_own
    facts, live, _ = remembered(state)
    assert live == {entry.id: entry for entry in table}
    assert facts.cursor == Cursor(Revision(6), CommitId(bytes([6]) * 32))
    assert facts.table_digest == head_of(6, *table).table_digest
    with state.session() as session:
        assert session.author(id_of("n")) == UNKNOWN_AUTHOR
        assert list(session.incoming()) == []
    assert planned(state) == (1, 0, 0)
    after = replace(file("n2", "d", revision=7))
    apply(state, forged(state, after))


def test_a_snapshot_that_is_not_the_table_changes_nothing(state: MountState) -> None:
    in_sync(state, put_file("a"))
    pages(state, file("b", revision=2))
    before = remembered(state)
    with pytest.raises(FeedMismatch):
        end(state, head_of(2, file("b", revision=2), file("c", revision=2)))
    assert remembered(state) == before


def test_a_snapshot_begins_anew(state: MountState) -> None:
    pages(state, file("a"), file("b"))
    pages(state, file("c"))
    end(state, head_of(3, file("c")))
    assert remembered(state)[1].keys() == {id_of("c")}


BROKEN_PAGES = {
    "a tombstone": [tombstone(file("a"), Revision(2))],
    "one twice": [file("a"), file("a")],
    "one again": [file("first")],
    "no revision": [file("a", revision=0)],
    "no name": [file("a", name=b"a/b")],
}


@pytest.mark.parametrize("entries", BROKEN_PAGES.values(), ids=BROKEN_PAGES.keys())
def test_a_page_is_checked(state: MountState, entries: list[Entry]) -> None:
    pages(state, file("first"))
    with pytest.raises(ProtocolBroken), state.session() as session:
        remote.add_page(session, entries)


BROKEN_TABLES = {
    "no directory": [file("a", "nowhere")],
    "a file as directory": [file("a"), file("b", "a")],
    "one place twice": [file("a", name=b"x"), file("b", name=b"x")],
    "a ring": [directory("a", "b"), directory("b", "a")],
    "another kind": [directory("known", revision=2)],
    "a revision past the head": [file("a", revision=9)],
}


@pytest.mark.parametrize("entries", BROKEN_TABLES.values(), ids=BROKEN_TABLES.keys())
@pytest.mark.parametrize("reason", ResetReason)
def test_a_snapshot_that_is_no_tree_is_refused_whole(
    state: MountState, entries: list[Entry], reason: ResetReason
) -> None:
    in_sync(state, put_file("known"))
    known = [] if entries == BROKEN_TABLES["another kind"] else [file("known")]
    pages(state, *known, *entries)
    before = remembered(state)
    with pytest.raises(ProtocolBroken):
        end(state, head_of(5, *known, *entries), reason)
    assert remembered(state) == before


def test_after_a_cut_history_nothing_is_deleted(state: MountState) -> None:
    in_sync(state, put_file("a"), put_file("b"), put_directory("d"))
    sending(state, op_id(7), put_file("a"))
    pages(state, file("b"))
    end(state, head_of(1, file("b")), ResetReason.HISTORY_CUT)
    assert planned(state) == (0, 0, 2)
    assert base_of(state, "a") is None
    with state.session() as session:
        assert session.all_sent() == []


@pytest.mark.parametrize("reason", [ResetReason.NEWCOMER, ResetReason.CURSOR_TOO_OLD])
def test_a_history_that_went_back_is_noticed(state: MountState, reason: ResetReason) -> None:
    origin = in_sync(state, put_file("a"))
    apply(state, origin.commit(put_file("b")))
    before = remembered(state)
    pages(state, file("a"))
    for revision in (1, 2):
        with pytest.raises(HistoryCut):
            end(state, head_of(revision, file("a")), reason)
    assert remembered(state) == before


def test_an_entry_that_went_back_is_noticed(state: MountState) -> None:
    in_sync(state, put_file("a"))
    other = file("a", content=b"of another history")
    pages(state, other)
    with pytest.raises(HistoryCut):
        end(state, head_of(8, other), ResetReason.CURSOR_TOO_OLD)
    # A snapshot asked for because the own table was wrong may say anything of entries.
    end(state, head_of(8, other), ResetReason.NEWCOMER)


def test_the_snapshot_of_the_cursor_itself_heals(state: MountState) -> None:
    origin = in_sync(state, put_file("a"), put_file("b"))
    with state.session() as session:
        session.drop_remote(id_of("a"))
        session.set_remote(file("b", mode=0o600), "x", is_confirmed=False)
    pages(state, *origin.table().values())
    end(state, origin.head())
    assert remembered(state)[1:] == (origin.table(), [])


def test_a_snapshot_confirms_what_was_sent(state: MountState) -> None:
    origin = in_sync(state, put_file("a", content=b"old"), put_file("b", content=b"old"))
    for op, label in enumerate("ab"):
        set_local(state, file(label, content=b"sent"))
        sending(state, op_id(op), put_file(label, 1, content=b"sent"))
        set_local(state, file(label, content=b"edited since"))
    # A copy that is sent before it is placed: neither side has it, which proves nothing.
    sending(state, op_id(2), put_file("copy"))
    origin.commit(put_file("a", 1, content=b"sent"), author=OWNER, op=0)
    pages(state, *origin.table().values())
    end(state, origin.head(), ResetReason.CURSOR_TOO_OLD)
    assert base_of(state, "a") == state_of(file("a", content=b"sent"))
    assert base_of(state, "b") == state_of(file("b", content=b"old"))
    with state.session() as session:
        assert session.all_sent() == [op_id(1), op_id(2)], "these may come yet"
    assert planned(state) == (0, 0, 2)


def test_absence_is_looked_for_in_steps(state: MountState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "IDS_AT_ONCE", 3)
    monkeypatch.setattr(remote, "SOUND_MAX", 3)
    origin = in_sync(
        state,
        *(put_directory(f"d{n}", parent=f"d{n - 1}" if n else "/") for n in range(20)),
        *(put_file(f"f{n}", parent=f"d{n}") for n in range(20)),
    )
    origin.commit(*(delete(f"f{n}", 1) for n in range(0, 20, 2)))
    origin.commit(put_file("new", parent="d19"), *(put_file(f"g{n}", 0, "d7") for n in range(9)))
    pages(state, *origin.table().values())
    end(state, origin.head(), ResetReason.CURSOR_TOO_OLD)
    assert remembered(state)[1] == origin.table()
    assert planned(state) == (10, 0, 0)


# -- tombstones that only a refusal tells of ---------------------------------------------


def test_a_tombstone_that_a_refusal_names_is_the_base_of_a_resurrection(state: MountState) -> None:
    origin = in_sync(state, put_file("a"), put_file("b"))
    origin.commit(delete("a", 1))
    pages(state, *origin.table().values())
    end(state, origin.head(), ResetReason.CURSOR_TOO_OLD)
    set_local(state, file("a", content=b"edited"))
    told = tombstone(file("a"), Revision(2))
    with state.session() as session:
        assert remote.learn_tombstone(session, told)
        assert not remote.learn_tombstone(session, told)
        assert not remote.learn_tombstone(session, tombstone(file("b"), Revision(2)))
        assert not remote.learn_tombstone(session, file("c", revision=2))
        assert not remote.learn_tombstone(session, tombstone(file("c"), Revision(3)))
        remote.check_heartbeat(session, origin.head())
        [unit] = reconcile(closed_view(session, bytes(16)), Mount("own")).sending
    assert unit.changes[0].base == 2
    apply(state, origin.commit(*unit.changes))


# -- a real server --------------------------------------------------------------------


def hear(state: MountState, event: WatchEvent, reason: ResetReason | None) -> ResetReason | None:
    """Do what the engine does with an event; return why a snapshot is under way."""
    with state.session() as session:
        match event:
            case Committed():
                remote.apply_commit(session, event, ALICE.replica)
            case Heartbeat(head):
                remote.check_heartbeat(session, head)
            case SnapshotBegin(began):
                remote.begin_snapshot(session)
                return began
            case SnapshotPage(entries):
                remote.add_page(session, entries)
            case SnapshotEnd(head):
                assert reason is not None
                remote.end_snapshot(session, head, reason)
                return None
    return reason


@pytest.fixture
async def volume() -> AsyncIterator[ServedVolume]:
    backend = Backend.in_memory()
    async with served(backend) as volume:
        yield volume
    backend.close()


async def follow(state: MountState, volume: ServedVolume) -> None:
    """Follow the volume until its head is heard, over a link without a wire."""
    head = volume.feed.head
    async with direct_link(volume) as link:
        cursor = remembered(state)[0].cursor
        events = link.watch(WatchBegin(ALICE, cursor, wants_inline=True), no_progress())
        reason = None
        async with aclosing(events):
            async for event in events:
                reason = hear(state, event, reason)
                facts = remembered(state)[0]
                if reason is None and facts.cursor == Cursor(head.revision, head.commit_id):
                    return


async def test_the_feed_of_a_real_server_is_followed(volume: ServedVolume) -> None:
    state, ids = MemoryMountState(replace(NEWCOMER, replica=ALICE.replica)), SeededIds()
    async with direct_link(volume) as link:
        many = [put_file(str(number), content=b"%d" % number) for number in range(600)]
        raws = [b"%d" % number for number in range(600)]
        accepted(await link.store(propose(*many, ids=ids, author=BOB, inline=raws), Chunks()))
        await follow(state, volume)
        assert len(remembered(state)[1]) == 600

        set_local(state, file("mine", content=b"mine"))
        proposal = propose(put_file("mine", content=b"mine"), ids=ids, inline=[b"mine"])
        sending(state, proposal.op_id, *proposal.changes)
        accepted(await link.store(proposal, Chunks()))
        changes = [move("7", 1, "/", b"moved"), delete("8", 1), put_directory("d")]
        accepted(await link.store(propose(*changes, ids=ids, author=BOB), Chunks()))
        await follow(state, volume)

    facts, live, _ = remembered(state)
    assert facts.table_digest == volume.feed.head.table_digest
    with volume.metadata.read(volume.id) as reader:
        assert live == {entry.id: entry for entry in reader.page(None, 10_000)}
    assert base_of(state, "mine") == state_of(file("mine", content=b"mine"))
