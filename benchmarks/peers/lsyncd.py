"""lsyncd: watches A and pushes by rsync; a second one on the server pushes on. One way only."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemons import Daemon, Meter
from benchmarks.peers.by_hand import SAME, rsync_daemon
from benchmarks.peers.site import Site, missing_tool, prepare

HALF_A_FILE = ".*.??????"
"""What rsync calls a file while it comes in: the second hop must not carry that as well."""


@dataclass(frozen=True, slots=True)
class Lsyncd:
    """Both hops by `default.rsync` without delay, to one rsync daemon."""

    name: str = "lsyncd, one way"
    is_by_hand: bool = False
    is_one_way: bool = True

    def absent(self) -> str:
        """It needs rsync besides."""
        return missing_tool("lsyncd", "lsyncd") or missing_tool("rsync", "rsync")

    def version(self) -> str:
        """Return what `lsyncd --version` says."""
        return subprocess.check_output(["lsyncd", "--version"], text=True).split()[1]

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        """Run the daemon, A's lsyncd and the server's."""
        names = [chr(ord("B") + number) for number in range(clients - 1)]
        a, stored, *others = prepare(home, ["A", "stored", *names], filled)
        modules = {"stored": stored, **{each.name: each for each in others}}
        with ExitStack() as stack:
            daemon, address = stack.enter_context(rsync_daemon(home, modules))
            first = stack.enter_context(_lsyncd(home, "first", a, [f"{address}/stored/"]))
            targets = [f"{address}/{each.name}/" for each in others]
            second = stack.enter_context(_lsyncd(home, "second", stored, targets))
            site = Site(
                a,
                tuple(others),
                {"A": Meter((first,)), "server": Meter((daemon, second))},
                stop_b=second.stop,
                start_b=second.start,
            )
            site.settle()
            yield site


def _lsyncd(home: Path, name: str, source: Path, targets: list[str]) -> Daemon:
    syncs = "\n".join(
        f"sync {{ default.rsync, source = {_lua(str(source))}, target = {_lua(target)},"
        f" delay = 0, exclude = {{ {_lua(HALF_A_FILE)} }},"
        f" rsync = {{ archive = true, _extra = {{ {_lua(SAME)} }} }} }}"
        for target in targets
    )
    configuration = home / f"{name}.lua"
    configuration.write_text(
        f"settings {{ nodaemon = true, maxProcesses = {2 + len(targets)} }}\n{syncs}\n"
    )
    return Daemon(["lsyncd", "-nodaemon", str(configuration)], home / f"{name}.log")


def _lua(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
