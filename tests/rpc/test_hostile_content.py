"""Content that lies: sizes, digests, manifests, chunks that are not what was agreed on."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from google.protobuf.message import Message

from syncline.core.identity import digest_of
from syncline.core.manifests import (
    CHUNK_BYTES_MAX,
    CONTENT_BYTES_MAX,
    DIRECT_REFS_MAX,
    PIECE_REFS_MAX,
    PIECES_MAX,
    ChunkRef,
    encode_piece,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from tests.support.bodies import zstd
from tests.support.hostile import (
    FINE,
    INVALID,
    TOO_LARGE,
    Target,
    attacked,
    begin,
    changes,
    chunks,
    content,
    fresh_id,
    of_parts,
    put_content,
    put_file,
    unharmed,
)
from tests.support.serving import Backend

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    async with attacked(Backend.on_disk(tmp_path_factory.mktemp("data"))) as target:
        yield target


def unique(text: str) -> bytes:
    """Return bytes that the server does not have yet."""
    return text.encode() + fresh_id()


# -- Content that contradicts itself -----------------------------------------


def lying(spoil: Callable[[pb.Content], None]) -> pb.Content:
    listed = of_parts([b"one", b"two", b"three"])
    spoil(listed)
    return listed


def with_refs(listed: pb.Content, count: int, depth: int) -> None:
    del listed.refs[:]
    listed.depth, listed.size = depth, count
    for _ in range(count):
        listed.refs.add(digest=digest_of(b"1"), size=1)


def only(listed: pb.Content, **fields: object) -> None:
    listed.Clear()
    listed.MergeFrom(pb.Content(**fields))


NOTHING = digest_of(b"")

LIES: dict[str, tuple[Callable[[pb.Content], object], tuple[object, str]]] = {
    "a size that is too small": (lambda c: setattr(c, "size", 5), INVALID),
    "a size that is too large": (lambda c: setattr(c, "size", 12), INVALID),
    "1 TiB of nothing": (lambda c: setattr(c, "size", CONTENT_BYTES_MAX), INVALID),
    "over 1 TiB": (lambda c: setattr(c, "size", CONTENT_BYTES_MAX + 1), TOO_LARGE),
    "all 64 bits": (lambda c: setattr(c, "size", 2**64 - 1), TOO_LARGE),
    "depth 2": (lambda c: setattr(c, "depth", 2), INVALID),
    "depth of all 32 bits": (lambda c: setattr(c, "depth", 2**32 - 1), INVALID),
    "no digest": (lambda c: c.ClearField("digest"), INVALID),
    "a short digest": (lambda c: setattr(c, "digest", bytes(31)), INVALID),
    "a long digest": (lambda c: setattr(c, "digest", bytes(33)), INVALID),
    "a short chunk digest": (lambda c: setattr(c.refs[1], "digest", bytes(31)), INVALID),
    "a chunk without digest": (lambda c: c.refs[1].ClearField("digest"), INVALID),
    "an empty chunk": (lambda c: setattr(c.refs[1], "size", 0), INVALID),
    "a chunk over 1 MiB": (lambda c: setattr(c.refs[1], "size", CHUNK_BYTES_MAX + 1), INVALID),
    "a chunk of 4 GiB": (lambda c: setattr(c.refs[1], "size", 2**32 - 1), INVALID),
    "65 chunks in the entry": (lambda c: with_refs(c, DIRECT_REFS_MAX + 1, 0), INVALID),
    "1,025 pieces": (lambda c: with_refs(c, PIECES_MAX + 1, 1), INVALID),
    "20,000 references": (lambda c: with_refs(c, 20_000, 1), INVALID),
    "pieces, and none": (lambda c: only(c, digest=NOTHING, depth=1), INVALID),
    "bytes, and no chunks": (lambda c: only(c, digest=NOTHING, size=5), INVALID),
    "no bytes, and a digest": (lambda c: only(c, digest=digest_of(b"1")), INVALID),
    "one chunk of another digest": (lambda c: with_refs(c, 1, 0), INVALID),
    "nothing at all": (lambda c: c.Clear(), INVALID),
}


@pytest.mark.parametrize("lie", LIES)
async def test_content_that_contradicts_itself_is_refused(target: Target, lie: str) -> None:
    spoil, wanted = LIES[lie]
    async with unharmed(target):
        told = await target.store(put_content(lying(spoil)))
        assert told.verdict == wanted


# -- Inline content ----------------------------------------------------------


def inline(data: bytes, listed: pb.Content) -> pb.Change:
    change = put_content(listed)
    change.file.inline = data
    return change


INLINE = {
    "another content": lambda: inline(b"dat4", content(b"data")),
    "longer": lambda: inline(b"data and more", content(b"data")),
    "shorter": lambda: inline(b"dat", content(b"data")),
    "nothing for something": lambda: inline(b"", content(b"data")),
    "something for nothing": lambda: inline(b"data", content(b"")),
    "over the limit": lambda: inline(bytes(65_537), content(bytes(65_537))),
    "of two chunks": lambda: inline(b"onetwo", of_parts([b"one", b"two"])),
    "of a manifest": lambda: inline(
        b"x" * 36, pb.Content(digest=digest_of(b"x" * 36), size=36, depth=1)
    ),
}


@pytest.mark.parametrize("lie", INLINE)
async def test_inline_content_that_is_not_the_content_is_refused(target: Target, lie: str) -> None:
    async with unharmed(target):
        told = await target.store(INLINE[lie]())
        assert told.verdict == INVALID


@pytest.mark.parametrize("is_reversed", [False, True])
async def test_inline_content_of_one_change_does_not_vouch_for_the_size_of_another(
    target: Target, is_reversed: bool
) -> None:
    data = unique("inline")
    lie = content(data)
    lie.size += 1
    lie.refs[0].size += 1
    listed = [inline(data, content(data)), put_content(lie)]
    async with unharmed(target):
        told = await target.store(*(reversed(listed) if is_reversed else listed))
        assert told.verdict == INVALID


async def test_one_digest_cannot_come_inline_with_two_sizes(target: Target) -> None:
    data = unique("inline")
    lie = content(data)
    lie.size += 1
    lie.refs[0].size += 1
    async with unharmed(target):
        told = await target.store(inline(data + b"!", lie), inline(data, content(data)))
        assert told.verdict == INVALID


async def test_inline_content_of_small_files_does_not_vouch_for_a_large_one(
    target: Target,
) -> None:
    parts = [fresh_id(), fresh_id()]
    lie = of_parts(parts)
    lie.digest = digest_of(b"something else")
    async with unharmed(target):
        small = [put_file(part) for part in parts]
        told = await target.store(*small, put_content(lie), after=[chunks(*parts)])
        assert told.verdict == INVALID


async def test_a_piece_that_came_inline_is_looked_into(target: Target) -> None:
    garbage = unique("this is no list of references")
    lie = pb.Content(digest=digest_of(b"no such content"), size=2**30, depth=1)
    lie.refs.add(digest=digest_of(garbage), size=len(garbage))
    async with unharmed(target, commits=1):
        assert (await target.store(put_file(garbage))).outcomes() == ["ok"]
        told = await target.store(put_file(garbage), put_content(lie))
        assert told.verdict == INVALID or told.outcomes()[1] == "MISSING"


# -- Chunks as they come -----------------------------------------------------

A, B = b"chunk a", b"chunk b"

CHUNKS: dict[str, list[Message | bytes]] = {
    "another chunk": [chunks(b"chunk c")],
    "in another order": [chunks(B, A)],
    "too long": [chunks(bytes(CHUNK_BYTES_MAX)), chunks(b"1")],
    "longer than any chunk": [chunks(bytes(CHUNK_BYTES_MAX), is_cut=True), chunks(b"1")],
    "endlessly cut": [chunks(bytes(2**18), is_cut=True)] * 8,
    "an empty piece": [chunks(b"")],
    "4,096 empty pieces": [chunks(*[b""] * 4096)],
    "a cut that nothing follows": [chunks(A), chunks(b"chunk", is_cut=True)],
    "too few": [chunks(A)],
    "none": [],
    "the begin again": [begin()],
    "changes again": [changes(put_file())],
    "nothing that is known": [pb.StoreRequest()],
    "no message": [b"\xff\xff\xff\xff"],
}


@pytest.mark.parametrize("what", CHUNKS)
async def test_chunks_that_are_not_what_was_asked_for_are_refused(
    target: Target, what: str
) -> None:
    wanted = of_parts([A, B, fresh_id()])
    async with unharmed(target):
        told = await target.store(put_content(wanted), after=CHUNKS[what])
        assert told.verdict == INVALID
        parts = [response.WhichOneof("part") for response in told.responses]
        assert parts == ["granted", "missing"]


TEXT = bytes(2**20)
FRAME = zstd.compress(TEXT)
BOMB = zstd.compress(bytes(256 * 2**20))


def piece(data: bytes, encoding: int, size: int, *, is_cut: bool = False) -> pb.StoreRequest:
    request = chunks(data, is_cut=is_cut)
    request.chunks.pieces[0].encoding = encoding
    request.chunks.pieces[0].size = size
    return request


ENCODED: dict[str, Message] = {
    "garbage": piece(b"no zstd at all", 1, len(TEXT)),
    "cut off": piece(FRAME[:-1], 1, len(TEXT)),
    "more behind it": piece(FRAME + b"x", 1, len(TEXT)),
    "twice": piece(FRAME + FRAME, 1, len(TEXT)),
    "another chunk": piece(zstd.compress(b"x" * len(TEXT)), 1, len(TEXT)),
    "a bomb": piece(BOMB, 1, len(TEXT)),
    "a bomb that says so": piece(BOMB, 1, 256 * 2**20),
    "another size": piece(FRAME, 1, len(TEXT) - 1),
    "no size": piece(FRAME, 1, 0),
    "a size of 4 GiB": piece(FRAME, 1, 2**32 - 1),
    "no smaller than it is plain": piece(b"x" * 100, 1, 100),
    "an unknown encoding": piece(FRAME, 2, len(TEXT)),
    "a negative encoding": piece(FRAME, -1, len(TEXT)),
    "plain, and a size": piece(TEXT, 0, len(TEXT)),
    "an encoding of a part": piece(FRAME, 1, len(TEXT), is_cut=True),
}


@pytest.mark.parametrize("what", ENCODED)
async def test_compressed_chunks_that_lie_are_refused(target: Target, what: str) -> None:
    wanted = of_parts([TEXT, fresh_id()])
    async with unharmed(target):
        told = await target.store(put_content(wanted), after=[ENCODED[what], chunks(b"unasked")])
        assert told.verdict == INVALID
        assert [response.WhichOneof("part") for response in told.responses] == [
            "granted",
            "missing",
        ]


async def test_many_bombs_at_once_are_opened_a_few_at_a_time(target: Target) -> None:
    """Each is a right chunk: 64 MiB in one message of some KiB."""
    parts = [bytes([n]) * CHUNK_BYTES_MAX for n in range(1, 65)]
    frame = pb.StoreRequest()
    for part in parts:
        frame.chunks.pieces.add(data=zstd.compress(part), encoding=1, size=len(part))
    assert frame.ByteSize() < 16 * 1024
    listed = of_parts(parts)
    del parts
    async with unharmed(target, commits=1):
        tracemalloc.start()
        try:
            told = await target.store(put_content(listed), after=[frame])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert told.outcomes() == ["ok"]
    # Two batches, and what opening a chunk takes beside it.
    assert peak < 10 * CHUNK_BYTES_MAX


async def test_a_chunk_may_come_compressed_and_in_parts(target: Target) -> None:
    data = unique("compressed") * 1000
    raw = zstd.compress(data)
    halves = [chunks(raw[:20], is_cut=True), piece(raw[20:], 1, len(data))]
    async with unharmed(target, commits=1):
        told = await target.store(put_content(content(data)), after=halves)
        assert told.outcomes() == ["ok"]
        (missing,) = (r.missing for r in told.responses if r.WhichOneof("part") == "missing")
        assert list(missing.encodings) == [pb.ENCODING_ZSTD]


@pytest.mark.parametrize("encodings", [[], [0], [2, 77], [1], [77, 1, 1]])
async def test_only_who_takes_compressed_chunks_gets_them(
    target: Target, encodings: list[int]
) -> None:
    data = unique("fetched") * 1000
    raw = zstd.compress(data)
    stored = await target.store(put_content(content(data)), after=[piece(raw, 1, len(data))])
    assert stored.outcomes() == ["ok"]
    wanted = pb.FetchChunks(digests=[digest_of(data)], encodings=encodings)
    told = await target.say("Fetch", pb.FetchRequest(volume="default", chunks=wanted))
    assert told.verdict == FINE
    (got,) = (one for response in told.responses for one in response.chunks.pieces)
    if 1 in encodings:
        assert (got.data, got.encoding, got.size) == (raw, pb.ENCODING_ZSTD, len(data))
    else:
        assert (got.data, got.encoding, got.size) == (data, pb.ENCODING_UNSPECIFIED, 0)


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_chunk_that_nobody_asked_for_is_refused(target: Target, is_cut: bool) -> None:
    data = fresh_id()
    frame = chunks(data)
    frame.chunks.pieces.add(data=b"and more", is_cut=is_cut)
    async with unharmed(target):
        told = await target.store(put_content(content(data)), after=[frame])
        assert told.verdict == INVALID


async def test_what_follows_the_answer_is_not_read(target: Target) -> None:
    async with unharmed(target, commits=1):
        told = await target.store(put_file(), after=[chunks(b"garbage"), begin()] * 20)
        assert told.outcomes() == ["ok"]


async def test_the_chunks_of_a_file_must_make_its_digest(target: Target) -> None:
    parts = [fresh_id(), fresh_id()]
    lie = of_parts(parts)
    lie.digest = digest_of(b"something else")
    async with unharmed(target):
        told = await target.store(put_content(lie), after=[chunks(*parts)])
        assert told.verdict == INVALID


async def test_a_chunk_has_one_size_wherever_it_stands_in_a_file(target: Target) -> None:
    data = fresh_id()
    lie = of_parts([data, data])
    lie.refs[1].size += 1
    lie.size += 1
    async with unharmed(target):
        told = await target.store(put_content(lie), after=[chunks(data)])
        assert told.verdict == INVALID


async def test_a_chunk_has_one_size_in_all_files_of_a_store(target: Target) -> None:
    data = fresh_id()
    lie = content(data)
    lie.refs[0].size += 1
    lie.size += 1
    async with unharmed(target):
        told = await target.store(
            put_content(content(data)), put_content(lie), after=[chunks(data)]
        )
        assert told.verdict == INVALID


async def test_a_chunk_that_the_server_has_is_not_taken_at_its_word(target: Target) -> None:
    data = fresh_id()
    lie = content(data)
    lie.refs[0].size += 1
    lie.size += 1
    async with unharmed(target, commits=1):
        assert (await target.store(put_file(data))).outcomes() == ["ok"]
        assert (await target.store(put_content(lie))).verdict == INVALID


# -- Manifests in pieces -----------------------------------------------------


def in_pieces(*pieces: bytes, size: int, digest: bytes = b"") -> pb.Content:
    listed = pb.Content(digest=digest or digest_of(b"whatever"), size=size, depth=1)
    for piece in pieces:
        listed.refs.add(digest=digest_of(piece), size=len(piece))
    return listed


def piece_of(*parts: bytes) -> bytes:
    return encode_piece([ChunkRef(digest_of(part), len(part)) for part in parts])


PIECES: dict[str, bytes] = {
    "garbage": b"this is no list of references",
    "half a reference": piece_of(b"a")[:-1],
    "more than 7,281 references": piece_of(b"a") * (PIECE_REFS_MAX + 1),
    "an empty chunk": piece_of(b""),
    "a chunk of 4 GiB": piece_of(b"a")[:-4] + b"\xff" * 4,
}


@pytest.mark.parametrize("what", PIECES)
@pytest.mark.parametrize("is_there", [False, True])
async def test_a_piece_that_lists_nothing_sensible_is_refused(
    target: Target, what: str, is_there: bool
) -> None:
    piece = PIECES[what]
    async with unharmed(target, commits=is_there):
        if is_there:
            told = await target.store(put_content(content(piece)), after=[chunks(piece)])
            assert told.outcomes() == ["ok"]
        told = await target.store(put_content(in_pieces(piece, size=1)), after=[chunks(piece)])
        assert told.verdict == INVALID


async def test_the_sizes_in_the_pieces_must_add_up(target: Target) -> None:
    parts = [fresh_id(), fresh_id()]
    piece = piece_of(*parts)
    for size in (31, 33, 1, CONTENT_BYTES_MAX):
        async with unharmed(target):
            lie = in_pieces(piece, size=size, digest=digest_of(b"".join(parts)))
            told = await target.store(put_content(lie), after=[chunks(piece), chunks(*parts)])
            assert told.verdict == INVALID


@pytest.mark.parametrize("is_there", [False, True])
async def test_a_piece_has_the_size_that_the_entry_says(target: Target, is_there: bool) -> None:
    part = fresh_id()
    piece = piece_of(part)
    honest = in_pieces(piece, size=len(part), digest=digest_of(part))
    lie = pb.Content()
    lie.CopyFrom(honest)
    lie.refs[0].size += 1
    sent = [chunks(piece), chunks(part)]
    async with unharmed(target, commits=is_there):
        if is_there:
            assert (await target.store(put_content(honest), after=sent)).outcomes() == ["ok"]
        assert (await target.store(put_content(lie), after=sent)).verdict == INVALID


async def test_chunks_that_a_piece_lists_are_asked_for_and_checked(target: Target) -> None:
    part = fresh_id()
    listed = in_pieces(piece_of(part), size=len(part), digest=digest_of(part))
    async with unharmed(target):
        sent = [chunks(piece_of(part)), chunks(b"something else")]
        told = await target.store(put_content(listed), after=sent)
        assert told.verdict == INVALID
        asked = [digest for response in told.responses for digest in response.missing.digests]
        assert asked == [digest_of(piece_of(part)), digest_of(part)]


@pytest.mark.parametrize("depth", [0, 1])
async def test_an_atomic_store_that_cannot_be_asks_for_nothing(target: Target, depth: int) -> None:
    part = fresh_id()
    direct = content(part)
    listed = in_pieces(piece_of(part), size=len(part), digest=direct.digest) if depth else direct
    async with unharmed(target):
        stale = put_file()
        stale.base = 7
        told = await target.store(stale, put_content(listed), is_atomic=True)
        assert told.outcomes() == ["STALE", "ATOMIC"]
        parts = [response.WhichOneof("part") for response in told.responses]
        assert parts == ["granted", "committed"]


async def test_a_short_manifest_that_unfolds_past_its_size_is_refused_at_once(
    target: Target,
) -> None:
    """256 KiB of references, named 1,024 times, are 7,455,744: no one has to count to the end."""
    piece = piece_of(b"a") * PIECE_REFS_MAX
    listed = in_pieces(*[piece] * PIECES_MAX, size=10)
    async with unharmed(target):
        told = await target.store(put_content(listed), after=[chunks(piece), chunks(b"a")])
        assert told.verdict == INVALID
