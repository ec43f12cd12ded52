"""Reading local files for a STORE: content and state that belong together, or none.

R1  A file that changes while it is read is read again, and given up as busy: what is handed out was
    the whole content at one moment (G2).
R2  The bytes of a chunk are checked against its digest each time they are read.

How R1 is known: the times of a file are older than the clock's grain before it is read, and the
same after; and nobody had it open for writing in between, because a lease could be had. One who
opens it later moves the times. Where somebody has it open (a write call in the middle, a shared
memory map), it is read twice, some time apart, and must be the same.

RACE: a write call that stands still in the middle for longer than that time, or one into a file of
another user, where no lease can be had, may be taken half done. The next store heals it.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import signal
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.local import OPEN_FILE, Directories, local_error
from syncline.client.walk import Found, Lost, Step, not_regular
from syncline.core.bodies import ChunkBody, Compressor
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.fingerprints import GRAIN_NS
from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import CONTENT_BYTES_MAX, INLINE_BYTES_MAX, Content, single_chunk
from syncline.core.names import escape
from syncline.errors import LocalFailure, SynclineError, TooLarge
from syncline.ports.chunker import Chunked, Chunker

READS_MAX = 4

SECOND_LOOK_S = 0.1
"""Between two readings of a file that somebody has open for writing: far longer than a write call
of a busy machine waits for a processor."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a chunk lies in its file, and which of all chunks it is."""

    offset: int
    size: int
    index: int


class Body:
    """The chunks of one file, from memory or its descriptor; `read_on` may come from any thread.

    `error` is why a read failed; `is_changed` says that reading the file anew may help.
    """

    def __init__(self, local: bytes, chunked: Chunked, held: bytes | None, fd: int | None) -> None:
        self.local = local
        self.held = held
        self.error: SynclineError | None = None
        self.is_changed = False
        self.sent = 0
        self._fd = fd
        self._compressor = Compressor()
        self._pieces = chunked.pieces
        self._places: dict[Digest, _Placed] = {}
        self._order: list[Digest] = []
        offset = 0
        for ref in chunked.refs:
            if ref.digest not in self._places:
                self._places[ref.digest] = _Placed(offset, ref.size, len(self._order))
                self._order.append(ref.digest)
            offset += ref.size

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._places or digest in self._pieces

    def digests(self) -> list[Digest]:
        """Return all that a server may ask for."""
        return [*self._pieces, *self._places]

    def read_on(self, digest: Digest, bytes_max: int) -> list[tuple[Digest, ChunkBody]]:
        """Return a chunk or a piece of the manifest, and the chunks that follow it.

        Chunks are compressed where that pays; pieces are digests, which nothing makes smaller.
        Raises LocalFailure when the one that is asked for is gone (R2).
        """
        if digest in self._pieces:
            return [(digest, self._pieces[digest])]
        first = self._places[digest]
        try:
            chunk = self._read(digest, first)
        except OSError as error:
            self.error = local_error(error, self.local)
            raise self.error from error
        if chunk is None:
            self.is_changed = True
            self.error = busy(self.local)
            raise self.error
        pack = self._compressor.pack
        following = self._read_after(first, bytes_max)
        return [(digest, pack(chunk)), *((each, pack(data)) for each, data in following)]

    def _read_after(self, first: _Placed, bytes_max: int) -> Iterator[tuple[Digest, bytes]]:
        """Yield what follows a chunk, until it is too much or cannot be read: nobody asked yet."""
        size = first.size
        for index in range(first.index + 1, len(self._order)):
            digest = self._order[index]
            placed = self._places[digest]
            size += placed.size
            if size > bytes_max:
                return
            try:
                chunk = self._read(digest, placed)
            except OSError:
                return
            if chunk is None:
                return
            yield digest, chunk

    def _read(self, digest: Digest, placed: _Placed) -> bytes | None:
        """Return a chunk; None where other bytes are in its place now. Raises OSError."""
        if self.held is not None:
            return self.held[placed.offset : placed.offset + placed.size]
        assert self._fd is not None, "a body that was closed is read"
        chunk = os.pread(self._fd, placed.size, placed.offset)
        return chunk if len(chunk) == placed.size and digest_of(chunk) == digest else None

    def close(self) -> None:
        """Let go of the file and of what is held; may be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self.held = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Something local whose state is known: content and body for a file, a target for a link.

    `is_made`: not local at all, but a directory that must be there for others.
    """

    found: Found
    mode: int
    mtime_ns: int
    content: Content | None = None
    target: bytes | None = None
    body: Body | None = None
    is_made: bool = False

    @property
    def size(self) -> int:
        """Return the bytes of content."""
        return self.content.size if self.content else 0

    @property
    def inline(self) -> bytes | None:
        """Return the content where it is small enough to travel inside its change."""
        if self.body is None or self.size > INLINE_BYTES_MAX:
            return None
        return self.body.held

    @property
    def weight(self) -> int:
        """Return about how many bytes this adds to a STORE before its chunks."""
        refs = 40 * len(self.content.refs) if self.content else 0
        return 128 + len(self.inline or b"") + len(self.target or b"") + refs

    def close(self) -> None:
        """Let go of the content."""
        if self.body is not None:
            self.body.close()


def prepare(steps: Sequence[Step], chunker: Chunker) -> list[Ready | Lost]:
    """Read and digest what was found; blocks, for a worker thread."""
    with Directories() as directories:
        return [
            step if isinstance(step, Lost) else _prepare(step, directories, chunker)
            for step in steps
        ]


def _prepare(found: Found, directories: Directories, chunker: Chunker) -> Ready | Lost:
    try:
        match found.kind:
            case Kind.DIRECTORY:
                return Ready(found, found.mode, 0)
            case Kind.LINK:
                directory = directories.open(found.base, found.parts[:-1])
                target = os.readlink(found.parts[-1], dir_fd=directory)
                return Ready(found, found.mode, found.mtime_ns, target=target)
            case Kind.FILE:
                directory = directories.open(found.base, found.parts[:-1])
                fd = os.open(found.parts[-1], OPEN_FILE, dir_fd=directory)
                return _read_file(found, fd, chunker)
    except OSError as error:
        if error.errno == errno.ENXIO:
            # A socket or a device without a driver took the file's place.
            return Lost(found.local, found.remote, not_regular(found.local))
        return Lost(found.local, found.remote, local_error(error, found.local))
    except SynclineError as error:
        return Lost(found.local, found.remote, error)


def _read_file(found: Found, fd: int, chunker: Chunker) -> Ready:
    """Read from `fd`, which is closed here or belongs to the body afterwards (R1)."""
    body: Body | None = None
    try:
        for _ in range(READS_MAX):
            before = _settled(fd, found.local)
            if before is None:
                continue
            is_held = before.st_size <= SMALL_BYTES_MAX
            is_open = _is_open_for_writing(fd)
            held = _read_whole(fd, before.st_size) if is_held else None
            chunked = _chunk(fd, held, chunker)
            if is_open and not _is_read_again(fd, chunked.content.digest):
                continue
            if chunked.content.size == before.st_size and _is_same(before, os.fstat(fd)):
                body = Body(found.local, chunked, held, None if is_held else fd)
                mode = before.st_mode & MODE_MASK
                return Ready(found, mode, before.st_mtime_ns, chunked.content, body=body)
        raise busy(found.local)
    finally:
        if body is None or body.held is not None:
            os.close(fd)


def _settled(fd: int, local: bytes) -> os.stat_result | None:
    """Return the state of a file whose times are older than the clock's grain.

    None where it was changed again while it was to grow older.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise not_regular(local)
    if status.st_size > CONTENT_BYTES_MAX:
        raise TooLarge(
            f"'{escape(local)}' has more than {CONTENT_BYTES_MAX} bytes",
            local=escape(local),
            limit=str(CONTENT_BYTES_MAX),
        )
    age_ns = _age_ns(status)
    if not 0 <= age_ns < GRAIN_NS:
        return status
    time.sleep((GRAIN_NS - age_ns) / 1e9)
    status = os.fstat(fd)
    return None if 0 <= _age_ns(status) < GRAIN_NS else status


def _is_open_for_writing(fd: int) -> bool:
    """Tell whether somebody has a file open for writing; False too where that cannot be known."""
    try:
        # The signal of a broken lease would end the process; this one is ignored by default.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_read_again(fd: int, digest: Digest) -> bool:
    """Tell whether a second reading, some time later, gives the same content."""
    time.sleep(SECOND_LOOK_S)
    hasher = blake3()
    offset = 0
    while piece := os.pread(fd, SMALL_BYTES_MAX, offset):
        hasher.update(piece)
        offset += len(piece)
    return Digest(hasher.digest()) == digest


def _age_ns(status: os.stat_result) -> int:
    """Return how long ago a file changed; negative after the clock was set back."""
    return time.time_ns() - status.st_ctime_ns


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    return (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )


def _read_whole(fd: int, size: int) -> bytes:
    """Read `size` bytes and one more, so that a file that grew shows."""
    content = os.pread(fd, size + 1, 0)
    if len(content) >= size or not content:
        return content
    pieces = [content]
    offset = len(content)
    while offset <= size and (piece := os.pread(fd, size + 1 - offset, offset)):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def _chunk(fd: int, held: bytes | None, chunker: Chunker) -> Chunked:
    if held is not None:
        if len(held) <= INLINE_BYTES_MAX:
            content = single_chunk(digest_of(held), len(held))
            return Chunked(content, {}, content.refs)
        return chunker.chunk(io.BytesIO(held).read)
    offset = 0

    def read(size: int) -> bytes:
        nonlocal offset
        piece = os.pread(fd, size, offset)
        offset += len(piece)
        return piece

    return chunker.chunk(read)


def busy(local: bytes) -> LocalFailure:
    """Return the error for a file that does not hold still."""
    return LocalFailure(
        f"'{escape(local)}' changed each time it was read; store it when it is quiet",
        local=escape(local),
        reason="busy",
    )
