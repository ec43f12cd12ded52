"""User locks on the wire; see `convert_entries` for W1 to W4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from syncline.core.changes import Author, HeldToken, Token
from syncline.core.identity import REVISION_MAX, EntryId, parse_entry_id
from syncline.core.names import TOLD_PATH_BYTES_MAX, RelPath
from syncline.core.user_locks import LockEffect, Owner, SessionId, UserLock
from syncline.errors import TooLarge
from syncline.ports.locks import (
    LeaseLeft,
    LocatedLock,
    LockNews,
    LockTable,
    LockWanted,
    Target,
    ToldLockChange,
    Unlocked,
    UnlockResult,
    UnlockTarget,
    UnlockWanted,
)
from syncline.rpc.convert_entries import (
    author_from_pb,
    author_to_pb,
    group,
    invalid,
    milliseconds,
    parse_label,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

TARGETS_MAX = 64
"""Entries of one LOCK or UNLOCK: as many paths as a person names, far below a message."""

TOKENS_MAX = 512
"""Tokens of one RENEW, STORE or DELETE: as many as one replica may hold by default."""

NEWS_MAX = 10_000
"""Changes in one message of news; a server that has more cuts them."""

_MS_MAX = 2**32 - 1
_LOCK_WIRE_BYTES = 1024
"""A lock without its path: names, host and reason of 255 bytes each, and numbers."""

_EFFECTS = {
    pb.LOCK_EFFECT_GRANTED: LockEffect.GRANTED,
    pb.LOCK_EFFECT_UNLOCKED: LockEffect.UNLOCKED,
    pb.LOCK_EFFECT_EXPIRED: LockEffect.EXPIRED,
    pb.LOCK_EFFECT_BROKEN: LockEffect.BROKEN,
    pb.LOCK_EFFECT_DELETED: LockEffect.DELETED,
}
_EFFECTS_TO_PB = {effect: value for value, effect in _EFFECTS.items()}

_RESULTS = {
    pb.UNLOCK_RESULT_UNLOCKED: UnlockResult.UNLOCKED,
    pb.UNLOCK_RESULT_BROKEN: UnlockResult.BROKEN,
    pb.UNLOCK_RESULT_NOT_LOCKED: UnlockResult.NOT_LOCKED,
}
_RESULTS_TO_PB = {result: value for value, result in _RESULTS.items()}


# -- Parts -------------------------------------------------------------------


def parse_session(raw: bytes) -> SessionId:
    """Return 16 bytes as a session; raise Invalid otherwise."""
    return SessionId(parse_entry_id(raw, "session"))


def parse_reason(text: str, field: str = "reason") -> str:
    """Return a text for people that may be empty; raise Invalid as for a label."""
    return parse_label(text, field) if text else ""


def tokens_to_pb(tokens: Sequence[HeldToken]) -> list[pb.LockToken]:
    """Return the messages for tokens."""
    return [pb.LockToken(entry=held.entry, token=held.token) for held in tokens]


def tokens_from_pb(messages: Sequence[pb.LockToken]) -> tuple[HeldToken, ...]:
    """Return checked tokens; raise TooLarge for more than `TOKENS_MAX`."""
    if len(messages) > TOKENS_MAX:
        raise TooLarge(
            f"a call has at most {TOKENS_MAX} tokens", field="tokens", limit=f"{TOKENS_MAX}"
        )
    return tuple(
        HeldToken(parse_entry_id(message.entry), _token(message.token)) for message in messages
    )


def _token(number: int) -> Token:
    if not 0 < number <= REVISION_MAX:
        raise invalid("token", f"{number} is none")
    return Token(number)


def _seconds(ms: int, field: str) -> float:
    if ms > _MS_MAX:
        raise invalid(field, "is longer than any time that is allowed")
    return ms / 1000


def _target_to_pb(target: Target) -> pb.LockTarget:
    if isinstance(target, RelPath):
        return pb.LockTarget(path=bytes(target))
    return pb.LockTarget(entry=target)


def _target_from_pb(message: pb.LockTarget) -> RelPath | EntryId:
    match message.WhichOneof("what"):
        case "path":
            return RelPath.parse(message.path)
        case "entry":
            return parse_entry_id(message.entry)
        case _:
            raise invalid("target", "names nothing")


def _check_count(count: int) -> None:
    if not count:
        raise invalid("targets", "there is none")
    if count > TARGETS_MAX:
        raise TooLarge(
            f"a call has at most {TARGETS_MAX} targets", field="targets", limit=f"{TARGETS_MAX}"
        )


def lock_to_pb(located: LocatedLock) -> pb.UserLock:
    """Return the message for a lock."""
    lock = located.lock
    return pb.UserLock(
        entry=lock.entry,
        path=bytes(located.path),
        token=lock.token,
        author=author_to_pb(lock.owner.author),
        host=lock.owner.host,
        session=lock.owner.session,
        reason=lock.reason,
        granted_ns=lock.granted_ns,
        since_ms=milliseconds(located.since_s),
        expires_ms=milliseconds(located.expires_s),
        ends_ms=milliseconds(located.ends_s),
        lease_ms=milliseconds(lock.lease_s),
    )


def lock_from_pb(message: pb.UserLock) -> LocatedLock:
    """Return a checked lock; how long its life is in all is not told, so it is what it was so far
    and what is left."""
    author = author_from_pb(message.author)
    owner = Owner(author, parse_label(message.host, "host"), parse_session(message.session))
    since_s, ends_s = _seconds(message.since_ms, "since"), _seconds(message.ends_ms, "ends")
    lock = UserLock(
        parse_entry_id(message.entry),
        _token(message.token),
        owner,
        parse_reason(message.reason),
        _seconds(message.lease_ms, "lease"),
        since_s + ends_s,
        message.granted_ns,
    )
    path = RelPath.parse(message.path, bytes_max=TOLD_PATH_BYTES_MAX)
    return LocatedLock(lock, path, since_s, _seconds(message.expires_ms, "expires"), ends_s)


def _weight(located: LocatedLock) -> int:
    return _LOCK_WIRE_BYTES + len(bytes(located.path))


# -- Calls -------------------------------------------------------------------


def lock_request_to_pb(volume: str, wanted: LockWanted) -> pb.LockRequest:
    """Return the request of a LOCK."""
    return pb.LockRequest(
        volume=volume,
        author=author_to_pb(wanted.owner.author),
        session=wanted.owner.session,
        host=wanted.owner.host,
        reason=wanted.reason,
        targets=[_target_to_pb(target) for target in wanted.targets],
        lease_ms=milliseconds(wanted.lease_s),
        ttl_ms=milliseconds(wanted.ttl_s),
        wait_ms=milliseconds(wanted.wait_s),
    )


def lock_request_from_pb(message: pb.LockRequest) -> tuple[str, LockWanted]:
    """Return the volume and what is to be locked; raise Invalid or TooLarge."""
    _check_count(len(message.targets))
    owner = Owner(
        author_from_pb(message.author),
        parse_label(message.host, "host"),
        parse_session(message.session),
    )
    return parse_label(message.volume, "volume"), LockWanted(
        owner,
        tuple(_target_from_pb(target) for target in message.targets),
        parse_reason(message.reason),
        _seconds(message.lease_ms, "lease"),
        _seconds(message.ttl_ms, "ttl"),
        _seconds(message.wait_ms, "wait"),
    )


def lock_response_from_pb(message: pb.LockResponse) -> tuple[LocatedLock, ...]:
    """Return the locks that were granted."""
    if not message.locks:
        raise invalid("locks", "there is none")
    return tuple(lock_from_pb(lock) for lock in message.locks)


def renew_to_pb(
    volume: str, author: Author, tokens: Sequence[HeldToken], ttl_s: float
) -> pb.RenewRequest:
    """Return the request of a RENEW."""
    return pb.RenewRequest(
        volume=volume,
        author=author_to_pb(author),
        tokens=tokens_to_pb(tokens),
        ttl_ms=milliseconds(ttl_s),
    )


def renew_from_pb(message: pb.RenewRequest) -> tuple[str, Author, tuple[HeldToken, ...], float]:
    """Return the volume, whose leases, which, and how long they may last from now."""
    author, tokens = author_from_pb(message.author), tokens_from_pb(message.tokens)
    ttl_s = _seconds(message.ttl_ms, "ttl")
    return parse_label(message.volume, "volume"), author, tokens, ttl_s


def renewed_to_pb(leases: Sequence[LeaseLeft | None]) -> pb.RenewResponse:
    """Return the answer of a RENEW."""
    return pb.RenewResponse(
        leases=[
            pb.Lease(is_lost=True)
            if left is None
            else pb.Lease(
                expires_ms=milliseconds(left.expires_s), ends_ms=milliseconds(left.ends_s)
            )
            for left in leases
        ]
    )


def renewed_from_pb(message: pb.RenewResponse, count: int) -> list[LeaseLeft | None]:
    """Return the checked answer of a RENEW, one lease for each of `count` tokens."""
    if len(message.leases) != count:
        raise invalid("leases", "not one for each token")
    return [
        None
        if lease.is_lost
        else LeaseLeft(_seconds(lease.expires_ms, "expires"), _seconds(lease.ends_ms, "ends"))
        for lease in message.leases
    ]


def unlock_to_pb(volume: str, wanted: UnlockWanted) -> pb.UnlockRequest:
    """Return the request of an UNLOCK."""
    return pb.UnlockRequest(
        volume=volume,
        author=author_to_pb(wanted.author),
        host=wanted.host,
        targets=[
            pb.UnlockTarget(target=_target_to_pb(each.target), token=each.token)
            for each in wanted.targets
        ],
        is_forced=wanted.is_forced,
    )


def unlock_from_pb(message: pb.UnlockRequest) -> tuple[str, UnlockWanted]:
    """Return the volume and what is to be unlocked; raise Invalid or TooLarge."""
    _check_count(len(message.targets))
    targets = tuple(
        UnlockTarget(_target_from_pb(each.target), _token(each.token) if each.token else Token(0))
        for each in message.targets
    )
    host = parse_label(message.host, "host")
    author = author_from_pb(message.author)
    return parse_label(message.volume, "volume"), UnlockWanted(
        author, host, targets, message.is_forced
    )


def unlocked_to_pb(results: Sequence[Unlocked]) -> pb.UnlockResponse:
    """Return the answer of an UNLOCK."""
    return pb.UnlockResponse(
        results=[
            pb.Unlocked(
                result=_RESULTS_TO_PB[each.result],
                lock=lock_to_pb(each.lock) if each.lock else None,
            )
            for each in results
        ]
    )


def unlocked_from_pb(message: pb.UnlockResponse, count: int) -> list[Unlocked]:
    """Return the checked answer of an UNLOCK, one result for each of `count` targets."""
    if len(message.results) != count:
        raise invalid("results", "not one for each target")
    found = []
    for each in message.results:
        result = _RESULTS.get(each.result)
        if result is None:
            raise invalid("result", f"{each.result} is not known")
        if (result is UnlockResult.NOT_LOCKED) == each.HasField("lock"):
            raise invalid("lock", "only what is not locked has none")
        found.append(Unlocked(result, lock_from_pb(each.lock) if each.HasField("lock") else None))
    return found


def list_locks_frames(locks: Sequence[LocatedLock]) -> Iterator[pb.ListLocksResponse]:
    """Yield a list of locks in parts; none for no locks."""
    for part in group(locks, _weight):
        yield pb.ListLocksResponse(locks=[lock_to_pb(located) for located in part])


def list_locks_from_pb(message: pb.ListLocksRequest) -> tuple[str, RelPath]:
    """Return the volume and the path of a LISTLOCKS."""
    return parse_label(message.volume, "volume"), RelPath.parse(message.path)


# -- On a WATCH --------------------------------------------------------------


def lock_event_frames(event: LockTable | LockNews) -> Iterator[pb.WatchResponse]:
    """Yield the messages for the table of locks, or for news of them, in order."""
    match event:
        case LockTable():
            parts = list(group(event.locks, _weight)) or [[]]
            for number, part in enumerate(parts, 1):
                locks = [lock_to_pb(located) for located in part]
                table = pb.LockTable(locks=locks, is_last=number == len(parts))
                yield pb.WatchResponse(lock_table=table)
        case LockNews():
            for some in group(event.changes, lambda change: _weight(change.lock)):
                changes = [_change_to_pb(change) for change in some]
                yield pb.WatchResponse(lock_news=pb.LockNews(changes=changes))


def _change_to_pb(change: ToldLockChange) -> pb.LockChange:
    return pb.LockChange(
        effect=_EFFECTS_TO_PB[change.effect],
        lock=lock_to_pb(change.lock),
        by=author_to_pb(change.by) if change.by else None,
    )


def lock_news_from_pb(message: pb.LockNews) -> LockNews:
    """Return checked news of locks."""
    if not 0 < len(message.changes) <= NEWS_MAX:
        raise invalid("changes", f"news have 1 to {NEWS_MAX}")
    changes = []
    for each in message.changes:
        effect = _EFFECTS.get(each.effect)
        if effect is None:
            raise invalid("effect", f"{each.effect} is not known")
        by = author_from_pb(each.by) if each.HasField("by") else None
        changes.append(ToldLockChange(effect, lock_from_pb(each.lock), by))
    return LockNews(tuple(changes))
