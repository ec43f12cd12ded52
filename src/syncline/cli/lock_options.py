"""Arguments and environment of the commands that have to do with user locks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import click

from syncline.core.changes import HeldToken, Token
from syncline.core.identity import REVISION_MAX, parse_entry_id
from syncline.errors import Invalid

TOKENS_VARIABLE = "SYNCLINE_LOCK_TOKENS"
"""Where `lock --hold` tells the command under it what it holds: `ENTRY:TOKEN` joined by commas."""

TTL_S = 8 * 3600.0
"""A working day: what is forgotten in the evening is free in the morning."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?[smhd])+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")


def duration(value: str | float) -> float:
    """Return an argument such as 30s, 8h or 1h30m as seconds; a bare number is seconds."""
    text = str(value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise click.BadParameter(f"'{value}' is not a time, like 30s, 15m, 8h or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration_text(seconds: float) -> str:
    """Return a time span for people: its two largest units."""
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return "".join(parts[:2])


def tokens_text(tokens: Sequence[HeldToken]) -> str:
    """Return tokens as the value of the variable."""
    return ",".join(f"{held.entry.hex()}:{held.token}" for held in tokens)


def held_tokens(environ: Mapping[str, str]) -> tuple[HeldToken, ...]:
    """Return the tokens of the locks that this command runs under; raise Invalid."""
    text = environ.get(TOKENS_VARIABLE, "")
    return tuple(_held_token(part) for part in text.split(",") if part)


def _held_token(part: str) -> HeldToken:
    entry, _, number = part.partition(":")
    try:
        held = HeldToken(parse_entry_id(bytes.fromhex(entry)), Token(int(number)))
    except (ValueError, Invalid) as error:
        raise _bad(part) from error
    if not 0 < held.token <= REVISION_MAX:
        raise _bad(part)
    return held


def _bad(part: str) -> Invalid:
    return Invalid(
        f"{TOKENS_VARIABLE}: '{part[:80]}' is no token of a lock; 'syncline lock --hold' sets it",
        field=TOKENS_VARIABLE,
        reason="token",
    )
