"""The control connection of a running mount: a socket in the directory of its state.

Model: a caller connects, sends one line, gets one line, and the connection ends. A caller that goes
away ends what it asked for. Who may open the socket owns the state. A hold lasts as long as its
connection (`control_hold`).

C1  Nothing that a caller sends or does not send hurts the mount: lines, callers and waiting times
    have bounds, and what is wrong is answered with an error.
C2  A socket that nobody listens to any more, after a crash, is replaced; one that somebody listens
    to is not.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import assert_never

from syncline.compose.control_hold import MountHold, serve_hold, until_gone
from syncline.compose.control_messages import (
    Answer,
    AskHold,
    AskLock,
    AskLocks,
    AskResume,
    AskStatus,
    AskUnlock,
    AskVerify,
    AskWait,
    Request,
    ShortRequest,
    read_locks,
    read_request,
    read_resume,
    read_status,
    read_unlocked,
    read_verify,
    read_wait,
    write_answer,
    write_error,
    write_request,
)
from syncline.core.names import RelPath, escape
from syncline.core.safety import Halt
from syncline.errors import (
    Denied,
    InUse,
    LocalFailure,
    NotFound,
    ProtocolBroken,
    SynclineError,
    Throttled,
    TimedOut,
    Unavailable,
)
from syncline.ports.mount_control import (
    LockAsked,
    LocksResult,
    MountControl,
    MountStatus,
    ResumeResult,
    UnlockedResult,
    VerifyResult,
    WaitResult,
)

logger = logging.getLogger(__name__)

SOCKET_NAME = "control.sock"
CALLERS_MAX = 48
"""Some may be holds (`locker.HOLDS_MAX`), which last long; the others need room as well."""
REQUEST_BYTES_MAX = 64 * 1024
ANSWER_BYTES_MAX = 16 * 1024 * 1024
"""A hundred problems whose paths are as long as can be, escaped twice, take 4 MiB."""
REQUEST_WAIT_S = 10.0
ANSWER_WAIT_S = 10.0
"""How long one side may keep the other waiting, beyond a wait that was asked for."""
LOCK_ANSWER_WAIT_S = 60.0
"""The mount asks the server in turn, and waits a little until what is under way is done."""
ACCEPT_PAUSE_S = 1.0
CONNECT_PAUSE_S = 0.05
_ADDRESS_BYTES_MAX = 107
"""From linux/un.h: `sun_path` has 108 bytes, one of them a NUL."""


# -- The mount's side --------------------------------------------------------


@asynccontextmanager
async def serving_control(state: Path, control: MountControl) -> AsyncIterator[None]:
    """Answer callers for the length of the block; who still waits then is cut off.

    Raises InUse where another mount answers on this state, and LocalFailure.
    """
    listener = _listen(state)
    try:
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(_accept(listener, control))
            try:
                yield
            finally:
                accepting.cancel()
    finally:
        with suppress(OSError):
            (state / SOCKET_NAME).unlink()
        listener.close()


def _listen(state: Path) -> socket.socket:
    """Return a socket that listens in a state (C2)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setblocking(False)
        # The kernel takes the mode of the name from the socket: at no moment can others connect.
        os.fchmod(listener.fileno(), 0o600)
        with _address(state) as address:
            try:
                listener.bind(address)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_dead(address):
                    raise
                (state / SOCKET_NAME).unlink(missing_ok=True)
                listener.bind(address)
        listener.listen(CALLERS_MAX)
    except OSError as error:
        listener.close()
        shown = _shown(state)
        if error.errno == errno.EADDRINUSE:
            raise InUse(f"another process uses the state in '{shown}'", path=shown) from error
        raise LocalFailure(
            f"no control connection can be opened in '{shown}': {error.strerror}", path=shown
        ) from error
    return listener


def _is_dead(address: str | bytes) -> bool:
    """Tell whether a name is that of a socket that nobody listens to; raise OSError."""
    if not stat.S_ISSOCK(os.lstat(address).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            # Alive, and too busy to let us in.
            return False
    return False


async def _accept(listener: socket.socket, control: MountControl) -> None:
    loop = asyncio.get_running_loop()
    callers: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # Out of descriptors, most of all: others need them more, and this heals.
                logger.warning("control_refused error=%r", error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(callers) >= CALLERS_MAX:
                _turn_away(connection)
                continue
            task = group.create_task(_serve(connection, control))
            callers.add(task)
            task.add_done_callback(callers.discard)


def _turn_away(connection: socket.socket) -> None:
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(write_error(Throttled("too many commands ask this mount at once")))


async def _serve(connection: socket.socket, control: MountControl) -> None:
    """Answer one caller, who may be anything (C1)."""
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=REQUEST_BYTES_MAX)
    writer.transport.set_write_buffer_limits(0)
    granted: list[LocksResult] = []
    try:
        answer = await _answer(reader, writer, control, granted)
        if answer is not None:
            writer.write(answer)
            async with asyncio.timeout(ANSWER_WAIT_S):
                await writer.drain()
            if granted and await _is_read(reader):
                granted.clear()
    except OSError as error:
        # The caller went away, or does not read: its own affair. TimeoutError is an OSError too.
        logger.debug("control_caller_gone error=%r", str(error))
    finally:
        for each in granted:
            control.give_back(each)  # C3
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _is_read(reader: asyncio.StreamReader) -> bool:
    """Tell whether a caller that hangs up has read its answer; raise OSError where it has not.

    The kernel resets a connection whose other end is closed with something unread in it.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_WAIT_S):
            await reader.read(1)
    # Who is there and does nothing, as one that is stopped, still has it to read.
    return True


async def _answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    control: MountControl,
    granted: list[LocksResult],
) -> bytes | None:
    """Return what to tell a caller; None where it is not there any more; raise OSError.

    What locks it tells of is put into `granted`.
    """
    try:
        async with asyncio.timeout(REQUEST_WAIT_S):
            line = await reader.readline()
        if not line:
            return None
        request = read_request(line)
    except TimeoutError:
        return write_error(TimedOut("no request came on the control connection"))
    except ValueError:
        return write_error(ProtocolBroken(f"a request has at most {REQUEST_BYTES_MAX} bytes"))
    except SynclineError as error:
        return write_error(error)
    if isinstance(request, AskHold):
        return await serve_hold(reader, writer, control, request.asked)
    async with asyncio.TaskGroup() as group:
        carried_out = group.create_task(_carry_out(request, control, granted))
        gone = group.create_task(until_gone(reader))
        await asyncio.wait((carried_out, gone), return_when=asyncio.FIRST_COMPLETED)
        for task in (carried_out, gone):
            task.cancel()
    return None if carried_out.cancelled() else carried_out.result()


async def _carry_out(
    request: ShortRequest, control: MountControl, granted: list[LocksResult]
) -> bytes:
    answer: Answer
    try:
        match request:
            case AskStatus():
                answer = control.status()
            case AskWait(timeout_s):
                answer = await control.wait(timeout_s)
            case AskVerify(timeout_s):
                answer = await control.verify(timeout_s)
            case AskResume(agreed):
                answer = await control.resume(agreed)
            case AskLock(asked):
                answer = await control.lock(asked)
                granted.append(answer)
            case AskUnlock(paths, is_forced):
                answer = await control.unlock(paths, is_forced=is_forced)
            case AskLocks(path):
                answer = await control.locks(path)
            case _:
                assert_never(request)
    except SynclineError as error:
        return write_error(error)
    return write_answer(answer)


# -- The callers' side -------------------------------------------------------


def ask_status(state: Path) -> MountStatus:
    """Return the status of the mount that uses a state.

    Raises NotFound where none runs, TimedOut where it does not answer, Unavailable where it ends in
    the middle, TooNew and ProtocolBroken.
    """
    return read_status(_ask(state, AskStatus(), ANSWER_WAIT_S))


def ask_wait(state: Path, timeout_s: float | None) -> WaitResult:
    """Wait until the mount is in sync, for at most `timeout_s` (None: for ever); raise the same."""
    bound_s = None if timeout_s is None else timeout_s + ANSWER_WAIT_S
    return read_wait(_ask(state, AskWait(timeout_s), bound_s))


def ask_verify(state: Path, timeout_s: float | None) -> VerifyResult:
    """Verify the mount, for at most `timeout_s` (None: for ever); raise the same, and the errors
    that end a verification."""
    bound_s = None if timeout_s is None else timeout_s + ANSWER_WAIT_S
    return read_verify(_ask(state, AskVerify(timeout_s), bound_s))


def ask_resume(state: Path, agreed: Halt | None) -> ResumeResult:
    """Release the brakes if `agreed` is the halt that stands, else get that; raise the same."""
    return read_resume(_ask(state, AskResume(agreed), ANSWER_WAIT_S))


def ask_lock(state: Path, asked: LockAsked) -> LocksResult:
    """Lock paths for the mount; raise the same, and what `MountControl.lock` raises."""
    bound_s = asked.wait_s + LOCK_ANSWER_WAIT_S
    return read_locks(_ask(state, AskLock(asked), bound_s))


@asynccontextmanager
async def held_by_mount(state: Path, asked: LockAsked) -> AsyncIterator[MountHold]:
    """Have the mount hold paths for the length of the block; raise as `ask_lock`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        deadline_s = time.monotonic() + ANSWER_WAIT_S
        try:
            await asyncio.to_thread(_connect, connection, state, deadline_s)
            reader, writer = await asyncio.open_unix_connection(
                sock=connection, limit=ANSWER_BYTES_MAX
            )
        except OSError as error:
            raise _away(error) from error
        try:
            yield await MountHold.begin(reader, writer, asked)
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


def ask_unlock(state: Path, paths: tuple[RelPath, ...], *, is_forced: bool) -> UnlockedResult:
    """Give up locks of the mount, or break others'; raise as `ask_lock`."""
    request = AskUnlock(paths, is_forced)
    return read_unlocked(_ask(state, request, LOCK_ANSWER_WAIT_S))


def ask_locks(state: Path, path: RelPath) -> LocksResult:
    """Return the locks around a path of the mount; raise as `ask_lock`."""
    return read_locks(_ask(state, AskLocks(path), LOCK_ANSWER_WAIT_S))


def _ask(state: Path, request: Request, timeout_s: float | None) -> bytes:
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            _connect(connection, state, time.monotonic() + ANSWER_WAIT_S)
            connection.settimeout(ANSWER_WAIT_S)
            # A mount that turns callers away does not wait for what they want.
            with suppress(BrokenPipeError):
                connection.sendall(write_request(request))
            return _read_line(connection, deadline_s)
        except OSError as error:
            raise _away(error) from error


def _away(error: OSError) -> SynclineError:
    if isinstance(error, TimeoutError):
        return TimedOut(
            "the mount runs, but does not answer; look into its log, or end it and start it again"
        )
    return Unavailable(f"the mount went away in the middle: {error.strerror}")


def _connect(connection: socket.socket, state: Path, deadline_s: float) -> None:
    connection.setblocking(False)
    while True:
        try:
            with _address(state) as address:
                connection.connect(address)
                return
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            raise NotFound(
                "the mount does not run; start it with 'syncline mount'", reason="not_running"
            ) from error
        except BlockingIOError as error:
            # Its queue is full, which poll() cannot wait for.
            if time.monotonic() > deadline_s:
                raise TimeoutError from error
            time.sleep(CONNECT_PAUSE_S)
        except PermissionError as error:
            shown = _shown(state)
            raise Denied(
                f"the mount is another user's: '{shown}' may not be opened", path=shown
            ) from error


def _read_line(connection: socket.socket, deadline_s: float | None) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        piece = connection.recv(64 * 1024)
        if not piece:
            raise Unavailable("the mount ended in the middle; start it again with 'syncline mount'")
        line += piece
        if len(line) > ANSWER_BYTES_MAX:
            raise ProtocolBroken("the answer of the mount is too long")
    return bytes(line)


# -- Both --------------------------------------------------------------------


@contextmanager
def _address(state: Path) -> Iterator[str | bytes]:
    """Give a name of the socket in a state that is short enough for the kernel; raise OSError."""
    raw = os.fsencode(state / SOCKET_NAME)
    if len(raw) <= _ADDRESS_BYTES_MAX:
        yield raw
        return
    fd = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def _shown(path: Path) -> str:
    return escape(os.fsencode(path))
