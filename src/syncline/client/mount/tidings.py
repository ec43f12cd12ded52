"""What a mount tells of its work: the newest changes, and content on its way."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from syncline.core.changes import Change as Asked
from syncline.core.changes import Delete, Move
from syncline.core.identity import NO_REVISION
from syncline.core.names import RelPath
from syncline.core.plans import Alter, Create, Exchange, KeepCopy, Placing, Remove, SetAside
from syncline.ports.clock import Clock
from syncline.ports.link import Effect
from syncline.ports.mount_control import CHANGES_SHOWN_MAX, Change, Transfer

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Moving:
    """Content on its way; `advance` and `end` are called as it goes."""

    path: RelPath
    is_upload: bool
    size: int
    done: int
    _ended: Callable[[Moving], None]
    _noted: Callable[[], None]

    def advance(self, size: int) -> None:
        """Say that so many bytes are done."""
        self.done = min(self.size, self.done + size)
        self._noted()

    def end(self) -> None:
        """Say that it arrived, or was given up."""
        self._ended(self)


class Tidings:
    """The newest of what happened; `noted` is called each time."""

    def __init__(self, clock: Clock, noted: Callable[[], None]) -> None:
        self.count = 0
        self.changes: deque[Change] = deque(maxlen=CHANGES_SHOWN_MAX)
        self._clock = clock
        self._noted = noted
        self._moving: list[Moving] = []

    def upload(self, what: tuple[RelPath, int]) -> Moving:
        """Begin to tell of content that goes to the server: its path and size."""
        return self._begin(what, is_upload=True)

    def download(self, what: tuple[RelPath, int]) -> Moving:
        """Begin to tell of content that comes."""
        return self._begin(what, is_upload=False)

    def _begin(self, what: tuple[RelPath, int], *, is_upload: bool) -> Moving:
        moving = Moving(what[0], is_upload, what[1], 0, self._end, self._noted)
        self._moving.append(moving)
        return moving

    def _end(self, moving: Moving) -> None:
        self._moving.remove(moving)
        self._noted()

    def transfers(self, limit: int) -> tuple[Transfer, ...]:
        """Return what is on its way."""
        return tuple(
            Transfer(each.path, each.is_upload, each.done, each.size)
            for each in self._moving[:limit]
        )

    def stored(self, change: Asked, path: RelPath, old_path: RelPath | None) -> None:
        """Tell of a change that the server accepted."""
        match change:
            case Delete():
                effect = Effect.DELETED
            case Move():
                effect = Effect.MOVED
            case _:
                effect = Effect.CREATED if change.base == NO_REVISION else Effect.CHANGED
        self._note(effect, path, old_path, is_local=True)

    def placed(self, action: Placing, path: RelPath, old_path: RelPath | None) -> None:
        """Tell of an action that was carried out in the mount."""
        match action:
            case Create() | KeepCopy():
                effect = Effect.CREATED
            case Remove():
                effect = Effect.DELETED
            case Exchange():
                effect = Effect.MOVED
            case Alter(_, expected, wanted):
                effect = Effect.CHANGED if expected.place == wanted.place else Effect.MOVED
            case SetAside():
                return
        self._note(effect, path, old_path, is_local=False)

    def _note(
        self, effect: Effect, path: RelPath, old_path: RelPath | None, *, is_local: bool
    ) -> None:
        self.count += 1
        wall_ns = self._clock.wall_ns()
        old_path = old_path if effect is Effect.MOVED else None
        self.changes.append(Change(self.count, effect, path, is_local, wall_ns, old_path))
        side = "stored" if is_local else "placed"
        logger.debug("%s effect=%s path='%s'", side, effect.value, path)
