"""The demo itself: what is done, by whom, and how long it takes to be at the others."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable

from syncline.cli.demo_processes import Signals, Stage, Stopped, stage
from syncline.cli.demo_screen import Advance, Screen, ms_text
from syncline.cli.demo_steps import ANNA, BEN, CLEO, CLIENTS, Step, save, steps, write
from syncline.cli.demo_tree import (
    Copied,
    Tree,
    copy_files,
    differences,
    library_files,
    listed_tree,
    local_tree,
)
from syncline.cli.exits import ExitCode
from syncline.cli.output import Output
from syncline.cli.records import size_text
from syncline.compose.control import ask_status, ask_wait
from syncline.errors import Internal, NoSpace, NotFound, SynclineError, Unavailable
from syncline.ports.mount_control import WaitEnd

LOOK_PAUSE_S = 0.001
"""Between two looks at a file: the error of each time that is shown."""

APPEAR_S = 30.0
SETTLE_S = 120.0
WAIT_S = 0.5
"""How long one wait takes at most: in between, what is there by then is shown."""

SAVES = 60
COPIES = 6
"""The tree at three clients and on the server, what is staged, and some room."""

DIFFERENCES_SHOWN = 5


def play(output: Output) -> ExitCode:
    """Play the demo and clean up; return how it ended."""
    signals, screen = Signals(), Screen(output)
    started_s = time.monotonic()
    try:
        with signals.noted():
            with stage(signals) as made:
                is_equal = _played(made, screen, output)
            took_s = time.monotonic() - started_s
            screen.title("")
            screen.title(f"{took_s:.0f} s in all; the processes are ended, the directory is gone.")
    except Stopped as stopped:
        output.complain("interrupted; all processes are ended and the directory is gone")
        return stopped.code
    screen.record({"result": "equal" if is_equal else "different", "seconds": round(took_s, 3)})
    return ExitCode.OK if is_equal else ExitCode.INTERNAL


def _played(made: Stage, screen: Screen, output: Output) -> bool:
    """Play all parts; where one fails, show what the processes had to say."""
    try:
        return Demo(made, screen).play()
    except SynclineError:
        for player in made.players():
            for line in player.last_lines():
                output.complain(f"log of {player.name}: {line}")
        raise


class Demo:
    """The parts of the demo, in order."""

    def __init__(self, made: Stage, screen: Screen) -> None:
        self._stage = made
        self._screen = screen
        self._check = made.signals.check

    def play(self) -> bool:
        """Play all parts; tell whether all replicas are equal in the end."""
        self._screen.title(
            f"Syncline demo: a server and three clients, real processes, in {self._stage.home}"
        )
        self._start()
        self._load()
        self._change()
        self._without_server()
        self._without_client()
        return self._compare()

    # -- 1. start ----------------------------------------------------------------

    def _start(self) -> None:
        made = self._stage
        self._screen.part("A server, and three directories that are mounted")
        made.start_server()
        self._told_start("server", made.server.pid, made.address)
        for name in CLIENTS:
            made.start_client(name)
            self._told_start(name, made.clients[name].pid, str(made.root(name)))

    def _told_start(self, name: str, pid: int, where: str) -> None:
        self._screen.note(f"{name:<8} process {pid:<8} {where}")
        self._screen.record({"event": "started", "name": name, "pid": pid, "where": where})

    # -- 2. a real tree ------------------------------------------------------------

    def _load(self) -> None:
        files = library_files()
        _check_space(sum((files.source / path).lstat().st_size for path in files.paths))
        self._screen.part("Put a real tree in: Python's own library, copied to where anna works")
        started_s = time.monotonic()
        copied = copy_files(files, self._stage.root(ANNA), self._check)
        copied_s = time.monotonic() - started_s
        with self._screen.progress(CLIENTS, copied.entries) as advance:
            self._settle(lambda: self._show_entries(advance))
        all_s = time.monotonic() - started_s
        self._told_load(copied, copied_s, all_s)

    def _told_load(self, copied: Copied, copied_s: float, all_s: float) -> None:
        size = size_text(copied.size)
        self._screen.note(f"{copied.entries:,} files and directories, {size}")
        self._screen.note(
            f"copied in {copied_s:.1f} s; at ben and cleo {all_s:.1f} s after it began"
        )
        self._screen.record(
            {
                "event": "loaded",
                "entries": copied.entries,
                "size": copied.size,
                "copied_s": round(copied_s, 3),
                "all_s": round(all_s, 3),
            }
        )

    def _show_entries(self, advance: Advance) -> None:
        for name in CLIENTS:
            advance(name, ask_status(self._stage.state(name)).entries)

    # -- 3. changes ----------------------------------------------------------------

    def _change(self) -> None:
        self._screen.part("Change things, and look when each change is at the others")
        self._screen.columns(CLIENTS)
        for step in steps(self._stage.root(ANNA)):
            appeared = self._measure(step)
            cells = [ms_text(appeared[name]) if name in appeared else "does it" for name in CLIENTS]
            self._screen.row(step.who, step.what, cells)
            self._screen.record(
                {
                    "event": "change",
                    "name": step.who,
                    "what": step.what,
                    "appeared_ms": {name: round(ms, 2) for name, ms in appeared.items()},
                }
            )
        self._save_often()

    def _save_often(self) -> None:
        """Save one file again and again, each client in turn, when the one before is there."""
        times: list[float] = []
        for number in range(SAVES):
            times += self._measure(save(CLIENTS[number % len(CLIENTS)], number)).values()
        times.sort()
        half, most, worst = times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]
        self._screen.note(
            f"{SAVES} saves of one file, each client in turn: half of them at the others within"
            f" {ms_text(half)}, 99 of 100 within {ms_text(most)}",
            "green",
        )
        self._screen.record(
            {
                "event": "saves",
                "count": SAVES,
                "p50_ms": round(half, 2),
                "p99_ms": round(most, 2),
                "max_ms": round(worst, 2),
            }
        )

    def _measure(self, step: Step) -> dict[str, float]:
        """Do a step; return after how many ms each of the others had it."""
        missing = {name: self._stage.root(name) for name in CLIENTS if name != step.who}
        started_s = time.perf_counter()
        step.act(self._stage.root(step.who))
        appeared: dict[str, float] = {}
        while missing:
            self._check()
            for name in [name for name, root in missing.items() if step.is_there(root)]:
                appeared[name] = (time.perf_counter() - started_s) * 1000
                del missing[name]
            if missing and time.perf_counter() - started_s > APPEAR_S:
                late = " and ".join(missing)
                raise Internal(f"'{step.what}' is not at {late} within {APPEAR_S:g} s")
            time.sleep(LOOK_PAUSE_S)
        return appeared

    # -- 4., 5. without each other ---------------------------------------------------

    def _without_server(self) -> None:
        """Let two clients edit one file while nobody can know of the other."""
        made = self._stage
        name, copy = "textwrap.py", "textwrap (conflict of "
        self._screen.part("Offline: the server is killed, and two edit the same file")
        made.server.end(signal.SIGKILL)
        texts = {who: f"# {who} was here first\n".encode() for who in (ANNA, BEN)}
        for who, text in texts.items():
            write(made.root(who) / name, text)
            self._screen.note(f"{who:<6} saves {name}")
        (made.root(CLEO) / "abc.py").unlink()
        self._screen.note("cleo   deletes abc.py")
        started_s = time.monotonic()
        made.start_server()
        self._settle()
        took_s = time.monotonic() - started_s
        kept = (made.root(CLEO) / name).read_bytes()
        copies = sorted(
            path.name for path in made.root(CLEO).iterdir() if path.name.startswith(copy)
        )
        contents = {(made.root(CLEO) / found).read_bytes() for found in copies}
        if len(copies) != 1 or {kept} | contents != set(texts.values()):
            raise Internal(f"not both of the edits of '{name}' are kept: {len(copies)} copies")
        self._screen.note(
            f"the server is back; {took_s:.1f} s later all have both: {name}, and '{copies[0]}'"
        )
        self._told_offline("server_killed", took_s, copies)

    def _without_client(self) -> None:
        """Let a client edit in a directory that another one moves meanwhile."""
        made = self._stage
        self._screen.part("Offline: cleo's client is killed, cleo works on, and anna tidies up")
        made.clients[CLEO].end(signal.SIGKILL)
        text = b"# cleo did not know that the directory has another name now\n"
        write(made.root(CLEO) / "json" / "tool.py", text)
        self._screen.note("cleo   edits json/tool.py")
        (made.root(ANNA) / "json").rename(made.root(ANNA) / "json of anna")
        self._screen.note("anna   renames json to 'json of anna'")
        self._settle(names=(ANNA, BEN))
        started_s = time.monotonic()
        made.start_client(CLEO)
        self._settle()
        took_s = time.monotonic() - started_s
        for name in CLIENTS:
            root = made.root(name)
            if (root / "json").exists() or (root / "json of anna/tool.py").read_bytes() != text:
                raise Internal(f"the edit is not in the renamed directory of {name}")
        self._screen.note(
            f"cleo's client is back; {took_s:.1f} s later all have the edit, in 'json of anna'"
        )
        self._told_offline("client_killed", took_s, [])

    def _told_offline(self, what: str, took_s: float, copies: list[str]) -> None:
        self._screen.record(
            {
                "event": "offline",
                "what": what,
                "equal_after_s": round(took_s, 3),
                "conflict_copies": copies,
            }
        )

    # -- 6. equal? -------------------------------------------------------------------

    def _compare(self) -> bool:
        self._screen.part("Compare: every name, byte, mode and time")
        self._settle()
        lines = self._stage.run("list", "--recursive", "--json").splitlines()
        server = listed_tree(lines)
        self._told_tree("server", server)
        is_equal = True
        for name in CLIENTS:
            self._check()
            tree = local_tree(self._stage.root(name))
            self._told_tree(name, tree)
            found = differences(server, tree)
            is_equal = is_equal and not found
            for path in found[:DIFFERENCES_SHOWN]:
                self._screen.note(f"{name} has not what the server has: {path}", "bold red")
        if is_equal:
            self._screen.note("all equal", "bold green")
        else:
            self._screen.note(
                "NOT EQUAL: this is a fault of Syncline; please report it", "bold red"
            )
        return is_equal

    def _told_tree(self, name: str, tree: Tree) -> None:
        entries, size = len(tree.facts), size_text(tree.size)
        self._screen.note(f"{name:<8} {entries:>6,} entries  {size:>10}  digest {tree.digest[:16]}")
        self._screen.record(
            {
                "event": "replica",
                "name": name,
                "entries": entries,
                "size": tree.size,
                "digest": tree.digest,
            }
        )

    def _settle(
        self, look: Callable[[], None] = lambda: None, names: tuple[str, ...] = CLIENTS
    ) -> None:
        """Return when every change made before is at all of these clients.

        Twice in turn: the first time round everything gets to the server, the second one to all.
        """
        deadline_s = time.monotonic() + SETTLE_S
        for name in (*names, *names):
            while True:
                self._check()
                try:
                    ended = ask_wait(self._stage.state(name), WAIT_S)
                    look()
                except (NotFound, Unavailable) as error:
                    raise Internal("a mount ended by itself") from error
                if ended.end is WaitEnd.IN_SYNC:
                    break
                if ended.end is not WaitEnd.TIMED_OUT or time.monotonic() > deadline_s:
                    problems = [f"{each.path}: {each.code}" for each in ended.status.problems[:3]]
                    told = "; ".join(problems) or "no path has a problem"
                    raise Internal(f"{name} is not in sync but '{ended.end.value}': {told}")


def _check_space(size: int) -> None:
    directory = tempfile.gettempdir()
    if shutil.disk_usage(directory).free < COPIES * size:
        needed = size_text(COPIES * size)
        raise NoSpace(
            f"the demo needs {needed} in '{directory}'; name another directory with TMPDIR",
            where="local",
        )
