"""Reading every chunk again, and naming each path and revision whose content is not whole.

Model: first the packs are read through the index, which finds wrong bytes; then the history is
walked, which finds what lies in no pack that is there. What is found is marked damaged, so that
clients learn of it and the next STORE of that content fills it. Nothing else is changed, and
nothing held but the digests of what is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from syncline.core.entries import Entry
from syncline.core.identity import NO_REVISION, Digest, Revision
from syncline.core.manifests import ChunkRef, Content, decode_piece
from syncline.core.table import path_of
from syncline.errors import Corrupt
from syncline.ports.chunks import ChunkStore, Location
from syncline.ports.metadata import MetadataStore, TableReader, Volume

COMMITS_AT_ONCE = 64

NOWHERE = 0
"""The pack of a chunk that no index row answered for; packs are numbered from 1."""


def verify_chunks(metadata: MetadataStore, volume: Volume, chunks: ChunkStore) -> Iterator[str]:
    """Yield a sentence for each damaged chunk, then one for each state of a file that lacks one.

    What a sentence names is marked damaged before it is yielded. No server may have the volume.
    """
    walk = _Walk(metadata, volume, chunks, frozenset(chunks.packs()))
    yield from walk.read_packs()
    yield from walk.read_history()


@dataclass(slots=True)
class _Walk:
    metadata: MetadataStore
    volume: Volume
    chunks: ChunkStore
    packs: frozenset[int]
    damaged: set[Digest] = field(default_factory=set)
    marks: dict[Digest, Location] = field(default_factory=dict)
    """What is to be marked when no read session is open any more."""

    def read_packs(self) -> Iterator[str]:
        """Read each chunk that the index knows."""
        for pack in sorted(self.packs):
            told = []
            for digest, location in self.metadata.located(self.volume.id, pack):
                try:
                    self.chunks.read(digest, location)
                except Corrupt as error:
                    self.damaged.add(digest)
                    self.marks[digest] = location
                    told.append(f"{_named(digest, error.message)}; it is marked damaged")
            self._mark()
            yield from told

    def read_history(self) -> Iterator[str]:
        """Look at the content of each state of each file."""
        position = NO_REVISION
        while True:
            with self.metadata.read(self.volume.id) as reader:
                commits = reader.commits_after(position, COMMITS_AT_ONCE)
            if not commits:
                return
            for commit in commits:
                with self.metadata.read(self.volume.id, commit.revision) as reader:
                    told = [
                        line for entry in commit.entries for line in self._verify(reader, entry)
                    ]
                self._mark()
                yield from told
            position = Revision(commits[-1].revision)

    def _mark(self) -> None:
        if self.marks:
            with self.metadata.write(self.volume.id) as session:
                # A row for what has none: now there is something to tell clients by.
                session.add_chunks(
                    {digest: at for digest, at in self.marks.items() if at.pack == NOWHERE}
                )
                session.mark_damaged(self.marks)
        self.marks = {}

    def _verify(self, reader: TableReader, entry: Entry) -> Iterator[str]:
        if entry.content is None:
            return
        lacking = self._lacking(reader, entry.content)
        if lacking:
            yield (
                f"'{path_of(reader, entry)}' at revision {entry.revision} lacks {len(lacking)} "
                f"of its chunks, the first is {lacking[0].hex()}; store a file with this content "
                "again to repair it"
            )

    def _lacking(self, reader: TableReader, content: Content) -> list[Digest]:
        lacking = self._absent(reader, content.refs)
        if lacking or content.depth == 0:
            return lacking
        located = reader.locate(ref.digest for ref in content.refs)
        for piece in content.refs:
            refs = decode_piece(self.chunks.read(piece.digest, located[piece.digest]))
            lacking += self._absent(reader, refs)
        return lacking

    def _absent(self, reader: TableReader, refs: Iterable[ChunkRef]) -> list[Digest]:
        """Return the chunks that are damaged, in a pack that is gone, or not in the index."""
        refs = list(refs)
        located = reader.locate(ref.digest for ref in refs)
        marked = reader.damaged(ref.digest for ref in refs if ref.digest not in located)
        absent = []
        for ref in refs:
            location = located.get(ref.digest, Location(NOWHERE, 0, ref.size))
            if ref.digest not in self.damaged and location.pack in self.packs:
                continue
            absent.append(ref.digest)
            if ref.digest not in marked and ref.digest not in self.damaged:
                self.marks[ref.digest] = location
        return absent


def _named(digest: Digest, reason: str) -> str:
    """Return a reason that names the chunk, as those of a chunk store do already."""
    return reason if digest.hex() in reason else f"chunk {digest.hex()}: {reason}"
