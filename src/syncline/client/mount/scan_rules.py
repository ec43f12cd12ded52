"""The ignore rules of the mount, read from its `.synclineignore` files as they are met.

Rules that cannot be read just now stay as they were: what they covered must not travel because an
editor is in the middle of a save. A directory whose rules were never read is not listed.
"""

from __future__ import annotations

import errno
import os

from syncline.client.mount.read import (
    GRAIN_S,
    NOT_THERE,
    is_within_grain,
)
from syncline.client.mount.scan_memory import VANISHED_S, Listing, Look, Rules
from syncline.client.mount.scan_pass import Pass
from syncline.client.reading import SECOND_LOOK_S
from syncline.core.identity import ROOT_ID, EntryId
from syncline.core.ignore import IGNORE_NAME, IgnoreRules, Patterns, parse_patterns
from syncline.core.names import Name, RelPath
from syncline.core.trees import Place
from syncline.ports.files import Directory, FileKind, Writers
from syncline.ports.watcher import Mark

RULES_BYTES_MAX = 1024 * 1024
"""A longer `.synclineignore` is an error of its directory."""


class RulesUnsettled(Exception):
    """The rules of a directory are being written, and there are none from before."""


def rules_above(run: Pass, directory: EntryId) -> IgnoreRules:
    """Return the rules that count in a directory; raise OSError, RulesUnsettled."""
    chain: list[tuple[EntryId, Name]] = []
    id = directory
    while id != ROOT_ID:
        seen = run.session.local(id)
        if seen is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        chain.append((id, seen.state.name))
        id = seen.state.parent
    parts: tuple[Name, ...] = ()
    found: dict[RelPath, Patterns] = {}
    for id, name in ((ROOT_ID, None), *reversed(chain)):
        if name is not None:
            parts = (*parts, name)
        if id not in run.memory.listed and id not in run.memory.rules:
            load_rules(run, id, run.open(id), vanished_s=VANISHED_S)
        if id in run.memory.rules:
            found[RelPath(parts)] = run.memory.rules[id].patterns
    return IgnoreRules(found)


def is_covered(run: Pass, place: Place, *, is_directory: bool) -> bool:
    """Tell whether a rule covers a place; raise OSError, RulesUnsettled."""
    rules = rules_above(run, place[0])
    if not rules.by_directory:
        return False
    return rules.is_ignored(run.path_of(place), is_directory=is_directory)


def refresh_rules(run: Pass, directory: EntryId, look: Look) -> None:
    """Read the rules of a directory again; raise OSError, RulesUnsettled."""
    if load_rules(run, directory, run.open(directory), vanished_s=look.quiet_s):
        run.memory.listings.append(Listing(directory, True, look.quiet_s))


def load_rules(run: Pass, id: EntryId, directory: Directory, *, vanished_s: float) -> bool:
    """Read the rules of a directory; tell whether they changed.

    Rules that are not there any more for less than `VANISHED_S` still count. Raises OSError, and
    RulesUnsettled where there were none before.
    """
    known = run.memory.rules.get(id)
    raw, in_s = _read(run, directory)
    if raw is None and in_s == 0.0 and known is not None and vanished_s < VANISHED_S:
        in_s = VANISHED_S - vanished_s
    if in_s > 0.0:
        run.wait(Mark(id, IGNORE_NAME), in_s)
        if known is None and raw is None:
            raise RulesUnsettled
        if known is not None and raw is None:
            return False
    if raw is None:
        run.memory.drop_rules(id)
        return known is not None
    if known is not None and known.raw == raw:
        return False
    run.memory.keep_rules(id, Rules(raw, parse_patterns(raw)))
    return True


def _read(run: Pass, directory: Directory) -> tuple[bytes | None, float]:
    """Return the text of the rules, and in how many seconds to look again (0: it is settled)."""
    status = directory.look(IGNORE_NAME)
    if status is None or status.kind is not FileKind.FILE:
        return None, 0.0
    if status.size > RULES_BYTES_MAX:
        raise OSError(errno.EFBIG, "its .synclineignore is too large")
    try:
        file = directory.open(IGNORE_NAME)
    except OSError as error:
        if error.errno in NOT_THERE:
            return None, SECOND_LOOK_S
        raise
    try:
        writers = file.hold()
        before = file.status()
        raw = file.read(RULES_BYTES_MAX, 0)
        after = file.status()
        is_held = writers is not Writers.NONE or file.is_held()
    finally:
        # A lease ends with the file.
        file.close()
    if writers is Writers.SOME or not is_held or after != before or len(raw) != before.size:
        return None, SECOND_LOOK_S
    is_young = is_within_grain(run.clock.wall_ns() - before.ctime_ns)
    if is_young and writers is Writers.UNKNOWN:
        return None, GRAIN_S
    return raw, GRAIN_S if is_young else 0.0
