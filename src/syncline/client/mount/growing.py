"""A large content on its way into the mount: a file of its own in the staging directory.

R1  While it grows it is called `<digest>.part`; `<digest>` is whole, was checked, and is durable.
R2  What a crash left is believed after a look at digests alone: a part chunk by chunk, a whole one
    (`find`) once a run. So nothing is downloaded twice, and nothing is placed unchecked (G8).
R3  What is called like a content and is another one may be a user's: it is never dropped, but put
    with what was displaced.
R4  Whoever works on one content holds its lock, so that work that was given up and its successor
    are never both at it.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock

from syncline.client.assembling import Assembly, Readable, SourceChanged
from syncline.client.mount.handles import Handles
from syncline.client.mount.mounted_file import MountedFile
from syncline.client.mount.own_directory import OwnDirectory
from syncline.client.mount.place_displaced import digest_of_file
from syncline.client.older import places_in
from syncline.core.identity import Digest
from syncline.core.manifests import ChunkRef, Content
from syncline.errors import Corrupt
from syncline.ports.chunker import Chunked, Chunker
from syncline.ports.files import Directory, File, FileKind, Status

PART_SUFFIX = b".part"


def content_name(digest: Digest) -> bytes:
    """Return the name of a whole staged content."""
    return digest.hex().encode()


def part_name(digest: Digest) -> bytes:
    """Return the name of a staged content that grows."""
    return content_name(digest) + PART_SUFFIX


@dataclass(frozen=True, slots=True)
class Sign:
    """What tells a staged file that was made or checked from what takes its name later.

    An inode alone does not: its number may be another file's a moment later.
    """

    inode: int
    size: int
    mtime_ns: int


def sign_of(status: Status) -> Sign:
    """Return the sign of a staged file."""
    return Sign(status.inode, status.size, status.mtime_ns)


def chunk_file(chunker: Chunker, file: Readable) -> Chunked:
    """Cut a file from its beginning to its end; raise OSError and what the chunker raises."""
    offset = 0

    def read(size: int) -> bytes:
        nonlocal offset
        piece = file.read(size, offset)
        offset += len(piece)
        return piece

    return chunker.chunk(read)


class Guarded:
    """A file whose every use raises OSError once the work on it was given up."""

    def __init__(self, file: File, handles: Handles) -> None:
        self._file = file
        self._handles = handles

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes."""
        self._handles.check()
        return self._file.read(size, offset)

    def write(self, content: bytes, offset: int) -> None:
        """Write all of it."""
        self._handles.check()
        self._file.write(content, offset)

    def truncate(self, size: int) -> None:
        """Cut the file, or let it grow by a hole."""
        self._handles.check()
        self._file.truncate(size)


class GrowingFile:
    """One large content while it is fetched; all calls but `wanted` and `close` block."""

    def __init__(
        self,
        content: Content,
        refs: Sequence[ChunkRef],
        own: OwnDirectory,
        chunker: Chunker,
        lock: Lock,
    ) -> None:
        self._content = content
        self._refs = refs
        self._own = own
        self._chunker = chunker
        self._lock = lock
        self._handles = Handles()
        self._file: File | None = None
        self._assembly: Assembly | None = None

    def open(self, older: MountedFile | None, root: Directory) -> int:
        """Begin or go on; return how many bytes need no trip.

        `older`: a file of the mount that may have some of the chunks; it need not be there. Raises
        OSError, Corrupt, and SourceChanged when `older` was changed meanwhile.
        """
        with self._lock, self._handles.work():
            name = part_name(self._content.digest)
            staging = self._own.staging
            is_new = staging.look(name) is None
            file = self._handles.keep(
                staging.create(name) if is_new else staging.open_to_write(name)
            )
            hasher = self._chunker.hasher()
            guarded = Guarded(file, self._handles)
            assembly = Assembly(self._refs, guarded, file.status().size, hasher)
            if older is not None and assembly.wanted(1):
                self._copy_from(older, root, assembly)
            self._file, self._assembly = file, assembly
            here_bytes = assembly.here_bytes
            assembly.advance(())
            return here_bytes

    def _copy_from(self, older: MountedFile, root: Directory, assembly: Assembly) -> None:
        try:
            source = Guarded(self._handles.keep(older.open(root)), self._handles)
            places = places_in(source, self._refs, self._chunker)
        except OSError:
            # What is about to be replaced need not be there, or readable.
            self._handles.check()
            return
        assembly.copy_from(source, places)

    def wanted(self, limit: int) -> list[Digest]:
        """Return the next chunks that must come from the server, in order."""
        assert self._assembly is not None, "a growing file was not opened"
        return self._assembly.wanted(limit)

    def advance(self, chunks: Sequence[bytes]) -> None:
        """Write the next chunks from the server, and all that follows and is there already.

        Raises OSError, Corrupt, and SourceChanged when the older file was changed meanwhile.
        """
        with self._lock, self._handles.work():
            assert self._assembly is not None, "a growing file was not opened"
            self._assembly.advance(chunks)

    def finish(self) -> Sign:
        """Check the whole, make it durable, give it its name (R1); return its sign.

        Raises SourceChanged where it may be the older file that was changed meanwhile: what is
        right of the part is found by the next one (R2). Raises Corrupt, and OSError.
        """
        with self._lock, self._handles.work():
            assert self._assembly is not None and self._file is not None, "it was not opened"
            digest, size = self._content.digest, self._content.size
            if self._assembly.digest != digest or self._assembly.offset != size:
                if self._assembly.has_copied:
                    raise SourceChanged("the file that is being replaced was changed meanwhile")
                self._own.staging.remove(part_name(digest))
                raise Corrupt(
                    f"the chunks of content {digest.hex()} do not make that digest",
                    digest=digest.hex(),
                    what="content",
                )
            self._file.truncate(size)
            self._file.sync()
            staging = self._own.staging
            staging.move(part_name(digest), staging, content_name(digest))
            staging.sync()
            return sign_of(self._file.status())

    def discard(self) -> None:
        """Remove what was staged; where even that fails it stays, and is checked next time (R2)."""
        with self._lock, suppress(OSError):
            self._own.staging.remove(part_name(self._content.digest))

    def close(self) -> None:
        """Let go; what is staged stays for the next time. Never waits."""
        self._handles.close()


def find(
    digest: Digest, own: OwnDirectory, known: Sign | None, lock: Lock, handles: Handles
) -> Sign | None:
    """Return the sign of a whole content that is staged; None where there is none.

    It is read to its end unless its sign is the one `known` to this run (R2). What has its name
    and is another content is put with what was displaced (R3). Raises OSError.
    """
    with lock, handles.work():
        name = content_name(digest)
        status = own.staging.look(name)
        if status is None:
            return None
        if sign_of(status) == known:
            return known
        found: Digest | None = None
        if status.kind is FileKind.FILE:
            if not status.mode & stat.S_IRUSR:
                # It was given the mode of its entry, and did not get to its place.
                own.staging.set_mode(name, 0o600)
            file = handles.keep(own.staging.open(name))
            found = digest_of_file(Guarded(file, handles))
            if found == digest and sign_of(file.status()) == sign_of(status):
                return sign_of(status)
        _put_away(own, name, found)
        return None


def _put_away(own: OwnDirectory, name: bytes, found: Digest | None) -> None:
    to_name = b"staged-" + (content_name(found) if found is not None else name)
    try:
        own.staging.move(name, own.displaced, to_name)
    except FileExistsError:
        # The same content lies there already, from an earlier time.
        own.staging.remove(name)
    own.displaced.sync()
    own.staging.sync()
