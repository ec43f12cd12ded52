"""After a crash: what a batch of placing left, put right before the first look at the mount.

Model: the session knows nothing of a batch that was cut off; the mount, and the client's own
directory, show how far it came. What was aside goes back, what was displaced is judged by the
digests in its name, and intents tell which of what is then found was placed and not made by a user.
What an exchange in steps had in its hands comes first (`recover_exchanges`).

R1  No content of a user stays in, or is removed from, the client's own directory.
R2  An intent moves the base only by aspects that the batch was to bring from the server: what a
    user changed here must never look as if the server had it.
R3  It may be cut off anywhere, and done again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from syncline.client.local import local_error
from syncline.client.mount.own_directory import OwnDirectory
from syncline.client.mount.parts import Parts
from syncline.client.mount.place_batch import Batch, Ground, aside_file, born_of
from syncline.client.mount.place_displaced import (
    KINDS,
    Label,
    conflict_names,
    digest_at,
    digest_of_state,
    full_place,
    is_being_written,
    move_out,
    parse_label,
    places_of,
)
from syncline.client.mount.place_moves import return_all
from syncline.client.mount.place_staging import STAGED_PREFIX
from syncline.client.mount.place_swaps import rescue
from syncline.client.mount.recover_exchanges import return_exchanged, return_swapped
from syncline.client.mount.rooting import Root
from syncline.client.mount.walker import Walker
from syncline.core.fingerprints import Seen
from syncline.core.identity import ID_BYTES, ROOT_ID, Digest, EntryId
from syncline.core.merging import confirmed
from syncline.core.names import Name, RelPath, escape
from syncline.core.plans import Relabel
from syncline.core.trees import Place, State
from syncline.ports.files import Directory, Status
from syncline.ports.mount_state import MountSession
from syncline.ports.watcher import Watcher

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What was put back under another name than it had, for people."""

    rescued: tuple[RelPath, ...] = ()


def recover(parts: Parts, root: Root) -> Recovered:
    """Put right what an earlier run left, before the mount is looked at.

    Raises NoSpace or LocalFailure, and what the state raises.
    """
    ground = Ground(
        root.directory,
        root.own,
        root.device,
        parts.clock,
        parts.mount.replica,
        parts.mount.abilities,
    )
    with parts.state.session() as session:
        recovered = put_back(session, ground)
    for path in recovered.rescued:
        logger.warning("rescued path=%s", path)
    return recovered


def put_back(session: MountSession, ground: Ground) -> Recovered:
    """Do the same in a session, before the first scan. Raises NoSpace or LocalFailure.

    What may go is left for the applier's first `let_go`, after this was committed.
    """
    with Walker(ground.root) as walker:
        batch = Batch(ground, session, walker)
        try:
            return_swapped(batch, is_last=False)
            return_exchanged(batch)
            moved = _moved(batch)
            _narrow_intents(session)
            for id, seen in moved.items():
                session.set_local(id, seen)
            return_swapped(batch, is_last=True)
            _return_aside(batch)
            for name, status in sorted(ground.own.displaced.list()):
                _judge(batch, name, status)
            _clear_staging(ground.own)
            # What the batch did was perhaps not durable; it is about to count as what is there.
            batch.needs_sync_all |= bool(session.intents())
            batch.sync()
        except OSError as error:
            raise local_error(error, b"") from error
    return Recovered(tuple(batch.rescued))


def _clear_staging(own: OwnDirectory) -> None:
    """Remove what the applier staged and did not place; large contents stay for their fetcher."""
    for name, _ in own.staging.list():
        if name.startswith(STAGED_PREFIX):
            with suppress(FileNotFoundError):
                own.staging.remove(name)


# -- what was moved ----


def _moved(batch: Batch) -> dict[EntryId, Seen | None]:
    """Return the entries that a batch moved to where they were wanted, as local has them now.

    A scan takes two files that changed places for two edits; here their inodes tell, or what was
    placed for those that were edited as well. None for one that was removed to make way.
    """
    session = batch.session
    removed = {id for id, wanted in session.intents().items() if wanted is None}
    intents = {id: wanted for id, wanted in session.intents().items() if wanted is not None}
    found: dict[EntryId, Seen | None] = {}
    for id in _parents_first(intents):
        seen, wanted = session.local(id), intents[id]
        if seen is None or seen.state.place == wanted.place:
            continue
        if not (_is_at(batch, seen, wanted.place) or _is_placed(batch, seen, wanted)):
            continue
        found[id] = Seen(seen.state.at(wanted.place), seen.fingerprint)
        there = session.child(*wanted.place)
        if there in removed and not _is_directory(session, there):
            found[there] = None
    while True:
        taken = {id for id, seen in found.items() if seen and _is_taken(session, seen.state, found)}
        if not taken:
            return found
        for id in taken:
            del found[id]


def _is_directory(session: MountSession, id: EntryId) -> bool:
    seen = session.local(id)
    return seen is not None and seen.state.is_directory


def _is_placed(batch: Batch, seen: Seen, wanted: State) -> bool:
    """Tell whether an entry was moved, and then got the content that it was to have.

    What was staged has the size and the time that were wanted, to the nanosecond.
    """
    known = seen.fingerprint
    if known is None or wanted.is_directory or wanted.substance == seen.state.substance:
        return False
    size = len(wanted.target or b"") if wanted.content is None else wanted.content.size
    try:
        [directory] = batch.open(wanted.place[0])
        status = directory.look(wanted.place[1])
        if status is None or KINDS.get(status.kind) is not wanted.kind:
            return False
        if (status.size, status.mtime_ns) != (size, wanted.mtime_ns):
            return False
        [directory] = batch.open(seen.state.place[0])
        before = directory.look(seen.state.place[1])
    except OSError:
        return False
    return before is None or before.inode != known.inode


def _is_at(batch: Batch, seen: Seen, place: Place) -> bool:
    known = seen.fingerprint
    if known is None:
        return False
    try:
        [directory] = batch.open(place[0])
        status = directory.look(place[1])
        return (
            status is not None
            and status.inode == known.inode
            and KINDS.get(status.kind) is seen.state.kind
            and born_of(directory, place[1]) == known.born_ns
        )
    except OSError:
        return False


def _is_taken(session: MountSession, state: State, moved: Mapping[EntryId, Seen | None]) -> bool:
    """Tell whether local has something at a place that did not leave it."""
    there = session.child(*state.place)
    return there is not None and there not in moved


# -- what was aside ------------------------------------------------------------


def _return_aside(batch: Batch) -> None:
    own = batch.ground.own
    for name, _ in sorted(own.aside.list()):
        id = _entry_id(name)
        seen = None if id is None else batch.session.local(id)
        if id is None or seen is None:
            found = move_out(
                own.aside, name, batch.ground.root, Name(b"rescued-" + name), _more(name)
            )
            batch.touched.add(ROOT_ID)
            batch.rescued.append(batch.path((ROOT_ID, found)))
        else:
            batch.aside[id] = seen.state.place
    return_all(batch)


def _entry_id(name: bytes) -> EntryId | None:
    """Return the entry that a name in the directory `aside` tells."""
    with suppress(ValueError):
        id = EntryId(bytes.fromhex(name.decode("ascii")))
        if len(id) == ID_BYTES and aside_file(id) == name:
            return id
    return None


def _more(name: bytes) -> Iterator[Name]:
    number = 2
    while True:
        yield Name(b"rescued-%d-%s" % (number, name))
        number += 1


# -- what was displaced --------------------------------------------------------


def _judge(batch: Batch, name: bytes, status: Status) -> None:
    """Rescue what is a user's (R1), and learn from what was displaced that a swap was done."""
    own = batch.ground.own
    label = parse_label(name)
    try:
        digest = digest_at(own.displaced, name, status.kind, ROOT_ID if label is None else label.id)
    except OSError as error:
        # E5: it stays where it is, and the next start looks again.
        logger.warning("unread name=%s error=%s", escape(name), error.strerror)
        return
    if label is None:
        _rescue_unknown(batch, name, digest)
        return
    if label.wanted is not None and digest != label.wanted:
        _learn_swap(batch, label)
    if digest in (label.expected, label.wanted) or _is_being_written(own.displaced, name, status):
        return
    label = replace(label, place=full_place(batch.session, label))
    if status.links > 1 and _has_other_name(batch, label, status.inode):
        # The other name may be one that a power loss takes back.
        batch.ground.root.sync_all()
        own.displaced.remove(name)
    else:
        _rescue(batch, name, label)


def _learn_swap(batch: Batch, label: Label) -> None:
    """Know that an entry had the content that was to be placed, whatever it has by now (R2).

    A late writer keeps things here longer than a batch: where the file is still the one that local
    knows, the swap is an earlier one.
    """
    session = batch.session
    intent, base, seen = (
        session.intents().get(label.id),
        session.base(label.id),
        session.local(label.id),
    )
    if intent is None or base is None or digest_of_state(label.id, intent) != label.wanted:
        return
    if intent.substance == base.substance or (
        seen is not None and _is_at(batch, seen, seen.state.place)
    ):
        return
    session.set_base(label.id, replace(intent, mode=base.mode).at(base.place))


def _is_being_written(displaced: Directory, name: bytes, status: Status) -> bool:
    """Tell whether the applier has to follow a writer (D4): it rescues what he writes, too."""
    with suppress(OSError):
        return is_being_written(displaced, name, status)
    return False


def _has_other_name(batch: Batch, label: Label, inode: int) -> bool:
    """Tell whether a conflict copy is a second name of it, or it was rescued before."""
    session = batch.session
    states = [seen.state for _, seen in session.with_inode(inode)]
    states += [wanted for wanted in session.intents().values() if wanted is not None]
    return any(places_of(lambda id: batch.open(id)[0], states, label, inode))


def _rescue(batch: Batch, name: bytes, label: Label) -> None:
    try:
        [directory] = batch.open(label.place[0])
    except OSError:
        # Where it was cannot be told any more.
        directory = batch.ground.root
        label = replace(label, place=(ROOT_ID, label.place[1]))
    rescue(batch, directory, name, label)


def _rescue_unknown(batch: Batch, name: bytes, digest: Digest) -> None:
    """Rescue what is none of ours: somebody put it into our directory."""
    root = batch.ground.root
    names = conflict_names(root, Name(name), batch.ground.replica, digest, lambda _: False)
    found = move_out(batch.ground.own.displaced, name, root, next(names), names)
    batch.touched.add(ROOT_ID)
    batch.rescued.append(batch.path((ROOT_ID, found)))


# -- intents -------------------------------------------------------------------


def _narrow_intents(session: MountSession) -> None:
    """Keep of each intent what the batch was to bring from the server (R2).

    Local is still what it was before the batch, so what equals it was a user's, or not to change.
    That is so at the first start after a crash alone: if that one is cut off too, local may have
    what was placed. A note of the root, which has no intent, says that it was done.
    """
    intents = session.intents()
    if not intents or ROOT_ID in intents:
        return
    session.note_intent(ROOT_ID, None)
    for id, wanted in intents.items():
        seen, base = session.local(id), session.base(id)
        if wanted is None or seen is None:
            # It comes from the server as a whole.
            continue
        session.note_intent(id, None if base is None else _narrowed(wanted, seen.state, base))


def _narrowed(wanted: State, local: State, base: State) -> State:
    if wanted.substance == local.substance:
        mtime_ns = base.mtime_ns if wanted.mtime_ns == local.mtime_ns else wanted.mtime_ns
        intent = replace(base, mtime_ns=mtime_ns)
    else:
        intent = wanted
    mode = base.mode if wanted.mode == local.mode else wanted.mode
    place = base.place if wanted.place == local.place else wanted.place
    return replace(intent, mode=mode).at(place)


def apply_intents(session: MountSession, watcher: Watcher) -> tuple[Relabel, ...]:
    """Know what was placed before a crash as placed, after the first scan; forget all intents.

    What was created is known by its entry from then on: the relabels, which are carried out, are
    returned for whoever else knows entries by their ids.
    """
    intents = {id: wanted for id, wanted in session.intents().items() if wanted is not None}
    relabels: list[Relabel] = []
    for id in _parents_first(intents):
        wanted = intents[id]
        if session.remote(id) is None:
            # R2: only a user here has it.
            continue
        if session.local(id) is None:
            relabel = _recognised(session, id, wanted)
            if relabel is None:
                continue
            session.relabel(relabel.local_id, id)
            if wanted.is_directory:
                watcher.relabel(relabel.local_id, id)
            relabels.append(relabel)
        seen = session.local(id)
        assert seen is not None, "it was found in local"
        session.set_base(id, confirmed(session.base(id), seen.state, wanted))
    session.forget_intents()
    return tuple(relabels)


def _parents_first(intents: dict[EntryId, State]) -> Iterator[EntryId]:
    told: set[EntryId] = set()
    for start in sorted(intents):
        chain: dict[EntryId, None] = {}
        id = start
        while id in intents and id not in told and id not in chain:
            chain[id] = None
            id = intents[id].parent
        told.update(chain)
        yield from reversed(chain)


def _recognised(session: MountSession, id: EntryId, wanted: State) -> Relabel | None:
    """Return what an entry is called that was created, and found as a new thing by the scan."""
    there = session.child(*wanted.place)
    if there is None:
        return None
    entry, intents = session.remote(there), session.intents()
    is_leaving = there in intents and intents[there] is None
    if not is_leaving and (session.base(there) is not None or entry is not None):
        return None
    if entry is not None and entry.is_live:
        return None
    seen = session.local(there)
    if seen is None or seen.state.substance != wanted.substance:
        return None
    return Relabel(there, id)
