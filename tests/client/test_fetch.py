"""FETCH into local directories: what appears, what is left alone, what is resumed."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from syncline.client import fetch as fetch_module
from syncline.client import local, placing, staged
from syncline.client.targets import Place
from syncline.core.identity import digest_of
from syncline.core.names import RelPath
from syncline.errors import LocalFailure, NotFound, Unavailable
from syncline.ports.report import Result
from tests.client.test_store import NAMES, make, open_descriptors
from tests.support.links import Client, ScriptedLink, failing, nothing, on_disk, only_error, results

BROKEN = Unavailable("the connection broke")


@pytest.fixture
async def top(client: Client, tmp_path: Path) -> AsyncIterator[Path]:
    """Yield a local tree that the server has as well, at its root."""
    top = tmp_path / "top"
    (top / "d" / "empty").mkdir(parents=True)
    make(top / "d" / "small", b"small", mode=0o640, mtime=-5)
    make(top / "nothing", b"", mode=0o755)
    make(top / "medium", os.urandom(300_000), mtime=5 * 10**18)
    make(top / "large", os.urandom(3_000_000))
    os.symlink("nowhere", top / "d" / "link")
    os.utime(top / "d" / "link", ns=(9, 9), follow_symlinks=False)
    (top / "d").chmod(0o750)
    await client.store(os.fsencode(top) + b"/.")
    yield top


def leftovers(root: Path) -> list[str]:
    return [path.name for path in root.rglob(".syncline-*")]


# -- what appears ------------------------------------------------------------


async def test_a_tree_comes_back_equal(client: Client, top: Path, tmp_path: Path) -> None:
    outcomes = await client.fetch(b"", to=tmp_path / "new")
    assert on_disk(tmp_path / "new") == on_disk(top)
    assert set(results(outcomes)) == set(on_disk(top))
    assert set(results(outcomes).values()) == {"fetched"}
    again = await client.fetch(b"", to=tmp_path / "new")
    assert set(results(again).values()) == {"unchanged"}
    assert on_disk(tmp_path / "new") == on_disk(top)


async def test_every_name_and_many_files(client: Client, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    for name in NAMES:
        make(top / os.fsdecode(name), name)
    for number in range(1200):
        make(top / f"{number}", b"%d" % (number % 100))
    await client.store(os.fsencode(top) + b"/.")
    outcomes = await client.fetch(b"", to=tmp_path / "new")
    assert set(results(outcomes).values()) == {"fetched"}
    assert on_disk(tmp_path / "new") == on_disk(top)


async def test_a_sparse_file_and_a_long_manifest(client: Client, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.seek(80 * 1024 * 1024)
        file.write(b"tail")
    await client.store(sparse)
    await client.fetch(b"sparse", to=tmp_path / "new")
    status = (tmp_path / "new").stat()
    assert (tmp_path / "new").read_bytes() == sparse.read_bytes()
    assert status.st_blocks * 512 < 8 * 1024 * 1024


async def test_a_past_revision_comes_whole(client: Client, top: Path, tmp_path: Path) -> None:
    make(top / "d" / "small", b"changed")
    make(top / "more")
    await client.store(os.fsencode(top) + b"/.")
    await client.fetch(b"", to=tmp_path / "old", at=1)
    assert (tmp_path / "old" / "d" / "small").read_bytes() == b"small"
    assert not (tmp_path / "old" / "more").exists()
    with pytest.raises(NotFound):
        await client.fetch(b"", to=tmp_path / "none", at=99)


async def test_a_read_only_directory_is_filled_and_then_closed(
    client: Client, tmp_path: Path
) -> None:
    (tmp_path / "ro" / "in").mkdir(parents=True)
    make(tmp_path / "ro" / "in" / "f")
    (tmp_path / "ro" / "in").chmod(0o555)
    (tmp_path / "ro").chmod(0o500)
    await client.store(tmp_path / "ro")
    await client.fetch(b"ro", to=tmp_path / "new")
    assert on_disk(tmp_path / "new") == on_disk(tmp_path / "ro")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o500
    again = await client.fetch_places([Place(RelPath.parse(b"ro"), os.fsencode(tmp_path / "new"))])
    assert set(results(again).values()) == {"unchanged"}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o500


async def test_missing_paths_fail_alone(client: Client, top: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    outcomes = await client.fetch(b"none", b"nothing", to=tmp_path / "new")
    assert results(outcomes) == {b"none": "not_found", b"nothing": "fetched"}


async def test_a_mode_or_time_alone_is_fixed_without_a_transfer(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    await client.fetch(b"large", to=tmp_path / "new")
    (tmp_path / "new").chmod(0o600)
    os.utime(tmp_path / "new", ns=(1, 1))
    count = link.count("fetch")
    [outcome] = await client.fetch(b"large", to=tmp_path / "new")
    assert outcome.result is Result.FETCHED and link.count("fetch") == count
    assert (tmp_path / "new").stat().st_mtime_ns == (top / "large").stat().st_mtime_ns
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


# -- what stands locally -----------------------------------------------------


async def test_another_kind_is_left_alone(client: Client, top: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    (new / "nothing" / "mine").mkdir(parents=True)
    make(new / "d", b"mine")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(new / "medium"))
    outcomes = await client.fetch(b"", to=new)
    assert results(outcomes) == {
        b"d": "exists",
        b"nothing": "exists",
        b"medium": "exists",
        b"large": "fetched",
    }
    assert (new / "d").read_bytes() == b"mine" and (new / "nothing" / "mine").is_dir()
    assert leftovers(new) == []


async def test_nothing_is_written_through_a_link(client: Client, top: Path, tmp_path: Path) -> None:
    new, outside = tmp_path / "new", tmp_path / "outside"
    new.mkdir()
    outside.mkdir()
    os.symlink(outside, new / "d")
    make(tmp_path / "target", b"theirs")
    os.symlink(tmp_path / "target", new / "nothing")
    outcomes = await client.fetch(b"", to=new)
    assert results(outcomes)[b"d"] == "exists" and b"d/small" not in results(outcomes)
    assert os.listdir(outside) == []
    assert not (new / "nothing").is_symlink() and (new / "nothing").read_bytes() == b""
    assert (tmp_path / "target").read_bytes() == b"theirs"


async def test_a_directory_swapped_for_a_link_during_the_transfer_is_not_followed(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    new, outside = tmp_path / "new", tmp_path / "outside"
    outside.mkdir()

    async def swap() -> None:
        (new / "d").rename(new / "moved")
        os.symlink(outside, new / "d")

    link.before["fetch"] = [swap]
    outcomes = await client.fetch(b"d", b"nothing", to=new)
    assert results(outcomes)[b"d/small"] == "local_failure"
    assert os.listdir(outside) == []


@pytest.mark.parametrize("name", [b"nothing", b"large", b"d/link"])
async def test_what_must_not_be_overwritten_stays(
    client: Client, top: Path, tmp_path: Path, name: bytes
) -> None:
    new = make(tmp_path / "new", b"mine")
    outcomes = await client.fetch(name, to=new, may_overwrite=False)
    assert only_error(outcomes).code == "exists" and new.read_bytes() == b"mine"
    await client.fetch(name, to=new)
    outcomes = await client.fetch(name, to=new, may_overwrite=False)
    assert results(outcomes) == {name: "unchanged"}


@pytest.mark.parametrize("name", ["nothing", "large"])
async def test_what_appears_during_the_transfer_is_not_overwritten_either(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path, name: str
) -> None:
    async def appear() -> None:
        make(tmp_path / "new", b"mine")

    make(top / name, os.urandom((top / name).stat().st_size or 100))
    await client.store(top / name)
    link.before["fetch"] = [appear]
    outcomes = await client.fetch(name.encode(), to=tmp_path / "new", may_overwrite=False)
    assert only_error(outcomes).code == "exists"
    assert (tmp_path / "new").read_bytes() == b"mine" and leftovers(tmp_path) == []


async def test_where_the_kernel_cannot_refuse_to_replace_a_hard_link_does(
    client: Client, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(local, "_libc", Old())
    assert results(await client.fetch(b"large", to=tmp_path / "new", may_overwrite=False)) == {
        b"large": "fetched"
    }
    assert leftovers(tmp_path) == []
    make(top / "large", b"shorter")
    await client.store(top / "large")
    outcomes = await client.fetch(b"large", to=tmp_path / "new", may_overwrite=False)
    assert only_error(outcomes).code == "exists"


# -- interruptions -----------------------------------------------------------


async def test_a_broken_fetch_goes_on_where_it_stopped(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    link.error, link.fetch_cut = BROKEN, 4
    outcomes = await client.fetch(b"large", to=tmp_path / "new")
    assert results(outcomes) == {b"large": "fetched"}
    assert (tmp_path / "new").read_bytes() == (top / "large").read_bytes()
    assert len(link.asked) == len(set(link.asked)), "no chunk travelled twice"


async def test_an_interrupted_fetch_is_resumed_by_the_next_one(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    client.retry_s = 0.0
    new = tmp_path / "new"
    new.mkdir()
    link.error, link.fetch_cut = BROKEN, 4
    outcomes = await client.fetch(b"large", to=new)
    assert results(outcomes) == {b"large": "unavailable"} and len(leftovers(new)) == 1
    assert not (new / "large").exists()
    with (new / leftovers(new)[0]).open("r+b") as file:
        file.write(b"damaged")
    await client.fetch(b"large", to=new)
    assert (new / "large").read_bytes() == (top / "large").read_bytes()
    assert len(link.asked) == len(set(link.asked)) + 1, "only the damaged chunk came twice"
    assert leftovers(new) == []


async def test_what_is_staged_for_older_content_is_dropped(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    client.retry_s = 0.0
    new = tmp_path / "new"
    new.mkdir()
    link.error, link.fetch_cut = BROKEN, 4
    await client.fetch(b"large", to=new)
    make(top / "large", os.urandom(2_000_000))
    await client.store(top / "large")
    assert results(await client.fetch(b"large", to=new)) == {b"large": "fetched"}
    assert leftovers(new) == []


async def test_chunks_of_the_older_file_are_used(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    await client.fetch(b"large", to=tmp_path / "new")
    first = len(link.asked)
    make(top / "large", b"in front" + (top / "large").read_bytes())
    await client.store(top / "large")
    await client.fetch(b"large", to=tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == (top / "large").read_bytes()
    assert len(link.asked) - first <= 3


async def test_an_older_file_that_changes_meanwhile_spoils_nothing(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    await client.fetch(b"large", to=new)
    make(top / "large", b"in front" + (top / "large").read_bytes())
    await client.store(top / "large")

    async def spoil() -> None:
        with new.open("r+b") as file:
            file.write(os.urandom(3_000_000))

    link.before["fetch"] = [spoil]
    assert results(await client.fetch(b"large", to=new)) == {b"large": "fetched"}
    assert new.read_bytes() == (top / "large").read_bytes() and leftovers(tmp_path) == []


async def test_a_broken_listing_goes_on(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    lists = link.count("list")
    link.before["listed"] = [nothing, nothing, nothing, failing(BROKEN), nothing, failing(BROKEN)]
    outcomes = await client.fetch(b"", to=tmp_path / "new")
    assert link.count("list") == lists + 3 and set(results(outcomes).values()) == {"fetched"}
    assert on_disk(tmp_path / "new") == on_disk(top)


async def test_giving_up_fails_what_was_not_fetched(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    client.retry_s = 0.0
    link.before["listed"] = [nothing, failing(BROKEN)]
    outcomes = await client.fetch(b"", to=tmp_path / "new")
    assert results(outcomes)[b""] == "unavailable"
    link.before["hello"] = [failing(BROKEN)]
    with pytest.raises(Unavailable):
        await client.fetch(b"", to=tmp_path / "new")


async def test_a_failed_large_fetch_leaves_no_descriptor(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    before = open_descriptors()
    link.before["fetch"] = [failing(NotFound("gone", digest="00" * 32))]
    await client.fetch(b"large", to=tmp_path / "new")
    assert open_descriptors() == before


# -- bad content, full disks -------------------------------------------------


@pytest.mark.parametrize("name", [b"d/small", b"medium", b"large"])
async def test_content_that_does_not_match_is_not_placed(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path, name: bytes
) -> None:
    link.spoil = lambda chunk: chunk[:-1] + bytes([chunk[-1] ^ 1])
    outcomes = await client.fetch(name, to=tmp_path / "new")
    assert only_error(outcomes).code == "corrupt"
    assert not (tmp_path / "new").exists() and leftovers(tmp_path) == []


async def test_a_chunk_that_the_server_lost_fails_its_files_alone(
    client: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    lost = digest_of(b"small").hex()
    link.before["fetch"] = [failing(NotFound("no such chunk", digest=lost, what="chunk"))]
    (tmp_path / "new").mkdir()
    outcomes = await client.fetch(b"d/small", b"medium", to=tmp_path / "new")
    assert results(outcomes) == {b"d/small": "not_found", b"medium": "fetched"}
    assert "d/small" in only_error(outcomes).message


@pytest.mark.parametrize("name", [b"d/small", b"large"])
async def test_a_full_disk_is_told_with_the_path(
    client: Client, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(placing, "write_at", full)
    monkeypatch.setattr("syncline.client.staging.write_at", full)
    outcomes = await client.fetch(name, to=tmp_path / "new")
    error = only_error(outcomes)
    assert (error.code, error.fields["where"]) == ("no_space", "local") and "new" in error.message
    assert leftovers(tmp_path) == [] and not (tmp_path / "new").exists()


async def test_a_failed_sync_places_nothing(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top").mkdir()
    for number in range(20):
        make(tmp_path / "top" / f"{number}", b"%d" % number)
    await client.store(tmp_path / "top")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    with monkeypatch.context() as patched:
        patched.setattr(placing, "sync_file_system", fail)
        outcomes = await client.fetch(b"top", to=tmp_path / "new")
    words = results(outcomes)
    assert words.pop(b"top") == "fetched" and set(words.values()) == {"local_failure"}
    assert list((tmp_path / "new").iterdir()) == []


async def test_few_syncs_for_many_files(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "top").mkdir()
    for number in range(500):
        make(tmp_path / "top" / f"{number}", b"%d" % number)
    await client.store(tmp_path / "top")
    syncs: list[int] = []
    real = local.sync_file_system

    def count(fd: int) -> None:
        syncs.append(fd)
        real(fd)

    monkeypatch.setattr(placing, "sync_file_system", count)
    outcomes = await client.fetch(b"top", to=tmp_path / "new")
    assert set(results(outcomes).values()) == {"fetched"} and 1 <= len(syncs) <= 3


async def test_two_fetches_into_one_place_do_not_disturb_each_other(
    client: Client, other: Client, link: ScriptedLink, top: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    inner: list[dict[bytes, str]] = []

    async def meanwhile() -> None:
        inner.append(results(await other.fetch(b"large", to=new)))

    link.before["fetch"] = [meanwhile]
    outcomes = await client.fetch(b"large", to=new)
    assert inner == [{b"large": "fetched"}] and results(outcomes) == {b"large": "fetched"}
    assert new.read_bytes() == (top / "large").read_bytes() and leftovers(tmp_path) == []


def test_too_many_hands_on_one_staged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    digest = digest_of(b"x")
    name, first = staged.open_staged(fd, b"f", digest)
    other_name, second = staged.open_staged(fd, b"f", digest)
    assert name == staged.staged_name(b"f", digest) and other_name != name
    assert len(staged.staged_name(b"x" * 255, digest)) == 48
    for opened in (first, second, fd):
        os.close(opened)


async def test_one_mover_job_at_a_time_is_enough(
    client: Client, top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "MOVERS", 1)
    monkeypatch.setattr(fetch_module, "BATCH_FILES_MAX", 1)
    monkeypatch.setattr(fetch_module, "SLICE_ENTRIES", 1)
    outcomes = await client.fetch(b"", to=tmp_path / "new")
    assert set(results(outcomes).values()) == {"fetched"}
    assert on_disk(tmp_path / "new") == on_disk(top)


async def test_a_local_place_that_cannot_be_made_fails_alone(
    client: Client, top: Path, tmp_path: Path
) -> None:
    file = make(tmp_path / "file")
    places = [
        Place(RelPath.parse(b"nothing"), os.fsencode(file) + b"/below/new"),
        Place(RelPath.parse(b"d/small"), os.fsencode(tmp_path / "x" / "y" / "new")),
    ]
    outcomes = await client.fetch_places(places)
    assert results(outcomes) == {b"nothing": "local_failure", b"d/small": "fetched"}
    assert isinstance(only_error(outcomes), LocalFailure)
