"""Run simulated worlds: `make simulate SEEDS=1-1000`.

Each seed is a world of its own: a server, two or three mounts, their users, faults and crashes. One
that fails prints the command that repeats it, and what happened last.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.simulation.world import Report, play


def seeds_of(text: str) -> list[int]:
    """Return the seeds of `7`, `1-1000` or `3,5,10-20`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def main() -> int:
    """Play all seeds; return how the process ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--operations", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="log what the mounts do")
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.CRITICAL)
    started = time.monotonic()
    failed: list[int] = []
    totals: Counter[str] = Counter()
    met: Counter[str] = Counter()
    with ProcessPoolExecutor(options.workers) as pool:
        waiting = {pool.submit(play, seed, options.operations): seed for seed in options.seeds}
        for future in as_completed(waiting):
            seed = waiting[future]
            error = future.exception()
            if error is not None:
                failed.append(seed)
                print(f"{error}\nto repeat: make simulate SEEDS={seed}\n", flush=True)
                continue
            count(future.result(), totals, met)
    seconds = time.monotonic() - started
    print(f"{len(options.seeds)} seeds, {len(failed)} failed, {seconds:.0f} s: {sorted(failed)}")
    print(", ".join(f"{value} {name}" for name, value in totals.items()))
    for name, value in sorted(met.items()):
        print(f"  {value:8d} {name}")
    return 1 if failed else 0


def count(report: Report, totals: Counter[str], met: Counter[str]) -> None:
    """Add up what a world came to."""
    totals["user operations"] += report.operations
    totals["deaths"] += report.crashes
    totals["conflict copies"] += report.conflicts
    totals["virtual seconds"] += int(report.virtual_s)
    met.update(report.met)


if __name__ == "__main__":
    raise SystemExit(main())
