"""How commands and servers fail: the exit code, the object and the sentence of docs/CLI.md."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from syncline.adapters.system import RandomIds
from syncline.core.changes import PutFile
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, EntryId, Revision, digest_of
from syncline.core.manifests import ChunkRef, build_content
from syncline.core.names import parse_name
from syncline.errors import Unavailable
from syncline.rpc.link import GrpcLink
from tests.e2e.history import author, linked, proposal
from tests.support.processes import (
    TIMEOUT_S,
    Argument,
    Cli,
    Server,
    command,
    environment,
    line_of,
    serving,
)

pytestmark = pytest.mark.process

STOP_S_MAX = 5.0


@dataclass(frozen=True)
class Failure:
    """A command line, and how it ends."""

    arguments: tuple[Argument, ...]
    code: int
    error: str
    named: bytes


FAILURES = {
    "store: no such file": Failure(("store", "none"), 15, "local_failure", b"none"),
    "store: stale": Failure(
        ("store", "new", "--to", "file", "--if-revision", "0"), 5, "stale", b"'file'"
    ),
    "store: below a file": Failure(("store", "new", "--to", "file/new"), 4, "exists", b"'file'"),
    "store: bad target": Failure(("store", "new", "--to", "../x"), 2, "invalid", b".."),
    "store: of a directory, if-revision": Failure(
        ("store", "dir", "--if-revision", "1"), 2, "invalid", b"'dir'"
    ),
    "store: a reserved name": Failure(
        ("store", "new", "--to", ".syncline"), 2, "invalid", b".syncline"
    ),
    "store: a pipe": Failure(("store", "pipe"), 15, "local_failure", b"pipe"),
    "fetch: not there": Failure(("fetch", "none"), 3, "not_found", b"'none'"),
    "fetch: not at that revision": Failure(
        ("fetch", "file", "--at", "999999"), 3, "not_found", b"999999"
    ),
    "fetch: over what stands there": Failure(
        ("fetch", "file", "--to", "new", "--no-overwrite"), 4, "exists", b"new"
    ),
    "fetch: a directory over a file": Failure(("fetch", "dir", "--to", "new"), 4, "exists", b"new"),
    "delete: not there": Failure(("delete", "none"), 3, "not_found", b"'none'"),
    "delete: not empty": Failure(("delete", "dir"), 14, "not_empty", b"'dir'"),
    "delete: stale": Failure(("delete", "file", "--if-revision", "999999"), 5, "stale", b"'file'"),
    "list: not there": Failure(("list", "none"), 3, "not_found", b"none"),
    "list: no such revision": Failure(("list", "--at", "999999"), 3, "not_found", b"999999"),
    "list: no such volume": Failure(("list", "--volume", "other"), 3, "not_found", b"'other'"),
    "stat: not there": Failure(("stat", "none"), 3, "not_found", b"none"),
    "stat: a bad path": Failure(("stat", "a/../b"), 2, "invalid", b".."),
    "watch: past the head": Failure(("watch", "--since", "999999"), 3, "not_found", b"999999"),
    "server: no data": Failure(
        ("server", "verify", "--data", "dir"), 3, "not_found", b"data directory"
    ),
}


@dataclass(frozen=True)
class Place:
    """A server with a file and a directory in it, and a local directory to work in."""

    server: Server
    local: Path

    def run(self, *arguments: Argument) -> subprocess.CompletedProcess[bytes]:
        return self.server.cli.run(*arguments, cwd=self.local)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("failures")
    local = directory / "local"
    (local / "dir").mkdir(parents=True)
    for name in ("file", "dir/inside", "new"):
        (local / name).write_bytes(name.encode())
    os.mkfifo(local / "pipe")
    with serving(directory / "server") as server:
        server.cli.records("store", "file", "dir", cwd=local)
        yield Place(server, local)


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_has_its_code_its_object_and_its_sentence(place: Place, case: str) -> None:
    failure = FAILURES[case]
    ran = place.run(*failure.arguments, "--json")
    assert ran.returncode == failure.code, ran.stderr
    record = json.loads(ran.stdout.splitlines()[-1])
    assert (record["result"], record["error"]["code"]) == ("failed", failure.error)
    assert record["error"]["message"]
    line = ran.stderr.splitlines()[0]
    assert failure.named in line, ran.stderr
    assert line.startswith(b"syncline: ")
    assert b"; " in line, "what to do about it"
    assert b"Traceback" not in ran.stderr


def test_what_fails_changes_nothing(place: Place) -> None:
    head = place.server.cli.head()
    for case in ("store: stale", "store: below a file", "delete: not empty", "delete: stale"):
        failure = FAILURES[case]
        assert place.run(*failure.arguments).returncode == failure.code
    assert place.server.cli.head() == head


@pytest.mark.parametrize(
    "arguments",
    [("store",), ("fetch",), ("frobnicate",), ("list", "--nonsense"), ("fetch", "a", "--at", "x")],
)
def test_wrong_usage(place: Place, arguments: tuple[str, ...]) -> None:
    ran = place.run(*arguments)
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"syncline: ")
    assert b"--help" in ran.stderr
    assert ran.stdout == b""


def test_one_of_three_paths_fails(place: Place) -> None:
    for verb, at in {"fetch": ("--to", f"{place.local}/three/"), "stat": ()}.items():
        records = place.server.cli.records(verb, "file", "none", "dir/inside", *at, code=13)
        failed = [record for record in records if record.get("result") == "failed"]
        assert [record["path"] for record in failed] == ["none"]
        assert len(records) == 3
    ran = place.run("fetch", "file", "none", "dir/inside", "--to", "three/")
    assert ran.stderr.endswith(b"syncline: 1 of 3 paths failed\n")
    assert (place.local / "three" / "inside").read_bytes() == b"dir/inside"


def test_nobody_answers(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        cli = replace(place.server.cli, address=address)
        [record] = cli.records("list", "--timeout", "0.5", code=8)
        assert record["error"]["code"] == "timed_out"  # type: ignore[index]
    [record] = cli.records("list", "--timeout", "5", code=7)
    assert record["error"]["code"] == "unavailable"  # type: ignore[index]
    ran = cli.run("store", "new", cwd=place.local)
    assert ran.returncode == 7
    assert address.encode() in ran.stderr
    assert b"syncline serve" in ran.stderr


@asynccontextmanager
async def stalled_store(
    server: Server, name: bytes, id: EntryId, base: Revision
) -> AsyncGenerator[None, None]:
    """Hold the operation lock of a file by a STORE whose content never comes."""
    parts = [os.urandom(100_000), os.urandom(100_000)]
    refs = [ChunkRef(digest_of(part), len(part)) for part in parts]
    content, _ = build_content(digest_of(b"".join(parts)), 200_000, refs)
    asked = asyncio.Event()

    async def never(digest: Digest) -> bytes:
        asked.set()
        await asyncio.Event().wait()
        return digest

    async def hold(link: GrpcLink) -> None:
        put = PutFile(id, base, ROOT_ID, parse_name(name), 0o644, 0, content)
        try:
            await link.store(proposal(author("one who stalls"), put), never)
        except Unavailable:
            # The server ends while the lock is held: that is one of the tests.
            assert asked.is_set()
        else:
            raise AssertionError("a STORE without its content was committed")

    async with linked(server.address) as link, asyncio.TaskGroup() as group:
        task = group.create_task(hold(link))
        async with asyncio.timeout(TIMEOUT_S):
            await asked.wait()
        try:
            yield
        finally:
            task.cancel()


async def test_another_writer_holds_the_lock(place: Place) -> None:
    id = RandomIds().entry()
    async with stalled_store(place.server, b"held", id, NO_REVISION):
        ran = await asyncio.to_thread(place.run, "store", "new", "--to", "held", "--timeout", "1")
        assert ran.returncode == 6, (ran.returncode, ran.stderr)
        assert b"'held'" in ran.stderr
        assert b"one who stalls" in ran.stderr
    assert (await asyncio.to_thread(place.run, "store", "new", "--to", "held")).returncode == 0


async def test_the_server_has_too_much_to_do(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server.limits]\nstores_max = 1\nstores_each_max = 1\n")
    local = tmp_path / "new"
    local.write_bytes(b"new")
    with serving(tmp_path / "server", "--config", config) as server:
        async with stalled_store(server, b"held", RandomIds().entry(), NO_REVISION):
            arguments = ("store", local, "--timeout", "1", "--json")
            ran = await asyncio.to_thread(server.cli.run, *arguments)
            assert ran.returncode == 17, (ran.returncode, ran.stderr)
            assert b'"throttled"' in ran.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_server_with_much_to_do_ends_soon(tmp_path: Path, number: signal.Signals) -> None:
    with serving(tmp_path / "server") as server:
        before = set(server.data.rglob("*"))
        with server.cli.start("watch", "--since", "0", "--json"):
            async with stalled_store(server, b"held", RandomIds().entry(), NO_REVISION):
                took_s = await asyncio.to_thread(server.stop, number)
        assert took_s < STOP_S_MAX
        left = {path for path in server.data.rglob("*") if path.suffix != ".pack"}
        assert left <= before, "a leftover"
        server.start()
        assert server.cli.head() == 0
        server.stop()
        server.assert_sound()


def serve(home: Path, *arguments: Argument) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command("serve", *arguments),
        capture_output=True,
        env=environment(home),
        timeout=TIMEOUT_S,
    )


def test_a_second_server(place: Place, tmp_path: Path) -> None:
    server = place.server
    for data, listen in ((server.data, "127.0.0.1:0"), (tmp_path / "data", server.address)):
        ran = serve(tmp_path, "--data", data, "--listen", listen)
        assert ran.returncode == 16, ran.stderr
        assert ran.stdout == b""
        assert ran.stderr.splitlines()[-1].startswith(b"syncline: ")
    assert server.cli.run("list").returncode == 0


def test_data_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        server.stop()
        file = server.data / "metadata.sqlite3"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 99")
        before = file.read_bytes()
        ran = serve(tmp_path, "--data", server.data, "--listen", "127.0.0.1:0")
        assert ran.returncode == 12, ran.stderr
        assert b"99" in ran.stderr
        assert file.read_bytes() == before


def test_other_machines_are_let_in_only_when_told(tmp_path: Path) -> None:
    arguments = ("--data", tmp_path / "data", "--listen", "0.0.0.0:0")
    ran = serve(tmp_path, *arguments)
    assert ran.returncode == 2
    assert b"--insecure" in ran.stderr
    assert not (tmp_path / "data").exists()
    # In a network of its own: nobody else can reach it there.
    alone = Cli("", tmp_path, wrapper=("unshare", "-n"))
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("a network of its own cannot be made here")
    with alone.start("serve", *arguments, "--insecure") as process:
        assert b" on 0.0.0.0:" in line_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
