"""Reading every chunk again, and naming each path and revision whose content is not whole.

Model: first the packs are read through the index, which finds wrong bytes; then the history is
walked, which finds what no index row answers for. Nothing is changed, nothing held but the digests
of what is damaged.
"""

from __future__ import annotations

from collections.abc import Iterator

from syncline.core.entries import Entry
from syncline.core.identity import NO_REVISION, Digest, Revision
from syncline.core.manifests import ChunkRef, Content, decode_piece
from syncline.core.table import path_of
from syncline.errors import Corrupt
from syncline.ports.chunks import ChunkStore
from syncline.ports.metadata import MetadataStore, TableReader, Volume

COMMITS_AT_ONCE = 64


def verify_chunks(metadata: MetadataStore, volume: Volume, chunks: ChunkStore) -> Iterator[str]:
    """Yield a sentence for each damaged chunk, then one for each state of a file that lacks one."""
    damaged: set[Digest] = set()
    for pack in chunks.packs():
        for digest, location in metadata.located(volume.id, pack):
            try:
                chunks.read(digest, location)
            except Corrupt as error:
                damaged.add(digest)
                yield f"chunk {digest.hex()}: {error.message}"
    position = NO_REVISION
    while True:
        with metadata.read(volume.id) as reader:
            commits = reader.commits_after(position, COMMITS_AT_ONCE)
        if not commits:
            return
        for commit in commits:
            with metadata.read(volume.id, commit.revision) as reader:
                for entry in commit.entries:
                    yield from _verify_entry(reader, chunks, entry, damaged)
        position = Revision(commits[-1].revision)


def _verify_entry(
    reader: TableReader, chunks: ChunkStore, entry: Entry, damaged: set[Digest]
) -> Iterator[str]:
    if entry.content is None:
        return
    lacking = _lacking(reader, chunks, entry.content, damaged)
    if lacking:
        yield (
            f"'{path_of(reader, entry)}' at revision {entry.revision} lacks {len(lacking)} "
            f"of its chunks, the first is {lacking[0].hex()}; store the file again to repair it"
        )


def _lacking(
    reader: TableReader, chunks: ChunkStore, content: Content, damaged: set[Digest]
) -> list[Digest]:
    lacking = _absent(reader, content.refs, damaged)
    if lacking or content.depth == 0:
        return lacking
    located = reader.locate(ref.digest for ref in content.refs)
    for piece in content.refs:
        refs = decode_piece(chunks.read(piece.digest, located[piece.digest]))
        lacking += _absent(reader, refs, damaged)
    return lacking


def _absent(reader: TableReader, refs: tuple[ChunkRef, ...], damaged: set[Digest]) -> list[Digest]:
    located = reader.locate(ref.digest for ref in refs)
    return [ref.digest for ref in refs if ref.digest not in located or ref.digest in damaged]
