"""Reading one file: the whole content of one moment, or a word about when to come again."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.mounted_file import Above, MountedFile, Way
from syncline.client.mount.read import (
    CHANGING_LOOK_S,
    Busy,
    Failed,
    Gone,
    Read,
    Reading,
    ReadResult,
    mtime_of,
    read,
)
from syncline.client.reading import SECOND_LOOK_S
from syncline.core.entries import MTIME_NS_MAX
from syncline.core.identity import ROOT_ID, EntryId, digest_of
from syncline.core.names import Name
from tests.support.scanning import DiskClock
from tests.support.simulation.disk import Operation, SimulatedDisk
from tests.support.simulation.files import SimulatedFiles
from tests.support.simulation.user_side import User

LARGE = bytes(range(256)) * (3 * SMALL_BYTES_MAX // 256) + b"tail"


class Reader:
    """A disk with a directory `d`, and the reading of `d/f`."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.user = User(self.disk)
        self.user.mkdir(b"d")
        self.root = SimulatedFiles(self.disk).open_root()
        status = self.root.look(b"d")
        assert status is not None
        file = MountedFile((Above(Name(b"d"), status.inode),), Name(b"f"))
        self.reading = Reading(EntryId(b"f" * 16), (ROOT_ID, Name(b"f")), file, 0, True)

    def settle(self, seconds: float = 1.0) -> None:
        self.disk.clock_ns += round(seconds * 1e9)

    def read(self) -> ReadResult:
        with Way(self.root) as way:
            return read(way, self.reading, FastCdcChunker(), DiskClock(self.disk))

    def once(self, operation: str, act: Callable[[], None]) -> None:
        """Act right before the engine does something for the first time."""

        def before(begun: Operation) -> None:
            if begun.name == operation:
                self.disk.before = None
                act()

        self.disk.before = before


@pytest.fixture
def reader() -> Reader:
    return Reader()


def done(result: ReadResult) -> Read:
    assert isinstance(result, Read), result
    return result


@pytest.mark.parametrize("content", [b"", b"small", b"x" * 70_000, LARGE])
def test_content_digest_status_and_fingerprint(reader: Reader, content: bytes) -> None:
    reader.user.write(b"d/f", content)
    reader.settle()
    result = done(reader.read())
    assert result.content.digest == digest_of(content)
    assert result.content.size == result.status.size == len(content)
    assert (result.held == content) if len(content) <= SMALL_BYTES_MAX else (result.held is None)
    assert result.fingerprint.inode == result.status.inode
    assert result.fingerprint.born_ns != 0
    assert not result.fingerprint.is_provisional
    assert reader.disk.open_handles == 1


def test_what_is_younger_than_the_grain_is_provisional(reader: Reader) -> None:
    reader.user.write(b"d/f", b"young")
    assert done(reader.read()).fingerprint.is_provisional
    reader.settle(0.03)
    assert not done(reader.read()).fingerprint.is_provisional


def test_a_large_file_is_let_grow_older_first(reader: Reader) -> None:
    reader.user.write(b"d/f", LARGE)
    result = reader.read()
    assert isinstance(result, Busy)
    assert 0 < result.in_s <= 0.02
    reader.settle(result.in_s)
    assert not done(reader.read()).fingerprint.is_provisional


class TestWriters:
    def test_two_equal_readings_some_time_apart_are_believed(self, reader: Reader) -> None:
        writer = reader.user.open_writer(b"d/f")
        writer.write(b"open")
        reader.settle()
        first = reader.read()
        assert isinstance(first, Busy)
        assert first.in_s == SECOND_LOOK_S
        reader.reading = replace(reader.reading, earlier=first.glimpse)
        early = reader.read()
        assert isinstance(early, Busy), "too soon after the first"
        reader.settle(SECOND_LOOK_S)
        assert done(reader.read()).held == b"open"
        writer.close()

    def test_what_changed_in_between_is_read_later(self, reader: Reader) -> None:
        writer = reader.user.open_writer(b"d/f")
        writer.write(b"open")
        first = reader.read()
        assert isinstance(first, Busy)
        reader.reading = replace(reader.reading, earlier=first.glimpse)
        reader.settle(SECOND_LOOK_S)
        writer.write(b" and on")
        second = reader.read()
        assert isinstance(second, Busy)
        assert second.in_s == CHANGING_LOOK_S
        writer.close()

    def test_who_comes_while_a_large_file_is_read_need_not_wait_for_its_end(
        self, reader: Reader
    ) -> None:
        reader.user.write(b"d/f", LARGE)
        reader.settle()
        tried = []

        def write() -> None:
            with pytest.raises(BlockingIOError):
                reader.user.write(b"d/f", b"new", keeps_bytes=True)
            tried.append(reader.disk.counts["file.read"])

        reader.once("file.read", write)
        assert isinstance(reader.read(), Busy)
        assert reader.disk.counts["file.read"] == tried[0], "nothing was read after he came"
        reader.user.write(b"d/f", b"new", keeps_bytes=True)

    def test_a_large_file_that_is_written_to_is_not_read_to_its_end(self, reader: Reader) -> None:
        reader.user.write(b"d/f", LARGE)
        writer = reader.user.open_writer(b"d/f")
        reader.settle()
        wrote_at = []

        def write() -> None:
            writer.write(b"new")
            wrote_at.append(reader.disk.counts["file.read"])

        reader.once("file.read", write)
        result = reader.read()
        assert isinstance(result, Busy)
        assert result.glimpse is None
        assert reader.disk.counts["file.read"] == wrote_at[0], "it was read on"
        writer.close()

    @pytest.mark.parametrize("is_second", [False, True])
    def test_who_closes_a_file_while_it_is_read_lets_it_be_read_again_at_once(
        self, reader: Reader, is_second: bool
    ) -> None:
        writer = reader.user.open_writer(b"d/f")
        if is_second:
            writer.write(b"first")
            first = reader.read()
            assert isinstance(first, Busy)
            reader.reading = replace(reader.reading, earlier=first.glimpse)
        writer.write(b" and second")
        reader.settle()
        reader.once("file.read", writer.close)
        result = reader.read()
        assert isinstance(result, Busy)
        assert result.in_s == 0.0
        assert reader.disk.open_handles == 1
        assert isinstance(reader.read(), Read)

    @pytest.mark.parametrize("has_leases", [True, False])
    @pytest.mark.parametrize("operation", ["file.hold", "file.read", "file.status", "file.born_ns"])
    def test_never_a_mixture(self, reader: Reader, operation: str, has_leases: bool) -> None:
        old, new = b"a" * 1000, b"b" * 1000
        reader.disk.has_leases = has_leases
        reader.user.write(b"d/f", old)
        reader.settle()

        def write() -> None:
            try:
                reader.user.write(b"d/f", new, keeps_bytes=True)
            except BlockingIOError:
                return

        reader.once(operation, write)
        result = reader.read()
        if isinstance(result, Read):
            assert result.held in (old, new)
            assert result.content.digest == digest_of(result.held or b"")
        else:
            assert isinstance(result, Busy)

    def test_without_leases_a_young_file_is_waited_for(self, reader: Reader) -> None:
        reader.disk.has_leases = False
        reader.user.write(b"d/f", b"young")
        result = reader.read()
        assert isinstance(result, Busy)
        assert result.glimpse is None
        reader.settle(result.in_s)
        assert done(reader.read()).held == b"young"


class TestNotThere:
    def test_no_such_file(self, reader: Reader) -> None:
        assert isinstance(reader.read(), Gone)

    @pytest.mark.parametrize("kind", ["mkdir", "mkfifo", "symlink"])
    def test_no_file_any_more(self, reader: Reader, kind: str) -> None:
        if kind == "symlink":
            reader.user.write(b"secret", b"not to be read")
            reader.user.symlink(b"d/f", b"../secret")
        else:
            getattr(reader.user, kind)(b"d/f")
        assert isinstance(reader.read(), Gone)

    def test_another_directory_at_the_path(self, reader: Reader) -> None:
        reader.user.mkdir(b"other")
        reader.user.write(b"other/f", b"of another")
        reader.user.exchange(b"d", b"other")
        assert isinstance(reader.read(), Gone)
        assert reader.disk.open_handles == 1

    @pytest.mark.parametrize("error", [errno.EACCES, errno.EIO])
    @pytest.mark.parametrize("operation", ["open", "file.read", "file.hold", "enter"])
    def test_an_error_is_no_absence(self, reader: Reader, error: int, operation: str) -> None:
        reader.user.write(b"d/f", b"text")
        reader.settle()
        reader.disk.fail(error, operation=operation)
        result = reader.read()
        assert isinstance(result, Failed)
        assert result.error == error
        assert reader.disk.open_handles == 1


def test_a_time_beyond_what_an_entry_can_have_is_cut(reader: Reader) -> None:
    reader.user.write(b"d/f", b"text")
    reader.user.utime(b"d/f", MTIME_NS_MAX + 5)
    reader.settle()
    assert mtime_of(done(reader.read()).status) == MTIME_NS_MAX
