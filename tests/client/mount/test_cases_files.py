"""Contents, links, kinds and times that break sync systems: two mounts on real directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.core.entries import Kind
from tests.support.pair import beside, mounts
from tests.support.realtree import MIB, ODD_TIMES_NS, write_random
from tests.support.serving import Backend

MESSAGE_BYTES_MAX = 4 * MIB
"""What gRPC takes in one message, unless it is told otherwise."""

YEAR_NS = 365 * 86_400 * 10**9


async def test_empty_file_arrives(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"empty", b"")
        await both.settle_equal()
        assert ben.contents() == {b"empty": b""}


async def test_truncated_file_arrives_empty(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"content")
        await both.settle_equal()
        id = both.id(b"f")
        os.truncate(ann.path(b"f"), 0)
        await both.settle_equal()
        assert ben.contents() == {b"f": b""}
        assert both.id(b"f") == id


async def test_content_of_ten_messages_travels_in_chunks(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        write_random(ann.root / "large", 10 * MESSAGE_BYTES_MAX + 1, 1)
        tree = await both.settle_equal()
        assert tree[b"large"].size == 10 * MESSAGE_BYTES_MAX + 1
        assert sum(ann.line.sent) >= tree[b"large"].size
        assert max(ann.line.sent) <= MESSAGE_BYTES_MAX
        assert max(ben.line.fetched) <= MESSAGE_BYTES_MAX


async def test_file_with_a_hole_of_40_mib(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        with (ann.root / "sparse").open("wb") as file:
            file.write(b"begin")
            file.seek(40 * MIB)
            file.write(b"end")
        tree = await both.settle_equal()
        assert tree[b"sparse"].size == 40 * MIB + 3
        assert ben.read(b"sparse")[-4:] == b"\0end"
        assert sum(ann.line.sent) < 10 * MIB, "equal chunks travel once"


async def test_many_small_files_are_all_read(tmp_path: Path) -> None:
    """They are read by several threads while others are recorded: none is forgotten."""
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        for round_ in range(2):
            for number in range(150):
                ann.write(b"%d" % number, b"round %d" % round_)
            await both.settle_equal()
        assert ben.contents() == {b"%d" % number: b"round 1" for number in range(150)}


# -- links -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [b"nowhere", b"/etc/passwd", b"../../../../etc/hostname", b"\xff not utf-8\n", b"t" * 4_000],
    ids=["dangling", "absolute", "escaping", "not-utf-8", "long"],
)
async def test_link_is_carried_as_text(tmp_path: Path, target: bytes) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        os.symlink(target, ann.path(b"link"))
        await both.settle_equal()
        assert os.readlink(ben.path(b"link")) == target
        assert both.entry(b"link").kind is Kind.LINK
        assert not ann.line.sent, "what is behind a link is not sent"
        os.unlink(ben.path(b"link"))
        os.symlink(b"other", ben.path(b"link"))
        await both.settle_equal()
        assert os.readlink(ann.path(b"link")) == b"other"


async def test_content_behind_links_is_never_sent(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"nobody else's business")
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        (ann.root / "directory").symlink_to(tmp_path / "outside")
        (ann.root / "file").symlink_to("../outside/secret")
        (tmp_path / "outside" / "more").write_bytes(b"written later")
        assert set(await both.settle_equal()) == {b"directory", b"file"}
        assert not ann.line.sent
        ben.remove(b"directory")
        await both.settle_equal()
        assert (tmp_path / "outside" / "secret").read_bytes() == b"nobody else's business"


async def test_links_in_loops_end_no_scan(tmp_path: Path) -> None:
    (tmp_path / "ann").mkdir()
    ann_root = tmp_path / "ann"
    for name, target in {"one": "two", "two": "one", "self": "self", "dot": "."}.items():
        (ann_root / name).symlink_to(target)
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, _ = both.all
        ann.mkdir(b"d")
        (ann.root / "d" / "up").symlink_to("..")
        (ann.root / "d" / "here").symlink_to(".")
        tree = await both.settle_equal()
        assert set(tree) == {b"one", b"two", b"self", b"dot", b"d", b"d/up", b"d/here"}


# -- one kind for another ----------------------------------------------------------


async def test_file_becomes_a_directory_with_a_child(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"thing", b"a file")
        await both.settle_equal()
        ann.remove(b"thing")
        ann.write(b"thing/child", b"inside")
        await both.settle_equal()
        assert ben.contents() == {b"thing/child": b"inside"}


async def test_directory_becomes_a_file(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"thing/below/child", b"inside")
        await both.settle_equal()
        ann.remove(b"thing")
        ann.write(b"thing", b"a file")
        await both.settle_equal()
        assert ben.contents() == {b"thing": b"a file"}


@pytest.mark.parametrize("kind", ["directory", "link"])
async def test_other_kind_that_comes_spares_unscanned_edits(tmp_path: Path, kind: str) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"old")
        await both.settle_equal()
        ben.line.cut()
        ann.remove(b"f")
        if kind == "directory":
            ann.write(b"f/inside", b"new")
        else:
            (ann.root / "f").symlink_to("elsewhere")
        await both.settle(ann)
        ben.line.mend()
        ben.write(b"f", b"edited, and not looked at yet")
        await both.settle_equal()
        assert b"edited, and not looked at yet" in ann.contents().values()
        if kind == "directory":
            assert b"new" in ben.contents().values()
        else:
            assert b"elsewhere" in [fact.content for fact in ben.tree().values()]


# -- changes while something reads or writes ----------------------------------------


def _rewrite(path: bytes, size: int, times: int) -> None:
    """Fill a file with one byte all over, with another one each time, in one call."""
    for number in range(1, times + 1):
        file = os.open(path, os.O_WRONLY)
        try:
            os.pwrite(file, bytes([number]) * size, 0)
        finally:
            os.close(file)


@pytest.mark.parametrize("size", [MIB // 2, 6 * MIB], ids=["held-in-memory", "streamed"])
async def test_no_mixture_of_two_versions_is_stored(tmp_path: Path, size: int) -> None:
    assert (size > SMALL_BYTES_MAX) == (size == 6 * MIB)
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"\xff" * size)
        await both.settle_equal()
        id, head = both.id(b"f"), both.head
        await beside(_rewrite, ann.path(b"f"), size, 60)
        await both.settle_equal()
        stored = [await both.content(state) for state in both.states(head, id)]
        assert stored[-1] == bytes([60]) * size
        assert all(len(each) == size and len(set(each)) == 1 for each in stored)
        assert ben.read(b"f") == stored[-1]


async def test_edit_while_the_new_version_is_fetched(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        write_random(ann.root / "f", 3 * MIB, 1)
        await both.settle_equal()
        edited: list[bytes] = []

        def edit() -> None:
            if not edited:
                with (ben.root / "f").open("r+b") as file:
                    file.write(b"edited by ben")
                edited.append(ben.read(b"f"))

        ben.line.before_chunk = edit
        write_random(ann.root / "f", 3 * MIB, 2)
        wanted = ann.read(b"f")
        await both.settle_equal()
        assert edited
        assert len(ann.contents()) == 2
        assert set(ann.contents().values()) == {wanted, edited[0]}
        assert ben.read(b"f") == wanted


async def test_file_unlinked_while_it_is_open(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"known")
        ann.write(b"kept", b"known")
        await both.settle_equal()
        with (ann.root / "f").open("ab") as known, (ann.root / "new").open("wb") as new:
            known.write(b"more")
            new.write(b"seen by nobody")
            ann.remove(b"f")
            ann.remove(b"new")
            await both.settle_equal()
            known.write(b"and more")
            new.write(b"and more")
        await both.settle_equal()
        assert ben.contents() == {b"kept": b"known"}


async def test_who_has_a_file_open_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"old")
        ann.write(b"gone", b"old")
        await both.settle_equal()
        with (ben.root / "f").open("rb") as f, (ben.root / "gone").open("rb") as gone:
            ann.write(b"f", b"new")
            ann.remove(b"gone")
            await both.settle_equal()
            assert (f.read(), gone.read()) == (b"old", b"old")
        assert ben.contents() == {b"f": b"new"}


async def test_deleted_and_made_again_has_the_new_content(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"at once", b"old")
        ann.write(b"later", b"old")
        ann.write(b"elsewhere", b"old")
        await both.settle_equal()
        for path in (b"at once", b"later", b"elsewhere"):
            ann.remove(path)
        ann.write(b"at once", b"new")
        await both.settle_equal()
        assert ben.contents() == {b"at once": b"new"}
        ann.write(b"later", b"new")
        ben.write(b"elsewhere", b"new")
        await both.settle_equal()
        assert ben.contents() == {b"at once": b"new", b"later": b"new", b"elsewhere": b"new"}


# -- times -----------------------------------------------------------------------


async def test_odd_mtimes_are_synced_once(tmp_path: Path) -> None:
    times = (*ODD_TIMES_NS, 4_000_000_000 * 10**9 + 1)
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        head = both.head
        for number, mtime_ns in enumerate(times):
            path = b"%d" % number
            ann.write(path, b"when")
            os.utime(ann.path(path), ns=(0, mtime_ns))
        await both.settle_equal()
        # Again: what was placed must not look like an edit.
        await both.settle_equal()
        assert [ben.status(b"%d" % n).st_mtime_ns for n in range(len(times))] == list(times)
        for number in range(len(times)):
            assert len(both.states(head, both.id(b"%d" % number))) == 1


async def test_new_content_with_an_older_mtime(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"old")
        await both.settle_equal()
        ann.write(b"f", b"newer")
        os.utime(ann.path(b"f"), ns=(0, YEAR_NS))
        await both.settle_equal()
        assert ben.contents() == {b"f": b"newer"}
        assert ben.status(b"f").st_mtime_ns == YEAR_NS


@pytest.mark.parametrize("way", ["in-place", "renamed-over"])
async def test_other_content_of_the_same_size_and_mtime(tmp_path: Path, way: str) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"one")
        os.utime(ann.path(b"f"), ns=(0, YEAR_NS))
        await both.settle_equal()
        # The mtime is set before the new content has its name, or by the program that wrote it.
        if way == "in-place":
            ann.write(b"f", b"two")
            os.utime(ann.path(b"f"), ns=(0, YEAR_NS))
        else:
            (tmp_path / "beside").write_bytes(b"two")
            os.utime(tmp_path / "beside", ns=(0, YEAR_NS))
            (tmp_path / "beside").rename(ann.root / "f")
        await both.settle_equal()
        assert ben.contents() == {b"f": b"two"}


async def test_order_of_saves_decides_and_no_clock(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ben.write(b"f", b"first, of 2090")
        os.utime(ben.path(b"f"), ns=(0, 120 * YEAR_NS))
        await both.settle_equal()
        ann.write(b"f", b"second, of 1980")
        os.utime(ann.path(b"f"), ns=(0, 10 * YEAR_NS))
        await both.settle_equal()
        assert ben.contents() == {b"f": b"second, of 1980"}
        ben.write(b"f", b"third, of 1971")
        os.utime(ben.path(b"f"), ns=(0, YEAR_NS))
        await both.settle_equal()
        assert ann.contents() == {b"f": b"third, of 1971"}


# -- directories -----------------------------------------------------------------


async def test_empty_directories_last_over_a_second_round(tmp_path: Path) -> None:
    backend = Backend.in_memory()
    try:
        async with mounts(tmp_path, "ann", "ben", backend=backend) as both:
            ann, ben = both.all
            ann.mkdir(b"a/b/c")
            ben.mkdir(b"d")
            await both.settle_equal()
            head = both.head
        async with mounts(tmp_path, "ann", "ben", backend=backend) as both:
            tree = await both.settle_equal()
            assert set(tree) == {b"a", b"a/b", b"a/b/c", b"d"}
            assert both.head == head
    finally:
        backend.close()
