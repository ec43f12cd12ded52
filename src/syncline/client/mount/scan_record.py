"""Recording what was read: into the place that was read, if that is still what local says of it."""

from __future__ import annotations

from dataclasses import replace

from syncline.client.mount.read import (
    GRAIN_S,
    Busy,
    Failed,
    Gone,
    Read,
    Reading,
    ReadResult,
    mtime_of,
)
from syncline.client.mount.scan_memory import BUSY_TOLD_S, SOON_S, UNREAD_S, Memory, Waiting
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.trees import Place, State
from syncline.ports.mount_state import Held, MountSession, Obstacle, ObstacleReason
from syncline.ports.watcher import Mark


class Recorder:
    """Takes the results of one batch into a session."""

    def __init__(self, memory: Memory, session: MountSession, now_s: float) -> None:
        self._memory = memory
        self._session = session
        self._now_s = now_s
        self.waiting: list[Waiting] = []

    def take(self, result: ReadResult) -> None:
        """Record one result, or ask for another look."""
        reading = result.reading
        id = self._memory.name_now(reading.id)
        place = (self._memory.name_now(reading.place[0]), reading.place[1])
        is_late = self._memory.take_back(place)
        if not self._is_still(reading, id, place):
            self._wait(place, SOON_S, is_written=True)
            return
        match result:
            case Read():
                self._read(result, id, place)
            case Busy():
                self._busy(result, id, place)
            case Gone():
                self._wait(place, SOON_S, is_written=True)
            case Failed():
                self._refuse(reading, id, place, result.detail)
                self._wait(place, UNREAD_S, is_written=True)
        if is_late:
            # What was read is older than what was seen since, which may be nothing at all.
            self._wait(place, SOON_S)

    def _is_still(self, reading: Reading, id: EntryId, place: Place) -> bool:
        """Tell whether local says of the place what it said when the reading was asked for."""
        at_place = self._session.child(*place)
        if not reading.is_new:
            return at_place == id
        return at_place is None and self._session.local(id) is None and self._is_directory(place[0])

    def _is_directory(self, id: EntryId) -> bool:
        if id == ROOT_ID:
            return True
        seen = self._session.local(id)
        return seen is not None and seen.state.is_directory

    def _read(self, result: Read, id: EntryId, place: Place) -> None:
        status, fingerprint = result.status, result.fingerprint
        state = State(
            *place,
            Kind.FILE,
            status.mode & MODE_MASK,
            mtime_of(status),
            result.content,
            None,
        )
        self._session.set_local(id, Seen(state, fingerprint))
        self._memory.settle(place)
        if self._session.held_of(id) is not None:
            self._session.set_held(id, None)
        if self._session.obstacle(place) is not None:
            self._session.set_obstacle(place, None)
        if fingerprint.is_provisional:
            self._wait(place, GRAIN_S)
        if status.links > 1:
            self._look_at_other_names(id, fingerprint.inode)

    def _look_at_other_names(self, id: EntryId, inode: int) -> None:
        """Look once more at all names of a file that has several.

        One written by another name before this one was known has been told of that name alone.
        """
        others = [seen for other, seen in self._session.with_inode(inode) if other != id]
        own = self._session.local(id)
        for seen in (*others, own) if others else ():
            if seen is not None:
                self._wait(seen.state.place, GRAIN_S)

    def _busy(self, result: Busy, id: EntryId, place: Place) -> None:
        if result.glimpse is not None:
            self._memory.glimpse(place, result.glimpse)
        since_s = self._memory.since_s(place, self._now_s)
        if self._now_s - since_s >= BUSY_TOLD_S:
            self._refuse(result.reading, id, place, "it is being written to all the time")
        # It says of the mark that somebody has the file open: who waits for quiet need not wait.
        is_open = result.glimpse is not None
        self._wait(place, result.in_s, is_open=is_open)

    def _refuse(self, reading: Reading, id: EntryId, place: Place, detail: str) -> None:
        """Tell that a file cannot be read; a known one stays as it was recorded."""
        if reading.is_new:
            self._session.set_obstacle(place, Obstacle(ObstacleReason.UNREAD, detail))
        else:
            self._session.set_held(id, Held(is_ignored=False, detail=detail))
            self._keep_provisional(id)

    def _keep_provisional(self, id: EntryId) -> None:
        """Let the file be read again whatever its times say."""
        seen = self._session.local(id)
        assert seen is not None, "the entry is at its place"
        known = seen.fingerprint
        if known is not None and not known.is_provisional:
            provisional = replace(known, is_provisional=True)
            self._session.set_local(id, Seen(seen.state, provisional))

    def _wait(
        self, place: Place, in_s: float, *, is_written: bool = False, is_open: bool = False
    ) -> None:
        self.waiting.append(Waiting(Mark(*place, is_written, is_open), in_s))
