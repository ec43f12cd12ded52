"""Malformed messages: each bad field is refused by name, and nothing else is raised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.identity import Digest, Revision
from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.core.names import RelPath
from syncline.errors import Invalid, ProtocolBroken, SynclineError, TooLarge
from syncline.rpc import (
    convert_answers,
    convert_changes,
    convert_entries,
    convert_reads,
    convert_store,
    convert_watch,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.rpc.methods import decode_or_empty

ID = b"i" * 16
PARENT = b"p" * 16
DIGEST = b"d" * 32


def content(**fields: object) -> pb.Content:
    good = {"digest": DIGEST, "size": 5, "refs": [pb.ChunkRef(digest=DIGEST, size=5)]}
    return pb.Content(**(good | fields))  # type: ignore[arg-type]


def entry(**fields: object) -> pb.Entry:
    good: dict[str, object] = {
        "id": ID,
        "revision": 3,
        "parent": PARENT,
        "name": b"name",
        "kind": pb.KIND_FILE,
        "mode": 0o644,
        "content": content(),
    }
    given = {key: value for key, value in (good | fields).items() if value is not None}
    return pb.Entry(**given)  # type: ignore[arg-type]


BAD_NAMES = [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"x" * 256]
BAD_IDS = [b"", b"i" * 15, b"i" * 17]
BAD_CONTENTS = [
    pb.Content(),
    content(digest=b"short"),
    content(size=6),
    content(size=2**63),
    content(depth=2),
    content(depth=1, refs=[]),
    content(refs=[]),
    content(size=0, refs=[]),
    content(refs=[pb.ChunkRef(digest=DIGEST)]),
    content(refs=[pb.ChunkRef(digest=b"x", size=5)]),
    content(refs=[pb.ChunkRef(digest=b"e" * 32, size=5)]),
    content(size=2**21, refs=[pb.ChunkRef(digest=DIGEST, size=CHUNK_BYTES_MAX + 1)]),
    content(size=65, refs=[pb.ChunkRef(digest=DIGEST, size=1)] * 65),
    content(depth=1, refs=[pb.ChunkRef(digest=DIGEST, size=1)] * 1025),
]


@pytest.mark.parametrize(
    "message",
    [
        *(entry(name=name) for name in BAD_NAMES),
        entry(parent=bytes(16), name=b".syncline"),
        *(entry(id=id) for id in [*BAD_IDS, bytes(16), PARENT]),
        *(entry(parent=parent) for parent in BAD_IDS),
        *(entry(content=bad) for bad in BAD_CONTENTS),
        entry(revision=0),
        entry(revision=2**63),
        entry(kind=0),
        entry(kind=4),
        entry(mode=0o200000),
        entry(content=None),
        entry(target=b"t"),
        entry(is_deleted=True),
        entry(kind=pb.KIND_DIRECTORY),
        entry(kind=pb.KIND_DIRECTORY, content=None, mtime_ns=1),
        entry(kind=pb.KIND_DIRECTORY, content=None, target=b"t"),
        entry(kind=pb.KIND_LINK, content=None),
        entry(kind=pb.KIND_LINK, target=b"t"),
        entry(kind=pb.KIND_LINK, content=None, target=b"a\0b"),
        entry(kind=pb.KIND_LINK, content=None, target=b"t" * 4097),
        entry(kind=pb.KIND_LINK, content=None, target=b"t", is_deleted=True),
        pb.Entry(),
    ],
    ids=lambda message: repr(str(message))[:60],
)
def test_bad_entries(message: pb.Entry) -> None:
    with pytest.raises((Invalid, TooLarge)) as caught:
        convert_entries.entry_from_pb(message)
    assert caught.value.fields


def test_the_good_entry_of_these_tables_is_good() -> None:
    assert convert_entries.entry_from_pb(entry()).mode == 0o644
    masked = convert_entries.entry_from_pb(entry(mode=0o107755))
    assert masked.mode == 0o755, "set-uid, set-gid and sticky never travel (E2)"


def put(**fields: object) -> pb.Change:
    good: dict[str, object] = {"parent": PARENT, "name": b"n", "content": content()}
    given = {key: value for key, value in (good | fields).items() if value is not None}
    return pb.Change(id=ID, file=pb.PutFile(**given))  # type: ignore[arg-type]


def directory(**fields: object) -> pb.Change:
    good: dict[str, object] = {"parent": PARENT, "name": b"n"}
    return pb.Change(id=ID, directory=pb.PutDirectory(**(good | fields)))  # type: ignore[arg-type]


def link(**fields: object) -> pb.Change:
    good: dict[str, object] = {"parent": PARENT, "name": b"n", "target": b"t"}
    return pb.Change(id=ID, link=pb.PutLink(**(good | fields)))  # type: ignore[arg-type]


def move(**fields: object) -> pb.Change:
    good: dict[str, object] = {"parent": PARENT, "name": b"n"}
    return pb.Change(id=ID, move=pb.Move(**(good | fields)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        pb.Change(id=ID),
        pb.Change(),
        *(pb.Change(id=id, delete=pb.DeleteEntry()) for id in BAD_IDS),
        pb.Change(id=ID, base=2**63, delete=pb.DeleteEntry()),
        *(make(name=name) for make in (put, directory, link, move) for name in BAD_NAMES),
        *(make(parent=id) for make in (put, directory, link, move) for id in BAD_IDS),
        *(put(content=bad) for bad in BAD_CONTENTS),
        put(content=None),
        put(mode=0o200000),
        put(inline=b"four"),
        put(inline=b""),
        put(
            content=content(
                size=8,
                refs=[pb.ChunkRef(digest=DIGEST, size=4), pb.ChunkRef(digest=DIGEST, size=4)],
            ),
            inline=bytes(8),
        ),
        put(
            content=content(size=65537, refs=[pb.ChunkRef(digest=DIGEST, size=65537)]),
            inline=bytes(65537),
        ),
        directory(mode=2**32 - 1),
        link(target=b""),
        link(target=b"\0"),
    ],
    ids=lambda message: repr(str(message))[:60],
)
def test_bad_changes(message: pb.Change) -> None:
    inline: dict[Digest, bytes] = {}
    with pytest.raises((Invalid, TooLarge)) as caught:
        convert_changes.change_from_pb(message, inline)
    assert caught.value.fields
    assert not inline


def begin(**fields: object) -> pb.StoreBegin:
    good: dict[str, object] = {
        "volume": "v",
        "author": pb.Author(replica=ID, name="ann"),
        "op_id": ID,
    }
    return pb.StoreBegin(**(good | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        pb.StoreBegin(),
        begin(volume=""),
        begin(volume="v" * 256),
        begin(volume="a\nb"),
        begin(op_id=b"short"),
        begin(author=pb.Author(replica=b"r", name="ann")),
        begin(author=pb.Author(replica=ID, name="")),
        begin(author=pb.Author(replica=ID, name="ü" * 128)),
        begin(author=pb.Author(replica=ID, name="\x1b[2J")),
        begin(author=pb.Author(replica=ID, name="a\x85b")),
        begin(author=pb.Author(replica=ID, name="a\u2028b")),
    ],
)
def test_bad_begins(message: pb.StoreBegin) -> None:
    with pytest.raises(Invalid):
        convert_store.ProposalReader(message)


def test_bad_frames_of_changes() -> None:
    reader = convert_store.ProposalReader(begin())
    with pytest.raises(Invalid):
        reader.add(pb.StoreChanges(is_last=True))
    reader.add(pb.StoreChanges(changes=[move()], is_last=True))
    with pytest.raises(Invalid):
        reader.add(pb.StoreChanges(changes=[move()]))
    with pytest.raises(Invalid):
        convert_store.delete_from_pb(pb.DeleteRequest(begin=begin()))


def accepted(revision: int = 3) -> pb.Outcome:
    return pb.Outcome(accepted=pb.Accepted(revision=revision))


@pytest.mark.parametrize(
    "message",
    [
        pb.Committed(revision=1),
        pb.Committed(revision=1, outcomes=[accepted()] * 3),
        pb.Committed(revision=2**63, outcomes=[accepted()]),
        pb.Committed(revision=1, outcomes=[pb.Outcome()]),
        pb.Committed(revision=1, outcomes=[accepted(2**63)]),
        pb.Committed(revision=1, outcomes=[pb.Outcome(refusal=pb.Refusal())]),
        pb.Committed(revision=1, outcomes=[pb.Outcome(refusal=pb.Refusal(code=99))]),  # type: ignore[arg-type]
        pb.Committed(
            outcomes=[
                pb.Outcome(refusal=pb.Refusal(code=pb.REFUSAL_CODE_STALE, current=entry(id=b"")))
            ]
        ),
        pb.Committed(
            outcomes=[pb.Outcome(refusal=pb.Refusal(code=pb.REFUSAL_CODE_MISSING, missing=[b"x"]))]
        ),
        pb.Committed(
            outcomes=[
                pb.Outcome(refusal=pb.Refusal(code=pb.REFUSAL_CODE_LOCKED, holder=pb.Holder()))
            ]
        ),
    ],
)
def test_bad_answers(message: pb.Committed) -> None:
    with pytest.raises(Invalid):
        convert_answers.AnswerReader(2).add(message)


def test_parts_of_an_answer_agree() -> None:
    reader = convert_answers.AnswerReader(2)
    reader.add(pb.Committed(revision=1, outcomes=[accepted()]))
    with pytest.raises(Invalid):
        reader.add(pb.Committed(revision=2, outcomes=[accepted()]))
    for missing in (pb.Missing(), pb.Missing(digests=[b"x"])):
        with pytest.raises(Invalid):
            convert_answers.missing_from_pb(missing)


# -- Watch -------------------------------------------------------------------


def head(revision: int = 3, **fields: object) -> pb.Head:
    good: dict[str, object] = {"commit_id": DIGEST, "table_digest": DIGEST}
    return pb.Head(revision=revision, **(good | fields))  # type: ignore[arg-type]


def opens(**fields: object) -> pb.WatchResponse:
    good: dict[str, object] = {
        "revision": 3,
        "author": pb.Author(replica=ID, name="ann"),
        "op_id": ID,
        "count": 1,
    }
    return pb.WatchResponse(begin=pb.CommitBegin(**(good | fields)))  # type: ignore[arg-type]


def carries(*items: pb.CommitEntry) -> pb.WatchResponse:
    return pb.WatchResponse(entries=pb.CommitEntries(entries=items))


def ends(revision: int = 3, **fields: object) -> pb.WatchResponse:
    return pb.WatchResponse(end=pb.CommitEnd(head=head(revision, **fields)))


def item(**fields: object) -> pb.CommitEntry:
    good: dict[str, object] = {"entry": entry()}
    return pb.CommitEntry(**(good | fields))  # type: ignore[arg-type]


def path(effect: int, raw: bytes, old: bytes | None = None) -> pb.PathChange:
    return pb.PathChange(effect=effect, path=raw, old_path=old)  # type: ignore[arg-type]


SNAPSHOT = pb.WatchResponse(
    snapshot_begin=pb.SnapshotBegin(reason=pb.RESET_REASON_NEWCOMER, head=head())
)


def page(*entries: pb.Entry) -> pb.WatchResponse:
    return pb.WatchResponse(snapshot_page=pb.SnapshotPage(entries=entries))


def snapshot_ends(**fields: object) -> pb.WatchResponse:
    return pb.WatchResponse(snapshot_end=pb.SnapshotEnd(head=head(**fields)))  # type: ignore[arg-type]


BAD_STREAMS: dict[str, list[pb.WatchResponse]] = {
    "unset": [pb.WatchResponse()],
    "entries first": [carries(item())],
    "end first": [ends()],
    "begin twice": [opens(), opens()],
    "heartbeat inside": [opens(), pb.WatchResponse(heartbeat=pb.Heartbeat(head=head()))],
    "too few": [opens(), ends()],
    "too many": [opens(), carries(item(), item(entry=entry(id=b"j" * 16)))],
    "twice": [opens(count=2), carries(item(), item())],
    "empty frame": [opens(), carries()],
    "huge count": [opens(count=2**31)],
    "revision 0": [opens(revision=0)],
    "another end": [opens(), carries(item()), ends(4)],
    "entry of another revision": [opens(), carries(item(entry=entry(revision=2)))],
    "no head": [opens(), carries(item()), pb.WatchResponse(end=pb.CommitEnd())],
    "short table digest": [opens(), carries(item()), ends(table_digest=b"x")],
    "bad author": [opens(author=pb.Author())],
    "bad op id": [opens(op_id=b"")],
    "bad inline": [opens(), carries(item(inline=b"x"))],
    "no effect": [opens(), carries(item(path=path(0, b"name")))],
    "unknown effect": [opens(), carries(item(path=path(9, b"name")))],
    "deleted but live": [opens(), carries(item(path=path(pb.EFFECT_DELETED, b"name")))],
    "root path": [opens(), carries(item(path=path(pb.EFFECT_CHANGED, b"")))],
    "climbing path": [opens(), carries(item(path=path(pb.EFFECT_CHANGED, b"../name")))],
    "another name": [opens(), carries(item(path=path(pb.EFFECT_CHANGED, b"a/other")))],
    "bad old path": [opens(), carries(item(path=path(pb.EFFECT_MOVED, b"name", b"/x")))],
    "some paths": [
        opens(count=2),
        carries(item(path=path(pb.EFFECT_CHANGED, b"name")), item(entry=entry(id=b"j" * 16))),
        ends(),
    ],
    "gap": [opens(), carries(item()), ends(), opens(revision=5)],
    "again": [opens(), carries(item()), ends(), opens()],
    "page first": [page(entry())],
    "snapshot end first": [snapshot_ends()],
    "no reason": [pb.WatchResponse(snapshot_begin=pb.SnapshotBegin(head=head()))],
    "snapshot without head": [
        pb.WatchResponse(snapshot_begin=pb.SnapshotBegin(reason=pb.RESET_REASON_NEWCOMER))
    ],
    "snapshot twice": [SNAPSHOT, SNAPSHOT],
    "commit inside a snapshot": [SNAPSHOT, opens()],
    "tombstone in a snapshot": [SNAPSHOT, page(entry(is_deleted=True, content=None))],
    "too new in a snapshot": [SNAPSHOT, page(entry(revision=4))],
    "unordered": [SNAPSHOT, page(entry(id=b"z" * 16)), page(entry())],
    "same id twice": [SNAPSHOT, page(entry()), page(entry())],
    "snapshot ends elsewhere": [SNAPSHOT, snapshot_ends(table_digest=b"e" * 32)],
}


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_bad_watch_streams(name: str) -> None:
    *start, last = BAD_STREAMS[name]
    reader = convert_watch.WatchReader(Revision(2))
    for message in start:
        reader.add(message)
    with pytest.raises((Invalid, ProtocolBroken)):
        reader.add(last)


def test_the_good_stream_of_these_tables_is_good() -> None:
    reader = convert_watch.WatchReader(None)
    for message in [SNAPSHOT, page(entry()), snapshot_ends()]:
        assert reader.add(message) is not None
    for message in [opens(revision=4), carries(item(entry=entry(revision=4)))]:
        assert reader.add(message) is None
    assert reader.add(ends(4)) is not None


@pytest.mark.parametrize(
    "call",
    [
        lambda: convert_watch.watch_begin_from_pb(pb.WatchRequest()),
        lambda: convert_watch.watch_begin_from_pb(pb.WatchRequest(begin=pb.WatchBegin())),
        lambda: convert_watch.watch_begin_from_pb(
            pb.WatchRequest(
                begin=pb.WatchBegin(
                    volume="v",
                    author=pb.Author(replica=ID, name="a"),
                    cursor=pb.Cursor(),
                    from_head=True,
                )
            )
        ),
        lambda: convert_watch.progress_from_pb(pb.WatchRequest()),
        lambda: convert_watch.progress_from_pb(pb.WatchRequest(progress=pb.WatchProgress())),
        lambda: convert_entries.cursor_from_pb(pb.Cursor(revision=1, commit_id=b"x")),
        lambda: convert_entries.cursor_from_pb(pb.Cursor(revision=2**64 - 1)),
        lambda: convert_entries.head_from_pb(pb.Head()),
        lambda: convert_reads.facts_from_pb(pb.HelloResponse()),
        lambda: convert_reads.facts_from_pb(pb.HelloResponse(protocol=1, protocol_oldest=1)),
        lambda: convert_reads.fetch_from_pb(pb.FetchRequest(volume="v")),
        lambda: convert_reads.fetch_from_pb(pb.FetchRequest(volume="v", chunks=pb.FetchChunks())),
        lambda: convert_reads.fetch_from_pb(
            pb.FetchRequest(volume="v", chunks=pb.FetchChunks(digests=[b"x"]))
        ),
        lambda: convert_reads.fetch_from_pb(
            pb.FetchRequest(volume="v", chunks=pb.FetchChunks(digests=[DIGEST] * 16385))
        ),
        lambda: convert_reads.fetch_from_pb(
            pb.FetchRequest(volume="v", file=pb.FetchFile(path=b"../x"))
        ),
        lambda: convert_reads.fetch_from_pb(
            pb.FetchRequest(volume="v", file=pb.FetchFile(path=b"x", offset=2**63))
        ),
        lambda: convert_reads.list_from_pb(pb.ListRequest()),
        lambda: convert_reads.list_from_pb(pb.ListRequest(volume="v", path=b"/abs")),
        lambda: convert_reads.list_from_pb(pb.ListRequest(volume="v", revision=2**63)),
        lambda: convert_reads.stat_from_pb(pb.StatRequest(volume="v", paths=[b"a//b"])),
        lambda: convert_reads.stat_from_pb(pb.StatRequest(volume="v", paths=[b"a"] * 81)),
    ],
)
def test_bad_requests(call: Callable[[], object]) -> None:
    with pytest.raises((Invalid, TooLarge)) as caught:
        call()
    assert caught.value.fields


def found(**fields: object) -> pb.Located:
    good: dict[str, object] = {"path": b"a/name", "entry": entry(), "author": "ann"}
    return pb.Located(**(good | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "message",
    [
        found(path=b""),
        found(path=b"../name"),
        found(path=b".syncline/name"),
        found(path=b"a/other"),
        found(path=b"b/name"),
        found(path=b"a/b/name"),
        found(entry=entry(is_deleted=True, content=None)),
        found(entry=pb.Entry()),
        found(entry=entry(revision=10)),
        found(author=""),
    ],
    ids=lambda message: repr(str(message))[:60],
)
def test_bad_listings(message: pb.Located) -> None:
    listing = convert_reads.Listing(RelPath.parse(b"a"), False, None)
    with pytest.raises(Invalid):
        convert_reads.list_page_from_pb(pb.ListResponse(revision=9, entries=[message]), listing)


def test_bad_stat_answers() -> None:
    paths = [RelPath.parse(b"a/name")]
    good = pb.StatResponse(revision=9, results=[pb.StatResult(found=found())])
    assert convert_reads.stat_answer_from_pb(good, paths)[0] == 9
    for answer in (
        pb.StatResponse(revision=9),
        pb.StatResponse(results=[pb.StatResult(found=found(path=b"b/name"))]),
    ):
        with pytest.raises(Invalid):
            convert_reads.stat_answer_from_pb(answer, paths)


@given(st.binary(max_size=300))
def test_random_bytes_never_raise_anything_else(raw: bytes) -> None:
    decoders: list[Callable[[], object]] = [
        lambda: convert_entries.entry_from_pb(decode_or_empty(pb.Entry)(raw)),
        lambda: convert_changes.change_from_pb(decode_or_empty(pb.Change)(raw), {}),
        lambda: convert_answers.outcome_from_pb(decode_or_empty(pb.Outcome)(raw)),
        lambda: convert_watch.WatchReader(None).add(decode_or_empty(pb.WatchResponse)(raw)),
        lambda: convert_reads.fetch_from_pb(decode_or_empty(pb.FetchRequest)(raw)),
        lambda: convert_store.delete_from_pb(decode_or_empty(pb.DeleteRequest)(raw)),
    ]
    kinds = set()
    for decode in decoders:
        try:
            decode()
        except SynclineError as error:
            kinds.add(type(error))
    assert kinds <= {Invalid, TooLarge, ProtocolBroken}
