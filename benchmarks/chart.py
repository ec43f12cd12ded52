"""A chart of the results: how long each peer takes, as a multiple of Syncline, in plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from benchmarks.results import OURS, Fragment, Table

WIDTH, LABEL, BAR, GAP = 900, 190, 15, 26
LEAST, MOST = 1 / 32, 1024
"""The ends of the logarithmic scale: what lies beyond is drawn at its end, with its figure."""

COLOURS = {
    OURS: "#1b6e53",
    "Syncthing": "#3b76af",
    "Unison": "#8a63a8",
    "lsyncd, one way": "#c08a2e",
    "rsync twice, by hand": "#777777",
    "cp twice, by hand": "#aaaaaa",
}
OTHER = "#bb5555"


def draw(fragments: Sequence[Fragment]) -> str:
    """Return the chart of all rated tables; a bar to the right of the line is slower than us."""
    parts: list[str] = []
    y = 44
    for fragment in fragments:
        for table in fragment.tables:
            if table.rated and sum(table.ratio(each) is not None for each in table.samples) > 1:
                y = _group(parts, y, table, "memory" if fragment.place == "memory" else "disk")
    middle = _x(1.0)
    scale = [
        f'<line x1="{middle:.1f}" y1="34" x2="{middle:.1f}" y2="{y}" stroke="#1b6e53"/>',
        f'<text x="{middle:.1f}" y="28" text-anchor="middle">Syncline = 1</text>',
    ]
    for power in (0.1, 10.0, 100.0, 1000.0):
        x = _x(power)
        scale.append(f'<line x1="{x:.1f}" y1="34" x2="{x:.1f}" y2="{y}" stroke="#dddddd"/>')
        scale.append(f'<text x="{x:.1f}" y="28" text-anchor="middle">{power:g} x</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 20}" '
            f'viewBox="0 0 {WIDTH} {y + 20}" font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{y + 20}" fill="white"/>',
            *scale,
            *parts,
            "</svg>",
            "",
        ]
    )


def _group(parts: list[str], y: int, table: Table, place: str) -> int:
    title = escape(f"{table.title} ({place}): {table.rated}")
    parts.append(f'<text x="8" y="{y + 12}" font-weight="bold">{title}</text>')
    y += 18
    middle = _x(1.0)
    for program in table.samples:
        ratio = table.ratio(program)
        if ratio is None or program == OURS:
            continue
        x = _x(ratio)
        colour = COLOURS.get(program, OTHER)
        parts.append(f'<text x="{LABEL - 6}" y="{y + 11}" text-anchor="end">{program}</text>')
        parts.append(
            f'<rect x="{min(x, middle):.1f}" y="{y + 1}" width="{abs(x - middle):.1f}" '
            f'height="{BAR - 3}" fill="{colour}"/>'
        )
        end = max(x, middle) + 4
        parts.append(f'<text x="{end:.1f}" y="{y + 11}">{ratio:.3g} x</text>')
        y += BAR
    return y + GAP - BAR


def _x(ratio: float) -> float:
    share = math.log(min(MOST, max(LEAST, ratio)) / LEAST) / math.log(MOST / LEAST)
    return LABEL + share * (WIDTH - LABEL - 60)
