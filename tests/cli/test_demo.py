"""`syncline demo`: what it looks at, what it measures by, and that it leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from syncline.cli.demo_processes import Signals, Stopped
from syncline.cli.demo_screen import Screen, ms_text
from syncline.cli.demo_steps import CLIENTS, save, steps
from syncline.cli.demo_tree import copy_files, differences, library_files, listed_tree, local_tree
from syncline.cli.exits import ExitCode
from syncline.cli.output import Output
from syncline.errors import LocalFailure
from tests.support.processes import JsonObject, command, end, environment, line_of
from tests.support.wait import wait_until

TIMEOUT_S = 240


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what the demo puts in; for reading."""
    target = tmp_path_factory.mktemp("library") / "tree"
    files = library_files()
    copied = copy_files(files, target, lambda: None)
    assert copied.entries == len(local_tree(target).facts) > len(files.paths)
    assert copied.size == local_tree(target).size
    return target


class TestTree:
    def test_it_is_real_and_bounded(self, library: Path) -> None:
        paths = library_files().paths
        assert 1_000 < len(paths) <= 3_000
        assert len(set(paths)) == len(paths)

    def test_a_python_without_files_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
        with pytest.raises(LocalFailure, match=r"lacks abc\.py"):
            library_files()

    def test_every_difference_is_found(self, tmp_path: Path) -> None:
        for name in ("left", "right"):
            root = tmp_path / name
            (root / "below").mkdir(parents=True)
            (root / "below" / "file").write_bytes(b"content")
            (root / "mode").write_bytes(b"content")
            (root / "time").write_bytes(b"content")
            (root / "link").symlink_to("mode")
            for path in (root / "below" / "file", root / "mode", root / "time", root / "link"):
                os.utime(path, ns=(0, 10**18), follow_symlinks=False)
            (root / ".syncline").mkdir()
            (root / ".syncline" / "marker").write_text(name)
        left, right = tmp_path / "left", tmp_path / "right"
        assert differences(local_tree(left), local_tree(right)) == []
        assert local_tree(left).digest == local_tree(right).digest
        (right / "mode").chmod(0o600)
        os.utime(right / "time", ns=(0, 1))
        (right / "link").unlink()
        (right / "link").symlink_to("time")
        (right / "more").mkdir()
        (right / "below" / "file").write_bytes(b"CONTENT")
        os.utime(right / "below" / "file", ns=(0, 10**18))
        found = differences(local_tree(left), local_tree(right))
        assert found == ["below/file", "link", "mode", "more", "time"]
        assert local_tree(left).digest != local_tree(right).digest

    def test_what_the_server_lists_is_told_in_the_same_words(self, tmp_path: Path) -> None:
        (tmp_path / "below").mkdir(mode=0o755)
        (tmp_path / "below").chmod(0o755)
        file = tmp_path / "below" / "one\n"
        file.write_bytes(b"one")
        file.chmod(0o640)
        (tmp_path / "link").symlink_to("below")
        for path in (file, tmp_path / "link"):
            os.utime(path, ns=(0, 5), follow_symlinks=False)
        local = local_tree(tmp_path)
        digest = local.facts["below/one\\x0a"].split()[-1]
        entries: list[JsonObject] = [
            {"path": "below", "kind": "directory", "mode": "0755"},
            {
                "path": "below/one\\x0a",
                "kind": "file",
                "mode": "0640",
                "mtime_ns": 5,
                "size": 3,
                "digest": digest,
            },
            {"path": "link", "kind": "link", "mtime_ns": 5, "target": "below"},
        ]
        assert listed_tree(json.dumps(entry).encode() for entry in entries) == local


def test_each_step_is_there_when_it_was_made_and_not_before(library: Path, tmp_path: Path) -> None:
    doer, other = tmp_path / "doer", tmp_path / "other"
    shutil.copytree(library, doer, symlinks=True)
    shutil.copytree(library, other, symlinks=True)
    made = []
    for step in (*steps(doer), save("anna", 1), save("ben", 2)):
        assert not step.is_there(other), step.what
        step.act(doer)
        step.act(other)
        assert step.is_there(doer), step.what
        assert step.is_there(other), step.what
        made.append(step)
    assert {step.who for step in made} == set(CLIENTS)
    assert len({step.what for step in made}) == len(made) > 8


class TestScreen:
    def test_lines_in_a_log_are_plain(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        screen = Screen(Output(is_json=False))
        screen.part("Changes")
        screen.columns(CLIENTS)
        screen.row("anna", "edits", ["does it", ms_text(9.87), ms_text(123.4)], "green")
        with screen.progress(CLIENTS, 10) as advance:
            advance("anna", 5)
        screen.record({"event": "change"})
        out = capfdbinary.readouterr().out
        assert b"\x1b" not in out
        lines = out.decode().splitlines()
        assert lines[1] == "1. Changes"
        assert lines[3].split() == ["anna", "edits", "does", "it", "9.9", "ms", "123", "ms"]
        assert len(lines) == 4

    def test_a_program_gets_objects_alone(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        screen = Screen(Output(is_json=True))
        screen.title("for people")
        screen.note("for people")
        screen.record({"event": "change"})
        assert json.loads(capfdbinary.readouterr().out) == {"event": "change"}

    def test_a_long_time_is_told_in_seconds(self) -> None:
        assert ms_text(12_345.6) == "12.3 s"


def test_a_signal_is_raised_where_the_program_asks() -> None:
    signals = Signals()
    before = signal.getsignal(signal.SIGTERM)
    with signals.noted():
        signals.check()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped) as stopped:
            signals.check()
    assert stopped.value.code is ExitCode.TERMINATED
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.process
class TestProcess:
    @contextmanager
    def started(self, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
        """Start the demo; yield it and the ids of its processes when all of them run."""
        (tmp_path / "tmp").mkdir()
        environ = {**environment(tmp_path), "TMPDIR": str(tmp_path / "tmp")}
        pids: list[int] = []
        process = subprocess.Popen(
            command("demo", "--json"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
        )
        try:
            for name in ("server", *CLIENTS):
                record = json.loads(line_of(process))
                assert (record["event"], record["name"]) == ("started", name)
                pids.append(record["pid"])
            yield process, pids
        finally:
            # In order, and not by force: it has processes of its own to end.
            process.terminate()
            process.wait(TIMEOUT_S)
            end(process)

    def assert_clean(self, tmp_path: Path, pids: list[int]) -> None:
        assert list((tmp_path / "tmp").iterdir()) == []
        for pid in pids:
            wait_until(lambda pid=pid: not is_ours(pid), f"process {pid} is gone")  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("number", "code"),
        [
            (signal.SIGINT, 130),
            pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
            pytest.param(signal.SIGHUP, 143, marks=pytest.mark.slow),
        ],
    )
    def test_a_signal_ends_it_and_nothing_is_left(
        self, tmp_path: Path, number: signal.Signals, code: int
    ) -> None:
        with self.started(tmp_path) as (process, pids):
            assert all(is_ours(pid) for pid in pids)
            process.send_signal(number)
            _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, err
        assert err.startswith(b"syncline: interrupted")
        self.assert_clean(tmp_path, pids)

    @pytest.mark.slow
    def test_a_failure_is_told_and_nothing_is_left(self, tmp_path: Path) -> None:
        with self.started(tmp_path) as (process, pids):
            os.kill(pids[-1], signal.SIGKILL)
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == ExitCode.INTERNAL
        assert b"syncline: a mount ended by itself" in err
        assert json.loads(out.splitlines()[-1])["result"] == "failed"
        assert b"syncline: log of server: " in err
        self.assert_clean(tmp_path, pids)

    @pytest.mark.slow
    def test_a_reader_that_goes_away_ends_it(self, tmp_path: Path) -> None:
        with self.started(tmp_path) as (process, pids):
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait(TIMEOUT_S) == ExitCode.PIPE_CLOSED
        self.assert_clean(tmp_path, pids)

    def test_its_help_imports_nothing_heavy(self) -> None:
        script = (
            "import sys; from syncline.cli.main import group\n"
            "group.main(['demo', '--help'], standalone_mode=False)\n"
            "heavy = {'asyncio', 'blake3', 'grpc', 'rich', 'syncline.compose'}\n"
            "sys.exit(len(heavy & set(sys.modules)))"
        )
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
        assert ran.returncode == 0
        assert b"Example:\n    syncline demo\n" in ran.stdout

    @pytest.mark.slow
    def test_in_the_end_all_is_equal_and_nothing_is_left(self, tmp_path: Path) -> None:
        with self.started(tmp_path) as (process, pids):
            out, err = process.communicate(timeout=TIMEOUT_S)
        records = [json.loads(line) for line in out.splitlines()]
        assert process.returncode == 0, err
        assert records[-1]["result"] == "equal"
        changes = [record for record in records if record.get("event") == "change"]
        assert len(changes) > 8
        for change in changes:
            assert {change["name"], *change["appeared_ms"]} == set(CLIENTS)
        digests = [record["digest"] for record in records if record.get("event") == "replica"]
        assert len(digests) == 4
        assert len(set(digests)) == 1
        assert err == b""
        self.assert_clean(tmp_path, pids)


def is_ours(pid: int) -> bool:
    """Tell whether a process of this id runs, and is one of Syncline."""
    try:
        return b"syncline" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
