"""`syncline store` and `syncline fetch` beside rsync and cp: trees once there and once back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.context import Context
from benchmarks.daemons import until_listening
from benchmarks.measure import SYNCLINE, count_syncs, is_traceable, run, tracing
from benchmarks.peers.by_hand import Copy, Rsync, rsync_daemon
from benchmarks.peers.ours import Syncline
from benchmarks.peers.site import Program
from benchmarks.results import OURS, Column, Table
from benchmarks.trees import check_equal, make_large, make_small

Commands = tuple[Sequence[str], Sequence[str]]
"""What stores a tree, and what fetches it into a directory that is not there yet."""


def commands(context: Context) -> list[Table]:
    """Measure storing and fetching of one large file, and of many small ones."""
    sizes = context.sizes
    works: dict[str, Callable[[Path], None]] = {
        f"one file of {sizes.large_bytes >> 20} MiB": lambda path: make_large(
            path, sizes.large_bytes
        ),
        f"{sizes.small_files} files of 4 KiB": lambda path: make_small(path, sizes.small_files),
    }
    tables = []
    for title, make in works.items():
        source = context.home / "source"
        make(source)
        tables.append(_table(context, title, source))
        context.discard(source)
    return tables


def _table(context: Context, title: str, source: Path) -> Table:
    table = Table(
        f"{title}: store and fetch as commands, without mounts",
        (
            Column("s"),
            Column("store s"),
            Column("fetch s"),
            Column("CPU s of the client, store"),
            Column("CPU s of the client, fetch"),
        ),
        "s",
    )

    def work(program: Program, home: Path, number: int) -> None:
        target = home / "target"
        with _ready(program, source, target, home) as (store, fetch):
            stored, fetched = run(store), run(fetch)
            check_equal(source, target)
        table.add(
            program.name,
            {
                "s": stored.wall_s + fetched.wall_s,
                "store s": stored.wall_s,
                "fetch s": fetched.wall_s,
                "CPU s of the client, store": stored.client_s,
                "CPU s of the client, fetch": fetched.client_s,
            },
        )

    by_hand = [each for each in context.programs if each.is_by_hand or each.name == OURS]
    context.rounds([table], work, programs=by_hand)
    is_counted = context.place == "memory" and context.sizes.has_syncs and context.has_ours
    if is_counted and is_traceable():
        stored, fetched = _syncs(context, source)
        table.notes.append(
            f"Syncs (strace, runs of their own): server for storing {stored}, client for "
            f"fetching {fetched}."
        )
    return table


@contextmanager
def _ready(program: Program, source: Path, target: Path, home: Path) -> Iterator[Commands]:
    match program:
        case Syncline():
            server, port = program.server(home)
            with server:
                until_listening(port, server)
                yield _our_commands(source, target, port)
        case Rsync():
            module = home / "module"
            module.mkdir()
            with rsync_daemon(home, {"m": module}) as (_, address):
                yield (
                    ["rsync", "-a", f"{source}/", f"{address}/m/tree/"],
                    ["rsync", "-a", f"{address}/m/tree/", f"{target}/"],
                )
        case Copy():
            middle = str(home / "middle")
            yield ["cp", "-a", str(source), middle], ["cp", "-a", middle, str(target)]
        case _:
            raise AssertionError(f"{program.name} has no commands")


def _our_commands(source: Path, target: Path, port: int) -> Commands:
    named = ["--server", f"127.0.0.1:{port}"]
    return (
        [SYNCLINE, "store", f"{source}/.", "--to", "tree", *named],
        [SYNCLINE, "fetch", "tree", "--to", str(target), *named],
    )


def _syncs(context: Context, source: Path) -> tuple[int, int]:
    """Return the syncs of the server for storing alone, and of the client for fetching."""
    home = context.home / "traced"
    counts = []
    for is_empty in (True, False):
        home.mkdir()
        summary = context.home / "syncs"
        server, port = Syncline().server(home, trace=summary)
        with server:
            until_listening(port, server)
            store, fetch = _our_commands(source, home / "target", port)
            if not is_empty:
                run(store)
                fetching = context.home / "fetch-syncs"
                run([*tracing(fetching), *fetch])
        counts.append(count_syncs(summary))
        context.discard(home)
    return counts[1] - counts[0], count_syncs(fetching)
