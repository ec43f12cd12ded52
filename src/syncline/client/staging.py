"""Staging a large file: chunk after chunk, from what is there already and from the server.

A staged file keeps its name over interruptions. What it holds is believed only chunk by chunk after
a look at the digests; an older version of the file at its place gives chunks too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from blake3 import blake3

from syncline.client.local import OPEN_FILE, open_directory
from syncline.client.placing import Placer
from syncline.client.staged import (
    Target,
    corrupt,
    finish_staged,
    open_staged,
    outcome_of,
    place_staged,
    staged_key,
    write_at,
)
from syncline.core.identity import Digest, digest_of
from syncline.core.manifests import ChunkRef
from syncline.errors import LocalFailure
from syncline.ports.chunker import Chunker
from syncline.ports.report import PathOutcome, Result


@dataclass(frozen=True, slots=True)
class _Copy:
    """A chunk that another file, or the staged file itself further up, holds at `offset`."""

    is_own: bool
    offset: int


class SourceChanged(LocalFailure):
    """The local file that chunks were copied from was changed meanwhile."""


class Staging:
    """One large file on its way to its place; all calls block, one at a time.

    A call that nobody waits for any more may still run when `close` comes: the lock keeps it from
    writing to a descriptor that has another file by then.
    """

    def __init__(
        self, target: Target, refs: Sequence[ChunkRef], placer: Placer, chunker: Chunker
    ) -> None:
        self._target = target
        self._refs = refs
        self._placer = placer
        self._chunker = chunker
        self._lock = Lock()
        self._hasher = blake3()
        self._position = 0
        self._offset = 0
        self._plan: list[_Copy | None] = []
        self._directory = -1
        self._name = b""
        self._fd = -1
        self._older = -1
        self._end = 0

    def open(self, *, may_copy: bool = True) -> int:
        """Begin or go on; return how many bytes need no trip. Raises OSError."""
        with self._lock:
            return self._open(may_copy=may_copy)

    def _open(self, *, may_copy: bool) -> int:
        target = self._target
        self._directory = open_directory(target.base, target.parts[:-1])
        self._name, self._fd = open_staged(self._directory, target.parts[-1], target.digest)
        self._drop_leftovers()
        self._end = os.fstat(self._fd).st_size
        older = self._open_older() if may_copy else {}
        known: dict[Digest, _Copy] = {}
        offset = there = 0
        for ref in self._refs:
            step = self._step(ref, offset, known, older)
            self._plan.append(step)
            there += ref.size if step else 0
            known.setdefault(ref.digest, _Copy(True, offset))
            offset += ref.size
        return there

    def _step(
        self,
        ref: ChunkRef,
        offset: int,
        known: dict[Digest, _Copy],
        older: dict[Digest, int],
    ) -> _Copy | None:
        if ref.digest in known:
            return known[ref.digest]
        if offset + ref.size <= self._end:
            chunk = os.pread(self._fd, ref.size, offset)
            if digest_of(chunk) == ref.digest:
                return _Copy(True, offset)
        return _Copy(False, older[ref.digest]) if ref.digest in older else None

    def _open_older(self) -> dict[Digest, int]:
        """Cut the file that stands at the place; return where its chunks lie."""
        name = self._target.parts[-1]
        try:
            fd = os.open(name, OPEN_FILE, dir_fd=self._directory)
        except OSError:
            # Nothing there to copy from, or a link: all chunks come from the server then.
            return {}
        self._older = fd
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return {}
        places: dict[Digest, int] = {}
        try:
            refs = self._chunker.chunk(lambda size: os.read(fd, size)).refs
        except OSError:
            # Unreadable: what is to be replaced need not be whole.
            return {}
        offset = 0
        for ref in refs:
            places.setdefault(ref.digest, offset)
            offset += ref.size
        return places

    def _drop_leftovers(self) -> None:
        """Remove what an earlier fetch of other content for this place left."""
        key = staged_key(self._target.parts[-1])
        for name in self._placer.leftovers(self._target, self._directory):
            is_other = name.startswith(key) and name != self._name
            if is_other and not _is_held(self._directory, name):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._directory)

    def wanted(self, limit: int) -> list[Digest]:
        """Return the next chunks that must come from the server, in order."""
        digests: list[Digest] = []
        for index in range(self._position, len(self._refs)):
            if self._plan[index] is None:
                digests.append(self._refs[index].digest)
                if len(digests) >= limit:
                    break
        return digests

    def advance(self, chunks: Sequence[bytes]) -> None:
        """Write the next chunks from the server, and all that follows and is there already.

        Raises OSError, and SourceChanged when the older file does not hold its chunks any more.
        """
        with self._lock:
            self._check_open()
            self._advance(iter(chunks))

    def _check_open(self) -> None:
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _advance(self, coming: Iterator[bytes]) -> None:
        while self._position < len(self._refs):
            ref, step = self._refs[self._position], self._plan[self._position]
            if step is None:
                chunk = next(coming, None)
                if chunk is None:
                    return
            else:
                chunk = self._copied(ref, step)
            if step != _Copy(True, self._offset):
                self._write(chunk)
            self._hasher.update(chunk)
            self._offset += ref.size
            self._position += 1

    def _copied(self, ref: ChunkRef, step: _Copy) -> bytes:
        chunk = os.pread(self._fd if step.is_own else self._older, ref.size, step.offset)
        if not step.is_own and digest_of(chunk) != ref.digest:
            raise SourceChanged("the file that is being replaced was changed meanwhile")
        return chunk

    def _write(self, chunk: bytes) -> None:
        end = self._offset + len(chunk)
        if self._offset >= self._end and not chunk[0] and chunk.count(0) == len(chunk):
            # A hole: the file only grows over it.
            os.ftruncate(self._fd, end)
        else:
            write_at(self._fd, chunk, self._offset)
        self._end = max(self._end, end)

    def finish(self) -> PathOutcome:
        """Check the whole content, make it durable, give it its name; raise Corrupt or OSError."""
        with self._lock:
            self._check_open()
            return self._finish()

    def _finish(self) -> PathOutcome:
        target = self._target
        if Digest(self._hasher.digest()) != target.digest or self._offset != target.entry.size:
            self.discard()
            raise corrupt(target)
        os.ftruncate(self._fd, self._offset)
        finish_staged(self._fd, target)
        os.fdatasync(self._fd)
        place_staged(self._directory, self._name, target, may_overwrite=self._placer.may_overwrite)
        self._placer.touch(target)
        return outcome_of(target, Result.FETCHED)

    def discard(self) -> None:
        """Remove the staged file."""
        if self._name:
            with suppress(FileNotFoundError):
                os.unlink(self._name, dir_fd=self._directory)

    def close(self) -> None:
        """Let go; what is staged stays for the next time."""
        with self._lock:
            for fd in (self._fd, self._older, self._directory):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._older = self._directory = -1


def _is_held(directory: int, name: bytes) -> bool:
    """Tell whether another process is at work on a staged file."""
    try:
        fd = os.open(name, OPEN_FILE, dir_fd=directory)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
