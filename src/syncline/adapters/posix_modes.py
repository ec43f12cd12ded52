"""Modes set without following a link, and directories made writable for one change of names.

The owner of a directory may change what is in it whatever its mode says, by changing the mode: so
a directory of mode 0555 that is synced can be filled, emptied and moved.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from syncline.adapters.posix_renames import Spot

T = TypeVar("T")

OWNER_CHANGES = stat.S_IWUSR | stat.S_IXUSR
"""What the owner of a directory needs to change names in it."""

_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""A descriptor of whatever lies at a name, without opening it."""

_changes = threading.Lock()
"""One thread at a time: else one would give a directory its mode back while another works in it."""


def set_mode(spot: Spot, mode: int) -> None:
    """Set the mode of a file or directory; raise ELOOP for a link, EINVAL for anything else."""
    fd = os.open(spot.name, _HANDLE, dir_fd=spot.fd)
    try:
        kind = os.fstat(fd).st_mode
        if stat.S_ISLNK(kind):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        _set_mode(fd, mode)
    finally:
        os.close(fd)


def _set_mode(fd: int, mode: int) -> None:
    # fchmod refuses a descriptor of O_PATH, and not every kernel has fchmodat2.
    os.chmod(f"/proc/self/fd/{fd}", mode)


def change(do: Callable[[], T], directories: Iterable[int], moved: Iterable[Spot] = ()) -> T:
    """Do a change of names; where a mode of ours forbids it, do it with that mode widened.

    `directories` are those in which names change; `moved` what changes its directory, because the
    kernel wants to write into a directory for that, too. The modes are put back in every case.

    RACE: a crash in between leaves the wider mode, which then looks like a change by the user.
    """
    try:
        return do()
    except PermissionError as error:
        if error.errno != errno.EACCES:
            raise
        with _changes, ExitStack() as stack:
            widened = [stack.enter_context(_widened(fd)) for fd in directories]
            widened += [stack.enter_context(_widened_at(spot)) for spot in moved]
            if not any(widened):
                raise
            return do()


@contextmanager
def _widened_at(spot: Spot) -> Iterator[bool]:
    try:
        fd = os.open(spot.name, _HANDLE, dir_fd=spot.fd)
    except OSError:
        # The change will say what is wrong with it.
        yield False
        return
    try:
        with _widened(fd) as is_widened:
            yield is_widened
    finally:
        os.close(fd)


@contextmanager
def _widened(fd: int) -> Iterator[bool]:
    """Let the owner change a directory; yield whether that is news."""
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode)
    wider = mode | OWNER_CHANGES
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or mode == wider:
        yield False
        return
    _set_mode(fd, wider)
    try:
        yield True
    finally:
        # A user who changed the mode meanwhile has the last word.
        if stat.S_IMODE(os.fstat(fd).st_mode) == wider:
            _set_mode(fd, mode)
