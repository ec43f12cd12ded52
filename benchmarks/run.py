"""Measure Syncline beside its peers; write benchmarks/results/ and RESULTS.md.

    python benchmarks/run.py                          every row, in memory and on disk
    python benchmarks/run.py --places memory --minutes 25
    python benchmarks/run.py --rows large,edit        these alone; the figures of others stay
    python benchmarks/run.py --programs Syncline      without the peers
    python benchmarks/run.py --render                 RESULTS.md and the chart from what is there
    python benchmarks/run.py --quick                  tiny sizes, nothing written: it still runs

Programs take turns: each repetition runs every program once, and ratios are taken between the
medians of one run. Figures of different runs or machines are not to be compared.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import chart, results  # noqa: E402
from benchmarks.context import PROGRAMS, QUICK, Context, Sizes  # noqa: E402
from benchmarks.measure import use_own_network  # noqa: E402
from benchmarks.peers.site import Program  # noqa: E402
from benchmarks.results import OURS, Fragment, Table  # noqa: E402
from benchmarks.rows import bulk, commands, edits, locks, many, stores  # noqa: E402

ROWS: dict[str, Callable[[Context], list[Table]]] = {
    "edit": edits.edit,
    "fanout": edits.fanout,
    "small": bulk.small,
    "tree": bulk.tree,
    "large": bulk.large,
    "clients": many.clients,
    "growth": many.growth,
    "stores": stores.stores,
    "locks": locks.locks,
    "commands": commands.commands,
    "beside": edits.beside,
}
"""Every row by name, in the order of the results; the last is what a limited time cuts first."""

SHARES = {"large": 6.0, "small": 3.0, "tree": 2.0, "edit": 2.5, "beside": 2.0, "fanout": 1.5}
"""How much of a limited time a row gets, where it is not 1: what its slowest peers take."""

PLACES = {"memory": "/dev/shm", "disk": tempfile.gettempdir()}
RESULTS = ROOT / "benchmarks" / "results"


def machine(is_alone: bool) -> str:
    """Return what this ran on, in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    shared = "" if is_alone else ", on the loopback of the whole machine"
    return (
        f"{os.cpu_count()} cores, {memory} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}{shared}"
    )


def measure(name: str, place: str, directory: str, context: Context) -> list[Table]:
    """Run one row in one place."""
    context.say(f"{name}, {place}: {directory}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="syncline-bench-", dir=directory) as home:
        tables = ROWS[name](replace(context, home=Path(home), place=place))
    context.say(f"{name}, {place}: {time.monotonic() - started:.0f} s")
    for table in tables:
        context.say("\n".join(["", *table.render()]))
    return tables


def budgets(rows: Sequence[str], places: Sequence[str], minutes: float | None) -> dict[str, float]:
    """Share a limited time among the rows; without a limit a row repeats as often as it may."""
    if minutes is None:
        return dict.fromkeys(rows, float("inf"))
    whole = sum(SHARES.get(row, 1.0) for row in rows) * len(places)
    return {row: 60 * minutes * SHARES.get(row, 1.0) / whole for row in rows}


def programs_of(row: str, programs: Sequence[Program], sizes: Sizes) -> list[Program]:
    """Return who takes part in a row."""
    has_peers = sizes.peers_in is None or row in sizes.peers_in
    return [each for each in programs if has_peers or each.is_by_hand or each.name == OURS]


def write_results() -> None:
    """Render what is there to RESULTS.md and the chart."""
    fragments = results.load_all(RESULTS, list(ROWS), list(PLACES))
    (RESULTS / "chart.svg").write_text(chart.draw(fragments))
    text = results.render(fragments, has_chart=True)
    (ROOT / "benchmarks" / "RESULTS.md").write_text(text)


def chosen(names: str, known: Sequence[str], what: str) -> list[str]:
    """Return the names of a list with commas, all of which must be known."""
    wanted = names.split(",") if names else list(known)
    if unknown := [each for each in wanted if each not in known]:
        raise SystemExit(f"no such {what}: {', '.join(unknown)}. There are: {', '.join(known)}")
    return [each for each in known if each in wanted]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing is written")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    parser.add_argument("--rows", default="", help=f"of {','.join(ROWS)}")
    parser.add_argument("--places", default="", help="memory, disk, or both with a comma")
    parser.add_argument("--programs", default="", help="names as in the results, with commas")
    parser.add_argument("--minutes", type=float, help="repeat less, to end about then")
    parser.add_argument("--repetitions", type=int, help="at most so often; 5 if not given")
    parser.add_argument("--disk", default=PLACES["disk"], help="a directory on the disk")
    parser.add_argument("--memory", default=PLACES["memory"], help="a directory in memory")
    return parser.parse_args()


def main() -> None:
    """Run what the command line says."""
    # Who is ended by a time limit ends what it started, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(f"ended by signal {number}"))
    arguments = _arguments()
    if arguments.render:
        write_results()
        return
    rows = chosen(arguments.rows, list(ROWS), "row")
    places = chosen(arguments.places or ("memory" if arguments.quick else ""), [*PLACES], "place")
    # A name with a comma in it is written without what follows.
    known = {each.name.split(",")[0]: each for each in PROGRAMS}
    programs: list[Program] = [
        known[name] for name in chosen(arguments.programs, list(known), "program")
    ]
    sizes = QUICK if arguments.quick else Sizes()
    if arguments.repetitions:
        sizes = replace(sizes, repetitions=arguments.repetitions)
    has_all = len(programs) == len(PROGRAMS)
    on = machine(use_own_network())
    versions = {each.name: each.version() for each in programs if not each.absent()}
    seconds = budgets(rows, places, arguments.minutes)
    troubles: list[str] = []
    directories = {"memory": arguments.memory, "disk": arguments.disk}
    ends = time.monotonic() + 60 * (arguments.minutes or float("inf"))
    for place in places:
        for row in rows:
            if time.monotonic() > ends:
                print(f"{row}, {place}: not run, the time is over", flush=True)
                continue
            taking = programs_of(row, programs, sizes)
            context = Context(Path(), place, sizes, taking, seconds[row], troubles)
            tables = measure(row, place, directories[place], context)
            if tables and has_all and not arguments.quick:
                results.save(Fragment(row, place, on, versions, tables), RESULTS)
                write_results()
    if not has_all:
        print("Nothing was written: some programs were left out.")
    if troubles:
        raise SystemExit("\n".join([f"trouble with {OURS}:", *troubles]))


if __name__ == "__main__":
    main()
