"""Bodies of chunks: what is compressed comes back whole, and lies cost no memory."""

from __future__ import annotations

import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.bodies import (
    CHUNK_BYTES_LEAST,
    PASSED_MOST,
    PROBED_FROM_BYTES,
    SAVED_LEAST,
    Compressed,
    Compressor,
    held_bytes,
    plain_bytes,
    plain_size,
)
from syncline.core.manifests import CHUNK_BYTES_MAX
from syncline.errors import Corrupt
from tests.support.bodies import noise, text, zstd

TEXT = b"a word and a line of many, numbered, for nobody to read\n" * 400
WINDOW = zstd.CompressionParameter.window_log
SUM_IS_THERE = zstd.CompressionParameter.checksum_flag
SIZE_IS_SAID = zstd.CompressionParameter.content_size_flag


contents = st.one_of(
    st.binary(min_size=1, max_size=9000),
    st.builds(
        lambda part, times: (part * times)[:CHUNK_BYTES_MAX],
        st.binary(min_size=1),
        st.integers(1, 3000),
    ),
    st.builds(text, st.integers(1, CHUNK_BYTES_MAX)),
    st.builds(noise, st.integers(1, 200_000)),
)


@given(contents)
def test_a_chunk_comes_back_as_it_was(content: bytes) -> None:
    body = Compressor().pack(content)
    assert plain_bytes(body) == content
    assert plain_size(body) == len(content)
    if isinstance(body, Compressed):
        assert len(held_bytes(body)) <= len(content) - len(content) // SAVED_LEAST
    else:
        assert body is content


@given(st.binary(min_size=1, max_size=200), st.integers(1, CHUNK_BYTES_MAX))
def test_garbage_is_damage_and_nothing_else(data: bytes, size: int) -> None:
    try:
        plain = plain_bytes(Compressed(data, size))
    except Corrupt:
        return
    assert len(plain) == size


@given(st.data())
def test_a_changed_byte_is_damage_or_another_chunk_of_the_same_size(data: st.DataObject) -> None:
    body = bytearray(zstd.compress(TEXT, 1))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    try:
        plain = plain_bytes(Compressed(bytes(body), len(TEXT)))
    except Corrupt:
        return
    assert len(plain) == len(TEXT)


@pytest.mark.parametrize("size", [len(TEXT) - 1, len(TEXT) + 1, CHUNK_BYTES_MAX])
def test_another_size_than_the_stated_one_is_damage(size: int) -> None:
    with pytest.raises(Corrupt):
        plain_bytes(Compressed(zstd.compress(TEXT), size))


@pytest.mark.parametrize(
    "spoilt",
    [
        zstd.compress(TEXT)[:-1],
        zstd.compress(TEXT, options={SUM_IS_THERE: 1})[:-4],
        zstd.compress(TEXT) + b"x",
        zstd.compress(TEXT[:500]) + zstd.compress(TEXT[500:]),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zstd.compress(TEXT),
        b"not zstd at all",
    ],
    ids=[
        "cut off",
        "without its end",
        "more behind it",
        "two frames",
        "a frame to skip",
        "no zstd",
    ],
)
def test_what_is_not_one_whole_frame_is_damage(spoilt: bytes) -> None:
    with pytest.raises(Corrupt):
        plain_bytes(Compressed(spoilt, len(TEXT)))


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", 5),
        (b"12345", 5),
        (b"123456", 5),
        (b"1", CHUNK_BYTES_MAX + 1),
        (b"1", 2**32 - 1),
        (b"1", 0),
        (b"1", -1),
    ],
)
def test_sizes_that_no_chunk_has_are_refused_unopened(data: bytes, size: int) -> None:
    with pytest.raises(Corrupt):
        Compressed(data, size)


def opened_with(data: bytes, size: int) -> int:
    """Return the memory in bytes that Python allocated while a lie was opened."""
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            plain_bytes(Compressed(data, size))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_takes_no_more_memory_than_it_says() -> None:
    bomb = zstd.compress(bytes(256 * 2**20), 1)
    assert len(bomb) < 32 * 1024
    assert opened_with(bomb, len(bomb) + 1) < 2**20
    assert opened_with(bomb, CHUNK_BYTES_MAX) < 3 * CHUNK_BYTES_MAX


@pytest.mark.parametrize("log", [21, 24, 27])
def test_a_window_that_is_larger_than_a_chunk_is_refused(log: int) -> None:
    compressor = zstd.ZstdCompressor(options={WINDOW: log, SIZE_IS_SAID: 0})
    # In two steps, so that the library does not know the size, and keeps the window as asked.
    data = compressor.compress(TEXT[:100]) + compressor.compress(TEXT[100:]) + compressor.flush()
    with pytest.raises(Corrupt):
        plain_bytes(Compressed(data, len(TEXT)))


def test_frames_of_other_writers_are_read_whatever_their_level() -> None:
    for level in (-5, 3, 19):
        data = zstd.compress(text(CHUNK_BYTES_MAX), level)
        assert plain_bytes(Compressed(data, CHUNK_BYTES_MAX)) == text(CHUNK_BYTES_MAX)


# -- what is tried -------------------------------------------------------------


def test_small_chunks_are_left_alone() -> None:
    assert isinstance(Compressor().pack(text(CHUNK_BYTES_LEAST - 1)), bytes)
    assert isinstance(Compressor().pack(text(CHUNK_BYTES_LEAST)), Compressed)


@pytest.mark.parametrize("size", [5000, PROBED_FROM_BYTES, 300_000, CHUNK_BYTES_MAX])
def test_text_is_compressed_and_noise_is_not(size: int) -> None:
    assert isinstance(Compressor().pack(text(size)), Compressed)
    assert isinstance(Compressor().pack(noise(size)), bytes)


def test_a_large_chunk_is_judged_by_its_middle_and_by_what_came_of_it() -> None:
    packed = noise(100_000) + text(100_000) + noise(100_000, seed=2)
    assert isinstance(Compressor().pack(packed), Compressed)
    assert isinstance(Compressor().pack(text(50_000) + noise(200_000) + text(50_000)), bytes)
    hardly = noise(400_000) + text(30_000) + noise(400_000, seed=2)
    assert isinstance(Compressor().pack(hardly), bytes)


def tried(compressor: Compressor, chunks: int) -> int:
    """Return at which of so many chunks of text the compressor looked at all, -1 for none."""
    return next(
        (n for n in range(chunks) if isinstance(compressor.pack(text(70_000)), Compressed)), -1
    )


def test_what_did_not_pay_is_tried_more_and_more_seldom() -> None:
    found = []
    # The last one of so many is tried, each time.
    for count in (0, 1, 3, 7, 15, 31, 47):
        compressor = Compressor()
        for _ in range(count):
            compressor.pack(noise(70_000))
        found.append(tried(compressor, PASSED_MOST + 1))
    assert found == [0, 1, 3, 7, PASSED_MOST, PASSED_MOST, PASSED_MOST]


def test_once_it_pays_again_each_chunk_is_tried() -> None:
    compressor = Compressor()
    for _ in range(40):
        assert isinstance(compressor.pack(noise(70_000)), bytes)
    assert tried(compressor, PASSED_MOST + 1) >= 0
    assert all(isinstance(compressor.pack(text(70_000)), Compressed) for _ in range(20))


def test_many_threads_open_and_compress_at_once() -> None:
    wanted = [text(300_000 + n) for n in range(4)]
    wrong: list[int] = []

    def work(n: int) -> None:
        compressor = Compressor()
        for _ in range(20):
            if plain_bytes(compressor.pack(wanted[n])) != wanted[n]:
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
