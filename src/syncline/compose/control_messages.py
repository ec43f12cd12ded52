"""What goes over the control connection of a mount: one line of JSON each way.

Model: a request names a call, an answer has its result or an error; a hold has more lines, the last
of which says how it ended. Names are escaped as on a
terminal. Both sides check what they read: a line that is not as it should be is ProtocolBroken, and
nothing else happens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar, assert_never

from syncline.core.changes import Author, Token
from syncline.core.identity import ID_BYTES, EntryId, ReplicaId
from syncline.core.names import RelPath, escape, unescape
from syncline.core.safety import Halt, HaltReason
from syncline.core.trees import Mode
from syncline.core.user_locks import LockEffect, Owner, SessionId, UserLock
from syncline.errors import Internal, Invalid, ProtocolBroken, SynclineError, TooNew, all_errors
from syncline.ports.link import Effect
from syncline.ports.locks import LocatedLock, Unlocked, UnlockResult
from syncline.ports.mount_control import (
    Change,
    HoldEnd,
    LockAsked,
    LockLost,
    LocksResult,
    MountLock,
    MountPhase,
    MountProblem,
    MountStatus,
    ResumeEnd,
    ResumeResult,
    Transfer,
    UnlockedResult,
    VerifyEnd,
    Verifying,
    VerifyResult,
    WaitEnd,
    WaitResult,
)

VERSION = 1
SECONDS_MAX = 10.0 * 365 * 86_400
TARGETS_MAX = 64
"""As many as one LOCK may name."""
SHOWN_PATH_BYTES_MAX = 64 * 1024
"""A local tree may be deeper than the paths of a volume; what is so is shown as a problem."""

Json = Mapping[str, object]
T = TypeVar("T")
E = TypeVar("E", bound=Enum)


# -- Requests ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskStatus:
    """What is the status?"""


@dataclass(frozen=True, slots=True)
class AskWait:
    """Say when all that was done before is in sync, or `timeout_s` is over (None: never)."""

    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class AskVerify:
    """Read all again and compare it; give up when `timeout_s` is over (None: never)."""

    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class AskResume:
    """Release the brakes if this is the halt that stands; None: show it."""

    agreed: Halt | None


@dataclass(frozen=True, slots=True)
class AskLock:
    """Lock these paths for the mount."""

    asked: LockAsked


@dataclass(frozen=True, slots=True)
class AskHold:
    """Lock these paths until this connection ends, and tell of what is lost of them."""

    asked: LockAsked


@dataclass(frozen=True, slots=True)
class AskUnlock:
    """Give up the locks on these paths; `is_forced`: break those of others."""

    paths: tuple[RelPath, ...]
    is_forced: bool


@dataclass(frozen=True, slots=True)
class AskLocks:
    """Who has locked what, on this path, below it and above it?"""

    path: RelPath


ShortRequest = AskStatus | AskWait | AskVerify | AskResume | AskLock | AskUnlock | AskLocks
"""What is answered by one line."""

Request = ShortRequest | AskHold


def write_request(request: Request) -> bytes:
    """Return a request as a line."""
    match request:
        case AskStatus():
            return _line({"call": "status"})
        case AskWait(timeout_s):
            return _line({"call": "wait", "timeout_s": timeout_s})
        case AskVerify(timeout_s):
            return _line({"call": "verify", "timeout_s": timeout_s})
        case AskResume(agreed):
            return _line({"call": "resume", "agreed": _halt_json(agreed)})
        case AskLock(asked):
            return _line({"call": "lock", **_asked_json(asked)})
        case AskHold(asked):
            return _line({"call": "hold", **_asked_json(asked)})
        case AskUnlock(paths, is_forced):
            return _line({"call": "unlock", "paths": list(map(str, paths)), "is_forced": is_forced})
        case AskLocks(path):
            return _line({"call": "locks", "path": str(path)})
        case _:
            assert_never(request)


def read_request(line: bytes) -> Request:
    """Return the request of a line; raise ProtocolBroken or TooNew."""
    fields = _message(line)
    match fields.get("call", _text):
        case "status":
            return AskStatus()
        case "wait":
            return AskWait(fields.get("timeout_s", _maybe(_seconds)))
        case "verify":
            return AskVerify(fields.get("timeout_s", _maybe(_seconds)))
        case "resume":
            return AskResume(fields.get("agreed", _maybe(_read_halt)))
        case "lock":
            return AskLock(_read_asked(fields))
        case "hold":
            return AskHold(_read_asked(fields))
        case "unlock":
            return AskUnlock(fields.get("paths", _paths), fields.get("is_forced", _switch))
        case "locks":
            return AskLocks(fields.get("path", _path))
        case _:
            raise ProtocolBroken("the request names no known call")


# -- Answers -----------------------------------------------------------------

Answer = (
    MountStatus
    | WaitResult
    | VerifyResult
    | ResumeResult
    | LocksResult
    | LockLost
    | HoldEnd
    | UnlockedResult
)


def write_answer(answer: Answer) -> bytes:
    """Return an answer as a line."""
    match answer:
        case MountStatus():
            return _line({"status": _status_json(answer)})
        case WaitResult(end, status):
            return _line({"end": end.value, "status": _status_json(status)})
        case VerifyResult():
            return _line(_verify_json(answer))
        case ResumeResult(resumed, halt):
            return _line({"end": resumed.value, "halt": _halt_json(halt)})
        case LocksResult(locks):
            return _line({"locks": [_located_json(each) for each in locks]})
        case LockLost(lock, effect, by):
            why = None if effect is None else effect.value
            return _line({"lost": _located_json(lock), "effect": why, "by": by})
        case HoldEnd(is_released):
            return _line({"is_released": is_released})
        case UnlockedResult(unlocked):
            return _line({"unlocked": [_unlocked_json(each) for each in unlocked]})
        case _:
            assert_never(answer)


def write_error(error: SynclineError) -> bytes:
    """Return an error as a line."""
    told = {"code": error.code, "message": error.message, "fields": error.fields}
    return _line({"error": told})


def read_status(line: bytes) -> MountStatus:
    """Return the status of an answer; raise the error that it has, or ProtocolBroken."""
    return _answer(line).get("status", _read_status)


def read_wait(line: bytes) -> WaitResult:
    """Return the end of a wait; raise the error that it has, or ProtocolBroken."""
    fields = _answer(line)
    return WaitResult(fields.get("end", _one_of(WaitEnd)), fields.get("status", _read_status))


def read_verify(line: bytes) -> VerifyResult:
    """Return what a verification came to; raise the error that it has, or ProtocolBroken."""
    fields = _answer(line)
    return VerifyResult(
        end=fields.get("end", _one_of(VerifyEnd)),
        status=fields.get("status", _read_status),
        entries=fields.get("entries", _count),
        size=fields.get("size", _count),
        refilled=fields.get("refilled", _count),
        findings=fields.get("findings", _many(_read_problem)),
        finding_count=fields.get("finding_count", _count),
        pending=fields.get("pending", _many(_path)),
        pending_count=fields.get("pending_count", _count),
    )


def read_resume(line: bytes) -> ResumeResult:
    """Return what became of a resume; raise the error that it has, or ProtocolBroken."""
    fields = _answer(line)
    return ResumeResult(
        fields.get("end", _one_of(ResumeEnd)), fields.get("halt", _maybe(_read_halt))
    )


def read_locks(line: bytes) -> LocksResult:
    """Return the locks of an answer; raise the error that it has, or ProtocolBroken."""
    return LocksResult(_answer(line).get("locks", _many(_read_located)))


def read_held(line: bytes) -> LockLost | HoldEnd:
    """Return what was told of a hold; raise the error that it has, or ProtocolBroken."""
    fields = _answer(line)
    lost = fields.get("lost", _maybe(_read_located))
    if lost is None:
        return HoldEnd(fields.get("is_released", _switch))
    effect = fields.get("effect", _maybe(_one_of(LockEffect)))
    return LockLost(lost, effect, fields.get("by", _maybe(_text)))


def read_unlocked(line: bytes) -> UnlockedResult:
    """Return what was unlocked; raise the error that the answer has, or ProtocolBroken."""
    return UnlockedResult(_answer(line).get("unlocked", _many(_read_unlocked)))


def _answer(line: bytes) -> _Fields:
    fields = _message(line)
    error = fields.get("error", _maybe(_read_error))
    if error is not None:
        raise error
    return fields


# -- Values ------------------------------------------------------------------


def _status_json(status: MountStatus) -> Json:
    return {
        "phase": status.phase.value,
        "directory": escape(status.directory),
        "volume": status.volume,
        "server": status.server,
        "mode": status.mode.value,
        "replica": status.replica,
        "is_connected": status.is_connected,
        "connection_error": status.connection_error,
        "cursor": status.cursor,
        "head": status.head,
        "pending_up": status.pending_up,
        "pending_down": status.pending_down,
        "entries": status.entries,
        "problem_count": status.problem_count,
        "problems": [_problem_json(problem) for problem in status.problems],
        "transfers": [
            {
                "path": str(transfer.path),
                "is_upload": transfer.is_upload,
                "done": transfer.done,
                "size": transfer.size,
            }
            for transfer in status.transfers
        ],
        "change_count": status.change_count,
        "changes": [_change_json(change) for change in status.changes],
        "halt": _halt_json(status.halt),
        "is_watch_degraded": status.is_watch_degraded,
        "verifying": _verifying_json(status.verifying),
        "lock_count": status.lock_count,
        "locks": [
            {"path": str(each.path), "lock": _lock_json(each.lock), "is_own": each.is_own}
            for each in status.locks
        ],
    }


def _asked_json(asked: LockAsked) -> Json:
    return {
        "paths": list(map(str, asked.paths)),
        "reason": asked.reason,
        "ttl_s": asked.ttl_s,
        "wait_s": asked.wait_s,
        "lease_s": asked.lease_s,
    }


def _read_asked(fields: _Fields) -> LockAsked:
    return LockAsked(
        fields.get("paths", _paths),
        fields.get("reason", _text),
        fields.get("ttl_s", _span),
        fields.get("wait_s", _span),
        fields.get("lease_s", _span),
    )


def _lock_json(lock: UserLock) -> Json:
    owner = lock.owner
    return {
        "entry": lock.entry.hex(),
        "token": lock.token,
        "replica": owner.author.replica.hex(),
        "name": owner.author.name,
        "host": owner.host,
        "session": owner.session.hex(),
        "reason": lock.reason,
        "lease_s": lock.lease_s,
        "ttl_s": lock.ttl_s,
        "granted_ns": lock.granted_ns,
    }


def _located_json(located: LocatedLock) -> Json:
    return {
        "path": str(located.path),
        "lock": _lock_json(located.lock),
        "since_s": max(0.0, located.since_s),
        "expires_s": max(0.0, located.expires_s),
        "ends_s": max(0.0, located.ends_s),
    }


def _unlocked_json(unlocked: Unlocked) -> Json:
    lock = unlocked.lock
    return {
        "result": unlocked.result.value,
        "lock": None if lock is None else _located_json(lock),
    }


def _verifying_json(verifying: Verifying | None) -> Json | None:
    if verifying is None:
        return None
    return {"done": verifying.done, "total": verifying.total, "size": verifying.size}


def _verify_json(result: VerifyResult) -> Json:
    return {
        "end": result.end.value,
        "status": _status_json(result.status),
        "entries": result.entries,
        "size": result.size,
        "refilled": result.refilled,
        "findings": [_problem_json(finding) for finding in result.findings],
        "finding_count": result.finding_count,
        "pending": [str(path) for path in result.pending],
        "pending_count": result.pending_count,
    }


def _problem_json(problem: MountProblem) -> Json:
    return {"path": str(problem.path), "code": problem.code, "detail": problem.detail}


def _change_json(change: Change) -> Json:
    return {
        "number": change.number,
        "effect": change.effect.value,
        "path": str(change.path),
        "is_local": change.is_local,
        "wall_ns": change.wall_ns,
        "old_path": None if change.old_path is None else str(change.old_path),
    }


def _halt_json(halt: Halt | None) -> Json | None:
    if halt is None:
        return None
    return {
        "reason": halt.reason.value,
        "detail": halt.detail,
        "resume": halt.resume,
        "count": halt.count,
    }


def _read_status(value: object) -> MountStatus:
    fields = _Fields(value)
    return MountStatus(
        phase=fields.get("phase", _one_of(MountPhase)),
        directory=fields.get("directory", _raw),
        volume=fields.get("volume", _text),
        server=fields.get("server", _text),
        mode=fields.get("mode", _one_of(Mode)),
        replica=fields.get("replica", _text),
        is_connected=fields.get("is_connected", _switch),
        connection_error=fields.get("connection_error", _maybe(_text)),
        cursor=fields.get("cursor", _maybe(_count)),
        head=fields.get("head", _maybe(_count)),
        pending_up=fields.get("pending_up", _count),
        pending_down=fields.get("pending_down", _count),
        entries=fields.get("entries", _count),
        problem_count=fields.get("problem_count", _count),
        problems=fields.get("problems", _many(_read_problem)),
        transfers=fields.get("transfers", _many(_read_transfer)),
        change_count=fields.get("change_count", _count),
        changes=fields.get("changes", _many(_read_change)),
        halt=fields.get("halt", _maybe(_read_halt)),
        is_watch_degraded=fields.get("is_watch_degraded", _switch),
        verifying=fields.get("verifying", _maybe(_read_verifying)),
        lock_count=fields.get("lock_count", _count),
        locks=fields.get("locks", _many(_read_mount_lock)),
    )


def _read_mount_lock(value: object) -> MountLock:
    fields = _Fields(value)
    return MountLock(
        fields.get("path", _path), fields.get("lock", _read_lock), fields.get("is_own", _switch)
    )


def _read_lock(value: object) -> UserLock:
    fields = _Fields(value)
    author = Author(ReplicaId(fields.get("replica", _id)), fields.get("name", _text))
    session = SessionId(fields.get("session", _id))
    return UserLock(
        EntryId(fields.get("entry", _id)),
        Token(fields.get("token", _count)),
        Owner(author, fields.get("host", _text), session),
        fields.get("reason", _text),
        fields.get("lease_s", _span),
        fields.get("ttl_s", _span),
        fields.get("granted_ns", _number),
    )


def _read_located(value: object) -> LocatedLock:
    fields = _Fields(value)
    return LocatedLock(
        fields.get("lock", _read_lock),
        fields.get("path", _path),
        fields.get("since_s", _span),
        fields.get("expires_s", _span),
        fields.get("ends_s", _span),
    )


def _read_unlocked(value: object) -> Unlocked:
    fields = _Fields(value)
    return Unlocked(
        fields.get("result", _one_of(UnlockResult)), fields.get("lock", _maybe(_read_located))
    )


def _read_verifying(value: object) -> Verifying:
    fields = _Fields(value)
    return Verifying(
        fields.get("done", _count), fields.get("total", _count), fields.get("size", _count)
    )


def _read_problem(value: object) -> MountProblem:
    fields = _Fields(value)
    return MountProblem(
        fields.get("path", _path), fields.get("code", _text), fields.get("detail", _text)
    )


def _read_transfer(value: object) -> Transfer:
    fields = _Fields(value)
    return Transfer(
        fields.get("path", _path),
        fields.get("is_upload", _switch),
        fields.get("done", _count),
        fields.get("size", _count),
    )


def _read_change(value: object) -> Change:
    fields = _Fields(value)
    return Change(
        number=fields.get("number", _count),
        effect=fields.get("effect", _one_of(Effect)),
        path=fields.get("path", _path),
        is_local=fields.get("is_local", _switch),
        wall_ns=fields.get("wall_ns", _number),
        old_path=fields.get("old_path", _maybe(_path)),
    )


def _read_halt(value: object) -> Halt:
    fields = _Fields(value)
    return Halt(
        fields.get("reason", _one_of(HaltReason)),
        fields.get("detail", _text),
        fields.get("resume", _text),
        fields.get("count", _count),
    )


_ERRORS = {kind.code: kind for kind in all_errors()}


def _read_error(value: object) -> SynclineError:
    fields = _Fields(value)
    error = _ERRORS.get(fields.get("code", _text), Internal)(fields.get("message", _text))
    error.fields = fields.get("fields", _texts)
    return error


# -- Lines and fields --------------------------------------------------------


def _line(message: Json) -> bytes:
    return json.dumps({"v": VERSION, **message}, separators=(",", ":")).encode() + b"\n"


def _message(line: bytes) -> _Fields:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolBroken("what came on the control connection is not JSON") from error
    fields = _Fields(message)
    if fields.get("v", _count) != VERSION:
        raise TooNew(
            "the mount and this command are of different versions of Syncline; end the mount and"
            " start it again"
        )
    return fields


class _Fields:
    """An object that the other side sent; each field is checked when it is taken."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise ProtocolBroken(
                "what came on the control connection has no object where one is due"
            )
        self._values = value

    def get(self, key: str, read: Callable[[object], T]) -> T:
        """Return a field as `read` understands it; None is read where there is none."""
        try:
            return read(self._values.get(key))
        except Invalid as error:
            raise ProtocolBroken(
                f"'{key}' on the control connection {error.message}", field=key
            ) from error


def _refuse(reason: str) -> Invalid:
    return Invalid(reason, field="control", reason=reason)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _refuse("is not a text")
    return value


def _texts(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _refuse("is not an object")
    return {_text(key): _text(each) for key, each in value.items()}


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse("is not a whole number")
    return value


def _count(value: object) -> int:
    number = _number(value)
    if number < 0:
        raise _refuse("is negative")
    return number


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refuse("is not a number of seconds")
    if not 0 < value <= SECONDS_MAX:
        raise _refuse("is out of range")
    return float(value)


def _span(value: object) -> float:
    """Read seconds that may be none."""
    return 0.0 if value == 0 and not isinstance(value, bool) else _seconds(value)


def _id(value: object) -> bytes:
    try:
        id = bytes.fromhex(_text(value))
    except ValueError as error:
        raise _refuse("is not hexadecimal") from error
    if len(id) != ID_BYTES:
        raise _refuse(f"has not {ID_BYTES} bytes")
    return id


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise _refuse("is not true or false")
    return value


def _raw(value: object) -> bytes:
    return unescape(_text(value))


def _path(value: object) -> RelPath:
    # What obstructs a mount may have a name that no volume may hold, and longer paths than that.
    return RelPath.parse(_raw(value), bytes_max=SHOWN_PATH_BYTES_MAX)


def _paths(value: object) -> tuple[RelPath, ...]:
    paths = _many(_path)(value)
    if not 0 < len(paths) <= TARGETS_MAX:
        raise _refuse(f"names none, or more than {TARGETS_MAX}")
    return paths


def _one_of(kind: type[E]) -> Callable[[object], E]:
    def read(value: object) -> E:
        try:
            return kind(value)
        except ValueError as error:
            raise _refuse("has a value that is not known") from error

    return read


def _maybe(read: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda value: None if value is None else read(value)


def _many(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    def read_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _refuse("is not a list")
        return tuple(read(each) for each in value)

    return read_all
