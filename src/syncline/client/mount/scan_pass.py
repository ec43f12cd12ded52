"""One call of the scanner: the session, the open directories, and what comes out.

P1  Local is a tree whenever a call ends; what is recorded was seen, and nothing is recorded where
    what was seen does not fit together: the place is looked at again.
P2  No handle is kept over a step: the walker may have closed it, and the tree may have moved.
P3  An error is never absence (V4).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.mounted_file import mounted_file
from syncline.client.mount.read import NOT_THERE, Reading, is_within_grain
from syncline.client.mount.scan_memory import (
    MARGIN_S,
    OPEN_LOOK_S,
    PATIENCE_S,
    SOON_S,
    UNREAD_S,
    Budget,
    Look,
    Memory,
    Waiting,
)
from syncline.client.mount.walker import Walker, parts_of
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import Name, RelPath
from syncline.core.trees import Place
from syncline.ports.clock import Clock
from syncline.ports.files import Directory, Status
from syncline.ports.ids import Ids
from syncline.ports.mount_state import Held, MountSession, Obstacle, ObstacleReason
from syncline.ports.watcher import Mark, Watcher


@dataclass(slots=True)
class Pass:
    """What the steps of one call work with.

    `claimed`: entries that were seen in a new place too early to say that they moved. `limbo`:
    entries whose place another one has, until they are found or the call ends. `linked`: inodes all
    names of which are looked at.
    """

    session: MountSession
    memory: Memory
    walker: Walker
    watcher: Watcher
    ids: Ids
    clock: Clock
    device: int
    budget: Budget
    readings: dict[Place, Reading] = field(default_factory=dict)
    waiting: dict[tuple[EntryId, bytes | None], Waiting] = field(default_factory=dict)
    claimed: set[EntryId] = field(default_factory=set)
    limbo: list[EntryId] = field(default_factory=list)
    linked: set[int] = field(default_factory=set)
    names: int = 0
    released: set[EntryId] = field(default_factory=set)

    @property
    def has_budget(self) -> bool:
        """Tell whether the call may go on."""
        return self.names < self.budget.names and len(self.readings) < self.budget.readings

    # -- looking ---------------------------------------------------------------

    def open(self, id: EntryId) -> Directory:
        """Open a directory for the next step alone (P2); raise OSError."""
        return self.walker.open(self.session, id)

    def status_at(self, place: Place) -> Status | None:
        """Return what lies at a place; None where nothing does; raise OSError."""
        return self.open(place[0]).look(place[1])

    def is_known(self, directory: EntryId) -> bool:
        """Tell whether a directory is in local."""
        if directory == ROOT_ID:
            return True
        seen = self.session.local(directory)
        return seen is not None and seen.state.is_directory

    def path_of(self, place: Place) -> RelPath:
        """Return the path of a place whose directory is known."""
        return RelPath((*(parts_of(self.session, place[0]) or ()), place[1]))

    def age_s(self, status: Status) -> float:
        """Return for how long a thing was quiet, by its ctime."""
        age_ns = self.clock.wall_ns() - status.ctime_ns
        return age_ns / 1e9 if age_ns >= 0 else inf

    def is_young(self, status: Status) -> bool:
        """Tell whether a fingerprint made of this is provisional."""
        return is_within_grain(self.clock.wall_ns() - status.ctime_ns)

    # -- putting off -----------------------------------------------------------

    def wait(self, mark: Mark, in_s: float) -> None:
        """Ask for another look; of several of one place the first time counts."""
        key = (mark.directory, mark.name)
        other = self.waiting.get(key)
        if other is not None:
            mark = replace(mark, is_written=mark.is_written or other.mark.is_written)
            in_s = min(in_s, other.in_s)
        self.waiting[key] = Waiting(mark, in_s)

    def is_too_early(self, look: Look, place: Place, quiet_s: float) -> bool:
        """Tell whether a name must be quiet for longer; if so, ask for another look."""
        if look.quiet_s >= quiet_s:
            return False
        now_s = self.clock.monotonic_s()
        if now_s - self.memory.since_s(place, now_s) >= PATIENCE_S:
            return False
        self.wait(look.mark, quiet_s - look.quiet_s + MARGIN_S)
        return True

    def wait_open(self, look: Look, place: Place) -> None:
        """Wait until a file is closed, or its writer pauses."""
        self.memory.since_s(place, self.clock.monotonic_s())
        self.wait(look.mark, OPEN_LOOK_S)

    def claim(self, id: EntryId, look: Look, in_s: float) -> None:
        """Know that an entry is elsewhere, so that it does not vanish before that is sure."""
        self.claimed.add(id)
        self.wait(look.mark, in_s)

    def vanish(self, id: EntryId, place: Place, look: Look) -> None:
        """Note that an entry is not at its place; whether it is gone shows at the end."""
        self.memory.vanished[id] = (place, look)

    # -- what can be read ------------------------------------------------------

    def read(self, id: EntryId, place: Place, status: Status, *, is_new: bool) -> None:
        """Ask for a file to be read."""
        file = mounted_file(self.session, place)
        if file is None or place in self.readings:
            return
        if status.size > SMALL_BYTES_MAX and self.memory.is_asked(place):
            # It is being read, which takes long: when that is back, the place is looked at again.
            self.memory.note_looked(place)
            return
        self.memory.ask(place)
        earlier = self.memory.glimpses.get(place)
        self.readings[place] = Reading(id, place, file, status.size, is_new, earlier)

    # -- what cannot -----------------------------------------------------------

    def trouble(self, look: Look, error: OSError) -> None:
        """Note that a name could not be looked at (P3)."""
        if error.errno in NOT_THERE:
            self.wait(look.mark, SOON_S)
            return
        name = look.mark.name
        assert name is not None, "only a name is looked at"
        place = (look.mark.directory, Name(name))
        detail = error.strerror or str(error)
        id = self.session.child(*place)
        if id is not None:
            self.hold(id, detail)
        else:
            self.obstruct(place, Obstacle(ObstacleReason.UNREAD, detail))
        self.wait(look.mark, UNREAD_S)

    def cannot_open(self, look: Look, error: OSError) -> None:
        """Note that the directory of a name, or one above it, is not to be opened.

        One that is not where local has it is looked for; the name waits until it was.
        """
        directory = look.mark.directory
        failing = self.failing(directory)
        if failing is None:
            self.wait(look.mark, SOON_S)
            return
        if error.errno in NOT_THERE:
            seen = self.session.local(failing)
            assert seen is not None, "an unknown directory was walked to"
            if self.memory.stick(failing, look):
                above = Mark(seen.state.parent, seen.state.name)
                self.memory.looks.append(Look(above, look.quiet_s))
            return
        self.hold(failing, error.strerror or str(error))
        self.wait(Mark(failing, None, is_written=True), UNREAD_S)
        self.wait(look.mark, UNREAD_S)

    def failing(self, directory: EntryId) -> EntryId | None:
        """Return the first directory on the way that cannot be opened; None: now all can."""
        chain = []
        while directory != ROOT_ID:
            seen = self.session.local(directory)
            if seen is None:
                return None
            chain.append(directory)
            directory = seen.state.parent
        for id in reversed(chain):
            try:
                self.open(id)
            except OSError:
                return id
        return None

    def hold(self, id: EntryId, detail: str) -> None:
        """Keep an entry as it was recorded, because it cannot be read (V4)."""
        held = Held(is_ignored=False, detail=detail)
        if self.session.held_of(id) != held:
            self.session.set_held(id, held)
        seen, base = self.session.local(id), self.session.base(id)
        if seen is not None and base is not None and seen.state.is_directory:
            # A mode that nobody can look through is not sent: it would shut the others out as well,
            # and what mends it would not be placed where they cannot look.
            self.session.set_local(id, replace(seen, state=replace(seen.state, mode=base.mode)))

    def ignore(self, id: EntryId) -> None:
        """Keep an entry as it was recorded, because a rule covers it."""
        held = Held(is_ignored=True)
        if self.session.held_of(id) != held:
            self.session.set_held(id, held)

    def is_ignored(self, id: EntryId) -> bool:
        """Tell whether a rule covered an entry when it was looked at."""
        held = self.session.held_of(id)
        return held is not None and held.is_ignored

    def release(self, id: EntryId) -> bool:
        """Let an entry be followed again; tell whether a rule covered it until now."""
        held = self.session.held_of(id)
        if held is None:
            return False
        self.session.set_held(id, None)
        if not held.is_ignored:
            self.released.add(id)
        return held.is_ignored

    @property
    def is_healed(self) -> bool:
        """Tell whether a directory that could not be looked into is one that can be again."""
        return any(self.is_known(id) for id in self.released if self.session.held_of(id) is None)

    def obstruct(self, place: Place, obstacle: Obstacle | None) -> None:
        """Know what takes a place and is no entry; None: nothing such does."""
        if self.session.obstacle(place) != obstacle:
            self.session.set_obstacle(place, obstacle)
