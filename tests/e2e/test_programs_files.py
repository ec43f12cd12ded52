"""tar, cp, rsync, sed, vim and Python's venv in a mount: the other side becomes equal."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounting import Bench, Mount, benching
from tests.support.programs import assert_no_copies, ids, library, needs, plain, run
from tests.support.realtree import Fact, differences, snapshot

pytestmark = pytest.mark.process
slow = pytest.mark.slow

PACKAGES = ("json", "asyncio", "email", "xml")
VENV_FILES_MIN = 500


def real_tree(directory: Path) -> Path:
    """Make a tree of real files, with links, modes, old times and odd names."""
    directory.mkdir()
    for name in PACKAGES:
        shutil.copytree(library(name), directory / name)
    (directory / "link").symlink_to("json/decoder.py")
    (directory / "nowhere").symlink_to("/nowhere/at all")
    (directory / "empty" / "deep").mkdir(parents=True)
    (directory / "a name\nwith a line feed").write_bytes(b"odd")
    (directory / "json" / "__init__.py").chmod(0o755)
    (directory / "asyncio" / "__init__.py").chmod(0o400)
    (directory / "email").chmod(0o750)
    os.utime(directory / "json" / "tool.py", ns=(0, -1_234_567_891))
    return directory


def by_tar(source: Path, target: Path) -> None:
    run("tar", "--format=posix", "-cf", "../packed.tar", ".", cwd=source)
    target.mkdir()
    run("tar", "-xpf", source.parent / "packed.tar", cwd=target)


def by_cp(source: Path, target: Path) -> None:
    run("cp", "-a", source, target, cwd=source.parent)


def by_rsync(source: Path, target: Path) -> None:
    run("rsync", "-a", f"{source}/", f"{target}/", cwd=source.parent)


def settle(bench: Bench, like: Path, below: bytes) -> dict[bytes, Fact]:
    """Return the tree of all mounts; fail unless a part of it is like a directory outside."""
    tree = bench.assert_equal()
    assert_no_copies(tree)
    found = differences(plain(tree, below), snapshot(like))
    assert not found, found[:10]
    return tree


@pytest.mark.parametrize(
    "copy",
    [
        by_tar,
        pytest.param(by_cp, marks=slow),
        pytest.param(by_rsync, marks=[slow, needs("rsync")]),
    ],
)
def test_a_tree_that_is_copied_in(tmp_path: Path, copy: Callable[[Path, Path], None]) -> None:
    source = real_tree(tmp_path / "source")
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")
        copy(source, ann.root / "tree")
        settle(bench, source, b"tree")
        before = ids(bench)

        # The tree of the other side is as good as the first one: it is copied out, and in again.
        run("cp", "-a", ben.root / "tree", tmp_path / "again", cwd=tmp_path)
        assert not differences(snapshot(tmp_path / "again"), snapshot(source))
        run("cp", "-a", f"{tmp_path / 'again'}/.", ben.root / "tree", cwd=tmp_path)
        settle(bench, source, b"tree")
        after = ids(bench)
        files = {path for path in before if path.endswith(".py")}
        assert len(files) > 80
        assert {path: after[path] for path in files} == {path: before[path] for path in files}


@needs("rsync")
@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--inplace",), marks=slow),
        pytest.param(("--delay-updates", "--delete-after"), marks=slow),
    ],
)
def test_rsync_again_and_again(tmp_path: Path, options: tuple[str, ...]) -> None:
    source = real_tree(tmp_path / "source")
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")

        def rsync(mount: Mount) -> None:
            line = ("rsync", "-a", "--delete", *options, f"{source}/", f"{mount.root}/tree/")
            run(*line, cwd=tmp_path)

        rsync(ann)
        settle(bench, source, b"tree")
        before, head = ids(bench), bench.head()
        for mount in (ann, ben):
            rsync(mount)
            settle(bench, source, b"tree")
            assert bench.head() == head, "nothing changed, and nothing was committed"

        changed = sorted((source / "asyncio").glob("*.py"))[::3]
        for path in changed:
            path.chmod(0o644)
            with path.open("ab") as file:
                file.write(b"# changed\n" * 500)
        shutil.rmtree(source / "xml" / "sax")
        (source / "json" / "new.py").write_bytes(b"new")
        rsync(ben)
        tree = settle(bench, source, b"tree")
        assert b"tree/xml/sax" not in tree
        after = ids(bench)
        for path in changed:
            name = f"tree/asyncio/{path.name}"
            assert after[name] == before[name], name


def by_sed(path: Path, number: int) -> None:
    run("sed", "-i", f"s/version.*/version {number}/", path.name, cwd=path.parent)


def vim(path: Path, number: int, *settings: str) -> None:
    line = ("vim", "-N", "-u", "NONE", "-i", "NONE", "-es", *(f"+set {each}" for each in settings))
    run(*line, f"+%s/version.*/version {number}/", "+wq", path.name, cwd=path.parent)


def by_vim(path: Path, number: int) -> None:
    vim(path, number, "swapfile", "writebackup", "backupcopy=auto")


def by_vim_renaming(path: Path, number: int) -> None:
    vim(path, number, "swapfile", "writebackup", "backupcopy=no")


def by_vim_in_place(path: Path, number: int) -> None:
    vim(path, number, "swapfile", "writebackup", "backupcopy=yes")


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(by_sed, marks=needs("sed")),
        pytest.param(by_vim_renaming, marks=[slow, needs("vim")]),
        pytest.param(by_vim_in_place, marks=[slow, needs("vim")]),
        pytest.param(by_vim, marks=[slow, needs("vim")]),
    ],
)
def test_a_file_that_is_edited_on_both_sides_in_turn(
    tmp_path: Path, edit: Callable[[Path, int], None]
) -> None:
    with benching(tmp_path) as bench:
        sides = bench.start("ann", "ben")
        path = sides[0].root / "text"
        path.write_text("first line\nversion 0\nlast line\n")
        path.chmod(0o751)
        bench.assert_equal()
        before = ids(bench)
        for number in range(1, 5):
            edit(sides[number % 2].root / "text", number)
            tree = bench.assert_equal()
            assert set(tree) == {b"text"}
            assert tree[b"text"].mode == 0o751
            said = (sides[0].root / "text").read_text()
            assert said == f"first line\nversion {number}\nlast line\n"
        assert ids(bench) == before


@pytest.mark.parametrize(
    "pip", [pytest.param(False, id="without pip"), pytest.param(True, id="with pip", marks=slow)]
)
def test_a_virtual_environment(tmp_path: Path, pip: bool) -> None:
    with benching(tmp_path) as bench:
        ann, ben = bench.start("ann", "ben")
        options = () if pip else ("--without-pip",)
        run(sys.executable, "-m", "venv", *options, "venv", cwd=ann.root)
        tree = bench.assert_equal()
        assert_no_copies(tree)
        assert len(tree) > (VENV_FILES_MIN if pip else 10)
        said = run(ben.root / "venv" / "bin" / "python", "-c", "print(6 * 7)", cwd=ben.root)
        assert said == b"42\n"
        if pip:
            line = ("venv/bin/python", "-m", "pip", "--version")
            assert run(*line, cwd=ben.root).startswith(b"pip ")
        # What running it wrote, compiled modules above all, is synced like anything else.
        (ann.root / "venv").rename(ann.root / "environment")
        tree = bench.assert_equal()
        assert_no_copies(tree)
        assert b"environment/pyvenv.cfg" in tree and b"venv" not in tree
        shutil.rmtree(ben.root / "environment" / "bin")
        tree = bench.assert_equal()
        assert b"environment/bin" not in tree
