"""The control connection: real sockets, real bytes, and callers who wish the mount no good."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.compose import control as module
from syncline.compose.control import (
    CALLERS_MAX,
    REQUEST_BYTES_MAX,
    SOCKET_NAME,
    ask_resume,
    ask_status,
    ask_verify,
    ask_wait,
    serving_control,
)
from syncline.compose.control_messages import (
    AskResume,
    AskStatus,
    AskVerify,
    AskWait,
    Request,
    read_request,
    read_resume,
    read_status,
    read_verify,
    read_wait,
    write_answer,
    write_error,
    write_request,
)
from syncline.core.names import RelPath
from syncline.core.safety import Halt
from syncline.errors import (
    Internal,
    InUse,
    LocalFailure,
    NotFound,
    ProtocolBroken,
    SynclineError,
    Throttled,
    TimedOut,
    TooNew,
    Unavailable,
    all_errors,
)
from syncline.ports.mount_control import (
    FINDINGS_SHOWN_MAX,
    PROBLEMS_SHOWN_MAX,
    MountProblem,
    MountStatus,
    ResumeEnd,
    ResumeResult,
    VerifyEnd,
    WaitEnd,
    WaitResult,
)
from tests.support.mount_control import AWAY, BUSY, HALT, HALTED, IDLE, ROTTEN, ScriptedControl
from tests.support.wait import eventually

STATUSES = [IDLE, BUSY, AWAY, HALTED]


@asynccontextmanager
async def running(state: Path, status: MountStatus = IDLE) -> AsyncIterator[ScriptedControl]:
    control = ScriptedControl(status)
    async with serving_control(state, control):
        yield control


def connect(state: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(os.fsencode(state / SOCKET_NAME))
    return connection


def say(state: Path, line: bytes) -> bytes:
    """Send bytes as they are; return all that comes back."""
    with connect(state) as connection:
        connection.sendall(line)
        return connection.makefile("rb").read()


class TestMessages:
    @pytest.mark.parametrize("status", STATUSES)
    def test_a_status_comes_over_whole(self, status: MountStatus) -> None:
        assert read_status(write_answer(status)) == status
        for end in WaitEnd:
            assert read_wait(write_answer(WaitResult(end, status))) == WaitResult(end, status)
        for verified in VerifyEnd:
            result = replace(ROTTEN, end=verified, status=status)
            assert read_verify(write_answer(result)) == result

    @pytest.mark.parametrize("end", ResumeEnd)
    @pytest.mark.parametrize("halt", [HALT, None])
    def test_what_became_of_a_resume_comes_over_whole(
        self, end: ResumeEnd, halt: Halt | None
    ) -> None:
        assert read_resume(write_answer(ResumeResult(end, halt))) == ResumeResult(end, halt)

    @pytest.mark.parametrize(
        "request_",
        [
            AskStatus(),
            AskWait(None),
            AskWait(0.5),
            AskVerify(None),
            AskVerify(0.5),
            AskResume(None),
            AskResume(HALT),
        ],
    )
    def test_requests_come_over_whole(self, request_: Request) -> None:
        assert read_request(write_request(request_)) == request_

    @pytest.mark.parametrize("kind", all_errors())
    def test_errors_come_over_as_themselves(self, kind: type[SynclineError]) -> None:
        with pytest.raises(kind) as error:
            read_status(write_error(kind("it is so", path="a")))
        assert (error.value.message, error.value.fields) == ("it is so", {"path": "a"})

    def test_an_error_of_another_version_is_internal(self) -> None:
        line = write_error(NotFound("x")).replace(b"not_found", b"quite_new")
        with pytest.raises(Internal, match="x"):
            read_status(line)

    @given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode()))
    def test_any_bytes_are_refused_in_order(self, line: bytes) -> None:
        for read in (read_request, read_status, read_wait, read_verify, read_resume):
            with pytest.raises((ProtocolBroken, TooNew)):
                read(line)

    @given(st.data())
    def test_any_change_of_one_field_is_read_or_refused_in_order(self, data: st.DataObject) -> None:
        message = json.loads(write_answer(replace(BUSY, halt=HALT)))
        junk = st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        )
        target = message["status"]
        nested = data.draw(st.sampled_from(["", "halt", "problems", "transfers", "changes"]))
        if nested == "halt":
            target = target["halt"]
        elif nested:
            target = target[nested][0]
        target[data.draw(st.sampled_from(sorted(target)))] = data.draw(junk)
        line = json.dumps(message).encode()
        try:
            status = read_status(line)
        except ProtocolBroken:
            return
        assert read_status(write_answer(status)) == status

    @pytest.mark.parametrize("seconds", ["0", "-1", "1e99", "NaN", "Infinity", '"1"', "true"])
    @pytest.mark.parametrize("call", [b"wait", b"verify"])
    def test_a_wait_has_a_time_that_makes_sense(self, call: bytes, seconds: str) -> None:
        with pytest.raises(ProtocolBroken, match="timeout_s"):
            read_request(b'{"v":1,"call":"%s","timeout_s":%s}' % (call, seconds.encode()))

    @pytest.mark.parametrize("field", ["entries", "findings", "pending", "end", "status"])
    def test_a_verification_that_lacks_a_field_is_refused(self, field: str) -> None:
        message = json.loads(write_answer(ROTTEN))
        del message[field]
        with pytest.raises(ProtocolBroken, match="control connection"):
            read_verify(json.dumps(message).encode())

    def test_another_version_is_told_apart(self) -> None:
        with pytest.raises(TooNew, match="different versions"):
            read_request(b'{"v":2,"call":"status"}')


class TestCalls:
    @pytest.mark.parametrize("status", STATUSES)
    async def test_status(self, tmp_path: Path, status: MountStatus) -> None:
        async with running(tmp_path, status):
            assert await asyncio.to_thread(ask_status, tmp_path) == status

    async def test_the_largest_status_fits(self, tmp_path: Path) -> None:
        path = RelPath.parse(b"/".join([b"\xff" * 255] * 16))
        problems = (MountProblem(path, "unread", "\x1b" * 200),) * PROBLEMS_SHOWN_MAX
        status = replace(BUSY, problems=problems, problem_count=10**6)
        assert len(write_answer(status)) < module.ANSWER_BYTES_MAX / 2
        async with running(tmp_path, status):
            assert await asyncio.to_thread(ask_status, tmp_path) == status

    async def test_wait_ends_when_the_mount_says_so(self, tmp_path: Path) -> None:
        async with running(tmp_path, BUSY) as control, asyncio.TaskGroup() as group:
            waiting = group.create_task(asyncio.to_thread(ask_wait, tmp_path, None))
            await eventually(lambda: bool(control.asked), "the wait came")
            assert not waiting.done()
            control.show(IDLE)
            assert await waiting == WaitResult(WaitEnd.IN_SYNC, IDLE)
            assert control.asked == [("wait", None)]

    async def test_wait_has_the_timeout_of_the_caller(self, tmp_path: Path) -> None:
        async with running(tmp_path, BUSY) as control:
            result = await asyncio.to_thread(ask_wait, tmp_path, 0.01)
            assert result == WaitResult(WaitEnd.TIMED_OUT, BUSY)
            assert control.asked == [("wait", 0.01)]

    async def test_a_caller_that_goes_away_ends_its_wait(self, tmp_path: Path) -> None:
        async with running(tmp_path, BUSY) as control:
            with connect(tmp_path) as connection:
                connection.sendall(write_request(AskWait(None)))
                await eventually(lambda: bool(control.asked), "the wait came")
            await eventually(lambda: "cancelled" in control.asked, "the wait was given up")

    async def test_a_mount_that_stops_ends_the_waits(self, tmp_path: Path) -> None:
        async with asyncio.TaskGroup() as group:
            async with running(tmp_path, BUSY) as control:
                waiting = group.create_task(_outcome(ask_wait, tmp_path, None))
                await eventually(lambda: bool(control.asked), "the wait came")
            assert isinstance(await waiting, Unavailable)

    async def test_verify_ends_when_the_mount_says_so(self, tmp_path: Path) -> None:
        async with running(tmp_path, BUSY) as control, asyncio.TaskGroup() as group:
            verifying = group.create_task(asyncio.to_thread(ask_verify, tmp_path, 60.0))
            await eventually(lambda: bool(control.asked), "the call came")
            assert not verifying.done()
            control.verified = ROTTEN
            control.show(IDLE)
            assert await verifying == ROTTEN
            assert control.asked == [("verify", 60.0)]

    async def test_the_largest_verification_fits(self, tmp_path: Path) -> None:
        path = RelPath.parse(b"/".join([b"\xff" * 255] * 16))
        problems = (MountProblem(path, "unread", "\x1b" * 200),) * PROBLEMS_SHOWN_MAX
        result = replace(
            ROTTEN,
            status=replace(BUSY, problems=problems),
            findings=problems[:FINDINGS_SHOWN_MAX],
            pending=(path,) * FINDINGS_SHOWN_MAX,
        )
        assert len(write_answer(result)) < module.ANSWER_BYTES_MAX
        async with running(tmp_path) as control:
            control.verified = result
            assert await asyncio.to_thread(ask_verify, tmp_path, None) == result

    async def test_resume_goes_on_with_the_halt_that_was_shown_alone(self, tmp_path: Path) -> None:
        async with running(tmp_path, HALTED) as control:
            shown = await asyncio.to_thread(ask_resume, tmp_path, None)
            assert shown == ResumeResult(ResumeEnd.HALTED, HALT)
            other = replace(HALT, detail="more")
            refused = await asyncio.to_thread(ask_resume, tmp_path, other)
            assert refused == ResumeResult(ResumeEnd.HALTED, HALT)
            resumed = await asyncio.to_thread(ask_resume, tmp_path, HALT)
            assert resumed == ResumeResult(ResumeEnd.RESUMED, HALT)
            again = await asyncio.to_thread(ask_resume, tmp_path, HALT)
            assert again == ResumeResult(ResumeEnd.NOT_HALTED, None)
            assert control.asked == [("resume", each) for each in (None, other, HALT, HALT)]

    async def test_an_error_of_the_mount_is_the_caller_s(self, tmp_path: Path) -> None:
        class Failing(ScriptedControl):
            async def wait(self, timeout_s: float | None) -> WaitResult:
                raise LocalFailure("the disk is gone", local="x")

        async with serving_control(tmp_path, Failing()):
            with pytest.raises(LocalFailure, match="the disk is gone"):
                await asyncio.to_thread(ask_wait, tmp_path, None)


async def _outcome(call: Callable[..., object], *arguments: object) -> object:
    try:
        return await asyncio.to_thread(call, *arguments)
    except SynclineError as error:
        return error


class TestNobodyThere:
    @pytest.mark.parametrize("directory", ["", "none", "file/below"])
    def test_no_socket(self, tmp_path: Path, directory: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotFound, match="does not run") as error:
            ask_status(tmp_path / directory)
        assert error.value.fields["reason"] == "not_running"

    def test_a_socket_of_a_dead_process(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fsencode(tmp_path / SOCKET_NAME))
        with pytest.raises(NotFound, match="does not run"):
            ask_status(tmp_path)

    def test_one_that_does_not_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.05)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(os.fsencode(tmp_path / SOCKET_NAME))
            silent.listen(0)
            with pytest.raises(TimedOut, match="does not answer"):
                ask_status(tmp_path)
            # Now its queue is full, too: it was never accepted.
            with ExitStack() as stack, pytest.raises(TimedOut, match="does not answer"):
                for _ in range(3):
                    filler = stack.enter_context(socket.socket(socket.AF_UNIX))
                    filler.setblocking(False)
                    filler.connect_ex(os.fsencode(tmp_path / SOCKET_NAME))
                ask_status(tmp_path)

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (b"", Unavailable),
            (b'{"v":1', Unavailable),
            (b"hello\n", ProtocolBroken),
            (b'{"v":1}\n', ProtocolBroken),
            (b'{"v":3}\n', TooNew),
            (b"x" * 4096, ProtocolBroken),
        ],
    )
    async def test_one_that_talks_nonsense(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        answer: bytes,
        kind: type[SynclineError],
    ) -> None:
        monkeypatch.setattr(module, "ANSWER_BYTES_MAX", 2048)

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        server = await asyncio.start_unix_server(talk, tmp_path / SOCKET_NAME)
        async with server:
            assert isinstance(await _outcome(ask_status, tmp_path), kind)


class TestHostileCallers:
    @pytest.mark.parametrize(
        "line",
        [
            b"\n",
            b"hello\n",
            b"\xff\xfe\0\n",
            b"[" * 30_000 + b"\n",
            b'{"v":1}\n',
            b'{"v":1,"call":"delete everything"}\n',
            b'{"v":1,"call":"resume","agreed":{"reason":"boredom"}}\n',
            b'{"v":1,"call":["status"]}\n',
            b"x" * (2 * REQUEST_BYTES_MAX) + b"\n",
            b"x" * (4 * REQUEST_BYTES_MAX),
        ],
    )
    async def test_a_wrong_line_is_answered_and_hurts_nobody(
        self, tmp_path: Path, line: bytes
    ) -> None:
        async with running(tmp_path) as control:
            answer = await asyncio.to_thread(_said_or_reset, tmp_path, line)
            if answer is not None:
                assert json.loads(answer)["error"]["code"] == "protocol"
            assert await asyncio.to_thread(ask_status, tmp_path) == IDLE
            assert control.asked == []

    async def test_a_second_line_is_not_carried_out(self, tmp_path: Path) -> None:
        lines = write_request(AskWait(None)) + write_request(AskResume(HALT))
        async with running(tmp_path, replace(HALTED, phase=BUSY.phase)) as control:
            assert await asyncio.to_thread(say, tmp_path, lines) == b""
            assert ("resume", HALT) not in control.asked

    async def test_silence_is_ended(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "REQUEST_WAIT_S", 0.02)
        async with running(tmp_path):
            for start in (b"", b'{"v":1,'):
                answer = await asyncio.to_thread(say, tmp_path, start)
                assert json.loads(answer)["error"]["code"] == "timed_out"

    async def test_who_does_not_read_is_cut_off(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "ANSWER_WAIT_S", 0.05)
        problems = (MountProblem(RelPath.parse(b"p" * 255), "unread", "x" * 100_000),) * 100
        async with running(tmp_path, replace(BUSY, problems=problems)):
            with connect(tmp_path) as lazy:
                lazy.sendall(write_request(AskStatus()))
                await eventually(lambda: _is_hung_up(lazy), "the connection was cut")

    async def test_those_over_the_limit_are_turned_away_and_the_others_served(
        self, tmp_path: Path
    ) -> None:
        async with running(tmp_path, BUSY) as control:
            with ExitStack() as stack:
                for _ in range(CALLERS_MAX):
                    caller = stack.enter_context(connect(tmp_path))
                    caller.sendall(write_request(AskWait(None)))
                await eventually(lambda: len(control.asked) == CALLERS_MAX, "all wait")
                assert isinstance(await _outcome(ask_status, tmp_path), Throttled)
            await eventually(lambda: control.asked.count("cancelled") == CALLERS_MAX, "all gone")
            assert await asyncio.to_thread(ask_status, tmp_path) == BUSY

    async def test_a_reset_in_the_middle(self, tmp_path: Path) -> None:
        async with running(tmp_path) as control:
            for _ in range(20):
                with connect(tmp_path) as rude:
                    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    rude.sendall(write_request(AskStatus())[:5])
            assert await asyncio.to_thread(ask_status, tmp_path) == IDLE
            assert control.asked == []


def _said_or_reset(state: Path, line: bytes) -> bytes | None:
    try:
        return say(state, line)
    except (ConnectionResetError, BrokenPipeError):
        # What was not read when the mount hung up takes its answer along.
        return None


def _is_hung_up(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


HOLD = """
import os, socket, sys
held = socket.socket(socket.AF_UNIX)
held.bind(sys.argv[1])
held.listen(1)
print("listening", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Let another process listen on a socket for the length of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"listening\n"
        yield holder


class TestSocket:
    async def test_only_the_owner_may_open_it_and_it_goes_with_the_mount(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / SOCKET_NAME
        mask = os.umask(0)
        try:
            async with running(tmp_path):
                mode = path.lstat().st_mode
                assert stat.S_ISSOCK(mode)
                assert stat.S_IMODE(mode) == 0o600
        finally:
            os.umask(mask)
        assert not path.exists()

    @pytest.mark.process
    async def test_that_of_a_killed_process_is_replaced_and_that_of_a_living_one_not(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / SOCKET_NAME
        with holding(path) as holder:
            with pytest.raises(InUse, match="another process"):
                async with running(tmp_path):
                    pass
            assert path.exists()
            holder.kill()
        assert path.exists()
        async with running(tmp_path):
            assert await asyncio.to_thread(ask_status, tmp_path) == IDLE

    async def test_what_is_no_socket_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / SOCKET_NAME
        path.write_text("mine")
        with pytest.raises((InUse, LocalFailure)):
            async with running(tmp_path):
                pass
        assert path.read_text() == "mine"

    async def test_a_missing_state_is_a_clear_error(self, tmp_path: Path) -> None:
        with pytest.raises(LocalFailure, match="no control connection"):
            async with running(tmp_path / "none"):
                pass

    @pytest.mark.parametrize("name", [b"x" * 250, b"y\xff" * 120])
    async def test_a_path_longer_than_the_kernel_takes(self, tmp_path: Path, name: bytes) -> None:
        state = tmp_path / os.fsdecode(name) / os.fsdecode(name)
        state.mkdir(parents=True)
        with pytest.raises(NotFound):
            ask_status(state)
        async with running(state, BUSY):
            assert (state / SOCKET_NAME).is_socket()
            assert await asyncio.to_thread(ask_status, state) == BUSY
        assert not (state / SOCKET_NAME).exists()

    async def test_no_descriptor_is_left(self, tmp_path: Path) -> None:
        long = tmp_path / ("d" * 200)
        long.mkdir()

        async def use() -> None:
            async with running(long), running(tmp_path):
                await asyncio.to_thread(ask_status, long)
                await asyncio.to_thread(say, tmp_path, b"nonsense\n")

        await use()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await use()
        assert len(os.listdir("/proc/self/fd")) == before
