"""Where things go: the rules of `--to`, as tables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.client.local import join_local, split_local
from syncline.client.targets import (
    Address,
    fetch_places,
    parse_address,
    plan_fetch,
    plan_store,
    store_sources,
)
from syncline.core.entries import Kind
from syncline.core.names import RelPath
from syncline.errors import Invalid
from tests.client.test_store import make
from tests.support.links import Client


@pytest.mark.parametrize(
    ("raw", "path", "is_directory"),
    [
        (b"a", b"a", False),
        (b"a/b/", b"a/b", True),
        (b"a//", b"a", True),
        (b"", b"", False),
        (b".", b"", True),
        (b"./", b"", True),
        (b"\xff", b"\xff", False),
    ],
)
def test_addresses(raw: bytes, path: bytes, is_directory: bool) -> None:
    assert parse_address(raw) == Address(RelPath.parse(path), is_directory)


@pytest.mark.parametrize("raw", [b"/a", b"/", b"a/../b", b"../a", b"a//b", b".syncline", b"a\0b"])
def test_addresses_that_are_refused(raw: bytes) -> None:
    with pytest.raises(Invalid) as raised:
        parse_address(raw)
    if raw == b"/a":
        assert "write a" in raised.value.message


STORE = [
    ([b"f"], b"", None, [b"f"]),
    ([b"x/f"], b"", None, [b"f"]),
    ([b"/abs/f"], b"", None, [b"f"]),
    ([b"d/"], b"", None, [b"d"]),
    ([b"a", b"b"], b"", None, [b"a", b"b"]),
    ([b"f"], b"new", None, [b"new"]),
    ([b"f"], b"new/", None, [b"new/f"]),
    ([b"f"], b"old", Kind.DIRECTORY, [b"old/f"]),
    ([b"f"], b"old", Kind.FILE, [b"old"]),
    ([b"f"], b"old", Kind.LINK, [b"old"]),
    ([b"a", b"b"], b"new", None, [b"new/a", b"new/b"]),
    ([b"."], b"", None, [b""]),
    ([b"d/."], b"new", None, [b"new"]),
    ([b"."], b"old", Kind.DIRECTORY, [b"old"]),
    ([b".."], b"old/", Kind.DIRECTORY, [b"old"]),
    ([b"/"], b"all", None, [b"all"]),
    ([b".", b"f"], b"new", None, [b"new", b"new/f"]),
]


@pytest.mark.parametrize(("local", "to", "standing", "remote"), STORE)
def test_store(local: list[bytes], to: bytes, standing: Kind | None, remote: list[bytes]) -> None:
    sources = plan_store(local, parse_address(to), standing=standing)
    assert [bytes(source.remote) for source in sources] == remote
    assert [source.local for source in sources] == local


@pytest.mark.parametrize("local", [[b"a/f", b"b/f"], [b""], [b".syncline"]])
def test_store_refuses(local: list[bytes]) -> None:
    with pytest.raises(Invalid):
        plan_store(local, Address(RelPath()), standing=None)


FETCH = [
    ([b"f"], None, True, [b"f"]),
    ([b"d/f"], None, True, [b"f"]),
    ([b"d/f"], b".", True, [b"f"]),
    ([b"d/f"], b"new", False, [b"new"]),
    ([b"d/f"], b"new/", False, [b"new/f"]),
    ([b"d/f"], b"old", True, [b"old/f"]),
    ([b"d/f"], b"/", True, [b"/f"]),
    ([b"a", b"b"], b"new", False, [b"new/a", b"new/b"]),
    ([b""], b"new", False, [b"new"]),
    ([b""], None, True, [b"."]),
    ([b"d/"], b"old/", True, [b"old/d"]),
]


@pytest.mark.parametrize(("remote", "to", "is_directory", "local"), FETCH)
def test_fetch(
    remote: list[bytes], to: bytes | None, is_directory: bool, local: list[bytes]
) -> None:
    addresses = [parse_address(raw) for raw in remote]
    places = plan_fetch(addresses, to, is_directory=is_directory)
    assert [place.local for place in places] == local


def test_fetch_refuses_two_things_for_one_place() -> None:
    with pytest.raises(Invalid):
        plan_fetch([parse_address(b"a/f"), parse_address(b"b/f")], b"new", is_directory=True)


async def test_both_ask_what_stands_there(client: Client, tmp_path: Path) -> None:
    path = make(tmp_path / "f")
    await client.store(path, to=b"d/f")
    [source] = await store_sources(client.link, [b"x"], parse_address(b"d"))
    assert bytes(source.remote) == b"d/x"
    [place] = fetch_places([parse_address(b"d/f")], os.fsencode(tmp_path))
    assert place.local == os.fsencode(tmp_path / "f")
    [place] = fetch_places([parse_address(b"d/f")], os.fsencode(tmp_path / "new"))
    assert place.local == os.fsencode(tmp_path / "new")


@given(st.lists(st.sampled_from([b"a", b"b", b".", b"..", b""]), min_size=1, max_size=5))
def test_a_split_local_path_joins_again(parts: list[bytes]) -> None:
    local = b"/".join(parts)
    base, below = split_local(local)
    joined = join_local(base, below) if local else b"."
    assert os.path.normpath(joined) == os.path.normpath(local or b".")
    assert len(below) <= 1 and not {b"", b".", b".."} & set(below)
