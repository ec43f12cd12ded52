"""Many clients in one light process: a socket each, and just enough of HTTP/2 for a WATCH.

    python -m benchmarks.light_clients PORT COUNT

It prints lines: `back SECONDS ERRORS` when all have heard from the server, at the start and after
it was away; `all TIME` when all have the next commit to its end, TIME by the monotonic clock. They
neither place nor report anything: what a server with many idle clients does is to be seen here, on
cores that are shared with it.
"""

from __future__ import annotations

import random
import resource
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from syncline.adapters.system import RandomIds
from syncline.core.changes import Author
from syncline.ports.link import WatchBegin
from syncline.rpc.convert_watch import watch_begin_to_pb
from syncline.rpc.methods import WATCH

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4
"""Of RFC 9113, sections 6 and 6.5.2."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = (1 << 30) - 1
COMMIT_END = 3
"""The number of the field of a WatchResponse that ends a commit."""

TRY_AGAIN_S = (0.2, 1.0)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(prefix: bytes, *texts: str) -> bytes:
    """Return a header field that enters no table (RFC 7541, section 6.2.2); short texts only."""
    return prefix + b"".join(bytes([len(text)]) + text.encode() for text in texts)


def opening(number: int, address: str) -> bytes:
    """Return all that a client says to begin a WATCH from the head."""
    begin = WatchBegin(Author(RandomIds().replica(), f"light-{number}"), None, True, True)
    message = watch_begin_to_pb("default", begin).SerializeToString()
    headers = b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http
            literal(b"\x04", WATCH.path),
            literal(b"\x01", address),
            literal(b"\x0f\x10", "application/grpc"),
            literal(b"\x00", "te", "trailers"),
        ]
    )
    return b"".join(
        [
            PREFACE,
            frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, WINDOW)),
            frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW)),
            frame(HEADERS, END_HEADERS, 1, headers),
            frame(DATA, 0, 1, struct.pack(">BI", 0, len(message)) + message),
        ]
    )


@dataclass(slots=True, eq=False)
class Client:
    """One connection with its one stream."""

    number: int
    socket: socket.socket
    rest: bytes = b""
    body: bytes = b""
    has_heard: bool = False

    def frames(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield the frames that are complete now: kind, flags, payload."""
        self.rest += data
        while len(self.rest) >= 9:
            size = int.from_bytes(self.rest[:3], "big")
            if len(self.rest) < 9 + size:
                return
            yield self.rest[3], self.rest[4], self.rest[9 : 9 + size]
            self.rest = self.rest[9 + size :]

    def parts(self, payload: bytes) -> Iterator[int]:
        """Yield what each complete message of the stream is: the number of its field."""
        self.body += payload
        while len(self.body) >= 5:
            size = int.from_bytes(self.body[1:5], "big")
            if len(self.body) < 5 + size:
                return
            if size:
                yield self.body[5] >> 3
            self.body = self.body[5 + size :]


@dataclass(slots=True)
class Crowd:
    """All clients, and what they have seen together."""

    port: int
    count: int
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    away: dict[int, float] = field(default_factory=dict)
    """Clients without a connection, and when they try again."""

    back: int = 0
    has: int = 0
    errors: int = 0
    since: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Serve for ever."""
        self.away = dict.fromkeys(range(self.count), 0.0)
        while True:
            self._try_again()
            wait_s = 0.02 if self.away else None
            for key, _ in self.selector.select(wait_s):
                self._hear(key.data)

    def _try_again(self) -> None:
        now = time.monotonic()
        for number in [number for number, when in self.away.items() if when <= now]:
            connection = socket.socket()
            if connection.connect_ex(("127.0.0.1", self.port)):
                connection.close()
                self.away[number] = now + random.uniform(*TRY_AGAIN_S)
                continue
            connection.sendall(opening(number, f"127.0.0.1:{self.port}"))
            connection.setblocking(False)
            del self.away[number]
            self.selector.register(connection, selectors.EVENT_READ, Client(number, connection))

    def _hear(self, client: Client) -> None:
        try:
            data = client.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            self._leave(client)
            return
        for kind, flags, payload in client.frames(data):
            if kind == DATA:
                for part in client.parts(payload):
                    self._heard(client, part)
            elif kind in (SETTINGS, PING) and not flags & ACK:
                echo = payload if kind == PING else b""
                client.socket.sendall(frame(kind, ACK, 0, echo))
            elif kind in (GOAWAY, RST_STREAM) or (kind == HEADERS and flags & END_STREAM):
                # A server that goes says so to those who have heard from it: that is no error.
                self.errors += not client.has_heard
                self._leave(client)
                return

    def _heard(self, client: Client, part: int) -> None:
        if not client.has_heard:
            client.has_heard = True
            self.back += 1
            if self.back == self.count:
                _say("back", f"{time.monotonic() - self.since:.3f}", str(self.errors))
        if part == COMMIT_END:
            self.has += 1
            if self.has == self.count:
                self.has = 0
                _say("all", f"{time.monotonic():.6f}")

    def _leave(self, client: Client) -> None:
        if self.back == self.count:
            self.since = time.monotonic()
        self.selector.unregister(client.socket)
        client.socket.close()
        self.back -= client.has_heard
        self.away[client.number] = time.monotonic() + random.uniform(*TRY_AGAIN_S)


def _say(*words: str) -> None:
    print(*words, flush=True)


def main() -> None:
    """Run as many clients as the command line says."""
    port, count = map(int, sys.argv[1:3])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Crowd(port, count).run()


if __name__ == "__main__":
    main()
