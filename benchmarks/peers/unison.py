"""Unison: a server on a socket, and `unison -repeat watch` for each client."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemons import Daemon, Meter, until_listening
from benchmarks.measure import free_port
from benchmarks.peers.site import Site, missing_tool, prepare

MONITOR = "unison-fsmonitor"
OPTIONS = [
    "-ui",
    "text",
    "-batch",
    "-ignorelocks",
    "-repeat",
    "watch",
    "-times",
    "-prefer",
    "newer",
]
"""The clock decides who wins: nobody is there to ask."""
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Unison:
    """All follow one directory of the server, where each client has a process of its own."""

    name: str = "Unison"
    is_by_hand: bool = False
    is_one_way: bool = False

    def absent(self) -> str:
        """It is a package of its own."""
        return missing_tool("unison", "unison")

    def version(self) -> str:
        """Return what `unison -version` says, and whose monitor tells it of changes."""
        version = subprocess.check_output(["unison", "-version"], text=True).split()[2]
        return version if shutil.which(MONITOR) else f"{version} (with a file monitor of ours)"

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        """Run the server's processes and the clients'."""
        names = [chr(ord("A") + number) for number in range(clients)]
        stored, *folders = prepare(home, ["stored", *names], filled)
        with ExitStack() as stack:
            servers, daemons = [], []
            for folder in folders:
                env = _environment(home, f"{folder.name}-server")
                port = free_port()
                command = ["unison", "-socket", str(port), "-ui", "text"]
                log = home / f"{folder.name}-server.log"
                servers.append(stack.enter_context(Daemon(command, log, env)))
                until_listening(port, servers[-1])
                root = f"socket://127.0.0.1:{port}/{stored}"
                command = ["unison", *OPTIONS, str(folder), root]
                env = _environment(home, folder.name)
                daemons.append(
                    stack.enter_context(Daemon(command, home / f"{folder.name}.log", env))
                )
            site = Site(
                folders[0],
                tuple(folders[1:]),
                {
                    "A": Meter((daemons[0],)),
                    "server": Meter(tuple(servers)),
                    "B": Meter((daemons[1],)),
                },
                stop_b=daemons[1].stop,
                start_b=daemons[1].start,
            )
            site.settle()
            yield site


def _environment(home: Path, name: str) -> Mapping[str, str]:
    env = os.environ | {"UNISON": str(home / f"{name}-unison")}
    if shutil.which(MONITOR):
        return env
    monitor = home / "bin" / MONITOR
    monitor.parent.mkdir(exist_ok=True)
    monitor.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{HERE / "unison_monitor.py"}"\n')
    monitor.chmod(0o755)
    return env | {"PATH": f"{monitor.parent}{os.pathsep}{os.environ['PATH']}"}
