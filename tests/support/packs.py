"""Packs with known chunks in them, for the tests of the pack store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from syncline.adapters.packs import PackStore
from syncline.core.bodies import ChunkBody
from syncline.core.identity import Digest, digest_of
from syncline.ports.chunks import Location, Record

Chunks = list[tuple[Digest, bytes]]


def numbered(count: int, size: int = 20) -> Chunks:
    contents = [n.to_bytes(4, "big") * (size // 4) for n in range(count)]
    return [(digest_of(content), content) for content in contents]


def filled(directory: Path, chunks: Sequence[tuple[Digest, ChunkBody]]) -> list[Location]:
    """Write chunks to pack 1 of a new store and close it."""
    store = PackStore(directory)
    locations = store.append(chunks)
    store.sync()
    store.close()
    return locations


def records(chunks: Chunks, locations: Sequence[Location]) -> list[Record]:
    return [Record(at, digest) for (digest, _), at in zip(chunks, locations, strict=True)]


def scan(directory: Path, pack: int = 1) -> list[Record]:
    store = PackStore(directory)
    found = list(store.scan(pack, 0))
    store.close()
    return found


def pack_path(directory: Path, number: int = 1) -> Path:
    return directory / f"{number:08d}.pack"
