"""Interrupted transfers go on where they stopped, and large ones need little memory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.processes import TIMEOUT_S, peak_bytes, proxied, serving
from tests.support.realtree import MIB, digest_of_file, write_random
from tests.support.wait import wait_until

pytestmark = pytest.mark.process

MEMORY_BYTES_MAX = 200 * MIB
slow = pytest.mark.slow


@pytest.mark.parametrize("size_mib", [48, pytest.param(300, marks=slow)])
def test_a_killed_store_goes_on(tmp_path: Path, size_mib: int) -> None:
    size = size_mib * MIB
    local = write_random(tmp_path / "large", size, 1)
    with serving(tmp_path / "server") as server:
        with (
            proxied(server.address, up_max=size // 2) as proxy,
            server.cli.start("store", local, "--server", proxy.address) as store,
        ):
            wait_until(lambda: proxy.is_holding, "half of the file sent", timeout_s=TIMEOUT_S)
            assert store.poll() is None
            store.kill()
        assert server.cli.run("stat", "large").returncode == 3
        with proxied(server.address) as proxy:
            [record] = server.cli.records("store", local, "--server", proxy.address)
            assert record["result"] == "stored"
            assert proxy.up_bytes < size * 0.7
        server.cli.records("fetch", "large", "--to", tmp_path / "copy")
        assert digest_of_file(tmp_path / "copy") == digest_of_file(local)
        server.stop()
        server.assert_sound()


@pytest.mark.parametrize("size_mib", [48, pytest.param(300, marks=slow)])
def test_a_killed_fetch_goes_on(tmp_path: Path, size_mib: int) -> None:
    size = size_mib * MIB
    local = write_random(tmp_path / "large", size, 1)
    place = tmp_path / "place"
    with serving(tmp_path / "server") as server:
        server.cli.records("store", local)
        with (
            proxied(server.address, down_max=size // 2) as proxy,
            server.cli.start(
                "fetch", "large", "--to", place / "copy", "--server", proxy.address
            ) as fetch,
        ):
            wait_until(lambda: proxy.is_holding, "half of the file sent", timeout_s=TIMEOUT_S)
            wait_until(lambda: staged_bytes(place) > size * 0.4, "what was sent is written")
            assert fetch.poll() is None
            fetch.kill()
        assert not (place / "copy").exists()
        with proxied(server.address) as proxy:
            server.cli.records("fetch", "large", "--to", place / "copy", "--server", proxy.address)
            assert proxy.down_bytes < size * 0.7
        assert digest_of_file(place / "copy") == digest_of_file(local)
        assert [path.name for path in place.iterdir()] == ["copy"]


def staged_bytes(place: Path) -> int:
    """Return how much of an unfinished fetch is on the disk."""
    return sum(path.stat().st_size for path in place.glob(".syncline-*.part"))


@pytest.mark.parametrize("size_mib", [320, pytest.param(1536, marks=slow)])
def test_memory_stays_flat(tmp_path: Path, size_mib: int) -> None:
    local = write_random(tmp_path / "large", size_mib * MIB, 1)
    with serving(tmp_path / "server") as server:
        peaks: dict[str, int] = {}
        for name, arguments in {
            "store": ("store", local),
            "fetch": ("fetch", "large", "--to", tmp_path / "copy"),
        }.items():
            with server.cli.start(*arguments) as process:
                peaks[name] = peak_while_running(process)
                assert process.returncode == 0, process.communicate()
        peaks["server"] = peak_bytes(server.process)
        print({name: f"{peak // MIB} MiB" for name, peak in peaks.items()})
        assert all(0 < peak < MEMORY_BYTES_MAX for peak in peaks.values()), peaks
        assert digest_of_file(tmp_path / "copy") == digest_of_file(local)


def peak_while_running(process: subprocess.Popen[bytes]) -> int:
    """Return the most memory that a process held until a moment before its end."""
    peak = 0

    def is_over() -> bool:
        nonlocal peak
        peak = max(peak, peak_bytes(process))
        return process.poll() is not None

    wait_until(is_over, "the end of the command", timeout_s=TIMEOUT_S)
    return peak
