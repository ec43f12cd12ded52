"""What was measured: kept by row in `results/*.json`, and rendered to RESULTS.md from all of these.

A run of some rows replaces the figures of these rows and no others. Each fragment has the machine
and the versions that it was measured with; figures of two fragments are not to be compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, TypedDict

from benchmarks.measure import median

OURS = "Syncline"
Samples: TypeAlias = dict[str, dict[str, list[float]]]
"""By program, then by column."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its head, and how many digits follow the point."""

    name: str
    digits: int = 2
    is_peak: bool = False
    """The largest is shown, and not the median with the spread."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What the median of a column must not pass: a multiple of a peer's, or a figure."""

    column: str
    factor: float
    peer: str = ""

    def words(self, samples: Samples) -> str:
        """Say what must be, and what is, as far as the peer was measured."""
        ours = samples.get(OURS, {}).get(self.column, [])
        if not ours:
            return ""
        if not self.peer:
            return f"Must: {self.column}: at most {self.factor:g}. Here: {median(ours):.4g}."
        theirs = samples.get(self.peer, {}).get(self.column, [])
        if not theirs or not median(theirs):
            return ""
        ratio = median(ours) / median(theirs)
        return f"Must: {self.column}: at most {self.factor:g} x {self.peer}. Here: {ratio:.3g} x."


@dataclass(slots=True)
class Table:
    """One table: samples by program and column; `words` stand for a program without figures.

    `rated` is the column that is also shown as a ratio to Syncline, and in the chart.
    """

    title: str
    columns: tuple[Column, ...]
    rated: str = ""
    goals: tuple[Goal, ...] = ()
    samples: Samples = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, program: str, figures: Mapping[str, float]) -> None:
        """Take the figures of one repetition."""
        of_program = self.samples.setdefault(program, {})
        for column, figure in figures.items():
            of_program.setdefault(column, []).append(round(figure, 6))

    def ratio(self, program: str) -> float | None:
        """Return the median of the rated column as a multiple of Syncline's."""
        ours = self.samples.get(OURS, {}).get(self.rated, [])
        theirs = self.samples.get(program, {}).get(self.rated, [])
        return median(theirs) / median(ours) if ours and theirs and median(ours) else None

    def render(self) -> list[str]:
        """Return the lines of the table and what follows it."""
        shown = [each for each in self.columns if self._has(each)]
        heads = ["", *(each.name for each in shown)]
        if self.rated:
            heads.append(f"{self.rated}, Syncline = 1")
        lines = [f"### {self.title}", "", _line(heads), _line(["---"] * len(heads))]
        for program, of_program in self.samples.items():
            cells = [program, *(_cell(each, of_program.get(each.name, [])) for each in shown)]
            if self.rated:
                ratio = self.ratio(program)
                cells.append("" if ratio is None else f"{ratio:.2f}")
            lines.append(_line(cells))
        for program, words in self.words.items():
            rest = [""] * (len(heads) - 2)
            lines.append(_line([program, words, *rest]))
        remarks = [*filter(None, (each.words(self.samples) for each in self.goals)), *self.notes]
        return [*lines, "", *(f"- {each}" for each in remarks), *([""] if remarks else [])]

    def _has(self, column: Column) -> bool:
        return any(column.name in of_program for of_program in self.samples.values())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(column: Column, values: Sequence[float]) -> str:
    if not values:
        return ""
    form = f".{column.digits}f"
    if column.is_peak:
        return format(max(values), form)
    middle = format(median(values), form)
    low, high = format(min(values), form), format(max(values), form)
    return middle if low == high else f"{middle} ({low}-{high})"


@dataclass(slots=True)
class Fragment:
    """What one row gave in one place."""

    row: str
    place: str
    machine: str
    versions: dict[str, str]
    tables: list[Table]


class _Columns(TypedDict):
    name: str
    digits: int
    is_peak: bool


class _Goals(TypedDict):
    column: str
    factor: float
    peer: str


class _Tables(TypedDict):
    title: str
    columns: list[_Columns]
    rated: str
    goals: list[_Goals]
    samples: Samples
    words: dict[str, str]
    notes: list[str]


class _Fragments(TypedDict):
    row: str
    place: str
    machine: str
    versions: dict[str, str]
    tables: list[_Tables]


def save(fragment: Fragment, directory: Path) -> None:
    """Write a fragment over the one of the same row and place."""
    content: _Fragments = {
        "row": fragment.row,
        "place": fragment.place,
        "machine": fragment.machine,
        "versions": fragment.versions,
        "tables": [
            {
                "title": table.title,
                "columns": [
                    {"name": each.name, "digits": each.digits, "is_peak": each.is_peak}
                    for each in table.columns
                ],
                "rated": table.rated,
                "goals": [
                    {"column": each.column, "factor": each.factor, "peer": each.peer}
                    for each in table.goals
                ],
                "samples": table.samples,
                "words": table.words,
                "notes": table.notes,
            }
            for table in fragment.tables
        ],
    }
    directory.mkdir(exist_ok=True)
    path = directory / f"{fragment.row}-{fragment.place}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Fragment:
    """Read a fragment."""
    content: _Fragments = json.loads(path.read_text())
    tables = [
        Table(
            each["title"],
            tuple(Column(**column) for column in each["columns"]),
            each["rated"],
            tuple(Goal(**goal) for goal in each["goals"]),
            each["samples"],
            each["words"],
            each["notes"],
        )
        for each in content["tables"]
    ]
    return Fragment(
        content["row"], content["place"], content["machine"], content["versions"], tables
    )


def load_all(directory: Path, rows: Sequence[str], places: Sequence[str]) -> list[Fragment]:
    """Read what is there, by place and then in the order of the rows."""
    paths = [directory / f"{row}-{place}.json" for place in places for row in rows]
    return [load(path) for path in paths if path.exists()]


HEAD = """# Results

Written by `make bench` ([how](../docs/PERFORMANCE.md)). Medians, with the least and the most in \
brackets where there were several repetitions; the programs take turns in every repetition. All \
run on one machine, from client A by the server to client B, over a loopback of their own. Seconds \
are of their run alone: trust the ratios, and compare no two machines.
"""


def render(fragments: Sequence[Fragment], has_chart: bool) -> str:
    """Return RESULTS.md."""
    lines = HEAD.splitlines()
    if has_chart:
        lines += ["", "![How long the peers take, Syncline = 1](results/chart.svg)"]
    place = ""
    for fragment in fragments:
        if fragment.place != place:
            place = fragment.place
            lines += ["", f"## {'In memory' if place == 'memory' else 'On disk'}"]
        for table in fragment.tables:
            lines += ["", *table.render()]
        versions = ", ".join(f"{name} {each}" for name, each in fragment.versions.items())
        lines += [f"<sub>`--rows {fragment.row}`: {fragment.machine}; {versions}.</sub>"]
    return _without_double_gaps(lines)


def _without_double_gaps(lines: Sequence[str]) -> str:
    kept = [each for number, each in enumerate(lines) if each or (number and lines[number - 1])]
    return "\n".join(kept).rstrip() + "\n"
