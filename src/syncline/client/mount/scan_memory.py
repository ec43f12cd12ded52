"""What the scanner keeps between its calls: work that a budget cut off, and what is put off.

Nothing here is per file at rest: places that were looked at too early, files that somebody writes
to, and per directory whether it was listed, and its ignore rules.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from math import inf
from typing import TypeVar

from syncline.client.mount.read import Glimpse, Reading
from syncline.core.identity import EntryId
from syncline.core.ignore import Patterns
from syncline.core.names import Name
from syncline.core.trees import Place
from syncline.ports.watcher import Mark

_Value = TypeVar("_Value")

NEW_S = 0.02
"""A new name is left alone until it was quiet for so long: most are gone by then, because programs
write beside a file and rename over it."""

MOVED_S = 0.025
"""The same for a file that seems to have moved: vim renames the old content away and makes the file
anew within milliseconds, which is an edit."""

VANISHED_S = 0.1
"""The same for what vanished: it may turn up elsewhere, or, after a save of LibreOffice, again."""

PATIENCE_S = 1.0
"""A name that is never quiet (a log that was renamed) is taken for settled after this time."""

OPEN_LOOK_S = 1.0
"""A file that is written to again and again without being closed is looked at this often."""

BUSY_TOLD_S = 60.0
"""A file that does not hold still for so long is told as a problem."""

UNREAD_S = 5.0
"""After an error a place is looked at again when this time has passed."""

SOON_S = 0.01
"""After a race with a user: his part of it is over, or the watcher will tell."""

UNSWEPT_S = 5.0
"""What vanished where watches are missing is looked at again after this time, unless a look at
everything comes before."""

STUCK_S = 0.05
"""When a directory is not where local has it and was not found elsewhere yet."""

MARGIN_S = 0.001
"""So much later than the first moment that would do: sums of times are not exact."""

PUT_OFF_MAX = 4_096
GLIMPSES_MAX = 1_024
"""So many places are remembered; the oldest are forgotten, and only wait longer for that."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one call may come to: a few hundred ms, so that other work is not kept waiting."""

    readings: int = 1_000
    names: int = 20_000


DEFAULT_BUDGET = Budget()


@dataclass(frozen=True, slots=True)
class Look:
    """A place to look at; `quiet_s`: how long nothing happened there.

    `is_other_name`: it is looked at because the same file changed by another name.
    """

    mark: Mark
    quiet_s: float = inf
    is_other_name: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    """A place that is to be looked at in so many seconds, because it is too early now."""

    mark: Mark
    in_s: float


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look came to, beside what it recorded.

    `readings` are files to be read; `is_cut`: the budget ended before the work did.
    """

    readings: tuple[Reading, ...]
    waiting: tuple[Waiting, ...]
    is_cut: bool
    is_healed: bool = False
    """A directory that could not be looked into can be again: what waits for that need not wait."""


@dataclass(slots=True)
class Listing:
    """A directory to be listed, or what is left of its names.

    `is_deep`: the directories in it are listed too.
    """

    directory: EntryId
    is_deep: bool
    quiet_s: float = inf
    rest: list[Name] | None = None

    @property
    def is_settled(self) -> bool:
        """Tell whether everything in it counts as quiet, however young it is."""
        return self.quiet_s == inf


@dataclass(frozen=True, slots=True)
class Rules:
    """The ignore rules of one directory; `raw` is what they were made of."""

    raw: bytes
    patterns: Patterns


@dataclass(slots=True)
class Pending:
    """Readings of one place that did not come back; `is_late`: it was looked at since."""

    count: int = 0
    is_late: bool = False


@dataclass(slots=True)
class Memory:
    """Work left over, and observations that are not recorded.

    `deferred`: places whose meaning depends on what else is found; looked at last. `stuck`: places
    in directories that are not where local has them. `vanished`: what was not at its place, which
    it had then. `put_off`: since when a place is. `pending`: readings on their way, by their
    directory. `aliases`: ids that those were asked for by, and what they are now. `flawed`: who has
    rules with bad lines. `is_sweeping`: everything is being looked at; `is_sweep_wanted`: something
    cannot be told before that. `root_trouble`: why the root could not be listed. `changes` counts
    directories that were found: stuck looks are tried again when it is not what was `tried`.
    """

    looks: deque[Look] = field(default_factory=deque)
    listings: list[Listing] = field(default_factory=list)
    deferred: dict[Place, Look] = field(default_factory=dict)
    stuck: dict[EntryId, dict[tuple[EntryId, bytes | None], Look]] = field(default_factory=dict)
    vanished: dict[EntryId, tuple[Place, Look]] = field(default_factory=dict)
    listed: set[EntryId] = field(default_factory=set)
    rules: dict[EntryId, Rules] = field(default_factory=dict)
    flawed: set[EntryId] = field(default_factory=set)
    glimpses: dict[Place, Glimpse] = field(default_factory=dict)
    put_off: dict[Place, float] = field(default_factory=dict)
    aliases: dict[EntryId, EntryId] = field(default_factory=dict)
    pending: dict[EntryId, dict[Name, Pending]] = field(default_factory=dict)
    is_watch_exhausted: bool = False
    is_sweeping: bool = False
    is_sweep_wanted: bool = False
    root_trouble: str = ""
    changes: int = 0
    tried: int = -1

    @property
    def has_work(self) -> bool:
        """Tell whether something is left to be done."""
        return bool(self.looks or self.listings or self.deferred or self.vanished or self.stuck)

    def begin_again(self) -> None:
        """Forget the work that is left: all is looked at anew."""
        self.looks.clear()
        self.listings.clear()
        self.deferred.clear()
        self.stuck.clear()
        self.vanished.clear()
        self.listed.clear()
        self.is_watch_exhausted = self.is_sweep_wanted = False
        self.is_sweeping = True

    def stick(self, failing: EntryId, look: Look) -> bool:
        """Keep a look until a directory on its way was found; tell whether it is the first such."""
        looks = self.stuck.setdefault(failing, {})
        looks[look.mark.directory, look.mark.name] = look
        return len(looks) == 1

    def unstick(self, failing: EntryId) -> None:
        """Look again at what waited for one directory."""
        self.looks.extend(self.stuck.pop(failing, {}).values())

    def unstick_all(self) -> None:
        """Look again at all that waited."""
        for failing in list(self.stuck):
            self.unstick(failing)

    def since_s(self, place: Place, now_s: float) -> float:
        """Return since when a place is put off; from now on, if it was not."""
        since_s = self.put_off.get(place)
        if since_s is None:
            if len(self.put_off) >= PUT_OFF_MAX:
                self.put_off.pop(next(iter(self.put_off)))
            since_s = self.put_off[place] = now_s
        return since_s

    def glimpse(self, place: Place, glimpse: Glimpse) -> None:
        """Remember what a reading of a file gave that is open for writing."""
        if place not in self.glimpses and len(self.glimpses) >= GLIMPSES_MAX:
            self.glimpses.pop(next(iter(self.glimpses)))
        self.glimpses[place] = glimpse

    def settle(self, place: Place) -> None:
        """Forget that a place was put off."""
        self.put_off.pop(place, None)
        self.glimpses.pop(place, None)

    def ask(self, place: Place) -> None:
        """Note that a reading of a place was asked for."""
        pending = self.pending.setdefault(place[0], {}).setdefault(place[1], Pending())
        pending.is_late |= pending.count > 0
        pending.count += 1

    def is_asked(self, place: Place) -> bool:
        """Tell whether a reading of a place is on its way."""
        return place[1] in self.pending.get(place[0], {})

    def note_looked(self, place: Place) -> None:
        """Note that a place was looked at: what was read of it before may be outdated."""
        pending = self.pending.get(place[0], {}).get(place[1])
        if pending is not None:
            pending.is_late = True

    def note_listed(self, directory: EntryId) -> None:
        """Note the same of all places in a directory."""
        for pending in self.pending.get(directory, {}).values():
            pending.is_late = True

    def take_back(self, place: Place) -> bool:
        """Note that a reading came back; tell whether its place was looked at since."""
        inside = self.pending.get(place[0], {})
        pending = inside.get(place[1])
        if pending is None:
            return True
        pending.count -= 1
        if pending.count <= 0:
            del inside[place[1]]
            if not inside:
                del self.pending[place[0]]
        if not self.pending:
            self.aliases.clear()
        return pending.is_late

    def forget_directory(self, id: EntryId) -> None:
        """Forget what is known of a directory that is gone, or another one now."""
        self.listed.discard(id)
        self.drop_rules(id)

    def keep_rules(self, id: EntryId, rules: Rules) -> None:
        """Know the rules of a directory."""
        self.drop_rules(id)
        self.rules[id] = rules
        if rules.patterns.bad:
            self.flawed.add(id)

    def drop_rules(self, id: EntryId) -> None:
        """Know that a directory has no rules."""
        self.rules.pop(id, None)
        self.flawed.discard(id)

    def relabel(self, old: EntryId, new: EntryId) -> None:
        """Know an entry by another id."""
        if self.pending:
            self.aliases[old] = new
        if old in self.pending:
            self.pending[new] = self.pending.pop(old)
        if old in self.listed:
            self.listed.discard(old)
            self.listed.add(new)
        if old in self.rules:
            rules = self.rules[old]
            self.drop_rules(old)
            self.keep_rules(new, rules)
        _relabel_places(self.put_off, old, new)
        _relabel_places(self.glimpses, old, new)
        _relabel_places(self.deferred, old, new)
        self.deferred = {
            place: _relabelled(look, old, new) for place, look in self.deferred.items()
        }
        self.looks = deque(_relabelled(look, old, new) for look in self.looks)
        stuck = [(id, look) for id, looks in self.stuck.items() for look in looks.values()]
        self.stuck.clear()
        for id, look in stuck:
            self.stick(new if id == old else id, _relabelled(look, old, new))
        self.vanished = {
            new if id == old else id: (_moved(place, old, new), _relabelled(look, old, new))
            for id, (place, look) in self.vanished.items()
        }
        for listing in self.listings:
            if listing.directory == old:
                listing.directory = new

    def name_now(self, id: EntryId) -> EntryId:
        """Return the id that an entry has by now."""
        while id in self.aliases:
            id = self.aliases[id]
        return id


def _relabelled(look: Look, old: EntryId, new: EntryId) -> Look:
    mark = look.mark
    if mark.directory != old:
        return look
    return replace(look, mark=replace(mark, directory=new))


def _moved(place: Place, old: EntryId, new: EntryId) -> Place:
    return (new, place[1]) if place[0] == old else place


def _relabel_places(places: dict[Place, _Value], old: EntryId, new: EntryId) -> None:
    for place in [place for place in places if place[0] == old]:
        places[(new, place[1])] = places.pop(place)
