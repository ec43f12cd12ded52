"""The command line before any work: help, usage errors, and how little it imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from syncline import __version__
from syncline.cli.main import group

COMMANDS = [
    ["demo"],
    ["serve"],
    ["mount"],
    ["status"],
    ["wait"],
    ["resume"],
    ["store"],
    ["fetch"],
    ["delete"],
    ["list"],
    ["stat"],
    ["watch"],
    ["server"],
    ["server", "rebuild"],
    ["server", "verify"],
]
CLIENT_COMMANDS = [["mount"], ["store"], ["fetch"], ["delete"], ["list"], ["stat"], ["watch"]]

HEAVY = ["asyncio", "blake3", "grpc", "google", "logging", "platformdirs", "rich", "sqlite3"]
HEAVY += ["tomllib", "syncline.client", "syncline.compose", "syncline.core", "syncline.rpc"]

SCRIPT = """
import contextlib, io, json, sys
from syncline.cli.main import group
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        group.main([*command, "--help"], prog_name="syncline", standalone_mode=False)
    assert "Example:" in out.getvalue()
print(json.dumps([name for name in json.loads(sys.argv[2]) if name in sys.modules]))
"""


class TestHelp:
    @pytest.mark.process
    def test_it_imports_nothing_heavy(self) -> None:
        # The time of --help is the time of imports; this holds whatever else the machine does.
        ran = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps([[], *COMMANDS]), json.dumps(HEAVY)],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert json.loads(ran.stdout) == []

    @pytest.mark.parametrize("command", COMMANDS)
    def test_each_command_shows_an_example_of_itself(self, command: list[str]) -> None:
        ran = CliRunner().invoke(group, [*command, "--help"], prog_name="syncline")
        assert ran.exit_code == 0
        examples = ran.stdout.partition("Example:")[2].strip().splitlines()
        assert examples
        assert all(line.strip().startswith(f"syncline {command[0]}") for line in examples)

    @pytest.mark.parametrize("command", CLIENT_COMMANDS)
    def test_each_client_command_has_the_common_options(self, command: list[str]) -> None:
        text = CliRunner().invoke(group, [*command, "--help"]).stdout
        for option in ("--server", "--volume", "--json", "--timeout", "--config", "-v, --verbose"):
            assert option in text

    def test_the_whole_lists_every_command(self) -> None:
        text = CliRunner().invoke(group, ["--help"]).stdout
        for command in COMMANDS:
            assert f"  {command[0]} " in text

    def test_the_list_says_of_each_command_what_its_own_help_says(self) -> None:
        whole = CliRunner().invoke(group, ["--help"]).stdout
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert name in whole

    def test_the_version(self) -> None:
        ran = CliRunner().invoke(group, ["--version"])
        assert (ran.exit_code, ran.stdout) == (0, f"syncline {__version__}\n")


def run(*arguments: str | bytes, home: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "syncline", *arguments],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@pytest.mark.process
class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("lst",), b"syncline: No such command 'lst'; 'syncline --help' shows"),
            (("store",), b"syncline: Missing argument 'LOCAL...'; 'syncline store --help' shows"),
            (("store", "a", "--colour"), b"syncline: No such option"),
            (("stat", "a", "--at", "-1"), b"is not the number of a revision"),
            (("stat", "a", "--at", str(2**63)), b"is not the number of a revision"),
            (("stat", "a", "--timeout", "soon"), b"syncline: Invalid value for '--timeout'"),
            (("stat", "a", "--timeout", "nan"), b"syncline: --timeout: 'nan' is out of range"),
            (("stat", b"no\xff\x1bsuch", "--server", b"\xff"), rb"--server: '\xff' is not HOST"),
            (("stat", "a", "--config", "/none"), b"syncline: /none: there is no such config"),
            (("stat", "a/../b"), b"'..' is not a valid name"),
            (("list", ".syncline/x"), b"is reserved"),
            (("serve", "--listen", "0.0.0.0:1"), b"--insecure if you trust"),
            (("mount",), b"syncline: Missing argument 'DIR'; 'syncline mount --help' shows"),
            (("mount", "a", "--once", "--dry-run"), b"--once and --dry-run exclude each other"),
            (("mount", "a", "--mode", "both"), b"syncline: --mode: 'both' is not one of two-way"),
            (("mount", "a", "--name", "a\nb"), b"syncline: --name: "),
            (("wait", "--timeout", "0"), b"'0' is not a number of seconds above 0"),
            (("status", b"no\xffsuch"), b""),
            (("server", "verify", "--data", "/none"), b""),
        ],
    )
    def test_errors(self, tmp_path: Path, arguments: tuple[str | bytes, ...], said: bytes) -> None:
        ran = run(*arguments, home=tmp_path)
        assert ran.stdout == b""
        assert said in ran.stderr
        assert ran.stderr.startswith(b"syncline: ")
        assert ran.stderr.count(b"\n") == 1
        assert b"\x1b" not in ran.stderr
        assert ran.returncode == (2 if said else 3)

    def test_nothing_at_all_shows_the_help(self, tmp_path: Path) -> None:
        ran = run(home=tmp_path)
        assert ran.returncode == 2
        assert b"Commands:" in ran.stderr

    def test_a_failure_of_the_whole_is_an_object_too(self, tmp_path: Path) -> None:
        ran = run("stat", "a", "--json", "--volume", "a/b", home=tmp_path)
        assert ran.returncode == 2
        [line] = ran.stdout.splitlines()
        record = json.loads(line)
        assert record["result"] == "failed"
        assert record["error"]["code"] == "invalid"
