"""The scanner on a real directory, with real inotify."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.adapters.inotify import InotifyWatcher
from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.system import SystemClock
from syncline.core.entries import Kind
from syncline.core.identity import digest_of
from tests.support.scanning import Scanned, Shown


@pytest.fixture
def scanned(tmp_path: Path) -> Iterator[Scanned]:
    watcher = InotifyWatcher()
    root = PosixFiles(os.fsencode(tmp_path)).open_root()
    scanned = Scanned(root, watcher, SystemClock(), advance=time.sleep)
    scanned.look_everywhere()
    yield scanned
    root.close()
    watcher.close()


def shown(top: Path) -> Shown:
    found: Shown = {}
    for path in top.rglob("*"):
        status = path.lstat()
        name = os.fsencode(path.relative_to(top))
        mode = status.st_mode & 0o777
        if path.is_symlink():
            found[name] = (Kind.LINK, os.fsencode(path.readlink()), 0o777, status.st_mtime_ns)
        elif path.is_dir():
            found[name] = (Kind.DIRECTORY, b"", mode, 0)
        else:
            found[name] = (Kind.FILE, digest_of(path.read_bytes()), mode, status.st_mtime_ns)
    return found


def check(scanned: Scanned, top: Path) -> None:
    scanned.rest()
    assert scanned.shown() == shown(top)


def test_everyday_work(scanned: Scanned, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/b/c/f").write_text("written at once")
    (tmp_path / "link").symlink_to("nowhere")
    check(scanned, tmp_path)
    id = scanned.id(b"a/b/c/f")
    (tmp_path / "a").rename(tmp_path / "z")
    (tmp_path / "z/b/c/f").write_text("edited")
    check(scanned, tmp_path)
    assert scanned.id(b"z/b/c/f") == id
    (tmp_path / "z/b").chmod(0o750)
    (tmp_path / "z/b/c/f").chmod(0o600)
    check(scanned, tmp_path)
    shutil.rmtree(tmp_path / "z")
    check(scanned, tmp_path)


def test_saves_keep_the_entry(scanned: Scanned, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    check(scanned, tmp_path)
    id = scanned.id(b"f")
    file.rename(tmp_path / "f~")
    file.write_text("two")
    (tmp_path / "f~").unlink()
    check(scanned, tmp_path)
    assert scanned.id(b"f") == id
    (tmp_path / "f.new").write_text("three")
    (tmp_path / "f.new").replace(file)
    check(scanned, tmp_path)
    assert scanned.id(b"f") == id


def test_a_sweep_is_quiet_and_gives_back_its_descriptors(scanned: Scanned, tmp_path: Path) -> None:
    for number in range(200):
        directory = tmp_path / f"d{number % 20}" / f"e{number % 7}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_text(str(number))
    check(scanned, tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    scanned.readings.clear()
    scanned.look_everywhere()
    check(scanned, tmp_path)
    assert not scanned.readings, "nothing changed, so nothing is read"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_changes_ends_equal(scanned: Scanned, tmp_path: Path, seed: int) -> None:
    draws = random.Random(seed)
    names = ["a", "b", "c"]

    def somewhere() -> Path:
        return tmp_path.joinpath(*draws.choices(names, k=draws.randint(1, 3)))

    def act(number: int) -> None:
        path, other = somewhere(), somewhere()
        match draws.randrange(6):
            case 0 | 1:
                path.write_text(f"content {number}")
            case 2:
                path.mkdir(parents=True)
            case 3 | 4:
                path.rename(other)
            case _:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    done = 0
    for number in range(400):
        try:
            act(number)
            done += 1
        except OSError:
            pass
        if draws.random() < 0.3:
            scanned.look_once()
    assert done > 50
    check(scanned, tmp_path)
    scanned.look_everywhere()
    check(scanned, tmp_path)
