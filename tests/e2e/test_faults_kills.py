"""Random `kill -9` of two clients and the server while users edit: all equal, and nothing lost.

SYNCLINE_KILL_MINUTES says for how long, SYNCLINE_KILL_SEED repeats the edits and the order of the
kills; what the scheduler does between them stays its own.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncline.core.identity import digest_of
from tests.e2e.history import linked, read_history
from tests.support.mounting import Bench, Mount, benching
from tests.support.realtree import MIB

pytestmark = [pytest.mark.process, pytest.mark.slow]

SEED_VARIABLE = "SYNCLINE_KILL_SEED"
MINUTES_VARIABLE = "SYNCLINE_KILL_MINUTES"
REPEATED = "tests/e2e/test_faults_kills.py"

OWN_FILES = 30
SHARED_FILES = 4
EDIT_S = 0.01
LOG = "log"


@dataclass
class User:
    """Edits at one mount, as fast as a busy program, and remembers what must be there."""

    mount: Mount
    source: random.Random
    own: dict[str, bytes] = field(default_factory=dict)
    """What its own files hold, by path; nobody else touches them."""

    shared: dict[str, bytes] = field(default_factory=dict)
    """What it saved last in each file of all."""

    edits: int = 0
    trouble: list[BaseException] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.mount.root / f"of {self.mount.name}"

    def run(self, is_over: threading.Event) -> None:
        try:
            self.home.mkdir(exist_ok=True)
            while not is_over.wait(EDIT_S):
                self.source.choices(
                    (self._save, self._write, self._append, self._share, self._move, self._delete),
                    weights=(6, 6, 4, 2, 2, 2),
                )[0]()
                self.edits += 1
        except BaseException as error:
            self.trouble.append(error)
            raise

    def _content(self) -> bytes:
        size = self.source.choice((10, 200, 5_000, 70_000, 70_000, MIB))
        start = f"{self.mount.name} {self.edits} ".encode()
        return start + self.source.randbytes(self.source.randrange(size))

    def _name(self) -> str:
        return f"d{self.source.randrange(5)}/file {self.source.randrange(OWN_FILES)}"

    def _place(self, name: str) -> Path:
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        return path

    def _save(self) -> None:
        """Save beside, and rename over what was there."""
        name, content = self._name(), self._content()
        path = self._place(name)
        beside = path.with_name(path.name + ".tmp")
        beside.write_bytes(content)
        beside.replace(path)
        self.own[name] = content

    def _write(self) -> None:
        name, content = self._name(), self._content()
        self._place(name).write_bytes(content)
        self.own[name] = content

    def _append(self) -> None:
        line = b"line %d\n" % self.edits
        with self._place(LOG).open("ab") as file:
            file.write(line)
        self.own[LOG] = self.own.get(LOG, b"") + line

    def _share(self) -> None:
        """Save a file that the other user saves as well; who is first is nobody's to say."""
        name, content = f"shared {self.source.randrange(SHARED_FILES)}", self._content()
        beside = self.home / "shared.tmp"
        beside.write_bytes(content)
        beside.replace(self.mount.root / name)
        self.shared[name] = content

    def _move(self) -> None:
        if self.own:
            old, new = self.source.choice(sorted(self.own)), self._name()
            if LOG not in (old, new):
                self._place(old).replace(self._place(new))
                self.own[new] = self.own.pop(old)

    def _delete(self) -> None:
        if self.own:
            name = self.source.choice(sorted(self.own))
            if name != LOG:
                self._place(name).unlink()
                del self.own[name]


def kill_one(bench: Bench, source: random.Random) -> None:
    """Kill a client, the server, or all of them, and start what was killed again."""
    kinds: list[Callable[[], None]] = [each.kill for each in bench.mounts] + [bench.kill_server]
    source.shuffle(kinds)
    for kill in kinds[: source.choice((1, 1, 1, 2, 3))]:
        kill()
    # For a while users edit alone.
    time.sleep(source.uniform(0.0, 0.3))
    bench.restart()


def kill_often(bench: Bench, source: random.Random, minutes: float) -> int:
    """Kill at random moments for so many minutes; return how often."""
    end_s = time.monotonic() + 60.0 * minutes
    kills = 0
    while time.monotonic() < end_s:
        # No condition to wait for: that the moment is any is what the test is about.
        time.sleep(source.uniform(0.0, 1.5))
        kill_one(bench, source)
        kills += 1
    return kills


def check_own(users: list[User], contents: dict[str, bytes]) -> None:
    """Fail unless each user's own files are as he left them, with nothing beside them."""
    for user in users:
        start = f"of {user.mount.name}/"
        found = {
            path[len(start) :]: raw for path, raw in contents.items() if path.startswith(start)
        }
        assert found.keys() == user.own.keys(), found.keys() ^ user.own.keys()
        wrong = [name for name, content in user.own.items() if found[name] != content]
        assert not wrong, wrong


async def check_shared(bench: Bench, users: list[User], contents: dict[str, bytes]) -> int:
    """Fail where what a user saved last in a file of all is nowhere; return how many were replaced.

    It is in a file, or somebody replaced it when he had it: then the history has it.
    """
    live = set(contents.values())
    replaced = [each for user in users for each in user.shared.values() if each not in live]
    async with linked(bench.server.address) as link:
        history = await read_history(link)
    stored = {entry.digest for commit in history.commits for entry in commit.entries}
    lost = [each for each in replaced if digest_of(each) not in stored]
    assert not lost, [each[:40] for each in lost]
    return len(replaced)


async def test_kills_at_random_while_users_edit(tmp_path: Path) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
    minutes = float(os.environ.get(MINUTES_VARIABLE) or 1)
    print(f"repeat: {SEED_VARIABLE}={seed} .venv/bin/python -m pytest -m slow {REPEATED}")
    source = random.Random(seed)
    with benching(tmp_path) as bench:
        mounts = bench.start("ann", "ben")
        users = [User(mount, random.Random(source.random())) for mount in mounts]
        is_over = threading.Event()
        threads = [threading.Thread(target=user.run, args=(is_over,)) for user in users]
        for thread in threads:
            thread.start()
        try:
            kills = kill_often(bench, source, minutes)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert not any(user.trouble for user in users)
        [third] = bench.start("newcomer")
        tree = bench.assert_equal()
        contents = third.contents()
        check_own(users, contents)
        replaced = await check_shared(bench, users, contents)
        copies = [path for path in tree if b" (conflict of " in path]
        assert not [path for path in copies if not path.startswith(b"shared ")], copies
        edits = sum(user.edits for user in users)
        print(f"{kills} kills, {edits} edits, {len(copies)} conflict copies, {replaced} replaced")
        for mount in bench.running:
            mount.stop()
            assert not mount.leftovers()
        bench.stop_server()
        bench.server.assert_sound()
