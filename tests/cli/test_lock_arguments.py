"""Locks on the command line: times, tokens in the environment, marks beside a listing, usage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest

from syncline.cli.lock_options import (
    TOKENS_VARIABLE,
    duration,
    duration_text,
    held_tokens,
    tokens_text,
)
from syncline.cli.lock_records import LockMarks, holder_text
from syncline.core.changes import HeldToken, Token
from syncline.core.identity import Revision
from syncline.core.names import RelPath
from syncline.core.user_locks import UserLock
from syncline.errors import Invalid, TooNew
from syncline.ports.locks import LocatedLock
from syncline.rpc.link import GrpcLink
from tests.support.locks import owner
from tests.support.processes import Cli
from tests.support.trees import id_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("15m", 900), ("8h", 28_800), ("1h30m", 5400), ("1d", 86_400), ("2.5", 2.5)],
)
def test_times_are_written_with_their_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "8 h", "-1s", "h", "8x", "1h30", "nan", "1e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        duration(text)


def test_times_are_shown_by_their_two_largest_units() -> None:
    shown = [duration_text(each) for each in (0, 0.6, 61, 3600, 5400.4, 90_061)]
    assert shown == ["0s", "1s", "1m1s", "1h", "1h30m", "1d1h"]


def test_tokens_go_through_the_environment() -> None:
    tokens = (HeldToken(id_of("a"), Token(7)), HeldToken(id_of("b"), Token(2**40)))
    assert held_tokens({TOKENS_VARIABLE: tokens_text(tokens)}) == tokens
    assert held_tokens({}) == held_tokens({TOKENS_VARIABLE: ""}) == ()


@pytest.mark.parametrize("text", ["x", "00:1", f"{'00' * 16}:0", f"{'00' * 16}:x", f"{'00' * 16}"])
def test_what_is_no_token_is_refused_and_not_passed_over(text: str) -> None:
    with pytest.raises(Invalid, match=TOKENS_VARIABLE):
        held_tokens({TOKENS_VARIABLE: text})


def located(path: bytes) -> LocatedLock:
    lock = UserLock(id_of("a"), Token(1), owner("ann"), "new\x1bs", 0.0, 60.0, 0)
    return LocatedLock(lock, RelPath.parse(path) if path else RelPath(), 61.0, 9.0, 9.0)


def test_the_lock_that_covers_a_path_is_its_own_or_of_a_directory_above() -> None:
    marks = LockMarks([located(b"d"), located(b"d/e/f")])
    found = {
        path: marks.of(RelPath.parse(path)) for path in (b"d", b"d/e", b"d/e/f", b"dd", b"e/d")
    }
    assert [None if lock is None else bytes(lock.path) for lock in found.values()] == [
        b"d",
        b"d",
        b"d/e/f",
        None,
        None,
    ]
    whole = LockMarks([located(b"")]).of(RelPath.parse(b"x"))
    assert whole is not None and "\x1b" not in holder_text(whole)


class OldLink(GrpcLink):
    """A link to a server that does not know of locks."""

    async def locks(self, path: RelPath) -> AsyncIterator[LocatedLock]:  # type: ignore[override]
        raise TooNew("there is no such method")
        yield


async def test_an_old_server_and_the_past_have_no_locks() -> None:
    link = OldLink("127.0.0.1:1", "default", timeout_s=1.0)
    for at in (None, Revision(3)):
        marks = await LockMarks.look(link, at)
        assert marks.of(RelPath.parse(b"x")) is None


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [
        ("lock",),
        ("lock", "x", "--hold"),
        ("lock", "--hold", "--", "true"),
        ("lock", "x", "--hold", "--"),
        ("lock", "x", "--ttl", "soon"),
        ("lock", "x", "--lease", "5s"),
        ("unlock",),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_without_a_server(arguments: tuple[str, ...], tmp_path: Path) -> None:
    ran = Cli("127.0.0.1:1", tmp_path).run(*arguments)
    assert ran.returncode == 2 and b"syncline: " in ran.stderr, ran.stderr
