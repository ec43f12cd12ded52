"""Show Syncline's commands at work: a real server and real commands, in a temporary directory.

    python tools/demo.py

Everything it starts is ended and everything it makes is removed. Exits with 1 where a command did
not do what the text beside it says.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

SYNCLINE = [str(Path(sys.executable).parent / "syncline")]
READY_WAIT_S = 20
FILES_SHOWN = 3
WATCHED_AT_MOST = 2000


class DemoFailed(Exception):
    """A command did not do what the demo says of it."""


class Demo:
    """A server in a directory of its own, and commands that talk to it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_")
        } | {"XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config")}
        self.server: subprocess.Popen[str] | None = None

    def start_server(self) -> None:
        """Start the server on a port that the kernel chooses, and wait for its line."""
        address = "127.0.0.1:0" if self.server is None else self.env["SYNCLINE_SERVER"]
        self.server = subprocess.Popen(
            [*SYNCLINE, "serve", "--data", str(self.home / "data"), "--listen", address],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.server.stdout is not None
        line = self.server.stdout.readline().strip()
        if " on " not in line:
            raise DemoFailed("the server did not start")
        print(f"  {line.replace(str(self.home), '~demo')}")
        self.env["SYNCLINE_SERVER"] = line.split(" on ")[1].split(",")[0]

    def stop_server(self, number: signal.Signals) -> None:
        """End the server by its process id."""
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(number)
            self.server.wait(timeout=READY_WAIT_S)

    def run(self, *arguments: str, expect: int = 0, lines_max: int = 12) -> str:
        """Run a command, show it and what it prints, and return that."""
        shown = " ".join(argument.replace(str(self.home), "~demo") for argument in arguments)
        print(f"\n$ syncline {shown}")
        started = time.monotonic()
        done = subprocess.run(
            [*SYNCLINE, *arguments],
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        took_s = time.monotonic() - started
        lines = (done.stdout + done.stderr).replace(str(self.home), "~demo").splitlines()
        kept = lines if len(lines) <= lines_max else [*lines[:FILES_SHOWN], "...", lines[-1]]
        print("\n".join(f"  {line}" for line in kept))
        if done.returncode:
            print(f"  (exit code {done.returncode})")
        print(f"  [{took_s:.2f} s]")
        if done.returncode != expect:
            raise DemoFailed(f"'syncline {shown}' ended with {done.returncode}, not {expect}")
        return done.stdout


def say(text: str) -> None:
    """Print what comes next."""
    print(f"\n== {text}")


def show(demo: Demo) -> None:
    """Go through the commands."""
    say("A server, in a directory of its own")
    demo.start_server()

    say("Put a real tree into it: the email package of Python's own library")
    tree = demo.home / "email"
    shutil.copytree(
        Path(sysconfig.get_paths()["stdlib"]) / "email",
        tree,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    demo.run("store", "email")
    demo.run("list", "email/mime")

    say("Edit one file and store the tree again: only that file travels")
    edited = tree / "message.py"
    edited.write_text("# edited by the demo\n" + edited.read_text())
    demo.run("store", "email")

    say("Fetch it all into another directory: the same to the byte")
    demo.run("fetch", "email", "--to", "copy")
    compare(tree, demo.home / "copy")
    print("  equal: every byte, mode, time")

    say("Go back: the file as it was at revision 1")
    demo.run("fetch", "email/message.py", "--at", "1", "--to", "as-it-was.py")
    if (demo.home / "as-it-was.py").read_text().startswith("# edited"):
        raise DemoFailed("the old revision has the new content")

    say("Two people, one file: who builds on an old state is refused, nothing is lost")
    stat = json.loads(demo.run("stat", "--json", "email/message.py", lines_max=1))
    edited.write_text("# edited once more\n" + edited.read_text())
    onto = ("store", "email/message.py", "--to", "email/message.py", "--if-revision")
    demo.run(*onto, "1", expect=5)
    demo.run(*onto, str(stat["revision"]))

    say("Kill the server with SIGKILL and start it again: what it acknowledged is there")
    demo.stop_server(signal.SIGKILL)
    demo.start_server()
    demo.run("stat", "email/message.py")

    say("Watch from the beginning: every commit, once, in order")
    watch(demo)

    say("Delete, and look at what was there before")
    demo.run("delete", "email", "--recursive")
    demo.run("list")
    demo.run("list", "email/mime", "--at", str(stat["revision"]))


def watch(demo: Demo) -> None:
    """Run `watch` until it has told the newest commit, as a person would with Ctrl-C."""
    print("\n$ syncline watch --since 0")
    head = json.loads(
        subprocess.run(
            [*SYNCLINE, "stat", "--json", "email/message.py"],
            env=demo.env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )["revision"]
    with subprocess.Popen(
        [*SYNCLINE, "watch", "--since", "0", "--json"],
        env=demo.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            for _ in range(WATCHED_AT_MOST):
                commit = json.loads(process.stdout.readline())
                changes = commit["changes"]
                more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
                first = f"{changes[0]['effect']} {changes[0]['path']}" if changes else "nothing"
                print(f"  revision {commit['revision']} by {commit['author']}: {first}{more}")
                if commit["revision"] >= head:
                    break
        finally:
            process.send_signal(signal.SIGINT)


def compare(left: Path, right: Path) -> None:
    """Raise where two trees are not equal: names, bytes, modes, times of files."""
    names = sorted(path.relative_to(left) for path in left.rglob("*"))
    if names != sorted(path.relative_to(right) for path in right.rglob("*")):
        raise DemoFailed("the two trees have different names in them")
    for name in names:
        one, other = left / name, right / name
        if one.is_dir():
            continue
        if not filecmp.cmp(one, other, shallow=False):
            raise DemoFailed(f"{name} differs")
        first, second = one.stat(), other.stat()
        if (first.st_mode, first.st_mtime_ns) != (second.st_mode, second.st_mtime_ns):
            raise DemoFailed(f"{name} has another mode or time")


def main() -> int:
    """Run the demo in a temporary directory and clean up."""
    with tempfile.TemporaryDirectory(prefix="syncline-demo-") as home:
        demo = Demo(Path(home))
        try:
            show(demo)
        except DemoFailed as error:
            print(f"\nthe demo failed: {error}", file=sys.stderr)
            return 1
        finally:
            demo.stop_server(signal.SIGTERM)
    print("\nThat is all; the server is stopped and the directory is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
