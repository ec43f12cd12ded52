"""Run simulated worlds: `make simulate SEEDS=1-1000`.

Each seed is a world of its own: a server, two or three mounts, their users, faults and crashes. One
that fails prints the command that repeats it, and what happened last. A table at the end says what
the worlds met. With `--plant` a bug is planted first, and the worlds are to find it.
"""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.simulation.kinds import WorldKind
from tests.support.simulation.met import KINDS
from tests.support.simulation.planted import BUGS, Hunt, hunt
from tests.support.simulation.world import Report, play

OPERATIONS = 200

PROGRESS = 500
"""After so many seeds it is told how far it is."""

WORLD_S = 300.0
WORLD_BYTES_MAX = 4 << 30
"""A world takes a second, and its process stays below half a GiB."""

KIND_OPTIONS = {
    "locks": "users take locks",
    "exchange": "disks can exchange two names in one step",
    "scenes": "a second act brings about what is rare",
    "restarts": "who died dies again and again soon after he started",
}


def seeds_of(text: str) -> list[int]:
    """Return the seeds of `7`, `1-1000` or `3,5,10-20`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def arguments() -> argparse.ArgumentParser:
    """Return what the command takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seeds", type=seeds_of)
    parser.add_argument("--operations", type=int, default=OPERATIONS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="no trouble but crashes and losses")
    for name, what in KIND_OPTIONS.items():
        parser.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, help=f"{what}; else the seed says"
        )
    parser.add_argument("--at-least", type=int, default=0, help="how often each kind is to be met")
    parser.add_argument("--every", action="store_true", help="show each operation that was met")
    parser.add_argument("--plant", choices=("all", *BUGS), help="plant a bug, and look for it")
    parser.add_argument("--verbose", action="store_true", help="log what the mounts do")
    return parser


def kind_of(seed: int, options: argparse.Namespace) -> WorldKind:
    """Return the kind of world that is asked for, where the seed is not to say."""
    told = WorldKind.of_seed(seed)
    asked: dict[str, bool] = {
        f"has_{name}": value
        for name in KIND_OPTIONS
        if (value := getattr(options, name)) is not None
    }
    return replace(told, **asked)


def repeating(seed: int, options: argparse.Namespace) -> str:
    """Return the command that plays a seed again."""
    words = [f"--operations {options.operations}"] if options.operations != OPERATIONS else []
    words += ["--plain"] if options.plain else []
    for name in KIND_OPTIONS:
        asked: bool | None = getattr(options, name)
        if asked is not None:
            words.append(f"--{name}" if asked else f"--no-{name}")
    told = f" WITH='{' '.join(words)}'" if words else ""
    return f"make simulate SEEDS={seed}{told}"


def main() -> int:
    """Play all seeds; return how the process ends."""
    options = arguments().parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.CRITICAL)
    if options.plant is not None:
        names = list(BUGS) if options.plant == "all" else [options.plant]
        return look_for(names, options.seeds, options.operations, options.workers)
    started = time.monotonic()
    failed: list[int] = []
    totals: Counter[str] = Counter()
    met: Counter[str] = Counter()
    with ProcessPoolExecutor(options.workers, initializer=begin_worker) as pool:
        waiting = {
            pool.submit(
                play_within,
                seed,
                options.operations,
                is_plain=options.plain,
                kind=kind_of(seed, options),
            ): seed
            for seed in options.seeds
        }
        for done, future in enumerate(as_completed(waiting), start=1):
            seed = waiting.pop(future)
            error = future.exception()
            if done % PROGRESS == 0:
                print(f"{done} of {len(options.seeds)} seeds, {len(failed)} failed", flush=True)
            if error is not None:
                failed.append(seed)
                kind = ", ".join(kind_of(seed, options).words) or "ordinary"
                print(f"{error}\nkind: {kind}; to repeat: {repeating(seed, options)}\n", flush=True)
                continue
            count(future.result(), totals, met)
    seconds = time.monotonic() - started
    print(f"{len(options.seeds)} seeds, {len(failed)} failed, {seconds:.0f} s: {sorted(failed)}")
    print(", ".join(f"{value} {name}" for name, value in totals.items()))
    rare = show(met, options.at_least, is_every=options.every)
    return 1 if failed or rare else 0


def begin_worker() -> None:
    """Bound what one world may take, so that one without an end costs no other."""
    resource.setrlimit(resource.RLIMIT_AS, (WORLD_BYTES_MAX, WORLD_BYTES_MAX))
    # Worlds make little that only the cycle collector finds, and it would take 6 % of the time.
    gc.set_threshold(100_000)


def play_within(seed: int, operations: int, *, is_plain: bool, kind: WorldKind) -> Report:
    """Play a world; one that takes too long fails as others do."""

    def give_up(signal_number: int, frame: object) -> None:
        raise AssertionError(f"seed {seed} took more than {WORLD_S} s of computing")

    signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, WORLD_S)
    try:
        return play(seed, operations, is_plain=is_plain, kind=kind)
    except MemoryError as error:
        raise AssertionError(f"seed {seed} took more than {WORLD_BYTES_MAX} bytes") from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def count(report: Report, totals: Counter[str], met: Counter[str]) -> None:
    """Add up what a world came to."""
    totals["user operations"] += report.operations
    totals["deaths"] += report.crashes
    totals["conflict copies"] += report.conflicts
    totals["virtual seconds"] += int(report.virtual_s)
    met.update(report.met)


def show(met: Counter[str], at_least: int, *, is_every: bool) -> list[str]:
    """Print what was met, each kind of it; return the kinds that were met too seldom."""
    names = [*KINDS, *sorted(name for name in met if is_every and name not in KINDS)]
    for name in names:
        print(f"  {met[name]:8d} {name}")
    rare = [name for name in KINDS if met[name] < at_least]
    if rare:
        print(f"met less than {at_least} times: {', '.join(rare)}")
    return rare


def look_for(names: Iterable[str], seeds: list[int], operations: int, workers: int) -> int:
    """Look for planted bugs, and print how many seeds each of them took."""
    is_any_missed = False
    with ProcessPoolExecutor(workers, initializer=begin_worker) as pool:
        waiting = {pool.submit(hunt, name, seeds, operations): name for name in names}
        for future in as_completed(waiting):
            found = future.result()
            is_any_missed |= not found.is_found
            print(shown(waiting[future], found), flush=True)
    return 1 if is_any_missed else 0


def shown(name: str, found: Hunt) -> str:
    """Return one line on a planted bug."""
    if not found.is_found:
        return f"NOT FOUND in {found.seeds} seeds, ran {found.ran} times: {name}"
    return f"{found.seeds:4d} seeds, ran {found.ran} times: {name}: {found.reason}"


if __name__ == "__main__":
    raise SystemExit(main())
