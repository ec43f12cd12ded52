"""Staging what is about to be placed: whole, with its mode and time, and durable.

Whatever a place is going to hold is made ready in the client's own directory first, so that one
rename puts it there (G2), and made durable before that: a name must never be without its bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from syncline.client.mount.place_displaced import READ_BYTES, digest_at
from syncline.client.mount.staged_content import Inline, StagedContent, StagedFile
from syncline.core.entries import Kind
from syncline.core.identity import ROOT_ID, Digest, digest_of
from syncline.core.trees import Abilities, State
from syncline.ports.files import Directory, File, FileKind, Status
from syncline.ports.ids import Ids

STAGED_PREFIX = b"place-"
"""Names of what the applier stages; whatever has such a name at a start may be removed."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A file or link that is ready, and what tells it from another."""

    name: bytes
    inode: int
    born_ns: int
    size: int
    mtime_ns: int

    def is_untouched(self, status: Status | None) -> bool:
        """Tell whether what lies somewhere is this, and nobody wrote into it."""
        told = (self.inode, self.size, self.mtime_ns)
        return status is not None and (status.inode, status.size, status.mtime_ns) == told


class Stager:
    """Makes things ready for one batch."""

    def __init__(self, staging: Directory, ids: Ids, abilities: Abilities) -> None:
        self._staging = staging
        self._ids = ids
        self._abilities = abilities
        self._made: set[bytes] = set()
        self._used: set[bytes] = set()

    def stage(
        self, wanted: State, contents: Mapping[Digest, StagedContent], *, is_synced: bool
    ) -> Staged:
        """Make a file or link ready; `is_synced` makes it durable, too. Raises OSError.

        The content of a file must be in `contents`.
        """
        if wanted.kind is Kind.LINK:
            return self._stage_link(wanted)
        assert wanted.content is not None, "only files and links are staged"
        content = contents[wanted.content.digest]
        match content:
            case Inline(raw):
                if digest_of(raw) != wanted.content.digest:
                    raise OSError(errno.EBADMSG, "the content does not match its digest")
                return self._stage_bytes(wanted, raw, is_synced=is_synced)
            case StagedFile(name):
                return self._stage_file(wanted, name, is_synced=is_synced)

    def stage_copy(self, source: File, wanted: State) -> Staged:
        """Make a durable copy of an open file ready; raises OSError."""
        name = self._fresh()
        file = self._staging.create(name)
        try:
            _copy(source, file)
            return self._finish(file, name, wanted, is_synced=True)
        finally:
            file.close()

    def stage_link(self, wanted: State) -> Staged:
        """Make a link ready; raises OSError."""
        return self._stage_link(wanted)

    def _fresh(self) -> bytes:
        name = STAGED_PREFIX + self._ids.entry().hex().encode()
        self._made.add(name)
        return name

    def _stage_bytes(self, wanted: State, content: bytes, *, is_synced: bool) -> Staged:
        name = self._fresh()
        file = self._staging.create(name)
        try:
            if content:
                file.write(content, 0)
            return self._finish(file, name, wanted, is_synced=is_synced)
        finally:
            file.close()

    def _stage_file(self, wanted: State, name: bytes, *, is_synced: bool) -> Staged:
        file = self._staging.open(name)
        try:
            if name in self._used:
                # Two entries of one batch have this content: each gets a file of its own.
                return self.stage_copy(file, wanted)
            self._used.add(name)
            return self._finish(file, name, wanted, is_synced=is_synced)
        finally:
            file.close()

    def _finish(self, file: File, name: bytes, wanted: State, *, is_synced: bool) -> Staged:
        if self._abilities.has_modes:
            file.set_mode(wanted.mode)
        file.set_mtime(wanted.mtime_ns)
        if is_synced:
            file.sync()
        status = file.status()
        return Staged(name, status.inode, file.born_ns(), status.size, status.mtime_ns)

    def _stage_link(self, wanted: State) -> Staged:
        assert wanted.target is not None, "only files and links are staged"
        name = self._fresh()
        self._staging.make_link(name, wanted.target)
        self._staging.set_mtime(name, wanted.mtime_ns)
        status = self._staging.look(name)
        if status is None:
            raise OSError(errno.ENOENT, "what was staged is gone")
        born_ns = self._staging.born_ns(name)
        return Staged(name, status.inode, born_ns, status.size, status.mtime_ns)

    def digest(self, staged: Staged, kind: FileKind) -> Digest:
        """Read what was staged again; raises OSError."""
        return digest_at(self._staging, staged.name, kind, ROOT_ID)

    def took(self, staged: Staged) -> None:
        """Know that a staged thing left the directory for its place."""
        self._made.discard(staged.name)

    def clear(self) -> None:
        """Remove what was made and not placed."""
        for name in sorted(self._made):
            with suppress(FileNotFoundError):
                self._staging.remove(name)
        self._made.clear()


def _copy(source: File, target: File) -> None:
    offset = 0
    while piece := source.read(READ_BYTES, offset):
        target.write(piece, offset)
        offset += len(piece)
