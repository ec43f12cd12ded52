"""Changes on the wire, with their inline content; see `convert_entries` for W1 to W4."""

from __future__ import annotations

from typing import assert_never

from syncline.core.changes import Change, Delete, Move, PutDirectory, PutFile, PutLink
from syncline.core.entries import parse_mode, parse_target
from syncline.core.identity import Digest, parse_entry_id, parse_revision
from syncline.core.names import parse_name
from syncline.rpc.convert_entries import (
    content_from_pb,
    content_to_pb,
    inline_for,
    invalid,
    take_inline,
)
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb


def change_to_pb(change: Change, inline: dict[Digest, bytes]) -> pb.Change:
    """Return the message for a change, with its content where `inline` has it."""
    message = pb.Change(id=change.id, base=change.base)
    match change:
        case PutFile():
            message.file.CopyFrom(
                pb.PutFile(
                    parent=change.parent,
                    name=change.name,
                    mode=change.mode,
                    mtime_ns=change.mtime_ns,
                    content=content_to_pb(change.content),
                    inline=inline_for(change.content, inline),
                )
            )
        case PutDirectory():
            message.directory.parent = change.parent
            message.directory.name = change.name
            message.directory.mode = change.mode
        case PutLink():
            message.link.parent = change.parent
            message.link.name = change.name
            message.link.mtime_ns = change.mtime_ns
            message.link.target = change.target
        case Move():
            message.move.parent = change.parent
            message.move.name = change.name
        case Delete():
            message.delete.SetInParent()
        case _:
            assert_never(change)
    return message


def change_from_pb(message: pb.Change, inline: dict[Digest, bytes]) -> Change:
    """Return a checked change; its inline content is added to `inline`, digest unchecked."""
    id = parse_entry_id(message.id)
    base = parse_revision(message.base, "base")
    match message.WhichOneof("what"):
        case "file":
            file = message.file
            if not file.HasField("content"):
                raise invalid("content", "a file has it")
            content = content_from_pb(file.content)
            if file.HasField("inline"):
                take_inline(content, file.inline, inline)
            parent, name = parse_entry_id(file.parent, "parent"), parse_name(file.name)
            return PutFile(id, base, parent, name, parse_mode(file.mode), file.mtime_ns, content)
        case "directory":
            made = message.directory
            parent, name = parse_entry_id(made.parent, "parent"), parse_name(made.name)
            return PutDirectory(id, base, parent, name, parse_mode(made.mode))
        case "link":
            link = message.link
            parent, name = parse_entry_id(link.parent, "parent"), parse_name(link.name)
            return PutLink(id, base, parent, name, link.mtime_ns, parse_target(link.target))
        case "move":
            move = message.move
            return Move(id, base, parse_entry_id(move.parent, "parent"), parse_name(move.name))
        case "delete":
            return Delete(id, base)
        case _:
            raise invalid("what", "the change says nothing that is known")
