"""The contract of `ports.metadata`, on every adapter."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncline.adapters.memory_metadata import MemoryMetadataStore
from syncline.adapters.sqlite_metadata import SqliteMetadataStore
from syncline.core.changes import (
    Answer,
    Author,
    Change,
    Delete,
    Holder,
    Move,
    PutDirectory,
    PutFile,
    PutLink,
    Refusal,
    RefusalCode,
)
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    REVISION_MAX,
    ROOT_ID,
    Digest,
    EntryId,
    ReplicaId,
    Revision,
    VolumeId,
    digest_of,
)
from syncline.core.manifests import ChunkRef, Content
from syncline.core.names import Name
from syncline.core.table import EMPTY_TABLE_DIGEST, Head, advance_digest, commit_id, genesis
from syncline.errors import Exists, NotFound
from syncline.ports.chunks import Location
from syncline.ports.metadata import MetadataStore, RememberedAnswer, TableReader, Volume
from syncline.server.verify import verify_metadata
from tests.support.commits import AUTHOR, build_commit, commit_changes, op_id, volume_id
from tests.support.tables import DictTable
from tests.support.trees import (
    content_of,
    delete,
    file,
    id_of,
    move,
    put_directory,
    put_file,
    put_link,
)

VOLUME = volume_id("v")


@pytest.fixture(params=["memory", "sqlite"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MetadataStore]:
    store: MetadataStore
    if request.param == "memory":
        store = MemoryMetadataStore()
    else:
        store = SqliteMetadataStore(tmp_path / "metadata")
    yield store
    store.close()


@pytest.fixture
def store(empty_store: MetadataStore) -> MetadataStore:
    empty_store.create_volume(VOLUME, "v")
    return empty_store


def commit(store: MetadataStore, *changes: Change, volume: VolumeId = VOLUME) -> Revision:
    with store.write(volume) as session:
        commit_changes(session, changes)
        return session.head().revision


def chunk(number: int) -> Digest:
    return digest_of(number.to_bytes(4, "big"))


# -- volumes -------------------------------------------------------------------


def test_volumes_are_listed_by_name(empty_store: MetadataStore) -> None:
    assert list(empty_store.volumes()) == []
    for name in ("photos", "attic", "été"):
        made = empty_store.create_volume(volume_id(name), name)
        assert made == Volume(volume_id(name), name, Revision(0))
    assert [volume.name for volume in empty_store.volumes()] == ["attic", "photos", "été"]


def test_a_name_or_id_in_use_is_refused(store: MetadataStore) -> None:
    with pytest.raises(Exists):
        store.create_volume(volume_id("other"), "v")
    with pytest.raises(Exists):
        store.create_volume(VOLUME, "other")
    assert [volume.name for volume in store.volumes()] == ["v"]


def test_a_new_volume_is_empty(store: MetadataStore) -> None:
    with store.read(VOLUME) as reader:
        assert reader.head() == Head(Revision(0), genesis(VOLUME), EMPTY_TABLE_DIGEST)
        assert reader.entry(id_of("a")) is None
        assert reader.child(ROOT_ID, Name(b"a")) is None
        assert list(reader.children(ROOT_ID)) == []
        assert list(reader.page(None, 10)) == []
        assert reader.commit(Revision(0)) is None
        assert reader.commit(Revision(1)) is None
        assert list(reader.commits_after(Revision(0), 10)) == []
        assert reader.answer(AUTHOR.replica, op_id(1)) is None
        assert dict(reader.locate([chunk(1)])) == {}


def test_what_is_not_there_is_not_found(store: MetadataStore) -> None:
    commit(store, put_file("a"))
    with pytest.raises(NotFound), store.read(volume_id("none")):
        pass
    with pytest.raises(NotFound), store.write(volume_id("none")):
        pass
    with pytest.raises(NotFound), store.read(VOLUME, Revision(2)):
        pass
    with store.read(VOLUME, Revision(0)) as reader:
        assert list(reader.page(None, 10)) == []
        assert reader.head().revision == 1


# -- commits -------------------------------------------------------------------


def test_a_commit_comes_back_as_it_was(store: MetadataStore) -> None:
    many = Content(digest_of(b"many"), 30, 0, tuple(ChunkRef(chunk(n), 10) for n in (7, 8, 7)))
    pieces = Content(digest_of(b"huge"), 2**40, 1, (ChunkRef(chunk(9), 36),))
    changes: list[Change] = [
        put_directory("d", mode=0o700),
        put_file("z", name=b"\xff\xfe\n"),
        put_file("a", parent="d", content=b"", mtime_ns=-(2**63), mode=0),
        put_link("l", target=b"../\xff", mtime_ns=2**63 - 1),
        replace(put_file("m"), content=many),
        replace(put_file("p"), content=pieces),
    ]
    author = Author(ReplicaId(b"\0" * 16), "Zoë's \U0001f4bb")
    with store.write(VOLUME) as session:
        made, remembered, _ = build_commit(session, changes, author)
        session.add_commit(made, remembered)
        assert session.head() == Head(made.revision, made.id, made.table_digest)
    with store.read(VOLUME) as reader:
        assert reader.commit(Revision(1)) == made
        assert list(reader.commits_after(Revision(0), 5)) == [made]
        assert reader.head() == Head(made.revision, made.id, made.table_digest)
        assert reader.answer(author.replica, made.op_id) == remembered
        assert [reader.entry(entry.id) for entry in made.entries] == list(made.entries)


def test_a_commit_keeps_the_order_of_its_states(store: MetadataStore) -> None:
    labels = [f"f{n}" for n in range(40)]
    commit(store, *(put_file(label) for label in labels))
    with store.read(VOLUME) as reader:
        made = reader.commit(Revision(1))
        assert made is not None
        assert [entry.id for entry in made.entries] == [id_of(label) for label in labels]
        hashed = commit_id(
            genesis(VOLUME),
            made.revision,
            made.author,
            made.op_id,
            made.time_ns,
            made.is_confirmed,
            made.entries,
        )
        assert hashed == made.id


def test_each_commit_keeps_the_name_its_author_had(store: MetadataStore) -> None:
    names = ["old", "new", "old"]
    for number, name in enumerate(names):
        with store.write(VOLUME) as session:
            commit_changes(session, [put_file(f"f{number}")], Author(AUTHOR.replica, name))
    with store.read(VOLUME) as reader:
        made = reader.commits_after(Revision(0), 10)
        assert [commit.author.name for commit in made] == names
        signed = [reader.signature(Revision(revision)) for revision in range(5)]
        assert signed == [None, *((name, made[n].time_ns) for n, name in enumerate(names)), None]


def test_commits_after_a_revision_come_in_order_up_to_the_limit(store: MetadataStore) -> None:
    for number in range(7):
        commit(store, put_file(f"f{number}"), put_file(f"g{number}"))
    with store.read(VOLUME) as reader:
        for after, limit in itertools.product(range(9), range(1, 9)):
            found = reader.commits_after(Revision(after), limit)
            assert [made.revision for made in found] == [*range(after + 1, 8)][:limit]
            assert all(len(made.entries) == 2 for made in found)


def test_states_have_their_predecessors(store: MetadataStore) -> None:
    commit(store, put_file("a", content=b"1"))
    commit(store, put_file("b"))
    commit(store, put_file("a", 1, content=b"3"))
    commit(store, delete("a", 3))
    with store.read(VOLUME) as reader:
        assert reader.previous(id_of("a"), Revision(1)) is None
        assert reader.previous(id_of("a"), Revision(2)) is None
        assert reader.previous(id_of("a"), Revision(3)) == file("a", content=b"1")
        assert reader.previous(id_of("a"), Revision(4)) == file("a", revision=3, content=b"3")
        assert reader.previous(id_of("a"), Revision(5)) is None
        assert reader.previous(id_of("none"), Revision(1)) is None


def test_a_name_is_used_again_and_entries_swap_places(store: MetadataStore) -> None:
    commit(store, put_file("a"), put_file("b"))
    commit(store, move("a", 1, "/", b"t"), move("b", 1, "/", b"a"), move("a", 1, "/", b"b"))
    commit(store, delete("b", 2))
    commit(store, put_file("c", name=b"a"))
    expected = [
        {},
        {b"a": "a", b"b": "b"},
        {b"a": "b", b"b": "a"},
        {b"b": "a"},
        {b"a": "c", b"b": "a"},
    ]
    for revision, names in enumerate(expected):
        with store.read(VOLUME, Revision(revision)) as reader:
            found = {child.name: child.id for child in reader.children(ROOT_ID)}
            assert found == {name: id_of(label) for name, label in names.items()}
            for name in (b"a", b"b", b"t"):
                child = reader.child(ROOT_ID, Name(name))
                assert (child.id if child else None) == found.get(Name(name))


# -- answers -------------------------------------------------------------------


def test_an_answer_is_remembered_with_its_refusals(store: MetadataStore) -> None:
    commit(store, put_file("a"), put_directory("d"), put_link("l"))
    holder = Holder("bob\udcff", ReplicaId(b"B" * 16), 1.25, 30.5)
    with store.write(VOLUME) as session:
        made, remembered, _ = build_commit(
            session,
            [
                put_file("b"),
                put_file("a", 7),
                put_file("x", name=b"l"),
                put_file("y", parent="none"),
                put_file("a", 1, content=b"edit"),
            ],
        )
        outcomes = (
            *remembered.answer.outcomes,
            Refusal(RefusalCode.LOCKED, holder=holder),
            Refusal(RefusalCode.MISSING, missing=(chunk(1), chunk(2)), detail="two \u2028"),
        )
        answer = Answer(made.revision, outcomes)
        remembered = RememberedAnswer(remembered.fingerprint, answer)
        session.add_commit(made, remembered)
        assert session.answer(AUTHOR.replica, made.op_id) == remembered
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert [refusal.current is not None for refusal in refused[:2]] == [True, True]
    with store.read(VOLUME) as reader:
        assert reader.answer(AUTHOR.replica, made.op_id) == remembered
        assert reader.answer(ReplicaId(b"X" * 16), made.op_id) is None
        assert reader.answer(AUTHOR.replica, op_id(99)) is None


# -- sessions ------------------------------------------------------------------


def test_a_session_sees_one_state(store: MetadataStore) -> None:
    commit(store, put_file("a"), put_file("b"))
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(1): Location(1, 0, 10)})
    with store.read(VOLUME) as before:
        commit(store, put_file("a", 1, content=b"new"), delete("b", 1), put_file("c"))
        with store.write(VOLUME) as session:
            session.add_chunks({chunk(2): Location(1, 10, 10)})
            session.mark_damaged({chunk(1): Location(1, 0, 10)})
        assert before.head().revision == 1
        assert before.entry(id_of("a")) == file("a")
        assert [child.name for child in before.children(ROOT_ID)] == [b"a", b"b"]
        assert before.commit(Revision(2)) is None
        assert list(before.commits_after(Revision(1), 5)) == []
        assert before.answer(AUTHOR.replica, op_id(2)) is None
        assert before.locate([chunk(1), chunk(2)]).keys() == {chunk(1)}
        with store.read(VOLUME) as after:
            assert after.head().revision == 2
            assert [child.name for child in after.children(ROOT_ID)] == [b"a", b"c"]
            assert after.locate([chunk(1), chunk(2)]).keys() == {chunk(2)}


def test_a_write_session_sees_its_own_additions_and_others_do_not(store: MetadataStore) -> None:
    with store.write(VOLUME) as session:
        commit_changes(session, [put_directory("d"), put_file("a", parent="d")])
        commit_changes(session, [put_file("a", 1, "d", content=b"2"), put_file("b", parent="d")])
        session.add_chunks({chunk(1): Location(1, 0, 10)})
        assert session.head().revision == 2
        assert session.entry(id_of("a")) == file("a", "d", revision=2, content=b"2")
        assert session.child(id_of("d"), Name(b"b")) == file("b", "d", revision=2)
        assert [child.name for child in session.children(id_of("d"))] == [b"a", b"b"]
        assert len(session.page(None, 10)) == 3
        assert session.previous(id_of("a"), Revision(2)) == file("a", "d")
        assert len(session.commits_after(Revision(0), 10)) == 2
        assert session.locate([chunk(1)]).keys() == {chunk(1)}
        with store.read(VOLUME) as reader:
            assert reader.head().revision == 0
            assert list(reader.page(None, 10)) == []
            assert reader.commit(Revision(1)) is None
            assert dict(reader.locate([chunk(1)])) == {}
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 2


class Stop(BaseException):
    """Something that ends a session from outside."""


@pytest.mark.parametrize("error", [ValueError, Stop])
def test_a_raised_exception_leaves_nothing(
    store: MetadataStore, error: type[BaseException]
) -> None:
    commit(store, put_file("a"))
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(1): Location(1, 0, 10)})
    with pytest.raises(error), store.write(VOLUME) as session:
        commit_changes(session, [put_file("a", 1, content=b"2"), put_file("b")])
        commit_changes(session, [delete("b", 2), move("a", 2, "/", b"c")])
        session.add_chunks({chunk(2): Location(1, 10, 10)})
        session.mark_damaged({chunk(1): Location(1, 0, 10)})
        session.forget_chunks()
        raise error
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 1
        assert list(reader.children(ROOT_ID)) == [file("a")]
        assert list(reader.page(None, 10)) == [file("a")]
        assert reader.entry(id_of("b")) is None
        assert reader.commit(Revision(2)) is None
        assert reader.answer(AUTHOR.replica, op_id(2)) is None
        assert reader.locate([chunk(1), chunk(2)]).keys() == {chunk(1)}
    assert commit(store, put_file("b"), put_file("a", 1, content=b"3")) == 2
    assert list(verify_metadata(store, VOLUME)) == []


def test_writers_wait_for_each_other(store: MetadataStore) -> None:
    asked = threading.Event()
    order = []

    def second() -> None:
        asked.set()
        with store.write(VOLUME) as session:
            order.append("second")
            commit_changes(session, [put_file("b")])

    thread = threading.Thread(target=second)
    with store.write(VOLUME) as session:
        thread.start()
        assert asked.wait(20)
        commit_changes(session, [put_file("a")])
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
    with store.read(VOLUME) as reader:
        assert [child.revision for child in reader.children(ROOT_ID)] == [1, 2]


def test_readers_beside_a_storm_see_whole_tables(store: MetadataStore) -> None:
    is_over = threading.Event()
    seen: set[int] = set()
    wrong: list[str] = []

    def watch() -> None:
        while not is_over.is_set():
            with store.read(VOLUME) as reader:
                head = reader.head()
                digest = advance_digest(EMPTY_TABLE_DIGEST, (), pages(reader, 7))
                if digest != head.table_digest or reader.head() != head:
                    wrong.append(f"revision {head.revision} is torn")
                seen.add(head.revision)

    readers = [threading.Thread(target=watch) for _ in range(2)]
    for thread in readers:
        thread.start()
    try:
        newest = dict.fromkeys("abcdefghij", 0)
        while len(seen) < 20 and all(thread.is_alive() for thread in readers):
            changes = [
                put_file(label, newest[label], content=str(newest).encode()) for label in newest
            ]
            revision = commit(store, *changes)
            newest = dict.fromkeys(newest, revision)
    finally:
        is_over.set()
        for thread in readers:
            thread.join(20)
    assert wrong == []
    assert len(seen) >= 20


# -- what is asserted ----------------------------------------------------------


def test_a_commit_follows_the_head(store: MetadataStore) -> None:
    commit(store, put_file("a"))
    with store.write(VOLUME) as session:
        made, remembered, _ = build_commit(session, [put_file("b")])
    for revision in (1, 3):
        wrong = replace(made, revision=Revision(revision))
        with pytest.raises(AssertionError), store.write(VOLUME) as session:
            session.add_commit(wrong, remembered)  # T1
    stale = replace(made, entries=(replace(made.entries[0], revision=Revision(1)),))
    with pytest.raises(AssertionError), store.write(VOLUME) as session:
        session.add_commit(stale, remembered)
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 1


def test_what_breaks_a_table_is_refused_whole(store: MetadataStore) -> None:
    commit(store, put_file("a"))
    taken = file("b", name=b"a", revision=2)
    twice = file("c", name=b"new", revision=2), file("d", name=b"new", revision=2)
    same = file("e", revision=2), file("e", name=b"f", revision=2)
    for entries in ((file("x", revision=2), taken), twice, same):
        with pytest.raises(AssertionError), store.write(VOLUME) as session:
            made, remembered, _ = build_commit(session, [put_file("x")])
            session.add_commit(replace(made, entries=entries), remembered)  # K2
    with pytest.raises(AssertionError), store.write(VOLUME) as session:
        made, remembered, _ = build_commit(session, [put_file("x")], op=1)
        session.add_commit(made, remembered)
    with store.read(VOLUME) as reader:
        assert reader.head().revision == 1
        assert list(reader.page(None, 10)) == [file("a")]
    assert commit(store, put_file("x")) == 2


# -- chunks --------------------------------------------------------------------


def test_a_chunk_keeps_its_place_until_it_is_damaged(store: MetadataStore) -> None:
    first, second = Location(1, 0, 10), Location(2, 5, 10)
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(1): first})
        session.add_chunks({chunk(1): second})
        assert session.locate([chunk(1), chunk(2)]) == {chunk(1): first}
        assert not session.has_damaged()
        session.mark_damaged({chunk(1): first, chunk(2): second})
        assert session.locate([chunk(1), chunk(2)]) == {}
        assert session.has_damaged()
    with store.read(VOLUME) as reader:
        assert reader.locate([chunk(1)]) == {}
        assert reader.damaged([chunk(1), chunk(2)]) == {chunk(1)}
        assert reader.has_damaged()
    assert list(store.located(VOLUME, 1)) == [(chunk(1), first)]
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(1): second})
    with store.read(VOLUME) as reader:
        assert reader.locate([chunk(1)]) == {chunk(1): second}
        assert reader.damaged([chunk(1), chunk(2)]) == set()
        assert not reader.has_damaged()
    assert list(store.located(VOLUME, 1)) == []
    assert list(store.located(VOLUME, 2)) == [(chunk(1), second)]


def test_an_index_is_forgotten_and_rebuilt(store: MetadataStore) -> None:
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(n): Location(1, n * 10, 10) for n in range(5)})
        session.forget_chunks()
        session.add_chunks({chunk(1): Location(3, 0, 10)})
    with store.read(VOLUME) as reader:
        assert reader.locate(chunk(n) for n in range(5)) == {chunk(1): Location(3, 0, 10)}
    assert list(store.located(VOLUME, 1)) == []


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 300])
def test_many_chunks_are_located_at_once(store: MetadataStore, count: int) -> None:
    chunks = {chunk(n): Location(1, n * 10, 10) for n in range(count)}
    with store.write(VOLUME) as session:
        session.add_chunks(chunks)
    asked = [*chunks, *chunks, chunk(1000)]
    with store.read(VOLUME) as reader:
        assert dict(reader.locate(iter(asked))) == chunks


def test_a_pack_is_listed_by_offset(store: MetadataStore) -> None:
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(n): Location(n % 2, (n * 7919) % 3001, 10) for n in range(3000)})
        places = {n: Location(0, (n * 7919) % 3001, 10) for n in (0, 2)}
        session.mark_damaged({chunk(n): place for n, place in places.items()})
    listed = list(store.located(VOLUME, 0))
    assert len(listed) == 1500
    assert listed == sorted(listed, key=lambda found: found[1])
    assert {digest for digest, _ in listed} == {chunk(n) for n in range(0, 3000, 2)}


# -- volumes are apart ---------------------------------------------------------


def test_volumes_do_not_see_each_other(store: MetadataStore) -> None:
    other = volume_id("w")
    store.create_volume(other, "w")
    commit(store, put_file("a"), put_file("b"))
    commit(store, put_file("a", content=b"other"), volume=other)
    with store.write(VOLUME) as session:
        session.add_chunks({chunk(1): Location(1, 0, 10), chunk(2): Location(1, 10, 10)})
    with store.write(other) as session:
        session.add_chunks({chunk(2): Location(1, 77, 10)})
        session.add_chunks({chunk(3): Location(1, 88, 10)})
        session.mark_damaged({chunk(1): Location(1, 0, 10), chunk(3): Location(1, 88, 10)})
    with store.read(VOLUME) as mine, store.read(other) as others:
        assert others.damaged([chunk(1), chunk(3)]) == {chunk(3)}
        assert others.has_damaged() and not mine.has_damaged()
        assert mine.entry(id_of("a")) == file("a")
        assert others.entry(id_of("a")) == file("a", content=b"other")
        assert others.child(ROOT_ID, Name(b"b")) is None
        assert [child.name for child in others.children(ROOT_ID)] == [b"a"]
        assert len(others.page(None, 10)) == 1
        assert mine.head().commit_id != others.head().commit_id
        assert others.locate([chunk(1), chunk(2)]) == {chunk(2): Location(1, 77, 10)}
        assert len(mine.locate([chunk(1), chunk(2)])) == 2
    assert dict(store.located(other, 1)) == {
        chunk(2): Location(1, 77, 10),
        chunk(3): Location(1, 88, 10),
    }
    with store.write(other) as session:
        session.forget_chunks()
    with store.read(VOLUME) as mine:
        assert len(mine.locate([chunk(1), chunk(2)])) == 2


# -- any revision against a model ------------------------------------------------

LABELS = ["p", "q", "r", "s", "t"]
NAMES = [b"x", b"X", b"x\xff", b"\xc3\xa9"]


@dataclass(frozen=True, slots=True)
class Intent:
    """A change before its base is known."""

    verb: str
    who: str
    parent: str
    name: bytes
    content: bytes

    def against(self, table: TableReader) -> Change:
        id, parent, name = id_of(self.who), id_of(self.parent), Name(self.name)
        now = table.entry(id)
        base = now.revision if now else Revision(0)
        if self.verb == "delete":
            return Delete(id, base)
        if self.verb == "move":
            return Move(id, base, parent, name)
        if now is not None and now.is_live:
            # A put where it stands: an edit.
            parent, name = now.parent, now.name
        kind = (
            now.kind
            if now
            else {"p": Kind.DIRECTORY, "q": Kind.DIRECTORY, "r": Kind.LINK}.get(self.who, Kind.FILE)
        )
        if kind is Kind.DIRECTORY:
            return PutDirectory(id, base, parent, name, 0o700 + len(self.content))
        if kind is Kind.LINK:
            return PutLink(id, base, parent, name, 5, self.content + b"l")
        return PutFile(id, base, parent, name, 0o644, 5, content_of(self.content))


intents = st.builds(
    Intent,
    st.sampled_from(["put", "put", "move", "delete"]),
    st.sampled_from(LABELS),
    st.sampled_from(["/", "p", "q"]),
    st.sampled_from(NAMES),
    st.sampled_from([b"", b"1", b"22"]),
)
volumes = itertools.count()


def pages(reader: TableReader, limit: int) -> list[Entry]:
    found: list[Entry] = []
    while page := reader.page(found[-1].id if found else None, limit):
        found += page
    return found


def names_after(reader: TableReader, parent: EntryId, limit: int) -> list[Entry]:
    found: list[Entry] = []
    while page := reader.children_after(parent, found[-1].name if found else None, limit):
        found += page
    return found


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(intents, min_size=1, max_size=4), min_size=1, max_size=10), st.data())
def test_every_revision_equals_a_model(
    empty_store: MetadataStore, batches: list[list[Intent]], data: st.DataObject
) -> None:
    # The store is shared by all examples; each has a volume of its own.
    volume = volume_id(f"v{next(volumes)}")
    empty_store.create_volume(volume, volume.hex())
    tables = [DictTable()]
    per_session = data.draw(st.integers(1, 3))
    for start in range(0, len(batches), per_session):
        with empty_store.write(volume) as session:
            for batch in batches[start : start + per_session]:
                decision = commit_changes(session, [intent.against(session) for intent in batch])
                if not decision.is_empty:
                    tables.append(DictTable(tables[-1].states.values()))
                    tables[-1].apply(decision)
                assert_equal(session, tables[-1], len(tables) - 1)
    for revision, table in enumerate(tables):
        with empty_store.read(volume, Revision(revision)) as reader:
            assert_equal(reader, table, len(tables) - 1)
            for id, state in table.states.items():
                if state.revision == revision:
                    assert reader.previous(id, state.revision) == tables[revision - 1].entry(id)
    assert list(verify_metadata(empty_store, volume)) == []


def assert_equal(reader: TableReader, table: DictTable, newest: int) -> None:
    assert reader.head().revision == newest
    for label in LABELS:
        assert reader.entry(id_of(label)) == table.entry(id_of(label))
    for parent in (ROOT_ID, *map(id_of, LABELS)):
        children = list(table.children(parent))
        assert list(reader.children(parent)) == children
        assert names_after(reader, parent, 2) == children
        for name in map(Name, NAMES):
            assert reader.child(parent, name) == table.child(parent, name)
    live = sorted(table.live(), key=lambda state: state.id)
    assert pages(reader, 2) == live
    assert list(reader.page(None, 1000)) == live


def test_a_listing_in_pages_has_no_gap_while_commits_go_on(store: MetadataStore) -> None:
    labels = [f"f{n:03d}" for n in range(60)]
    commit(store, *(put_file(label) for label in labels))
    by_id: list[Entry] = []
    by_name: list[Entry] = []
    newest = dict.fromkeys(labels, 1)
    at = Revision(1)
    for turn in range(20):
        with store.read(VOLUME, at) as reader:
            by_id += reader.page(by_id[-1].id if by_id else None, 4)
            by_name += reader.children_after(ROOT_ID, by_name[-1].name if by_name else None, 4)
        edited, moved, gone = (labels[(turn * 3 + k) * 7 % 60] for k in range(3))
        changes = [put_file(f"new{turn}")]
        if newest[edited] == 1:
            changes.append(put_file(edited, 1, content=b"new"))
        revision = commit(
            store, *changes, move(moved, newest[moved], "/", b"m%d" % turn), delete(gone, 1)
        )
        for label in (edited, moved, gone):
            newest[label] = revision
    expected = [file(label) for label in labels]
    assert by_name == expected
    assert by_id == sorted(expected, key=lambda state: state.id)


def test_children_are_read_past_one_batch_and_may_be_left_early(store: MetadataStore) -> None:
    names: Sequence[bytes] = [b"%04d" % n for n in range(1500)]
    commit(store, *(put_file(f"f{n}", name=name) for n, name in enumerate(names)))
    with store.read(VOLUME) as reader:
        assert [child.name for child in reader.children(ROOT_ID)] == names
        left = reader.children(ROOT_ID)
        assert next(left).name == b"0000"
        del left
        assert reader.head().revision == 1
    assert commit(store, put_file("next")) == 2


def test_revisions_may_be_as_large_as_they_get(store: MetadataStore) -> None:
    commit(store, put_file("a"))
    with store.read(VOLUME) as reader:
        assert list(reader.commits_after(Revision(REVISION_MAX), 10)) == []
        assert reader.commit(Revision(REVISION_MAX)) is None
        assert reader.previous(id_of("a"), Revision(REVISION_MAX)) is None


def test_the_id_of_a_commit_is_known_without_its_entries(store: MetadataStore) -> None:
    commit(store, put_file("a"), put_file("b"))
    commit(store, delete("a", 1))
    with store.read(VOLUME, Revision(1)) as reader:
        second = reader.commit(Revision(2))
        assert second is not None and reader.commit_id(Revision(2)) == second.id
        assert reader.head().commit_id == second.id != reader.commit_id(Revision(1))
        for absent in (0, 3, REVISION_MAX):
            assert reader.commit_id(Revision(absent)) is None
        commit(store, put_file("c"))
        assert reader.commit_id(Revision(3)) is None, "a session sees one state of the store"
    with store.write(VOLUME) as session:
        commit_changes(session, [put_file("d")])
        assert session.commit_id(Revision(4)) == session.head().commit_id
