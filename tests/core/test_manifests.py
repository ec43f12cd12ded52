"""Manifests: M1 to M4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.identity import EMPTY_DIGEST, Digest, digest_of
from syncline.core.manifests import (
    CHUNK_BYTES_AVERAGE,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    CONTENT_BYTES_MAX,
    DIRECT_REFS_MAX,
    EMPTY_CONTENT,
    INLINE_BYTES_MAX,
    PIECE_REFS_MAX,
    PIECES_MAX,
    ChunkRef,
    Content,
    build_content,
    check_content,
    check_unfolded,
    decode_piece,
    encode_piece,
    single_chunk,
)
from syncline.errors import Corrupt, Invalid, SynclineError, TooLarge

ONE = ChunkRef(digest_of(b"one"), 3)
TWO = ChunkRef(digest_of(b"two"), 3)
WHOLE = digest_of(b"onetwo")
PIECE_BYTES_MAX = PIECE_REFS_MAX * 36

refs = st.builds(
    ChunkRef,
    st.binary(min_size=32, max_size=32).map(Digest),
    st.integers(1, CHUNK_BYTES_MAX),
)


def many(count: int) -> list[ChunkRef]:
    return [ChunkRef(digest_of(n.to_bytes(4, "big")), 1 + n % 1000) for n in range(count)]


def total(chunks: list[ChunkRef]) -> int:
    return sum(ref.size for ref in chunks)


def test_the_bounds_fit_each_other() -> None:
    assert CHUNK_BYTES_MIN < CHUNK_BYTES_AVERAGE < CHUNK_BYTES_MAX
    assert INLINE_BYTES_MAX <= CHUNK_BYTES_MIN, "inline content is always one chunk"
    assert PIECE_BYTES_MAX <= CHUNK_BYTES_MAX, "a piece is stored as a chunk"
    assert PIECES_MAX * PIECE_REFS_MAX * CHUNK_BYTES_AVERAGE > CONTENT_BYTES_MAX


def test_a_piece_is_laid_out_as_it_always_was() -> None:
    assert encode_piece([ONE, ChunkRef(TWO.digest, 0x01020304)]) == (
        ONE.digest + b"\0\0\0\3" + TWO.digest + b"\1\2\3\4"
    )


@given(st.lists(refs, min_size=1, max_size=50))
def test_m3_a_piece_comes_back(chunks: list[ChunkRef]) -> None:
    piece = encode_piece(chunks)
    assert decode_piece(piece) == tuple(chunks)
    assert len(piece) == 36 * len(chunks)


def test_m3_a_full_piece_comes_back() -> None:
    chunks = many(PIECE_REFS_MAX)
    assert decode_piece(encode_piece(chunks)) == tuple(chunks)


BAD_PIECES = {
    "empty": b"",
    "cut": encode_piece([ONE, TWO])[:-1],
    "one byte": b"x",
    "too many": encode_piece([ONE]) * (PIECE_REFS_MAX + 1),
    "chunk of no bytes": encode_piece([ONE, ChunkRef(TWO.digest, 0)]),
    "chunk over the limit": encode_piece([ChunkRef(ONE.digest, CHUNK_BYTES_MAX + 1)]),
    "chunk of 4 GiB": encode_piece([ChunkRef(ONE.digest, 2**32 - 1)]),
}


@pytest.mark.parametrize("piece", BAD_PIECES.values(), ids=BAD_PIECES.keys())
def test_m3_a_wrong_piece_is_corrupt(piece: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        decode_piece(piece)
    assert caught.value.fields["what"] == "manifest"


@given(st.binary(max_size=200))
def test_m3_any_bytes_are_a_piece_or_corrupt(piece: bytes) -> None:
    try:
        chunks = decode_piece(piece)
    except Corrupt:
        return
    assert encode_piece(chunks) == piece


def test_a_short_manifest_stands_in_the_entry() -> None:
    for count in (0, 1, 2, DIRECT_REFS_MAX):
        chunks = many(count)
        content, pieces = build_content(WHOLE, total(chunks), chunks)
        assert content == Content(WHOLE, total(chunks), 0, tuple(chunks))
        assert pieces == {}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(DIRECT_REFS_MAX + 1, 1), (PIECE_REFS_MAX, 1), (PIECE_REFS_MAX + 1, 2)],
)
def test_a_long_manifest_is_stored_in_pieces(count: int, expected: int) -> None:
    chunks = many(count)
    content, pieces = build_content(WHOLE, total(chunks), chunks)
    assert (content.depth, len(content.refs), len(pieces)) == (1, expected, expected)
    assert check_content(content) == content
    found: list[ChunkRef] = []
    for ref in content.refs:
        piece = pieces[ref.digest]
        assert (digest_of(piece), len(piece)) == (ref.digest, ref.size)
        found += decode_piece(piece)
    assert found == chunks


def test_equal_pieces_are_listed_each_time_and_stored_once() -> None:
    chunks = [ONE] * (2 * PIECE_REFS_MAX)
    content, pieces = build_content(WHOLE, total(chunks), chunks)
    assert len(content.refs) == 2
    assert len(pieces) == 1


@given(st.lists(refs, min_size=2, max_size=DIRECT_REFS_MAX))
def test_m1_what_is_built_passes_the_check(chunks: list[ChunkRef]) -> None:
    content, _ = build_content(WHOLE, total(chunks), chunks)
    assert check_content(content) == content


def test_m2_content_of_one_chunk_has_its_digest() -> None:
    content = single_chunk(ONE.digest, ONE.size)
    assert content == Content(ONE.digest, 3, 0, (ONE,))
    assert check_content(content) == content


def test_m2_empty_content_has_no_chunks() -> None:
    assert single_chunk(EMPTY_DIGEST, 0) == EMPTY_CONTENT == Content(EMPTY_DIGEST, 0, 0, ())
    assert check_content(EMPTY_CONTENT) == EMPTY_CONTENT


REFUSED: dict[str, tuple[Content, type[SynclineError], str]] = {
    "over 1 TiB": (
        Content(WHOLE, CONTENT_BYTES_MAX + 1, 1, (ONE,)),
        TooLarge,
        "at most",
    ),
    "unknown depth": (Content(WHOLE, 3, 2, (ONE,)), Invalid, "depth 2 is not known"),
    "too many direct": (
        Content(WHOLE, 3 * 65, 0, (ONE,) * (DIRECT_REFS_MAX + 1)),
        Invalid,
        "too long for its depth",
    ),
    "too many pieces": (
        Content(WHOLE, 1, 1, (ONE,) * (PIECES_MAX + 1)),
        Invalid,
        "too long for its depth",
    ),
    "chunk of no bytes": (
        Content(WHOLE, 3, 0, (ONE, ChunkRef(TWO.digest, 0))),
        Invalid,
        "a chunk has 1 to",
    ),
    "chunk over the limit": (
        Content(ONE.digest, CHUNK_BYTES_MAX + 1, 0, (ChunkRef(ONE.digest, CHUNK_BYTES_MAX + 1),)),
        Invalid,
        "a chunk has 1 to",
    ),
    "piece over the limit": (
        Content(WHOLE, 5, 1, (ChunkRef(ONE.digest, CHUNK_BYTES_MAX + 1),)),
        Invalid,
        "a chunk has 1 to",
    ),
    "sizes too small": (Content(WHOLE, 7, 0, (ONE, TWO)), Invalid, "do not add up"),
    "sizes too large": (Content(WHOLE, 5, 0, (ONE, TWO)), Invalid, "do not add up"),
    "bytes without chunks": (Content(WHOLE, 5, 0, ()), Invalid, "do not add up"),
    "chunks without bytes": (Content(EMPTY_DIGEST, 0, 0, (ONE,)), Invalid, "do not add up"),
    "nothing of another digest": (Content(WHOLE, 0, 0, ()), Invalid, "the digest of nothing"),
    "one chunk of another digest": (
        Content(WHOLE, 3, 0, (ONE,)),
        Invalid,
        "the digest of that chunk",
    ),
    "no pieces": (Content(WHOLE, 5, 1, ()), Invalid, "at least one piece"),
}


@pytest.mark.parametrize(("content", "error", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_m1_and_m2_are_checked(content: Content, error: type[SynclineError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        check_content(content)


def test_content_at_each_limit_passes() -> None:
    largest = ChunkRef(ONE.digest, CHUNK_BYTES_MAX)
    for content in (
        single_chunk(ONE.digest, CHUNK_BYTES_MAX),
        Content(WHOLE, DIRECT_REFS_MAX * CHUNK_BYTES_MAX, 0, (largest,) * DIRECT_REFS_MAX),
        Content(WHOLE, CONTENT_BYTES_MAX, 1, (largest,) * PIECES_MAX),
    ):
        assert check_content(content) == content


def test_m1_expanded_sizes_must_add_up() -> None:
    content = Content(WHOLE, 6, 1, (ONE,))
    check_unfolded(content, size=6, count=2, is_whole=True)
    for sizes in ([], [3], [3, 4]):
        with pytest.raises(Invalid, match="do not add up"):
            check_unfolded(content, size=sum(sizes), count=len(sizes), is_whole=True)


def test_m5_what_pieces_unfold_to_is_bounded_by_the_size() -> None:
    content = Content(digest_of(b"whole"), 32 * 1024, 1, (ChunkRef(digest_of(b"piece"), 36),))
    check_unfolded(content, size=4098, count=4098, is_whole=False)
    with pytest.raises(Invalid, match="too many chunks"):
        check_unfolded(content, size=4099, count=4099, is_whole=False)
    with pytest.raises(Invalid, match="add up"):
        check_unfolded(content, size=32 * 1024 + 1, count=1, is_whole=False)
    with pytest.raises(Invalid, match="add up"):
        check_unfolded(content, size=1, count=1, is_whole=True)
