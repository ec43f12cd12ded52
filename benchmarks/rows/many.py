"""How Syncline grows: a thousand idle clients, a hundred thousand files."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from benchmarks.context import Context
from benchmarks.daemons import Daemon, until_listening
from benchmarks.measure import Trouble, percentile
from benchmarks.peers.ours import Syncline
from benchmarks.peers.site import Program
from benchmarks.results import OURS, Column, Goal, Table
from benchmarks.rows.stores import nobody_asks, proposal
from benchmarks.trees import make_files
from syncline.adapters.system import RandomIds
from syncline.core.changes import Accepted, Author
from syncline.rpc.link import GrpcLink

ROOT = Path(__file__).resolve().parent.parent.parent
PAUSE_S = 0.2


def clients(context: Context) -> list[Table]:
    """Measure a server with many idle clients: memory, one change to all, a restart."""
    count = context.sizes.idle_clients
    goals = (
        Goal("MiB of the server, all connected", 150),
        Goal("one change → at all, p50 ms", 150),
        Goal("s until all are back after a restart", 10),
        Goal("errors meanwhile", 0),
    )
    table = Table(
        f"{count} idle clients",
        (
            Column("MiB of the server, none connected", 0),
            Column("MiB of the server, all connected", 0),
            Column("s until all are connected"),
            Column("one change → at all, p50 ms", 1),
            Column("p99 ms", 1),
            Column("CPU s of the server in 10 s of rest", 3),
            Column("s until all are back after a restart"),
            Column("errors meanwhile", 0, is_peak=True),
        ),
        "",
        goals,
    )

    def work(program: Program, home: Path, number: int) -> None:
        server, port = Syncline().server(home)
        with server:
            until_listening(port, server)
            table.add(OURS, _measure_crowd(context, server, port, count))

    ours = [each for each in context.programs if each.name == OURS]
    context.rounds([table], work, repetitions=min(3, context.sizes.repetitions), programs=ours)
    table.notes.append(
        "The clients are sockets of one process that shares the cores with the server; they "
        "hear and count, and place nothing. A restart counts from the first closed connection."
    )
    return [table]


def _measure_crowd(context: Context, server: Daemon, port: int, count: int) -> dict[str, float]:
    meter = Syncline.meter(server)
    figures = {"MiB of the server, none connected": meter.memory_mib()}
    command = [sys.executable, "-m", "benchmarks.light_clients", str(port), str(count)]
    crowd = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert crowd.stdout is not None
        came_s, _ = _read(crowd.stdout, "back")
        figures["s until all are connected"] = came_s
        figures["MiB of the server, all connected"] = meter.memory_mib()
        found = asyncio.run(
            _changes(f"127.0.0.1:{port}", crowd.stdout, context.sizes.crowd_changes)
        )
        figures["one change → at all, p50 ms"] = percentile(found, 0.5)
        figures["p99 ms"] = percentile(found, 0.99)
        before = meter.fine_cpu_s()
        time.sleep(rest_s := min(10.0, context.sizes.idle_s))
        figures["CPU s of the server in 10 s of rest"] = (meter.fine_cpu_s() - before) * 10 / rest_s
        server.stop()
        server.start()
        back_s, errors = _read(crowd.stdout, "back")
        figures["s until all are back after a restart"] = back_s
        figures["errors meanwhile"] = errors
    finally:
        crowd.kill()
        crowd.wait()
        if crowd.stdout is not None:
            crowd.stdout.close()
    return figures


async def _changes(address: str, heard: IO[str], changes: int) -> list[float]:
    ids = RandomIds()
    link = GrpcLink(address, "default", timeout_s=60)
    author = Author(ids.replica(), "writer")
    found = []
    for step in range(changes):
        change = proposal(author, ids, f"change-{step}")
        started = time.monotonic()
        answer = await link.store(change, nobody_asks)
        if not isinstance(answer.outcomes[0], Accepted):
            raise Trouble(f"a STORE was refused: {answer.outcomes[0]}")
        at, _ = await asyncio.to_thread(_read, heard, "all")
        found.append(1000 * (at - started))
        await asyncio.sleep(PAUSE_S)
    await link.close()
    return found


def _read(heard: IO[str], what: str) -> tuple[float, float]:
    words = heard.readline().split()
    if not words or words[0] != what:
        raise Trouble(f"the clients said {words} instead of {what}")
    return float(words[1]), float(words[2]) if len(words) > 2 else 0.0


# -- many files ----------------------------------------------------------------------


def growth(context: Context) -> list[Table]:
    """Measure the first upload and the next start of one client, by the number of its files."""
    upload = Table(
        "the first upload, by number of files of some bytes",
        (
            Column("s"),
            Column("ms a file", 3),
            Column("CPU s, client"),
            Column("CPU s, server"),
            Column("peak MiB, client", 0, is_peak=True),
            Column("peak MiB, server", 0, is_peak=True),
        ),
    )
    start = Table(
        "the next start, nothing changed, until it is in sync",
        (Column("s"), Column("CPU s, client"), Column("peak MiB, client", 0, is_peak=True)),
    )
    if not context.has_ours:
        return []
    for count in context.sizes.growth:
        home = context.home / "turn"
        home.mkdir()
        make_files(home / "A", count)
        name = f"{count} files"
        ours = Syncline()
        server, port = ours.server(home)
        with server:
            until_listening(port, server)
            for table in (upload, start):
                _one_start(table, name, ours, home, port, server)
        context.say(f"  {upload.title}: {name}")
        context.discard(home)
    first, last = (
        f"{count} files" for count in (context.sizes.growth[0], context.sizes.growth[-1])
    )
    more = upload.samples[last]["ms a file"][0] / upload.samples[first]["ms a file"][0]
    upload.notes.append(f"Must: linear. Here a file of {last} takes {more:.2f} x one of {first}.")
    scan_s = start.samples[last]["CPU s, client"][0] - start.samples[first]["CPU s, client"][0]
    start.notes.append(
        f"Must: 1 s of CPU for 100000 unchanged files. Here: {scan_s:.2f} s more for {last} than "
        f"for {first}; the rest is the start of the program."
    )
    return [upload, start]


def _one_start(
    table: Table, name: str, ours: Syncline, home: Path, port: int, server: Daemon
) -> None:
    meter = ours.meter(server)
    served_s = meter.cpu_s()
    started = time.perf_counter()
    with ours.mount(home, "A", port) as client:
        ours.wait(home, "A", port)
        took_s = time.perf_counter() - started
        of_client = ours.meter(client)
        figures = {
            "s": took_s,
            "ms a file": 1000 * took_s / int(name.split()[0]),
            "CPU s, client": of_client.cpu_s(),
            "CPU s, server": meter.cpu_s() - served_s,
            "peak MiB, client": of_client.peak_mib(),
            "peak MiB, server": meter.peak_mib(),
        }
    shown = {column.name for column in table.columns}
    table.add(name, {key: value for key, value in figures.items() if key in shown})
