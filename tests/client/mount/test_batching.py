"""Batches: every unit whole, in order, within bounds; large files last and alone."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.batching import CONTENT_MAX, WEIGHT_MAX, Batch, batches
from syncline.core.bounds import CommitBounds, change_bytes
from syncline.core.changes import (
    CHANGES_MAX,
    COMMIT_BYTES_MAX,
    Change,
    Delete,
    Move,
    PutDirectory,
    PutFile,
    PutLink,
)
from syncline.core.identity import ROOT_ID, EntryId, Revision, digest_of
from syncline.core.manifests import (
    CHUNK_BYTES_MAX,
    INLINE_BYTES_MAX,
    ChunkRef,
    Content,
    build_content,
    single_chunk,
)
from syncline.core.names import Name
from syncline.core.plans import Unit

BASE = Revision(7)


def id_of(number: int) -> EntryId:
    return EntryId(number.to_bytes(16, "big"))


def content_of(size: int, number: int = 0) -> Content:
    digest = digest_of(b"%d %d" % (size, number))
    if size <= CHUNK_BYTES_MAX:
        return single_chunk(digest, size)
    full, rest = divmod(size, CHUNK_BYTES_MAX)
    sizes = [CHUNK_BYTES_MAX] * full + ([rest] if rest else [])
    return build_content(digest, size, [ChunkRef(digest_of(b"%d" % s), s) for s in sizes])[0]


def file(number: int, size: int) -> PutFile:
    name = Name(b"f%d" % number)
    return PutFile(id_of(number), BASE, ROOT_ID, name, 0o644, 0, content_of(size, number))


def single(change: Change) -> Unit:
    return Unit((change,))


def is_large(change: Change) -> bool:
    return isinstance(change, PutFile) and change.content.size > SMALL_BYTES_MAX


def is_late(unit: Unit) -> bool:
    return len(unit.changes) == 1 and not unit.is_atomic and is_large(unit.changes[0])


def test_nothing_makes_no_batch() -> None:
    assert batches([]) == []


def test_small_changes_travel_together_in_order() -> None:
    directory = PutDirectory(id_of(1), Revision(0), ROOT_ID, Name(b"d"), 0o755)
    changes = (directory, file(2, 10), Delete(id_of(3), BASE))
    assert batches([single(change) for change in changes]) == [Batch(changes)]


def test_a_large_file_goes_alone_after_all_that_is_quick() -> None:
    large, larger = file(1, SMALL_BYTES_MAX + 1), file(3, 5 * SMALL_BYTES_MAX)
    quick = file(2, SMALL_BYTES_MAX), file(4, 1)
    units = [single(change) for change in (large, quick[0], larger, quick[1])]
    assert batches(units) == [Batch(quick), Batch((large,)), Batch((larger,))]


def test_a_large_file_that_moves_as_well_keeps_its_turn() -> None:
    large = file(1, SMALL_BYTES_MAX + 1)
    moved = Unit((Move(large.id, BASE, ROOT_ID, large.name), large))
    before, after = file(2, 1), file(3, 1)
    made = batches([single(before), moved, single(after)])
    assert made == [Batch((before,)), Batch(moved.changes), Batch((after,))]


def test_an_atomic_unit_goes_alone() -> None:
    ring = Unit((Move(id_of(1), BASE, ROOT_ID, Name(b"a")), file(2, 5 * SMALL_BYTES_MAX)), True)
    one, other = file(3, 1), file(4, 1)
    made = batches([single(one), ring, single(other)])
    assert made == [Batch((one,)), Batch(ring.changes, is_atomic=True), Batch((other,))]


def test_a_unit_over_the_bounds_is_not_split() -> None:
    many = Unit(tuple(Delete(id_of(number), BASE) for number in range(CHANGES_MAX + 1)))
    made = batches([single(file(1, 1)), many, single(file(2, 1))])
    assert [len(batch.changes) for batch in made] == [1, CHANGES_MAX + 1, 1]


def test_many_changes_are_cut_at_the_bound() -> None:
    units = [single(Delete(id_of(number), BASE)) for number in range(2 * CHANGES_MAX + 1)]
    assert [len(batch.changes) for batch in batches(units)] == [CHANGES_MAX, CHANGES_MAX, 1]


def test_a_batch_is_far_below_what_a_commit_may_hold() -> None:
    assert WEIGHT_MAX + INLINE_BYTES_MAX < COMMIT_BYTES_MAX


sizes = st.sampled_from(
    [0, 1, 1000, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, SMALL_BYTES_MAX, SMALL_BYTES_MAX + 1]
)
numbers = st.integers(1, 10**6)
files = st.builds(file, numbers, sizes)
changes = st.one_of(
    files,
    files,
    st.builds(lambda number: Delete(id_of(number), BASE), numbers),
    st.builds(lambda number: Move(id_of(number), BASE, ROOT_ID, Name(b"n" * 255)), numbers),
    st.builds(
        lambda number: PutLink(id_of(number), BASE, ROOT_ID, Name(b"l"), 0, b"t" * 4095), numbers
    ),
)
units = st.builds(
    lambda changes, is_atomic: Unit(tuple(changes), is_atomic),
    st.one_of(st.lists(changes, min_size=1, max_size=1), st.lists(changes, min_size=1, max_size=4)),
    st.sampled_from([False, False, False, True]),
)
# Few examples fill a batch by chance: some lists hold each unit many times.
plans = st.one_of(
    st.lists(units, max_size=30),
    st.lists(st.tuples(units, st.integers(1, 900)), max_size=6).map(
        lambda runs: [unit for unit, times in runs for _ in range(times)]
    ),
)


@given(plans)
def test_batches_of_any_plan(plan: list[Unit]) -> None:
    made = batches(plan)
    in_turn = [unit for unit in plan if not is_late(unit)]
    late = [unit for unit in plan if is_late(unit)]
    expected = in_turn + late
    position = 0
    for batch in made:
        taken = []
        while sum(len(unit.changes) for unit in taken) < len(batch.changes):
            taken.append(expected[position])
            position += 1
        assert batch.changes == tuple(change for unit in taken for change in unit.changes)
        assert batch.is_atomic == any(unit.is_atomic for unit in taken)
        if len(taken) > 1:
            assert not batch.is_atomic
            assert not any(map(is_large, batch.changes))
            check_bounds(batch)
    assert position == len(expected)


def check_bounds(batch: Batch) -> None:
    bounds = CommitBounds()
    content = 0
    for change in batch.changes:
        size = change.content.size if isinstance(change, PutFile) else 0
        bounds.add(change, size if size <= INLINE_BYTES_MAX else 0)
        content += size if size > INLINE_BYTES_MAX else 0
    bounds.finish()
    assert bounds.used_bytes <= WEIGHT_MAX
    assert content <= CONTENT_MAX


@given(st.lists(files, max_size=200))
def test_no_batch_is_cut_before_it_must_be(puts: list[PutFile]) -> None:
    made = [batch for batch in batches(list(map(single, puts))) if not is_large(batch.changes[0])]
    for one, following in pairwise(made):
        weight = content = 0
        for change in (*one.changes, following.changes[0]):
            assert isinstance(change, PutFile)
            is_inline = change.content.size <= INLINE_BYTES_MAX
            weight += change_bytes(change) + (change.content.size if is_inline else 0)
            content += 0 if is_inline else change.content.size
        is_full = len(one.changes) == CHANGES_MAX
        assert weight > WEIGHT_MAX or content > CONTENT_MAX or is_full
