"""`serve --mount`: a real server with a plain directory of its own, beside a client's mount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.compose.control import ask_status, ask_wait
from syncline.ports.mount_control import MountPhase, WaitEnd
from tests.support.mounting import Mount
from tests.support.processes import TIMEOUT_S, Server, environment, serving
from tests.support.realtree import Fact, build_real_tree, differences
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

ENTRIES = 800
EDITS = 150


class Pair:
    """A server with a mount of its own, and a client with another."""

    def __init__(self, server: Server, own: Mount, client: Mount) -> None:
        self.server = server
        self.own = own
        self.client = client

    @property
    def state(self) -> Path:
        """Return where the server's mount keeps its state."""
        [found] = self.server.data.glob("mounts/*/*")
        return found

    def settle(self) -> None:
        """Return when all that was edited before is on both sides."""
        while True:
            for state in (self.state, self.client.state):
                assert ask_wait(state, TIMEOUT_S).end is WaitEnd.IN_SYNC
            states = [ask_status(self.state), self.client.status()]
            is_quiet = all(status.phase is MountPhase.IN_SYNC for status in states)
            if is_quiet and states[0].cursor == states[1].cursor:
                return

    def assert_equal(self) -> dict[bytes, Fact]:
        """Settle, fail unless both trees are equal, and return that tree."""
        self.settle()
        tree = self.own.tree()
        assert not differences(tree, self.client.tree())
        return tree


@contextmanager
def paired(directory: Path) -> Iterator[Pair]:
    """Run a server with a mounted real tree, and a client's mount, for the length of the block."""
    files = directory / "server's" / "mount"
    own = Mount(files.parent, "server", "")
    build_real_tree(files, entries_min=ENTRIES)
    with serving(directory / "server", "--mount", files) as server:
        client = Mount(directory / "client", "client", server.address)
        pair = Pair(server, own, client)
        try:
            client.start()
            yield pair
        except BaseException:
            print(f"-- log of the client\n{client.log_end}\n-- log of the server\n{server.log}")
            raise
        finally:
            client.close()


def test_both_are_equal_through_edits_and_kills_of_the_server(tmp_path: Path) -> None:
    with paired(tmp_path) as pair:
        tree = pair.assert_equal()
        assert len(tree) > ENTRIES
        assert b", mounted in " in pair.server.ready
        server, own, client = pair.server, pair.own.root, pair.client.root

        # Both sides are written while the server dies in the middle.
        for number in range(EDITS):
            (own / f"of the server {number}").write_bytes(b"s%d" % number)
            (client / f"of the client {number}").write_bytes(b"c%d" % number)
            if number == EDITS // 2:
                server.kill()
        (own / "modes").rename(own / "moved while it was down")
        (client / "links" / "file").write_bytes(b"edited while it was down")
        (own / "empty" / "directories" / "in each other").rmdir()
        server.start()
        changed = pair.assert_equal()
        assert len(changed) == len(tree) + 2 * EDITS - 1
        assert b"moved while it was down/file 644" in changed
        assert (own / "links" / "file").read_bytes() == b"edited while it was down"

        server.kill()
        server.start()
        assert pair.assert_equal() == changed
        assert pair.client.stop() < 10
        assert server.stop() < 10
        server.assert_sound()


def test_the_commands_of_a_mount_work_on_it(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "one").write_bytes(b"one")
    with serving(tmp_path / "server", "--mount", files) as server:
        [waited] = server.cli.records("wait", "--timeout", "60", cwd=files)
        assert waited["result"] == "in_sync"
        [status] = server.cli.records("status", files)
        assert (status["directory"], status["server"]) == (str(files), server.address)
        assert [each["path"] for each in server.cli.records("list")] == ["one"]
        refused = server.cli.run("mount", files)
        assert refused.returncode == 16

        # Its own trouble is its own: the server serves on, and says why the mount does not.
        files.rename(tmp_path / "away")
        [found] = server.data.glob("mounts/*/*")
        wait_until(lambda: ask_status(found).phase is MountPhase.HALTED, "the mount halts")
        assert "reason=root_missing" in server.log
        (server.home / "two").write_bytes(b"two")
        assert server.cli.run("store", "two").returncode == 0
        (tmp_path / "away").rename(files)
        wait_until((files / "two").exists, "the mount goes on")


def test_a_directory_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    server = Server(tmp_path)
    arguments = ("serve", "--data", server.data, "--listen", "127.0.0.1:0")
    for mount, code, said in (
        (tmp_path / "none", 3, b"there is no directory"),
        (server.data, 2, b"must not lie in each other"),
        ("", 2, b"--mount"),
    ):
        with server.cli.start(*arguments, "--mount", mount) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, out) == (code, b"")
        assert said in err.splitlines()[-1]


def test_the_environment_names_it_too(tmp_path: Path) -> None:
    server = Server(tmp_path)
    files = tmp_path / "files"
    files.mkdir()
    (files / "one").write_bytes(b"one")
    environ = {**environment(server.home), "SYNCLINE_MOUNT": str(files)}
    wrapper = ["env", *(f"{name}={value}" for name, value in environ.items())]
    with serving(tmp_path / "other", wrapper=wrapper) as other:
        assert other.ready.endswith(b", mounted in %b\n" % os.fsencode(files))
        wait_until(lambda: other.cli.head() > 0, "the directory is loaded")
