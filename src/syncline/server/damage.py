"""Chunks whose bytes turned out wrong are marked, so that the next STORE of them heals them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from syncline.core.identity import Digest
from syncline.ports.chunks import Location
from syncline.server.volume import ServedVolume

logger = logging.getLogger(__name__)


async def mark_damaged(volume: ServedVolume, damaged: Mapping[Digest, Location]) -> None:
    """Make chunks missing that were read wrong at these places; one healed meanwhile stays."""
    if not damaged:
        return
    for digest, location in damaged.items():
        logger.error(
            "chunk_damaged digest=%s pack=%d offset=%d",
            digest.hex(),
            location.pack,
            location.offset,
        )
    await volume.writer.submit(lambda session: volume.chunks.mark_damaged(session, damaged))
