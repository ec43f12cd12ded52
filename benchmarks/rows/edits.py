"""One edit of 1 KiB: to one client, to the last of many, and beside many files."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.context import Context
from benchmarks.peers.site import Program
from benchmarks.results import Column, Goal, Table
from benchmarks.rows.bulk import COPY
from benchmarks.rows.doing import (
    edit_by_rename,
    edit_in_place,
    latencies_ms,
    missed_last,
    p50_p99,
)
from benchmarks.trees import make_files

LATENCY = (Column("p50 ms", 1), Column("p99 ms", 1))
ROUNDS = 3
"""So many turns at most, each of many edits."""


def edit(context: Context) -> list[Table]:
    """Measure edits in place and by rename; and whether the last of many saves arrives."""
    sizes = context.sizes
    goal = Goal("p50 ms", 0.2, "lsyncd, one way")
    missed = Column(f"last of ten saves missed, of {sizes.bursts}", 0, is_peak=True)
    tables = [
        Table("edit of 1 KiB in place at A → at B", (*LATENCY, missed), "p50 ms", (goal,)),
        Table("edit of 1 KiB by a new file and a rename at A → at B", LATENCY, "p50 ms", (goal,)),
    ]

    def work(program: Program, home: Path, number: int) -> None:
        with program.at_work(home) as site:
            for table, act in zip(tables, (edit_in_place, edit_by_rename), strict=True):
                found = latencies_ms(
                    site, act, most=sizes.edits // ROUNDS + 1, most_s=sizes.edit_s / ROUNDS / 2
                )
                table.add(program.name, p50_p99(found))
            if number == 0:
                tables[0].add(program.name, {missed.name: missed_last(site, sizes.bursts)})

    programs = [each for each in context.programs if each.name != COPY]
    rounds = min(ROUNDS, sizes.repetitions)
    context.rounds(tables, work, repetitions=rounds, programs=programs)
    return tables


def fanout(context: Context) -> list[Table]:
    """Measure an edit until the last of many clients has it."""
    sizes = context.sizes
    # A fifth of what the system before this one took, in its best case.
    goal = Goal("p50 ms", 38)
    title = f"edit of 1 KiB at A → at the last of {sizes.fanout} clients"
    peak = Column("peak MiB, server", 0, is_peak=True)
    table = Table(title, (*LATENCY, peak), "p50 ms", (goal,))

    def work(program: Program, home: Path, number: int) -> None:
        with program.at_work(home, clients=1 + sizes.fanout) as site:
            found = latencies_ms(
                site, edit_in_place, most=sizes.fanout_edits, most_s=sizes.edit_s / 2
            )
            table.add(program.name, p50_p99(found) | {peak.name: site.meters["server"].peak_mib()})

    programs = [each for each in context.programs if not each.is_by_hand]
    context.rounds([table], work, repetitions=min(ROUNDS, sizes.repetitions), programs=programs)
    return [table]


def beside(context: Context) -> list[Table]:
    """Measure the same edit beside few and beside many files, which are there before the start."""
    sizes = context.sizes
    columns = [Column(f"p50 ms, {count} files", 1) for count in sizes.beside]
    edits = Table("the same edit beside many files", tuple(columns))
    ready = Table(
        "start with files that A and B both have, until all is in sync",
        tuple(
            Column(f"{what}, {count} files", digits, is_peak=what.startswith("peak"))
            for count in sizes.beside
            for what, digits in (
                ("s", 1),
                ("CPU s", 1),
                ("peak MiB A", 0),
                ("peak MiB server", 0),
            )
        ),
    )
    programs = [each for each in context.programs if not each.is_by_hand]
    for count in sizes.beside:
        source = context.home / "source"
        make_files(source, count)

        def work(
            program: Program, home: Path, number: int, count: int = count, source: Path = source
        ) -> None:
            started = time.perf_counter()
            with program.at_work(home, filled=source) as site:
                took_s = time.perf_counter() - started
                figures = {f"s, {count} files": took_s, f"CPU s, {count} files": site.cpu_s()}
                for role in ("A", "server"):
                    figures[f"peak MiB {role}, {count} files"] = site.meters[role].peak_mib()
                ready.add(program.name, figures)
                found = latencies_ms(
                    site, edit_in_place, most=sizes.edits // 2, most_s=sizes.edit_s / 2
                )
                p50 = p50_p99(found)["p50 ms"]
                edits.add(program.name, {f"p50 ms, {count} files": p50})

        context.rounds([edits, ready], work, repetitions=1, programs=programs)
        context.discard(source)
    edits.notes.append("Must: within 20% or 2 ms, however many files there are.")
    ready.notes.append("The seconds count the copies of the files that are made before the start.")
    return [edits, ready]
