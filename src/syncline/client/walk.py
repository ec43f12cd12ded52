"""Walking local sources: what is there, parents first, with its state as of the walk.

W1  A directory comes before what is in it; names come in order of bytes.
W2  No link is followed below what the user named; no file is opened here.
W3  What cannot be read is `Lost` and never left out: an error is not absence (G4). Only what an
    unfinished fetch staged is passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from syncline.client.local import is_staged, join_local, local_error, open_directory, split_local
from syncline.client.targets import Source
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.names import RelPath, escape, is_reserved, parse_name
from syncline.errors import Invalid, LocalFailure, SynclineError

SLICE_PATHS = 256
SLICE_BYTES = 4 * 1024 * 1024
"""What one worker thread prepares in one go, and so the step of the read-ahead."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something local: `parts` are its names below `base`; `is_top` when the user named it."""

    base: bytes
    parts: tuple[bytes, ...]
    remote: RelPath
    kind: Kind
    mode: int
    mtime_ns: int
    size: int
    is_top: bool

    @property
    def local(self) -> bytes:
        """Return the path on this machine."""
        return join_local(self.base, self.parts)


@dataclass(frozen=True, slots=True)
class Lost:
    """Something local that cannot be stored, and why."""

    local: bytes
    remote: RelPath
    error: SynclineError


Step = Found | Lost


def walk(source: Source) -> Iterator[Step]:
    """Yield the source itself, then all that is below it (W1); blocks."""
    base, parts = split_local(source.local)
    try:
        # A path without a name of its own ends in a slash or a dot: it is followed.
        status = os.stat(source.local, follow_symlinks=not parts)
    except OSError as error:
        yield Lost(source.local, source.remote, local_error(error, source.local))
        return
    if not stat.S_ISDIR(status.st_mode):
        yield _seen(base, parts, source.remote, status, is_top=True)
        return
    yield from _walk_directory(base, parts, source.remote)


def _walk_directory(base: bytes, top: tuple[bytes, ...], remote: RelPath) -> Iterator[Step]:
    waiting = [(top, remote)]
    while waiting:
        parts, path = waiting.pop()
        try:
            status, children = _read_directory(base, parts)
        except OSError as error:
            local = join_local(base, parts)
            yield Lost(local, path, local_error(error, local))
            continue
        yield _seen(base, parts, path, status, is_top=parts == top)
        below = []
        for name, child in children:
            local_parts = (*parts, name)
            try:
                child_path = _child_path(path, name)
            except Invalid as error:
                yield Lost(join_local(base, local_parts), path, error)
                continue
            if isinstance(child, OSError):
                local = join_local(base, local_parts)
                yield Lost(local, child_path, local_error(child, local))
            elif stat.S_ISDIR(child.st_mode):
                below.append((local_parts, child_path))
            else:
                yield _seen(base, local_parts, child_path, child, is_top=False)
        waiting.extend(reversed(below))


def _read_directory(
    base: bytes, parts: Sequence[bytes]
) -> tuple[os.stat_result, list[tuple[bytes, os.stat_result | OSError]]]:
    fd = open_directory(base, parts)
    try:
        children: list[tuple[bytes, os.stat_result | OSError]] = []
        with os.scandir(fd) as listing:
            for entry in listing:
                # A listing by descriptor gives names as text even for bytes on disk.
                name = os.fsencode(entry.name)
                if is_staged(name):
                    continue
                try:
                    children.append((name, entry.stat(follow_symlinks=False)))
                except OSError as error:
                    children.append((name, error))
        children.sort(key=lambda child: child[0])
        return os.fstat(fd), children
    finally:
        os.close(fd)


def _child_path(path: RelPath, name: bytes) -> RelPath:
    if is_reserved(name, at_root=not path.parts):
        return RelPath.parse(name)
    child = path.child(parse_name(name))
    # Every parse of a long path costs its length; below the limit the name alone can be wrong.
    return child if len(child.parts) < 16 else RelPath.parse(bytes(child))


def _seen(
    base: bytes, parts: tuple[bytes, ...], remote: RelPath, status: os.stat_result, *, is_top: bool
) -> Step:
    kind = _kind(status.st_mode)
    local = join_local(base, parts)
    if kind is None:
        return Lost(local, remote, not_regular(local))
    if not remote.parts and kind is not Kind.DIRECTORY:
        fault = Invalid(
            f"'{escape(local)}' is not a directory and cannot become the root of a volume",
            field="path",
            reason="root",
        )
        return Lost(local, remote, fault)
    is_file = kind is Kind.FILE
    return Found(
        base=base,
        parts=parts,
        remote=remote,
        kind=kind,
        mode=status.st_mode & MODE_MASK,
        mtime_ns=0 if kind is Kind.DIRECTORY else status.st_mtime_ns,
        size=status.st_size if is_file else 0,
        is_top=is_top,
    )


def _kind(mode: int) -> Kind | None:
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    return Kind.LINK if stat.S_ISLNK(mode) else None


def not_regular(local: bytes) -> LocalFailure:
    """Return the error for a FIFO, a socket or a device."""
    return LocalFailure(
        f"'{escape(local)}' is not a regular file, directory or symbolic link",
        local=escape(local),
        reason="not a regular file",
    )


def take_slice(steps: Iterator[Step]) -> list[Step]:
    """Return the next steps, up to `SLICE_PATHS` or `SLICE_BYTES` of content; none at the end."""
    taken: list[Step] = []
    size = 0
    for step in steps:
        taken.append(step)
        size += step.size if isinstance(step, Found) else 0
        if len(taken) >= SLICE_PATHS or size >= SLICE_BYTES:
            break
    return taken
