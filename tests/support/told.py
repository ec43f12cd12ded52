"""A mount state beside a volume of the real server code: what one tells, the other takes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.client.mount import remote
from syncline.client.mount.remote import Applied
from syncline.core.changes import Author, Change
from syncline.core.entries import Entry
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId, OpId, ReplicaId, Revision
from syncline.core.table import (
    Commit,
    Cursor,
    Head,
    advance_digest,
    commit_id,
    genesis,
)
from syncline.core.trees import State, state_of
from syncline.ports.link import (
    Committed,
)
from syncline.ports.mount_state import MountFacts, MountSession, MountState
from tests.support.commits import AUTHOR, build_commit, op_id, volume_id
from tests.support.trees import (
    id_of,
)

VOLUME = volume_id("v")
OWN = ReplicaId(b"o" * 16)
OWNER = Author(OWN, "own")
START = MountFacts(OWN, VOLUME, None, Cursor(Revision(0), genesis(VOLUME)))
NEWCOMER = replace(START, cursor=None)


def opened(directory: Path, kind: str, facts: MountFacts = START) -> MountState:
    """Return a new state, on `disk` or in `memory`."""
    if kind == "disk":
        return SqliteMountState.open(directory / "state.sqlite3", facts)
    return MemoryMountState(facts)


class Origin:
    """A volume of the real server code, and the commits that it made."""

    def __init__(self) -> None:
        self.store = MemoryMetadataStore()
        self.store.create_volume(VOLUME, "v")

    def commit(self, *changes: Change, author: Author = AUTHOR, op: int | None = None) -> Committed:
        with self.store.write(VOLUME) as session:
            commit, remembered, _ = build_commit(session, changes, author, op)
            assert commit.entries, "the changes of a test change something"
            session.add_commit(commit, remembered)
        return Committed(commit, (), {})

    def head(self) -> Head:
        with self.store.read(VOLUME) as reader:
            return reader.head()

    def table(self) -> dict[EntryId, Entry]:
        with self.store.read(VOLUME) as reader:
            return {entry.id: entry for entry in reader.page(None, 100_000)}


def apply(state: MountState, *events: Committed) -> Applied:
    """Apply commits, each in a session of its own; return what the last one came to."""
    for event in events:
        with state.session() as session:
            applied = remote.apply_commit(session, event, OWN)
    return applied


def live_remote(session: MountSession) -> dict[EntryId, Entry]:
    found = {}
    for id in session.remote_ids(None, 100_000):
        entry = session.remote(id)
        assert entry is not None
        found[id] = entry
    return found


def remembered(state: MountState) -> tuple[MountFacts, dict[EntryId, Entry], Sequence[EntryId]]:
    with state.session() as session:
        return session.facts(), live_remote(session), session.dirty()


def set_local(state: MountState, *entries: Entry) -> None:
    with state.session() as session:
        for entry in entries:
            session.set_local(entry.id, Seen(state_of(entry)))


def base_of(state: MountState, label: str) -> State | None:
    with state.session() as session:
        return session.base(id_of(label))


def sending(state: MountState, op: OpId, *changes: Change) -> None:
    with state.session() as session:
        seen = {change.id: session.local(change.id) for change in changes}
        session.note_sent(op, {id: each and each.state for id, each in seen.items()})


def forged(state: MountState, *entries: Entry) -> Committed:
    """Return a commit whose chain and digest are right, whatever its entries are."""
    with state.session() as session:
        facts = session.facts()
        old = [session.remote(entry.id) for entry in entries]
    assert facts.cursor is not None
    assert facts.cursor.commit_id is not None
    revision = Revision(facts.cursor.revision + 1)
    id = commit_id(facts.cursor.commit_id, revision, AUTHOR, op_id(1), 1, False, entries)
    digest = advance_digest(facts.table_digest, old, entries)
    return Committed(Commit(revision, id, AUTHOR, op_id(1), 1, False, entries, digest), (), {})
