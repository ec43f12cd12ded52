"""`syncline watch` over server restarts: every commit once, in order; told when it is cut."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from syncline.adapters.system import RandomIds
from syncline.core.changes import Delete, PutFile
from syncline.core.identity import NO_REVISION, ROOT_ID, Digest, digest_of
from syncline.core.manifests import single_chunk
from syncline.core.names import Name, RelPath
from syncline.errors import LocalFailure
from tests.e2e.history import author, linked, proposal
from tests.support.processes import TIMEOUT_S, Server, line_of, number, serving

pytestmark = pytest.mark.process

RESTARTS = 10


async def no_chunks(digest: Digest) -> bytes:
    raise LocalFailure(f"everything is inline, and {digest.hex()} was asked for")


async def commit_some(server: Server, round_: int) -> int:
    """Make three commits: a new file, a change, a delete of the last round's; return the head."""
    who = author("writer")
    async with linked(server.address) as link:
        path = RelPath((Name(b"file %d" % round_),))
        id, base = RandomIds().entry(), NO_REVISION
        for raw in (b"new %d" % round_, b"changed %d" % round_):
            content = single_chunk(digest_of(raw), len(raw))
            put = PutFile(id, base, ROOT_ID, path.parts[0], 0o644, 0, content)
            answer = await link.store(proposal(who, put, inline=(raw,)), no_chunks)
            base = answer.revision
        if round_:
            [last] = await link.stat([RelPath((Name(b"file %d" % (round_ - 1)),))], None)
            assert last is not None
            delete = Delete(last.entry.id, last.entry.revision)
            answer = await link.delete(proposal(who, delete))
        return answer.revision


async def test_every_commit_once_over_ten_restarts(tmp_path: Path) -> None:
    seen: list[dict[str, object]] = []
    with serving(tmp_path / "server") as server:
        await commit_some(server, 0)
        with server.cli.start("watch", "--since", "0", "--json") as watch:
            seen += until(watch, 2)
            for round_ in range(1, RESTARTS + 1):
                if round_ % 2:
                    server.stop()
                else:
                    server.kill()
                server.start()
                head = await commit_some(server, round_)
                if round_ % 3 == 0:
                    # Sometimes it has caught up before the next restart, sometimes not.
                    seen += until(watch, head - len(seen))
            seen += until(watch, head - len(seen))
            watch.send_signal(signal.SIGTERM)
            rest, _ = watch.communicate(timeout=TIMEOUT_S)
            assert (watch.returncode, rest) == (143, b"")
    assert head == 2 + 3 * RESTARTS
    assert [commit["revision"] for commit in seen] == list(range(1, head + 1))
    assert [effects(commit) for commit in seen] == expected()


def until(watch: subprocess.Popen[bytes], count: int) -> list[dict[str, object]]:
    return [json.loads(line_of(watch)) for _ in range(count)]


def effects(commit: dict[str, object]) -> tuple[object, object]:
    changes = commit["changes"]
    assert isinstance(changes, list)
    [change] = changes
    return change["effect"], change["path"]


def expected() -> list[tuple[str, str]]:
    found = []
    for round_ in range(RESTARTS + 1):
        found += [("created", f"file {round_}"), ("changed", f"file {round_}")]
        if round_:
            found.append(("deleted", f"file {round_ - 1}"))
    return found


async def test_a_watcher_is_told_when_the_server_has_another_history(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as server:
        await commit_some(server, 0)
        server.stop()
        shutil.copytree(server.data, tmp_path / "backup")
        server.start()
        with server.cli.start("watch", "--since", "0", "--json") as watch:
            await commit_some(server, 1)
            assert number(until(watch, 5)[-1], "revision") == 5
            server.kill()
            shutil.rmtree(server.data)
            shutil.copytree(tmp_path / "backup", server.data)
            server.start()
            await commit_some(server, 1)
            out, err = watch.communicate(timeout=TIMEOUT_S)
            assert watch.returncode == 18, err
            assert b"history" in err
            assert json.loads(out.splitlines()[-1])["error"]["code"] == "cursor_expired"
