"""Names and paths: bytes that are safe to join below a root, and their printable form.

Model: a name is what one directory calls one entry; a path is a tuple of names from the root of a
volume. Both are bytes, because Linux names need not be UTF-8 and are never normalised.

N1  A name has 1 to 255 bytes, no `/`, no NUL, and is neither `.` nor `..`.
N2  A path has at most 4,096 bytes when joined by `/`; the empty path is the root.
N3  `.syncline` is no name of the root of a volume: it belongs to the client's own files.
N4  `unescape(escape(raw)) == raw` for all bytes, and an escaped text has only printable characters.

This module must not touch a file system; it looks at bytes alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from syncline.errors import Invalid

Name = NewType("Name", bytes)

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
TOLD_PATH_BYTES_MAX = PATH_BYTES_MAX + 1 + NAME_BYTES_MAX
"""A path as the server tells it: a move bounds the directories below it, not the files in them."""
RESERVED_ROOT_NAME = b".syncline"


def parse_name(raw: bytes) -> Name:
    """Return `raw` as a name; raise Invalid with the reason where N1 does not hold."""
    reason = _name_fault(raw)
    if reason:
        shown = escape(raw[:64])
        raise Invalid(f"'{shown}' is not a valid name: {reason}", field="name", reason=reason)
    return Name(raw)


def _name_fault(raw: bytes) -> str | None:
    if not raw:
        return "it is empty"
    if len(raw) > NAME_BYTES_MAX:
        return f"it has {len(raw)} bytes, the limit is {NAME_BYTES_MAX}"
    if b"/" in raw:
        return "it has a slash"
    if b"\0" in raw:
        return "it has a NUL byte"
    if raw in (b".", b".."):
        return "it is a relative directory"
    return None


def is_reserved(name: bytes, *, at_root: bool) -> bool:
    """Tell whether a name is refused at this place (N3)."""
    return at_root and name == RESERVED_ROOT_NAME


@dataclass(frozen=True, slots=True)
class RelPath:
    """A path inside a volume; `parts` is empty for the root."""

    parts: tuple[Name, ...] = ()

    @classmethod
    def parse(cls, raw: bytes, *, bytes_max: int = PATH_BYTES_MAX) -> RelPath:
        """Split and check a path; raise Invalid for anything but clean relative names (N1-N3)."""
        if not raw:
            return cls()
        if len(raw) > bytes_max:
            raise Invalid(
                f"the path has {len(raw)} bytes, the limit is {bytes_max}",
                field="path",
                reason="too long",
            )
        if raw.startswith(b"/"):
            raise Invalid(
                f"'{escape(raw)}' is absolute; a path in a volume starts with a name",
                field="path",
                reason="absolute",
            )
        parts = tuple(parse_name(part) for part in raw.split(b"/"))
        if is_reserved(parts[0], at_root=True):
            raise Invalid(
                "'.syncline' at the root of a volume is reserved for Syncline itself",
                field="path",
                reason="reserved",
            )
        return cls(parts)

    def child(self, name: Name) -> RelPath:
        """Return the path of `name` in this directory."""
        return RelPath((*self.parts, name))

    @property
    def parent(self) -> RelPath:
        """Return the directory that holds this path; the root is its own parent."""
        return RelPath(self.parts[:-1])

    @property
    def name(self) -> Name:
        """Return the last name; the root has none and raises IndexError."""
        return self.parts[-1]

    def is_within(self, directory: RelPath) -> bool:
        """Tell whether this path is `directory` or below it."""
        return self.parts[: len(directory.parts)] == directory.parts

    def __bytes__(self) -> bytes:
        return b"/".join(self.parts)

    def __str__(self) -> str:
        return escape(bytes(self))


_ESCAPED = re.compile(r"\\(\\|x[0-9a-f]{2})")


def escape(raw: bytes) -> str:
    r"""Return a printable text for any bytes: `\xNN` for what is not printable UTF-8, `\\` for `\`.

    Used in JSON, on terminals and in logs; `unescape` gives the bytes back (N4).
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
    else:
        if text.isprintable() and "\\" not in text:
            return text
    return "".join(_escape_character(character) for character in text)


def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)


def _encode_character(character: str) -> bytes:
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Invalid("a surrogate stands for no byte", field="path", reason="surrogate") from error


def unescape(text: str) -> bytes:
    r"""Return the bytes that `escape` was given; raise Invalid for a stray backslash.

    Surrogates stand for bytes as in `sys.argv`; one that stands for none is Invalid too.
    """
    out = bytearray()
    position = 0
    while position < len(text):
        character = text[position]
        if character != "\\":
            out += _encode_character(character)
            position += 1
            continue
        match = _ESCAPED.match(text, position)
        if match is None:
            raise Invalid("a backslash starts no known escape", field="path", reason="escape")
        body = match.group(1)
        out += b"\\" if body == "\\" else bytes([int(body[1:], 16)])
        position = match.end()
    return bytes(out)
