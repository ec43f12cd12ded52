"""A bad network between clients and a server: silent, slow, or broken off, as a test wants it."""

from __future__ import annotations

import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from tests.support.processes import TIMEOUT_S

PIECE_BYTES = 64 * 1024
LOOK_S = 0.02
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time to linger: the other side gets RST and not FIN."""


@dataclass(eq=False)
class _Pair:
    """A connection of a client, and the one to the server that belongs to it."""

    client: socket.socket
    server: socket.socket
    is_lost: bool = False
    """Nothing passes any more, and nobody is told."""

    budget: int | None = None
    """How many more bytes may pass, both ways together, before it breaks."""

    is_broken: bool = False
    running: int = 2
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size: int) -> int:
        """Return how many of so many bytes may pass."""
        with self.lock:
            if self.budget is None:
                return size
            taken = min(self.budget, size)
            self.budget -= taken
            return taken

    def end(self) -> None:
        """Let go of both sockets when the second of the two directions has ended."""
        with self.lock:
            self.running -= 1
            if self.running:
                return
        for each in (self.client, self.server):
            if self.is_broken:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            each.close()


class BadNetwork:
    """Passes bytes on; its attributes may be changed at any time and hold from then on."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        # Accepted sockets inherit it: a way that is slow must not have room for megabytes.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.delay_s = 0.0
        """Before each piece: it makes the way long and narrow."""
        self.budgets: Callable[[], int] | None = None
        """How many bytes each new connection may carry."""
        self.is_silent = False
        """New connections are taken, and nobody answers."""
        self.bytes_passed = 0
        self.connections = 0
        self.breaks = 0
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._run(self._accept)

    def lose(self) -> None:
        """Lose all connections without a word, new ones too, as a pulled cable does."""
        self.is_silent = True
        with self._lock:
            for pair in self._pairs:
                pair.is_lost = True

    def come_back(self) -> None:
        """Let new connections work; those that were lost stay lost."""
        self.is_silent = False

    def reset(self) -> None:
        """Break all connections off."""
        with self._lock:
            pairs = set(self._pairs)
        for pair in pairs:
            self.breaks += 1
            pair.is_broken = True

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket()
                server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PIECE_BYTES)
                try:
                    server.connect(self._target)
                except OSError:
                    server.close()
                    client.close()
                    continue
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE_BYTES)
                budget = self.budgets() if self.budgets is not None else None
                pair = _Pair(client, server, self.is_silent, budget)
                self.connections += 1
                with self._lock:
                    self._pairs.add(pair)
                self._run(partial(self._pump, pair, client, server))
                self._run(partial(self._pump, pair, server, client))

    def _pump(self, pair: _Pair, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while not self._closing.is_set() and not pair.is_broken:
                # Not read while it is lost: what is under way stays under way.
                if pair.is_lost or not select.select([source], [], [], LOOK_S)[0]:
                    self._closing.wait(LOOK_S if pair.is_lost else 0)
                    continue
                piece = source.recv(PIECE_BYTES)
                if not piece:
                    break
                if self.delay_s:
                    time.sleep(self.delay_s)
                allowed = pair.take(len(piece))
                target.sendall(piece[:allowed])
                self.bytes_passed += allowed
                if allowed < len(piece):
                    self.breaks += 1
                    pair.is_broken = True
        if not pair.is_broken:
            # An orderly end of one direction ends the other one.
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._pairs.discard(pair)
        pair.end()

    def close(self) -> None:
        """End all connections and threads."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        self._listener.close()


def random_budgets(seed: int, most: int) -> Callable[[], int]:
    """Return a source of budgets, from nothing to `most` bytes, many of them small."""
    source = random.Random(seed)
    return lambda: int(most * source.random() ** 3)


@contextmanager
def bad_network(target: str) -> Iterator[BadNetwork]:
    """Run one for the length of the block."""
    network = BadNetwork(target)
    try:
        yield network
    finally:
        network.close()
