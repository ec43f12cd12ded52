"""The contract of `ports.metadata` on damaged chunks, on every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.core.identity import Digest, digest_of
from syncline.ports.chunks import Location
from syncline.ports.metadata import MetadataStore
from tests.support.commits import volume_id

VOLUME = volume_id("v")


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MetadataStore]:
    store: MetadataStore
    if request.param == "memory":
        store = MemoryMetadataStore()
    else:
        store = SqliteMetadataStore(tmp_path / "metadata")
    store.create_volume(VOLUME, "v")
    yield store
    store.close()


def chunk(number: int) -> Digest:
    return digest_of(number.to_bytes(4, "big"))


@pytest.mark.parametrize("place", [Location(1, 0, 10), Location(2, 6, 10), Location(2, 5, 9)])
def test_only_what_lies_where_it_was_read_is_marked(store: MetadataStore, place: Location) -> None:
    healed = Location(2, 5, 10)
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(1): healed})
    with store.write(VOLUME) as session:
        session.mark_damaged({chunk(1): place})
    with store.read(VOLUME) as reader:
        assert reader.locate([chunk(1)]) == {chunk(1): healed}
        assert not reader.has_damaged()


@pytest.mark.parametrize("count", [1, 2, 64, 65, 300])
def test_many_chunks_are_found_damaged_at_once(store: MetadataStore, count: int) -> None:
    chunks = {chunk(n): Location(1, n * 10, 10) for n in range(count)}
    with store.write(VOLUME) as session:
        session.add_chunks(chunks)
        session.add_chunks({chunk(1000): Location(2, 0, 10)})
        session.mark_damaged(chunks)
    with store.read(VOLUME) as reader:
        assert reader.damaged(iter([*chunks, chunk(1000), chunk(2000)])) == chunks.keys()
        assert reader.damaged([]) == set()
