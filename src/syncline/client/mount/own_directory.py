"""The client's own directory in a mount: `.syncline`, with the marker and what is staged.

It lies on the file system of the mount, so that staged things are renamed into place, and is never
synced or scanned.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from syncline.core.identity import ReplicaId
from syncline.core.names import RESERVED_ROOT_NAME
from syncline.ports.files import Directory

MARKER = b"marker"
STAGING = b"staging"
ASIDE = b"aside"
DISPLACED = b"displaced"
SENTINELS = b"sentinels"


@dataclass(frozen=True, slots=True)
class OwnDirectory:
    """The open directories of the client's own.

    `staging`: complete or growing content on its way in. `aside`: entries that a plan set aside, by
    the hexadecimal of their id. `displaced`: what was swapped out, until the base is recorded.
    """

    top: Directory
    staging: Directory
    aside: Directory
    displaced: Directory
    sentinels: Directory

    def close(self) -> None:
        """Let go of all."""
        for directory in (self.staging, self.aside, self.displaced, self.sentinels, self.top):
            directory.close()


def open_own(root: Directory) -> OwnDirectory:
    """Open the client's own directory, made at need; raise OSError."""
    top = _enter(root, RESERVED_ROOT_NAME)
    return OwnDirectory(
        top,
        _enter(top, STAGING),
        _enter(top, ASIDE),
        _enter(top, DISPLACED),
        _enter(top, SENTINELS),
    )


def _enter(directory: Directory, name: bytes) -> Directory:
    if directory.look(name) is None:
        # Another process of ours may make it just now; the claim decides who goes on.
        with suppress(FileExistsError):
            directory.make_directory(name, 0o700)
    return directory.enter(name)


def write_marker(own: OwnDirectory, replica: ReplicaId) -> bytes:
    """Make the marker that tells this mount from any other directory; return its content."""
    marker = replica.hex().encode()
    scratch = b"marker.new"
    if own.top.look(scratch) is not None:
        own.top.remove(scratch)
    file = own.top.create(scratch)
    try:
        file.write(marker + b"\n", 0)
        file.sync()
    finally:
        file.close()
    if own.top.look(MARKER) is None:
        own.top.move(scratch, own.top, MARKER)
    else:
        own.top.exchange(scratch, own.top, MARKER)
        own.top.remove(scratch)
    own.top.sync()
    return marker
