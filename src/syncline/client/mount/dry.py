"""What a mount would do: the real scanner, the real feed and the real planner, and nothing done.

Nothing is written into the directory or sent to the server; the state is a copy that goes away.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing

from syncline.client.mount import remote
from syncline.client.mount.halting import cut_halt, denied_halt, volume_halt
from syncline.client.mount.mounted_file import Way
from syncline.client.mount.parts import Parts
from syncline.client.mount.portions import needed
from syncline.client.mount.problems import exceptions_shown, plan_problems
from syncline.client.mount.read import read
from syncline.client.mount.rooting import check
from syncline.client.mount.scan import Scanner
from syncline.client.mount.views import closed_view
from syncline.client.mount.walker import path_wanted
from syncline.core.changes import Change, Delete, Move, PutFile
from syncline.core.identity import NO_REVISION, EntryId
from syncline.core.ignore import BadLine
from syncline.core.plans import (
    Alter,
    Create,
    Exchange,
    KeepCopy,
    Placing,
    Plan,
    Remove,
    SetAside,
)
from syncline.core.reconcile import reconcile
from syncline.core.safety import Halt, check_deletes
from syncline.errors import ProtocolBroken
from syncline.ports.executor import Executor
from syncline.ports.files import Directory
from syncline.ports.link import (
    Committed,
    Effect,
    Heartbeat,
    Link,
    Progress,
    ResetReason,
    SnapshotBegin,
    SnapshotEnd,
    SnapshotPage,
    WatchBegin,
)
from syncline.ports.mount_control import PlannedStep, PlanShown
from syncline.ports.mount_state import MountSession


async def plan_dry(parts: Parts, link: Link, thread: Executor) -> PlanShown:
    """Return what a mount would do now; raises the link's errors and OSError."""
    try:
        halt = await _catch_up(parts, link)
    except remote.HistoryCut as error:
        halt = denied_halt(str(error))
    except remote.FeedMismatch as error:
        raise ProtocolBroken(f"the feed is not the server's table: {error}") from error
    if halt is not None:
        return PlanShown(halt=halt)
    return await thread.run(_plan, parts)


async def _catch_up(parts: Parts, link: Link) -> Halt | None:
    """Take in what the server has now."""
    facts = await link.hello()
    with parts.state.session() as session:
        known = session.facts()
    if known.volume not in (None, facts.volume):
        return volume_halt(facts)
    if known.cursor is not None and known.cursor.revision == facts.head.revision:
        is_same = known.cursor.commit_id == facts.head.commit_id
        return None if is_same else cut_halt(known.cursor, facts.head)
    reason = ResetReason.NEWCOMER
    stream = link.watch(WatchBegin(parts.author, known.cursor), _no_progress())
    assert isinstance(stream, AsyncGenerator), "a stream is closed when it is left"
    async with aclosing(stream) as events:
        async for event in events:
            with parts.state.session() as session:
                match event:
                    case Committed():
                        remote.apply_commit(session, event, parts.author.replica)
                    case SnapshotBegin(reason, head):
                        if reason is ResetReason.HISTORY_CUT and known.cursor is not None:
                            return cut_halt(known.cursor, head)
                        remote.begin_snapshot(session)
                    case SnapshotPage(entries):
                        remote.add_page(session, entries)
                    case SnapshotEnd(head):
                        remote.end_snapshot(session, head, reason)
                    case Heartbeat():
                        pass
                cursor = session.facts().cursor
            if cursor is not None and cursor.revision >= facts.head.revision:
                return None
    return None


async def _no_progress() -> AsyncIterator[Progress]:
    """Say nothing: nothing is placed."""
    nothing: tuple[Progress, ...] = ()
    for progress in nothing:
        yield progress


def _plan(parts: Parts) -> PlanShown:
    with parts.state.session() as session:
        facts = session.facts()
        if facts.root is not None:
            halt = check(parts.files, facts.root, session.base_count(), parts.limits)
            if halt is not None:
                return PlanShown(halt=halt)
        root = parts.files.open_root()
        try:
            bad_rules = _scan(parts, session, root)
        finally:
            root.close()
        view = closed_view(session, parts.ids.entry(), has_case=parts.mount.abilities.has_case)
        plan = reconcile(view, parts.mount)
        problems = [problem for _, problem in plan_problems(session, plan.problems)]
        steps = [*_uploads(session, plan), *_downloads(session, plan.placing)]
        return PlanShown(
            tuple(steps),
            (*problems, *exceptions_shown(session, bad_rules)),
            check_deletes(
                plan.deletes,
                plan.removals,
                _confirmed(session, plan),
                session.base_count(),
                parts.limits,
            ),
        )


def _scan(
    parts: Parts, session: MountSession, root: Directory
) -> Mapping[EntryId, Sequence[BadLine]]:
    """Record what is in the mount; return the lines of ignore rules that mean nothing."""
    scanner = Scanner(root, parts.watcher, parts.ids, parts.clock)
    looked = scanner.look_everywhere(session)
    while looked.readings or looked.is_cut:
        with Way(root) as way:
            results = [read(way, each, parts.chunker, parts.clock) for each in looked.readings]
        scanner.record(session, results)
        looked = scanner.look(session, ())
    return scanner.bad_rules


def _confirmed(session: MountSession, plan: Plan) -> int:
    removed = [action.id for action in plan.placing if isinstance(action, Remove)]
    return sum(session.is_confirmed(id) for id in removed)


# -- for people ------------------------------------------------------------------


def _uploads(session: MountSession, plan: Plan) -> list[PlannedStep]:
    changes = [change for unit in plan.sending for change in unit.changes]
    return [_upload(session, change) for change in changes]


def _upload(session: MountSession, change: Change) -> PlannedStep:
    match change:
        case Delete(id):
            known = session.remote(id)
            assert known is not None, "what the server never had is not deleted there"
            path = path_wanted(session, (known.parent, known.name))
            return PlannedStep(True, Effect.DELETED, path)
        case Move(id, _, parent, name):
            known = session.remote(id)
            assert known is not None, "what the server never had is not moved there"
            old = path_wanted(session, (known.parent, known.name))
            path = path_wanted(session, (parent, name))
            return PlannedStep(True, Effect.MOVED, path, old_path=old)
        case _:
            effect = Effect.CREATED if change.base == NO_REVISION else Effect.CHANGED
            size = change.content.size if isinstance(change, PutFile) else 0
            return PlannedStep(
                True, effect, path_wanted(session, (change.parent, change.name)), size
            )


def _downloads(session: MountSession, actions: Sequence[Placing]) -> list[PlannedStep]:
    return [step for action in actions for step in _download(session, action)]


def _download(session: MountSession, action: Placing) -> list[PlannedStep]:
    content = needed(action)
    size = content.size if content is not None else 0
    match action:
        case Create(_, wanted) | KeepCopy(_, _, _, wanted):
            path = path_wanted(session, wanted.place)
            return [PlannedStep(False, Effect.CREATED, path, size)]
        case Remove(_, expected):
            return [PlannedStep(False, Effect.DELETED, path_wanted(session, expected.place))]
        case Alter(_, expected, wanted):
            path = path_wanted(session, wanted.place)
            if expected.place == wanted.place:
                return [PlannedStep(False, Effect.CHANGED, path, size)]
            old = path_wanted(session, expected.place)
            return [PlannedStep(False, Effect.MOVED, path, size, old)]
        case Exchange(first, second):
            return [*_download(session, first), *_download(session, second)]
        case SetAside():
            return []
