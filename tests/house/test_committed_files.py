"""What is committed works on every machine and tells nothing about the one it was written on."""

from __future__ import annotations

import re

import pytest

from tests.support.house import ROOT, committed_files

# Written in two parts, so that this file does not hold what it looks for.
FORBIDDEN = {
    "path of a machine": re.compile(r"(?<![\w.])/(?:wo" r"rk|ro" r"ot|opt/whe" r"els)/"),
    "host of a registry": re.compile(r"py" r"pi\.org|pythonho" r"sted|npm" r"js\.(?:org|com)"),
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b"),
}

needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")


@needs_git
@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_committed_file_names(what: str) -> None:
    files = committed_files()
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files
        for match in FORBIDDEN[what].finditer(path.read_text(errors="replace"))
    ]
    assert not found


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("path of a machine", "see /wo" + "rk/main"),
        ("host of a registry", "https://py" + "pi.org/simple"),
        ("e-mail address", "anna@exam" + "ple.org"),
    ],
)
def test_the_patterns_find_what_they_are_for(what: str, text: str) -> None:
    assert FORBIDDEN[what].search(text)


def test_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 20
    assert not [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)]
    assert pins == sorted(set(pins), key=str.lower)


@pytest.mark.parametrize("name", ["grpcio-tools", "protobuf", "mypy-protobuf", "pip", "hatchling"])
def test_what_generated_code_and_the_build_depend_on_is_pinned(name: str) -> None:
    assert f"\n{name}==" in (ROOT / "constraints.txt").read_text()
