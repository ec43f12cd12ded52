"""A server in memory and a client on a link that can be told to break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from syncline.adapters.executors import ThreadExecutor
from syncline.compose.direct import DirectLink
from syncline.server.volume import ServedVolume
from tests.support.links import Client, ScriptedLink
from tests.support.serving import BOB, Backend, SeededIds, served


@pytest.fixture
async def volume() -> AsyncIterator[ServedVolume]:
    backend = Backend.in_memory()
    async with served(backend) as volume:
        yield volume
    backend.close()


@pytest.fixture
def executor() -> Iterator[ThreadExecutor]:
    executor = ThreadExecutor("test-reader", threads=2)
    yield executor
    executor.close()


@pytest.fixture
def link(volume: ServedVolume) -> ScriptedLink:
    return ScriptedLink(DirectLink(volume))


@pytest.fixture
def client(link: ScriptedLink, executor: ThreadExecutor) -> Client:
    return Client(link, executor)


@pytest.fixture
def other(volume: ServedVolume, executor: ThreadExecutor) -> Client:
    """Return another user on the same server, whose link never breaks."""
    link = ScriptedLink(DirectLink(volume))
    return Client(link, executor, author=BOB, ids=SeededIds(2))
