"""Real processes: a server that can be stopped, killed and started again, and commands against it.

Every process is known by its id, ends with the block that started it, and is reaped there.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

TIMEOUT_S = 120.0
READY = re.compile(rb"syncline: serving volume '(.+)' on (\S+), data in (.+)\n")

Argument = str | bytes | Path
Ran = subprocess.CompletedProcess[bytes]
JsonObject = dict[str, object]


def command(*arguments: Argument) -> list[Argument]:
    """Return the command line of `syncline` with arguments."""
    return [sys.executable, "-m", "syncline", *arguments]


def environment(home: Path) -> dict[str, str]:
    """Return all the environment that a process of ours gets."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {"PATH": path, "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}


def free_port() -> int:
    """Return a loopback port to start on again and again.

    It is below those that the kernel gives out, so that nobody takes it while the server is down.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def line_of(process: subprocess.Popen[bytes], *, timeout_s: float = TIMEOUT_S) -> bytes:
    """Return the next line of a process's stdout; fail when it ends or none comes in time."""
    assert process.stdout is not None
    deadline_s = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        left_s = max(deadline_s - time.monotonic(), 0)
        assert select.select([process.stdout], [], [], left_s)[0], f"no line within {timeout_s} s"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"the process ended without a line: {process.wait(timeout_s)}"
        line += byte
    return line


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, if it still runs, and reap it."""
    if process.poll() is None:
        process.kill()
    process.wait(TIMEOUT_S)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@dataclass(frozen=True)
class Cli:
    """Runs commands of one user against one server; `wrapper` stands before each of them."""

    address: str
    home: Path
    wrapper: Sequence[str] = ()

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of a command."""
        return {**environment(self.home), "SYNCLINE_SERVER": self.address}

    def run(self, *arguments: Argument, cwd: Path | None = None) -> Ran:
        """Run a command to its end."""
        return subprocess.run(
            [*self.wrapper, *command(*arguments)],
            capture_output=True,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            cwd=cwd or self.home,
            timeout=TIMEOUT_S,
        )

    def records(
        self, *arguments: Argument, code: int = 0, cwd: Path | None = None
    ) -> list[JsonObject]:
        """Run a command with `--json`; return its objects; fail on another exit code."""
        ran = self.run(*arguments, "--json", cwd=cwd)
        assert ran.returncode == code, (ran.returncode, ran.stderr[-2000:], ran.stdout[-2000:])
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def head(self) -> int:
        """Return the newest revision of the volume."""
        return number(self.records("stat", ".")[0], "revision")

    @contextmanager
    def start(
        self, *arguments: Argument, cwd: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command for the length of the block."""
        process = subprocess.Popen(
            [*self.wrapper, *command(*arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environ,
            cwd=cwd or self.home,
        )
        try:
            yield process
        finally:
            end(process)


def number(record: JsonObject, key: str) -> int:
    """Return a field of an object that is a number."""
    value = record[key]
    assert isinstance(value, int), record
    return value


@dataclass
class Server:
    """A server process on one data directory and one port, over all its restarts.

    Its data is in `directory`, or `elsewhere`; `wrapper` stands before each command on the data.
    """

    directory: Path
    options: Sequence[Argument] = ()
    wrapper: Sequence[str] = ()
    elsewhere: Path | None = None
    data: Path = field(init=False)
    home: Path = field(init=False)
    address: str = field(init=False)
    ready: bytes = field(init=False, default=b"")
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.data = self.elsewhere or self.directory / "data"
        self.home = self.directory / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        self.address = f"127.0.0.1:{free_port()}"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the running process."""
        assert self._process is not None, "the server does not run"
        return self._process

    @property
    def cli(self) -> Cli:
        """Return commands against this server."""
        return Cli(self.address, self.home)

    @property
    def log(self) -> str:
        """Return what the server wrote to stderr, over all its restarts."""
        return self._log.read_text("utf-8", "replace")

    @property
    def _log(self) -> Path:
        return self.home / "server.log"

    def start(self) -> None:
        """Start the process and wait until it serves."""
        assert self._process is None, "the server runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.wrapper,
                    *command("serve", "--data", self.data, "--listen", self.address),
                    *self.options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(self.home),
            )
        try:
            self.ready = line_of(self._process)
            match = READY.fullmatch(self.ready)
            assert match is not None, self.ready
        except BaseException:
            print(self.log)
            self.close()
            raise

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End the process in order; return how many seconds that took."""
        started_s = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(TIMEOUT_S)
        took_s = time.monotonic() - started_s
        self.close()
        assert code == 0, (code, self.log[-2000:])
        return took_s

    def kill(self) -> None:
        """End the process as a crash does."""
        self.process.send_signal(signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """Make sure that the process is gone."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def packs(self) -> list[Path]:
        """Return the packs of the only volume, oldest first."""
        return sorted(self.data.glob("volumes/*/packs/*.pack"))

    def verify(self) -> tuple[int, list[JsonObject]]:
        """Run `server verify` on the data at rest; return its exit code and its objects."""
        assert self._process is None, "the server still runs"
        ran = subprocess.run(
            [*self.wrapper, *command("server", "verify", "--data", self.data, "--json")],
            capture_output=True,
            env=environment(self.home),
            timeout=TIMEOUT_S,
        )
        return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()]

    def assert_sound(self) -> None:
        """Fail unless `server verify` reads everything and finds nothing."""
        assert self.verify() == (0, [{"result": "verified", "findings": 0}])


@contextmanager
def serving(
    directory: Path,
    *options: Argument,
    wrapper: Sequence[str] = (),
    data: Path | None = None,
) -> Iterator[Server]:
    """Run a server for the length of the block, restarts included."""
    server = Server(directory, options, wrapper, data)
    try:
        server.start()
        yield server
    finally:
        server.close()


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """Return the most memory that a process ever held; 0 when it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{process.pid}/status").read_text("ascii", "replace")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return 0


@dataclass(frozen=True)
class SmallDisk:
    """A small file system that only its holder and those that `wrapper` starts can see."""

    directory: Path
    outside: Path
    """The same directory, as this process reaches it."""

    wrapper: Sequence[str]


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs at a directory for the length of the block.

    It lives in the mount namespace of a process that ends with this one, so that it is gone
    whatever happens to us. SQLite follows links by their text, so that processes that use it enter
    the namespace; looking at files from outside goes through /proc.
    """
    directory.mkdir(parents=True, exist_ok=True)
    script = 'mount -t tmpfs -o "size=$1" none "$2" && echo mounted && read -r _'
    holder = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", script, "sh", str(size_bytes), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stderr is not None
        if holder.stdout.readline() != b"mounted\n":
            pytest.skip(f"a file system cannot be mounted here: {holder.stderr.read()!r}")
        yield SmallDisk(
            directory,
            Path(f"/proc/{holder.pid}/root{directory}"),
            ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"),
        )
    finally:
        end(holder)


class Proxy:
    """Stands between clients and a server: counts bytes, and can stop them on their way."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up_bytes = 0
        self.down_bytes = 0
        self.up_max: int | None = None
        self.down_max: int | None = None
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._closing = threading.Event()
        self._run(self._accept)

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._run(partial(self._pump, client, server, is_up=True))
                self._run(partial(self._pump, server, client, is_up=False))

    def _pump(self, source: socket.socket, target: socket.socket, *, is_up: bool) -> None:
        with suppress(OSError):
            while piece := source.recv(256 * 1024):
                if is_up:
                    self.up_bytes += len(piece)
                else:
                    self.down_bytes += len(piece)
                if self._is_over(is_up=is_up):
                    # Held back until the end: the other side sees silence, not a broken link.
                    self._closing.wait(TIMEOUT_S)
                    break
                target.sendall(piece)
        for end_ in (source, target):
            with suppress(OSError):
                end_.shutdown(socket.SHUT_RDWR)

    def _is_over(self, *, is_up: bool) -> bool:
        limit = self.up_max if is_up else self.down_max
        return limit is not None and (self.up_bytes if is_up else self.down_bytes) > limit

    @property
    def is_holding(self) -> bool:
        """Tell whether one direction has carried as much as it may."""
        return self._is_over(is_up=True) or self._is_over(is_up=False)

    def close(self) -> None:
        """End all connections and threads."""
        self._closing.set()
        for socket_ in [self._listener, *self._sockets]:
            with suppress(OSError):
                socket_.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        for socket_ in [self._listener, *self._sockets]:
            socket_.close()


@contextmanager
def proxied(
    target: str, *, up_max: int | None = None, down_max: int | None = None
) -> Iterator[Proxy]:
    """Run a proxy for the length of the block."""
    proxy = Proxy(target)
    proxy.up_max = up_max
    proxy.down_max = down_max
    try:
        yield proxy
    finally:
        proxy.close()
