"""What the tests of user locks share; other tests of the server make their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from syncline.compose.direct import DirectLink
from syncline.ports.link import LockingLink
from syncline.rpc.link import GrpcLink
from syncline.server.volume import ServedVolume
from tests.support.lock_calls import FAST, planted
from tests.support.serving import Backend, SeededIds, rpc_server, served


@pytest.fixture(params=["direct", "grpc"])
async def link(request: pytest.FixtureRequest, volume: ServedVolume) -> AsyncIterator[LockingLink]:
    if request.param == "direct":
        yield DirectLink(volume)
        return
    async with rpc_server(volume) as address:
        link = GrpcLink(address, "default", timeout_s=20.0)
        yield link
        await link.close()


@pytest.fixture
async def volume(ids: SeededIds) -> AsyncIterator[ServedVolume]:
    """Serve a volume with `d/`, `d/f` and `x`, at revision 1."""
    backend = Backend.in_memory()
    async with served(backend, limits=FAST) as volume:
        await planted(DirectLink(volume), ids)
        yield volume
    backend.close()


@pytest.fixture
def ids() -> SeededIds:
    return SeededIds()
