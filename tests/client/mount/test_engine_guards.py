"""What an engine does at rare moments: its root goes meanwhile, work is cut, lanes are full."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from syncline.client.mount import engine, phases, portions
from syncline.client.mount.contents import Contents
from syncline.client.mount.engine import REPAIRS_MAX
from syncline.client.mount.place import Applier, Placed
from syncline.client.mount.scan import Budget, Scanner
from syncline.client.mount.staged_content import StagedContent
from syncline.core.changes import Change, Proposal, PutFile
from syncline.core.conflict_names import is_conflict_name
from syncline.core.identity import Digest
from syncline.core.plans import Placing
from syncline.core.safety import HaltReason
from syncline.errors import Throttled, Unavailable
from syncline.ports.link import Committed, WatchEvent
from syncline.ports.mount_control import MountPhase, ResumeEnd, WaitEnd
from syncline.ports.mount_state import MountSession
from tests.support.scenes import Player, Scene, large_content, run_scene, simulated
from tests.support.simulation.disk import Operation
from tests.support.simulation.machines import Settings, crash_here
from tests.support.simulation.user_side import User

LARGE = large_content(1)

LACKING = "lacking"
"""Stands at the end of a slice for each content that was not there."""


async def pair(scene: Scene, count: int = 4) -> tuple[Player, Player]:
    """Return two mounts with so many files."""
    ann, bob = scene.add("ann"), scene.add("bob")
    for number in range(count):
        ann.user.write(b"file %d" % number, b"%d" % number)
    await scene.rest(ann, bob)
    return ann, bob


def is_large(change: Change) -> bool:
    return isinstance(change, PutFile) and change.content.size == len(LARGE)


# -- the root ------------------------------------------------------------------------


@simulated
async def test_what_leaves_the_root_with_its_marker_during_a_look_is_not_deleted(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    kept, head = ann.contents(), scene.head
    await ann.bury(power_loss=False)
    top = User(ann.disk)
    top.mkdir(b"away")
    names = [b".syncline", *kept]

    def empty(operation: Operation) -> None:
        if (operation.name, operation.path) == ("list", b"mount") and ann.user.exists(b".syncline"):
            for name in names:
                top.rename(b"mount/" + name, b"away/" + name)

    ann.disk.before = empty
    ann.start(scene.group)
    await scene.until(lambda: ann.status.halt is not None, "it halts")
    ann.disk.before = None
    halt = ann.status.halt
    assert halt is not None
    assert halt.reason is HaltReason.ROOT_REPLACED
    with ann.state.session() as session:
        # Nothing of what the look saw was recorded.
        assert session.dirty_count() == 0
    await scene.passes(10.0)
    assert (scene.head, bob.contents()) == (head, kept)
    for name in names:
        top.rename(b"away/" + name, b"mount/" + name)
    await scene.rest(ann, bob)
    assert (scene.head, ann.contents(), bob.contents()) == (head, kept, kept)


@simulated
async def test_who_resumes_at_the_moment_when_the_root_is_back_comes_too_late(
    scene: Scene,
) -> None:
    ann, _ = await pair(scene)
    top = User(ann.disk)
    top.rename(b"mount", b"away")
    top.mkdir(b"mount")
    assert (await ann.mount.wait(30.0)).end is WaitEnd.HALTED
    halt = ann.status.halt
    assert halt is not None
    assert halt.reason is HaltReason.ROOT_REPLACED
    asked: list[asyncio.Task[ResumeEnd]] = []

    async def resume() -> ResumeEnd:
        return (await ann.mount.resume(halt)).end

    def ask(operation: Operation) -> None:
        # The root was found well, and who waits for that has not heard of it yet.
        if operation.name == "claim":
            asked.append(scene.group.create_task(resume()))

    with ann.state.session() as session:
        known = session.facts().root
    ann.disk.before = ask
    top.rmdir(b"mount")
    top.rename(b"away", b"mount")
    await scene.rest(ann)
    ann.disk.before = None
    assert [each.result() for each in asked] == [ResumeEnd.NOT_HALTED]
    with ann.state.session() as session:
        assert session.facts().root == known
        assert session.base_count() == 4


# -- slices --------------------------------------------------------------------------


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let a slice be full with one action; return what is placed in each of them, by kind."""
    noted: list[list[str]] = []

    class NotedApplier(Applier):
        def place(
            self,
            session: MountSession,
            actions: Sequence[Placing],
            contents: Mapping[Digest, StagedContent],
        ) -> Placed:
            kinds = [type(action).__name__ for action in actions]
            noted.append(kinds)
            placed = super().place(session, actions, contents)
            kinds += [LACKING for _ in placed.lacking]
            return placed

    monkeypatch.setattr(portions, "SLICE_ACTIONS_MAX", 1)
    monkeypatch.setattr(phases, "Applier", NotedApplier)
    return noted


async def away(scene: Scene, player: Player) -> None:
    """Let a mount be without its server."""
    player.network.is_up = False
    await scene.until(lambda: not player.status.is_connected, "it is noticed")


def test_a_conflict_copy_is_in_one_slice_with_the_change_of_its_source(
    slices: list[list[str]],
) -> None:
    async def play(scene: Scene) -> None:
        ann, bob = await pair(scene)
        await away(scene, bob)
        inode = bob.user.inode(b"file 0").number
        bob.user.write(b"file 0", b"bob's")
        for number in range(4):
            ann.user.write(b"file %d" % number, b"ann's")
        await scene.rest(ann)
        slices.clear()
        bob.network.is_up = True
        await scene.rest(ann, bob)
        # The copy at ann's mount, which is sent by bob's, is the last one.
        assert sorted(slices) == [["Alter"]] * 3 + [["Create"], ["KeepCopy", "Alter"]]
        assert ann.contents() == bob.contents()
        [copy] = [path for path in bob.contents() if is_conflict_name(path)]
        assert (bob.contents()[copy], bob.contents()[b"file 0"]) == (b"bob's", b"ann's")
        # A writer who still has it open writes into the copy.
        assert bob.user.inode(copy).number == inode
        with bob.state.session() as session:
            assert not session.intents()

    run_scene(play)


def test_what_is_set_aside_is_in_one_slice_with_its_change(slices: list[list[str]]) -> None:
    async def play(scene: Scene) -> None:
        ann, bob = await pair(scene)
        await away(scene, ann)
        ring = [b"spare", *(b"file %d" % number for number in range(3)), b"spare"]
        for new, old in pairwise(ring):
            # Each is seen by itself, and all are sent at once.
            ann.user.rename(old, new)
            await scene.passes(1.0)
        slices.clear()
        ann.network.is_up = True
        await scene.rest(ann, bob)
        assert slices == [["SetAside", "Alter", "Alter", "Alter"]]
        assert bob.contents() == {
            b"file 0": b"1",
            b"file 1": b"2",
            b"file 2": b"0",
            b"file 3": b"3",
        }

    run_scene(play)


@pytest.mark.parametrize("swaps", [1, 2], ids=["first slice", "later slice"])
def test_what_was_placed_before_a_crash_is_no_edit_of_the_user(
    swaps: int, slices: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both slices are of one plan.
    monkeypatch.setattr(engine, "REPLAN_SHARE", 1_000.0)

    async def play(scene: Scene) -> None:
        ann, bob = scene.add("ann"), scene.add("bob", Settings(read_s=10.0))
        for number in range(swaps):
            ann.user.write(b"file %d" % number, b"first")
        await scene.rest(ann, bob)
        await away(scene, bob)
        for number in range(swaps):
            ann.user.write(b"file %d" % number, b"second")
        await scene.rest(ann)
        swapped: list[bytes] = []

        def crash(operation: Operation) -> None:
            if len(swapped) == swaps:
                bob.die()
                crash_here(operation)
            if operation.name == "exchange":
                swapped.append(operation.path)

        slices.clear()
        bob.disk.before = crash
        bob.network.is_up = True
        await scene.until(lambda: not bob.is_running, "it crashes")
        bob.disk.before = None
        await bob.bury(power_loss=False)
        assert slices == [["Alter"]] * swaps
        assert set(bob.contents().values()) == {b"second"}
        for number in range(swaps):
            ann.user.write(b"file %d" % number, b"third")
        await scene.rest(ann)
        # So many files take a while to read: the server is heard before anything is planned.
        others = {b"new %d" % number: b"new" for number in range(phases.READ_AT_ONCE_MAX + 1)}
        for path, content in others.items():
            bob.user.write(path, content)
        bob.start(scene.group)
        await scene.rest(ann, bob)
        assert bob.contents() == {
            **others,
            **{b"file %d" % number: b"third" for number in range(swaps)},
        }

    run_scene(play)


# -- looking -------------------------------------------------------------------------


def test_a_look_at_everything_that_was_cut_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Budget(readings=5, names=10)
    monkeypatch.setattr(phases, "Scanner", partial(Scanner, budget=budget))

    async def play(scene: Scene) -> None:
        ann, bob = await pair(scene, 0)
        await ann.bury(power_loss=False)
        for number in range(60):
            ann.user.write(b"file %d" % number, b"%d" % number)
        ann.start(scene.group)
        await scene.rest(ann, bob)
        assert ann.contents() == bob.contents()
        assert len(bob.contents()) == 60

    run_scene(play)


def test_a_look_at_what_is_known_goes_on_although_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phases, "Scanner", partial(Scanner, budget=Budget(names=10)))

    async def play(scene: Scene) -> None:
        ann, _ = await pair(scene, 0)
        paths = [b"%d" % number for number in range(30)]
        for path in paths:
            ann.user.mkdir(path)
        await scene.rest(ann)
        await ann.bury(power_loss=False)
        ann.network.is_up = False
        listed: list[bytes] = []

        def note(operation: Operation) -> None:
            if operation.name == "list" and b".syncline" not in operation.path:
                listed.append(operation.path.removeprefix(b"mount/"))

        ann.disk.before = note
        ann.start(scene.group)
        await scene.until(
            lambda: ann.is_in(MountPhase.CONNECTING), "all was looked at", within_s=1.0
        )
        assert sorted(listed) == sorted([b"mount", *paths])
        await scene.passes(60.0)
        assert len(listed) == 31
        ann.network.is_up = True
        await scene.rest(ann)

    run_scene(play)


@simulated
async def test_what_cannot_be_read_is_told_to_who_waits(scene: Scene) -> None:
    ann, _ = await pair(scene)
    ann.disk.fail(errno.EIO, path=b"mount/broken", times=None)
    ann.user.write(b"broken", b"new")
    result = await ann.mount.wait(60.0)
    assert result.end is WaitEnd.PROBLEMS
    assert [bytes(problem.path) for problem in result.status.problems] == [b"broken"]
    ann.disk.heal()
    await scene.rest(ann)
    assert (await ann.mount.wait(60.0)).end is WaitEnd.IN_SYNC


# -- sending -------------------------------------------------------------------------


@simulated
async def test_large_content_is_sent_when_its_directory_is_there(scene: Scene) -> None:
    ann, bob = await pair(scene)
    await away(scene, ann)
    revisions: list[int] = []

    def note(proposal: Proposal) -> None:
        if any(is_large(change) for change in proposal.changes):
            revisions.append(scene.head)

    ann.way.before_store = note
    before = scene.head
    ann.user.mkdir(b"new")
    ann.user.write(b"new/large", LARGE)
    await scene.until(lambda: ann.status.pending_up == 2, "both are known")
    ann.network.is_up = True
    await scene.rest(ann, bob)
    assert revisions == [before + 1]
    assert bob.contents()[b"new/large"] == LARGE


@simulated
async def test_few_large_contents_are_sent_at_a_time(scene: Scene) -> None:
    ann, _ = await pair(scene)
    ann.network.most_s = 1.0
    before, begun = scene.head, 0
    under_way: list[int] = []

    def note(proposal: Proposal) -> None:
        nonlocal begun
        begun += any(is_large(change) for change in proposal.changes)
        under_way.append(begun - (scene.head - before))

    ann.way.before_store = note
    for number in range(6):
        ann.user.write(b"large %d" % number, large_content(number))
    await scene.rest(ann)
    assert (begun, max(under_way)) == (6, 2)


@simulated
async def test_a_large_file_that_changes_while_it_is_sent_is_looked_at_without_a_watch(
    scene: Scene,
) -> None:
    ann, bob = scene.add("ann", Settings(watch_limit=0)), scene.add("bob")
    await scene.rest(ann, bob)
    assert ann.status.is_watch_degraded
    changed: list[float] = []

    def change(proposal: Proposal) -> None:
        if proposal.changes and not changed:
            changed.append(scene.now_s)
            ann.user.write(b"large", large_content(2))

    ann.way.before_store = change
    ann.user.write(b"large", LARGE)
    await scene.until(lambda: bool(changed), "it is on its way")
    took_s = await scene.until(lambda: b"large" in bob.contents(), "it arrives")
    assert bob.contents() == {b"large": large_content(2)}
    # Far less than a look at everything would take to come.
    assert took_s < 5.0


@pytest.mark.parametrize("is_sending", [True, False], ids=["sending", "receiving"])
def test_another_connection_is_used_at_once_after_long_trouble(is_sending: bool) -> None:
    async def play(scene: Scene) -> None:
        ann, bob = await pair(scene)
        troubled = ann if is_sending else bob
        troubled.way.store_error = Throttled("too much")
        troubled.way.fetch_error = Unavailable("it is away")
        ann.user.write(b"new", b"new" * 50_000)
        await scene.passes(60.0)
        assert b"new" not in bob.contents()
        await away(scene, troubled)
        troubled.way.store_error = troubled.way.fetch_error = None
        troubled.network.is_up = True
        await scene.until(lambda: troubled.status.is_connected, "it is back")
        await scene.until(lambda: b"new" in bob.contents(), "it arrives", within_s=1.0)
        await scene.rest(ann, bob)

    run_scene(play)


@simulated
async def test_no_note_is_kept_of_what_was_planned_while_the_link_went(scene: Scene) -> None:
    ann, _ = await pair(scene)
    for number in range(40):
        ann.user.write(b"file 0", b"%d" % number * 9)
        await scene.passes(0.0005 * number)
        await scene.server.stop()
        await scene.until(lambda: not ann.status.is_connected, "it is noticed")
        await scene.server.start(scene.group)
        await scene.rest(ann)
    await scene.passes(700.0)
    ann.user.write(b"file 0", b"the last")
    await scene.rest(ann)
    with ann.state.session() as session:
        assert not session.all_sent()


# -- receiving -----------------------------------------------------------------------


@simulated
async def test_large_content_that_is_deleted_meanwhile_is_not_fetched_further(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    bob.network.most_s = 2.0
    content = b"".join(large_content(number) for number in range(10))
    ann.user.write(b"large", content)
    await scene.until(lambda: bob.way.fetched_bytes > 0, "it is on its way")
    ann.user.unlink(b"large")
    await scene.rest(ann, bob)
    assert bob.way.fetched_bytes < len(content) // 2
    assert not bob.status.transfers
    await scene.until(lambda: not bob.own(b"staging"), "nothing is left of it")


@simulated
async def test_news_do_not_end_the_pause_of_large_content(scene: Scene) -> None:
    ann, bob = await pair(scene)
    bob.way.fetch_error = Unavailable("it is away")
    ann.user.write(b"large", LARGE)
    await scene.until(lambda: bob.way.fetches > 0, "it is tried")
    for number in range(40):
        ann.user.write(b"file 0", b"%d" % number)
        await scene.passes(0.5)
    assert bob.contents()[b"file 0"] == b"39"
    assert bob.way.fetches <= 12
    bob.way.fetch_error = None
    await scene.rest(ann, bob)
    assert bob.contents()[b"large"] == LARGE


def test_contents_for_a_plan_that_was_given_up_are_not_those_of_the_next_one(
    slices: list[list[str]],
) -> None:
    async def play(scene: Scene) -> None:
        ann, bob = await pair(scene)
        bob.network.most_s = 1.0
        for number in range(12):
            for file in range(4):
                # More than the feed brings along.
                ann.user.write(b"file %d" % file, b"%d %d " % (number, file) * 20_000)
            await scene.passes(0.4)
            if number % 4 == 3:
                await scene.rest(ann, bob, within_s=30.0)
                assert ann.contents() == bob.contents()
        assert len(slices) >= 8
        assert not any(LACKING in each for each in slices)

    run_scene(play)


# -- the feed ------------------------------------------------------------------------


async def with_one_wrong_commit(scene: Scene, player: Player, act: Callable[[], None]) -> None:
    """Let a mount come to rest with what is done by `act`, whose commit is told wrongly once."""
    wrong: list[WatchEvent] = []

    async def once(event: WatchEvent) -> WatchEvent:
        if wrong or not isinstance(event, Committed):
            return event
        wrong.append(event)
        digest = event.commit.table_digest ^ 1
        return replace(event, commit=replace(event.commit, table_digest=digest))

    player.way.event = once
    act()
    await scene.rest(player)
    assert wrong
    assert player.way.begins[-1].cursor is None


@simulated
async def test_mismatches_that_were_mended_long_ago_do_not_count(scene: Scene) -> None:
    ann, bob = await pair(scene)
    errors: set[str | None] = set()

    async def note_errors() -> None:
        while True:
            errors.add(bob.status.connection_error)
            await scene.passes(0.02)

    noting = scene.group.create_task(note_errors())
    for number in range(REPAIRS_MAX + 2):
        write = partial(ann.user.write, b"file 0", b"%d" % number * 9)
        await with_one_wrong_commit(scene, bob, write)
        ann.user.write(b"file 1", b"%d" % number * 9)
        await scene.rest(ann, bob)
    noting.cancel()
    assert errors == {None}


@simulated
async def test_an_edit_of_what_was_deleted_is_sent_although_no_tombstone_was_told(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    await away(scene, bob)
    bob.user.write(b"file 0", b"edited")
    await scene.until(lambda: bob.status.pending_up == 1, "the edit is known")
    ann.user.unlink(b"file 0")
    await scene.rest(ann)
    sent = len(bob.way.proposals)

    def connect() -> None:
        bob.network.is_up = True

    await with_one_wrong_commit(scene, bob, connect)
    await scene.rest(ann, bob)
    assert ann.contents() == bob.contents()
    assert bob.contents()[b"file 0"] == b"edited"
    assert len(bob.way.proposals) - sent == 2


def test_a_mount_at_rest_holds_no_contents(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Contents] = []

    class NotedContents(Contents):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(engine, "Contents", NotedContents)

    async def play(scene: Scene) -> None:
        ann, bob = await pair(scene)
        used: list[int] = []

        def note(proposal: Proposal) -> None:
            used.append(sum(each.used_bytes for each in made))

        ann.way.before_store = note
        ann.user.write(b"file 0", b"kept until it is sent")
        await scene.rest(ann, bob)
        assert all(used)
        assert [each.used_bytes for each in made] == [0, 0]

    run_scene(play)


@simulated
async def test_a_wait_is_for_the_mode_as_well_when_the_content_comes_from_elsewhere(
    scene: Scene,
) -> None:
    ann, bob = await pair(scene)
    bob.way.store_error = Throttled("too much")
    bob.network.most_s = 1.0
    bob.user.chmod(b"file 0", 0o600)
    ann.user.write(b"file 0", LARGE)
    await scene.until(lambda: bob.way.fetches > 0, "it is on its way")
    async with asyncio.TaskGroup() as group:
        wait = group.create_task(bob.mount.wait(60.0))
        await scene.until(lambda: bob.contents()[b"file 0"] == LARGE, "it is placed")
        await scene.passes(5.0)
        assert not wait.done()
        bob.way.store_error = None
    assert wait.result().end is WaitEnd.IN_SYNC
    await scene.rest(ann, bob)
    assert ann.user.tree()[b"file 0"].mode == 0o600
