"""Scenes: a server, some mounts and their users in virtual time, with one thing that goes wrong.

Unlike a world (`simulation.world`) a scene has no chance in it: the test says what happens, and
each mount has a `Way` to the server on which it can be told what went, and can go wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from syncline.adapters.memory_mount_state import MemoryMountSession, MemoryMountState
from syncline.client.mount.control import MountSupervisor
from syncline.core.changes import Answer, Author, HeldToken, Proposal, Refusal, RefusalCode
from syncline.core.identity import ROOT_ID, Digest, EntryId, Revision
from syncline.core.names import RESERVED_ROOT_NAME, Name, RelPath
from syncline.errors import NoSpace, SynclineError
from syncline.ports.files import FileKind
from syncline.ports.link import (
    ChunkSource,
    Located,
    LockingLink,
    Progress,
    ServerFacts,
    WatchBegin,
    WatchEvent,
)
from syncline.ports.locks import LeaseLeft, LocatedLock, LockWanted, Unlocked, UnlockWanted
from syncline.ports.mount_control import MountPhase, MountStatus
from syncline.ports.mount_state import MountFacts
from tests.support.simulation.loop import SimulatedLoop, run_simulated
from tests.support.simulation.machines import ClientMachine, ServerMachine, Settings

LOOK_S = 0.02
"""How often a scene looks whether something came true; of virtual time."""

SOON_S = 100.0
"""Far more than anything takes in a scene; of virtual time."""


def large_content(seed: int) -> bytes:
    """Return content that travels by itself, beside everything else."""
    return random.Random(seed).randbytes(3 * 2**20)


@dataclass
class Way:
    """The way of one mount to the server; notes what passes, and changes it as the test says."""

    proposals: list[Proposal] = field(default_factory=list)
    begins: list[WatchBegin] = field(default_factory=list)
    fetches: int = 0
    fetched_bytes: int = 0
    locked: set[EntryId] = field(default_factory=set)
    """Entries that somebody else has locked: their changes are refused."""
    before_store: Callable[[Proposal], None] | None = None
    """Called when a STORE begins; what it raises is what the STORE comes to."""
    store_error: SynclineError | None = None
    """What every STORE comes to."""
    fetch_error: SynclineError | None = None
    """What every FETCH comes to."""
    event: Callable[[WatchEvent], Awaitable[WatchEvent]] | None = None
    """What becomes of each event of the feed."""


class WayLink:
    """A link that does what its way says."""

    def __init__(self, link: LockingLink, way: Way) -> None:
        self._link = link
        self._way = way

    async def hello(self) -> ServerFacts:
        return await self._link.hello()

    async def lock(self, wanted: LockWanted) -> Sequence[LocatedLock]:
        return await self._link.lock(wanted)

    async def renew(
        self, author: Author, tokens: Sequence[HeldToken], ttl_s: float = 0.0
    ) -> Sequence[LeaseLeft | None]:
        return await self._link.renew(author, tokens, ttl_s)

    async def unlock(self, wanted: UnlockWanted) -> Sequence[Unlocked]:
        return await self._link.unlock(wanted)

    def locks(self, path: RelPath) -> AsyncIterator[LocatedLock]:
        return self._link.locks(path)

    async def store(self, proposal: Proposal, source: ChunkSource) -> Answer:
        self._way.proposals.append(proposal)
        if self._way.before_store is not None:
            self._way.before_store(proposal)
        if self._way.store_error is not None:
            raise self._way.store_error
        return await self._unlocked(proposal, lambda rest: self._link.store(rest, source))

    async def delete(self, proposal: Proposal) -> Answer:
        self._way.proposals.append(proposal)
        return await self._unlocked(proposal, self._link.delete)

    async def _unlocked(
        self, proposal: Proposal, call: Callable[[Proposal], Awaitable[Answer]]
    ) -> Answer:
        """Make the changes that nobody has locked."""
        locked = [change for change in proposal.changes if change.id in self._way.locked]
        if not locked:
            return await call(proposal)
        rest = tuple(change for change in proposal.changes if change not in locked)
        if rest:
            answer = await call(replace(proposal, changes=rest))
        else:
            answer = Answer((await self.hello()).head.revision, ())
        outcomes = iter(answer.outcomes)
        return replace(
            answer,
            outcomes=tuple(
                Refusal(RefusalCode.LOCKED) if change in locked else next(outcomes)
                for change in proposal.changes
            ),
        )

    async def fetch(self, digests: Sequence[Digest]) -> AsyncIterator[bytes]:
        self._way.fetches += 1
        if self._way.fetch_error is not None:
            raise self._way.fetch_error
        async for chunk in self._link.fetch(digests):
            self._way.fetched_bytes += len(chunk)
            yield chunk

    async def watch(
        self, begin: WatchBegin, progress: AsyncIterator[Progress]
    ) -> AsyncIterator[WatchEvent]:
        self._way.begins.append(begin)
        events = self._link.watch(begin, progress)
        assert isinstance(events, AsyncGenerator), "a stream is closed when it is left"
        async with aclosing(events):
            async for event in events:
                yield event if self._way.event is None else await self._way.event(event)

    def list(
        self, path: RelPath, *, is_recursive: bool, at: Revision | None
    ) -> AsyncIterator[Located]:
        return self._link.list(path, is_recursive=is_recursive, at=at)

    async def stat(self, paths: Sequence[RelPath], at: Revision | None) -> Sequence[Located | None]:
        return await self._link.stat(paths, at)

    async def close(self) -> None:
        await self._link.close()


class SceneState(MemoryMountState):
    """A mount state that counts its sessions, and whose disk may be full."""

    def __init__(self, facts: MountFacts) -> None:
        super().__init__(facts)
        self.sessions = 0
        self.is_full = False

    @contextmanager
    def session(self) -> Iterator[MemoryMountSession]:
        with super().session() as session:
            self.sessions += 1
            yield session
            if self.is_full:
                raise NoSpace("the disk of the state is full", where="local")


class Player(ClientMachine):
    """A machine in a scene: its mount goes to the server by a way of its own."""

    state: SceneState

    def __init__(
        self, name: str, loop: SimulatedLoop, server: ServerMachine, settings: Settings
    ) -> None:
        super().__init__(name, loop, server, sum(name.encode()), settings)
        self.state = SceneState(MountFacts(self.replica, None, None))
        self.way = Way()

    async def connect(self) -> LockingLink:
        return WayLink(await super().connect(), self.way)

    @property
    def mount(self) -> MountSupervisor:
        """Return the mount that runs."""
        assert self.supervisor is not None, f"{self.name} does not run"
        return self.supervisor

    @property
    def status(self) -> MountStatus:
        """Return what the mount shows."""
        return self.mount.status()

    @property
    def problems(self) -> dict[bytes, str]:
        """Return the code of each problem by its path."""
        return {bytes(each.path): each.code for each in self.status.problems}

    def is_in(self, phase: MountPhase) -> bool:
        """Tell what the mount shows."""
        return self.status.phase is phase

    def contents(self) -> dict[bytes, bytes | None]:
        """Return what is in the mount by path, without the client's own; None: a directory."""
        return {
            path: None if node.kind is FileKind.DIRECTORY else node.content
            for path, node in self.user.tree().items()
            if path.partition(b"/")[0] != RESERVED_ROOT_NAME
        }

    def own(self, place: bytes) -> list[bytes]:
        """Return the names in one of the client's own directories."""
        prefix = RESERVED_ROOT_NAME + b"/" + place + b"/"
        return [path for path in self.user.tree() if path.startswith(prefix)]

    def id(self, name: bytes) -> EntryId:
        """Return the id of an entry in the root."""
        with self.state.session() as session:
            found = session.child(ROOT_ID, Name(name))
        assert found is not None, name
        return found


class Scene:
    """A server and the machines around it; `start` is its beginning."""

    def __init__(self, loop: SimulatedLoop, group: asyncio.TaskGroup) -> None:
        self.loop = loop
        self.group = group
        self.server = ServerMachine(loop, random.Random(1))
        self._players: list[Player] = []

    async def start(self) -> None:
        """Start the server."""
        await self.server.start(self.group)

    async def end(self) -> None:
        """End all processes; fail where a mount ended before."""
        for player in self._players:
            assert player.is_running, f"the mount of {player.name} ended"
            await player.bury(power_loss=False)
        await self.server.stop()

    def add(self, name: str, settings: Settings | None = None) -> Player:
        """Start a mount on a machine of its own; its directory is empty."""
        player = Player(name, self.loop, self.server, settings or Settings())
        self._players.append(player)
        player.start(self.group)
        return player

    @property
    def head(self) -> Revision:
        """Return the newest revision of the server."""
        assert self.server.volume is not None, "the server does not run"
        return self.server.volume.feed.head.revision

    @property
    def now_s(self) -> float:
        """Return the virtual time."""
        return self.loop.time()

    async def restore_backup(self) -> None:
        """Let the server be one that was restored from a backup of the empty volume."""
        await self._serve(ServerMachine(self.loop, random.Random(1)), is_same=True)

    async def replace_volume(self) -> None:
        """Let the server have another volume, which is empty."""
        await self._serve(ServerMachine(self.loop, random.Random(2)), is_same=False)

    async def _serve(self, other: ServerMachine, *, is_same: bool) -> None:
        known, found = (each.backend.metadata.volumes()[0].id for each in (self.server, other))
        assert (known == found) is is_same, (known, found)
        await self.server.stop()
        self.server.backend = other.backend
        await self.server.start(self.group)

    async def until(
        self, condition: Callable[[], bool], what: str, *, within_s: float = SOON_S
    ) -> float:
        """Return how long it took until a condition came true, in virtual seconds."""
        started_s = self.now_s
        while not condition():
            shown = [f"{each.name}: {each.status}" for each in self._players]
            assert self.now_s - started_s < within_s, f"not within {within_s:g} s: {what}; {shown}"
            await asyncio.sleep(LOOK_S)
        return self.now_s - started_s

    async def passes(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)

    async def rest(self, *players: Player, within_s: float = SOON_S) -> None:
        """Wait until mounts show that they have all that the server has, and it all of theirs."""
        # A status cannot know of an edit of this very instant.
        await self.passes(1.0)
        await self.until(
            lambda: all(
                player.is_in(MountPhase.IN_SYNC) and player.status.cursor == self.head
                for player in players
            ),
            "rest",
            within_s=within_s,
        )


def simulated(play: Callable[[Scene], Coroutine[object, object, None]]) -> Callable[[], None]:
    """Make a test of a scene."""

    def test() -> None:
        run_scene(play)

    test.__name__, test.__qualname__ = play.__name__, play.__qualname__
    test.__module__, test.__doc__ = play.__module__, play.__doc__
    return test


def run_scene(play: Callable[[Scene], Coroutine[object, object, None]]) -> None:
    """Play a scene to its end, in virtual time."""

    async def main(loop: SimulatedLoop) -> None:
        async with asyncio.TaskGroup() as group:
            scene = Scene(loop, group)
            await scene.start()
            await play(scene)
            await scene.end()

    run_simulated(main)
