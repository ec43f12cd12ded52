"""Full disks, of the server and of a client: said clearly, nothing lost, and it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.processes import Server, serving, small_disk
from tests.support.realtree import MIB, write_random

pytestmark = pytest.mark.process


def assert_full(server: Server, *arguments: str | Path) -> None:
    """Fail unless a store says that the server's disk is full."""
    ran = server.cli.run("store", *arguments)
    assert ran.returncode == 9, (ran.returncode, ran.stderr)
    assert b"full" in ran.stderr or b"No space" in ran.stderr, ran.stderr
    assert b"make room" in ran.stderr, ran.stderr
    assert b"Traceback" not in ran.stderr
    [*_, record] = server.cli.records("store", *arguments, code=9)
    assert record["result"] == "failed"
    error = record["error"]
    assert isinstance(error, dict)
    assert error["code"] == "no_space"


def test_a_full_server_disk(tmp_path: Path) -> None:
    early = write_random(tmp_path / "early", 2 * MIB, 1)
    large = write_random(tmp_path / "large", 24 * MIB, 2)
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        ballast = write_random(disk.outside / "ballast", 40 * MIB, 3)
        with serving(
            tmp_path / "server", wrapper=disk.wrapper, data=disk.directory / "data"
        ) as server:
            server.cli.records("store", early)
            head = server.cli.head()
            assert_full(server, large)
            assert server.cli.head() == head
            server.cli.records("fetch", "early", "--to", tmp_path / "copy")
            assert (tmp_path / "copy").read_bytes() == early.read_bytes()
            assert server.cli.run("stat", "large").returncode == 3
            ballast.unlink()
            server.cli.records("store", large)
            server.cli.records("fetch", "large", "--to", tmp_path / "large copy")
            assert (tmp_path / "large copy").read_bytes() == large.read_bytes()
            server.stop()
            server.assert_sound()


def test_not_even_room_for_a_commit(tmp_path: Path) -> None:
    small = write_random(tmp_path / "small", 100, 1)
    with (
        small_disk(tmp_path / "disk", 16 * MIB) as disk,
        serving(tmp_path / "server", wrapper=disk.wrapper, data=disk.directory / "data") as server,
    ):
        server.cli.records("store", small, "--to", "before")
        ballast = disk.outside / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        stored = []
        for number in range(200):
            path = f"small {number}"
            ran = server.cli.run("store", small, "--to", path)
            if ran.returncode:
                break
            stored.append(path)
        assert_full(server, small, "--to", "after")
        for path in ("before", *stored):
            assert server.cli.run("stat", path).returncode == 0, path
        head = server.cli.head()
        ballast.unlink()
        server.cli.records("store", small, "--to", "after")
        assert server.cli.head() == head + 1
        server.kill()
        server.start()
        server.cli.records("fetch", "after", *stored, "before", "--to", f"{tmp_path}/copies/")
        server.stop()
        server.assert_sound()


def test_a_full_client_disk(tmp_path: Path) -> None:
    old = write_random(tmp_path / "old", MIB, 1)
    new = write_random(tmp_path / "new", 24 * MIB, 2)
    with (
        small_disk(tmp_path / "disk", 32 * MIB) as disk,
        serving(tmp_path / "server") as server,
    ):
        ballast = write_random(disk.outside / "ballast", 20 * MIB, 3)
        target, seen = disk.directory / "place" / "a", disk.outside / "place" / "a"
        inside = replace(server.cli, wrapper=disk.wrapper)
        server.cli.records("store", old, "--to", "a")
        inside.records("fetch", "a", "--to", target)
        server.cli.records("store", new, "--to", "a")
        server.cli.records("store", new, "--to", "many/a")
        ran = inside.run("fetch", "a", "--to", target)
        assert ran.returncode == 9, (ran.returncode, ran.stderr)
        assert b"disk/place/a" in ran.stderr
        assert b"make room" in ran.stderr
        assert seen.read_bytes() == old.read_bytes()
        [record] = inside.records("fetch", "many/a", "--to", f"{target.parent}/b", code=9)
        error = record["error"]
        assert isinstance(error, dict)
        assert error["code"] == "no_space"
        assert not (seen.parent / "b").exists()

        ballast.unlink()
        for leftover in seen.parent.iterdir():
            if leftover != seen:
                leftover.unlink()
        inside.records("fetch", "a", "--to", target)
        assert seen.read_bytes() == new.read_bytes()
        assert [path.name for path in seen.parent.iterdir()] == ["a"]
