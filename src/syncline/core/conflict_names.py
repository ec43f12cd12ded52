"""Names of conflict copies: `name (conflict of REPLICA, DIGEST8).ext`.

N1  The same name, author and content give the same conflict name, so a retry meets its own copy.
N2  A name that is a conflict name already gets its suffix replaced, never a second one.
N3  The result is a valid name of at most 255 bytes, cut between characters where it is UTF-8.
N4  Where a name is taken the digest gets longer, then a number follows: a free one is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count

from syncline.core.identity import DIGEST_BYTES, EntryId, digest_of
from syncline.core.names import NAME_BYTES_MAX, Name
from syncline.core.trees import State

AUTHOR_BYTES_MAX = 64
EXTENSION_BYTES_MAX = 32
"""A longer ending is no extension: it is cut with the rest of the name."""

UNKNOWN_AUTHOR = "server"
"""Stands for the author of a remote state whose commit the client was not told of."""

_SUFFIX = re.compile(rb" \(conflict of [^/()]{1,64}, [0-9a-f]{8,64}(?:-[0-9]+)?\)\Z")
_DIGITS = (8, 16, 32, 64)


def is_conflict_name(name: bytes) -> bool:
    """Tell whether a name looks like one that was made here."""
    return _SUFFIX.search(_split(name)[0]) is not None


def plain_name(name: Name) -> Name:
    """Return the name without the suffix of a conflict; one that was cut stays cut."""
    stem, extension = _split(name)
    return Name(_SUFFIX.sub(b"", stem) + extension)


def conflict_name(name: Name, author: str, digest: bytes, is_taken: Callable[[Name], bool]) -> Name:
    """Return the name for the losing content `digest` (32 bytes) of `author`, not taken."""
    assert len(digest) == DIGEST_BYTES
    stem, extension = _split(name)
    stem = _SUFFIX.sub(b"", stem)
    who = _clean(author)
    for mark in _marks(digest.hex()):
        suffix = b" (conflict of %s, %s)" % (who, mark.encode()) + extension
        found = Name(_cut(stem, NAME_BYTES_MAX - len(suffix)) + suffix)
        if not is_taken(found):
            return found
    raise AssertionError("the numbers never end")


def losing_digest(id: EntryId, state: State) -> bytes:
    """Return what names a loser: its content, its target, or for a directory its id."""
    if state.content is not None:
        return state.content.digest
    return digest_of(id if state.target is None else state.target)


def _marks(hexadecimal: str) -> Iterator[str]:
    yield from (hexadecimal[:digits] for digits in _DIGITS)
    for number in count(2):
        yield f"{hexadecimal}-{number}"


def _split(name: bytes) -> tuple[bytes, bytes]:
    """Return stem and extension; a leading dot starts no extension."""
    dot = name.rfind(b".")
    if dot <= 0 or len(name) - dot > EXTENSION_BYTES_MAX or b")" in name[dot:]:
        return name, b""
    return name[:dot], name[dot:]


def _clean(author: str) -> bytes:
    """Return an author that fits a name and that the suffix pattern finds again (N2)."""
    shown = "".join("-" if c in "/()" or not c.isprintable() else c for c in author)
    return _cut(shown.encode("utf-8", "replace"), AUTHOR_BYTES_MAX).strip() or b"-"


def _cut(raw: bytes, size: int) -> bytes:
    """Return the front of `raw`, without the torn half of a UTF-8 character at the cut."""
    if len(raw) <= size:
        return raw
    cut = raw[:size]
    if raw[size] & 0xC0 != 0x80:
        return cut
    whole = cut.decode("utf-8", "ignore").encode()
    # Latin-1 and the like: bytes in the middle are no UTF-8 either, and a cut tears nothing.
    return whole if cut.startswith(whole) and len(cut) - len(whole) < 4 else cut
