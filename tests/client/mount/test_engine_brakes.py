"""What a human agreed to when he resumed is done, and nothing more."""

from __future__ import annotations

from syncline.core.safety import Halt, HaltReason, Limits
from syncline.ports.mount_control import MountPhase, ResumeEnd, WaitEnd
from tests.support.scenes import Player, Scene, simulated
from tests.support.simulation.machines import Settings

BRAKES = Settings(brakes=Limits(share=0.5, floor=5, emptied_floor=10))


async def filled(scene: Scene, name: str, count: int) -> Player:
    """Return a mount with so many files."""
    player = scene.add(name, BRAKES)
    for number in range(count):
        player.user.write(b"file %d" % number, b"%d" % number)
    await scene.rest(player)
    return player


async def halted(scene: Scene, player: Player, reason: HaltReason) -> Halt:
    """Return the halt that comes."""
    await scene.until(lambda: player.status.halt is not None, f"halted: {reason}")
    halt = player.status.halt
    assert halt is not None
    assert halt.reason is reason
    return halt


def remove(player: Player, numbers: range) -> None:
    for number in numbers:
        player.user.unlink(b"file %d" % number)


@simulated
async def test_who_agrees_to_some_deletes_does_not_agree_to_more(scene: Scene) -> None:
    ann = await filled(scene, "ann", 40)
    remove(ann, range(25))
    first = await halted(scene, ann, HaltReason.MASS_DELETE)
    assert first.count == 25
    # In the same instant: the mount has not looked.
    remove(ann, range(25, 38))
    result = await ann.mount.resume(first)
    assert result.end is ResumeEnd.RESUMED
    second = await halted(scene, ann, HaltReason.MASS_DELETE)
    assert second.count == 38
    assert ann.status.entries == 40
    assert (await ann.mount.resume(second)).end is ResumeEnd.RESUMED
    await scene.rest(ann)
    assert ann.status.entries == 2


@simulated
async def test_a_halt_tells_of_what_is_deleted_while_it_stands(scene: Scene) -> None:
    ann = await filled(scene, "ann", 40)
    remove(ann, range(25))
    first = await halted(scene, ann, HaltReason.MASS_DELETE)
    remove(ann, range(25, 35))
    await scene.until(lambda: ann.status.halt != first, "the halt tells of more")
    second = await halted(scene, ann, HaltReason.MASS_DELETE)
    assert second.count == 35
    refused = await ann.mount.resume(first)
    assert (refused.end, refused.halt) == (ResumeEnd.HALTED, second)
    assert (await ann.mount.resume(second)).end is ResumeEnd.RESUMED
    await scene.rest(ann)
    assert ann.status.entries == 5


@simulated
async def test_nothing_is_sent_or_placed_while_a_halt_stands(scene: Scene) -> None:
    ann = await filled(scene, "ann", 40)
    bob = scene.add("bob", BRAKES)
    await scene.rest(ann, bob)
    remove(ann, range(30))
    await halted(scene, ann, HaltReason.MASS_DELETE)
    sent = len(ann.way.proposals)
    ann.user.write(b"mine", b"mine")
    bob.user.write(b"theirs", b"theirs")
    assert (await ann.mount.wait(60.0)).end is WaitEnd.HALTED
    await scene.passes(60.0)
    assert len(ann.way.proposals) == sent
    assert b"theirs" not in ann.contents()
    assert ann.status.cursor == scene.head
    halt = ann.status.halt
    assert halt is not None
    assert (await ann.mount.resume(halt)).end is ResumeEnd.RESUMED
    await scene.rest(ann, bob)
    assert bob.contents() == ann.contents()
    assert {b"mine", b"theirs"} <= set(ann.contents())


@simulated
async def test_what_was_agreed_to_is_used_up(scene: Scene) -> None:
    ann = await filled(scene, "ann", 40)
    ann.user.write(b"locked", b"locked")
    ann.user.mkdir(b"kept")
    for number in range(30):
        ann.user.write(b"kept/%d" % number, b"%d" % number)
    await scene.rest(ann)
    ann.way.locked.add(ann.id(b"locked"))
    ann.user.unlink(b"locked")
    remove(ann, range(40))
    halt = await halted(scene, ann, HaltReason.MASS_DELETE)
    assert (await ann.mount.resume(halt)).end is ResumeEnd.RESUMED
    await scene.until(lambda: ann.is_in(MountPhase.WAITING), "all but what is locked is deleted")
    await scene.passes(3_600.0)
    assert ann.problems == {b"locked": "locked"}
    before = ann.status.entries
    for number in range(30):
        ann.user.unlink(b"kept/%d" % number)
    again = await halted(scene, ann, HaltReason.MASS_DELETE)
    assert again.count == 31
    assert ann.status.entries == before
    assert set(ann.way.locked) == {change.id for change in ann.way.proposals[-1].changes}


@simulated
async def test_receivers_do_not_halt_for_what_was_agreed_to(scene: Scene) -> None:
    ann = await filled(scene, "ann", 40)
    bob = scene.add("bob", BRAKES)
    await scene.rest(ann, bob)
    remove(ann, range(30))
    halt = await halted(scene, ann, HaltReason.MASS_DELETE)
    await ann.mount.resume(halt)
    await scene.rest(ann, bob)
    assert len(bob.contents()) == 10
    assert ann.way.proposals[-1].is_confirmed


@simulated
async def test_receivers_halt_for_what_nobody_agreed_to(scene: Scene) -> None:
    ann = scene.add("ann")
    for number in range(40):
        ann.user.write(b"file %d" % number, b"%d" % number)
    bob = scene.add("bob", BRAKES)
    await scene.rest(ann, bob)
    remove(ann, range(30))
    halt = await halted(scene, bob, HaltReason.MASS_REMOVAL)
    assert len(bob.contents()) == 40
    await bob.mount.resume(halt)
    await scene.rest(ann, bob)
    assert len(bob.contents()) == 10
