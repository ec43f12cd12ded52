"""A real tree of some thousand entries with everything that is odd in it, and trees compared."""

from __future__ import annotations

import os
import random
import shutil
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

MIB = 1024 * 1024
COPIED_BYTES_MAX = MIB // 4
"""Of the library only what is small: large files are made, and the tree has to be quick."""

ODD_NAMES = (
    b"not utf-8 \xff\xfe",
    b"a line\nfeed, a tab\t and \x1b[31mred",
    b"n" * 255,
    b"\xc3\xa9" * 127,
    b"-rf",
    b"--help",
    b"trailing space ",
    b"trailing dot.",
    b"...",
    b"back\\slash",
    b"colon: \"quotes\" 'and' $(more)",
    "caf\u00e9".encode(),
    "cafe\u0301".encode(),
    "right\u202eto left".encode(),
    b"CON",
    b"*?[a]",
)
"""Names that Linux allows and that programs fall over; two are one after normalising."""

_DAY_NS = 86_400 * 10**9
ODD_TIMES_NS = (0, 1, -1, -20_000 * _DAY_NS + 123, 2**31 * 10**9, 2**33 * 10**9 + 999_999_999)
"""Times before 1970, at the edge of 32 bits and past it; ext4 keeps all of them to the ns."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What must be equal of one path: a directory's time does not travel."""

    kind: int
    mode: int
    mtime_ns: int
    size: int
    content: bytes


def snapshot(root: Path | bytes) -> dict[bytes, Fact]:
    """Return what is below a directory, by relative path; links are not followed."""
    top = os.fsencode(root)
    found: dict[bytes, Fact] = {}
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        for item in os.scandir(os.path.join(top, below)):
            path = os.path.join(below, item.name)
            found[path] = _fact(item.path, item.stat(follow_symlinks=False))
            if item.is_dir(follow_symlinks=False):
                waiting.append(path)
    return found


def _fact(path: bytes, seen: os.stat_result) -> Fact:
    kind = stat.S_IFMT(seen.st_mode)
    mode = stat.S_IMODE(seen.st_mode)
    if stat.S_ISDIR(seen.st_mode):
        return Fact(kind, mode, 0, 0, b"")
    if stat.S_ISLNK(seen.st_mode):
        return Fact(kind, 0o777, seen.st_mtime_ns, 0, os.readlink(path))
    return Fact(kind, mode, seen.st_mtime_ns, seen.st_size, digest_of_file(path))


def digest_of_file(path: Path | bytes) -> bytes:
    """Return the BLAKE3 digest of a file, read in parts."""
    hasher = blake3()
    with open(path, "rb") as file:  # noqa: PTH123 - the path may be bytes
        while part := file.read(MIB):
            hasher.update(part)
    return hasher.digest()


def differences(left: dict[bytes, Fact], right: dict[bytes, Fact]) -> list[str]:
    """Return a line for each path that is not the same in both."""
    return [
        f"{path!r}: {left.get(path)} and {right.get(path)}"
        for path in sorted(left.keys() | right.keys())
        if left.get(path) != right.get(path)
    ]


def write_random(path: Path, size: int, seed: int) -> Path:
    """Write a file of bytes that a seed repeats, a MiB at a time."""
    source = random.Random(seed)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(source.randbytes(min(MIB, size - start)))
    return path


def build_real_tree(root: Path, *, entries_min: int = 5_001) -> None:
    """Make a tree of at least so many entries: copies of Python's own library, and odd things."""
    count = 0
    for round_ in range(10):
        count += _copy_library(root / f"library {round_}", entries_min - count)
    assert count >= entries_min, f"Python's library gave {count} entries"
    _add_odd_names(root / "names")
    _add_links(root / "links")
    _add_modes(root / "modes")
    _add_times(root / "times")
    _add_sizes(root / "sizes")
    (root / "empty" / "directories" / "in each other").mkdir(parents=True)


def _copy_library(target: Path, entries_max: int) -> int:
    """Copy up to so many files and directories of Python's library; return how many."""
    library = Path(sysconfig.get_path("stdlib"))
    count = 0
    for where, directories, files in os.walk(library):
        # Packages of others may be there in any number; the interpreter's own are enough.
        directories[:] = sorted(set(directories) - {"site-packages", "dist-packages"})
        if count >= entries_max:
            break
        below = target / Path(where).relative_to(library)
        below.mkdir(parents=True)
        for name in sorted(files):
            source = Path(where, name)
            if source.lstat().st_size <= COPIED_BYTES_MAX:
                shutil.copy2(source, below / name, follow_symlinks=False)
                count += 1
        count += 1
    return count


def _add_odd_names(directory: Path) -> None:
    directory.mkdir()
    top = os.fsencode(directory)
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(top, name))).write_bytes(b"content of " + name)
    below = os.path.join(top, b"deep")
    for name in ODD_NAMES[:3]:
        below = os.path.join(below, name)
        os.makedirs(below)
        Path(os.fsdecode(os.path.join(below, name))).write_bytes(name)


def _add_links(directory: Path) -> None:
    directory.mkdir()
    (directory / "file").write_bytes(b"behind links")
    targets = (
        b"file",
        b"nowhere",
        b"/etc/passwd",
        b"../../../../../../etc/hostname",
        b".",
        b"..",
        b"loop 7",
        b"loop 6",
        b"\xff not utf-8\n",
        b"t" * 4_000,
    )
    for number, target in enumerate(targets):
        path = os.fsencode(directory / f"loop {number}")
        os.symlink(target, path)
        os.utime(path, ns=(0, 10**18 + number), follow_symlinks=False)


def _add_modes(directory: Path) -> None:
    directory.mkdir()
    for mode in (0o600, 0o644, 0o755, 0o400, 0o777, 0o070, 0o001):
        path = directory / f"file {mode:03o}"
        path.write_bytes(b"#!/bin/sh\n")
        path.chmod(mode)
    for mode in (0o700, 0o755, 0o555, 0o1777 & 0o777):
        path = directory / f"directory {mode:03o}"
        path.mkdir()
        (path / "inside").write_bytes(b"inside")
        path.chmod(mode)


def _add_times(directory: Path) -> None:
    directory.mkdir()
    for number, mtime_ns in enumerate(ODD_TIMES_NS):
        path = directory / f"time {number}"
        path.write_bytes(b"when")
        os.utime(path, ns=(0, mtime_ns))


def _add_sizes(directory: Path) -> None:
    directory.mkdir()
    for size in (0, 1, 65_535, 65_536, 65_537, MIB, MIB + 1):
        write_random(directory / f"{size} bytes", size, size)
    (directory / "also empty").touch()
    write_random(directory / "large", 20 * MIB, 1)
    with (directory / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(20 * MIB)
        file.write(b"middle")
        file.truncate(40 * MIB)
