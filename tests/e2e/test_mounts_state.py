"""What a mount remembers comes from an older copy: it says so, and nothing is lost for that."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.mounting import Bench, Mount, benching

pytestmark = pytest.mark.process


def lived(bench: Bench) -> tuple[Mount, Mount, Path]:
    """Return two mounts, and a copy of what the first remembered before the last changes."""
    mount, other = bench.start("mount", "other")
    for name in ("edited", "deleted", "moved", "back", "theirs", "their delete"):
        (mount.root / name).write_text(f"first {name}")
    bench.assert_equal()
    mount.stop()
    old = mount.home / "old state"
    shutil.copytree(mount.state, old)
    mount.start()
    (mount.root / "edited").write_text("edited")
    (mount.root / "deleted").unlink()
    (mount.root / "back").unlink()
    (mount.root / "moved").rename(mount.root / "moved away")
    (mount.root / "made").write_text("made")
    bench.settle()
    (other.root / "theirs").write_text("edited by the other")
    (other.root / "their delete").unlink()
    bench.assert_equal()
    return mount, other, old


def go_back(mount: Mount, old: Path) -> None:
    """Let a mount that is stopped remember no more than an older copy does."""
    state = mount.state
    shutil.rmtree(state)
    shutil.copytree(old, state)


def test_an_older_copy_of_the_state_costs_nothing_and_is_told(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, old = lived(bench)
        before = mount.contents()
        mount.stop()
        go_back(mount, old)
        mount.start()
        mount.wait()
        bench.assert_equal()
        assert mount.contents() == other.contents() == before
        assert "identity_shared" in mount.log


def test_what_was_changed_beside_an_older_copy_of_the_state_is_kept(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, old = lived(bench)
        mount.stop()
        go_back(mount, old)
        (mount.root / "made").write_text("made and edited")
        (mount.root / "edited").write_text("edited again")
        (mount.root / "back").write_text("brought back")
        (mount.root / "moved away").unlink()
        (other.root / "theirs").write_text("edited by the other, again")
        mount.start()
        mount.wait()
        bench.assert_equal()
        contents = mount.contents()
        kept = set(contents.values())
        for text in (b"made and edited", b"edited again", b"brought back"):
            assert text in kept
        assert contents["theirs"] == b"edited by the other, again"
        assert not {"deleted", "their delete"} & set(contents)


def test_the_new_identity_stays_and_is_told_once(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        mount, other, old = lived(bench)
        mount.stop()
        go_back(mount, old)
        mount.start()
        mount.wait()
        (mount.root / "more").write_text("more")
        (other.root / "theirs").write_text("and more")
        bench.assert_equal()
        mount.stop()
        mount.start()
        mount.wait()
        (mount.root / "more").write_text("more and more")
        bench.assert_equal()
        assert mount.log.count("identity_shared") == 1
