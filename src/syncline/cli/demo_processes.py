"""The processes of the demo: a server and its clients, each known by its id until it is gone.

P1  What was started is ended and what was made is removed, whatever happens. So a signal is noted,
    and raised only where the program asks: nothing is cut between its making and its being known,
    nor is the clearing up.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from syncline.cli.exits import ExitCode
from syncline.cli.text import plain
from syncline.errors import Internal

READY_WAIT_S = 30.0
READY_LOOK_S = 0.2
STOP_WAIT_S = 10.0
START_TRIES = 20
START_PAUSE_S = 0.25
LOG_LINES_SHOWN = 20

_SIGNALS = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.TERMINATED,
}


class Stopped(BaseException):
    """A signal came: unwind, clean up, and end with this code."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__(code.name)
        self.code = code


class Signals:
    """Notes signals, and raises where it is asked (P1)."""

    def __init__(self) -> None:
        self._code: ExitCode | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Listen for the length of the block."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""
        if self._code is not None:
            raise Stopped(self._code)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._code = self._code or _SIGNALS[signal.Signals(number)]


@dataclass
class Player:
    """A process of the demo, over all its restarts; `arguments` are those of `syncline`."""

    name: str
    log: Path
    arguments: list[str]
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    def launch(self) -> None:
        """Start the process; a signal to the terminal is not for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "syncline", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environ,
                start_new_session=True,
            )

    def ready_line(self, signals: Signals) -> str | None:
        """Return the line that says it is ready; None where it ended instead."""
        process = self.process
        assert process is not None and process.stdout is not None, "it was launched"
        deadline_s = time.monotonic() + READY_WAIT_S
        line = b""
        while not line.endswith(b"\n"):
            signals.check()
            if time.monotonic() > deadline_s:
                raise Internal(f"{self.name} was not ready within {READY_WAIT_S:g} s")
            if not select.select([process.stdout], [], [], READY_LOOK_S)[0]:
                continue
            piece = os.read(process.stdout.fileno(), 4096)
            if not piece:
                return None
            line += piece
        return line.decode("utf-8", "replace").strip()

    def end(self, number: signal.Signals) -> None:
        """End the process with a signal, and with SIGKILL where that does not help."""
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self.process = None

    def last_lines(self) -> list[str]:
        """Return the end of its log."""
        try:
            text = self.log.read_text("utf-8", "replace")
        except OSError:
            return []
        return [plain(line) for line in text.splitlines()[-LOG_LINES_SHOWN:]]


class Stage:
    """A temporary directory, and the processes in it."""

    def __init__(self, home: Path, signals: Signals) -> None:
        self.home = home
        self.server = self._player("server")
        self.clients: dict[str, Player] = {}
        self.address = "127.0.0.1:0"
        self.signals = signals

    def root(self, name: str) -> Path:
        """Return the directory that a client mounts."""
        return self.home / name

    def state(self, name: str) -> Path:
        """Return where the mount of a client keeps its state."""
        return self.home / f"state-of-{name}"

    def start_server(self) -> None:
        """Start the server: at first on a port that the kernel chooses, later on the same one."""
        data = str(self.home / "data")
        self.server.arguments = ["serve", "--data", data, "--listen", self.address]
        for _ in range(START_TRIES):
            line = self._start(self.server)
            if line is not None:
                self.address = line.partition(" on ")[2].partition(",")[0]
                return
            # Somebody has the port for a moment, as a client that knocks at it may have.
            self.server.end(signal.SIGTERM)
            time.sleep(START_PAUSE_S)
        raise Internal(f"the server does not start on {self.address}")

    def start_client(self, name: str) -> None:
        """Start the mount of a client, in a directory that is made where it is missing."""
        root = self.root(name)
        root.mkdir(exist_ok=True)
        client = self.clients.setdefault(name, self._player(name))
        named = ["--server", self.address, "--name", name, "--state", str(self.state(name))]
        client.arguments = ["mount", str(root), *named]
        if self._start(client) is None:
            raise Internal(f"the mount of {name} does not start")

    def players(self) -> list[Player]:
        """Return all, the clients first."""
        return [*self.clients.values(), self.server]

    def clear(self) -> None:
        """End all processes and remove the directory."""
        for player in self.players():
            if player.process is not None and player.process.poll() is None:
                # All at once, then each is waited for.
                player.process.send_signal(signal.SIGTERM)
        for player in self.players():
            player.end(signal.SIGTERM)
        _remove(self.home)

    def run(self, *arguments: str) -> bytes:
        """Run a command against the server to its end; return what it says."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "syncline", *arguments, "--server", self.address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self._environ(),
            start_new_session=True,
            timeout=READY_WAIT_S,
            check=False,
        )
        if done.returncode:
            said = plain(done.stderr.decode("utf-8", "replace").strip())
            raise Internal(f"'syncline {arguments[0]}' failed: {said}")
        return done.stdout

    def _player(self, name: str) -> Player:
        return Player(name, self.home / f"{name}.log", [], self._environ())

    def _start(self, player: Player) -> str | None:
        self.signals.check()
        player.launch()
        return player.ready_line(self.signals)

    def _environ(self) -> dict[str, str]:
        """Return the environment without this user's own configuration and state."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_")
        }
        own = {"XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "share"}
        return kept | {name: str(self.home / value) for name, value in own.items()}


@contextmanager
def stage(signals: Signals) -> Iterator[Stage]:
    """Set up a stage for the length of the block, and leave nothing of it."""
    made = Stage(Path(tempfile.mkdtemp(prefix="syncline-demo-")), signals)
    try:
        yield made
    finally:
        made.clear()


def _remove(directory: Path) -> None:
    """Remove a tree, directories that may not be written too."""
    for where, _, _ in os.walk(directory):
        Path(where).chmod(0o700)
    shutil.rmtree(directory)
