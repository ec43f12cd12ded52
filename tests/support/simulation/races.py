"""Users who act just where it hurts: in the windows between two steps of the engine.

Which window is open is read from the functions that are running: the engine itself knows nothing
of being watched.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.core.changes import Proposal, PutFile
from syncline.core.identity import Digest
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.ports.files import FileKind
from tests.support.simulation.disk import Operation
from tests.support.simulation.history import live_entries
from tests.support.simulation.machines import ROOT, ClientMachine
from tests.support.simulation.met import (
    CHECKED,
    DIRECTORY_IN_PATH,
    DOWNLOADED,
    LINK_IN_PATH,
    MOVED_OUT,
    READ,
    SWAPPED,
)
from tests.support.simulation.scene import Scene
from tests.support.simulation.user_side import Node, User

OUTSIDE = b"outside"
UNDONE_S = 2.0
LIKELY = {READ: 0.01, CHECKED: 0.2, SWAPPED: 0.03}
PATH_LIKELY = 0.01
"""How likely a window is used at an operation for which it is open."""


@dataclass
class _MovedOut:
    """What was moved out of a mount; `tree` is what it was a moment later."""

    since_s: float
    tree: dict[bytes, Node] | None = None


class Races:
    """The acts of all users in open windows."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._random = scene.random
        self._outside: dict[str, dict[bytes, _MovedOut]] = {}
        for machine in scene.machines:
            User(machine.disk).mkdir(OUTSIDE)

    # -- windows of the engine -------------------------------------------------------

    def before(self, machine: ClientMachine, operation: Operation) -> None:
        """Maybe act before an operation of a mount."""
        self.look_outside(machine)
        draw = self._random.random()
        if draw >= max(LIKELY.values()) or self._scene.hands[machine.name].is_away:
            return
        frames = _frames()
        if operation.name.startswith("file.") and "read._read" in frames:
            path = self._in_mount(operation.path)
            if path is not None:
                self._write(machine, path, READ, draw)
        elif "place_swaps.swap" in frames or "place_swaps.remove" in frames:
            self._around_swap(machine, operation, frames, draw)
        if "place.carry_out" in frames and draw < PATH_LIKELY:
            path = self._in_mount(operation.path)
            if path is not None and b"/" in path:
                self._change_path(machine, path.rpartition(b"/")[0])

    def _in_mount(self, path: bytes) -> bytes | None:
        """Return a path of the disk as the user of the mount says it; None for our own."""
        front = ROOT + b"/"
        inside = path.removeprefix(front)
        is_own = inside == RESERVED_ROOT_NAME or inside.startswith(RESERVED_ROOT_NAME + b"/")
        return None if inside == path or is_own else inside

    def _around_swap(
        self,
        machine: ClientMachine,
        operation: Operation,
        frames: dict[str, FrameType],
        draw: float,
    ) -> None:
        frame = frames.get("place_swaps.swap") or frames["place_swaps.remove"]
        known = frame.f_locals
        if "name" not in known or "place_swaps._swap_back" in frames:
            return
        path = known["batch"].path(known["out"].seen.state.place)
        is_before = operation.name == "exchange" or (
            operation.name == "move" and "thing" not in known and "place_swaps.remove" in frames
        )
        if is_before:
            self._write(machine, bytes(path), CHECKED, draw)
        elif "before" in known or "thing" in known:
            self._write(machine, bytes(path), SWAPPED, draw)

    def _write(self, machine: ClientMachine, path: bytes, window: str, draw: float) -> None:
        hands = self._scene.hands[machine.name]
        ways: Sequence[Callable[[bytes], None]] = (hands.edit_at, hands.save_at, hands.open_at)
        if not hands.has_patience or draw >= LIKELY[window]:
            return
        way = self._random.choice(ways)
        if self._do(lambda: way(path)) and way != hands.open_at:
            self._scene.met[window] += 1

    def _do(self, act: Callable[[], None]) -> bool:
        """Do what may be impossible just now; tell whether it was done."""
        try:
            act()
        except OSError:
            return False
        return True

    def _change_path(self, machine: ClientMachine, directory: bytes) -> None:
        """Let a link, another directory or nothing be where a directory was."""
        number = b"%d" % self._random.getrandbits(32)
        kind = self._random.choice((LINK_IN_PATH, DIRECTORY_IN_PATH, MOVED_OUT))
        act = self._move_out if kind == MOVED_OUT else self._swap_in
        if self._do(lambda: act(machine, directory, number, kind)):
            self._scene.met[kind] += 1
            self._scene.note(f"{machine.name} {kind} {directory!r}")

    def _swap_in(self, machine: ClientMachine, directory: bytes, number: bytes, kind: str) -> None:
        user, hands = machine.user, self._scene.hands[machine.name]
        hands.rename_to(directory, b"was-" + number)
        if kind == DIRECTORY_IN_PATH:
            user.mkdir(directory)
            return
        target = b"../" + OUTSIDE
        hands.oracle.make(target)
        user.symlink(directory, target)

    def _move_out(self, machine: ClientMachine, directory: bytes, number: bytes, _: str) -> None:
        hands, outside = self._scene.hands[machine.name], User(machine.disk)
        if not machine.user.exists(directory):
            raise FileNotFoundError
        hands.give_up_at(directory)
        to = OUTSIDE + b"/" + number
        outside.rename(ROOT + b"/" + directory, to)
        self._outside.setdefault(machine.name, {})[to] = _MovedOut(self._scene.now_s())

    def look_outside(self, machine: ClientMachine) -> None:
        """Remember what was moved out, when what was under way has been taken back."""
        for to, moved in self._outside.get(machine.name, {}).items():
            if moved.tree is None and self._scene.now_s() - moved.since_s > UNDONE_S:
                moved.tree = User(machine.disk).tree(to)

    def kept_outside(self) -> set[bytes]:
        """Return the contents that users moved out of their mounts."""
        trees = (User(machine.disk).tree(OUTSIDE) for machine in self._scene.machines)
        return {node.content for tree in trees for node in tree.values()}

    def check_outside(self) -> None:
        """Fail where something outside a mount is not what it was (G9)."""
        for machine in self._scene.machines:
            name = machine.name
            moved = self._outside.get(name, {})
            there = {OUTSIDE + b"/" + each for each in User(machine.disk).tree(OUTSIDE)}
            if moved.keys() != {path for path in there if path.count(b"/") == 1}:
                raise AssertionError(f"{name}: something was made outside, at {sorted(there)}")
            for to, out in moved.items():
                now = User(machine.disk).tree(to)
                self._scene.oracle.check_content(now, f"{name}, outside")
                if out.tree is not None and out.tree.keys() != now.keys():
                    changed = sorted(out.tree.keys() ^ now.keys())
                    raise AssertionError(f"{name}: something was done outside, at {changed}")

    # -- windows of the wire -----------------------------------------------------------

    def on_fetch(self, machine: ClientMachine, digests: Sequence[Digest]) -> None:
        """Maybe write a file while what is to take its place is on its way."""
        hands = self._scene.hands[machine.name]
        if self._random.random() < 0.5 or hands.is_away or not hands.has_patience:
            return
        wanted = set(digests)
        tree = hands.tree()
        for id, entry in live_entries(self._scene.server.stores).items():
            refs = entry.content.refs if entry.content is not None else ()
            if wanted.isdisjoint(ref.digest for ref in refs):
                continue
            path = self._scene.server_path(id)
            if path is not None and path in tree and tree[path].kind is FileKind.FILE:
                if self._do(partial(hands.edit_at, path)):
                    self._scene.met[DOWNLOADED] += 1
                return

    def on_stall(self, machine: ClientMachine, proposal: Proposal) -> None:
        """Let another user write the file whose transfer has come to a standstill."""
        others = [each for each in self._scene.machines if each is not machine]
        other = self._random.choice(others)
        hands = self._scene.hands[other.name]
        if hands.is_away or not hands.has_patience:
            return
        for change in proposal.changes:
            if not isinstance(change, PutFile):
                continue
            parent = self._scene.server_path(change.parent)
            if parent is not None:
                path = parent + b"/" + change.name if parent else bytes(change.name)
                if self._random.random() < 0.5:
                    # What came of the transfer is lost, and the other one's commit shows it.
                    path = b"m%d" % self._random.getrandbits(32)
                    lose_pending(self._scene)
                way = hands.edit_at if other.user.exists(path) else hands.create_at
                self._do(partial(way, path))
                return

    # -- two users at once ----------------------------------------------------------------

    def collide(self) -> None:
        """Let two users want what cannot be both, at the same moment."""
        one, other = self._random.sample(self._scene.machines, 2)
        here, there = self._scene.hands[one.name], self._scene.hands[other.name]
        if here.is_away or there.is_away:
            return
        tops = [
            {path for path, node in hands.tree().items() if _is_top(path, node)}
            for hands in (here, there)
        ]
        both = sorted(tops[0] & tops[1])
        name = b"c%d" % self._random.getrandbits(16)
        if len(both) < 2:
            self._do(lambda: one.user.mkdir(name))
            self._do(lambda: other.user.mkdir(name + b"x"))
            return
        first, second = self._random.sample(both, 2)
        match self._random.randrange(4):
            case 0:
                self._do(lambda: here.rename_to(first, second + b"/" + name))
                self._do(lambda: there.rename_to(second, first + b"/" + name))
            case 1:
                self._do(lambda: here.rmtree_at(first))
                self._do(lambda: there.create_at(first + b"/" + name))
            case 2:
                self._do(lambda: here.create_at(first + b"/" + name))
                self._do(lambda: there.create_at(first + b"/" + name))
            case _:
                self._do(lambda: one.user.exchange(first, second))
                self._do(lambda: there.rename_to(second, b"was-" + name))


def lose_pending(scene: Scene) -> None:
    """Let the server lose what it has of transfers that are under way, with its next sync."""
    chunks = scene.server.backend.chunks
    assert isinstance(chunks, MemoryChunkStore), "a simulated server has its chunks in memory"
    chunks.fail_next_sync()


def _is_top(path: bytes, node: Node) -> bool:
    return b"/" not in path and node.kind is FileKind.DIRECTORY


def _frames() -> dict[str, FrameType]:
    """Return the functions of the engine that are running, by module and name."""
    found: dict[str, FrameType] = {}
    frame: FrameType | None = sys._getframe(1)
    for _ in range(40):
        if frame is None:
            break
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("syncline.client.mount."):
            found.setdefault(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}", frame)
        frame = frame.f_back
    return found
