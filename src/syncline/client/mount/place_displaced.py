"""What was swapped out of the mount: how it is named, looked at, kept and let go.

Model: whatever leaves the mount goes to the client's directory `displaced` in the very step that
takes it away, under a name that tells what the plan expected it to be. So a crash at any moment
leaves enough to tell a content that may go from one that a user saved in the last instant.

D1  The name holds the digest of what was expected and of what was put in its place. Content that is
    neither is a user's: it goes back into the mount and is never removed.
D2  Nothing is removed before the base is recorded, nor while a writer has it open.
D3  What a late writer writes is rescued as soon as it is seen: it goes on writing into the rescued
    file.
D4  Watches tell of a write by the name that the file had when it was opened, which may be here, or
    gone. So what a writer has open keeps its name here until he closes it, also when it has names
    in the mount, and is compared again and again.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from blake3 import blake3

from syncline.client.assembling import Readable
from syncline.core.conflict_names import conflict_name
from syncline.core.entries import Kind
from syncline.core.identity import DIGEST_BYTES, ID_BYTES, ROOT_ID, Digest, EntryId, digest_of
from syncline.core.names import NAME_BYTES_MAX, Name
from syncline.core.trees import Place, State
from syncline.ports.files import Directory, FileKind, Status, Writers
from syncline.ports.mount_state import MountSession

READ_BYTES = 1024 * 1024

KINDS = {
    FileKind.FILE: Kind.FILE,
    FileKind.DIRECTORY: Kind.DIRECTORY,
    FileKind.LINK: Kind.LINK,
}
"""What can be an entry; a thing of another kind is none."""

LINKLESS = frozenset({errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EXDEV})
"""What a file system without hard links, or with no more of them, answers."""

_NOTHING = b"-"


@dataclass(frozen=True, slots=True)
class Label:
    """What the name of a displaced thing tells (D1). `wanted` is None after a removal.

    `place` is where it was; a long name in it is cut.
    """

    id: EntryId
    expected: Digest
    wanted: Digest | None
    place: Place


@dataclass(frozen=True, slots=True)
class Displaced:
    """One thing in the directory `displaced`.

    `parts` is the path of the directory it was in, `inode` that directory's; `status` what it was
    like when it was last looked at, `is_idle` that nobody had it open then. `since_s` is when it
    left its place, or was last known to be open for writing. `copy` is where another name of it is:
    of a conflict copy, of the source of one that was taken back, or the one that it was rescued
    under; so nothing is lost with this one. `is_judged`: its content was compared with the label,
    or looked for under that name. `is_unsynced`: a power loss could take that name back.
    """

    name: bytes
    label: Label
    parts: tuple[Name, ...]
    inode: int
    status: Status
    since_s: float
    is_idle: bool = False
    copy: Place | None = None
    is_judged: bool = True
    is_unsynced: bool = False


def is_copied(displaced: Directory, thing: Displaced, status: Status) -> bool:
    """Tell whether a name that is not ours leads to it: unless the user took that away meanwhile.

    Raises OSError.
    """
    if thing.copy is None or status.links < 2:
        return False
    return status.links > sum(other.inode == status.inode for _, other in displaced.list())


def is_being_written(displaced: Directory, name: bytes, status: Status) -> bool:
    """Tell whether somebody is known to have a file open for writing; raise OSError."""
    if status.kind is not FileKind.FILE:
        return False
    file = displaced.open(name)
    try:
        return file.hold() is Writers.SOME
    finally:
        file.close()


def places_of(
    open: Callable[[EntryId], Directory], states: Iterable[State], label: Label, inode: int
) -> Iterator[Place]:
    """Yield where in the mount a thing has a name now: at some places, or where it is rescued to.

    A name that it was rescued under may be known to nobody yet.
    """
    for state in states:
        with suppress(OSError):
            status = open(state.parent).look(state.name)
            if status is not None and status.inode == inode:
                yield state.place
    for parent in dict.fromkeys((label.place[0], ROOT_ID)):
        with suppress(OSError):
            for name, status in open(parent).list():
                if status.inode == inode:
                    yield parent, Name(name)


def full_place(session: MountSession, label: Label) -> Place:
    """Return the place of a label, whose name may be cut, from what else tells it."""
    seen = session.local(label.id)
    known = [None if seen is None else seen.state, session.intents().get(label.id)]
    for state in known:
        if state is None or state.parent != label.place[0]:
            continue
        if state.name.startswith(label.place[1]):
            return state.place
    return label.place


def digest_of_state(id: EntryId, state: State) -> Digest:
    """Return what tells the content of a state from another: of a directory, its id."""
    if state.content is not None:
        return state.content.digest
    return digest_of(id if state.target is None else state.target)


def digest_of_file(file: Readable) -> Digest:
    """Read and digest an open file in pieces; raises OSError."""
    hasher = blake3()
    offset = 0
    while piece := file.read(READ_BYTES, offset):
        hasher.update(piece)
        offset += len(piece)
    return Digest(hasher.digest())


def digest_at(directory: Directory, name: bytes, kind: FileKind, id: EntryId) -> Digest:
    """Read and digest what lies at a name; of what has no content it is the digest of `id`."""
    match kind:
        case FileKind.FILE:
            file = directory.open(name)
            try:
                return digest_of_file(file)
            finally:
                file.close()
        case FileKind.LINK:
            return digest_of(directory.read_link(name))
        case FileKind.DIRECTORY | FileKind.OTHER:
            return digest_of(id)


def is_same_content(one: Status, other: Status) -> bool:
    """Tell whether times say that nothing was written; a rename in between does not count."""
    return (one.kind, one.inode, one.size, one.mtime_ns) == (
        other.kind,
        other.inode,
        other.size,
        other.mtime_ns,
    )


def displaced_names(label: Label) -> Iterator[bytes]:
    """Yield the names that tell a label; the first that is free will do."""
    parent, name = label.place
    wanted = _NOTHING if label.wanted is None else label.wanted.hex().encode()
    for number in count():
        front = b"%s.%s.%s.%d.%s." % (
            label.id.hex().encode(),
            label.expected.hex().encode(),
            wanted,
            number,
            parent.hex().encode(),
        )
        yield front + name[: NAME_BYTES_MAX - len(front)]


def free_displaced_name(displaced: Directory, label: Label) -> bytes:
    """Return a name for a label that nothing has; the directory is ours alone."""
    return next(name for name in displaced_names(label) if displaced.look(name) is None)


def parse_label(raw: bytes) -> Label | None:
    """Return what a name tells; None where it is not one of ours."""
    parts = raw.split(b".", 5)
    if len(parts) != 6 or not parts[5]:
        return None
    id, expected, parent = (_unhex(parts[at]) for at in (0, 1, 4))
    wanted = None if parts[2] == _NOTHING else _unhex(parts[2])
    if (len(id), len(expected), len(parent)) != (ID_BYTES, DIGEST_BYTES, ID_BYTES):
        return None
    if wanted is not None and len(wanted) != DIGEST_BYTES:
        return None
    return Label(
        EntryId(id),
        Digest(expected),
        None if wanted is None else Digest(wanted),
        (EntryId(parent), Name(parts[5])),
    )


def _unhex(raw: bytes) -> bytes:
    """Return the bytes of lower-case hexadecimal; nothing for any other text."""
    try:
        found = bytes.fromhex(raw.decode("ascii"))
    except ValueError:
        return b""
    return found if found.hex().encode() == raw else b""


def move_out(
    source: Directory,
    source_name: bytes,
    target: Directory,
    wish: Name,
    names: Iterator[Name],
) -> Name:
    """Give a thing the wished name, or the first free one of `names`; return it.

    Raises OSError for anything but a name that is taken.
    """

    def give(name: Name) -> None:
        # Its writer goes on (D3). The name is one of a conflict, or it was the thing's own.
        source.move(source_name, target, name, keeps_writers=True)

    return _first_free(give, wish, names)


def link_out(
    source: Directory,
    source_name: bytes,
    target: Directory,
    wish: Name,
    names: Iterator[Name],
) -> Name | None:
    """Do the same, and let it keep its old name; None where the file system gives no second one."""

    def give(name: Name) -> None:
        source.link(source_name, target, name)

    try:
        return _first_free(give, wish, names)
    except OSError as error:
        if error.errno not in LINKLESS:
            raise
        return None


def _first_free(give: Callable[[Name], None], wish: Name, names: Iterator[Name]) -> Name:
    name = wish
    while True:
        try:
            give(name)
        except FileExistsError:
            name = next(names)
        else:
            return name


def conflict_names(
    target: Directory, name: Name, author: str, digest: Digest, is_taken: Callable[[Name], bool]
) -> Iterator[Name]:
    """Yield conflict names that were free when they were asked for."""
    tried: set[Name] = set()

    def is_used(found: Name) -> bool:
        return found in tried or is_taken(found) or target.look(found) is not None

    while True:
        found = conflict_name(name, author, digest, is_used)
        tried.add(found)
        yield found
