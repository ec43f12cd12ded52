"""Packs that a crash tore and bits that a disk flipped: found, named, never served, healed."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from syncline.adapters.system import RandomIds
from syncline.core.changes import PutFile
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, digest_of
from syncline.core.manifests import ChunkRef, build_content
from syncline.core.names import parse_name
from syncline.errors import Unavailable
from tests.e2e.history import author, linked, proposal, read_content
from tests.support.processes import Server, serving
from tests.support.realtree import write_random
from tests.support.wait import eventually

pytestmark = pytest.mark.process

slow = pytest.mark.slow

SIZE = 3_000_000


def store_two(server: Server, directory: Path) -> dict[str, bytes]:
    """Store a small and a large file; return their bytes."""
    write_random(directory / "large", SIZE, 1)
    write_random(directory / "small", 20_000, 2)
    server.cli.records("store", directory / "large", directory / "small", "--to", "d/")
    return {name: (directory / name).read_bytes() for name in ("large", "small")}


def assert_fetched(server: Server, stored: dict[str, bytes], target: Path) -> None:
    server.cli.records("fetch", "d", "--to", target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == stored


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def assert_named(server: Server, path: str) -> None:
    """Fail unless `server verify` names a chunk and the path that lacks it."""
    code, records = server.verify()
    assert code == 11
    assert records[-1]["result"] == "verified"
    findings = [str(record["finding"]) for record in records[:-1]]
    assert records[-1]["findings"] == len(findings)
    assert any(f"'{path}' at revision" in finding for finding in findings), findings
    assert any("chunk " in finding for finding in findings), findings


def index(server: Server, statement: str) -> int:
    """Change the chunk index of a server at rest; return how many rows that concerned."""
    with closing(sqlite3.connect(server.data / "metadata.sqlite3")) as connection, connection:
        return connection.execute(statement).rowcount


@pytest.mark.parametrize(
    ("ended", "tail"),
    [
        ("stopped", "garbage"),
        ("killed", "half a record"),
        pytest.param("stopped", "half a record", marks=slow),
        pytest.param("stopped", "zeros", marks=slow),
        pytest.param("killed", "garbage", marks=slow),
        pytest.param("killed", "zeros", marks=slow),
    ],
)
def test_a_torn_tail_is_cut(tmp_path: Path, ended: str, tail: str) -> None:
    with serving(tmp_path / "server") as server:
        stored = store_two(server, tmp_path)
        if ended == "killed":
            server.kill()
        else:
            server.stop()
        pack = server.packs()[-1]
        whole = pack.stat().st_size
        torn = {
            "garbage": bytes(range(256)) * 40,
            "half a record": pack.read_bytes()[16:5_000],
            "zeros": bytes(100_000),
        }[tail]
        with pack.open("ab") as file:
            file.write(torn)
        server.start()
        assert pack.stat().st_size == whole
        assert f"cut {len(torn)} bytes" in server.log
        assert_fetched(server, stored, tmp_path / "copy")
        write_random(tmp_path / "later", 500_000, 3)
        server.cli.records("store", tmp_path / "later")
        server.kill()
        server.start()
        server.cli.records("fetch", "later", "--to", tmp_path / "later copy")
        assert (tmp_path / "later copy").read_bytes() == (tmp_path / "later").read_bytes()
        server.stop()
        server.assert_sound()


async def test_a_transfer_torn_by_a_crash_goes_on(tmp_path: Path) -> None:
    parts = [bytes([number]) * 1_000_000 for number in range(12)]
    known = {digest_of(part): part for part in parts}
    refs = [ChunkRef(digest, len(part)) for digest, part in known.items()]
    whole = b"".join(parts)
    content, _ = build_content(digest_of(whole), len(whole), refs)
    put = PutFile(RandomIds().entry(), NO_REVISION, ROOT_ID, parse_name(b"a"), 0o644, 0, content)
    wanted = proposal(author("crashing"), put)
    asked: list[Digest] = []

    async def source(digest: Digest) -> bytes:
        asked.append(digest)
        return known[digest]

    async def stalling(digest: Digest) -> bytes:
        if digest == refs[11].digest:
            await asyncio.Event().wait()
        return known[digest]

    def packed() -> int:
        return sum(pack.stat().st_size for pack in server.packs())

    with serving(tmp_path / "server") as server:
        async with linked(server.address) as link, asyncio.TaskGroup() as group:
            task = group.create_task(broken(link.store(wanted, stalling)))
            await eventually(lambda: packed() > 5_000_000, "five chunks in the pack")
            server.kill()
            await task
        pack = server.packs()[-1]
        size = pack.stat().st_size
        with pack.open("r+b") as file:
            file.truncate(size - 150_000)
        server.start()
        async with linked(server.address) as link:
            answer = await link.store(wanted, source)
            assert not answer.is_replay
            assert asked == [ref.digest for ref in refs[-len(asked) :]]
            assert len(asked) <= 8, "what is whole is not sent again"
            assert await read_content(link, content) == whole
        server.stop()
        server.assert_sound()


async def broken(store: object) -> None:
    assert asyncio.iscoroutine(store)
    with pytest.raises(Unavailable):
        await store


def test_a_flipped_bit_is_named_not_served_and_healed(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        stored = store_two(server, tmp_path)
        server.stop()
        flip(server.packs()[0], 1_000_000)
        assert_named(server, "d/large")
        server.start()
        for _ in range(2):
            ran = server.cli.run("fetch", "d/large", "--to", tmp_path / "place" / "large")
            assert ran.returncode == 11, (ran.returncode, ran.stderr)
            assert b"d/large" in ran.stderr
            assert not (tmp_path / "place" / "large").exists()
        partial = server.cli.run("fetch", "d", "--to", tmp_path / "both")
        assert partial.returncode == 13
        assert (tmp_path / "both" / "small").read_bytes() == stored["small"]
        assert not (tmp_path / "both" / "large").exists()

        server.cli.records("store", tmp_path / "large", "--to", "d/")
        assert_fetched(server, stored, tmp_path / "copy")
        server.stop()
        server.assert_sound()


def test_a_store_heals_what_nobody_asked_for_yet(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        stored = store_two(server, tmp_path)
        server.stop()
        flip(server.packs()[0], 1_000_000)
        assert_named(server, "d/large")
        server.start()
        # What `server verify` tells the operator to do, and nothing else before it.
        server.cli.records("store", tmp_path / "large", "--to", "d/")
        assert_fetched(server, stored, tmp_path / "copy")
        server.stop()
        server.assert_sound()


def test_a_pack_that_lost_its_end_is_named_and_healed(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        stored = store_two(server, tmp_path)
        server.stop()
        pack = server.packs()[-1]
        with pack.open("r+b") as file:
            file.truncate(pack.stat().st_size // 2)
        assert_named(server, "d/large")
        server.start()
        ran = server.cli.run("fetch", "d/large", "--to", tmp_path / "none")
        assert ran.returncode == 11, ran.stderr
        assert not (tmp_path / "none").exists()
        server.cli.run("fetch", "d/small", "--to", tmp_path / "maybe")
        server.cli.records("store", tmp_path / "large", tmp_path / "small", "--to", "d/")
        assert_fetched(server, stored, tmp_path / "copy")
        server.stop()
        server.assert_sound()


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM chunks",
        pytest.param("DELETE FROM chunks WHERE start < 1000000", marks=slow),
        "UPDATE chunks SET start = start + 1 WHERE start < 1000000",
        pytest.param("UPDATE chunks SET is_damaged = 1", marks=slow),
    ],
    ids=["lost", "half lost", "wrong", "all marked damaged"],
)
def test_rebuild_brings_a_damaged_index_back(tmp_path: Path, damage: str) -> None:
    with serving(tmp_path / "server") as server:
        stored = store_two(server, tmp_path)
        server.stop()
        assert index(server, damage) > 0
        assert_named_somehow(server)
        ran = server.cli.records("server", "rebuild", "--data", server.data)
        assert ran[0]["damaged"] == 0
        server.assert_sound()
        server.start()
        assert_fetched(server, stored, tmp_path / "copy")
        server.stop()


def assert_named_somehow(server: Server) -> None:
    code, records = server.verify()
    assert code == 11
    assert any("'d/large' at revision" in str(record.get("finding")) for record in records)
