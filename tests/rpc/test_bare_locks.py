"""Locks from bare grpcio: ten lines of anybody's own, with code generated from the proto alone."""

from __future__ import annotations

import asyncio
import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

from tests.support.house import ROOT
from tests.support.serving import (
    Backend,
    Chunks,
    SeededIds,
    direct_link,
    propose,
    rpc_server,
    served,
)
from tests.support.trees import put_file

PROGRAM = """
import sys, grpc; sys.path.insert(0, sys.argv[1])
import syncline_pb2 as pb, syncline_pb2_grpc as rpc
server = rpc.SynclineStub(grpc.insecure_channel(sys.argv[2]))
me = {"volume": "default", "author": pb.Author(replica=b"r" * 16, name="script")}
x = pb.LockTarget(path=b"x")
lock = server.Lock(pb.LockRequest(**me, session=b"s" * 16, host="here", targets=[x])).locks[0]
held = pb.LockToken(entry=lock.entry, token=lock.token)
print(server.Renew(pb.RenewRequest(**me, tokens=[held])).leases[0].is_lost)
print([each.path for each in next(server.ListLocks(pb.ListLocksRequest(volume="default"))).locks])
print(server.Unlock(pb.UnlockRequest(**me, host="here", targets=[pb.UnlockTarget(target=x)])))
"""


async def test_lock_renew_list_and_unlock_with_bare_grpcio(tmp_path: Path) -> None:
    include = resources.files("grpc_tools") / "_proto"
    source = ROOT / "proto" / "syncline" / "v1"
    arguments = [f"-I{source}", f"-I{include}", f"--python_out={tmp_path}"]
    assert not protoc.main(
        ["protoc", *arguments, f"--grpc_python_out={tmp_path}", "syncline.proto"]
    )
    backend = Backend.in_memory()
    async with served(backend) as volume, rpc_server(volume) as address:
        async with direct_link(volume) as link:
            await link.store(propose(put_file("x"), ids=SeededIds(), inline=[b"content"]), Chunks())
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", PROGRAM, str(tmp_path), address),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, complaint = await client.communicate()
        assert client.returncode == 0, complaint.decode()
        lost, listed, result, *_ = out.decode().splitlines()
        assert (lost, listed, result) == ("False", "[b'x']", "results {")
        assert "UNLOCK_RESULT_UNLOCKED" in out.decode()
        assert not volume.user_locks.locks
    backend.close()
