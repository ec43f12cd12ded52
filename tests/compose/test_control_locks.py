"""Locks over the control connection: requests, answers, and what is refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.compose.control import ask_lock, ask_locks, ask_unlock, serving_control
from syncline.compose.control_messages import (
    TARGETS_MAX,
    AskLock,
    AskLocks,
    AskUnlock,
    Request,
    read_locks,
    read_request,
    read_unlocked,
    write_answer,
    write_error,
    write_request,
)
from syncline.core.names import RelPath
from syncline.errors import Locked, ProtocolBroken
from syncline.ports.locks import Unlocked, UnlockResult
from syncline.ports.mount_control import LockAsked, LocksResult, UnlockedResult
from tests.support.mount_control import LOCATED, RAW, ScriptedControl

PATHS = (RelPath(), RelPath.parse(RAW))
ASKED = LockAsked(PATHS, "new figures\x1b", 28_800.0, 0.5)


@pytest.mark.parametrize(
    "request_",
    [
        AskLock(ASKED),
        AskLock(LockAsked(PATHS)),
        AskUnlock(PATHS, is_forced=False),
        AskUnlock(PATHS[:1], is_forced=True),
        AskLocks(RelPath()),
        AskLocks(PATHS[1]),
    ],
)
def test_requests_come_over_whole(request_: Request) -> None:
    assert read_request(write_request(request_)) == request_


def test_answers_come_over_whole() -> None:
    for locks in (LocksResult(()), LocksResult((LOCATED, LOCATED))):
        assert read_locks(write_answer(locks)) == locks
    for result in UnlockResult:
        unlocked = UnlockedResult((Unlocked(result, LOCATED), Unlocked(result, None)))
        assert read_unlocked(write_answer(unlocked)) == unlocked


def test_a_time_that_is_over_is_none_left() -> None:
    late = LocksResult((replace(LOCATED, expires_s=-0.25),))
    [read] = read_locks(write_answer(late)).locks
    assert read.expires_s == 0.0


@pytest.mark.parametrize("count", [0, TARGETS_MAX + 1])
def test_as_many_paths_as_a_lock_may_have(count: int) -> None:
    line = write_request(AskLock(LockAsked((RelPath.parse(b"f"),) * count)))
    with pytest.raises(ProtocolBroken, match="names none, or more than 64"):
        read_request(line)


@given(st.data())
def test_any_change_of_one_field_is_read_or_refused_in_order(data: st.DataObject) -> None:
    message = json.loads(write_answer(LocksResult((LOCATED,))))
    [located] = message["locks"]
    target = data.draw(st.sampled_from([located, located["lock"]]))
    junk = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(junk)
    try:
        read = read_locks(json.dumps(message).encode())
    except ProtocolBroken:
        return
    assert read_locks(write_answer(read)) == read


async def test_calls_go_to_the_mount(tmp_path: Path) -> None:
    control = ScriptedControl()
    async with serving_control(tmp_path, control):
        locked = await asyncio.to_thread(ask_lock, tmp_path, ASKED)
        unlocked = await asyncio.to_thread(ask_unlock, tmp_path, PATHS, is_forced=True)
        found = await asyncio.to_thread(ask_locks, tmp_path, PATHS[1])
    assert control.asked == [ASKED, (PATHS, True), PATHS[1]]
    assert locked == found == LocksResult((LOCATED,))
    assert unlocked == UnlockedResult((Unlocked(UnlockResult.BROKEN, LOCATED),))


async def test_a_refusal_comes_over_with_the_holder(tmp_path: Path) -> None:
    class Refusing(ScriptedControl):
        async def lock(self, asked: LockAsked) -> LocksResult:
            raise Locked("'f' is locked by bob", holder="bob")

    async with serving_control(tmp_path, Refusing()):
        with pytest.raises(Locked, match="by bob") as refused:
            await asyncio.to_thread(ask_lock, tmp_path, ASKED)
    assert refused.value.fields == {"holder": "bob"}


def test_errors_are_raised_from_answers() -> None:
    line = write_error(Locked("it is locked"))
    for read in (read_locks, read_unlocked):
        with pytest.raises(Locked):
            read(line)
