"""Exit codes, and what to do about each error: two tables that docs/CLI.md repeats.

A code, once given, keeps its meaning. 64 and above 128 belong to the shell's own conventions.
"""

from __future__ import annotations

from enum import IntEnum

from syncline import errors
from syncline.errors import SynclineError


class ExitCode(IntEnum):
    """What a command came to; the text of each is the line in docs/CLI.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_FOUND = 3
    EXISTS = 4
    STALE = 5
    LOCKED = 6
    UNREACHABLE = 7
    TIMED_OUT = 8
    NO_SPACE = 9
    DENIED = 10
    CORRUPT = 11
    PROTOCOL = 12
    PARTIAL = 13
    NOT_EMPTY = 14
    LOCAL = 15
    IN_USE = 16
    OVER_LIMIT = 17
    CURSOR_EXPIRED = 18
    HALTED = 19
    DIFFERENT = 20
    LOCK_LOST = 21
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


_CODES: dict[type[SynclineError], ExitCode] = {
    errors.Internal: ExitCode.INTERNAL,
    errors.Invalid: ExitCode.USAGE,
    errors.NotFound: ExitCode.NOT_FOUND,
    errors.Exists: ExitCode.EXISTS,
    errors.NotEmpty: ExitCode.NOT_EMPTY,
    errors.Stale: ExitCode.STALE,
    errors.Locked: ExitCode.LOCKED,
    errors.LockLost: ExitCode.LOCK_LOST,
    errors.Unavailable: ExitCode.UNREACHABLE,
    errors.TimedOut: ExitCode.TIMED_OUT,
    errors.NoSpace: ExitCode.NO_SPACE,
    errors.Denied: ExitCode.DENIED,
    errors.NotSignedIn: ExitCode.DENIED,
    errors.Corrupt: ExitCode.CORRUPT,
    errors.TooNew: ExitCode.PROTOCOL,
    errors.ProtocolBroken: ExitCode.PROTOCOL,
    errors.Partial: ExitCode.PARTIAL,
    errors.LocalFailure: ExitCode.LOCAL,
    errors.InUse: ExitCode.IN_USE,
    errors.TooLarge: ExitCode.OVER_LIMIT,
    errors.Throttled: ExitCode.OVER_LIMIT,
    errors.CursorExpired: ExitCode.CURSOR_EXPIRED,
}

_HINTS: dict[type[SynclineError], str] = {
    errors.Internal: "look into the log of the server, and report it",
    errors.Invalid: "correct it and try again; --help shows an example",
    errors.NotFound: "see what is there with 'syncline list'",
    errors.Exists: "remove what stands there, or choose another place with --to",
    errors.NotEmpty: "delete what is in it too with --recursive",
    errors.Stale: "look at the newest state with 'syncline stat', then try again on that revision",
    errors.Locked: "try again when the other writer is done",
    errors.LockLost: "look at what others did, then lock again",
    errors.Unavailable: "is the server running? start it with 'syncline serve', or name it with "
    "--server HOST:PORT",
    errors.TimedOut: "try again, or give it longer with --timeout SECONDS",
    errors.NoSpace: "make room there, then try again",
    errors.Denied: "ask the operator of the server for the right to do it",
    errors.NotSignedIn: "sign in first",
    errors.Corrupt: "let the operator check the server's data with 'syncline server verify'",
    errors.TooNew: "update the older side",
    errors.ProtocolBroken: "check that it is a Syncline server, and that both sides are up to date",
    errors.Partial: "the lines before say which paths failed, and why",
    errors.LocalFailure: "check the path and its permissions on this machine",
    errors.InUse: "end the other process, or choose another one of these",
    errors.TooLarge: "send less at once",
    errors.Throttled: "try again later, or with fewer commands at once",
    errors.CursorExpired: "start again without --since",
}


def exit_code(error: SynclineError) -> ExitCode:
    """Return the exit code of a command that failed with this error alone."""
    return _CODES[type(error)]


def hint(error: SynclineError) -> str:
    """Return what a user can do about an error, as the end of a sentence."""
    return _HINTS[type(error)]
