"""A server and several mounts become equal: a real tree, edits from each, late joiners."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from syncline.ports.link import Effect
from syncline.ports.mount_control import MountPhase
from tests.support.mounting import OWN, Bench, Mount, benching
from tests.support.processes import proxied
from tests.support.realtree import MIB, Fact, build_real_tree
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

CHANGES_FROM_EACH = 25


def test_a_real_tree_is_equal_on_three_clients(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        first, second = bench.add("first"), bench.add("second")
        build_real_tree(first.root)
        first.start()
        second.start()
        [third] = bench.start("third")
        tree = bench.assert_equal()
        assert len(tree) > 5_000
        assert first.status().entries == len(tree)
        for number, mount in enumerate((first, second, third)):
            change_everything(mount, number)
        changed = bench.assert_equal()
        assert changed != tree
        assert not [path for path in changed if b"conflict" in path.rsplit(b"/", 1)[-1]], "conflict"
        check_changes(changed)
        a_folder_that_has_the_files_transfers_nothing(bench, first)
        for mount in bench.running:
            assert mount.stop() < 10
            assert not mount.leftovers()
        bench.stop_server()
        bench.server.assert_sound()


def change_everything(mount: Mount, number: int) -> None:
    """Edit, add, move, and remove, each mount in places of its own and in shared directories."""
    root, own = mount.root, f"of {mount.name}"
    library = root / f"library {number}" if number == 0 else root / "library 0"
    packages = sorted(path for path in library.iterdir() if path.is_dir() and any(path.iterdir()))
    moved, removed, edited = packages[number * 3 : number * 3 + 3]
    moved.rename(root / f"{own} moved")
    shutil.rmtree(removed)
    for path in sorted(edited.rglob("*.py"))[:CHANGES_FROM_EACH]:
        with path.open("ab") as file:
            file.write(b"\n# edited by " + mount.name.encode() + b"\n")
    fresh = root / "empty" / own / "deep" / "er"
    fresh.mkdir(parents=True)
    for index in range(CHANGES_FROM_EACH):
        (fresh / f"new {index}").write_bytes(f"{own} {index}".encode())
    (fresh / "link").symlink_to("../new 1")
    (fresh / "new 0").chmod(0o750)
    (fresh / "new 1").rename(fresh.parent / "renamed")
    os.utime(fresh / "new 2", ns=(0, 1_234_567_890_123_456_789))
    (fresh / "new 3").unlink()


def check_changes(tree: dict[bytes, Fact]) -> None:
    for name in (b"first", b"second", b"third"):
        below = b"empty/of " + name + b"/deep/er/"
        assert b"of " + name + b" moved" in tree
        assert tree[below + b"new 0"].mode == 0o750
        assert tree[below + b"link"].content == b"../new 1"
        assert tree[below + b"new 2"].mtime_ns == 1_234_567_890_123_456_789
        assert tree[below + b"new 4"].size == len(b"of %s 4" % name)
        assert below + b"new 1" not in tree
        assert below + b"new 3" not in tree
        assert b"empty/of " + name + b"/deep/renamed" in tree


def a_folder_that_has_the_files_transfers_nothing(bench: Bench, like: Mount) -> None:
    """Mount a copy of another mount: it takes the table, and neither gives nor gets content."""
    head = bench.head()
    packed_bytes = sum(pack.stat().st_size for pack in bench.server.packs())
    with proxied(bench.server.address) as proxy:
        joiner = bench.add("joiner", address=proxy.address)
        subprocess.run(["cp", "-a", f"{like.root}/.", joiner.root], check=True)
        shutil.rmtree(joiner.root / OWN)
        inodes = inodes_of(joiner)
        joiner.start()
        tree = bench.assert_equal()
        assert inodes_of(joiner) == inodes
        assert sum(fact.size for fact in tree.values()) > 60 * MIB
        assert proxy.up_bytes < MIB, "what the server has is not sent again"
        assert proxy.down_bytes < 5 * MIB, "only the table"
        # Through the proxy's end the mount goes on as it would with any broken connection.
        joiner.stop()
    assert bench.head() == head, "nothing was changed"
    assert sum(pack.stat().st_size for pack in bench.server.packs()) == packed_bytes


def inodes_of(mount: Mount) -> dict[bytes, int]:
    root = os.fsencode(mount.root)
    return {path: os.lstat(os.path.join(root, path)).st_ino for path in mount.tree()}


def test_moves_are_one_rename_at_each_receiver(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        sender, *receivers = bench.start("sender", "near", "far")
        root = sender.root
        (root / "directory" / "inner").mkdir(parents=True)
        (root / "elsewhere").mkdir()
        for index in range(50):
            (root / "directory" / "inner" / f"file {index}").write_bytes(b"%d" % index)
        (root / "Name").write_bytes(b"named")
        for side in ("left", "right"):
            (root / side).mkdir()
            (root / side / "in it").write_bytes(side.encode())
        bench.assert_equal()
        inodes = [inodes_of(mount) for mount in receivers]
        head = bench.head()

        (root / "directory").rename(root / "elsewhere" / "moved")
        bench.assert_equal()
        assert bench.head() == head + 1, "one commit"
        (root / "Name").rename(root / "name")
        bench.assert_equal()
        (root / "left").rename(root / "between")
        (root / "right").rename(root / "left")
        (root / "between").rename(root / "right")
        tree = bench.assert_equal()

        assert b"directory" not in tree and b"Name" not in tree
        for mount, before in zip(receivers, inodes, strict=True):
            after = inodes_of(mount)
            for path, inode in before.items():
                assert after[moved_to(path)] == inode, (mount.name, path)
            changes = mount.status().changes
            moves = {bytes(move.path) for move in changes if move.effect is Effect.MOVED}
            assert {b"elsewhere/moved", b"name", b"left", b"right"} <= moves
            assert (mount.root / "right" / "in it").read_bytes() == b"left"


def moved_to(path: bytes) -> bytes:
    first, slash, rest = path.partition(b"/")
    moves = {b"directory": b"elsewhere/moved", b"Name": b"name", b"left": b"right"}
    return moves.get(first, b"left" if first == b"right" else first) + slash + rest


def test_a_move_is_told_with_both_its_paths(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        sender, receiver = bench.start("sender", "receiver")
        (sender.root / "old").write_bytes(b"moved")
        bench.assert_equal()
        (sender.root / "old").rename(sender.root / "new")
        bench.assert_equal()
        for mount in (sender, receiver):
            [moved] = mount.status().changes[-1:]
            assert (moved.effect, bytes(moved.path)) == (Effect.MOVED, b"new")
            assert moved.old_path is not None and bytes(moved.old_path) == b"old", mount.name


def test_edits_show_at_others_without_being_asked(tmp_path: Path) -> None:
    """Nobody calls `wait` here: the watcher and the push alone bring each change."""
    with benching(tmp_path) as bench:
        left, right = bench.start("left", "right")
        for index in range(20):
            writer, reader = (left, right) if index % 2 else (right, left)
            content = f"edit {index}".encode()
            (writer.root / "shared").write_bytes(content)
            wait_until(
                lambda reader=reader, content=content: seen(reader, "shared") == content,  # type: ignore[misc]
                f"edit {index} at the other side",
            )
        (left.root / "shared").unlink()
        wait_until(lambda: seen(right, "shared") is None, "the delete at the other side")
        bench.assert_equal()


def seen(mount: Mount, name: str) -> bytes | None:
    try:
        return (mount.root / name).read_bytes()
    except FileNotFoundError:
        return None


def test_a_late_joiner_gets_all_and_keeps_what_it_has(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [early] = bench.start("early")
        (early.root / "both same").write_bytes(b"same")
        (early.root / "both other").write_bytes(b"of early")
        (early.root / "shared").mkdir()
        (early.root / "shared" / "early").write_bytes(b"early")
        bench.assert_equal()
        late = bench.add("late")
        (late.root / "both same").write_bytes(b"same")
        (late.root / "both other").write_bytes(b"of late")
        (late.root / "shared").mkdir(mode=0o700)
        (late.root / "shared" / "late").write_bytes(b"late")
        late.start()
        bench.assert_equal()
        contents = late.contents()
        assert contents.pop("both same") == b"same"
        assert contents.pop("both other") == b"of early"
        assert contents.pop("shared/early") == b"early"
        assert contents.pop("shared/late") == b"late"
        [(name, content)] = contents.items()
        assert name.startswith("both other (conflict of late, ")
        assert content == b"of late"
        assert late.status().phase is MountPhase.IN_SYNC
