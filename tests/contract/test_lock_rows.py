"""The contract of a metadata store for user locks: kept whole or not at all, on every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.core.changes import Token
from syncline.core.identity import VolumeId
from syncline.core.user_locks import Ticket, UserLock
from syncline.ports import metadata
from syncline.ports.metadata import LockBreak, MetadataStore, StoredLock
from tests.support.locks import author, owner
from tests.support.trees import id_of

VOLUME, OTHER = VolumeId(b"volume of locks."), VolumeId(b"another volume..")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MetadataStore]:
    store: MetadataStore
    if request.param == "memory":
        store = MemoryMetadataStore()
    else:
        store = SqliteMetadataStore(tmp_path / "metadata")
    store.create_volume(VOLUME, "locks")
    store.create_volume(OTHER, "others")
    yield store
    store.close()


def lock(label: str, token: int, *, reason: str = "why \u2028 not") -> UserLock:
    return UserLock(id_of(label), Token(token), owner("ann", 1), reason, 30.0, 600.5, -5)


def stored(store: MetadataStore, volume: VolumeId = VOLUME) -> list[StoredLock]:
    with store.read(volume) as reader:
        return list(reader.locks())


def test_a_volume_begins_without_locks(store: MetadataStore) -> None:
    with store.read(VOLUME) as reader:
        assert (reader.locks(), reader.last_token(), reader.lock_breaks(9)) == ([], 0, [])


def test_locks_come_back_by_their_tokens_without_their_tickets(store: MetadataStore) -> None:
    first, second = StoredLock(lock("b", 1), 0.25, 600.5), StoredLock(lock("a", 2), 1.5, 0.0)
    with store.write(VOLUME) as session:
        session.put_lock(replace(second, lock=replace(second.lock, ticket=Ticket(7))))
        session.put_lock(first)
        session.keep_token(Token(2))
        assert session.locks() == [first, second], "a session sees what it put"
    assert stored(store) == [first, second] and stored(store, OTHER) == []
    with store.read(VOLUME) as reader:
        assert reader.last_token() == 2


def test_one_entry_has_one_lock(store: MetadataStore) -> None:
    with store.write(VOLUME) as session:
        session.put_lock(StoredLock(lock("a", 1), 0.0, 9.0))
    later = StoredLock(lock("a", 3, reason=""), 2.0, 7.0)
    with store.write(VOLUME) as session:
        session.put_lock(later)
        session.drop_lock(id_of("nothing"))
    assert stored(store) == [later]
    with store.write(VOLUME) as session:
        session.drop_lock(id_of("a"))
    assert stored(store) == []


def test_a_session_that_fails_leaves_locks_as_they_were(store: MetadataStore) -> None:
    kept = StoredLock(lock("a", 1), 0.0, 9.0)
    with store.write(VOLUME) as session:
        session.put_lock(kept)
        session.keep_token(Token(1))
    with pytest.raises(ZeroDivisionError), store.write(VOLUME) as session:
        session.put_lock(StoredLock(lock("b", 2), 0.0, 9.0))
        session.drop_lock(id_of("a"))
        session.keep_token(Token(2))
        session.add_lock_break(broken(1))
        raise ZeroDivisionError
    with store.read(VOLUME) as reader:
        assert (reader.locks(), reader.last_token()) == ([kept], 1)
        assert reader.lock_breaks(9) == []


def test_tokens_only_grow(store: MetadataStore) -> None:
    with store.write(VOLUME) as session:
        session.keep_token(Token(5))
    for token in (5, 4):
        with pytest.raises(AssertionError), store.write(VOLUME) as session:
            session.keep_token(Token(token))


def broken(number: int) -> LockBreak:
    by, path = author("ben"), b"d/\xff"
    return LockBreak(number, by, "desk", path, lock("a", number), 12.5)


def test_the_newest_breaks_are_kept(store: MetadataStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("memory_metadata", "sqlite_sessions"):
        monkeypatch.setattr(f"syncline.adapters.{module}.LOCK_BREAKS_MAX", 3)
    with store.write(OTHER) as session:
        session.add_lock_break(broken(9))
    for number in range(1, 6):
        with store.write(VOLUME) as session:
            session.add_lock_break(broken(number))
    with store.read(VOLUME) as reader:
        assert reader.lock_breaks(9) == [broken(5), broken(4), broken(3)]
        assert reader.lock_breaks(1) == [broken(5)]
    with store.read(OTHER) as reader:
        assert reader.lock_breaks(9) == [broken(9)]
    assert metadata.LOCK_BREAKS_MAX == 10_000
