"""What every program offers to the rows: a server, a client A, and clients that follow it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from benchmarks.daemons import Meter, until
from benchmarks.measure import run

READY = ".ready"
"""A file that is put into A to see that all work: its name is left out of every comparison."""


def nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Site:
    """A program at work: what is done in `a` shows up in each of `others`, the first being B.

    `carry` is what a user does by hand after a change; nothing where the program watches.
    `meters` are by role, the server's being "server"; `stop_b` and `start_b` are of B's client.
    """

    a: Path
    others: tuple[Path, ...]
    meters: Mapping[str, Meter]
    carry: Callable[[], None] = nothing
    stop_b: Callable[[], None] = nothing
    start_b: Callable[[], None] = nothing
    _turn: list[int] = field(default_factory=list)

    @property
    def b(self) -> Path:
        """Return the first of those that follow."""
        return self.others[0]

    def cpu_s(self) -> float:
        """Return the CPU seconds of all so far, but for what `carry` starts and ends."""
        return sum(meter.cpu_s() for meter in self.meters.values())

    def settle(self) -> None:
        """Return when what is put into A now has come to all the others."""
        # Of another size each time: some programs take a change of one second for none else.
        self._turn.append(0)
        content = os.urandom(12).hex() + "." * len(self._turn)
        (self.a / READY).write_text(content)
        self.carry()
        for each in self.others:
            until(partial(_has, each / READY, content), f"{each.name} follows", 90)


def _has(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except FileNotFoundError:
        return False


class Program(Protocol):
    """Something that can be measured."""

    @property
    def name(self) -> str:
        """Say what it is called in the results."""

    @property
    def is_by_hand(self) -> bool:
        """Tell whether a user starts it for every change."""

    @property
    def is_one_way(self) -> bool:
        """Tell whether nothing would ever come back from the others."""

    def absent(self) -> str:
        """Return why it can't run here, in words for the results; nothing if it can."""

    def version(self) -> str:
        """Return the version."""

    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> AbstractContextManager[Site]:
        """Run it in fresh directories below `home`, all in sync; `filled` lies there before."""


def prepare(home: Path, names: list[str], filled: Path | None) -> list[Path]:
    """Make the directories of a site, with what is to lie in them before the start."""
    made = [home / name for name in names]
    for directory in made:
        if filled is None:
            directory.mkdir(parents=True)
        else:
            directory.parent.mkdir(parents=True, exist_ok=True)
            run(["cp", "-a", str(filled), str(directory)])
    return made


def missing_tool(tool: str, package: str) -> str:
    """Return the word for a program that is not here."""
    return "" if shutil.which(tool) else f"not installed: apt-get install {package}"
