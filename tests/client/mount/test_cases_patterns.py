"""How editors and programs save: each save is one change of one entry, and never a conflict."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.core.identity import Revision
from tests.support.pair import Mounted, Mounts, beside, mounts, paced

OLD, NEW = b"old content\n", b"what the user saved just now\n"

Save = Callable[[Mounted], None]


# -- what editors do, call by call -----------------------------------------------


def _in_place(mount: Mounted) -> None:
    """Truncate and write, as VS Code and nano do."""
    mount.write(b"f", NEW)


def _renamed_over(mount: Mounted) -> None:
    """Write beside and rename over, as sed -i, gedit and most programs do."""
    mount.save(b"f", NEW)


def _vim(mount: Mounted) -> None:
    """Probe, rename away, write anew, unlink what was renamed."""
    mount.write(b"4913", b"")
    mount.remove(b"4913")
    mount.write(b".f.swp", b"b0VIM")
    mount.rename(b"f", b"f~")
    mount.write(b"f", NEW)
    mount.remove(b"f~")
    mount.remove(b".f.swp")


def _emacs(mount: Mounted) -> None:
    """Lock by a link to nowhere, save automatically, write in place, unlock."""
    os.symlink(b"user@host.1234:1700000000", mount.path(b".#f"))
    mount.write(b"#f#", NEW[:5])
    mount.write(b"f", NEW)
    mount.remove(b"#f#")
    mount.remove(b".#f")


def _libre_office(mount: Mounted) -> None:
    """Lock, write a temporary file, delete the old one, rename."""
    mount.write(b".~lock.f#", b",user,host,now;")
    mount.write(b"lu1234abcd.tmp", NEW)
    mount.remove(b"f")
    mount.rename(b"lu1234abcd.tmp", b"f")
    mount.remove(b".~lock.f#")


def _word(mount: Mounted) -> None:
    """Lock, write a temporary file, rename the old one away and the new one to its place."""
    mount.write(b"~$f", b"user")
    mount.write(b"~WRD0001.tmp", NEW)
    mount.rename(b"f", b"~WRL0002.tmp")
    mount.rename(b"~WRD0001.tmp", b"f")
    mount.remove(b"~WRL0002.tmp")
    mount.remove(b"~$f")


def _delayed_updates(mount: Mounted) -> None:
    """Gather in a directory beside, rename all at the end, as rsync --delay-updates does."""
    mount.write(b".~tmp~/f", NEW)
    mount.rename(b".~tmp~/f", b"f")
    mount.remove(b".~tmp~")


PATTERNS: dict[str, Save] = {
    "vs-code": _in_place,
    "renamed-over": _renamed_over,
    "vim": _vim,
    "emacs": _emacs,
    "libre-office": _libre_office,
    "word": _word,
    "delay-updates": _delayed_updates,
}


# -- what programs do that are there ---------------------------------------------


def _run(mount: Mounted, *command: str) -> None:
    environment = os.environ | {"HOME": str(mount.root.parent)}
    subprocess.run(command, cwd=mount.root, env=environment, check=True, capture_output=True)


def _real_vim(mount: Mounted) -> None:
    _run(mount, "vim", "-u", "NONE", "-es", "-c", f"call setline(1, '{NEW.decode().strip()}')",
         "-c", "wq", "f")  # fmt: skip


def _real_sed(mount: Mounted) -> None:
    _run(mount, "sed", "-i", f"s/.*/{NEW.decode().strip()}/", "f")


def _real_rsync(mount: Mounted, *options: str) -> None:
    source = mount.root.parent / "source of rsync"
    source.mkdir(exist_ok=True)
    (source / "f").write_bytes(NEW)
    _run(mount, "rsync", "-a", "--checksum", *options, f"{source}/", "./")


PROGRAMS: dict[str, tuple[str, Save]] = {
    "real-vim": ("vim", _real_vim),
    "real-sed-i": ("sed", _real_sed),
    "real-rsync": ("rsync", _real_rsync),
    "real-rsync-inplace": ("rsync", lambda mount: _real_rsync(mount, "--inplace")),
    "real-rsync-delay-updates": ("rsync", lambda mount: _real_rsync(mount, "--delay-updates")),
}

SAVES = PATTERNS | {
    name: save for name, (program, save) in PROGRAMS.items() if shutil.which(program)
}
"""The programs that this machine has are asked as well; their patterns are above in any case."""


async def _saves_once(both: Mounts, save: Callable[[], object]) -> None:
    """Assert that a save changes the content of the entry in one commit, and nothing else."""
    id, head = both.id(b"f"), both.head
    result = save()
    if result is not None:
        assert hasattr(result, "__await__")
        await result
    tree = await both.settle_equal()
    assert set(tree) == {b"f"}, "no copy, and nothing left over"
    assert {mount.read(b"f") for mount in both.all} == {NEW}
    assert both.id(b"f") == id, "the history of the file goes on"
    states = both.states(head, id)
    assert states[-1].digest == both.entry(b"f").digest
    assert all(state.is_live for state in states), "it was never deleted"
    contents = {state.digest for state in states}
    assert len(contents) == 1, "no state between the old and the new one is published"
    assert [each for commit in both.commits(head) for each in commit.entries] == states


@pytest.mark.parametrize("name", PATTERNS)
async def test_save_is_one_change(tmp_path: Path, name: str) -> None:
    """The mounts see the save when it is over."""
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", OLD)
        await both.settle_equal()
        await _saves_once(both, lambda: SAVES[name](ann))
        # And back, by the same way.
        head = both.head
        ben.write(b"f", OLD)
        await both.settle_equal()
        await _saves_once(both, lambda: SAVES[name](ben))
        assert both.head == head + 2


@pytest.mark.parametrize("name", SAVES)
async def test_save_while_the_mounts_work(tmp_path: Path, name: str) -> None:
    """The mounts see each step of the save as it comes, several times."""
    async with mounts(tmp_path, "ann", "ben") as both:
        for round_ in range(4):
            saver, other = both.all if round_ % 2 == 0 else both.all[::-1]
            saver.write(b"f", OLD)
            await both.settle_equal()
            await beside(SAVES[name], saver)
            tree = await both.settle_equal()
            assert set(tree) == {b"f"}
            assert other.read(b"f") == NEW


@pytest.mark.parametrize("name", PATTERNS)
async def test_save_of_a_file_that_is_placed_just_now(tmp_path: Path, name: str) -> None:
    """Both save in this way at once: two contents, at most one conflict copy, no third."""
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", OLD)
        await both.settle_equal()
        ann.write(b"f", b"of ann")
        await beside(SAVES[name], ben)
        await both.settle_equal()
        contents = sorted(ann.contents().values())
        assert contents in ([b"of ann", NEW], [NEW], [b"of ann"])
        assert b"f" in ann.names()


async def test_backup_that_vim_keeps_is_another_file(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", OLD)
        await both.settle_equal()
        id = both.id(b"f")
        ann.rename(b"f", b"f~")
        ann.write(b"f", NEW)
        await both.settle_equal()
        assert ben.contents() == {b"f": NEW, b"f~": OLD}
        assert both.id(b"f") == id


async def test_emptied_file_is_not_published_before_it_is_written(tmp_path: Path) -> None:
    """A program that truncates, pauses and writes: what is open and empty is not the final one."""
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", OLD)
        await both.settle_equal()
        id, head = both.id(b"f"), both.head
        with (ann.root / "f").open("wb") as file:
            async for _ in paced(4, per_s=100):
                # Other work goes on, so cycles pass while the file is empty.
                ann.write(b"other", os.urandom(8))
            file.write(NEW)
        await both.settle_equal()
        assert ben.read(b"f") == NEW
        assert [state.size for state in both.states(head, id)] == [len(NEW)]


@pytest.mark.parametrize("way", ["in-place", "renamed-over"])
async def test_sixty_saves_in_a_second(tmp_path: Path, way: str) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"f", OLD)
        await both.settle_equal()
        id, head = both.id(b"f"), both.head
        async for number in paced(60, per_s=60):
            content = b"save %d\n" % number
            if way == "in-place":
                ann.write(b"f", content)
            else:
                ann.save(b"f", content)
        await both.settle_equal()
        assert ben.contents() == {b"f": b"save 59\n"}
        assert both.id(b"f") == id
        states = both.states(head, id)
        assert 1 <= len(states) <= 60
        assert states[-1].size == len(b"save 59\n")


async def test_log_of_200_lines_a_second(tmp_path: Path) -> None:
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        lines = [b"line %05d of a log\n" % number for number in range(500)]
        with (ann.root / "log").open("ab", buffering=0) as log:
            async for number in paced(len(lines), per_s=200):
                log.write(lines[number])
        await both.settle_equal()
        assert ben.read(b"log") == b"".join(lines)
        assert len(both.states(Revision(0), both.id(b"log"))) <= 10, "it is not sent at each line"


async def test_large_log_that_grows_is_not_sent_again_and_again(tmp_path: Path) -> None:
    size = 8 * 1024 * 1024
    async with mounts(tmp_path, "ann", "ben") as both:
        ann, ben = both.all
        ann.write(b"log", random.Random(1).randbytes(size))
        await both.settle_equal()
        ann.line.sent.clear()
        with (ann.root / "log").open("ab", buffering=0) as log:
            async for number in paced(200, per_s=200):
                log.write(b"line %d\n" % number)
        await both.settle_equal()
        assert ben.read(b"log") == ann.read(b"log")
        assert sum(ann.line.sent) < size, "only its end is new"
