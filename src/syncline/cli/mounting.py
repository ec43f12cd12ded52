"""The body of `syncline mount`: until told to stop, once, or only its plan."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager

from syncline.cli.exits import ExitCode
from syncline.cli.mount_events import follow, teller
from syncline.cli.mount_records import (
    conclude_halt,
    conclude_wait,
    plan_line,
    plan_records,
    problem_line,
)
from syncline.cli.output import Output
from syncline.core.names import escape
from syncline.errors import Unavailable
from syncline.ports.mount_control import MountControl, MountPhase, MountStatus, PlanShown

logger = logging.getLogger(__name__)

STOP_S = 9.0
"""How long a stop in order may take; then the process ends, which loses nothing but time."""

Mounted = AbstractAsyncContextManager[MountControl]


async def keep_mounted(mounted: Mounted, output: Output, stopping: asyncio.Event) -> ExitCode:
    """Keep a directory mounted until `stopping` is set."""
    async with mounted as control, asyncio.TaskGroup() as group:
        if not output.is_json:
            output.line(_ready_line(control.status()))
        showing = group.create_task(_show(control, output))
        await stopping.wait()
        logger.info("mount_stopping")
        showing.cancel()
    logger.info("mount_stopped")
    return ExitCode.OK


def _ready_line(status: MountStatus) -> str:
    place = escape(status.directory)
    return f"syncline: mounting volume '{status.volume}' of {status.server} in {place}"


async def _show(control: MountControl, output: Output) -> None:
    if not output.is_live:
        await follow(control, teller(output))
        return
    from syncline.cli.live_view import show_live

    await show_live(control)


async def sync_once(mounted: Mounted, output: Output, patience_s: float) -> ExitCode:
    """Sync a directory and end; raise Unavailable after `patience_s` without the server."""
    async with mounted as control, asyncio.TaskGroup() as group:
        others = [group.create_task(_demand_server(control, patience_s))]
        if output.is_json or output.is_live:
            # Else the end tells all that matters, and each problem would be told twice.
            others.append(group.create_task(_show(control, output)))
        result = await control.wait(None)
        for task in others:
            task.cancel()
    return conclude_wait(result, output, None)


async def _demand_server(control: MountControl, patience_s: float) -> None:
    seen = 0
    while True:
        seen = await control.changed(seen)
        if control.status().phase is not MountPhase.CONNECTING:
            continue
        try:
            async with asyncio.timeout(patience_s):
                while control.status().phase is MountPhase.CONNECTING:
                    seen = await control.changed(seen)
        except TimeoutError as error:
            reason = control.status().connection_error or "the server cannot be reached"
            raise Unavailable(reason) from error


async def show_plan(planned: Awaitable[PlanShown], output: Output) -> ExitCode:
    """Show what a mount would do, a line an action."""
    plan = await planned
    if output.is_json:
        for record in plan_records(plan):
            output.record(record)
    else:
        for step in plan.steps:
            output.line(plan_line(step))
    for problem in plan.problems:
        output.complain(problem_line(problem))
    if plan.halt is not None:
        return conclude_halt(plan.halt, output)
    if not output.is_json:
        ups = sum(step.is_upload for step in plan.steps)
        downs = len(plan.steps) - ups
        output.line(f"{ups} to do in the volume, {downs} in the directory; nothing was done")
    return ExitCode.OK


def run_mounted(mounted: Mounted, output: Output) -> ExitCode:
    """Keep a directory mounted until SIGTERM, SIGINT or nobody reads the output."""
    from syncline.cli.session import ungrouped

    # Stopping in order may take too long: a disk may hang for ever.
    late = threading.Timer(STOP_S, _end_now)
    late.daemon = True

    async def supervised() -> ExitCode:
        stopping = asyncio.Event()
        ends: list[ExitCode] = []
        loop = asyncio.get_running_loop()

        def stop(code: ExitCode) -> None:
            if not ends:
                late.start()
            ends.append(code)
            stopping.set()
            for number in (signal.SIGINT, signal.SIGTERM):
                # A second signal ends the process at once, as if nobody listened.
                loop.remove_signal_handler(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, ExitCode.OK)
        with output.stopping(stop):
            code = await keep_mounted(mounted, output, stopping)
        return ends[0] if ends else code

    try:
        with ungrouped():
            return asyncio.run(supervised())
    finally:
        late.cancel()


def _end_now() -> None:
    logger.warning("mount_stop_forced after_s=%g", STOP_S)
    os._exit(ExitCode.TERMINATED)
