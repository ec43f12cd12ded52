"""git in a mount: a clone, switches of branches, gc; the other side has a sound repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mounting import Bench, Mount, benching
from tests.support.programs import assert_no_copies, git, ids, needs, repository, run

pytestmark = [pytest.mark.process, needs("git")]

PROJECT = Path(__file__).parents[2]


def assert_sound(*sides: Mount) -> None:
    """Fail unless all sides have one history, whole, and nothing that is not committed."""
    seen = []
    for side in sides:
        clone = side.root / "clone"
        git(clone, "fsck", "--full", "--strict", "--no-progress")
        # It would write the index anew: two sides that do so at once are two edits of one file.
        assert git(clone, "--no-optional-locks", "status", "--porcelain") == "", side.name
        seen.append(git(clone, "log", "--all", "--format=%H %s") + git(clone, "rev-parse", "HEAD"))
    assert len(set(seen)) == 1


def clone_into(bench: Bench, source: Path) -> tuple[Mount, Mount]:
    """Clone into the first of two mounts, and wait until the other one has it."""
    ann, ben = bench.start("ann", "ben")
    run("git", "clone", "--quiet", "--no-hardlinks", source, "clone", cwd=ann.root)
    assert_no_copies(bench.assert_equal())
    assert_sound(ann, ben)
    # Files have other inodes there, so that the index is written anew: an edit like any other.
    assert git(ben.root / "clone", "status", "--porcelain") == ""
    assert_no_copies(bench.assert_equal())
    return ann, ben


@pytest.mark.parametrize(
    ("commits", "switches"), [(120, 6), pytest.param(600, 60, marks=pytest.mark.slow)]
)
def test_a_repository_that_is_worked_in(tmp_path: Path, commits: int, switches: int) -> None:
    source = repository(tmp_path / "source", commits=commits, files=90)
    git(source, "checkout", "--quiet", "other")
    git(source, "checkout", "--quiet", "main")
    with benching(tmp_path) as bench:
        ann, ben = clone_into(bench, source)
        clone = ann.root / "clone"
        git(clone, "branch", "other", "origin/other")
        before = ids(bench)

        for number in range(switches):
            git(clone, "switch", "--quiet", "main" if number % 2 else "other")
        assert_no_copies(bench.assert_equal())
        assert_sound(ann, ben)
        after = ids(bench)
        for name in ("HEAD", "index", "config"):
            path = f"clone/.git/{name}"
            assert after[path] == before[path], name

        git(clone, "gc", "--quiet", "--prune=now")
        tree = bench.assert_equal()
        assert_no_copies(tree)
        assert sum(path.endswith(b".pack") for path in tree) == 1
        assert_sound(ann, ben)

        # The other side goes on with what it was given.
        other = ben.root / "clone"
        (other / "by ben").write_bytes(b"by ben")
        git(other, "add", "--all")
        git(other, "commit", "--quiet", "--message", "by ben")
        assert_no_copies(bench.assert_equal())
        assert_sound(ann, ben)
        assert git(clone, "log", "-1", "--format=%s") == "by ben\n"


@pytest.mark.slow
def test_the_repository_of_this_project(tmp_path: Path) -> None:
    if not (PROJECT / ".git").exists():
        pytest.skip("this checkout has no history")
    with benching(tmp_path) as bench:
        ann, ben = clone_into(bench, PROJECT)
        clone = ann.root / "clone"
        for back in (1, 5, 2, 8, 1):
            revisions = git(clone, "rev-list", "--first-parent", "HEAD", "--all").split()
            git(clone, "checkout", "--quiet", revisions[min(back, len(revisions) - 1)])
        assert_no_copies(bench.assert_equal())
        assert_sound(ann, ben)
        git(clone, "gc", "--quiet", "--prune=now")
        assert_no_copies(bench.assert_equal())
        assert_sound(ann, ben)
