"""The pack store on a real file system: damage, crashes, full disks, failing system calls."""

from __future__ import annotations

import os
import stat
import struct
import tempfile
import tracemalloc
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.adapters.pack_files import PackFiles
from syncline.adapters.pack_format import FILE_HEADER_BYTES, RECORD_HEADER_BYTES
from syncline.adapters.packs import PackStore
from syncline.core.bodies import Compressed
from syncline.core.identity import Digest, digest_of
from syncline.errors import Corrupt, LocalFailure, TooNew
from syncline.ports.chunks import Location, Record
from tests.support.packs import filled, numbered, pack_path, records, scan

Chunks = list[tuple[Digest, bytes]]

GOLDEN_PACK = bytes.fromhex(
    "534c4e455041434b000000019ea618e7"
    "f5534c7200000000090000000965669f5d1aa9e91a70e294ee8e921c0b48b9e9cf84"
    "0740699bc5f048c02a352718831ace73796e636c696e650a"
)
"""A whole pack of format 1 whose only chunk is `syncline` and a newline."""

GOLDEN_FRAME = bytes.fromhex("28b52ffd6084028500004873796e636c696e650a010078599523")
"""`syncline` and a newline, a hundred times, as zstd had it at level 1."""

# --- the format


def file_header(version: int) -> bytes:
    fields = struct.pack(">8sI", b"SLNEPACK", version)
    return fields + struct.pack(">I", zlib.crc32(fields))


def record(flags: int, digest: Digest, payload: bytes, size: int) -> bytes:
    """Return the first record of pack 1 as `docs/FORMAT.md` has it."""
    fields = struct.pack(">4sBII32s", b"\xf5SLr", flags, len(payload), size, digest)
    place = struct.pack(">QQ", 1, FILE_HEADER_BYTES)
    return fields + struct.pack(">I", zlib.crc32(place + fields)) + payload


def test_the_written_bytes_are_those_of_format_2(tmp_path: Path) -> None:
    content = b"syncline\n"
    digest = digest_of(content)
    filled(tmp_path / "packs", [(digest, content)])
    written = pack_path(tmp_path / "packs").read_bytes()
    assert written == file_header(2) + record(0, digest, content, len(content))
    assert written[FILE_HEADER_BYTES:] == GOLDEN_PACK[FILE_HEADER_BYTES:]


def test_a_compressed_chunk_is_written_as_it_came(tmp_path: Path) -> None:
    content = b"syncline\n" * 100
    digest = digest_of(content)
    body = Compressed(GOLDEN_FRAME, len(content))
    filled(tmp_path / "packs", [(digest, body)])
    written = pack_path(tmp_path / "packs").read_bytes()
    assert written == file_header(2) + record(1, digest, GOLDEN_FRAME, len(content))
    store = PackStore(tmp_path / "packs")
    (found,) = store.scan(1, 0)
    assert found == Record(Location(1, FILE_HEADER_BYTES, 49 + len(GOLDEN_FRAME)), digest)
    assert store.read(digest, found.location) == content
    assert store.read_body(digest, found.location) == body
    store.close()


def test_a_pack_of_format_1_takes_no_more_records(tmp_path: Path) -> None:
    pack_path(tmp_path).write_bytes(GOLDEN_PACK)
    store = PackStore(tmp_path)
    assert store.cut_tail(1, len(GOLDEN_PACK)) == 0
    (location,) = store.append(numbered(1))
    assert location.pack == 2
    store.close()
    assert pack_path(tmp_path).read_bytes() == GOLDEN_PACK


@pytest.mark.parametrize(
    ("payload", "size"),
    [(b"", 10), (b"0123456789", 10), (b"0123456789", 9), (b"0123456789", 2**20 + 1)],
    ids=["empty", "as long as the chunk", "longer", "over 1 MiB"],
)
def test_a_compressed_record_of_impossible_sizes_is_none(
    tmp_path: Path, payload: bytes, size: int
) -> None:
    digest = digest_of(b"whatever")
    raw = record(1, digest, payload, size)
    pack_path(tmp_path).write_bytes(file_header(2) + raw)
    store = PackStore(tmp_path)
    assert list(store.scan(1, 0)) == []
    with pytest.raises(Corrupt):
        store.read(digest, Location(1, FILE_HEADER_BYTES, len(raw)))
    store.close()


@pytest.mark.parametrize(
    ("payload", "size"),
    [(GOLDEN_FRAME, 899), (GOLDEN_FRAME, 901), (GOLDEN_FRAME[:-1], 900), (b"no zstd", 900)],
    ids=["it makes more", "it makes less", "cut off", "garbage"],
)
def test_a_record_that_cannot_be_opened_is_damaged_and_what_follows_is_found(
    tmp_path: Path, payload: bytes, size: int
) -> None:
    digest = digest_of(b"syncline\n" * 100)
    raw = record(1, digest, payload, size)
    pack_path(tmp_path).write_bytes(file_header(2) + raw)
    location = Location(1, FILE_HEADER_BYTES, len(raw))
    store = PackStore(tmp_path)
    assert store.cut_tail(1, FILE_HEADER_BYTES + len(raw)) == 0
    (after,) = store.append(numbered(1))
    assert list(store.scan(1, 0)) == [Record(location, None), Record(after, numbered(1)[0][0])]
    for read in (store.read, store.read_body):
        with pytest.raises(Corrupt) as caught:
            read(digest, location)
        assert caught.value.fields["digest"] == digest.hex()
    store.close()


def test_a_pack_of_format_1_is_read(tmp_path: Path) -> None:
    pack_path(tmp_path).write_bytes(GOLDEN_PACK)
    store = PackStore(tmp_path)
    (record,) = store.scan(1, 0)
    assert record.digest == digest_of(b"syncline\n")
    assert store.read(record.digest, record.location) == b"syncline\n"
    store.close()


def newer_file_header() -> bytes:
    return file_header(3)


def test_a_newer_pack_is_refused_and_left_alone(tmp_path: Path) -> None:
    pack_path(tmp_path).write_bytes(newer_file_header() + b"whatever")
    with pytest.raises(TooNew) as caught:
        PackStore(tmp_path)
    assert caught.value.fields == {"pack": "1", "found": "3", "newest": "2"}
    assert pack_path(tmp_path).read_bytes() == newer_file_header() + b"whatever"


def test_an_older_pack_of_a_newer_format_is_refused_when_it_is_used(tmp_path: Path) -> None:
    chunks = numbered(1)
    pack_path(tmp_path, 1).write_bytes(newer_file_header())
    pack_path(tmp_path, 2).write_bytes(GOLDEN_PACK[:FILE_HEADER_BYTES])
    store = PackStore(tmp_path)
    with pytest.raises(TooNew):
        list(store.scan(1, 0))
    with pytest.raises(TooNew):
        store.read(chunks[0][0], Location(1, FILE_HEADER_BYTES, RECORD_HEADER_BYTES + 20))
    with pytest.raises(TooNew):
        store.cut_tail(1, 0)
    store.close()


def test_a_record_of_an_unknown_kind_is_too_new(tmp_path: Path) -> None:
    content = b"encrypted some day"
    digest = digest_of(content)
    raw = record(2, digest, content, 1000)
    pack_path(tmp_path).write_bytes(GOLDEN_PACK[:FILE_HEADER_BYTES] + raw)
    store = PackStore(tmp_path)
    with pytest.raises(TooNew):
        list(store.scan(1, 0))
    with pytest.raises(TooNew):
        store.read(digest, Location(1, FILE_HEADER_BYTES, len(raw)))
    store.close()


def test_the_directory_and_packs_are_for_the_owner_alone(tmp_path: Path) -> None:
    modes: list[int] = []

    class Watching(PackFiles):
        def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
            return super().write(fd, buffers, offset)

    before = os.umask(0)
    try:
        store = PackStore(tmp_path / "volume" / "packs", files=Watching())
        store.append(numbered(1))
    finally:
        os.umask(before)
    store.close()
    for made in ("volume", "volume/packs"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o700
    assert set(modes) == {0o600}


def test_other_files_in_the_directory_are_not_packs(tmp_path: Path) -> None:
    for name in ("00000001.pack.tmp", "1.pack", "notes", "٠٠٠٠٠٠٠١.pack"):
        (tmp_path / name).write_bytes(b"x")
    store = PackStore(tmp_path)
    assert list(store.packs()) == []
    store.close()


def test_a_directory_that_cannot_be_made_is_a_local_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for directory in ("file", "file/packs", "a/b/packs"):
        with pytest.raises(LocalFailure):
            PackStore(tmp_path / directory)


# --- damage


def test_a_write_torn_at_any_byte_leaves_the_records_before_it(tmp_path: Path) -> None:
    chunks = numbered(3)
    locations = filled(tmp_path / "whole", chunks)
    image = pack_path(tmp_path / "whole").read_bytes()
    for size in range(len(image) + 1):
        directory = tmp_path / str(size)
        directory.mkdir()
        pack_path(directory).write_bytes(image[:size])
        count = sum(at.offset + at.size <= size for at in locations)
        found = scan(directory)
        assert found == records(chunks[:count], locations[:count])
        end = locations[count - 1].offset + locations[count - 1].size if count else 0
        store = PackStore(directory)
        clean = max(end, FILE_HEADER_BYTES) if size >= FILE_HEADER_BYTES else 0
        assert store.cut_tail(1, end) == size - clean
        added = store.append(chunks[count:])
        store.sync()
        store.close()
        assert scan(directory, added[0].pack if added else 1)[-len(chunks[count:]) :] == (
            records(chunks[count:], added) if added else found
        )
        assert clean == 0 or not added or added == locations[count:]


def test_a_flipped_bit_anywhere_is_named_and_hides_no_other_record(tmp_path: Path) -> None:
    chunks = numbered(3)
    locations = filled(tmp_path, chunks)
    whole = records(chunks, locations)
    image = pack_path(tmp_path).read_bytes()
    store = PackStore(tmp_path)
    for offset in range(len(image)):
        damaged = bytearray(image)
        damaged[offset] ^= 1 << (offset % 8)
        pack_path(tmp_path).write_bytes(damaged)
        hit = next((n for n, at in enumerate(locations) if at.offset + at.size > offset), 0)
        expected: list[Record] = list(whole)
        if offset < FILE_HEADER_BYTES:
            expected.insert(0, Record(Location(1, 0, FILE_HEADER_BYTES), None))
        else:
            expected[hit] = Record(locations[hit], None)
            with pytest.raises(Corrupt):
                store.read(chunks[hit][0], locations[hit])
        is_last_header = 0 <= offset - locations[2].offset < RECORD_HEADER_BYTES
        assert list(store.scan(1, 0)) == (expected[:2] if is_last_header else expected)
        for n in {0, 1, 2} - ({hit} if offset >= FILE_HEADER_BYTES else set()):
            assert store.read(chunks[n][0], locations[n]) == chunks[n][1]
    store.close()


def test_damage_across_two_records_names_both(tmp_path: Path) -> None:
    chunks = numbered(4)
    locations = filled(tmp_path, chunks)
    with pack_path(tmp_path).open("r+b") as file:
        file.seek(locations[1].offset + locations[1].size - 3)
        file.write(bytes(10))
    expected = records(chunks, locations)
    expected[1:3] = [Record(locations[1], None), Record(locations[2], None)]
    assert scan(tmp_path) == expected


def test_records_inside_a_users_content_are_not_taken_for_records(tmp_path: Path) -> None:
    filled(tmp_path / "inner", numbered(5))
    inner = pack_path(tmp_path / "inner").read_bytes()
    chunks = [(digest_of(inner), inner), *numbered(1)]
    locations = filled(tmp_path / "outer", chunks)
    with pack_path(tmp_path / "outer").open("r+b") as file:
        file.seek(locations[0].offset)
        file.write(bytes(8))
    expected = records(chunks, locations)
    assert scan(tmp_path / "outer") == [Record(locations[0], None), expected[1]]


def test_a_gap_larger_than_a_search_window_in_flat_memory(tmp_path: Path) -> None:
    contents = [(b"\xf5SLr" + bytes(1000 + n)) * 1000 for n in range(12)]
    chunks = [(digest_of(content), content) for content in contents]
    locations = filled(tmp_path, chunks)
    with pack_path(tmp_path).open("r+b") as file:
        for hurt in locations[3:8]:
            file.seek(hurt.offset + 10)
            file.write(b"damage")
    whole = records(chunks, locations)
    gap = Location(1, locations[3].offset, locations[8].offset - locations[3].offset)
    del contents, chunks
    tracemalloc.start()
    try:
        found = scan(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [*whole[:3], Record(gap, None), *whole[8:]]
    assert peak < 5 * 2**20


def test_a_pack_that_vanished_is_corrupt(tmp_path: Path) -> None:
    chunks = numbered(1)
    (location,) = filled(tmp_path, chunks)
    pack_path(tmp_path).unlink()
    store = PackStore(tmp_path)
    with pytest.raises(Corrupt, match="missing") as caught:
        store.read(chunks[0][0], location)
    assert caught.value.fields == {
        "digest": chunks[0][0].hex(),
        "pack": "1",
        "offset": str(location.offset),
    }
    store.close()


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.lists(st.binary(max_size=300), max_size=5), max_size=6),
    cut=st.floats(0, 1),
    tail=st.sampled_from([b"", bytes(100), b"\xf5SLr" * 30, b"SLNEPACK"]),
)
def test_after_a_crash_at_any_byte_exactly_the_records_before_it_are_found(
    batches: list[list[bytes]], cut: float, tail: bytes
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store = PackStore(directory)
        chunks = [[(digest_of(content), content) for content in batch] for batch in batches]
        written = [
            Record(at, digest)
            for batch in chunks
            for (digest, _), at in zip(batch, store.append(batch), strict=True)
        ]
        store.close()
        if not written:
            assert list(store.packs()) == []
            return
        image = pack_path(directory).read_bytes()
        size = round(cut * len(image))
        left = image[:size] + tail
        pack_path(directory).write_bytes(left)
        # Foreign bytes behind the cut may happen to be the very ones that were cut off.
        spans = [slice(r.location.offset, r.location.offset + r.location.size) for r in written]
        expected = [r for r, at in zip(written, spans, strict=True) if left[at] == image[at]]
        found = scan(directory)
        assert [record for record in found if record.digest is not None] == expected
        torn = next((r.location for r in written if r not in expected), None)
        assert found[len(expected) :] in ([], [Record(torn, None)] if tail and torn else [])


# --- restarts


def test_restarts_that_establish_the_end_go_on_in_one_pack(tmp_path: Path) -> None:
    chunks = numbered(20)
    locations: list[Location] = []
    for one in chunks:
        store = PackStore(tmp_path)
        for pack in store.packs()[-1:]:
            found = list(store.scan(pack, 0))
            end = found[-1].location
            assert store.cut_tail(pack, end.offset + end.size) == 0
        locations += store.append([one])
        store.sync()
        store.close()
    assert {at.pack for at in locations} == {1}
    assert scan(tmp_path) == records(chunks, locations)


def test_a_pack_with_a_damaged_file_header_takes_no_more(tmp_path: Path) -> None:
    (location,) = filled(tmp_path, numbered(1))
    with pack_path(tmp_path).open("r+b") as file:
        file.write(b"?")
    store = PackStore(tmp_path)
    assert store.cut_tail(1, location.offset + location.size) == 0
    assert store.append(numbered(1))[0].pack == 2
    store.close()


def test_a_cut_makes_durable_what_a_killed_server_left(tmp_path: Path) -> None:
    (location,) = filled(tmp_path, numbered(1))
    synced: list[str] = []

    class Watching(PackFiles):
        def sync(self, fd: int) -> None:
            synced.append("pack")
            super().sync(fd)

        def sync_directory(self, fd: int) -> None:
            synced.append("directory")
            super().sync_directory(fd)

    store = PackStore(tmp_path, files=Watching())
    synced.clear()
    store.cut_tail(1, location.offset + location.size)
    assert synced == ["pack", "directory"]
    store.close()
