"""Staging a large file: chunk after chunk, from what is there already and from the server.

A staged file keeps its name over interruptions. What it holds is believed only chunk by chunk after
a look at the digests; an older version of the file at its place gives chunks too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from syncline.client.assembling import Assembly, SourceChanged
from syncline.client.local import OPEN_FILE, open_directory
from syncline.client.older import places_in
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
from syncline.core.identity import Digest
from syncline.core.manifests import ChunkRef
from syncline.ports.chunker import Chunker
from syncline.ports.report import PathOutcome, Result


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
        self._assembly: Assembly | None = None
        self._directory = -1
        self._name = b""
        self._fd = -1
        self._older = -1

    def open(self, *, may_copy: bool = True) -> int:
        """Begin or go on; return how many bytes need no trip. Raises OSError."""
        with self._lock:
            return self._open(may_copy=may_copy)

    def _open(self, *, may_copy: bool) -> int:
        target = self._target
        self._directory = open_directory(target.base, target.parts[:-1])
        self._name, self._fd = open_staged(self._directory, target.parts[-1], target.digest)
        self._drop_leftovers()
        size, hasher = os.fstat(self._fd).st_size, self._chunker.hasher()
        assembly = Assembly(self._refs, _Descriptor(self._fd), size, hasher)
        if may_copy and assembly.wanted(1):
            older = self._open_older()
            assembly.copy_from(_Descriptor(self._older), older)
        self._assembly = assembly
        return assembly.here_bytes

    def _open_older(self) -> dict[Digest, int]:
        """Look through the file that stands at the place; return where chunks of it lie."""
        name = self._target.parts[-1]
        try:
            fd = os.open(name, OPEN_FILE, dir_fd=self._directory)
        except OSError:
            # Nothing there to copy from, or a link: all chunks come from the server then.
            return {}
        self._older = fd
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return {}
        try:
            return places_in(_Descriptor(fd), self._refs, self._chunker)
        except OSError:
            # Unreadable: what is to be replaced need not be whole.
            return {}

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
        assert self._assembly is not None, "staging has not begun"
        return self._assembly.wanted(limit)

    def advance(self, chunks: Sequence[bytes]) -> None:
        """Write the next chunks from the server, and all that follows and is there already.

        Raises OSError, Corrupt, and SourceChanged when the older file does not hold its chunks any
        more.
        """
        with self._lock:
            self._checked().advance(chunks)

    def _checked(self) -> Assembly:
        if self._fd < 0 or self._assembly is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._assembly

    def finish(self) -> PathOutcome:
        """Check the whole content, make it durable, give it its name.

        Raises OSError, Corrupt, and SourceChanged where it may be the older file that was changed
        meanwhile: what is right of the staged file is found by the next one.
        """
        with self._lock:
            return self._finish(self._checked())

    def _finish(self, assembly: Assembly) -> PathOutcome:
        target = self._target
        if assembly.digest != target.digest or assembly.offset != target.entry.size:
            if assembly.has_copied:
                raise SourceChanged("the file that is being replaced was changed meanwhile")
            self.discard()
            raise corrupt(target)
        os.ftruncate(self._fd, assembly.offset)
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


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """An open file, as an assembly reads and writes it."""

    fd: int

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes."""
        return os.pread(self.fd, size, offset)

    def write(self, content: bytes, offset: int) -> None:
        """Write all of it."""
        write_at(self.fd, content, offset)

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow by a hole."""
        os.ftruncate(self.fd, size)


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
