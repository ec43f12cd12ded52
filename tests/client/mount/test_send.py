"""Sending batches: what travels, what a changed file comes to, and that nothing stays open."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import pytest

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.posix_files import PosixFiles
from syncline.client.mount.batching import Batch
from syncline.client.mount.contents import Contents
from syncline.client.mount.mounted_file import Above, MountedFile, mounted_file
from syncline.client.mount.send import FileChanged, FileUnread, Sender
from syncline.core.bodies import Compressed
from syncline.core.changes import Answer, Change, Delete, Proposal, PutDirectory, PutFile
from syncline.core.entries import Kind
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import (
    NO_REVISION,
    ROOT_ID,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    digest_of,
)
from syncline.core.names import Name
from syncline.core.trees import State
from syncline.errors import ProtocolBroken, Unavailable
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.files import Directory
from syncline.ports.link import ChunkSource
from syncline.ports.mount_state import MountFacts
from syncline.server.volume import ServedVolume
from tests.support.bodies import text
from tests.support.links import ScriptedLink, failing
from tests.support.serving import ALICE, accepted, codes, fetched, grpc_link
from tests.support.simulation.disk import Operation, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.transfers import (
    KIB,
    MIB,
    Disk,
    FixedChunker,
    HeldExecutor,
    InlineExecutor,
    below,
    noise,
    put_of,
    write,
)
from tests.support.wait import eventually

OP = OpId(b"the op id is 16b")
CHUNKER = FixedChunker(16 * KIB)


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


def disk_below(disk: Disk) -> SimulatedDisk:
    assert isinstance(disk.files, SimulatedFiles)
    return disk.files.disk


class Sent:
    """A sender with what tests do not care for; notes progress."""

    def __init__(
        self,
        link: ScriptedLink,
        root: Directory,
        *,
        contents: Contents | None = None,
        chunker: Chunker = CHUNKER,
        reads: Executor | None = None,
    ) -> None:
        self.contents = contents or Contents()
        self.progress: list[int] = []
        self._sender = Sender(
            link, ALICE, chunker, self.contents, root, reads or InlineExecutor(), wait_s=1.5
        )

    async def send(
        self,
        changes: Sequence[Change],
        files: Mapping[EntryId, MountedFile],
        *,
        op: OpId = OP,
        is_atomic: bool = False,
        is_confirmed: bool = False,
    ) -> Answer:
        return await self._sender.send(
            Batch(tuple(changes), is_atomic),
            op,
            files,
            is_confirmed=is_confirmed,
            progress=self.progress.append,
        )


# -- what travels ------------------------------------------------------------


async def test_small_files_travel_inside_the_store(link: ScriptedLink, disk: Disk) -> None:
    wholes = [b"one", b"", noise(64 * KIB)]
    puts = [put_of(whole, number) for number, whole in enumerate(wholes, 1)]
    files = {
        put.id: write(disk.root, put.name, whole) for put, whole in zip(puts, wholes, strict=True)
    }
    before = disk.open_handles
    sent = Sent(link, disk.root)
    answer = await sent.send(puts, files)
    assert accepted(answer) == [1, 1, 1]
    assert [await fetched(link, put.content) for put in puts] == wholes
    assert link.sent == []
    assert set(link.proposals[0].inline.values()) == set(wholes)
    assert link.proposals[0].wait_s == 1.5
    assert sum(sent.progress) == sum(map(len, wholes))
    assert disk.open_handles == before


async def test_what_was_read_before_is_not_read_again(link: ScriptedLink, disk: Disk) -> None:
    small, medium = put_of(b"small", 1), put_of(noise(300 * KIB), 2, chunk_bytes=100 * KIB)
    sent = Sent(link, disk.root)
    sent.contents.put(small.content.digest, b"small")
    sent.contents.put(medium.content.digest, noise(300 * KIB))
    gone = {put.id: MountedFile((), Name(b"gone")) for put in (small, medium)}
    assert accepted(await sent.send([small, medium], gone)) == [1, 1]
    assert await fetched(link, medium.content) == noise(300 * KIB)


async def test_what_was_read_to_be_sent_is_held(link: ScriptedLink, disk: Disk) -> None:
    put = put_of(b"small")
    sent = Sent(link, disk.root)
    await sent.send([put], {put.id: write(disk.root, put.name, b"small")})
    assert sent.contents.get(put.content.digest) == b"small"


async def test_only_chunks_that_the_server_lacks_travel(link: ScriptedLink, disk: Disk) -> None:
    whole = noise(300 * KIB)
    edited = whole[: 100 * KIB] + noise(100 * KIB, 2) + whole[200 * KIB :]
    one, other = put_of(whole, 1, chunk_bytes=100 * KIB), put_of(edited, 2, chunk_bytes=100 * KIB)
    sent = Sent(link, disk.root)
    await sent.send([one], {one.id: write(disk.root, one.name, whole)})
    link.sent.clear()
    sent.progress.clear()
    before = disk.open_handles
    await sent.send([other], {other.id: write(disk.root, other.name, edited)}, op=OpId(b"2" * 16))
    assert link.sent == [other.content.refs[1].digest]
    assert await fetched(link, other.content) == edited
    assert sent.progress == [100 * KIB, 200 * KIB]
    assert disk.open_handles == before


@pytest.mark.parametrize("is_in_memory", [False, True])
async def test_chunks_are_compressed_where_it_pays_each_file_for_itself(
    link: ScriptedLink, disk: Disk, is_in_memory: bool
) -> None:
    wholes = [noise(900 * KIB), text(900 * KIB), noise(900 * KIB, 2)]
    puts = [put_of(whole, n, chunk_bytes=100 * KIB) for n, whole in enumerate(wholes, 1)]
    sent = Sent(link, disk.root)
    files = {}
    for put, whole in zip(puts, wholes, strict=True):
        files[put.id] = write(disk.root, put.name, whole)
        if is_in_memory:
            sent.contents.put(put.content.digest, whole)
    assert accepted(await sent.send(puts, files)) == [1, 1, 1]
    assert [await fetched(link, put.content) for put in puts] == wholes
    assert [isinstance(body, Compressed) for body in link.bodies] == 9 * [False] + 9 * [
        True
    ] + 9 * [False]
    # Told in bytes of the files, however few of them travelled.
    assert sum(sent.progress) == 3 * 900 * KIB
    assert sent.progress[9:18] == 9 * [100 * KIB]


async def test_the_pieces_of_a_manifest_are_not_compressed(link: ScriptedLink, disk: Disk) -> None:
    whole = text(3 * MIB // 2)
    put = put_of(whole, chunk_bytes=16 * KIB)
    assert put.content.depth == 1
    await Sent(link, disk.root).send([put], {put.id: write(disk.root, put.name, whole)})
    pieces = {ref.digest for ref in put.content.refs}
    kinds = {
        isinstance(body, Compressed)
        for digest, body in zip(link.sent, link.bodies, strict=True)
        if digest in pieces
    }
    assert kinds == {False}
    assert any(isinstance(body, Compressed) for body in link.bodies)


async def test_a_long_manifest_is_made_again_from_the_file(link: ScriptedLink, disk: Disk) -> None:
    whole = noise(3 * MIB // 2)
    put = put_of(whole, chunk_bytes=16 * KIB)
    assert put.content.depth == 1
    sent = Sent(link, disk.root)
    before = disk.open_handles
    await sent.send([put], {put.id: write(disk.root, put.name, whole)})
    assert len(link.sent) == 96 + len(put.content.refs)
    assert sum(sent.progress) == len(whole)
    assert disk.open_handles == before
    assert sent.contents.get_pieces(put.content) is not None


async def test_a_long_manifest_in_memory_spares_a_reading(
    link: ScriptedLink, simulated: Disk
) -> None:
    whole = noise(3 * MIB // 2)
    put = put_of(whole, chunk_bytes=16 * KIB)
    sent = Sent(link, simulated.root)
    sent.contents.put_pieces(CHUNKER.chunk(BytesIO(whole).read).pieces)
    file = write(simulated.root, put.name, whole)
    counts = disk_below(simulated).counts
    reads = counts["file.read"]
    assert accepted(await sent.send([put], {put.id: file})) == [1]
    assert counts["file.read"] == reads + 96


async def test_two_long_manifests_in_one_store(link: ScriptedLink, disk: Disk) -> None:
    wholes = [noise(3 * MIB // 2, seed) for seed in (1, 2)]
    puts = [put_of(whole, n, chunk_bytes=16 * KIB) for n, whole in enumerate(wholes, 1)]
    files = {
        put.id: write(disk.root, put.name, whole) for put, whole in zip(puts, wholes, strict=True)
    }
    answer = await Sent(link, disk.root).send(puts, files, is_atomic=True)
    assert accepted(answer) == [1, 1]


async def test_the_real_chunker_and_files_in_directories(link: ScriptedLink, disk: Disk) -> None:
    whole = noise(3 * MIB)
    above = tuple(below(disk.root, b"a", b"b"))
    outer = disk.root.enter(b"a")
    inner = outer.enter(b"b")
    write(inner, b"file-1", whole)
    inner.close()
    outer.close()
    chunked = FastCdcChunker().chunk(BytesIO(whole).read)
    put = PutFile(EntryId(b"i" * 16), NO_REVISION, ROOT_ID, Name(b"f"), 0, 0, chunked.content)
    sent = Sent(link, disk.root, chunker=FastCdcChunker())
    await sent.send([put], {put.id: MountedFile(above, Name(b"file-1"))})
    assert await fetched(link, put.content) == whole


async def test_deletes_alone_go_by_delete(link: ScriptedLink, disk: Disk) -> None:
    put = put_of(b"small")
    sent = Sent(link, disk.root)
    await sent.send([put], {put.id: write(disk.root, put.name, b"small")})
    answer = await sent.send(
        [Delete(put.id, Revision(1))], {}, op=OpId(b"2" * 16), is_confirmed=True
    )
    assert accepted(answer) == [2]
    assert link.calls == ["store", "delete"]
    assert link.proposals[1].is_confirmed


async def test_refusals_are_answers_and_atomic_is_passed_on(link: ScriptedLink, disk: Disk) -> None:
    directory = PutDirectory(EntryId(b"d" * 16), NO_REVISION, ROOT_ID, Name(b"d"), 0o755)
    lost = Delete(EntryId(b"x" * 16), Revision(5))
    sent = Sent(link, disk.root)
    answer = await sent.send([directory, lost], {}, is_atomic=True)
    assert codes(answer) == ["atomic", "stale"]
    assert link.proposals[0].is_atomic


async def test_a_repetition_gets_the_first_answer(link: ScriptedLink, disk: Disk) -> None:
    put = put_of(noise(300 * KIB), chunk_bytes=100 * KIB)
    files = {put.id: write(disk.root, put.name, noise(300 * KIB))}
    sent = Sent(link, disk.root)
    link.after["store"] = [failing(Unavailable("the connection broke"))]
    with pytest.raises(Unavailable):
        await sent.send([put], files)
    answer = await sent.send([put], files)
    assert answer.is_replay
    assert accepted(answer) == [1]


async def test_a_file_may_be_left_out_where_the_server_has_its_content(
    link: ScriptedLink, disk: Disk
) -> None:
    small, large = put_of(b"small", 1), put_of(noise(300 * KIB), 2, chunk_bytes=100 * KIB)
    wholes = {small.id: b"small", large.id: noise(300 * KIB)}
    files = {put.id: write(disk.root, put.name, wholes[put.id]) for put in (small, large)}
    await Sent(link, disk.root).send([small, large], files)
    copies = [put_of(b"small", 3), put_of(noise(300 * KIB), 4, chunk_bytes=100 * KIB)]
    answer = await Sent(link, disk.root).send(copies, {}, op=OpId(b"2" * 16))
    assert accepted(answer) == [2, 2]


# -- what is not there any more ----------------------------------------------


@pytest.mark.parametrize("now", [b"other", b"smal", b""])
async def test_a_changed_small_file_is_not_sent(link: ScriptedLink, disk: Disk, now: bytes) -> None:
    puts = [put_of(b"small", 1), put_of(b"large", 2), put_of(b"right", 3)]
    files = {put.id: write(disk.root, put.name, now) for put in puts[:2]}
    files[puts[2].id] = write(disk.root, puts[2].name, b"right")
    before = disk.open_handles
    with pytest.raises(FileChanged) as caught:
        await Sent(link, disk.root).send(puts, files)
    assert caught.value.ids == (puts[0].id, puts[1].id)
    assert caught.value.code == "local_failure"
    assert link.calls == []
    assert disk.open_handles == before


@pytest.mark.parametrize("chunk_bytes", [100 * KIB, 16 * KIB], ids=["direct", "pieces"])
async def test_a_changed_large_file_ends_the_store(
    link: ScriptedLink, disk: Disk, chunk_bytes: int
) -> None:
    whole = noise(3 * MIB // 2)
    good = put_of(noise(300 * KIB, 5), 1, chunk_bytes=100 * KIB)
    put = put_of(whole, 2, chunk_bytes=chunk_bytes)
    files = {
        good.id: write(disk.root, good.name, noise(300 * KIB, 5)),
        put.id: write(disk.root, put.name, whole[:-1] + b"!"),
    }
    before = disk.open_handles
    with pytest.raises(FileChanged) as caught:
        await Sent(link, disk.root).send([good, put], files)
    assert caught.value.ids == (put.id,)
    assert disk.open_handles == before


async def test_a_manifest_that_was_cut_otherwise_is_a_changed_file(
    link: ScriptedLink, disk: Disk
) -> None:
    whole = noise(3 * MIB // 2)
    put = put_of(whole, chunk_bytes=17 * KIB)
    with pytest.raises(FileChanged) as caught:
        await Sent(link, disk.root).send([put], {put.id: write(disk.root, put.name, whole)})
    assert caught.value.ids == (put.id,)


@pytest.mark.parametrize("size", [100, 300 * KIB])
@pytest.mark.parametrize("what", ["gone", "link", "directory", "no directory", "another directory"])
async def test_another_thing_on_the_way_is_a_changed_file(
    link: ScriptedLink, disk: Disk, what: str, size: int
) -> None:
    put = put_of(noise(size), chunk_bytes=100 * KIB)
    [above] = below(disk.root, b"d")
    directory = disk.root.enter(b"d")
    match what:
        case "link":
            write(disk.root, b"elsewhere", noise(size))
            directory.make_link(put.name, b"../elsewhere")
        case "directory":
            directory.make_directory(put.name, 0o755)
        case "no directory":
            disk.root.remove_directory(b"d")
        case "another directory":
            write(directory, put.name, noise(size))
            above = Above(above.name, (above.inode or 0) + 1)
    directory.close()
    before = disk.open_handles
    with pytest.raises(FileChanged) as caught:
        await Sent(link, disk.root).send([put], {put.id: MountedFile((above,), put.name)})
    assert caught.value.ids == (put.id,)
    assert disk.open_handles == before


async def test_a_file_without_a_way_that_the_server_lacks_has_changed(
    link: ScriptedLink, disk: Disk
) -> None:
    put = put_of(b"small")
    with pytest.raises(FileChanged) as caught:
        await Sent(link, disk.root).send([put], {})
    assert caught.value.ids == (put.id,)


@pytest.mark.parametrize("size", [100, 300 * KIB])
async def test_an_unreadable_file_is_told_apart(
    link: ScriptedLink, simulated: Disk, size: int
) -> None:
    put = put_of(noise(size), chunk_bytes=100 * KIB)
    files = {put.id: write(simulated.root, put.name, noise(size))}
    before = simulated.open_handles
    disk_below(simulated).fail(errno.EIO, operation="file.read")
    with pytest.raises(FileUnread) as caught:
        await Sent(link, simulated.root).send([put], files)
    assert caught.value.ids == (put.id,)
    assert caught.value.fields["errno"] == "EIO"
    assert simulated.open_handles == before
    assert accepted(await Sent(link, simulated.root).send([put], files)) == [1]


async def test_all_unreadable_small_files_are_named(link: ScriptedLink, simulated: Disk) -> None:
    puts = [put_of(b"%d" % number, number) for number in (1, 2, 3)]
    files = {put.id: write(simulated.root, put.name, b"%d" % n) for n, put in enumerate(puts, 1)}
    disk_below(simulated).fail(errno.EACCES, operation="open", times=2)
    with pytest.raises(FileUnread) as caught:
        await Sent(link, simulated.root).send(puts, files)
    assert caught.value.ids == (puts[0].id, puts[1].id)


async def test_a_chunk_that_nobody_names_is_the_servers_fault(
    link: ScriptedLink, disk: Disk
) -> None:
    put = put_of(b"small")
    files = {put.id: write(disk.root, put.name, b"small")}

    class Asking(ScriptedLink):
        async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
            raise AssertionError(await source(digest_of(b"another")))

    with pytest.raises(ProtocolBroken):
        await Sent(Asking(link), disk.root).send([put], files)


async def test_an_answer_for_another_number_of_changes_is_refused(
    link: ScriptedLink, disk: Disk
) -> None:
    put = put_of(b"small")

    class Short(ScriptedLink):
        async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
            return Answer(Revision(1), ())

    sent = Sent(Short(link), disk.root)
    with pytest.raises(ProtocolBroken):
        await sent.send([put], {put.id: write(disk.root, put.name, b"small")})
    assert sent.progress == []


async def test_over_the_wire(volume: ServedVolume, disk: Disk) -> None:
    async with grpc_link(volume) as wire:
        link = ScriptedLink(wire)
        whole = noise(3 * MIB // 2)
        put = put_of(whole, chunk_bytes=16 * KIB)
        sent = Sent(link, disk.root)
        file = write(disk.root, put.name, whole[:-1] + b"!")
        before = disk.open_handles
        with pytest.raises(FileChanged) as caught:
            await sent.send([put], {put.id: file})
        assert caught.value.ids == (put.id,)
        write(disk.root, put.name, whole)
        assert accepted(await sent.send([put], {put.id: file})) == [1]
        assert disk.open_handles == before


# -- giving up ---------------------------------------------------------------


async def test_work_that_begins_after_it_was_given_up_opens_nothing(
    link: ScriptedLink, simulated: Disk
) -> None:
    put = put_of(noise(300 * KIB), chunk_bytes=100 * KIB)
    files = {put.id: write(simulated.root, put.name, noise(300 * KIB))}
    before = simulated.open_handles
    reads = HeldExecutor()
    sent = Sent(link, simulated.root, reads=reads)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sent.send([put], files))
        await eventually(reads.begun.is_set, "the work began")
        task.cancel()
    reads.may_go_on.set()
    await eventually(reads.ended.is_set, "the work ended")
    reads.close()
    assert task.cancelled()
    assert simulated.open_handles == before
    assert link.sent == []


@pytest.mark.parametrize("operation", ["open", "file.read"])
async def test_a_file_that_a_thread_is_reading_is_closed_when_it_is_done(
    link: ScriptedLink, simulated: Disk, operation: str
) -> None:
    whole = noise(3 * MIB // 2)
    put = put_of(whole, chunk_bytes=16 * KIB)
    files = {put.id: write(simulated.root, put.name, whole)}
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
    sent = Sent(link, simulated.root, reads=reads)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sent.send([put], files))
        await eventually(is_in.is_set, "a thread is in the file")
        task.cancel()
    count = disk.counts["file.read"]
    assert simulated.open_handles == before + (operation == "file.read")
    may_go_on.set()
    await eventually(lambda: simulated.open_handles == before, "the file is closed")
    reads.close()
    # The rest of the file was not read for nobody.
    assert disk.counts["file.read"] <= count + 1


# -- the way to a file -------------------------------------------------------


def test_the_way_to_a_place_is_what_local_knows() -> None:
    state = MemoryMountState(MountFacts(ReplicaId(b"r" * 16), None, None))
    outer, inner = EntryId(b"o" * 16), EntryId(b"i" * 16)
    with state.session() as session:
        session.set_local(outer, directory_seen(ROOT_ID, b"outer", 11))
        session.set_local(inner, directory_seen(outer, b"inner", None))
        file = mounted_file(session, (inner, Name(b"file")))
        assert mounted_file(session, (EntryId(b"x" * 16), Name(b"file"))) is None
    assert file is not None
    assert file.above == (Above(Name(b"outer"), 11), Above(Name(b"inner"), None))
    assert bytes(file.path) == b"outer/inner/file"


def directory_seen(parent: EntryId, name: bytes, inode: int | None) -> Seen:
    state = State(parent, Name(name), Kind.DIRECTORY, 0o755, 0, None, None)
    return Seen(state, None if inode is None else Fingerprint(inode, 0, 0, 0, 0))


async def test_a_deep_way_leaves_only_the_file_open(disk: Disk) -> None:
    above = tuple(below(disk.root, *(b"d%d" % depth for depth in range(60))))
    directory = disk.root
    for step in above:
        inner = directory.enter(step.name)
        if directory is not disk.root:
            directory.close()
        directory = inner
    write(directory, b"file", b"content")
    directory.close()
    before = disk.open_handles
    file = MountedFile(above, Name(b"file")).open(disk.root)
    assert file.read(10, 0) == b"content"
    assert disk.open_handles == before + 1
    file.close()
    with pytest.raises(OSError, match=r".") as caught:
        MountedFile((*above[:-1], Above(above[-1].name, 1)), Name(b"file")).open(disk.root)
    assert caught.value.errno == errno.ESTALE
    assert disk.open_handles == before
