"""The synchronous phases of a cycle: observe, plan, place. They run on the mount thread alone.

P1  A brake that is pulled in a session leaves nothing of that session recorded.
P2  What a plan needs remembered (relabels, confirms, what is sent, what is to be placed) is durable
    before anything is placed or sent.
P3  Nothing is planned before everything was looked at once, and the server's table is known.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import assert_never

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount import confirming, remote
from syncline.client.mount.batching import Batch, batches, is_large
from syncline.client.mount.locks import MountLocks, held_problems
from syncline.client.mount.mounted_file import MountedFile, Way, mounted_file
from syncline.client.mount.parts import Parts
from syncline.client.mount.place import Applier, Placed
from syncline.client.mount.portions import large_of, possible, ready, sliced
from syncline.client.mount.problems import exceptions_shown, plan_problems
from syncline.client.mount.read import Read, Reading, ReadResult, read
from syncline.client.mount.recover import apply_intents
from syncline.client.mount.rooting import Root, check, entries_to_lose
from syncline.client.mount.scan import Look, Scanner, Waiting
from syncline.client.mount.staged_content import StagedContent
from syncline.client.mount.views import closed_view
from syncline.client.mount.walker import path_at, path_wanted
from syncline.core.changes import Change, Delete, HeldToken, Move, PutFile
from syncline.core.entries import Entry
from syncline.core.identity import Digest, EntryId, OpId, Revision
from syncline.core.names import RelPath
from syncline.core.plans import (
    Alter,
    Create,
    Exchange,
    KeepCopy,
    Placing,
    Plan,
    Relabel,
    Remove,
    SetAside,
    Unit,
    ids_of,
)
from syncline.core.reconcile import reconcile
from syncline.core.safety import (
    Halt,
    Shrinking,
    check_deletes,
    is_agreed,
    is_told_as_confirmed,
    left_of,
)
from syncline.core.trees import State
from syncline.ports.files import EXCHANGE_PREFIX
from syncline.ports.link import (
    Committed,
    Heartbeat,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchEvent,
)
from syncline.ports.locks import LockNews, LockTable
from syncline.ports.mount_control import MountProblem
from syncline.ports.mount_state import MountFacts, MountSession
from syncline.ports.watcher import Mark

logger = logging.getLogger(__name__)

READ_AT_ONCE_MAX = 4
"""So few files that are to be read are read in the same phase: it saves two hops of a thread."""


class Halted(Exception):
    """The brakes were pulled inside a session, which ends without a trace (P1)."""

    def __init__(self, halt: Halt) -> None:
        super().__init__(halt.detail)
        self.halt = halt


@dataclass(frozen=True, slots=True)
class Heard:
    """What the feed came to: entries it told of, and those that own commits confirmed."""

    ids: tuple[EntryId, ...]
    confirmed: tuple[EntryId, ...]
    has_lock_news: bool = False
    is_freed: bool = False
    """Locks of others are over."""

    stranger: Revision | None = None
    """A commit in the name of this mount that was not made here, as far as it remembers."""

    @property
    def is_own(self) -> bool:
        """Tell whether all of it was done here."""
        return self.ids == self.confirmed


@dataclass(frozen=True, slots=True)
class Observed:
    """What a look came to. `is_cut`: there is more to look at; `is_healed` as in Looked.

    `has_changed`: something was recorded that a plan follows from.
    """

    readings: tuple[Reading, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    reads: tuple[Read, ...] = ()
    is_cut: bool = False
    is_healed: bool = False
    has_changed: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A batch whose op id is noted, and where the content of its files is."""

    batch: Batch
    op: OpId
    files: Mapping[EntryId, MountedFile]
    paths: Mapping[EntryId, RelPath]
    olds: Mapping[EntryId, RelPath]
    """Where moved entries were."""
    tokens: tuple[HeldToken, ...]
    is_confirmed: bool

    def path(self, id: EntryId) -> RelPath:
        """Return the path of an entry of the batch, for people."""
        return self.paths[id]

    @property
    def largest(self) -> tuple[RelPath, int] | None:
        """Return path and size of large content; None where there is none."""
        for change in self.batch.changes:
            if is_large(change):
                assert isinstance(change, PutFile), "only files have content"
                return self.paths[change.id], change.content.size
        return None


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be done now; `slices` are placed one after the other."""

    slices: tuple[tuple[Placing, ...], ...]
    small: tuple[Batch, ...]
    large: tuple[Batch, ...]
    problems: tuple[tuple[EntryId, MountProblem], ...]
    ids: frozenset[EntryId]
    """All that the plan is about, also what was left out for now."""
    relabels: tuple[Relabel, ...]
    paths: Mapping[EntryId, RelPath]
    """Where the entries that are to be placed are going to be, for people."""
    olds: Mapping[EntryId, RelPath]
    """Where entries are now that are to be moved in the mount."""
    locals: Mapping[EntryId, State | None]
    """What was local when the changes to be sent were made."""
    first: Outgoing | None
    """The first of the small batches: it is noted with the plan, which saves a session."""
    wanted: frozenset[Digest]
    """The large contents that the mount wants, also where their entries were left out."""
    is_held_back: bool
    """There is something to send, which is not to be sent yet."""
    is_confirmed: bool
    pending_up: int
    pending_down: int

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing is to be done."""
        return not (self.slices or self.small or self.large or self.is_held_back)


class Phases:
    """The phases of one mount, from when its root is open."""

    def __init__(self, parts: Parts, root: Root) -> None:
        self.parts = parts
        self.root = root
        self.scanner = Scanner(root.directory, parts.watcher, parts.ids, parts.clock)
        self.applier = Applier(
            root.directory,
            root.own,
            root.device,
            parts.ids,
            parts.clock,
            parts.mount.replica,
            parts.mount.abilities,
        )
        self.locks = MountLocks(parts.author)
        self._reason = ResetReason.NEWCOMER
        self._is_stopping = False
        self._shrinking = Shrinking()
        self._has_intents = False
        """Some are noted, which a placing that failed or was given up does not forget."""
        self.exceptions: tuple[MountProblem, ...] = ()
        self._has_sentinels = self._watch_sentinels()
        self.facts = self.read_facts()

    def _watch_sentinels(self) -> bool:
        """Watch the sentinels, without those that an earlier run left; tell whether it could be."""
        sentinels = self.root.own.sentinels
        try:
            for name, _ in sentinels.list():
                sentinels.remove(name)
            self.parts.watcher.add_sentinels(sentinels)
        except OSError as error:
            logger.warning("no_sentinels error=%s", error.strerror)
            return False
        return True

    def stop(self) -> None:
        """Let reading threads end soon."""
        self._is_stopping = True

    # -- observing -------------------------------------------------------------

    def hear(self, events: Sequence[WatchEvent]) -> Heard:
        """Take in what the server told.

        Raises ProtocolBroken, FeedMismatch and HistoryCut; then nothing of it is recorded.
        """
        ids: list[EntryId] = []
        confirmed: list[EntryId] = []
        is_freed = False
        stranger: Revision | None = None
        with self.parts.state.session() as session:
            for event in events:
                match event:
                    case Committed():
                        applied = remote.apply_commit(session, event, self.parts.author.replica)
                        ids += applied.ids
                        if applied.is_own:
                            confirmed += applied.ids
                        elif applied.is_in_own_name:
                            stranger = event.commit.revision
                    case SnapshotBegin(reason):
                        self._reason = reason
                        remote.begin_snapshot(session)
                    case SnapshotPage(entries):
                        remote.add_page(session, entries)
                    case SnapshotEnd(head):
                        ids += remote.end_snapshot(session, head, self._reason).ids
                    case Heartbeat(head):
                        remote.check_heartbeat(session, head)
                    case LockTable() | LockNews():
                        is_freed |= self.locks.hear(event)
            facts = session.facts()
        self.facts = facts
        has_lock_news = any(isinstance(event, LockTable | LockNews) for event in events)
        return Heard(tuple(ids), tuple(confirmed), has_lock_news, is_freed, stranger)

    def look(self, looks: Sequence[Look], *, is_everywhere: bool) -> Observed:
        """Look at places, or begin to look at everything; raise Halted where the root is wrong."""
        with self.parts.state.session() as session:
            self._check_root(session)
            if is_everywhere:
                looked = self.scanner.look_everywhere(session)
            else:
                looked = self.scanner.look(session, looks)
            waiting = looked.waiting
            readings = looked.readings
            reads: tuple[Read, ...] = ()
            if 0 < len(readings) <= READ_AT_ONCE_MAX:
                small = [each for each in readings if each.size <= SMALL_BYTES_MAX]
                results = self.read_all(small)
                readings = tuple(each for each in readings if each.size > SMALL_BYTES_MAX)
                waiting += self.scanner.record(session, results)
                reads = reads_of(results)
            # Between the two checks everything may have vanished with the root (B1).
            self._check_root(session)
            self.exceptions = self._exceptions(session)
            has_changed = session.has_changed
        return Observed(readings, waiting, reads, looked.is_cut, looked.is_healed, has_changed)

    def read_all(self, readings: Sequence[Reading]) -> list[ReadResult]:
        """Read some files; for any thread."""
        with Way(self.root.directory) as way:
            return [self._read(way, reading) for reading in readings]

    def _read(self, way: Way, reading: Reading) -> ReadResult:
        parts = self.parts
        return read(way, reading, parts.chunker, parts.clock, lambda: self._is_stopping)

    def record(self, results: Sequence[ReadResult]) -> tuple[Waiting, ...]:
        """Take in what was read."""
        with self.parts.state.session() as session:
            waiting = self.scanner.record(session, results)
            self.exceptions = self._exceptions(session)
        return waiting

    def _exceptions(self, session: MountSession) -> tuple[MountProblem, ...]:
        shown = exceptions_shown(session, self.scanner.bad_rules)
        trouble = self.scanner.root_trouble
        return (MountProblem(RelPath(()), "unread", trouble), *shown) if trouble else shown

    def _check_root(self, session: MountSession) -> None:
        facts = session.facts()
        assert facts.root is not None, "a root that was opened is known"
        entries = entries_to_lose(session)
        halt = check(self.parts.files, facts.root, entries, self.parts.limits)
        if halt is not None:
            raise Halted(halt)

    # -- planning --------------------------------------------------------------

    def plan(self, busy: AbstractSet[EntryId], *, may_send: bool) -> Planned:
        """Derive what is to be done; entries in `busy` are left out for now.

        Raises Halted where it would delete too much.
        """
        with self.parts.state.session() as session:
            view = closed_view(
                session, self.parts.ids.entry(), has_case=self.parts.mount.abilities.has_case
            )
            plan = reconcile(view, self.parts.mount)
            is_confirmed = self._check_deletes(session, plan)
            confirming.carry_relabels(session, plan.relabels, self.parts.watcher)
            self._follow(plan.relabels)
            confirming.carry_confirms(session, plan.confirms)
            held = self.locks.held(session, plan)
            busy = busy | held.keys()
            actions = list(possible(plan.placing, busy))
            slices = tuple(sliced(actions))
            if slices or self._has_intents:
                # Of an old batch they would tell something else by the next start.
                session.forget_intents()
                confirming.note_intents(session, slices[0] if slices else ())
            units = list(ready(session, plan.sending, busy)) if may_send else []
            pending_up = sum(unit.changes[0].id not in held for unit in plan.sending)
            all_batches = batches(units)
            small = tuple(batch for batch in all_batches if not batch.is_large)
            locals_ = dict(_locals(session, units))
            first = None
            if small:
                first = self._note(session, small[0], locals_, is_confirmed=is_confirmed)
            planned = Planned(
                slices,
                small,
                tuple(batch for batch in all_batches if batch.is_large),
                (*plan_problems(session, plan.problems), *held_problems(session, held)),
                _ids_of_plan(plan),
                plan.relabels,
                {id: path for action in actions for id, path in _paths(session, action)},
                dict(_olds(session, actions)),
                locals_,
                first,
                frozenset(large_of(plan.placing)),
                pending_up > 0 and not may_send,
                is_confirmed,
                pending_up,
                sum(held.keys().isdisjoint(ids_of(action)) for action in plan.placing),
            )
            facts = session.facts()
        self._has_intents = bool(slices)
        self.facts = facts
        return planned

    def _check_deletes(self, session: MountSession, plan: Plan) -> bool:
        """Tell whether a human confirmed what the plan deletes; raise Halted where one must."""
        facts = session.facts()
        confirmed = sum(
            isinstance(action, Remove) and session.is_confirmed(action.id)
            for action in plan.placing
        )
        entries = session.base_count()
        if facts.consent is not None or confirmed:
            self._shrinking.forget()
            gone = 0
        else:
            gone = self._shrinking.gone(entries, self.parts.clock.monotonic_s())
        halt = check_deletes(
            plan.deletes, plan.removals, confirmed, entries, self.parts.limits, gone=gone
        )
        if halt is not None and not is_agreed(facts.consent, halt):
            raise Halted(halt)
        left = left_of(facts.consent, plan.deletes, plan.removals)
        if left != facts.consent:
            session.set_facts(replace(facts, consent=left))
        return is_told_as_confirmed(left)

    def note(self, batch: Batch, planned: Planned) -> Outgoing:
        """Remember what is about to be sent, and find the files whose content goes along."""
        with self.parts.state.session() as session:
            return self._note(session, batch, planned.locals, is_confirmed=planned.is_confirmed)

    def _note(
        self,
        session: MountSession,
        batch: Batch,
        locals_: Mapping[EntryId, State | None],
        *,
        is_confirmed: bool,
    ) -> Outgoing:
        """Note a batch in a session.

        It is the local of the plan and not of now that counts: an edit since then is another one.
        """
        op = self.parts.ids.op()
        session.note_sent(op, {each.id: locals_[each.id] for each in batch.changes})
        files = dict(_mounted(session, batch.changes))
        paths = {each.id: _path_of(session, each) for each in batch.changes}
        olds = dict(_moved(session, batch.changes))
        tokens = self.locks.tokens(session, batch.changes)
        return Outgoing(batch, op, files, paths, olds, tokens, is_confirmed)

    def forget_sent(self, ops: Sequence[OpId]) -> None:
        """Forget STOREs that made no commit."""
        with self.parts.state.session() as session:
            for op in ops:
                session.forget_sent(op)

    def learn_gone(self, gone: Sequence[Entry]) -> None:
        """Know tombstones that refusals told of."""
        with self.parts.state.session() as session:
            for entry in gone:
                remote.learn_tombstone(session, entry)

    def unanswered(self) -> Sequence[OpId]:
        """Return the STOREs whose outcome nobody knows yet."""
        with self.parts.state.session() as session:
            return session.all_sent()

    # -- finding -----------------------------------------------------------------

    def marks_of(self, ids: Sequence[EntryId]) -> list[Mark]:
        """Return marks that make a look read these files again."""
        marks = []
        with self.parts.state.session() as session:
            for id in ids:
                seen = session.local(id)
                if seen is not None:
                    marks.append(Mark(seen.state.parent, seen.state.name, is_written=True))
        return marks

    def mounted(self, id: EntryId) -> MountedFile | None:
        """Return the way to the file of an entry; None where local has none."""
        with self.parts.state.session() as session:
            seen = session.local(id)
            return None if seen is None else mounted_file(session, seen.state.place)

    # -- placing ---------------------------------------------------------------

    def place(
        self,
        actions: Sequence[Placing],
        contents: Mapping[Digest, StagedContent],
        following: Sequence[Placing],
    ) -> Placed:
        """Place one slice; the intents of the following one are noted with it."""
        with self.parts.state.session() as session:
            placed = self.applier.place(session, actions, contents)
            for id in placed.gone:
                self.scanner.forget(id)
            session.forget_intents()
            confirming.note_intents(session, following)
        self._has_intents = bool(following)
        return placed

    def sync_all(self) -> None:
        """Make all of the mount durable."""
        self.root.directory.sync_all()

    def clear_staging(self) -> None:
        """Remove all that is staged, while nobody stages anything."""
        staging = self.root.own.staging
        for name, _ in staging.list():
            # What an exchange in steps took out of its place is nowhere else.
            if not name.startswith(EXCHANGE_PREFIX):
                with suppress(FileNotFoundError):
                    staging.remove(name)

    # -- facts -------------------------------------------------------------------

    def change_facts(self, facts: MountFacts) -> None:
        """Record other facts."""
        with self.parts.state.session() as session:
            session.set_facts(facts)
        self.facts = facts

    def read_facts(self) -> MountFacts:
        """Return the facts as they are recorded."""
        with self.parts.state.session() as session:
            return session.facts()

    def take_up(self) -> None:
        """Go on after a halt: with the facts as they are now, and what is there now as all."""
        self._shrinking.forget()
        self.facts = self.read_facts()

    def settle(self) -> tuple[tuple[Mark, ...], int, int]:
        """Let go of what lingers; return where to look, and how many entries are dirty and known.

        Called at the end of each cycle; costs nothing while nothing lingers.
        """
        with self.parts.state.session() as session:
            marks = self.applier.let_go(session)
            self.locks.show(session)
            return marks, session.dirty_count(), session.base_count()

    def finish_first_scan(self) -> tuple[Relabel, ...]:
        """Recognise what a crash cut off between a swap and its record."""
        with self.parts.state.session() as session:
            relabels = apply_intents(session, self.parts.watcher)
        self._follow(relabels)
        return relabels

    def _follow(self, relabels: Iterable[Relabel]) -> None:
        """Let readings that are on their way know their directories by their new ids."""
        for relabel in relabels:
            self.scanner.relabel(relabel.local_id, relabel.id)

    def make_sentinel(self, token: bytes) -> bool:
        """Make a name that the watcher tells of after all that happened before; raise OSError.

        Returns whether it is watched: the system may have had no watch left for it.
        """
        if self._has_sentinels:
            self.root.own.sentinels.create(token).close()
        return self._has_sentinels

    def drop_sentinels(self, tokens: Sequence[bytes]) -> None:
        """Remove such names again."""
        for token in tokens:
            with suppress(FileNotFoundError):
                self.root.own.sentinels.remove(token)

    def dirty(self) -> set[EntryId]:
        """Return the dirty entries."""
        with self.parts.state.session() as session:
            return set(session.dirty())


def reads_of(results: Sequence[ReadResult]) -> tuple[Read, ...]:
    """Return the files among the results that were read."""
    return tuple(result for result in results if isinstance(result, Read))


def _ids_of_plan(plan: Plan) -> frozenset[EntryId]:
    found = {id for action in plan.placing for id in ids_of(action)}
    found.update(change.id for unit in plan.sending for change in unit.changes)
    return frozenset(found)


def _olds(session: MountSession, actions: Sequence[Placing]) -> Iterator[tuple[EntryId, RelPath]]:
    for action in actions:
        halves = (action.first, action.second) if isinstance(action, Exchange) else (action,)
        for half in halves:
            if isinstance(half, Alter) and half.expected.place != half.wanted.place:
                yield half.id, path_at(session, half.expected.place)


def _moved(session: MountSession, changes: Sequence[Change]) -> Iterator[tuple[EntryId, RelPath]]:
    for change in changes:
        known = session.remote(change.id) if isinstance(change, Move) else None
        if known is not None:
            yield change.id, path_wanted(session, (known.parent, known.name))


def _paths(session: MountSession, action: Placing) -> Iterator[tuple[EntryId, RelPath]]:
    match action:
        case Create(id, wanted) | KeepCopy(id, _, _, wanted) | Alter(id, _, wanted):
            yield id, path_wanted(session, wanted.place)
        case Remove(id, expected):
            yield id, path_at(session, expected.place)
        case Exchange(first, second):
            for half in (first, second):
                yield half.id, path_wanted(session, half.wanted.place)
        case SetAside():
            pass
        case _:
            assert_never(action)


def _mounted(
    session: MountSession, changes: Sequence[Change]
) -> Iterator[tuple[EntryId, MountedFile]]:
    for change in changes:
        if isinstance(change, PutFile) and change.content.size:
            file = mounted_file(session, (change.parent, change.name))
            if file is not None:
                yield change.id, file


def _locals(session: MountSession, units: Sequence[Unit]) -> Iterator[tuple[EntryId, State | None]]:
    for unit in units:
        for change in unit.changes:
            seen = session.local(change.id)
            yield change.id, None if seen is None else seen.state


def _path_of(session: MountSession, change: Change) -> RelPath:
    """Return the path of a change for people; that of a deleted entry is where it was."""
    if not isinstance(change, Delete):
        return path_at(session, (change.parent, change.name))
    state = session.base(change.id)
    return path_wanted(session, state.place) if state is not None else RelPath(())
