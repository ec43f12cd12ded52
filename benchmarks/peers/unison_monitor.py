"""What tells Unison of changes: Debian's package comes without its `unison-fsmonitor`.

Unison starts it, one a replica, and talks in lines: a command and percent-encoded words.
`START replica root [path]`, then `DIR path` and `LINK path` for all that it scans, each answered
`OK`, and `DONE`; `CHANGES replica` is answered by `RECURSIVE path` lines and `DONE`; `WAIT replica`
is answered once, when something has changed, and is forgotten at any other command; `RESET
replica`. (The protocol is described in `fswatch.ml` of Unison's sources.)
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import inotify_simple
from inotify_simple import flags

CHANGES = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CLOSE_WRITE
    | flags.MODIFY
    | flags.ATTRIB
)


@dataclass(slots=True)
class _Monitor:
    watch: inotify_simple.INotify
    places: dict[int, tuple[str, str]] = field(default_factory=dict)
    """By watch: the replica, and the path in it."""

    roots: dict[str, str] = field(default_factory=dict)
    changed: dict[str, set[str]] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)
    replica: str = ""
    start: str = ""

    def obey(self, line: str) -> None:
        command, *words = [unquote(word, errors="surrogateescape") for word in line.split(" ")]
        if command != "WAIT":
            self.waiting.clear()
        match command:
            case "START":
                self.replica, self.roots[words[0]] = words[0], words[1]
                self.start = words[2] if len(words) > 2 else ""
                self.changed.setdefault(self.replica, set())
                self._add(self.start)
                _say("OK")
            case "DIR" | "LINK":
                self._add(os.path.join(self.start, words[0] if words else ""))
                _say("OK")
            case "CHANGES":
                self.hear()
                for path in sorted(self.changed.get(words[0], set())):
                    _say("RECURSIVE", path)
                self.changed[words[0]] = set()
                _say("DONE")
            case "WAIT":
                self.waiting.add(words[0])
                self.answer()
            case "RESET":
                self.changed[words[0]] = set()
            case _:
                pass

    def _add(self, path: str) -> None:
        where = os.path.join(self.roots[self.replica], path) if path else self.roots[self.replica]
        # What is gone again, or is a file, is seen by the watch of the directory above.
        with suppress(OSError):
            self.places[self.watch.add_watch(where, CHANGES | flags.ONLYDIR)] = (
                self.replica,
                path,
            )

    def hear(self) -> None:
        for event in self.watch.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                for replica in self.roots:
                    self.changed[replica].add("")
            elif event.wd in self.places:
                replica, path = self.places[event.wd]
                self.changed[replica].add(os.path.join(path, event.name))

    def answer(self) -> None:
        """End the wait where something that is waited for has changed."""
        ready = [replica for replica in sorted(self.waiting) if self.changed.get(replica)]
        if ready:
            self.waiting.clear()
            _say("CHANGES", *ready)


def _say(*words: str) -> None:
    print(" ".join(quote(word, errors="surrogateescape") for word in words), flush=True)


def main() -> None:
    """Serve the Unison that started this, until it ends."""
    _say("VERSION", "1")
    rest = b""
    with inotify_simple.INotify(nonblocking=True) as watch:
        monitor = _Monitor(watch)
        while True:
            ready, _, _ = select.select([0, watch.fileno()], [], [])
            if watch.fileno() in ready:
                monitor.hear()
                monitor.answer()
            if 0 in ready:
                data = os.read(0, 65536)
                if not data:
                    return
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    monitor.obey(line.decode())


if __name__ == "__main__":
    main()
