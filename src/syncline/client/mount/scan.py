"""The scanner: finds out what the user did in the mount, and records it in local.

Model: marks say where to look, and the file system says what is there. `look` records directories,
links, moves and what is gone at once; files are read by others (`read`), and `record` takes in what
they found. Users go on working between any two steps.

S1  After each call local is a tree (V1), and each entry in it was seen where local has it. Where
    local is behind the mount, a mark, a waiting place or a reading will bring it on.
S2  A directory is watched first and listed then, so that nothing in it is lost.
S3  An error is never absence (V4); what vanished is believed after all else was looked at.
S4  One entry keeps its id through edits, saves and moves, as the rules of `scan_names` (N1, N2) and
    `scan_moves` (M1-M4) say.

After a call that ended with an exception, its session is lost and so is the work it took up: look
everywhere then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from syncline.client.mount.read import Reading, ReadResult
from syncline.client.mount.scan_gone import end_limbo, end_stuck, settle_one
from syncline.client.mount.scan_lists import list_one
from syncline.client.mount.scan_memory import (
    DEFAULT_BUDGET,
    Budget,
    Listing,
    Look,
    Looked,
    Memory,
    Waiting,
)
from syncline.client.mount.scan_names import look_at
from syncline.client.mount.scan_pass import Pass
from syncline.client.mount.scan_record import Recorder
from syncline.client.mount.walker import Walker
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.ignore import BadLine
from syncline.ports.clock import Clock
from syncline.ports.files import Directory
from syncline.ports.ids import Ids
from syncline.ports.mount_state import MountSession
from syncline.ports.watcher import Watcher

__all__ = ["DEFAULT_BUDGET", "Budget", "Look", "Looked", "Reading", "Scanner", "Waiting"]


class Scanner:
    """Looks at one mount; all calls come from one thread at a time."""

    def __init__(
        self,
        root: Directory,
        watcher: Watcher,
        ids: Ids,
        clock: Clock,
        budget: Budget = DEFAULT_BUDGET,
    ) -> None:
        self._budget = budget
        self._root = root
        self._device = root.status().device
        self._watcher = watcher
        self._ids = ids
        self._clock = clock
        self._memory = Memory()

    @property
    def is_watch_exhausted(self) -> bool:
        """Tell whether a directory got no watch since the last look everywhere."""
        return self._memory.is_watch_exhausted

    @property
    def is_sweep_wanted(self) -> bool:
        """Tell whether what vanished waits for a look at everything, for lack of watches."""
        return self._memory.is_sweep_wanted

    @property
    def bad_rules(self) -> Mapping[EntryId, Sequence[BadLine]]:
        """Return the lines of ignore rules that mean nothing, by the directory they stand in."""
        return {id: self._memory.rules[id].patterns.bad for id in self._memory.flawed}

    @property
    def root_trouble(self) -> str:
        """Return why the root could not be listed when that was last tried; empty: it could be."""
        return self._memory.root_trouble

    def look(self, session: MountSession, looks: Sequence[Look]) -> Looked:
        """Look at places, and go on with what the last call left; raise what the session raises.

        The caller puts together marks of one place. `is_cut`: call again, with no looks if there
        are none.
        """
        if looks:
            self._memory.tried = -1
        # Who was written to comes first: what moved away then is known to have been.
        self._memory.looks.extend(sorted(looks, key=lambda look: not look.mark.is_written))
        return self._run(session)

    def look_everywhere(self, session: MountSession) -> Looked:
        """Begin to look at everything; what is young counts as settled. Go on as with `look`."""
        self._memory.begin_again()
        self._memory.listings.append(Listing(ROOT_ID, is_deep=True))
        return self._run(session)

    def record(self, session: MountSession, results: Sequence[ReadResult]) -> tuple[Waiting, ...]:
        """Take in what was read; return the places that are to be looked at again.

        Each reading must come back, in any order and some calls later if need be.
        """
        recorder = Recorder(self._memory, session, self._clock.monotonic_s())
        for result in results:
            recorder.take(result)
        return tuple(recorder.waiting)

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Follow a relabel of the session: readings that are on their way are of `new` then."""
        self._memory.relabel(old, new)

    def forget(self, id: EntryId) -> None:
        """Know that a directory was taken away by placing: the next with its id is another one."""
        self._memory.forget_directory(id)

    def _run(self, session: MountSession) -> Looked:
        memory = self._memory
        with Walker(self._root) as walker:
            run = Pass(
                session,
                memory,
                walker,
                self._watcher,
                self._ids,
                self._clock,
                self._device,
                self._budget,
            )
            _work(run)
            end_limbo(run)
        return Looked(
            tuple(run.readings.values()),
            tuple(run.waiting.values()),
            memory.has_work,
            run.is_healed,
        )


def _work(run: Pass) -> None:
    """Do what is to be done, until nothing is left or the budget ends.

    The order is that of certainty: what vanished last, because it may be found until then.
    """
    memory = run.memory
    while run.has_budget:
        if memory.looks:
            look_at(run, memory.looks.popleft())
        elif memory.listings:
            list_one(run, memory.listings.pop())
        elif memory.deferred:
            place = next(iter(memory.deferred))
            look_at(run, memory.deferred.pop(place), is_last=True)
        elif memory.stuck and memory.changes != memory.tried:
            memory.tried = memory.changes
            memory.unstick_all()
        elif run.limbo:
            end_limbo(run)
        elif memory.vanished:
            settle_one(run)
        else:
            end_stuck(run)
            memory.is_sweeping = False
            return
