"""`kill -9` of the server at random moments of a storm of STOREs: stored means stored.

SYNCLINE_STORM_SEED repeats a storm: the contents, the paths and the moments of the kills. What the
scheduler does between them stays its own.
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from syncline.client.steady import Backoff, Steady
from syncline.core.changes import Accepted, Answer, Author, Proposal, PutFile, Refusal, RefusalCode
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    NO_REVISION,
    ROOT_ID,
    Digest,
    EntryId,
    OpId,
    ReplicaId,
    Revision,
    digest_of,
)
from syncline.core.manifests import (
    INLINE_BYTES_MAX,
    ChunkRef,
    Content,
    build_content,
    single_chunk,
)
from syncline.core.names import Name
from syncline.errors import Unavailable
from syncline.rpc.link import GrpcLink
from tests.e2e.history import History, linked, read_content, read_history
from tests.support.processes import Server, serving
from tests.support.wait import eventually

pytestmark = pytest.mark.process

CLIENTS = 6
SHARED_NAMES = 3
SEED_VARIABLE = "SYNCLINE_STORM_SEED"
REPEATED = "tests/e2e/test_kill_storm.py"


@dataclass(frozen=True)
class Acknowledged:
    """A STORE that the server answered with a new revision."""

    op_id: OpId
    author: Author
    entry: EntryId
    revision: Revision
    content: Content


@dataclass
class Storm:
    """What all clients have in common."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    is_over: bool = False
    replays: int = 0
    breaks: int = 0
    refused: int = 0


class StormClient:
    """Stores as fast as it can, in a file of its own and in files of all."""

    def __init__(self, number: int, seed: int, link: GrpcLink, storm: Storm) -> None:
        self._random = random.Random(seed * 1000 + number)
        self._author = Author(ReplicaId(self._random.randbytes(16)), f"client {number}")
        self._names = [b"own %d" % number, *(b"shared %d" % n for n in range(SHARED_NAMES))]
        self._known: dict[bytes, Entry] = {}
        self._link = link
        self._storm = storm

    async def run(self) -> None:
        while not self._storm.is_over:
            await self._store_one(self._random.choice(self._names))

    async def _store_one(self, name: bytes) -> None:
        content, chunks = self._content()
        known = self._known.get(name)
        put = PutFile(
            known.id if known else EntryId(self._random.randbytes(16)),
            known.revision if known else NO_REVISION,
            ROOT_ID,
            Name(name),
            0o644,
            self._random.randrange(2**60),
            content,
        )
        is_inline = content.size <= INLINE_BYTES_MAX and self._random.random() < 0.8
        proposal = Proposal(
            self._author,
            OpId(self._random.randbytes(16)),
            (put,),
            {content.digest: chunks[content.digest]} if is_inline and content.size else {},
            wait_s=5.0,
        )

        async def source(digest: Digest) -> bytes:
            return chunks[digest]

        async def send() -> Answer:
            try:
                return await self._link.store(proposal, source)
            except Unavailable:
                self._storm.breaks += 1
                raise

        # The same proposal with the same op id, until the server is there and answers.
        steady = Steady(60.0, Backoff(0.02, 0.2, self._random.random))
        steady.progress()
        answer = await steady.run(send)
        self._storm.replays += answer.is_replay
        [outcome] = answer.outcomes
        match outcome:
            case Accepted():
                self._known[name] = Entry(
                    put.id,
                    outcome.revision,
                    put.parent,
                    put.name,
                    Kind.FILE,
                    put.mode,
                    put.mtime_ns,
                    content,
                    None,
                )
                self._storm.acknowledged.append(
                    Acknowledged(proposal.op_id, self._author, put.id, outcome.revision, content)
                )
            case Refusal(code=RefusalCode.STALE | RefusalCode.NAME_TAKEN | RefusalCode.LOCKED):
                self._storm.refused += 1
                if outcome.current is not None:
                    self._known[name] = outcome.current
            case Refusal():
                raise AssertionError(f"nobody did anything to be refused for: {outcome}")

    def _content(self) -> tuple[Content, dict[Digest, bytes]]:
        """Return new content, small or of several chunks, and its chunks."""
        if self._random.random() < 0.7:
            raw = self._random.randbytes(self._random.choice((0, 100, 5_000, INLINE_BYTES_MAX)))
            digest = digest_of(raw)
            return single_chunk(digest, len(raw)), {digest: raw}
        parts = [
            self._random.randbytes(self._random.randrange(1, 300_000))
            for _ in range(self._random.randrange(1, 6))
        ]
        refs = [ChunkRef(digest_of(part), len(part)) for part in parts]
        whole = b"".join(parts)
        content, pieces = build_content(digest_of(whole), len(whole), refs)
        chunks = {ref.digest: part for ref, part in zip(refs, parts, strict=True)}
        return content, chunks | pieces | {content.digest: whole}


async def acknowledged(storm: Storm, count: int) -> None:
    """Return when so many STOREs were acknowledged."""
    await eventually(lambda: len(storm.acknowledged) >= count, f"answers: {count}", timeout_s=60.0)


async def kill_often(server: Server, storm: Storm, source: random.Random, kills: int) -> None:
    """Kill and restart the server, each time in the middle of work."""
    for _ in range(kills):
        before = len(storm.acknowledged)
        await acknowledged(storm, before + CLIENTS)
        # No condition to wait for: the moment is what the test is about.
        await asyncio.sleep(source.uniform(0.0, 0.15))
        server.kill()
        await asyncio.to_thread(server.start)
    storm.is_over = True


async def check(history: History, storm: Storm, link: GrpcLink) -> None:
    """Fail unless everything that was acknowledged is there, once, and whole."""
    by_operation = {(commit.author.replica, commit.op_id): commit for commit in history.commits}
    for stored in storm.acknowledged:
        commit = by_operation[(stored.author.replica, stored.op_id)]
        assert commit.revision == stored.revision
        [entry] = [entry for entry in commit.entries if entry.id == stored.entry]
        assert entry.digest == stored.content.digest
    # Not only what was acknowledged: no commit may name content that is not whole.
    for commit in history.commits:
        for entry in commit.entries:
            assert entry.content is not None
            await read_content(link, entry.content)


async def run_storm(directory: Path, kills: int) -> None:
    seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().randrange(10**6))
    print(f"repeat: {SEED_VARIABLE}={seed} .venv/bin/python -m pytest {REPEATED}")
    storm = Storm()
    with serving(directory) as server:
        async with linked(server.address) as link, asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(StormClient(number, seed, link, storm).run())
            group.create_task(kill_often(server, storm, random.Random(seed), kills))
        print(
            f"{len(storm.acknowledged)} acknowledged, {storm.breaks} calls broken, "
            f"{storm.replays} answered again, {storm.refused} refused"
        )
        assert storm.breaks >= kills, "the kills hit nobody"
        assert storm.refused, "nobody met anybody"
        async with linked(server.address) as link:
            await check(await read_history(link), storm, link)
        server.kill()
        server.assert_sound()
        server.start()
        async with linked(server.address) as link:
            await check(await read_history(link), storm, link)
        server.stop()
        server.assert_sound()


async def test_what_was_acknowledged_survives_kills(tmp_path: Path) -> None:
    await run_storm(tmp_path, 10)


@pytest.mark.slow
async def test_what_was_acknowledged_survives_many_kills(tmp_path: Path) -> None:
    await run_storm(tmp_path, 60)
