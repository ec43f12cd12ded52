"""Values of a volume on the wire: entries, content, heads, cursors, authors, addresses.

`x_to_pb` turns a value into its message. `x_from_pb` checks a message that came from the other side
and raises Invalid, with the `field`, for each malformed one; a client turns that into
ProtocolBroken. No generated type leaves this package.

W1  The zero value of a field never means anything that could do harm: an unset kind, oneof, content
    or head is refused.
W2  Kind and fields agree (E1) before a value is built.
W3  A message we send stays near `FRAME_BYTES`, far below the limit of a message: what may be long
    travels in several, cut by an upper estimate of what each item takes.
W4  What the other side may send of one thing is bounded while it arrives, not when it is complete.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from syncline.core.changes import Author
from syncline.core.entries import Entry, Kind, parse_mode, parse_target
from syncline.core.identity import (
    DIGEST_BYTES,
    ROOT_ID,
    Digest,
    Revision,
    parse_commit_id,
    parse_digest,
    parse_entry_id,
    parse_replica_id,
    parse_revision,
)
from syncline.core.manifests import INLINE_BYTES_MAX, PIECES_MAX, ChunkRef, Content, check_content
from syncline.core.names import TOLD_PATH_BYTES_MAX, RelPath, is_reserved, parse_name
from syncline.core.table import Cursor, Head
from syncline.errors import Invalid
from syncline.ports.link import Located
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb

LABEL_BYTES_MAX = 255
"""Names for people (volumes, authors): as long as a host name may be."""

FRAME_BYTES = 1024 * 1024 - 128 * 1024
"""Where a frame of items is cut; the largest single item still keeps it under 1 MiB."""

FRAME_ITEMS = 512
"""What a reference counts towards the limits: as in a piece of a manifest."""

REF_WIRE_BYTES = 44
ITEM_WIRE_BYTES = 192

T = TypeVar("T")

_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_KINDS = {pb.KIND_FILE: Kind.FILE, pb.KIND_DIRECTORY: Kind.DIRECTORY, pb.KIND_LINK: Kind.LINK}
_KINDS_TO_PB = {kind: value for value, kind in _KINDS.items()}


def invalid(field: str, reason: str) -> Invalid:
    """Return the error for a malformed field."""
    return Invalid(f"{field}: {reason}", field=field, reason=reason)


def parse_label(text: str, field: str) -> str:
    """Return a name for people: 1 to 255 bytes of UTF-8 on one line, without control characters.

    Which other characters can be shown differs between versions of Unicode, so between the two
    sides; the terminal's end escapes them.
    """
    if not 0 < len(text.encode()) <= LABEL_BYTES_MAX:
        raise invalid(field, f"must have 1 to {LABEL_BYTES_MAX} bytes")
    if _UNSHOWN.search(text):
        raise invalid(field, "must have no control characters and no line breaks")
    return text


def content_to_pb(content: Content) -> pb.Content:
    """Return the message for content."""
    return pb.Content(
        digest=content.digest,
        size=content.size,
        depth=content.depth,
        refs=[pb.ChunkRef(digest=ref.digest, size=ref.size) for ref in content.refs],
    )


def content_from_pb(message: pb.Content) -> Content:
    """Return checked content; raise Invalid or TooLarge."""
    refs = message.refs
    if len(refs) > PIECES_MAX:
        raise invalid("chunks", f"no content lists more than {PIECES_MAX} references")
    return check_content(
        Content(
            parse_digest(message.digest),
            message.size,
            message.depth,
            tuple(ChunkRef(parse_digest(ref.digest, "chunks"), ref.size) for ref in refs),
        )
    )


def entry_to_pb(entry: Entry) -> pb.Entry:
    """Return the message for a state."""
    content = entry.content
    return pb.Entry(
        id=entry.id,
        revision=entry.revision,
        parent=entry.parent,
        name=entry.name,
        kind=_KINDS_TO_PB[entry.kind],
        mode=entry.mode,
        mtime_ns=entry.mtime_ns,
        content=None if content is None else content_to_pb(content),
        target=entry.target or b"",
        is_deleted=not entry.is_live,
    )


def entry_from_pb(message: pb.Entry) -> Entry:
    """Return a checked state of an entry, live or a tombstone."""
    id = parse_entry_id(message.id)
    parent = parse_entry_id(message.parent, "parent")
    name = parse_name(message.name)
    if id in (ROOT_ID, parent):
        raise invalid("entry id", "is the root or its own parent")
    if is_reserved(name, at_root=parent == ROOT_ID):
        raise invalid("name", "is reserved at the root")
    revision = parse_revision(message.revision)
    if not revision:
        raise invalid("revision", "0 is no revision of an entry")
    kind = _KINDS.get(message.kind)
    if kind is None:
        raise invalid("kind", f"{message.kind} is not known")
    is_live = not message.is_deleted
    target = message.target
    if message.HasField("content") != (is_live and kind is Kind.FILE):
        raise invalid("content", "a live file has it, and nothing else")
    if bool(target) != (is_live and kind is Kind.LINK):
        raise invalid("target", "a live link has it, and nothing else")
    mtime_ns = message.mtime_ns
    if kind is Kind.DIRECTORY and mtime_ns:
        raise invalid("mtime_ns", "the time of a directory does not travel")
    return Entry(
        id,
        revision,
        parent,
        name,
        kind,
        parse_mode(message.mode),
        mtime_ns,
        content_from_pb(message.content) if is_live and kind is Kind.FILE else None,
        parse_target(target) if target else None,
        is_live,
    )


def head_to_pb(head: Head) -> pb.Head:
    """Return the message for a head; the table digest becomes 32 bytes, big-endian."""
    return pb.Head(
        revision=head.revision,
        commit_id=head.commit_id,
        table_digest=head.table_digest.to_bytes(DIGEST_BYTES, "big"),
    )


def head_from_pb(message: pb.Head) -> Head:
    """Return a checked head; an unset one has no commit id and is refused by that."""
    return Head(
        parse_revision(message.revision),
        parse_commit_id(message.commit_id),
        int.from_bytes(parse_digest(message.table_digest, "table digest"), "big"),
    )


def cursor_to_pb(cursor: Cursor) -> pb.Cursor:
    """Return the message for a cursor; no commit id becomes an empty one."""
    return pb.Cursor(revision=cursor.revision, commit_id=cursor.commit_id or b"")


def cursor_from_pb(message: pb.Cursor) -> Cursor:
    """Return a checked cursor; without a commit id it trusts the number alone."""
    commit_id = parse_commit_id(message.commit_id) if message.commit_id else None
    return Cursor(parse_revision(message.revision), commit_id)


def author_to_pb(author: Author) -> pb.Author:
    """Return the message for an author."""
    return pb.Author(replica=author.replica, name=author.name)


def author_from_pb(message: pb.Author) -> Author:
    """Return a checked author."""
    return Author(parse_replica_id(message.replica), parse_label(message.name, "author"))


def path_from_pb(raw: bytes) -> RelPath:
    """Return a checked path of an entry; the root is none."""
    if not raw:
        raise invalid("path", "the root is no entry")
    return RelPath.parse(raw, bytes_max=TOLD_PATH_BYTES_MAX)


def located_to_pb(located: Located) -> pb.Located:
    """Return the message for a live entry with its path."""
    return pb.Located(
        path=bytes(located.path),
        entry=entry_to_pb(located.entry),
        author=located.author,
        time_ns=located.time_ns,
        is_damaged=located.is_damaged,
    )


def located_from_pb(message: pb.Located) -> Located:
    """Return a checked live entry with its path, which ends with the entry's name."""
    path = path_from_pb(message.path)
    entry = entry_from_pb(message.entry)
    if not entry.is_live:
        raise invalid("entry", "a tombstone has no path")
    if path.name != entry.name:
        raise invalid("path", "does not end with the name of its entry")
    author = parse_label(message.author, "author")
    return Located(path, entry, author, message.time_ns, message.is_damaged)


def at_to_pb(at: Revision | None) -> int:
    """Return the number for "at this revision"; None is the head, 0 on the wire."""
    if at is not None and at < 1:
        raise invalid("revision", "there is nothing at revision 0")
    return at or 0


def at_from_pb(number: int) -> Revision | None:
    """Return the asked revision; None for 0, the head."""
    return parse_revision(number) or None


def milliseconds(seconds: float) -> int:
    """Return a time span in ms, cut to what an unsigned 32-bit field holds."""
    return round(min(max(seconds, 0.0), (2**32 - 1) / 1000) * 1000)


# -- Frames of many items ------------------------------------------------


def content_weight(content: Content | None) -> int:
    """Return an upper estimate of the bytes that content takes on the wire."""
    return REF_WIRE_BYTES * (len(content.refs) + 2) if content else 0


def entry_weight(entry: Entry) -> int:
    """Return an upper estimate of the bytes that a state takes on the wire."""
    target_bytes = len(entry.target) if entry.target else 0
    return ITEM_WIRE_BYTES + len(entry.name) + target_bytes + content_weight(entry.content)


def group(items: Iterable[T], weight: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut items, in order, into groups for one message each; none for no items (W3)."""
    batch: list[T] = []
    total = 0
    for item in items:
        size = weight(item)
        if batch and (total + size > FRAME_BYTES or len(batch) == FRAME_ITEMS):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


# -- Content inside the message that names it -----------------------------


def inline_for(content: Content | None, inline: dict[Digest, bytes]) -> bytes | None:
    """Return the content that may travel inside its change, where it is at hand."""
    if content is None or content.depth or len(content.refs) != 1:
        return None
    return inline.get(content.digest)


def take_inline(content: Content | None, raw: bytes, inline: dict[Digest, bytes]) -> None:
    """Keep inline content that fits what its change says; its digest is not checked here."""
    if content is None or len(raw) != content.size or len(raw) > INLINE_BYTES_MAX:
        raise invalid("inline", "is not as long as its content, or over the limit")
    if len(content.refs) > 1 or content.depth:
        raise invalid("inline", "belongs to content of one chunk")
    if raw:
        inline[content.digest] = raw
