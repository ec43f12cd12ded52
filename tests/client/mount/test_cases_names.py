"""Names and moves that break sync systems: two mounts on real directories."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from syncline.adapters.linux import RENAME_EXCHANGE, rename_flagged
from tests.support.house import ROOT
from tests.support.pair import Mounted, beside, mounts
from tests.support.realtree import ODD_NAMES

NFC, NFD = "caf\u00e9".encode(), "cafe\u0301".encode()
CONTROLS = b"a line\nfeed, a tab\t, a CR\r and \x1b[31mred"


async def _is_carried_about(directory: Path, names: tuple[bytes, ...]) -> None:
    """Make, edit, move and remove files and directories of these names, on both sides in turn."""
    async with mounts(directory, "ann", "ben") as both:
        ann, ben = both.all
        for name in names:
            ann.write(name, b"content of " + name)
            ann.write(b"in/" + name + b"/" + name, b"inside")
        await both.settle_equal()
        wanted = {name: b"content of " + name for name in names}
        wanted |= {b"in/" + name + b"/" + name: b"inside" for name in names}
        assert ben.contents() == wanted
        ids = {name: both.id(name) for name in names}
        for name in names:
            ben.write(name, b"edited")
            ben.rename(b"in/" + name + b"/" + name, b"in/" + name + b"/plain")
        await both.settle_equal()
        wanted = dict.fromkeys(names, b"edited")
        wanted |= {b"in/" + name + b"/plain": b"inside" for name in names}
        assert ann.contents() == wanted
        assert {name: both.id(name) for name in names} == ids
        ann.write(b"kept", b"")
        for name in names:
            ann.remove(name)
        ann.remove(b"in")
        await both.settle_equal()
        assert ben.names() == {b"kept"}


@pytest.mark.parametrize(
    "names",
    [
        (b"n" * 255, b"\xc3\xa9" * 127 + b"n"),
        (b"not utf-8 \xff\xfe", b"latin \xe9"),
        (NFC, NFD),
        (CONTROLS, b"\n", b"\x1b[2J", b"\x7f"),
        ODD_NAMES,
    ],
    ids=["255-bytes", "not-utf-8", "nfc-and-nfd", "control-characters", "odd"],
)
async def test_name_is_carried(tmp_path: Path, names: tuple[bytes, ...]) -> None:
    await _is_carried_about(tmp_path, names)


async def test_nfc_and_nfd_twins_stay_two_files(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(NFC, b"composed")
        ben.write(NFD, b"decomposed")
        await both.settle_equal()
        assert ann.contents() == {NFC: b"composed", NFD: b"decomposed"}


async def test_control_characters_are_logged_escaped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(CONTROLS, b"content")
        os.mkfifo(ann.path(CONTROLS + b"fifo"))
        await both.settle()
        ben.write(CONTROLS, b"of ben")
        ann.write(CONTROLS, b"of ann")
        await both.settle()
        [problem] = ann.shown_problems()
        assert bytes(problem.path) == CONTROLS + b"fifo"
        shown = [str(problem.path), *(record.getMessage() for record in caplog.records)]
    assert not [line for line in shown if re.search(r"[\x00-\x1f\x7f]", line)]


async def test_content_of_a_255_byte_name_in_conflict(tmp_path: Path) -> None:
    name = b"n" * 251 + b".txt"
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(name, b"old")
        await both.settle_equal()
        ben.line.cut()
        ann.write(name, b"of ann")
        ben.write(name, b"of ben")
        await both.settle(ann)
        await ben.noticed()
        ben.line.mend()
        await both.settle_equal()
        assert ann.read(name) == b"of ann"
        [copy] = ann.names() - {name}
        assert len(copy) <= 255
        assert copy.endswith(b").txt")
        assert ann.read(copy) == b"of ben"


LANGUAGE_C = """
import asyncio, os, sys
from pathlib import Path
from tests.support.pair import mounts

assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
NAMES = [bytes.fromhex(name) for name in sys.argv[2:]]

async def main():
    async with mounts(Path(sys.argv[1]), "ann", "ben") as both:
        ann, ben = both.all
        for name in NAMES:
            ann.write(name, name)
        await both.settle_equal()
        assert ben.contents() == {name: name for name in NAMES}, ben.contents()

asyncio.run(main())
print("carried")
"""


@pytest.mark.process
async def test_client_started_with_lang_c(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")}
    environment |= {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    names = [name.hex() for name in (NFC, NFD, b"\xff\xfe", b"plain")]
    ended = await beside(
        subprocess.run,
        [sys.executable, "-c", LANGUAGE_C, str(tmp_path), *names],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
    )
    assert (ended.stdout, ended.returncode) == (b"carried\n", 0), ended.stderr.decode()


# -- renames ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_rename_that_changes_case_alone(tmp_path: Path, kind: str) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"Read Me" if kind == "file" else b"Read Me/inside", b"content")
        await both.settle_equal()
        id = both.id(b"Read Me")
        ann.rename(b"Read Me", b"READ me")
        tree = await both.settle_equal()
        inside = {b"READ me/inside"} if kind == "directory" else set()
        assert set(tree) == {b"READ me"} | inside
        assert both.id(b"READ me") == id
        assert not ben.line.fetched


def _swap_by_three(mount: Mounted) -> None:
    mount.rename(b"a", b"spare")
    mount.rename(b"b", b"a")
    mount.rename(b"spare", b"b")


def _swap_at_once(mount: Mounted) -> None:
    directory = os.open(mount.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        rename_flagged(directory, b"a", directory, b"b", RENAME_EXCHANGE)
    finally:
        os.close(directory)


@pytest.mark.parametrize("kind", ["file", "directory", "one-of-each"])
@pytest.mark.parametrize("swap", [_swap_by_three, _swap_at_once], ids=["by-three", "exchange"])
async def test_names_are_swapped(tmp_path: Path, swap: object, kind: str) -> None:
    assert callable(swap)
    paths = {
        "file": (b"a", b"b"),
        "directory": (b"a/f", b"b/f"),
        "one-of-each": (b"a", b"b/f"),
    }[kind]
    after = tuple({b"a": b"b", b"b": b"a"}[path[:1]] + path[1:] for path in paths)
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        for path in paths:
            ann.write(path, b"content of " + path)
        await both.settle_equal()
        swap(ann)
        await both.settle_equal()
        assert ben.contents() == {
            new: b"content of " + old for old, new in zip(paths, after, strict=True)
        }
        assert not ben.line.fetched


async def test_log_rotation(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        for number, path in enumerate((b"log", b"log.1", b"log.2")):
            ann.write(path, b"lines of day %d" % number)
        await both.settle_equal()
        for day in range(3):
            ann.rename(b"log.2", b"log.3")
            ann.rename(b"log.1", b"log.2")
            ann.rename(b"log", b"log.1")
            ann.write(b"log", b"lines of the newest day %d" % day)
            await both.settle_equal()
        assert ben.contents() == {
            b"log": b"lines of the newest day 2",
            b"log.1": b"lines of the newest day 1",
            b"log.2": b"lines of the newest day 0",
            b"log.3": b"lines of day 0",
        }


@pytest.mark.parametrize("when", ["before", "after", "both"])
async def test_edit_beside_a_move(tmp_path: Path, when: str) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"old/f", b"content")
        ann.mkdir(b"new")
        await both.settle_equal()
        id = both.id(b"old/f")
        if when in ("before", "both"):
            ann.write(b"old/f", b"edited before")
        ann.rename(b"old/f", b"new/g")
        if when in ("after", "both"):
            ann.write(b"new/g", b"edited after")
        await both.settle_equal()
        wanted = b"edited before" if when == "before" else b"edited after"
        assert ben.contents() == {b"new/g": wanted}
        assert both.id(b"new/g") == id


async def test_edit_inside_a_directory_that_moves(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"d/below/f", b"content")
        ann.write(b"d/below/g", b"content")
        await both.settle_equal()
        ids = [both.id(b"d"), both.id(b"d/below/f")]
        ann.write(b"d/below/g", b"edited before")
        ann.rename(b"d", b"e")
        ann.write(b"e/below/f", b"edited after")
        ann.write(b"e/new", b"new")
        await both.settle_equal()
        assert ben.contents() == {
            b"e/below/f": b"edited after",
            b"e/below/g": b"edited before",
            b"e/new": b"new",
        }
        assert [both.id(b"e"), both.id(b"e/below/f")] == ids


async def test_tree_that_moves_in_and_is_written_at_once(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for number in range(20):
        (outside / f"d{number}" / "below").mkdir(parents=True)
        (outside / f"d{number}" / "below" / "f").write_bytes(b"brought along")

    def move_in(mount: Mounted) -> None:
        outside.rename(mount.root / "in")
        for number in range(20):
            mount.write(b"in/d%d/below/f" % number, b"written at once")
            mount.write(b"in/d%d/made/at/once" % number, b"written at once")

    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        await beside(move_in, ann)
        await both.settle_equal()
        assert set(ben.contents().values()) == {b"written at once"}
        assert len(ben.contents()) == 40


async def test_made_deep_and_written_at_once(tmp_path: Path) -> None:
    """What is made before its directory is watched is found all the same."""

    def make(mount: Mounted) -> None:
        for number in range(30):
            mount.write(b"%d/a/b/c/d/e/f" % number, b"%d" % number)

    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        await beside(make, ann)
        await both.settle_equal()
        assert ben.contents() == {b"%d/a/b/c/d/e/f" % n: b"%d" % n for n in range(30)}


@pytest.mark.parametrize("is_seen_outside", [True, False], ids=["seen-gone", "at-once"])
@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_moved_out_changed_and_moved_back(
    tmp_path: Path, kind: str, is_seen_outside: bool
) -> None:
    inside = b"thing" if kind == "file" else b"thing/below/f"
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(inside, b"content")
        ann.write(b"kept", b"")
        await both.settle_equal()
        ann.rename(b"thing", b"../outside")
        if is_seen_outside:
            await both.settle_equal()
            assert ben.names() == {b"kept"}
        ann.write(b"../outside" + inside[len(b"thing") :], b"changed outside")
        ann.rename(b"../outside", b"thing")
        await both.settle_equal()
        assert ben.contents() == {inside: b"changed outside", b"kept": b""}
