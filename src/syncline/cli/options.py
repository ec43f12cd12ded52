"""Options and argument types that commands share; imports click alone, so that --help is quick."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

REVISION_MAX = 2**63 - 1
WAIT_S_MAX = 365 * 86_400.0


def raw_path(value: str | bytes) -> bytes:
    """Return the bytes of an argument as the shell passed them, whatever the locale."""
    return os.fsencode(value)


def revision_number(value: str | int) -> int:
    """Return an argument as the number of a revision; 0 is before the first commit."""
    try:
        number = int(value)
    except ValueError:
        number = -1
    if not 0 <= number <= REVISION_MAX:
        raise click.BadParameter(f"'{value}' is not the number of a revision, like 12")
    return number


def wait_seconds(value: str | float) -> float:
    """Return an argument as a number of seconds to wait."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= WAIT_S_MAX:
        raise click.BadParameter(f"'{value}' is not a number of seconds above 0, like 10 or 0.5")
    return seconds


FILE_PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """What each command of a client accepts; None where the user said nothing."""

    server: str | None
    volume: str | None
    timeout_s: float | None
    config: Path | None
    is_json: bool
    verbosity: int


def client_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of a client to a command, which gets them as `options`."""

    @functools.wraps(command)
    def wrapped(
        *,
        server: str | None,
        volume: str | None,
        timeout_s: float | None,
        config: Path | None,
        is_json: bool,
        verbosity: int,
        **own: object,
    ) -> int:
        options = ClientOptions(server, volume, timeout_s, config, is_json, verbosity)
        return command(options=options, **own)

    for add in reversed(
        (
            click.option("--server", metavar="HOST:PORT", help="Where the server listens."),
            click.option("--volume", metavar="NAME", help="The volume to work on."),
            click.option("--json", "is_json", is_flag=True, help="One JSON object a line."),
            click.option(
                "--timeout",
                "timeout_s",
                type=float,
                metavar="SECONDS",
                help="Deadline of a call; of a transfer, how long it may stand still.",
            ),
            config_option,
            verbose_option,
        )
    ):
        wrapped = add(wrapped)
    return wrapped


def mount_command_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options of a command that asks a running mount."""
    add = click.option("--json", "is_json", is_flag=True, help="One JSON object a line.")
    return add(verbose_option(command))


def config_option(command: Callable[..., int]) -> Callable[..., int]:
    """Add --config."""
    add = click.option(
        "--config", type=FILE_PATH, metavar="FILE", help="Read this configuration file."
    )
    return add(command)


def verbose_option(command: Callable[..., int]) -> Callable[..., int]:
    """Add -v; twice says more."""
    add = click.option("-v", "--verbose", "verbosity", count=True, help="Log to stderr; -vv: more.")
    return add(command)


def example(*lines: str) -> str:
    """Return the end of a help text that shows commands, each on its own line."""
    return "\b\n" + "\n".join(("Example:", *(f"  {line}" for line in lines)))
