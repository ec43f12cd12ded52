"""Real processes: each command's success and its failures, by exit code, line and object."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

pytestmark = pytest.mark.process

READY = re.compile(rb"syncline: serving volume '(.+)' on (\S+), data in (.+)\n")
TIMEOUT_S = 60.0


def environment(home: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}


def command(*arguments: str | bytes | Path) -> list[str | bytes | Path]:
    return [sys.executable, "-m", "syncline", *arguments]


@dataclass(frozen=True)
class Server:
    """A running server, and a home for those who use it."""

    address: str
    data: Path
    home: Path
    ready: bytes
    process: subprocess.Popen[bytes]

    @property
    def environ(self) -> dict[str, str]:
        return {**environment(self.home), "SYNCLINE_SERVER": self.address}

    def run(
        self, *arguments: str | bytes | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command(*arguments),
            capture_output=True,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            cwd=cwd or self.home,
            timeout=TIMEOUT_S,
        )

    def records(
        self, *arguments: str | bytes | Path, code: int = 0, cwd: Path | None = None
    ) -> list[dict[str, object]]:
        ran = self.run(*arguments, "--json", cwd=cwd)
        assert ran.returncode == code, ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines()]

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with started(*arguments, environ=self.environ) as process:
            yield process


@contextmanager
def started(
    *arguments: str | Path, environ: dict[str, str], log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("wb")) if log else subprocess.PIPE
        yield from _started(arguments, environ, stderr)


def _started(
    arguments: tuple[str | Path, ...], environ: dict[str, str], stderr: IO[bytes] | int
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=environ,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=TIMEOUT_S)


def line_of(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    deadline_s = time.monotonic() + TIMEOUT_S
    line = b""
    while not line.endswith(b"\n"):
        left_s = deadline_s - time.monotonic()
        assert select.select([process.stdout], [], [], max(left_s, 0))[0], "no line in time"
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, f"no line: {process.communicate()}"
        line += byte
    return line


@contextmanager
def serving(home: Path, *arguments: str) -> Iterator[Server]:
    data = home / "server"
    command_line = ("serve", "--data", data, "--listen", "127.0.0.1:0", *arguments)
    with started(*command_line, environ=environment(home), log=home / "log") as process:
        ready = line_of(process)
        match = READY.fullmatch(ready)
        assert match is not None, ready
        yield Server(match[2].decode(), data, home, ready, process)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


def make(directory: Path, **files: bytes) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


class TestStore:
    def test_new_unchanged_replaced(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path, a=b"one")
        first = server.run("store", "a", "--to", "s1/", cwd=tmp_path)
        assert first.returncode == 0, first.stderr
        match = re.fullmatch(rb"stored     s1/a  revision (\d+) \(new\)\n", first.stdout)
        assert match is not None, first.stdout
        again = server.run("store", "a", "--to", "s1/", cwd=tmp_path)
        assert again.stdout == b"unchanged  s1/a  revision %s\n" % match[1]
        make(tmp_path, a=b"two!")
        [record] = server.records("store", "a", "--to", "s1/", cwd=tmp_path)
        assert record["result"] == "stored"
        assert record["replaced"] == int(match[1])
        assert (record["path"], record["local"], record["size"]) == ("s1/a", "a", 4)

    def test_a_revision_that_is_not_the_newest_is_stale(
        self, server: Server, tmp_path: Path
    ) -> None:
        make(tmp_path, a=b"one")
        [record] = server.records("store", "a", "--to", "s2", "--if-revision", "0", cwd=tmp_path)
        make(tmp_path, a=b"two")
        stale = server.run("store", "a", "--to", "s2", "--if-revision", "0", cwd=tmp_path)
        assert stale.returncode == 5
        assert stale.stderr.startswith(b"syncline: ")
        assert b"s2" in stale.stderr
        revision = str(record["revision"])
        [again] = server.records(
            "store", "a", "--to", "s2", "--if-revision", revision, cwd=tmp_path
        )
        assert again["replaced"] == record["revision"]

    def test_some_failed_is_partial(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path, a=b"one")
        ran = server.run("store", "a", "none", "--to", "s3/", cwd=tmp_path)
        assert ran.returncode == 13
        assert b"stored     s3/a" in ran.stdout
        assert ran.stderr.endswith(b"syncline: 1 of 2 paths failed\n")

    def test_a_local_path_that_is_not_there(self, server: Server, tmp_path: Path) -> None:
        ran = server.run("store", "none", cwd=tmp_path)
        assert ran.returncode in (3, 15)
        assert ran.stderr.count(b"\n") == 1
        assert b"none" in ran.stderr

    def test_any_bytes_as_a_name_in_any_locale(self, server: Server, tmp_path: Path) -> None:
        raw = b"s4\xff\n\x1b[2J\xc3\xa9"
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + raw))).write_bytes(b"x")
        [record] = server.records("store", raw, cwd=tmp_path)
        assert record["path"] == "s4\\xff\\x0a\\x1b[2Jé"
        [stat] = server.records("stat", raw)
        assert stat["path"] == record["path"]
        gone = server.run("delete", raw, "--", cwd=tmp_path)
        assert gone.returncode == 0
        assert b"\x1b" not in gone.stdout

    @pytest.mark.parametrize("is_stdout_shown", [False, True], ids=["stderr", "both"])
    def test_a_bar_on_a_terminal_leaves_the_lines_alone(
        self, server: Server, tmp_path: Path, is_stdout_shown: bool
    ) -> None:
        make(tmp_path, a=os.urandom(2_000_000))
        place = f"s5-{is_stdout_shown}"
        ours, theirs = os.openpty()
        with os.fdopen(ours, "rb", buffering=0) as terminal:
            ran = subprocess.run(
                command("store", "a", "none", "--to", f"{place}/"),
                stdout=theirs if is_stdout_shown else subprocess.PIPE,
                stderr=theirs,
                env={**server.environ, "TERM": "xterm"},
                cwd=tmp_path,
                timeout=TIMEOUT_S,
            )
            os.close(theirs)
            shown = b""
            # Reading a terminal whose other end is closed ends with EIO.
            with suppress(OSError):
                while piece := terminal.read(65536):
                    shown += piece
        assert ran.returncode == 13
        lines = shown.replace(b"\r\n", b"\n") if is_stdout_shown else ran.stdout
        assert re.search(rb"stored     %s/a  revision \d+ \(new\)\n" % place.encode(), lines)
        assert b"syncline: 1 of 2 paths failed" in shown
        assert b"2/2 paths" in shown
        assert b"\x1b" not in (ran.stdout or b"")


class TestFetch:
    def test_now_and_then(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path, a=b"one")
        [first] = server.records("store", "a", "--to", "f1", cwd=tmp_path)
        make(tmp_path, a=b"two")
        server.records("store", "a", "--to", "f1", cwd=tmp_path)
        ran = server.run("fetch", "f1", "--at", str(first["revision"]), "--to", "old", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == b"fetched    f1  revision %d to old\n" % int(str(first["revision"]))
        assert (tmp_path / "old").read_bytes() == b"one"
        [record] = server.records("fetch", "f1", "--to", "new", cwd=tmp_path)
        assert (record["result"], record["local"], record["size"]) == ("fetched", "new", 3)
        assert (tmp_path / "new").read_bytes() == b"two"

    def test_what_stands_there_is_left_alone_when_told(
        self, server: Server, tmp_path: Path
    ) -> None:
        make(tmp_path, a=b"one")
        server.records("store", "a", "--to", "f2", cwd=tmp_path)
        make(tmp_path, f2=b"mine")
        ran = server.run("fetch", "--no-overwrite", "f2", cwd=tmp_path)
        assert ran.returncode == 4
        assert (tmp_path / "f2").read_bytes() == b"mine"
        assert server.run("fetch", "f2", cwd=tmp_path).returncode == 0
        assert (tmp_path / "f2").read_bytes() == b"one"

    def test_nothing_there(self, server: Server, tmp_path: Path) -> None:
        ran = server.run("fetch", "f3-none", cwd=tmp_path)
        assert ran.returncode == 3
        assert b"f3-none" in ran.stderr
        late = server.run("fetch", "f3-none", "--at", "999999", cwd=tmp_path)
        assert late.returncode == 3


class TestDelete:
    def test_directories_need_recursive(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path / "d1", a=b"one", b=b"two")
        server.records("store", "d1", cwd=tmp_path)
        refused = server.run("delete", "d1/")
        assert refused.returncode == 14
        assert b"--recursive" in refused.stderr
        records = server.records("delete", "d1", "--recursive")
        assert sorted(str(record["path"]) for record in records) == ["d1", "d1/a", "d1/b"]
        assert server.run("delete", "d1").returncode == 3

    def test_another_revision_is_stale_and_the_past_stays(
        self, server: Server, tmp_path: Path
    ) -> None:
        make(tmp_path, a=b"one")
        [record] = server.records("store", "a", "--to", "d2", cwd=tmp_path)
        wrong = int(str(record["revision"])) + 1000
        assert server.run("delete", "d2", "--if-revision", str(wrong)).returncode == 5
        revision = str(record["revision"])
        assert server.run("delete", "d2", "--if-revision", revision).returncode == 0
        assert server.run("list", "d2").returncode == 3
        assert len(server.records("list", "d2", "--at", revision)) == 1


class TestLook:
    def test_list(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path / "l1" / "sub", a=b"one")
        (tmp_path / "l1" / "link").symlink_to("sub/a")
        (tmp_path / "l1" / "sub" / "a").chmod(0o640)
        os.utime(tmp_path / "l1" / "sub" / "a", (0, 1_000_000_000))
        server.records("store", "l1", cwd=tmp_path)
        flat = server.run("list", "l1/").stdout.splitlines()
        assert [line.split(b"  ")[-1] for line in flat] == [b"l1/link -> sub/a", b"l1/sub/"]
        whole = server.run("list", "--recursive", "l1").stdout.splitlines()
        assert re.fullmatch(rb"-rw-r-----\s+3  2001-09-09 01:46:40\s+\d+  l1/sub/a", whole[-1]), (
            whole
        )
        records = server.records("list", "l1", "--recursive")
        assert [record["kind"] for record in records] == ["link", "directory", "file"]
        assert records[2]["mode"] == "0640"
        assert server.run("list", "l1-none").returncode == 3

    def test_stat(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path, a=b"one")
        server.records("store", "a", "--to", "t1", cwd=tmp_path)
        text = server.run("stat", "t1").stdout.decode()
        assert text.startswith("t1\n  kind      file\n")
        partial = server.run("stat", "t1", "t1-none")
        assert partial.returncode == 13
        assert partial.stderr.endswith(b"syncline: 1 of 2 paths failed\n")
        [missing] = server.records("stat", "t1-none", code=3)
        assert (missing["path"], missing["result"]) == ("t1-none", "failed")

    def test_stat_of_the_root_is_the_volume(self, server: Server) -> None:
        records = server.records("stat", "", ".", "/", "./")
        assert len(records) == 4
        for record in records:
            assert (record["kind"], record["volume"], record["path"]) == ("root", "default", "")

    def test_a_reader_that_went_away(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path, a=b"one")
        server.records("store", "a", "--to", "l3", cwd=tmp_path)
        reader, writer = os.pipe()
        os.close(reader)
        ran = subprocess.run(
            command("list"),
            stdout=writer,
            stderr=subprocess.PIPE,
            env=server.environ,
            timeout=TIMEOUT_S,
        )
        os.close(writer)
        assert (ran.returncode, ran.stderr) == (141, b"")


class TestWatch:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
    )
    def test_each_commit_until_a_signal(
        self, server: Server, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        place = f"w{code}"
        make(tmp_path, a=b"one")
        since = str(server.records("stat", ".")[0]["revision"])
        server.records("store", "a", "--to", f"{place}-other", cwd=tmp_path)
        [stored] = server.records("store", "a", "--to", place, cwd=tmp_path)
        with server.start("watch", place, "--since", since, "--json") as watch:
            commit = json.loads(line_of(watch))
            assert commit["revision"] == stored["revision"]
            [change] = commit["changes"]
            assert (change["effect"], change["path"], change["size"]) == ("created", place, 3)
            server.records("delete", place)
            [change] = json.loads(line_of(watch))["changes"]
            assert change["effect"] == "deleted"
            watch.send_signal(number)
            rest, said = watch.communicate(timeout=TIMEOUT_S)
            assert (watch.returncode, rest) == (code, b"")
            assert said.startswith(b"syncline: interrupted")

    def test_lines_for_people(self, server: Server, tmp_path: Path) -> None:
        make(tmp_path, a=b"one")
        [stored] = server.records("store", "a", "--to", "w1", cwd=tmp_path)
        since = str(int(str(stored["revision"])) - 1)
        with server.start("watch", "--since", since, "w1") as watch:
            line = line_of(watch).decode()
        assert re.fullmatch(r"\d+  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  .+@.+  created  w1\n", line)

    def test_past_the_head_is_not_found(self, server: Server) -> None:
        assert server.run("watch", "--since", "999999").returncode == 3


class TestReach:
    def test_nobody_listens(self, tmp_path: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            ran = subprocess.run(
                command("list", "--server", address, "--json"),
                capture_output=True,
                env=environment(tmp_path),
                timeout=TIMEOUT_S,
            )
        assert ran.returncode == 7
        assert b"start it with 'syncline serve'" in ran.stderr
        assert json.loads(ran.stdout)["error"]["code"] == "unavailable"

    def test_somebody_listens_and_says_nothing(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            ran = subprocess.run(
                command("stat", "a", "--server", address, "--timeout", "0.3"),
                capture_output=True,
                env=environment(tmp_path),
                timeout=TIMEOUT_S,
            )
        assert ran.returncode in (7, 8)
        assert ran.stderr.startswith(b"syncline: ")

    def test_no_such_volume(self, server: Server) -> None:
        ran = server.run("list", "--volume", "none")
        assert ran.returncode == 3
        assert b"none" in ran.stderr


class TestServe:
    def test_one_line_and_a_clean_end(self, tmp_path: Path) -> None:
        with serving(tmp_path, "--volume", "photos") as server:
            assert server.ready.startswith(b"syncline: serving volume 'photos' on 127.0.0.1:")
            assert server.ready.endswith(b", data in %s\n" % os.fsencode(server.data))
            for where in (server.data, tmp_path / "other"):
                second = server.run("serve", "--data", where, "--listen", server.address)
                assert second.returncode == 16, second.stderr
                assert second.stdout == b""
            check = server.run("server", "verify", "--data", server.data)
            assert check.returncode == 16
            server.process.send_signal(signal.SIGTERM)
            rest, _ = server.process.communicate(timeout=TIMEOUT_S)
            assert (server.process.returncode, rest) == (0, b"")

    def test_maintenance_of_a_stopped_server(self, tmp_path: Path) -> None:
        with serving(tmp_path) as server:
            make(tmp_path, a=os.urandom(300_000))
            server.records("store", "a", cwd=tmp_path)
            server.process.send_signal(signal.SIGINT)
            server.process.communicate(timeout=TIMEOUT_S)
            assert server.process.returncode == 0
            [whole] = server.records("server", "verify", "--data", server.data)
            assert whole == {"result": "verified", "findings": 0}
            [built] = server.records("server", "rebuild", "--data", server.data)
            assert (built["volume"], built["damaged"]) == ("default", 0)
            [pack] = [
                path for path in server.data.rglob("packs/*") if path.stat().st_size > 300_000
            ]
            with pack.open("r+b") as file:
                file.seek(150_000)
                byte = file.read(1)
                file.seek(150_000)
                file.write(bytes([byte[0] ^ 1]))
            ran = server.run("server", "verify", "--data", server.data)
            assert ran.returncode == 11
            assert b"'a' at revision" in ran.stdout
            assert server.run("server", "rebuild", "--data", server.data).returncode == 11
