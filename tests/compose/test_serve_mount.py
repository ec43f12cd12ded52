"""A server with a mounted directory of its own, in this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.client.steady import Backoff
from syncline.compose import serve_mount
from syncline.compose.config import (
    ClientConfig,
    MountConfig,
    ServeConfig,
    ServeFlags,
    default_name,
    load_serve,
)
from syncline.compose.control import ask_resume, ask_status, ask_wait
from syncline.compose.mount import running_mount
from syncline.compose.mount_places import claimed, find_mount
from syncline.compose.serve import Running, running
from syncline.core.safety import HaltReason
from syncline.errors import InUse, Invalid, NotFound
from syncline.ports.mount_control import MountPhase, MountStatus, ResumeEnd, WaitEnd
from tests.support.wait import eventually, wait_until

WAIT_S = 30.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def files(home: Path) -> Path:
    """Return the directory that the server mounts, with something in it."""
    (home / "files" / "below").mkdir(parents=True)
    (home / "files" / "one").write_bytes(b"one")
    (home / "files" / "below" / "two").write_bytes(b"two")
    return home / "files"


def config_of(files: Path) -> ServeConfig:
    data = files.parent / "data"
    return ServeConfig(data, "127.0.0.1:0", mount=files, name="the server")


async def status_of(directory: Path) -> MountStatus:
    place = find_mount(bytes(directory))
    return await asyncio.to_thread(ask_status, place.state)


async def waited(directory: Path) -> WaitEnd:
    place = find_mount(bytes(directory))
    return (await asyncio.to_thread(ask_wait, place.state, WAIT_S)).end


def reach(directory: Path, phase: MountPhase) -> MountStatus:
    """Return the status as soon as it has this phase."""
    state = find_mount(bytes(directory)).state
    wait_until(lambda: ask_status(state).phase is phase, phase.value, timeout_s=WAIT_S)
    return ask_status(state)


async def reached(directory: Path, phase: MountPhase) -> MountStatus:
    return await asyncio.to_thread(reach, directory, phase)


@asynccontextmanager
async def client_of(server: Running, directory: Path) -> AsyncIterator[Path]:
    """Mount a directory beside the server's own, for the length of the block."""
    await asyncio.to_thread(directory.mkdir, exist_ok=True)
    client = ClientConfig(server=server.address, name="a client")
    state = directory.with_name(directory.name + " state")
    async with running_mount(MountConfig(bytes(directory), client, state=state)) as control:
        assert (await control.wait(WAIT_S)).end is WaitEnd.IN_SYNC
        yield directory


class TestBothWays:
    async def test_what_lies_there_is_loaded_and_later_changes_go_both_ways(
        self, files: Path, home: Path
    ) -> None:
        async with running(config_of(files)) as server:
            assert await waited(files) is WaitEnd.IN_SYNC
            async with client_of(server, home / "client") as client:
                assert (client / "one").read_bytes() == b"one"
                assert (client / "below" / "two").read_bytes() == b"two"
                (client / "one").write_bytes(b"from the client")
                (client / "below").rename(client / "moved")
                assert await waited(client) is WaitEnd.IN_SYNC
                assert await waited(files) is WaitEnd.IN_SYNC
                assert (files / "one").read_bytes() == b"from the client"
                assert (files / "moved" / "two").read_bytes() == b"two"
                (files / "three").write_bytes(b"from the server")
                assert await waited(files) is WaitEnd.IN_SYNC
                assert await waited(client) is WaitEnd.IN_SYNC
                assert (client / "three").read_bytes() == b"from the server"

    async def test_a_volume_that_is_there_is_placed_and_goes_on_after_a_restart(
        self, files: Path, home: Path
    ) -> None:
        async with running(config_of(files)):
            assert await waited(files) is WaitEnd.IN_SYNC
        (files / "one").write_bytes(b"while it was down")
        (files / "below" / "two").unlink()
        async with running(config_of(files)) as server:
            assert await waited(files) is WaitEnd.IN_SYNC
            async with client_of(server, home / "client") as client:
                assert (client / "one").read_bytes() == b"while it was down"
                assert not (client / "below" / "two").exists()

    async def test_it_can_be_asked_as_soon_as_the_server_is_ready(self, files: Path) -> None:
        async with running(config_of(files)) as server:
            status = await status_of(files / "below")
            assert (status.directory, status.replica) == (bytes(files), "the server")
            assert (status.volume, status.server) == ("default", server.address)

    async def test_another_directory_begins_anew_and_deletes_nothing(
        self, files: Path, home: Path
    ) -> None:
        async with running(config_of(files)):
            assert await waited(files) is WaitEnd.IN_SYNC
        other = home / "other"
        other.mkdir()
        async with running(replace(config_of(files), mount=other)):
            assert await waited(other) is WaitEnd.IN_SYNC
        assert (other / "one").read_bytes() == (files / "one").read_bytes() == b"one"

    async def test_its_state_is_in_the_data(self, files: Path, home: Path) -> None:
        async with running(config_of(files)) as server:
            [volume] = server.volumes.all()
            state = find_mount(bytes(files)).state
            assert state.parent == home / "data" / "mounts" / volume.id.hex()


class TestRefused:
    async def started(self, config: ServeConfig) -> None:
        async with running(config):
            raise AssertionError("it must not start")

    async def test_a_directory_that_is_missing(self, files: Path) -> None:
        with pytest.raises(NotFound, match="there is no directory"):
            await self.started(config_of(files / "none"))

    async def test_a_file(self, files: Path) -> None:
        with pytest.raises(Invalid, match="is no directory"):
            await self.started(config_of(files / "one"))

    @pytest.mark.parametrize("mount", [".", "data", "data/mounts", "link/volumes"])
    async def test_data_and_directory_in_each_other(self, home: Path, mount: str) -> None:
        (home / "data" / "mounts").mkdir(parents=True)
        (home / "link").symlink_to(home / "data")
        with pytest.raises(Invalid, match="must not lie in each other"):
            await self.started(ServeConfig(home / "data", "127.0.0.1:0", mount=home / mount))

    async def test_a_directory_that_another_process_mounts(self, files: Path) -> None:
        with claimed(bytes(files), None), pytest.raises(InUse, match="by another process"):
            await self.started(config_of(files))


class TestLater:
    async def test_a_directory_that_goes_away_halts_the_mount_alone(
        self, files: Path, home: Path
    ) -> None:
        async with running(config_of(files)) as server:
            assert await waited(files) is WaitEnd.IN_SYNC
            await asyncio.to_thread(files.rename, home / "away")
            status = await reached(files, MountPhase.HALTED)
            assert status.halt is not None
            assert status.halt.reason is HaltReason.ROOT_MISSING
            async with client_of(server, home / "client") as client:
                assert (client / "one").read_bytes() == b"one"
                (home / "away").rename(files)
                await reached(files, MountPhase.IN_SYNC)
                (client / "three").write_bytes(b"three")
                await eventually((files / "three").exists, "the mount goes on")

    async def test_a_mount_that_fails_is_begun_again(
        self,
        files: Path,
        home: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(serve_mount, "PAUSES", Backoff(0.01, 0.01))
        caplog.set_level(logging.ERROR, serve_mount.__name__)
        async with running(config_of(files)) as server:
            assert await waited(files) is WaitEnd.IN_SYNC
            own = files / ".syncline"
            own.rename(files.parent / "own")
            own.write_bytes(b"nobody can mount over this")
            (files / "two").write_bytes(b"for the mount to look")
            halt = (await reached(files, MountPhase.HALTED)).halt
            state = find_mount(bytes(files)).state
            resumed = await asyncio.to_thread(ask_resume, state, halt)
            assert resumed.end is ResumeEnd.RESUMED

            def failures() -> int:
                return sum("own_mount_failed" in record.message for record in caplog.records)

            await eventually(lambda: failures() > 0, "the mount fails")
            own.unlink()
            await eventually((own / "marker").exists, "the mount is begun again")
            await reached(files, MountPhase.IN_SYNC)
            async with client_of(server, home / "client") as client:
                assert (client / "two").read_bytes() == b"for the mount to look"
        assert failures() == 1


class TestConfiguration:
    def test_sources(self, home: Path) -> None:
        assert load_serve({}, ServeFlags()).mount is None
        file = home / "c.toml"
        file.write_text('[server]\nmount = "~/files"\n[client]\nname = "the server"\n')
        config = load_serve({}, ServeFlags(config=file))
        assert (config.mount, config.name) == (home / "files", "the server")
        environ = {"SYNCLINE_MOUNT": "here"}
        config = load_serve(environ, ServeFlags(config=file))
        assert config.mount == Path("here")
        assert load_serve(environ, ServeFlags(mount=Path("there"))).mount == Path("there")
        assert load_serve({}, ServeFlags()).name == default_name()

    def test_a_relative_directory_in_the_file_is_refused(self, home: Path) -> None:
        file = home / "c.toml"
        file.write_text('[server]\nmount = "files"\n')
        with pytest.raises(Invalid, match="is not an absolute directory"):
            load_serve({}, ServeFlags(config=file))
