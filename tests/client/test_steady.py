"""Going on after a broken connection: when, and for how long."""

from __future__ import annotations

import pytest

from syncline.client.steady import Steady
from syncline.errors import Denied, SynclineError, Throttled, Unavailable
from tests.support.links import QUICK


class Server:
    """Answers after some errors."""

    def __init__(self, *errors: SynclineError) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def call(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


async def test_the_first_contact_is_not_repeated() -> None:
    server = Server(Unavailable("nobody there"))
    with pytest.raises(Unavailable):
        await Steady(10.0, QUICK).run(server.call)
    assert server.calls == 1


async def test_later_breaks_are_waited_out() -> None:
    steady = Steady(10.0, QUICK)
    await steady.run(Server().call)
    assert await steady.run(Server(Unavailable("gone"), Throttled("busy")).call) == 3


async def test_other_errors_are_not() -> None:
    steady = Steady(10.0, QUICK)
    await steady.run(Server().call)
    server = Server(Denied("no"))
    with pytest.raises(Denied):
        await steady.run(server.call)
    assert server.calls == 1


async def test_it_gives_up_when_nothing_moves_for_the_time_allowed() -> None:
    steady = Steady(0.005, QUICK)
    await steady.run(Server().call)
    server = Server(*[Unavailable("gone")] * 1000)
    with pytest.raises(Unavailable):
        await steady.run(server.call)
    assert 1 < server.calls < 1000


async def test_progress_starts_the_time_anew() -> None:
    steady = Steady(0.005, QUICK)

    class Moving(Server):
        async def call(self) -> int:
            steady.progress()
            return await super().call()

    server = Moving(*[Unavailable("gone")] * 20)
    assert await steady.run(server.call) == 21
