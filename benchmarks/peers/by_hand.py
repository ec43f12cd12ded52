"""rsync to a daemon and from there, and cp to a second place and on: started by hand, the floor."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemons import Daemon, Meter, until_listening
from benchmarks.measure import free_port, run
from benchmarks.peers.site import Site, missing_tool, prepare

SAME = "--modify-window=-1"
"""Compare times to the nanosecond; else two edits of one second look like one to rsync."""


@contextmanager
def rsync_daemon(home: Path, modules: dict[str, Path]) -> Iterator[tuple[Daemon, str]]:
    """Run a daemon with modules; yield it and its address."""
    port = free_port()
    # Without a chroot the daemon would put a prefix into every symbolic link.
    lines = ["use chroot = no", "munge symlinks = no"]
    lines += ["address = 127.0.0.1", f"port = {port}"]
    for name, path in modules.items():
        lines += [f"[{name}]", f"path = {path}", "read only = no"]
        lines += [f"uid = {os.getuid()}", f"gid = {os.getgid()}"]
    configuration = home / "rsyncd.conf"
    configuration.write_text("\n".join([*lines, ""]))
    command = ["rsync", "--daemon", "--no-detach", f"--config={configuration}"]
    with Daemon(command, home / "rsyncd.log") as daemon:
        until_listening(port, daemon)
        yield daemon, f"rsync://127.0.0.1:{port}"


@dataclass(frozen=True, slots=True)
class Rsync:
    """A push to a daemon and a pull from there, after every change."""

    name: str = "rsync twice, by hand"
    is_by_hand: bool = True
    is_one_way: bool = True

    def absent(self) -> str:
        """It is a package of its own."""
        return missing_tool("rsync", "rsync")

    def version(self) -> str:
        """Return what `rsync --version` says."""
        return subprocess.check_output(["rsync", "--version"], text=True).split()[2]

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        """Run the daemon."""
        a, stored, b = prepare(home, ["A", "stored", "B"], filled)
        with rsync_daemon(home, {"m": stored}) as (daemon, address):

            def carry() -> None:
                options = ["rsync", "-a", "--delete", SAME]
                run([*options, f"{a}/", f"{address}/m/"])
                run([*options, f"{address}/m/", f"{b}/"])

            yield Site(a, (b,), {"server": Meter((daemon,))}, carry=carry)


@dataclass(frozen=True, slots=True)
class Copy:
    """`cp -a` to a second place and on to a third: what the file system takes."""

    name: str = "cp twice, by hand"
    is_by_hand: bool = True
    is_one_way: bool = True

    def absent(self) -> str:
        """It is always here."""
        return ""

    def version(self) -> str:
        """Return what `cp --version` says."""
        return subprocess.check_output(["cp", "--version"], text=True).split()[3]

    @contextmanager
    def at_work(
        self, home: Path, *, clients: int = 2, filled: Path | None = None
    ) -> Iterator[Site]:
        """Make the directories."""
        a, stored, b = prepare(home, ["A", "stored", "B"], filled)

        def carry() -> None:
            run(["cp", "-a", f"{a}/.", str(stored)])
            run(["cp", "-a", f"{stored}/.", str(b)])

        yield Site(a, (b,), {}, carry=carry)
