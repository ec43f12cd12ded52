"""Deciding against a model: the same rules said again by brute force.

The model tries each change on the whole table and looks whether what comes out is a tree (K2). It
knows no NOT_EMPTY, CYCLE, PARENT_GONE or NAME_TAKEN: each of them must follow from K2 alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.core.changes import (
    Accepted,
    Change,
    Delete,
    Move,
    PutDirectory,
    PutFile,
    PutLink,
    Refusal,
    RefusalCode,
)
from syncline.core.commits import decide
from syncline.core.entries import LINK_MODE, Entry, Kind, tombstone
from syncline.core.identity import ROOT_ID, EntryId, Revision
from syncline.core.names import Name
from syncline.core.table import advance_digest, path_of
from tests.support.tables import DictTable
from tests.support.trees import content_of, directory, file, id_of, link

IDS = [id_of(label) for label in ("p", "q", "r", "s", "t", "u", "v")]
NAMES = [Name(raw) for raw in (b"x", b"y", b"z", b".syncline")]
States = dict[EntryId, Entry]


@dataclass(frozen=True, slots=True)
class Intent:
    """A change before its base is known; `drift` is how far off the base will be."""

    verb: str
    who: int
    parent: int
    name: int
    kind: int
    content: int
    drift: int

    def against(self, table: DictTable) -> Change:
        id = IDS[self.who]
        known = table.entry(id)
        base = Revision(max(0, (known.revision if known else 0) + self.drift))
        parent = ROOT_ID if self.parent == len(IDS) else IDS[self.parent]
        name = NAMES[self.name]
        if self.verb == "delete":
            return Delete(id, base)
        if self.verb == "move":
            return Move(id, base, parent, name)
        if self.verb == "edit" and known is not None:
            parent, name = known.parent, known.name
        if self.kind == 0:
            content = content_of(bytes([self.content]))
            return PutFile(id, base, parent, name, 0o600 + self.content, self.content, content)
        if self.kind == 1:
            return PutDirectory(id, base, parent, name, 0o700 + self.content)
        return PutLink(id, base, parent, name, self.content, bytes([65 + self.content]))


@st.composite
def intents(draw: st.DrawFn) -> Intent:
    who = draw(st.integers(0, len(IDS) - 1))
    # Most ids are directories for life, so that trees become deep; now and then a kind is wrong.
    usual = (1, 1, 1, 1, 0, 0, 2)[who]
    return Intent(
        draw(st.sampled_from(["put", "put", "edit", "move", "move", "delete"])),
        who,
        draw(st.integers(0, len(IDS))),
        draw(st.sampled_from([0, 0, 0, 1, 1, 2, 3])),
        draw(st.sampled_from([usual] * 9 + [0, 1, 2])),
        draw(st.integers(0, 1)),
        draw(st.sampled_from([0] * 9 + [-1, 1])),
    )


def wanted_state(change: PutFile | PutDirectory | PutLink) -> Entry:
    bare = Entry(
        change.id,
        Revision(0),
        change.parent,
        change.name,
        Kind.DIRECTORY,
        0,
        0,
        None,
        None,
    )
    match change:
        case PutDirectory():
            return replace(bare, mode=change.mode)
        case PutLink():
            return replace(
                bare,
                kind=Kind.LINK,
                mode=LINK_MODE,
                mtime_ns=change.mtime_ns,
                target=change.target,
            )
        case PutFile():
            return replace(
                bare,
                kind=Kind.FILE,
                mode=change.mode,
                mtime_ns=change.mtime_ns,
                content=change.content,
            )


def is_tree(states: States) -> bool:
    """Tell whether K2 and the reserved name hold for a whole table."""
    live = [state for state in states.values() if state.is_live]
    places = {(state.parent, state.name) for state in live}
    if len(places) < len(live) or (ROOT_ID, b".syncline") in places:
        return False
    for state in live:
        seen: set[EntryId] = set()
        parent = state.parent
        while parent != ROOT_ID:
            above = states.get(parent)
            if parent in seen or above is None:
                return False
            if not above.is_live or above.kind is not Kind.DIRECTORY:
                return False
            seen.add(parent)
            parent = above.parent
    return True


def tried(states: States, start: States, change: Change) -> States | None:
    """Return the table after a change; None where it is refused."""
    now = states.get(change.id)
    then = start.get(change.id)
    if isinstance(change, Delete) and now is not None and not now.is_live:
        return states
    if change.base != (then.revision if then else 0):
        return None
    match change:
        case Delete():
            if now is None:
                return None
            new = tombstone(now, Revision(0))
        case Move():
            if now is None or not now.is_live:
                return None
            new = replace(now, parent=change.parent, name=change.name)
        case _:
            new = wanted_state(change)
            if now is not None and now.kind is not new.kind:
                return None
            place = (new.parent, new.name)
            if now is not None and now.is_live and (now.parent, now.name) != place:
                return None
    after = states | {change.id: new}
    return after if is_tree(after) else None


def visible(states: States) -> States:
    """Return the live states without their revisions: what a user could see."""
    return {
        id: replace(state, revision=Revision(0)) for id, state in states.items() if state.is_live
    }


def grown() -> DictTable:
    """Return a table to start from: p/q/r, each with something in it."""
    return DictTable(
        [
            directory("p", "/", b"x"),
            directory("q", "p", b"x"),
            directory("r", "q", b"x"),
            file("t", "q", b"y"),
            file("u", "r", b"y"),
            link("v", "p", b"y"),
        ]
    )


commits = st.lists(st.tuples(st.lists(intents(), max_size=9), st.booleans()), max_size=7)


@settings(max_examples=200)
@given(st.sampled_from([DictTable, grown]), commits)
def test_decide_agrees_with_the_model(
    begin: Callable[[], DictTable], plan: list[tuple[list[Intent], bool]]
) -> None:
    table = begin()
    digest = table.digest()
    revision = Revision(1)
    for asked, is_atomic in plan:
        start = dict(table.states)
        changes = [intent.against(table) for intent in asked]
        revision = Revision(revision + 1)

        expected = start
        accepted = []
        for change in changes:
            after = tried(expected, start, change)
            accepted.append(after is not None)
            expected = expected if after is None else after
        if is_atomic and not all(accepted):
            expected = start

        decision = decide(table, changes, revision, is_atomic=is_atomic)
        assert decide(table, changes, revision, is_atomic=is_atomic) == decision
        refused = [
            isinstance(outcome, Refusal) and outcome.code is not RefusalCode.ATOMIC
            for outcome in decision.outcomes
        ]
        assert refused == [not good for good in accepted]
        table.apply(decision)

        assert is_tree(table.states)
        assert visible(table.states) == visible(expected)
        changed = {
            id
            for id in table.states.keys() | start.keys()
            if visible(table.states).get(id) != visible(start).get(id)
        }
        assert {entry.id for entry in decision.entries} == changed
        assert len(decision.entries) == len(changed)
        assert all(entry.revision == revision for entry in decision.entries)

        digest = advance_digest(digest, decision.replaced, decision.entries)
        assert digest == table.digest()
        for state in table.states.values():
            path_of(table, state)
        for change, outcome in zip(changes, decision.outcomes, strict=True):
            now = table.entry(change.id)
            if isinstance(outcome, Accepted):
                assert outcome.revision == (now.revision if now else 0)
            elif outcome.current is not None:
                assert table.entry(outcome.current.id) == outcome.current


@given(commits)
def test_k5_an_atomic_commit_is_all_or_nothing(plan: list[tuple[list[Intent], bool]]) -> None:
    table = grown()
    for revision, (asked, _) in enumerate(plan, 2):
        changes = [intent.against(table) for intent in asked]
        loose = decide(table, changes, Revision(revision))
        strict = decide(table, changes, Revision(revision), is_atomic=True)
        if any(isinstance(outcome, Refusal) for outcome in loose.outcomes):
            assert strict.is_empty
            assert all(isinstance(outcome, Refusal) for outcome in strict.outcomes)
        else:
            assert strict == loose
        table.apply(loose)


@given(commits)
def test_k4_the_same_table_asked_for_again_changes_nothing(
    plan: list[tuple[list[Intent], bool]],
) -> None:
    table = grown()
    for revision, (asked, is_atomic) in enumerate(plan, 2):
        changes = [intent.against(table) for intent in asked]
        table.apply(decide(table, changes, Revision(revision), is_atomic=is_atomic))
    again: list[Change] = []
    for state in table.live():
        base = (state.id, state.revision)
        place = (state.parent, state.name)
        again.append(Move(*base, *place))
        if state.content is not None:
            again.append(PutFile(*base, *place, state.mode, state.mtime_ns, state.content))
        elif state.target is not None:
            again.append(PutLink(*base, *place, state.mtime_ns, state.target))
        else:
            again.append(PutDirectory(*base, *place, state.mode))
    again += [Delete(state.id, Revision(1)) for state in table.states.values() if not state.is_live]
    decision = decide(table, again, Revision(len(plan) + 2))
    assert decision.is_empty
    for change, outcome in zip(again, decision.outcomes, strict=True):
        state = table.states[change.id]
        assert outcome == Accepted(state.revision, state.revision)
