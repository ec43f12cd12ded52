"""`syncline resume`."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import click

from syncline.cli.options import example, mount_command_options, raw_path

if TYPE_CHECKING:
    from syncline.cli.exits import ExitCode
    from syncline.cli.output import Output
    from syncline.core.safety import Halt
    from syncline.ports.mount_control import ResumeResult


@click.command("resume", epilog=example("syncline resume", "syncline resume ~/work --yes"))
@click.argument("directory", required=False, metavar="[DIR]", type=raw_path)
@click.option("--yes", "is_agreed", is_flag=True, help="Do what it shows without asking.")
@mount_command_options
def command(directory: bytes | None, is_agreed: bool, is_json: bool, verbosity: int) -> int:
    """Let a halted mount go on, after showing why it halted and what it will do.

    Asks on a terminal; elsewhere it goes on only with --yes. Without DIR it is the mount that the
    current directory lies in.
    """
    from syncline.cli.session import run_plain

    return run_plain(
        lambda output: _resume(directory, output, is_agreed=is_agreed), verbosity, is_json=is_json
    )


def _resume(directory: bytes | None, output: Output, *, is_agreed: bool) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.compose.control import ask_resume
    from syncline.compose.mount_places import find_mount

    state = find_mount(directory).state
    result = ask_resume(state, None)
    halt = result.halt
    if halt is not None and not output.is_json:
        _show(halt, output)
    if halt is not None and (is_agreed or _is_agreed(output)):
        # It goes on only if this very halt still stands: what was shown is what will be done.
        result = ask_resume(state, halt)
        if result.halt is not None and result.halt != halt:
            output.complain("what it would do has changed in the meantime; look again")
            _conclude(result, output)
            return ExitCode.HALTED
    return _conclude(result, output)


def _show(halt: Halt, output: Output) -> None:
    from syncline.cli.text import plain

    output.line(f"halted: {plain(halt.detail)}")
    output.line(f"resuming will: {plain(halt.resume)}")


def _is_agreed(output: Output) -> bool:
    import sys

    is_asked = output.is_live and sys.stdin is not None and sys.stdin.isatty()
    return is_asked and click.confirm("Go on?", default=False)


def _conclude(result: ResumeResult, output: Output) -> ExitCode:
    from syncline.cli.exits import ExitCode
    from syncline.cli.mount_records import resume_record
    from syncline.ports.mount_control import ResumeEnd

    if output.is_json:
        output.record(resume_record(result))
    match result.end:
        case ResumeEnd.NOT_HALTED:
            if not output.is_json:
                output.line("nothing to resume: the mount is not halted")
            return ExitCode.OK
        case ResumeEnd.RESUMED:
            if not output.is_json:
                output.line("resumed")
            return ExitCode.OK
        case ResumeEnd.HALTED:
            output.complain("the mount stays halted; go on with 'syncline resume --yes'")
            return ExitCode.HALTED
        case _:
            assert_never(result.end)
