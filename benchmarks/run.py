"""Measure Syncline beside cp and rsync, and write benchmarks/RESULTS.md.

    python benchmarks/run.py            all rows, in memory and on disk; about ten minutes
    python benchmarks/run.py --quick    tiny sizes, nothing written: shows that it still runs

Works are interleaved: each repetition runs every program once, and ratios are taken between the
medians of one run. Figures of different runs or machines are not to be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import mounts as mount_rows  # noqa: E402
from benchmarks import rows  # noqa: E402
from benchmarks.measure import median, server, spread, use_own_network  # noqa: E402
from syncline import __version__  # noqa: E402


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much work a run does."""

    large_bytes: int = 1 << 30
    small_files: int = 10_000
    repetitions: int = 5
    stores_alone: int = 1500
    stores_together: int = 3200
    latencies: int = 400
    tree_entries: int = 13_000
    edits: int = 300
    rsync_edits: int = 40
    renamed_files: int = 1_000
    idle_s: float = 30.0
    beside: tuple[int, ...] = (1_000, 10_000, 100_000)
    mounted_works: int = 3
    has_mounted_syncs: bool = True


QUICK = Sizes(4 << 20, 50, 1, 20, 32, 5, 60, 5, 1, 10, 0.2, (), 1, has_mounted_syncs=False)


@dataclass(slots=True)
class Report:
    """Lines of the results."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str = "") -> None:
        """Add a line and show it."""
        self.lines.append(line)
        print(line, flush=True)


def bulk(report: Report, place: str, home: Path, sizes: Sizes) -> None:
    """Measure the large file and the small files in one place."""
    works: dict[str, Callable[[Path], None]] = {
        f"one file of {sizes.large_bytes >> 20} MiB": lambda path: rows.make_large(
            path, sizes.large_bytes
        ),
        f"{sizes.small_files} files of 4 KiB": lambda path: rows.make_small(
            path, sizes.small_files
        ),
    }
    for name, make in works.items():
        source = home / "source"
        make(source)
        report.add(f"### {name}, {place}")
        report.add()
        programs = {
            "Syncline": rows.syncline_bulk,
            "cp -a": rows.copy_bulk,
            "rsync daemon": rows.rsync_bulk,
        }
        found: dict[str, list[rows.Bulk]] = {}
        for _ in range(sizes.repetitions):
            for program, work in programs.items():
                result = work(source, home)
                if result is not None:
                    found.setdefault(program, []).append(result)
        write_bulk(report, found)
        if "rsync daemon" not in found:
            report.add("rsync is not installed here (Debian: `apt-get install rsync`).")
            report.add()
        syncs = rows.syncline_syncs(source, home)
        if syncs is None:
            report.add("Syncs were not counted: strace is not installed here.")
        else:
            report.add(
                f"Syncs (strace, runs of their own): server for storing {syncs[0]}, "
                f"client for fetching {syncs[1]}."
            )
        report.add()
        shutil.rmtree(source)


def write_bulk(report: Report, found: dict[str, list[rows.Bulk]]) -> None:
    """Write a table of programs."""
    report.add(
        "| program | store s | CPU client + server s | fetch s | CPU client + server s "
        "| both, as a ratio to Syncline |"
    )
    report.add("| --- | --- | --- | --- | --- | --- |")
    ours = median([item.store.wall_s + item.fetch.wall_s for item in found["Syncline"]])
    for program, results in found.items():
        both = median([item.store.wall_s + item.fetch.wall_s for item in results])
        cells = [
            program,
            spread([item.store.wall_s for item in results]),
            f"{median([item.store.client_s for item in results]):.2f} + "
            f"{median([item.store.server_s for item in results]):.2f}",
            spread([item.fetch.wall_s for item in results]),
            f"{median([item.fetch.client_s for item in results]):.2f} + "
            f"{median([item.fetch.server_s for item in results]):.2f}",
            f"{both / ours:.2f}",
        ]
        report.add(f"| {' | '.join(cells)} |")
    peak = max(item.server_peak_mib for item in found["Syncline"])
    report.add()
    report.add(f"Peak memory of the server: {peak:.0f} MiB.")
    report.add()


def small(report: Report, place: str, home: Path, sizes: Sizes) -> None:
    """Measure single STOREs and the feed in one place."""
    report.add(f"### small STOREs and the feed, {place}")
    report.add()
    report.add("| work | figure |")
    report.add("| --- | --- |")
    for clients, count in ((1, sizes.stores_alone), (32, sizes.stores_together)):
        rates = []
        for _ in range(sizes.repetitions):
            with server(home) as running:
                rates.append(asyncio.run(rows.stores_a_second(running, clients, count)))
        name = f"durable STOREs of 1 KiB a second, {clients} client{'s' if clients > 1 else ''}"
        report.add(f"| {name} | {median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f}) |")
    with server(home) as running:
        latency = asyncio.run(rows.watch_latency(running, sizes.latencies))
    report.add(
        f"| STORE of 1 KiB → answer, p50 / p99 | "
        f"{latency.answer_p50:.1f} / {latency.answer_p99:.1f} ms |"
    )
    report.add(
        f"| STORE of 1 KiB → event at a watcher, content included, p50 / p99 | "
        f"{latency.event_p50:.1f} / {latency.event_p99:.1f} ms |"
    )
    report.add()


def mounts(report: Report, place: str, home: Path, sizes: Sizes) -> None:
    """Measure two mounts in one place: from an edit or a copy at A to what is to be seen at B."""
    mounted_edits(report, place, home, sizes)
    works: dict[str, Callable[[Path], None]] = {
        f"{sizes.small_files} files of 4 KiB": lambda path: rows.make_small(
            path, sizes.small_files
        ),
        f"a tree of sources, {sizes.tree_entries} entries": lambda path: mount_rows.make_tree(
            path, sizes.tree_entries
        ),
        f"one file of {sizes.large_bytes >> 20} MiB": lambda path: rows.make_large(
            path, sizes.large_bytes
        ),
    }
    for name, make in list(works.items())[: sizes.mounted_works]:
        source = home / "source"
        make(source)
        mounted_arrivals(report, f"{name}, {place}", home, sizes)
        shutil.rmtree(source)
    report.add(f"### mounts in sync with {sizes.small_files} files of 4 KiB, {place}")
    report.add()
    rows.make_small(home / "source", sizes.small_files)
    with mount_rows.pair(home) as both:
        mount_rows.fill(home / "source", both)
        mounted_rest(report, both, sizes)
        mounted_renames(report, both, sizes)
    mounted_restarts(report, home, sizes)
    report.add()
    shutil.rmtree(home / "source")


def mounted_edits(report: Report, place: str, home: Path, sizes: Sizes) -> None:
    """Measure single edits, beside few and beside many files."""
    report.add(f"### one edit of 1 KiB at A → visible at B, {place}")
    report.add()
    report.add("| edit | p50 ms | p99 ms |")
    report.add("| --- | --- | --- |")
    edits = {
        "in place": mount_rows.edit_in_place,
        "by a temporary file and a rename": mount_rows.edit_by_rename,
    }
    with mount_rows.pair(home) as both:
        for name, edit in edits.items():
            report.add(_latency(name, mount_rows.edit_latency(both, edit, sizes.edits)))
    peer = mount_rows.rsync_edit_latency(home, sizes.rsync_edits)
    if peer is not None:
        report.add(_latency("rsync to a daemon and from there, started at the edit", peer))
    ready = []
    for files in sizes.beside:
        latency, cost = mount_rows.edit_latency_among(home, files, sizes.edits)
        report.add(_latency(f"in place, beside {files} files", latency))
        ready.append(
            f"{files} files: {cost.wall_s:.1f} s, CPU {_three(cost.cpu_s, '.1f')} s, "
            f"peak {_three(cost.peak_mib, '.0f')} MiB"
        )
    report.add()
    if not ready:
        return
    report.add("From the start of the processes until all is in sync, where A and B already have")
    report.add(f"the same files (A + server + B): {'; '.join(ready)}.")
    report.add()


def _latency(name: str, latency: mount_rows.EditLatency) -> str:
    return f"| {name} | {latency.p50:.1f} | {latency.p99:.1f} |"


def _three(values: Iterable[float], form: str) -> str:
    return " + ".join(format(value, form) for value in values)


def mounted_arrivals(report: Report, name: str, home: Path, sizes: Sizes) -> None:
    """Measure a tree that is copied into A."""
    source = home / "source"
    report.add(f"### {name}: copied into A → all at B")
    report.add()
    found: dict[str, list[mount_rows.Arrival]] = {}
    for _ in range(sizes.repetitions):
        for program, work in (
            ("Syncline", mount_rows.arrival),
            ("rsync twice, by hand", mount_rows.rsync_arrival),
        ):
            result = work(source, home)
            if result is not None:
                found.setdefault(program, []).append(result)
    report.add(
        "| program | s from the begin of the copy | s from its end | CPU s, A + server + B "
        "(rsync: push + pull) | peak MiB, A + server + B | as a ratio to rsync |"
    )
    report.add("| --- | --- | --- | --- | --- | --- |")
    peer = median([item.wall_s for item in list(found.values())[-1]])
    for program, results in found.items():
        cells = [
            program,
            spread([item.wall_s for item in results]),
            spread([item.after_s for item in results]),
            _three(map(median, zip(*(item.cpu_s for item in results), strict=True)), ".2f"),
            _three(map(max, zip(*(item.peak_mib for item in results), strict=True)), ".0f"),
            f"{median([item.wall_s for item in results]) / peer:.2f}" if len(found) > 1 else "",
        ]
        report.add(f"| {' | '.join(cells)} |")
    report.add()
    if not sizes.has_mounted_syncs:
        return
    syncs = mount_rows.arrival_syncs(source, home)
    if syncs is None:
        report.add("Syncs were not counted: strace is not installed here.")
    else:
        report.add(f"Syncs (strace, a run of their own), A + server + B: {_three(syncs, 'd')}.")
    report.add()


def mounted_rest(report: Report, both: mount_rows.Pair, sizes: Sizes) -> None:
    """Measure what clients and server take while nothing happens."""
    report.add(f"| {sizes.idle_s:g} s idle | CPU s | resident MiB | proportional MiB |")
    report.add("| --- | --- | --- | --- |")
    for name, found in zip(("A", "server", "B"), mount_rows.idle(both, sizes.idle_s), strict=True):
        cells = [name, f"{found.cpu_s:.3f}", f"{found.resident_mib:.0f}"]
        report.add(f"| {' | '.join(cells)} | {found.shared_mib:.0f} |")
    report.add()


def mounted_renames(report: Report, both: mount_rows.Pair, sizes: Sizes) -> None:
    """Measure renames of a large file and of a directory with many files."""
    rows.make_large(both.a.directory / "renamed", sizes.large_bytes)
    mount_rows.make_files(both.a.directory / "many", sizes.renamed_files)
    mount_rows.until_equal_counts(both)
    both.wait()
    report.add("| rename at A → at B | ms | bytes over the loopback |")
    report.add("| --- | --- | --- |")
    for what, old in (
        (f"a file of {sizes.large_bytes >> 20} MiB", "renamed/large"),
        (f"a directory of {sizes.renamed_files} files", "many"),
    ):
        found = []
        for count in range(sizes.repetitions):
            ends = (old, f"moved-{Path(old).name}")
            found.append(mount_rows.rename(both, *(ends if count % 2 == 0 else ends[::-1])))
        wall = spread([each.wall_ms for each in found])
        carried = spread([each.carried for each in found])
        report.add(f"| {what} | {wall} | {carried} |")
    report.add()


def mounted_restarts(report: Report, home: Path, sizes: Sizes) -> None:
    """Measure how soon a client that is started has the next change."""
    found = mount_rows.restarts(home / "source", home, sizes.repetitions)
    report.add(f"Start of B's client → an edit of that moment is at B: {spread(found)} s.")


def machine() -> str:
    """Return what this ran on, in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{os.cpu_count()} cores, {memory} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, Syncline {__version__}"
    )


def main() -> None:
    """Run all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    parser.add_argument("--disk", default=None, help="a directory on the disk to measure")
    parser.add_argument("--memory", default="/dev/shm", help="a directory in memory")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    is_alone = use_own_network()
    report = Report()
    report.add("# Results")
    report.add()
    report.add("Written by `make bench`. Medians, with the least and the most in brackets.")
    report.add(f"Machine: {machine()}.")
    report.add("Everything runs on one machine over the loopback; the client's time is that of its")
    report.add("whole process, start included. Seconds are of this run alone; trust the ratios.")
    if not is_alone:
        report.add("Bytes over the loopback are those of the whole machine: no network of its own.")
    report.add()
    places = {"in memory": arguments.memory, "on disk": arguments.disk or tempfile.gettempdir()}
    if arguments.quick:
        places.pop("on disk")
    for place, directory in places.items():
        with tempfile.TemporaryDirectory(prefix="syncline-bench-", dir=directory) as home:
            report.add(f"## {place[0].upper()}{place[1:]}")
            report.add()
            small(report, place, Path(home), sizes)
            bulk(report, place, Path(home), sizes)
            mounts(report, place, Path(home), sizes)
    if not arguments.quick:
        (ROOT / "benchmarks" / "RESULTS.md").write_text("\n".join(report.lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
