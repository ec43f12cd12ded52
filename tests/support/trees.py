"""Tiny trees: entries and changes by label. The label `/` is the root of the volume."""

from __future__ import annotations

from syncline.core.changes import Delete, Move, PutDirectory, PutFile, PutLink
from syncline.core.entries import LINK_MODE, Entry, Kind
from syncline.core.identity import ROOT_ID, EntryId, Revision, digest_of
from syncline.core.manifests import Content, single_chunk
from syncline.core.names import Name

ROOT = "/"


def id_of(label: str) -> EntryId:
    """Return the entry id that a label stands for, always the same."""
    return ROOT_ID if label == ROOT else EntryId(digest_of(label.encode())[:16])


def content_of(raw: bytes) -> Content:
    """Return the content of a small file."""
    return single_chunk(digest_of(raw), len(raw))


def file(
    label: str,
    parent: str = ROOT,
    name: bytes | None = None,
    *,
    revision: int = 1,
    content: bytes = b"content",
    mode: int = 0o644,
    mtime_ns: int = 1_000,
) -> Entry:
    """Return a live file; its name is the label unless given."""
    return Entry(
        id_of(label),
        Revision(revision),
        id_of(parent),
        Name(label.encode() if name is None else name),
        Kind.FILE,
        mode,
        mtime_ns,
        content_of(content),
        None,
    )


def directory(
    label: str,
    parent: str = ROOT,
    name: bytes | None = None,
    *,
    revision: int = 1,
    mode: int = 0o755,
) -> Entry:
    """Return a live directory; its name is the label unless given."""
    return Entry(
        id_of(label),
        Revision(revision),
        id_of(parent),
        Name(label.encode() if name is None else name),
        Kind.DIRECTORY,
        mode,
        0,
        None,
        None,
    )


def link(
    label: str,
    parent: str = ROOT,
    name: bytes | None = None,
    *,
    revision: int = 1,
    target: bytes = b"target",
    mtime_ns: int = 1_000,
) -> Entry:
    """Return a live symbolic link; its name is the label unless given."""
    return Entry(
        id_of(label),
        Revision(revision),
        id_of(parent),
        Name(label.encode() if name is None else name),
        Kind.LINK,
        LINK_MODE,
        mtime_ns,
        None,
        target,
    )


def put_file(
    label: str,
    base: int = 0,
    parent: str = ROOT,
    name: bytes | None = None,
    *,
    content: bytes = b"content",
    mode: int = 0o644,
    mtime_ns: int = 1_000,
) -> PutFile:
    """Return the change that makes or edits a file."""
    return PutFile(
        id_of(label),
        Revision(base),
        id_of(parent),
        Name(label.encode() if name is None else name),
        mode,
        mtime_ns,
        content_of(content),
    )


def put_directory(
    label: str, base: int = 0, parent: str = ROOT, name: bytes | None = None, *, mode: int = 0o755
) -> PutDirectory:
    """Return the change that makes a directory, or changes its mode."""
    return PutDirectory(
        id_of(label),
        Revision(base),
        id_of(parent),
        Name(label.encode() if name is None else name),
        mode,
    )


def put_link(
    label: str,
    base: int = 0,
    parent: str = ROOT,
    name: bytes | None = None,
    *,
    target: bytes = b"target",
    mtime_ns: int = 1_000,
) -> PutLink:
    """Return the change that makes or edits a symbolic link."""
    return PutLink(
        id_of(label),
        Revision(base),
        id_of(parent),
        Name(label.encode() if name is None else name),
        mtime_ns,
        target,
    )


def move(label: str, base: int, parent: str, name: bytes) -> Move:
    """Return the change that gives an entry another place."""
    return Move(id_of(label), Revision(base), id_of(parent), Name(name))


def delete(label: str, base: int) -> Delete:
    """Return the change that deletes an entry."""
    return Delete(id_of(label), Revision(base))
