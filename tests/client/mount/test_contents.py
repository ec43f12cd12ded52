"""The cache of small contents: bounded, by last use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.contents import ENTRY_BYTES, PIECES_KEPT_MAX, Contents
from syncline.core.identity import EMPTY_DIGEST, Digest, digest_of
from syncline.core.manifests import ChunkRef, Content
from tests.support.transfers import content_of, noise


def put(contents: Contents, content: bytes) -> Digest:
    digest = digest_of(content)
    contents.put(digest, content)
    return digest


def test_what_was_put_is_there_and_nothing_else() -> None:
    contents = Contents()
    digest = put(contents, b"one")
    assert contents.get(digest) == b"one"
    assert contents.get(digest_of(b"two")) is None


def test_empty_content_is_always_there() -> None:
    assert Contents(0).get(EMPTY_DIGEST) == b""


def test_who_was_not_used_for_longest_goes_first() -> None:
    contents = Contents(3 * (ENTRY_BYTES + 1))
    one, two, three = (put(contents, content) for content in (b"1", b"2", b"3"))
    assert contents.get(one) == b"1"
    four = put(contents, b"4")
    assert [contents.get(each) for each in (one, two, three, four)] == [b"1", None, b"3", b"4"]
    put(contents, b"3")
    put(contents, b"5")
    assert contents.get(one) is None
    assert contents.get(three) == b"3"


def test_a_large_content_is_not_kept_and_displaces_nothing() -> None:
    contents = Contents(2 * SMALL_BYTES_MAX)
    small = put(contents, b"small")
    large = put(contents, bytes(SMALL_BYTES_MAX + 1))
    assert contents.get(large) is None
    assert contents.get(small) == b"small"
    most = put(contents, bytes(SMALL_BYTES_MAX))
    assert contents.get(most) == bytes(SMALL_BYTES_MAX)


def test_a_cleared_cache_holds_nothing() -> None:
    contents = Contents()
    digest = put(contents, b"one")
    contents.clear()
    assert contents.get(digest) is None
    assert contents.used_bytes == 0


def test_the_pieces_of_a_manifest_are_kept_together_or_not_at_all() -> None:
    contents = Contents()
    pieces = {digest_of(piece): piece for piece in (b"one", b"two")}
    refs = tuple(ChunkRef(digest, 3) for digest in pieces)
    content = Content(digest_of(b"whole"), 9_000_000, 1, refs)
    assert contents.get_pieces(content) is None
    contents.put_pieces(pieces)
    assert contents.get_pieces(content) == [b"one", b"two"]
    other = Content(content.digest, content.size, 1, (*refs, ChunkRef(digest_of(b"three"), 5)))
    assert contents.get_pieces(other) is None


def test_a_very_long_manifest_does_not_fill_the_cache() -> None:
    contents = Contents()
    pieces = {digest_of(piece): piece for piece in map(noise, range(1, PIECES_KEPT_MAX + 2))}
    contents.put_pieces(pieces)
    assert contents.used_bytes == 0


@given(
    st.integers(0, 4 * ENTRY_BYTES),
    st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), max_size=40),
)
def test_the_bound_holds_and_what_is_there_is_right(
    bytes_max: int, steps: list[tuple[bool, bytes]]
) -> None:
    contents = Contents(bytes_max)
    for is_put, content in steps:
        if is_put:
            put(contents, content)
        assert contents.get(digest_of(content)) in (content, None)
        assert contents.used_bytes <= bytes_max
    held = {content for _, content in steps if contents.get(digest_of(content)) is not None}
    assert (
        contents.used_bytes == sum(len(each) + ENTRY_BYTES for each in held if each) or b"" in held
    )


def test_a_single_chunk_is_a_content_by_its_own_digest() -> None:
    contents = Contents()
    content = content_of(b"whole")
    contents.put(content.refs[0].digest, b"whole")
    assert contents.get(content.digest) == b"whole"
