"""Fetching for a mount: small contents into memory, large ones staged, whatever is in between."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from random import Random

import pytest

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.posix_files import PosixFiles
from syncline.client.mount.contents import Contents
from syncline.client.mount.fetching import Fetcher
from syncline.client.mount.growing import content_name, part_name
from syncline.client.mount.mounted_file import MountedFile
from syncline.core.identity import digest_of
from syncline.core.manifests import (
    EMPTY_CONTENT,
    ChunkRef,
    Content,
    build_content,
    encode_piece,
    single_chunk,
)
from syncline.core.names import Name
from syncline.errors import (
    Corrupt,
    Invalid,
    LocalFailure,
    NoSpace,
    NotFound,
    ProtocolBroken,
    SynclineError,
    Unavailable,
)
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from tests.support.links import ScriptedLink, failing
from tests.support.serving import Chunks
from tests.support.simulation.disk import Crashed, Operation, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.transfers import (
    KIB,
    MIB,
    Disk,
    FixedChunker,
    HeldExecutor,
    InlineExecutor,
    Stored,
    cut,
    names,
    noise,
    read,
    write,
)
from tests.support.wait import eventually

BROKEN = Unavailable("the connection broke")
CHUNK = 16 * KIB
CHUNKER = FixedChunker(CHUNK)


@pytest.fixture(params=["posix", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "posix":
        disk = Disk.open(PosixFiles(os.fsencode(tmp_path)))
    else:
        disk = Disk.open(SimulatedFiles(SimulatedDisk()))
    yield disk
    disk.close()


@pytest.fixture
def simulated() -> Iterator[Disk]:
    disk = Disk.open(SimulatedFiles(SimulatedDisk()))
    yield disk
    disk.close()


@pytest.fixture
def stored(link: ScriptedLink) -> Stored:
    return Stored(link.inner)


def disk_below(disk: Disk) -> SimulatedDisk:
    assert isinstance(disk.files, SimulatedFiles)
    return disk.files.disk


class Fetched:
    """A fetcher with what tests do not care for; notes progress."""

    def __init__(
        self,
        link: ScriptedLink,
        disk: Disk,
        *,
        chunker: Chunker = CHUNKER,
        reads: Executor | None = None,
    ) -> None:
        self.contents = Contents()
        self.progress: list[int] = []
        self.disk = disk
        self.fetcher = Fetcher(link, self.contents, disk.own, reads or InlineExecutor(), chunker)

    async def large(self, content: Content, older: MountedFile | None = None) -> bytes:
        name = await self.fetcher.large(content, older, self.disk.root, self.progress.append)
        assert name == self.fetcher.staged(content.digest)
        return read(self.disk.own.staging, name)


# -- small contents ----------------------------------------------------------


async def test_small_contents_come_into_memory(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    wholes = [b"one", noise(300 * KIB), noise(MIB, 2), b"two"]
    contents = [await stored.whole(whole, 100 * KIB) for whole in wholes]
    fetched = Fetched(link, disk)
    failures = await fetched.fetcher.small([*contents, EMPTY_CONTENT, contents[0]])
    assert failures == {}
    assert [fetched.contents.get(content.digest) for content in contents] == wholes
    assert link.calls == ["fetch"]
    assert await fetched.fetcher.small(contents) == {}
    assert link.calls == ["fetch"]
    assert await fetched.fetcher.small([]) == {}


async def test_a_small_content_with_a_manifest_in_pieces(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    whole = noise(100 * KIB)
    content = await stored.whole(whole, KIB)
    assert content.depth == 1
    fetched = Fetched(link, disk)
    assert await fetched.fetcher.small([content]) == {}
    assert fetched.contents.get(content.digest) == whole


async def test_what_is_missing_or_wrong_keeps_nothing_else_back(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    good = await stored.whole(b"good")
    shared = await stored.content([b"shared", b"good"])
    missing = single_chunk(digest_of(b"missing"), 7)
    with_it = build_content(digest_of(b"goodmissing"), 11, [*good.refs, *missing.refs])[0]
    wrong = build_content(digest_of(b"another"), 10, shared.refs)[0]
    piece = encode_piece(shared.refs)
    await stored.content([piece])
    folded = Content(digest_of(b"long"), 11, 1, (ChunkRef(digest_of(piece), len(piece)),))
    await stored.content([b"no piece"])
    spoilt = Content(digest_of(b"other"), 9, 1, (ChunkRef(digest_of(b"no piece"), 8),))
    fetched = Fetched(link, disk)
    failures = await fetched.fetcher.small([missing, with_it, good, wrong, folded, spoilt, shared])
    assert {digest: type(error) for digest, error in failures.items()} == {
        missing.digest: NotFound,
        with_it.digest: NotFound,
        wrong.digest: Corrupt,
        folded.digest: Invalid,
        spoilt.digest: Corrupt,
    }
    assert fetched.contents.get(good.digest) == b"good"
    assert fetched.contents.get(shared.digest) == b"sharedgood"


async def test_what_arrived_before_a_break_is_not_fetched_again(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    contents = [await stored.content([b"%d" % number]) for number in range(10)]
    fetched = Fetched(link, disk)
    link.fetch_cut, link.error = 6, BROKEN
    with pytest.raises(Unavailable):
        await fetched.fetcher.small(contents)
    assert len(link.asked) == 6
    assert await fetched.fetcher.small(contents) == {}
    assert link.asked == [content.digest for content in contents]


async def test_thousands_of_small_contents_are_asked_for_in_parts(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    source = Chunks()
    parts = [b"%d" % number for number in range(2500)]
    await stored.content(parts)
    contents = [source.content([part]) for part in parts]
    fetched = Fetched(link, disk)
    assert await fetched.fetcher.small(contents) == {}
    assert link.count("fetch") == 3
    assert [fetched.contents.get(content.digest) for content in contents] == parts


@pytest.mark.parametrize(
    "error", [NotFound("there is no such volume"), Corrupt("bad", digest="00")], ids=str
)
async def test_an_error_about_nothing_that_was_asked_ends_the_call(
    link: ScriptedLink, disk: Disk, stored: Stored, error: SynclineError
) -> None:
    content = await stored.whole(b"good")
    link.before["fetch"] = [failing(error)]
    expected = ProtocolBroken if "digest" in error.fields else NotFound
    with pytest.raises(expected):
        await Fetched(link, disk).fetcher.small([content])


# -- large contents ----------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [100 * KIB, CHUNK], ids=["direct", "pieces"])
async def test_a_large_content_is_staged(
    link: ScriptedLink, disk: Disk, stored: Stored, chunk_bytes: int
) -> None:
    whole = noise(3 * MIB // 2)
    content = await stored.whole(whole, chunk_bytes)
    before = disk.open_handles
    fetched = Fetched(link, disk)
    assert fetched.fetcher.staged(content.digest) is None
    assert await fetched.large(content) == whole
    assert names(disk.own.staging) == {content_name(content.digest)}
    assert sum(fetched.progress) == len(whole)
    assert disk.open_handles == before
    link.asked.clear()
    fetched.progress.clear()
    assert await fetched.large(content) == whole
    assert (link.asked, sum(fetched.progress)) == ([], len(whole))


@pytest.mark.parametrize("chunk_bytes", [100 * KIB, CHUNK], ids=["direct", "pieces"])
async def test_a_broken_connection_costs_what_was_on_the_way_alone(
    link: ScriptedLink, disk: Disk, stored: Stored, chunk_bytes: int
) -> None:
    whole = noise(3 * MIB // 2)
    content = await stored.whole(whole, chunk_bytes)
    fetched = Fetched(link, disk)
    link.fetch_cut, link.error = 10, BROKEN
    before = disk.open_handles
    with pytest.raises(Unavailable):
        await fetched.large(content)
    assert disk.open_handles == before
    assert names(disk.own.staging) == {part_name(content.digest)}
    again = Fetched(link, disk)
    assert await again.large(content) == whole
    data = [digest for digest in link.asked if digest not in {ref.digest for ref in content.refs}]
    data = data or link.asked
    assert len(data) == len(set(data)) == len(cut(whole, chunk_bytes))
    assert sum(again.progress) == len(whole)


async def test_what_is_staged_is_believed_by_its_digests_alone(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    parts = [noise(CHUNK, seed) for seed in range(8)]
    content = await stored.content(parts)
    spoilt = b"".join([parts[0], bytes(CHUNK), parts[2], parts[3][:-1]])
    write(disk.own.staging, part_name(content.digest), spoilt)
    assert await Fetched(link, disk).large(content) == b"".join(parts)
    assert link.asked == [content.refs[index].digest for index in (1, 3, 4, 5, 6, 7)]


async def test_a_part_that_is_longer_than_the_content(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    write(disk.own.staging, part_name(content.digest), b"onetwo and more")
    assert await Fetched(link, disk).large(content) == b"onetwo"
    assert link.asked == []


async def test_a_whole_content_of_an_earlier_run_is_checked_and_used(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    write(disk.own.staging, content_name(content.digest), b"onetwo")
    fetched = Fetched(link, disk)
    assert fetched.fetcher.staged(content.digest) is None
    assert await fetched.large(content) == b"onetwo"
    assert link.asked == []
    assert fetched.progress == [6]


async def test_another_content_under_the_name_of_a_whole_one_is_kept_elsewhere(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    fetched = Fetched(link, disk)
    for _ in range(2):
        write(disk.own.staging, content_name(content.digest), b"a user's")
        assert await fetched.large(content) == b"onetwo"
        [kept] = names(disk.own.displaced)
        assert read(disk.own.displaced, kept) == b"a user's"
        disk.own.staging.remove(content_name(content.digest))
    assert fetched.fetcher.staged(content.digest) is None


async def test_one_chunk_many_times_travels_once(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    parts = [noise(CHUNK, 1), noise(CHUNK, 2)] * 10
    content = await stored.content(parts)
    fetched = Fetched(link, disk)
    assert await fetched.large(content) == b"".join(parts)
    assert len(link.asked) == 2
    assert sum(fetched.progress) == content.size


async def test_zeros_become_holes(link: ScriptedLink, tmp_path: Path, stored: Stored) -> None:
    disk = Disk.open(PosixFiles(os.fsencode(tmp_path)))
    parts = [noise(MIB), *[bytes(MIB)] * 20, b"tail", *[bytes(MIB)] * 4]
    content = await stored.content(parts)
    fetched = Fetched(link, disk)
    assert await fetched.large(content) == b"".join(parts)
    staged = tmp_path / ".syncline" / "staging" / content_name(content.digest).decode()
    assert staged.stat().st_blocks * 512 <= 2 * MIB
    disk.close()


# -- the older version -------------------------------------------------------


async def test_what_the_older_version_has_does_not_travel(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    parts = [noise(CHUNK, seed) for seed in range(80)]
    older = write(disk.root, b"file", b"".join([*parts[:30], noise(CHUNK, 99), *parts[31:]]))
    content = await stored.content(parts)
    before = disk.open_handles
    fetched = Fetched(link, disk)
    assert await fetched.large(content, older) == b"".join(parts)
    assert [digest for digest in link.asked if digest == digest_of(parts[30])] == [
        digest_of(parts[30])
    ]
    assert len(link.asked) == 1 + len(content.refs)
    assert sum(fetched.progress) == content.size
    assert disk.open_handles == before
    assert read(disk.root, b"file")[30 * CHUNK : 31 * CHUNK] == noise(CHUNK, 99)


async def test_with_the_real_chunker_an_insertion_costs_little(
    link: ScriptedLink, tmp_path: Path, stored: Stored
) -> None:
    disk = Disk.open(PosixFiles(os.fsencode(tmp_path)))
    old = noise(8 * MIB)
    whole = old[: 2 * MIB] + b"an insertion" + old[2 * MIB :]
    older = write(disk.root, b"file", old)
    chunker = FastCdcChunker()
    refs = chunker.chunk(BytesIO(whole).read).refs
    position, parts = 0, []
    for ref in refs:
        parts.append(whole[position : position + ref.size])
        position += ref.size
    content = await stored.content(parts)
    fetched = Fetched(link, disk, chunker=chunker)
    assert await fetched.large(content, older) == whole
    assert len(link.asked) <= 3
    disk.close()


async def test_an_older_version_is_not_read_where_nothing_is_lacking(
    link: ScriptedLink, simulated: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    write(simulated.own.staging, part_name(content.digest), b"onetwo")
    older = write(simulated.root, b"file", b"older")
    opened = disk_below(simulated).counts["open"]
    fetched = Fetched(link, simulated)
    await fetched.fetcher.large(content, older, simulated.root, fetched.progress.append)
    assert disk_below(simulated).counts["open"] == opened


@pytest.mark.parametrize("what", ["gone", "link", "unreadable"])
async def test_an_older_version_need_not_be_there(
    link: ScriptedLink, simulated: Disk, stored: Stored, what: str
) -> None:
    parts = [noise(CHUNK, seed) for seed in range(4)]
    content = await stored.content(parts)
    older = MountedFile((), Name(b"file"))
    if what == "link":
        simulated.root.make_link(b"file", b"elsewhere")
    if what == "unreadable":
        write(simulated.root, b"file", b"".join(parts))
        disk_below(simulated).fail(errno.EIO, operation="file.read", path=b"file", times=None)
    before = simulated.open_handles
    assert await Fetched(link, simulated).large(content, older) == b"".join(parts)
    assert len(link.asked) == 4
    assert simulated.open_handles == before


@pytest.mark.parametrize("what", ["changed", "shorter", "unreadable"])
async def test_an_older_version_that_changes_at_any_moment(
    link: ScriptedLink, simulated: Disk, stored: Stored, what: str
) -> None:
    parts = [noise(CHUNK, seed) for seed in range(6)]
    content = await stored.content(parts)
    disk = disk_below(simulated)
    moments = asked = 0
    is_over = False
    while not is_over:
        moments += 1
        older = write(simulated.root, b"file", b"".join(parts[:4]))
        reads = 0

        def meddle(operation: Operation, moment: int = moments) -> None:
            nonlocal reads
            if operation.name == "file.read" and operation.path == b"file":
                reads += 1
                if reads < moment:
                    return
                disk.before = None
                if what == "unreadable":
                    disk.fail(errno.EIO, operation="file.read", path=b"file", times=None)
                else:
                    write(simulated.root, b"file", noise((4 if what == "changed" else 2) * CHUNK))

        disk.before = meddle
        before = simulated.open_handles
        link.asked.clear()
        fetched = Fetched(link, simulated)
        assert await fetched.large(content, older) == b"".join(parts)
        assert sum(fetched.progress) == content.size
        assert simulated.open_handles == before
        asked = len(link.asked)
        is_over = disk.before is not None
        disk.before = None
        disk.heal()
        simulated.own.staging.remove(content_name(content.digest))
    # It is read to be looked through, and to be copied.
    assert moments > 6
    assert asked == 2


# -- what cannot be had ------------------------------------------------------


async def test_a_missing_chunk_leaves_the_part_for_later(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    there = await stored.content([b"one", b"two"])
    refs = [*there.refs, ChunkRef(digest_of(b"three"), 5)]
    content = build_content(digest_of(b"onetwothree"), 11, refs)[0]
    fetched = Fetched(link, disk)
    with pytest.raises(NotFound) as caught:
        await fetched.large(content)
    assert caught.value.fields["digest"] == digest_of(b"three").hex()
    assert names(disk.own.staging) == {part_name(content.digest)}
    write(disk.own.staging, part_name(content.digest), b"one")
    await stored.content([b"three"])
    link.asked.clear()
    assert await fetched.large(content) == b"onetwothree"
    assert link.asked == [digest_of(b"two"), digest_of(b"three")]


async def test_chunks_that_make_another_whole_are_not_staged(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    there = await stored.content([b"one", b"two"])
    content = build_content(digest_of(b"another"), 6, there.refs)[0]
    fetched = Fetched(link, disk)
    with pytest.raises(Corrupt):
        await fetched.large(content)
    assert names(disk.own.staging) == set()
    assert fetched.fetcher.staged(content.digest) is None


async def test_a_manifest_that_lies_about_a_size(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    there = await stored.content([b"one", b"two"])
    lying = [ChunkRef(there.refs[0].digest, 4), ChunkRef(there.refs[1].digest, 2)]
    content = build_content(digest_of(b"onetwo"), 6, lying)[0]
    with pytest.raises(Corrupt):
        await Fetched(link, disk).large(content)


async def test_a_manifest_that_unfolds_to_too_much(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    piece = encode_piece([ChunkRef(digest_of(b"x"), 1)] * 5000)
    await stored.content([piece])
    ref = ChunkRef(digest_of(piece), len(piece))
    with pytest.raises(Invalid):
        await Fetched(link, disk).large(Content(digest_of(b"whole"), 10_000, 1, (ref, ref)))
    assert names(disk.own.staging) == set()


@pytest.mark.parametrize("operation", ["create", "file.write", "file.sync"])
async def test_a_full_disk_gets_its_space_back(
    link: ScriptedLink, simulated: Disk, stored: Stored, operation: str
) -> None:
    content = await stored.content([b"one", b"two"])
    before = simulated.open_handles
    disk_below(simulated).fail(errno.ENOSPC, operation=operation)
    fetched = Fetched(link, simulated)
    with pytest.raises(NoSpace) as caught:
        await fetched.large(content)
    assert caught.value.fields["where"] == "local"
    assert names(simulated.own.staging) == set()
    assert simulated.open_handles == before
    assert await fetched.large(content) == b"onetwo"


async def test_what_a_failed_sync_may_have_lost_is_not_believed(
    link: ScriptedLink, simulated: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    disk_below(simulated).fail(errno.EIO, operation="file.sync")
    fetched = Fetched(link, simulated)
    with pytest.raises(LocalFailure):
        await fetched.large(content)
    assert names(simulated.own.staging) == set()


async def test_too_many_open_files_cost_no_progress(
    link: ScriptedLink, simulated: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    write(simulated.own.staging, part_name(content.digest), b"one")
    disk_below(simulated).fail(errno.EMFILE, operation="open_to_write")
    fetched = Fetched(link, simulated)
    with pytest.raises(LocalFailure):
        await fetched.large(content)
    assert await fetched.large(content) == b"onetwo"
    assert link.asked == [digest_of(b"two")]


# -- what is staged ----------------------------------------------------------


async def test_a_staged_content_with_the_mode_of_its_entry_is_still_found(
    link: ScriptedLink, stored: Stored
) -> None:
    disk = Disk.open(SimulatedFiles(SimulatedDisk(is_root=False)))
    content = await stored.content([b"one", b"two"])
    await Fetched(link, disk).large(content)
    disk.own.staging.set_mode(content_name(content.digest), 0)
    link.asked.clear()
    assert await Fetched(link, disk).large(content) == b"onetwo"
    assert link.asked == []
    disk.close()


async def test_what_the_applier_took_is_not_staged_any_more(
    link: ScriptedLink, disk: Disk, stored: Stored
) -> None:
    content = await stored.content([b"one", b"two"])
    fetched = Fetched(link, disk)
    await fetched.large(content)
    name = content_name(content.digest)
    write(disk.root, b"file", b"a user's")
    disk.own.staging.exchange(name, disk.root, b"file")
    assert fetched.fetcher.staged(content.digest) is None
    assert await fetched.large(content) == b"onetwo"
    [kept] = names(disk.own.displaced)
    assert read(disk.own.displaced, kept) == b"a user's"


@pytest.mark.parametrize("operation", ["create", "file.write", "file.sync"])
async def test_a_fetch_that_is_given_up_closes_its_files(
    link: ScriptedLink, simulated: Disk, stored: Stored, operation: str
) -> None:
    parts = [noise(CHUNK, seed) for seed in range(6)]
    content = await stored.content(parts)
    disk = disk_below(simulated)
    is_in, may_go_on = threading.Event(), threading.Event()

    def wait(seen: Operation) -> None:
        if seen.name == operation:
            is_in.set()
            assert may_go_on.wait(20.0)

    before = simulated.open_handles
    disk.before = wait
    reads = HeldExecutor()
    reads.may_go_on.set()
    fetched = Fetched(link, simulated, reads=reads)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fetched.large(content))
        await eventually(is_in.is_set, "a thread is in the file")
        task.cancel()
        # The successor waits for the thread that nobody else waits for.
        again = group.create_task(fetched.large(content))
        await eventually(task.done, "the first one is given up")
        may_go_on.set()
    assert task.cancelled()
    assert again.result() == b"".join(parts)
    reads.close()
    assert simulated.open_handles == before


# -- crashes -----------------------------------------------------------------


@pytest.mark.parametrize("power_loss", [False, True], ids=["kill", "power"])
async def test_a_crash_before_any_operation_is_survived(
    link: ScriptedLink, stored: Stored, *, power_loss: bool
) -> None:
    """Crash before operation 0, 1, 2, ... and fetch again in a new process."""
    parts = [noise(700, seed) for seed in range(4)] + [bytes(900)]
    whole = b"".join(parts)
    content = await stored.content(parts)
    random = Random(5)
    crashes = 0
    while True:
        simulated = SimulatedDisk()
        disk = Disk.open(SimulatedFiles(simulated))
        older = write(disk.root, b"file", b"".join(parts[1:3]))
        disk.own.top.sync_all()
        countdown = crashes

        def crash(operation: Operation, simulated: SimulatedDisk = simulated) -> None:
            nonlocal countdown
            if countdown == 0:
                simulated.before = None
                raise Crashed
            countdown -= 1

        simulated.before = crash
        fetched = Fetched(link, disk, chunker=FixedChunker(700))
        is_crashed = False
        try:
            await fetched.fetcher.large(content, older, disk.root, fetched.progress.append)
        except* Crashed:
            is_crashed = True
        if not is_crashed:
            break
        crashes += 1
        simulated.crash(random, power_loss=power_loss)
        disk = Disk.open(SimulatedFiles(simulated))
        assert await Fetched(link, disk, chunker=FixedChunker(700)).large(content, older) == whole
        assert names(disk.own.staging) == {content_name(content.digest)}
        assert read(disk.root, b"file") == b"".join(parts[1:3])
    assert crashes > 15


async def test_a_whole_content_survives_a_power_loss(link: ScriptedLink, stored: Stored) -> None:
    parts = [noise(700, seed) for seed in range(4)]
    content = await stored.content(parts)
    for seed in range(20):
        simulated = SimulatedDisk()
        disk = Disk.open(SimulatedFiles(simulated))
        disk.own.top.sync_all()
        await Fetched(link, disk).large(content)
        simulated.crash(Random(seed), power_loss=True)
        link.asked.clear()
        disk = Disk.open(SimulatedFiles(simulated))
        assert await Fetched(link, disk).large(content) == b"".join(parts)
        assert link.asked == []
