"""Valid messages with random damage: whatever becomes of them, the server has a name for it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message

from syncline.core.identity import ROOT_ID, digest_of
from syncline.rpc.gen.syncline.v1 import syncline_pb2 as pb
from syncline.server.limits import Limits
from tests.support.hostile import (
    Target,
    attacked,
    author,
    begin,
    changes,
    chunks,
    delete,
    fresh_id,
    move,
    of_parts,
    put_content,
    put_directory,
    put_file,
    put_link,
    unharmed,
    watch,
)
from tests.support.serving import Backend

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = 500
AT_ONCE = 4

NAMED = {
    "invalid",
    "too_large",
    "not_found",
    "too_new",
    "throttled",
    "timed_out",
    "",
}
OURS_TO_BLAME = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    limits = Limits(message_wait_s=2.0, heartbeat_s=0.2)
    async with attacked(Backend.on_disk(tmp_path_factory.mktemp("data")), limits) as target:
        yield target


# -- Messages ----------------------------------------------------------------


def some_changes(dice: random.Random) -> Message:
    folder = put_directory()
    listed = [
        folder,
        put_file(dice.randbytes(dice.randrange(200)), parent=folder.id),
        put_link(dice.randbytes(20).replace(b"\0", b"0")),
        move(folder.id, dice.randrange(3), ROOT_ID, b"moved"),
        delete(fresh_id(), dice.randrange(3)),
    ]
    return changes(*dice.sample(listed, dice.randrange(1, len(listed) + 1)))


def some_upload(dice: random.Random) -> list[Message]:
    parts = [dice.randbytes(50) for _ in range(3)]
    return [begin(), changes(put_content(of_parts(parts))), chunks(*parts)]


def some_watch(dice: random.Random) -> list[Message]:
    cursor = pb.Cursor(revision=dice.randrange(3), commit_id=dice.randbytes(32))
    placed = pb.WatchProgress(placed=cursor, pending=1, problems=2)
    return [
        dice.choice([watch(cursor=cursor), watch(from_head=True), watch(wants_paths=True)]),
        pb.WatchRequest(progress=placed),
    ]


def some_delete(dice: random.Random) -> list[Message]:
    request = pb.DeleteRequest(begin=begin(author=author("fuzz")).begin)
    for _ in range(3):
        request.targets.add(id=fresh_id(), base=dice.randrange(3))
    return [request]


def some_fetch(dice: random.Random) -> list[Message]:
    file = pb.FetchFile(path=b"a/b", revision=dice.randrange(3), offset=dice.randrange(9))
    asked = pb.FetchChunks(digests=[digest_of(dice.randbytes(3)) for _ in range(4)])
    return [
        dice.choice(
            [
                pb.FetchRequest(volume="default", file=file),
                pb.FetchRequest(volume="default", chunks=asked),
            ]
        )
    ]


MAKERS: dict[str, list[Callable[[random.Random], list[Message]]]] = {
    "Hello": [lambda _: [pb.HelloRequest(volume="default", protocol=1, protocol_oldest=1)]],
    "Store": [lambda dice: [begin(), some_changes(dice)], some_upload],
    "Delete": [some_delete],
    "Fetch": [some_fetch],
    "Watch": [some_watch],
    "List": [lambda dice: [pb.ListRequest(volume="default", is_recursive=dice.random() < 0.5)]],
    "Stat": [lambda _: [pb.StatRequest(volume="default", paths=[b"a", b"b/c"], revision=1)]],
}


UNKNOWN_FIELD = bytes.fromhex("c03e2a")
"""Field 1000, a varint of 42: what a newer program might say, and never a reason to refuse."""


def damaged(raw: bytes, dice: random.Random) -> bytes:
    """Return a message with some bits, bytes or runs of it changed, or only said by the future."""
    if dice.random() < 0.1:
        return raw + UNKNOWN_FIELD
    spoiled = bytearray(raw)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(spoiled) + 1)
        match dice.randrange(5):
            case 0 if at < len(spoiled):
                spoiled[at] ^= 1 << dice.randrange(8)
            case 1:
                spoiled[at:at] = dice.randbytes(dice.randrange(1, 8))
            case 2:
                del spoiled[at : at + dice.randrange(1, 8)]
            case 3:
                del spoiled[at:]
            case _:
                run = spoiled[at : at + dice.randrange(40)]
                spoiled[at:at] = run
    return bytes(spoiled)


def calls(seed: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield calls of which one message is damaged."""
    dice = random.Random(seed)
    for number in range(MESSAGES):
        name = list(MAKERS)[number % len(MAKERS)]
        messages = [message.SerializeToString() for message in dice.choice(MAKERS[name])(dice)]
        spoiled = dice.randrange(len(messages))
        messages[spoiled] = damaged(messages[spoiled], dice)
        yield name, messages


async def test_damaged_messages_are_refused_by_name_or_mean_something(target: Target) -> None:
    seed = int(os.environ.get("HOSTILE_SEED", random.randrange(2**32)))
    listed = calls(seed)
    seen: dict[str, int] = {}

    async def some() -> None:
        for name, messages in listed:
            bound = 1 if name == "Watch" else None
            told = await target.say(name, *messages, responses_max=bound)
            shown = (
                f"HOSTILE_SEED={seed} pytest {__file__}",
                name,
                [raw.hex() for raw in messages],
                told,
            )
            assert told.code not in OURS_TO_BLAME, shown
            assert told.reason in NAMED and (told.reason or told.code is grpc.StatusCode.OK), shown
            seen[told.reason] = seen.get(told.reason, 0) + 1

    before = (await target.held()).revision
    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(some())
    assert sum(seen.values()) == MESSAGES
    assert seen["invalid"] > MESSAGES // 4 and seen[""] > MESSAGES // 20, seen
    assert (await target.held()).revision > before, "some of the damage was harmless"
    async with unharmed(target):
        told = await target.say("List", pb.ListRequest(volume="default", is_recursive=True))
        assert told.code is grpc.StatusCode.OK
