"""Ignore rules: which paths of a mount are never synced.

Model: each directory may have a `.synclineignore` with lines in the syntax of gitignore; a deeper
file is asked first. What is ignored is not scanned, not watched, not sent.

R1  What is in an ignored directory is ignored; no rule brings it back.
R2  `.synclineignore` itself is not ignored by a pattern, so that all replicas have the same rules.
R3  A line that is no pattern is reported and means nothing; the other lines count.
R4  Ignoring deletes nothing: an entry that a new rule covers stays in base and on the server.
    The reconciler is told that it is held, not that it is absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pathspec import GitIgnoreSpec

from syncline.core.names import Name, RelPath, escape

IGNORE_NAME = b".synclineignore"

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no pattern; `number` counts from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Patterns:
    """The lines of one `.synclineignore`."""

    spec: GitIgnoreSpec
    bad: tuple[BadLine, ...] = ()


def parse_patterns(raw: bytes) -> Patterns:
    """Read the content of a `.synclineignore`; bytes that are no UTF-8 stand for themselves."""
    lines = []
    bad = []
    for number, line in enumerate(raw.removeprefix(_BOM).split(b"\n"), 1):
        text = line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if _is_well(text):
            lines.append(text)
        else:
            bad.append(BadLine(number, escape(line)))
    return Patterns(GitIgnoreSpec.from_lines(lines), tuple(bad))


def _is_well(text: str) -> bool:
    """Tell whether a line is a pattern, a comment or blank."""
    try:
        patterns = list(GitIgnoreSpec.from_lines([text]).patterns)
    except (ValueError, re.error):
        return False
    is_silent = text.startswith("#") or not text.strip()
    # `[a`, which is never closed, is taken for a line that says nothing.
    return is_silent or any(pattern.include is not None for pattern in patterns)


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """All rules of a mount, by the directory that holds them."""

    by_directory: Mapping[RelPath, Patterns] = field(default_factory=dict)

    def is_ignored(self, path: RelPath, *, is_directory: bool) -> bool:
        """Tell whether a path is ignored, by itself or by a directory above it (R1)."""
        if not self.by_directory:
            return False
        last = len(path.parts)
        return any(
            self._is_matched(path.parts[:depth], is_directory=depth < last or is_directory)
            for depth in range(1, last + 1)
        )

    def is_ignored_here(self, path: RelPath, *, is_directory: bool) -> bool:
        """Tell the same of a path whose directory is known not to be ignored, as in a walk."""
        return bool(path.parts) and self._is_matched(path.parts, is_directory=is_directory)

    def _is_matched(self, parts: tuple[Name, ...], *, is_directory: bool) -> bool:
        if parts[-1] == IGNORE_NAME and not is_directory:
            return False  # R2
        for depth in range(len(parts) - 1, -1, -1):
            patterns = self.by_directory.get(RelPath(parts[:depth]))
            if patterns is None:
                continue
            text = b"/".join(parts[depth:]).decode("utf-8", "surrogateescape")
            answer = patterns.spec.check_file(text + "/" if is_directory else text).include
            if answer is not None:
                return answer
        return False
