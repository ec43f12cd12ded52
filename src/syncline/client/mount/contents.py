"""Small contents in memory, on their way between the mount and the server."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.core.identity import EMPTY_DIGEST, Digest
from syncline.core.manifests import Content

CONTENTS_BYTES_MAX = 64 * 1024 * 1024

ENTRY_BYTES = 256
"""What an entry costs beside its bytes: many tiny contents must not outgrow the bound (G11)."""

PIECES_KEPT_MAX = 16
"""Pieces of one manifest that are kept: those of about 37 GiB, in 4 MiB."""


class Contents:
    """A bounded cache by content digest; who was not used for longest goes first.

    It holds whole small contents, and pieces of manifests, each of at most `SMALL_BYTES_MAX` bytes.
    The caller checked them against their digests. May be used from any thread.
    """

    def __init__(self, bytes_max: int = CONTENTS_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._lock = Lock()
        self._held: OrderedDict[Digest, bytes] = OrderedDict()
        self._used = 0

    @property
    def used_bytes(self) -> int:
        """Return what is held, `ENTRY_BYTES` for each content included."""
        return self._used

    def put(self, digest: Digest, content: bytes) -> None:
        """Keep a content; one that is over `SMALL_BYTES_MAX` is not kept."""
        cost = len(content) + ENTRY_BYTES
        if not content or len(content) > SMALL_BYTES_MAX or cost > self._bytes_max:
            return
        with self._lock:
            old = self._held.pop(digest, None)
            if old is None:
                self._used += cost
            self._held[digest] = content
            while self._used > self._bytes_max:
                _, gone = self._held.popitem(last=False)
                self._used -= len(gone) + ENTRY_BYTES

    def get(self, digest: Digest) -> bytes | None:
        """Return a content, which counts as a use of it; the empty one is always there."""
        if digest == EMPTY_DIGEST:
            return b""
        with self._lock:
            content = self._held.get(digest)
            if content is not None:
                self._held.move_to_end(digest)
            return content

    def put_pieces(self, pieces: Mapping[Digest, bytes]) -> None:
        """Keep the pieces of a manifest, unless they would take the place of too much else."""
        if len(pieces) <= PIECES_KEPT_MAX:
            for digest, piece in pieces.items():
                self.put(digest, piece)

    def get_pieces(self, content: Content) -> Sequence[bytes] | None:
        """Return the pieces of a long manifest; None where one of them is not here."""
        pieces = [piece for ref in content.refs if (piece := self.get(ref.digest)) is not None]
        return pieces if len(pieces) == len(content.refs) else None

    def clear(self) -> None:
        """Hold nothing any more: for a mount at rest."""
        with self._lock:
            self._held.clear()
            self._used = 0
