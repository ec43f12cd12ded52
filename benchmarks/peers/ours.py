"""Syncline: a server, and a mount for each client."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemons import PATIENCE_S, Daemon, Meter, until_listening
from benchmarks.measure import SYNCLINE, Trouble, free_port, tracing
from benchmarks.peers.site import Site, prepare
from syncline import __version__

POLL_S = 0.05
NOT_YET = (3, 7)
"""How `syncline wait` ends while the client is just starting."""


@dataclass(frozen=True, slots=True)
class Traces:
    """Where strace writes what it counted at A, the server and B."""

    a: Path
    server: Path
    b: Path


@dataclass(frozen=True, slots=True)
class Syncline:
    """The program of this repository; with `traces`, its syncs are counted."""

    traces: Traces | None = None
    name: str = "Syncline"
    is_by_hand: bool = False
    is_one_way: bool = False

    def absent(self) -> str:
        """It is always here."""
        return ""

    def version(self) -> str:
        """Return the version of the package."""
        return __version__

    def server(self, home: Path, *, trace: Path | None = None) -> tuple[Daemon, int]:
        """Return a server with fresh data below `home`, to be started, and its port."""
        port = free_port()
        command = [SYNCLINE, "serve", "--data", str(home / "data")]
        command += ["--listen", f"127.0.0.1:{port}"]
        return _daemon(command, home / "server.log", environment(home, port), trace), port

    def mount(self, home: Path, name: str, port: int, *, trace: Path | None = None) -> Daemon:
        """Return the client of one directory below `home`, to be started."""
        command = [SYNCLINE, "mount", str(home / name), "--name", name]
        return _daemon(command, home / f"{name}.log", environment(home, port), trace)

    def wait(self, home: Path, name: str, port: int) -> None:
        """Return when a client, which may just be starting, is in sync."""
        deadline = time.monotonic() + PATIENCE_S
        command = [SYNCLINE, "wait", str(home / name), "--timeout", "600"]
        env = environment(home, port)
        while True:
            done = subprocess.run(command, env=env, capture_output=True, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline or done.returncode not in NOT_YET:
                raise Trouble(f"{name} is not in sync: {done.stderr.decode()[-300:]}")
            time.sleep(POLL_S)

    @staticmethod
    def meter(daemon: Daemon) -> Meter:
        """Return what tells the cost of one of the processes."""
        return Meter((daemon,))

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        """Run a server with fresh data, and a mount for each client."""
        names = [chr(ord("A") + number) for number in range(clients)]
        directories = prepare(home, names, filled)
        traces = self.traces
        with ExitStack() as stack:
            server, port = self.server(home, trace=traces.server if traces else None)
            stack.enter_context(server)
            until_listening(port, server)
            mounts = []
            for name in names:
                trace = {"A": traces.a, "B": traces.b}.get(name) if traces else None
                mount = self.mount(home, name, port, trace=trace)
                mounts.append(stack.enter_context(mount))

            for name in names if filled is not None else ():
                self.wait(home, name, port)
            site = Site(
                directories[0],
                tuple(directories[1:]),
                {
                    "A": Meter((mounts[0],)),
                    "server": Meter((server,)),
                    "B": Meter((mounts[1],)),
                },
                stop_b=mounts[1].stop,
                start_b=mounts[1].start,
            )
            site.settle()
            yield site


def environment(home: Path, port: int) -> dict[str, str]:
    """Return what makes commands talk to the server, and keep their state below `home`."""
    return os.environ | {
        "SYNCLINE_SERVER": f"127.0.0.1:{port}",
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
    }


def _daemon(command: list[str], log: Path, env: Mapping[str, str], trace: Path | None) -> Daemon:
    if trace is None:
        return Daemon(command, log, env)
    return Daemon([*tracing(trace), *command], log, env, is_traced=True)
