"""The whole history of a server's volume, and every proof in it computed anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from syncline.adapters.system import RandomIds
from syncline.core.changes import Author, Change, Proposal
from syncline.core.entries import Entry
from syncline.core.identity import Digest, EntryId, Revision, digest_of
from syncline.core.manifests import Content, decode_piece
from syncline.core.table import Commit, Cursor, advance_digest, commit_id, genesis
from syncline.ports.link import Committed, Heartbeat, Progress, WatchBegin
from syncline.rpc.link import GrpcLink

TIMEOUT_S = 60.0


def author(name: str) -> Author:
    """Return an author of a name, with a replica id of its own."""
    return Author(RandomIds().replica(), name)


@asynccontextmanager
async def linked(address: str, *, timeout_s: float = TIMEOUT_S) -> AsyncGenerator[GrpcLink, None]:
    """Hold a link to the volume for the length of the block."""
    link = GrpcLink(address, "default", timeout_s=timeout_s)
    try:
        yield link
    finally:
        await link.close()


def proposal(
    who: Author,
    *changes: Change,
    inline: tuple[bytes, ...] = (),
    wait_s: float = 10.0,
    is_atomic: bool = False,
) -> Proposal:
    """Return a proposal with an op id that nobody has."""
    return Proposal(
        who,
        RandomIds().op(),
        changes,
        {digest_of(data): data for data in inline},
        is_atomic=is_atomic,
        wait_s=wait_s,
    )


async def silence() -> AsyncGenerator[Progress, None]:
    """Report nothing, for as long as the watch lasts."""
    await asyncio.Event().wait()
    yield Progress(Cursor(Revision(0), None), 0, 0)


@dataclass(frozen=True)
class History:
    """All commits of a volume, and the live entries that they come to."""

    commits: list[Commit]
    live: dict[EntryId, Entry]

    def at(self, revision: int) -> Commit:
        """Return the commit of a revision."""
        return self.commits[revision - 1]

    def states(self, id: EntryId) -> list[Entry]:
        """Return all states of an entry, oldest first."""
        return [entry for commit in self.commits for entry in commit.entries if entry.id == id]


async def read_history(link: GrpcLink) -> History:
    """Watch from revision 0 to the head; fail where a revision, a hash or a digest is not right."""
    facts = await link.hello()
    last = genesis(facts.volume)
    commits: list[Commit] = []
    states: dict[EntryId, Entry] = {}
    digest = 0
    begin = WatchBegin(author("reader"), Cursor(Revision(0), last))
    async with asyncio.timeout(TIMEOUT_S), aclosing(link.watch(begin, silence())) as events:
        while len(commits) < facts.head.revision:
            event = await anext(events)
            if isinstance(event, Heartbeat):
                continue
            assert isinstance(event, Committed), event
            commit = event.commit
            assert commit.revision == len(commits) + 1, "a gap in the history"
            last = commit_id(
                last,
                commit.revision,
                commit.author,
                commit.op_id,
                commit.time_ns,
                commit.is_confirmed,
                commit.entries,
            )
            assert commit.id == last, f"commit {commit.revision} is not on the chain"
            replaced = [states.get(entry.id) for entry in commit.entries]
            digest = advance_digest(digest, replaced, commit.entries)
            assert commit.table_digest == digest, f"table digest of commit {commit.revision}"
            states.update((entry.id, entry) for entry in commit.entries)
            commits.append(commit)
    assert facts.head.commit_id == last
    assert facts.head.table_digest == digest
    operations = {(commit.author.replica, commit.op_id) for commit in commits}
    assert len(operations) == len(commits), "an op id made two commits"
    return History(commits, {id: entry for id, entry in states.items() if entry.is_live})


async def read_content(link: GrpcLink, content: Content) -> bytes:
    """Return the bytes of a file as the server has them; fail where they are not whole."""
    refs = content.refs
    if content.depth:
        pieces = [piece async for piece in link.fetch([ref.digest for ref in refs])]
        refs = tuple(ref for piece in pieces for ref in decode_piece(piece))
    wanted: list[Digest] = [ref.digest for ref in refs]
    data = b"".join([chunk async for chunk in link.fetch(wanted)])
    assert len(data) == content.size
    assert digest_of(data) == content.digest
    return data
