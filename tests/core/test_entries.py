"""Entries: E1 to E3, and bytes that must never change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.entries import (
    LINK_MODE,
    MTIME_NS_MAX,
    MTIME_NS_MIN,
    TARGET_BYTES_MAX,
    Entry,
    Kind,
    encode_entry,
    entry_hash,
    parse_mode,
    parse_target,
    tombstone,
)
from syncline.core.identity import ROOT_ID, EntryId, Revision, digest_of
from syncline.core.manifests import ChunkRef, Content, single_chunk
from syncline.core.names import Name
from syncline.errors import Invalid
from tests.support.trees import directory, file, link

FILE = Entry(
    EntryId(bytes(range(16))),
    Revision(7),
    EntryId(bytes(range(16, 32))),
    Name(b"caf\xe9.txt"),
    Kind.FILE,
    0o640,
    -1_500_000_000,
    single_chunk(digest_of(b"abc"), 3),
    None,
)
LINK = Entry(
    EntryId(b"L" * 16),
    Revision(8),
    ROOT_ID,
    Name(b"link"),
    Kind.LINK,
    LINK_MODE,
    5,
    None,
    b"../up",
)

FILE_BYTES = bytes.fromhex(
    "000102030405060708090a0b0c0d0e0f"  # id
    "0000000000000007"  # revision
    "101112131415161718191a1b1c1d1e1f"  # parent
    "01"  # kind
    "01"  # live
    "000001a0"  # mode
    "ffffffffa697d100"  # mtime
    "0000000000000003"  # size
    "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"  # content digest
    "0008"  # length of the name
    "00000000"  # length of the target
    "636166e92e747874"  # name
)
LINK_BYTES = bytes.fromhex(
    "4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c4c"
    "0000000000000008"
    "00000000000000000000000000000000"
    "03"
    "01"
    "000001ff"
    "0000000000000005"
    "0000000000000000"
    "0000000000000000000000000000000000000000000000000000000000000000"
    "0004"
    "00000005"
    "6c696e6b"  # name
    "2e2e2f7570"  # target
)
FILE_HASH = 111170655246524723338299002943785180724284793969603537464554562250319959078581
LINK_HASH = 73106855056992857798314077065425182931810228438483701709616720844463255599326


@pytest.mark.parametrize(
    ("entry", "encoded", "number"),
    [(FILE, FILE_BYTES, FILE_HASH), (LINK, LINK_BYTES, LINK_HASH)],
    ids=["file", "link"],
)
def test_the_encoding_and_the_hash_are_what_they_always_were(
    entry: Entry, encoded: bytes, number: int
) -> None:
    assert encode_entry(entry).hex() == encoded.hex()
    assert entry_hash(entry) == number
    digest = blake3(b"syncline entry v1\0" + encoded).digest()
    assert entry_hash(entry) == int.from_bytes(digest, "big")


ids = st.sampled_from([EntryId(bytes([n]) * 16) for n in range(3)])
times = st.sampled_from([MTIME_NS_MIN, -1, 0, 1, MTIME_NS_MAX]) | st.integers(
    MTIME_NS_MIN, MTIME_NS_MAX
)
short = st.binary(min_size=1, max_size=4)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    kind = draw(st.sampled_from(Kind))
    content = draw(short.map(lambda raw: single_chunk(digest_of(raw), len(raw))))
    entry = Entry(
        draw(ids),
        Revision(draw(st.integers(1, 3))),
        draw(ids),
        Name(draw(short)),
        kind,
        draw(st.sampled_from([0, 0o644, 0o777])),
        0 if kind is Kind.DIRECTORY else draw(times),
        content if kind is Kind.FILE else None,
        draw(short) if kind is Kind.LINK else None,
    )
    return entry if draw(st.booleans()) else tombstone(entry, Revision(4))


@given(entries(), entries())
def test_e3_two_states_have_equal_bytes_exactly_when_they_are_equal(one: Entry, two: Entry) -> None:
    assert (encode_entry(one) == encode_entry(two)) == (one == two)
    assert (entry_hash(one) == entry_hash(two)) == (one == two)


@given(entries(), st.data())
def test_e3_every_field_counts(entry: Entry, data: st.DataObject) -> None:
    other = data.draw(entries())
    for field in ("id", "revision", "parent", "name", "mode", "mtime_ns"):
        changed = replace(entry, **{field: getattr(other, field)})
        assert (encode_entry(changed) == encode_entry(entry)) == (changed == entry)


def test_e3_a_name_and_a_target_do_not_run_into_each_other() -> None:
    assert encode_entry(link("x", name=b"ab", target=b"c")) != encode_entry(
        link("x", name=b"a", target=b"bc")
    )


def test_e3_the_chunking_does_not_count() -> None:
    whole = file("x")
    assert whole.content is not None
    halves = (ChunkRef(digest_of(b"1"), 3), ChunkRef(digest_of(b"2"), 4))
    cut = replace(whole, content=Content(whole.content.digest, whole.content.size, 0, halves))
    assert encode_entry(cut) == encode_entry(whole)


def test_e3_an_empty_file_is_no_directory_and_no_tombstone() -> None:
    empty = file("x", content=b"", mode=0o755, mtime_ns=0)
    assert encode_entry(empty) != encode_entry(directory("x"))
    assert encode_entry(empty) != encode_entry(tombstone(empty, empty.revision))


def test_a_tombstone_keeps_the_place_and_no_content() -> None:
    dead = tombstone(FILE, Revision(9))
    assert not dead.is_live
    assert (dead.id, dead.parent, dead.name, dead.kind) == (
        FILE.id,
        FILE.parent,
        FILE.name,
        FILE.kind,
    )
    assert (dead.revision, dead.content, dead.target, dead.size, dead.digest) == (
        9,
        None,
        None,
        0,
        None,
    )
    assert tombstone(LINK, Revision(9)).target is None


def test_e1_only_a_file_has_a_size_and_a_digest() -> None:
    assert (FILE.size, FILE.digest) == (3, digest_of(b"abc"))
    for entry in (LINK, directory("d")):
        assert (entry.size, entry.digest) == (0, None)


MODES = {
    "plain": (0o644, 0o644),
    "none": (0, 0),
    "set-uid": (0o4755, 0o755),
    "set-gid": (0o2755, 0o755),
    "sticky": (0o1777, 0o777),
    "as lstat gives it": (0o100664, 0o664),
    "all bits": (0o177777, 0o777),
}


@pytest.mark.parametrize(("mode", "kept"), MODES.values(), ids=MODES.keys())
def test_e2_a_mode_keeps_permission_bits_alone(mode: int, kept: int) -> None:
    assert parse_mode(mode) == kept


@pytest.mark.parametrize("mode", [-1, 0o200000, 2**32 - 1])
def test_a_mode_that_no_file_system_has_is_refused(mode: int) -> None:
    with pytest.raises(Invalid, match="out of range"):
        parse_mode(mode)


@pytest.mark.parametrize(
    "target", [b"x", b"/etc/passwd", b"../../..", b"\xff\n\x1b", b"t" * TARGET_BYTES_MAX]
)
def test_a_target_is_text_and_is_not_looked_at(target: bytes) -> None:
    assert parse_target(target) == target


@pytest.mark.parametrize("target", [b"", b"a\0b", b"t" * (TARGET_BYTES_MAX + 1)])
def test_a_target_that_no_link_can_hold_is_refused(target: bytes) -> None:
    with pytest.raises(Invalid):
        parse_target(target)
