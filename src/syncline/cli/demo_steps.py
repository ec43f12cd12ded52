"""The changes that the demo makes one by one: who does what, and how it looks when it is there."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from syncline.cli.records import size_text

ANNA, BEN, CLEO = CLIENTS = ("anna", "ben", "cleo")
SMALL_BYTES = 1024
LARGE_BYTES = 16 * 1024 * 1024

Act = Callable[[Path], None]
Look = Callable[[Path], bool]


@dataclass(frozen=True, slots=True)
class Step:
    """A change by one client; both functions get the directory that a client mounts."""

    who: str
    what: str
    act: Act
    is_there: Look


def steps(tree: Path) -> Iterator[Step]:
    """Yield the changes, in order; each is made when the one before is at all clients."""
    decoder = b"# edited by anna\n" + (tree / "json/decoder.py").read_bytes()
    yield Step(ANNA, "edits json/decoder.py", *_writing("json/decoder.py", decoder))
    small, large = random.randbytes(SMALL_BYTES), random.randbytes(LARGE_BYTES)
    yield Step(BEN, "makes a new file of 1 KiB", *_writing("new of ben", small))
    yield Step(CLEO, f"makes one of {size_text(LARGE_BYTES)}", *_writing("large of cleo", large))
    yield Step(BEN, "renames argparse.py", *_renaming("argparse.py", "arguments.py"))
    biggest = _biggest(tree)
    what = f"renames {biggest}, {_count(tree / biggest):,} entries"
    yield Step(ANNA, what, *_renaming(biggest, f"{biggest} of anna"))
    yield Step(CLEO, "makes os.py executable", lambda root: (root / "os.py").chmod(0o755), _is_run)
    yield Step(
        BEN, "makes a symbolic link", lambda root: (root / "link").symlink_to("os.py"), _link
    )
    this, other = (tree / "this.py").read_bytes(), (tree / "antigravity.py").read_bytes()
    yield Step(CLEO, "swaps the names of two files", _swap, _both(this, other))
    what = f"removes email, {_count(tree / 'email'):,} entries"
    yield Step(ANNA, what, lambda root: shutil.rmtree(root / "email"), _is_gone("email"))


def save(who: str, number: int) -> Step:
    """Return one of many saves of the same file."""
    return Step(who, f"save {number}", *_writing("notes.txt", b"save %d\n" % number))


def write(path: Path, content: bytes) -> None:
    """Write a file in place, as many editors do."""
    with path.open("wb") as file:
        file.write(content)


def _writing(name: str, content: bytes) -> tuple[Act, Look]:
    return lambda root: write(root / name, content), _has(name, content)


def _both(first: bytes, second: bytes) -> Look:
    this, other = _has("this.py", second), _has("antigravity.py", first)
    return lambda root: this(root) and other(root)


def _has(name: str, content: bytes) -> Look:
    """Tell whether a file has this content; the size is looked at first, and often alone."""

    def look(root: Path) -> bool:
        try:
            is_sized = (root / name).stat().st_size == len(content)
            return is_sized and (root / name).read_bytes() == content
        except FileNotFoundError:
            return False

    return look


def _renaming(old: str, new: str) -> tuple[Act, Look]:
    def act(root: Path) -> None:
        (root / old).rename(root / new)

    return act, lambda root: (root / new).exists() and not (root / old).exists()


def _swap(root: Path) -> None:
    """Give two files the name of the other, with a third name for a moment."""
    (root / "this.py").rename(root / "that.py")
    (root / "antigravity.py").rename(root / "this.py")
    (root / "that.py").rename(root / "antigravity.py")


def _is_run(root: Path) -> bool:
    return os.access(root / "os.py", os.X_OK)


def _link(root: Path) -> bool:
    return (root / "link").is_symlink()


def _is_gone(name: str) -> Look:
    return lambda root: not (root / name).exists()


def _biggest(tree: Path) -> str:
    """Return the directory at the top with the most in it that no other step needs."""
    taken = {".syncline", "json", "email"}
    names = [path.name for path in tree.iterdir() if path.is_dir() and path.name not in taken]
    return max(sorted(names), key=lambda name: _count(tree / name))


def _count(directory: Path) -> int:
    return sum(len(names) + len(files) for _, names, files in os.walk(directory)) + 1
