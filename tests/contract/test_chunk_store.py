"""The contract of `ports.chunks`, on every adapter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.adapters.pack_files import PackFiles
from syncline.adapters.packs import PackStore
from syncline.core.bodies import Compressed
from syncline.core.identity import Digest, digest_of
from syncline.errors import Corrupt, LocalFailure
from syncline.ports.chunks import Location, Record
from tests.support.bodies import compressed, noise, text

Store = PackStore | MemoryChunkStore
ROLL_BYTES = 64 * 1024


def chunk(content: bytes) -> tuple[Digest, bytes]:
    return digest_of(content), content


def numbered(count: int, size: int = 100, start: int = 0) -> list[tuple[Digest, bytes]]:
    return [chunk(n.to_bytes(4, "big") * (size // 4)) for n in range(start, start + count)]


class Bench(Protocol):
    """A store, and what happens to it from outside."""

    store: Store

    def flip(self, pack: int, offset: int) -> None:
        """Damage one byte."""

    def fail_next_sync(self) -> None:
        """Let the next sync fail."""

    def crash(self, kept: Mapping[Location, int]) -> None:
        """Cut the power: of what was not synced, only so many bytes of each record are left."""


class MemoryBench:
    def __init__(self) -> None:
        self.store: Store = MemoryChunkStore(pack_bytes_max=ROLL_BYTES)

    def flip(self, pack: int, offset: int) -> None:
        assert isinstance(self.store, MemoryChunkStore)
        self.store.flip(pack, offset)

    def fail_next_sync(self) -> None:
        assert isinstance(self.store, MemoryChunkStore)
        self.store.fail_next_sync()

    def crash(self, kept: Mapping[Location, int]) -> None:
        assert isinstance(self.store, MemoryChunkStore)
        self.store.crash(kept)


class FailingSync(PackFiles):
    def __init__(self) -> None:
        self.failures = 0

    def sync(self, fd: int) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(5, "Input/output error")
        super().sync(fd)


class PackBench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.files = FailingSync()
        self.store: Store = self._open()

    def _open(self) -> PackStore:
        return PackStore(self.directory, pack_bytes_max=ROLL_BYTES, files=self.files)

    def flip(self, pack: int, offset: int) -> None:
        path = self.directory / f"{pack:08d}.pack"
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    def fail_next_sync(self) -> None:
        self.files.failures += 1

    def crash(self, kept: Mapping[Location, int]) -> None:
        """Do to the newest pack what a power cut may; nothing in these tests is synced there."""
        self.store.close()
        number = self.store.packs()[-1]
        path = self.directory / f"{number:08d}.pack"
        records = [(r.location, kept.get(r.location, 0)) for r in self._records(number)]
        image = bytearray(path.read_bytes())
        end = records[0][0].offset
        for at, size in records:
            image[at.offset + size : at.offset + at.size] = bytes(at.size - size)
            end = at.offset + size if size else end
        path.write_bytes(image[:end])
        self.store = self._open()

    def _records(self, number: int) -> list[Record]:
        return list(self._open().scan(number, 0))


@pytest.fixture(params=["memory", "packs"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made: Bench = MemoryBench() if request.param == "memory" else PackBench(tmp_path / "packs")
    yield made
    made.store.close()


def scan_all(store: Store) -> list[Record]:
    return [record for pack in store.packs() for record in store.scan(pack, 0)]


def good(chunks: Sequence[tuple[Digest, bytes]], locations: Sequence[Location]) -> list[Record]:
    return [Record(at, digest) for (digest, _), at in zip(chunks, locations, strict=True)]


def test_a_new_store_has_no_packs(bench: Bench) -> None:
    assert list(bench.store.packs()) == []
    bench.store.sync()
    assert bench.store.syncs == 0


def test_appending_nothing_makes_nothing(bench: Bench) -> None:
    assert bench.store.append([]) == []
    assert list(bench.store.packs()) == []


def test_what_was_appended_is_read_before_and_after_the_sync(bench: Bench) -> None:
    chunks = [chunk(b""), chunk(b"x"), chunk(b"y" * 5000), chunk(bytes(range(256)) * 4096)]
    locations = bench.store.append(chunks)
    for _ in range(2):
        read = [bench.store.read(d, at) for (d, _), at in zip(chunks, locations, strict=True)]
        assert read == [content for _, content in chunks]
        assert all(type(content) is bytes for content in read)
        bench.store.sync()


def test_a_chunk_is_kept_in_the_body_that_it_came_in(bench: Bench) -> None:
    contents = [text(size) for size in (60, 5000, 2**20)] + [noise(5000)]
    bodies = [compressed(content) for content in contents]
    assert [isinstance(body, Compressed) for body in bodies] == [True, True, True, False]
    chunks = [(digest_of(content), body) for content, body in zip(contents, bodies, strict=True)]
    locations = bench.store.append(chunks)
    assert sum(at.size for at in locations) < sum(map(len, contents)) / 2
    for _ in range(2):
        for (digest, body), content, at in zip(chunks, contents, locations, strict=True):
            assert bench.store.read(digest, at) == content
            assert bench.store.read_body(digest, at) == body
        bench.store.sync()
    assert scan_all(bench.store) == [
        Record(at, digest) for (digest, _), at in zip(chunks, locations, strict=True)
    ]


def test_no_flipped_byte_of_a_compressed_chunk_is_believed(bench: Bench) -> None:
    content = text(300)
    digest = digest_of(content)
    first, hurt, last = bench.store.append(
        [*numbered(1), (digest, compressed(content)), *numbered(1, start=1)]
    )
    bench.store.sync()
    noticed = 0
    for offset in range(hurt.offset, hurt.offset + hurt.size):
        bench.flip(hurt.pack, offset)
        found = scan_all(bench.store)
        assert (found[0].location, found[-1].location) == (first, last)
        try:
            # Some bits of a frame mean nothing: then it still makes the right bytes.
            assert bench.store.read(digest, hurt) == content
            assert found[1] == Record(hurt, digest)
        except Corrupt:
            noticed += 1
            assert found[1:-1] == [Record(hurt, None)]
            with pytest.raises(Corrupt):
                bench.store.read_body(digest, hurt)
        bench.flip(hurt.pack, offset)
    assert noticed > hurt.size - 5
    assert bench.store.read(digest, hurt) == content


def test_a_compressed_chunk_behind_a_damaged_header_is_found(bench: Bench) -> None:
    content = text(5000)
    digest = digest_of(content)
    hurt, after = bench.store.append([*numbered(1), (digest, compressed(content))])
    bench.flip(hurt.pack, hurt.offset)
    assert scan_all(bench.store) == [Record(hurt, None), Record(after, digest)]
    bench.flip(after.pack, after.offset + after.size - 8)
    assert scan_all(bench.store) == []


@pytest.mark.parametrize("kept", [0, 10, 49, 60])
def test_a_torn_compressed_record_is_cut_and_written_again(bench: Bench, kept: int) -> None:
    contents = [text(300), text(400)]
    chunks = [(digest_of(content), compressed(content)) for content in contents]
    first, torn = bench.store.append(chunks)
    bench.crash({first: first.size, torn: kept})
    assert scan_all(bench.store) == [Record(first, chunks[0][0])]
    assert bench.store.cut_tail(torn.pack, torn.offset) == kept
    assert bench.store.append(chunks[1:]) == [torn]
    assert bench.store.read(chunks[1][0], torn) == contents[1]


def test_records_lie_one_behind_the_other(bench: Bench) -> None:
    locations = bench.store.append(numbered(3)) + bench.store.append(numbered(3, start=3))
    ends = [at.offset + at.size for at in locations]
    assert [at.offset for at in locations[1:]] == ends[:-1]


def test_more_chunks_than_one_system_call_takes(bench: Bench) -> None:
    chunks = numbered(3000, size=4)
    locations = bench.store.append(chunks)
    assert scan_all(bench.store) == good(chunks, locations)


def test_chunks_of_one_mebibyte(bench: Bench) -> None:
    chunks = [chunk(bytes([n]) * 2**20) for n in range(3)]
    locations = [at for one in chunks for at in bench.store.append([one])]
    assert scan_all(bench.store) == good(chunks, locations)
    assert [bench.store.read(d, at) for (d, _), at in zip(chunks, locations, strict=True)] == [
        content for _, content in chunks
    ]


def test_a_full_pack_is_followed_by_another(bench: Bench) -> None:
    chunks = numbered(20, size=10_000)
    locations = [at for one in chunks for at in bench.store.append([one])]
    packs = list(bench.store.packs())
    assert len(packs) > 2
    assert packs == sorted({at.pack for at in locations})
    assert scan_all(bench.store) == good(chunks, locations)


def test_a_scan_may_start_at_any_record(bench: Bench) -> None:
    chunks = numbered(5)
    locations = bench.store.append(chunks)
    for n, at in enumerate(locations):
        assert list(bench.store.scan(at.pack, at.offset)) == good(chunks[n:], locations[n:])
    end = locations[-1].offset + locations[-1].size
    assert list(bench.store.scan(locations[0].pack, end)) == []


def test_another_chunk_at_the_place_is_corrupt(bench: Bench) -> None:
    first, second = bench.store.append(numbered(2))
    wanted = numbered(1)[0][0]
    with pytest.raises(Corrupt) as caught:
        bench.store.read(wanted, second)
    assert caught.value.fields["digest"] == wanted.hex()
    assert caught.value.fields["pack"] == str(first.pack)
    assert caught.value.fields["offset"] == str(second.offset)


@pytest.mark.parametrize(
    "location",
    [
        Location(7, 16, 100),
        Location(1, 16, 3),
        Location(1, 0, 100),
        Location(1, 16, 2**40),
        Location(1, 17, 149),
        Location(1, 5000, 149),
        Location(1, 2**62, 149),
    ],
)
def test_a_wrong_location_is_corrupt(bench: Bench, location: Location) -> None:
    chunks = numbered(1)
    bench.store.append(chunks)
    with pytest.raises(Corrupt):
        bench.store.read(chunks[0][0], location)


def test_a_missing_pack_is_corrupt_for_a_scan(bench: Bench) -> None:
    with pytest.raises(Corrupt):
        list(bench.store.scan(3, 0))
    with pytest.raises(Corrupt):
        bench.store.cut_tail(3, 0)


def test_a_damaged_payload_is_named_and_the_others_are_found(bench: Bench) -> None:
    chunks = numbered(5)
    locations = bench.store.append(chunks)
    bench.store.sync()
    hurt = locations[2]
    bench.flip(hurt.pack, hurt.offset + hurt.size - 1)
    expected = good(chunks, locations)
    expected[2] = Record(hurt, None)
    assert scan_all(bench.store) == expected
    with pytest.raises(Corrupt) as caught:
        bench.store.read(chunks[2][0], hurt)
    assert caught.value.fields["offset"] == str(hurt.offset)
    assert bench.store.read(chunks[3][0], locations[3]) == chunks[3][1]


def test_a_damaged_header_is_one_gap_up_to_the_next_record(bench: Bench) -> None:
    chunks = numbered(5)
    locations = bench.store.append(chunks)
    bench.flip(locations[1].pack, locations[1].offset + 5)
    bench.flip(locations[2].pack, locations[2].offset)
    gap = Location(
        locations[1].pack, locations[1].offset, locations[3].offset - locations[1].offset
    )
    records = good(chunks, locations)
    assert scan_all(bench.store) == [records[0], Record(gap, None), *records[3:]]


def test_a_crash_keeps_what_was_synced(bench: Bench) -> None:
    chunks = numbered(3)
    locations = bench.store.append(chunks)
    bench.store.sync()
    if isinstance(bench.store, MemoryChunkStore):
        bench.crash({})
    else:
        bench.crash({at: at.size for at in locations})
    assert scan_all(bench.store) == good(chunks, locations)


def test_a_torn_tail_is_not_yielded_and_can_be_cut(bench: Bench) -> None:
    chunks = numbered(3)
    locations = bench.store.append(chunks)
    torn = locations[2]
    bench.crash({locations[0]: locations[0].size, locations[1]: locations[1].size, torn: 70})
    assert scan_all(bench.store) == good(chunks[:2], locations[:2])
    assert bench.store.cut_tail(torn.pack, torn.offset) == 70
    assert bench.store.cut_tail(torn.pack, torn.offset) == 0
    with pytest.raises(Corrupt):
        bench.store.read(chunks[2][0], torn)
    assert bench.store.append([chunks[2]]) == [torn]
    assert scan_all(bench.store) == good(chunks, locations)


def test_records_behind_a_hole_are_found(bench: Bench) -> None:
    chunks = numbered(4)
    locations = bench.store.append(chunks)
    bench.crash({at: at.size for at in (locations[0], locations[3])})
    gap = Location(locations[1].pack, locations[1].offset, 2 * locations[1].size)
    records = good(chunks, locations)
    assert scan_all(bench.store) == [records[0], Record(gap, None), records[3]]


def test_without_a_cut_a_reopened_store_leaves_old_packs_alone(bench: Bench) -> None:
    chunks = numbered(2)
    (first,) = bench.store.append(chunks[:1])
    bench.crash({first: first.size})
    (second,) = bench.store.append(chunks[1:])
    assert second.pack > first.pack
    assert scan_all(bench.store) == good(chunks, [first, second])


def test_a_cut_never_makes_a_pack_longer(bench: Bench) -> None:
    (first,) = bench.store.append(numbered(1))
    end = first.offset + first.size
    bench.crash({first: first.size})
    assert bench.store.cut_tail(first.pack, end + 1000) == 0
    (second,) = bench.store.append(numbered(1))
    assert second.pack > first.pack, "a pack that lost what it should have is left alone"


def test_a_failed_sync_loses_what_was_not_durable_and_only_that(bench: Bench) -> None:
    chunks = numbered(4)
    kept = bench.store.append(chunks[:1])
    bench.store.sync()
    lost = bench.store.append(chunks[1:3])
    bench.fail_next_sync()
    with pytest.raises(LocalFailure):
        bench.store.sync()
    assert bench.store.read(chunks[0][0], kept[0]) == chunks[0][1]
    for (digest, _), at in zip(chunks[1:3], lost, strict=True):
        with pytest.raises(Corrupt):
            bench.store.read(digest, at)
    after = bench.store.append(chunks[3:])
    assert after[0].pack > kept[0].pack
    bench.store.sync()
    assert bench.store.read(chunks[3][0], after[0]) == chunks[3][1]
    assert scan_all(bench.store) == good([chunks[0], chunks[3]], [*kept, *after])


def test_chunks_lost_in_the_sync_of_another_are_not_called_durable(bench: Bench) -> None:
    mine, other = numbered(2)
    my_locations = bench.store.append([mine])
    bench.store.append([other])
    bench.fail_next_sync()
    with pytest.raises(LocalFailure):
        bench.store.sync()
    fresh = bench.store.append([other])
    bench.store.sync(fresh)
    with pytest.raises(LocalFailure):
        bench.store.sync(my_locations)


def test_a_sync_with_nothing_to_do_costs_nothing(bench: Bench) -> None:
    bench.store.append(numbered(10))
    bench.store.sync()
    bench.store.sync()
    assert bench.store.syncs == 1


def in_threads(count: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def run(n: int) -> None:
        try:
            work(n)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures


def test_several_threads_append_sync_and_read(bench: Bench) -> None:
    everything: list[tuple[tuple[Digest, bytes], Location]] = []
    barrier = threading.Barrier(4, timeout=30)

    def work(n: int) -> None:
        barrier.wait()
        for round_ in range(20):
            chunks = numbered(5, size=1000, start=1000 * n + 5 * round_)
            locations = bench.store.append(chunks)
            bench.store.sync(locations)
            for (digest, content), at in zip(chunks, locations, strict=True):
                assert bench.store.read(digest, at) == content
            everything.extend(zip(chunks, locations, strict=True))

    in_threads(4, work)
    everything.sort(key=lambda found: found[1])
    assert len(everything) == 400
    assert scan_all(bench.store) == good(*zip(*everything, strict=True))
