"""A real tree goes to the server and comes back as it was, and only what changed travels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from syncline.core.names import unescape
from tests.support.processes import JsonObject, Server, number, proxied, serving
from tests.support.realtree import (
    MIB,
    Fact,
    build_real_tree,
    differences,
    snapshot,
)

pytestmark = pytest.mark.process


@dataclass(frozen=True)
class Stored:
    """A tree that was stored by one command, and what it was then."""

    server: Server
    tree: Path
    facts: dict[bytes, Fact]
    records: list[JsonObject]
    head: int


def test_a_real_tree_goes_and_comes_back(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    build_real_tree(tree)
    with serving(tmp_path / "server") as server:
        records = server.cli.records("store", tree)
        stored = Stored(server, tree, snapshot(tree), records, server.cli.head())
        assert len(stored.facts) > 5_000
        every_entry_is_stored_and_listed(stored)
        it_comes_back_as_it_was(stored, tmp_path / "back")
        only_changes_travel(stored)
        both_states_can_be_fetched(stored, tmp_path / "old", tmp_path / "new")
        server.stop()
        server.assert_sound()


def path_in_tree(record: JsonObject) -> bytes:
    path = record["path"]
    assert isinstance(path, str)
    return unescape(path).removeprefix(b"tree").removeprefix(b"/")


def every_entry_is_stored_and_listed(stored: Stored) -> None:
    assert {record["result"] for record in stored.records} == {"stored"}
    assert {path_in_tree(record) for record in stored.records} == {b"", *stored.facts}
    listed = stored.server.cli.records("list", "--recursive", "tree")
    assert len(listed) == len(stored.facts)
    by_path = {path_in_tree(record): record for record in listed}
    assert by_path.keys() == stored.facts.keys()
    for path, fact in stored.facts.items():
        record = by_path[path]
        assert record["mode"] == f"{fact.mode:04o}", path
        if record["kind"] == "file":
            assert (record["size"], record["mtime_ns"]) == (fact.size, fact.mtime_ns), path
            assert record["digest"] == fact.content.hex(), path
        elif record["kind"] == "link":
            target = record["target"]
            assert isinstance(target, str)
            assert unescape(target) == fact.content, path


def it_comes_back_as_it_was(stored: Stored, target: Path) -> None:
    records = stored.server.cli.records("fetch", "tree", "--to", f"{target}/")
    assert len(records) == len(stored.facts) + 1
    assert {record["result"] for record in records} == {"fetched"}
    assert not differences(stored.facts, snapshot(target / "tree"))
    again = stored.server.cli.records("fetch", "tree", "--to", target)
    assert {record["result"] for record in again} == {"unchanged"}
    assert not differences(stored.facts, snapshot(target / "tree"))


def only_changes_travel(stored: Stored) -> None:
    cli, tree = stored.server.cli, stored.tree
    unchanged = cli.records("store", tree)
    assert {record["result"] for record in unchanged} == {"unchanged"}
    assert len(unchanged) == len(stored.facts) + 1
    assert cli.head() == stored.head

    large = tree / "sizes" / "large"
    large.write_bytes(b"one byte more in front" + large.read_bytes())
    (tree / "times" / "time 0").write_bytes(b"other")
    (tree / "modes" / "file 644").chmod(0o755)
    packed_bytes = sum(pack.stat().st_size for pack in stored.server.packs())
    with proxied(stored.server.address) as proxy:
        records = cli.records("store", tree, "--server", proxy.address)
        assert proxy.up_bytes < 4 * MIB, "a few bytes in front of 20 MiB send a chunk or two"
    assert sum(pack.stat().st_size for pack in stored.server.packs()) - packed_bytes < 4 * MIB
    changed = [record for record in records if record["result"] != "unchanged"]
    assert {record["result"] for record in changed} == {"stored"}
    paths = {path_in_tree(record) for record in changed}
    assert paths == {b"sizes/large", b"times/time 0", b"modes/file 644"}
    for record in changed:
        assert 0 < number(record, "replaced") <= stored.head < number(record, "revision")


def both_states_can_be_fetched(stored: Stored, old: Path, new: Path) -> None:
    cli = stored.server.cli
    cli.records("fetch", "tree", "--at", str(stored.head), "--to", old)
    assert not differences(stored.facts, snapshot(old))
    cli.records("fetch", "tree", "--to", new)
    assert not differences(snapshot(stored.tree), snapshot(new))
    listed = cli.records("list", "tree/sizes/large", "--at", str(stored.head))
    assert listed[0]["size"] == 20 * MIB
