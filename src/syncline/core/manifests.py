"""Content and its chunks: how a file of any size is named, cut and listed.

Model: content is named by the BLAKE3 of all its bytes and consists of chunks, each named by its own
BLAKE3. The manifest is the ordered list of chunks. A short one stands in the entry (depth 0); a
long one is itself stored as chunks, *pieces*, and the entry lists the pieces (depth 1).

M1  The sizes of the chunks add up to the size of the content; no chunk is empty or over the limit.
M2  Content of one chunk has the digest of that chunk; empty content has no chunks.
M3  A piece holds 1 to `PIECE_REFS_MAX` references; `decode_piece(encode_piece(x)) == x`.
M4  The chunking is a hint for transfer: equality of content is equality of content digests.
M5  A manifest in pieces names at most 4,096 chunks and one more for each 16 KiB of content: what a
    short list may unfold to is bounded by what the content is worth.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from syncline.core.identity import DIGEST_BYTES, EMPTY_DIGEST, Digest, digest_of
from syncline.errors import Corrupt, Invalid, TooLarge

CHUNK_BYTES_MIN = 64 * 1024
CHUNK_BYTES_AVERAGE = 256 * 1024
CHUNK_BYTES_MAX = 1024 * 1024
"""FastCDC's bounds of one chunk; the one size class of DESIGN: about 256 KiB on average."""

INLINE_BYTES_MAX = CHUNK_BYTES_MIN
"""Content up to this size is always one chunk and may travel inside the change that names it."""

DIRECT_REFS_MAX = 64
REF_BYTES = DIGEST_BYTES + 4
PIECE_REFS_MAX = 7281
"""36 bytes a reference: a full piece is just under 256 KiB, the best frame on the wire."""

SHORT_CHUNKS_MAX = 4096
CHUNK_BYTES_MEAN_MIN = 16 * 1024

PIECES_MAX = 1024
CONTENT_BYTES_MAX = 2**40
"""1 TiB: far below what `PIECES_MAX` full pieces of average chunks can list (1.8 TiB)."""


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """A chunk as a manifest names it: its digest and its length in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: whole digest, size, and its manifest or the pieces of it.

    `depth` 0: `refs` are the chunks. `depth` 1: `refs` are the pieces of the manifest.
    """

    digest: Digest
    size: int
    depth: int
    refs: tuple[ChunkRef, ...]


EMPTY_CONTENT = Content(EMPTY_DIGEST, 0, 0, ())


def single_chunk(digest: Digest, size: int) -> Content:
    """Return the content whose only chunk is itself (M2)."""
    return Content(digest, size, 0, (ChunkRef(digest, size),)) if size else EMPTY_CONTENT


def check_content(content: Content) -> Content:
    """Return `content` where M1 and M2 can hold; raise Invalid or TooLarge where they cannot."""
    if content.size > CONTENT_BYTES_MAX:
        raise TooLarge(
            f"a file may have at most {CONTENT_BYTES_MAX} bytes", limit=str(CONTENT_BYTES_MAX)
        )
    if content.depth not in (0, 1):
        raise _bad("depth", f"depth {content.depth} is not known")
    if len(content.refs) > (PIECES_MAX if content.depth else DIRECT_REFS_MAX):
        raise _bad("chunks", "the list of chunks is too long for its depth")
    for ref in content.refs:
        _check_ref(ref)
    if content.depth == 0:
        if sum(ref.size for ref in content.refs) != content.size:
            raise _bad("chunks", "the sizes of the chunks do not add up to the size")
        if not content.refs and content.digest != EMPTY_DIGEST:
            raise _bad("digest", "empty content has the digest of nothing")
        if len(content.refs) == 1 and content.refs[0].digest != content.digest:
            raise _bad("digest", "content of one chunk has the digest of that chunk")
    elif not content.refs:
        raise _bad("chunks", "a manifest in pieces has at least one piece")
    return content


def _check_ref(ref: ChunkRef) -> None:
    if not 0 < ref.size <= CHUNK_BYTES_MAX:
        raise _bad("chunks", f"a chunk has 1 to {CHUNK_BYTES_MAX} bytes, not {ref.size}")


def _bad(field: str, reason: str) -> Invalid:
    return Invalid(reason, field=field, reason=reason)


_REF = struct.Struct(f">{DIGEST_BYTES}sI")


def encode_piece(refs: Sequence[ChunkRef]) -> bytes:
    """Return a piece of a manifest: 36 bytes a chunk, digest then big-endian length (M3)."""
    return b"".join(_REF.pack(ref.digest, ref.size) for ref in refs)


def decode_piece(piece: bytes) -> tuple[ChunkRef, ...]:
    """Return the references of a piece; raise Corrupt where M1 or M3 does not hold."""
    if not piece or len(piece) % _REF.size or len(piece) > PIECE_REFS_MAX * _REF.size:
        raise Corrupt(f"a piece of a manifest has {len(piece)} bytes", what="manifest")
    refs = tuple(ChunkRef(Digest(digest), size) for digest, size in _REF.iter_unpack(piece))
    try:
        for ref in refs:
            _check_ref(ref)
    except Invalid as error:
        raise Corrupt(
            f"a piece of a manifest is wrong: {error.message}", what="manifest"
        ) from error
    return refs


def build_content(
    digest: Digest, size: int, refs: Sequence[ChunkRef]
) -> tuple[Content, dict[Digest, bytes]]:
    """Return the content for a list of chunks, and the pieces that must be stored with it.

    The pieces are empty for a manifest that fits the entry. Equal lists give equal pieces.
    """
    if len(refs) <= DIRECT_REFS_MAX:
        return Content(digest, size, 0, tuple(refs)), {}
    pieces: dict[Digest, bytes] = {}
    listed = []
    for start in range(0, len(refs), PIECE_REFS_MAX):
        piece = encode_piece(refs[start : start + PIECE_REFS_MAX])
        piece_digest = digest_of(piece)
        pieces[piece_digest] = piece
        listed.append(ChunkRef(piece_digest, len(piece)))
    return Content(digest, size, 1, tuple(listed)), pieces


def check_unfolded(content: Content, *, size: int, count: int, is_whole: bool) -> None:
    """Raise Invalid where the chunks that pieces name cannot make the content (M1, M5).

    `size` and `count` are of the chunks seen so far, or of all of them when `is_whole`.
    """
    if size > content.size or (is_whole and size != content.size):
        raise _bad("chunks", "the sizes of the chunks do not add up to the size")
    if count > SHORT_CHUNKS_MAX + content.size // CHUNK_BYTES_MEAN_MIN:
        raise _bad("chunks", "the content is cut into too many chunks for its size")
