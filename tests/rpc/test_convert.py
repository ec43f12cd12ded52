"""Values survive the wire, through bytes."""

from __future__ import annotations

from typing import TypeVar

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.changes import (
    CHANGES_MAX,
    Accepted,
    Answer,
    Author,
    Change,
    Delete,
    Proposal,
    PutFile,
    Refusal,
    RefusalCode,
)
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    ROOT_ID,
    CommitId,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    VolumeId,
    digest_of,
)
from syncline.core.manifests import CHUNK_BYTES_MAX, ChunkRef, Content, build_content, single_chunk
from syncline.core.names import Name, RelPath
from syncline.core.table import Commit, Cursor, Head
from syncline.errors import Invalid, TooLarge, TooNew
from syncline.ports.link import (
    Committed,
    Heartbeat,
    Located,
    Progress,
    ResetReason,
    ServerFacts,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
    WatchEvent,
)
from syncline.rpc import convert_answers, convert_entries, convert_reads, convert_store
from syncline.rpc import convert_watch as watch
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from tests.support import values

M = TypeVar("M", bound=Message)

FRAME_LIMIT = 1024 * 1024


def over_wire(message: M) -> M:
    raw = message.SerializeToString()
    assert len(raw) < FRAME_LIMIT
    return type(message).FromString(raw)


REFS = [ChunkRef(digest_of(b"%d" % i), CHUNK_BYTES_MAX) for i in range(64)]
CONTENT = build_content(digest_of(b"whole"), 64 * CHUNK_BYTES_MAX, REFS)[0]


def big_entry(number: int) -> Entry:
    """A state with a manifest of 64 chunks: about 2.4 KB."""
    id = EntryId(number.to_bytes(16, "big"))
    name = Name(b"%0255d" % number)
    return Entry(id, Revision(5), ROOT_ID, name, Kind.FILE, 0o644, 0, CONTENT, None)


@given(values.entries())
def test_entry(entry: Entry) -> None:
    message = convert_entries.entry_to_pb(entry)
    assert convert_entries.entry_from_pb(over_wire(message)) == entry
    assert message.ByteSize() <= convert_entries.entry_weight(entry)


@given(values.heads, values.cursors, values.authors)
def test_head_cursor_author(head: Head, cursor: Cursor, author: Author) -> None:
    assert convert_entries.head_from_pb(over_wire(convert_entries.head_to_pb(head))) == head
    assert convert_entries.cursor_from_pb(over_wire(convert_entries.cursor_to_pb(cursor))) == cursor
    assert convert_entries.author_from_pb(over_wire(convert_entries.author_to_pb(author))) == author


@given(values.located())
def test_located(located: Located) -> None:
    message = convert_entries.located_to_pb(located)
    assert convert_entries.located_from_pb(over_wire(message)) == located


def read_proposal(proposal: Proposal) -> tuple[convert_store.ProposalReader, list[pb.StoreChanges]]:
    reader = convert_store.ProposalReader(over_wire(convert_store.begin_to_pb("v", proposal)))
    frames = [over_wire(frame) for frame in convert_store.change_frames(proposal)]
    for frame in frames:
        assert not reader.is_complete
        reader.add(frame)
    assert reader.is_complete
    return reader, frames


@given(values.proposals())
def test_proposal(proposal: Proposal) -> None:
    convert_store.check_proposal(proposal)
    reader, frames = read_proposal(proposal)
    assert reader.volume == "v"
    assert reader.proposal() == proposal
    carried = [change.file.inline for frame in frames for change in frame.changes]
    assert sum(map(bool, carried)) == len(proposal.inline), "content travels once"


def proposal_of(changes: tuple[Change, ...], inline: dict[Digest, bytes]) -> Proposal:
    return Proposal(Author(ReplicaId(bytes(16)), "ann"), OpId(bytes(16)), changes, inline)


def test_a_large_proposal_travels_in_frames() -> None:
    raws = [i.to_bytes(4, "big") * 1000 for i in range(1500)]
    inline = {digest_of(raw): raw for raw in raws}
    puts = tuple(
        PutFile(
            EntryId(digest[:16]),
            Revision(0),
            ROOT_ID,
            Name(digest.hex().encode()),
            0o600,
            7,
            single_chunk(digest, len(raw)),
        )
        for digest, raw in inline.items()
    )
    proposal = proposal_of(puts, inline)
    reader, frames = read_proposal(proposal)
    assert reader.proposal() == proposal
    assert len(frames) > 6
    assert [frame.is_last for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_a_proposal_over_the_limits_is_refused_by_both_sides() -> None:
    deletes = tuple(
        Delete(EntryId(i.to_bytes(16, "big")), Revision(1)) for i in range(CHANGES_MAX + 1)
    )
    many = proposal_of(deletes, {})
    with pytest.raises(TooLarge):
        convert_store.check_proposal(many)
    with pytest.raises(TooLarge):
        read_proposal(many)
    raws = [bytes([i]) + bytes(65535) for i in range(130)]
    inline = {digest_of(raw): raw for raw in raws}
    fat = proposal_of(
        tuple(
            PutFile(EntryId(d[:16]), Revision(0), ROOT_ID, Name(b"x"), 0, 0, single_chunk(d, 65536))
            for d in inline
        ),
        inline,
    )
    with pytest.raises(TooLarge):
        convert_store.check_proposal(fat)
    with pytest.raises(TooLarge):
        read_proposal(fat)
    with pytest.raises(Invalid):
        convert_store.check_proposal(proposal_of((), {}))


def test_delete_takes_deletes_alone() -> None:
    proposal = proposal_of((Delete(EntryId(b"a" * 16), Revision(3)),), {})
    message = over_wire(convert_store.delete_to_pb("v", proposal))
    assert convert_store.delete_from_pb(message) == ("v", proposal)
    put = PutFile(
        EntryId(b"a" * 16),
        Revision(0),
        ROOT_ID,
        Name(b"n"),
        0,
        0,
        Content(digest_of(b""), 0, 0, ()),
    )
    with pytest.raises(Invalid):
        convert_store.delete_to_pb("v", proposal_of((put,), {}))


@given(values.answers)
def test_answer(answer: Answer) -> None:
    reader = convert_answers.AnswerReader(len(answer.outcomes))
    for part in convert_answers.answer_frames(answer):
        assert reader.answer is None
        reader.add(over_wire(part))
    assert reader.answer == answer
    whole = convert_answers.AnswerReader(len(answer.outcomes))
    whole.add(over_wire(convert_answers.delete_answer_to_pb(answer)))
    assert whole.answer == answer
    granted = [over_wire(part) for part in convert_answers.granted_frames(answer.outcomes)]
    assert sum(len(part.outcomes) for part in granted) == len(answer.outcomes)


def test_an_answer_of_many_refusals_travels_in_parts() -> None:
    refusals = tuple(Refusal(RefusalCode.STALE, big_entry(i)) for i in range(1, CHANGES_MAX + 1))
    answer = Answer(Revision(9), (*refusals, Accepted(Revision(9), Revision(0))), is_replay=True)
    reader = convert_answers.AnswerReader(len(answer.outcomes))
    parts = [over_wire(part) for part in convert_answers.answer_frames(answer)]
    for part in parts:
        reader.add(part)
    assert len(parts) > 4
    assert reader.answer == answer
    unary = convert_answers.delete_answer_to_pb(answer)
    assert unary.ByteSize() < 3 * FRAME_LIMIT
    assert len(unary.outcomes) == len(answer.outcomes)
    assert unary.outcomes[-1].accepted.revision == 9


def test_missing() -> None:
    digests = tuple(digest_of(b"%d" % i) for i in range(40_000))
    parts = [over_wire(part) for part in convert_answers.missing_frames(digests)]
    assert len(parts) == 3
    wanted = [each for part in parts for each in convert_answers.missing_from_pb(part)]
    assert tuple(each.digest for each in wanted) == digests
    assert all(each.may_be_zstd for each in wanted)


# -- Watch -------------------------------------------------------------------


def read_events(
    messages: list[pb.WatchResponse], cursor: Revision | None = None
) -> list[WatchEvent]:
    reader = watch.WatchReader(cursor)
    found = [reader.add(over_wire(message)) for message in messages]
    return [event for event in found if event is not None]


@given(values.committed())
def test_committed(committed: Committed) -> None:
    cursor = Revision(committed.commit.revision - 1)
    assert read_events(list(watch.event_frames(committed)), cursor) == [committed]


@given(values.heads, st.lists(values.entries(live=True), max_size=5), values.heads)
def test_snapshot(head: Head, entries: list[Entry], beat: Head) -> None:
    by_id = {entry.id: entry for entry in entries if entry.revision <= head.revision}
    pages = tuple(by_id[id] for id in sorted(by_id))
    events: list[WatchEvent] = [SnapshotBegin(ResetReason.HISTORY_CUT, head), Heartbeat(beat)]
    events += [SnapshotPage((entry,)) for entry in pages]
    events.append(SnapshotEnd(head))
    messages = [message for event in events for message in watch.event_frames(event)]
    assert read_events(messages) == events


def test_large_commits_and_pages_travel_in_frames() -> None:
    entries = tuple(big_entry(i) for i in range(1, 2000))
    author = Author(ReplicaId(bytes(16)), "ann")
    commit = Commit(
        Revision(5), CommitId(bytes(32)), author, OpId(bytes(16)), 1, False, entries, 2**255
    )
    messages = list(watch.event_frames(Committed(commit, (), {})))
    assert len(messages) > 6
    assert read_events(messages) == [Committed(commit, (), {})]
    pages = list(watch.event_frames(SnapshotPage(entries)))
    assert len(pages) > 4
    assert sum(len(over_wire(page).snapshot_page.entries) for page in pages) == len(entries)


@given(values.authors, st.none() | values.cursors, st.booleans(), st.booleans(), st.booleans())
def test_watch_begin(
    author: Author, cursor: Cursor | None, inline: bool, paths: bool, head: bool
) -> None:
    begin = WatchBegin(author, cursor, head and cursor is None, inline, paths)
    message = over_wire(watch.watch_begin_to_pb("v", begin))
    assert watch.watch_begin_from_pb(message) == ("v", begin)


@given(values.cursors, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_progress(placed: Cursor, pending: int, problems: int) -> None:
    progress = Progress(placed, pending, problems)
    assert watch.progress_from_pb(over_wire(watch.progress_to_pb(progress))) == progress


# -- Reads -------------------------------------------------------------------


@given(values.heads, st.frozensets(values.labels, max_size=3), values.labels)
def test_facts(head: Head, capabilities: frozenset[str], name: str) -> None:
    facts = ServerFacts(1, 1, "0.1", capabilities, VolumeId(b"v" * 16), name, head)
    message = over_wire(convert_reads.facts_to_pb(facts))
    assert convert_reads.facts_from_pb(message) == facts
    assert message.limits.changes == CHANGES_MAX


def test_protocols_that_do_not_meet_are_too_new() -> None:
    for protocol, oldest in [(3, 2), (9, 9)]:
        with pytest.raises(TooNew):
            convert_reads.check_protocol(protocol, oldest, "server")
    convert_reads.check_protocol(9, 1, "server")
    with pytest.raises(Invalid):
        convert_reads.hello_from_pb(pb.HelloRequest(volume="v"))
    assert convert_reads.hello_from_pb(convert_reads.hello_to_pb("v", "0.1")) == "v"


def test_fetch_list_and_stat_requests() -> None:
    digests = (digest_of(b"a"), digest_of(b"b"))
    fetch = over_wire(convert_reads.fetch_to_pb("v", digests))
    wanted = convert_reads.WantedChunks(digests, may_be_zstd=True)
    assert convert_reads.fetch_from_pb(fetch) == ("v", wanted)
    fetch.chunks.ClearField("encodings")
    plain = convert_reads.WantedChunks(digests, may_be_zstd=False)
    assert convert_reads.fetch_from_pb(fetch) == ("v", plain)
    listing = convert_reads.Listing(RelPath.parse(b"a/b"), True, Revision(4))
    message = over_wire(convert_reads.list_to_pb("v", listing))
    assert convert_reads.list_from_pb(message) == ("v", listing)
    paths = (RelPath.parse(b"a"), RelPath())
    stat = over_wire(convert_reads.stat_to_pb("v", paths, None))
    assert convert_reads.stat_from_pb(stat) == ("v", paths, None)
    with pytest.raises(Invalid):
        convert_reads.stat_to_pb("v", paths, Revision(0))


@given(st.lists(st.none() | values.located(), max_size=4))
def test_stat_answers(found: list[Located | None]) -> None:
    paths = [located.path if located else RelPath((Name(b"gone"),)) for located in found]
    message = over_wire(convert_reads.stat_answer_to_pb(Revision(9), found))
    assert convert_reads.stat_answer_from_pb(message, paths) == (9, found)


def test_a_large_listing_travels_in_pages() -> None:
    entries = [Located(RelPath((e.name,)), e, "ann", 5) for e in map(big_entry, range(1, 1500))]
    pages = [over_wire(page) for page in convert_reads.list_frames(Revision(5), entries)]
    assert len(pages) > 3
    listing = convert_reads.Listing(RelPath(), False, None)
    read = [convert_reads.list_page_from_pb(page, listing) for page in pages]
    assert [item for _, page in read for item in page] == entries
