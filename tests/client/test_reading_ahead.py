"""Chunks are read ahead as long as the server asks in order, and not in vain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from syncline.client.reading_ahead import AHEAD_BYTES_MAX, AHEAD_BYTES_MIN, ReadAhead
from syncline.core.identity import Digest, digest_of
from syncline.errors import LocalFailure

CHUNK_BYTES = AHEAD_BYTES_MIN // 2
CHUNKS = [bytes([number]) * CHUNK_BYTES for number in range(100)]
DIGESTS = [digest_of(chunk) for chunk in CHUNKS]


class Inline:
    """An executor that does everything at once."""

    async def run(self, work: Callable[..., object], *args: object, **kwargs: object) -> object:
        return work(*args, **kwargs)

    def close(self) -> None:
        """Do nothing."""


class Content:
    """A content whose chunks lie in order; `trips` has what each trip read."""

    def __init__(self) -> None:
        self.trips: list[range] = []

    def read_on(self, digest: Digest, bytes_max: int) -> Sequence[tuple[Digest, bytes]]:
        first = DIGESTS.index(digest)
        end = min(first + max(1, bytes_max // CHUNK_BYTES), len(CHUNKS))
        self.trips.append(range(first, end))
        return [(DIGESTS[number], CHUNKS[number]) for number in range(first, end)]


def reading(content: Content) -> ReadAhead:
    return ReadAhead(Inline(), content.read_on)  # type: ignore[arg-type]


async def test_who_asks_in_order_gets_many_with_one_trip() -> None:
    content = Content()
    ahead = reading(content)
    assert [await ahead.get(digest) for digest in DIGESTS] == CHUNKS
    sizes = [len(trip) * CHUNK_BYTES for trip in content.trips]
    assert sizes[:3] == [AHEAD_BYTES_MIN, 2 * AHEAD_BYTES_MIN, AHEAD_BYTES_MAX]
    assert max(sizes) == AHEAD_BYTES_MAX
    assert sum(sizes) == len(CHUNKS) * CHUNK_BYTES, "a chunk was read twice"


async def test_who_passes_chunks_over_has_hardly_more_read_than_he_asks_for() -> None:
    content = Content()
    ahead = reading(content)
    asked = DIGESTS[::10]
    assert [await ahead.get(digest) for digest in asked] == CHUNKS[::10]
    assert sum(len(trip) for trip in content.trips) <= 2 * len(asked)


async def test_order_that_comes_back_is_used_again() -> None:
    content = Content()
    ahead = reading(content)
    for number in (0, 50, *range(60, 100)):
        assert await ahead.get(DIGESTS[number]) == CHUNKS[number]
    assert len(content.trips) < 20


async def test_what_reading_raises_is_raised_and_harms_nothing_later() -> None:
    content = Content()
    failures = [LocalFailure("gone", local="f")]

    def read_on(digest: Digest, bytes_max: int) -> Sequence[tuple[Digest, bytes]]:
        if failures:
            raise failures.pop()
        return content.read_on(digest, bytes_max)

    ahead = ReadAhead(Inline(), read_on)  # type: ignore[arg-type]
    with pytest.raises(LocalFailure):
        await ahead.get(DIGESTS[0])
    assert await ahead.get(DIGESTS[0]) == CHUNKS[0]
