"""Real mounts: processes that keep directories equal, asked by their control connections.

Each mount has a home of its own, as if it were another machine. Nothing here waits for a time to
pass: a mount is asked whether it is in sync, and then its tree must be right at once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from syncline.compose.control import ask_status, ask_wait
from syncline.errors import NotFound
from syncline.ports.mount_control import MountPhase, MountStatus, WaitEnd
from tests.support.processes import (
    TIMEOUT_S,
    Argument,
    JsonObject,
    Ran,
    Server,
    command,
    end,
    environment,
    line_of,
    serving,
)
from tests.support.realtree import Fact, differences, digest_of_file
from tests.support.wait import wait_until

READY = re.compile(rb"syncline: mounting volume 'default' of (\S+) in (.+)\n")
OWN = ".syncline"
PASSING = ("staging", "displaced", "aside")
"""The client's own directories that are empty when nothing is under way."""
SENTINELS = "sentinels"
"""Empty while a mount runs; one that was asked to stop at the same time may leave a name, which
the next start removes."""


@dataclass
class Mount:
    """A mounted directory, over all the processes that keep it.

    `wrapper` stands before the command that mounts; `place` is the directory as that process
    reaches it, where it is not reached by `root`.
    """

    home: Path
    name: str
    address: str
    wrapper: Sequence[str] = ()
    place: Path | None = None
    root: Path = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True)
        self.root = self.home / "mount"
        self.root.mkdir()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """Return the running process."""
        assert self._process is not None, f"{self.name} does not run"
        return self._process

    @property
    def is_running(self) -> bool:
        """Tell whether a process was started and not ended here."""
        return self._process is not None

    @property
    def environ(self) -> dict[str, str]:
        """Return the environment of each command of this mount's user."""
        return {**environment(self.home), "XDG_STATE_HOME": str(self.home / "state")}

    @property
    def log(self) -> str:
        """Return what the mount wrote to stderr, over all its restarts."""
        return self._log.read_text("utf-8", "replace")

    @property
    def log_end(self) -> str:
        """Return the end of its log, without a line for each change."""
        lines = [line for line in self.log.splitlines() if " mount_change " not in line]
        return "\n".join(lines[-30:])

    @property
    def _log(self) -> Path:
        return self.home / "mount.log"

    @property
    def state(self) -> Path:
        """Return the directory of what the mount remembers, where it is by default."""
        [found] = (self.home / "state" / "syncline" / "mounts").iterdir()
        return found

    # -- its process -------------------------------------------------------------

    def arguments(self, *options: Argument) -> Sequence[Argument]:
        """Return the arguments of `syncline` that mount it."""
        named = ("--server", self.address, "--name", self.name)
        return ("mount", self.place or self.root, *named, *options)

    def start(self, *options: Argument) -> None:
        """Start the process and wait until it can be asked."""
        assert self._process is None, f"{self.name} runs already"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self.wrapper, *command(*self.arguments(*options))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environ,
            )
        try:
            ready = line_of(self._process)
            assert READY.fullmatch(ready) is not None, ready
        except BaseException:
            print(self.log_end)
            self.close()
            raise

    def stop(self) -> float:
        """End the process in order; return how many seconds that took."""
        started_s = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(TIMEOUT_S)
        took_s = time.monotonic() - started_s
        self.close()
        assert code == 0, (code, self.log_end)
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

    # -- asking it -----------------------------------------------------------------

    def run(self, *arguments: Argument, cwd: Path | None = None) -> Ran:
        """Run another command of this mount's user to its end."""
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            cwd=cwd or self.home,
            timeout=TIMEOUT_S,
        )

    def records(self, *arguments: Argument, code: int = 0) -> list[JsonObject]:
        """Run a command with `--json`; return its objects; fail on another exit code."""
        ran = self.run(*arguments, "--json")
        assert ran.returncode == code, (ran.returncode, ran.stderr[-2000:], ran.stdout[-2000:])
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def once(self, *options: Argument, code: int = 0) -> Ran:
        """Sync once, in the foreground."""
        ran = self.run(*self.arguments("--once", *options))
        assert ran.returncode == code, (ran.returncode, ran.stderr[-3000:], ran.stdout[-1000:])
        return ran

    def status(self) -> MountStatus:
        """Return what the mount shows of itself."""
        return ask_status(self.state)

    def wait(self, *, timeout_s: float = TIMEOUT_S) -> WaitEnd:
        """Wait until it is in sync, as `syncline wait` does; return how that ended."""
        return ask_wait(self.state, timeout_s).end

    def wait_for(
        self, condition: Callable[[MountStatus], bool], what: str, *, timeout_s: float = 60.0
    ) -> MountStatus:
        """Return the first status for which a condition holds."""
        seen: list[MountStatus] = []

        def is_met() -> bool:
            with suppress(NotFound):
                seen[:] = [self.status()]
            assert self.process.poll() is None, self.log_end
            return bool(seen) and condition(seen[0])

        try:
            wait_until(is_met, f"{self.name}: {what}", timeout_s=timeout_s)
        except AssertionError:
            print(seen, self.log_end)
            raise
        return seen[0]

    def wait_for_phase(self, phase: MountPhase) -> MountStatus:
        """Return the first status of a phase."""
        return self.wait_for(lambda status: status.phase is phase, f"to be {phase.value}")

    def problems(self) -> dict[bytes, str]:
        """Return the codes of its problems, by path."""
        return {bytes(problem.path): problem.code for problem in self.status().problems}

    # -- its tree ------------------------------------------------------------------

    def tree(self) -> dict[bytes, Fact]:
        """Return what is in it and can be synced, by relative path; links are not followed."""
        top = os.fsencode(self.root)
        found: dict[bytes, Fact] = {}
        waiting = [b""]
        while waiting:
            below = waiting.pop()
            with os.scandir(os.path.join(top, below)) as names:
                for each in names:
                    path = os.path.join(below, each.name)
                    fact = _fact(each)
                    if fact is None or path == OWN.encode():
                        continue
                    found[path] = fact
                    if stat.S_ISDIR(fact.kind):
                        waiting.append(path)
        return found

    def contents(self) -> dict[str, bytes]:
        """Return the contents of all its files by path, for trees that are small."""
        paths = {os.fsdecode(path): fact for path, fact in self.tree().items()}
        return {
            path: (self.root / path).read_bytes()
            for path, fact in paths.items()
            if stat.S_ISREG(fact.kind)
        }

    def leftovers(self) -> list[str]:
        """Return what lies in the client's own directories and should not, at rest."""
        own = self.root / OWN
        passing = (*PASSING, SENTINELS) if self.is_running else PASSING
        return [f"{name}/{left}" for name in passing for left in _names(own / name)]


def _fact(entry: os.DirEntry[bytes]) -> Fact | None:
    """Return what must be equal of a name; None where no volume holds such a thing."""
    seen = entry.stat(follow_symlinks=False)
    kind, mode = stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode)
    match kind:
        case stat.S_IFDIR:
            return Fact(kind, mode, 0, 0, b"")
        case stat.S_IFLNK:
            return Fact(kind, mode, seen.st_mtime_ns, 0, os.readlink(entry.path))
        case stat.S_IFREG:
            digest = digest_of_file(entry.path)
            return Fact(kind, mode, seen.st_mtime_ns, seen.st_size, digest)
        case _:
            return None


def _names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.is_dir() else []


@dataclass
class Bench:
    """A server and the mounts of its volume."""

    directory: Path
    server: Server
    mounts: list[Mount] = field(default_factory=list)
    is_serving: bool = True

    def start_server(self) -> None:
        """Start the server again."""
        self.server.start()
        self.is_serving = True

    def stop_server(self) -> None:
        """End the server in order."""
        self.server.stop()
        self.is_serving = False

    def kill_server(self) -> None:
        """End the server as a crash does."""
        self.server.kill()
        self.is_serving = False

    def restart(self) -> None:
        """Start all that does not run; a mount comes before the server that it waits for."""
        for mount in self.mounts:
            if not mount.is_running:
                mount.start()
        if not self.is_serving:
            self.start_server()

    def add(self, name: str, *, address: str | None = None) -> Mount:
        """Make a directory to mount; nothing is started."""
        mount = Mount(self.directory / name, name, address or self.server.address)
        self.mounts.append(mount)
        return mount

    def start(self, *names: str) -> list[Mount]:
        """Make mounts and start them."""
        mounts = [self.add(name) for name in names]
        for mount in mounts:
            mount.start()
        return mounts

    @property
    def running(self) -> list[Mount]:
        """Return the mounts that run."""
        return [mount for mount in self.mounts if mount.is_running]

    def head(self) -> int:
        """Return the newest revision, as the first mount that runs has it after a wait."""
        mount = self.running[0]
        assert mount.wait() is WaitEnd.IN_SYNC, mount.status()
        cursor = mount.status().cursor
        assert cursor is not None, "who is in sync knows a revision"
        return cursor

    def settle(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """Return when all that was edited before is at all mounts that run."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            for mount in self.running:
                left_s = max(deadline_s - time.monotonic(), 1)
                ended = mount.wait(timeout_s=left_s)
                assert ended is WaitEnd.IN_SYNC, (ended, mount.status(), mount.log_end)
            states = [mount.status() for mount in self.running]
            is_quiet = all(status.phase is MountPhase.IN_SYNC for status in states)
            if is_quiet and len({status.cursor for status in states}) == 1:
                return
            assert time.monotonic() < deadline_s, states

    def assert_equal(self) -> dict[bytes, Fact]:
        """Settle, then fail unless all mounts that run are equal and tidy; return their tree."""
        self.settle()
        first, *others = self.running
        tree = first.tree()
        for other in others:
            found = differences(tree, other.tree())
            if found:
                print("\n".join(found[:20]))
            entries = (len(tree), first.status().entries, other.status().entries)
            assert not found, f"{first.name}, {other.name}: {len(found)} differ; {entries}"
        for mount in self.running:
            # What was displaced is let go of right after it was recorded, at the end of a cycle.
            wait_until(lambda: not mount.leftovers(), f"nothing left over at {mount.name}")  # noqa: B023 - called at once
        return tree


@contextmanager
def benching(directory: Path, *, is_serving: bool = True) -> Iterator[Bench]:
    """Run a server and mounts for the length of the block; print their logs when it fails."""
    with serving(directory / "server") as server:
        bench = Bench(directory, server)
        if not is_serving:
            bench.stop_server()
        try:
            yield bench
        except BaseException:
            for mount in bench.mounts:
                with suppress(FileNotFoundError):
                    print(f"-- log of {mount.name}\n{mount.log_end}")
            print(f"-- log of the server\n{server.log[-2000:]}")
            raise
        finally:
            for mount in bench.mounts:
                mount.close()
