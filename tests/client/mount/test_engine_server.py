"""What a mount does when the server, or the way to it, does what it should not."""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import replace

from syncline.client.mount.growing import content_name
from syncline.core.identity import digest_of
from syncline.core.safety import HaltReason
from syncline.errors import Internal, NotFound, SynclineError, Throttled
from syncline.ports.link import Committed, SnapshotEnd, WatchEvent
from syncline.ports.mount_control import MountPhase
from tests.support.scenes import Player, Scene, large_content, simulated

LARGE = large_content(1)


# -- STORE ---------------------------------------------------------------------------


async def stores_are_repeated_ever_later(scene: Scene, error: SynclineError) -> Player:
    """Let every STORE fail for a minute; return the mount, whose edit waits."""
    ann = scene.add("ann")
    ann.user.write(b"old", b"old")
    await scene.rest(ann)
    before = len(ann.way.proposals)
    ann.way.store_error = error
    ann.user.write(b"new", b"new")
    await scene.passes(60.0)
    assert 5 <= len(ann.way.proposals) - before <= 15
    assert ann.is_in(MountPhase.SYNCING)
    return ann


@simulated
async def test_a_server_that_has_too_much_to_do_is_asked_ever_later(scene: Scene) -> None:
    ann = await stores_are_repeated_ever_later(scene, Throttled("too much"))
    with ann.state.session() as session:
        # Nothing was stored: there is no outcome that anybody could tell of.
        assert not session.all_sent()
    ann.way.store_error = None
    await scene.rest(ann)


@simulated
async def test_a_store_that_nobody_answers_is_remembered_and_repeated(scene: Scene) -> None:
    ann = await stores_are_repeated_ever_later(scene, Internal("a fault"))
    with ann.state.session() as session:
        assert session.all_sent()
    ann.way.store_error = None
    await scene.rest(ann)
    await scene.passes(700.0)
    # The next cycle lets go of notes that are ten minutes old.
    ann.user.write(b"more", b"more")
    await scene.rest(ann)
    with ann.state.session() as session:
        assert not session.all_sent()


@simulated
async def test_a_server_that_is_restarted_between_stores_makes_no_conflict(scene: Scene) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    await scene.rest(ann, bob)
    chance = random.Random(1)
    for number in range(30):
        ann.user.write(b"file %d" % chance.randrange(5), b"%d " % number * 900)
        if number % 5 == 0:
            ann.user.write(b"large", large_content(number))
        await scene.passes(chance.random() * 0.1)
        if number % 3 == 0:
            await scene.server.stop()
            await scene.passes(chance.random() * 0.3)
            await scene.server.start(scene.group)
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents()
    assert set(ann.contents()) == {b"large", *(b"file %d" % number for number in range(5))}


# -- WATCH ---------------------------------------------------------------------------


async def with_wrong_digest(event: WatchEvent) -> WatchEvent:
    """Return an event whose table digest is not that of the table."""
    match event:
        case Committed(commit):
            wrong = replace(commit, table_digest=commit.table_digest ^ 1)
            return replace(event, commit=wrong)
        case SnapshotEnd(head):
            return SnapshotEnd(replace(head, table_digest=head.table_digest ^ 1))
        case _:
            return event


@simulated
async def test_a_feed_that_stays_wrong_is_asked_for_ever_later_and_told(scene: Scene) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.write(b"old", b"old")
    await scene.rest(ann, bob)
    bob.way.event = with_wrong_digest
    ann.user.write(b"new", b"new")
    await scene.passes(60.0)
    before = len(bob.way.begins)
    told = set()
    for _ in range(600):
        await scene.passes(0.1)
        told.add(bob.status.connection_error)
    # Each attempt asks twice: whether the history goes on, and for the whole table.
    # A pause is 2.5 s at the least when it has grown.
    assert 4 <= len(bob.way.begins) - before <= 48
    assert any(error is not None and "is not the server's table" in error for error in told)
    assert set(bob.contents()) == {b"old"}
    bob.way.event = None
    await scene.rest(ann, bob)
    assert set(bob.contents()) == {b"old", b"new"}


@simulated
async def test_one_wrong_commit_is_mended_with_the_whole_table(scene: Scene) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.write(b"old", b"old")
    await scene.rest(ann, bob)
    wrong: list[WatchEvent] = []

    async def once(event: WatchEvent) -> WatchEvent:
        if wrong or not isinstance(event, Committed):
            return event
        wrong.append(event)
        return await with_wrong_digest(event)

    bob.way.event = once
    ann.user.write(b"new", b"new")
    await scene.rest(ann, bob, within_s=10.0)
    assert wrong
    assert bob.contents() == {b"old": b"old", b"new": b"new"}
    assert bob.way.begins[-1].cursor is None


@simulated
async def test_a_restored_backup_is_not_believed_after_a_mismatch(scene: Scene) -> None:
    ann = scene.add("ann")
    for number in range(30):
        ann.user.write(b"file %d" % number, b"%d" % number)
    await scene.rest(ann)
    kept = ann.contents()

    async def then_gone(event: WatchEvent) -> WatchEvent:
        if isinstance(event, Committed):
            ann.network.is_up = False
        return await with_wrong_digest(event)

    ann.way.event = then_gone
    ann.user.write(b"trigger", b"")
    await scene.until(lambda: not ann.network.is_up, "the mismatch was told")
    await scene.passes(1.0)
    ann.way.event = None
    await scene.restore_backup()
    bob = scene.add("bob")
    seen = ann.status.cursor
    assert seen is not None
    while scene.head <= seen:
        # The restored volume has its own history by now, as long as the one that was lost.
        bob.user.write(b"theirs", b"%d" % scene.head)
        await scene.rest(bob)
    ann.network.is_up = True
    await scene.until(lambda: ann.is_in(MountPhase.HALTED), "the cut history halts")
    halt = ann.status.halt
    assert halt is not None
    assert halt.reason is HaltReason.HISTORY_CUT
    assert ann.contents() == {**kept, b"trigger": b""}
    await ann.mount.resume(halt)
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents()
    assert ann.contents().items() >= {**kept, b"trigger": b""}.items()


@simulated
async def test_nothing_is_sent_to_a_server_that_may_have_another_history(scene: Scene) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    for player, name in ((ann, b"one"), (bob, b"two"), (bob, b"three")):
        player.user.write(name, name)
        await scene.rest(ann, bob)
    ann.network.is_up = bob.network.is_up = False
    await scene.restore_backup()
    bob.network.is_up = True
    await scene.until(lambda: bob.status.halt is not None, "the cut history halts")
    halt = bob.status.halt
    assert halt is not None
    await bob.mount.resume(halt)
    await scene.rest(bob)
    # The same entries, some of them at the same revisions, in another and shorter history.
    kept = bob.contents()
    for name in (b"one", b"two", b"three"):
        ann.user.unlink(name)
    ann.way.proposals.clear()

    async def late(event: WatchEvent) -> WatchEvent:
        await asyncio.sleep(2.0)
        return event

    ann.way.event = late
    ann.network.is_up = True
    await scene.until(lambda: ann.status.halt is not None, "the cut history halts")
    assert (ann.way.proposals, bob.contents()) == ([], kept)


@simulated
async def test_an_edit_that_waits_for_the_feed_is_not_in_sync(scene: Scene) -> None:
    ann = scene.add("ann")
    ann.user.write(b"one", b"1")
    ann.user.write(b"other", b"1")
    await scene.rest(ann)

    async def late(event: WatchEvent) -> WatchEvent:
        if isinstance(event, Committed):
            await asyncio.sleep(5.0)
        return event

    ann.way.event = late
    before = scene.head
    ann.user.write(b"one", b"22")
    await scene.until(lambda: scene.head > before, "the first edit is stored")
    ann.user.write(b"other", b"22")
    for _ in range(200):
        await scene.passes(0.1)
        if ann.is_in(MountPhase.IN_SYNC):
            break
    assert ann.status.cursor == scene.head == before + 2


# -- FETCH ---------------------------------------------------------------------------


@simulated
async def test_a_fetch_that_fails_as_a_whole_is_repeated_ever_later(scene: Scene) -> None:
    ann = scene.add("ann")
    for number in range(3):
        # More than the feed brings along.
        ann.user.write(b"file %d" % number, b"%d" % number * 100_000)
    ann.user.write(b"large", LARGE)
    await scene.rest(ann)
    bob = scene.add("bob")
    bob.way.fetch_error = NotFound("there is no such volume")
    await scene.passes(60.0)
    assert 3 <= bob.way.fetches <= 80
    assert not bob.is_in(MountPhase.IN_SYNC)
    bob.way.fetch_error = None
    await scene.rest(ann, bob)
    assert bob.contents() == ann.contents()


@simulated
async def test_large_content_that_cannot_be_placed_is_fetched_once(scene: Scene) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    await scene.rest(ann, bob)
    staged = b"mount/.syncline/staging/" + content_name(digest_of(LARGE))
    bob.disk.fail(errno.EACCES, operation="move", path=staged, times=None)
    ann.user.write(b"large", LARGE)
    await scene.until(lambda: bob.problems == {b"large": "denied"}, "it cannot be placed")
    await scene.passes(120.0)
    assert bob.is_in(MountPhase.WAITING)
    bob.disk.heal()
    await scene.rest(ann, bob)
    assert bob.contents() == {b"large": LARGE}
    assert bob.way.fetched_bytes == len(LARGE)
    assert not bob.own(b"staging")
