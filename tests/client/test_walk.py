"""Walking local sources: order, addresses, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncline.client import walk as walk_module
from syncline.client.local import open_directory
from syncline.client.staged import staged_name
from syncline.client.targets import Source
from syncline.client.walk import Found, Lost, Step, take_slice, walk
from syncline.core.entries import Kind
from syncline.core.identity import digest_of
from syncline.core.names import RelPath
from tests.client.test_store import make


def steps(local: Path | bytes, remote: bytes = b"r") -> list[Step]:
    name = local if isinstance(local, bytes) else os.fsencode(local)
    return list(walk(Source(name, RelPath.parse(remote))))


def found(local: Path | bytes, remote: bytes = b"r") -> dict[bytes, Found]:
    every = steps(local, remote)
    assert all(isinstance(step, Found) for step in every)
    return {bytes(step.remote): step for step in every if isinstance(step, Found)}


def test_parents_come_first_and_names_in_order(tmp_path: Path) -> None:
    for path in ("b/x", "a/y/z", "c"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / path)
    order = [bytes(step.remote) for step in steps(tmp_path)]
    assert order == [b"r", b"r/c", b"r/a", b"r/a/y", b"r/a/y/z", b"r/b", b"r/b/x"]


def test_only_what_the_user_named_is_on_top(tmp_path: Path) -> None:
    make(tmp_path / "f")
    assert [step.is_top for step in found(tmp_path).values()] == [True, False]
    assert found(tmp_path / "f")[b"r"].is_top


def test_a_link_is_followed_only_where_the_user_wrote_a_slash(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    make(tmp_path / "d" / "f")
    os.symlink("d", tmp_path / "l")
    link = os.fsencode(tmp_path / "l")
    assert [step.kind for step in found(link).values()] == [Kind.LINK]
    for spelling in (link + b"/", link + b"/."):
        assert set(found(spelling)) == {b"r", b"r/f"}


def test_local_paths_read_as_the_user_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    make(tmp_path / "d" / "f")
    monkeypatch.chdir(tmp_path)
    assert [step.local for step in found(b"d").values()] == [b"d", b"d/f"]
    assert [step.local for step in found(b"./d").values()] == [b"./d", b"./d/f"]
    assert [step.local for step in found(b"d/.").values()] == [b"d/.", b"d/./f"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    os.symlink(".", tmp_path / "self")
    assert set(found(tmp_path)) == {b"r", b"r/self"}


def test_what_is_gone_or_cannot_be_listed_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [lost] = steps(tmp_path / "none")
    assert isinstance(lost, Lost) and lost.error.fields["errno"] == "ENOENT"
    (tmp_path / "d").mkdir()
    make(tmp_path / "f")
    real = open_directory

    def refuse(base: bytes, parts: tuple[bytes, ...]) -> int:
        if parts[-1:] == (b"d",):
            raise PermissionError(13, "no")
        return real(base, parts)

    monkeypatch.setattr(walk_module, "open_directory", refuse)
    kinds = {bytes(step.remote): type(step) for step in steps(tmp_path)}
    assert kinds == {b"r": Found, b"r/f": Found, b"r/d": Lost}


def test_what_a_fetch_has_staged_is_passed_over(tmp_path: Path) -> None:
    make(tmp_path / os.fsdecode(staged_name(b"f", digest_of(b"x"))))
    make(tmp_path / ".syncline-mine.part")
    assert set(found(tmp_path)) == {b"r", b"r/.syncline-mine.part"}


def test_slices_are_bounded_by_paths_and_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        make(tmp_path / f"{number}", bytes(100))
    monkeypatch.setattr(walk_module, "SLICE_PATHS", 4)
    source = Source(os.fsencode(tmp_path), RelPath.parse(b"r"))
    every = walk(source)
    assert [len(take_slice(every)) for _ in range(4)] == [4, 4, 3, 0]
    monkeypatch.setattr(walk_module, "SLICE_BYTES", 200)
    every = walk(source)
    assert len(take_slice(every)) == 3
