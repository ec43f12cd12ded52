"""User locks on the wire: what is sent comes back the same, and what is malformed is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from syncline.core.changes import HeldToken, Token
from syncline.core.identity import ROOT_ID, Revision
from syncline.core.names import RelPath
from syncline.core.user_locks import LockEffect, UserLock
from syncline.errors import Invalid, ProtocolBroken, SynclineError, TooLarge
from syncline.ports.locks import (
    LeaseLeft,
    LocatedLock,
    LockNews,
    LockTable,
    LockWanted,
    ToldLockChange,
    Unlocked,
    UnlockResult,
    UnlockTarget,
    UnlockWanted,
)
from syncline.rpc import convert_locks as convert
from syncline.rpc.convert_watch import WatchReader, event_frames
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from tests.support.locks import author, owner
from tests.support.trees import id_of

ANN = owner("ann")


def located(number: int = 1, path: bytes = b"d/\xff") -> LocatedLock:
    lock = UserLock(id_of(f"{number}"), Token(number), ANN, "why", 30.0, 75.0, 1_000)
    return LocatedLock(lock, RelPath.parse(path) if path else RelPath(), 25.0, 30.0, 50.0)


def test_requests_come_back_as_they_were_sent() -> None:
    targets = (RelPath.parse(b"d/f"), RelPath(), id_of("f"), ROOT_ID)
    wanted = LockWanted(ANN, targets, "why", 30.0, 600.0, 2.5)
    assert convert.lock_request_from_pb(convert.lock_request_to_pb("v", wanted)) == ("v", wanted)
    plain = LockWanted(ANN, targets[:1])
    assert convert.lock_request_from_pb(convert.lock_request_to_pb("v", plain)) == ("v", plain)
    unlock = UnlockWanted(
        author("ben"), "desk", tuple(UnlockTarget(each, Token(3)) for each in targets), True
    )
    assert convert.unlock_from_pb(convert.unlock_to_pb("v", unlock)) == ("v", unlock)
    tokens = (HeldToken(id_of("f"), Token(3)),)
    sent = convert.renew_to_pb("v", author("ben"), tokens, 9.0)
    assert convert.renew_from_pb(sent) == ("v", author("ben"), tokens, 9.0)


def test_answers_come_back_as_they_were_sent() -> None:
    assert convert.lock_from_pb(convert.lock_to_pb(located())) == located()
    assert convert.lock_from_pb(convert.lock_to_pb(located(path=b""))) == located(path=b"")
    leases = [LeaseLeft(30.0, 600.0), None]
    assert convert.renewed_from_pb(convert.renewed_to_pb(leases), 2) == leases
    results = [
        Unlocked(UnlockResult.BROKEN, located()),
        Unlocked(UnlockResult.NOT_LOCKED, None),
    ]
    assert convert.unlocked_from_pb(convert.unlocked_to_pb(results), 2) == results


def lock_message(**changed: object) -> pb.UserLock:
    message = convert.lock_to_pb(located())
    for name in changed:
        message.ClearField(name)  # type: ignore[arg-type]
    message.MergeFrom(pb.UserLock(**changed))  # type: ignore[arg-type]
    return message


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: convert.lock_request_from_pb(pb.LockRequest()), Invalid),
        (lambda: convert.unlock_from_pb(pb.UnlockRequest()), Invalid),
        (
            lambda: convert.lock_request_from_pb(
                pb.LockRequest(targets=[pb.LockTarget(path=b"x")] * (convert.TARGETS_MAX + 1))
            ),
            TooLarge,
        ),
        (
            lambda: convert.tokens_from_pb(
                [pb.LockToken(entry=bytes(16), token=1)] * (convert.TOKENS_MAX + 1)
            ),
            TooLarge,
        ),
        (lambda: convert.tokens_from_pb([pb.LockToken(entry=bytes(16))]), Invalid),
        (lambda: convert.tokens_from_pb([pb.LockToken(entry=b"x", token=1)]), Invalid),
        (lambda: convert.tokens_from_pb([pb.LockToken(entry=bytes(16), token=2**63)]), Invalid),
        (lambda: convert.lock_from_pb(lock_message(token=0)), Invalid),
        (lambda: convert.lock_from_pb(lock_message(session=b"short")), Invalid),
        (lambda: convert.lock_from_pb(lock_message(host="")), Invalid),
        (lambda: convert.lock_from_pb(lock_message(reason="two\nlines")), Invalid),
        (lambda: convert.lock_from_pb(lock_message(reason="x" * 256)), Invalid),
        (lambda: convert.lock_from_pb(lock_message(path=b"a/../b")), Invalid),
        (lambda: convert.lock_from_pb(lock_message(ends_ms=2**40)), Invalid),
        (lambda: convert.renewed_from_pb(pb.RenewResponse(), 1), Invalid),
        (lambda: convert.unlocked_from_pb(pb.UnlockResponse(results=[pb.Unlocked()]), 1), Invalid),
        (
            lambda: convert.unlocked_from_pb(
                pb.UnlockResponse(results=[pb.Unlocked(result=pb.UNLOCK_RESULT_BROKEN)]), 1
            ),
            Invalid,
        ),
        (lambda: convert.lock_response_from_pb(pb.LockResponse()), Invalid),
        (lambda: convert.lock_news_from_pb(pb.LockNews()), Invalid),
        (
            lambda: convert.lock_news_from_pb(
                pb.LockNews(changes=[pb.LockChange(lock=lock_message())])
            ),
            Invalid,
        ),
    ],
)
def test_what_is_malformed_is_refused(
    call: Callable[[], object], kind: type[SynclineError]
) -> None:
    with pytest.raises(kind):
        call()


# -- on a WATCH ----------------------------------------------------------------

NEWS = LockNews(
    (
        ToldLockChange(LockEffect.BROKEN, located(), author("ben")),
        ToldLockChange(LockEffect.GRANTED, located(2), None),
    )
)


def read(reader: WatchReader, event: LockTable | LockNews) -> list[object]:
    found = [reader.add(frame) for frame in event_frames(event)]
    return [each for each in found if each is not None]


def test_the_table_comes_whole_however_many_messages_it_takes() -> None:
    long = b"/".join([b"n" * 255] * 16)
    many = LockTable(tuple(located(number, long) for number in range(1, 600)))
    assert len(list(event_frames(many))) > 1
    reader = WatchReader(Revision(3), wants_locks=True)
    assert read(reader, many) == [many]
    assert read(reader, NEWS) == [NEWS]
    assert read(reader, LockTable(())) == [LockTable(())]


def test_locks_stand_where_they_may_and_come_to_who_asked() -> None:
    table = LockTable((located(),))
    with pytest.raises(Invalid):
        read(WatchReader(Revision(3)), table)
    with pytest.raises(Invalid):
        read(WatchReader(Revision(3), wants_locks=True), NEWS)
    reader = WatchReader(Revision(3), wants_locks=True)
    first = pb.WatchResponse(lock_table=pb.LockTable(locks=[lock_message()]))
    assert reader.add(first) is None
    with pytest.raises(ProtocolBroken):
        read(reader, NEWS)
    inside = WatchReader(Revision(3), wants_locks=True)
    begin = pb.CommitBegin(
        revision=4, author=pb.Author(replica=bytes(16), name="a"), op_id=bytes(16), count=1
    )
    assert inside.add(pb.WatchResponse(begin=begin)) is None
    with pytest.raises(ProtocolBroken):
        read(inside, table)


def test_the_life_of_a_lock_is_what_it_was_and_what_is_left() -> None:
    told = convert.lock_from_pb(convert.lock_to_pb(replace(located(), since_s=5.0)))
    assert told.lock.ttl_s == 55.0
