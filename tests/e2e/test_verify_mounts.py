"""`syncline verify` on real mounts, real disks and a real server that is damaged."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from syncline.compose.mount import open_state
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID
from syncline.core.names import parse_name
from syncline.ports.mount_control import MountPhase, MountStatus, WaitEnd
from tests.support.mounting import Mount, benching
from tests.support.processes import JsonObject
from tests.support.realtree import write_random

pytestmark = pytest.mark.process


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
        os.fsync(file.fileno())


def rot(mount: Mount, name: str, offset: int) -> None:
    """Let a file have other bytes, and let the mount know it with the times that it has now.

    No program can set a ctime back. So the record is moved instead, as if the file had been that
    way all along but for its bytes.
    """
    mount.stop()
    path = mount.root / name
    before = path.stat()
    flip(path, offset)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    state = open_state(mount.state)
    try:
        with state.session() as session:
            id = session.child(ROOT_ID, parse_name(name.encode()))
            assert id is not None
            seen = session.local(id)
            assert seen is not None
            assert seen.fingerprint is not None
            forged = replace(seen.fingerprint, ctime_ns=path.stat().st_ctime_ns)
            session.set_local(id, Seen(seen.state, forged))
    finally:
        state.close()
    mount.start()


def findings(records: list[JsonObject]) -> dict[object, object]:
    return {record["path"]: record["code"] for record in records if record["result"] == "finding"}


def test_a_mount_is_equal_and_says_how_much_it_read(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        (ann.root / "d").mkdir()
        for number in range(300):
            (ann.root / "d" / f"{number}").write_bytes(b"%d" % number * 100)
        write_random(ann.root / "large", 5_000_000, 1)
        (ann.root / "link").symlink_to("large")
        ran = ann.run("verify", ann.root)
        assert (ran.returncode, ran.stderr) == (0, b"")
        [end] = ann.records("verify", ann.root)
        size = sum(len(b"%d" % number) * 100 for number in range(300)) + 5_000_000
        assert (end["result"], end["entries"], end["size"]) == ("equal", 303, size)
        ann.stop()
        assert ann.run("verify", ann.root).returncode == 3


def test_a_flipped_byte_in_a_pack_is_found_and_refilled_by_a_mount(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        write_random(ann.root / "large", 3_000_000, 1)
        write_random(ann.root / "small", 20_000, 2)
        assert ann.wait() is WaitEnd.IN_SYNC
        bench.stop_server()
        flip(bench.server.packs()[0], 1_000_000)
        code, told = bench.server.verify()
        assert code == 11
        assert any("'large' at revision" in str(record.get("finding")) for record in told)
        bench.start_server()
        ann.wait_for(lambda status: status.is_connected, "to be connected again")
        [end] = ann.records("verify", ann.root)
        assert end["result"] == "equal"
        [bob] = bench.start("bob")
        assert bob.wait() is WaitEnd.IN_SYNC
        assert bob.contents() == ann.contents()
        bench.stop_server()
        bench.server.assert_sound()


def test_bit_rot_is_told_and_mended_as_it_says(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        ann, bob = bench.start("ann", "bob")
        write_random(ann.root / "large", 3_000_000, 1)
        write_random(ann.root / "small", 1_000, 2)
        bench.settle()
        good, head = ann.contents(), bench.head()
        rot(ann, "large", 2_000_000)
        rot(ann, "small", 10)
        assert ann.wait() is WaitEnd.IN_SYNC
        records = ann.records("verify", ann.root, code=20)
        assert findings(records) == {"large": "content_differs", "small": "content_differs"}
        assert records[-1]["result"] == "findings"
        ran = ann.run("verify", ann.root)
        assert ran.returncode == 20
        assert b"'syncline fetch'" in ran.stdout
        assert ann.problems() == {b"large": "content_differs", b"small": "content_differs"}
        assert bob.wait() is WaitEnd.IN_SYNC
        assert (bob.contents(), bob.status().cursor) == (good, head)

        server = ("--server", ann.address)
        fetched = ann.run("fetch", "large", "--to", ann.root / "large", *server)
        assert fetched.returncode == 0, fetched.stderr
        touched = (ann.root / "small").read_bytes()
        os.utime(ann.root / "small")
        bench.settle()
        assert ann.problems() == {}
        assert bob.contents() == {"large": good["large"], "small": touched}
        assert bench.head() == head + 1
        assert ann.records("verify", ann.root)[-1]["result"] == "equal"


def test_another_mount_gets_what_the_server_found_damaged_by_itself(tmp_path: Path) -> None:
    with benching(tmp_path) as bench:
        [ann] = bench.start("ann")
        write_random(ann.root / "large", 3_000_000, 1)
        assert ann.wait() is WaitEnd.IN_SYNC
        bench.stop_server()
        flip(bench.server.packs()[0], 1_000_000)
        assert bench.server.verify()[0] == 11
        bench.start_server()
        [bob] = bench.start("bob")
        bob.wait_for(lambda status: _has_all(status), "to have it", timeout_s=90.0)
        assert bob.contents() == ann.contents()
        bench.stop_server()
        bench.server.assert_sound()


def _has_all(status: MountStatus) -> bool:
    return status.phase is MountPhase.IN_SYNC and status.entries == 1
