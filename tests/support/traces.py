"""System calls of real processes, recorded by strace, and questions about their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_NAMES = (
    "openat,write,writev,pwrite64,pwritev,pwritev2,copy_file_range,ftruncate,"
    "fsync,fdatasync,syncfs,sync_file_range,"
    "rename,renameat,renameat2,linkat,unlinkat,sendmsg,sendto"
)

_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_ENDED = re.compile(r"\+\+\+ exited with \d+ \+\+\+")
_FAILED = re.compile(r"= -1 E[A-Z]+ ")

WRITES = frozenset({"write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range"})
SYNCS = frozenset({"fsync", "fdatasync", "syncfs"})
RENAMES = frozenset({"rename", "renameat", "renameat2"})
SENDS = frozenset({"sendmsg", "sendto", "write", "writev"})


def recorder(trace: Path) -> Sequence[str]:
    """Return what stands before a command whose calls are recorded; its process id stays its own.

    Descriptors are told with their paths, and so much of what is written that small content shows.
    """
    options = ("-D", "-f", "-y", "-s", "6000", "-e", f"trace={_NAMES}", "-e", "signal=none")
    return ("strace", *options, "-o", str(trace))


@dataclass(frozen=True, slots=True)
class Call:
    """A call that succeeded; `begin` and `end` are places in the order of all calls."""

    thread: int
    name: str
    text: str
    begin: int
    end: int


def read_trace(trace: Path) -> list[Call]:
    """Return the calls that succeeded, in the order of their begins."""
    calls: list[Call] = []
    open_: dict[int, Call] = {}
    for place, line in enumerate(trace.read_text("utf-8", "replace").splitlines()):
        match = _LINE.match(line)
        assert match is not None, line
        thread, said = int(match[1]), match[2]
        resumed = _RESUMED.match(said)
        if resumed is not None:
            begun = open_.pop(thread)
            assert begun.name == resumed[1], line
            calls.append(replace(begun, text=begun.text + resumed[2], end=place))
        elif "(" in said and said.endswith("<unfinished ...>"):
            name = said.partition("(")[0]
            open_[thread] = Call(thread, name, said.removesuffix("<unfinished ...>"), place, place)
        elif "(" in said and not said.startswith(("+++", "---")):
            calls.append(Call(thread, said.partition("(")[0], said, place, place))
    well = [call for call in calls if not _FAILED.search(call.text[-200:])]
    return sorted(well, key=lambda call: call.begin)


def is_over(trace: Path, process: int) -> bool:
    """Tell whether the end of a process is recorded, and so all that it did."""
    if not trace.exists():
        return False
    return any(
        line.startswith(f"{process} ") and _ENDED.search(line)
        for line in trace.read_text("utf-8", "replace").splitlines()[-50:]
    )


def on(call: Call, path: str) -> bool:
    """Tell whether a call is about the descriptor of a path; `path` is the end of it."""
    return f"{path}>" in call.text.partition(",")[0].partition(" = ")[0]


def those(calls: Sequence[Call], names: frozenset[str], *parts: str) -> list[Call]:
    """Return the calls of some names whose text has all these parts."""
    return [call for call in calls if call.name in names and all(p in call.text for p in parts)]


def only(calls: Sequence[Call], what: str) -> Call:
    """Return the only call of a list; fail with `what` when there is none, or another."""
    assert len(calls) == 1, (what, [call.text[:300] for call in calls])
    return calls[0]


def between(
    calls: Sequence[Call], begin: int, end: int, is_wanted: Callable[[Call], bool]
) -> list[Call]:
    """Return the calls that began after one place and ended before another one."""
    return [call for call in calls if begin < call.begin and call.end < end and is_wanted(call)]
