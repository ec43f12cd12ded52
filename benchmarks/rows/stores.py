"""The server alone: small STOREs and the feed, without mounts."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.context import Context
from benchmarks.daemons import until_listening
from benchmarks.measure import percentile
from benchmarks.peers.ours import Syncline
from benchmarks.peers.site import Program
from benchmarks.results import OURS, Column, Table
from syncline.adapters.system import RandomIds
from syncline.core.changes import Accepted, Author, Proposal, PutFile
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, digest_of
from syncline.core.manifests import single_chunk
from syncline.core.names import Name
from syncline.ports.link import Committed, Progress, WatchBegin
from syncline.rpc.link import GrpcLink

TOGETHER = 32


def stores(context: Context) -> list[Table]:
    """Measure durable STOREs of 1 KiB, alone and together, and when a watcher hears of one."""
    sizes = context.sizes
    table = Table(
        "small STOREs and the feed",
        (
            Column("STOREs a second, 1 client", 0),
            Column(f"STOREs a second, {TOGETHER} clients", 0),
            Column("STORE → answer, p50 ms", 1),
            Column("p99 ms", 1),
            Column("STORE → event, content included, p50 ms", 1),
            Column("event p99 ms", 1),
        ),
    )

    def work(program: Program, home: Path, number: int) -> None:
        server, port = Syncline().server(home)
        with server:
            until_listening(port, server)
            address = f"127.0.0.1:{port}"
            alone = asyncio.run(stores_a_second(address, 1, sizes.stores_alone))
            together = asyncio.run(stores_a_second(address, TOGETHER, sizes.stores_together))
            latency = asyncio.run(watch_latency(address, sizes.latencies))
        rates = {
            "STOREs a second, 1 client": alone,
            f"STOREs a second, {TOGETHER} clients": together,
        }
        table.add(OURS, rates | latency)

    ours = [each for each in context.programs if each.name == OURS]
    context.rounds([table], work, programs=ours)
    return [table]


def proposal(author: Author, ids: RandomIds, label: str) -> Proposal:
    """Return one new file of 1 KiB at the root."""
    content = os.urandom(1024)
    digest = digest_of(content)
    change = PutFile(
        ids.entry(),
        NO_REVISION,
        ROOT_ID,
        Name(label.encode()),
        0o644,
        0,
        single_chunk(digest, len(content)),
    )
    return Proposal(author, ids.op(), (change,), {digest: content})


async def nobody_asks(digest: Digest) -> bytes:
    """Stand for the source of chunks where all content goes with the proposal."""
    raise AssertionError("the server asked for content that it had been sent")


async def _nothing_to_say() -> AsyncIterator[Progress]:
    return
    yield


async def stores_a_second(address: str, clients: int, count: int) -> float:
    """Return how many durable STOREs of 1 KiB all clients together get answered in a second."""
    ids = RandomIds()

    async def one_client(number: int) -> None:
        link = GrpcLink(address, "default", timeout_s=60)
        author = Author(ids.replica(), f"bench-{number}")
        for step in range(count // clients):
            label = f"{clients}-{number}-{step}"
            answer = await link.store(proposal(author, ids, label), nobody_asks)
            assert isinstance(answer.outcomes[0], Accepted), answer
        await link.close()

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(clients):
            tasks.create_task(one_client(number))
    return (count // clients) * clients / (time.perf_counter() - started)


async def watch_latency(address: str, count: int) -> dict[str, float]:
    """Store 1 KiB again and again; return columns: when it was answered, and when heard of."""
    ids = RandomIds()
    writer = GrpcLink(address, "default", timeout_s=60)
    watcher = GrpcLink(address, "default", timeout_s=60)
    begin = WatchBegin(Author(ids.replica(), "watcher"), None, True, True)
    events = watcher.watch(begin, _nothing_to_say())
    await anext(events)
    author = Author(ids.replica(), "writer")
    answers: list[float] = []
    heard: list[float] = []
    for step in range(count):
        change = proposal(author, ids, f"latency-{step}")
        started = time.perf_counter()

        async def hear(started: float = started) -> float:
            while not isinstance(await anext(events), Committed):
                pass
            return 1000 * (time.perf_counter() - started)

        async with asyncio.TaskGroup() as tasks:
            event = tasks.create_task(hear())
            await writer.store(change, nobody_asks)
            answers.append(1000 * (time.perf_counter() - started))
        heard.append(event.result())
    await events.aclose()
    await writer.close()
    await watcher.close()
    return {
        "STORE → answer, p50 ms": percentile(answers, 0.5),
        "p99 ms": percentile(answers, 0.99),
        "STORE → event, content included, p50 ms": percentile(heard, 0.5),
        "event p99 ms": percentile(heard, 0.99),
    }
