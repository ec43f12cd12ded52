"""LIST and STAT: what is at a path, at the head or at any past revision.

The revision is pinned when the call begins; pages are read in sessions of their own, so a listing
of any length holds no transaction and no memory but its stack of directories.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from syncline.core.entries import Entry, Kind
from syncline.core.identity import ROOT_ID, Digest, EntryId, Revision
from syncline.core.manifests import Content, decode_piece
from syncline.core.names import Name, RelPath
from syncline.core.table import resolve
from syncline.errors import Corrupt, NotFound
from syncline.ports.link import Located
from syncline.ports.metadata import TableReader
from syncline.server.chunk_index import ChunkIndex
from syncline.server.volume import ServedVolume

PAGE_ENTRIES = 256
"""Small, because an entry with the longest manifest takes some 200 KiB of memory."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a listing, and the revision that all of it is of."""

    revision: Revision
    entries: Sequence[Located]


@dataclass(slots=True)
class _Open:
    """A directory whose children are being listed: those read and not yet told, newest last."""

    id: EntryId
    path: RelPath
    waiting: list[Entry] = field(default_factory=list)
    after: Name | None = None
    is_read: bool = False

    def next(self, reader: TableReader) -> Entry | None:
        """Return the next child; None at the end."""
        if not self.waiting and not self.is_read:
            children = reader.children_after(self.id, self.after, PAGE_ENTRIES)
            self.is_read = len(children) < PAGE_ENTRIES
            self.waiting = list(reversed(children))
        if not self.waiting:
            return None
        self.after = self.waiting[-1].name
        return self.waiting.pop()


class Describer:
    """Adds path, author, time and damage to entries of one session; looks each commit up once."""

    def __init__(self, reader: TableReader, chunks: ChunkIndex) -> None:
        self._reader = reader
        self._chunks = chunks
        self._signatures: dict[Revision, tuple[str, int]] = {}

    def describe(self, found: Sequence[tuple[RelPath, Entry]]) -> list[Located]:
        """Return entries with their paths, who made these states when, and whether one is damaged.

        The pieces of long manifests are read only in a volume that has something damaged.
        """
        damaged = self._find_damaged([entry for _, entry in found])
        return [
            Located(path, entry, *self._signature(entry.revision), entry.digest in damaged)
            for path, entry in found
        ]

    def _signature(self, revision: Revision) -> tuple[str, int]:
        signature = self._signatures.get(revision)
        if signature is None:
            signature = self._reader.signature(revision)
            assert signature is not None, "an entry has a revision that was never committed"
            self._signatures[revision] = signature
        return signature

    def _find_damaged(self, entries: Sequence[Entry]) -> set[Digest]:
        """Return the digests of contents that lack a chunk."""
        if not self._reader.has_damaged():
            return set()
        contents = [entry.content for entry in entries if entry.content is not None]
        bad = self._reader.damaged(ref.digest for content in contents for ref in content.refs)
        return {
            content.digest
            for content in contents
            if any(ref.digest in bad for ref in content.refs)
            or (content.depth and self._is_damaged_below(content))
        }

    def _is_damaged_below(self, content: Content) -> bool:
        for piece in content.refs:
            try:
                refs = decode_piece(self._chunks.read(piece.digest))
            except (Corrupt, NotFound):
                return True
            if self._reader.damaged(ref.digest for ref in refs):
                return True
        return False


async def listing(
    volume: ServedVolume, path: RelPath, *, is_recursive: bool, at: Revision | None
) -> AsyncGenerator[Page, None]:
    """Yield pages of what is below a directory, parents first; a file or link is its own listing.

    Raises NotFound for a path or revision that is not there. There is at least one page.
    """
    revision = pinned(volume, at)
    stack, first = await volume.workers.run(_start, volume, path, revision)
    yield Page(revision, first)
    while stack:
        entries = await volume.workers.run(_page, volume, revision, stack, is_recursive)
        if entries:
            yield Page(revision, entries)


def pinned(volume: ServedVolume, at: Revision | None) -> Revision:
    """Return the revision a call reads; raise NotFound for one that is not in the history."""
    head = volume.feed.head.revision
    if at is None:
        return head
    if not volume.facts.oldest <= at <= head:
        raise NotFound(
            f"revision {at} is not there; the volume has {volume.facts.oldest} to {head}",
            revision=str(at),
            head=str(head),
            what="revision",
        )
    return at


def _start(
    volume: ServedVolume, path: RelPath, at: Revision
) -> tuple[list[_Open], Sequence[Located]]:
    if not path.parts:
        return [_Open(ROOT_ID, path)], []
    with volume.metadata.read(volume.id, at) as reader:
        entry = resolve(reader, path)
        if entry is None:
            raise NotFound(
                f"there is no '{path}' at revision {at}", path=str(path), revision=str(at)
            )
        if entry.kind is Kind.DIRECTORY:
            return [_Open(entry.id, path)], []
        return [], Describer(reader, volume.chunks).describe([(path, entry)])


def _page(
    volume: ServedVolume, at: Revision, stack: list[_Open], is_recursive: bool
) -> list[Located]:
    """Return the next entries and move the stack on: depth first, names in order of bytes."""
    page: list[tuple[RelPath, Entry]] = []
    with volume.metadata.read(volume.id, at) as reader:
        while stack and len(page) < PAGE_ENTRIES:
            child = stack[-1].next(reader)
            if child is None:
                stack.pop()
                continue
            path = stack[-1].path.child(child.name)
            page.append((path, child))
            if is_recursive and child.kind is Kind.DIRECTORY:
                stack.append(_Open(child.id, path))
        return Describer(reader, volume.chunks).describe(page)


async def stat(
    volume: ServedVolume, paths: Sequence[RelPath], at: Revision | None
) -> tuple[Revision, Sequence[Located | None]]:
    """Return the revision read and what is at each path; None for nothing and for the root."""
    revision = pinned(volume, at)
    return revision, await volume.workers.run(_stat, volume, paths, revision)


def _stat(volume: ServedVolume, paths: Sequence[RelPath], at: Revision) -> list[Located | None]:
    with volume.metadata.read(volume.id, at) as reader:
        found = [(path, resolve(reader, path)) for path in paths]
        live = [(path, entry) for path, entry in found if entry is not None]
        described = iter(Describer(reader, volume.chunks).describe(live))
        return [None if entry is None else next(described) for _, entry in found]
