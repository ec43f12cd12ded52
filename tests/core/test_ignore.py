"""Ignore rules: patterns of gitignore, nested files, and what no rule can do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.core.ignore import IgnoreRules, parse_patterns
from syncline.core.names import RelPath


def rules(**by_directory: bytes) -> IgnoreRules:
    """Return rules by directory; `root` stands for the root, `_` for a slash."""
    return IgnoreRules(
        {
            RelPath.parse(b"" if name == "root" else name.replace("_", "/").encode()): (
                parse_patterns(raw)
            )
            for name, raw in by_directory.items()
        }
    )


def is_ignored(found: IgnoreRules, path: str | bytes) -> bool:
    raw = path.encode() if isinstance(path, str) else path
    parsed = RelPath.parse(raw.rstrip(b"/"))
    return found.is_ignored(parsed, is_directory=raw.endswith(b"/"))


@pytest.mark.parametrize(
    ("patterns", "ignored", "kept"),
    [
        (b"*.o", ["x.o", "d/x.o", "x.o/", "x.o/y"], ["x.oo", "x"]),
        (b"/build", ["build", "build/x"], ["d/build"]),
        (b"build/", ["build/", "d/build/", "build/x"], ["build"]),
        (b"*.o\n!keep.o", ["x.o"], ["keep.o", "d/keep.o"]),
        (b"d/\n!d/keep", ["d/keep"], []),
        (b"a/**/z", ["a/z", "a/b/c/z"], ["b/z"]),
        (b"# x\n\n  \n\\#y", ["#y"], ["x", "# x"]),
        (b"\xef\xbb\xbfx\r\ny\r\n", ["x", "y"], ["z"]),
        (b"a[b-d]?", ["acx"], ["aex", "ac"]),
        (b"*", ["x", "d/x"], [".synclineignore"]),
        (b".synclineignore", [], [".synclineignore", "d/.synclineignore"]),
    ],
)
def test_patterns_are_those_of_gitignore(
    patterns: bytes, ignored: list[str], kept: list[str]
) -> None:
    found = rules(root=patterns)
    assert [path for path in ignored if not is_ignored(found, path)] == []
    assert [path for path in kept if is_ignored(found, path)] == []


def test_a_deeper_file_is_asked_first() -> None:
    found = rules(root=b"*.log", d=b"!own.log\n/x")
    assert is_ignored(found, "own.log")
    assert not is_ignored(found, "d/own.log")
    assert is_ignored(found, "d/other.log")
    assert is_ignored(found, "d/x")
    assert not is_ignored(found, "x")
    assert not is_ignored(found, "d/e/x")


def test_r1_what_is_in_an_ignored_directory_cannot_come_back() -> None:
    found = rules(root=b"d/", d=b"!keep")
    assert is_ignored(found, "d/keep")
    assert is_ignored(found, "d/.synclineignore")


def test_names_that_are_not_utf8_match() -> None:
    found = rules(root=b"\xff*")
    assert is_ignored(found, b"\xff\xfe")
    assert not is_ignored(found, b"\xfe")


def test_r3_a_bad_line_is_named_and_the_rest_counts() -> None:
    raw = b"good\n[z-a]\n!\n*.o\n\\\n# [\n \t\n[a\n/\n[a]\n\\#\n"
    patterns = parse_patterns(raw)
    assert [line.number for line in patterns.bad] == [2, 3, 5, 8, 9]
    found = IgnoreRules({RelPath(): patterns})
    assert is_ignored(found, "good")
    assert is_ignored(found, "x.o")


def test_no_rules_ignore_nothing_and_the_root_is_never_ignored() -> None:
    assert not is_ignored(IgnoreRules(), "x")
    assert not rules(root=b"*").is_ignored(RelPath(), is_directory=True)
    assert not rules(root=b"*").is_ignored_here(RelPath(), is_directory=True)


@given(st.binary(max_size=40), st.lists(st.sampled_from([b"a", b"b.o", b"\xff"]), min_size=1))
def test_any_bytes_are_rules_and_a_walk_agrees_with_the_whole(
    raw: bytes, parts: list[bytes]
) -> None:
    found = IgnoreRules({RelPath(): parse_patterns(raw)})
    path = RelPath.parse(b"/".join(parts))
    above = RelPath()
    is_inside = False
    for name in path.parts[:-1]:
        above = above.child(name)
        is_inside = is_inside or found.is_ignored_here(above, is_directory=True)
    walked = is_inside or found.is_ignored_here(path, is_directory=False)
    assert found.is_ignored(path, is_directory=False) == walked
