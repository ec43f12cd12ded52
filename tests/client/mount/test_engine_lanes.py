"""What failed or was interrupted goes on as soon as it can, and nothing is forgotten meanwhile."""

from __future__ import annotations

import asyncio
from functools import partial

from pytest import MonkeyPatch

from syncline.client.mount import phases
from syncline.core.changes import Proposal, PutFile
from syncline.core.safety import HaltReason
from syncline.errors import Invalid, Throttled
from syncline.ports.link import WatchEvent
from syncline.ports.mount_control import MountPhase, ResumeEnd
from tests.support.scenes import Player, Scene, large_content, simulated

LARGE = large_content(1)


async def pair(scene: Scene) -> tuple[Player, Player]:
    """Return two mounts with one file."""
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.write(b"file", b"old")
    await scene.rest(ann, bob)
    return ann, bob


def is_sent(player: Player, before: int) -> bool:
    """Tell whether there were more proposals than before."""
    return len(player.way.proposals) > before


# -- as soon as it can ---------------------------------------------------------------


@simulated
async def test_what_was_locked_is_sent_soon_after(scene: Scene) -> None:
    ann, bob = await pair(scene)
    ann.way.locked.add(ann.id(b"file"))
    ann.user.write(b"file", b"newer")
    await scene.until(lambda: ann.problems == {b"file": "locked"}, "it is told")
    await scene.passes(5.0)
    with ann.state.session() as session:
        # Nothing was stored: there is no outcome that anybody could tell of.
        assert not session.all_sent()
    ann.way.locked.clear()
    await scene.rest(ann, bob, within_s=4.0)
    assert bob.contents() == {b"file": b"newer"}


@simulated
async def test_what_was_edited_and_moved_to_a_name_that_was_just_taken_goes_on_soon(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    told = asyncio.Event()

    async def late(event: WatchEvent) -> WatchEvent:
        await told.wait()
        return event

    ann.way.event = late
    bob.user.write(b"new name", b"theirs")
    await scene.rest(bob)
    before = len(ann.way.proposals)
    ann.user.rename(b"file", b"new name")
    ann.user.write(b"new name", b"mine")
    await scene.until(lambda: is_sent(ann, before), "the move is sent, and refused")
    await scene.passes(1.0)
    told.set()
    await scene.rest(ann, bob, within_s=10.0)
    assert ann.contents() == bob.contents()
    assert sorted(str(content) for content in ann.contents().values()) == ["b'mine'", "b'theirs'"]


@simulated
async def test_what_was_taken_back_is_no_problem_any_more(scene: Scene) -> None:
    ann, _ = await pair(scene)
    mtime_ns = ann.user.tree()[b"file"].mtime_ns
    ann.way.locked.add(ann.id(b"file"))
    ann.user.write(b"file", b"newer")
    await scene.until(lambda: ann.problems == {b"file": "locked"}, "it is told")
    ann.user.write(b"file", b"old")
    ann.user.utime(b"file", mtime_ns)
    await scene.rest(ann, within_s=5.0)
    assert not ann.status.problems


@simulated
async def test_a_server_that_was_busy_for_a_moment_is_asked_again_soon(scene: Scene) -> None:
    ann, bob = await pair(scene)
    for number in range(9):
        ann.way.store_error = Throttled("too much")
        sent = len(ann.way.proposals)
        ann.user.write(b"file", b"%d" % number * 9)
        await scene.until(partial(is_sent, ann, sent), "a STORE failed")
        ann.way.store_error = None
        await scene.rest(ann, bob, within_s=1.0)
    assert bob.contents() == {b"file": b"8" * 9}


@simulated
async def test_a_connection_that_was_good_is_made_again_soon(scene: Scene) -> None:
    ann, _ = await pair(scene)
    for _ in range(10):
        ann.network.is_up = False
        await scene.until(lambda: not ann.status.is_connected, "it is noticed")
        ann.network.is_up = True
        await scene.until(lambda: ann.status.is_connected, "it is back", within_s=1.0)
        await scene.passes(60.0)


@simulated
async def test_what_is_written_late_into_a_replaced_file_is_kept_soon(scene: Scene) -> None:
    ann, bob = await pair(scene)
    writer = bob.user.open_writer(b"file")
    ann.user.write(b"file", b"newer")
    await scene.until(lambda: bob.contents() == {b"file": b"newer"}, "it is replaced")
    await scene.passes(3.0)
    assert bob.own(b"displaced")
    writer.write(b"late, and longer")
    writer.close()
    await scene.until(lambda: not bob.own(b"displaced"), "it is let go", within_s=2.5)
    await scene.rest(ann, bob)
    assert sorted(ann.contents().values(), key=str) == [b"late, and longer", b"newer"]
    assert ann.contents() == bob.contents()


# -- nothing stands in the way of others -----------------------------------------------


@simulated
async def test_one_change_that_the_server_cannot_take_leaves_the_others_alone(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)

    def refuse(proposal: Proposal) -> None:
        if any(isinstance(each, PutFile) and each.name == b"bad" for each in proposal.changes):
            raise Invalid("it cannot be stored")

    ann.way.before_store = refuse
    ann.user.write(b"bad", b"bad")
    for number in range(20):
        ann.user.write(b"file %d" % number, b"%d" % number)
    await scene.until(lambda: len(bob.contents()) == 21, "the others arrive", within_s=5.0)
    assert ann.problems == {b"bad": "invalid"}
    before = len(ann.way.proposals)
    await scene.passes(60.0)
    assert len(ann.way.proposals) - before < 15
    ann.way.before_store = None
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents()


@simulated
async def test_large_content_is_sent_once_and_holds_up_nothing(scene: Scene) -> None:
    ann, bob = await pair(scene)
    ann.network.most_s = 1.0
    ann.user.write(b"large", LARGE)
    await scene.until(lambda: bool(ann.way.proposals[1:]), "it is on its way")
    ann.user.write(b"file", b"overtakes")
    await scene.until(lambda: bob.contents() == {b"file": b"overtakes"}, "it overtakes")
    for number in range(10):
        ann.user.write(b"file", b"%d" % number)
        await scene.passes(0.3)
    await scene.rest(ann, bob)
    assert bob.contents() == {b"file": b"9", b"large": LARGE}
    large = ann.id(b"large")
    assert sum(each.id == large for one in ann.way.proposals for each in one.changes) == 1


@simulated
async def test_large_content_in_a_directory_that_took_the_place_of_its_file_is_sent(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    ann.network.is_up = False
    ann.user.mkdir(b"d")
    ann.user.rename(b"file", b"d/file")
    ann.user.write(b"d/early", LARGE)
    ann.user.write(b"d/small", b"small")
    ann.user.rename(b"d", b"file")
    await scene.until(lambda: ann.status.pending_up > 0, "it is known")
    await scene.passes(1.0)
    ann.network.is_up = True
    await scene.rest(ann, bob)
    assert bob.contents() == {
        b"file": None,
        b"file/early": LARGE,
        b"file/file": b"old",
        b"file/small": b"small",
    }


@simulated
async def test_large_content_of_a_file_in_a_ring_is_sent(scene: Scene) -> None:
    ann, bob = await pair(scene)
    ann.network.is_up = False
    ann.user.mkdir(b"d")
    ann.user.rename(b"file", b"d/file")
    ann.user.write(b"d/file", LARGE)
    ann.user.rename(b"d", b"file")
    await scene.until(lambda: ann.status.pending_up > 0, "it is known")
    await scene.passes(1.0)
    ann.network.is_up = True
    await scene.rest(ann, bob)
    assert bob.contents() == {b"file": None, b"file/file": LARGE}


@simulated
async def test_large_content_of_a_moved_file_does_not_hold_up_what_takes_its_name(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    ann.network.is_up = False
    ann.user.rename(b"file", b"moved")
    ann.user.write(b"moved", LARGE)
    ann.user.mkdir(b"file")
    ann.user.write(b"file/small", b"small")
    await scene.until(lambda: ann.status.pending_up > 0, "it is known")
    await scene.passes(1.0)
    ann.network.is_up = True
    ann.network.most_s = 1.0
    early = {b"file": None, b"file/small": b"small", b"moved": b"old"}
    await scene.until(lambda: bob.contents() == early, "it overtakes")
    assert not ann.problems
    await scene.rest(ann, bob)
    assert bob.contents() == early | {b"moved": LARGE}


@simulated
async def test_what_is_left_out_for_no_reason_is_not_in_sync(scene: Scene) -> None:
    ann, bob = await pair(scene)
    with MonkeyPatch.context() as planted:
        planted.setattr(phases, "ready", lambda *_: iter(()))
        ann.user.write(b"file", b"newer")
        await scene.until(lambda: ann.status.pending_up > 0, "it is known")
        for _ in range(100):
            await scene.passes(0.1)
            assert ann.is_in(MountPhase.SYNCING)
    ann.user.write(b"file", b"newest")
    await scene.rest(ann, bob)
    assert bob.contents() == {b"file": b"newest"}


# -- nothing is forgotten ------------------------------------------------------------


@simulated
async def test_edits_while_the_state_cannot_be_written_are_found(scene: Scene) -> None:
    ann, bob = await pair(scene)
    ann.state.is_full = True
    ann.user.write(b"file", b"newer")
    ann.user.write(b"new", b"new")
    await scene.until(lambda: ann.problems.get(b"") == "no_space", "it is told")
    ann.state.is_full = False
    await scene.rest(ann, bob)
    assert bob.contents() == {b"file": b"newer", b"new": b"new"}


@simulated
async def test_what_was_told_while_the_state_cannot_be_written_is_told_again(scene: Scene) -> None:
    ann, bob = await pair(scene)
    bob.state.is_full = True
    ann.user.write(b"file", b"newer")
    await scene.until(lambda: bob.problems.get(b"") == "no_space", "it is told")
    bob.state.is_full = False
    await scene.rest(ann, bob, within_s=5.0)
    assert bob.contents() == {b"file": b"newer"}
    # It was heard where the cursor was, and no whole table was asked for.
    assert all(begin.cursor is not None for begin in bob.way.begins[1:])


@simulated
async def test_nothing_is_sent_twice_because_the_feed_is_late(scene: Scene) -> None:
    ann, bob = await pair(scene)
    ann.network.most_s = 0.5
    before = len(ann.way.proposals)
    for number in range(10):
        ann.user.write(b"file %d" % number, b"%d" % number)
        await scene.passes(0.3)
    await scene.rest(ann, bob)
    ids = [change.id for each in ann.way.proposals[before:] for change in each.changes]
    assert len(ids) == len(set(ids)) == 10


@simulated
async def test_a_directory_gets_another_id_while_a_file_in_it_waits(scene: Scene) -> None:
    ann, bob = await pair(scene)
    for number in range(20):
        bob.network.is_up = False
        bob.user.mkdir(b"%d" % number)
        await scene.until(lambda: bob.status.pending_up > 0, "the directory is known")
        ann.user.mkdir(b"%d" % number)
        await scene.rest(ann)
        bob.network.is_up = True
        await scene.until(lambda: bob.status.is_connected, "connected")
        await scene.passes(number * 0.002)
        bob.user.write(b"%d/large" % number, LARGE)
        await scene.rest(ann, bob)
    assert ann.contents() == bob.contents()
    assert len(ann.contents()) == 41


@simulated
async def test_another_volume_halts_and_is_merged_when_that_is_meant(scene: Scene) -> None:
    ann, bob = await pair(scene)
    for each in (ann, bob):
        each.network.is_up = False
    await scene.replace_volume()
    for each in (ann, bob):
        each.network.is_up = True
    for each in (ann, bob):
        await scene.until(partial(each.is_in, MountPhase.HALTED), "it halts")
    await scene.passes(60.0)
    assert not scene.head
    for each in (ann, bob):
        assert each.contents() == {b"file": b"old"}
        assert not each.status.is_connected
        halt = each.status.halt
        assert halt is not None
        assert halt.reason is HaltReason.HISTORY_CUT
        assert (await each.mount.resume(halt)).end is ResumeEnd.RESUMED
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents() == {b"file": b"old"}
    assert scene.head == 1
