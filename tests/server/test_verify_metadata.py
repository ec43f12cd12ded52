from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest

from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.core.changes import Change
from syncline.core.entries import tombstone
from syncline.core.identity import Revision
from syncline.core.table import Commit, advance_digest, commit_id
from syncline.errors import Corrupt, NotFound
from syncline.server.verify import COMMITS_PER_SESSION, ENTRIES_PER_SESSION, verify_metadata
from tests.support.commits import build_commit, commit_changes, volume_id
from tests.support.trees import delete, file, id_of, move, put_directory, put_file

VOLUME = volume_id("v")


@pytest.fixture
def store() -> MemoryMetadataStore:
    store = MemoryMetadataStore()
    store.create_volume(VOLUME, "v")
    return store


def commit(store: MemoryMetadataStore, *changes: Change) -> None:
    with store.write(VOLUME) as session:
        commit_changes(session, changes)


def lines(store: MemoryMetadataStore) -> Sequence[str]:
    return list(verify_metadata(store, VOLUME))


@contextmanager
def altered(store: MemoryMetadataStore, *changes: Change) -> Iterator[list[Commit]]:
    """Add a commit of these changes after the caller has put another one in its place."""
    with store.write(VOLUME) as session:
        made, remembered, _ = build_commit(session, changes)
        commits = [made]
        yield commits
        session.add_commit(commits[-1], remembered)


def rehashed(session_head: bytes, made: Commit) -> Commit:
    """Return a commit that was forged by someone who can compute commit ids."""
    id = commit_id(
        session_head,  # type: ignore[arg-type]
        made.revision,
        made.author,
        made.op_id,
        made.time_ns,
        made.is_confirmed,
        made.entries,
    )
    return replace(made, id=id)


def head_id(store: MemoryMetadataStore) -> bytes:
    with store.read(VOLUME) as reader:
        return reader.head().commit_id


def test_a_sound_volume_has_nothing_to_say(store: MemoryMetadataStore) -> None:
    assert lines(store) == []
    commit(store, put_directory("d"), put_file("a", parent="d"), put_file("b"))
    for number in range(COMMITS_PER_SESSION * 2):
        commit(store, put_file(f"f{number}", parent="d"))
    commit(store, move("a", 1, "/", b"moved"), delete("b", 1))
    assert lines(store) == []


def test_pages_are_joined(store: MemoryMetadataStore) -> None:
    with store.write(VOLUME) as session:
        for start in range(0, ENTRIES_PER_SESSION + 10, 1000):
            commit_changes(session, [put_file(f"f{start + n}") for n in range(1000)])
    assert lines(store) == []


def test_an_unknown_volume_is_not_found(store: MemoryMetadataStore) -> None:
    with pytest.raises(NotFound):
        list(verify_metadata(store, volume_id("none")))


def test_an_altered_commit_does_not_hash_to_its_id(store: MemoryMetadataStore) -> None:
    commit(store, put_file("a"))
    with altered(store, put_file("b")) as commits:
        commits.append(replace(commits[0], time_ns=commits[0].time_ns + 1))
    commit(store, put_file("c"))
    assert lines(store) == [
        "commit 2 does not hash to its id: it or its history was altered",
    ]


def test_a_broken_chain_is_named_where_it_breaks(store: MemoryMetadataStore) -> None:
    commit(store, put_file("a"))
    with altered(store, put_file("b")) as commits:
        commits.append(rehashed(b"\1" * 32, commits[0]))
    assert [line.split(":")[0] for line in lines(store)] == ["commit 2 does not hash to its id"]


def test_a_state_that_was_added_or_lost_changes_the_table_digest(
    store: MemoryMetadataStore,
) -> None:
    commit(store, put_file("a"))
    with altered(store, put_file("b")) as commits:
        extra = replace(commits[0], entries=(*commits[0].entries, file("x", revision=2)))
        commits.append(rehashed(head_id(store), extra))
    commit(store, put_file("c"))
    assert lines(store) == [
        "the table digest of commit 2 is not what its changes make of the last one",
        "the table at revision 3 does not have the digest of its commit",
    ]


def test_an_orphan_is_named(store: MemoryMetadataStore) -> None:
    commit(store, put_directory("d"), put_file("a\x1b", parent="d"), put_file("b"))
    with store.read(VOLUME) as reader:
        head, directory = reader.head(), reader.entry(id_of("d"))
    assert directory is not None
    gone = tombstone(directory, Revision(2))
    with altered(store, delete("b", 1)) as commits:
        digest = advance_digest(head.table_digest, (directory,), ())
        forged = replace(commits[0], entries=(gone,), table_digest=digest)
        commits.append(rehashed(head.commit_id, forged))
    assert lines(store) == [
        f"'a\\x1b' (entry {id_of(chr(97) + chr(27)).hex()}) stands in no live directory"
    ]


class DamagedStore(MemoryMetadataStore):
    """A store whose rows of some commit cannot be read."""

    @contextmanager
    def read(self, volume, at=None):  # type: ignore[no-untyped-def]
        with super().read(volume, at) as reader:
            if at is not None:
                raise Corrupt("the metadata store is damaged", what="metadata")
            yield reader


def test_damage_ends_the_check_with_its_sentence() -> None:
    store = DamagedStore()
    store.create_volume(VOLUME, "v")
    commit(store, put_file("a"))
    assert lines(store) == ["the metadata store is damaged"]


def test_it_looks_at_what_was_there_when_it_started(store: MemoryMetadataStore) -> None:
    for number in range(COMMITS_PER_SESSION + 1):
        commit(store, put_file(f"f{number}"))
    with altered(store, put_file("wrong")) as commits:
        commits.append(replace(commits[0], time_ns=commits[0].time_ns + 1))
    check = verify_metadata(store, VOLUME)
    assert "does not hash" in next(check)
    with altered(store, put_file("late")) as commits:
        commits.append(replace(commits[0], time_ns=commits[0].time_ns + 1))
    assert list(check) == []
    assert len(lines(store)) == 2
