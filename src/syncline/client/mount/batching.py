"""Batches: how the changes of a plan are put into STOREs.

B1  No unit is split, and an atomic one goes alone (A4 of `core.plans`).
B2  A batch is within the bounds of one commit, unless a unit alone is over them.
B3  Units keep their order, but for files that are new content and no more: a large one goes alone
    and after all that is quick. Nothing waits for a file to be put: only directories are put into,
    and only moves and deletes free a place. So it only ever comes after what it needs itself. What
    is deleted because another entry has its content is held back by `portions` (I4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.core.bounds import change_bytes
from syncline.core.changes import CHANGES_MAX, Change, PutFile
from syncline.core.manifests import INLINE_BYTES_MAX
from syncline.core.plans import Unit

WEIGHT_MAX = 4 * 1024 * 1024
"""Bytes of names, manifests, targets and inline content in a batch, far below a commit's bound."""

CONTENT_MAX = 32 * 1024 * 1024
"""Content that a batch does not carry inside: keeps the end of each STORE in sight."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The changes of one STORE, in order."""

    changes: tuple[Change, ...]
    is_atomic: bool = False

    @property
    def is_large(self) -> bool:
        """Tell whether it travels by itself."""
        return any(is_large(change) for change in self.changes)


@dataclass(frozen=True, slots=True)
class _Load:
    """What some changes add to a STORE: their count, bytes inside it, bytes of chunks beside it."""

    changes: int = 0
    weight: int = 0
    content: int = 0

    def __add__(self, other: _Load) -> _Load:
        return _Load(
            self.changes + other.changes,
            self.weight + other.weight,
            self.content + other.content,
        )

    @property
    def is_within(self) -> bool:
        return (
            self.changes <= CHANGES_MAX
            and self.weight <= WEIGHT_MAX
            and self.content <= CONTENT_MAX
        )


def batches(units: Sequence[Unit]) -> list[Batch]:
    """Return the batches for the units of a plan, to be sent one after the other."""
    made: list[Batch] = []
    large: list[Batch] = []
    gathered: list[Change] = []
    load = _Load()

    def flush() -> None:
        nonlocal load
        if gathered:
            made.append(Batch(tuple(gathered)))
            gathered.clear()
            load = _Load()

    for unit in units:
        own = _load(unit)
        has_large = any(map(is_large, unit.changes))
        if has_large and len(unit.changes) == 1 and not unit.is_atomic:
            large.append(Batch(unit.changes))
        elif has_large or unit.is_atomic:
            flush()
            made.append(Batch(unit.changes, unit.is_atomic))
        else:
            if not (load + own).is_within:
                flush()
            gathered.extend(unit.changes)
            load += own
    flush()
    return made + large


def is_large(change: Change) -> bool:
    """Tell whether a change brings content that travels by itself."""
    return isinstance(change, PutFile) and change.content.size > SMALL_BYTES_MAX


def _load(unit: Unit) -> _Load:
    load = _Load(len(unit.changes))
    for change in unit.changes:
        size = change.content.size if isinstance(change, PutFile) else 0
        is_inline = size <= INLINE_BYTES_MAX
        load += _Load(
            0, change_bytes(change) + (size if is_inline else 0), 0 if is_inline else size
        )
    return load
