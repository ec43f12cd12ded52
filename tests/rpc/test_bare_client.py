"""docs/PROTOCOL.md is enough: a client of bare grpcio, written from it alone, does everything.

`tests/support/bare.py` is that client; here are the servers it talks to and what it must see.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import resources
from pathlib import Path

import pytest
from grpc_tools import protoc

from syncline.errors import Retry, all_errors
from syncline.rpc.error_table import to_abort
from syncline.server.limits import Limits
from tests.support.house import ROOT
from tests.support.serving import Backend, rpc_server, served

PAGE = ROOT / "docs" / "PROTOCOL.md"
CLIENT = ROOT / "tests" / "support" / "bare.py"
Facts = dict[str, object]


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate code as any user of the page would, without our tools."""
    target = tmp_path_factory.mktemp("generated")
    include = resources.files("grpc_tools") / "_proto"
    source = ROOT / "proto" / "syncline" / "v1"
    arguments = [f"-I{source}", f"-I{include}", f"--python_out={target}"]
    assert not protoc.main(["protoc", *arguments, f"--grpc_python_out={target}", "syncline.proto"])
    return target


async def played(
    generated: Path, scenario: str, backend: Backend | None = None, limits: Limits | None = None
) -> Facts:
    """Return what the client saw of a fresh server."""
    backend = backend or Backend.in_memory()
    async with served(backend, limits=limits) as volume, rpc_server(volume) as address:
        client = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            str(CLIENT),
            str(generated),
            address,
            scenario,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, complaint = await client.communicate()
    backend.close()
    assert client.returncode == 0, complaint.decode()
    return json.loads(out)


async def test_hello_health_and_reflection(generated: Path) -> None:
    facts = await played(generated, "greet")
    assert facts.pop("limits") == {
        "message_bytes": 4 * 1024 * 1024,
        "changes": 2048,
        "commit_bytes": 8 * 1024 * 1024,
        "inline_bytes": 64 * 1024,
        "chunk_bytes": 1024 * 1024,
    }
    assert facts == {
        "protocol": [1, 1],
        "volume": "default",
        "head": 0,
        "is_genesis": True,
        "table_digest": "00" * 32,
        "health": [1, 1],
        "services": [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "syncline.v1.Syncline",
        ],
    }


async def test_small_things_are_stored_listed_and_read_back(generated: Path) -> None:
    assert await played(generated, "small") == {
        "outcomes": ["0->1"] * 4,
        "asked": 0,
        "listed": [
            ["a file", 1, "755", 5, 6],
            ["dir", 2, "750", 0, 0],
            ["dir/inner \xff", 1, "644", 5, 0],
            ["dir/link", 3, "777", -7, 0],
        ],
        "flat": ["a file", "dir"],
        "itself": ["a file"],
        "author": "bare@test",
        "data": "hello\n",
        "target": "../a file",
        "found": [True, False, False],
    }


async def test_chunks_travel_once_and_come_back(generated: Path) -> None:
    assert await played(generated, "chunked") == {
        "outcomes": ["0->1", "0->1"],
        "granted": 2,
        "asked": 3 + 200 + 1,
        "asked_again": 0,
        "asked_grown": 1,
        "grown": ["1->3"],
        "depth": 1,
        "by_path": True,
        "from_offset": "yzmore",
        "old": True,
        "by_digest": True,
    }


async def test_an_operation_happens_once_and_names_its_base(generated: Path) -> None:
    assert await played(generated, "once") == {
        "first": [1, ["0->1", "0->1"], False],
        "again": [1, ["0->1", "0->1"], True],
        "reused": ["INVALID_ARGUMENT", "syncline", "invalid"],
        "edited": ["1->2"],
        "stale": [["STALE"], 2, 2],
        "atomic": ["ATOMIC", "NAME_TAKEN"],
        "refused": [2, ["NOT_EMPTY", "STALE"]],
        "gone": [3, ["2->3", "1->3"]],
        "absent": ["NOT_FOUND", "syncline", "not_found"],
        "old": "one",
    }


async def test_long_answers_come_in_several_messages(generated: Path) -> None:
    assert await played(generated, "many") == {
        "accepted": 1500,
        "granted": 1500,
        "asked": 2,
        "replayed": 1500,
        "refused": 1500,
        "revision": 2,
    }


@pytest.mark.parametrize("ring_bytes", [32 * 1024 * 1024, 0], ids=["ring", "rows"])
async def test_a_watcher_proves_every_commit(
    generated: Path, tmp_path: Path, ring_bytes: int
) -> None:
    limits = Limits(ring_bytes_max=ring_bytes)
    facts = await played(generated, "watch", Backend.on_disk(tmp_path), limits)
    inline = facts.pop("inline")
    content = {"a": "one", "e": "live", "inner": "two"}
    # From rows it comes only where the server still has it at hand.
    assert inline == content if ring_bytes else inline.items() <= content.items()
    assert facts == {
        "seen": ["heartbeat"],
        "commits": [1, 2, 3, 4, 5],
        "names": ["dir", "e", "inner", "moved"],
        "snapshot": ["snapshot_begin", "snapshot_end"],
        "equal": True,
        "reset": ["snapshot_begin", "snapshot_end"],
    }


def test_the_page_lists_every_error_as_the_code_has_it() -> None:
    again = {
        Retry.NEVER: "no",
        Retry.BACKOFF: "after a pause",
        Retry.AFTER_USER: "after someone acted",
    }
    wanted = []
    for kind in all_errors():
        status, _, _ = to_abort(kind("it went wrong"))
        meaning = (kind.__doc__ or "").splitlines()[0].replace("|", "\\|")
        wanted.append(f"| `{kind.code}` | `{status.name}` | {meaning} | {again[kind.retry]} |")
    table = PAGE.read_text().split("| code | gRPC status |", 1)[1].splitlines()[2:]
    assert [line for line in table[: len(wanted) + 1] if line] == wanted
