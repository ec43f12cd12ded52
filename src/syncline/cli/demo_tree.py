"""The tree of the demo: copied from Python's own library, looked at, and compared."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from syncline.core.names import RESERVED_ROOT_NAME, escape
from syncline.errors import LocalFailure

FILES_MAX = 3_000
FILE_BYTES_MAX = 512 * 1024
_READ_BYTES = 1024 * 1024

NEEDED = {
    *("abc.py", "antigravity.py", "argparse.py", "os.py", "textwrap.py", "this.py"),
    *("email/message.py", "json/decoder.py", "json/tool.py"),
}
"""What the demo changes."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What was put into a directory."""

    entries: int
    size: int


@dataclass(frozen=True, slots=True)
class Tree:
    """All that must be equal of a tree: a line a path."""

    facts: dict[str, str]
    size: int

    @property
    def digest(self) -> str:
        """Return one digest of the whole."""
        hasher = blake3()
        for path in sorted(self.facts):
            hasher.update(f"{path}\t{self.facts[path]}\n".encode())
        return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class Files:
    """Files and links below a directory."""

    source: Path
    paths: tuple[Path, ...]


def library_files() -> Files:
    """Return Python's own library, up to a bound; raise LocalFailure where it is not there.

    What is compiled comes last, and before it the tests, which not every Python has.
    """
    library = Path(sysconfig.get_path("stdlib"))
    found: list[tuple[bool, bool, Path]] = []
    for where, directories, names in os.walk(library):
        # Packages of others may be there in any number; the interpreter's own are enough.
        directories[:] = sorted(set(directories) - {"site-packages", "dist-packages"})
        for name in names:
            source = Path(where, name)
            if source.lstat().st_size <= FILE_BYTES_MAX and os.access(source, os.R_OK):
                path = source.relative_to(library)
                found.append(("__pycache__" in path.parts, path.parts[0] == "test", path))
    paths = tuple(path for _, _, path in sorted(found)[:FILES_MAX])
    missing = sorted(NEEDED - {str(path) for path in paths})
    if missing:
        raise LocalFailure(
            f"this Python keeps no library of its own in files: '{library}' lacks {missing[0]}",
            path=str(library),
        )
    return Files(library, paths)


def copy_files(files: Files, target: Path, check: Callable[[], None]) -> Copied:
    """Copy files, and the directories that they lie in; return what that came to.

    `check` is called for each file, and may raise.
    """
    directories: set[Path] = set()
    size = 0
    for path in files.paths:
        check()
        directories.update(path.parents[:-1])
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(files.source / path, target / path, follow_symlinks=False)
        size += (target / path).lstat().st_size
    return Copied(len(files.paths) + len(directories), size)


def local_tree(root: Path) -> Tree:
    """Look at all that is synced of a mounted directory."""
    facts: dict[str, str] = {}
    size = 0
    top = os.fsencode(root)
    waiting = [b""]
    while waiting:
        below = waiting.pop()
        for item in os.scandir(os.path.join(top, below)):
            path = os.path.join(below, item.name)
            if path == RESERVED_ROOT_NAME:
                continue
            status = item.stat(follow_symlinks=False)
            facts[escape(path)] = _fact(item.path, status)
            if stat.S_ISDIR(status.st_mode):
                waiting.append(path)
            elif stat.S_ISREG(status.st_mode):
                size += status.st_size
    return Tree(facts, size)


def _fact(path: bytes, status: os.stat_result) -> str:
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISDIR(status.st_mode):
        return f"directory {mode}"
    if stat.S_ISLNK(status.st_mode):
        return f"link {status.st_mtime_ns} {escape(os.readlink(path))}"
    hasher = blake3()
    with open(path, "rb") as file:  # noqa: PTH123 - the path is bytes
        while part := file.read(_READ_BYTES):
            hasher.update(part)
    return f"file {mode} {status.st_mtime_ns} {hasher.hexdigest()}"


def listed_tree(lines: Iterable[bytes]) -> Tree:
    """Return the tree that `list --recursive --json` tells of, in the same words."""
    facts: dict[str, str] = {}
    size = 0
    for line in lines:
        entry = json.loads(line)
        match entry["kind"]:
            case "directory":
                fact = f"directory {entry['mode']}"
            case "link":
                fact = f"link {entry['mtime_ns']} {entry['target']}"
            case _:
                fact = f"file {entry['mode']} {entry['mtime_ns']} {entry['digest']}"
                size += entry["size"]
        facts[entry["path"]] = fact
    return Tree(facts, size)


def differences(left: Tree, right: Tree) -> list[str]:
    """Return the paths that are not the same in both."""
    paths = left.facts.keys() | right.facts.keys()
    return sorted(path for path in paths if left.facts.get(path) != right.facts.get(path))
