"""Two and three users who change the same things without seeing each other.

Where it says offline, the lines to the server are cut, both users act, and the mounts come back one
after the other: each case is played with either of them first.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Barrier

import pytest

from syncline.core.identity import Revision, digest_of
from tests.support.pair import Mounted, Mounts, beside, mounts

SAVES = 200

Act = Callable[[Mounted], None]

either_first = pytest.mark.parametrize("first", [0, 1], ids=["ann-first", "ben-first"])


@asynccontextmanager
async def _offline(directory: Path, files: dict[bytes, bytes]) -> AsyncIterator[Mounts]:
    """Mount twice with these files on both sides, and cut the lines."""
    async with mounts(directory, "ann", "ben") as both:
        for path, content in files.items():
            both.all[0].write(path, content)
        both.all[0].write(b"kept", b"")
        await both.settle_equal()
        for mount in both.all:
            mount.line.cut()
        yield both


async def _meet(both: Mounts, first: int, *acts: Act) -> set[bytes]:
    """Let each user act, bring the mounts back, `first` first; return the names in the end."""
    for mount, act in zip(both.all, acts, strict=True):
        act(mount)
    for mount in (both.all[first], both.all[1 - first]):
        mount.line.mend()
        await both.settle(mount)
    return set(await both.settle_equal()) - {b"kept"}


def _contents(both: Mounts) -> dict[bytes, bytes]:
    found = both.all[0].contents()
    del found[b"kept"]
    return found


def _write(path: bytes, content: bytes) -> Act:
    return lambda mount: mount.write(path, content)


def _remove(path: bytes) -> Act:
    return lambda mount: mount.remove(path)


def _rename(old: bytes, new: bytes) -> Act:
    return lambda mount: mount.rename(old, new)


def _nothing(mount: Mounted) -> None:
    assert mount.line.is_cut


# -- files -----------------------------------------------------------------------


@either_first
async def test_edit_and_edit(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"f.txt": b"old"}) as both:
        names = await _meet(both, first, _write(b"f.txt", b"ann's"), _write(b"f.txt", b"ben's"))
        winner, loser = [(b"ann's", b"ben's"), (b"ben's", b"ann's")][first]
        assert both.all[0].read(b"f.txt") == winner
        [copy] = names - {b"f.txt"}
        assert copy.startswith(b"f (conflict of ")
        assert (b"ben" if first == 0 else b"ann") in copy
        assert copy.endswith(b".txt")
        assert _contents(both) == {b"f.txt": winner, copy: loser}


@either_first
async def test_same_edit_twice(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"f": b"old"}) as both:
        await _meet(both, first, _write(b"f", b"new"), _write(b"f", b"new"))
        assert _contents(both) == {b"f": b"new"}


@either_first
async def test_edit_and_delete(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"f": b"old"}) as both:
        await _meet(both, first, _write(b"f", b"edited"), _remove(b"f"))
        assert _contents(both) == {b"f": b"edited"}


@either_first
async def test_delete_and_delete(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"f": b"old", b"d/g": b"old"}) as both:

        def remove(mount: Mounted) -> None:
            mount.remove(b"f")
            mount.remove(b"d")

        assert await _meet(both, first, remove, remove) == set()
        assert not any(mount.problems() for mount in both.all)


@either_first
async def test_create_and_create_other_content(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {}) as both:
        names = await _meet(both, first, _write(b"f", b"ann's"), _write(b"f", b"ben's"))
        winner, loser = [(b"ann's", b"ben's"), (b"ben's", b"ann's")][first]
        [copy] = names - {b"f"}
        assert _contents(both) == {b"f": winner, copy: loser}


@either_first
async def test_create_and_create_same_content(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {}) as both:
        await _meet(both, first, _write(b"f", b"same"), _write(b"f", b"same"))
        assert _contents(both) == {b"f": b"same"}


@either_first
async def test_conflict_copies_travel_to_all(tmp_path: Path, first: int) -> None:
    async with mounts(tmp_path, "ann", "ben", "carol") as three:
        three.all[2].write(b"f", b"old")
        await three.settle_equal()
        for mount in three.all[:2]:
            mount.line.cut()
            mount.write(b"f", b"of " + mount.name.encode())
        for mount in (three.all[first], three.all[1 - first]):
            mount.line.mend()
            await three.settle(mount)
        await three.settle_equal()
        assert sorted(three.all[2].contents().values()) == [b"of ann", b"of ben"]
        # And a user of any mount may put an end to it.
        [copy] = three.all[2].names() - {b"f"}
        three.all[2].remove(copy)
        assert set(await three.settle_equal()) == {b"f"}


# -- renames ---------------------------------------------------------------------


@either_first
async def test_edit_and_rename(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"old": b"old"}) as both:
        id = both.id(b"old")
        await _meet(both, first, _write(b"old", b"edited"), _rename(b"old", b"new"))
        assert _contents(both) == {b"new": b"edited"}
        assert both.id(b"new") == id


@either_first
async def test_renamed_to_two_names(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"old": b"content"}) as both:
        await _meet(both, first, _rename(b"old", b"by ann"), _rename(b"old", b"by ben"))
        assert _contents(both) == {(b"by ann", b"by ben")[first]: b"content"}


@either_first
async def test_two_renamed_to_one_name(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"a": b"was a", b"b": b"was b"}) as both:
        names = await _meet(both, first, _rename(b"a", b"one"), _rename(b"b", b"one"))
        assert b"one" in names
        assert len(names) == 2
        assert sorted(_contents(both).values()) == [b"was a", b"was b"]


@either_first
async def test_renamed_onto_what_the_other_made(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"old": b"renamed"}) as both:
        names = await _meet(both, first, _rename(b"old", b"new"), _write(b"new", b"made"))
        assert b"new" in names
        assert len(names) == 2
        assert sorted(_contents(both).values()) == [b"made", b"renamed"]


@either_first
async def test_renamed_over_a_file_that_the_other_edits(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"a": b"moved", b"b": b"old"}) as both:
        await _meet(both, first, _rename(b"a", b"b"), _write(b"b", b"edited"))
        assert sorted(_contents(both).values()) == [b"edited", b"moved"]


# -- directories -----------------------------------------------------------------


@either_first
@pytest.mark.parametrize("path", [b"d/new", b"d/below/new", b"d/below/made/new"])
async def test_tree_removed_and_a_file_made_in_it(tmp_path: Path, first: int, path: bytes) -> None:
    async with _offline(tmp_path, {b"d/f": b"old", b"d/below/g": b"old"}) as both:
        await _meet(both, first, _remove(b"d"), _write(path, b"made"))
        assert _contents(both) == {path: b"made"}


@either_first
async def test_tree_removed_and_a_file_edited_in_it(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"d/f": b"old", b"d/below/g": b"old"}) as both:
        await _meet(both, first, _remove(b"d"), _write(b"d/below/g", b"edited"))
        assert _contents(both) == {b"d/below/g": b"edited"}


@either_first
async def test_directory_renamed_and_a_file_made_in_it(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"d/f": b"old"}) as both:
        await _meet(both, first, _rename(b"d", b"e"), _write(b"d/below/new", b"made"))
        assert _contents(both) == {b"e/f": b"old", b"e/below/new": b"made"}
        assert b"d" not in both.entries()


@either_first
async def test_directory_renamed_and_a_file_edited_in_it(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"d/f": b"old", b"d/g": b"old"}) as both:
        await _meet(both, first, _rename(b"d", b"e"), _write(b"d/f", b"edited"))
        assert _contents(both) == {b"e/f": b"edited", b"e/g": b"old"}
        assert b"d" not in both.entries()


@either_first
async def test_directories_made_on_both_sides_are_merged(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {}) as both:
        names = await _meet(
            both, first, _write(b"d/below/by ann", b"a"), _write(b"d/below/by ben", b"b")
        )
        assert names == {b"d", b"d/below", b"d/below/by ann", b"d/below/by ben"}


@either_first
async def test_directories_moved_into_each_other(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"a/f": b"in a", b"b/g": b"in b"}) as both:
        await _meet(both, first, _rename(b"a", b"b/a"), _rename(b"b", b"a/b"))
        assert sorted(_contents(both).values()) == [b"in a", b"in b"]


@either_first
async def test_file_and_directory_of_one_name(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {}) as both:
        names = await _meet(both, first, _write(b"x", b"a file"), _write(b"x/inside", b"in it"))
        assert b"x" in names
        assert sorted(_contents(both).values()) == [b"a file", b"in it"]


@either_first
async def test_directory_becomes_a_file_and_its_child_is_edited(tmp_path: Path, first: int) -> None:
    def replace(mount: Mounted) -> None:
        mount.remove(b"d")
        mount.write(b"d", b"a file now")

    async with _offline(tmp_path, {b"d/child": b"old"}) as both:
        await _meet(both, first, replace, _write(b"d/child", b"edited"))
        assert sorted(_contents(both).values()) == [b"a file now", b"edited"]


@either_first
async def test_file_becomes_a_directory_and_is_edited(tmp_path: Path, first: int) -> None:
    def replace(mount: Mounted) -> None:
        mount.remove(b"f")
        mount.write(b"f/child", b"new")

    async with _offline(tmp_path, {b"f": b"old"}) as both:
        await _meet(both, first, replace, _write(b"f", b"edited"))
        assert sorted(_contents(both).values()) == [b"edited", b"new"]


@either_first
async def test_chmod_and_edit(tmp_path: Path, first: int) -> None:
    def make_executable(mount: Mounted) -> None:
        os.chmod(mount.path(b"f"), 0o755)

    async with _offline(tmp_path, {b"f": b"old"}) as both:
        await _meet(both, first, make_executable, _write(b"f", b"edited"))
        assert _contents(both) == {b"f": b"edited"}
        assert both.entry(b"f").mode == 0o755


@either_first
async def test_only_one_side_acts(tmp_path: Path, first: int) -> None:
    async with _offline(tmp_path, {b"f": b"old"}) as both:
        await _meet(both, first, _nothing, _write(b"f", b"edited"))
        assert _contents(both) == {b"f": b"edited"}


# -- more users, and quicker ones ------------------------------------------------


async def test_three_edit_the_same_file(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben", "carol") as three:
        three.all[0].write(b"f", b"old")
        await three.settle_equal()
        for mount in three.all:
            mount.line.cut()
            mount.write(b"f", b"of " + mount.name.encode())
        for mount in three.all:
            mount.line.mend()
            await three.settle(mount)
        await three.settle_equal()
        contents = three.all[0].contents()
        assert contents.pop(b"f") == b"of ann"
        assert sorted(contents.values()) == [b"of ben", b"of carol"]


async def test_three_edit_the_same_file_and_come_back_at_once(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben", "carol") as three:
        three.all[0].write(b"f", b"old")
        await three.settle_equal()
        for mount in three.all:
            mount.line.cut()
            mount.write(b"f", b"of " + mount.name.encode())
        for mount in three.all:
            mount.line.mend()
        await three.settle_equal()
        contents = three.all[0].contents()
        assert b"f" in contents
        assert sorted(contents.values()) == [b"of ann", b"of ben", b"of carol"]


@pytest.mark.parametrize("way", ["in-place", "renamed-over"])
async def test_both_save_as_fast_as_they_can(tmp_path: Path, way: str) -> None:
    """No last save is lost: it is in the history of the server, and live unless overwritten."""
    async with mounts(tmp_path, "ann", "ben") as both:
        both.all[0].write(b"f", b"old")
        await both.settle_equal()
        spans: list[tuple[float, float]] = []
        start = Barrier(2)

        def save_all(mount: Mounted) -> bytes:
            start.wait()
            start_s = time.monotonic()
            for number in range(SAVES):
                content = b"%s %d" % (mount.name.encode(), number)
                (mount.write if way == "in-place" else mount.save)(b"f", content)
            spans.append((start_s, time.monotonic()))
            return content

        async with asyncio.TaskGroup() as group:
            users = [group.create_task(beside(save_all, mount)) for mount in both.all]
        assert max(begin for begin, _ in spans) < min(end for _, end in spans), "no overlap"
        lasts = [user.result() for user in users]
        await both.settle_equal(timeout_s=60.0)
        contents = both.all[0].contents()
        assert contents[b"f"] in lasts
        assert max(Counter(contents.values()).values()) == 1, "no content is there twice"
        stored = {state.digest for commit in both.commits(Revision(0)) for state in commit.entries}
        assert {digest_of(last) for last in lasts} <= stored


async def test_both_save_other_files_as_fast_as_they_can(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:

        def save_all(mount: Mounted) -> None:
            for number in range(SAVES):
                mount.save(mount.name.encode() + b" %d" % (number % 10), b"%d" % number)
                mount.write(b"shared/" + mount.name.encode() + b"/%d" % number, b"new")

        async with asyncio.TaskGroup() as group:
            for mount in both.all:
                group.create_task(beside(save_all, mount))
        await both.settle_equal(timeout_s=60.0)
        contents = both.all[0].contents()
        assert len(contents) == 2 * (10 + SAVES)
        assert contents[b"ben 9"] == b"%d" % (SAVES - 1)
