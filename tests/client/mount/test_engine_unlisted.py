"""A directory that cannot be listed or entered for a while: told, and made good at once after."""

from __future__ import annotations

import errno

from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.scenes import Scene, simulated


@simulated
async def test_a_root_that_cannot_be_listed_is_not_in_sync(scene: Scene) -> None:
    bob = scene.add("bob")
    await scene.rest(bob)
    ann = scene.add("ann")
    ann.user.write(b"file", b"mine")
    ann.disk.fail(errno.EACCES, operation="list", path=b"mount", times=None)
    await scene.until(lambda: ann.problems.get(b"") == "unread", "it is told")
    assert ann.status.phase is not MountPhase.IN_SYNC
    assert (await ann.mount.wait(60.0)).end is WaitEnd.PROBLEMS
    ann.disk.heal()
    await scene.until(lambda: not ann.status.problems, "it is no problem any more")
    await scene.rest(ann, bob)
    assert bob.user.read(b"file") == b"mine"


@simulated
async def test_a_mode_is_sent_as_soon_as_the_directory_can_be_listed(scene: Scene) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.mkdir(b"d")
    await scene.rest(ann, bob)
    ann.disk.fail(errno.EACCES, operation="list", path=b"mount/d", times=1)
    ann.user.chmod(b"d", 0o700)
    await scene.until(lambda: bob.user.inode(b"d").mode == 0o700, "the mode arrived")
    assert ann.status.problems == ()


@simulated
async def test_what_waits_in_a_directory_goes_when_one_above_it_can_be_entered(
    scene: Scene,
) -> None:
    ann, bob = scene.add("ann"), scene.add("bob")
    ann.user.mkdir(b"d")
    ann.user.mkdir(b"d/e")
    await scene.rest(ann, bob)
    ann.disk.fail(errno.EMFILE, operation="enter", path=b"mount/d", times=5)
    ann.user.mkdir(b"d/e/f")
    while (await ann.mount.wait(60.0)).end is not WaitEnd.IN_SYNC:
        await scene.passes(0.5)
    assert ann.status.entries == 3
