"""The table of outcomes in `docs/RECONCILE.md`, read and played.

Each row says what was done *here* and *there* on one base, and what both have in the end. The
other side reached the server first. The base, in words of the table:

    a  b  d/  d/f  d/s/  d/s/g  k/  l -> a

What is written here has the content `here`, what is written there `there`, unless it says `same`;
`touch` and `chmod` change mtime and mode to the values that the side stands for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from syncline.core.entries import Kind
from syncline.core.identity import digest_of
from syncline.core.names import Name
from syncline.core.trees import Place, State
from tests.support.house import ROOT
from tests.support.merge import Replica, World, paths_of

PAGE = ROOT / "docs" / "RECONCILE.md"
FILES = ("a", "b", "d/f", "d/s/g")
CONTENTS = ("here", "there", "same", *FILES)
MODES = {"here": 0o600, "there": 0o711}
TIMES = {"here": 5, "there": 7}
_DIGEST = re.compile(r"(?<=, )[0-9a-f]{8,64}(?=\))")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    here: str
    there: str
    outcome: str


def rows(page: Path = PAGE) -> list[Row]:
    """Return all rows of the tables of outcomes of a page."""
    found = []
    for line in page.read_text().splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 3:
            found.append(Row(*cells))
    return found


def grown(*names: str) -> World:
    """Return a world at rest on the base of the table."""
    world = World.of(*names)
    first = world.replicas[0]
    for path in ("d", "d/s", "k"):
        first.make(path, Kind.DIRECTORY)
    for path in FILES:
        first.make(path, Kind.FILE, path.encode())
    first.make("l", Kind.LINK, b"a")
    world.rest()
    return world


def place_of(replica: Replica, path: str) -> Place:
    parent, _, name = path.rpartition("/")
    return (replica.at(parent), Name(name.encode()))


def play(replica: Replica, deeds: str) -> None:
    """Let the user of a replica do what a cell says."""
    for deed in deeds.split(";"):
        verb, *words = deed.split()
        if verb != "nothing":
            _do(replica, verb, words)


def _do(replica: Replica, verb: str, words: list[str]) -> None:
    path, *more = words
    raw = (more[0] if more else replica.name).encode()
    match verb:
        case "edit":
            replica.edit(replica.at(path), raw)
        case "delete":
            replica.delete(replica.at(path))
        case "move":
            assert replica.shift(replica.at(path), place_of(replica, more[0]))
        case "swap":
            assert replica.swap(replica.at(path), replica.at(more[0]))
        case "make":
            replica.make(path, Kind.FILE, raw)
        case "mkdir":
            replica.make(path, Kind.DIRECTORY)
        case "link":
            replica.make(path, Kind.LINK, raw)
        case "chmod":
            replica.chmod(replica.at(path), MODES[replica.name])
        case "touch":
            id = replica.at(path)
            replica.local[id] = replace(replica.local[id], mtime_ns=TIMES[replica.name])
        case _:
            raise AssertionError(f"the table has no verb {verb}")


def outcome(before: dict[str, State], after: dict[str, State]) -> str:
    """Return the difference of two trees in words of the table."""
    words = [f"no {path}" for path in sorted(before.keys() - after.keys())]
    words = [word for word in words if word.rpartition("/")[0] not in words]
    for path, state in sorted(after.items()):
        old = before.get(path)
        if old is None or old.substance != state.substance or old.kind is not state.kind:
            words.append(path + _content(state))
        for side in ("here", "there"):
            if state.mode == MODES[side] and state.mode != (old.mode if old else None):
                words.append(f"mode of {path} from {side}")
            if state.mtime_ns == TIMES[side]:
                words.append(f"time of {path} from {side}")
    return _DIGEST.sub("~", ", ".join(words)) or "as before"


def _content(state: State) -> str:
    if state.content is None:
        return "/" if state.is_directory else f" -> {(state.target or b'').decode()}"
    named = {digest_of(text.encode()): text for text in CONTENTS}
    return f" = {named[state.content.digest]}"


def play_row(row: Row) -> tuple[World, str]:
    """Play a row until all is quiet; return the world and what came of it."""
    world = grown("here", "there")
    here, there = world.replicas
    before = paths_of(world.server.live())
    play(here, row.here)
    play(there, row.there)
    there.sync()
    world.rest()
    return world, outcome(before, paths_of(world.server.live()))
