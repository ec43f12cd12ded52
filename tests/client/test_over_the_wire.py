"""The commands through a gRPC server on the loopback address."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from syncline.adapters.executors import ThreadExecutor
from syncline.client.follow import follow
from syncline.compose.direct import DirectLink
from syncline.core.bodies import held_bytes
from syncline.core.identity import Revision, digest_of
from syncline.ports.link import Link
from syncline.rpc.link import GrpcLink
from syncline.server.volume import ServedVolume
from tests.client.test_store import NAMES, make
from tests.support.bodies import text
from tests.support.links import QUICK, Client, ScriptedLink, on_disk, results
from tests.support.serving import ALICE, Backend, SeededIds, grpc_link, rpc_server, served


@pytest.fixture
async def wired(volume: ServedVolume, executor: ThreadExecutor) -> AsyncIterator[Client]:
    async with grpc_link(volume) as link:
        yield Client(ScriptedLink(link), executor)


async def test_a_tree_goes_there_and_comes_back(wired: Client, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "d" / "empty").mkdir(parents=True)
    for name in NAMES:
        make(top / "d" / os.fsdecode(name), name)
    make(top / "large", os.urandom(5_000_000), mtime=-1)
    os.symlink(b"\xff", os.fsencode(top) + b"/link")
    outcomes = await wired.store(os.fsencode(top) + b"/.")
    assert set(results(outcomes).values()) == {"stored"}
    await wired.fetch(b"", to=tmp_path / "new")
    assert on_disk(tmp_path / "new") == on_disk(top)
    outcomes = await wired.delete(b"", is_recursive=True)
    assert set(results(outcomes).values()) == {"deleted"} and await wired.tree() == {}


async def test_what_is_worth_it_travels_and_lies_compressed(
    wired: Client, volume: ServedVolume, tmp_path: Path
) -> None:
    contents = {
        "small": text(900_000)[::-1],
        "large": text(5_000_000),
        "noise": os.urandom(3_000_000),
    }
    (tmp_path / "top").mkdir()
    for name, data in contents.items():
        make(tmp_path / "top" / name, data)
    assert set(results(await wired.store(tmp_path / "top")).values()) == {"stored"}
    sent = dict.fromkeys(contents, 0)
    tree = await wired.tree()
    for name in contents:
        content = tree[b"top/" + name.encode()].content
        assert content is not None
        located = volume.chunks.locate([ref.digest for ref in content.refs])
        sent[name] = sum(at.size for at in located.values())
    assert sent["small"] < 300_000 and sent["large"] < 5_000_000 / 3
    assert 3_000_000 < sent["noise"] < 3_010_000
    held = sum(len(held_bytes(body)) for body in wired.link.bodies)
    assert held <= sum(sent.values()) < held + 10_000
    await wired.fetch(b"top", to=tmp_path / "new")
    assert on_disk(tmp_path / "new") == on_disk(tmp_path / "top")


async def test_a_file_that_changes_while_it_travels_is_read_again(
    wired: Client, tmp_path: Path
) -> None:
    path = make(tmp_path / "f", os.urandom(3_000_000))
    newer = os.urandom(3_000_000)

    async def rewrite() -> None:
        make(path, newer)

    wired.link.before["store"] = [rewrite]
    assert results(await wired.store(path)) == {b"f": "stored"}
    assert (await wired.tree())[b"f"].digest == digest_of(newer)


async def test_a_watcher_sees_each_commit_once_over_three_servers(
    executor: ThreadExecutor, tmp_path: Path
) -> None:
    address = ""
    seen: list[int] = []

    async def connect() -> Link:
        return GrpcLink(address, "default", timeout_s=20.0)

    events = follow(connect, author=ALICE, since=Revision(0), backoff=QUICK)
    async with asyncio.timeout(60), aclosing(events):
        for number in range(3):
            backend = Backend.on_disk(tmp_path)
            async with served(backend) as volume, rpc_server(volume) as address:
                writer = Client(ScriptedLink(DirectLink(volume)), executor, ids=SeededIds(number))
                for edit in range(2):
                    await writer.store(make(tmp_path / "f", b"%d %d" % (number, edit)))
                    seen.append((await anext(events)).commit.revision)
            backend.close()
    assert seen == [1, 2, 3, 4, 5, 6]
