"""What the applier is given for a digest: the content itself, or a staged file that has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Inline:
    """A small content in memory; the applier stages it."""

    content: bytes


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A complete, verified file in the client's staging directory, by its name there.

    The applier moves it to its place; what is left out or fails leaves it where it is.
    """

    name: bytes


StagedContent = Inline | StagedFile
