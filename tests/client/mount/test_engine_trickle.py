"""The brake on deletes that come little by little, each plan of them far below the bound."""

from __future__ import annotations

from syncline.core.safety import Halt, HaltReason, Limits
from syncline.ports.mount_control import ResumeEnd
from tests.support.scenes import Player, Scene, simulated
from tests.support.simulation.machines import Settings

BRAKES = Settings(brakes=Limits(share=0.5, floor=5, emptied_floor=10))


async def filled(scene: Scene, count: int) -> tuple[Player, Player]:
    """Return two equal mounts with so many files."""
    ann, bob = scene.add("ann", BRAKES), scene.add("bob", BRAKES)
    for number in range(count):
        ann.user.write(b"file %d" % number, b"%d" % number)
    await scene.rest(ann, bob)
    return ann, bob


async def trickle(scene: Scene, player: Player, other: Player, count: int) -> Halt | None:
    """Delete one file after the other, each synced before the next; return the halt that comes."""
    for number in range(count):
        player.user.unlink(b"file %d" % number)
        await scene.until(
            lambda left=player.status.entries - 1: (
                player.status.halt is not None
                or player.status.entries == other.status.entries == left
            ),
            "the delete is synced, or halted",
        )
        if player.status.halt is not None:
            return player.status.halt
    return None


@simulated
async def test_deletes_one_by_one_halt_when_too_many_are_gone(scene: Scene) -> None:
    ann, bob = await filled(scene, 40)
    halt = await trickle(scene, ann, bob, 40)
    assert halt is not None
    assert (halt.reason, halt.count) == (HaltReason.MASS_DELETE, 1)
    assert "21 of 40" in halt.detail
    assert ann.status.entries == bob.status.entries == 20


@simulated
async def test_who_agreed_is_asked_again_only_when_as_many_are_gone_again(scene: Scene) -> None:
    ann, bob = await filled(scene, 40)
    halt = await trickle(scene, ann, bob, 40)
    assert halt is not None
    assert (await ann.mount.resume(halt)).end is ResumeEnd.RESUMED
    await scene.rest(ann, bob)
    assert ann.status.entries == 19
    for number in range(21, 28):
        ann.user.unlink(b"file %d" % number)
        await scene.rest(ann, bob)
    assert ann.status.halt is None
    assert bob.status.halt is None
    assert ann.status.entries == bob.status.entries == 12


@simulated
async def test_files_made_and_deleted_over_and_over_halt_nobody(scene: Scene) -> None:
    ann, bob = await filled(scene, 20)
    for round_ in range(6):
        for number in range(9):
            ann.user.write(b"object %d" % number, b"%d %d" % (round_, number))
        await scene.rest(ann, bob)
        for number in range(9):
            ann.user.unlink(b"object %d" % number)
        await scene.rest(ann, bob)
    assert ann.status.halt is None
    assert bob.status.halt is None
    assert ann.status.entries == 20
