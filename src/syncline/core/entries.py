"""Entries: files, directories and symbolic links of a volume, and their tombstones.

Model: an entry has an id for life; each change supersedes its newest state by one with the revision
of the commit. A tombstone is a state like any other; it keeps the last place and no content.

E1  Only a file has content, only a link has a target; a directory has neither.
E2  A mode has permission bits alone: set-uid, set-gid and sticky never travel.
E3  The encoding of an entry is canonical: equal states have equal bytes, whatever the chunking.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from blake3 import blake3

from syncline.core.identity import DIGEST_BYTES, Digest, EntryId, Revision
from syncline.core.manifests import Content
from syncline.core.names import Name
from syncline.errors import Invalid

MODE_MASK = 0o777
LINK_MODE = 0o777
TARGET_BYTES_MAX = 4096
"""PATH_MAX of Linux, which bounds what `readlink` can return."""

MTIME_NS_MIN, MTIME_NS_MAX = -(2**63), 2**63 - 1
"""What a time can be on the wire and in the encoding of an entry."""


class Kind(IntEnum):
    """What an entry is; it never changes during the life of an entry id."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """The state of an entry at `revision`; a tombstone where `is_live` is false.

    `mtime_ns` counts from 1970 and may be negative; it is 0 for directories, whose time does not
    travel.
    """

    id: EntryId
    revision: Revision
    parent: EntryId
    name: Name
    kind: Kind
    mode: int
    mtime_ns: int
    content: Content | None
    target: bytes | None
    is_live: bool = True

    @property
    def size(self) -> int:
        """Return the length of the content in bytes; 0 where there is none."""
        return self.content.size if self.content else 0

    @property
    def digest(self) -> Digest | None:
        """Return the content digest of a file, else None."""
        return self.content.digest if self.content else None


def tombstone(entry: Entry, revision: Revision) -> Entry:
    """Return the state that says `entry` was deleted by commit `revision`."""
    return replace(entry, revision=revision, content=None, target=None, is_live=False)


def parse_mode(mode: int) -> int:
    """Return the permission bits of a mode (E2); raise Invalid for what no file system has."""
    if not 0 <= mode <= 0o177777:
        raise Invalid(f"mode {mode:o} is out of range", field="mode", reason="range")
    return mode & MODE_MASK


def parse_target(target: bytes) -> bytes:
    """Return the text of a link; raise Invalid where no file system could hold it."""
    if not 0 < len(target) <= TARGET_BYTES_MAX or b"\0" in target:
        raise Invalid(
            f"a link target has 1 to {TARGET_BYTES_MAX} bytes and no NUL",
            field="target",
            reason="target",
        )
    return target


_FIXED = struct.Struct(">16sQ16sBBIqQ32sHI")
_NO_DIGEST = bytes(DIGEST_BYTES)


def encode_entry(entry: Entry) -> bytes:
    """Return the canonical bytes of a state (E3), as `docs/PROTOCOL.md` lays them out.

    id 16, revision 8, parent 16, kind 1, live 1, mode 4, mtime 8 signed, size 8, content digest 32
    (zeros without content), length of name 2, length of target 4, then name and target; big-endian.
    """
    content = entry.content
    target = entry.target or b""
    return (
        _FIXED.pack(
            entry.id,
            entry.revision,
            entry.parent,
            entry.kind,
            entry.is_live,
            entry.mode,
            entry.mtime_ns,
            content.size if content else 0,
            content.digest if content else _NO_DIGEST,
            len(entry.name),
            len(target),
        )
        + entry.name
        + target
    )


def entry_hash(entry: Entry) -> int:
    """Return the 256-bit number that a live entry adds to the table digest."""
    return int.from_bytes(blake3(b"syncline entry v1\0" + encode_entry(entry)).digest(), "big")
