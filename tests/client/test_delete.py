"""DELETE by path: what goes, what is refused, what others do meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncline.client import delete as delete_module
from syncline.errors import Invalid, Unavailable
from tests.client.test_store import make
from tests.support.links import Client, ScriptedLink, failing, only_error, results

BROKEN = Unavailable("the connection broke")


@pytest.fixture(autouse=True)
async def tree(other: Client, tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    for name in ("d/f", "d/e/g", "h"):
        make(tmp_path / name)
    await other.store(tmp_path / "d", tmp_path / "h")


async def test_a_file_goes_and_a_full_directory_does_not(client: Client) -> None:
    outcomes = await client.delete(b"h", b"d", b"none")
    assert results(outcomes) == {b"h": "deleted", b"d": "not_empty", b"none": "not_found"}
    assert set(await client.tree()) == {b"d", b"d/f", b"d/e", b"d/e/g"}


async def test_recursive_takes_children_first(
    client: Client, link: ScriptedLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delete_module, "BATCH_MAX", 2)
    outcomes = await client.delete(b"d", is_recursive=True)
    assert [bytes(outcome.path) for outcome in outcomes] == [b"d/f", b"d/e/g", b"d/e", b"d"]
    assert set(results(outcomes).values()) == {"deleted"} and link.count("delete") == 2
    assert set(await client.tree()) == {b"h"}


async def test_the_root_stands_for_all_that_is_in_it(client: Client) -> None:
    with pytest.raises(Invalid):
        await client.delete(b"")
    outcomes = await client.delete(b"", is_recursive=True)
    assert len(outcomes) == 5 and await client.tree() == {}
    assert await client.delete(b"", is_recursive=True) == []


async def test_what_is_added_meanwhile_is_seen_before_it_is_deleted(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    async def add() -> None:
        await other.store(make(tmp_path / "late"), to=b"d/e/late")

    link.before["delete"] = [add]
    outcomes = await client.delete(b"d", is_recursive=True)
    assert set(results(outcomes).values()) == {"deleted"}
    assert b"d/e/late" in results(outcomes) and set(await client.tree()) == {b"h"}


async def test_one_who_never_stops_adding_wins(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    count = 0

    async def add() -> None:
        nonlocal count
        count += 1
        await other.store(make(tmp_path / "late"), to=b"d/late%d" % count)

    link.before["delete"] = [add] * 100
    outcomes = await client.delete(b"d", is_recursive=True)
    assert only_error(outcomes).code == "not_empty"
    assert count == delete_module.LOOKS_MAX and b"d/late%d" % count in await client.tree()


async def test_an_edit_meanwhile_is_seen_before_it_is_deleted(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    async def edit() -> None:
        await other.store(make(tmp_path / "h", b"edited"), to=b"h")

    link.before["delete"] = [edit]
    [outcome] = await client.delete(b"h")
    assert (outcome.result.value, outcome.replaced) == ("deleted", 2)


async def test_if_revision_is_not_retried(
    client: Client, other: Client, link: ScriptedLink, tmp_path: Path
) -> None:
    async def edit() -> None:
        await other.store(make(tmp_path / "h", b"edited"), to=b"h")

    assert only_error(await client.delete(b"h", if_revision=5)).code == "stale"
    link.before["delete"] = [edit]
    assert only_error(await client.delete(b"h", if_revision=1)).code == "stale"
    assert results(await client.delete(b"h", if_revision=2)) == {b"h": "deleted"}


async def test_a_broken_delete_is_repeated_with_its_op_id(
    client: Client, link: ScriptedLink
) -> None:
    link.before["delete"] = [failing(BROKEN)]
    link.after["delete"] = [failing(BROKEN)]
    [outcome] = await client.delete(b"h")
    assert (outcome.result.value, outcome.revision) == ("deleted", 2)
    assert len({proposal.op_id for proposal in link.proposals}) == 1


async def test_giving_up_fails_the_rest(client: Client, link: ScriptedLink) -> None:
    client.retry_s = 0.0
    link.before["delete"] = [failing(BROKEN)]
    outcomes = await client.delete(b"h", b"d/f")
    assert results(outcomes) == {b"h": "unavailable", b"d/f": "unavailable"}
    link.before["stat"] = [failing(BROKEN)]
    with pytest.raises(Unavailable):
        await client.delete(b"h")


async def test_gone_meanwhile_is_no_failure(
    client: Client, other: Client, link: ScriptedLink
) -> None:
    async def remove() -> None:
        await other.delete(b"d", is_recursive=True)

    link.before["delete"] = [remove]
    outcomes = await client.delete(b"d", is_recursive=True)
    assert set(results(outcomes).values()) == {"deleted"}
