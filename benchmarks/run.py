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
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import rows  # noqa: E402
from benchmarks.measure import median, server, spread  # noqa: E402
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


QUICK = Sizes(4 << 20, 50, 1, 20, 32, 5)


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
    works = {
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
    report = Report()
    report.add("# Results")
    report.add()
    report.add("Written by `make bench`. Medians, with the least and the most in brackets.")
    report.add(f"Machine: {machine()}.")
    report.add("Everything runs on one machine over the loopback; the client's time is that of its")
    report.add("whole process, start included. Seconds are of this run alone; trust the ratios.")
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
    if not arguments.quick:
        (ROOT / "benchmarks" / "RESULTS.md").write_text("\n".join(report.lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
