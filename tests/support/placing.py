"""A mount on a simulated disk, without an engine: look at everything, plan, place, send.

The server is that of the executable model. The scan is the simplest that tells the truth of a disk
at rest, so that what goes wrong here is the applier's or the recovery's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from random import Random

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.client.mount.confirming import note_intents
from syncline.client.mount.own_directory import open_own
from syncline.client.mount.place import Applier, Placed
from syncline.client.mount.place_batch import Ground
from syncline.client.mount.recover import apply_intents, put_back
from syncline.client.mount.remote import expect_placed
from syncline.client.mount.staged_content import Inline, StagedContent
from syncline.client.mount.views import closed_view
from syncline.core.conflict_names import is_conflict_name
from syncline.core.entries import LINK_MODE, MODE_MASK, Kind
from syncline.core.fingerprints import Fingerprint, Seen
from syncline.core.identity import (
    ID_BYTES,
    ROOT_ID,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    VolumeId,
    digest_of,
)
from syncline.core.merging import confirmed
from syncline.core.names import Name
from syncline.core.plans import Placing, Plan
from syncline.core.reconcile import reconcile
from syncline.core.trees import Abilities, Mount, Place, State, Substance, state_of
from syncline.ports.files import FileKind
from syncline.ports.mount_state import MountFacts, MountSession
from syncline.ports.watcher import Mark, Noticed
from tests.support.merge import Oracle, Replica, Server
from tests.support.simulation.disk import Crashed, Operation, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.simulation.inodes import Inode
from tests.support.simulation.user_side import User
from tests.support.trees import content_of

KINDS = {
    FileKind.FILE: Kind.FILE,
    FileKind.DIRECTORY: Kind.DIRECTORY,
    FileKind.LINK: Kind.LINK,
}
OWN = Name(b".syncline")
MOUNT_NAME = "here"
ALL_ABILITIES = Abilities()


class CountedIds:
    """Identifiers that are the same in each run."""

    def __init__(self) -> None:
        self._count = count(1)

    def _next(self) -> bytes:
        return digest_of(b"id %d" % next(self._count))[:ID_BYTES]

    def entry(self) -> EntryId:
        return EntryId(self._next())

    def op(self) -> OpId:
        return OpId(self._next())

    def replica(self) -> ReplicaId:
        return ReplicaId(self._next())

    def volume(self) -> VolumeId:
        return VolumeId(self._next())


@dataclass(slots=True)
class DiskClock:
    """The clock of a simulated disk."""

    disk: SimulatedDisk

    def wall_ns(self) -> int:
        return self.disk.clock_ns

    def monotonic_s(self) -> float:
        return self.disk.clock_ns / 1e9


class NoWatcher:
    """A watcher that notices nothing: here everything is looked at."""

    def add(self, directory: object, id: EntryId) -> bool:
        return True

    def add_sentinels(self, directory: object) -> None: ...

    def is_watched(self, id: EntryId) -> bool:
        return False

    def forget(self, id: EntryId) -> None: ...

    def relabel(self, old: EntryId, new: EntryId) -> None: ...

    async def wait(self) -> None: ...

    def take(self) -> Noticed:
        return Noticed()

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A thing on the disk, and in which directory."""

    parent: EntryId
    name: Name
    inode: Inode


@dataclass(slots=True)
class PlacingWorld:
    """A server, another replica (`other`, of the model), and the mount under test.

    `saved` are contents that the user of the mount saved; `given_up` those that he overwrote or
    deleted, as far as the tests tell.
    """

    is_ordered: bool = True
    has_exchange: bool = True
    abilities: Abilities = ALL_ABILITIES
    seed: int = 1
    disk: SimulatedDisk = field(init=False)
    user: User = field(init=False)
    server: Server = field(default_factory=Server)
    oracle: Oracle = field(default_factory=Oracle)
    other: Replica = field(init=False)
    contents: dict[Digest, bytes] = field(default_factory=dict)
    state: MemoryMountState = field(init=False)
    ids: CountedIds = field(default_factory=CountedIds)
    lacking: set[Digest] = field(default_factory=set)
    placed: list[Placed] = field(default_factory=list)
    applier: Applier = field(init=False)
    ground: Ground = field(init=False)
    _cursor: int = 0
    _sent: dict[tuple[EntryId, int], State | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.disk = SimulatedDisk(is_ordered=self.is_ordered, has_exchange=self.has_exchange)
        User(self.disk).mkdir(b"mount")
        User(self.disk).mkdir(b"outside")
        self.user = User(self.disk, b"mount")
        self.other = Replica("other", self.server, self.oracle, Mount("other"))
        facts = MountFacts(self.ids.replica(), self.ids.volume(), None)
        self.state = MemoryMountState(facts)
        self.start()

    # -- processes -------------------------------------------------------------

    def start(self, *, is_cut: bool = False) -> None:
        """Begin a process, as a mount does; what an earlier one left is put right.

        `is_cut`: it did that, and has not looked at anything yet.
        """
        files = SimulatedFiles(self.disk, b"mount")
        root = files.open_root()
        own = open_own(root)
        clock = DiskClock(self.disk)
        device = root.status().device
        self.ground = Ground(root, own, device, clock, MOUNT_NAME, self.abilities)
        self.applier = Applier(root, own, device, self.ids, clock, MOUNT_NAME, self.abilities)
        with self.state.session() as session:
            put_back(session, self.ground)
        if is_cut:
            return
        self.scan()
        with self.state.session() as session:
            apply_intents(session, NoWatcher())
        self.let_go()

    def crash(self, *, power_loss: bool) -> None:
        """End the process; the next `start` is another one."""
        self.disk.before = None
        self.disk.crash(Random(self.seed), power_loss=power_loss)
        self.state.crash()
        self.pass_time()

    def pass_time(self, seconds: float = 60.0) -> None:
        """Let time pass."""
        self.disk.clock_ns += int(seconds * 1e9)

    @contextmanager
    def before_each(self, act: Callable[[int, Operation], None]) -> Iterator[None]:
        """Let something happen before each operation of the process; `act` gets its number."""
        numbers = count()
        is_acting = False

        def hook(operation: Operation) -> None:
            nonlocal is_acting
            number = next(numbers)
            if not is_acting:
                is_acting = True
                try:
                    act(number, operation)
                finally:
                    is_acting = False

        self.disk.before = hook
        try:
            yield
        finally:
            self.disk.before = None

    # -- the other side --------------------------------------------------------

    def known(self, raw: bytes) -> bytes:
        """Know the bytes of a digest; return them."""
        self.contents[digest_of(raw)] = raw
        return raw

    def make(self, path: str, raw: bytes = b"", kind: Kind = Kind.FILE) -> EntryId:
        """Let the other replica create something; it is stored at its next `sync`."""
        return self.other.make(path, kind, self.known(raw))

    def edit(self, path: str, raw: bytes) -> None:
        """Let the other replica save another content."""
        self.other.edit(self.other.at(path), self.known(raw))

    def begin(self, *paths: str) -> None:
        """Make files (`name` or `name=content`), directories (`name/`), links (`name@target`)."""
        for path in paths:
            if path.endswith("/"):
                self.make(path[:-1], kind=Kind.DIRECTORY)
            elif "@" in path:
                name, _, target = path.partition("@")
                self.make(name, target.encode(), Kind.LINK)
            else:
                name, _, raw = path.partition("=")
                self.make(name, (raw or name).encode())
        self.other.sync()
        self.rest()

    # -- looking ---------------------------------------------------------------

    def _nodes(self, at: Inode, parent: EntryId) -> Iterator[Node]:
        for name, dentry in sorted(at.entries.items()):
            if (parent, name) != (ROOT_ID, OWN) and dentry.inode.kind in KINDS:
                yield Node(parent, Name(name), dentry.inode)

    def _root(self) -> Inode:
        return self.disk.top.entries[b"mount"].inode

    def scan(self) -> None:
        """Look at everything; the disk is at rest meanwhile."""
        with self.state.session() as session:
            before = dict(_locals(session))
            inodes = self._places(before)
            found: dict[EntryId, tuple[Node, State]] = {}
            agenda = [(ROOT_ID, self._root())]
            while agenda:
                parent, at = agenda.pop()
                for node in self._nodes(at, parent):
                    id = self._identify(session, node, before, inodes, found.keys())
                    found[id] = (node, self._state(node))
                    if node.inode.is_directory:
                        agenda.append((id, node.inode))
            for id in before.keys() - found.keys():
                session.set_local(id, None)
            for id, (node, state) in found.items():
                session.set_local(id, Seen(state, _fingerprint(node.inode)))

    def _places(self, before: Mapping[EntryId, Seen]) -> dict[Place, int]:
        """Return what inode is at the place of each known entry, by the paths of before."""
        at: dict[EntryId, Inode] = {ROOT_ID: self._root()}

        def directory(id: EntryId) -> Inode | None:
            if id in at:
                return at[id]
            if id not in before:
                return None
            state = before[id].state
            above = directory(state.parent)
            dentry = above.entries.get(state.name) if above is not None else None
            if dentry is None or not dentry.inode.is_directory:
                return None
            at[id] = dentry.inode
            return dentry.inode

        found: dict[Place, int] = {}
        for seen in before.values():
            above = directory(seen.state.parent)
            dentry = above.entries.get(seen.state.name) if above is not None else None
            if dentry is not None:
                found[seen.state.place] = dentry.inode.number
        return found

    def _identify(
        self,
        session: MountSession,
        node: Node,
        before: Mapping[EntryId, Seen],
        inodes: Mapping[Place, int],
        taken: object,
    ) -> EntryId:
        assert hasattr(taken, "__contains__")
        kind = KINDS[node.inode.kind]
        there = session.child(node.parent, node.name)
        movers = [
            id
            for id, seen in session.with_inode(node.inode.number)
            if seen.state.kind is kind
            and seen.fingerprint is not None
            and seen.fingerprint.born_ns == node.inode.born_ns
            and inodes.get(seen.state.place) != node.inode.number
            and id not in taken
        ]
        if there is not None and before[there].state.kind is kind and there not in taken:
            known = before[there].fingerprint
            is_same = known is None or known.inode == node.inode.number
            if is_same or kind is not Kind.DIRECTORY or not movers:
                return there
        return movers[0] if movers else self.ids.entry()

    def _state(self, node: Node) -> State:
        inode, place = node.inode, (node.parent, node.name)
        match KINDS[inode.kind]:
            case Kind.FILE:
                raw = self.known(bytes(inode.content))
                mode = inode.mode & MODE_MASK
                return State(*place, Kind.FILE, mode, inode.mtime_ns, content_of(raw), None)
            case Kind.DIRECTORY:
                return State(*place, Kind.DIRECTORY, inode.mode & MODE_MASK, 0, None, None)
            case Kind.LINK:
                return State(*place, Kind.LINK, LINK_MODE, inode.mtime_ns, None, inode.target)

    # -- syncing ---------------------------------------------------------------

    def pull(self) -> None:
        """Hear of all commits."""
        with self.state.session() as session:
            for entries in self.server.log[self._cursor :]:
                self._cursor += 1
                for entry in entries:
                    if not entry.is_live:
                        expect_placed(session, entry.id)
                    session.set_remote(entry, self.server.authors[entry.id], is_confirmed=False)
                for entry in entries:
                    if not entry.is_live:
                        expect_placed(session, entry.id)
                    key = (entry.id, int(entry.revision))
                    if key in self._sent:
                        self._confirm(session, entry.id, self._sent.pop(key))

    def _confirm(self, session: MountSession, id: EntryId, seen: State | None) -> None:
        entry = session.remote(id)
        there = state_of(entry) if entry is not None and entry.is_live else None
        session.set_base(id, confirmed(session.base(id), seen, there))

    def plan(self) -> Plan:
        """Derive a plan, and record all that goes before it is carried out."""
        with self.state.session() as session:
            plan = reconcile(
                closed_view(session, self.ids.entry(), has_case=self.abilities.has_case),
                Mount(MOUNT_NAME, abilities=self.abilities),
            )
            for relabel in plan.relabels:
                session.relabel(relabel.local_id, relabel.id)
            for confirm in plan.confirms:
                session.set_base(confirm.id, confirm.base)
            session.forget_intents()
            note_intents(session, plan.placing)
        return plan

    def staged(self) -> Mapping[Digest, StagedContent]:
        """Return the contents that are at hand."""
        return {
            digest: Inline(raw)
            for digest, raw in self.contents.items()
            if digest not in self.lacking
        }

    def place(self, actions: Sequence[Placing]) -> Placed:
        """Place, commit, let go."""
        with self.state.session() as session:
            placed = self.applier.place(session, actions, self.staged())
            session.forget_intents()
        self.let_go()
        self.placed.append(placed)
        return placed

    def let_go(self) -> tuple[Mark, ...]:
        """Let go of what was displaced; return where to look."""
        with self.state.session() as session:
            return self.applier.let_go(session)

    def send(self, plan: Plan) -> None:
        """Send what a plan has to send."""
        with self.state.session() as session:
            seen = {id: each.state for id, each in _locals(session)}
        for unit in plan.sending:
            for entry in self.server.store(unit, MOUNT_NAME):
                self._sent[entry.id, int(entry.revision)] = seen.get(entry.id)

    def sync(self) -> Plan:
        """Do one whole cycle with a disk at rest; sending waits until placing is done."""
        self.scan()
        self.pull()
        plan = self.plan()
        if plan.placing:
            self.place(plan.placing)
        else:
            self.send(plan)
        self.let_go()
        return plan

    def rest(self) -> None:
        """Sync until nothing is to be done, on both sides."""
        for _ in range(12):
            self.pass_time()
            is_quiet = self.other.sync().is_quiet
            if self.sync().is_quiet and is_quiet:
                return
        raise AssertionError("the mount does not come to rest")

    # -- checking --------------------------------------------------------------

    def check_equal(self) -> None:
        """Fail where the mount is not what the server has, or something was left behind."""
        table = self.server.live()
        with self.state.session() as session:
            local = {id: seen.state for id, seen in _locals(session)}
            assert local == table
            assert {id: session.base(id) for id in table} == table
        assert self.other.local == table
        assert self.leftovers() == []
        assert not [path for path in self.paths() if path.startswith(b"rescued-")]

    def leftovers(self) -> list[bytes]:
        """Return what is in the client's own directory and should not stay."""
        own = self._root().entries[OWN].inode
        return [
            name
            for directory in (b"staging", b"aside", b"displaced")
            for name in own.entries[directory].inode.entries
        ]

    def paths(self) -> dict[bytes, bytes]:
        """Return the contents of the mount by path; a directory has none."""
        own = OWN + b"/"
        return {
            path: node.content
            for path, node in self.user.tree().items()
            if path != OWN and not path.startswith(own)
        }

    def conflicts(self) -> list[bytes]:
        """Return the paths of conflict copies."""
        return [path for path in self.paths() if is_conflict_name(path.rpartition(b"/")[2])]

    def live(self) -> set[Substance]:
        """Return all contents that the server has at its head."""
        return {state.substance for state in self.server.live().values()}

    def operations(self, act: Callable[[], object]) -> list[Operation]:
        """Return the operations of the process while something is done."""
        found: list[Operation] = []
        with self.before_each(lambda number, operation: found.append(operation)):
            act()
        return found


def _locals(session: MountSession) -> Iterator[tuple[EntryId, Seen]]:
    agenda = [ROOT_ID]
    while agenda:
        for id, seen in session.children(agenda.pop()):
            yield id, seen
            if seen.state.is_directory:
                agenda.append(id)


def _fingerprint(inode: Inode) -> Fingerprint:
    if inode.is_directory:
        return Fingerprint(inode.number, inode.born_ns, 0, 0, 0)
    return Fingerprint(inode.number, inode.born_ns, inode.size, inode.mtime_ns, inode.ctime_ns)


def crash_at(world: PlacingWorld, number: int, act: Callable[[], object]) -> bool:
    """Kill the process before one operation; tell whether it came that far."""

    def kill(at: int, operation: Operation) -> None:
        if at == number:
            raise Crashed

    try:
        with world.before_each(kill):
            act()
    except Crashed:
        return True
    return False
