"""A hold over the control connection of a mount: locks that last as long as the connection.

Model: the mount answers with the locks, then with a line for each that is lost. Whoever asked says
that he is done by sending no more; the mount gives the locks back, and its last line says whether
the server heard of it. A connection that ends in another way ends the hold as well.

D1  Locks do not outlive the caller: the kernel ends his connection, whatever ended him.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from syncline.compose.control_messages import (
    AskHold,
    read_held,
    read_locks,
    write_answer,
    write_error,
    write_request,
)
from syncline.errors import ProtocolBroken, SynclineError, TimedOut, Unavailable
from syncline.ports.locks import LocatedLock
from syncline.ports.mount_control import HoldEnd, HoldEvent, LockAsked, LockLost, MountControl

GRANT_WAIT_S = 60.0
"""The mount asks the server in turn, and waits a little until what is under way is done."""


# -- The mount's side --------------------------------------------------------


async def serve_hold(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    control: MountControl,
    asked: LockAsked,
) -> bytes | None:
    """Hold until the caller is done or gone; return the last line for him, None: nobody is told."""
    over = asyncio.Event()
    is_told = False

    def tell(event: HoldEvent) -> None:
        nonlocal is_told
        is_told = True
        if not writer.transport.is_closing():
            writer.write(write_answer(event))

    async def carried_out() -> bytes:
        try:
            return write_answer(await control.hold(asked, tell, over))
        except SynclineError as error:
            return write_error(error)

    async with asyncio.TaskGroup() as group:
        holding = group.create_task(carried_out())
        gone = group.create_task(until_gone(reader))
        await asyncio.wait((holding, gone), return_when=asyncio.FIRST_COMPLETED)
        over.set()
        if not is_told:
            # Nobody waits for the locks any more; a hold that was refused is over already.
            holding.cancel()
        gone.cancel()
    return None if holding.cancelled() else holding.result()


async def until_gone(reader: asyncio.StreamReader) -> None:
    """Return when a caller has no more to say, or says more than its one line."""
    with suppress(OSError):
        await reader.read(1)


# -- The caller's side -------------------------------------------------------


class MountHold:
    """Locks that a mount holds for this caller, until `release` or the end of the connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        locks: tuple[LocatedLock, ...],
    ) -> None:
        self.locks = locks
        self._reader = reader
        self._writer = writer
        self._end: HoldEnd | None = None

    @classmethod
    async def begin(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: LockAsked
    ) -> MountHold:
        """Return when the mount holds the locks; raise what it raises, TimedOut, Unavailable."""
        try:
            async with asyncio.timeout(asked.wait_s + GRANT_WAIT_S):
                writer.write(write_request(AskHold(asked)))
                line = await _line(reader)
        except TimeoutError as error:
            raise TimedOut("the mount runs, but does not answer; look into its log") from error
        return cls(reader, writer, read_locks(line).locks)

    async def listen(self, lost: Callable[[LockLost], None]) -> HoldEnd:
        """Tell of each lock that is lost, until the hold is over; raise Unavailable with it."""
        while self._end is None:
            match read_held(await _line(self._reader)):
                case LockLost() as loss:
                    lost(loss)
                case HoldEnd() as end:
                    self._end = end
        return self._end

    def release(self) -> None:
        """Say that this caller is done; `listen` has the answer."""
        with suppress(OSError):
            self._writer.write_eof()


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        line = await reader.readline()
    except ValueError as error:
        raise ProtocolBroken("the answer of the mount is too long") from error
    except OSError as error:
        raise Unavailable(f"the mount went away in the middle: {error.strerror}") from error
    if not line.endswith(b"\n"):
        raise Unavailable("the mount ended in the middle; start it again with 'syncline mount'")
    return line
