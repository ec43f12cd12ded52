"""How entries, outcomes and commits look: a line for people, an object for programs.

The objects are an interface: docs/CLI.md has their fields, and none of them goes away.
"""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import assert_never

from syncline.cli.output import Json, error_record
from syncline.cli.text import plain
from syncline.core.entries import Entry, Kind
from syncline.core.names import RelPath, escape
from syncline.ports.link import Committed, Effect, Located, PathChange, ServerFacts
from syncline.ports.report import PathOutcome, Result

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TYPE_BITS = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def utc_text(time_ns: int) -> str:
    """Return an ISO-8601 time in UTC with microseconds, of ns since 1970."""
    moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def local_text(time_ns: int) -> str:
    """Return an ISO-8601 time as the clock on the wall here shows it, to the second."""
    moment = _EPOCH + timedelta(seconds=time_ns // 1_000_000_000)
    return moment.astimezone().isoformat(sep=" ", timespec="seconds")[:19]


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    value = float(size)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"


# -- Outcomes of store, fetch and delete -------------------------------------


def outcome_record(outcome: PathOutcome) -> dict[str, Json]:
    """Return one path of a command."""
    record: dict[str, Json] = {
        "path": str(outcome.path),
        "local": None if outcome.local is None else escape(outcome.local),
        "result": outcome.result.value,
    }
    if outcome.error is not None:
        record["error"] = error_record(outcome.error)
    else:
        record["revision"] = outcome.revision
        record["replaced"] = outcome.replaced
        record["size"] = outcome.size
    return record


def outcome_line(outcome: PathOutcome) -> str:
    """Return one path of a command that went well."""
    line = f"{outcome.result.value:<9}  {shown(outcome.path)}"
    match outcome.result:
        case Result.STORED:
            before = f"replaced {outcome.replaced}" if outcome.replaced else "new"
            return f"{line}  revision {outcome.revision} ({before})"
        case Result.FETCHED:
            place = f" to {escape(outcome.local)}" if outcome.local is not None else ""
            return f"{line}  revision {outcome.revision}{place}"
        case Result.DELETED | Result.UNCHANGED:
            return f"{line}  revision {outcome.revision}"
        case Result.FAILED:
            raise AssertionError("a failure is told on stderr")
        case _:
            assert_never(outcome.result)


def shown(path: RelPath) -> str:
    """Return a path for people; the root is a dot."""
    return str(path) or "."


# -- Entries of list and stat ------------------------------------------------


def mode_octal(entry: Entry) -> str:
    """Return the permission bits as four octal digits."""
    return f"{entry.mode:04o}"


def located_record(located: Located) -> dict[str, Json]:
    """Return an entry with its path and who made this state of it."""
    entry = located.entry
    is_directory = entry.kind is Kind.DIRECTORY
    return {
        "path": str(located.path),
        "kind": entry.kind.name.lower(),
        "revision": entry.revision,
        "size": entry.size,
        "mode": mode_octal(entry),
        "mtime": None if is_directory else utc_text(entry.mtime_ns),
        "mtime_ns": None if is_directory else entry.mtime_ns,
        "digest": entry.digest.hex() if entry.digest else None,
        "target": None if entry.target is None else escape(entry.target),
        "id": entry.id.hex(),
        "author": located.author,
        "time": utc_text(located.time_ns),
        "time_ns": located.time_ns,
    }


def located_line(located: Located) -> str:
    """Return an entry as `ls -l` shows it: mode, size, mtime, revision, path."""
    entry = located.entry
    mode = stat.filemode(_TYPE_BITS[entry.kind] | entry.mode)
    is_directory = entry.kind is Kind.DIRECTORY
    size = "-" if is_directory else str(entry.size)
    mtime = "-" if is_directory else local_text(entry.mtime_ns)
    slash = "/" if is_directory else ""
    link = "" if entry.target is None else f" -> {escape(entry.target)}"
    return f"{mode}  {size:>12}  {mtime:<19}  {entry.revision:>8}  {located.path}{slash}{link}"


def stat_lines(located: Located) -> list[str]:
    """Return all that is known of an entry, a fact a line."""
    entry = located.entry
    facts = [
        ("kind", entry.kind.name.lower()),
        ("revision", f"{entry.revision} by {plain(located.author)} at {utc_text(located.time_ns)}"),
        ("mode", f"{mode_octal(entry)} {stat.filemode(_TYPE_BITS[entry.kind] | entry.mode)}"),
    ]
    if entry.kind is not Kind.DIRECTORY:
        facts.append(("mtime", utc_text(entry.mtime_ns)))
    if entry.content is not None:
        facts.append(("size", f"{entry.size} ({size_text(entry.size)})"))
        facts.append(("digest", entry.content.digest.hex()))
    if entry.target is not None:
        facts.append(("target", escape(entry.target)))
    facts.append(("id", entry.id.hex()))
    return [str(located.path), *(f"  {name:<8}  {value}" for name, value in facts)]


def volume_record(facts: ServerFacts) -> dict[str, Json]:
    """Return the root of a volume: what the server says of the whole."""
    return {
        "path": "",
        "kind": "root",
        "revision": facts.head.revision,
        "volume": facts.volume_name,
        "volume_id": facts.volume.hex(),
        "commit": facts.head.commit_id.hex(),
        "table_digest": f"{facts.head.table_digest:064x}",
        "server_version": facts.server_version,
        "protocol": facts.protocol,
    }


def volume_lines(facts: ServerFacts) -> list[str]:
    """Return the root of a volume, a fact a line."""
    return [
        ".",
        f"  volume    {plain(facts.volume_name)} ({facts.volume.hex()})",
        f"  revision  {facts.head.revision}",
        f"  commit    {facts.head.commit_id.hex()}",
        f"  table     {facts.head.table_digest:064x}",
        f"  server    Syncline {plain(facts.server_version)}, protocol {facts.protocol}",
    ]


# -- Commits of watch --------------------------------------------------------


def change_record(change: PathChange) -> dict[str, Json]:
    """Return one entry of a commit."""
    entry = change.entry
    return {
        "effect": change.effect.value,
        "path": str(change.path),
        "old_path": None if change.old_path is None else str(change.old_path),
        "kind": entry.kind.name.lower(),
        "size": entry.size,
        "digest": entry.digest.hex() if entry.digest else None,
        "mode": mode_octal(entry),
        "id": entry.id.hex(),
    }


def commit_record(committed: Committed, changes: list[PathChange]) -> dict[str, Json]:
    """Return a commit with those of its changes that were asked for."""
    commit = committed.commit
    return {
        "revision": commit.revision,
        "commit": commit.id.hex(),
        "author": commit.author.name,
        "replica": commit.author.replica.hex(),
        "time": utc_text(commit.time_ns),
        "time_ns": commit.time_ns,
        "changes": [change_record(change) for change in changes],
    }


def change_line(committed: Committed, change: PathChange) -> str:
    """Return one entry of a commit: revision, time here, author, effect, path."""
    commit = committed.commit
    slash = "/" if change.entry.kind is Kind.DIRECTORY else ""
    path = f"{change.path}{slash}"
    if change.effect is Effect.MODE:
        path = f"{path}  {mode_octal(change.entry)}"
    elif change.old_path is not None:
        path = f"{change.old_path}{slash} -> {path}"
    when = local_text(commit.time_ns)
    author = plain(commit.author.name)
    return f"{commit.revision}  {when}  {author}  {change.effect.value:<7}  {path}"
