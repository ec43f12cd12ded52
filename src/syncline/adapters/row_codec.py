"""Bytes of what the metadata store keeps inside one column: manifests and remembered answers.

Both encodings are canonical, so equal values have equal bytes; `docs/FORMAT.md` lays them out.
Decoding raises Corrupt for bytes that no encoder here could have made.
"""

from __future__ import annotations

import struct
from typing import assert_never

from syncline.core.changes import Accepted, Answer, Holder, Outcome, Refusal, RefusalCode
from syncline.core.entries import Entry, Kind
from syncline.core.identity import DIGEST_BYTES, Digest, EntryId, ReplicaId, Revision
from syncline.core.manifests import ChunkRef, Content
from syncline.core.names import Name
from syncline.errors import Corrupt

EntryRow = tuple[
    bytes, int, bytes, bytes, int, int, int, int, bytes | None, bytes | None, bytes | None, int
]
"""id, revision, parent, name, kind, mode, mtime, size, digest, manifest, target, is live."""

_KINDS = {int(kind): kind for kind in Kind}
_REF = struct.Struct(f">{DIGEST_BYTES}sI")


def row_of(entry: Entry) -> EntryRow:
    """Return the columns of a state."""
    content = entry.content
    if content is None:
        size, digest, manifest = 0, None, None
    else:
        size, digest, manifest = content.size, content.digest, encode_manifest(content)
    return (
        entry.id,
        entry.revision,
        entry.parent,
        entry.name,
        entry.kind,
        entry.mode,
        entry.mtime_ns,
        size,
        digest,
        manifest,
        entry.target,
        int(entry.is_live),
    )


def entry_of(row: EntryRow) -> Entry:
    """Return the state that columns hold; raise Corrupt for columns that are not a state's."""
    id, revision, parent, name, kind, mode, mtime_ns, size, digest, manifest, target, is_live = row
    content = None if digest is None else decode_manifest(digest, size, manifest)
    known = _KINDS.get(kind)
    if known is None:
        raise _damaged(f"an entry has the kind {kind}")
    return Entry(
        EntryId(id),
        Revision(revision),
        EntryId(parent),
        Name(name),
        known,
        mode,
        mtime_ns,
        content,
        target,
        is_live == 1,
    )


def encode_manifest(content: Content) -> bytes | None:
    """Return depth in 1 byte, then 36 bytes a reference; None for what the entry says already.

    That is empty content and content of one chunk, whose digest and size are the chunk's (M2).
    """
    refs = content.refs
    if content.depth == 0 and refs == _refs_unsaid(content.digest, content.size):
        return None
    return bytes((content.depth,)) + b"".join(_REF.pack(ref.digest, ref.size) for ref in refs)


def decode_manifest(digest: bytes, size: int, manifest: bytes | None) -> Content:
    """Return the content of a file; raise Corrupt for bytes that are no manifest."""
    whole = Digest(digest)
    if manifest is None:
        return Content(whole, size, 0, _refs_unsaid(whole, size))
    if len(manifest) % _REF.size != 1 or manifest[0] > 1:
        raise _damaged(f"a manifest has {len(manifest)} bytes or an unknown depth")
    refs = _REF.iter_unpack(memoryview(manifest)[1:])
    return Content(whole, size, manifest[0], tuple(ChunkRef(Digest(d), n) for d, n in refs))


def _refs_unsaid(digest: Digest, size: int) -> tuple[ChunkRef, ...]:
    return (ChunkRef(digest, size),) if size else ()


# -- remembered answers --------------------------------------------------------

_ANSWER = struct.Struct(">QBI")
_LENGTH = struct.Struct(">I")
_REVISION = struct.Struct(">Q")
_ACCEPTED = struct.Struct(">QQ")
_REFUSAL = struct.Struct(">BBI")
_STATE = struct.Struct(">16sQ16sBIqQB")
_HOLDER = struct.Struct(">16sdd")

_CREATED, _REPLACED, _ELSEWHERE, _REFUSED = 1, 2, 3, 4
"""Accepted with a new entry, as the successor of one, with any two revisions; refused."""

_HAS_CURRENT, _HAS_HOLDER = 1, 2
_ABSENT = 0xFFFFFFFF

CODE_NUMBERS = {
    RefusalCode.STALE: 1,
    RefusalCode.NAME_TAKEN: 2,
    RefusalCode.PARENT_GONE: 3,
    RefusalCode.NOT_EMPTY: 4,
    RefusalCode.CYCLE: 5,
    RefusalCode.LOCKED: 6,
    RefusalCode.MISSING: 7,
    RefusalCode.INVALID: 8,
    RefusalCode.ATOMIC: 9,
    RefusalCode.LOCK_LOST: 10,
}
"""Numbers on disk: never used again for another code."""

_CODES = {number: code for code, number in CODE_NUMBERS.items()}


def encode_answer(answer: Answer) -> bytes:
    """Return an answer as bytes: what was accepted costs 1 byte an entry where it is new."""
    parts = [_ANSWER.pack(answer.revision, answer.is_replay, len(answer.outcomes))]
    for outcome in answer.outcomes:
        match outcome:
            case Accepted(revision, replaced):
                if revision != answer.revision:
                    parts.append(bytes((_ELSEWHERE,)) + _ACCEPTED.pack(revision, replaced))
                elif replaced:
                    parts.append(bytes((_REPLACED,)) + _REVISION.pack(replaced))
                else:
                    parts.append(bytes((_CREATED,)))
            case Refusal():
                parts.append(bytes((_REFUSED,)) + _encode_refusal(outcome))
            case _:
                assert_never(outcome)
    return b"".join(parts)


def _encode_refusal(refusal: Refusal) -> bytes:
    flags = (_HAS_CURRENT if refusal.current else 0) | (_HAS_HOLDER if refusal.holder else 0)
    parts = [
        _REFUSAL.pack(CODE_NUMBERS[refusal.code], flags, len(refusal.missing)),
        *refusal.missing,
        _encode_text(refusal.detail),
    ]
    if refusal.current:
        parts.append(_encode_state(refusal.current))
    if refusal.holder:
        holder = refusal.holder
        parts.append(_HOLDER.pack(holder.replica, holder.since_s, holder.expires_s))
        parts.append(_encode_text(holder.name))
    return b"".join(parts)


def _encode_state(entry: Entry) -> bytes:
    id, revision, parent, name, kind, mode, mtime_ns, size, *optional, is_live = row_of(entry)
    fixed = _STATE.pack(id, revision, parent, kind, mode, mtime_ns, size, is_live)
    return fixed + _encode_bytes(name) + b"".join(_encode_bytes(part) for part in optional)


def _encode_bytes(raw: bytes | None) -> bytes:
    return _LENGTH.pack(_ABSENT) if raw is None else _LENGTH.pack(len(raw)) + raw


def _encode_text(text: str) -> bytes:
    # A detail may quote a name that is not UTF-8, so that a surrogate must not fail a commit.
    return _encode_bytes(text.encode("utf-8", "surrogatepass"))


def decode_answer(encoded: bytes) -> Answer:
    """Return the answer that `encode_answer` was given; raise Corrupt for other bytes."""
    reader = _Bytes(encoded)
    try:
        revision, is_replay, count = _ANSWER.unpack(reader.take(_ANSWER.size))
        outcomes = tuple(_decode_outcome(reader, revision) for _ in range(count))
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise _damaged("a remembered answer is cut or garbled") from error
    if reader.position != len(encoded):
        raise _damaged("a remembered answer is longer than it says")
    return Answer(Revision(revision), outcomes, is_replay == 1)


def _decode_outcome(reader: _Bytes, revision: int) -> Outcome:
    tag = reader.take(1)[0]
    if tag == _CREATED:
        return Accepted(Revision(revision), Revision(0))
    if tag == _REPLACED:
        (replaced,) = _REVISION.unpack(reader.take(_REVISION.size))
        return Accepted(Revision(revision), Revision(replaced))
    if tag == _ELSEWHERE:
        at, replaced = _ACCEPTED.unpack(reader.take(_ACCEPTED.size))
        return Accepted(Revision(at), Revision(replaced))
    if tag == _REFUSED:
        return _decode_refusal(reader)
    raise _damaged(f"a remembered answer has an outcome {tag}")


def _decode_refusal(reader: _Bytes) -> Refusal:
    number, flags, count = _REFUSAL.unpack(reader.take(_REFUSAL.size))
    missing = tuple(Digest(reader.take(DIGEST_BYTES)) for _ in range(count))
    detail = reader.text()
    current = _decode_state(reader) if flags & _HAS_CURRENT else None
    holder = None
    if flags & _HAS_HOLDER:
        replica, since_s, expires_s = _HOLDER.unpack(reader.take(_HOLDER.size))
        holder = Holder(reader.text(), ReplicaId(replica), since_s, expires_s)
    return Refusal(_CODES[number], current, holder, missing, detail)


def _decode_state(reader: _Bytes) -> Entry:
    id, revision, parent, kind, mode, mtime_ns, size, is_live = _STATE.unpack(
        reader.take(_STATE.size)
    )
    name = reader.optional()
    digest, manifest, target = reader.optional(), reader.optional(), reader.optional()
    if name is None:
        raise _damaged("a remembered entry has no name")
    return entry_of(
        (id, revision, parent, name, kind, mode, mtime_ns, size, digest, manifest, target, is_live)
    )


class _Bytes:
    """Reads an encoding from its start; `struct.error` where it ends too early."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self.position = 0

    def take(self, size: int) -> bytes:
        end = self.position + size
        if end > len(self._encoded):
            raise struct.error("the bytes end too early")
        taken = self._encoded[self.position : end]
        self.position = end
        return taken

    def optional(self) -> bytes | None:
        (size,) = _LENGTH.unpack(self.take(_LENGTH.size))
        return None if size == _ABSENT else self.take(size)

    def text(self) -> str:
        return (self.optional() or b"").decode("utf-8", "surrogatepass")


def _damaged(reason: str) -> Corrupt:
    return Corrupt(
        f"the metadata store is damaged: {reason}; restore it from a backup", what="metadata"
    )
