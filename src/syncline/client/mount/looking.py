"""What of the mount is to be looked at, and what is being read: marks, scans, readings.

L1  A look at everything takes the place of all marks but those whose content is to be read again.
L2  No more is looked at while too much waits to be read.
L3  Without watches everything is looked at from time to time, and takes a twentieth of the time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from syncline.client.mount.contents import Contents
from syncline.client.mount.lane import loop_s
from syncline.client.mount.marks import Marks
from syncline.client.mount.phases import Phases, reads_of
from syncline.client.mount.read import Read, Reading, ReadResult
from syncline.client.mount.scan import Look
from syncline.core.identity import EntryId
from syncline.ports.executor import Executor
from syncline.ports.watcher import Noticed

logger = logging.getLogger(__name__)

READINGS_AT_ONCE = 32
READINGS_MAX = 2_000
"""Files that are being read; beyond, no more places are looked at."""

SCAN_S = 3_600.0
"""How often everything is looked at although the watcher told nothing: for what no watch sees."""

DEGRADED_SCAN_S = 30.0
"""The same when the system has no watches left; and at least 20 times what a scan takes."""

SWEEP_S = 1.0
"""The same when something vanished meanwhile, which may have moved to where no watch is."""


class Looking:
    """The looks of one mount; all of it belongs to the control task's loop."""

    def __init__(
        self,
        phases: Phases,
        thread: Executor,
        reads: Executor,
        contents: Contents,
        wake: Callable[[], None],
    ) -> None:
        self.marks = Marks()
        self.is_scanned = False
        """Everything was looked at once."""
        self._phases = phases
        self._thread = thread
        self._reads = reads
        self._contents = contents
        self._wake = wake
        self._results: list[ReadResult] = []
        self._reading = 0
        self._read_since_s = 0.0
        """Since when, at the longest, something that is being read was marked."""
        self._is_scan_due = True
        self._is_scan_cut = False
        self._is_root_due = False
        self._started_s = self._ended_s = self._took_s = 0.0

    @property
    def is_scanning(self) -> bool:
        """Tell whether a look at everything is due or under way, or files are being read."""
        return self._is_scan_due or self._is_scan_cut or self._reading > 0 or bool(self._results)

    def is_settled(self, by_s: float) -> bool:
        """Tell whether all that was noticed up to then is recorded."""
        return self.is_scanned and not self.is_scanning and self.marks.is_settled(by_s)

    def scan(self) -> None:
        """Look at everything as soon as possible."""
        self._is_scan_due = True
        self._wake()

    def check_root(self) -> None:
        """Look at the root itself soon: an unmount makes no event."""
        self._is_root_due = True

    def begin_anew(self) -> None:
        """Look at everything from its start, whatever was under way."""
        self._is_scan_due, self._is_scan_cut = True, False

    def due_s(self) -> float | None:
        """Return when there is something to do."""
        if self._reading >= READINGS_MAX:
            return None
        now_s = loop_s()
        due = [self._scan_s(), self.marks.next_s(), now_s if self._is_scan_cut else None]
        return min((each for each in due if each is not None), default=None)

    def _scan_s(self) -> float | None:
        if self._is_scan_cut:
            return None
        if self._is_scan_due:
            return loop_s()
        every_s = SCAN_S
        if self._phases.scanner.is_watch_exhausted:
            is_wanted = self._phases.scanner.is_sweep_wanted
            every_s = max(SWEEP_S if is_wanted else DEGRADED_SCAN_S, 20 * self._took_s)
        return self._ended_s + every_s

    async def observe(self, noticed: Noticed, now_s: float, group: asyncio.TaskGroup) -> bool:
        """Look at what was marked, and take in what was read; tell whether there are news.

        `now_s` is when it was noticed. Raises Halted where the root is wrong, and what the state
        raises.
        """
        self.marks.add(noticed.marks, now_s)
        if noticed.is_overflown or self.marks.is_too_many:
            if not self._is_scan_due:
                logger.warning("watch_overflow looking_at=everything")
            self._is_scan_due = True
        scan_s = self._scan_s()
        if scan_s is not None and scan_s <= now_s:
            self._is_scan_due = True
        is_any = bool(self._results)
        if self._results:
            results, self._results = self._results, []
            since_s = self._read_since_s
            waiting = await self._thread.run(self._phases.record, results)
            # What was marked when it was first looked at still is, for those who wait.
            reads = reads_of(results)
            self.marks.wait(waiting, loop_s(), _places(reads), since_s)
            self._keep(reads)
        if self._reading < READINGS_MAX:
            looks = self.marks.take(now_s)
            is_work = bool(looks) or self._is_scan_due or self._is_scan_cut or noticed.is_root_gone
            # Nobody who waits is told that all is well of a root that is not there any more (B1).
            if is_work or self._is_root_due or noticed.sentinels:
                self._is_root_due = False
                is_any |= await self._look(looks, group)
        if not self.is_scanned and not self.is_scanning:
            for relabel in await self._thread.run(self._phases.finish_first_scan):
                self.marks.relabel(relabel.local_id, relabel.id)
            self.is_scanned = is_any = True
            logger.info("scanned seconds=%.1f", loop_s() - self._started_s)
        return is_any

    async def _look(self, looks: Sequence[Look], group: asyncio.TaskGroup) -> bool:
        """Look, and begin to read what is to be read; tell whether anything was recorded."""
        is_everywhere = self._is_scan_due and not self._is_scan_cut
        if is_everywhere:
            self._is_scan_due = False
            self.marks.clear(looks)
            self._started_s = loop_s()
        was_cut = self._is_scan_cut
        observed = await self._thread.run(self._phases.look, looks, is_everywhere=is_everywhere)
        self._is_scan_cut = observed.is_cut
        if (is_everywhere or was_cut) and not observed.is_cut:
            self._ended_s = loop_s()
            self._took_s = self._ended_s - self._started_s
        self.marks.wait(observed.waiting, loop_s(), _places(observed.reads))
        if observed.is_healed:
            self.marks.hurry(loop_s())
        self._keep(observed.reads)
        readings = observed.readings
        for start in range(0, len(readings), READINGS_AT_ONCE):
            some = readings[start : start + READINGS_AT_ONCE]
            if not self._reading and not self._results:
                self._read_since_s = loop_s() - max((look.quiet_s for look in looks), default=0.0)
            self._reading += len(some)
            group.create_task(self._read(some), name="read")
        return observed.has_changed

    async def _read(self, readings: Sequence[Reading]) -> None:
        try:
            results = await self._reads.run(self._phases.read_all, readings)
            # Not in one line: the list may be another one by the time the results are there.
            self._results += results
        finally:
            self._reading -= len(readings)
            self._wake()

    def _keep(self, reads: Sequence[Read]) -> None:
        """Keep in memory what is about to be sent."""
        for each in reads:
            if each.held is not None:
                self._contents.put(each.content.digest, each.held)
            self._contents.put_pieces(each.chunked.pieces)


def _places(reads: Sequence[Read]) -> set[tuple[EntryId, bytes]]:
    return {each.reading.place for each in reads}
