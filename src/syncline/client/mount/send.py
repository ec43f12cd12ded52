"""Sending a batch: one STORE, with small content inside it and large content on request.

What is sent is what local said when the plan was made, or nothing: the bytes of each file are
checked against the digest of its change, each time they are read (G2). A file that does not hold
them any more ends the STORE; the engine looks at it again and plans anew.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from syncline.client.assembling import unfold
from syncline.client.local import local_error
from syncline.client.mount.batching import Batch
from syncline.client.mount.contents import Contents
from syncline.client.mount.growing import Guarded, chunk_file
from syncline.client.mount.handles import Handles
from syncline.client.mount.mounted_file import MountedFile
from syncline.client.reading_ahead import ReadAhead
from syncline.core.bodies import ChunkBody, Compressor, plain_size
from syncline.core.changes import Answer, Author, Delete, HeldToken, Proposal, PutFile
from syncline.core.identity import Digest, EntryId, OpId, digest_of
from syncline.core.manifests import INLINE_BYTES_MAX, ChunkRef
from syncline.core.names import escape
from syncline.errors import LocalFailure, ProtocolBroken
from syncline.ports.chunker import Chunker
from syncline.ports.executor import Executor
from syncline.ports.files import Directory, File
from syncline.ports.link import Link

_ANOTHER_THING = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ESTALE}
)
"""What opening says of a path where the file is not any more; EINVAL: a FIFO or the like is."""

Progress = Callable[[int], None]
"""Told how many bytes more of the batch's content are at the server."""


class FileChanged(LocalFailure):
    """Files of the mount do not hold what was to be sent; `ids` are their entries.

    They are to be read again whatever their fingerprints say.
    """

    def __init__(self, message: str, ids: tuple[EntryId, ...] = (), **fields: str) -> None:
        super().__init__(message, **fields)
        self.ids = ids


class FileUnread(LocalFailure):
    """Files of the mount cannot be read; `ids` are their entries."""

    def __init__(self, message: str, ids: tuple[EntryId, ...] = (), **fields: str) -> None:
        super().__init__(message, **fields)
        self.ids = ids


class Sender:
    """Sends batches for one mount; several may be under way at once."""

    def __init__(
        self,
        link: Link,
        author: Author,
        chunker: Chunker,
        contents: Contents,
        root: Directory,
        reads: Executor,
        wait_s: float,
    ) -> None:
        self._link = link
        self._author = author
        self._chunker = chunker
        self._contents = contents
        self._root = root
        self._reads = reads
        self._wait_s = wait_s

    async def send(
        self,
        batch: Batch,
        op_id: OpId,
        files: Mapping[EntryId, MountedFile],
        *,
        is_confirmed: bool,
        progress: Progress,
        tokens: tuple[HeldToken, ...] = (),
    ) -> Answer:
        """Carry a batch to the server; return its answer, an outcome for each change.

        `files`: where the content of an entry is, unless it is in memory or at the server already.
        `tokens`: the locks of this mount that it is changed under.
        The same batch with the same `op_id` may be sent again after Unavailable or TimedOut.

        Raises FileChanged or FileUnread about files of the mount, ProtocolBroken, and the link's
        errors. No file is open afterwards, but for a moment when it was cancelled.
        """
        puts = [change for change in batch.changes if isinstance(change, PutFile)]
        sources = _Sources(puts, files, self._root, self._contents, self._chunker)
        ahead = ReadAhead(self._reads, sources.read_on)
        left = sum(put.content.size for put in puts)

        async def source(digest: Digest) -> ChunkBody:
            nonlocal left
            chunk = await ahead.get(digest)
            told = min(plain_size(chunk), left)
            left -= told
            progress(told)
            return chunk

        try:
            if sources.has_unread:
                await self._reads.run(sources.read_inline)
            proposal = Proposal(
                self._author,
                op_id,
                batch.changes,
                sources.inline,
                is_atomic=batch.is_atomic,
                is_confirmed=is_confirmed,
                wait_s=self._wait_s,
                tokens=tokens,
            )
            if all(isinstance(change, Delete) for change in batch.changes):
                answer = await self._link.delete(proposal)
            else:
                answer = await self._link.store(proposal, source)
        finally:
            sources.close()
        if len(answer.outcomes) != len(batch.changes):
            raise ProtocolBroken("the server answered for another number of changes")
        progress(left)
        return answer


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a chunk is: in the content of a change, and by `index` in the order of them all."""

    put: PutFile
    offset: int
    size: int
    index: int


class _Sources:
    """The content of a batch's files; its calls block and come one at a time.

    One file is open at a time: a server asks for the chunks of one content after the other.
    """

    def __init__(
        self,
        puts: Sequence[PutFile],
        files: Mapping[EntryId, MountedFile],
        root: Directory,
        contents: Contents,
        chunker: Chunker,
    ) -> None:
        self._files = files
        self._root = root
        self._contents = contents
        self._chunker = chunker
        self._handles = Handles()
        self._open: tuple[EntryId, File] | None = None
        self._places: dict[Digest, _Placed] = {}
        self._order: list[Digest] = []
        self._pieces: dict[Digest, bytes] = {}
        self.inline: dict[Digest, bytes] = {}
        self._unread: list[PutFile] = []
        self._compressed: EntryId | None = None
        self._compressor = Compressor()
        self._folded = [put for put in puts if put.content.depth]
        for put in puts:
            if not put.content.depth:
                self._lay_out(put, put.content.refs)
            if put.content.size <= INLINE_BYTES_MAX:
                held = contents.get(put.content.digest)
                if held is not None:
                    self.inline[put.content.digest] = held
                elif put.id in files:
                    self._unread.append(put)

    def _lay_out(self, put: PutFile, refs: Sequence[ChunkRef]) -> None:
        offset = 0
        for ref in refs:
            if ref.digest not in self._places:
                self._places[ref.digest] = _Placed(put, offset, ref.size, len(self._order))
                self._order.append(ref.digest)
            offset += ref.size

    @property
    def has_unread(self) -> bool:
        """Tell whether small contents are to be read before the proposal is whole.

        One whose file is not known is not among them: the server has it, or asks.
        """
        return bool(self._unread)

    def read_inline(self) -> None:
        """Read the small contents that travel inside their changes and are not in memory.

        Raises FileChanged and FileUnread, which name all the files they are about.
        """
        changed: list[FileChanged] = []
        unread: list[FileUnread] = []
        with self._handles.work():
            for put in self._unread:
                self._handles.check()
                digest = put.content.digest
                if digest in self.inline:
                    continue
                try:
                    self.inline[digest] = self._read(put, digest, 0, put.content.size)
                except FileChanged as error:
                    changed.append(error)
                except FileUnread as error:
                    unread.append(error)
                else:
                    self._contents.put(digest, self.inline[digest])
        if changed:
            raise FileChanged(changed[0].message, _ids(changed), **changed[0].fields)
        if unread:
            raise FileUnread(unread[0].message, _ids(unread), **unread[0].fields)

    def read_on(self, digest: Digest, bytes_max: int) -> list[tuple[Digest, ChunkBody]]:
        """Return a chunk, or a piece of a manifest, that the server lacks, and what comes after it.

        Chunks are compressed where that pays; pieces are digests, which nothing makes smaller.

        Raises FileChanged, FileUnread, and ProtocolBroken for what no change of the batch names.
        """
        with self._handles.work():
            while digest not in self._pieces and digest not in self._places and self._folded:
                self._unfold(self._folded.pop(0))
            if digest in self._pieces:
                return [(digest, self._pieces[digest])]
            if digest not in self._places:
                raise ProtocolBroken(f"the server asks for chunk {digest.hex()}, which is not sent")
            first = self._places[digest]
            found = [(digest, self._pack(first, self._read_placed(digest, first)))]
            size = first.size
            for index in range(first.index + 1, len(self._order)):
                following = self._order[index]
                placed = self._places[following]
                size += placed.size
                if size > bytes_max or placed.put is not first.put:
                    break
                try:
                    chunk = self._read_placed(following, placed)
                except (FileChanged, FileUnread):
                    # Nobody asked for it: whoever does is told then.
                    break
                found.append((following, self._pack(placed, chunk)))
            return found

    def _pack(self, placed: _Placed, chunk: bytes) -> ChunkBody:
        """Return a chunk as it travels; what did not pay in one file says nothing of the next."""
        if self._compressed != placed.put.id:
            self._compressed, self._compressor = placed.put.id, Compressor()
        return self._compressor.pack(chunk)

    def _read_placed(self, digest: Digest, placed: _Placed) -> bytes:
        held = self._contents.get(placed.put.content.digest)
        if held is not None:
            return held[placed.offset : placed.offset + placed.size]
        return self._read(placed.put, digest, placed.offset, placed.size)

    def _unfold(self, put: PutFile) -> None:
        """Learn what the pieces of a manifest are: from memory, or by cutting the file again."""
        content = put.content
        pieces = self._contents.get_pieces(content)
        if pieces is not None:
            self._pieces.update(zip((ref.digest for ref in content.refs), pieces, strict=True))
            self._lay_out(put, unfold(content, pieces))
            return
        with self._reading(put):
            file = Guarded(self._file(put), self._handles)
            chunked = chunk_file(self._chunker, file)
        if chunked.content != content:
            # Cut otherwise it is of no use either: a new reading gives a manifest of our own.
            raise self._changed(put)
        self._contents.put_pieces(chunked.pieces)
        self._pieces.update(chunked.pieces)
        self._lay_out(put, chunked.refs)

    def _read(self, put: PutFile, digest: Digest, offset: int, size: int) -> bytes:
        with self._reading(put):
            chunk = self._file(put).read(size, offset)
        if len(chunk) != size or digest_of(chunk) != digest:
            raise self._changed(put)
        return chunk

    def _file(self, put: PutFile) -> File:
        """Return the file of a change, open; the one before it is closed. Raises OSError."""
        if self._open is not None:
            id, file = self._open
            if id == put.id:
                return file
            self._open = None
            self._handles.drop(file)
        if put.id not in self._files:
            raise self._changed(put)
        file = self._handles.keep(self._files[put.id].open(self._root))
        self._open = (put.id, file)
        return file

    @contextmanager
    def _reading(self, put: PutFile) -> Iterator[None]:
        """Raise what an OSError means for the file of a change."""
        try:
            yield
        except OSError as error:
            if error.errno in _ANOTHER_THING:
                raise self._changed(put) from error
            local = local_error(error, self._path(put))
            raise FileUnread(local.message, (put.id,), **local.fields) from error

    def _changed(self, put: PutFile) -> FileChanged:
        text = f"'{escape(self._path(put))}' changed before it was sent"
        return FileChanged(text, (put.id,), reason="changed")

    def _path(self, put: PutFile) -> bytes:
        file = self._files.get(put.id)
        return bytes(file.path) if file is not None else put.name

    def close(self) -> None:
        """Close what is open; never waits."""
        self._handles.close()


def _ids(errors: Sequence[FileChanged] | Sequence[FileUnread]) -> tuple[EntryId, ...]:
    return tuple(id for error in errors for id in error.ids)
