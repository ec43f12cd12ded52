"""The file table, its chain and its digest: T1 to T3, and addresses."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.changes import Author
from syncline.core.entries import Entry, entry_hash, tombstone
from syncline.core.identity import OpId, ReplicaId, Revision, VolumeId
from syncline.core.names import RelPath
from syncline.core.table import (
    EMPTY_TABLE_DIGEST,
    advance_digest,
    commit_id,
    genesis,
    path_of,
    resolve,
)
from tests.core.test_entries import FILE, LINK
from tests.support.tables import DictTable
from tests.support.trees import directory, file, id_of, link

AUTHOR = Author(ReplicaId(b"R" * 16), "laptop")
OP = OpId(b"O" * 16)
TIME_NS = 1_700_000_000_123_456_789
START = genesis(VolumeId(bytes(range(16))))


def test_the_chain_is_what_it_always_was() -> None:
    first = commit_id(START, Revision(1), AUTHOR, OP, TIME_NS, False, [FILE, LINK])
    second = commit_id(
        first,
        Revision(2),
        AUTHOR,
        OpId(b"P" * 16),
        -1,
        True,
        [tombstone(FILE, Revision(2))],
    )
    assert START.hex() == "7e127d73c89f2aa16decac64322c20ebece5ad538b6262f208094bddc914fde1"
    assert first.hex() == "cf162f8d8f7fc67875162696bbeebc731a69486f0d99788f2686002a06a1cf86"
    assert second.hex() == "f236f14a2566b5093a3bbb65309b12d8f2dda006d8ef314cca2ce9177d7fe75c"


def test_two_volumes_never_share_a_chain() -> None:
    assert genesis(VolumeId(b"a" * 16)) != genesis(VolumeId(b"b" * 16))


def test_t2_everything_that_a_commit_says_is_in_its_id() -> None:
    other = Author(ReplicaId(b"S" * 16), "laptop")
    ids = {
        commit_id(START, Revision(1), AUTHOR, OP, TIME_NS, False, [FILE]),
        commit_id(genesis(VolumeId(b"b" * 16)), Revision(1), AUTHOR, OP, TIME_NS, False, [FILE]),
        commit_id(START, Revision(2), AUTHOR, OP, TIME_NS, False, [FILE]),
        commit_id(START, Revision(1), other, OP, TIME_NS, False, [FILE]),
        commit_id(START, Revision(1), AUTHOR, OpId(b"P" * 16), TIME_NS, False, [FILE]),
        commit_id(START, Revision(1), AUTHOR, OP, TIME_NS + 1, False, [FILE]),
        commit_id(START, Revision(1), AUTHOR, OP, TIME_NS, True, [FILE]),
        commit_id(START, Revision(1), AUTHOR, OP, TIME_NS, False, [FILE, LINK]),
        commit_id(START, Revision(1), AUTHOR, OP, TIME_NS, False, [replace(FILE, mode=0o600)]),
        commit_id(START, Revision(1), AUTHOR, OP, TIME_NS, False, []),
    }
    assert len(ids) == 10


@st.composite
def live_entries(draw: st.DrawFn) -> list[Entry]:
    labels = draw(st.lists(st.sampled_from("abcdefghij"), unique=True, max_size=8))
    kinds = (file, directory, link)
    return [
        draw(st.sampled_from(kinds))(label, revision=draw(st.integers(1, 5))) for label in labels
    ]


@given(live_entries(), st.data(), st.integers(0, 8))
def test_t3_the_digest_needs_no_order(entries: list[Entry], data: st.DataObject, cut: int) -> None:
    whole = advance_digest(EMPTY_TABLE_DIGEST, (), entries)
    shuffled = data.draw(st.permutations(entries))
    half = advance_digest(EMPTY_TABLE_DIGEST, (), shuffled[:cut])
    assert advance_digest(half, (), shuffled[cut:]) == whole
    assert 0 <= whole < 2**256


@given(live_entries(), live_entries())
def test_t3_the_digest_goes_back_the_way_it_came(entries: list[Entry], others: list[Entry]) -> None:
    start = advance_digest(EMPTY_TABLE_DIGEST, (), entries)
    there = advance_digest(start, entries, others)
    assert there == advance_digest(EMPTY_TABLE_DIGEST, (), others)
    assert advance_digest(there, others, entries) == start


@given(live_entries(), live_entries())
def test_t3_equal_digests_mean_equal_tables(entries: list[Entry], others: list[Entry]) -> None:
    one = advance_digest(EMPTY_TABLE_DIGEST, (), entries)
    two = advance_digest(EMPTY_TABLE_DIGEST, (), others)
    assert (one == two) == (set(entries) == set(others))


def test_t3_tombstones_and_nothing_count_for_nothing() -> None:
    entry = file("a")
    dead = tombstone(entry, Revision(2))
    assert EMPTY_TABLE_DIGEST == 0
    assert advance_digest(EMPTY_TABLE_DIGEST, [None], [entry]) == entry_hash(entry)
    assert advance_digest(entry_hash(entry), [entry], [dead]) == EMPTY_TABLE_DIGEST
    assert advance_digest(EMPTY_TABLE_DIGEST, [dead], [entry]) == entry_hash(entry)


TABLE = DictTable(
    [
        directory("d"),
        directory("e", "d"),
        file("f", "e"),
        link("l", "d", target=b"e"),
        file("plain"),
        tombstone(file("dead", "e"), Revision(2)),
        tombstone(directory("gone", "d"), Revision(3)),
        tombstone(file("below", "gone"), Revision(3)),
    ]
)

ADDRESSES = {
    "top": (b"d", "d"),
    "below": (b"d/e", "e"),
    "deep": (b"d/e/f", "f"),
    "link itself": (b"d/l", "l"),
    "through a link": (b"d/l/f", None),
    "through a file": (b"plain/x", None),
    "missing": (b"nothing", None),
    "missing directory": (b"nothing/x", None),
    "deleted": (b"d/e/dead", None),
    "below what was deleted": (b"d/gone/below", None),
    "the root": (b"", None),
}


@pytest.mark.parametrize(("path", "label"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_resolve_walks_names_from_the_root(path: bytes, label: str | None) -> None:
    found = resolve(TABLE, RelPath.parse(path))
    assert (found.id if found else None) == (id_of(label) if label else None)


def test_path_of_is_the_way_back() -> None:
    for entry in TABLE.live():
        assert resolve(TABLE, path_of(TABLE, entry)) == entry


def test_path_of_a_tombstone_is_the_last_address() -> None:
    assert str(path_of(TABLE, TABLE.states[id_of("dead")])) == "d/e/dead"
    assert str(path_of(TABLE, TABLE.states[id_of("below")])) == "d/gone/below"
