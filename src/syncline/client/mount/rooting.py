"""The root of a mount: opened once, told from any other directory, and looked at again each time.

R1  Nothing is written into a directory that is not the one base speaks of.
R2  A directory that was never mounted, or whose state is lost, gets a marker of its own: it is then
    merged with the volume without a base, which deletes nothing.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace

from syncline.client.mount.own_directory import OwnDirectory, open_own, write_marker
from syncline.core.safety import Halt, HaltReason, Limits, RootIdentity, check_root
from syncline.errors import LocalFailure
from syncline.ports.files import Directory, Files
from syncline.ports.mount_state import MountFacts, MountSession, MountState


@dataclass(frozen=True, slots=True)
class Root:
    """The open root, the client's own directories in it, and its device."""

    directory: Directory
    own: OwnDirectory
    device: int

    def close(self) -> None:
        """Let go of all."""
        self.own.close()
        self.directory.close()


def open_root(files: Files, state: MountState, limits: Limits) -> Root | Halt:
    """Open the root, and claim it for this process; return a halt where it is another one (R1).

    Raises InUse, OSError, and LocalFailure where there is nothing to mount.
    """
    with state.session() as session:
        facts = session.facts()
        entries = entries_to_lose(session)
    if facts.root is not None:
        halt = check(files, facts.root, entries, limits)
        if halt is not None:
            return halt
    root = _open(files)
    try:
        if facts.root is None:
            make_known(files, state, facts, root)
    except BaseException:
        root.close()
        raise
    return root


def entries_to_lose(session: MountSession) -> int:
    """Return how many entries an emptied root would lose; none where a human agreed to that."""
    consent = session.facts().consent
    is_agreed = consent is not None and consent.reason is HaltReason.ROOT_EMPTIED
    return 0 if is_agreed else session.base_count()


def make_known(files: Files, state: MountState, facts: MountFacts, root: Root) -> None:
    """Give the root a marker, and remember what tells it from others (R2)."""
    write_marker(root.own, facts.replica)
    seen = files.look_root()
    if seen is None or seen.marker is None:
        raise LocalFailure("the mounted directory went away while it was opened")
    identity = RootIdentity(seen.marker, seen.inode, seen.filesystem)
    with state.session() as session:
        session.set_facts(replace(facts, root=identity))


def check(files: Files, known: RootIdentity, entries: int, limits: Limits) -> Halt | None:
    """Return a halt where the root is not the one base speaks of."""
    return check_root(known, files.look_root(), entries, limits)


def _open(files: Files) -> Root:
    with ExitStack() as opened:
        directory = files.open_root()
        opened.callback(directory.close)
        own = open_own(directory)
        opened.callback(own.close)
        files.claim()
        root = Root(directory, own, directory.status().device)
        opened.pop_all()
    return root
