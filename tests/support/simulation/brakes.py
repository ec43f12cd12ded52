"""Accidents that must stop a mount before it deletes or overwrites anything (the brakes).

Model: an accident happens to a machine at rest whose user does nothing meanwhile. While it lasts
the mount must halt for the reason that fits, and nothing may be deleted in its name. Then it is
undone, or the user resumes; what he had must be there in the end, as after any other trouble.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Set

from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.core.identity import Revision
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.core.safety import Halt, HaltReason, Limits
from syncline.ports.files import FileKind
from syncline.ports.mount_control import MountPhase
from syncline.server.recovery import rebuild
from tests.support.simulation.history import ALL, Stores, deletes_of, head_of
from tests.support.simulation.machines import ROOT, ClientMachine
from tests.support.simulation.met import CLONED, STATE_LOST, STATE_OLD, brake
from tests.support.simulation.oracle import contents_of
from tests.support.simulation.scene import Scene
from tests.support.simulation.user_side import Node, User

LIMITS = Limits(share=0.5, floor=4, emptied_floor=3)
"""Small worlds have small limits."""

AWAY = b"away"
LASTS_S = 6.0
QUIET_S = 20.0


class Brakes:
    """The accidents of one world, one at a time."""

    def __init__(
        self,
        scene: Scene,
        bury: Callable[[ClientMachine], Awaitable[None]],
        restart_server: Callable[[Callable[[], None]], Awaitable[None]],
        *,
        is_allowed: bool,
    ) -> None:
        self._scene = scene
        self._random = scene.random
        self._bury = bury
        self._restart_server = restart_server
        self._copies: dict[str, MemoryMountState] = {}
        self.is_allowed = is_allowed
        self.is_restored = False
        self.is_identity_shared = False
        """What a mount remembers does not know all that was done in its name."""

    async def act(self) -> None:
        """Let one accident happen, and be over."""
        machine = self._random.choice(self._scene.machines)
        accident = self._random.choice(
            (
                self.root_away,
                self.root_of_another_type,
                self._root_replaced,
                self._root_covered,
                self._root_emptied,
                self._root_emptied,
                self._mass_delete,
                self._mass_removal,
                self._server_restored,
                self._server_restored,
                self.state_lost,
                self.state_old,
                self.state_old,
                self.identity_cloned,
            )
        )
        await self.cause(machine, accident)

    async def cause(
        self, machine: ClientMachine, accident: Callable[[ClientMachine], Awaitable[None]]
    ) -> None:
        """Let an accident happen to a machine at rest, and be over."""
        everybody = self._scene.hands.values()
        for hands in everybody:
            hands.is_away = True
        is_at_rest = await self.is_at_rest(machine)
        for hands in everybody:
            hands.is_away = hands.name == machine.name
        self._scene.accidents.add(machine.name)
        try:
            if is_at_rest:
                await accident(machine)
        finally:
            self._scene.hands[machine.name].is_away = False
            self._scene.accidents.discard(machine.name)

    async def is_at_rest(self, machine: ClientMachine) -> bool:
        """Wait until a mount has nothing to do; False where that takes too long."""
        until_s = self._scene.now_s() + QUIET_S
        machine.disk.heal()
        machine.network.is_up = True
        await asyncio.sleep(1.0)
        while self._scene.now_s() < until_s:
            supervisor = machine.supervisor
            if supervisor is not None and supervisor.status().phase is MountPhase.IN_SYNC:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _keeps_all(
        self, machine: ClientMachine, accident: Callable[[], Awaitable[None]]
    ) -> None:
        """Let something happen, and fail where it took anything from a mount (G1, G4)."""
        hands, everybody = self._scene.hands[machine.name], self._scene.hands.values()
        before = {contents_of(node) for node in hands.tree().values()}
        for each in everybody:
            each.is_away = True
        await accident()
        self._scene.accidents.discard(machine.name)
        is_at_rest = await self.is_at_rest(machine)
        for each in everybody:
            each.is_away = False
        shown = [content[:24] for content in self._lost(machine, before)]
        if is_at_rest and shown:
            raise AssertionError(f"{machine.name} lost {shown} by an accident")

    def _lost(self, machine: ClientMachine, before: Set[bytes | None]) -> list[bytes]:
        """Return what a user had, has no more, and did not give up."""
        now = {contents_of(node) for node in self._scene.hands[machine.name].tree().values()}
        return [each for each in before - now - self._scene.oracle.given_up if each]

    # -- the root ------------------------------------------------------------------------

    async def root_away(self, machine: ClientMachine) -> None:
        disk = User(machine.disk)
        disk.rename(ROOT, AWAY)
        await self._check(machine, HaltReason.ROOT_MISSING)
        disk.rename(AWAY, ROOT)

    async def root_of_another_type(self, machine: ClientMachine) -> None:
        disk = User(machine.disk)
        disk.rename(ROOT, AWAY)
        disk.write(ROOT, b"a file")
        await self._check(machine, HaltReason.ROOT_OTHER_TYPE)
        disk.unlink(ROOT)
        disk.rename(AWAY, ROOT)

    async def _root_replaced(self, machine: ClientMachine) -> None:
        disk = User(machine.disk)
        disk.rename(ROOT, AWAY)
        disk.mkdir(ROOT)
        disk.write(ROOT + b"/other", b"")
        await self._check(machine, HaltReason.ROOT_REPLACED)
        disk.rmtree(ROOT)
        disk.rename(AWAY, ROOT)

    async def _root_covered(self, machine: ClientMachine) -> None:
        disk = User(machine.disk)
        disk.mount(ROOT)
        await self._check(machine, HaltReason.ROOT_REPLACED)
        disk.unmount(ROOT)

    async def _root_emptied(self, machine: ClientMachine) -> None:
        """Let all go that is in a root, and come back."""
        disk, state = User(machine.disk), machine.state
        with state.session() as session:
            if session.base_count() < LIMITS.emptied_floor:
                return
        names = [name for name in machine.user.tree() if b"/" not in name]
        names.remove(RESERVED_ROOT_NAME)
        disk.mkdir(AWAY)
        for name in names:
            disk.rename(ROOT + b"/" + name, AWAY + b"/" + name)
        await self._check(machine, HaltReason.ROOT_EMPTIED)
        for name in names:
            disk.rename(AWAY + b"/" + name, ROOT + b"/" + name)
        disk.rmdir(AWAY)

    async def _check(self, machine: ClientMachine, reason: HaltReason) -> None:
        """Fail where a mount does not halt for a reason, or deletes something meanwhile (G4)."""
        stores = self._scene.server.stores
        head = head_of(stores)
        self._scene.note(f"{machine.name} {reason.value}")
        halt: Halt | None = None
        until_s = self._scene.now_s() + LASTS_S
        while self._scene.now_s() < until_s:
            await asyncio.sleep(0.2)
            supervisor = machine.supervisor
            halt = halt or (supervisor.status().halt if supervisor is not None else None)
        if head_of(stores) >= head:
            deleted = deletes_of(stores, machine.name, head)
            if deleted:
                raise AssertionError(f"{machine.name} deleted {deleted} after {reason.value}")
        if halt is not None and halt.reason is not reason:
            raise AssertionError(f"{machine.name} halted for {halt}, and it was {reason}")
        self._scene.met[brake(reason)] += halt is not None

    # -- many deletes ---------------------------------------------------------------------

    async def _mass_delete(self, machine: ClientMachine) -> None:
        """Let a user delete nearly all; what he means by it he says by resuming."""
        hands = self._scene.hands[machine.name]
        before = hands.tree()
        tops = [path for path in before if b"/" not in path]
        if len(before) <= 2 * LIMITS.floor:
            return
        for path in tops[1:]:
            hands.give_up_at(path)
            if machine.user.inode(path).is_directory:
                machine.user.rmtree(path)
            else:
                machine.user.unlink(path)
        self._scene.note(f"{machine.name} deletes nearly all")
        hands.done += 1
        head = head_of(self._scene.server.stores)
        await asyncio.sleep(1.0)
        halt = machine.supervisor.status().halt if machine.supervisor is not None else None
        if halt is not None and halt.reason is HaltReason.MASS_DELETE:
            deleted = deletes_of(self._scene.server.stores, machine.name, head)
            # What was seen first may have been few enough.
            if len(deleted) > max(LIMITS.floor, LIMITS.share * len(before)):
                raise AssertionError(f"{machine.name} halted, and deleted {deleted}")

    async def _mass_removal(self, machine: ClientMachine) -> None:
        """Let a mount be away while others delete much, a little at a time."""
        others = [each for each in self._scene.machines if each is not machine]
        other = self._random.choice(others)
        hands = self._scene.hands[other.name]
        if hands.is_away or len(hands.tree()) <= 2 * LIMITS.floor:
            return
        machine.network.is_up = False
        self._scene.note(f"{other.name} deletes nearly all, piece by piece")
        for path, node in sorted(hands.tree().items(), reverse=True)[1:]:
            try:
                if not other.user.exists(path):
                    continue
                hands.give_up_at(path)
                if node.kind.value == "directory":
                    other.user.rmdir(path)
                else:
                    other.user.unlink(path)
            except OSError:
                continue
            hands.done += 1
            await asyncio.sleep(0.3)
        machine.network.is_up = True
        await asyncio.sleep(2.0)

    # -- what is remembered ----------------------------------------------------------------

    async def _server_restored(self, machine: ClientMachine) -> None:
        """Let the server be one that was restored from a backup."""
        stores = self._scene.server.stores
        head = head_of(stores)
        revision = max(0, head - self._random.randint(1, 20))
        self._scene.note(f"server goes back from {head} to {revision}")
        self.is_restored = True
        backend = self._scene.server.backend

        def restore() -> None:
            backend.metadata = restored(stores, revision)

        await self._keeps_all(machine, lambda: self._restart_server(restore))

    async def state_lost(self, machine: ClientMachine) -> None:
        self._copies.pop(machine.name, None)
        await self._keeps_all(machine, lambda: self._replace_state(machine, None))
        self.is_restored = True
        self._scene.met[STATE_LOST] += 1
        self._scene.note(f"{machine.name} lost its state")

    def remember(self, machine: ClientMachine) -> None:
        """Keep a copy of the state of a mount, if there is none yet."""
        self._copies.setdefault(machine.name, copy.deepcopy(machine.state))

    async def state_old(self, machine: ClientMachine) -> None:
        """Keep a copy of the state, or let an earlier copy take its place."""
        old = self._copies.pop(machine.name, None)
        if old is None:
            self._copies[machine.name] = copy.deepcopy(machine.state)
            return
        await self._keeps_all(machine, lambda: self._replace_state(machine, old))
        self.is_restored = self.is_identity_shared = True
        self._scene.met[STATE_OLD] += 1
        self._scene.note(f"{machine.name} has an old copy of its state")

    async def _replace_state(self, machine: ClientMachine, old: MemoryMountState | None) -> None:
        await self._bury(machine)
        if old is None:
            machine.forget()
        else:
            machine.state = old
            machine.given = machine.replica

    async def identity_cloned(self, machine: ClientMachine) -> None:
        """Let a machine be what a copy of another one's disk would make of it."""
        source = self._random.choice([m for m in self._scene.machines if m is not machine])
        if self._scene.hands[source.name].is_away or machine.disk.user_files:
            return
        if machine.settings.watch_limit is not None:
            # What it has not looked at yet would be gone with the rest.
            return
        await self._bury(machine)
        self._copies.pop(machine.name, None)
        for name in machine.user.tree():
            if b"/" not in name and machine.user.inode(name).is_directory:
                machine.user.rmtree(name)
            elif b"/" not in name:
                machine.user.unlink(name)
        for path, node in source.user.tree().items():
            _copy(machine.user, path, node)
        machine.state = copy.deepcopy(source.state)
        machine.given = machine.replica
        self.is_restored = self.is_identity_shared = True
        self._scene.met[CLONED] += 1
        self._scene.note(f"{machine.name} is a clone of {source.name}")


def _copy(user: User, path: bytes, node: Node) -> None:
    match node.kind:
        case FileKind.DIRECTORY:
            user.mkdir(path)
        case FileKind.LINK:
            user.symlink(path, node.content)
        case _:
            user.write(path, node.content)
    if node.kind is not FileKind.LINK:
        user.chmod(path, node.mode)
    user.utime(path, node.mtime_ns)


def restored(stores: Stores, revision: int) -> MemoryMetadataStore:
    """Return the metadata as a backup has it that was made at a revision."""
    [volume] = stores.metadata.volumes()
    backup = MemoryMetadataStore()
    backup.create_volume(volume.id, volume.name)
    with stores.metadata.read(volume.id) as reader, backup.write(volume.id) as session:
        for commit in reader.commits_after(Revision(0), ALL)[:revision]:
            answer = reader.answer(commit.author.replica, commit.op_id)
            assert answer is not None, "each commit has an answer"
            session.add_commit(commit, answer)
    rebuild(backup, volume.id, stores.chunks)
    return backup
