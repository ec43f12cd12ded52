"""A hundred writers on the same few paths: each acknowledged commit is in the history, once."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from syncline.adapters.system import RandomIds
from syncline.core.changes import (
    Accepted,
    Answer,
    Change,
    Delete,
    Proposal,
    PutDirectory,
    PutFile,
    Refusal,
    RefusalCode,
)
from syncline.core.entries import Entry, Kind
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, EntryId, digest_of
from syncline.core.manifests import single_chunk
from syncline.core.names import Name, RelPath, parse_name
from syncline.errors import LocalFailure
from syncline.rpc.link import GrpcLink
from tests.e2e.history import History, author, linked, proposal, read_content, read_history
from tests.support.processes import command, serving

pytestmark = pytest.mark.process

LINKS = 6
LINK_WRITERS = 92
CLI_WRITERS = 8
COMMITS_EACH = 2
PATHS = [RelPath((Name(b"d%d" % n), Name(b"f%d" % m))) for n in range(2) for m in range(3)]
EXPECTED_REFUSALS = {
    RefusalCode.STALE,
    RefusalCode.NAME_TAKEN,
    RefusalCode.PARENT_GONE,
    RefusalCode.NOT_EMPTY,
    RefusalCode.LOCKED,
}


@dataclass
class Ledger:
    """What the writers were told."""

    acknowledged: list[tuple[Proposal, Answer]] = field(default_factory=list)
    refused: int = 0


async def no_chunks(digest: Digest) -> bytes:
    raise LocalFailure(f"everything is inline, and {digest.hex()} was asked for")


def change_for(
    source: random.Random, path: RelPath, parent: Entry | None, entry: Entry | None, raw: bytes
) -> Change:
    """Return what a writer does next at a path: make what is missing, edit it or delete it."""
    ids = RandomIds()
    if parent is None:
        return PutDirectory(ids.entry(), NO_REVISION, ROOT_ID, path.parts[0], 0o755)
    if entry is not None and source.random() < 0.2:
        return Delete(entry.id, entry.revision)
    id = entry.id if entry else EntryId(ids.entry())
    base = entry.revision if entry else NO_REVISION
    name = parse_name(path.parts[1])
    content = single_chunk(digest_of(raw), len(raw))
    return PutFile(id, base, parent.id, name, 0o644, 0, content)


async def write_by_link(number: int, link: GrpcLink, ledger: Ledger) -> None:
    """Commit some times; look again after each refusal."""
    source = random.Random(number)
    who = author(f"writer {number}")
    done = 0
    while done < COMMITS_EACH:
        path = source.choice(PATHS)
        raw = b"%d of %d" % (done, number)
        parent, located = await link.stat([path.parent, path], None)
        change = change_for(
            source,
            path,
            parent.entry if parent else None,
            located.entry if located else None,
            raw,
        )
        inline = (raw,) if isinstance(change, PutFile) else ()
        wanted = proposal(who, change, inline=inline, wait_s=20.0)
        answer = await link.store(wanted, no_chunks)
        [outcome] = answer.outcomes
        match outcome:
            case Accepted():
                assert not answer.is_replay
                ledger.acknowledged.append((wanted, answer))
                done += 1
            case Refusal():
                assert outcome.code in EXPECTED_REFUSALS, outcome
                ledger.refused += 1


async def write_by_command(number: int, directory: Path, environ: dict[str, str]) -> list[int]:
    """Store a file at shared paths with real processes; return the revisions that they report."""
    revisions: list[int] = []
    while len(revisions) < COMMITS_EACH:
        local = directory / f"local {number}"
        local.write_text(f"{len(revisions)} of process {number}")
        process = await asyncio.create_subprocess_exec(
            *command("store", local, "--to", bytes(PATHS[number % len(PATHS)]), "--json"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
        )
        out, err = await process.communicate()
        # Stale: it tried some times, and each time another writer was faster.
        assert process.returncode in (0, 5), err
        [record] = [json.loads(line) for line in out.splitlines()]
        if process.returncode == 0:
            assert record["result"] == "stored"
            revisions.append(record["revision"])
    return revisions


def check_acknowledged(history: History, ledger: Ledger) -> list[int]:
    """Return the revisions that the writers made.

    Fail unless each is a commit of its writer, with those changes on those bases. The one answer
    that makes no commit is to a delete of what another writer has deleted already.
    """
    made: list[int] = []
    for wanted, answer in ledger.acknowledged:
        commit = history.at(answer.revision)
        [change], [outcome] = wanted.changes, answer.outcomes
        assert isinstance(outcome, Accepted)
        states = {state.revision: state for state in history.states(change.id)}
        if commit.op_id != wanted.op_id:
            assert isinstance(change, Delete)
            assert not states[outcome.revision].is_live
            continue
        made.append(commit.revision)
        assert commit.author == wanted.author
        [state] = commit.entries
        assert (state.id, state.revision) == (change.id, outcome.revision)
        assert outcome.replaced == change.base, "a write went over what its writer had not seen"
        assert change.base == max((r for r in states if r < state.revision), default=0)
        assert state.is_live == (not isinstance(change, Delete))
        if isinstance(change, PutFile):
            assert state.digest == change.content.digest
    return made


async def test_a_hundred_writers(tmp_path: Path) -> None:
    ledger = Ledger()
    by_command: list[asyncio.Task[list[int]]] = []
    with serving(tmp_path / "server") as server:
        environ = server.cli.environ
        links = [GrpcLink(server.address, "default", timeout_s=60.0) for _ in range(LINKS)]
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(LINK_WRITERS):
                    group.create_task(write_by_link(number, links[number % LINKS], ledger))
                for number in range(CLI_WRITERS):
                    task = write_by_command(number, tmp_path, environ)
                    by_command.append(group.create_task(task))
        finally:
            for link in links:
                await link.close()
        async with linked(server.address) as link:
            history = await read_history(link)
            told = check_acknowledged(history, ledger)
            for entry in history.live.values():
                if entry.kind is Kind.FILE:
                    assert entry.content is not None
                    await read_content(link, entry.content)
        server.stop()
        server.assert_sound()

    stored = [revision for task in by_command for revision in task.result()]
    assert len(stored) == CLI_WRITERS * COMMITS_EACH
    assert len(ledger.acknowledged) == LINK_WRITERS * COMMITS_EACH
    assert len({*told, *stored}) == len(told) + len(stored), "two answers name one commit"
    # What no answer names are the directories that commands made on their way.
    unnamed = {commit.revision for commit in history.commits} - {*told, *stored}
    assert all(
        entry.kind is Kind.DIRECTORY for number in unnamed for entry in history.at(number).entries
    )
    assert ledger.refused > LINK_WRITERS, "the writers did not meet"
    authors = [commit.author.replica for commit in history.commits]
    changes = sum(left != right for left, right in pairwise(authors))
    assert changes > len(authors) // 2, "the writers came one after the other"
