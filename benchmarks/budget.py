"""Where the time goes: CPU, bytes, system calls and their order.

    python benchmarks/budget.py                  what a small edit costs each process
    python benchmarks/budget.py --work small     or one of many new files of 4 KiB
    python benchmarks/budget.py --work large     or a MiB of a new large file
    python benchmarks/budget.py --calls          which system calls that takes (strace -c)
    python benchmarks/budget.py --order          when the telling ones happen in one edit (strace)

A server and two mounts in /dev/shm. An edit writes over one file of 1 KiB again and again. strace
stretches what it looks at: the times of `--order` are to be compared with each other alone.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.daemons import Daemon, Meter, until_listening
from benchmarks.measure import loopback_bytes, percentile, use_own_network
from benchmarks.peers.ours import Syncline
from benchmarks.peers.site import Site
from benchmarks.rows.doing import Watched, arrival, edit_in_place, has_content, latencies_ms
from benchmarks.trees import make_large, make_small

ROLES = ("A", "server", "B")
SETTLE_S = 1.5
ORDERED_EDITS = 50
SHOWN_CALLS = 12
REST_S = 0.2
LINE = re.compile(r"^\d+\s+([\d.]+) (\w+)\((.*)$")
COUNTED = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)(?:\s+\d+)?\s+(\w+)$")
TELLING = "sendmsg,fsync,fdatasync,syncfs,renameat2"
FILE = re.compile(r"<([^>]*)>")


@dataclass(frozen=True, slots=True)
class Traced:
    """A site, and where strace writes of each role."""

    site: Site
    files: dict[str, Path]


@contextmanager
def at_work(home: Path, options: Sequence[str]) -> Iterator[Traced]:
    """Run a server and two mounts; with options, each below strace."""
    ours = Syncline()
    server, port = ours.server(home)
    daemons = {"server": server}
    for name in ("A", "B"):
        (home / name).mkdir()
        daemons[name] = ours.mount(home, name, port)
    files = {role: home / f"trace-{role}" for role in ROLES}
    with ExitStack() as stack:
        for role in ("server", "A", "B"):
            stack.enter_context(_below_strace(daemons[role], options, files[role]))
            if role == "server":
                until_listening(port, server)
        meters = {role: Meter((daemons[role],)) for role in ROLES}
        site = Site(home / "A", (home / "B",), meters)
        site.settle()
        yield Traced(site, files)


def _below_strace(daemon: Daemon, options: Sequence[str], file: Path) -> Daemon:
    if options:
        daemon.command = ["strace", "-f", "-q", *options, "-o", str(file), *daemon.command]
        daemon.is_traced = True
    return daemon


Work = Callable[[Site, Path, int], list[float]]
"""Does so many units; returns ms, of each where they are done one by one, else of all."""


def edit(site: Site, home: Path, count: int) -> list[float]:
    """Edit one after the other."""
    return latencies_ms(site, edit_in_place, most=count, most_s=300) if count else []


def small(site: Site, home: Path, count: int) -> list[float]:
    """Copy many small files into A."""
    if count:
        make_small(home / "source", count)
        return [1000 * arrival(Watched(site, SETTLE_S), home / "source")["s"]]
    return []


def large(site: Site, home: Path, count: int) -> list[float]:
    """Copy one large file into A."""
    if count:
        make_large(home / "source", count << 20)
        return [1000 * arrival(Watched(site, SETTLE_S), home / "source")["s"]]
    return []


@dataclass(frozen=True, slots=True)
class Budget:
    """A kind of work, its unit, and how many make a run without strace and with it."""

    work: Work
    unit: str
    count: int
    traced: int
    least: int = 0
    warm: int = 0
    """So many units first, which do not count."""


BUDGETS = {
    "edit": Budget(edit, "edit", 200, 51, 1, 20),
    "small": Budget(small, "file", 10_000, 2_000),
    "large": Budget(large, "MiB", 512, 256),
}


def costs(home: Path, budget: Budget) -> None:
    """Print what a unit takes of time, CPU and the loopback."""
    with at_work(home, ()) as traced:
        site = traced.site
        budget.work(site, home, budget.warm)
        before = {role: site.meters[role].fine_cpu_s() for role in ROLES}
        carried = loopback_bytes()
        found = budget.work(site, home, budget.count)
        carried = loopback_bytes() - carried
        spent = {role: site.meters[role].fine_cpu_s() - before[role] for role in ROLES}
        peak = {role: site.meters[role].peak_mib() for role in ROLES}
    unit = budget.unit
    print(f"{budget.count} x {unit}, in {len(found)} steps: p50 {percentile(found, 0.5):.2f} ms, ")
    print(f"  p99 {percentile(found, 0.99):.2f} ms, least {min(found):.2f} ms")
    for role in ROLES:
        share_ms = 1000 * spent[role] / budget.count
        print(f"CPU of {role}: {share_ms:.3f} ms a {unit}; peak memory {peak[role]:.0f} MiB")
    print(f"loopback, headers and acknowledgements included: {carried // budget.count} B a {unit}")


def calls(home: Path, budget: Budget) -> None:
    """Print which calls a unit takes: a run with more less a run with fewer."""
    counts: list[dict[str, Counter[str]]] = []
    for number, count in enumerate((budget.least, budget.traced)):
        place = home / str(number)
        place.mkdir()
        with at_work(place, ("-c",)) as traced:
            budget.work(traced.site, place, count)
        counts.append({role: _counted(traced.files[role]) for role in ROLES})
    units = budget.traced - budget.least
    for role in ROLES:
        more = counts[1][role]
        more.subtract(counts[0][role])
        syncs = sum(more[name] for name in ("fsync", "fdatasync", "syncfs"))
        listed = ", ".join(
            f"{name} {count / units:.1f}" for name, count in more.most_common(SHOWN_CALLS)
        )
        each = sum(more.values()) / units
        print(f"{role}: {each:.1f} calls a {budget.unit}, {syncs} syncs for {units}: {listed}")


def _counted(file: Path) -> Counter[str]:
    found = (COUNTED.match(line) for line in file.read_text().splitlines())
    return Counter({each[2]: int(each[1]) for each in found if each and each[2] != "total"})


def order(home: Path) -> None:
    """Print when the telling calls of one edit happened, the one in the middle of all."""
    options = ("-ttt", "-y", "-s", "8", "--seccomp-bpf", "-e", f"trace={TELLING}")
    with at_work(home, options) as traced:
        edit(traced.site, home, BUDGETS["edit"].warm)
        spans = [_one_edit(traced.site) for _ in range(ORDERED_EDITS)]
    started, seen = sorted(spans, key=lambda span: span[1] - span[0])[len(spans) // 2]
    print(f"seen at B after {1000 * (seen - started):.1f} ms, with strace")
    events = []
    for role, file in traced.files.items():
        for line in file.read_text().splitlines():
            found = LINE.match(line)
            if found and started <= float(found[1]) <= seen + REST_S:
                name = FILE.search(found[3])
                what = f"{found[2]} {Path(name[1]).name.partition(':')[0] if name else ''}"
                events.append((1000 * (float(found[1]) - started), role, what))
    # One after the other of one kind are a line.
    for (role, what), same in groupby(sorted(events), key=lambda event: event[1:]):
        at_ms = [event[0] for event in same]
        times = f" x {len(at_ms)}, to {at_ms[-1]:.2f}" if len(at_ms) > 1 else ""
        print(f"{at_ms[0]:8.2f} ms  {role:<7} {what}{times}")


def _one_edit(site: Site) -> tuple[float, float]:
    """Edit after a rest; return the times of the clock at the begin, and when B had it."""
    time.sleep(REST_S)
    content = os.urandom(1024)
    started = time.time()
    edit_in_place(site.a / "edited", content)
    while not has_content(site.b / "edited", content):
        time.sleep(0.0005)
    return started, time.time()


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", choices=list(BUDGETS), default="edit")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--order", action="store_true")
    arguments = parser.parse_args()
    use_own_network()
    with tempfile.TemporaryDirectory(prefix="syncline-budget-", dir="/dev/shm") as home:
        if arguments.calls:
            calls(Path(home), BUDGETS[arguments.work])
        elif arguments.order:
            order(Path(home))
        else:
            costs(Path(home), BUDGETS[arguments.work])


if __name__ == "__main__":
    main()
