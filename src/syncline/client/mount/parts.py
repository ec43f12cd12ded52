"""What a mount is made of: the ports it works with, and what it is to be."""

from __future__ import annotations

from dataclasses import dataclass

from syncline.core.changes import Author
from syncline.core.safety import Limits
from syncline.core.trees import Mount
from syncline.ports.chunker import Chunker
from syncline.ports.clock import Clock
from syncline.ports.files import Files
from syncline.ports.ids import Ids
from syncline.ports.mount_state import MountState
from syncline.ports.watcher import Watcher


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one mount; `limits` are those of its brakes."""

    files: Files
    watcher: Watcher
    state: MountState
    mount: Mount
    author: Author
    ids: Ids
    clock: Clock
    chunker: Chunker
    limits: Limits
    host: str = "unknown"
    """What this machine calls itself beside its locks."""
