"""What the parts of one small edit cost at the least here, without any program of ours.

    python benchmarks/floor.py [--disk DIR]

Medians in microseconds: what the kernel, gRPC, asyncio and SQLite take for one step each. An edit
can't be faster than the steps that it is made of and that wait for each other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import grpc.aio
import inotify_simple
from inotify_simple import flags

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import free_port, median

STEPS = 300
CONTENT = os.urandom(1024)
SPAWN = get_context("spawn")


def shown(name: str, step: Callable[[], object], steps: int = STEPS) -> None:
    """Do a step again and again, and print the median."""
    found = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        found.append(1e6 * (time.perf_counter() - started))
    _print(name, found)


def _print(name: str, found: list[float]) -> None:
    print(f"{name:<58}{median(found):9.0f} us (least {min(found):.0f})")


def notice(home: Path) -> None:
    """Write over a file and hear of it."""
    path = home / "noticed"
    path.write_bytes(CONTENT)
    with inotify_simple.INotify(nonblocking=True) as watch:
        watch.add_watch(os.fspath(home), flags.CLOSE_WRITE)

        def step() -> None:
            path.write_bytes(CONTENT)
            select.select([watch.fileno()], [], [])
            watch.read(timeout=0)

        shown("write 1 KiB and hear of it by inotify", step)


def _echo(connection: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection.send(server.getsockname()[1])
        client, _ = server.accept()
        with client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := client.recv(65536):
                client.sendall(data)


def loopback() -> None:
    """Send 1 KiB to another process and get it back."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_echo, args=(theirs,), daemon=True)
    process.start()
    with socket.create_connection(("127.0.0.1", ours.recv())) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def step() -> None:
            client.sendall(CONTENT)
            left = len(CONTENT)
            while left:
                left -= len(client.recv(65536))

        shown("1 KiB to another process and back, TCP", step)
    process.join()


def _serve_grpc(port: int, ready: Connection) -> None:
    async def echo(request: bytes, context: object) -> bytes:
        return request

    async def serve() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(echo)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("floor", {"Echo": handler}),)
        )
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        ready.send(None)
        await server.wait_for_termination()

    asyncio.run(serve())


def remote_call() -> None:
    """Call another process by gRPC with 1 KiB each way."""
    port, (ours, theirs) = free_port(), SPAWN.Pipe()
    process = SPAWN.Process(target=_serve_grpc, args=(port, theirs), daemon=True)
    process.start()
    ours.recv()

    async def call() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            echo = channel.unary_unary("/floor/Echo", None, None)
            found = []
            for _ in range(STEPS):
                started = time.perf_counter()
                await echo(CONTENT)
                found.append(1e6 * (time.perf_counter() - started))
            _print("1 KiB to another process and back, gRPC for asyncio", found)

    asyncio.run(call())
    process.kill()
    process.join()


def thread_hop() -> None:
    """Go from the event loop to a thread and back."""

    async def hop() -> None:
        found = []
        for _ in range(STEPS):
            started = time.perf_counter()
            await asyncio.to_thread(int)
            found.append(1e6 * (time.perf_counter() - started))
        _print("from the event loop to a thread and back", found)

    asyncio.run(hop())


@contextmanager
def _table(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=full")
        connection.execute("create table rows (id integer primary key, value blob)")
        yield connection


def durable(home: Path, where: str) -> None:
    """Make things durable."""
    with (home / "appended").open("wb", buffering=0) as file:

        def append() -> None:
            file.write(CONTENT)
            os.fdatasync(file.fileno())

        shown(f"append 1 KiB and fdatasync, {where}", append)
    number = 0

    def place() -> None:
        nonlocal number
        number += 1
        beside = home / f"new{number % 2}"
        with beside.open("wb") as file:
            file.write(CONTENT)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(home / "placed")
        directory = os.open(home, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)

    shown(f"new file of 1 KiB, fsync, rename, fsync of its directory, {where}", place)
    with _table(home / "rows.sqlite3") as connection:
        statement = "insert into rows (value) values (?)"
        shown(f"SQLite: one row, committed, {where}", lambda: connection.execute(statement, [b"x"]))


def main() -> None:
    """Measure all steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--disk", default=tempfile.gettempdir(), help="a directory on the disk")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="syncline-floor-", dir="/dev/shm") as memory:
        notice(Path(memory))
        durable(Path(memory), "memory")
    with tempfile.TemporaryDirectory(prefix="syncline-floor-", dir=arguments.disk) as disk:
        durable(Path(disk), "disk")
    thread_hop()
    loopback()
    remote_call()


if __name__ == "__main__":
    main()
