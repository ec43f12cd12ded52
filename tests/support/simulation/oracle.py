"""What must be true of a simulated world, whatever happened in it.

Model: each content that a user ever made is *possible*; one that was whole when he let go of it is
*saved*. Who overwrites or deletes a path gives up the content that he saw there. At rest every
saved content that nobody gave up is somewhere (G1), nothing is there that was not possible at some
moment (G2, no mixture), and all replicas are equal (G3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from dataclasses import dataclass, field

from syncline.ports.files import FileKind
from tests.support.simulation.user_side import Node

HISTORY = 80


@dataclass
class Oracle:
    """Contents by their bytes; links by their target."""

    possible: set[bytes] = field(default_factory=lambda: {b""})
    saved: dict[bytes, str] = field(default_factory=dict)
    given_up: set[bytes] = field(default_factory=set)
    history: deque[str] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def note(self, line: str) -> None:
        """Remember what happened, for the one who reads a failure."""
        self.history.append(line)

    def make(self, content: bytes) -> None:
        """A user has this on his disk now."""
        self.possible.add(content)

    def save(self, content: bytes, where: str) -> None:
        """A user let go of this."""
        self.possible.add(content)
        if content:
            self.saved[content] = where
            self.given_up.discard(content)

    def give_up(self, content: bytes) -> None:
        """A user overwrote or deleted this."""
        self.given_up.add(content)

    def check_content(self, tree: dict[bytes, Node], where: str) -> None:
        """Fail where something is that never was whole (G2)."""
        for path, node in tree.items():
            content = contents_of(node)
            if content is not None and content not in self.possible:
                raise AssertionError(f"{where}: {path!r} has {content[:40]!r}, which nobody made")

    def check_kept(self, tree: dict[bytes, Node], outside: Set[bytes] = frozenset()) -> None:
        """Fail where saved content is gone (G1); `outside`: what users moved out of their mounts.

        That goes with the directory it was saved in, also where it was on its way just then.
        """
        there = {contents_of(node) for node in tree.values()} | outside
        lost = {
            content: where
            for content, where in self.saved.items()
            if content not in there and content not in self.given_up
        }
        if lost:
            raise AssertionError(f"lost: {[(c[:24], w) for c, w in lost.items()]}")


def contents_of(node: Node) -> bytes | None:
    """Return what tells one content from another; None for a directory."""
    return None if node.kind is FileKind.DIRECTORY else node.content
