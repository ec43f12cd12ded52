"""Verify what is stored: recompute from a volume's rows what its commits claim.

V1  The commits after the oldest revision follow each other without a gap, and each commit id is
    the hash of the one before and of the commit's own states (T1, T2).
V2  Each commit's table digest is the one before, less what it superseded, plus what it made (T3).
V3  The table at the oldest revision and at the head has the digest that its commit names.
V4  In these two tables each live entry stands in a live directory (K2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncline.core.entries import Entry, Kind
from syncline.core.identity import NO_REVISION, ROOT_ID, EntryId, Revision, VolumeId
from syncline.core.names import escape
from syncline.core.table import (
    EMPTY_TABLE_DIGEST,
    Commit,
    Head,
    TableDigest,
    advance_digest,
    commit_id,
    genesis,
)
from syncline.errors import Corrupt, NotFound
from syncline.ports.metadata import MetadataStore, TableReader

COMMITS_PER_SESSION = 8
"""Memory holds one session's commits, of at most `CHANGES_MAX` states each."""

ENTRIES_PER_SESSION = 2048
"""Sessions are short, so that a long check does not make the store keep old pages for it."""


def verify_metadata(store: MetadataStore, volume: VolumeId) -> Iterator[str]:
    """Yield a sentence for each thing that is wrong with a volume's rows; nothing when all is well.

    Streams over commits and entries in flat memory, beside a running writer: it looks at what was
    there when it started. Raise NotFound for a volume that is not there.
    """
    oldest = next((known.oldest for known in store.volumes() if known.id == volume), None)
    if oldest is None:
        raise NotFound(f"there is no volume {volume.hex()}", volume=volume.hex())
    try:
        with store.read(volume) as reader:
            head = reader.head()
        start = _start(store, volume, oldest)
        if start is None:
            yield f"commit {oldest}, the oldest that is kept, is missing"
            return
        yield from _verify_table(store, volume, start)
        yield from _verify_chain(store, volume, start, head)
        if head.revision != oldest:
            yield from _verify_table(store, volume, head)
    except Corrupt as error:
        yield error.message


def _start(store: MetadataStore, volume: VolumeId, oldest: Revision) -> Head | None:
    """Return where the check begins: nothing before the oldest whole table can be recomputed."""
    if oldest == NO_REVISION:
        return Head(NO_REVISION, genesis(volume), EMPTY_TABLE_DIGEST)
    with store.read(volume) as reader:
        commit = reader.commit(oldest)
    return None if commit is None else Head(oldest, commit.id, commit.table_digest)


def _verify_chain(store: MetadataStore, volume: VolumeId, start: Head, head: Head) -> Iterator[str]:
    last = start
    while last.revision < head.revision:
        wrong: list[str] = []
        limit = min(COMMITS_PER_SESSION, head.revision - last.revision)
        with store.read(volume) as reader:
            commits = reader.commits_after(last.revision, limit)
            for commit in commits:
                wrong += _verify_commit(reader, last, commit)
                last = Head(commit.revision, commit.id, commit.table_digest)
        yield from wrong
        if not commits:
            yield f"the commits end at {last.revision}, before the head at {head.revision}"
            return


def _verify_commit(reader: TableReader, last: Head, commit: Commit) -> Iterator[str]:
    revision = commit.revision
    if revision != last.revision + 1:
        yield f"commit {revision} follows commit {last.revision}: those between are missing"
        return
    hashed = commit_id(
        last.commit_id,
        revision,
        commit.author,
        commit.op_id,
        commit.time_ns,
        commit.is_confirmed,
        commit.entries,
    )
    if hashed != commit.id:
        yield f"commit {revision} does not hash to its id: it or its history was altered"
    replaced = [reader.previous(entry.id, revision) for entry in commit.entries]
    if advance_digest(last.table_digest, replaced, commit.entries) != commit.table_digest:
        yield f"the table digest of commit {revision} is not what its changes make of the last one"


def _verify_table(store: MetadataStore, volume: VolumeId, expected: Head) -> Iterator[str]:
    digest: TableDigest = EMPTY_TABLE_DIGEST
    after: EntryId | None = None
    while True:
        wrong: list[str] = []
        with store.read(volume, expected.revision) as reader:
            page = reader.page(after, ENTRIES_PER_SESSION)
            digest = advance_digest(digest, (), page)
            wrong += _verify_parents(reader, page)
        yield from wrong
        if len(page) < ENTRIES_PER_SESSION:
            break
        after = page[-1].id
    if digest != expected.table_digest:
        yield f"the table at revision {expected.revision} does not have the digest of its commit"


def _verify_parents(reader: TableReader, page: Sequence[Entry]) -> Iterator[str]:
    sound = {ROOT_ID}
    for entry in page:
        if entry.parent in sound:
            continue
        parent = reader.entry(entry.parent)
        if parent is not None and parent.is_live and parent.kind is Kind.DIRECTORY:
            sound.add(entry.parent)
        else:
            yield f"'{escape(entry.name)}' (entry {entry.id.hex()}) stands in no live directory"
