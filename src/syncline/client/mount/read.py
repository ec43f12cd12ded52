"""Reading a file of the mount: content and state that were there together, or none.

R1  What is handed out was the whole content at one moment (G2). A lease tells: nobody had the file
    open for writing when it was taken, nor since. Where somebody has, two readings some time apart
    must be the same. Where no lease can be had, the times must be older than the clock's grain, and
    the same after.
R2  The file is opened by way of the directories that local speaks of, or not at all (G9).
R3  Nothing waits here: a file that is not ready is `Busy`, with the time of the next attempt.

RACE: where somebody has the file open, a write call that stands still in the middle for longer than
`SECOND_LOOK_S` may be taken half done; so may one into a file of another user, where no lease can
be had. The watcher tells of its end, and the next reading heals it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.mounted_file import MountedFile, Way
from syncline.client.reading import SECOND_LOOK_S
from syncline.core.entries import MTIME_NS_MAX, MTIME_NS_MIN
from syncline.core.fingerprints import GRAIN_NS, Fingerprint
from syncline.core.identity import Digest, EntryId, digest_of
from syncline.core.manifests import (
    CONTENT_BYTES_MAX,
    INLINE_BYTES_MAX,
    Content,
    single_chunk,
)
from syncline.core.names import RelPath
from syncline.core.trees import Place
from syncline.errors import TooLarge
from syncline.ports.chunker import Chunked, Chunker
from syncline.ports.clock import Clock
from syncline.ports.files import File, Status, Writers

STEP_BYTES = 1024 * 1024
"""How much of a large file is read between two looks at the lease: a writer waits that long."""

GRAIN_S = GRAIN_NS / 1e9

CHANGING_LOOK_S = 1.0
"""The same after two readings that differed: a log, which is not read over and over."""

READ_BYTES_PER_S = 64 * 1024 * 1024
"""A large file that changes is read again after as many seconds as this makes of its size."""

NOT_THERE = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EISDIR, errno.EINVAL}
)
"""What says that a path is not, or not any more, that of the thing which was looked for."""


@dataclass(frozen=True, slots=True)
class Glimpse:
    """What a reading of a file gave that somebody had open for writing, and when it ended."""

    digest: Digest
    size: int
    mtime_ns: int
    ctime_ns: int
    at_s: float

    def is_same(self, other: Glimpse) -> bool:
        """Tell whether nothing changed from one reading to the next."""
        return (self.digest, self.size, self.mtime_ns, self.ctime_ns) == (
            other.digest,
            other.size,
            other.mtime_ns,
            other.ctime_ns,
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """A file that is to be read: a new one (`is_new`, with a fresh id), or a known one.

    `size` is what it had when it was looked at; `earlier` what the last reading gave, if somebody
    had it open for writing.
    """

    id: EntryId
    place: Place
    file: MountedFile
    size: int
    is_new: bool
    earlier: Glimpse | None = None

    @property
    def path(self) -> RelPath:
        """Return the path for people."""
        return self.file.path


@dataclass(frozen=True, slots=True)
class Read:
    """A file that was read; `held` is its content where that is small."""

    reading: Reading
    chunked: Chunked
    status: Status
    fingerprint: Fingerprint
    held: bytes | None

    @property
    def content(self) -> Content:
        """Return the content."""
        return self.chunked.content


@dataclass(frozen=True, slots=True)
class Busy:
    """It changes, or may: it is to be read again in so many seconds."""

    reading: Reading
    in_s: float
    glimpse: Glimpse | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The path is not that of a file any more."""

    reading: Reading


@dataclass(frozen=True, slots=True)
class Failed:
    """It cannot be read; `error` is an errno, `detail` is for people."""

    reading: Reading
    error: int
    detail: str


ReadResult = Read | Busy | Gone | Failed


class _Disturbed(Exception):
    """A writer came, or the file is not as it was."""


def read(
    way: Way,
    reading: Reading,
    chunker: Chunker,
    clock: Clock,
    is_stopping: Callable[[], bool] = lambda: False,
) -> ReadResult:
    """Read a file by its way from the root (R2); blocks.

    Where `is_stopping` says so it ends early, as if the file were changing.
    """
    try:
        file = way.open(reading.file)
    except OSError as error:
        return _refused(reading, error)
    try:
        return _read(file, reading, chunker, clock, is_stopping)
    except OSError as error:
        return _refused(reading, error)
    except TooLarge as error:
        return Failed(reading, errno.EFBIG, error.message)
    except _Disturbed:
        return Busy(reading, SECOND_LOOK_S)
    finally:
        file.close()


def _refused(reading: Reading, error: OSError) -> Gone | Failed:
    if error.errno in NOT_THERE:
        return Gone(reading)
    return Failed(reading, error.errno or errno.EIO, error.strerror or str(error))


def _read(
    file: File, reading: Reading, chunker: Chunker, clock: Clock, is_stopping: Callable[[], bool]
) -> ReadResult:
    began_ns, began_s = clock.wall_ns(), clock.monotonic_s()
    writers = file.hold()
    try:
        before = file.status()
        age_ns = began_ns - before.ctime_ns
        is_young = is_within_grain(age_ns)
        if before.size > CONTENT_BYTES_MAX:
            raise TooLarge(f"a file may have at most {CONTENT_BYTES_MAX} bytes")
        is_large = before.size > SMALL_BYTES_MAX
        if is_young and (is_large or writers is Writers.UNKNOWN):
            # A large file is not read twice only because its fingerprint would be provisional.
            return Busy(reading, (GRAIN_NS - age_ns) / 1e9)
        is_guarded = writers is Writers.NONE
        if is_large:
            stream = _Stream(file, before, is_stopping, is_guarded=is_guarded)
            held, chunked = None, chunker.chunk(stream.read)
        else:
            held = _read_small(file, before.size)
            chunked = _chunk_small(held, chunker)
        born_ns = file.born_ns()
        _check_still(file, before, chunked.content.size, is_guarded=is_guarded)
    finally:
        file.release()
    if writers is Writers.SOME:
        busy = _compare(reading, before, chunked.content, began_s, clock)
        if busy is not None:
            # Who closed it while it was read was noticed before this: nobody tells of it again.
            return Busy(reading, 0.0) if _is_free(file) else busy
    fingerprint = fingerprint_of(before, born_ns, is_provisional=is_young)
    return Read(reading, chunked, before, fingerprint, held)


def _check_still(file: File, before: Status, size: int, *, is_guarded: bool) -> None:
    """Raise _Disturbed unless what was read is what was there all the time (R1)."""
    is_same = _is_same(before, file.status())
    if size != before.size or not is_same or (is_guarded and not file.is_held()):
        raise _Disturbed


def _is_same(before: Status, after: Status) -> bool:
    return (before.size, before.mode, before.mtime_ns, before.ctime_ns) == (
        after.size,
        after.mode,
        after.mtime_ns,
        after.ctime_ns,
    )


def _is_free(file: File) -> bool:
    """Tell whether nobody has a file open for writing now."""
    try:
        return file.hold() is Writers.NONE
    finally:
        file.release()


def _compare(
    reading: Reading, status: Status, content: Content, began_s: float, clock: Clock
) -> Busy | None:
    """Return when to read again; None where the earlier reading gave the same (R1)."""
    now = Glimpse(
        content.digest, status.size, status.mtime_ns, status.ctime_ns, clock.monotonic_s()
    )
    earlier = reading.earlier
    if earlier is None:
        return Busy(reading, SECOND_LOOK_S, now)
    if not earlier.is_same(now):
        return Busy(reading, max(CHANGING_LOOK_S, status.size / READ_BYTES_PER_S), now)
    left_s = earlier.at_s + SECOND_LOOK_S - began_s
    if left_s > 0:
        return Busy(reading, left_s, replace(now, at_s=earlier.at_s))
    return None


class _Stream:
    """Reads a large file from its start, and stops when a writer waits for it, or writes.

    What is being copied into the mount would else be read to an end that counts for nothing, while
    it is quiet and could be read for good.
    """

    def __init__(
        self, file: File, before: Status, is_stopping: Callable[[], bool], *, is_guarded: bool
    ) -> None:
        self._file = file
        self._before = before
        self._is_stopping = is_stopping
        self._is_guarded = is_guarded
        self._offset = 0

    def read(self, size: int) -> bytes:
        is_left_alone = self._file.is_held() if self._is_guarded else self._is_as_before()
        if self._is_stopping() or not is_left_alone:
            raise _Disturbed
        piece = self._file.read(min(size, STEP_BYTES), self._offset)
        self._offset += len(piece)
        return piece

    def _is_as_before(self) -> bool:
        return _is_same(self._before, self._file.status())


def _read_small(file: File, size: int) -> bytes:
    """Read one byte more than there should be, so that a file that grew shows."""
    return file.read(size + 1, 0)


def _chunk_small(held: bytes, chunker: Chunker) -> Chunked:
    if len(held) <= INLINE_BYTES_MAX:
        content = single_chunk(digest_of(held), len(held))
        return Chunked(content, {}, content.refs)
    return chunk_bytes(held, chunker)


def chunk_bytes(held: bytes, chunker: Chunker) -> Chunked:
    """Return the chunks of content that is in memory."""
    offset = 0

    def take(size: int) -> bytes:
        nonlocal offset
        piece = held[offset : offset + size]
        offset += len(piece)
        return piece

    return chunker.chunk(take)


def is_within_grain(age_ns: int) -> bool:
    """Tell whether a time is so young that a later change could leave the same one.

    After a clock was set back all times lie in the future and count as old.
    """
    return 0 <= age_ns < GRAIN_NS


def fingerprint_of(status: Status, born_ns: int, *, is_provisional: bool) -> Fingerprint:
    """Return the fingerprint that a status makes."""
    return Fingerprint(
        status.inode, born_ns, status.size, status.mtime_ns, status.ctime_ns, is_provisional
    )


def mtime_of(status: Status) -> int:
    """Return the mtime that an entry can have, in ns."""
    return min(max(status.mtime_ns, MTIME_NS_MIN), MTIME_NS_MAX)
