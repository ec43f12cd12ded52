"""Real programs in a mount: how a user runs them, and what must be true of it afterwards."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.support.mounting import Bench
from tests.support.processes import TIMEOUT_S, Argument, environment
from tests.support.realtree import Fact

COPY_MARK = b" (conflict of "

GIT_SETTINGS = (
    ("user.name", "ann"),
    ("user.email", "ann@host"),
    ("init.defaultBranch", "main"),
    ("gc.auto", "0"),
    ("core.fsync", "none"),
    ("advice.detachedHead", "false"),
)


def needs(name: str) -> pytest.MarkDecorator:
    """Return the mark of a test that needs a program."""
    return pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")


def run(*line: Argument, cwd: Path, stdin: bytes = b"", home: Path | None = None) -> bytes:
    """Run a program to its end; return what it printed; fail when it fails."""
    done = subprocess.run(
        line,
        cwd=cwd,
        input=stdin,
        env=environment(home or cwd.parent),
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, (line, done.returncode, done.stderr[-2000:], done.stdout[-2000:])
    return done.stdout


def git(repository: Path, *arguments: Argument, stdin: bytes = b"") -> str:
    """Run git in a repository, with settings that depend on nobody's home."""
    settings = [part for name, value in GIT_SETTINGS for part in ("-c", f"{name}={value}")]
    return run("git", *settings, *arguments, cwd=repository, stdin=stdin).decode()


def made_history(commits: int, files: int) -> bytes:
    """Return a stream for `git fast-import`: two branches that part at each tenth commit."""
    lines: list[bytes] = []
    for number in range(1, commits + 1):
        branch = b"other" if number % 3 == 0 else b"main"
        message = b"commit %d" % number
        lines.append(b"commit refs/heads/%b\nmark :%d" % (branch, number))
        lines.append(b"committer ann <ann@host> %d +0000" % (1_600_000_000 + number))
        lines.append(b"data %d\n%b" % (len(message), message))
        if number == 3:
            lines.append(b"from :1")
        for step in range(4):
            index = (number * 7 + step * 13) % files
            content = b"%b %d %d\n" % (branch, number, index) * (1 + index % 40)
            lines.append(b"M 644 inline d%d/s%d/file %d" % (index % 9, index % 4, index))
            lines.append(b"data %d\n%b" % (len(content), content))
        if number % 10 == 0:
            lines.append(b"D d%d/s%d/file %d" % (number % 9, number % 4, number))
            lines.append(b"M 755 inline d%d\ndata 3\nrun" % (100 + number % 5))
            lines.append(b"M 120000 inline link %d\ndata 6\nd1/abc" % (number % 50))
        lines.append(b"")
    return b"\n".join(lines) + b"\n"


def repository(directory: Path, *, commits: int, files: int) -> Path:
    """Make a repository of so many commits on `main` and `other`."""
    directory.mkdir(parents=True)
    git(directory, "init", "--quiet")
    git(directory, "fast-import", "--quiet", stdin=made_history(commits, files))
    git(directory, "reset", "--quiet", "--hard", "main")
    return directory


def library(name: str) -> Path:
    """Return a package of Python's own library: real files of many sizes."""
    return Path(sysconfig.get_path("stdlib")) / name


def assert_no_copies(tree: Collection[bytes]) -> None:
    """Fail where a conflict copy was made."""
    copies = [path for path in tree if COPY_MARK in path]
    assert not copies, copies


def ids(bench: Bench) -> dict[str, str]:
    """Return the id of each entry of the server by its path, as `list` prints it."""
    records = bench.server.cli.records("list", "--recursive")
    return {str(record["path"]): str(record["id"]) for record in records}


def plain(tree: dict[bytes, Fact], below: bytes) -> dict[bytes, Fact]:
    """Return the part of a tree below a directory, by paths in it."""
    start = below + b"/"
    return {path[len(start) :]: fact for path, fact in tree.items() if path.startswith(start)}
