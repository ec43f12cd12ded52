"""What an operator does to a stopped server: rebuild the chunk index, verify everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from syncline.compose.data_directory import open_data
from syncline.server.recovery import PackFindings, rebuild
from syncline.server.verify import verify_metadata
from syncline.server.verify_chunks import verify_chunks


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What rebuilding came to, by name of volume."""

    volumes: dict[str, PackFindings]


def rebuild_data(data: Path) -> RebuildReport:
    """Make the chunk index of every volume anew from its packs.

    Raises InUse while a server runs on the data, NotFound where there is none.
    """
    with open_data(data, may_create=False) as stores:
        return RebuildReport(
            {
                volume.name: rebuild(stores.metadata, volume.id, stores.chunks(volume.id))
                for volume in stores.metadata.volumes()
            }
        )


def verify_data(data: Path) -> Iterator[str]:
    """Read everything; yield a sentence for each thing that is wrong, none when all is well.

    Chunks that it names are marked damaged: clients are told of them, and a STORE fills them again.
    Raises InUse while a server runs on the data, NotFound where there is none.
    """
    with open_data(data, may_create=False) as stores:
        for line in stores.metadata.integrity_lines():
            yield f"metadata: {line}"
        for volume in stores.metadata.volumes():
            for finding in verify_metadata(stores.metadata, volume.id):
                yield f"volume '{volume.name}': {finding}"
            for finding in verify_chunks(stores.metadata, volume, stores.chunks(volume.id)):
                yield f"volume '{volume.name}': {finding}"
