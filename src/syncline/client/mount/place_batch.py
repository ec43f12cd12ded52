"""One batch of placing: open directories, what was done, and what is undone where it must be.

A batch is carried out in runs. A run keeps open every directory that it touches, so that at its end
each of them can be looked for again from the root: where one was moved out of the mount meanwhile,
what the run did there is taken back through the handle (G9).

What is done is recorded in the session at once, and is nothing but true: base takes the aspects
that both sides have by then (E1).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from syncline.client.local import SYNCS_MAX
from syncline.client.mount.own_directory import OwnDirectory
from syncline.client.mount.place_displaced import (
    KINDS,
    Displaced,
    digest_at,
    digest_of_state,
    is_same_content,
)
from syncline.client.mount.place_staging import Staged
from syncline.client.mount.read import NOT_THERE
from syncline.client.mount.walker import OPEN_MAX, Walker, parts_of
from syncline.core.entries import Kind
from syncline.core.fingerprints import GRAIN_NS, Fingerprint, Seen
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.merging import confirmed
from syncline.core.names import Name, RelPath
from syncline.core.trees import Abilities, Place, State, state_of
from syncline.ports.clock import Clock
from syncline.ports.files import Directory, FileKind, Status
from syncline.ports.mount_state import MountSession
from syncline.ports.watcher import Mark

Undo = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Ground:
    """What all batches of a mount share. `device` is that of the root."""

    root: Directory
    own: OwnDirectory
    device: int
    clock: Clock
    replica: str
    abilities: Abilities


@dataclass(frozen=True, slots=True)
class Before:
    """What the session said of an entry before an action."""

    id: EntryId
    local: Seen | None
    base: State | None


@dataclass(frozen=True, slots=True)
class Done:
    """An action that was carried out: in which directories, and how it is taken back."""

    before: tuple[Before, ...]
    directories: tuple[EntryId, ...]
    undo: Undo
    displaced: Displaced | None = None


@dataclass(slots=True)
class Batch:
    """The state of one batch.

    `aside`: entries that are set aside, and where they were. `copied`: inodes of files that
    were given the name of a conflict copy, and its place. `is_few`: files are synced one by one.
    `done`: entries that something was done to. `torn`: those that local lost with a directory.
    """

    ground: Ground
    session: MountSession
    walker: Walker
    is_few: bool = True
    aside: dict[EntryId, Place] = field(default_factory=dict)
    copied: dict[int, Place] = field(default_factory=dict)
    done: set[EntryId] = field(default_factory=set)
    looks: dict[Mark, None] = field(default_factory=dict)
    rescued: list[RelPath] = field(default_factory=list)
    displaced: list[Displaced] = field(default_factory=list)
    has_left: bool = False
    """Something may be in our directory that nobody is responsible for yet."""
    needs_sync_all: bool = False
    touched: set[EntryId] = field(default_factory=set)
    torn: set[EntryId] = field(default_factory=set)
    _run: list[Done] = field(default_factory=list)
    _handles: dict[EntryId, Directory] = field(default_factory=dict)
    _opened: set[EntryId] = field(default_factory=set)
    _removed: set[EntryId] = field(default_factory=set)

    # -- directories -----------------------------------------------------------

    def open(self, *ids: EntryId) -> list[Directory]:
        """Open directories, all good until the next call; raise OSError.

        ENOENT, ENOTDIR, ELOOP, ESTALE: one is not where local says. EXDEV: something was mounted.
        """
        missing = [id for id in ids if id not in self._handles]
        if missing:
            new = {each for id in missing for each in self._chain(id)} - self._opened
            if self._opened and len(self._opened) + len(new) > OPEN_MAX:
                self.end_run()
                missing = list(ids)
            for id in missing:
                self._handles[id] = self._open(id)
        return [self._handles[id] for id in ids]

    def _open(self, id: EntryId) -> Directory:
        directory = self._walk(self.walker, id)
        self._opened.update(self._chain(id))
        if directory.status().device != self.ground.device:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return directory

    def _chain(self, id: EntryId) -> Iterator[EntryId]:
        """Yield a directory and those above it, up to the root or one that is set aside."""
        while id != ROOT_ID:
            yield id
            if id in self.aside:
                return
            seen = self.session.local(id)
            if seen is None:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            id = seen.state.parent

    def _walk(self, walker: Walker, id: EntryId) -> Directory:
        if self.aside:
            top = next((each for each in self._chain(id) if each in self.aside), None)
            if top is not None and (walker is not self.walker or top not in self._opened):
                walker.keep(top, self.ground.own.aside.enter(aside_file(top)))
                if walker is self.walker:
                    self._opened.add(top)
        return walker.open(self.session, id)

    def forget(self, id: EntryId) -> None:
        """Know that a directory was removed: nobody looks for it again."""
        self._handles.pop(id, None)
        self._removed.add(id)

    # -- what local says -------------------------------------------------------

    def expected(self, id: EntryId, expected: State) -> Seen | None:
        """Return what local says of an entry; None where that is not what the plan saw (A3)."""
        seen = self.session.local(id)
        if seen is None or not _fits(seen.state, expected, self.ground.abilities):
            return None
        return seen

    def is_inside(self, id: EntryId, directory: EntryId) -> bool:
        """Tell whether local has a directory in an entry, or is that entry; raise OSError.

        Nothing is moved into itself. The kernel does not see to that where a user has just taken
        the two apart: local would have a ring then, and nothing in a ring has a path.
        """
        return id in self._chain(directory)

    def is_free(self, place: Place) -> bool:
        """Tell whether nothing in local takes a place."""
        there = self.session.child(*place)
        return (there is None or there in self.aside) and self.session.obstacle(place) is None

    def is_free_for(self, id: EntryId, place: Place) -> bool:
        """Tell whether no other entry of local has a place, also while `id` itself has it."""
        return self._is_free_but(frozenset({id}), place)

    def _is_free_but(self, ids: frozenset[EntryId], place: Place) -> bool:
        return not any(
            other not in ids
            and (seen := self.session.local(other)) is not None
            and seen.state.place == place
            for other in self.session.at_place(place)
        )

    def found(self, directory: Directory, name: bytes, id: EntryId, seen: Seen) -> Status | None:
        """Return what lies at a name; None where that is not what local says (E2)."""
        status = directory.look(name)
        state, known = seen.state, seen.fingerprint
        if status is None or KINDS.get(status.kind) is not state.kind:
            return None
        if state.is_directory:
            is_it = known is None or known.inode == status.inode
            return status if is_it and status.device == self.ground.device else None
        if known is not None:
            if not known.is_unchanged(fingerprint(status, known.born_ns)):
                return None
            if not known.is_provisional:
                return status
        if state.content is not None and state.content.size != status.size:
            return None
        if digest_at(directory, name, status.kind, id) != digest_of_state(id, state):
            return None
        return status if directory.look(name) == status else None

    def parts(self, id: EntryId) -> tuple[Name, ...]:
        """Return the path of a directory in local; empty where it is not there any more."""
        return parts_of(self.session, id) or ()

    def path(self, place: Place) -> RelPath:
        """Return the path of a place, for people."""
        return RelPath((*self.parts(place[0]), place[1]))

    # -- recording -------------------------------------------------------------

    def before(self, *ids: EntryId) -> tuple[Before, ...]:
        """Return what the session says of entries, for `Done`."""
        return tuple(Before(id, self.session.local(id), self.session.base(id)) for id in ids)

    def record(self, id: EntryId, seen: Seen | None) -> None:
        """Know what an entry is now in the mount, and move its base by that (E1)."""
        session = self.session
        session.set_local(id, seen)
        entry = session.remote(id)
        there = state_of(entry) if entry is not None and entry.is_live else None
        local = None if seen is None else seen.state
        session.set_base(id, confirmed(session.base(id), local, there))

    def pass_on(self, before: Status, now: Status | None) -> None:
        """Know the other names of a file by the ctime that a rename or link of ours gave it.

        Otherwise they would look as if a user had been there, and be left as they are: two names of
        one file could never change places. What somebody wrote to meanwhile is not passed on.
        """
        if now is None or now.links < 2 or now.kind is FileKind.DIRECTORY:
            return
        if not is_same_content(before, now) or before.mode != now.mode:
            return
        for id, seen in self.session.with_inode(now.inode):
            known = seen.fingerprint
            if known is not None and known.is_unchanged(fingerprint(before, known.born_ns)):
                self.session.set_local(id, Seen(seen.state, renamed(known, now)))

    def finish(self, done: Done) -> None:
        """Count what was done, and remember how it is taken back."""
        self._run.append(done)
        self.touched.update(done.directories)

    def drop(self, *places: Place) -> None:
        """Note where to look, because something there is not as local says."""
        for parent, name in places:
            self.looks[Mark(parent, name)] = None

    def look_into(self, directory: EntryId) -> None:
        """Note a directory to look at with all its names."""
        self.looks[Mark(directory, None, is_written=True)] = None

    def fresh_fingerprint(self, status: Status, born_ns: int) -> Fingerprint:
        """Return the fingerprint of what was placed just now.

        Only its mtime can make it provisional: a writer sets that to his now, whatever it was.
        """
        age_ns = abs(self.ground.clock.wall_ns() - status.mtime_ns)
        return replace(fingerprint(status, born_ns), is_provisional=age_ns < GRAIN_NS)

    def placed(self, directory: Directory, name: Name, staged: Staged, wanted: State) -> Seen:
        """Return what to record of a staged thing that was just given its name.

        Without a fingerprint where a user was there first: the next look tells.
        """
        status = directory.look(name)
        told = (staged.inode, staged.size, staged.mtime_ns)
        if status is None or (status.inode, status.size, status.mtime_ns) != told:
            return Seen(wanted)
        is_mode_told = self.ground.abilities.has_modes and wanted.kind is Kind.FILE
        if is_mode_told and status.mode != wanted.mode:
            return Seen(wanted)
        return Seen(wanted, self.fresh_fingerprint(status, staged.born_ns))

    # -- the end of a run ------------------------------------------------------

    def end_run(self) -> None:
        """Look for all touched directories again, and take back what was done in lost ones."""
        touched = {id for done in self._run for id in done.directories} - self._removed
        lost = touched - self._still_there(touched)
        undone: set[EntryId] = set()
        kept: list[Done] = []
        taken_back: list[Done] = []
        for done in self._run:
            ids = {before.id for before in done.before}
            if lost.isdisjoint(done.directories) and undone.isdisjoint(ids):
                kept.append(done)
            else:
                # What came after it for the same entry goes with it, or it could not be undone.
                undone |= ids
                taken_back.append(done)
        for done in kept:
            self.done.update(before.id for before in done.before)
            if done.displaced is not None:
                self.displaced.append(done.displaced)
        for done in reversed(taken_back):
            self._take_back(done)
        self._forget_torn(undone)
        self._run.clear()
        self._handles.clear()
        self._opened.clear()
        self.walker.close()

    def _still_there(self, ids: set[EntryId]) -> set[EntryId]:
        found = set()
        with Walker(self.ground.root) as fresh:
            for id in sorted(ids):
                handle = self._handles.get(id)
                try:
                    inode = self._walk(fresh, id).status().inode
                    is_it = handle is None or handle.status().inode == inode
                except OSError as error:
                    # Trouble with a disk tells nothing of where a directory is (V4).
                    is_it = error.errno not in NOT_THERE
                if is_it:
                    found.add(id)
        return found

    def _take_back(self, done: Done) -> None:
        for parent in done.directories:
            self.look_into(parent)
        try:
            done.undo()
        except OSError:
            # Whoever moved the directory out has also changed what is in it: it is his now.
            self.displaced.extend([] if done.displaced is None else [done.displaced])
        together = frozenset(before.id for before in done.before)
        for before in done.before:
            self._restore(before, together)

    def _restore(self, before: Before, together: frozenset[EntryId]) -> None:
        """Know an entry as it was; where another one has its place now, as gone.

        Those that are restored `together` have changed places, and change them back. Its base is
        what it was, too: so it is not taken for a user's delete of what is new there.
        """
        local = before.local
        is_in_tree = local is not None and before.id not in self.aside
        if local is not None and is_in_tree and not self._is_free_but(together, local.state.place):
            local = self.session.local(before.id) if local.state.is_directory else None
        self.session.set_local(before.id, local)
        self.session.set_base(before.id, before.base)

    def _forget_torn(self, ids: set[EntryId]) -> None:
        """Know as gone what is in no tree any more, because not all of it could be taken back.

        Its base is what it was; what is there of it all the same is found anew.
        """
        torn = [id for id in sorted(ids) if not self._is_in_tree(id)]
        for id in torn:
            if self.session.local(id) is not None:
                self.session.set_local(id, None)
            if self.session.held_of(id) is not None:
                self.session.set_held(id, None)
            for name in self.session.obstacles_in(id):
                self.session.set_obstacle((id, name), None)
            inside = (child for child, _ in self.session.children(id))
            torn.extend(child for child in inside if child not in self.aside)
        self.torn.update(torn)

    def _is_in_tree(self, id: EntryId) -> bool:
        """Tell whether an entry has a path, or is below one that is aside and will have one."""
        passed: set[EntryId] = set()
        while id != ROOT_ID and id not in self.aside:
            seen = self.session.local(id)
            if seen is None or id in passed:
                return False
            passed.add(id)
            id = seen.state.parent
        return True

    def sync(self) -> None:
        """Make all names durable that the batch changed; raise OSError."""
        if not self.touched and not self.needs_sync_all:
            return
        touched = self.touched - self._removed
        if self.needs_sync_all or len(touched) > SYNCS_MAX:
            self.ground.root.sync_all()
            return
        for id in sorted(touched):
            try:
                [directory] = self.open(id)
            except OSError:
                # It was moved, or was removed: its names are made durable with all others.
                self.ground.root.sync_all()
                return
            directory.sync()


def aside_file(id: EntryId) -> bytes:
    """Return the name of an entry in the directory `aside`."""
    return id.hex().encode()


def fingerprint(status: Status, born_ns: int) -> Fingerprint:
    """Return the fingerprint of a file or link; of a directory only what lasts."""
    if status.kind is FileKind.DIRECTORY:
        return Fingerprint(status.inode, born_ns, 0, 0, 0)
    return Fingerprint(status.inode, born_ns, status.size, status.mtime_ns, status.ctime_ns)


def renamed(known: Fingerprint, now: Status) -> Fingerprint:
    """Return the fingerprint of a file or link that was only renamed since it was `known`."""
    return replace(fingerprint(now, known.born_ns), is_provisional=known.is_provisional)


def _fits(state: State, expected: State, abilities: Abilities) -> bool:
    """Tell whether local is what a plan saw, but for what the file system cannot hold."""
    grain = abilities.time_grain_ns
    return (
        state.place == expected.place
        and state.substance == expected.substance
        and (state.mode == expected.mode or not abilities.has_modes)
        and (state.kind is Kind.DIRECTORY or state.mtime_ns // grain == expected.mtime_ns // grain)
    )


def born_of(directory: Directory, name: bytes) -> int:
    """Return a birth time; 0 where the thing is gone by now."""
    try:
        return directory.born_ns(name)
    except FileNotFoundError:
        return 0
