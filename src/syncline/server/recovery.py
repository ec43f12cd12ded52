"""What a server does before it serves: find what a crash left in the packs, and rebuild the index.

R1  Chunks that are whole in a pack but in no index row were appended by a transfer that never came
    to its commit: they are indexed, so that the transfer goes on.
R2  A torn tail is cut, so that the next append starts at a record's start.
R3  Nothing that an index row names is ever cut.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from syncline.core.identity import Digest, VolumeId
from syncline.ports.chunks import ChunkStore, Location
from syncline.ports.metadata import MetadataStore

logger = logging.getLogger(__name__)

REBUILD_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class PackFindings:
    """What looking through packs came to: chunks indexed, damaged records, bytes of torn tails."""

    indexed: int
    damaged: tuple[Location, ...]
    cut_bytes: int


def recover(metadata: MetadataStore, volume: VolumeId, chunks: ChunkStore) -> PackFindings:
    """Index and cut what a crash left behind the last indexed chunk (R1-R3)."""
    found: dict[Digest, Location] = {}
    damaged: list[Location] = []
    cut = 0
    packs = list(chunks.packs())
    for pack in reversed(packs):
        last = None
        for _, location in metadata.located(volume, pack):
            last = location
        start = last.offset + last.size if last else 0
        end = start
        for record in chunks.scan(pack, start):
            end = record.location.offset + record.location.size
            if record.digest is None:
                damaged.append(record.location)
            else:
                found[record.digest] = record.location
        if pack == packs[-1]:
            # Syncs as well: what the page cache shows after a crash may not be on the disk yet.
            cut = chunks.cut_tail(pack, end)
        if last is not None:
            # Packs are filled in order: what is before this one was indexed before it.
            break
    if found:
        with metadata.write(volume) as session:
            known = session.locate(found)
            fresh = {digest: found[digest] for digest in found.keys() - known.keys()}
            session.add_chunks(fresh)
        found = fresh
    return PackFindings(len(found), tuple(damaged), cut)


def rebuild(metadata: MetadataStore, volume: VolumeId, chunks: ChunkStore) -> PackFindings:
    """Make the chunk index anew from the packs alone: all of it or, after a failure, none."""
    indexed = cut = 0
    damaged: list[Location] = []
    with metadata.write(volume) as session:
        session.forget_chunks()
        batch: dict[Digest, Location] = {}
        packs = chunks.packs()
        for pack in packs:
            end = 0
            for record in chunks.scan(pack, 0):
                end = record.location.offset + record.location.size
                if record.digest is None:
                    damaged.append(record.location)
                    continue
                batch[record.digest] = record.location
                if len(batch) >= REBUILD_BATCH:
                    indexed += len(batch)
                    session.add_chunks(batch)
                    batch = {}
            if pack == packs[-1]:
                # Syncs as well, before the index believes it (R2).
                cut = chunks.cut_tail(pack, end)
        indexed += len(batch)
        session.add_chunks(batch)
    return PackFindings(indexed, tuple(damaged), cut)


def describe(findings: PackFindings) -> Sequence[str]:
    """Return what an operator should know, a line each."""
    lines = [
        f"damaged record in pack {place.pack:08d} at byte {place.offset}, {place.size} bytes"
        for place in findings.damaged
    ]
    if findings.cut_bytes:
        lines.append(f"cut {findings.cut_bytes} bytes of an unfinished write from the newest pack")
    return lines
