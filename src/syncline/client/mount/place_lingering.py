"""Letting go of what was displaced, once the base is recorded (D2 to D4 of `place_displaced`)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import assert_never

from syncline.client.mount.place_displaced import (
    Displaced,
    Label,
    conflict_names,
    digest_at,
    full_place,
    is_copied,
    is_same_content,
    link_out,
    move_out,
    parse_label,
    places_of,
)
from syncline.client.mount.walker import Walker, parts_of
from syncline.core.identity import ROOT_ID
from syncline.core.names import Name
from syncline.core.trees import Place
from syncline.ports.clock import Clock
from syncline.ports.files import Directory, File, FileKind, Status, Writers
from syncline.ports.mount_state import MountSession
from syncline.ports.watcher import Mark

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES})

LINGER_S = 5.0
"""How long a file is kept that nobody can say whether a writer has it open: editors are done by
then. RACE: one that writes later, through a descriptor from before, writes into nothing."""


class Lingering:
    """What was displaced and is still there; nothing is held open for it."""

    def __init__(self, root: Directory, displaced: Directory, replica: str, clock: Clock) -> None:
        self._root = root
        self._displaced = displaced
        self._replica = replica
        self._clock = clock
        self._things: list[Displaced] = []
        self._rescued: dict[int, Place] = {}
        """Where the inodes are that this call rescued: more than one name here may lead to one."""
        self._is_adopted = False

    def take(self, things: Iterable[Displaced]) -> None:
        """Be responsible for things whose base is about to be recorded."""
        self._things.extend(things)

    def look_again(self) -> None:
        """Be responsible for all that is in our directory: something in it is a user's."""
        self._is_adopted = False

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing waits to be let go of."""
        return self._is_adopted and not self._things

    def let_go(self, session: MountSession) -> tuple[Mark, ...]:
        """Remove what is at rest and as expected; return where to look (D3).

        That is where rescued things are now, and copies that a late writer wrote into: under the
        names that local knows, whatever the user made of the first one.
        """
        if not self._is_adopted:
            self._adopt(session)
        self._rescued.clear()
        kept: list[Displaced] = []
        marks: list[Mark] = []
        for thing in self._things:
            try:
                kept.extend(self._settle(session, thing, marks))
            except OSError:
                # E5: what cannot be looked at may hold a user's content; it is tried again.
                if self._may_be_there(thing):
                    kept.append(thing)
        self._things = kept
        return tuple(marks)

    def _may_be_there(self, thing: Displaced) -> bool:
        """Tell whether there is something to let go of: somebody may have emptied our directory."""
        try:
            return self._displaced.look(thing.name) is not None
        except OSError:
            return True

    def _adopt(self, session: MountSession) -> None:
        """Be responsible for what an earlier run or a failed rescue left; it is judged anew."""
        known = {thing.name for thing in self._things}
        found = sorted(self._displaced.list())
        self._is_adopted = True
        with Walker(self._root) as walker:
            for name, status in found:
                label = parse_label(name)
                if label is not None and name not in known:
                    thing = self._adopted(session, walker, name, label, status)
                    self._things.append(thing)

    def _adopted(
        self, session: MountSession, walker: Walker, name: bytes, label: Label, status: Status
    ) -> Displaced:
        """Know again of a thing what was known when it came here, as far as local tells."""
        parent = label.place[0]
        parts, inode, copy = parts_of(session, parent) or (), 0, None
        with suppress(OSError):
            inode = walker.open(session, parent).status().inode
        if status.links > 1:
            states = [seen.state for _, seen in session.with_inode(status.inode)]
            found = places_of(partial(walker.open, session), states, label, status.inode)
            copy = next(found, None)
        return Displaced(
            name,
            replace(label, place=full_place(session, label)),
            parts,
            inode,
            status,
            self._clock.monotonic_s(),
            copy=copy,
            is_judged=False,
            is_unsynced=copy is not None,
        )

    def _settle(
        self, session: MountSession, thing: Displaced, marks: list[Mark]
    ) -> Iterator[Displaced]:
        """Remove or rescue one thing; yield it where it must stay."""
        status = self._displaced.look(thing.name)
        if status is None:
            return
        is_link = status.kind is not FileKind.FILE
        is_kept = is_link and is_copied(self._displaced, thing, status)
        if is_kept or (thing.is_idle and status == thing.status):
            self._displaced.remove(thing.name)
        elif is_link:
            marks.extend(self._judge(thing, status))
        else:
            yield from self._settle_file(session, thing, status, marks)

    def _settle_file(
        self, session: MountSession, thing: Displaced, status: Status, marks: list[Mark]
    ) -> Iterator[Displaced]:
        file = self._opened(thing)
        try:
            writers = Writers.UNKNOWN if file is None else file.hold()
            now = status if file is None else file.status()
            is_changed = not (thing.is_judged and is_same_content(now, thing.status))
            if is_changed and thing.copy is not None and is_copied(self._displaced, thing, now):
                known = (seen.state.place for _, seen in session.with_inode(now.inode))
                # The first one, too: local may not know of it yet.
                places = dict.fromkeys((thing.copy, *known))
                marks.extend(Mark(*place, is_written=True) for place in places)
                thing = replace(thing, status=now, is_judged=True)
            elif is_changed:
                if now.inode in self._rescued:
                    thing = replace(thing, copy=self._rescued[now.inode], is_unsynced=True)
                elif not self._is_expected(thing, now):
                    found, is_here_too = self._rescue(thing, now, writers)
                    marks.append(Mark(*found))
                    if not is_here_too:
                        return
                    thing = replace(thing, copy=found, is_unsynced=True)
                thing = replace(thing, status=now, is_judged=True)
            match writers:
                case Writers.NONE:
                    self._remove(thing)
                case Writers.SOME:
                    yield replace(thing, since_s=self._clock.monotonic_s(), is_idle=False)
                case Writers.UNKNOWN:
                    if self._clock.monotonic_s() - thing.since_s < LINGER_S:
                        yield thing
                    else:
                        self._remove(thing)
                case _:
                    assert_never(writers)
        finally:
            if file is not None:
                file.close()

    def _remove(self, thing: Displaced) -> None:
        """Remove a file; the name that it was rescued under is durable first."""
        if thing.is_unsynced:
            self._root.sync_all()
        self._displaced.remove(thing.name)

    def _is_expected(self, thing: Displaced, status: Status) -> bool:
        """Read a thing; tell whether the server has what is in it, or has given it up."""
        digest = digest_at(self._displaced, thing.name, status.kind, thing.label.id)
        return digest in (thing.label.expected, thing.label.wanted)

    def _judge(self, thing: Displaced, status: Status) -> Iterator[Mark]:
        """Remove a link that is as expected, rescue anything else; yield where it is now."""
        if status.kind is FileKind.LINK and self._is_expected(thing, status):
            self._displaced.remove(thing.name)
        else:
            place, _ = self._rescue(thing, status, Writers.NONE)
            yield Mark(*place)

    def _rescue(self, thing: Displaced, status: Status, writers: Writers) -> tuple[Place, bool]:
        """Give a thing a name in the mount, beside where it was or else in the root.

        Returns where, and whether it keeps its name here: that a writer may go on (D4).
        """
        parent, name = thing.label.place
        digest = digest_at(self._displaced, thing.name, status.kind, thing.label.id)
        directory = self._find_directory(thing)
        try:
            target = self._root if directory is None else directory
            names = conflict_names(target, name, self._replica, digest, lambda _: False)
            wish = name if thing.label.wanted is None else next(names)
            linked = None
            if writers is Writers.SOME:
                linked = link_out(self._displaced, thing.name, target, wish, names)
            found = linked or move_out(self._displaced, thing.name, target, wish, names)
        finally:
            if directory is not None:
                directory.close()
        place = (ROOT_ID if directory is None else parent, found)
        self._rescued[status.inode] = place
        return place, linked is not None

    def _find_directory(self, thing: Displaced) -> Directory | None:
        """Open the directory that a thing came from; None where it is the root or not there."""
        at = self._root
        for part in thing.parts:
            below = _enter(at, part)
            if at is not self._root:
                at.close()
            if below is None:
                return None
            at = below
        if at is self._root:
            return None
        if at.status().inode == thing.inode:
            return at
        at.close()
        return None

    def _opened(self, thing: Displaced) -> File | None:
        """Open a file; None where its own mode forbids that."""
        try:
            return self._displaced.open(thing.name)
        except PermissionError:
            return None


def _enter(directory: Directory, name: Name) -> Directory | None:
    """Open a directory below; None where there is none that may be entered."""
    try:
        return directory.enter(name)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
