"""Letting go of what was displaced, once the base is recorded (D2, D3 of `place_displaced`)."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import assert_never

from syncline.client.mount.place_displaced import (
    Displaced,
    conflict_names,
    digest_at,
    is_copied,
    is_same_content,
    move_out,
    parse_label,
)
from syncline.core.identity import ROOT_ID
from syncline.core.names import Name
from syncline.ports.clock import Clock
from syncline.ports.files import Directory, File, FileKind, Status, Writers
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

    def let_go(self) -> tuple[Mark, ...]:
        """Remove what is at rest and as expected; return where to look (D3).

        That is where rescued things are now, and copies that a late writer wrote into.
        """
        if not self._is_adopted:
            self._adopt()
        kept: list[Displaced] = []
        marks: list[Mark] = []
        for thing in self._things:
            try:
                kept.extend(self._settle(thing, marks))
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

    def _adopt(self) -> None:
        """Be responsible for what an earlier run or a failed rescue left; it is judged anew."""
        known = {thing.name for thing in self._things}
        now_s = self._clock.monotonic_s()
        found = sorted(self._displaced.list())
        self._is_adopted = True
        for name, status in found:
            label = parse_label(name)
            if label is not None and name not in known:
                thing = Displaced(name, label, (), 0, status, now_s, is_judged=False)
                self._things.append(thing)

    def _settle(self, thing: Displaced, marks: list[Mark]) -> Iterator[Displaced]:
        """Remove or rescue one thing; yield it where it must stay."""
        status = self._displaced.look(thing.name)
        if status is None:
            return
        is_link = status.kind is not FileKind.FILE
        is_kept = is_link and is_copied(thing, status)
        if is_kept or (thing.is_idle and status == thing.status):
            self._displaced.remove(thing.name)
        elif is_link:
            marks.extend(self._judge(thing, status))
        else:
            yield from self._settle_file(thing, status, marks)

    def _settle_file(
        self, thing: Displaced, status: Status, marks: list[Mark]
    ) -> Iterator[Displaced]:
        file = self._opened(thing)
        try:
            writers = Writers.UNKNOWN if file is None else file.hold()
            now = status if file is None else file.status()
            is_changed = not (thing.is_judged and is_same_content(now, thing.status))
            if is_changed and thing.copy is not None and is_copied(thing, now):
                # No watch tells of what is written by the name that the file had when it was
                # opened: that name is here now.
                marks.append(Mark(*thing.copy, is_written=True))
                thing = replace(thing, status=now, is_judged=True)
            elif is_changed:
                if not self._is_expected(thing, now):
                    marks.append(self._rescue(thing, now))
                    return
                thing = replace(thing, status=now, is_judged=True)
            match writers:
                case Writers.NONE:
                    self._displaced.remove(thing.name)
                case Writers.SOME:
                    yield replace(thing, since_s=self._clock.monotonic_s())
                case Writers.UNKNOWN:
                    if self._clock.monotonic_s() - thing.since_s < LINGER_S:
                        yield thing
                    else:
                        self._displaced.remove(thing.name)
                case _:
                    assert_never(writers)
        finally:
            if file is not None:
                file.close()

    def _is_expected(self, thing: Displaced, status: Status) -> bool:
        """Read a thing; tell whether the server has what is in it, or has given it up."""
        digest = digest_at(self._displaced, thing.name, status.kind, thing.label.id)
        return digest in (thing.label.expected, thing.label.wanted)

    def _judge(self, thing: Displaced, status: Status) -> Iterator[Mark]:
        """Remove a link that is as expected, rescue anything else; yield where it is now."""
        if status.kind is FileKind.LINK and self._is_expected(thing, status):
            self._displaced.remove(thing.name)
        else:
            yield self._rescue(thing, status)

    def _rescue(self, thing: Displaced, status: Status) -> Mark:
        """Move a thing back into the mount, beside where it was or else into the root."""
        parent, name = thing.label.place
        digest = digest_at(self._displaced, thing.name, status.kind, thing.label.id)
        directory = self._find_directory(thing)
        try:
            target = self._root if directory is None else directory
            names = conflict_names(target, name, self._replica, digest, lambda _: False)
            wish = name if thing.label.wanted is None else next(names)
            found = move_out(self._displaced, thing.name, target, wish, names)
        finally:
            if directory is not None:
                directory.close()
        return Mark(ROOT_ID if directory is None else parent, found)

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
