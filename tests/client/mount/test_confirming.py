"""What is recorded around a plan."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.adapters.memory_mount_state import MemoryMountState
from syncline.adapters.sqlite_mount_state import SqliteMountState
from syncline.client.mount import confirming
from syncline.client.mount.views import closed_view
from syncline.core.entries import Entry
from syncline.core.fingerprints import Seen
from syncline.core.identity import EntryId, ReplicaId
from syncline.core.names import Name
from syncline.core.plans import (
    Alter,
    Confirm,
    Create,
    Exchange,
    KeepCopy,
    Relabel,
    Remove,
    SetAside,
)
from syncline.core.reconcile import reconcile
from syncline.core.trees import Mount, state_of
from syncline.ports.files import Directory
from syncline.ports.mount_state import MountFacts, MountSession, MountState
from syncline.ports.watcher import Noticed
from tests.support.trees import directory, file, id_of

FACTS = MountFacts(ReplicaId(bytes(16)), None, None)


@pytest.fixture(params=["memory", "disk"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MountState]:
    state: MountState = MemoryMountState(FACTS)
    if request.param == "disk":
        state = SqliteMountState.open(tmp_path / "state.sqlite3", FACTS)
    yield state
    state.close()


class Watches:
    """A watcher that keeps a list of what it was told to know by another id."""

    def __init__(self) -> None:
        self.relabelled: list[tuple[EntryId, EntryId]] = []

    def add(self, directory: Directory, id: EntryId) -> bool:
        return True

    def add_sentinels(self, directory: Directory) -> None: ...

    def is_watched(self, id: EntryId) -> bool:
        return False

    def forget(self, id: EntryId) -> None: ...

    def relabel(self, old: EntryId, new: EntryId) -> None:
        self.relabelled.append((old, new))

    async def wait(self) -> None: ...

    def take(self) -> Noticed:
        return Noticed()

    def close(self) -> None: ...


def here(session: MountSession, *entries: Entry) -> None:
    for entry in entries:
        session.set_local(entry.id, Seen(state_of(entry)))


def there(session: MountSession, *entries: Entry) -> None:
    for entry in entries:
        session.set_remote(entry, "them", is_confirmed=False)


def test_a_folder_that_has_all_already_becomes_the_volume(state: MountState) -> None:
    watches = Watches()
    with state.session() as session:
        here(
            session,
            directory("my d", name=b"d"),
            directory("my e", "my d", b"e"),
            file("my f", "my e", b"f"),
            file("g"),
        )
        there(session, directory("d"), directory("e", "d"), file("f", "e"), file("g"))
        plan = reconcile(closed_view(session, bytes(16)), Mount("here"))
        assert not (plan.placing or plan.sending)
        confirming.carry_relabels(session, plan.relabels, watches)
        confirming.carry_confirms(session, plan.confirms)
    with state.session() as session:
        assert session.dirty() == []
        assert session.base_count() == 4
        assert session.local(id_of("f")) == Seen(state_of(file("f", "e")))
        assert session.local(id_of("my f")) is None
    assert sorted(watches.relabelled) == sorted(
        [(id_of("my d"), id_of("d")), (id_of("my e"), id_of("e"))]
    )


def test_a_relabel_of_what_is_not_there_is_a_broken_plan(state: MountState) -> None:
    with state.session() as session, pytest.raises(AssertionError):
        confirming.carry_relabels(session, [Relabel(id_of("a"), id_of("b"))], Watches())


def test_confirms_move_and_end_the_base(state: MountState) -> None:
    with state.session() as session:
        here(session, file("a"))
        session.set_base(id_of("b"), state_of(file("b")))
        confirming.carry_confirms(
            session, [Confirm(id_of("a"), state_of(file("a"))), Confirm(id_of("b"), None)]
        )
        assert session.base(id_of("a")) == state_of(file("a"))
        assert session.base(id_of("b")) is None


def test_intents_say_what_each_entry_becomes(state: MountState) -> None:
    old = {label: state_of(file(label)) for label in "abcdef"}
    new = {label: each.at((each.parent, Name(b"new"))) for label, each in old.items()}
    swapped = [
        Alter(id_of("d"), old["d"], old["d"].at(old["e"].place)),
        Alter(id_of("e"), old["e"], old["e"].at(old["d"].place)),
    ]
    with state.session() as session:
        confirming.note_intents(
            session,
            [
                KeepCopy(id_of("copy"), id_of("a"), old["a"], new["a"]),
                SetAside(id_of("b"), old["b"]),
                SetAside(id_of("f"), old["f"]),
                Create(id_of("c"), new["c"]),
                Alter(id_of("b"), old["b"], new["b"]),
                Exchange(*swapped),
                Remove(id_of("a"), old["a"]),
            ],
        )
    with state.session() as session:
        assert session.intents() == {
            id_of("copy"): new["a"],
            id_of("c"): new["c"],
            id_of("b"): new["b"],
            id_of("d"): swapped[0].wanted,
            id_of("e"): swapped[1].wanted,
            id_of("a"): None,
        }
