"""Watching directories with inotify.

One descriptor for a mount. Its events are read as they come, in the event loop, and merged to marks
by place, so that a queue of the kernel overflows only when the loop stands still. A watch belongs
to the inode of a directory: it is known by the id that was told last, wherever the directory goes.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import termios
import threading
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import inotify_simple
from inotify_simple import flags

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.errors import LocalFailure
from syncline.ports.files import Directory
from syncline.ports.watcher import Mark, Noticed

MARKS_MAX = 100_000
"""Marks held until they are taken; what comes past it is lost, and said to be."""

_READ_BYTES = 64 * 1024
"""Some thousand events, a few ms of work: the loop has other things to do in between."""

_APPEARED = flags.CREATE | flags.MOVED_TO
_LEFT = flags.MOVED_FROM | flags.DELETE
_REPLACED = _APPEARED | _LEFT
"""After these the name stands for another file, and says nothing of who has the last one open."""

_CHANGES = _REPLACED | flags.MODIFY | flags.CLOSE_WRITE | flags.ATTRIB
_WAY = flags.ONLYDIR | flags.EXCL_UNLINK
_GONE = flags.MOVE_SELF | flags.DELETE_SELF


@runtime_checkable
class _Descriptor(Protocol):
    """What a directory of the adapter for real files has besides its port."""

    def fileno(self) -> int: ...


@dataclass(slots=True)
class _Merged:
    """What is known of one place since the last look."""

    is_written: bool = False
    is_open: bool = False


class InotifyWatcher:
    """Watches the directories of one mount; raises LocalFailure where no inotify can be had.

    Marks of one place are merged: `is_written` if a writer closed it since the last look, `is_open`
    if it was written to after that and is not replaced since. A change without an open file, as
    truncate(2) makes it, counts as a writing that nobody closes.
    """

    def __init__(self, *, marks_max: int = MARKS_MAX) -> None:
        try:
            self._inotify = inotify_simple.INotify(nonblocking=True)
        except OSError as error:
            raise _no_inotify(error) from error
        self._fd: int = self._inotify.fileno()
        self._marks_max = marks_max
        self._lock = threading.Lock()
        """Guards all below but the event; held while a watch is added, so that no event of it is
        read before its id is known."""
        self._ids: dict[int, EntryId] = {}
        self._watches: dict[EntryId, int] = {}
        self._sentinel_watches: set[int] = set()
        self._above: int | None = None
        self._root_name = b""
        self._marks: dict[tuple[EntryId, bytes | None], _Merged] = {}
        self._sentinels: set[bytes] = set()
        self._is_overflown = False
        self._is_root_gone = False
        self._noticed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, directory: Directory, id: EntryId) -> bool:
        """Watch a directory; False where the system has no watch left for it; raise OSError."""
        mask = _CHANGES | _WAY | (_GONE if id == ROOT_ID else 0)
        with self._lock:
            try:
                watch = self._add_watch(directory, mask)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    return False
                raise
            self._know(watch, id)
            if id == ROOT_ID:
                self._watch_above(directory)
        return True

    def add_sentinels(self, directory: Directory) -> None:
        """Watch the directory of sentinels; raise OSError, ENOSPC where no watch is left."""
        with self._lock:
            self._sentinel_watches.add(self._add_watch(directory, _APPEARED | _WAY))

    def is_watched(self, id: EntryId) -> bool:
        """Tell whether a directory is watched under this id."""
        with self._lock:
            return id in self._watches

    def forget(self, id: EntryId) -> None:
        """Stop watching; what was noticed before is still told."""
        with self._lock:
            self._drop(id)

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Know a watched directory, and what was noticed in it, by another id."""
        with self._lock:
            watch = self._watches.get(old)
            if watch is not None:
                self._know(watch, new)
            for id, name in [place for place in self._marks if place[0] == old]:
                merged = self._marks.pop((id, name))
                there = self._marks.setdefault((new, name), merged)
                there.is_written |= merged.is_written
                there.is_open |= merged.is_open

    async def wait(self) -> None:
        """Return when something was noticed that was not taken yet."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._fd, self._on_readable)
        await self._noticed.wait()

    def take(self) -> Noticed:
        """Return what was noticed, and forget it; reads what the kernel has queued by now."""
        queued = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        (size,) = struct.unpack("=i", queued)
        if size:
            self._read(size)
        with self._lock:
            noticed = Noticed(
                marks=tuple(
                    Mark(id, name, is_written=merged.is_written, is_open=merged.is_open)
                    for (id, name), merged in self._marks.items()
                ),
                sentinels=frozenset(self._sentinels),
                is_overflown=self._is_overflown,
                is_root_gone=self._is_root_gone,
            )
            self._marks.clear()
            self._sentinels.clear()
            self._is_overflown = self._is_root_gone = False
            self._noticed.clear()
        return noticed

    def close(self) -> None:
        """Stop; a second call does nothing."""
        if self._inotify.closed:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self._inotify.close()

    def _add_watch(self, directory: Directory, mask: int) -> int:
        return int(self._inotify.add_watch(self._path(directory), mask))

    @staticmethod
    def _path(directory: Directory) -> str:
        """Return a path that leads to this directory wherever it is by now."""
        assert isinstance(directory, _Descriptor), "two adapters of files were mixed"
        return f"/proc/self/fd/{directory.fileno()}"

    def _watch_above(self, root: Directory) -> None:
        """Watch the directory that the root is in for the removal or replacement of the root.

        While anything in the root is open, as it is in a running mount, the kernel does not say of
        the root itself that it was removed.
        """
        self._drop_above()
        try:
            own = os.fsencode(os.readlink(self._path(root)))
            above = f"{self._path(root)}/.."
            if os.path.samestat(os.stat(self._path(root)), os.stat(above)):
                return
            self._above = int(self._inotify.add_watch(above, _LEFT | flags.MOVED_TO | _WAY))
        except OSError:
            # It may not be ours to read. What the kernel says of the root has to do.
            return
        self._root_name = os.path.basename(own)

    def _drop_above(self) -> None:
        if self._above is not None:
            self._remove_watch(self._above)
            self._above = None

    def _know(self, watch: int, id: EntryId) -> None:
        """Let a watch be that of an id, and the only one."""
        before = self._ids.get(watch)
        if before is not None:
            del self._watches[before]
        if self._watches.get(id, watch) != watch:
            self._drop(id)
        self._ids[watch] = id
        self._watches[id] = watch

    def _drop(self, id: EntryId) -> None:
        watch = self._watches.pop(id, None)
        if watch is None:
            return
        del self._ids[watch]
        self._remove_watch(watch)
        if id == ROOT_ID:
            self._drop_above()

    def _remove_watch(self, watch: int) -> None:
        try:
            self._inotify.rm_watch(watch)
        except OSError as error:
            # EINVAL: the directory is gone, and the kernel's word about it not read yet.
            if error.errno != errno.EINVAL:
                raise

    def _on_readable(self) -> None:
        try:
            self._read(_READ_BYTES)
        except BlockingIOError:
            # Taken since the loop was told of it.
            return

    def _read(self, size: int) -> None:
        events = inotify_simple.parse_events(os.read(self._fd, size))
        with self._lock:
            for event in events:
                self._note(event.wd, event.mask, os.fsencode(event.name))
            if self._marks or self._sentinels or self._is_overflown or self._is_root_gone:
                self._noticed.set()

    def _note(self, watch: int, mask: int, name: bytes) -> None:
        if mask & flags.Q_OVERFLOW:
            self._is_overflown = True
            return
        if watch in self._sentinel_watches:
            self._note_sentinel(watch, mask, name)
            return
        if watch == self._above:
            self._note_above(mask, name)
            return
        id = self._ids.get(watch)
        if id is None:
            # Forgotten since, or the last word about a watch that was removed.
            return
        if mask & flags.IGNORED:
            del self._ids[watch]
            del self._watches[id]
        if id == ROOT_ID and (mask & (_GONE | flags.UNMOUNT | flags.IGNORED)):
            self._is_root_gone = True
        elif not mask & flags.IGNORED and not (id == ROOT_ID and name == RESERVED_ROOT_NAME):
            self._mark(id, name or None, mask)

    def _note_sentinel(self, watch: int, mask: int, name: bytes) -> None:
        if mask & flags.IGNORED:
            self._sentinel_watches.discard(watch)
        elif name and len(self._sentinels) < self._marks_max:
            self._sentinels.add(name)
        elif name:
            self._is_overflown = True

    def _note_above(self, mask: int, name: bytes) -> None:
        if mask & flags.IGNORED:
            self._above = None
        elif name == self._root_name:
            self._is_root_gone = True

    def _mark(self, id: EntryId, name: bytes | None, mask: int) -> None:
        merged = self._marks.get((id, name))
        if merged is None:
            if len(self._marks) >= self._marks_max:
                self._is_overflown = True
                return
            merged = self._marks[id, name] = _Merged()
        if mask & flags.CLOSE_WRITE:
            merged.is_written = True
        if mask & flags.MODIFY:
            merged.is_open = True
        elif mask & (flags.CLOSE_WRITE | _REPLACED):
            merged.is_open = False


def _no_inotify(error: OSError) -> LocalFailure:
    code = errno.errorcode.get(error.errno or 0, "?")
    if error.errno == errno.EMFILE:
        return LocalFailure(
            "no directory can be watched: this user or process has too many descriptors of inotify"
            " (sysctl fs.inotify.max_user_instances) or too many open files",
            errno=code,
        )
    return LocalFailure(f"no directory can be watched: {error.strerror}", errno=code)
