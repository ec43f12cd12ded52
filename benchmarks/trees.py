"""The trees that are synced, made the same for every program, and the check that a copy is one."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Trouble

_BLOCK_BYTES = 1 << 20


def make_large(directory: Path, size: int) -> None:
    """Write one file of random bytes."""
    directory.mkdir(parents=True)
    with (directory / "large").open("wb") as file:
        for start in range(0, size, _BLOCK_BYTES):
            file.write(os.urandom(min(_BLOCK_BYTES, size - start)))


def make_small(directory: Path, count: int, size: int = 4096) -> None:
    """Write many small files of random bytes, a hundred to a directory."""
    for number in range(count):
        folder = directory / f"{number // 100:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}").write_bytes(os.urandom(size))


def make_files(directory: Path, count: int) -> None:
    """Write many files of a few bytes, a hundred to a directory."""
    directory.mkdir()
    for number in range(count):
        folder = directory / f"{number // 100:04d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:06d}").write_bytes(b"%d\n" % number)


def make_tree(directory: Path, entries: int) -> None:
    """Write something like a tree of sources: text of skewed sizes, some links, deep directories.

    A thirteenth are directories; files have 12 kB on the average. The same for each run.
    """
    chance = random.Random(7)
    words = [chance.randbytes(chance.randint(1, 6)).hex() for _ in range(4000)]
    text = " ".join(chance.choices(words, k=100_000)).encode()
    directories = [directory]
    directory.mkdir(parents=True)
    for number in range(entries):
        parent = chance.choice(directories[-40:])
        if number % 13 == 0:
            directories.append(parent / f"part{number}")
            directories[-1].mkdir()
        elif number % 130 == 7:
            (parent / f"link{number}").symlink_to(f"part{number}")
        else:
            size = min(int(chance.lognormvariate(8.3, 1.5)), 400_000)
            start = chance.randrange(len(text) - size)
            (parent / f"source{number}.txt").write_bytes(text[start : start + size])


def paths_in(directory: Path) -> Iterator[str]:
    """Yield the path of each entry below, relative, a directory before what is in it.

    Names that begin with a dot are left out: programs keep their own and half a file under such
    names, and no tree that is made here has one.
    """
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(directory / above) as found:
            for entry in sorted(found, key=lambda each: each.name):
                if entry.name.startswith("."):
                    continue
                path = os.path.join(above, entry.name)
                yield path
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)


def check_equal(left: Path, right: Path) -> None:
    """Raise Trouble where the copy is not the original: names, kinds, modes, links, content."""
    here, there = set(paths_in(left)), set(paths_in(right))
    if here != there:
        raise Trouble(f"{min(here ^ there)} is in one of {left} and {right} only")
    for path in sorted(here):
        difference = _difference(left / path, right / path)
        if difference:
            raise Trouble(f"{right / path} has another {difference} than {left / path}")


def _difference(left: Path, right: Path) -> str:
    of_left, of_right = left.lstat(), right.lstat()
    if stat.S_IFMT(of_left.st_mode) != stat.S_IFMT(of_right.st_mode):
        return "kind"
    if stat.S_ISLNK(of_left.st_mode):
        return "" if left.readlink() == right.readlink() else "target"
    if stat.S_IMODE(of_left.st_mode) != stat.S_IMODE(of_right.st_mode):
        return "mode"
    if not stat.S_ISREG(of_left.st_mode):
        return ""
    return "" if is_equal_content(left, right) else "content"


def is_equal_content(left: Path, right: Path) -> bool:
    """Compare two files byte by byte."""
    with left.open("rb") as one, right.open("rb") as other:
        while block := one.read(_BLOCK_BYTES):
            if block != other.read(_BLOCK_BYTES):
                return False
        return not other.read(1)
