"""STORE of what the server has in its table and not on its disk any more: it is repaired."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncline.core.entries import Entry
from syncline.core.names import RelPath
from syncline.errors import Corrupt
from syncline.ports.report import Result
from syncline.server.damage import mark_damaged
from syncline.server.fetch import fetch_content
from syncline.server.volume import ServedVolume
from tests.support.links import Client, ScriptedLink

SIZES = {"inline": 1000, "chunks": 3_000_000, "pieces": 24_000_000}


def make(path: Path, size: int) -> bytes:
    """Make a file that is older than the clock's grain; return its content."""
    content = os.urandom(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(10**9, 10**9))
    return content


async def lose(volume: ServedVolume, entry: Entry) -> None:
    """Let the server find out that the last chunk, or piece, of a file is damaged."""
    assert entry.content is not None
    await mark_damaged(volume, volume.chunks.locate([entry.content.refs[-1].digest]))


async def content_of(volume: ServedVolume, entry: Entry) -> bytes:
    batches = [batch async for batch in fetch_content(volume, entry, 0)]
    return b"".join(b"".join(batch) for batch in batches)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_an_untouched_file_repairs_the_server(
    client: Client, link: ScriptedLink, volume: ServedVolume, tmp_path: Path, size: int
) -> None:
    content = make(tmp_path / "file", size)
    await client.store(tmp_path / "file")
    entry = (await client.tree())[b"file"]
    await lose(volume, entry)
    with pytest.raises(Corrupt):
        await content_of(volume, entry)
    [outcome] = await client.store(tmp_path / "file")
    assert (outcome.result, outcome.revision, outcome.replaced) == (Result.STORED, 1, 1)
    assert volume.feed.head.revision == 1
    assert await content_of(volume, entry) == content
    stores = link.count("store")
    [outcome] = await client.store(tmp_path / "file")
    assert outcome.result is Result.UNCHANGED
    assert link.count("store") == stores


async def test_of_a_tree_only_what_is_damaged_is_sent(
    client: Client, link: ScriptedLink, volume: ServedVolume, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    wanted = {name: make(top / name, 70_000) for name in ("a", "b", "c")}
    await client.store(top)
    tree = await client.tree()
    await lose(volume, tree[b"top/b"])
    outcomes = await client.store(top)
    results = {outcome.path: outcome.result for outcome in outcomes}
    assert results == {
        RelPath.parse(b"top"): Result.UNCHANGED,
        RelPath.parse(b"top/a"): Result.UNCHANGED,
        RelPath.parse(b"top/b"): Result.STORED,
        RelPath.parse(b"top/c"): Result.UNCHANGED,
    }
    assert [len(proposal.changes) for proposal in link.proposals] == [4, 1]
    assert await content_of(volume, tree[b"top/b"]) == wanted["b"]


async def test_a_file_that_changed_is_stored_and_the_old_content_stays_damaged(
    client: Client, volume: ServedVolume, tmp_path: Path
) -> None:
    make(tmp_path / "file", 70_000)
    await client.store(tmp_path / "file")
    old = (await client.tree())[b"file"]
    await lose(volume, old)
    changed = make(tmp_path / "file", 70_001)
    [outcome] = await client.store(tmp_path / "file")
    assert (outcome.result, outcome.revision, outcome.replaced) == (Result.STORED, 2, 1)
    assert await content_of(volume, (await client.tree())[b"file"]) == changed
    with pytest.raises(Corrupt):
        await content_of(volume, old)
