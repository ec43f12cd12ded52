"""What must be true of a server's history, whoever wrote it (G3, G4, G6, G7).

Model: the commits from the first one on make the table; each is on the chain, has the digest of
what it makes, and changes something: a state that differs from its predecessor by the revision
alone is a write that nobody made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from syncline.core.entries import Entry
from syncline.core.identity import Digest, EntryId, Revision, VolumeId
from syncline.core.manifests import decode_piece
from syncline.core.table import (
    EMPTY_TABLE_DIGEST,
    Commit,
    advance_digest,
    commit_id,
    genesis,
)
from syncline.ports.chunks import ChunkStore
from syncline.ports.metadata import MetadataStore, TableReader

ALL = 10**9


@dataclass(frozen=True, slots=True)
class Stores:
    """Where the volume of a world is."""

    metadata: MetadataStore
    chunks: ChunkStore

    @property
    def volume(self) -> VolumeId:
        """Return the one volume."""
        return self.metadata.volumes()[0].id


def commits_after(stores: Stores, revision: int) -> list[Commit]:
    """Return all commits past a revision."""
    with stores.metadata.read(stores.volume) as reader:
        return [each for each in reader.commits_after(Revision(0), ALL) if each.revision > revision]


def head_of(stores: Stores) -> int:
    """Return the newest revision."""
    with stores.metadata.read(stores.volume) as reader:
        return reader.head().revision


def live_entries(stores: Stores) -> dict[EntryId, Entry]:
    """Return the table at the head."""
    table: dict[EntryId, Entry] = {}
    for commit in commits_after(stores, 0):
        table.update((entry.id, entry) for entry in commit.entries)
    return {id: entry for id, entry in table.items() if entry.is_live}


def check_history(stores: Stores) -> None:
    """Fail where the chain, a digest or a change is not what it must be."""
    table: dict[EntryId, Entry] = {}
    before, digest = genesis(stores.volume), EMPTY_TABLE_DIGEST
    for revision, commit in enumerate(commits_after(stores, 0), 1):
        author, op, time_ns = commit.author, commit.op_id, commit.time_ns
        marks = (author, op, time_ns, commit.is_confirmed, commit.entries)
        if commit.revision != revision or commit.id != commit_id(before, commit.revision, *marks):
            raise AssertionError(f"commit {revision} is not on the chain")
        replaced = [table.get(entry.id) for entry in commit.entries]
        digest = advance_digest(digest, replaced, commit.entries)
        if digest != commit.table_digest:
            raise AssertionError(f"commit {revision} has not the digest of its table")
        for old, new in zip(replaced, commit.entries, strict=True):
            if old is not None and replace(new, revision=old.revision) == old:
                raise AssertionError(f"commit {revision} changes nothing of {new.name!r}")
        table.update((entry.id, entry) for entry in commit.entries)
        before = commit.id


def check_chunks(stores: Stores) -> None:
    """Fail where content that the table names is not at the server (G5)."""
    entries = [entry for entry in live_entries(stores).values() if entry.content is not None]
    with stores.metadata.read(stores.volume) as reader:
        for entry in entries:
            assert entry.content is not None, "entries without content were left out"
            lacking = list(_lacking(stores, reader, entry))
            if lacking:
                raise AssertionError(f"{entry.name!r} lacks chunks: {lacking[0].hex()}")


def _lacking(stores: Stores, reader: TableReader, entry: Entry) -> Iterator[Digest]:
    assert entry.content is not None, "only content has chunks"
    wanted = {ref.digest for ref in entry.content.refs}
    found = reader.locate(wanted)
    yield from wanted - found.keys()
    if entry.content.depth:
        for piece, location in found.items():
            below = {ref.digest for ref in decode_piece(stores.chunks.read(piece, location))}
            yield from below - reader.locate(below).keys()


def deletes_of(stores: Stores, author: str, revision: int) -> list[bytes]:
    """Return the names of what a mount deleted past a revision; `author` is its human name."""
    return [
        entry.name
        for commit in commits_after(stores, revision)
        if commit.author.name == author
        for entry in commit.entries
        if not entry.is_live
    ]
