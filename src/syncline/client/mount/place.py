"""The applier: carries out what a plan wants of the mount, and lets go of what it displaced.

Model: actions in, files changed, the session told. The order of one batch: stage, make durable,
then for each action look, rename, look at what came out, record; then look whether directories are
still in the mount, and make names durable. The caller commits the session, and only then calls
`let_go`.

P1  A place is changed only where it holds what local says (E2): an action that finds something else
    is dropped, and where to look is reported.
P2  No content of a user is overwritten or removed: it is in a place of its own before anything else
    takes its name, and comes back into the mount where it was not what the plan expected.
P3  Trouble with one action is that action's alone (E5).
P4  When `place` raises, nothing is recorded: `recover` tells at the next start what was done.

What this module must not do: decide what is wanted, fetch content, read the clock for a decision
about data.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

from syncline.client.local import SYNCS_MAX, local_error
from syncline.client.mount.own_directory import OwnDirectory
from syncline.client.mount.place_attributes import set_attributes
from syncline.client.mount.place_batch import Batch, Ground
from syncline.client.mount.place_lingering import Lingering
from syncline.client.mount.place_making import create, keep_copy, take_back_copy
from syncline.client.mount.place_moves import exchange, return_all, set_aside, shift
from syncline.client.mount.place_removal import remove_directory
from syncline.client.mount.place_staging import Staged, Stager
from syncline.client.mount.place_swaps import Out, remove, swap
from syncline.client.mount.staged_content import StagedContent
from syncline.client.mount.walker import Walker
from syncline.core.conflict_names import conflict_name, losing_digest, plain_name
from syncline.core.entries import Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, Digest, EntryId
from syncline.core.names import Name, RelPath
from syncline.core.plans import (
    Alter,
    Create,
    Exchange,
    KeepCopy,
    Placing,
    Remove,
    SetAside,
)
from syncline.core.trees import Abilities, Place, State
from syncline.ports.clock import Clock
from syncline.ports.files import Directory
from syncline.ports.ids import Ids
from syncline.ports.mount_state import MountSession
from syncline.ports.watcher import Mark

_OVERTAKEN = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.ESTALE,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.EISDIR,
        errno.EINVAL,
    }
)
"""What a user's own changes cause: the action is dropped, as local is not what it was."""

_CODES = {
    errno.ENOSPC: "no_space",
    errno.EDQUOT: "no_space",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.EROFS: "read_only",
    errno.ENAMETOOLONG: "name",
    errno.EMFILE: "too_many_files",
    errno.ENFILE: "too_many_files",
    errno.EXDEV: "file_system",
    errno.EBADMSG: "corrupt",
}


@dataclass(frozen=True, slots=True)
class PlaceProblem:
    """Why an entry was not placed; `code` is stable, `detail` is for people."""

    id: EntryId
    place: Place
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of a batch.

    `done`: how many entries were changed, and `entries` which. `looks`: where the mount is not what
    local says, or has something new. `rescued`: new names of what users saved in the last instant.
    `lacking`: entries left out because their content was not given.
    """

    done: int
    looks: tuple[Mark, ...] = ()
    problems: tuple[PlaceProblem, ...] = ()
    rescued: tuple[RelPath, ...] = ()
    lacking: tuple[EntryId, ...] = ()
    entries: frozenset[EntryId] = frozenset()
    gone: frozenset[EntryId] = frozenset()
    """Those that local had and has no more."""


class Applier:
    """The applier of one mount; for the mount thread alone."""

    def __init__(
        self,
        root: Directory,
        own: OwnDirectory,
        device: int,
        ids: Ids,
        clock: Clock,
        replica: str,
        abilities: Abilities,
    ) -> None:
        self._ground = Ground(root, own, device, clock, replica, abilities)
        self._ids = ids
        self._lingering = Lingering(root, own.displaced, replica, clock)

    def place(
        self,
        session: MountSession,
        actions: Sequence[Placing],
        contents: Mapping[Digest, StagedContent],
    ) -> Placed:
        """Carry out actions in their order, and record what was done in the session.

        Raises NoSpace or LocalFailure where names could not be made durable (P4).
        """
        stager = Stager(self._ground.own.staging, self._ids, self._ground.abilities)
        with Walker(self._ground.root) as walker:
            batch = Batch(self._ground, session, walker)
            work = _Work(batch, stager, contents)
            try:
                work.carry_out(actions)
                stager.clear()
            except OSError as error:
                # What came out so far is recorded by nobody; its names tell what it is.
                self._lingering.look_again()
                raise local_error(error, b"") from error
        self._lingering.take(batch.displaced)
        if batch.has_left:
            self._lingering.look_again()
        return Placed(
            len(batch.done),
            tuple(batch.looks),
            tuple(work.problems.values()),
            tuple(batch.rescued),
            work.lacking,
            frozenset(batch.done),
            frozenset(id for id in batch.done | batch.torn if session.local(id) is None),
        )

    @property
    def is_lingering(self) -> bool:
        """Tell whether `let_go` has something to wait for."""
        return not self._lingering.is_empty

    def let_go(self, session: MountSession) -> tuple[Mark, ...]:
        """Remove what was displaced, after the session was committed; the first call also looks for
        what an earlier run left.

        What a writer still has open stays, and what he changed comes back into the mount: returned
        is where. Costs nothing while nothing lingers; to be called in each cycle. The session
        is only asked.
        """
        return self._lingering.let_go(session)


@dataclass(slots=True)
class _Work:
    """One batch on its way."""

    batch: Batch
    stager: Stager
    contents: Mapping[Digest, StagedContent]
    problems: dict[EntryId, PlaceProblem] = field(default_factory=dict)
    lacking: tuple[EntryId, ...] = ()
    _staged: dict[EntryId, Staged] = field(default_factory=dict)
    _settled: set[EntryId] = field(default_factory=set)
    _copied: set[EntryId] = field(default_factory=set)
    _uncopied: set[EntryId] = field(default_factory=set)

    def carry_out(self, actions: Sequence[Placing]) -> None:
        self.lacking = tuple(
            id for id, wanted in _contents_of(actions) if not self._has_content(wanted)
        )
        actions = list(_possible(actions, frozenset(self.lacking)))
        self._stage(actions)
        heirs = dict(_heirs(actions))
        self._uncopied = {each.source for each in actions if isinstance(each, KeepCopy)}
        for action in actions:
            self._try(action, heirs)
        for action in actions:
            if isinstance(action, KeepCopy) and action.source not in self._settled:
                self._guarded(action.id, action.wanted.place, partial(self._take_back, action))
        self.batch.end_run()
        # Last: what was taken back may have gone aside again.
        return_all(self.batch)
        self.batch.sync()

    def _has_content(self, wanted: State) -> bool:
        return wanted.content is None or wanted.content.digest in self.contents

    # -- staging ---------------------------------------------------------------

    def _stage(self, actions: Sequence[Placing]) -> None:
        wanted = dict(_contents_of(actions))
        displacing = sum(isinstance(action, Remove) for action in actions) + len(wanted)
        self.batch.is_few = displacing <= SYNCS_MAX
        for id, state in wanted.items():
            try:
                self._staged[id] = self.stager.stage(
                    state, self.contents, is_synced=self.batch.is_few
                )
            except OSError as error:
                self._fail(id, state.place, error)
        if self.batch.is_few:
            return
        try:
            self.batch.ground.root.sync_all()
        except OSError as error:
            # After that the staged bytes count as lost: none of them gets a name.
            for id in self._staged:
                self._fail(id, wanted[id].place, error)
            self._staged.clear()

    def _fail(self, id: EntryId, place: Place, error: OSError) -> None:
        code = _CODES.get(error.errno or 0, "io")
        detail = error.strerror or "the file system gave no reason"
        self.problems.setdefault(id, PlaceProblem(id, place, code, detail))

    # -- acting ----------------------------------------------------------------

    def _try(self, action: Placing, heirs: Mapping[EntryId, Create]) -> None:
        id, place = _subject(action)
        if id in self._settled or id in self.problems:
            return
        self._guarded(id, place, partial(self._act, action, heirs))

    def _guarded(self, id: EntryId, place: Place, act: Callable[[], bool]) -> None:
        """Do something; whatever goes wrong with it is this entry's trouble (P3)."""
        try:
            if act():
                self._settled.add(id)
        except OSError as error:
            if error.errno in _OVERTAKEN:
                self.batch.drop(place)
                self.batch.look_into(place[0])
            else:
                self._fail(id, place, error)

    def _act(self, action: Placing, heirs: Mapping[EntryId, Create]) -> bool:
        """Carry out one action; tell whether all of it was done."""
        batch = self.batch
        match action:
            case Create(id, wanted):
                return create(batch, self.stager, id, wanted, self._staged.get(id))
            case KeepCopy(_, source):
                is_done = keep_copy(batch, self.stager, action)
                if is_done:
                    self._copied.add(source)
                    self._uncopied.discard(source)
                return is_done
            case Alter():
                return self._alter(action)
            case Exchange():
                return exchange(batch, action)
            case SetAside():
                set_aside(batch, action)
                # Nothing of the entry is settled by that: its other action is to come.
                return False
            case Remove():
                return self._remove(action, heirs.get(action.id))
            case _:
                assert_never(action)

    def _alter(self, action: Alter) -> bool:
        id, wanted = action.id, action.wanted
        seen = self.batch.expected(id, action.expected)
        if seen is None:
            self.batch.drop(action.expected.place, wanted.place)
            return False
        if id in self.batch.aside or seen.state.place != wanted.place:
            seen = shift(self.batch, id, seen, wanted.place)
            if seen is None:
                return False
        if seen.state.substance != wanted.substance:
            if not self._is_kept(id, seen.state, wanted):
                self.batch.drop(seen.state.place)
                return False
            out = Out(id, seen)
            return swap(self.batch, self.stager, out, id, wanted, self._staged[id])
        if (seen.state.mode, seen.state.mtime_ns) != (wanted.mode, wanted.mtime_ns):
            return set_attributes(self.batch, id, seen, wanted)
        return True

    def _is_kept(self, id: EntryId, local: State, wanted: State) -> bool:
        """Tell whether what an entry has is known to the server, or has a second name (P2).

        A plan says so; but the part of it that makes the second name may have failed.
        """
        base = self.batch.session.base(id)
        if id in self._copied or (base is not None and base.substance == local.substance):
            return True
        # After a crash the second name may be there already, and is no part of the plan then.
        return self._has_copy(id, wanted.place, local)

    def _has_copy(self, id: EntryId, place: Place, local: State) -> bool:
        """Tell whether a content lies beside a place, under one of its names; looks at it, too.

        These are the names that `core.structure` takes for kept (S4). A user may just have moved
        that file over the very one that is to be replaced.
        """
        session = self.batch.session
        copies: list[tuple[EntryId, Seen]] = []

        def is_taken(name: Name) -> bool:
            there = session.child(place[0], name)
            seen = None if there is None else session.local(there)
            if there is None or there == id or seen is None:
                return False
            if seen.state.substance != local.substance:
                return True
            copies.append((there, seen))
            return False

        digest = losing_digest(ROOT_ID, local)
        conflict_name(place[1], self.batch.ground.replica, digest, is_taken)
        is_taken(plain_name(place[1]))
        for copy, seen in copies:
            [directory] = self.batch.open(place[0])
            if self.batch.found(directory, seen.state.name, copy, seen) is not None:
                return True
            self.batch.drop(seen.state.place)
        return False

    def _remove(self, action: Remove, heir: Create | None) -> bool:
        seen = self.batch.expected(action.id, action.expected)
        # What is to have a second name first is removed only then (P2).
        is_ready = action.id not in self.batch.aside and action.id not in self._uncopied
        if seen is None or not is_ready:
            self.batch.drop(action.expected.place)
            return False
        out = Out(action.id, seen)
        if seen.state.is_directory:
            return remove_directory(self.batch, out)
        if heir is None:
            return remove(self.batch, out)
        if heir.id not in self._staged or self.batch.session.local(heir.id) is not None:
            # A path must not be empty until what comes there can (G2).
            return False
        staged = self._staged[heir.id]
        if not swap(self.batch, self.stager, out, heir.id, heir.wanted, staged):
            return False
        self._settled.add(heir.id)
        return True

    def _take_back(self, action: KeepCopy) -> bool:
        take_back_copy(self.batch, action)
        return False


def _subject(action: Placing) -> tuple[EntryId, Place]:
    """Return the entry that an action is about, and where it is or comes to be."""
    match action:
        case Create(id, wanted) | KeepCopy(id, _, _, wanted) | Alter(id, _, wanted):
            return id, wanted.place
        case Exchange(first, _):
            return first.id, first.expected.place
        case SetAside(id, expected) | Remove(id, expected):
            return id, expected.place
        case _:
            assert_never(action)


def _contents_of(actions: Iterable[Placing]) -> Iterator[tuple[EntryId, State]]:
    """Yield the files and links that are to be staged."""
    for action in actions:
        match action:
            case Create(id, wanted):
                if wanted.kind is not Kind.DIRECTORY:
                    yield id, wanted
            case Alter(id, expected, wanted):
                if expected.substance != wanted.substance:
                    yield id, wanted
            case _:
                pass


def _possible(actions: Sequence[Placing], lacking: frozenset[EntryId]) -> Iterator[Placing]:
    """Yield the actions that are not, and do not serve, one whose content is lacking."""
    later = {action.id for action in actions if isinstance(action, Alter | Remove)}
    awaited = {wanted.place for id, wanted in _contents_of(actions) if id in lacking}
    for action in actions:
        if _subject(action)[0] in lacking:
            continue
        if isinstance(action, KeepCopy) and action.source not in later - lacking:
            continue
        if isinstance(action, Remove) and action.expected.place in awaited:
            continue
        yield action


def _heirs(actions: Iterable[Placing]) -> Iterator[tuple[EntryId, Create]]:
    """Yield files and links that are removed, with what is created in their place."""
    created = {
        action.wanted.place: action
        for action in actions
        if isinstance(action, Create) and action.wanted.kind is not Kind.DIRECTORY
    }
    for action in actions:
        if isinstance(action, Remove) and not action.expected.is_directory:
            heir = created.get(action.expected.place)
            if heir is not None:
                yield action.id, heir
