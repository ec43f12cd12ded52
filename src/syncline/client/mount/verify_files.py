"""Comparing the files of a mount with what was recorded of them, by reading them again.

Model: entries are taken in order of id, a few at a time; the mount thread looks at each, other
threads read the files, and the mount thread judges. Users and the sync go on meanwhile: what is not
as recorded is a *suspect* at first, and looked at again when the scanner had its turn.

V1  Content differs only where local and the file system say the same of the file before and after
    it was read: nobody wrote, as far as inode, size, mode and times can tell.
V2  Nothing is recorded, and no suspect is marked as written: that would make the scanner read the
    file and send what it finds there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice

from syncline.client.mount.mounted_file import mounted_file
from syncline.client.mount.phases import Phases
from syncline.client.mount.read import (
    NOT_THERE,
    Busy,
    Failed,
    Glimpse,
    Read,
    Reading,
    ReadResult,
    fingerprint_of,
)
from syncline.client.mount.scan_moves import KINDS
from syncline.client.mount.scan_names import is_passed_over
from syncline.client.mount.walker import Walker, path_at
from syncline.core.entries import MODE_MASK, Kind
from syncline.core.fingerprints import Seen
from syncline.core.identity import ROOT_ID, Digest, EntryId
from syncline.core.names import Name, RelPath
from syncline.core.trees import Place, ProblemCode
from syncline.ports.files import Directory, Status
from syncline.ports.mount_control import FindingCode, MountProblem
from syncline.ports.mount_state import MountSession

ENTRIES_AT_ONCE = 256
NAMES_AT_ONCE = 2_000
"""What one call looks at: a few ms, so that the sync does not wait for it."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A place that is not as recorded; `code` is what is wrong if it stays so, None: only busy."""

    place: Place
    path: RelPath
    code: str | None
    detail: str = ""

    @property
    def problem(self) -> MountProblem | None:
        """Return what it is a finding of, when it stays as it is."""
        return MountProblem(self.path, self.code, self.detail) if self.code is not None else None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to be read; `before` is what an earlier reading gave that was not as recorded."""

    id: EntryId
    seen: Seen
    reading: Reading
    before: Digest | None = None


@dataclass(frozen=True, slots=True)
class Rotten:
    """A file with other content than was recorded of it, or that cannot be read."""

    id: EntryId
    seen: Seen
    problem: MountProblem


@dataclass(slots=True)
class Looked:
    """What some looks came to: entries, files to be read, and what is not as recorded."""

    entries: int = 0
    wanted: list[Wanted] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)


@dataclass(slots=True)
class Judged:
    """What some readings came to; `well` are entries whose content is as recorded."""

    size: int = 0
    well: list[EntryId] = field(default_factory=list)
    again: list[Wanted] = field(default_factory=list)
    suspects: list[Suspect] = field(default_factory=list)
    rotten: list[Rotten] = field(default_factory=list)


class FileCheck:
    """Goes through the entries of a mount once; all calls come from the mount thread."""

    def __init__(self, phases: Phases) -> None:
        self._phases = phases
        self._after: EntryId | None = None
        self._is_over = False
        self._names: deque[tuple[EntryId, bytes]] = deque()
        self._is_root_listed = False

    def look(self) -> Looked | None:
        """Look at the next entries; None when all were looked at."""
        looked = Looked()
        with self._phases.parts.state.session() as session, self._walker() as walker:
            if self._names:
                self._look_at_names(session, looked)
            elif not self._is_root_listed:
                self._is_root_listed = True
                self._list(walker.open(session, ROOT_ID), ROOT_ID)
            elif self._is_over:
                return None
            else:
                ids = session.remote_ids(self._after, ENTRIES_AT_ONCE)
                self._is_over = not ids
                for id in ids:
                    self._after = id
                    self._look_at(session, walker, id, looked)
        return looked

    def look_again(self, suspects: Sequence[Suspect]) -> Looked:
        """Look at suspects once more; return those that still are."""
        looked = Looked()
        with self._phases.parts.state.session() as session, self._walker() as walker:
            for suspect in suspects:
                id = session.child(*suspect.place)
                if id is not None:
                    self._look_at(session, walker, id, looked)
                    self._names.clear()
                else:
                    self._look_for_extra(session, walker, suspect.place, looked)
        return looked

    def _walker(self) -> Walker:
        return Walker(self._phases.root.directory)

    # -- entries -----------------------------------------------------------------

    def _look_at(self, session: MountSession, walker: Walker, id: EntryId, looked: Looked) -> None:
        """Look at an entry; one that local lacks waits to be placed, and is not ours to judge."""
        seen = session.local(id)
        if seen is None or _is_held(session, id):
            return
        looked.entries += 1
        place = seen.state.place
        try:
            directory = walker.open(session, place[0])
            status = directory.look(place[1])
            if status is None:
                self._suspect(session, place, FindingCode.MISSING, "it is not there", looked)
            else:
                self._compare(session, directory, id, seen, status, looked)
        except OSError as error:
            if error.errno in NOT_THERE:
                self._suspect(session, place, FindingCode.MISSING, "it is not there", looked)
            else:
                path = path_at(session, place)
                looked.suspects.append(_unread(place, path, error.strerror or str(error)))

    def _compare(
        self,
        session: MountSession,
        directory: Directory,
        id: EntryId,
        seen: Seen,
        status: Status,
        looked: Looked,
    ) -> None:
        state, known, place = seen.state, seen.fingerprint, seen.state.place
        now = fingerprint_of(status, 0, is_provisional=False)
        if KINDS.get(status.kind) is not state.kind:
            detail = f"a {state.kind.name.lower()} was recorded, and something else is there"
            self._suspect(session, place, FindingCode.KIND, detail, looked)
        elif state.kind is not Kind.LINK and status.mode & MODE_MASK != state.mode:
            detail = f"its mode is {status.mode & MODE_MASK:04o}, and {state.mode:04o} was recorded"
            self._suspect(session, place, FindingCode.ATTRIBUTES, detail, looked)
        elif state.kind is Kind.DIRECTORY:
            if known is not None and known.inode != status.inode:
                detail = "another directory is there"
                self._suspect(session, place, FindingCode.KIND, detail, looked)
                return
            below = directory.enter(place[1])
            try:
                self._list(below, id)
            finally:
                below.close()
        elif known is None or known.is_provisional or not known.is_unchanged(now):
            self._suspect(session, place, None, "", looked)
        elif state.kind is Kind.LINK:
            if directory.read_link(place[1]) != state.target:
                detail = "its target is another one"
                self._suspect(session, place, FindingCode.CONTENT, detail, looked)
        else:
            file = mounted_file(session, place)
            assert file is not None, "the directories above it were opened"
            reading = Reading(id, place, file, status.size, is_new=False)
            looked.wanted.append(Wanted(id, seen, reading))

    def _suspect(
        self,
        session: MountSession,
        place: Place,
        code: FindingCode | None,
        detail: str,
        looked: Looked,
    ) -> None:
        path = path_at(session, place)
        looked.suspects.append(Suspect(place, path, None if code is None else code.value, detail))

    # -- what is no entry ----------------------------------------------------------

    def _list(self, directory: Directory, id: EntryId) -> None:
        """Note the names in a directory, which are looked up in the next calls."""
        self._names.extend((id, name) for name, _ in directory.list())

    def _look_at_names(self, session: MountSession, looked: Looked) -> None:
        for id, name in list(islice(self._names, NAMES_AT_ONCE)):
            self._names.popleft()
            if _is_unknown(session, id, name):
                place = (id, Name(name))
                self._suspect(session, place, FindingCode.EXTRA, _EXTRA, looked)

    def _look_for_extra(
        self, session: MountSession, walker: Walker, place: Place, looked: Looked
    ) -> None:
        if not _is_unknown(session, *place):
            return
        try:
            is_there = walker.open(session, place[0]).look(place[1]) is not None
        except OSError:
            # What cannot be looked into any more is a suspect of its own.
            return
        if is_there:
            self._suspect(session, place, FindingCode.EXTRA, _EXTRA, looked)

    # -- content -------------------------------------------------------------------

    def judge(self, wanted: Sequence[Wanted], results: Sequence[ReadResult]) -> Judged:
        """Compare what was read with what is recorded now (V1)."""
        judged = Judged()
        with self._phases.parts.state.session() as session:
            for each, result in zip(wanted, results, strict=True):
                _judge(session, each, result, judged)
        return judged


def read_fresh(phases: Phases, readings: Sequence[Reading]) -> list[ReadResult]:
    """Read some files from the disk and not from memory, where the system does that; blocks."""
    results: list[ReadResult] = []
    for reading in readings:
        # Whatever keeps it from being opened is told by the reading itself.
        with suppress(OSError), closing(reading.file.open(phases.root.directory)) as file:
            file.forget_cached()
        results += phases.read_all([reading])
    return results


_EXTRA = "it is there, and no look records it"


def _judge(session: MountSession, wanted: Wanted, result: ReadResult, judged: Judged) -> None:
    seen, place = wanted.seen, wanted.seen.state.place
    path = wanted.reading.path
    if session.local(wanted.id) != seen:
        judged.suspects.append(Suspect(place, path, None))
        return
    match result:
        case Read(_, chunked, _, fingerprint):
            known, content = seen.fingerprint, seen.state.content
            assert known is not None and content is not None, "a file was looked at"
            judged.size += chunked.content.size
            if fingerprint.is_provisional or not known.is_unchanged(fingerprint):
                judged.suspects.append(Suspect(place, path, None))
            elif chunked.content.digest == content.digest:
                judged.well.append(wanted.id)
            elif wanted.before is None:
                # Once more, so that a fault of the reading is not taken for one of the disk.
                digest = chunked.content.digest
                judged.again.append(Wanted(wanted.id, seen, wanted.reading, digest))
            else:
                detail = _rot_text(content.digest, chunked.content.digest, wanted.before)
                problem = MountProblem(path, FindingCode.CONTENT.value, detail)
                judged.rotten.append(Rotten(wanted.id, seen, problem))
        case Busy(_, _, Glimpse() as glimpse) if _is_as_recorded(seen, glimpse):
            # Somebody has it open for writing, and did not write.
            judged.size += glimpse.size
            judged.well.append(wanted.id)
        case Failed(_, number, detail):
            problem = MountProblem(path, ProblemCode.UNREAD.value, detail or os.strerror(number))
            judged.rotten.append(Rotten(wanted.id, seen, problem))
        case _:
            judged.suspects.append(Suspect(place, path, None))


def _is_as_recorded(seen: Seen, glimpse: Glimpse) -> bool:
    known, content = seen.fingerprint, seen.state.content
    assert known is not None and content is not None, "a file was looked at"
    return (known.size, known.mtime_ns, known.ctime_ns, content.digest) == (
        glimpse.size,
        glimpse.mtime_ns,
        glimpse.ctime_ns,
        glimpse.digest,
    )


def _rot_text(recorded: Digest, found: Digest, before: Digest) -> str:
    read = f"{found.hex()[:16]} was read" if found == before else "two readings gave two contents"
    return f"size and times are as recorded, but {read} where {recorded.hex()[:16]} was"


def _unread(place: Place, path: RelPath, detail: str) -> Suspect:
    return Suspect(place, path, ProblemCode.UNREAD.value, detail)


def _is_held(session: MountSession, id: EntryId) -> bool:
    """Tell whether an entry, or a directory above it, is ignored or is told as a problem."""
    while id != ROOT_ID:
        seen = session.local(id)
        if seen is None or session.held_of(id) is not None:
            return True
        id = seen.state.parent
    return False


def _is_unknown(session: MountSession, directory: EntryId, name: bytes) -> bool:
    if is_passed_over(directory, name):
        return False
    place = (directory, Name(name))
    return session.child(*place) is None and session.obstacle(place) is None
