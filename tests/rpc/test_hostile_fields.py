"""Every field of every request with what no honest client would put there."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from syncline.core.changes import CHANGES_MAX
from syncline.core.identity import ROOT_ID, digest_of
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.server.limits import Limits
from tests.support.hostile import (
    FINE,
    INVALID,
    NOT_FOUND,
    TOO_LARGE,
    Target,
    attacked,
    author,
    begin,
    changes,
    delete,
    fresh_id,
    move,
    put_directory,
    put_file,
    put_link,
    unharmed,
    watch,
)
from tests.support.serving import Backend

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOO_NEW = (grpc.StatusCode.UNIMPLEMENTED, "too_new")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    limits = Limits(heartbeat_s=0.2)
    async with attacked(Backend.on_disk(tmp_path_factory.mktemp("data")), limits) as target:
        yield target


# -- Paths and names ---------------------------------------------------------

NAMES = {
    "empty": b"",
    "dot": b".",
    "dots": b"..",
    "NUL": b"a\0b",
    "slash": b"a/b",
    "up": b"../x",
    "absolute": b"/etc/passwd",
    "256 bytes": b"n" * 256,
    "5,000 bytes": b"n" * 5000,
}

PATHS = {
    "up": b"../x",
    "up later": b"a/../../x",
    "absolute": b"/abs",
    "slash": b"/",
    "empty part": b"a//b",
    "empty end": b"a/",
    "dot": b".",
    "dots": b"..",
    "dot inside": b"a/./b",
    "NUL": b"a/\0/b",
    "256 bytes": b"n" * 256,
    "over-long": b"/".join([b"n" * 200] * 21),
    "1 MiB": b"n/" * 2**19,
    "reserved": b".syncline",
    "in reserved": b".syncline/state",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["List", "Stat", "Fetch"])
async def test_a_bad_path_is_refused(target: Target, method: str, path: str) -> None:
    raw = PATHS[path]
    requests: dict[str, Message] = {
        "List": pb.ListRequest(volume="default", path=raw, is_recursive=True),
        "Stat": pb.StatRequest(volume="default", paths=[b"good", raw]),
        "Fetch": pb.FetchRequest(volume="default", file=pb.FetchFile(path=raw)),
    }
    async with unharmed(target):
        told = await target.say(method, requests[method])
        assert told.verdict == INVALID
        assert len(told.message) <= 1024 + 3 and told.message.isprintable()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["file", "directory", "link", "move"])
async def test_a_bad_name_is_refused(target: Target, kind: str, name: str) -> None:
    raw = NAMES[name]
    made = {
        "file": put_file(name=raw),
        "directory": put_directory(raw),
        "link": put_link(name=raw),
        "move": move(fresh_id(), 1, ROOT_ID, raw),
    }
    async with unharmed(target):
        told = await target.store(put_file(), made[kind])
        assert told.verdict == INVALID


async def test_the_reserved_name_is_refused_at_the_root_alone(target: Target) -> None:
    folder = put_directory()
    name = b".syncline"
    async with unharmed(target, commits=1):
        listed = [
            folder,
            put_file(name=name),
            put_directory(name),
            put_link(name=name),
            put_file(name=name, parent=folder.id),
        ]
        told = await target.store(*listed)
        assert told.outcomes() == ["ok", "INVALID", "INVALID", "INVALID", "ok"]
        head = await target.held()
        moved = await target.store(move(listed[4].id, head.revision, ROOT_ID, name))
        assert moved.outcomes() == ["INVALID"]


async def test_no_path_becomes_longer_than_any_path_may_be(target: Target) -> None:
    """Two chains of directories, each short enough, and the one put below the other."""
    name = b"d" * 250
    chains: list[list[pb.Change]] = []
    for _ in range(2):
        parent, chain = ROOT_ID, []
        for _ in range(10):
            label = fresh_id().hex().encode() if parent == ROOT_ID else name
            chain.append(put_directory(label, parent=parent))
            parent = chain[-1].id
        chains.append(chain)
    async with unharmed(target, commits=2):
        told = await target.store(*chains[0], *chains[1])
        assert told.outcomes() == ["ok"] * 20
        revision = (await target.held()).revision
        await target.store(move(chains[1][0].id, revision, chains[0][-1].id, b"moved"))
        # Whatever became of the move, and so of the second commit:
        if (await target.held()).revision == revision:
            await target.store(put_file())
        request = pb.ListRequest(volume="default", is_recursive=True)
        told = await target.say("List", request)
        assert told.verdict == FINE
        assert max(len(item.path) for page in told.responses for item in page.entries) <= 4096


async def test_a_deep_file_is_refused_where_its_path_would_be_too_long(target: Target) -> None:
    parent, listed = ROOT_ID, []
    for _ in range(20):
        listed.append(put_directory(parent=parent))
        listed[-1].directory.name = listed[-1].id * 15 + b"x"
        listed[-1].directory.name = listed[-1].directory.name.replace(b"\0", b"0")
        parent = listed[-1].id
    async with unharmed(target, commits=1):
        told = await target.store(*listed)
        assert told.outcomes() == ["ok"] * 16 + ["INVALID"] + ["PARENT_GONE"] * 3


# -- Identifiers -------------------------------------------------------------


def spoiled(change: pb.Change, spoil: Callable[[pb.Change], object]) -> pb.Change:
    spoil(change)
    return change


def sized(size: int) -> dict[str, tuple[str, Message]]:
    """Return each request that has an identifier, with that of `size` bytes."""
    raw = b"i" * size
    begun = watch(from_head=True)
    begun.begin.author.replica = raw
    deletes = pb.DeleteRequest(begin=begin().begin, targets=[pb.DeleteTarget(id=raw, base=1)])
    by_replica = pb.DeleteRequest(begin=begin().begin, targets=[pb.DeleteTarget(id=fresh_id())])
    by_replica.begin.author.replica = raw
    return {
        "delete target": ("Delete", deletes),
        "delete replica": ("Delete", by_replica),
        "fetch digest": (
            "Fetch",
            pb.FetchRequest(volume="default", chunks=pb.FetchChunks(digests=[bytes(32), raw])),
        ),
        "watch replica": ("Watch", begun),
        "watch commit id": ("Watch", watch(cursor=pb.Cursor(revision=1, commit_id=raw))),
    }


@pytest.mark.parametrize("size", [0, 15, 17, 31, 33, 5000])
@pytest.mark.parametrize("what", sized(0))
async def test_an_identifier_has_its_length(target: Target, what: str, size: int) -> None:
    method, request = sized(size)[what]
    if what == "watch commit id" and not size:
        return  # The length of no commit id at all, which is allowed.
    async with unharmed(target):
        assert (await target.say(method, request)).verdict == INVALID


IN_A_CHANGE: dict[str, Callable[[bytes], pb.Change]] = {
    "file": lambda raw: put_file(id=raw, name=b"n"),
    "parent of a file": lambda raw: put_file(parent=raw),
    "directory": lambda raw: put_directory(b"n", id=raw),
    "parent of a directory": lambda raw: put_directory(parent=raw),
    "parent of a link": lambda raw: spoiled(put_link(), lambda c: setattr(c.link, "parent", raw)),
    "moved": lambda raw: move(raw, 1, ROOT_ID, b"n"),
    "new parent": lambda raw: move(fresh_id(), 1, raw, b"n"),
    "deleted": lambda raw: delete(raw, 1),
}


@pytest.mark.parametrize("size", [0, 15, 17, 5000])
@pytest.mark.parametrize("where", IN_A_CHANGE)
async def test_an_identifier_in_a_change_has_its_length(
    target: Target, where: str, size: int
) -> None:
    async with unharmed(target):
        told = await target.store(IN_A_CHANGE[where](b"i" * size))
        assert told.verdict == INVALID


@pytest.mark.parametrize("size", [0, 15, 17])
async def test_an_op_id_and_a_replica_id_have_their_length(target: Target, size: int) -> None:
    async with unharmed(target):
        for field in ("op_id", "replica"):
            opening = begin()
            holder = opening.begin if field == "op_id" else opening.begin.author
            setattr(holder, field, b"i" * size)
            assert (await target.say("Store", opening, changes(put_file()))).verdict == INVALID


# -- What is unset, unknown or contradicts itself ----------------------------


UNSET: dict[str, tuple[str, list[Message | bytes]]] = {
    "hello": ("Hello", [pb.HelloRequest()]),
    "hello without numbers": ("Hello", [pb.HelloRequest(volume="default")]),
    "hello upside down": (
        "Hello",
        [pb.HelloRequest(volume="default", protocol=1, protocol_oldest=2)],
    ),
    "store": ("Store", [pb.StoreRequest()]),
    "store nothing": ("Store", []),
    "store begin": ("Store", [pb.StoreRequest(begin=pb.StoreBegin())]),
    "store begin alone": ("Store", [begin()]),
    "store twice begun": ("Store", [begin(), begin()]),
    "store changes first": ("Store", [changes(put_file())]),
    "store chunks first": ("Store", [pb.StoreRequest(chunks=pb.ChunkFrame())]),
    "store no changes": ("Store", [begin(), changes()]),
    "store an empty frame": ("Store", [begin(), changes(is_last=False), changes(put_file())]),
    "store without author": (
        "Store",
        [
            pb.StoreRequest(begin=pb.StoreBegin(volume="default", op_id=fresh_id())),
            changes(put_file()),
        ],
    ),
    "store a change of no kind": ("Store", [begin(), changes(pb.Change(id=fresh_id()))]),
    "store no change": ("Store", [begin(), changes(pb.Change())]),
    "store a change of an unknown kind": (
        "Store",
        [begin(), changes(pb.Change.FromString(put_file().SerializeToString()[:18] + b"\x4a\0"))],
    ),
    "store a file without content": (
        "Store",
        [begin(), changes(spoiled(put_file(), lambda c: c.file.ClearField("content")))],
    ),
    "store never last": ("Store", [begin(), changes(put_file(), is_last=False)]),
    "store garbage": ("Store", [b"\xff" * 100]),
    "delete": ("Delete", [pb.DeleteRequest()]),
    "delete nothing": ("Delete", [pb.DeleteRequest(begin=begin().begin)]),
    "delete without begin": (
        "Delete",
        [pb.DeleteRequest(targets=[pb.DeleteTarget(id=fresh_id(), base=1)])],
    ),
    "delete no one": (
        "Delete",
        [pb.DeleteRequest(begin=begin().begin, targets=[pb.DeleteTarget()])],
    ),
    "fetch": ("Fetch", [pb.FetchRequest()]),
    "fetch nothing": ("Fetch", [pb.FetchRequest(volume="default")]),
    "fetch no chunks": ("Fetch", [pb.FetchRequest(volume="default", chunks=pb.FetchChunks())]),
    "fetch something unknown": (
        "Fetch",
        [pb.FetchRequest(volume="default").SerializeToString() + b"\x4a\x02\x0a\0"],
    ),
    "watch": ("Watch", [pb.WatchRequest()]),
    "watch nothing": ("Watch", []),
    "watch begin": ("Watch", [pb.WatchRequest(begin=pb.WatchBegin())]),
    "watch progress first": ("Watch", [pb.WatchRequest(progress=pb.WatchProgress())]),
    "watch from a cursor and from the head": (
        "Watch",
        [watch(cursor=pb.Cursor(), from_head=True)],
    ),
    "watch twice begun": ("Watch", [watch(from_head=True), watch(from_head=True)]),
    "watch progress without cursor": (
        "Watch",
        [watch(from_head=True), pb.WatchRequest(progress=pb.WatchProgress(pending=1))],
    ),
    "watch garbage after the begin": ("Watch", [watch(from_head=True), b"\xff"]),
    "list": ("List", [pb.ListRequest()]),
    "stat": ("Stat", [pb.StatRequest()]),
    "list garbage": ("List", [b"\x0a\xff"]),
    "a volume that is no UTF-8": ("Stat", [b"\x0a\x02\xff\xfe"]),
}


@pytest.mark.parametrize("what", UNSET)
async def test_what_is_unset_unknown_or_out_of_order_is_refused(target: Target, what: str) -> None:
    method, messages = UNSET[what]
    async with unharmed(target):
        told = await target.say(method, *messages)
        assert told.verdict == INVALID
        assert told.fields["field"] and told.fields["reason"]


async def test_unknown_fields_are_passed_over(target: Target) -> None:
    unknown = b"\xc2\x3e\x03new"  # Field 1,000, three bytes.
    async with unharmed(target, commits=1):
        messages = [begin(), changes(put_file())]
        told = await target.say("Store", *[m.SerializeToString() + unknown for m in messages])
        assert told.outcomes() == ["ok"]
        stat = pb.StatRequest(volume="default", paths=[b"none"])
        assert (await target.say("Stat", stat.SerializeToString() + unknown)).verdict == FINE


@pytest.mark.parametrize("volume", ["nobody", "Default", "default\n", "", "v" * 256, "v" * 5000])
async def test_there_is_no_other_volume(target: Target, volume: str) -> None:
    wanted = INVALID if volume in ("", "default\n") or len(volume) > 255 else NOT_FOUND
    requests: dict[str, list[Message]] = {
        "Hello": [pb.HelloRequest(volume=volume, protocol=1, protocol_oldest=1)],
        "Store": [begin(volume=volume), changes(put_file())],
        "Delete": [pb.DeleteRequest(begin=begin(volume=volume).begin, targets=[pb.DeleteTarget()])],
        "Fetch": [pb.FetchRequest(volume=volume, file=pb.FetchFile(path=b"a"))],
        "Watch": [watch(volume=volume, from_head=True)],
        "List": [pb.ListRequest(volume=volume)],
        "Stat": [pb.StatRequest(volume=volume, paths=[b"a"])],
    }
    # MergeFrom keeps what an empty text would replace.
    for message in (requests["Store"][0].begin, requests["Delete"][0].begin):
        message.volume = volume
    requests["Watch"][0].begin.volume = volume
    requests["Delete"][0].targets[0].id = fresh_id()
    async with unharmed(target):
        for method, messages in requests.items():
            told = await target.say(method, *messages)
            assert (method, *told.verdict) == (method, *wanted)


@pytest.mark.parametrize(
    ("protocol", "oldest", "verdict"),
    [(0, 0, INVALID), (5, 0, INVALID), (9, 2, TOO_NEW), (2**32 - 1, 1, FINE)],
)
async def test_a_client_of_another_time_is_told_so(
    target: Target, protocol: int, oldest: int, verdict: tuple[object, str]
) -> None:
    async with unharmed(target):
        hello = pb.HelloRequest(
            volume="default",
            protocol=protocol,
            protocol_oldest=oldest,
            client_version="\n\x1b[2J" * 1000,
        )
        assert (await target.say("Hello", hello)).verdict == verdict


# -- Changes that cannot be --------------------------------------------------


async def test_changes_that_contradict_the_table_are_refused_one_by_one(target: Target) -> None:
    folder, inner, file = put_directory(), put_directory(), put_file()
    inner.directory.parent = folder.id
    async with unharmed(target, commits=1):
        assert (await target.store(folder, inner, file)).outcomes() == ["ok"] * 3
        base = (await target.held()).revision
        own, nobody = fresh_id(), fresh_id()
        as_link = pb.Change(id=file.id, base=base, link=put_link().link)
        refused: list[tuple[pb.Change, str]] = [
            (put_file(id=ROOT_ID), "INVALID"),
            (put_directory(id=ROOT_ID, parent=folder.id), "INVALID"),
            (move(ROOT_ID, 0, folder.id, b"n"), "INVALID"),
            (delete(ROOT_ID, 0), "INVALID"),
            (put_directory(id=own, parent=own), "CYCLE"),
            (move(folder.id, base, folder.id, b"n"), "CYCLE"),
            (move(folder.id, base, inner.id, b"n"), "CYCLE"),
            (put_file(parent=nobody), "PARENT_GONE"),
            (put_file(parent=file.id), "PARENT_GONE"),
            (move(nobody, 1, ROOT_ID, b"n"), "STALE"),
            (move(nobody, 0, ROOT_ID, b"n"), "STALE"),
            (delete(nobody, 0), "STALE"),
            (delete(nobody, 7), "STALE"),
            (delete(file.id, base + 1), "STALE"),
            (delete(file.id, 2**63 - 1), "STALE"),
            (put_file(id=file.id), "STALE"),
            (delete(folder.id, base), "NOT_EMPTY"),
            (as_link, "INVALID"),
            (put_file(name=file.file.name), "NAME_TAKEN"),
        ]
        for change, code in refused:
            assert (await target.store(change)).outcomes() == [code], change
        told = await target.store(*[change for change, _ in refused], is_atomic=True)
        assert told.outcomes() == [code for _, code in refused]
        request = pb.DeleteRequest(begin=begin().begin)
        for change in (delete(ROOT_ID, 0), delete(nobody, 1), delete(folder.id, base)):
            request.targets.add(id=change.id, base=change.base)
        told = await target.say("Delete", request)
        assert told.outcomes() == ["INVALID", "STALE", "NOT_EMPTY"]


async def test_directories_never_close_a_ring_in_one_store(target: Target) -> None:
    first, second = put_directory(), put_directory()
    async with unharmed(target, commits=2):
        assert (await target.store(first, second)).outcomes() == ["ok", "ok"]
        base = (await target.held()).revision
        told = await target.store(
            move(first.id, base, second.id, b"a"), move(second.id, base, first.id, b"b")
        )
        assert told.outcomes() == ["ok", "CYCLE"]


async def test_modes_keep_permission_bits_alone(target: Target) -> None:
    listed = [put_file(), put_directory()]
    listed[0].file.mode, listed[1].directory.mode = 0o107755, 0o41777
    async with unharmed(target, commits=1):
        assert (await target.store(*listed)).outcomes() == ["ok", "ok"]
        stat = pb.StatRequest(
            volume="default", paths=[listed[0].file.name, listed[1].directory.name]
        )
        (response,) = (await target.say("Stat", stat)).responses
        assert [item.found.entry.mode for item in response.results] == [0o755, 0o777]
    async with unharmed(target):
        for mode in (0o200000, 2**32 - 1):
            listed[0].file.mode = listed[1].directory.mode = mode
            for change in listed:
                assert (await target.store(change)).verdict == INVALID


async def test_every_time_that_fits_is_kept(target: Target) -> None:
    times = [-(2**63), -1, 0, 2**31 * 10**9, 2**63 - 1]
    files = [put_file() for _ in times]
    for time_ns, change in zip(times, files, strict=True):
        change.file.mtime_ns = time_ns
    async with unharmed(target, commits=1):
        assert (await target.store(*files)).outcomes() == ["ok"] * len(times)
        paths = [change.file.name for change in files]
        (response,) = (
            await target.say("Stat", pb.StatRequest(volume="default", paths=paths))
        ).responses
        assert [item.found.entry.mtime_ns for item in response.results] == times


async def test_a_link_has_a_target_that_a_disk_can_hold(target: Target) -> None:
    async with unharmed(target):
        for bad in (b"", b"a\0b", b"t" * 4097, b"t" * 5000):
            assert (await target.store(put_link(bad))).verdict == INVALID
    async with unharmed(target, commits=1):
        told = await target.store(
            put_link(b"t" * 4096),
            put_link(b"/etc/passwd"),
            put_link(b"../" * 99),
            put_link(b"\xff"),
        )
        assert told.outcomes() == ["ok"] * 4


# -- Numbers -----------------------------------------------------------------


async def test_numbers_out_of_range_are_refused(target: Target) -> None:
    async with unharmed(target):
        for base in (2**63, 2**64 - 1):
            assert (await target.store(delete(fresh_id(), base))).verdict == INVALID
            for method, request in {
                "List": pb.ListRequest(volume="default", revision=base),
                "Stat": pb.StatRequest(volume="default", revision=base),
                "Fetch": pb.FetchRequest(
                    volume="default", file=pb.FetchFile(path=b"a", revision=base)
                ),
                "Watch": watch(cursor=pb.Cursor(revision=base)),
            }.items():
                assert (method, *(await target.say(method, request)).verdict) == (method, *INVALID)


async def test_a_revision_that_is_not_there_is_not_found(target: Target) -> None:
    async with unharmed(target):
        for revision in ((await target.held()).revision + 1, 10**12, 2**63 - 1):
            for method, request in {
                "List": pb.ListRequest(volume="default", revision=revision),
                "Stat": pb.StatRequest(volume="default", paths=[b"a"], revision=revision),
                "Fetch": pb.FetchRequest(
                    volume="default", file=pb.FetchFile(path=b"a", revision=revision)
                ),
            }.items():
                told = await target.say(method, request)
                assert (method, *told.verdict) == (method, *NOT_FOUND)


async def test_an_offset_past_the_end_is_refused(target: Target) -> None:
    made = put_file(b"12345")
    async with unharmed(target, commits=1):
        assert (await target.store(made)).outcomes() == ["ok"]
        for offset, wanted in ((5, FINE), (6, INVALID), (2**40 + 1, INVALID), (2**64 - 1, INVALID)):
            file = pb.FetchFile(path=made.file.name, offset=offset)
            told = await target.say("Fetch", pb.FetchRequest(volume="default", file=file))
            assert (offset, *told.verdict) == (offset, *wanted)


@pytest.mark.parametrize("revision", [10**9, 2**63 - 1])
@pytest.mark.parametrize("commit_id", [b"", bytes(32), digest_of(b"forged")])
async def test_a_cursor_from_the_future_gets_a_snapshot(
    target: Target, revision: int, commit_id: bytes
) -> None:
    async with unharmed(target):
        cursor = pb.Cursor(revision=revision, commit_id=commit_id)
        told = await target.say("Watch", watch(cursor=cursor), closes=False, responses_max=2)
        (first, *_) = told.responses
        assert first.snapshot_begin.reason == pb.RESET_REASON_HISTORY_CUT


async def test_a_cursor_of_another_history_gets_a_snapshot(target: Target) -> None:
    async with unharmed(target, commits=1):
        assert (await target.store(put_file())).outcomes() == ["ok"]
        for revision in (0, 1):
            cursor = pb.Cursor(revision=revision, commit_id=digest_of(b"another history"))
            told = await target.say("Watch", watch(cursor=cursor), closes=False, responses_max=1)
            (first,) = told.responses
            assert first.snapshot_begin.reason == pb.RESET_REASON_HISTORY_CUT


async def test_a_watcher_may_say_of_itself_what_it_likes(target: Target) -> None:
    async with unharmed(target):
        placed = pb.Cursor(revision=2**63 - 1, commit_id=bytes(32))
        boast = pb.WatchProgress(placed=placed, pending=2**64 - 1, problems=2**64 - 1)
        told = await target.say(
            "Watch",
            watch(from_head=True),
            *[pb.WatchRequest(progress=boast)] * 2000,
            closes=False,
            responses_max=1,
        )
        assert told.verdict == FINE


# -- Too much ----------------------------------------------------------------


async def test_too_many_of_anything_are_refused(target: Target) -> None:
    def deletes(count: int) -> pb.DeleteRequest:
        request = pb.DeleteRequest(begin=begin().begin)
        for _ in range(count):
            request.targets.add(id=fresh_id(), base=1)
        return request

    async with unharmed(target):
        assert (await target.say("Delete", deletes(CHANGES_MAX + 1))).verdict == TOO_LARGE
        told = await target.say("Delete", deletes(CHANGES_MAX))
        assert told.outcomes() == ["STALE"] * CHANGES_MAX
        listed = [put_directory() for _ in range(CHANGES_MAX + 1)]
        assert (await target.store(*listed)).verdict == TOO_LARGE
        frames = [changes(change, is_last=False) for change in listed]
        assert (await target.say("Store", begin(), *frames)).verdict == TOO_LARGE
        stat = pb.StatRequest(volume="default", paths=[b"a"] * 81)
        assert (await target.say("Stat", stat)).verdict == TOO_LARGE
        asked = pb.FetchChunks(digests=[bytes(32)] * 20_000)
        told = await target.say("Fetch", pb.FetchRequest(volume="default", chunks=asked))
        assert told.verdict == TOO_LARGE


async def test_a_commit_over_its_bytes_is_refused_while_it_comes(target: Target) -> None:
    async with unharmed(target):
        links = [
            changes(*[put_link(b"t" * 4096) for _ in range(186)], is_last=False) for _ in range(11)
        ]
        assert (await target.say("Store", begin(), *links)).verdict == TOO_LARGE
        files = [changes(put_file(fresh_id() * 4096), is_last=False) for _ in range(129)]
        assert (await target.say("Store", begin(), *files)).verdict == TOO_LARGE


# -- Names for people, and what is written about them ------------------------


@pytest.mark.parametrize(
    "name",
    ["", "a\nb", "a\0b", "\x1b[31mred", "tab\there", "\x7f", "\x9b31m", "n" * 256, "n" * 5000],
    ids=["empty", "newline", "NUL", "ESC", "tab", "DEL", "CSI", "256 bytes", "5,000 bytes"],
)
async def test_an_author_has_a_name_that_can_be_shown(target: Target, name: str) -> None:
    async with unharmed(target):
        opening = begin()
        opening.begin.author.name = name
        assert (await target.say("Store", opening, changes(put_file()))).verdict == INVALID
        request = watch(from_head=True)
        request.begin.author.name = name
        assert (await target.say("Watch", request)).verdict == INVALID


async def test_a_name_that_only_looks_dangerous_is_kept(target: Target) -> None:
    name = "<script>alert('x')</script> \u202e ünïcode"
    made = put_file(name=b"<img src=x onerror=alert(1)>\x1b[2J\xff\n" + fresh_id().hex().encode())
    async with unharmed(target, commits=1):
        told = await target.store(made, author=author(name))
        assert told.outcomes() == ["ok"]
        stat = pb.StatRequest(volume="default", paths=[made.file.name])
        (response,) = (await target.say("Stat", stat)).responses
        assert response.results[0].found.author == name
        assert response.results[0].found.entry.name == made.file.name


NASTY = "x\nERROR forged line\r\x1b[31m\u2028"


async def test_no_line_of_a_log_is_forged(target: Target) -> None:
    """`unharmed` looks for lines that were broken up; here are all the ways to try."""
    raw = NASTY.encode()
    async with unharmed(target):
        for method, message in {
            "Hello": pb.HelloRequest(volume=NASTY, protocol=1, protocol_oldest=1),
            "List": pb.ListRequest(volume="default", path=raw),
            "Stat": pb.StatRequest(volume="default\u2028x", paths=[raw]),
            "Fetch": pb.FetchRequest(volume="default", file=pb.FetchFile(path=raw)),
        }.items():
            told = await target.say(method, message)
            assert told.reason in ("invalid", "not_found"), told
            assert told.message.isprintable()
            told = await target.store(put_file(name=raw + b"/"))
        assert told.verdict == INVALID and told.message.isprintable()
