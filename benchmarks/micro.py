"""The hot paths alone, in one process and without a wire: commit, feed, reconcile, chunk, place.

    python benchmarks/micro.py [--quick] [--only NAME,...]

Each is seconds. It prints the least time of some repetitions, which is the one that the machine
disturbed least; nothing is written. Where stores on disk take part they are in memory (/dev/shm):
what counts here is the program.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from syncline.adapters.fastcdc import FastCdcChunker
from syncline.adapters.posix_files import PosixFiles
from syncline.adapters.system import RandomIds, SystemClock
from syncline.client.mount.own_directory import open_own
from syncline.client.mount.place import Applier
from syncline.client.mount.staged_content import Inline, StagedContent
from syncline.compose.direct import DirectLink
from syncline.compose.mount import open_state
from syncline.core.changes import Accepted, Author, Proposal, PutFile
from syncline.core.entries import Entry, Kind
from syncline.core.identity import (
    NO_REVISION,
    ROOT_ID,
    Digest,
    EntryId,
    Revision,
    digest_of,
)
from syncline.core.manifests import single_chunk
from syncline.core.names import Name
from syncline.core.reconcile import reconcile
from syncline.core.trees import Abilities, Mount, State, View, state_of
from syncline.ports.link import Committed, Progress, WatchBegin
from tests.support.serving import Backend, served

SEED = bytes(16)
FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Micro:
    """One hot path: what one unit of it is, how many units a repetition has, and the work.

    The work is prepared by the call, and done and timed by what that returns.
    """

    unit: str
    count: int
    quick: int
    prepare: Callable[[Path, int], Callable[[], None]]


def files(count: int) -> tuple[dict[EntryId, Entry], dict[Digest, bytes]]:
    """Return entries of small files at the root, and their contents."""
    entries, contents = {}, {}
    for number in range(count):
        content = os.urandom(FILE_BYTES)
        id, digest = EntryId(os.urandom(16)), digest_of(content)
        contents[digest] = content
        entries[id] = Entry(
            id,
            Revision(1),
            ROOT_ID,
            Name(b"%06d" % number),
            Kind.FILE,
            0o644,
            time.time_ns(),
            single_chunk(digest, len(content)),
            None,
        )
    return entries, contents


def puts(count: int, prefix: bytes) -> tuple[list[PutFile], dict[Digest, bytes]]:
    """Return changes that make small files, and their contents."""
    entries, contents = files(count)
    changes = [
        PutFile(
            each.id,
            NO_REVISION,
            ROOT_ID,
            Name(prefix + each.name),
            each.mode,
            each.mtime_ns,
            single_chunk(each.digest, FILE_BYTES),
        )
        for each in entries.values()
        if each.digest is not None
    ]
    return changes, contents


async def _nobody_asks(digest: Digest) -> bytes:
    raise AssertionError("content that went with the proposal was asked for")


async def _nothing_to_say() -> AsyncIterator[Progress]:
    return
    yield


# -- commit --------------------------------------------------------------------------


def commit(home: Path, count: int, *, batch: int) -> Callable[[], None]:
    """Store new files of 4 KiB, `batch` to a proposal, to SQLite and packs."""
    author = Author(RandomIds().replica(), "micro")
    proposals = []
    for number in range(count // batch):
        changes, contents = puts(batch, b"%d-" % number)
        proposals.append(Proposal(author, RandomIds().op(), tuple(changes), contents))

    async def run() -> None:
        with closing(Backend.on_disk(home)) as backend:
            async with served(backend) as volume:
                link = DirectLink(volume)
                for each in proposals:
                    answer = await link.store(each, _nobody_asks)
                    assert all(isinstance(one, Accepted) for one in answer.outcomes)

    return lambda: asyncio.run(run())


# -- feed ----------------------------------------------------------------------------


def feed(home: Path, count: int) -> Callable[[], None]:
    """Let 100 watchers hear of commits of one file each, without a wire."""
    watchers = 100
    author = Author(RandomIds().replica(), "micro")
    proposals = []
    for number in range(count // watchers):
        changes, contents = puts(1, b"%d-" % number)
        proposals.append(Proposal(author, RandomIds().op(), tuple(changes), contents))

    async def watcher(link: DirectLink, ready: asyncio.Semaphore) -> None:
        begin = WatchBegin(author, None, True, True)
        left = len(proposals)
        events = link.watch(begin, _nothing_to_say())
        await anext(events)
        ready.release()
        async for event in events:
            left -= isinstance(event, Committed)
            if not left:
                return

    async def run() -> None:
        with closing(Backend.in_memory()) as backend:
            async with served(backend) as volume, asyncio.TaskGroup() as tasks:
                link = DirectLink(volume)
                ready = asyncio.Semaphore(0)
                for _ in range(watchers):
                    tasks.create_task(watcher(link, ready))
                for _ in range(watchers):
                    await ready.acquire()
                for each in proposals:
                    await link.store(each, _nobody_asks)

    return lambda: asyncio.run(run())


# -- reconcile -----------------------------------------------------------------------


def reconcile_new(home: Path, count: int) -> Callable[[], None]:
    """Plan for files that the server told of and that are not here."""
    entries, _ = files(count)
    authors = dict.fromkeys(entries, "ann")
    view = View({}, {}, entries, SEED, authors)

    def run() -> None:
        assert len(reconcile(view, Mount("here")).placing) == count

    return run


def reconcile_edited(home: Path, count: int) -> Callable[[], None]:
    """Plan for files that were edited here."""
    entries, _ = files(count)
    base = {id: state_of(entry) for id, entry in entries.items()}
    local = {id: _edited(state) for id, state in base.items()}
    view = View(base, local, entries, SEED)

    def run() -> None:
        assert sum(len(unit.changes) for unit in reconcile(view, Mount("here")).sending) == count

    return run


def _edited(state: State) -> State:
    content = os.urandom(16)
    return State(
        state.parent,
        state.name,
        state.kind,
        state.mode,
        state.mtime_ns,
        single_chunk(digest_of(content), len(content)),
        None,
    )


# -- chunk ---------------------------------------------------------------------------


def chunk(home: Path, count: int) -> Callable[[], None]:
    """Cut and digest random content, `count` MiB of it."""
    block = os.urandom(1 << 20)
    content = b"".join(bytes([number % 251]) + block[1:] for number in range(count))

    def run() -> None:
        source = BytesIO(content)
        chunked = FastCdcChunker().chunk(source.read)
        assert chunked.content.size == len(content)

    return run


# -- place ---------------------------------------------------------------------------


def place(home: Path, count: int) -> Callable[[], None]:
    """Place new files of 4 KiB whose content is in memory, with all syncs, and record them."""
    entries, contents = files(count)
    staged: dict[Digest, StagedContent] = {
        digest: Inline(content) for digest, content in contents.items()
    }
    plan = reconcile(View({}, {}, entries, SEED, dict.fromkeys(entries, "ann")), Mount("here"))

    def run() -> None:
        root_path = home / "mount"
        root_path.mkdir()
        with closing(PosixFiles(os.fsencode(root_path))) as here:
            root = here.open_root()
            own = open_own(root)
            state = open_state(root_path / ".syncline")
            device = root.status().device
            applier = Applier(root, own, device, RandomIds(), SystemClock(), "here", Abilities())
            with closing(state), state.session() as session:
                placed = applier.place(session, plan.placing, staged)
        assert placed.done == count, placed

    return run


MICROS = {
    "commit one by one": Micro("file", 500, 5, lambda home, n: commit(home, n, batch=1)),
    "commit 500 at once": Micro("file", 5_000, 500, lambda home, n: commit(home, n, batch=500)),
    "feed to 100 watchers": Micro("event", 20_000, 200, feed),
    "reconcile new": Micro("file", 10_000, 20, reconcile_new),
    "reconcile edited": Micro("file", 10_000, 20, reconcile_edited),
    "chunk and digest": Micro("MiB", 256, 2, chunk),
    "place new": Micro("file", 3_000, 20, place),
}
REPETITIONS = 5


def timed(micro: Micro, count: int, repetitions: int) -> Iterator[float]:
    """Yield the microseconds a unit takes, once a repetition."""
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="syncline-micro-", dir="/dev/shm") as home:
            work = micro.prepare(Path(home), count)
            started = time.perf_counter()
            work()
            yield 1e6 * (time.perf_counter() - started) / count


def main() -> None:
    """Run them all, or those of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once each")
    parser.add_argument("--only", default="", help="names, with commas")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(MICROS)
    for name in wanted:
        micro = MICROS[name]
        count = micro.quick if arguments.quick else micro.count
        found = list(timed(micro, count, 1 if arguments.quick else REPETITIONS))
        low, high = min(found), max(found)
        print(f"{name:<24}{low:9.1f} us a {micro.unit} (most {high:.1f}), {count} of them")


if __name__ == "__main__":
    main()
