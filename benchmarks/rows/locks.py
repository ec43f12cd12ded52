"""Locks: what they cost, and how two processes get on that want the same one again and again.

    python -m benchmarks.rows.locks ADDRESS NUMBER ROUNDS

is one of these processes. It prints a line when it has done ROUNDS, goes on until its input ends,
and then prints a line a round: when it asked and when it had the lock, in seconds of the clock that
all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.context import Context
from benchmarks.daemons import until_listening
from benchmarks.measure import percentile
from benchmarks.peers.ours import Syncline
from benchmarks.peers.site import Program
from benchmarks.results import OURS, Column, Table
from benchmarks.rows.stores import nobody_asks, proposal
from syncline.adapters.system import RandomIds, SystemClock
from syncline.core.changes import Accepted, Author, HeldToken, Proposal
from syncline.core.identity import ReplicaId
from syncline.core.names import RelPath
from syncline.core.user_locks import Owner, SessionId
from syncline.ports.locks import LockWanted, UnlockTarget, UnlockWanted
from syncline.rpc.link import GrpcLink
from syncline.server.limits import Limits
from syncline.server.operation_locks import LockQueue

ROOT = Path(__file__).resolve().parent.parent.parent
TOGETHER = 500
"""How many files go with one STORE, as a client sends many small ones."""

LATENCY = ("lock, store 1 KiB, unlock, p50 ms", "p95 ms")
CONTENTION = (
    "locks a second, both",
    "wait p50 ms",
    "wait p99 ms",
    "longest ms",
    "in a row at most",
)
OPERATION = ("STORE, us a file", "its operation locks, us a file", "share %")


def locks(context: Context) -> list[Table]:
    """Measure user locks, alone and contended for, and the locks that each STORE takes."""
    sizes = context.sizes
    latency = Table("a user lock around one STORE", tuple(Column(each, 1) for each in LATENCY))
    contention = Table(
        f"two processes, each taking one lock {sizes.lock_rounds} times",
        tuple(Column(each, 1) for each in CONTENTION),
    )
    operation = Table(
        f"operation locks of the STORE of {sizes.small_files} files",
        tuple(Column(each) for each in OPERATION),
    )

    def work(program: Program, home: Path, number: int) -> None:
        server, port = Syncline().server(home)
        with server:
            until_listening(port, server)
            address = f"127.0.0.1:{port}"
            latency.add(OURS, asyncio.run(locked_stores(address, sizes.latencies)))
            contention.add(OURS, contended(address, sizes.lock_rounds))
            operation.add(OURS, asyncio.run(operation_locks(address, sizes.small_files)))

    tables = [latency, contention, operation]
    context.rounds(tables, work, programs=[each for each in context.programs if each.name == OURS])
    return tables


def owner(number: int) -> Owner:
    """Return one who locks."""
    raw = str(number).encode().rjust(16, b"0")
    return Owner(Author(ReplicaId(raw), f"client {number}"), "here", SessionId(raw))


async def locked_stores(address: str, count: int) -> dict[str, float]:
    """Lock, store and unlock a file again and again; the file is there before."""
    ids, who = RandomIds(), owner(9)
    link = GrpcLink(address, "default", timeout_s=60)
    await link.store(proposal(who.author, ids, "contended"), nobody_asks)
    path = RelPath.parse(b"contended")
    took: list[float] = []
    for step in range(count):
        change = proposal(who.author, ids, f"under-{step}")
        began = time.perf_counter()
        [lock] = await link.lock(LockWanted(who, (path,), lease_s=30.0))
        held = HeldToken(lock.lock.entry, lock.lock.token)
        answer = await link.store(replace(change, tokens=(held,)), nobody_asks)
        assert isinstance(answer.outcomes[0], Accepted), answer
        targets = (UnlockTarget(held.entry, held.token),)
        await link.unlock(UnlockWanted(who.author, who.host, targets))
        took.append(1000 * (time.perf_counter() - began))
    await link.close()
    return dict(zip(LATENCY, (percentile(took, 0.5), percentile(took, 0.95)), strict=True))


def contended(address: str, rounds: int) -> dict[str, float]:
    """Let two processes take one lock in turns; return how fast, and how fair."""
    program = [sys.executable, "-m", "benchmarks.rows.locks", address]
    pipe = subprocess.PIPE
    clients = [
        subprocess.Popen([*program, str(number), str(rounds)], cwd=ROOT, stdin=pipe, stdout=pipe)
        for number in range(2)
    ]
    for client in clients:
        # Who has done his rounds goes on until the other one has, too.
        assert client.stdout is not None and client.stdout.readline(), "a client failed"
    turns: list[tuple[float, float, int]] = []
    for number, client in enumerate(clients):
        out, _ = client.communicate()
        assert client.returncode == 0, f"client {number} failed"
        for line in out.splitlines():
            asked, had = map(float, line.split())
            turns.append((had, asked, number))
    turns.sort()
    # Only while both wanted it.
    end = min(max(had for had, _, number in turns if number == each) for each in range(2))
    begin = max(min(asked for _, asked, number in turns if number == each) for each in range(2))
    both = [turn for turn in turns if begin <= turn[0] <= end]
    waits = [1000 * (had - asked) for had, asked, _ in both]
    in_a_row = max(len(list(each)) for _, each in groupby(number for _, _, number in both))
    figures = (
        len(both) / (end - begin),
        percentile(waits, 0.5),
        percentile(waits, 0.99),
        max(waits),
        float(in_a_row),
    )
    return dict(zip(CONTENTION, figures, strict=True))


async def take_turns(address: str, number: int, rounds: int) -> None:
    """Take one lock and give it back, until told to stop, and at least `rounds` times."""
    who, path = owner(number), RelPath.parse(b"contended")
    link = GrpcLink(address, "default", timeout_s=60)
    lines: list[str] = []
    stopped = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    while len(lines) < rounds or not stopped.done():
        asked = time.monotonic()
        [lock] = await link.lock(LockWanted(who, (path,), lease_s=30.0, wait_s=60.0))
        lines.append(f"{asked} {time.monotonic()}")
        target = UnlockTarget(lock.lock.entry, lock.lock.token)
        await link.unlock(UnlockWanted(who.author, who.host, (target,)))
        if len(lines) == rounds:
            print("done", flush=True)
    await link.close()
    print("\n".join(lines))


async def operation_locks(address: str, count: int) -> dict[str, float]:
    """Store many small files; then take and give back their locks alone, as the server does."""
    ids = RandomIds()
    author = Author(ids.replica(), "bench")
    whole = [_together(author, ids, begin, count) for begin in range(0, count, TOGETHER)]
    link = GrpcLink(address, "default", timeout_s=60)
    began = time.perf_counter()
    for each in whole:
        answer = await link.store(each, nobody_asks)
        assert all(isinstance(outcome, Accepted) for outcome in answer.outcomes)
    stored_s = time.perf_counter() - began
    await link.close()
    queue = LockQueue(SystemClock(), stall_s=Limits().lock_stall_s)
    began = time.perf_counter()
    for each in whole:
        async with queue.hold(each.changes, author, each.op_id, wait_s=1.0):
            pass
    locked_s = time.perf_counter() - began
    figures = (1e6 * stored_s / count, 1e6 * locked_s / count, 100 * locked_s / stored_s)
    return dict(zip(OPERATION, figures, strict=True))


def _together(author: Author, ids: RandomIds, begin: int, count: int) -> Proposal:
    files: Sequence[Proposal] = [
        proposal(author, ids, f"many-{number}")
        for number in range(begin, min(count, begin + TOGETHER))
    ]
    changes = tuple(change for each in files for change in each.changes)
    inline = {digest: content for each in files for digest, content in each.inline.items()}
    return Proposal(author, ids.op(), changes, inline)


if __name__ == "__main__":
    asyncio.run(take_turns(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
