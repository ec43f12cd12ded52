"""The shape of the code: every module says what it is for, and nothing is too long to read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.house import ROOT, python_files

MODULE_LINES_MAX = 700
BODY_LINES_MAX = 70
Function = ast.FunctionDef | ast.AsyncFunctionDef


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def body_lines(function: Function) -> int:
    """Count from the first statement after the docstring to the end."""
    has_docstring = ast.get_docstring(function) is not None and len(function.body) > 1
    first = function.body[1 if has_docstring else 0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def ours() -> list[Path]:
    return python_files("src")


def everything() -> list[Path]:
    return [*ours(), *python_files("tests", "tools", "benchmarks")]


def test_there_is_code_to_look_at() -> None:
    assert len(ours()) > 20


def test_every_module_says_what_it_is_for() -> None:
    silent = []
    for path in ours():
        purpose = ast.get_docstring(ast.parse(path.read_text())) or ""
        if not purpose or purpose.splitlines()[0][-1] not in ".:;":
            silent.append(named(path))
    assert not silent, "a module opens with its purpose in one line"


def test_no_module_is_too_long_to_read() -> None:
    sizes = {named(path): len(path.read_text().splitlines()) for path in everything()}
    assert not {name: size for name, size in sizes.items() if size > MODULE_LINES_MAX}


def test_no_function_is_too_long_to_read() -> None:
    sizes = {
        f"{named(path)}:{function.lineno} {function.name}": body_lines(function)
        for path in everything()
        for function in functions(path)
    }
    assert not {name: size for name, size in sizes.items() if size > BODY_LINES_MAX}


def test_nothing_is_left_unfinished() -> None:
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    assert not [named(path) for path in everything() if marks.search(path.read_text())]
