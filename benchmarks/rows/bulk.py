"""Much content, many files, a tree of sources, and what comes after: changes, renames, restarts."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.context import Context
from benchmarks.daemons import until
from benchmarks.measure import count_syncs, is_traceable
from benchmarks.peers.ours import Syncline, Traces
from benchmarks.peers.site import Program, Site
from benchmarks.results import Column, Goal, Table
from benchmarks.rows.doing import (
    Took,
    Watched,
    arrival,
    edit_in_place,
    has_content,
    is_complete,
    took,
    until_equal,
)
from benchmarks.trees import make_files, make_large, make_small, make_tree

RSYNC, COPY = "rsync twice, by hand", "cp twice, by hand"

ARRIVAL = (
    Column("s"),
    Column("s after the copy"),
    Column("CPU s"),
    Column("MB on the loopback", 1),
    Column("peak MiB, A", 0, is_peak=True),
    Column("peak MiB, server", 0, is_peak=True),
    Column("peak MiB, B", 0, is_peak=True),
)
CHANGE = (Column("s", 3), Column("CPU s"), Column("kB on the loopback", 1))


def _arrival(title: str, goals: tuple[Goal, ...]) -> Table:
    return Table(f"{title}: copied into A → all at B", ARRIVAL, "s", goals)


def _change(title: str, goals: tuple[Goal, ...]) -> Table:
    return Table(f"{title} at A → at B", CHANGE, "s", goals)


def _figures(found: Took) -> dict[str, float]:
    return {
        "s": found.wall_s,
        "CPU s": found.cpu_s,
        "kB on the loopback": found.carried / 1e3,
    }


# -- one large file --------------------------------------------------------------------


def large(context: Context) -> list[Table]:
    """Measure a large random file: its arrival, a byte changed, a byte inserted, a rename."""
    sizes = context.sizes
    size = sizes.large_bytes
    what = f"{size >> 20} MiB"
    source = context.home / "source"
    make_large(source, size)
    limits = (Goal("s", 0.8, RSYNC), Goal("kB on the loopback", 1500))
    tables = [
        _arrival(f"one file of {what}", (Goal("s", 1.3, RSYNC),)),
        _change(f"one byte overwritten in the middle of {what}", limits),
        _change(f"one byte inserted in front of {what}", limits),
        _change(
            f"rename of a file of {what}",
            (Goal("s", 0.1, "Syncthing"), Goal("kB on the loopback", 20)),
        ),
    ]

    def work(program: Program, home: Path, number: int) -> None:
        with program.at_work(home) as site:
            watched = Watched(site, sizes.settle_s)
            tables[0].add(program.name, arrival(watched, source))
            if program.name == COPY:
                return
            tables[1].add(program.name, _figures(overwrite(watched, size)))
            tables[2].add(program.name, _figures(insert(watched, home / "inserted")))
            until_equal(site.a, site.b)
            tables[3].add(program.name, _figures(rename(watched, "large", "moved")))

    context.rounds(tables, work)
    _count_syncs(context, tables[0], source)
    return tables


def overwrite(watched: Watched, size: int) -> Took:
    """Change the byte in the middle."""
    site = watched.site
    here, there = site.a / "large", site.b / "large"
    with here.open("rb") as file:
        file.seek(size // 2)
        other = bytes([file.read(1)[0] ^ 0xFF])

    def act() -> None:
        with here.open("r+b") as file:
            file.seek(size // 2)
            file.write(other)

    return took(watched, act, lambda: _byte(there, size // 2) == other, "the changed byte is at B")


def _byte(path: Path, offset: int) -> bytes:
    """Return one byte; nothing where the file is not there, as with some programs for a moment."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(1)
    except FileNotFoundError:
        return b""


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def insert(watched: Watched, beside: Path) -> Took:
    """Put a byte in front: the new content is written elsewhere and takes the name."""
    site = watched.site
    here, there = site.a / "large", site.b / "large"
    with here.open("rb") as old, beside.open("wb") as new:
        new.write(b"+")
        while block := old.read(1 << 20):
            new.write(block)
    size = beside.stat().st_size
    return took(
        watched,
        lambda: os.replace(beside, here),
        lambda: _size(there) == size,
        "the inserted byte is at B",
    )


def rename(watched: Watched, old: str, new: str) -> Took:
    """Rename a file or directory."""
    site = watched.site

    def is_there() -> bool:
        return os.path.lexists(site.b / new) and is_all() and not os.path.lexists(site.b / old)

    if (site.a / old).is_dir():
        names = is_complete(site.a / old, site.b / new)
        is_all = names
    else:
        size = (site.a / old).stat().st_size

        def is_all() -> bool:
            return _size(site.b / new) == size

    return took(
        watched, lambda: (site.a / old).rename(site.a / new), is_there, f"{new} is at B, {old} gone"
    )


# -- many small files ------------------------------------------------------------------


def small(context: Context) -> list[Table]:
    """Measure many small files: arrival, a directory renamed, a restart, rest."""
    sizes = context.sizes
    source = context.home / "source"
    make_small(source, sizes.small_files)
    with_files = f"with {sizes.small_files} files in sync"
    roles = ("A", "server", "B")
    tables = [
        _arrival(f"{sizes.small_files} files of 4 KiB", (Goal("s", 2, RSYNC),)),
        _change(
            f"rename of a directory of {sizes.renamed_files} files",
            (Goal("s", 0.1, "Syncthing"), Goal("kB on the loopback", 20)),
        ),
        Table(
            f"start of B's client {with_files} → an edit of that moment is at B",
            (Column("s"),),
            "s",
            (Goal("s", 1.2, "Unison"),),
        ),
        Table(
            f"{sizes.idle_s:g} s idle {with_files}",
            (
                *(Column(f"CPU s, {role}", 3) for role in roles),
                *(Column(f"resident MiB, {role}", 0) for role in roles),
                Column("proportional MiB, B", 0),
            ),
            "",
            (Goal("CPU s, B", 0.05), Goal("resident MiB, B", 65)),
        ),
    ]

    def work(program: Program, home: Path, number: int) -> None:
        with program.at_work(home) as site:
            watched = Watched(site, sizes.settle_s)
            tables[0].add(program.name, arrival(watched, source))
            if program.name == COPY:
                return
            make_files(site.a / "many", sizes.renamed_files)
            site.carry()
            until(is_complete(site.a / "many", site.b / "many"), "the directory is at B")
            tables[1].add(program.name, _figures(rename(watched, "many", "moved")))
            if program.is_by_hand:
                return
            if number == 0:
                site.settle()
                tables[3].add(program.name, idle(site, sizes.idle_s))
            tables[2].add(program.name, {"s": restart(site)})
            until_equal(site.a, site.b)

    context.rounds(tables, work)
    _count_syncs(context, tables[0], source)
    return tables


def restart(site: Site) -> float:
    """Start B's client anew and edit at A; return seconds from the start until B has the edit."""
    here, there = site.a / "edited", site.b / "edited"
    here.write_bytes(b"first")
    site.settle()
    site.stop_b()
    content = os.urandom(1024)
    started = time.perf_counter()
    site.start_b()
    edit_in_place(here, content)
    return until(lambda: has_content(there, content), "the edit is at B") - started


def idle(site: Site, seconds: float) -> dict[str, float]:
    """Do nothing, and see what that takes."""
    # What came before has its echoes.
    time.sleep(min(2.0, seconds))
    before = {role: meter.fine_cpu_s() for role, meter in site.meters.items()}
    time.sleep(seconds)
    figures: dict[str, float] = {}
    for role, meter in site.meters.items():
        figures[f"CPU s, {role}"] = meter.fine_cpu_s() - before[role]
        figures[f"resident MiB, {role}"] = meter.memory_mib()
    if "B" in site.meters:
        figures["proportional MiB, B"] = site.meters["B"].memory_shared_mib()
    return figures


def tree(context: Context) -> list[Table]:
    """Measure a tree of sources."""
    source = context.home / "source"
    make_tree(source, context.sizes.tree_entries)
    title = f"a tree of sources, {context.sizes.tree_entries} entries"
    table = _arrival(title, (Goal("s", 2, RSYNC),))

    def work(program: Program, home: Path, number: int) -> None:
        with program.at_work(home) as site:
            watched = Watched(site, context.sizes.settle_s)
            table.add(program.name, arrival(watched, source))

    context.rounds([table], work)
    _count_syncs(context, table, source)
    return [table]


def _count_syncs(context: Context, table: Table, source: Path) -> None:
    """Note how many syncs an arrival takes with Syncline, without those of start and end."""
    # The number is the same wherever the files are.
    if context.place != "memory" or not context.sizes.has_syncs or not context.has_ours:
        return
    if not is_traceable():
        table.notes.append("Syncs were not counted: strace is not installed.")
        return
    counts: list[list[int]] = []
    for is_empty in (True, False):
        home = context.home / "traced"
        home.mkdir()
        traces = [context.home / f"syncs-{name}" for name in ("a", "server", "b")]
        with Syncline(Traces(*traces)).at_work(home) as site:
            if not is_empty:
                arrival(Watched(site, context.sizes.settle_s), source)
                site.settle()
        counts.append([count_syncs(trace) for trace in traces])
        context.discard(home)
    of_a, of_server, of_b = (full - rest for rest, full in zip(*counts, strict=True))
    table.notes.append(
        f"Syncs of Syncline (strace, a run of its own): A {of_a}, server {of_server}, B {of_b}."
    )
