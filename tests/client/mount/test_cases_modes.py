"""Modes, what cannot be read, and what is no entry: two mounts on real directories."""

from __future__ import annotations

import os
import random
import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.core.names import RelPath
from syncline.ports.mount_control import MountProblem, WaitEnd
from tests.support.pair import Mounted, modes_obeyed, mounts
from tests.support.wait import eventually

QUIET_S = 4.0
"""Shorter than the pause after which what could not be read is tried again."""

# -- what is no entry ------------------------------------------------------------


def _make_special(mount: Mounted, kind: str) -> bytes:
    path = f"a {kind}".encode()
    where = Path(os.fsdecode(mount.path(path)))
    if kind == "fifo":
        os.mkfifo(where)
    elif kind == "socket":
        directory = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # The address of a socket has room for 108 bytes.
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(f"/proc/self/fd/{directory}/a socket")
        finally:
            os.close(directory)
    else:
        os.mknod(where, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    return path


def _may_make_devices(directory: Path) -> bool:
    try:
        os.mknod(directory / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        return False
    (directory / "device").unlink()
    return True


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
async def test_special_file_is_skipped_and_reported(tmp_path: Path, kind: str) -> None:
    if kind == "device" and not _may_make_devices(tmp_path):
        kind = "fifo"
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        path = _make_special(ann, kind)
        ann.write(b"beside", b"goes on")
        await both.settle()
        assert ben.names() == {b"beside"}
        assert ann.problems() == {path: "special"}
        ann.remove(path)
        await both.settle_equal()
        assert not ann.problems()


async def test_file_that_becomes_a_fifo_is_gone_elsewhere(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", b"content")
        ann.write(b"kept", b"content")
        await both.settle_equal()
        ann.remove(b"f")
        os.mkfifo(ann.path(b"f"))
        await both.settle()
        assert ben.names() == {b"kept"}
        assert ann.problems() == {b"f": "special"}


async def test_bad_ignore_rule_is_a_problem_until_it_is_mended(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.mkdir(b"d")
        ann.save(b"d/.synclineignore", b"*.tmp\n[z-a]\n")
        ann.write(b"d/a.tmp", b"ignored")
        # The path itself is in sync, and so is all the rest.
        await both.settle()
        told = MountProblem(
            RelPath.parse(b"d/.synclineignore"), "ignore_rule", "line 2 is no pattern: '[z-a]'"
        )
        for mount in both.all:
            await _shows(mount, told)
        assert b"d/a.tmp" not in ben.names()
        ann.rename(b"d", b"e")
        await both.settle()
        for mount in both.all:
            await _shows(mount, replace(told, path=RelPath.parse(b"e/.synclineignore")))
        ben.save(b"e/.synclineignore", b"*.tmp\n")
        await both.settle()
        for mount in both.all:
            await _shows(mount)
        ben.save(b"e/.synclineignore", b"!\n")
        await both.settle()
        ben.remove(b"e/.synclineignore")
        await both.settle()
        for mount in both.all:
            await _shows(mount)


async def test_bad_ignore_rule_goes_with_its_directory(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"d/.synclineignore", b"!\n")
        ann.write(b"kept", b"content")
        await both.settle_equal()
        await eventually(lambda: all(mount.problems() for mount in both.all), "the rule is told")
        ben.remove(b"d")
        await both.settle_equal()
        for mount in both.all:
            await _shows(mount)


async def _shows(mount: Mounted, *problems: MountProblem) -> None:
    """Wait until it shows these problems and is in sync."""
    await eventually(
        lambda: tuple(mount.shown_problems()) == problems, f"{mount.name} shows {problems}"
    )
    await mount.rest()


# -- modes -----------------------------------------------------------------------


async def test_exec_bit_alone_moves_no_content(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"script", random.Random(1).randbytes(300_000))
        await both.settle_equal()
        before = ben.status(b"script")
        for line in (ann.line, ben.line):
            line.sent.clear()
            line.fetched.clear()
        for mode in (0o755, 0o644):
            os.chmod(ann.path(b"script"), mode)
            tree = await both.settle_equal()
            assert tree[b"script"].mode == mode
        assert not ann.line.sent
        assert not ben.line.fetched
        assert ben.status(b"script").st_ino == before.st_ino
        assert ben.status(b"script").st_mtime_ns == before.st_mtime_ns


async def test_read_only_file_is_replaced(tmp_path: Path) -> None:
    with modes_obeyed():
        async with mounts(tmp_path, "ann", "ben") as both:
            ann, ben = both.all
            ann.write(b"f", b"old")
            os.chmod(ann.path(b"f"), 0o444)
            await both.settle_equal()
            ann.write(b"beside", b"new")
            os.chmod(ann.path(b"beside"), 0o444)
            ann.rename(b"beside", b"f")
            tree = await both.settle_equal()
            assert ben.contents() == {b"f": b"new"}
            assert tree[b"f"].mode == 0o444


async def test_change_in_a_read_only_directory(tmp_path: Path) -> None:
    with modes_obeyed():
        async with mounts(tmp_path, "ann", "ben") as both:
            ann, ben = both.all
            ann.write(b"d/f", b"old")
            ann.write(b"d/leaves", b"old")
            os.chmod(ann.path(b"d"), 0o555)
            await both.settle_equal()
            ann.write(b"d/f", b"new")
            await both.settle_equal()
            assert ben.read(b"d/f") == b"new"
            os.chmod(ann.path(b"d"), 0o755)
            ann.write(b"d/comes", b"new")
            ann.remove(b"d/leaves")
            os.chmod(ann.path(b"d"), 0o555)
            tree = await both.settle_equal()
            assert set(tree) == {b"d", b"d/f", b"d/comes"}
            assert tree[b"d"].mode == 0o555


async def test_unreadable_file_is_reported_and_not_deleted(tmp_path: Path) -> None:
    with modes_obeyed():
        async with mounts(tmp_path, "ann", "ben") as both:
            ann, ben = both.all
            ann.write(b"f", b"known")
            await both.settle_equal()
            ann.write(b"f", b"edited")
            os.chmod(ann.path(b"f"), 0)
            ann.write(b"new", b"unknown")
            os.chmod(ann.path(b"new"), 0)
            ann.write(b"other", b"goes on")
            await both.settle(end=WaitEnd.PROBLEMS, timeout_s=QUIET_S)
            assert ann.problems() == {b"f": "unread", b"new": "unread"}
            assert ben.names() == {b"f", b"other"}
            assert ben.read(b"other") == b"goes on"
            assert ben.read(b"f") in (b"known", b"edited")
            for path in (b"f", b"new"):
                os.chmod(ann.path(path), 0o600)
            await both.settle_equal()
            assert ben.contents() == {b"f": b"edited", b"new": b"unknown", b"other": b"goes on"}
            assert not ann.problems()


async def test_unreadable_directory_is_reported_and_not_deleted(tmp_path: Path) -> None:
    with modes_obeyed():
        async with mounts(tmp_path, "ann", "ben") as both:
            ann, ben = both.all
            ann.write(b"d/below/f", b"content")
            await both.settle_equal()
            os.chmod(ann.path(b"d"), 0)
            try:
                ann.write(b"other", b"goes on")
                await both.settle(end=WaitEnd.PROBLEMS, timeout_s=QUIET_S)
                assert ben.read(b"other") == b"goes on"
                assert ben.read(b"d/below/f") == b"content"
                assert set(ann.problems()) == {b"d"}
            finally:
                os.chmod(ann.path(b"d"), 0o755)
            await both.settle_equal()
            assert ben.names() == {b"d", b"d/below", b"d/below/f", b"other"}
