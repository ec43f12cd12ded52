"""A connection on which nothing happens stays: pings keep it, and the server takes no offence."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from syncline.ports.link import Heartbeat, WatchBegin
from tests.e2e.history import author, linked, silence
from tests.support.processes import serving

pytestmark = [pytest.mark.process, pytest.mark.slow]

SILENCE_S = 110.0
"""Five pings of a client, each 20 s after the last: gRPC's own defaults forgive two."""


async def test_a_silent_stream_is_not_cut_for_its_pings(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[server.limits]\nheartbeat_s = 600.0\n")
    begin = WatchBegin(author("silent"), None, from_head=True)
    with serving(tmp_path / "server", "--config", config) as server:
        async with (
            linked(server.address, timeout_s=600.0) as link,
            aclosing(link.watch(begin, silence())) as events,
        ):
            assert isinstance(await anext(events), Heartbeat)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SILENCE_S):
                    await anext(events)
            assert (await link.hello()).head.revision == 0
