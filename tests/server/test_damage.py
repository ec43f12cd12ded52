"""Damaged chunks on a server: marked where they were read, told of, asked for again, healed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from syncline.adapters.memory_chunks import MemoryChunkStore
from syncline.core.bodies import ChunkBody
from syncline.core.identity import Digest, Revision, digest_of
from syncline.core.manifests import ChunkRef, Content, decode_piece, encode_piece
from syncline.core.names import RelPath
from syncline.errors import Corrupt, NotFound
from syncline.ports.chunks import Location
from syncline.ports.link import Link
from syncline.server.damage import mark_damaged
from syncline.server.fetch import fetch_content
from syncline.server.receive import ROUNDS_MAX
from syncline.server.verify_chunks import verify_chunks
from syncline.server.volume import ServedVolume
from tests.support.serving import (
    Backend,
    Chunks,
    SeededIds,
    accepted,
    direct_link,
    fetched,
    grpc_link,
    propose,
    served,
)
from tests.support.trees import put_file


@pytest.fixture(params=["plain", "compressed"], autouse=True)
def bodies(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks travel and lie both ways in each of these tests."""
    monkeypatch.setattr(Chunks, "is_compressing", request.param == "compressed")


@dataclass
class Site:
    """A volume in memory, and what has been stored in it."""

    backend: Backend = field(default_factory=Backend.in_memory)
    ids: SeededIds = field(default_factory=SeededIds)
    source: Chunks = field(default_factory=Chunks)

    async def store(self, link: Link, name: str, content: Content, base: int = 0) -> list[int]:
        """Store a file; `source.asked` is then what the server asked for."""
        self.source.asked.clear()
        change = replace(put_file(name, base), content=content)
        return accepted(await link.store(propose(change, ids=self.ids), self.source))

    def damage(self, volume: ServedVolume, *digests: Digest) -> None:
        """Turn over a bit in the bytes of chunks."""
        assert isinstance(self.backend.chunks, MemoryChunkStore)
        for digest, place in volume.chunks.locate(digests).items():
            assert digest in digests
            self.backend.chunks.flip(place.pack, place.offset + place.size - 1)

    def verify(self, volume: ServedVolume) -> list[str]:
        return list(verify_chunks(self.backend.metadata, volume.facts, self.backend.chunks))


async def read(volume: ServedVolume, link: Link, name: str) -> bytes:
    """Return a file by its address."""
    (found,) = await link.stat([RelPath.parse(name.encode())], None)
    assert found is not None
    batches = [batch async for batch in fetch_content(volume, found.entry, 0)]
    return b"".join(b"".join(batch) for batch in batches)


async def is_damaged(link: Link, name: str, at: int | None = None) -> bool:
    """Return what STAT says; LIST must say the same."""
    path = RelPath.parse(name.encode())
    revision = None if at is None else Revision(at)
    (found,) = await link.stat([path], revision)
    assert found is not None
    for top in (path, RelPath(())):
        listed = link.list(top, is_recursive=True, at=revision)
        assert [one async for one in listed if one.path == path] == [found]
    return found.is_damaged


def parts(count: int, size: int = 3000) -> list[bytes]:
    return [number.to_bytes(4, "big") * (size // 4) for number in range(count)]


def in_two_pieces(source: Chunks, data: Sequence[bytes]) -> Content:
    """Return content with a long manifest, as a file of some GiB has it."""
    refs = [ref for part in data for ref in source.content([part]).refs]
    half = len(refs) // 2
    pieces = [encode_piece(refs[:half]), encode_piece(refs[half:])]
    source.known.update({digest_of(piece): piece for piece in pieces})
    whole = b"".join(data)
    listed = tuple(ChunkRef(digest_of(piece), len(piece)) for piece in pieces)
    return Content(digest_of(whole), len(whole), 1, listed)


# -- marking -------------------------------------------------------------------


async def test_a_chunk_that_was_healed_meanwhile_is_not_marked() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(2))
        victim = content.refs[1].digest
        await site.store(link, "f", content)
        read_at = volume.chunks.locate([victim])
        site.damage(volume, victim)
        with pytest.raises(Corrupt):
            await fetched(link, content)
        await site.store(link, "g", content)
        await mark_damaged(volume, read_at)
        assert await fetched(link, content) == b"".join(parts(2))
        assert not volume.chunks.damaged([victim])


async def test_fetch_says_corrupt_each_time_and_not_found_for_the_unknown() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(3))
        await site.store(link, "f", content)
        victim = content.refs[2].digest
        site.damage(volume, victim)
        for _ in range(3):
            with pytest.raises(Corrupt) as caught:
                await fetched(link, content)
            assert caught.value.fields["digest"] == victim.hex()
            with pytest.raises(Corrupt):
                await read(volume, link, "f")
        with pytest.raises(NotFound) as absent:
            [_ async for _ in link.fetch([digest_of(b"never seen")])]
        assert absent.value.fields["digest"] == digest_of(b"never seen").hex()


# -- STORE of what is damaged, and nobody knows it yet -----------------------------


@pytest.mark.parametrize("victims", [[0], [1], [0, 1, 2], [2]])
async def test_a_store_asks_for_what_it_finds_damaged(victims: Sequence[int]) -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(3))
        await site.store(link, "f", content)
        damaged = [content.refs[victim].digest for victim in victims]
        site.damage(volume, *damaged)
        assert await site.store(link, "g", content) == [2]
        assert site.source.asked == damaged
        assert await fetched(link, content) == b"".join(parts(3))
        assert site.verify(volume) == []


async def test_the_wire_carries_what_is_asked_for_twice() -> None:
    site = Site()
    async with served(site.backend) as volume, grpc_link(volume) as link:
        content = site.source.content(parts(100))
        await site.store(link, "f", content)
        piece = content.refs[0].digest
        chunk = decode_piece(site.source.known[piece])[5].digest
        site.damage(volume, piece, chunk)
        assert await site.store(link, "g", content) == [2]
        assert site.source.asked == [piece, chunk]
        site.damage(volume, chunk)
        with pytest.raises(Corrupt):
            [_ async for _ in link.fetch([chunk])]
        assert await is_damaged(link, "f") and await is_damaged(link, "g")
        assert await site.store(link, "f", content, base=1) == [1]
        assert not await is_damaged(link, "g")
        assert await read(volume, link, "f") == b"".join(parts(100))


async def test_a_store_of_the_same_content_heals_and_makes_no_state() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(3))
        await site.store(link, "f", content)
        site.damage(volume, content.refs[0].digest)
        assert await site.store(link, "f", content, base=1) == [1]
        assert volume.feed.head.revision == 1
        assert await fetched(link, content) == b"".join(parts(3))


async def test_others_in_the_same_store_are_not_failed() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        shared, fresh = parts(4)[:2], parts(8)[4:]
        old = site.source.content(shared)
        await site.store(link, "f", old)
        site.damage(volume, old.refs[1].digest)
        new = site.source.content(fresh)
        single = site.source.content([shared[1]])
        site.source.asked.clear()
        changes = [
            replace(put_file(name), content=content)
            for name, content in (("a", new), ("b", old), ("c", single), ("d", new))
        ]
        answer = await link.store(propose(*changes, ids=site.ids), site.source)
        assert accepted(answer) == [2, 2, 2, 2]
        # What is fresh travels once, though the damaged contents take two rounds.
        assert site.source.asked == [ref.digest for ref in new.refs] + [old.refs[1].digest]
        for content, whole in ((old, shared), (new, fresh), (single, shared[1:])):
            assert await fetched(link, content) == b"".join(whole)


@pytest.mark.parametrize("where", ["piece", "chunk", "both"])
async def test_a_long_manifest_is_healed_piece_and_chunk(where: str) -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        data = parts(100)
        content = in_two_pieces(site.source, data)
        await site.store(link, "f", content)
        piece = content.refs[1].digest
        chunk = decode_piece(site.source.known[piece])[-1].digest
        damaged = {"piece": [piece], "chunk": [chunk], "both": [piece, chunk]}[where]
        site.damage(volume, *damaged)
        assert await site.store(link, "f", content, base=1) == [1]
        assert site.source.asked == damaged
        assert await read(volume, link, "f") == b"".join(data)
        assert site.verify(volume) == []


async def test_content_that_lies_is_refused_though_something_was_damaged() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(2))
        await site.store(link, "f", content)
        site.damage(volume, content.refs[0].digest)
        lie = replace(content, digest=digest_of(b"something else"))
        with pytest.raises(Exception, match="do not make the digest"):
            await site.store(link, "g", lie)
        assert volume.feed.head.revision == 1


class _Rotten(MemoryChunkStore):
    """A disk that turns over a bit of all that it takes, while `is_rotting`."""

    is_rotting = False

    def append(self, chunks: Sequence[tuple[Digest, ChunkBody]]) -> list[Location]:
        locations = super().append(chunks)
        if self.is_rotting:
            for place in locations:
                self.flip(place.pack, place.offset + place.size - 1)
        return locations


async def test_a_disk_that_damages_all_it_takes_ends_the_store() -> None:
    backend = Backend.in_memory()
    rotten = backend.chunks = _Rotten()
    site = Site(backend)
    async with served(backend) as volume, direct_link(volume) as link:
        # The piece of its manifest is read back after it came.
        data = parts(100)
        content = site.source.content(data)
        rotten.is_rotting = True
        with pytest.raises(Corrupt, match="again and again"):
            await site.store(link, "f", content)
        assert site.source.asked == [content.refs[0].digest] * ROUNDS_MAX
        assert volume.feed.head.revision == 0
        rotten.is_rotting = False
        assert await site.store(link, "f", content) == [1]
        assert await read(volume, link, "f") == b"".join(data)


# -- telling ------------------------------------------------------------------


async def test_list_and_stat_tell_what_is_damaged() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content, other = site.source.content(parts(3)), site.source.content(parts(6)[3:])
        await site.store(link, "f", content)
        await site.store(link, "other", other)
        site.damage(volume, content.refs[1].digest)
        assert not await is_damaged(link, "f"), "nobody read it yet"
        with pytest.raises(Corrupt):
            await fetched(link, content)
        assert await is_damaged(link, "f")
        assert not await is_damaged(link, "other")
        await site.store(link, "f", other, base=1)
        assert not await is_damaged(link, "f")
        assert await is_damaged(link, "f", at=1)
        await site.store(link, "copy", content)
        assert not await is_damaged(link, "f", at=1)


@pytest.mark.parametrize("where", ["piece", "chunk", "unread piece"])
async def test_damage_below_a_long_manifest_is_told(where: str) -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content, short = site.source.content(parts(200)), site.source.content(parts(202)[200:])
        await site.store(link, "f", content)
        await site.store(link, "short", short)
        piece = content.refs[0].digest
        victim = piece if "piece" in where else decode_piece(site.source.known[piece])[77].digest
        site.damage(volume, victim, short.refs[0].digest)
        asked = short.refs[0].digest if where == "unread piece" else victim
        with pytest.raises(Corrupt):
            [_ async for _ in link.fetch([asked])]
        assert await is_damaged(link, "f")


# -- verify --------------------------------------------------------------------


async def test_verify_marks_what_it_names_and_a_store_heals_it() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(3))
        victim = content.refs[1].digest
        await site.store(link, "f", content)
        site.damage(volume, victim)
        for _ in range(2):
            named, lacks = site.verify(volume)
            assert victim.hex() in named and "marked damaged" in named
            assert lacks.startswith("'f' at revision 1 lacks 1 of its chunks")
            assert "store a file with this content again" in lacks
        assert await is_damaged(link, "f")
        assert await site.store(link, "f", content, base=1) == [1]
        assert site.source.asked == [victim]
        assert site.verify(volume) == []


@pytest.mark.parametrize("count", [3, 200])
async def test_verify_marks_what_the_index_lost(count: int) -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(count))
        await site.store(link, "f", content)
        victim = digest_of(parts(count)[-1])
        # As rebuilding leaves it, which finds no whole record of the chunk.
        others = volume.chunks.locate([digest for digest in site.source.known if digest != victim])
        site.damage(volume, victim)
        with site.backend.metadata.write(volume.id) as session:
            session.forget_chunks()
            session.add_chunks(others)
        (lacks,) = site.verify(volume)
        assert lacks.startswith("'f' at revision 1 lacks 1 of its chunks")
        assert await is_damaged(link, "f")
        with pytest.raises(Corrupt):
            await read(volume, link, "f")
        assert len(site.verify(volume)) == 1
        await site.store(link, "f", content, base=1)
        assert site.source.asked == [victim]
        assert site.verify(volume) == []


async def test_verify_names_what_a_lost_pack_held() -> None:
    site = Site()
    async with served(site.backend) as volume, direct_link(volume) as link:
        content = site.source.content(parts(3))
        await site.store(link, "f", content)
        site.backend.chunks = MemoryChunkStore()
        (lacks,) = site.verify(volume)
        assert lacks.startswith("'f' at revision 1 lacks 3 of its chunks")
        assert await is_damaged(link, "f")


async def test_a_chunk_that_is_damaged_before_it_has_a_row_is_marked_all_the_same() -> None:
    """Else a commit of the same batch could name a chunk that nobody knows to be damaged."""
    data = b"read wrong while it was pending"
    digest = digest_of(data)
    backend = Backend.in_memory()
    async with served(backend) as volume:
        volume.chunks.append({digest: data})
        await mark_damaged(volume, volume.chunks.locate([digest]))
        assert volume.chunks.missing([digest]) == [digest]
        assert volume.chunks.damaged([digest]) == {digest}
        volume.chunks.append({digest: data})
        await volume.writer.index_chunks()
        assert volume.chunks.missing([digest]) == []
        assert volume.chunks.damaged([digest]) == set()
