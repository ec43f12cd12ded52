"""Locks over the control connection: requests, answers, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.compose.control import (
    SOCKET_NAME,
    ask_lock,
    ask_locks,
    ask_unlock,
    held_by_mount,
    serving_control,
)
from syncline.compose.control_messages import (
    TARGETS_MAX,
    AskHold,
    AskLock,
    AskLocks,
    AskUnlock,
    Request,
    read_held,
    read_locks,
    read_request,
    read_unlocked,
    write_answer,
    write_error,
    write_request,
)
from syncline.core.names import RelPath
from syncline.core.user_locks import LockEffect
from syncline.errors import Locked, NotFound, ProtocolBroken, Unavailable
from syncline.ports.locks import Unlocked, UnlockResult
from syncline.ports.mount_control import (
    HoldEnd,
    HoldEvent,
    LockAsked,
    LockLost,
    LocksResult,
    UnlockedResult,
)
from tests.support.mount_control import LOCATED, RAW, ScriptedControl
from tests.support.wait import eventually

PATHS = (RelPath(), RelPath.parse(RAW))
ASKED = LockAsked(PATHS, "new figures\x1b", 28_800.0, 0.5)


@pytest.mark.parametrize(
    "request_",
    [
        AskLock(ASKED),
        AskLock(LockAsked(PATHS)),
        AskHold(replace(ASKED, lease_s=2.5)),
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


@pytest.mark.parametrize(
    "event",
    [
        LockLost(LOCATED, None, None),
        LockLost(LOCATED, LockEffect.BROKEN, "bob\x1b"),
        HoldEnd(is_released=True),
        HoldEnd(is_released=False),
    ],
)
def test_what_is_told_of_a_hold_comes_over_whole(event: LockLost | HoldEnd) -> None:
    assert read_held(write_answer(event)) == event


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


class TestHold:
    async def test_it_lasts_until_the_caller_is_done(self, tmp_path: Path) -> None:
        control, losses = ScriptedControl(), list[LockLost]()
        async with serving_control(tmp_path, control), held_by_mount(tmp_path, ASKED) as held:
            assert held.locks == (LOCATED,) and control.tell is not None
            assert control.asked == [("hold", ASKED)]
            lost = LockLost(LOCATED, LockEffect.BROKEN, "bob")
            control.tell(lost)
            async with asyncio.TaskGroup() as tasks:
                ended = tasks.create_task(held.listen(losses.append))
                await eventually(lambda: losses == [lost], "it is told")
                assert control.asked == [("hold", ASKED)]
                held.release()
        assert ended.result() == HoldEnd(is_released=True)
        assert control.asked == [("hold", ASKED), "released"]

    async def test_a_caller_that_goes_away_ends_it(self, tmp_path: Path) -> None:
        control = ScriptedControl()
        async with serving_control(tmp_path, control):
            async with held_by_mount(tmp_path, ASKED):
                pass
            await eventually(lambda: control.asked[1:] == ["released"], "it is over")

    async def test_a_caller_that_goes_away_before_is_granted_nothing(self, tmp_path: Path) -> None:
        control = ScriptedControl()
        control.grants.clear()
        async with serving_control(tmp_path, control):
            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(_held(tmp_path))
                await eventually(lambda: bool(control.asked), "he asks")
                asking.cancel()
            await eventually(lambda: control.asked[1:] == ["cancelled"], "nobody waits")

    async def test_a_refusal_comes_over_with_the_holder(self, tmp_path: Path) -> None:
        class Refusing(ScriptedControl):
            async def hold(
                self, asked: LockAsked, tell: Callable[[HoldEvent], None], over: asyncio.Event
            ) -> HoldEnd:
                raise Locked("'f' is locked by bob", holder="bob")

        async with serving_control(tmp_path, Refusing()):
            with pytest.raises(Locked, match="by bob"):
                await _held(tmp_path)

    async def test_the_end_of_the_mount_is_told_at_once(self, tmp_path: Path) -> None:
        control = ScriptedControl()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(serving_control(tmp_path, control))
            # Taken off the stack first, as when the process of the mount ends.
            async with held_by_mount(tmp_path, ASKED) as held:
                await stack.aclose()
                with pytest.raises(Unavailable, match="ended in the middle"):
                    await held.listen(lambda _: None)

    async def test_no_mount_is_a_clear_error(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound, match="does not run"):
            await _held(tmp_path)


async def _held(state: Path) -> None:
    async with held_by_mount(state, ASKED):
        pass


class TestUntold:
    """A lock whose answer nobody has read is given back."""

    async def test_a_caller_that_closes_with_the_answer_unread(self, tmp_path: Path) -> None:
        control = ScriptedControl()
        async with serving_control(tmp_path, control):
            with _asking(tmp_path) as connection:
                await eventually(lambda: _is_readable(connection), "the answer is there")
            untold = ("given back", LocksResult((LOCATED,)))
            await eventually(lambda: untold in control.asked, "it is given back")

    async def test_a_caller_that_has_read_it_keeps_it(self, tmp_path: Path) -> None:
        control = ScriptedControl()
        async with serving_control(tmp_path, control):
            for _ in range(20):
                await asyncio.to_thread(ask_lock, tmp_path, ASKED)
        assert control.asked == [ASKED] * 20

    async def test_a_caller_that_is_gone_before_ends_the_call(self, tmp_path: Path) -> None:
        control = ScriptedControl()
        control.grants.clear()
        async with serving_control(tmp_path, control):
            with _asking(tmp_path):
                await eventually(lambda: bool(control.asked), "it asks")
            await eventually(lambda: control.asked[1:] == ["cancelled"], "it is over")


def _asking(state: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.fsencode(state / SOCKET_NAME))
    connection.sendall(write_request(AskLock(ASKED)))
    return connection


def _is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])
