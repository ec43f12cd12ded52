"""The pack store when the disk refuses: syncs, writes and reads that fail, a disk that is full."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from syncline.adapters.pack_files import PackFiles
from syncline.adapters.packs import PackStore
from syncline.core.identity import Digest, digest_of
from syncline.errors import Corrupt, LocalFailure, NoSpace
from syncline.ports.chunks import Record
from tests.support.house import ROOT
from tests.support.packs import numbered, pack_path, records, scan

Chunks = list[tuple[Digest, bytes]]


# --- syncs


class Order(PackFiles):
    """Keeps a list of what was asked of the disk."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        self.calls.append(("write", os.fstat(fd).st_ino))
        return super().write(fd, buffers, offset)

    def sync(self, fd: int) -> None:
        self.calls.append(("sync", os.fstat(fd).st_ino))
        super().sync(fd)

    def sync_directory(self, fd: int) -> None:
        self.calls.append(("names", os.fstat(fd).st_ino))
        super().sync_directory(fd)


def test_a_pack_is_durable_before_the_next_one_exists(tmp_path: Path) -> None:
    files = Order()
    store = PackStore(tmp_path, pack_bytes_max=1, files=files)
    files.calls.clear()
    store.append(numbered(1))
    store.append(numbered(1))
    first, second = (pack_path(tmp_path, n).stat().st_ino for n in (1, 2))
    here = tmp_path.stat().st_ino
    assert files.calls == [
        *[("write", first)] * 2,
        ("sync", first),
        ("names", here),
        *[("write", second)] * 2,
    ]
    store.close()


def test_the_directory_is_synced_once_a_pack(tmp_path: Path) -> None:
    store = PackStore(tmp_path)
    before = store.directory_syncs
    for n in range(5):
        store.append(numbered(n + 1))
        store.sync()
    assert (store.syncs, store.directory_syncs - before) == (5, 1)
    store.close()


class Gate(PackFiles):
    """Holds the first sync until it is let go; then lets it fail where it was told to."""

    def __init__(self, *, is_failing: bool) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()
        self.is_failing = is_failing

    def sync(self, fd: int) -> None:
        if not self.entered.is_set():
            self.entered.set()
            assert self.leave.wait(30)
            if self.is_failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)


def overlapped(store: PackStore, gate: Gate, followers: int) -> list[BaseException | None]:
    """Append and sync in one thread and, while that sync is under way, in some more."""
    outcomes: list[BaseException | None] = []
    appended = threading.Barrier(followers + 1, timeout=30)

    def work(*, is_leader: bool) -> None:
        locations = store.append(numbered(1))
        if not is_leader:
            appended.wait()
        try:
            store.sync(locations)
            outcomes.append(None)
        except LocalFailure as error:
            outcomes.append(error)

    threads = [
        threading.Thread(target=work, kwargs={"is_leader": n == 0}) for n in range(followers + 1)
    ]
    threads[0].start()
    assert gate.entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    appended.wait()
    gate.leave.set()
    for thread in threads:
        thread.join(30)
    return outcomes


def test_callers_at_one_time_share_a_sync(tmp_path: Path) -> None:
    gate = Gate(is_failing=False)
    store = PackStore(tmp_path, files=gate)
    assert overlapped(store, gate, followers=8) == [None] * 9
    assert store.syncs == 2, "one that was under way, one for all who came meanwhile"
    store.close()


def test_a_failed_sync_fails_for_all_whose_chunks_it_lost(tmp_path: Path) -> None:
    gate = Gate(is_failing=True)
    store = PackStore(tmp_path, files=gate)
    outcomes = overlapped(store, gate, followers=4)
    assert len(outcomes) == 5
    assert all(isinstance(outcome, LocalFailure) for outcome in outcomes)
    assert store.append(numbered(1))[0].pack == 2
    store.sync()
    store.close()
    assert scan(tmp_path, 1) == []


def test_what_was_appended_during_a_sync_is_not_durable_by_it(tmp_path: Path) -> None:
    gate = Gate(is_failing=False)
    store = PackStore(tmp_path, files=gate)
    chunks = numbered(2)
    first = store.append(chunks[:1])
    thread = threading.Thread(target=store.sync)
    thread.start()
    assert gate.entered.wait(30)
    second = store.append(chunks[1:])
    gate.leave.set()
    thread.join(30)
    gate.entered.clear()
    gate.is_failing = True
    with pytest.raises(LocalFailure):
        store.sync()
    assert store.read(chunks[0][0], first[0]) == chunks[0][1]
    with pytest.raises(Corrupt, match="lost"):
        store.read(chunks[1][0], second[0])
    store.close()
    assert scan(tmp_path) == records(chunks[:1], first)


class Failing(PackFiles):
    """Fails the calls it was told to fail; a failing write first writes some bytes."""

    def __init__(self) -> None:
        self.write_error = 0
        self.sync_error = 0
        self.names_error = 0
        self.truncate_error = 0
        self.read_error = 0

    def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        if self.write_error:
            os.pwrite(fd, b"".join(buffers)[:60], offset)
            raise OSError(self.write_error, os.strerror(self.write_error))
        return super().write(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        if self.read_error:
            raise OSError(self.read_error, os.strerror(self.read_error))
        return super().read(fd, size, offset)

    def sync(self, fd: int) -> None:
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        super().sync(fd)

    def sync_directory(self, fd: int) -> None:
        if self.names_error:
            raise OSError(self.names_error, os.strerror(self.names_error))
        super().sync_directory(fd)

    def truncate(self, fd: int, size: int) -> None:
        if self.truncate_error:
            raise OSError(self.truncate_error, os.strerror(self.truncate_error))
        super().truncate(fd, size)


def test_what_a_failed_sync_lost_is_not_found_after_a_restart(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(3)
    kept = store.append(chunks[:1])
    store.sync()
    store.append(chunks[1:])
    files.sync_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.sync()
    files.sync_error = 0
    store.sync()
    store.close()
    assert scan(tmp_path) == records(chunks[:1], kept)


def test_lost_bytes_that_cannot_be_cut_off_are_refused(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(2)
    locations = store.append(chunks)
    files.sync_error = files.truncate_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.sync()
    with pytest.raises(Corrupt, match="lost"):
        store.read(chunks[0][0], locations[0])
    assert list(store.scan(1, 0)) == []
    store.close()


def test_a_new_pack_whose_name_is_not_durable_is_lost(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(1)
    (location,) = store.append(chunks)
    files.names_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.sync()
    with pytest.raises(Corrupt):
        store.read(chunks[0][0], location)
    store.close()


def test_a_full_disk_at_the_sync_is_no_space(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    store.append(numbered(1))
    files.sync_error = errno.EDQUOT
    with pytest.raises(NoSpace) as caught:
        store.sync()
    assert caught.value.fields == {"where": "server"}
    store.close()


def test_a_failed_sync_of_a_full_pack_shows_in_the_append(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, pack_bytes_max=1, files=files)
    first = store.append(numbered(1))
    files.sync_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.append(numbered(1))
    files.sync_error = 0
    with pytest.raises(LocalFailure):
        store.sync(first)
    assert store.append(numbered(1))[0].pack == 2
    store.close()


# --- writes and reads that fail


def test_a_failed_append_is_taken_back(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(4)
    locations = store.append(chunks[:2])
    files.write_error = errno.ENOSPC
    with pytest.raises(NoSpace) as caught:
        store.append(chunks[2:])
    assert caught.value.fields == {"where": "server"}
    assert pack_path(tmp_path).stat().st_size == locations[1].offset + locations[1].size
    files.write_error = 0
    locations += store.append(chunks[2:])
    store.sync()
    store.close()
    assert {at.pack for at in locations} == {1}
    assert scan(tmp_path) == records(chunks, locations)


def test_nothing_is_written_behind_a_tail_that_cannot_be_taken_back(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(3)
    locations = store.append(chunks[:1])
    files.write_error = files.truncate_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.append(chunks[1:2])
    files.write_error = files.truncate_error = 0
    locations += store.append(chunks[2:])
    store.sync(locations)
    store.close()
    assert [at.pack for at in locations] == [1, 2]
    assert scan(tmp_path, 1) == records(chunks[:1], locations[:1])
    assert scan(tmp_path, 2) == records(chunks[2:], locations[1:])


def test_a_pack_that_could_not_be_begun_leaves_no_file(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    files.write_error = errno.ENOSPC
    with pytest.raises(NoSpace):
        store.append(numbered(1))
    assert list(store.packs()) == []
    files.write_error = 0
    assert len(store.append(numbered(1))) == 1
    store.close()


def test_short_writes_are_finished(tmp_path: Path) -> None:
    class Short(PackFiles):
        def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
            return os.pwrite(fd, b"".join(buffers)[:7], offset)

    store = PackStore(tmp_path, files=Short())
    chunks = [*numbered(3), (digest_of(b""), b""), *numbered(2)]
    locations = store.append(chunks)
    store.close()
    assert scan(tmp_path) == records(chunks, locations)


def test_a_disk_that_takes_nothing_is_a_local_failure(tmp_path: Path) -> None:
    class Stuck(PackFiles):
        def write(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
            return 0

    store = PackStore(tmp_path, files=Stuck())
    with pytest.raises(LocalFailure):
        store.append(numbered(1))
    store.close()


def test_an_io_error_is_not_called_damage(tmp_path: Path) -> None:
    files = Failing()
    store = PackStore(tmp_path, files=files)
    chunks = numbered(1)
    (location,) = store.append(chunks)
    assert store.read(chunks[0][0], location) == chunks[0][1]
    files.read_error = errno.EIO
    with pytest.raises(LocalFailure):
        store.read(chunks[0][0], location)
    with pytest.raises(LocalFailure):
        list(store.scan(1, 0))
    store.close()


def test_many_packs_are_read_by_many_threads_with_few_descriptors(tmp_path: Path) -> None:
    store = PackStore(tmp_path, pack_bytes_max=1)
    chunks = numbered(60)
    locations = [at for one in chunks for at in store.append([one])]
    before = len(os.listdir("/proc/self/fd"))
    wrong: list[int] = []
    most: list[int] = []

    def work(step: int) -> None:
        for n in range(0, 600 * step, step):
            (digest, content), at = chunks[n % 60], locations[n % 60]
            if store.read(digest, at) != content:
                wrong.append(n)
        most.append(len(os.listdir("/proc/self/fd")))

    threads = [threading.Thread(target=work, args=(step,)) for step in (1, 7, 11, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(most) == 4
    assert max(most) - before <= 32 + 2 * len(threads)
    store.close()


# --- a disk that is really full, in a process of its own


def run_out_of_space(directory: Path, *, is_file_limit: bool) -> None:
    """Append until the disk refuses, look that nothing is torn, make room, go on."""
    ballast = directory / "ballast"
    ballast.write_bytes(bytes(300_000))
    if is_file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    store = PackStore(directory / "packs")
    written: list[Record] = []
    chunks = numbered(5, size=9_000)
    try:
        while True:
            written += records(chunks, store.append(chunks))
            store.sync()
    except (NoSpace, LocalFailure) as error:
        refused = type(error)
    assert refused is (LocalFailure if is_file_limit else NoSpace)
    end = written[-1].location.offset + written[-1].location.size
    assert pack_path(directory / "packs").stat().st_size == end
    assert list(store.scan(1, 0)) == written
    ballast.unlink()
    if is_file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    written += records(chunks, store.append(chunks))
    store.sync()
    store.close()
    assert scan(directory / "packs") == written


def in_child(command: Sequence[str], directory: Path, limit: str) -> None:
    done = subprocess.run(
        [
            *command,
            sys.executable,
            "-m",
            "tests.adapters.test_pack_failures",
            limit,
            str(directory),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "went on\n"


def test_a_limit_in_the_middle_of_a_write_leaves_nothing_torn(tmp_path: Path) -> None:
    in_child([], tmp_path, "file-limit")


def test_a_full_disk_leaves_nothing_torn(tmp_path: Path) -> None:
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    mount = 'mount -t tmpfs -o size=1m none "$5" && exec "$@"'
    in_child([*namespace, "sh", "-c", mount, "sh"], tmp_path, "tmpfs")


if __name__ == "__main__":
    run_out_of_space(Path(sys.argv[2]), is_file_limit=sys.argv[1] == "file-limit")
    print("went on")
