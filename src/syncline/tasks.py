"""What Python 3.11 leaves to its users about tasks that are cancelled."""

from __future__ import annotations

import asyncio


def raise_if_cancelled() -> None:
    """Raise CancelledError where the current task is being cancelled.

    For whoever takes a group of errors apart: when the body of a TaskGroup ends by an error, and
    the group is cancelled from outside while its tasks end, Python before 3.13 tells of the error
    alone, and who deals with it would go on for ever
    (https://github.com/python/cpython/issues/116720). Only where the error is the body's: one of a
    task that comes after the body has ended counts as a cancellation as well, and stays one.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
