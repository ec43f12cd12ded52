"""Staged files: the names and the life of content that is not in its place yet."""

from __future__ import annotations

import errno
import fcntl
import os
from dataclasses import dataclass

from blake3 import blake3

from syncline.client.local import STAGED_PREFIX, STAGED_SUFFIX, join_local, local_error, rename
from syncline.client.planning import kind_word
from syncline.core.entries import Entry
from syncline.core.identity import Digest, digest_of
from syncline.core.names import RelPath, escape
from syncline.errors import Corrupt, Exists, SynclineError
from syncline.ports.report import PathOutcome, Result


@dataclass(frozen=True, slots=True)
class Target:
    """An entry of the volume and its local place: names below a base."""

    base: bytes
    parts: tuple[bytes, ...]
    path: RelPath
    entry: Entry

    @property
    def local(self) -> bytes:
        """Return the path on this machine."""
        return join_local(self.base, self.parts)

    @property
    def digest(self) -> Digest:
        """Return the content digest of a file."""
        assert self.entry.content is not None
        return self.entry.content.digest


def outcome_of(target: Target, result: Result) -> PathOutcome:
    """Return the outcome of an entry that is placed or was in place."""
    entry = target.entry
    return PathOutcome(result, target.path, target.local, entry.revision, size=entry.size)


def failed(target: Target, error: SynclineError | OSError) -> PathOutcome:
    """Return the outcome of an entry that could not be placed."""
    if isinstance(error, OSError):
        error = local_error(error, target.local)
    return PathOutcome(Result.FAILED, target.path, target.local, error=error)


def staged_key(name: bytes) -> bytes:
    """Return what the staged files of one target begin with, whatever their content."""
    return STAGED_PREFIX + blake3(name).hexdigest()[:16].encode() + b"-"


def staged_name(name: bytes, digest: Digest) -> bytes:
    """Return the name of staged content: 48 bytes, always the same, so that it is found again."""
    return staged_key(name) + digest.hex()[:16].encode() + STAGED_SUFFIX


def open_staged(directory: int, name: bytes, digest: Digest) -> tuple[bytes, int]:
    """Open the staged file of a target for this process alone; return its name and descriptor.

    What an earlier fetch left is opened as it is. While another process has it, another name is
    used. Raises OSError.
    """
    staged = staged_name(name, digest)
    for attempt in range(100):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(staged, flags, 0o600, dir_fd=directory)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
        else:
            if _is_named(directory, staged, fd):
                return staged, fd
            # The other process placed it between our opening and our lock.
            os.close(fd)
        salted = digest_of(digest + attempt.to_bytes(2, "big"))
        staged = staged_name(name, salted)
    raise OSError(errno.EBUSY, "too many processes fetch the same file", staged)


def _is_named(directory: int, name: bytes, fd: int) -> bool:
    try:
        named = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def finish_staged(fd: int, target: Target) -> None:
    """Give a staged file the mode and the mtime of its entry."""
    os.fchmod(fd, target.entry.mode)
    os.utime(fd, ns=(target.entry.mtime_ns, target.entry.mtime_ns))


def place_staged(directory: int, staged: bytes, target: Target, *, may_overwrite: bool) -> None:
    """Give a staged file its name (L3); raise OSError or Exists."""
    try:
        rename(directory, staged, target.parts[-1], may_replace=may_overwrite)
    except IsADirectoryError as error:
        raise in_the_way(target, "directory") from error


def in_the_way(target: Target, standing: str) -> Exists:
    """Return the error for a place that is taken by something that may not be replaced."""
    shown = escape(target.local)
    wanted = kind_word(target.entry.kind)
    return Exists(
        f"a {standing} stands at '{shown}', where a {wanted} was to be placed; it was left alone",
        local=shown,
        kind=standing,
    )


def corrupt(target: Target) -> Corrupt:
    """Return the error for content that does not have its digest (G8)."""
    return Corrupt(
        f"the content of '{target.path}' does not match its digest; it was not placed",
        path=str(target.path),
        what="content",
    )


def write_at(fd: int, content: bytes, offset: int) -> None:
    """Write all of `content`; raise OSError."""
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
