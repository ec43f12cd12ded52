"""Bugs that are planted on purpose, to show that the simulation finds them.

Model: a planted bug replaces one named function of the product by one that is wrong in the way that
its name tells. It fails where the name is no longer there, and counts how often the wrong code ran,
so that a bug which never came to act does not count as looked for. Nothing of it is in the product.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, cast

from syncline.adapters import memory_mount_state
from syncline.adapters.memory_mount_state import MemoryMountSession
from syncline.client.mount import (
    phases,
    place_batch,
    place_staging,
    place_swaps,
    remote,
    rooting,
)
from syncline.client.mount.phases import Heard, Phases
from syncline.client.mount.place import Placed
from syncline.client.mount.place_batch import Batch
from syncline.client.mount.place_displaced import Displaced, Label
from syncline.client.mount.place_staging import Staged
from syncline.client.mount.remote import Applied
from syncline.client.mount.staged_content import StagedContent
from syncline.core import commits, merging
from syncline.core.changes import Answer, Change, PutFile, Refusal
from syncline.core.conflict_names import is_conflict_name
from syncline.core.entries import Entry, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import Digest, EntryId, ReplicaId
from syncline.core.merging import Merged
from syncline.core.names import Name
from syncline.core.plans import Alter, Placing, Plan
from syncline.core.safety import Halt, HaltReason, Limits, RootIdentity, RootSeen, check_root
from syncline.core.table import Cursor
from syncline.core.trees import Mount, State, View
from syncline.ports.files import Directory
from syncline.ports.link import Committed, WatchEvent
from syncline.ports.mount_state import MountFacts, MountSession
from syncline.ports.watcher import Noticed
from syncline.server import store
from tests.support.simulation.files import SimulatedDirectory
from tests.support.simulation.watcher import SimulatedWatcher
from tests.support.simulation.world import WorldFailed, play

F = TypeVar("F", bound=Callable[..., object])


class PlantLost(LookupError):
    """The function that a planted bug replaces is not in the product any more."""


@dataclass
class Plant:
    """A bug on its way into the product; `ran` counts how often its wrong code ran."""

    ran: int = 0
    replaced: list[tuple[object, str, object]] = field(default_factory=list)
    """Where it is, by owner and name, and what was there before."""

    def replace(self, owner: object, name: str, make: Callable[[F], F]) -> None:
        """Put what `make` makes of a function in its place; raise PlantLost where it is not."""
        original = inspect.getattr_static(owner, name, None)
        if name not in vars(owner) or not callable(original):
            raise PlantLost(f"{owner!r} has no function {name} to plant a bug in")
        self.replaced.append((owner, name, original))
        setattr(owner, name, make(original))

    def hit(self) -> None:
        """Count that the wrong code ran."""
        self.ran += 1

    def remove(self) -> None:
        """Make the product what it was."""
        for owner, name, original in reversed(self.replaced):
            setattr(owner, name, original)


Bug = Callable[[Plant], None]

BUGS: dict[str, Bug] = {}


def _bug(make: Bug) -> Bug:
    BUGS[make.__name__.replace("_", "-")] = make
    return make


@contextmanager
def planted(name: str | None) -> Iterator[Plant]:
    """Have a bug in the product for a while; None plants nothing."""
    plant = Plant()
    try:
        if name is not None:
            BUGS[name](plant)
        yield plant
    finally:
        plant.remove()


# -- who wins -----------------------------------------------------------------------


@_bug
def last_writer_wins(plant: Plant) -> None:
    """Two contents: the local one overwrites the other, and nothing is kept of that."""

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def merge_both(
            merged: Merged, id: EntryId, base: State | None, local: State, remote: State
        ) -> None:
            original(merged, id, base, local, remote)
            if merged.losers.pop(id, None) is not None:
                plant.hit()
                merged.wanted[id] = local.at(merged.wanted[id].place)

        return merge_both

    plant.replace(merging, "_merge_both", make)


@_bug
def no_revision_check(plant: Plant) -> None:
    """The server takes a change whatever revision it builds on."""

    def make(original: Callable[..., Refusal | None]) -> Callable[..., Refusal | None]:
        def stale(overlay: object, change: Change) -> Refusal | None:
            if original(overlay, change) is not None:
                plant.hit()
            return None

        return stale

    plant.replace(commits._Overlay, "_stale", make)


@_bug
def conflict_copy_not_uploaded(plant: Plant) -> None:
    """A conflict copy is made where the conflict was seen, and stays there."""

    def make(original: Callable[..., Plan]) -> Callable[..., Plan]:
        def reconcile(view: View, mount: Mount) -> Plan:
            plan = original(view, mount)
            kept = tuple(unit for unit in plan.sending if not any(map(_is_copy, unit.changes)))
            plant.ran += len(plan.sending) - len(kept)
            return replace(plan, sending=kept)

        return reconcile

    plant.replace(phases, "reconcile", make)


def _is_copy(change: Change) -> bool:
    return isinstance(change, PutFile) and not change.base and is_conflict_name(change.name)


# -- placing ------------------------------------------------------------------------


@_bug
def base_recorded_before_the_swap(plant: Plant) -> None:
    """What is about to be placed is recorded as placed, and placed afterwards."""

    def make(original: Callable[..., Placed]) -> Callable[..., Placed]:
        def place(
            self: Phases,
            actions: Sequence[Placing],
            contents: Mapping[Digest, StagedContent],
            following: Sequence[Placing],
        ) -> Placed:
            before = {}
            with self.parts.state.session() as session:
                for action in actions:
                    if isinstance(action, Alter) and _is_content(action):
                        plant.hit()
                        before[action.id] = session.base(action.id)
                        session.set_base(action.id, action.wanted)
                session.forget_intents()
            with self.parts.state.session() as session:
                placed = self.applier.place(session, actions, contents)
                for id in before.keys() - placed.entries:
                    session.set_base(id, before[id])
            return placed

        return place

    plant.replace(Phases, "place", make)


def _is_content(action: Alter) -> bool:
    return action.expected.substance != action.wanted.substance


@_bug
def swap_before_the_data_is_durable(plant: Plant) -> None:
    """What was staged gets its name without having been synced."""

    def make(original: Callable[..., Staged]) -> Callable[..., Staged]:
        def finish(
            self: place_staging.Stager,
            file: object,
            name: bytes,
            wanted: State,
            *,
            is_synced: bool,
        ) -> Staged:
            plant.hit()
            return original(self, file, name, wanted, is_synced=False)

        return finish

    def make_sync(original: Callable[..., None]) -> Callable[..., None]:
        def sync_all(self: SimulatedDirectory) -> None:
            self.files.disk.journal.sync_all()

        return sync_all

    plant.replace(place_staging.Stager, "_finish", make)
    plant.replace(SimulatedDirectory, "sync_all", make_sync)


@_bug
def displaced_file_dropped_unlooked(plant: Plant) -> None:
    """What came out of a swap is taken for what was expected, and removed."""

    def make(original: Callable[..., Displaced | None]) -> Callable[..., Displaced | None]:
        def judged(
            batch: Batch, directory: Directory, name: bytes, label: Label, seen: Seen
        ) -> Displaced | None:
            status = batch.ground.own.displaced.look(name)
            if status is None:
                return None
            plant.hit()
            parts, inode = batch.parts(label.place[0]), directory.status().inode
            return Displaced(name, label, parts, inode, status, 0.0, is_idle=True)

        return judged

    plant.replace(place_swaps, "_judged", make)


@_bug
def echo_uploaded_as_an_edit(plant: Plant) -> None:
    """A file that was placed just now is taken for one that its user wrote."""

    def make(original: Callable[..., Seen]) -> Callable[..., Seen]:
        def placed(
            self: Batch, directory: Directory, name: Name, staged: Staged, wanted: State
        ) -> Seen:
            seen = original(self, directory, name, staged, wanted)
            if wanted.kind is not Kind.FILE:
                return seen
            plant.hit()
            return replace(seen, state=replace(wanted, mtime_ns=wanted.mtime_ns + 1))

        return placed

    plant.replace(place_batch.Batch, "placed", make)


# -- what was seen --------------------------------------------------------------------


@_bug
def empty_root_believed(plant: Plant) -> None:
    """A root with nothing in it is taken for one that its user emptied."""

    def make(original: Callable[..., Halt | None]) -> Callable[..., Halt | None]:
        def believing(
            known: RootIdentity, seen: RootSeen | None, entries: int, limits: Limits
        ) -> Halt | None:
            halt = original(known, seen, entries, limits)
            if halt is not None and halt.reason is HaltReason.ROOT_EMPTIED:
                plant.hit()
                return None
            return halt

        return believing

    plant.replace(rooting, check_root.__name__, make)


@_bug
def overflow_ignored(plant: Plant) -> None:
    """That the watcher lost something is not heard."""

    def make(original: Callable[..., Noticed]) -> Callable[..., Noticed]:
        def take(self: SimulatedWatcher) -> Noticed:
            noticed = original(self)
            plant.ran += noticed.is_overflown
            return replace(noticed, is_overflown=False)

        return take

    plant.replace(SimulatedWatcher, "take", make)


@_bug
def tombstone_forgotten(plant: Plant) -> None:
    """A mount forgets an entry as soon as it hears that it was deleted, and has it still."""

    def make(original: Callable[..., Applied]) -> Callable[..., Applied]:
        def apply_commit(session: MountSession, event: Committed, own: ReplicaId) -> Applied:
            applied = original(session, event, own)
            for entry in event.commit.entries:
                if not entry.is_live and session.local(entry.id) is not None:
                    plant.hit()
                    session.drop_remote(entry.id)
                    session.set_base(entry.id, None)
            return applied

        return apply_commit

    plant.replace(remote, "apply_commit", make)


@_bug
def snapshot_omission_believed(plant: Plant) -> None:
    """What a server does not list any more was deleted, also after it was restored."""

    def make(original: Callable[..., None]) -> Callable[..., None]:
        def forget_server(self: MemoryMountSession) -> None:
            plant.hit()

        return forget_server

    plant.replace(memory_mount_state.MemoryMountSession, "forget_server", make)


@_bug
def cursor_advanced_before_it_is_applied(plant: Plant) -> None:
    """The cursor is recorded when commits come, and what they changed with the next plan."""
    late: dict[Phases, tuple[MountFacts, list[Committed]]] = {}

    def apply_late(self: Phases, original: Callable[..., Heard]) -> None:
        if self in late:
            facts, events = late.pop(self)
            with self.parts.state.session() as session:
                session.set_facts(facts)
            original(self, events)

    def make_hear(original: Callable[..., Heard]) -> Callable[..., Heard]:
        def hear(self: Phases, events: Sequence[WatchEvent]) -> Heard:
            apply_late(self, original)
            own = self.parts.author.replica
            told = [each for each in events if isinstance(each, Committed)]
            cursor = self.facts.cursor
            is_next = cursor is not None and told and told[0].commit.revision == cursor.revision + 1
            if not is_next or any(each.commit.author.replica == own for each in told):
                return original(self, events)
            plant.hit()
            last = told[-1].commit
            with self.parts.state.session() as session:
                facts = session.facts()
                at = Cursor(last.revision, last.id)
                session.set_facts(replace(facts, cursor=at, table_digest=last.table_digest))
            late[self] = (facts, told)
            return Heard(tuple(entry.id for each in told for entry in each.commit.entries), ())

        return hear

    def make_plan(hear: Callable[..., Heard], original: F) -> F:
        def plan(self: Phases, *args: object, **kwargs: object) -> object:
            apply_late(self, hear)
            return original(self, *args, **kwargs)

        return cast(F, plan)

    hear = Phases.hear
    plant.replace(Phases, "hear", make_hear)
    plant.replace(Phases, "plan", partial(make_plan, hear))


# -- the server -----------------------------------------------------------------------


@_bug
def op_id_not_remembered(plant: Plant) -> None:
    """A STORE that comes again is decided again."""

    def make(original: Callable[..., Answer | None]) -> Callable[..., Answer | None]:
        def replay(reader: object, plan: object) -> Answer | None:
            if original(reader, plan) is not None:
                plant.hit()
            return None

        return replay

    plant.replace(store, "_replay", make)


@_bug
def missing_chunk_accepted(plant: Plant) -> None:
    """A commit names chunks that the server does not have."""

    def make(original: Callable[..., dict[int, Refusal]]) -> Callable[..., dict[int, Refusal]]:
        def missing(volume: object, session: object, plan: object) -> dict[int, Refusal]:
            plant.ran += len(original(volume, session, plan))
            return {}

        return missing

    plant.replace(store, "_missing", make)


@_bug
def children_of_a_moved_directory_given_new_revisions(plant: Plant) -> None:
    """A move supersedes what is in the directory as well."""

    def make(original: Callable[..., dict[EntryId, Entry]]) -> Callable[..., dict[EntryId, Entry]]:
        def net(self: commits._Overlay) -> dict[EntryId, Entry]:
            found = original(self)
            for id, new in list(found.items()):
                old = self.before[id]
                is_moved = old is not None and (old.parent, old.name) != (new.parent, new.name)
                children = list(self.table.children(id)) if is_moved else []
                for child in children:
                    if self.after.get(child.id, child) == child:
                        plant.hit()
                        self.before[child.id] = child
                        found[child.id] = replace(child, revision=self.revision)
            return found

        return net

    plant.replace(commits._Overlay, "net", make)


# -- looking for them -----------------------------------------------------------------

_OURS = (TypeError, AttributeError, NameError, UnboundLocalError)
"""What wrong code of a planted bug would raise: that is no find."""


@dataclass(frozen=True, slots=True)
class Hunt:
    """What looking for a planted bug came to: after how many seeds, and what showed it."""

    is_found: bool
    seeds: int
    ran: int
    reason: str = ""


def hunt(name: str, seeds: Sequence[int], operations: int) -> Hunt:
    """Play worlds with a bug until one fails that is as it must be without it."""
    ran = 0
    for tried, seed in enumerate(seeds, 1):
        with planted(name) as plant:
            reason = _fault(seed, operations)
        ran += plant.ran
        if isinstance(reason, _OURS):
            raise PlantLost(f"{name} does not fit the product any more") from reason
        if reason is not None and plant.ran and _fault(seed, operations) is None:
            return Hunt(True, tried, ran, f"seed {seed}: {reason!r:.150}")
    return Hunt(False, len(seeds), ran)


def _fault(seed: int, operations: int) -> BaseException | None:
    """Return what is wrong with a world; None where nothing is."""
    try:
        play(seed, operations)
    except WorldFailed as failed:
        return failed.reason
    return None
