"""Where mounts keep their state, who may use it, and how the other commands find it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from syncline.client.mount.own_directory import MARKER
from syncline.compose.mount_places import (
    KEY_DIGITS,
    MountPlace,
    claimed,
    default_state,
    find_mount,
    places,
)
from syncline.core.names import unescape
from syncline.errors import InUse, Invalid, LocalFailure, NotFound


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def work(home: Path) -> Path:
    (home / "work").mkdir()
    return home / "work"


@contextmanager
def mounted(directory: Path, state: Path | None = None) -> Iterator[MountPlace]:
    """Mount as far as the places go: the engine makes the marker."""
    with claimed(os.fsencode(directory), state) as place:
        (place.directory / ".syncline").mkdir(exist_ok=True)
        (place.directory / ".syncline" / os.fsdecode(MARKER)).touch()
        yield place


def find(directory: Path) -> MountPlace:
    return find_mount(os.fsencode(directory))


class TestDefault:
    def test_the_place_is_named_by_the_real_path(self, home: Path, work: Path) -> None:
        (home / "link").symlink_to(work)
        with mounted(home / "link") as place:
            assert place == MountPlace(work, default_state(work))
            assert place.state.parent == places() == home / "xdg" / "syncline" / "mounts"
            assert len(place.state.name) == KEY_DIGITS == 16
            assert (place.state / "directory").read_text() == f"{work}\n"
            assert stat.S_IMODE(place.state.stat().st_mode) == 0o700
            assert find(home / "link") == place

    def test_any_name_can_be_mounted(self, home: Path) -> None:
        name = b"a\n\xff\\ \x1b"
        odd = Path(os.fsdecode(os.fsencode(home) + b"/" + name))
        odd.mkdir()
        with mounted(odd) as place:
            text = (place.state / "directory").read_text("utf-8")
            assert text.count("\n") == 1
            assert unescape(text.rstrip("\n")) == os.fsencode(odd)
            assert find(odd) == place
            assert "\n" not in place.shown

    def test_it_is_found_from_below_and_from_the_current_directory(
        self, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (work / "a" / "b").mkdir(parents=True)
        with mounted(work) as place:
            assert find(work / "a" / "b") == place
            assert find(work / "a" / "not there") == place
            monkeypatch.chdir(work / "a")
            assert find_mount(None) == place
            assert find_mount(b"..") == place

    def test_it_is_found_after_it_ended_and_while_the_directory_is_away(self, work: Path) -> None:
        with mounted(work) as place:
            pass
        assert find(work) == place
        shutil.rmtree(work)
        assert find(work) == place

    def test_what_was_never_mounted_is_not_found(self, home: Path, work: Path) -> None:
        for directory in (work, home / "none", Path("/")):
            with pytest.raises(NotFound, match="nor a directory above it is mounted") as error:
                find(directory)
            assert error.value.fields["reason"] == "not_mounted"


class TestChosen:
    @pytest.mark.parametrize("is_made", [True, False])
    def test_the_state_lies_where_the_user_says(
        self, home: Path, work: Path, *, is_made: bool
    ) -> None:
        chosen = home / "elsewhere" / "\udcff\n"
        if is_made:
            chosen.mkdir(parents=True)
        with mounted(work, chosen) as place:
            assert place == MountPlace(work, chosen)
            assert (chosen / "directory").exists()
            assert find(work) == place
            assert list(default_state(work).glob("*.sqlite*")) == []
        assert find(work) == place

    def test_it_is_found_while_the_directory_is_away(self, home: Path, work: Path) -> None:
        with mounted(work, home / "chosen") as place:
            pass
        shutil.rmtree(work)
        assert find(work) == place

    def test_it_is_used_again_without_being_named_again(self, home: Path, work: Path) -> None:
        with mounted(work, home / "chosen"):
            pass
        with mounted(work) as place:
            assert place.state == home / "chosen"
        shutil.rmtree(home / "chosen")
        with mounted(work) as place:
            assert place.state == default_state(work)
            assert not (work / ".syncline" / "state").exists()
            assert find(work) == place

    def test_a_relative_one_is_made_absolute(
        self, home: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(home)
        with mounted(Path("work"), Path("chosen")) as place:
            assert place == MountPlace(work, home / "chosen")

    def test_no_place_at_home_is_needed(
        self, home: Path, work: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "file").touch()
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "file"))
        with mounted(work, home / "chosen") as place:
            assert find(work) == place
        with pytest.raises(Invalid, match="below a file"), mounted(home / "chosen"):
            pass

    def test_that_of_another_directory_is_refused(self, home: Path, work: Path) -> None:
        (home / "other").mkdir()
        with mounted(work, home / "chosen"):
            pass
        with pytest.raises(Invalid, match="is that of"), mounted(home / "other", home / "chosen"):
            pass
        assert find(work).state == home / "chosen"

    def test_a_copy_begins_anew_and_a_moved_directory_goes_on(self, home: Path, work: Path) -> None:
        with mounted(work, home / "chosen"):
            pass
        shutil.copytree(work, home / "copy")
        with pytest.raises(NotFound):
            find(home / "copy")
        with mounted(home / "copy") as place:
            assert place.state == default_state(home / "copy")
        work.rename(home / "moved")
        with mounted(home / "moved") as place:
            assert place.state == home / "chosen"
            assert find(home / "moved") == place

    @pytest.mark.parametrize(
        "note", [b"", b"/", b"relative\n", b"/a\\qb\n", b"/\xff\n", b"/x\\x00y\n", b"/" * 70_000]
    )
    def test_a_note_that_is_damaged_is_none(self, work: Path, note: bytes) -> None:
        with mounted(work) as place:
            pass
        (work / ".syncline" / "state").write_bytes(note)
        assert find(work) == place
        with mounted(work) as again:
            assert again == place

    def test_a_note_that_is_no_file_is_none_and_is_not_waited_for(self, work: Path) -> None:
        with mounted(work) as place:
            pass
        os.mkfifo(work / ".syncline" / "state")
        assert find(work) == place


class TestRefused:
    def test_a_directory_that_is_not_there(self, home: Path) -> None:
        with pytest.raises(NotFound, match="make it with 'mkdir'"), mounted(home / "none"):
            pass
        assert not places().exists()

    def test_a_file(self, home: Path) -> None:
        (home / "file").touch()
        with pytest.raises(Invalid, match="is no directory"), mounted(home / "file"):
            pass
        with pytest.raises(Invalid, match="is no directory"), mounted(home / "file" / "below"):
            pass

    def test_a_ring_of_links(self, home: Path) -> None:
        (home / "ring").symlink_to("ring")
        with pytest.raises(LocalFailure), mounted(home / "ring"):
            pass

    def test_a_name_that_no_path_can_have(self) -> None:
        with pytest.raises(Invalid, match="is no path"), claimed(b"a\0b", None):
            pass

    @pytest.mark.parametrize("is_running", [True, False])
    def test_mounts_in_each_other(self, work: Path, *, is_running: bool) -> None:
        (work / "a" / "b").mkdir(parents=True)
        with ExitStack() as stack:
            stack.enter_context(mounted(work / "a"))
            if not is_running:
                stack.close()
            with pytest.raises(Invalid, match="in it, which is mounted"), mounted(work):
                pass
            with pytest.raises(Invalid, match="lies in '"), mounted(work / "a" / "b"):
                pass
        assert not (work / ".syncline").exists()
        shutil.rmtree(work / "a" / ".syncline")
        with mounted(work):
            pass

    def test_mounts_beside_each_other_are_well(self, home: Path, work: Path) -> None:
        (home / "work2").mkdir()
        with mounted(work) as one, mounted(home / "work2") as two:
            assert one.state != two.state

    def test_a_state_in_the_directory_or_around_it(self, home: Path, work: Path) -> None:
        (work / "inside").mkdir()
        (home / "link").symlink_to(work / "inside")
        for state in (work, work / "inside", home, home / "link", Path("/")):
            with pytest.raises(Invalid, match="must lie outside"), mounted(work, state):
                pass
        with pytest.raises(Invalid, match="must lie outside"), mounted(home):
            pass
        assert sorted(path.name for path in work.iterdir()) == ["inside"]


HOLD = """
import os, sys
from pathlib import Path
from syncline.compose.mount_places import claimed
with claimed(os.fsencode(sys.argv[1]), Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(directory: Path, state: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, directory, state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@pytest.mark.process
class TestLocks:
    def test_one_process_at_a_time_and_none_after_a_crash(self, home: Path, work: Path) -> None:
        (home / "other").mkdir()
        with held(work, home / "chosen") as process:
            with pytest.raises(InUse, match="is mounted by another process"), mounted(work):
                pass
            with (
                pytest.raises(InUse, match="is mounted by another process"),
                mounted(work, home / "another"),
            ):
                pass
            assert not (home / "another").exists()
            process.kill()
        with mounted(work, home / "chosen"):
            pass

    def test_two_directories_never_share_a_state(self, home: Path, work: Path) -> None:
        (home / "other").mkdir()
        with held(work, home / "chosen"):
            # The state then says nothing of the first one: it is on its way to be recorded.
            (home / "chosen" / "directory").unlink()
            with (
                pytest.raises(InUse, match="is used by another process"),
                mounted(home / "other", home / "chosen"),
            ):
                pass

    def test_a_second_one_in_the_same_process(self, work: Path) -> None:
        with mounted(work), pytest.raises(InUse), mounted(work):
            pass
