"""Moves that replace nothing and exchanges, with the flags of the kernel and in steps without."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.posix_handles import PosixDirectory
from syncline.ports.files import EXCHANGE_PREFIX


@pytest.fixture(params=[True, False], ids=["flags", "steps"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[PosixDirectory]:
    files = PosixFiles(os.fsencode(tmp_path), has_rename_flags=request.param)
    with closing(files.open_root()) as directory:
        yield directory


@pytest.fixture
def stepping(tmp_path: Path) -> Iterator[PosixDirectory]:
    files = PosixFiles(os.fsencode(tmp_path), has_rename_flags=False)
    with closing(files.open_root()) as directory:
        yield directory


@contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:
        yield
    assert caught.value.errno == number


def tree(top: Path) -> dict[str, str]:
    """Return what is there: the content of files, the targets of links."""
    found = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


@pytest.fixture
def full(tmp_path: Path) -> dict[str, str]:
    """Make one of each kind."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("one", "two"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "in").write_text(name)
    return tree(tmp_path)


@pytest.mark.parametrize("name", [b"a", b"link", b"one"])
def test_a_move_takes_a_free_name(
    root: PosixDirectory, tmp_path: Path, full: dict[str, str], name: bytes
) -> None:
    with closing(root.enter(b"two")) as two:
        root.move(name, two, b"new")
    after = tree(tmp_path)
    assert after["two/new"] == full[name.decode()]
    assert name.decode() not in after
    assert len(after) == len(full)


@pytest.mark.parametrize("taken", [b"b", b"link", b"two", b"empty", b"a", b"one"])
@pytest.mark.parametrize("name", [b"a", b"link", b"one"])
def test_a_move_replaces_nothing(
    root: PosixDirectory, tmp_path: Path, full: dict[str, str], name: bytes, taken: bytes
) -> None:
    (tmp_path / "empty").mkdir()
    with fails(errno.EEXIST):
        root.move(name, root, taken)
    assert tree(tmp_path) == full | {"empty": "/"}


def test_a_move_of_nothing_fails(root: PosixDirectory) -> None:
    with fails(errno.ENOENT):
        root.move(b"a", root, b"b")


def test_a_directory_does_not_go_into_itself(
    root: PosixDirectory, tmp_path: Path, full: dict[str, str]
) -> None:
    with closing(root.enter(b"one")) as one, closing(one.enter(b"below")) as below:
        with fails(errno.EINVAL):
            root.move(b"one", below, b"new")
        with fails(errno.EINVAL):
            root.exchange(b"one", one, b"below")
        with fails(errno.EINVAL):
            one.exchange(b"in", root, b"one")
        with fails(errno.EINVAL):
            one.exchange(b"below", root, b"one")
    assert tree(tmp_path) == full


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a", "b"),
        ("a", "link"),
        ("a", "two"),
        ("a", "one/in"),
        ("link", "one"),
        ("link", "two/in"),
        ("one", "two"),
        ("one", "two/in"),
        ("one", "two/below"),
        ("two/in", "one/in"),
        ("two/below", "b"),
    ],
)
def test_an_exchange_swaps_whatever_there_is(
    root: PosixDirectory, tmp_path: Path, full: dict[str, str], first: str, second: str
) -> None:
    ends = [(tmp_path / path).lstat().st_ino for path in (first, second)]
    with opened(root, first) as (here, name), opened(root, second) as (there, other):
        here.exchange(name, there, other)
    assert [(tmp_path / path).lstat().st_ino for path in (second, first)] == ends
    assert not [name for name in tree(tmp_path) if EXCHANGE_PREFIX.decode() in name]
    assert len(tree(tmp_path)) == len(full)


@contextmanager
def opened(root: PosixDirectory, path: str) -> Iterator[tuple[PosixDirectory, bytes]]:
    above, _, name = path.rpartition("/")
    if not above:
        yield root, name.encode()
        return
    with closing(root.enter(above.encode())) as directory:
        yield directory, name.encode()


@pytest.mark.parametrize(("first", "second"), [(b"a", b"none"), (b"none", b"a"), (b"x", b"x")])
def test_an_exchange_with_nothing_changes_nothing(
    root: PosixDirectory, tmp_path: Path, full: dict[str, str], first: bytes, second: bytes
) -> None:
    with fails(errno.ENOENT):
        root.exchange(first, root, second)
    assert tree(tmp_path) == full


def test_an_exchange_with_itself_changes_nothing(
    root: PosixDirectory, tmp_path: Path, full: dict[str, str]
) -> None:
    root.exchange(b"a", root, b"a")
    root.link(b"a", root, b"c")
    root.exchange(b"a", root, b"c")
    assert tree(tmp_path) == full | {"c": "a"}


class TestSteps:
    """Where the flags are missing, users still act between any two steps."""

    def test_who_takes_the_empty_name_keeps_it_and_nothing_is_lost(
        self, stepping: PosixDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "staged").write_text("new")
        (tmp_path / "target").write_text("old")
        after_first(monkeypatch, "rename", lambda: (tmp_path / "target").write_text("user's"))
        with fails(errno.EEXIST):
            stepping.exchange(b"staged", stepping, b"target")
        found = tree(tmp_path)
        assert found.pop("staged") == "new"
        assert found.pop("target") == "user's"
        ((aside, content),) = found.items()
        assert aside.encode().startswith(EXCHANGE_PREFIX)
        assert content == "old"

    def test_who_takes_the_first_name_before_the_last_step_keeps_it_as_well(
        self, stepping: PosixDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "first").write_text("one")
        (tmp_path / "second").write_text("two")
        after_first(monkeypatch, "unlink", lambda: (tmp_path / "first").write_text("user's"))
        with fails(errno.EEXIST):
            stepping.exchange(b"first", stepping, b"second")
        assert (tmp_path / "first").read_text() == "user's"
        assert sorted(tree(tmp_path).values()) == ["one", "two", "user's"]

    def test_a_step_that_fails_is_undone(
        self, stepping: PosixDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "staged").write_text("new")
        (tmp_path / "target").write_text("old")
        after_first(monkeypatch, "rename", (tmp_path / "staged").unlink)
        with fails(errno.ENOENT):
            stepping.exchange(b"staged", stepping, b"target")
        assert tree(tmp_path) == {"target": "old"}

    def test_what_replaces_the_source_of_a_move_is_not_removed(
        self, stepping: PosixDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a").write_text("old")
        (tmp_path / "new").write_text("new")
        after_first(monkeypatch, "link", lambda: (tmp_path / "new").rename(tmp_path / "a"))
        with fails(errno.EBUSY):
            stepping.move(b"a", stepping, b"b")
        assert tree(tmp_path) == {"a": "new", "b": "old"}

    def test_a_file_system_without_hard_links_has_moves_too(
        self, stepping: PosixDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_arguments: object, **_options: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
        for name in ("a", "b"):
            (tmp_path / name).write_text(name)
        with fails(errno.EEXIST):
            stepping.move(b"a", stepping, b"b")
        stepping.move(b"a", stepping, b"c")
        stepping.exchange(b"b", stepping, b"c")
        assert tree(tmp_path) == {"b": "a", "c": "b"}


def after_first(monkeypatch: pytest.MonkeyPatch, call: str, act: Callable[[], object]) -> None:
    """Let a user act right after the first such system call."""
    real = getattr(os, call)
    has_acted = False

    def called(*arguments: object, **options: object) -> None:
        nonlocal has_acted
        real(*arguments, **options)
        if not has_acted:
            has_acted = True
            act()

    monkeypatch.setattr(os, call, called)
