"""The contract of a link, and the use cases behind it: on both stores, with and without a wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.core.entries import Entry
from syncline.core.identity import (
    EMPTY_DIGEST,
    CommitId,
    Digest,
    Revision,
    digest_of,
)
from syncline.core.manifests import CHUNK_BYTES_MAX, DIRECT_REFS_MAX, EMPTY_CONTENT
from syncline.core.names import RelPath
from syncline.core.table import (
    EMPTY_TABLE_DIGEST,
    Cursor,
    advance_digest,
    commit_id,
    genesis,
)
from syncline.errors import Invalid, LocalFailure, NotFound, SynclineError, TooLarge
from syncline.ports.link import (
    Committed,
    Effect,
    Heartbeat,
    Link,
    Progress,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
    WatchEvent,
)
from syncline.server.volume import ServedVolume
from tests.support.bodies import compressed, noise, text
from tests.support.serving import (
    ALICE,
    BOB,
    Backend,
    Chunks,
    SeededIds,
    accepted,
    codes,
    direct_link,
    fetched,
    grpc_link,
    propose,
    served,
)
from tests.support.trees import delete, id_of, move, put_directory, put_file, put_link
from tests.support.wait import eventually


@pytest.fixture(params=["memory", "disk"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return Backend.in_memory() if request.param == "memory" else Backend.on_disk(tmp_path)


@pytest.fixture
async def volume(backend: Backend) -> AsyncIterator[ServedVolume]:
    async with served(backend) as volume:
        yield volume
    backend.close()


@pytest.fixture(params=["direct", "grpc"])
async def link(request: pytest.FixtureRequest, volume: ServedVolume) -> AsyncIterator[Link]:
    connect = direct_link if request.param == "direct" else grpc_link
    async with connect(volume) as link:
        yield link


@pytest.fixture
def ids() -> SeededIds:
    return SeededIds()


NOTHING = Chunks()


async def tree(link: Link, path: bytes = b"", at: int | None = None) -> dict[bytes, Entry]:
    revision = None if at is None else Revision(at)
    listed = link.list(RelPath.parse(path), is_recursive=True, at=revision)
    return {bytes(located.path): located.entry async for located in listed}


async def no_progress() -> AsyncIterator[Progress]:
    return
    yield


async def take(events: AsyncIterator[WatchEvent], count: int) -> list[Committed]:
    """Return the next commits of a watch."""
    commits: list[Committed] = []
    async with asyncio.timeout(20):
        while len(commits) < count:
            event = await anext(events)
            if isinstance(event, Committed):
                commits.append(event)
    return commits


# -- Store -------------------------------------------------------------------


async def test_a_small_file_is_stored_inline_and_read_back(link: Link, ids: SeededIds) -> None:
    answer = await link.store(
        propose(put_file("a", content=b"hello"), ids=ids, inline=[b"hello"]), NOTHING
    )
    assert accepted(answer) == [1] and answer.revision == 1
    (entry,) = (await tree(link)).values()
    assert entry.content is not None and await fetched(link, entry.content) == b"hello"


async def test_an_empty_file_has_no_chunk_and_needs_no_trip(link: Link, ids: SeededIds) -> None:
    change = replace(put_file("empty"), content=EMPTY_CONTENT)
    source = Chunks()
    assert accepted(await link.store(propose(change, ids=ids), source)) == [1]
    assert source.asked == []
    assert (await tree(link))[b"empty"].digest == EMPTY_DIGEST


async def test_directories_files_and_links_of_one_store_are_one_revision(
    link: Link, ids: SeededIds
) -> None:
    answer = await link.store(
        propose(
            put_directory("d", mode=0o700),
            put_file("f", parent="d", content=b"x", mode=0o640, mtime_ns=-5),
            put_link("l", parent="d", target=b"../nowhere"),
            ids=ids,
            inline=[b"x"],
        ),
        NOTHING,
    )
    assert accepted(answer) == [1, 1, 1]
    found = await tree(link)
    assert list(found) == [b"d", b"d/f", b"d/l"]
    assert (found[b"d"].mode, found[b"d/f"].mode, found[b"d/f"].mtime_ns) == (0o700, 0o640, -5)
    assert found[b"d/l"].target == b"../nowhere"


async def test_only_missing_chunks_travel_in_order_and_once(link: Link, ids: SeededIds) -> None:
    source = Chunks()
    first = source.content([b"one" * 100, b"two" * 100])
    await link.store(propose(replace(put_file("a"), content=first), ids=ids), source)
    assert source.asked == [ref.digest for ref in first.refs]
    source.asked.clear()
    second = source.content([b"zero", b"one" * 100, b"new" * 100, b"two" * 100, b"new" * 100])
    change = replace(put_file("b"), content=second)
    assert accepted(await link.store(propose(change, ids=ids), source)) == [2]
    assert source.asked == [digest_of(b"zero"), digest_of(b"new" * 100)]
    entry = (await tree(link))[b"b"]
    assert entry.content is not None
    expected = b"zero" + b"one" * 100 + b"new" * 100 + b"two" * 100 + b"new" * 100
    assert await fetched(link, entry.content) == expected


async def test_a_long_manifest_travels_as_chunks_and_then_its_data(
    link: Link, ids: SeededIds
) -> None:
    source = Chunks()
    parts = [b"%06d" % number * 20 for number in range(3 * DIRECT_REFS_MAX)]
    content = source.content(parts)
    assert content.depth == 1
    change = replace(put_file("long"), content=content)
    assert accepted(await link.store(propose(change, ids=ids), source)) == [1]
    assert set(source.asked) == source.known.keys() and len(source.asked) == len(source.known)
    source.asked.clear()
    parts[5] = b"changed"
    changed = replace(put_file("long", base=1), content=source.content(parts))
    assert accepted(await link.store(propose(changed, ids=ids), source)) == [2]
    assert len(source.asked) == 2, "the new chunk and the manifest that lists it"


async def test_compressed_chunks_are_stored_as_they_came_and_read_back_plain(
    link: Link, volume: ServedVolume, ids: SeededIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Chunks, "is_compressing", True)
    source = Chunks()
    parts = [text(size) for size in (70_000, 300_000, CHUNK_BYTES_MAX)] + [noise(90_000)]
    content = source.content(parts)
    change = replace(put_file("text"), content=content)
    accepted(await link.store(propose(change, ids=ids), source))
    assert await fetched(link, content) == b"".join(parts)
    located = volume.chunks.locate([ref.digest for ref in content.refs])
    assert sum(at.size for at in located.values()) < content.size / 2
    bodies = [volume.chunks.read_body_at(ref.digest, located[ref.digest]) for ref in content.refs]
    assert bodies == [compressed(part) for part in parts]


async def test_a_large_commit_of_small_files_is_one_revision(link: Link, ids: SeededIds) -> None:
    files = [b"%05d" % number for number in range(1500)]
    changes = [put_file(str(number), content=data) for number, data in enumerate(files)]
    answer = await link.store(propose(*changes, ids=ids, inline=files), NOTHING)
    assert accepted(answer) == [1] * 1500
    assert len(await tree(link)) == 1500


async def test_a_wrong_chunk_is_refused_and_nothing_is_stored(link: Link, ids: SeededIds) -> None:
    source = Chunks()
    content = source.content([b"good" * 10, b"bad" * 10])
    source.known[content.refs[1].digest] = b"BAD" * 10
    with pytest.raises(Invalid, match="digest"):
        await link.store(propose(replace(put_file("a"), content=content), ids=ids), source)
    assert await tree(link) == {}
    source.known[content.refs[1].digest] = b"bad" * 10
    source.asked.clear()
    await link.store(propose(replace(put_file("a"), content=content), ids=ids), source)
    assert content.refs[1].digest in source.asked


async def test_chunks_that_do_not_make_the_digest_are_refused(link: Link, ids: SeededIds) -> None:
    source = Chunks()
    content = source.content([b"good" * 10, b"more" * 10])
    forged = replace(content, digest=digest_of(b"something else"))
    with pytest.raises(Invalid, match="do not make the digest"):
        await link.store(propose(replace(put_file("a"), content=forged), ids=ids), source)
    assert await tree(link) == {}


async def test_inline_content_with_another_digest_is_refused(link: Link, ids: SeededIds) -> None:
    change = put_file("a", content=b"this")
    proposal = replace(propose(change, ids=ids), inline={change.content.digest: b"that"})
    with pytest.raises(SynclineError) as caught:
        await link.store(proposal, NOTHING)
    assert caught.value.code == "invalid"
    assert await tree(link) == {}


async def test_an_interrupted_store_goes_on_where_it_stopped(
    link: Link, ids: SeededIds, volume: ServedVolume
) -> None:
    source = Chunks()
    parts = [bytes([number]) * 300_000 for number in range(40)]
    content = source.content(parts)
    cut = content.refs[30].digest

    async def cut_off(digest: Digest) -> bytes:
        if digest == cut:
            await eventually(lambda: volume.chunks.pending_count > 0, "the server has some chunks")
            raise LocalFailure("the file went away")
        return await source(digest)

    change = replace(put_file("big"), content=content)
    with pytest.raises(LocalFailure):
        await link.store(propose(change, ids=ids), cut_off)
    await eventually(lambda: volume.locks.locks.count == 0, "the broken STORE has ended")
    source.asked.clear()
    assert accepted(await link.store(propose(change, ids=ids), source)) == [1]
    assert content.refs[0].digest not in source.asked
    assert len(source.asked) < 40


async def test_the_same_op_id_gets_the_first_answer(link: Link, ids: SeededIds) -> None:
    proposal = propose(put_file("a", content=b"x"), delete("ghost", 4), ids=ids, inline=[b"x"])
    first = await link.store(proposal, NOTHING)
    await link.store(propose(put_file("a", base=1, content=b"y"), ids=ids, inline=[b"y"]), NOTHING)
    again = await link.store(proposal, NOTHING)
    assert again.is_replay and replace(again, is_replay=False) == first
    assert codes(again) == ["ok", "stale"]
    assert len(await tree(link)) == 1


async def test_an_op_id_cannot_be_used_for_something_else(link: Link, ids: SeededIds) -> None:
    proposal = propose(put_directory("a"), ids=ids)
    await link.store(proposal, NOTHING)
    with pytest.raises(Invalid, match="op id"):
        await link.store(replace(proposal, changes=(put_directory("b"),)), NOTHING)
    other = replace(proposal, author=BOB, changes=(put_directory("b"),))
    assert accepted(await link.store(other, NOTHING)) == [2]


async def test_a_stale_change_is_refused_with_what_is_there(link: Link, ids: SeededIds) -> None:
    await link.store(propose(put_file("a", content=b"1"), ids=ids, inline=[b"1"]), NOTHING)
    await link.store(propose(put_file("a", base=1, content=b"2"), ids=ids, inline=[b"2"]), NOTHING)
    answer = await link.store(
        propose(put_file("a", base=1, content=b"3"), put_directory("d"), ids=ids, inline=[b"3"]),
        NOTHING,
    )
    assert codes(answer) == ["stale", "ok"] and answer.revision == 3
    refusal = answer.outcomes[0]
    assert not hasattr(refusal, "revision")
    assert refusal.current is not None and refusal.current.digest == digest_of(b"2")


async def test_refused_content_does_not_travel(link: Link, ids: SeededIds) -> None:
    source = Chunks()
    content = source.content([b"large" * 50_000])
    await link.store(propose(put_directory("taken"), ids=ids), NOTHING)
    change = replace(put_file("f", name=b"taken"), content=content)
    answer = await link.store(propose(change, ids=ids), source)
    assert codes(answer) == ["name_taken"] and source.asked == []


async def test_an_atomic_store_is_all_or_nothing(link: Link, ids: SeededIds) -> None:
    answer = await link.store(
        propose(put_directory("a"), delete("ghost", 3), ids=ids, is_atomic=True), NOTHING
    )
    assert codes(answer) == ["atomic", "stale"] and answer.revision == 0
    assert await tree(link) == {}


async def test_a_change_that_changes_nothing_makes_no_revision(link: Link, ids: SeededIds) -> None:
    await link.store(propose(put_directory("a"), ids=ids), NOTHING)
    answer = await link.store(propose(put_directory("a", base=1), ids=ids), NOTHING)
    assert accepted(answer) == [1] and answer.revision == 1


async def test_over_the_bounds_of_a_commit_is_refused(link: Link, ids: SeededIds) -> None:
    changes = [put_directory(str(number)) for number in range(2049)]
    with pytest.raises(TooLarge, match="2048"):
        await link.store(propose(*changes, ids=ids), NOTHING)
    with pytest.raises(Invalid):
        await link.store(propose(ids=ids), NOTHING)
    assert await tree(link) == {}


async def test_many_writers_at_once_make_one_history(link: Link, volume: ServedVolume) -> None:
    async def write(number: int) -> None:
        ids = SeededIds(1000 + number)
        for step in range(5):
            label = f"{number}-{step}"
            answer = await link.store(
                propose(
                    put_file(label, content=label.encode()),
                    put_file("shared", base=0, content=label.encode()),
                    ids=ids,
                    inline=[label.encode()],
                    wait_s=10,
                ),
                NOTHING,
            )
            assert codes(answer)[0] == "ok"

    async with asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(write(number))
    found = await tree(link)
    assert len(found) == 101
    events = link.watch(WatchBegin(BOB, Cursor(Revision(0), None)), no_progress())
    async with aclosing(events):  # type: ignore[type-var]
        commits = [item.commit for item in await take(events, 100)]
    previous, digest = genesis(volume.id), EMPTY_TABLE_DIGEST
    for number, commit in enumerate(commits, 1):
        assert commit.revision == number
        previous = commit_id(
            previous,
            commit.revision,
            commit.author,
            commit.op_id,
            commit.time_ns,
            commit.is_confirmed,
            commit.entries,
        )
        digest = advance_digest(digest, (), commit.entries)
        assert (commit.id, commit.table_digest) == (previous, digest)


# -- Delete ------------------------------------------------------------------


async def test_delete_never_recurses(link: Link, ids: SeededIds) -> None:
    await link.store(propose(put_directory("d"), put_directory("c", parent="d"), ids=ids), NOTHING)
    answer = await link.delete(propose(delete("d", 1), ids=ids))
    assert codes(answer) == ["not_empty"]
    answer = await link.delete(propose(delete("c", 1), delete("d", 1), ids=ids))
    assert accepted(answer) == [2, 2]
    assert await tree(link) == {}
    assert list(await tree(link, at=1)) == [b"d", b"d/c"]


async def test_delete_takes_deletes_alone(link: Link, ids: SeededIds) -> None:
    with pytest.raises(Invalid):
        await link.delete(propose(put_directory("d"), ids=ids))


# -- List and Stat -----------------------------------------------------------


async def test_listing_is_depth_first_in_order_of_bytes(link: Link, ids: SeededIds) -> None:
    await link.store(
        propose(
            put_directory("d", name=b"b"),
            put_directory("e", name=b"b-"),
            put_file("1", parent="d", name=b"\xff", content=b""),
            put_file("2", parent="d", name=b"z", content=b""),
            put_file("3", name=b"a", content=b""),
            put_directory("f", parent="d", name=b"inner"),
            put_directory("g", parent="f", name=b"x"),
            ids=ids,
        ),
        NOTHING,
    )
    paths = list(await tree(link))
    assert paths == [b"a", b"b", b"b/inner", b"b/inner/x", b"b/z", b"b/\xff", b"b-"]
    assert list(await tree(link, b"b/inner")) == [b"b/inner/x"]
    assert list(await tree(link, b"a")) == [b"a"]
    flat = link.list(RelPath.parse(b"b"), is_recursive=False, at=None)
    assert [bytes(located.path) async for located in flat] == [b"b/inner", b"b/z", b"b/\xff"]


async def test_a_long_listing_is_whole_and_of_one_revision(link: Link, ids: SeededIds) -> None:
    changes = [put_directory(f"d{number}", name=b"%03d" % number) for number in range(30)] + [
        put_file(f"f{number}", parent=f"d{number % 30}", name=b"%04d" % number, content=b"")
        for number in range(1600)
    ]
    await link.store(propose(*changes, ids=ids), NOTHING)
    listed = link.list(RelPath(), is_recursive=True, at=None)
    paths = []
    async for located in listed:
        paths.append(bytes(located.path))
        if len(paths) == 5:
            await link.store(propose(put_directory("late", name=b"000z"), ids=ids), NOTHING)
    assert len(paths) == 1630 and paths == sorted(paths)


async def test_missing_paths_and_revisions_are_not_found(link: Link, ids: SeededIds) -> None:
    await link.store(propose(put_directory("d"), ids=ids), NOTHING)
    for path, at in ((b"nothing", None), (b"d/x", None), (b"d", 7)):
        with pytest.raises(NotFound):
            await tree(link, path, at)


async def test_stat_tells_what_was_and_who_made_it(link: Link, ids: SeededIds) -> None:
    await link.store(propose(put_directory("d"), ids=ids), NOTHING)
    await link.store(propose(put_directory("d", base=1, mode=0o700), ids=ids, author=BOB), NOTHING)
    paths = [RelPath.parse(b"d"), RelPath.parse(b"none"), RelPath()]
    now, absent, root = await link.stat(paths, None)
    assert now is not None and (now.author, now.entry.mode) == ("bob@desk", 0o700)
    assert absent is None and root is None
    then, _, _ = await link.stat(paths, Revision(1))
    assert then is not None and (then.author, then.entry.mode) == ("alice@laptop", 0o755)


# -- Fetch -------------------------------------------------------------------


async def test_fetch_yields_in_the_order_asked_with_repetitions(link: Link, ids: SeededIds) -> None:
    source = Chunks()
    content = source.content([b"a" * 700_000, b"b" * 10, b"c" * 900_000])
    await link.store(propose(replace(put_file("f"), content=content), ids=ids), source)
    digests = [content.refs[index].digest for index in (2, 0, 1, 1, 2)]
    chunks = [chunk async for chunk in link.fetch(digests)]
    assert [digest_of(chunk) for chunk in chunks] == digests


async def test_an_unknown_chunk_is_not_found(link: Link) -> None:
    with pytest.raises(NotFound) as caught:
        async for _ in link.fetch([Digest(b"?" * 32)]):
            raise AssertionError("a chunk that nobody stored")
    assert caught.value.fields["digest"] == (b"?" * 32).hex()


# -- Watch -------------------------------------------------------------------


async def test_a_watcher_sees_each_commit_once_in_order(link: Link, ids: SeededIds) -> None:
    for number in range(3):
        await link.store(propose(put_directory(f"d{number}"), ids=ids), NOTHING)
    events = link.watch(WatchBegin(BOB, Cursor(Revision(1), None)), no_progress())
    async with aclosing(events):  # type: ignore[type-var]
        assert isinstance(await anext(events), Heartbeat)
        assert [item.commit.revision for item in await take(events, 2)] == [2, 3]
        await link.store(propose(put_directory("d3"), ids=ids), NOTHING)
        (item,) = await take(events, 1)
        assert item.commit.revision == 4 and item.commit.author == ALICE
        assert [entry.id for entry in item.commit.entries] == [id_of("d3")]


async def test_small_content_comes_with_its_commit(link: Link, ids: SeededIds) -> None:
    begin = WatchBegin(BOB, None, from_head=True, wants_inline=True)
    events = link.watch(begin, no_progress())
    async with aclosing(events):  # type: ignore[type-var]
        await anext(events)
        await link.store(propose(put_file("a", content=b"x"), ids=ids, inline=[b"x"]), NOTHING)
        (item,) = await take(events, 1)
        assert item.inline == {digest_of(b"x"): b"x"}


async def test_paths_and_effects_are_told(link: Link, ids: SeededIds) -> None:
    steps = [
        [put_directory("d"), put_file("f", parent="d", content=b"1")],
        [put_file("f", base=1, parent="d", content=b"2")],
        [put_file("f", base=2, parent="d", content=b"2", mode=0o600)],
        [move("d", 1, "/", b"e")],
        [move("f", 3, "/", b"g"), delete("d", 4)],
    ]
    for changes in steps:
        answer = await link.store(propose(*changes, ids=ids, inline=[b"1", b"2"]), NOTHING)
        accepted(answer)
    events = link.watch(WatchBegin(BOB, Cursor(Revision(0), None), wants_paths=True), no_progress())
    async with aclosing(events):  # type: ignore[type-var]
        told = [
            [(change.effect, bytes(change.path), change.old_path) for change in item.changes]
            for item in await take(events, 5)
        ]
    assert told == [
        [(Effect.CREATED, b"d", None), (Effect.CREATED, b"d/f", None)],
        [(Effect.CHANGED, b"d/f", None)],
        [(Effect.MODE, b"d/f", None)],
        [(Effect.MOVED, b"e", RelPath.parse(b"d"))],
        [(Effect.DELETED, b"e", None), (Effect.MOVED, b"g", RelPath.parse(b"e/f"))],
    ]


async def snapshot_of(link: Link, cursor: Cursor | None) -> tuple[ResetReason, set[bytes]]:
    events = link.watch(WatchBegin(BOB, cursor), no_progress())
    names: set[bytes] = set()
    async with aclosing(events):  # type: ignore[type-var]
        begin = await anext(events)
        assert isinstance(begin, SnapshotBegin)
        while not isinstance(event := await anext(events), SnapshotEnd):
            assert isinstance(event, SnapshotPage)
            names |= {entry.name for entry in event.entries}
        assert event.head == begin.head
    return begin.reason, names


async def test_who_has_no_cursor_on_the_history_gets_a_snapshot(
    link: Link, ids: SeededIds, volume: ServedVolume
) -> None:
    changes = [put_directory(f"d{number}") for number in range(1500)]
    await link.store(propose(*changes, ids=ids), NOTHING)
    await link.store(propose(delete("d7", 1), ids=ids), NOTHING)
    everything = {b"d%d" % number for number in range(1500)} - {b"d7"}
    assert await snapshot_of(link, None) == (ResetReason.NEWCOMER, everything)
    for cursor in (
        Cursor(Revision(9), None),
        Cursor(Revision(1), CommitId(b"x" * 32)),
        Cursor(Revision(0), CommitId(b"x" * 32)),
    ):
        assert await snapshot_of(link, cursor) == (ResetReason.HISTORY_CUT, everything)
    head = volume.feed.head
    events = link.watch(WatchBegin(BOB, Cursor(head.revision, head.commit_id)), no_progress())
    async with aclosing(events):  # type: ignore[type-var]
        assert await anext(events) == Heartbeat(head)


async def test_hello_tells_the_volume(link: Link, volume: ServedVolume) -> None:
    facts = await link.hello()
    assert (facts.volume, facts.volume_name, facts.protocol) == (volume.id, "default", 1)
    assert facts.head == volume.feed.head


async def test_the_longest_names_pass(link: Link, ids: SeededIds) -> None:
    name = bytes(range(1, 47)) + b"\xff" * 209
    assert len(name) == 255
    await link.store(propose(put_file("a", name=name, content=b""), ids=ids), NOTHING)
    assert list(await tree(link)) == [name]
