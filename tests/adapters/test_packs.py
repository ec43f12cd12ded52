"""The pack store on a real file system: damage, crashes, full disks, failing system calls."""

from __future__ import annotations

import errno
import os
import resource
import stat
import struct
import subprocess
import sys
import tempfile
import threading
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
from syncline.core.identity import Digest, digest_of
from syncline.errors import Corrupt, LocalFailure, NoSpace, TooNew
from syncline.ports.chunks import Location, Record

Chunks = list[tuple[Digest, bytes]]

GOLDEN_PACK = bytes.fromhex(
    "534c4e455041434b000000019ea618e7"
    "f5534c7200000000090000000965669f5d1aa9e91a70e294ee8e921c0b48b9e9cf84"
    "0740699bc5f048c02a352718831ace73796e636c696e650a"
)
"""A whole pack of format 1 whose only chunk is `syncline` and a newline."""


def numbered(count: int, size: int = 20) -> Chunks:
    contents = [n.to_bytes(4, "big") * (size // 4) for n in range(count)]
    return [(digest_of(content), content) for content in contents]


def filled(directory: Path, chunks: Chunks) -> list[Location]:
    """Write chunks to pack 1 of a new store and close it."""
    store = PackStore(directory)
    locations = store.append(chunks)
    store.sync()
    store.close()
    return locations


def records(chunks: Chunks, locations: Sequence[Location]) -> list[Record]:
    return [Record(at, digest) for (digest, _), at in zip(chunks, locations, strict=True)]


def scan(directory: Path, pack: int = 1) -> list[Record]:
    store = PackStore(directory)
    found = list(store.scan(pack, 0))
    store.close()
    return found


def pack_path(directory: Path, number: int = 1) -> Path:
    return directory / f"{number:08d}.pack"


# --- the format


def test_the_written_bytes_are_those_of_format_1(tmp_path: Path) -> None:
    content = b"syncline\n"
    filled(tmp_path / "packs", [(digest_of(content), content)])
    assert pack_path(tmp_path / "packs").read_bytes().hex() == GOLDEN_PACK.hex()


def test_a_pack_of_format_1_is_read(tmp_path: Path) -> None:
    pack_path(tmp_path).write_bytes(GOLDEN_PACK)
    store = PackStore(tmp_path)
    (record,) = store.scan(1, 0)
    assert record.digest == digest_of(b"syncline\n")
    assert store.read(record.digest, record.location) == b"syncline\n"
    store.close()


def newer_file_header() -> bytes:
    fields = struct.pack(">8sI", b"SLNEPACK", 2)
    return fields + struct.pack(">I", zlib.crc32(fields))


def test_a_newer_pack_is_refused_and_left_alone(tmp_path: Path) -> None:
    pack_path(tmp_path).write_bytes(newer_file_header() + b"whatever")
    with pytest.raises(TooNew) as caught:
        PackStore(tmp_path)
    assert caught.value.fields == {"pack": "1", "found": "2", "newest": "1"}
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
    content = b"compressed some day"
    digest = digest_of(content)
    fields = struct.pack(">4sBII32s", b"\xf5SLr", 1, len(content), 1000, digest)
    place = struct.pack(">QQ", 1, FILE_HEADER_BYTES)
    header = fields + struct.pack(">I", zlib.crc32(place + fields))
    pack_path(tmp_path).write_bytes(GOLDEN_PACK[:FILE_HEADER_BYTES] + header + content)
    store = PackStore(tmp_path)
    with pytest.raises(TooNew):
        list(store.scan(1, 0))
    with pytest.raises(TooNew):
        store.read(digest, Location(1, FILE_HEADER_BYTES, len(header) + len(content)))
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


# --- syncs


class Order(PackFiles):
    """Keeps a list of what was asked of the disk."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self.calls.append(("write", os.fstat(fd).st_ino))
        return super().write(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        self.calls.append(("sync", os.fstat(fd).st_ino))
        super().sync(fd)

    def sync_directory(self, fd: int) -> None:
        self.calls.append(("names", os.fstat(fd).st_ino))
        super().sync_directory(fd)


def test_a_pack_is_durable_before_the_next_one_exists(tmp_path: Path) -> None:
    files = Order()
    store = PackStore(tmp_path, pack_bytes_max=1, files=files)
    files.calls.clear()
    store.append(numbered(1))
    store.append(numbered(1))
    first, second = (pack_path(tmp_path, n).stat().st_ino for n in (1, 2))
    here = tmp_path.stat().st_ino
    assert files.calls == [
        *[("write", first)] * 2,
        ("sync", first),
        ("names", here),
        *[("write", second)] * 2,
    ]
    store.close()


def test_the_directory_is_synced_once_a_pack(tmp_path: Path) -> None:
    store = PackStore(tmp_path)
    before = store.directory_syncs
    for n in range(5):
        store.append(numbered(n + 1))
        store.sync()
    assert (store.syncs, store.directory_syncs - before) == (5, 1)
    store.close()


class Gate(PackFiles):
    """Holds the first sync until it is let go; then lets it fail where it was told to."""

    def __init__(self, *, is_failing: bool) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.is_failing = is_failing

    def sync(self, fd: int) -> None:
        if not self.entered.is_set():
            self.entered.set()
            assert self.leave.wait(30)
            if self.is_failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)


def overlapped(store: PackStore, gate: Gate, followers: int) -> list[BaseException | None]:
    """Append and sync in one thread and, while that sync is under way, in some more."""
    outcomes: list[BaseException | None] = []
    appended = threading.Barrier(followers + 1, timeout=30)

    def work(*, is_leader: bool) -> None:
        locations = store.append(numbered(1))
        if not is_leader:
            appended.wait()
        try:
            store.sync(locations)
            outcomes.append(None)
        except LocalFailure as error:
            outcomes.append(error)

    threads = [
        threading.Thread(target=work, kwargs={"is_leader": n == 0}) for n in range(followers + 1)
    ]
    threads[0].start()
    assert gate.entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    appended.wait()
    gate.leave.set()
    for thread in threads:
        thread.join(30)
    return outcomes


def test_callers_at_one_time_share_a_sync(tmp_path: Path) -> None:
    gate = Gate(is_failing=False)
    store = PackStore(tmp_path, files=gate)
    assert overlapped(store, gate, followers=8) == [None] * 9
    assert store.syncs == 2, "one that was under way, one for all who came meanwhile"
    store.close()


def test_a_failed_sync_fails_for_all_whose_chunks_it_lost(tmp_path: Path) -> None:
    gate = Gate(is_failing=True)
    store = PackStore(tmp_path, files=gate)
    outcomes = overlapped(store, gate, followers=4)
    assert len(outcomes) == 5
    assert all(isinstance(outcome, LocalFailure) for outcome in outcomes)
    assert store.append(numbered(1))[0].pack == 2
    store.sync()
    store.close()
    assert scan(tmp_path, 1) == []


def test_what_was_appended_during_a_sync_is_not_durable_by_it(tmp_path: Path) -> None:
    gate = Gate(is_failing=False)
    store = PackStore(tmp_path, files=gate)
    chunks = numbered(2)
    first = store.append(chunks[:1])
    thread = threading.Thread(target=store.sync)
    thread.start()
    assert gate.entered.wait(30)
    second = store.append(chunks[1:])
    gate.leave.set()
    thread.join(30)
    gate.entered.clear()
    gate.is_failing = True
    with pytest.raises(LocalFailure):
        store.sync()
    assert store.read(chunks[0][0], first[0]) == chunks[0][1]
    with pytest.raises(Corrupt, match="lost"):
        store.read(chunks[1][0], second[0])
    store.close()
    assert scan(tmp_path) == records(chunks[:1], first)


class Failing(PackFiles):
    """Fails the calls it was told to fail; a failing write first writes some bytes."""

    def __init__(self) -> None:
        self.write_error = 0
        self.sync_error = 0
        self.names_error = 0
        self.truncate_error = 0
        self.read_error = 0

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        if self.write_error:
            os.pwrite(fd, b"".join(buffers)[:60], offset)
            raise OSError(self.write_error, os.strerror(self.write_error))
        return super().write(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if self.read_error:
            raise OSError(self.read_error, os.strerror(self.read_error))
        return super().read(fd, size, offset)

    def sync(self, fd: int) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        super().sync(fd)

    def sync_directory(self, fd: int) -> None:
        if self.names_error:
            raise OSError(self.names_error, os.strerror(self.names_error))
        super().sync_directory(fd)

    def truncate(self, fd: int, size: int) -> None:
        if self.truncate_error:
            raise OSError(self.truncate_error, os.strerror(self.truncate_error))
        super().truncate(fd, size)


def test_what_a_failed_sync_lost_is_not_found_after_a_restart(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(3)
    kept = store.append(chunks[:1])
    store.sync()
    store.append(chunks[1:])
    files.sync_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.sync()
    files.sync_error = 0
    store.sync()
    store.close()
    assert scan(tmp_path) == records(chunks[:1], kept)


def test_lost_bytes_that_cannot_be_cut_off_are_refused(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(2)
    locations = store.append(chunks)
    files.sync_error = files.truncate_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.sync()
    with pytest.raises(Corrupt, match="lost"):
        store.read(chunks[0][0], locations[0])
    assert list(store.scan(1, 0)) == []
    store.close()


def test_a_new_pack_whose_name_is_not_durable_is_lost(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(1)
    (location,) = store.append(chunks)
    files.names_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.sync()
    with pytest.raises(Corrupt):
        store.read(chunks[0][0], location)
    store.close()


def test_a_full_disk_at_the_sync_is_no_space(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    store.append(numbered(1))
    files.sync_error = errno.EDQUOT
    with pytest.raises(NoSpace) as caught:
        store.sync()
    assert caught.value.fields == {"where": "server"}
    store.close()


def test_a_failed_sync_of_a_full_pack_shows_in_the_append(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, pack_bytes_max=1, files=files)
    first = store.append(numbered(1))
    files.sync_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.append(numbered(1))
    files.sync_error = 0
    with pytest.raises(LocalFailure):
        store.sync(first)
    assert store.append(numbered(1))[0].pack == 2
    store.close()


# --- writes and reads that fail


def test_a_failed_append_is_taken_back(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(4)
    locations = store.append(chunks[:2])
    files.write_error = errno.ENOSPC
    with pytest.raises(NoSpace) as caught:
        store.append(chunks[2:])
    assert caught.value.fields == {"where": "server"}
    assert pack_path(tmp_path).stat().st_size == locations[1].offset + locations[1].size
    files.write_error = 0
    locations += store.append(chunks[2:])
    store.sync()
    store.close()
    assert {at.pack for at in locations} == {1}
    assert scan(tmp_path) == records(chunks, locations)


def test_nothing_is_written_behind_a_tail_that_cannot_be_taken_back(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(3)
    locations = store.append(chunks[:1])
    files.write_error = files.truncate_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.append(chunks[1:2])
    files.write_error = files.truncate_error = 0
    locations += store.append(chunks[2:])
    store.sync(locations)
    store.close()
    assert [at.pack for at in locations] == [1, 2]
    assert scan(tmp_path, 1) == records(chunks[:1], locations[:1])
    assert scan(tmp_path, 2) == records(chunks[2:], locations[1:])


def test_a_pack_that_could_not_be_begun_leaves_no_file(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    files.write_error = errno.ENOSPC
    with pytest.raises(NoSpace):
        store.append(numbered(1))
    assert list(store.packs()) == []
    files.write_error = 0
    assert len(store.append(numbered(1))) == 1
    store.close()


def test_short_writes_are_finished(tmp_path: Path) -> None:
    class Short(PackFiles):
        def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
            return os.pwrite(fd, b"".join(buffers)[:7], offset)

    store = PackStore(tmp_path, files=Short())
    chunks = [*numbered(3), (digest_of(b""), b""), *numbered(2)]
    locations = store.append(chunks)
    store.close()
    assert scan(tmp_path) == records(chunks, locations)


def test_a_disk_that_takes_nothing_is_a_local_failure(tmp_path: Path) -> None:
    class Stuck(PackFiles):
        def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
            return 0

    store = PackStore(tmp_path, files=Stuck())
    with pytest.raises(LocalFailure):
        store.append(numbered(1))
    store.close()


def test_an_io_error_is_not_called_damage(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(1)
    (location,) = store.append(chunks)
    assert store.read(chunks[0][0], location) == chunks[0][1]
    files.read_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.read(chunks[0][0], location)
    with pytest.raises(LocalFailure):
        list(store.scan(1, 0))
    store.close()


def test_many_packs_are_read_by_many_threads_with_few_descriptors(tmp_path: Path) -> None:
    store = PackStore(tmp_path, pack_bytes_max=1)
    chunks = numbered(60)
    locations = [at for one in chunks for at in store.append([one])]
    before = len(os.listdir("/proc/self/fd"))
    wrong: list[int] = []
    most: list[int] = []

    def work(step: int) -> None:
        for n in range(0, 600 * step, step):
            (digest, content), at = chunks[n % 60], locations[n % 60]
            if store.read(digest, at) != content:
                wrong.append(n)
        most.append(len(os.listdir("/proc/self/fd")))

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 7, 11, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(most) == 4
    assert max(most) - before <= 32 + 2 * len(threads)
    store.close()


# --- a disk that is really full, in a process of its own


def run_out_of_space(directory: Path, *, is_file_limit: bool) -> None:
    """Append until the disk refuses, look that nothing is torn, make room, go on."""
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(300_000))
    if is_file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    store = PackStore(directory / "packs")
    written: list[Record] = []
    chunks = numbered(5, size=9_000)
    try:
        while True:
            written += records(chunks, store.append(chunks))
            store.sync()
    except (NoSpace, LocalFailure) as error:
        refused = type(error)
    assert refused is (LocalFailure if is_file_limit else NoSpace)
    end = written[-1].location.offset + written[-1].location.size
    assert pack_path(directory / "packs").stat().st_size == end
    assert list(store.scan(1, 0)) == written
    ballast.unlink()
    if is_file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    written += records(chunks, store.append(chunks))
    store.sync()
    store.close()
    assert scan(directory / "packs") == written


def in_child(command: Sequence[str], directory: Path, limit: str) -> None:
    done = subprocess.run(
        [*command, sys.executable, __file__, limit, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "went on\n"


def test_a_limit_in_the_middle_of_a_write_leaves_nothing_torn(tmp_path: Path) -> None:
    in_child([], tmp_path, "file-limit")


def test_a_full_disk_leaves_nothing_torn(tmp_path: Path) -> None:
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    mount = 'mount -t tmpfs -o size=1m none "$4" && exec "$1" "$2" "$3" "$4"'
    in_child([*namespace, "sh", "-c", mount, "sh"], tmp_path, "tmpfs")


if __name__ == "__main__":
    run_out_of_space(Path(sys.argv[2]), is_file_limit=sys.argv[1] == "file-limit")
    print("went on")
