"""The work that is measured."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import (
    SYNCLINE,
    Cost,
    Server,
    count_syncs,
    percentile,
    run,
    server,
    tracing,
)
from syncline.adapters.system import RandomIds
from syncline.core.changes import Accepted, Author, Proposal, PutFile
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, digest_of
from syncline.core.manifests import single_chunk
from syncline.core.names import Name
from syncline.ports.link import Committed, Progress, WatchBegin
from syncline.rpc.link import GrpcLink


@dataclass(frozen=True, slots=True)
class Bulk:
    """Storing a tree and fetching it into an empty directory."""

    store: Cost
    fetch: Cost
    server_peak_mib: float


def make_large(directory: Path, size: int) -> None:
    """Write one file of random bytes."""
    directory.mkdir(parents=True)
    with (directory / "large").open("wb") as file:
        for _ in range(size // (1 << 20)):
            file.write(os.urandom(1 << 20))


def make_small(directory: Path, count: int, size: int = 4096) -> None:
    """Write many small files of random bytes, a hundred to a directory."""
    for number in range(count):
        folder = directory / f"{number // 100:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}").write_bytes(os.urandom(size))


def check_equal(left: Path, right: Path) -> None:
    """Stop the benchmark where the copy is not the original."""
    done = subprocess.run(
        ["diff", "-rq", "--no-dereference", "--exclude=.syncline", left, right],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{right} is not equal to {left}: {done.stdout.decode()[:300]}")


def syncline_bulk(source: Path, home: Path) -> Bulk:
    """Store a tree on a fresh server and fetch it."""
    with server(home) as running:
        stored = run([SYNCLINE, "store", f"{source}/.", "--to", "tree"], running)
        target = home / "fetched"
        fetched = run([SYNCLINE, "fetch", "tree", "--to", str(target)], running)
        check_equal(source, target)
        shutil.rmtree(target)
        return Bulk(stored, fetched, running.memory_peak_mib())


def syncline_syncs(source: Path, home: Path) -> tuple[int, int] | None:
    """Return the syncs of the server for storing alone, and of the client for fetching."""
    if shutil.which("strace") is None:
        return None
    summary, fetch_summary = home / "syncs", home / "fetch-syncs"
    with server(home, trace=summary):
        pass
    at_rest = count_syncs(summary)
    with server(home, trace=summary) as running:
        run([SYNCLINE, "store", f"{source}/.", "--to", "tree"], running)
    with server(home) as running:
        run([SYNCLINE, "store", f"{source}/.", "--to", "tree"], running)
        target = home / "fetched"
        run([*tracing(fetch_summary), SYNCLINE, "fetch", "tree", "--to", str(target)], running)
        shutil.rmtree(target)
    return count_syncs(summary) - at_rest, count_syncs(fetch_summary)


def copy_bulk(source: Path, home: Path) -> Bulk:
    """Copy a tree to a second place and on to a third: the floor of the file system."""
    middle, target = home / "middle", home / "target"
    stored = run(["cp", "-a", str(source), str(middle)])
    fetched = run(["cp", "-a", str(middle), str(target)])
    shutil.rmtree(middle)
    shutil.rmtree(target)
    return Bulk(stored, fetched, 0.0)


def rsync_bulk(source: Path, home: Path) -> Bulk | None:
    """Push a tree to an rsync daemon and pull it again; None where rsync is not installed."""
    if shutil.which("rsync") is None:
        return None
    with rsync_daemon(home) as address:
        stored = run(["rsync", "-a", f"{source}/", f"{address}/tree/"])
        target = home / "target"
        fetched = run(["rsync", "-a", f"{address}/tree/", f"{target}/"])
        check_equal(source, target)
    shutil.rmtree(target)
    shutil.rmtree(home / "module")
    return Bulk(stored, fetched, 0.0)


@contextmanager
def rsync_daemon(home: Path) -> Iterator[str]:
    """Run a daemon with a module below `home`; yield the address of the module."""
    module = home / "module"
    module.mkdir()
    port = 42873
    configuration = home / "rsyncd.conf"
    owner = f"uid = {os.getuid()}\ngid = {os.getgid()}\n"
    configuration.write_text(
        f"use chroot = no\naddress = 127.0.0.1\nport = {port}\n"
        f"[m]\npath = {module}\nread only = no\n{owner}"
    )
    command = ["rsync", "--daemon", "--no-detach", f"--config={configuration}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"rsync://127.0.0.1:{port}/m"
    try:
        deadline = time.monotonic() + 10
        while subprocess.run(["rsync", address], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise SystemExit("the rsync daemon did not start")
        yield address
    finally:
        process.terminate()
        process.wait()


# -- Small STOREs and the feed -----------------------------------------------


def _proposal(author: Author, ids: RandomIds, label: str) -> Proposal:
    data = os.urandom(1024)
    digest = digest_of(data)
    change = PutFile(
        ids.entry(),
        NO_REVISION,
        ROOT_ID,
        Name(label.encode()),
        0o644,
        0,
        single_chunk(digest, len(data)),
    )
    return Proposal(author, ids.op(), (change,), {digest: data})


async def _no_chunks(digest: Digest) -> bytes:
    raise SystemExit("the server asked for content that it had been sent")


async def _nothing_to_say() -> AsyncIterator[Progress]:
    return
    yield


async def stores_a_second(running: Server, clients: int, count: int) -> float:
    """Return how many durable STOREs of 1 KiB all clients together get answered in a second."""
    ids = RandomIds()

    async def one_client(number: int) -> None:
        link = GrpcLink(running.address, "default", timeout_s=60)
        author = Author(ids.replica(), f"bench-{number}")
        for step in range(count // clients):
            answer = await link.store(_proposal(author, ids, f"{number}-{step}"), _no_chunks)
            assert isinstance(answer.outcomes[0], Accepted), answer
        await link.close()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(one_client(number))
    return (count // clients) * clients / (time.perf_counter() - started)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from the start of a STORE: to its answer, and to the watcher's event."""

    answer_p50: float
    answer_p99: float
    event_p50: float
    event_p99: float


async def watch_latency(running: Server, count: int) -> Latency:
    """Store 1 KiB again and again, and see when another client hears of it."""
    ids = RandomIds()
    writer = GrpcLink(running.address, "default", timeout_s=60)
    watcher = GrpcLink(running.address, "default", timeout_s=60)
    begin = WatchBegin(Author(ids.replica(), "watcher"), None, True, True)
    events = watcher.watch(begin, _nothing_to_say())
    await anext(events)
    author = Author(ids.replica(), "writer")
    answers: list[float] = []
    heard: list[float] = []
    for step in range(count):
        proposal = _proposal(author, ids, f"latency-{step}")
        started = time.perf_counter()

        async def hear(started: float = started) -> float:
            while not isinstance(await anext(events), Committed):
                pass
            return 1000 * (time.perf_counter() - started)

        async with asyncio.TaskGroup() as tasks:
            event = tasks.create_task(hear())
            await writer.store(proposal, _no_chunks)
            answers.append(1000 * (time.perf_counter() - started))
        heard.append(event.result())
    await events.aclose()
    await writer.close()
    await watcher.close()
    return Latency(
        percentile(answers, 0.5),
        percentile(answers, 0.99),
        percentile(heard, 0.5),
        percentile(heard, 0.99),
    )
