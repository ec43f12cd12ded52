"""User locks of mounts, in virtual time: who holds, who is held back, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from syncline.client.holding import LEASE_S
from syncline.client.mount import following, locker
from syncline.core.changes import HeldToken, Proposal
from syncline.core.identity import Revision
from syncline.core.names import RelPath
from syncline.core.table import Cursor
from syncline.core.user_locks import LockEffect
from syncline.errors import Locked, NotFound, Throttled, Unavailable
from syncline.ports.link import Progress, WatchEvent
from syncline.ports.locks import LockNews, UnlockResult
from syncline.ports.mount_control import (
    HoldEnd,
    HoldEvent,
    LockAsked,
    LockLost,
    LocksResult,
    MountLock,
    MountPhase,
    WaitEnd,
)
from tests.support.scenes import Player, Scene, simulated

TTL_S = 8 * 3600.0


def path(text: bytes) -> RelPath:
    return RelPath.parse(text)


async def lock(player: Player, *paths: bytes, reason: str = "", wait_s: float = 0.0) -> None:
    asked = LockAsked(tuple(map(path, paths)), reason, TTL_S, wait_s)
    result = await player.mount.lock(asked)
    assert [bytes(each.path) for each in result.locks] == list(paths)
    assert [(bytes(each.path), each.is_own) for each in player.status.locks if each.is_own]


async def unlock(player: Player, *paths: bytes, is_forced: bool = False) -> list[UnlockResult]:
    found = await player.mount.unlock(tuple(map(path, paths)), is_forced=is_forced)
    return [each.result for each in found.unlocked]


def shown(player: Player) -> list[tuple[bytes, str, bool]]:
    return [_facts(each) for each in player.status.locks]


def _facts(each: MountLock) -> tuple[bytes, str, bool]:
    return bytes(each.path), each.lock.owner.author.name, each.is_own


async def both(scene: Scene) -> tuple[Player, Player]:
    """Return two equal mounts with some files."""
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.mkdir(b"d")
    for name in (b"f", b"g", b"d/f"):
        ann.user.write(name, b"first")
    await scene.rest(ann, bob)
    return ann, bob


async def held(scene: Scene, player: Player, *paths: bytes) -> None:
    """Wait until edits are shown as held, and nothing else is wrong."""
    await scene.until(
        lambda: player.problems == dict.fromkeys(paths, "locked"), f"{paths} are held"
    )


def copies(player: Player) -> list[bytes]:
    return [each for each in player.contents() if b"conflict of" in each]


@simulated
async def test_an_edit_under_anothers_lock_is_held_and_shown_and_goes_at_its_end(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f", reason="new figures")
    await scene.until(lambda: shown(bob) == [(b"f", "ann", False)], "bob sees it")
    assert shown(ann) == [(b"f", "ann", True)]
    sent = len(bob.way.proposals)
    bob.user.write(b"f", b"of bob")
    await held(scene, bob, b"f")
    [problem] = bob.status.problems
    assert problem.detail.startswith("held: locked by ann (")
    assert problem.detail.endswith("UTC, new figures")
    await scene.until(lambda: bob.is_in(MountPhase.WAITING), "nothing else is to be done")
    assert (await bob.mount.wait(5.0)).end is WaitEnd.PROBLEMS
    await scene.passes(600)
    # Nobody was asked: what is known to be locked costs nothing until the lock ends.
    assert len(bob.way.proposals) == sent
    assert bob.contents()[b"f"] == b"of bob" and ann.contents()[b"f"] == b"first"
    assert await unlock(ann, b"f") == [UnlockResult.UNLOCKED]
    took_s = await scene.until(lambda: ann.contents()[b"f"] == b"of bob", "it is synced")
    assert took_s < 1.0
    await scene.rest(ann, bob)
    assert bob.problems == {} and shown(ann) == shown(bob) == [] and copies(ann) == []


@simulated
async def test_what_the_holder_made_meets_the_edit_once_at_the_end(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.write(b"f", b"of bob")
    await held(scene, bob, b"f")
    for number in range(3):
        ann.user.write(b"f", b"of ann %d" % number)
        await scene.rest(ann)
    assert bob.contents()[b"f"] == b"of bob" and copies(bob) == []
    await unlock(ann, b"f")
    await scene.rest(ann, bob)
    [copy] = copies(bob)
    assert bob.contents() == ann.contents()
    assert (bob.contents()[b"f"], bob.contents()[copy]) == (b"of ann 2", b"of bob")


@simulated
async def test_an_unlock_stores_first_what_was_changed_under_the_lock(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.write(b"f", b"of bob")
    await held(scene, bob, b"f")
    ann.user.write(b"f", b"of ann")
    await unlock(ann, b"f")
    await scene.rest(ann, bob)
    [copy] = copies(ann)
    assert (ann.contents()[b"f"], ann.contents()[copy]) == (b"of ann", b"of bob")


@simulated
async def test_below_a_locked_directory_nothing_goes_in_or_out(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"d")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.write(b"d/new", b"new")
    bob.user.mkdir(b"d/deep")
    bob.user.write(b"d/deep/new", b"new")
    bob.user.rename(b"g", b"d/g")
    bob.user.write(b"free", b"free")
    await held(scene, bob, b"d/new", b"d/deep", b"d/deep/new", b"d/g")
    await scene.until(lambda: ann.contents().get(b"free") == b"free", "the rest goes")
    assert bob.status.pending_up == 0
    await unlock(ann, b"d")
    await scene.rest(ann, bob)
    assert set(ann.contents()) == {b"d", b"d/f", b"d/new", b"d/deep", b"d/deep/new", b"d/g"} | {
        b"f",
        b"free",
    }


@simulated
async def test_what_is_deleted_above_a_locked_file_waits_with_it(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"d/f")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.unlink(b"d/f")
    bob.user.rmdir(b"d")
    await held(scene, bob, b"d", b"d/f")
    await scene.passes(60)
    assert ann.contents()[b"d/f"] == b"first"
    await unlock(ann, b"d/f")
    await scene.rest(ann, bob)
    assert b"d" not in ann.contents()


@simulated
async def test_a_lock_goes_with_what_its_holder_moves(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"d")
    ann.user.rename(b"d", b"e")
    await scene.until(lambda: shown(bob) == [(b"e", "ann", False)], "bob sees it at its place")
    await scene.rest(ann, bob)
    bob.user.write(b"e/f", b"of bob")
    await held(scene, bob, b"e/f")
    await unlock(ann, b"e")
    await scene.rest(ann, bob)
    assert ann.contents()[b"e/f"] == b"of bob"


@simulated
async def test_what_the_holder_puts_at_the_place_of_a_held_edit_comes_at_the_end(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.write(b"f", b"of bob")
    await held(scene, bob, b"f")
    ann.user.rename(b"f", b"old f")
    await scene.rest(ann)
    ann.user.write(b"f", b"another")
    await scene.rest(ann)
    await scene.passes(300)
    assert bob.contents()[b"f"] == b"of bob"
    await unlock(ann, b"old f")
    await scene.rest(ann, bob, within_s=5.0)
    assert ann.contents() == bob.contents()
    assert (bob.contents()[b"f"], bob.contents()[b"old f"]) == (b"another", b"of bob")


def silence_s(player: Player) -> float | None:
    """Return how long a mount may say nothing to the server."""
    engine = player.mount._engine
    assert engine is not None, "its root is open"
    return engine.follower._progress.silence_s


@simulated
async def test_locks_are_renewed_while_the_mount_is_connected_and_end_without_it(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    assert silence_s(ann) is None
    await lock(ann, b"f")
    # The link of a scene renews by itself; on a wire it is progress that does.
    assert silence_s(ann) == following.RENEW_S
    await scene.passes(10 * LEASE_S)
    assert shown(bob) == [(b"f", "ann", False)]
    ann.network.is_up = False
    bob.user.write(b"f", b"of bob")
    await held(scene, bob, b"f")
    took_s = await scene.until(lambda: bob.problems == {}, "the lease is over")
    assert took_s <= LEASE_S + 10
    ann.network.is_up = True
    await scene.until(lambda: shown(ann) == [], "ann hears that it is lost")
    assert silence_s(ann) is None
    await scene.rest(ann, bob)
    assert ann.contents()[b"f"] == b"of bob"


@simulated
async def test_a_mount_that_was_killed_finds_its_locks_again_and_renews_them(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    await ann.bury(power_loss=False)
    await scene.passes(LEASE_S / 3)
    ann.start(scene.group)
    await scene.until(lambda: shown(ann) == [(b"f", "ann", True)], "it is its own")
    await scene.passes(3 * LEASE_S)
    assert shown(bob) == [(b"f", "ann", False)]
    assert await unlock(ann, b"f") == [UnlockResult.UNLOCKED]


@simulated
async def test_a_mount_that_was_killed_and_stays_away_keeps_others_out_for_its_lease(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    await ann.bury(power_loss=False)
    bob.user.write(b"f", b"of bob")
    await scene.passes(2.0)
    assert bob.problems == {b"f": "locked"}
    await scene.passes(LEASE_S + 10)
    assert bob.problems == {} and bob.is_in(MountPhase.IN_SYNC)
    ann.start(scene.group)
    await scene.rest(ann, bob)
    assert ann.contents()[b"f"] == b"of bob"


@simulated
async def test_a_store_names_the_locks_that_cover_it_alone(scene: Scene) -> None:
    ann, _ = await both(scene)
    await lock(ann, b"f")
    await lock(ann, b"d")
    f, d = (HeldToken(each.lock.entry, each.lock.token) for each in _by_path(ann, b"f", b"d"))
    for name, tokens in ((b"f", [f]), (b"d/f", [d]), (b"d/new", [d]), (b"g", [])):
        ann.user.write(name, b"second")
        await scene.rest(ann)
        assert list(ann.way.proposals[-1].tokens) == tokens, name


def _by_path(player: Player, *paths: bytes) -> Sequence[MountLock]:
    by_path = {bytes(each.path): each for each in player.status.locks}
    return [by_path[each] for each in paths]


@simulated
async def test_who_lost_a_lock_without_hearing_of_it_stores_nothing_under_it(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    refused: list[Proposal] = []

    def break_first(proposal: Proposal) -> None:
        if proposal.tokens and not refused:
            refused.append(proposal)
            assert scene.server.volume is not None
            # Of what is broken here, ann hears when her STORE was answered.
            book = scene.server.volume.user_locks.book
            book.book = type(book.book)(last_token=book.book.last_token)

    ann.way.before_store = break_first
    ann.user.write(b"f", b"of ann")
    await scene.rest(ann, bob)
    assert len(refused) == 1
    later = [each for each in ann.way.proposals if each.op_id != refused[0].op_id]
    assert later[-1].tokens == ()
    assert bob.contents()[b"f"] == b"of ann"


@simulated
async def test_a_broken_lock_is_gone_for_its_holder_too(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    with pytest.raises(Locked):
        await unlock(bob, b"f")
    assert await unlock(bob, b"f", is_forced=True) == [UnlockResult.BROKEN]
    await scene.until(lambda: shown(ann) == [], "ann hears of it")
    bob.user.write(b"f", b"of bob")
    await scene.rest(ann, bob)
    assert ann.contents()[b"f"] == b"of bob"


@simulated
async def test_who_waits_for_a_lock_gets_it_with_what_the_holder_made(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    with pytest.raises(Locked):
        await lock(bob, b"f")
    waiting = scene.group.create_task(lock(bob, b"f", wait_s=60.0))
    await scene.passes(5)
    ann.user.write(b"f", b"of ann")
    await unlock(ann, b"f")
    await waiting
    # Who edits now edits the newest.
    assert bob.contents()[b"f"] == b"of ann"
    assert shown(bob) == [(b"f", "bob", True)]


@simulated
async def test_what_cannot_be_locked_says_why(scene: Scene) -> None:
    ann, bob = await both(scene)
    with pytest.raises(NotFound, match="syncline wait"):
        await lock(ann, b"none")
    with pytest.raises(NotFound, match="not in the volume yet"):
        await lock(ann, b"f", b"d/none")
    assert await unlock(ann, b"f") == [UnlockResult.NOT_LOCKED]
    # What was deleted here and not stored yet is still locked by its path.
    await lock(bob, b"f")
    await scene.until(lambda: bool(shown(ann)), "ann sees it")
    ann.user.unlink(b"f")
    await held(scene, ann, b"f")
    assert await unlock(ann, b"f", is_forced=True) == [UnlockResult.BROKEN]
    await scene.rest(ann, bob)
    bob.network.is_up = False
    await scene.until(lambda: not bob.status.is_connected, "bob is cut off")
    with pytest.raises(Unavailable, match="no connection"):
        await lock(bob, b"g")


@simulated
async def test_locks_are_listed_by_their_paths_in_the_mount(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"d/f")
    await lock(bob, b"f")

    async def listed(text: bytes) -> list[tuple[bytes, str]]:
        found = await ann.mount.locks(path(text))
        return [(bytes(each.path), each.lock.owner.author.name) for each in found.locks]

    assert await listed(b"") == [(b"d/f", "ann"), (b"f", "bob")]
    assert await listed(b"d") == await listed(b"d/f") == [(b"d/f", "ann")]
    assert await listed(b"g") == []
    await scene.until(lambda: len(shown(ann)) == 2, "ann knows both")
    assert shown(ann) == [(b"d/f", "ann", True), (b"f", "bob", False)]


@simulated
async def test_the_root_can_be_locked_and_holds_all(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.write(b"new", b"new")
    bob.user.write(b"d/f", b"of bob")
    await held(scene, bob, b"new", b"d/f")
    await unlock(ann, b"")
    await scene.rest(ann, bob)
    assert ann.contents()[b"new"] == b"new" and ann.contents()[b"d/f"] == b"of bob"


@simulated
async def test_a_restart_of_the_server_frees_nothing(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(ann, b"f")
    await scene.server.stop()
    await scene.passes(5)
    bob.user.write(b"f", b"of bob")
    await scene.server.start(scene.group)
    await held(scene, bob, b"f")
    await scene.passes(3 * LEASE_S)
    assert shown(ann) == [(b"f", "ann", True)] and bob.problems == {b"f": "locked"}
    await unlock(ann, b"f")
    await scene.rest(ann, bob)
    assert ann.contents()[b"f"] == b"of bob"


async def test_a_follower_says_something_often_while_it_holds_locks() -> None:
    progress = following._Progress()
    stream = progress.stream()
    loop = asyncio.get_running_loop()
    assert progress.silence_s is None
    progress.renew(is_holding=True)
    # Nothing can be said before the first cursor is known.
    assert progress.silence_s is None and not stream.changed.is_set()
    told = Progress(Cursor(Revision(1), None), 0, 0)
    progress.tell(told)
    assert progress.silence_s is not None
    assert progress.silence_s + following.PROGRESS_S <= LEASE_S / 3
    assert await anext(stream) == told and loop.is_running()


# -- locks for the length of a command -------------------------------------------


class Held:
    """A hold of a mount, and what it was told."""

    def __init__(self, scene: Scene, player: Player, *paths: bytes, ttl_s: float = 0.0) -> None:
        self.over = asyncio.Event()
        self.locked: list[bytes] = []
        self.losses: list[LockLost] = []
        asked = LockAsked(tuple(map(path, paths)), ttl_s=ttl_s)
        self.task = scene.group.create_task(player.mount.hold(asked, self._tell, self.over))

    def _tell(self, event: HoldEvent) -> None:
        match event:
            case LocksResult(locks):
                self.locked = [bytes(each.path) for each in locks]
            case LockLost():
                self.losses.append(event)

    @property
    def is_held(self) -> bool:
        return bool(self.locked)

    async def ended(self) -> HoldEnd:
        self.over.set()
        return await self.task


async def refused(player: Player, name: bytes) -> None:
    """Ask for a hold that is not granted."""
    await player.mount.hold(LockAsked((path(name),)), lambda _: None, asyncio.Event())


@simulated
async def test_a_hold_is_renewed_by_the_mount_and_keeps_out_its_other_callers(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    hold = Held(scene, ann, b"d", b"f")
    await scene.until(lambda: hold.is_held, "it is granted")
    assert hold.locked == [b"d", b"f"]
    await scene.passes(10 * LEASE_S)
    assert shown(bob) == [(b"d", "ann", False), (b"f", "ann", False)]
    assert [each for each in shown(ann) if each[2]] == [(b"d", "ann", True), (b"f", "ann", True)]
    for mount in (ann, bob):
        with pytest.raises(Locked):
            await lock(mount, b"f")
    with pytest.raises(Locked):
        await refused(ann, b"d/f")
    # What the command makes in the mount goes to the volume under the lock, and is fenced by it.
    ann.user.write(b"f", b"of ann")
    await scene.rest(ann)
    assert {each.entry for each in ann.way.proposals[-1].tokens} == {
        each.lock.entry for each in ann.status.locks if bytes(each.path) == b"f"
    }
    bob.user.write(b"d/f", b"of bob")
    await held(scene, bob, b"d/f")
    assert await hold.ended() == HoldEnd(is_released=True) and hold.losses == []
    await scene.rest(ann, bob)
    assert shown(ann) == shown(bob) == []
    assert bob.contents()[b"f"] == b"of ann" and ann.contents()[b"d/f"] == b"of bob"


@simulated
async def test_a_hold_that_ends_stores_first_what_was_changed_under_it(scene: Scene) -> None:
    ann, bob = await both(scene)
    hold = Held(scene, ann, b"f")
    await scene.until(lambda: hold.is_held, "it is granted")
    await scene.until(lambda: bool(shown(bob)), "bob sees it")
    bob.user.write(b"f", b"of bob")
    await held(scene, bob, b"f")
    ann.user.write(b"f", b"of ann")
    await hold.ended()
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents() and ann.contents()[b"f"] == b"of ann"
    assert len(copies(ann)) == 1


@simulated
async def test_a_hold_that_is_given_up_at_any_moment_leaves_no_lock(scene: Scene) -> None:
    ann, bob = await both(scene)
    await lock(bob, b"f")
    waiting = scene.group.create_task(
        ann.mount.hold(LockAsked((path(b"f"),), wait_s=60.0), lambda _: None, asyncio.Event())
    )
    await scene.passes(1)
    waiting.cancel()
    await unlock(bob, b"f")
    await scene.passes(1)
    assert shown(bob) == []
    hold = Held(scene, ann, b"f")
    await scene.until(lambda: bool(shown(bob)), "it is granted")
    hold.task.cancel()
    assert await scene.until(lambda: shown(bob) == [], "it is given back") < 1.0


@simulated
async def test_who_deletes_what_he_holds_loses_nothing(scene: Scene) -> None:
    ann, bob = await both(scene)
    hold = Held(scene, ann, b"f", b"g")
    await scene.until(lambda: hold.is_held, "it is granted")
    ann.user.unlink(b"f")
    await scene.rest(ann, bob)
    assert [each[0] for each in shown(bob)] == [b"g"]
    ann.user.unlink(b"g")
    assert await hold.ended() == HoldEnd(is_released=True) and hold.losses == []
    await scene.rest(ann, bob)
    assert b"g" not in bob.contents() and shown(bob) == []


@simulated
async def test_a_hold_that_is_lost_is_told(scene: Scene) -> None:
    ann, bob = await both(scene)
    hold = Held(scene, ann, b"f", b"g")
    await scene.until(lambda: hold.is_held, "it is granted")
    assert await unlock(bob, b"f", is_forced=True) == [UnlockResult.BROKEN]
    await scene.until(lambda: bool(hold.losses), "it is told")
    [loss] = hold.losses
    assert (bytes(loss.lock.path), loss.by) == (b"f", "bob")
    assert loss.effect is LockEffect.BROKEN
    ann.network.is_up = False
    await scene.until(lambda: shown(bob) == [], "the lease is over")
    assert len(hold.losses) == 1, "nobody said so yet"
    ann.network.is_up = True
    await scene.until(lambda: len(hold.losses) == 2, "it is told")
    assert bytes(hold.losses[1].lock.path) == b"g"
    await hold.ended()


@simulated
async def test_a_mount_that_is_killed_holds_for_its_lease_alone_and_takes_nothing_up(
    scene: Scene,
) -> None:
    ann, bob = await both(scene)
    hold = Held(scene, ann, b"f")
    await scene.until(lambda: hold.is_held, "it is granted")
    ann.network.is_up = False
    hold.task.cancel()
    await ann.bury(power_loss=False)
    ann.network.is_up = True
    ann.start(scene.group)
    # It stores what it may as the same owner, and does not keep a lock whose caller is gone.
    await scene.until(lambda: shown(bob) == [], "the lease is over")
    await scene.rest(ann, bob)


@simulated
async def test_a_mount_holds_for_so_many_and_serves_the_others(scene: Scene) -> None:
    ann, _ = await both(scene)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locker, "HOLDS_MAX", 1)
        hold = Held(scene, ann, b"f")
        await scene.until(lambda: hold.is_held, "it is granted")
        with pytest.raises(Throttled, match="for 1 commands"):
            await refused(ann, b"g")
        await lock(ann, b"g")
        await hold.ended()
        again = Held(scene, ann, b"f")
        await scene.until(lambda: again.is_held, "there is room again")
        await again.ended()


# -- what nobody was told of -----------------------------------------------------


def granted_to_ann(scene: Scene) -> list[bytes]:
    assert scene.server.volume is not None
    found = scene.server.volume.user_locks.locks.values()
    return sorted(each.reason.encode() for each in found)


def asking(scene: Scene, player: Player, *paths: bytes, reason: str) -> asyncio.Task[LocksResult]:
    """Ask for locks; the mount will wait for its own news before it answers."""
    asked = LockAsked(tuple(map(path, paths)), reason, TTL_S)
    return scene.group.create_task(player.mount.lock(asked))


class Stuck:
    """Keeps a mount from hearing what happens to locks."""

    def __init__(self, player: Player) -> None:
        self.goes_on = asyncio.Event()
        player.way.event = self._event

    async def _event(self, event: WatchEvent) -> WatchEvent:
        if isinstance(event, LockNews):
            await self.goes_on.wait()
        return event


@simulated
async def test_a_call_that_is_given_up_after_its_grant_leaves_no_lock(scene: Scene) -> None:
    ann, bob = await both(scene)
    stuck = Stuck(ann)
    call = asking(scene, ann, b"f", reason="first")
    await scene.until(lambda: granted_to_ann(scene) == [b"first"], "it is granted")
    assert not call.done()
    call.cancel()
    assert await scene.until(lambda: granted_to_ann(scene) == [], "it is given back") < 1.0
    stuck.goes_on.set()
    await lock(bob, b"f")


@simulated
async def test_it_is_given_back_when_the_server_is_there_again(scene: Scene) -> None:
    ann, _ = await both(scene)
    stuck = Stuck(ann)
    call = asking(scene, ann, b"f", reason="first")
    await scene.until(lambda: granted_to_ann(scene) == [b"first"], "it is granted")
    ann.network.is_up = False
    call.cancel()
    stuck.goes_on.set()
    await scene.passes(LEASE_S / 3)
    assert granted_to_ann(scene) == [b"first"]
    ann.network.is_up = True
    assert await scene.until(lambda: granted_to_ann(scene) == [], "it is given back") < LEASE_S / 2


@simulated
async def test_what_somebody_was_told_of_is_not_given_back(scene: Scene) -> None:
    ann, _ = await both(scene)
    await lock(ann, b"f", reason="told")
    stuck = Stuck(ann)
    both_wanted = asking(scene, ann, b"f", b"g", reason="first")
    await scene.until(lambda: granted_to_ann(scene) == [b"first"] * 2, "it is granted")
    assert not both_wanted.done()
    g_wanted = asking(scene, ann, b"g", reason="second")
    await scene.until(lambda: granted_to_ann(scene) == [b"first", b"second"], "it is granted too")
    both_wanted.cancel()
    await scene.passes(1)
    # The other one asks for it as well, and has no answer yet.
    assert granted_to_ann(scene) == [b"first", b"second"]
    stuck.goes_on.set()
    [answered] = (await g_wanted).locks
    await scene.passes(1)
    assert granted_to_ann(scene) == [b"first", b"second"]
    # An answer that was not read is none.
    ann.mount.give_back(LocksResult((answered,)))
    await scene.until(lambda: granted_to_ann(scene) == [b"first"], "it is given back")
    await scene.passes(3 * LEASE_S)
    assert shown(ann) == [(b"f", "ann", True)]


@simulated
async def test_what_a_mount_has_from_before_its_start_is_not_given_back(scene: Scene) -> None:
    ann, _ = await both(scene)
    await lock(ann, b"f", reason="told")
    await ann.bury(power_loss=False)
    ann.start(scene.group)
    await scene.until(lambda: shown(ann) == [(b"f", "ann", True)], "it is its own")
    stuck = Stuck(ann)
    call = asking(scene, ann, b"f", b"g", reason="first")
    await scene.until(lambda: granted_to_ann(scene) == [b"first"] * 2, "it is granted")
    assert not call.done()
    call.cancel()
    await scene.until(lambda: granted_to_ann(scene) == [b"first"], "what is new is given back")
    stuck.goes_on.set()
    await scene.passes(3 * LEASE_S)
    assert shown(ann) == [(b"f", "ann", True)]
