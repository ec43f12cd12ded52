"""What those who make trouble in a world have of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from syncline.core.identity import ROOT_ID, EntryId
from tests.support.simulation.history import Stores, live_entries
from tests.support.simulation.machines import ClientMachine, ServerMachine
from tests.support.simulation.oracle import Oracle
from tests.support.simulation.users import Hands


@dataclass
class Scene:
    """The machines and users of a world, a stream of draws of its own, and what was met."""

    machines: list[ClientMachine]
    hands: dict[str, Hands]
    server: ServerMachine
    oracle: Oracle
    random: random.Random
    now_s: Callable[[], float]
    met: Counter[str] = field(default_factory=Counter)
    accidents: set[str] = field(default_factory=set)
    """The machines that something happened to that their users did not want."""
    is_over: bool = False

    def note(self, what: str) -> None:
        """Write it into the history."""
        self.oracle.note(f"{self.now_s():9.3f} ! {what}")

    def server_path(self, id: EntryId) -> bytes | None:
        """Return where the server has an entry; None where it has none."""
        return path_in(self.server.stores, id)


def path_in(stores: Stores, id: EntryId) -> bytes | None:
    """Return the path of a live entry; empty for the root."""
    entries = live_entries(stores)
    parts: list[bytes] = []
    while id != ROOT_ID:
        if id not in entries:
            return None
        parts.append(entries[id].name)
        id = entries[id].parent
    return b"/".join(reversed(parts))
