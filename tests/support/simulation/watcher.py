"""The watcher on a simulated disk: tells what inotify would tell, as soon as it happens."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from functools import partial

from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.ports.files import Directory
from syncline.ports.watcher import Mark, Noticed
from tests.support.simulation.disk import SimulatedDisk
from tests.support.simulation.files import SimulatedDirectory, SimulatedFiles
from tests.support.simulation.inodes import Change, Inode, refused, uncovered
from tests.support.simulation.met import NO_WATCHES, OVERFLOW

QUEUE_LIMIT = 16_384
"""What `fs.inotify.max_queued_events` is by default."""

_APPEARS = (Change.CREATE, Change.MOVED_TO)
_GONE = (Change.DELETE_SELF, Change.MOVE_SELF)
_LEAVES = (Change.DELETE, Change.MOVED_FROM, Change.MOVED_TO)
_ENDS_WATCH = (Change.DELETE_SELF, Change.UNMOUNT)


class SimulatedWatcher:
    """Watches directories of one disk.

    `watch_limit`: how many directories may be watched. `queue_limit`: how many changes are kept
    until they are taken; later ones are lost, and that they are is told.
    """

    def __init__(
        self,
        disk: SimulatedDisk,
        *,
        watch_limit: int | None = None,
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._disk = disk
        self._watch_limit = watch_limit
        self._queue_limit = queue_limit
        self._ids: dict[int, EntryId] = {}
        self._serials: dict[EntryId, int] = {}
        self._sentinel_serials: set[int] = set()
        self._root_place: tuple[int, bytes] | None = None
        self._files: SimulatedFiles | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._forget_noticed()
        disk.listeners.append(self)

    def _forget_noticed(self) -> None:
        self._marks: dict[tuple[EntryId, bytes | None], Mark] = {}
        self._sentinels: set[bytes] = set()
        self._queued = 0
        self._is_overflown = False
        self._is_root_gone = False

    def is_of(self, process: object) -> bool:
        """Tell whether this watcher ends with a process: the one whose directories it watches."""
        return self._files is process

    # The port

    def add(self, directory: Directory, id: EntryId) -> bool:
        serial = self._serial(directory)
        if serial not in self._ids and not self._has_room():
            self._disk.met[NO_WATCHES] += 1
            return False
        self.forget(id)
        known = self._ids.get(serial)
        if known is not None:
            self.forget(known)
        self._ids[serial] = id
        self._serials[id] = serial
        if id == ROOT_ID:
            self._root_place = _place(directory)
        return True

    def add_sentinels(self, directory: Directory) -> None:
        if not self._has_room():
            raise refused(errno.ENOSPC)
        self._sentinel_serials.add(self._serial(directory))

    def _serial(self, directory: Directory) -> int:
        assert isinstance(directory, SimulatedDirectory)
        self._files = directory.files
        self._files.check_alive()
        return directory.inode.serial

    def _has_room(self) -> bool:
        return self._watch_limit is None or len(self._ids) < self._watch_limit

    def is_watched(self, id: EntryId) -> bool:
        return id in self._serials

    def forget(self, id: EntryId) -> None:
        serial = self._serials.pop(id, None)
        if serial is not None:
            del self._ids[serial]
        if id == ROOT_ID:
            self._root_place = None

    def relabel(self, old: EntryId, new: EntryId) -> None:
        serial = self._serials.get(old)
        if serial is None or old == new:
            return
        self.forget(old)
        self.forget(new)
        self._ids[serial] = new
        self._serials[new] = serial
        self._relabel_marks(old, new)

    def _relabel_marks(self, old: EntryId, new: EntryId) -> None:
        for id, name in [place for place in self._marks if place[0] == old]:
            mark = self._marks.pop((id, name))
            there = self._marks.get((new, name), mark)
            self._marks[new, name] = Mark(
                new, name, mark.is_written or there.is_written, mark.is_open or there.is_open
            )

    async def wait(self) -> None:
        while not self._has_noticed():
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting
            finally:
                self._waiting.remove(waiting)

    def take(self) -> Noticed:
        noticed = Noticed(
            tuple(self._marks.values()),
            frozenset(self._sentinels),
            self._is_overflown,
            self._is_root_gone,
        )
        self._forget_noticed()
        return noticed

    def close(self) -> None:
        self._disk.listeners = [one for one in self._disk.listeners if one is not self]

    # What happens

    def hear(self, change: Change, directory: Inode, name: bytes | None) -> None:
        """Take a change of the disk."""
        note = self._note_of(change, directory, name)
        if change in _ENDS_WATCH and directory.serial in self._ids:
            self.forget(self._ids[directory.serial])
        if note is None:
            return
        if self._queued < self._queue_limit:
            self._queued += 1
            note()
        else:
            if not self._is_overflown:
                self._disk.met[OVERFLOW] += 1
            self._is_overflown = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def _note_of(
        self, change: Change, directory: Inode, name: bytes | None
    ) -> Callable[[], None] | None:
        if directory.serial in self._sentinel_serials:
            if name is None or change not in _APPEARS:
                return None
            return partial(self._sentinels.add, name)
        if change in _LEAVES and (directory.serial, name) == self._root_place:
            # The kernel says nothing of the end of a directory that somebody has open.
            return self._lose_root
        id = self._ids.get(directory.serial)
        if id is None:
            return None
        if id == ROOT_ID and name is None and change is not Change.ATTRIB:
            return self._lose_root
        if change in _GONE or (id == ROOT_ID and name == RESERVED_ROOT_NAME):
            return None
        return partial(self._mark, change, id, name)

    def _lose_root(self) -> None:
        self._is_root_gone = True

    def _mark(self, change: Change, id: EntryId, name: bytes | None) -> None:
        known = self._marks.get((id, name), Mark(id, name))
        is_open = known.is_open
        if change is Change.MODIFY:
            is_open = True
        elif change is not Change.ATTRIB:
            # It was closed, or what had the name is another thing now.
            is_open = False
        is_written = known.is_written or change is Change.CLOSE_WRITE
        self._marks[id, name] = Mark(id, name, is_written, is_open)

    def _has_noticed(self) -> bool:
        return bool(self._marks or self._sentinels or self._is_overflown or self._is_root_gone)


def _place(directory: Directory) -> tuple[int, bytes] | None:
    assert isinstance(directory, SimulatedDirectory)
    entry = uncovered(directory.inode).entry
    return (entry.parent.serial, entry.name) if entry is not None else None
