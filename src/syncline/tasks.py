"""What Python 3.11 leaves to its users about tasks that are cancelled."""

from __future__ import annotations

import asyncio


def raise_if_cancelled() -> None:
    """Raise CancelledError where the current task is being cancelled.

    For whoever takes a group of errors apart: when a TaskGroup ends by an error and is cancelled
    from outside while its tasks end, Python before 3.13 tells of the error alone, and who deals
    with it would go on for ever (https://github.com/python/cpython/issues/116720).
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
