"""`verify`: bit rot and wrong tables are found and told, and never synced; damage is refilled."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.client.mount import verify, verify_files, verify_table
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId, Revision, digest_of
from syncline.core.names import Name
from syncline.core.trees import Mode, state_of
from syncline.errors import Throttled
from syncline.ports.mount_control import (
    FindingCode,
    MountPhase,
    VerifyEnd,
    VerifyResult,
    WaitEnd,
)
from syncline.server.verify_chunks import verify_chunks
from tests.support.scenes import Player, Scene, run_scene, simulated
from tests.support.simulation.machines import Settings

LARGE_BYTES = 1024 * 1024
LARGE = random.Random(7).randbytes(LARGE_BYTES * 2)
FOLDED = random.Random(8).randbytes(24_000_000)
"""So large that its manifest is stored as chunks itself."""


def rot(player: Player, path: bytes, offset: int = 0) -> None:
    """Flip a bit of a file, as a disk does: no time moves, and nobody is told."""
    player.user.inode(path).content[offset] ^= 1


def codes(result: VerifyResult) -> dict[bytes, str]:
    return {bytes(finding.path): finding.code for finding in result.findings}


async def in_sync(scene: Scene) -> Player:
    """Return a mount with a few things of each kind."""
    ann = scene.add("ann")
    ann.user.mkdir(b"d")
    ann.user.mkdir(b"d/e")
    ann.user.write(b"d/e/file", b"content")
    ann.user.write(b"empty", b"")
    ann.user.write(b"large", LARGE)
    ann.user.symlink(b"link", b"d/e/file")
    ann.user.write(b".synclineignore", b"*.o\nbuild/\n")
    ann.user.write(b"a.o", b"ignored")
    ann.user.mkdir(b"build")
    ann.user.write(b"build/b", b"ignored")
    await scene.rest(ann)
    return ann


# -- what is on the disk ---------------------------------------------------------------


@simulated
async def test_a_mount_in_sync_is_equal(scene: Scene) -> None:
    ann = await in_sync(scene)
    before = (scene.head, len(ann.way.proposals), ann.contents())
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.EQUAL, result
    assert (result.entries, result.size) == (7, len(b"content*.o\nbuild/\n") + len(LARGE))
    assert (result.findings, result.finding_count, result.pending_count) == ((), 0, 0)
    assert (scene.head, len(ann.way.proposals), ann.contents()) == before
    assert ann.status.verifying is None
    assert ann.is_in(MountPhase.IN_SYNC)


@simulated
async def test_an_empty_mount_is_equal(scene: Scene) -> None:
    ann = scene.add("ann")
    result = await ann.mount.verify(None)
    assert (result.end, result.entries) == (VerifyEnd.EQUAL, 0)


@simulated
async def test_bit_rot_is_told_and_never_synced(scene: Scene) -> None:
    ann, bob = await in_sync(scene), scene.add("bob")
    await scene.rest(ann, bob)
    head, proposals = scene.head, len(ann.way.proposals)
    rot(ann, b"d/e/file")
    rot(ann, b"large", LARGE_BYTES)
    assert (await ann.mount.wait(None)).end is WaitEnd.IN_SYNC, "nobody can know yet"
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.FINDINGS
    assert codes(result) == {b"d/e/file": "content_differs", b"large": "content_differs"}
    assert result.entries == 7
    [small, _] = result.findings
    assert digest_of(b"content").hex()[:16] in small.detail
    # It lasts, and no look and no other verification sends it.
    assert ann.is_in(MountPhase.WAITING)
    assert ann.problems == codes(result)
    assert (await ann.mount.wait(None)).end is WaitEnd.PROBLEMS
    await scene.passes(4_000.0)
    again = await ann.mount.verify(None)
    assert (codes(again), ann.problems) == (codes(result), codes(result))
    assert (scene.head, len(ann.way.proposals)) == (head, proposals)
    assert bob.contents()[b"d/e/file"] == b"content"


@simulated
async def test_content_that_is_put_back_is_no_finding_any_more(scene: Scene) -> None:
    ann = await in_sync(scene)
    rot(ann, b"d/e/file")
    rot(ann, b"large")
    assert (await ann.mount.verify(None)).finding_count == 2
    head = scene.head
    mtime_ns = ann.user.tree()[b"large"].mtime_ns
    ann.user.write(b"large", LARGE)
    ann.user.utime(b"large", mtime_ns)
    await scene.until(lambda: set(ann.problems) == {b"d/e/file"}, "the file is well again")
    # As after a write from memory that nobody was told of: whoever touches the file stands for it.
    ann.user.utime(b"d/e/file", 10**18)
    await scene.rest(ann)
    assert ann.problems == {}
    assert scene.head == head + 1
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL


@simulated
async def test_a_rotten_file_that_is_well_again_is_no_problem_after_the_next_time(
    scene: Scene,
) -> None:
    ann = await in_sync(scene)
    rot(ann, b"large")
    assert (await ann.mount.verify(None)).finding_count == 1
    rot(ann, b"large")
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL
    assert ann.problems == {}


@simulated
async def test_what_the_user_changed_is_synced_and_no_finding(scene: Scene) -> None:
    ann = await in_sync(scene)
    ann.user.write(b"d/e/file", b"edited")
    ann.user.unlink(b"empty")
    ann.user.write(b"new", b"new")
    ann.user.chmod(b"large", 0o600)
    ann.user.rename(b"link", b"moved")
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.EQUAL, result
    bob = scene.add("bob")
    await scene.rest(ann, bob)
    assert bob.contents() == {
        path: content
        for path, content in ann.contents().items()
        if path not in (b"a.o", b"build", b"build/b")
    }


@simulated
async def test_what_the_watcher_never_told_is_found_and_synced(scene: Scene) -> None:
    ann, bob = await in_sync(scene), scene.add("bob")
    await scene.rest(ann, bob)
    listeners = list(ann.disk.listeners)
    ann.disk.listeners.clear()
    ann.user.write(b"d/e/file", b"edited")
    ann.user.unlink(b"empty")
    ann.user.mkdir(b"new")
    ann.user.write(b"new/file", b"new")
    ann.user.write(b"more.o", b"ignored")
    ann.user.chmod(b"large", 0o600)
    ann.user.chmod(b"d", 0o700)
    ann.user.unlink(b"link")
    ann.user.symlink(b"link", b"elsewhere")
    ann.disk.listeners.extend(listeners)
    await scene.passes(60.0)
    assert ann.is_in(MountPhase.IN_SYNC), "nobody was told"
    assert b"new/file" not in bob.contents()
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.EQUAL, result
    await scene.rest(ann, bob)
    trees = [
        {
            path: (node.kind, node.content, node.mode)
            for path, node in player.user.tree().items()
            if path.partition(b"/")[0] not in (b".syncline", b"build") and path[-2:] != b".o"
        }
        for player in (ann, bob)
    ]
    assert trees[0] == trees[1]
    assert b"new/file" in trees[1]
    assert b"empty" not in trees[1]


@simulated
async def test_what_changes_while_it_is_read_is_looked_at_again(scene: Scene) -> None:
    ann = await in_sync(scene)
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(ann.mount.verify(None))
        await scene.until(lambda: ann.status.verifying is not None, "it begins")
        for number in range(20):
            ann.user.write(b"d/e/file", b"edited %d" % number)
            ann.user.save(b"empty", b"%d" % number)
            await scene.passes(0.001)
        result = await verifying
    assert result.end is VerifyEnd.EQUAL, result


@simulated
async def test_a_file_that_never_rests_is_pending(scene: Scene) -> None:
    ann = await in_sync(scene)
    is_over = asyncio.Event()

    async def log() -> None:
        with closing(ann.user.open_writer(b"large")) as writer:
            while not is_over.is_set():
                writer.write(b"line")
                await scene.passes(0.005)

    async with asyncio.TaskGroup() as group:
        group.create_task(log())
        await scene.passes(0.1)
        result = await ann.mount.verify(None)
        is_over.set()
    assert result.end is VerifyEnd.PENDING
    assert [bytes(path) for path in result.pending] == [b"large"]
    assert result.finding_count == 0


@simulated
async def test_a_file_that_is_open_for_writing_is_read_all_the_same(scene: Scene) -> None:
    ann = await in_sync(scene)
    with closing(ann.user.open_writer(b"d/e/file")):
        result = await ann.mount.verify(None)
        assert result.end is VerifyEnd.EQUAL, result


@simulated
async def test_a_file_that_cannot_be_read_is_a_finding(scene: Scene) -> None:
    ann = await in_sync(scene)
    ann.disk.fail(errno.EIO, operation="file.read", path=b"mount/d/e/file", times=None)
    result = await ann.mount.verify(None)
    assert (result.end, codes(result)) == (VerifyEnd.FINDINGS, {b"d/e/file": "unread"})
    assert ann.problems == codes(result)
    ann.disk.heal()
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL
    assert ann.problems == {}


@simulated
async def test_what_the_scanner_denies_is_found(scene: Scene) -> None:
    """Let the records be wrong in ways that no look mends, because it takes them for its own."""
    ann = await in_sync(scene)
    link = ann.id(b"link")
    with ann.state.session() as session:
        seen = session.local(link)
        assert seen is not None
        wrong = Seen(replace(seen.state, target=b"elsewhere"), seen.fingerprint)
        session.set_local(link, wrong)
        session.set_base(link, wrong.state)
        remote = session.remote(link)
        assert remote is not None
        session.set_remote(replace(remote, target=b"elsewhere"), "x", is_confirmed=False)
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.FINDINGS
    assert {(bytes(each.path), each.code) for each in result.findings} == {
        (b"link", FindingCode.CONTENT.value),
        (b"link", FindingCode.TABLE.value),
    }


def test_bounds_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "READ_FILES_AT_ONCE", 2)
    monkeypatch.setattr(verify, "LASTING_MAX", 3)
    monkeypatch.setattr(verify, "FINDINGS_SHOWN_MAX", 2)
    monkeypatch.setattr(verify_files, "ENTRIES_AT_ONCE", 3)
    monkeypatch.setattr(verify_files, "NAMES_AT_ONCE", 3)
    monkeypatch.setattr(verify_table, "IDS_AT_ONCE", 4)

    async def play(scene: Scene) -> None:
        ann = scene.add("ann")
        for number in range(25):
            ann.user.write(b"%02d" % number, b"%d" % number * 10)
        await scene.rest(ann)
        result = await ann.mount.verify(None)
        assert (result.end, result.entries, result.size) == (VerifyEnd.EQUAL, 25, 400)
        for number in range(5):
            rot(ann, b"%02d" % number)
        result = await ann.mount.verify(None)
        assert (result.finding_count, len(result.findings)) == (5, 2)
        assert ann.status.problem_count == 3

    run_scene(play)


def test_more_suspects_than_memory_may_hold_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SUSPECTS_MAX", 2)

    async def play(scene: Scene) -> None:
        ann = scene.add("ann")
        for number in range(9):
            ann.user.write(b"%d" % number, b"%d" % number)
        await scene.rest(ann)

        async with asyncio.TaskGroup() as group:
            verifying = group.create_task(ann.mount.verify(None))
            await scene.until(lambda: _has_begun(ann), "it compares the table")
            for number in range(9):
                ann.user.chmod(b"%d" % number, 0o600)
            result = await verifying
        assert (result.end, result.finding_count) == (VerifyEnd.PENDING, 0), result
        assert result.pending_count == 7
        await scene.rest(ann)
        assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL

    run_scene(play)


def _has_begun(player: Player) -> bool:
    verifying = player.status.verifying
    return verifying is not None and verifying.total > 0


# -- how it ends -------------------------------------------------------------------------


@simulated
async def test_without_a_server_it_waits_until_it_gives_up(scene: Scene) -> None:
    ann = await in_sync(scene)
    await scene.server.stop()
    result = await ann.mount.verify(5.0)
    assert result.end is VerifyEnd.TIMED_OUT
    assert ann.status.verifying is None
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(ann.mount.verify(None))
        await scene.passes(3.0)
        await scene.server.start(scene.group)
        result = await verifying
    assert result.end is VerifyEnd.EQUAL


@simulated
async def test_a_server_that_goes_away_in_the_middle_is_waited_for(scene: Scene) -> None:
    ann = await in_sync(scene)
    begins = len(ann.way.begins)
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(ann.mount.verify(None))
        await scene.until(lambda: len(ann.way.begins) > begins, "the table is asked for")
        await scene.server.stop()
        await scene.passes(2.0)
        await scene.server.start(scene.group)
        result = await verifying
    assert result.end is VerifyEnd.EQUAL


@simulated
async def test_two_at_once_take_turns(scene: Scene) -> None:
    ann = await in_sync(scene)
    async with asyncio.TaskGroup() as group:
        both = [group.create_task(ann.mount.verify(None)) for _ in range(2)]
    assert [task.result().end for task in both] == [VerifyEnd.EQUAL] * 2


@simulated
async def test_a_caller_that_goes_away_ends_it(scene: Scene) -> None:
    ann = await in_sync(scene)
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(ann.mount.verify(None))
        await scene.until(lambda: ann.status.verifying is not None, "it begins")
        verifying.cancel()
    assert verifying.cancelled()
    await scene.until(lambda: ann.status.verifying is None, "it ended")
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL


@simulated
async def test_a_halted_mount_is_not_verified(scene: Scene) -> None:
    ann = await in_sync(scene)
    await scene.restore_backup()
    await scene.until(lambda: ann.is_in(MountPhase.HALTED), "the history is cut")
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.HALTED
    assert result.status.halt is not None
    assert (await ann.mount.verify(None)).end is VerifyEnd.HALTED


@simulated
async def test_paths_with_problems_are_not_called_equal(scene: Scene) -> None:
    ann = await in_sync(scene)
    ann.user.write(b"unreadable", b"x")
    ann.disk.fail(errno.EACCES, operation="open", path=b"mount/unreadable", times=None)
    result = await ann.mount.verify(None)
    assert (result.end, result.finding_count) == (VerifyEnd.PENDING, 0)
    assert [problem.code for problem in result.status.problems] == ["unread"]


@simulated
async def test_a_mount_that_keeps_its_own_edits_is_not_called_equal(scene: Scene) -> None:
    ann = await in_sync(scene)
    bob = scene.add("bob", Settings(mode=Mode.RECEIVE_ONLY))
    await scene.rest(ann, bob)
    assert (await bob.mount.verify(None)).end is VerifyEnd.EQUAL
    bob.user.write(b"empty", b"edited")
    assert (await bob.mount.wait(None)).end is WaitEnd.IN_SYNC
    result = await bob.mount.verify(None)
    assert (result.end, result.finding_count) == (VerifyEnd.PENDING, 0)
    assert bob.problems == {b"empty": "local_change"}


@simulated
async def test_findings_outlive_a_full_disk(scene: Scene) -> None:
    ann = await in_sync(scene)
    rot(ann, b"large")
    assert (await ann.mount.verify(None)).finding_count == 1
    ann.state.is_full = True
    ann.user.write(b"new", b"new")
    await scene.passes(5.0)
    assert {b"": "no_space", b"large": "content_differs"}.items() <= ann.problems.items()
    ann.state.is_full = False
    await scene.until(lambda: ann.problems == {b"large": "content_differs"}, "there is room")
    assert ann.is_running


@simulated
async def test_a_mount_that_stops_ends_it(scene: Scene) -> None:
    ann = await in_sync(scene)
    mount = ann.mount
    async with asyncio.TaskGroup() as group:
        verifying = group.create_task(mount.verify(None))
        await scene.until(lambda: mount.status().verifying is not None, "it begins")
        await ann.bury(power_loss=False)
        assert (await verifying).end is VerifyEnd.STOPPED
    ann.start(scene.group)
    await scene.rest(ann)


# -- the table ---------------------------------------------------------------------------


@simulated
async def test_an_entry_that_is_wrong_everywhere_here_is_found_and_mended(scene: Scene) -> None:
    ann = await in_sync(scene)
    kept, head = ann.user.tree(), scene.head
    large = ann.id(b"large")
    with ann.state.session() as session:
        seen, known = session.local(large), session.remote(large)
        assert seen is not None
        assert known is not None
        wrong = replace(seen.state, mtime_ns=7)
        session.set_local(large, replace(seen, state=wrong))
        session.set_base(large, wrong)
        session.set_remote(replace(known, mtime_ns=7), "x", is_confirmed=False)
    result = await ann.mount.verify(None)
    assert (result.end, codes(result)) == (VerifyEnd.FINDINGS, {b"large": "table_differs"})
    assert "revision" in result.findings[0].detail
    await scene.rest(ann)
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL
    assert scene.head == head
    assert {path: node.content for path, node in ann.user.tree().items()} == {
        path: node.content for path, node in kept.items()
    }


@simulated
async def test_an_entry_that_is_forgotten_here_is_found_and_mended(scene: Scene) -> None:
    ann = await in_sync(scene)
    kept, head, large = ann.contents(), scene.head, ann.id(b"large")
    with ann.state.session() as session:
        session.set_local(large, None)
        session.set_base(large, None)
        session.drop_remote(large)
    result = await ann.mount.verify(None)
    assert (result.end, codes(result)) == (VerifyEnd.FINDINGS, {b"large": "table_differs"})
    await scene.rest(ann)
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL
    assert (ann.contents(), ann.id(b"large"), scene.head) == (kept, large, head)


@simulated
async def test_an_entry_that_only_this_mount_knows_is_found(scene: Scene) -> None:
    ann = await in_sync(scene)
    strange, empty = EntryId(b"not at the serve"), ann.id(b"empty")
    with ann.state.session() as session:
        known = session.remote(empty)
        assert known is not None
        wrong = replace(known, id=strange, name=Name(b"strange"))
        # As if its file had been placed: nothing is planned for it.
        session.set_remote(wrong, "x", is_confirmed=False)
        session.set_base(strange, state_of(wrong))
        session.set_local(strange, Seen(state_of(wrong)))
    ann.user.write(b"strange", b"")
    result = await ann.mount.verify(30.0)
    assert b"strange" in codes(result), result
    assert codes(result)[b"strange"] == "table_differs"


@simulated
async def test_a_table_that_moves_on_is_no_finding(scene: Scene) -> None:
    ann, bob = await in_sync(scene), scene.add("bob")
    await scene.rest(ann, bob)
    chance = random.Random(3)

    async def work() -> None:
        for number in range(200):
            name = b"work %d" % chance.randrange(20)
            if chance.random() < 0.5 and bob.user.exists(name):
                bob.user.unlink(name)
            else:
                bob.user.write(name, b"%d" % number)
            await scene.passes(0.02)

    async with asyncio.TaskGroup() as group:
        working = group.create_task(work())
        while not working.done():
            result = await ann.mount.verify(None)
            assert result.finding_count == 0, result
    await scene.rest(ann, bob)
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL


# -- what is damaged at the server -----------------------------------------------------------


def flip(scene: Scene, content: bytes) -> int:
    """Flip a bit of each chunk that has these bytes; return how many there are."""
    chunks = scene.server.backend.chunks
    assert isinstance(chunks, MemoryChunkStore)
    found = [
        record.location
        for pack in chunks.packs()
        for record in chunks.scan(pack, 0)
        if record.digest is not None and content in chunks.read(record.digest, record.location)
    ]
    for place in found:
        chunks.flip(place.pack, place.offset + place.size - 1)
    return len(found)


async def server_verify(scene: Scene) -> Sequence[str]:
    """Stop the server, verify its chunks as `syncline server verify` does, and start it again."""
    await scene.server.stop()
    backend = scene.server.backend
    found = list(verify_chunks(backend.metadata, backend.metadata.volumes()[0], backend.chunks))
    await scene.server.start(scene.group)
    return found


@pytest.mark.parametrize("content", [b"some small content", LARGE, FOLDED], ids=["s", "l", "f"])
def test_a_mount_refills_the_server(content: bytes) -> None:
    async def play(scene: Scene) -> None:
        ann = scene.add("ann")
        ann.user.write(b"file", content)
        ann.user.write(b"other", b"untouched")
        await scene.rest(ann)
        head = scene.head
        assert flip(scene, content[-500:])
        assert await server_verify(scene)
        await scene.until(lambda: ann.status.is_connected, "ann is back")
        result = await ann.mount.verify(None)
        assert result.end is VerifyEnd.EQUAL, result
        assert result.refilled <= 1
        bob = scene.add("bob")
        await scene.rest(ann, bob)
        assert bob.contents() == {b"file": content, b"other": b"untouched"}
        assert scene.head == head
        assert await server_verify(scene) == []

    run_scene(play)


@simulated
async def test_it_refills_by_itself(scene: Scene) -> None:
    ann = scene.add("ann")
    ann.user.write(b"file", LARGE)
    await scene.rest(ann)
    assert flip(scene, LARGE[-500:])
    assert await server_verify(scene)
    bob = scene.add("bob")
    await scene.until(lambda: bob.contents() == {b"file": LARGE}, "bob has it", within_s=60.0)
    volume = scene.server.volume
    assert volume is not None
    assert not volume.chunks.has_damaged


@simulated
async def test_damage_that_a_fetch_finds_is_told_to_who_has_the_content(scene: Scene) -> None:
    ann = scene.add("ann")
    ann.user.write(b"file", LARGE)
    await scene.rest(ann)
    assert flip(scene, LARGE[-500:])
    bob = scene.add("bob")
    await scene.until(lambda: bob.problems == {b"file": "corrupt"}, "bob cannot have it")
    await scene.until(lambda: bob.contents() == {b"file": LARGE}, "bob has it", within_s=90.0)
    await scene.rest(ann, bob)


@simulated
async def test_what_nobody_has_any_more_is_told_and_asked_for_ever_later(scene: Scene) -> None:
    ann = scene.add("ann")
    ann.user.write(b"file", LARGE)
    await scene.rest(ann)
    rot(ann, b"file", 1000)
    assert flip(scene, LARGE[:500])
    assert await server_verify(scene)
    await scene.until(lambda: ann.status.is_connected, "ann is back")
    before = len(ann.way.proposals)
    result = await ann.mount.verify(None)
    assert result.end is VerifyEnd.FINDINGS
    assert {each.code for each in result.findings} == {"content_differs", "server_damaged"}
    await scene.passes(4_000.0)
    assert len(ann.way.proposals) - before < 15
    assert scene.head == Revision(1)


@simulated
async def test_a_mount_that_could_not_refill_the_server_is_not_called_equal(
    scene: Scene,
) -> None:
    ann = scene.add("ann")
    ann.user.write(b"file", LARGE)
    await scene.rest(ann)
    ann.way.store_error = Throttled("too much is going on")
    assert flip(scene, LARGE[-500:])
    assert await server_verify(scene)
    await scene.until(lambda: ann.status.is_connected, "ann is back")
    result = await ann.mount.verify(None)
    assert (result.end, result.pending_count) == (VerifyEnd.PENDING, 1)
    ann.way.store_error = None
    assert (await ann.mount.verify(None)).end is VerifyEnd.EQUAL


@simulated
async def test_a_mount_that_only_receives_refills_as_well(scene: Scene) -> None:
    ann = scene.add("ann")
    ann.user.write(b"file", LARGE)
    await scene.rest(ann)
    bob = scene.add("bob", Settings(mode=Mode.RECEIVE_ONLY))
    await scene.rest(ann, bob)
    ann.network.is_up = False
    assert flip(scene, LARGE[-500:])
    assert await server_verify(scene)
    volume = scene.server.volume
    assert volume is not None
    await scene.until(lambda: not volume.chunks.has_damaged, "bob refills", within_s=60.0)
    ann.network.is_up = True
    await scene.rest(ann, bob)
