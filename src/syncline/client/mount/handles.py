"""Open files of work that may be abandoned while a worker thread is in the middle of it.

An executor ends what it began even when nobody waits for it any more. So whoever gives up work can
not simply close its files: the thread may be about to use them, and waiting for it would hold up
the event loop.

H1  A file is closed once, by whoever is last: the one who gives up, or the thread still in it.
H2  Work that was given up ends at its next `check`, and does not begin again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Protocol, TypeVar


class Closable(Protocol):
    """What can be let go of; a second time does nothing."""

    def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class Handles:
    """The open files of one piece of work, whose calls come one at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._open: list[Closable] = []
        self._is_closed = False

    @contextmanager
    def work(self) -> Iterator[None]:
        """Keep the files open for the length of the block; raise OSError when they are closed."""
        try:
            with self._lock:
                self.check()
                yield
        finally:
            if self._is_closed:
                self._let_go()

    def check(self) -> None:
        """Raise OSError (ECANCELED) when the work was given up (H2)."""
        if self._is_closed:
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))

    def keep(self, opened: T) -> T:
        """Take over a file that was opened inside `work`; return it."""
        self._open.append(opened)
        return opened

    def drop(self, opened: Closable) -> None:
        """Close one file inside `work`."""
        self._open.remove(opened)
        opened.close()

    def close(self) -> None:
        """Close all, now or when the call that is under way ends; never waits (H1)."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        # Whoever fails to get the lock leaves it to its holder, who looks at the flag after it.
        if self._lock.acquire(blocking=False):
            try:
                while self._open:
                    self._open.pop().close()
            finally:
                self._lock.release()
