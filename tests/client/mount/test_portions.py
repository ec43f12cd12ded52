"""What of a plan is sent now, and what has to wait for something else."""

from __future__ import annotations

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.client.assembling import SMALL_BYTES_MAX
from syncline.client.mount.portions import ready
from syncline.core.changes import Delete, Move, PutDirectory, PutFile
from syncline.core.identity import ROOT_ID, EntryId, Revision
from syncline.core.manifests import Content
from syncline.core.names import Name
from syncline.core.plans import Unit
from syncline.ports.mount_state import MountFacts
from tests.support.placing import CountedIds
from tests.support.trees import content_of, id_of

SMALL = content_of(b"small")
LARGE = content_of(b"x" * (SMALL_BYTES_MAX + 1))


def put(label: str, content: Content = SMALL) -> Unit:
    start = (id_of(label), Revision(1), ROOT_ID, Name(label.encode()))
    return Unit((PutFile(*start, 0o644, 0, content),))


def dropped(label: str, heir: str) -> Unit:
    return Unit((Delete(id_of(label), Revision(1)),), heir=id_of(heir))


def moved(label: str, parent: EntryId = ROOT_ID) -> Move:
    return Move(id_of(label), Revision(1), parent, Name(label.encode()))


def made(label: str) -> PutDirectory:
    return PutDirectory(id_of(label), Revision(0), ROOT_ID, Name(label.encode()), 0o755)


def edited(label: str, parent: EntryId = ROOT_ID, content: Content = LARGE) -> PutFile:
    return PutFile(id_of(label), Revision(1), parent, Name(label.encode()), 0o644, 0, content)


def sent(units: list[Unit], *busy: str) -> list[Unit]:
    ids = CountedIds()
    state = MemoryMountState(MountFacts(ids.replica(), ids.volume(), None))
    with state.session() as session:
        return list(ready(session, units, frozenset(map(id_of, busy))))


def test_what_was_dropped_for_large_content_waits_until_that_is_stored() -> None:
    large, drop, other = put("heir", LARGE), dropped("x", "heir"), dropped("y", "z")
    assert sent([large, drop, other]) == [large, other]
    assert sent([drop, other], "heir") == [other]
    assert sent([drop, other]) == [drop, other]


def test_what_was_dropped_for_small_content_goes_with_it() -> None:
    units = [put("heir"), dropped("x", "heir")]
    assert sent(units) == units


def test_large_content_does_not_hold_up_the_move_of_its_file() -> None:
    move, other = moved("file"), Unit((moved("other"),))
    assert sent([Unit((move, edited("file"))), other]) == [Unit((move,)), other]


def test_large_content_does_not_hold_up_a_ring() -> None:
    aside, directory = moved("aside"), made("d")
    inside, small = moved("file", id_of("d")), edited("small", id_of("d"), SMALL)
    large = edited("file", id_of("d"))
    ring = Unit((aside, directory, inside, large, small), is_atomic=True)
    quick = Unit((aside, directory, inside, small), is_atomic=True)
    assert sent([ring]) == [quick]
